"""Which era a request over HTTP is of: the table, and nothing else.

Asked by `ServerEndpoint` about each POST of a request. What the header and the body say of
the version decides; the method's name does not.
"""

from __future__ import annotations

import functools

import msgspec
from msgspec import UNSET

from ...errors import RpcError
from ...jsonrpc import ErrorCode, Request
from ..eras import LEGACY_REVISIONS, MODERN_REVISIONS, Era, refuse_initialize
from ..metadata import CLIENT_CAPABILITIES_KEY, PROTOCOL_VERSION_KEY, RequestMeta

__all__ = ["VERSION_HEADER", "judge_era", "unsupported_version"]

VERSION_HEADER = "MCP-Protocol-Version"


class _InitializeParams(msgspec.Struct):
    version: str = msgspec.field(name="protocolVersion", default="none")


def judge_era(
    request: Request,
    meta: RequestMeta,
    header: str | None,
    revisions: tuple[str, ...],
    told: tuple[str, ...] = (),
) -> Era:
    """Decide the era of a request.

    ========================== =========================== ==================================
    ``MCP-Protocol-Version``   version in `_meta`          verdict
    ========================== =========================== ==================================
    absent                     present                     -32020
    absent or legacy           absent                      legacy
    modern                     absent                      -32602
    unknown                    absent                      -32022
    present                    different                   -32020
    present                    equal, not served           -32022
    modern                     equal, no capabilities      -32602
    modern                     equal                       modern
    ========================== =========================== ==================================

    A server that serves no modern revision takes no notice of `_meta` and never answers with
    the codes -32020 and -32022, which tell a client that it is modern, unless it was given
    what to tell. One that serves no legacy revision refuses what would be legacy.

    Args:
        request: The request.
        meta: Its `_meta`.
        header: The version header, or None.
        revisions: What is served.
        told: As in `unsupported_version`.

    Raises:
        RpcError: The request is to be refused with this, and 400.
    """
    modern = _modern_of(revisions)
    requested = meta.protocol_version
    if not modern:
        if header is None or header in LEGACY_REVISIONS:
            return "legacy"
        raise unsupported_version(header, revisions, told)
    if requested is UNSET:
        return _judge_bare(request, header, revisions)
    if header is None:
        # 2026-07-28, Server Validation: "A required standard header [...] is missing."
        raise RpcError(ErrorCode.HEADER_MISMATCH, f"Header mismatch: {VERSION_HEADER} is missing")
    if header != requested:
        # Protocol Version Header: "If the values do not match, the server MUST reject the
        # request with 400 Bad Request and a HeaderMismatch JSON-RPC error".
        raise RpcError(
            ErrorCode.HEADER_MISMATCH,
            f"Header mismatch: {VERSION_HEADER} and _meta name different versions",
        )
    if requested not in modern:
        raise unsupported_version(requested, revisions)
    if meta.client_capabilities is UNSET:
        raise _missing(CLIENT_CAPABILITIES_KEY)
    return "modern"


def unsupported_version(
    requested: str, revisions: tuple[str, ...], told: tuple[str, ...] = ()
) -> RpcError:
    """The error for a version that is not served, as this server's clients know it.

    Args:
        requested: The version.
        revisions: What is served.
        told: What a client that is not legacy is told instead, with -32022, where nothing
            modern is served; if empty, it gets -32600.
    """
    if not _modern_of(revisions) and told and requested not in LEGACY_REVISIONS:
        revisions = told
    elif not _modern_of(revisions):
        return RpcError(
            ErrorCode.INVALID_REQUEST,
            f"Unsupported protocol version; supported: {', '.join(revisions)}",
        )
    # "If the server does not implement the requested protocol version [...] it MUST respond
    # with 400 Bad Request and an UnsupportedProtocolVersionError listing its supported
    # versions."
    return RpcError(
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION,
        "Unsupported protocol version",
        {"supported": list(revisions), "requested": requested},
    )


def _judge_bare(request: Request, header: str | None, revisions: tuple[str, ...]) -> Era:
    """The era of a request without a version in `_meta`, where modern ones are served."""
    if header in MODERN_REVISIONS:
        raise _missing(PROTOCOL_VERSION_KEY)
    if header is not None and header not in LEGACY_REVISIONS:
        raise unsupported_version(header, revisions)
    if len(_modern_of(revisions)) < len(revisions):
        return "legacy"
    if request.method == "initialize":
        # Versioning: "A server that supports only modern versions SHOULD name the protocol
        # versions it supports in any error it returns to an initialize request".
        try:
            params = request.params_as(_InitializeParams)
        except msgspec.ValidationError:
            params = _InitializeParams()
        raise refuse_initialize(params.version, revisions)
    if header is None:
        # "A server that does not support such clients MUST reject a request without the
        # header per Server Validation."
        raise RpcError(ErrorCode.HEADER_MISMATCH, f"Header mismatch: {VERSION_HEADER} is missing")
    raise unsupported_version(header, revisions)


@functools.cache
def _modern_of(revisions: tuple[str, ...]) -> frozenset[str]:
    return frozenset(revisions) & frozenset(MODERN_REVISIONS)


def _missing(key: str) -> RpcError:
    # Basic, Per-request protocol fields: "A request missing any required field is malformed;
    # the server MUST reject it with JSON-RPC error code -32602 (Invalid params). On HTTP, the
    # response status MUST be 400 Bad Request."
    return RpcError(ErrorCode.INVALID_PARAMS, f"_meta lacks {key}")
