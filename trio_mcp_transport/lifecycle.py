"""Becoming an MCP client: which era and revision the server speaks, and living by it.

`negotiate` does what the specification asks of a client of both eras on a stream: it probes
with `server/discover` and falls back to the `initialize` handshake. The decisions are
`sansio.eras`'s; here they are carried out on a `Peer`, which from then on adds to each
request what a modern server wants and answers what it asks for.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .errors import ConfigurationError, HttpError, RequestTimeout, RpcError, TransportError
from .jsonrpc import ErrorResponse, Request, Response
from .limits import DISCOVER_PROBE_TIMEOUT, MAX_INPUT_ROUNDS
from .mrtr import INPUT_METHODS, InputRequest, gather, missing_capability
from .peer import Peer
from .sansio.eras import (
    LEGACY_REVISIONS,
    MODERN_REVISIONS,
    REVISIONS,
    Discovery,
    EraCache,
    GiveUp,
    Initialize,
    Negotiated,
    Probe,
    UseModern,
    check_revisions,
    era_of,
    first_step,
    is_legacy_status,
    mutual_revision,
    next_step,
    read_discovery,
)
from .sansio.metadata import (
    CLIENT_CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    LOG_LEVEL_KEY,
    LOG_LEVELS,
    PROTOCOL_VERSION_KEY,
    SERVER_INFO_KEY,
    LogLevel,
    as_raw,
    with_meta,
)

__all__ = ["InvalidResult", "Negotiated", "NegotiationFailed", "negotiate"]

EraChoice: TypeAlias = Literal["auto", "modern", "legacy"]

_SSE = frozenset({"sse+http", "sse+https"})
_HTTP = frozenset({"http", "https"}) | _SSE


class NegotiationFailed(TransportError):
    """Client and server have no protocol revision in common.

    Attributes:
        supported: The revisions that the server named, if it did.
    """

    def __init__(self, message: str, supported: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.supported = supported

    def __reduce__(self) -> tuple[type[NegotiationFailed], tuple[str, tuple[str, ...]]]:
        return type(self), (str(self), self.supported)


class InvalidResult(TransportError):
    """The server answered with a result that its protocol revision does not allow."""


async def negotiate(
    peer: Peer,
    *,
    client_info: Mapping[str, object],
    client_capabilities: Mapping[str, object] | None = None,
    era: EraChoice = "auto",
    revision: str | None = None,
    revisions: Sequence[str] = REVISIONS,
    log_level: LogLevel | None = None,
    probe_timeout: float = DISCOVER_PROBE_TIMEOUT,
    era_cache: EraCache | None = None,
    server: str | None = None,
) -> Negotiated:
    """Find out which revision the server speaks, and make the peer speak it.

    Cancelling it leaves the peer as it was, except that a server may have been told to
    `initialize`; such a connection is best closed.

    Args:
        peer: A running peer, that nothing was sent on yet.
        client_info: ``{"name": ..., "version": ...}``, sent with every modern request.
        client_capabilities: What this client offers; its router must handle it.
        era: Which era to accept; ``auto`` prefers modern.
        revision: The one revision to accept.
        revisions: The revisions to accept, where `revision` does not say.
        log_level: Least severe log message that a modern server shall send.
        probe_timeout: Seconds of silence after which a server counts as legacy, unless its
            answer to `initialize` says otherwise; no more than the peer's `request_timeout`.
            Over HTTP silence says nothing about the era, and this is not used.
        era_cache: What is known of servers from earlier times; it learns from this one.
        server: The server's name in `era_cache`: where it is.

    Returns:
        What was agreed on; also in `peer.negotiated`.

    Raises:
        ConfigurationError: An argument names an unknown revision or contradicts another.
        NegotiationFailed: There is no revision in common. The peer is best closed.
        InvalidResult: The answer to `initialize` makes no sense.
        HttpError: An HTTP server refused, and not because it is of another era.
        RequestTimeout: Nothing answered `initialize` either, within the peer's
            `request_timeout`.
        ChannelBroken: The channel failed or the server went away.
        trio.ClosedResourceError: This side closed the peer.
    """
    accepted = _accepted(era, revision, revisions)
    for key in ("name", "version"):
        if not isinstance(client_info.get(key), str):
            raise ConfigurationError(f"client_info must have a {key}")
    if log_level is not None and log_level not in LOG_LEVELS:
        raise ConfigurationError(f"log_level must be one of {', '.join(LOG_LEVELS)}")
    transport = peer.channel.context.transport
    if transport in _SSE:
        # HTTP+SSE is of 2024-11-05, and was replaced long before the first modern revision.
        accepted = tuple(found for found in accepted if found in LEGACY_REVISIONS)
        if not accepted:
            raise ConfigurationError(f"{transport} has legacy revisions only")
    capabilities = dict(client_capabilities or {})
    client = _Client(peer, accepted, dict(client_info), capabilities, log_level)
    # A stream may be silent because it does not know the method; HTTP always answers.
    over_http = transport in _HTTP
    timeout = peer.request_timeout if over_http else min(probe_timeout, peer.request_timeout)
    step = first_step(accepted)
    instead: Probe | None = None
    legacy = [found for found in accepted if found in LEGACY_REVISIONS]
    is_known = era_cache is not None and server is not None and era_cache.is_legacy(server)
    if is_known and legacy and isinstance(step, Probe):
        instead, step = step, Initialize(legacy[0])
    negotiated = await _negotiate(client, step, instead, timeout, over_http)
    if era_cache is not None and server is not None:
        era_cache.learn(server, negotiated.era)
    return negotiated


async def _negotiate(
    client: _Client,
    step: Probe | Initialize,
    instead: Probe | None,
    timeout: float,  # ruff: ignore[async-function-with-timeout]
    over_http: bool,
) -> Negotiated:
    """Take one step after the other.

    Args:
        client: Takes them.
        step: The first one.
        instead: The first one if what is known from earlier times proves wrong.
        timeout: Of a probe.
        over_http: Whether silence is a failure.
    """
    tried: list[Probe | Initialize] = []
    unheard: Probe | None = None
    while True:
        if step in tried:
            # A probe that nobody answered may have come too early, to a server that still
            # had to be downloaded. Now that it speaks, it is asked once more.
            if step != unheard:
                raise NegotiationFailed(f"the server goes round in circles about {step}")
            unheard = None
        answer: Discovery | RpcError | HttpError | None
        if isinstance(step, Probe):
            answer = await client.probe(step.revision, timeout, over_http=over_http)
            if answer is None and step not in tried:
                unheard = step
        else:
            try:
                return await client.initialize(step.revision, client.accepted)
            except RpcError as error:
                answer = error
            except HttpError as error:
                if instead is None or not is_legacy_status(error.status):
                    raise
                answer = error
            if instead is not None:
                # Versioning: "re-probing if the cached assumption later fails".
                step, instead = instead, None
                continue
        following = next_step(step, answer, client.accepted)
        if following == step and isinstance(step, Probe) and step not in tried:
            unheard = step
        tried.append(step)
        if isinstance(following, UseModern):
            return client.use_modern(following.revision, answer)
        if isinstance(following, GiveUp):
            cause = answer if isinstance(answer, RpcError | HttpError) else None
            raise NegotiationFailed(following.reason, following.supported) from cause
        step = following


def _accepted(era: EraChoice, revision: str | None, revisions: Sequence[str]) -> tuple[str, ...]:
    """The revisions to accept, newest first."""
    if era not in {"auto", "modern", "legacy"}:
        raise ConfigurationError(f"era must be auto, modern or legacy, not {era!r}")
    accepted = check_revisions(revisions if revision is None else [revision])
    if era != "auto":
        accepted = tuple(found for found in accepted if era_of(found) == era)
        if not accepted:
            raise ConfigurationError(f"none of the revisions is {era}")
    return accepted


class _InitializeResult(msgspec.Struct):
    protocolVersion: str  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's names)
    capabilities: dict[str, object] = {}
    serverInfo: dict[str, object] = {}  # ruff: ignore[mixed-case-variable-in-class-scope]
    instructions: str | None = None


class _Client:
    """One attempt to become a client."""

    def __init__(
        self,
        peer: Peer,
        accepted: Sequence[str],
        info: dict[str, object],
        capabilities: dict[str, object],
        log_level: LogLevel | None,
    ) -> None:
        self._peer = peer
        self.accepted = accepted
        self._info = info
        self._capabilities = capabilities
        self._log_level = log_level

    def _policy(self, revision: str) -> _ModernPolicy:
        return _ModernPolicy(
            self._peer,
            revision,
            self.accepted,
            self._info,
            self._capabilities,
            self._log_level,
        )

    async def probe(
        self,
        revision: str,
        timeout: float,  # ruff: ignore[async-function-with-timeout]
        *,
        over_http: bool,
    ) -> Discovery | RpcError | HttpError | None:
        """Ask the server what it is. The user's own requests never serve to find out."""
        params = self._policy(revision).prepare(None)
        try:
            raw = await self._peer.request("server/discover", params, timeout=timeout)
        except RpcError as error:
            return error
        except HttpError as error:
            if not is_legacy_status(error.status):
                raise
            return error
        except RequestTimeout:
            if over_http:
                raise
            return None
        return read_discovery(raw)

    def use_modern(
        self, revision: str, answer: Discovery | RpcError | HttpError | None
    ) -> Negotiated:
        """Go on with a modern server."""
        known = answer if isinstance(answer, Discovery) else Discovery([revision])
        info = known.meta.get(SERVER_INFO_KEY)
        negotiated = Negotiated(
            era="modern",
            revision=revision,
            server_info=info if isinstance(info, dict) else {},
            server_capabilities=known.capabilities,
            instructions=known.instructions,
            supported_versions=tuple(known.supported_versions),
        )
        self._peer.adopt(negotiated, self._policy(revision))
        return negotiated

    async def initialize(self, revision: str, accepted: Sequence[str]) -> Negotiated:
        """Do the handshake of the legacy revisions.

        Raises:
            RpcError: The server refused it.
        """
        raw = await self._peer.request(
            "initialize",
            {
                "protocolVersion": revision,
                "capabilities": self._capabilities,
                "clientInfo": self._info,
            },
        )
        try:
            result = msgspec.json.decode(raw, type=_InitializeResult)
        except msgspec.ValidationError as error:
            raise InvalidResult(f"the server's answer to initialize: {error}") from error
        agreed = result.protocolVersion
        # 2025-11-25, lifecycle: "If the client does not support the version in the server's
        # response, it SHOULD disconnect."
        if agreed not in accepted or agreed in MODERN_REVISIONS:
            raise NegotiationFailed(
                f"the server speaks {agreed}, this client {', '.join(accepted)}", (agreed,)
            )
        negotiated = Negotiated(
            era="legacy",
            revision=agreed,
            server_info=result.serverInfo,
            server_capabilities=result.capabilities,
            instructions=result.instructions,
            supported_versions=(agreed,),
        )
        self._peer.adopt(negotiated, None)
        # "After successful initialization, the client MUST send an initialized notification".
        await self._peer.notify("notifications/initialized")
        return negotiated


