"""What a peer answers: methods, notifications and, for MCP servers, the protocol itself.

One `Router` serves any number of peers of either era. What it knows of each is a
conversation (`server_conversation.py`); the router itself holds only what all of them share.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, overload

import msgspec

from .context import Context
from .errors import ConfigurationError
from .hub import Hub
from .jsonrpc import Notification, Request
from .limits import REQUEST_STATE_SECONDS
from .mrtr import StateSealer
from .sansio.eras import REVISIONS, Era, check_revisions
from .sansio.mcp_http.mirrored import HeaderSchema, InvalidHeaderSchema, read_header_schema
from .sansio.metadata import CacheHint
from .server_conversation import Route, ServerConversation, with_params

if TYPE_CHECKING:
    from .conversation import Conversation
    from .peer import Peer

__all__ = ["Router"]

P = TypeVar("P")
Handler = Callable[[Context], Awaitable[object]]
ParamsHandler = Callable[[Context, P], Awaitable[object]]
Dispatch = Callable[[Context, Request | Notification], Awaitable[object]]

_BOTH_ERAS: tuple[Era, ...] = ("modern", "legacy")


class Router:
    """Method names and their handlers.

    With a `name` and a `version` it is an MCP server: it answers `server/discover`,
    `initialize` and `ping`, refuses versions that it does not serve, knows the era of each
    request, and completes the results of modern ones. Without them it is a plain JSON-RPC
    router, which is also what an MCP client needs.

    Example::

        router = Router("example", "1.0", capabilities={"tools": {}})

        @router.method("tools/call", params=CallParams)
        async def call(ctx: Context, params: CallParams) -> object:
            await ctx.progress(1, total=2)
            return {"content": [{"type": "text", "text": params.name}]}

    A handler returns the result: anything msgspec encodes, but not None. It raises
    `RpcError` to answer with an error.

    Args:
        name: The server's name.
        version: The server's version.
        server_info: Further members of `serverInfo`: ``title``, ``websiteUrl``...
        capabilities: What the server can do, as the protocol writes it.
        instructions: How to use the server, as text for a model.
        revisions: The protocol revisions it serves; all by default.
        dispatch: Gets every message that no handler is registered for, whole: a foreign
            dispatcher. Its result answers a request; of a notification it is ignored.
        hub: Where the server's changes are published; needed for subscriptions.
        cache: Caching hints of modern results by method; not cacheable by default.
        require_initialize: Whether a legacy request before `initialize` is refused.
        tool_schema: Gives the `inputSchema` of a tool by its name, raw or decoded, and None
            for an unknown tool. Over HTTP it tells which ``Mcp-Param-*`` headers belong to
            a call (``x-mcp-header``); without it they are not checked.
        state_key: Signs the state of input rounds. Servers that stand in for each other
            must share one; by default it is random and the router's own.
        state_seconds: How long a client may take to answer one input round.
        clock: Seconds since the epoch, for the expiry of that state.
    """

    def __init__(
        self,
        name: str | None = None,
        version: str | None = None,
        *,
        server_info: Mapping[str, object] | None = None,
        capabilities: Mapping[str, object] | None = None,
        instructions: str | None = None,
        revisions: Sequence[str] = REVISIONS,
        dispatch: Dispatch | None = None,
        hub: Hub | None = None,
        cache: Mapping[str, CacheHint] | None = None,
        require_initialize: bool = True,
        tool_schema: Callable[[str], object] | None = None,
        state_key: bytes | None = None,
        state_seconds: float = REQUEST_STATE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if (name is None) != (version is None):
            raise ConfigurationError("a server has both a name and a version")
        self.server_info: Mapping[str, object] | None = None
        if name is not None:
            self.server_info = {**(server_info or {}), "name": name, "version": version}
        self.capabilities: Mapping[str, object] = dict(capabilities or {})
        self.instructions = instructions
        self.revisions = check_revisions(revisions)
        self.dispatch = dispatch
        self.hub = hub
        self.cache = dict(cache or {})
        self.require_initialize = require_initialize
        self.sealer = StateSealer(state_key or secrets.token_bytes(32), clock, state_seconds)
        self._tool_schema = tool_schema
        self._header_schemas: dict[str, tuple[object, HeaderSchema | None]] = {}
        self._methods: dict[Era, dict[str, Route]] = {"modern": {}, "legacy": {}}
        self._notifications: dict[Era, dict[str, Route]] = {"modern": {}, "legacy": {}}

    # -- registration ---------------------------------------------------------------

    @overload
    def method(
        self,
        name: str,
        *,
        params: type[P],
        eras: Collection[Era] = _BOTH_ERAS,
        timeout: float = math.inf,
    ) -> Callable[[ParamsHandler[P]], ParamsHandler[P]]: ...

    @overload
    def method(
        self,
        name: str,
        *,
        params: None = None,
        eras: Collection[Era] = _BOTH_ERAS,
        timeout: float = math.inf,
    ) -> Callable[[Handler], Handler]: ...

    def method(
        self,
        name: str,
        *,
        params: type[P] | None = None,
        eras: Collection[Era] = _BOTH_ERAS,
        timeout: float = math.inf,
    ) -> Callable[[ParamsHandler[P]], ParamsHandler[P]] | Callable[[Handler], Handler]:
        """Register the decorated function as the handler of a method.

        Args:
            name: The method.
            params: What its params are decoded into and handed over as the second
                argument; params of another shape are answered with -32602. Without it
                the handler gets the context alone.
            eras: Where the method exists; elsewhere it is unknown (-32601).
            timeout: Seconds after which the handler is cancelled and the request is
                answered with `PeerErrorCode.HANDLER_TIMEOUT`.
        """
        return self._register(self._methods, name, params, eras, timeout)

    @overload
    def notification(
        self, name: str, *, params: type[P], eras: Collection[Era] = _BOTH_ERAS
    ) -> Callable[[ParamsHandler[P]], ParamsHandler[P]]: ...

    @overload
    def notification(
        self, name: str, *, params: None = None, eras: Collection[Era] = _BOTH_ERAS
    ) -> Callable[[Handler], Handler]: ...

    def notification(
        self,
        name: str,
        *,
        params: type[P] | None = None,
        eras: Collection[Era] = _BOTH_ERAS,
    ) -> Callable[[ParamsHandler[P]], ParamsHandler[P]] | Callable[[Handler], Handler]:
        """Register the decorated function as the handler of a notification.

        The notifications of one peer are handled one after the other, in the order in
        which they came. Cancellations and progress are the peer's own business.

        Args:
            name: The notification's method.
            params: As for `method`; a notification of another shape is reported.
            eras: Where the notification exists; elsewhere it is ignored.
        """
        return self._register(self._notifications, name, params, eras, math.inf)

    def _register(
        self,
        tables: dict[Era, dict[str, Route]],
        name: str,
        params: type[P] | None,
        eras: Collection[Era],
        timeout: float,
    ) -> Callable[[ParamsHandler[P]], ParamsHandler[P]] | Callable[[Handler], Handler]:
        if not timeout > 0:
            raise ValueError(f"timeout must be positive seconds, not {timeout}")
        if not eras or not set(eras) <= set(_BOTH_ERAS):
            raise ValueError(f"eras must be some of {', '.join(_BOTH_ERAS)}, not {eras!r}")
        if any(name in tables[era] for era in eras):
            raise ValueError(f"{name!r} has a handler already")

        def add(handler: Handler) -> None:
            for era in eras:
                tables[era][name] = Route(handler, timeout)

        if params is None:

            def decorate(handler: Handler) -> Handler:
                add(handler)
                return handler

            return decorate
        decoder = msgspec.json.Decoder(params)

        def decorate_typed(handler: ParamsHandler[P]) -> ParamsHandler[P]:
            add(with_params(handler, decoder))
            return handler

        return decorate_typed

    # -- for transports ---------------------------------------------------------------

    def header_schema(self, tool: str) -> HeaderSchema | None:
        """What of a tool's arguments its callers repeat in headers; see `tool_schema`.

        Returns:
            What is to be checked; None if the tool is unknown or its annotations are
            invalid, so that no client calls it.
        """
        if self._tool_schema is None:
            return None
        schema = self._tool_schema(tool)
        if schema is None:
            self._header_schemas.pop(tool, None)
            return None
        known = self._header_schemas.get(tool)
        if known is None or known[0] is not schema:
            try:
                found = read_header_schema(schema)
            except InvalidHeaderSchema:
                found = None
            known = self._header_schemas[tool] = (schema, found)
        return known[1]

    # -- for conversations ----------------------------------------------------------

    def find_method(self, name: str, era: Era | None) -> Route | None:
        """The handler of a method in an era; outside of eras any registration counts."""
        return self._find(self._methods, name, era)

    def find_notification(self, name: str, era: Era | None) -> Route | None:
        """The handler of a notification, likewise."""
        return self._find(self._notifications, name, era)

    @staticmethod
    def _find(tables: dict[Era, dict[str, Route]], name: str, era: Era | None) -> Route | None:
        if era is None:
            return tables["modern"].get(name) or tables["legacy"].get(name)
        return tables[era].get(name)

    def has_capability(self, name: str, part: str | None = None) -> bool:
        """Whether the server declares a capability, or a true part of one."""
        found = self.capabilities.get(name)
        if part is None:
            return found is not None
        return isinstance(found, Mapping) and bool(found.get(part))

    def join(self, peer: Peer) -> Conversation:
        """Begin a conversation; called by `Peer`."""
        return ServerConversation(self, peer)
