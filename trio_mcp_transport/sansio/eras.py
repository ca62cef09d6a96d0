"""Revisions and eras: which one a request is, and which one a server speaks.

Pure. A Router asks `judge_request` about each request, `negotiate` asks `next_step` after
each answer of a server; neither decision waits, sends or remembers anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw

from ..errors import ConfigurationError, HttpError, RpcError
from ..jsonrpc import ErrorCode
from .metadata import RequestMeta

__all__ = [
    "LEGACY_REVISIONS",
    "MODERN_REVISIONS",
    "REVISIONS",
    "Discovery",
    "Era",
    "EraCache",
    "GiveUp",
    "Initialize",
    "Negotiated",
    "Probe",
    "Step",
    "UseModern",
    "Verdict",
    "check_revisions",
    "choose_legacy",
    "era_of",
    "first_step",
    "is_legacy_status",
    "judge_request",
    "mutual_revision",
    "next_step",
    "read_discovery",
    "refuse_initialize",
]

Era: TypeAlias = Literal["modern", "legacy"]

#: Revisions that carry version, identity and capabilities in each request, newest first.
MODERN_REVISIONS = ("2026-07-28",)
#: Revisions that begin with an `initialize` handshake, newest first.
LEGACY_REVISIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
#: All of them, newest first.
REVISIONS = MODERN_REVISIONS + LEGACY_REVISIONS


def era_of(revision: str) -> Era | None:
    """The era of a revision, or None when the revision is unknown."""
    if revision in MODERN_REVISIONS:
        return "modern"
    return "legacy" if revision in LEGACY_REVISIONS else None


def check_revisions(revisions: Sequence[str]) -> tuple[str, ...]:
    """Revisions of a configuration: known, at least one, sorted newest first.

    Raises:
        ConfigurationError: One of them is unknown, or there is none.
    """
    unknown = [revision for revision in revisions if era_of(revision) is None]
    if unknown or not revisions:
        raise ConfigurationError(
            f"revisions must be some of {', '.join(REVISIONS)}, not {', '.join(unknown) or 'none'}"
        )
    return tuple(sorted(set(revisions), reverse=True))


class Negotiated(msgspec.Struct, frozen=True, kw_only=True):
    """What a client found out about its server.

    Attributes:
        era: ``modern`` or ``legacy``.
        revision: The protocol revision that both sides speak from now on.
        server_info: Name and version as the server gives them; for display only. Empty
            when it says nothing.
        server_capabilities: What the server can do.
        instructions: How to use the server, as text for a model.
        supported_versions: All revisions that the server named; just the agreed one
            after a handshake.
    """

    era: Era
    revision: str
    server_info: Mapping[str, object]
    server_capabilities: Mapping[str, object]
    instructions: str | None
    supported_versions: tuple[str, ...]


# -- the server's side --------------------------------------------------------------


class Verdict(msgspec.Struct, frozen=True):
    """What a request is. Both are None for a request before any handshake (`ping`)."""

    era: Era | None
    revision: str | None


def judge_request(
    method: str,
    meta: RequestMeta,
    *,
    revisions: Sequence[str],
    session_revision: str | None,
    require_initialize: bool = True,
) -> Verdict:
    """Decide the era of a request that came without a header layer.

    `_meta` decides, not the method's name:

    ===================== ========================= ======================================
    version in `_meta`    else                      verdict
    ===================== ========================= ======================================
    any                   no modern one is served   as if it were absent
    not served            anything                  -32022 with `supported`, `requested`
    served                no `clientCapabilities`   -32602
    served                with `clientCapabilities` modern
    absent                after `initialize`        legacy
    absent                `initialize`              legacy, if any legacy one is served
    absent                `ping`                    before the handshake: allowed
    absent                before `initialize`       -32602
    ===================== ========================= ======================================

    A legacy-only server must not answer -32022, which tells a client that it is modern.

    Args:
        method: The request's method.
        meta: Its `_meta`.
        revisions: What is served, newest first.
        session_revision: What `initialize` agreed on, or None before it.
        require_initialize: False lets legacy requests in before `initialize`.

    Raises:
        RpcError: The request is to be refused with this.
    """
    modern = [revision for revision in revisions if revision in MODERN_REVISIONS]
    requested = meta.protocol_version
    if requested is not UNSET and modern:
        if requested not in modern:
            # Versioning: "If the server does not implement the requested version [...] it
            # MUST respond with an UnsupportedProtocolVersionError".
            raise _unsupported(revisions, requested)
        if meta.client_capabilities is UNSET:
            # Basic, Per-request protocol fields: "A request missing any required field is
            # malformed; the server MUST reject it with JSON-RPC error code -32602".
            raise RpcError(
                ErrorCode.INVALID_PARAMS,
                "_meta lacks io.modelcontextprotocol/clientCapabilities",
            )
        return Verdict("modern", requested)
    if session_revision is not None:
        return Verdict("legacy", session_revision)
    legacy = [revision for revision in revisions if revision in LEGACY_REVISIONS]
    if legacy and method == "initialize":
        return Verdict("legacy", None)
    if legacy and method == "ping":
        # 2025-11-25, lifecycle: "The client SHOULD NOT send requests other than pings
        # before the server has responded to the initialize request."
        return Verdict(None, None)
    if legacy and not require_initialize:
        return Verdict("legacy", legacy[0])
    if modern:
        raise RpcError(
            ErrorCode.INVALID_PARAMS,
            "_meta lacks io.modelcontextprotocol/protocolVersion"
            + (", and there was no initialize request" if legacy else ""),
        )
    raise RpcError(ErrorCode.INVALID_PARAMS, "the first request must be initialize")


def choose_legacy(requested: str, revisions: Sequence[str]) -> str | None:
    """The revision that answers `initialize`, or None when no legacy one is served."""
    legacy = [revision for revision in revisions if revision in LEGACY_REVISIONS]
    if not legacy:
        return None
    # 2025-11-25, lifecycle: "If the server supports the requested protocol version, it MUST
    # respond with the same version. Otherwise, the server MUST respond with another
    # protocol version it supports. This SHOULD be the latest".
    return requested if requested in legacy else legacy[0]


def refuse_initialize(requested: str, revisions: Sequence[str]) -> RpcError:
    """The error of a modern-only server to `initialize`."""
    # Versioning: "A server that supports only modern versions SHOULD name the protocol
    # versions it supports in any error it returns to an initialize request".
    return _unsupported(
        revisions,
        requested,
        f"Unsupported protocol version: this server speaks {', '.join(revisions)}"
        " and has no initialize request",
    )


def _unsupported(
    revisions: Sequence[str], requested: str, message: str = "Unsupported protocol version"
) -> RpcError:
    return RpcError(
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION,
        message,
        {"supported": list(revisions), "requested": requested},
    )


# -- the client's side --------------------------------------------------------------


class Discovery(msgspec.Struct, frozen=True):
    """What a server says of itself in answer to `server/discover`."""

    supported_versions: list[str] = msgspec.field(name="supportedVersions")
    capabilities: dict[str, object] = {}
    instructions: str | None = None
    meta: dict[str, object] = msgspec.field(name="_meta", default_factory=dict)


class _Supported(msgspec.Struct):
    supported: list[str]


def read_discovery(result: Raw) -> Discovery | None:
    """Read a DiscoverResult; None when it is none, as a lenient legacy server may send."""
    try:
        return msgspec.json.decode(result, type=Discovery)
    except msgspec.DecodeError:
        return None


class Probe(msgspec.Struct, frozen=True):
    """Send `server/discover` with this revision."""

    revision: str


class Initialize(msgspec.Struct, frozen=True):
    """Do the handshake, asking for this revision."""

    revision: str


class UseModern(msgspec.Struct, frozen=True):
    """The server is modern: go on with this revision."""

    revision: str


class GiveUp(msgspec.Struct, frozen=True):
    """There is no revision in common, or the server is of the other era."""

    reason: str
    supported: tuple[str, ...] = ()


Step: TypeAlias = Probe | Initialize | UseModern | GiveUp


class EraCache:
    """Which servers were found to be legacy, so that they need not be probed again.

    "Clients SHOULD cache the result for the lifetime of the server process (stdio) or origin
    (HTTP) [...], re-probing if the cached assumption later fails." Nothing is remembered of
    modern servers, as the probe tells what else they are.

    Args:
        max_servers: How many are remembered; the oldest are forgotten first.
    """

    def __init__(self, max_servers: int = 1000) -> None:
        self._max_servers = max_servers
        self._legacy: dict[str, None] = {}

    def is_legacy(self, server: str) -> bool:
        """Whether this server was legacy when it was last spoken to."""
        return server in self._legacy

    def learn(self, server: str, era: Era) -> None:
        """Note what a server is."""
        self._legacy.pop(server, None)
        if era == "legacy":
            if len(self._legacy) >= self._max_servers:
                del self._legacy[next(iter(self._legacy))]
            self._legacy[server] = None


def is_legacy_status(status: int) -> bool:
    """Whether a server that refuses a modern request with this may just be an older one.

    MCP Streamable HTTP, Backward Compatibility: "If it fails with HTTP status code 400 Bad
    Request, 404 Not Found, or 405 Method Not Allowed and the response body is not a
    recognized modern JSON-RPC error". Any other status says nothing about the era.
    """
    return status in {400, 404, 405}


def first_step(revisions: Sequence[str]) -> Probe | Initialize:
    """What a client does first, with the revisions it accepts, newest first.

    MCP stdio, Backward Compatibility: a client of both eras "SHOULD probe with
    server/discover before sending any other request"; for a modern-only one "probing is
    still RECOMMENDED".
    """
    if revisions[0] in MODERN_REVISIONS:
        return Probe(revisions[0])
    return Initialize(revisions[0])


def next_step(
    sent: Probe | Initialize,
    answer: Discovery | RpcError | HttpError | None,
    revisions: Sequence[str],
) -> Step:
    """What follows from the server's answer.

    Args:
        sent: The step that was taken.
        answer: What came: a DiscoverResult, an error, a status for which
            `is_legacy_status` holds, or None for silence and for a result that is no
            DiscoverResult.
        revisions: What this client accepts, newest first.
    """
    if isinstance(answer, Discovery):
        return _mutual(answer.supported_versions, revisions)
    code = answer.code if isinstance(answer, RpcError) else None
    if code == ErrorCode.UNSUPPORTED_PROTOCOL_VERSION:
        assert isinstance(answer, RpcError)
        offered = _offered(answer)
        # "The server is modern but does not support the requested version. Use one of the
        # versions in its advertised supported list. Do not fall back to initialize."
        step = _mutual([revision for revision in offered if revision != sent.revision], revisions)
        if isinstance(step, GiveUp) and sent == Probe(sent.revision) and sent.revision in offered:
            return sent  # it contradicts itself, such as while it is being replaced
        return Probe(step.revision) if isinstance(step, UseModern) else step
    if isinstance(sent, Initialize):
        return GiveUp(f"the server refused to initialize: {answer}")
    if code in {ErrorCode.MISSING_CLIENT_CAPABILITY, ErrorCode.HEADER_MISMATCH}:
        return UseModern(sent.revision)  # recognized modern errors as well
    # "The server returns any other error, or does not respond within a reasonable timeout:
    # the server is legacy. Fall back to the initialize handshake."
    legacy = [revision for revision in revisions if revision in LEGACY_REVISIONS]
    if legacy:
        return Initialize(legacy[0])
    return GiveUp(
        "the server did not answer server/discover"
        if answer is None
        else f"the server answered server/discover with an error: {answer}"
    )


def mutual_revision(error: RpcError, revisions: Sequence[str]) -> str | None:
    """The modern revision to ask for instead of one that a server refused, if any.

    Args:
        error: What it answered.
        revisions: What this client accepts, newest first.
    """
    if error.code != ErrorCode.UNSUPPORTED_PROTOCOL_VERSION:
        return None
    offered = _offered(error)
    for revision in revisions:
        if revision in MODERN_REVISIONS and revision in offered:
            return revision
    return None


def _offered(error: RpcError) -> list[str]:
    try:
        return msgspec.convert(error.data, _Supported).supported
    except msgspec.ValidationError:
        return []


def _mutual(offered: Sequence[str], revisions: Sequence[str]) -> UseModern | Initialize | GiveUp:
    for revision in revisions:
        if revision in offered:
            return UseModern(revision) if revision in MODERN_REVISIONS else Initialize(revision)
    return GiveUp(
        f"the server speaks {', '.join(offered) or 'no revision that it names'},"
        f" this client {', '.join(revisions)}",
        tuple(offered),
    )