class _Head(msgspec.Struct):
    resultType: str = "complete"  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


class _InputRequired(msgspec.Struct):
    inputRequests: dict[str, InputRequest] = {}  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's names)
    requestState: str | UnsetType = UNSET  # ruff: ignore[mixed-case-variable-in-class-scope]


_decode_head = msgspec.json.Decoder(_Head).decode


class _ModernPolicy:
    """What a modern server wants of each request, and answers to what it asks for."""

    def __init__(
        self,
        peer: Peer,
        revision: str,
        accepted: Sequence[str],
        info: dict[str, object],
        capabilities: dict[str, object],
        log_level: LogLevel | None,
    ) -> None:
        self._peer = peer
        self._accepted = accepted
        self._capabilities = capabilities
        # Basic, Per-request protocol fields: "fields marked as required MUST be included on
        # every request"; "Clients SHOULD include io.modelcontextprotocol/clientInfo".
        self._meta: dict[str, object] = {
            PROTOCOL_VERSION_KEY: revision,
            CLIENT_INFO_KEY: info,
            CLIENT_CAPABILITIES_KEY: capabilities,
        }
        if log_level is not None:
            self._meta[LOG_LEVEL_KEY] = log_level

    def prepare(self, params: object) -> object:
        """Add the protocol's `_meta`."""
        return with_meta(params, self._meta)

    def may_retry(self, error: RpcError) -> bool:
        """Whether the server refused the revision, and named one that both know."""
        # Versioning: "The client SHOULD select a mutually supported version from the
        # supported list and retry the request, or surface an error to the user".
        revision = mutual_revision(error, self._accepted)
        if revision is None:
            return False
        self._meta = {**self._meta, PROTOCOL_VERSION_KEY: revision}
        negotiated = self._peer.negotiated
        if negotiated is not None:
            self._peer.negotiated = msgspec.structs.replace(negotiated, revision=revision)
        return True

    async def follow_up(self, method: str, params: object, result: Raw, round_: int) -> object:
        """The params to send next when the server wants input, else None.

        Raises:
            InvalidResult: The result breaks the protocol.
            RpcError: This client's handler refused the input.
        """
        try:
            kind = _decode_head(result).resultType
        except msgspec.DecodeError as error:
            raise InvalidResult(f"the result of {method}: {error}") from error
        # Basic, ResultType: "clients MUST treat an absent resultType as "complete""; one
        # "of any value unrecognized by the client MUST be considered invalid".
        if kind == "complete":
            return None
        if kind != "input_required":
            raise InvalidResult(f"the result of {method} has the unknown type {kind[:100]!r}")
        if method not in INPUT_METHODS:
            raise InvalidResult(f"{method} must not ask for input")
        if round_ >= MAX_INPUT_ROUNDS:
            raise InvalidResult(f"{method} asked for input more than {round_} times")
        try:
            wanted = msgspec.json.decode(result, type=_InputRequired)
        except msgspec.DecodeError as error:
            raise InvalidResult(f"the result of {method}: {error}") from error
        if not wanted.inputRequests and wanted.requestState is UNSET:
            raise InvalidResult(f"{method} asked for input without saying which")
        for name, request in wanted.inputRequests.items():
            self._check(name, request)
        responses = await gather({
            name: functools.partial(self._fulfil, name, request)
            for name, request in wanted.inputRequests.items()
        })
        return _retry_params(params, responses, wanted.requestState)

    def _check(self, name: str, request: InputRequest) -> None:
        # "Servers MUST NOT send an inputRequests that the client has not declared support
        # for in its capabilities."
        try:
            missing = missing_capability(request, self._capabilities)
        except (ValueError, msgspec.ValidationError) as error:
            raise InvalidResult(f"input request {name!r}: {error}") from error
        if missing is not None:
            raise InvalidResult(f"input request {name!r} needs {', '.join(missing)}: not declared")

    async def _fulfil(self, name: str, request: InputRequest) -> Raw:
        conversation = self._peer.conversation
        if conversation is None:
            raise InvalidResult(f"input request {name!r}, but this client has no router")
        params = UNSET if request.params is UNSET else as_raw(request.params)
        call = conversation.receive_request(Request(name, request.method, params))
        result = await call.run()
        if isinstance(result, Response):
            result = result.result
        elif isinstance(result, ErrorResponse):
            raise result.as_exception()
        return as_raw(result)


def _retry_params(params: object, responses: Mapping[str, Raw], state: str | UnsetType) -> Raw:
    """The params of the next sending: the same request with the answers."""
    fields: dict[str, object] = {}
    if params is not None and params is not UNSET:
        fields = dict(msgspec.json.decode(as_raw(params), type=dict[str, Raw]))
    # "If an InputRequiredResult contains the requestState field, the client MUST echo back
    # the exact value of that field"; if not, "the client MUST NOT include one in the retry".
    fields.pop("requestState", None)
    fields.pop("inputResponses", None)
    if responses:
        fields["inputResponses"] = responses
    if state is not UNSET:
        fields["requestState"] = state
    return as_raw(fields)
