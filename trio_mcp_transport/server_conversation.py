"""A router's side of one conversation: eras, the handshake, and running handlers.

All that depends on the order of messages (which era a request is, whether `initialize` has
been, the log level) is decided when a message arrives, in the reader's task; handlers then
run in whatever order they like.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw

from .context import Context, Session
from .errors import MethodNotFound, RpcError
from .hub import LIST_KINDS, LegacySubscriber, ListKind, ModernSubscriber, SubscriptionFilter
from .jsonrpc import ErrorCode, Notification, Request
from .limits import MAX_SUBSCRIBED_URIS, MAX_SUBSCRIPTIONS
from .mrtr import INPUT_METHODS, InputRequired, Round, require_capabilities
from .reporting import lone_exception
from .sansio.eras import (
    LEGACY_REVISIONS,
    Era,
    Verdict,
    choose_legacy,
    era_of,
    judge_request,
    refuse_initialize,
)
from .sansio.metadata import (
    CACHEABLE_METHODS,
    CacheHint,
    LogLevel,
    RequestMeta,
    complete_result,
    read_meta,
)

if TYPE_CHECKING:
    from .peer import Peer
    from .router import Router

__all__ = ["Route", "RoutedCall", "ServerConversation", "with_params"]

P = TypeVar("P")
T = TypeVar("T")

_EMPTY = Raw(b"{}")
_DEFAULT_HINT = CacheHint()


class Route(msgspec.Struct, frozen=True):
    """A registered handler, and the seconds it may run."""

    run: Callable[[Context], Awaitable[object]]
    timeout: float = math.inf


def with_params(
    handler: Callable[[Context, P], Awaitable[object]], decoder: msgspec.json.Decoder[P]
) -> Callable[[Context], Awaitable[object]]:
    """Make a handler of one that wants its params decoded.

    It raises `RpcError` (-32602) when they are of another shape.
    """

    async def run(ctx: Context) -> object:
        raw = ctx.message.params
        try:
            params = decoder.decode(raw if isinstance(raw, Raw) else _EMPTY)
        except msgspec.DecodeError as error:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"Invalid params: {error}") from error
        return await handler(ctx, params)

    return run


class RoutedCall:
    """One request on its way through its handler; runs it again where input comes late."""

    __slots__ = ("_ctx", "_route", "_router", "timeout")

    def __init__(self, router: Router, route: Route, ctx: Context) -> None:
        self._router = router
        self._route = route
        self._ctx = ctx
        self.timeout = route.timeout

    async def run(self) -> object:
        """Run the handler and complete its result.

        Raises:
            RpcError: As the handler, or about its params.
            TypeError: A modern result is no object.
        """
        ctx = self._ctx
        result = await self._run_rounds()
        await ctx.finish()
        if ctx.era != "modern" or result is None or self._router.server_info is None:
            return result
        method = ctx.request.method
        cache = (
            self._router.cache.get(method, _DEFAULT_HINT) if method in CACHEABLE_METHODS else None
        )
        return complete_result(result, server_info=self._router.server_info, cache=cache)

    async def _run_rounds(self) -> object:
        ctx = self._ctx
        while True:
            try:
                return await self._route.run(ctx)
            except (InputRequired, ExceptionGroup) as error:
                needed = lone_exception(error)  # it may come out of a nursery
                if not isinstance(needed, InputRequired):
                    raise
                if ctx.era is not None:
                    require_capabilities(needed.inputs, ctx.client_capabilities)
                if ctx.era == "modern":
                    return self._end_round(needed)
                # A legacy client is asked right now, and the handler runs again here.
                ctx.input_round.check_limit()
                inputs, state = needed.inputs, needed.state
            if inputs:
                await ctx.ask(inputs)
            raw_state = UNSET if state is UNSET else Raw(msgspec.json.encode(state))
            ctx.input_round = Round(
                ctx.input_round.number + 1, dict(ctx.input_responses), raw_state
            )

    def _end_round(self, needed: InputRequired) -> dict[str, object]:
        ctx = self._ctx
        request = ctx.request
        if request.method not in INPUT_METHODS:
            raise TypeError(f"{request.method} cannot ask its client for input") from needed
        params = request.params
        return self._router.sealer.result(
            needed,
            ctx.input_round,
            method=request.method,
            params=params if isinstance(params, Raw) else _EMPTY,
            principal=ctx.principal,
        )


class _Answered:
    """A call whose result was there at once."""

    __slots__ = ("_call", "timeout")

    def __init__(self, result: object) -> None:
        self._call = result
        self.timeout = math.inf

    async def run(self) -> object:
        """The result."""
        return self._call


class _Initialize(msgspec.Struct):
    protocolVersion: str  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's names)
    capabilities: dict[str, object] = {}
    clientInfo: dict[str, object] = {}  # ruff: ignore[mixed-case-variable-in-class-scope]


class _SetLevel(msgspec.Struct):
    level: LogLevel


class _Resource(msgspec.Struct):
    uri: str


class _Listen(msgspec.Struct):
    notifications: SubscriptionFilter


class ServerConversation:
    """What a router knows of one peer.

    Over HTTP there is one for each exchange, which lives no longer than a request, and one
    for each session's own channel. What they share is in the channel's session.

    Args:
        router: What all its conversations share.
        peer: The peer that this one is with.
    """

    def __init__(self, router: Router, peer: Peer) -> None:
        self._router = router
        self._peer = peer
        context = peer.channel.context
        self._shared = context.session
        self._is_exchange = context.exchange
        #: What the transport says the exchange is; None where messages alone tell.
        self._judged = context.protocol_version if context.exchange else None
        self._revisions = router.revisions
        if context.revisions is not None and context.revisions != router.revisions:
            self._revisions = tuple(
                revision for revision in router.revisions if revision in context.revisions
            )
        self._session: Session | None = None
        self._listening: list[ModernSubscriber] = []
        self._log = router.server_info is None or router.has_capability("logging")
        self._ended = False
        session = self.session
        if session is not None and not self._is_exchange:
            self._attach(session)

    @property
    def session(self) -> Session | None:
        """The legacy client's state, from `initialize` on."""
        if self._shared is None:
            return self._session
        state = self._shared.state
        return state if isinstance(state, Session) else None

    def _attach(self, session: Session) -> None:
        """This is the session's own channel: what the hub says to it goes out here."""
        session.own_peer = self._peer
        if session.subscriber is not None:
            session.subscriber.attach(self._peer)

    # -- from the reader; nothing here waits -----------------------------------------

    def receive_request(self, request: Request) -> RoutedCall | _Answered:
        """Decide what a request is and who handles it.

        Raises:
            RpcError: It is refused.
        """
        method = request.method
        meta = read_meta(request.params)
        verdict = self._judge(request, meta)
        era = verdict.era
        route = self._router.find_method(method, era)
        if route is None:
            builtin = _BUILTIN.get((era, method))
            if builtin is not None and self._has_builtin(method, era):
                result = builtin(self, request)
                if era == "modern":
                    assert self._router.server_info is not None
                    hint = self._router.cache.get(method, _DEFAULT_HINT)
                    result = complete_result(
                        result, server_info=self._router.server_info, cache=hint
                    )
                return _Answered(result)
        ctx = Context(
            self._peer,
            request,
            era=era,
            revision=verdict.revision,
            meta=meta,
            session=self.session if era == "legacy" else None,
            log=self._log,
        )
        if route is None:
            route = self._other_route(era, request)
        if era == "modern" and method in INPUT_METHODS and isinstance(request.params, Raw):
            ctx.input_round = self._router.sealer.read_round(method, request.params, ctx.principal)
        return RoutedCall(self._router, route, ctx)

    def receive_notification(
        self, notification: Notification
    ) -> Callable[[], Awaitable[object]] | None:
        """Take note of a notification; return what is to run for it."""
        session = self.session
        if notification.method == "notifications/initialized" and session is not None:
            session.initialized = True
            if not self._is_exchange:
                self._attach(session)
            if self._router.hub is not None and not self._ended:
                self._subscriber(session)
        negotiated = self._peer.negotiated
        era: Era | None = None
        revision = None
        if negotiated is not None:
            era, revision = negotiated.era, negotiated.revision
        elif session is not None:
            era, revision = "legacy", session.revision
        elif self._judged is not None:
            era, revision = era_of(self._judged), self._judged
        route = self._router.find_notification(notification.method, era)
        if route is None and self._router.dispatch is None:
            return None
        ctx = Context(
            self._peer, notification, era=era, revision=revision, session=session, log=self._log
        )
        if route is None:
            assert self._router.dispatch is not None
            return functools.partial(self._router.dispatch, ctx, notification)
        return functools.partial(route.run, ctx)

    def end(self) -> None:
        """End what would go on for ever: subscriptions, later ones too."""
        self._ended = True
        for subscriber in self._listening:
            subscriber.end()
        # A session's subscriber outlives the exchanges, and ends with the session's channel.
        if not self._is_exchange:
            session = self.session
            if session is not None and self._router.hub is not None:
                self._subscriber(session).end()  # also for whoever would still subscribe

    def _judge(self, request: Request, meta: RequestMeta) -> Verdict:
        router = self._router
        negotiated = self._peer.negotiated
        if negotiated is not None:  # this side is the client
            return Verdict(negotiated.era, negotiated.revision)
        if router.server_info is None:
            return Verdict(None, None)
        if (
            request.method == "initialize"
            and meta.protocol_version is UNSET
            and not any(revision in LEGACY_REVISIONS for revision in self._revisions)
        ):
            requested = _read(request, _Initialize).protocolVersion
            raise refuse_initialize(requested, self._revisions)
        session = self.session
        return judge_request(
            request.method,
            meta,
            revisions=self._revisions,
            # Over HTTP the transport has judged by the headers, also where no session is.
            session_revision=self._judged if session is None else session.revision,
            require_initialize=router.require_initialize,
        )

    def _has_builtin(self, method: str, era: Era | None) -> bool:
        router = self._router
        if router.server_info is None:
            # A legacy client answers pings, whatever else it can.
            negotiated = self._peer.negotiated is not None
            return method == "ping" and negotiated and era == "legacy" and router.dispatch is None
        if method == "logging/setLevel":
            return self._log
        if method in {"resources/subscribe", "resources/unsubscribe"}:
            return router.hub is not None and router.has_capability("resources", "subscribe")
        return True

    def _other_route(self, era: Era | None, request: Request) -> Route:
        """For methods without a registration."""
        router = self._router
        if (
            era == "modern"
            and request.method == "subscriptions/listen"
            and router.hub is not None
            and router.server_info is not None
        ):
            return Route(with_params(self._listen, _decode_listen))
        if router.dispatch is not None:
            return Route(functools.partial(_dispatch, router.dispatch))
        raise MethodNotFound(request.method)

    # -- built in -------------------------------------------------------------------

    def _discover(self, _: Request) -> dict[str, object]:
        router = self._router
        result: dict[str, object] = {
            "supportedVersions": list(self._revisions),
            "capabilities": router.capabilities,
        }
        if router.instructions is not None:
            result["instructions"] = router.instructions
        return result

    def _initialize(self, request: Request) -> dict[str, object]:
        router = self._router
        if self.session is not None:
            raise RpcError(ErrorCode.INVALID_REQUEST, "this connection is initialized already")
        params = _read(request, _Initialize)
        revision = choose_legacy(params.protocolVersion, self._revisions)
        if revision is None:  # over HTTP, where the transport serves other ones
            raise refuse_initialize(params.protocolVersion, self._revisions)
        session = Session(revision, params.clientInfo, params.capabilities)
        if self._shared is None:
            self._session = session
        else:
            self._shared.state = session
        if revision == "2025-03-26":
            self._peer.accept_batches()
        result: dict[str, object] = {
            "protocolVersion": revision,
            "capabilities": router.capabilities,
            "serverInfo": router.server_info,
        }
        if router.instructions is not None:
            result["instructions"] = router.instructions
        return result

    def _ping(self, _: Request) -> dict[str, object]:
        return {}

    def _set_level(self, request: Request) -> dict[str, object]:
        params = _read(request, _SetLevel)
        if self.session is not None:
            self.session.log_level = params.level
        return {}

    def _subscribe(self, request: Request) -> dict[str, object]:
        uri = _read(request, _Resource).uri
        session = self.session
        if session is None:
            # Without a session there is no stream that could tell of the changes.
            raise MethodNotFound(request.method)
        self._subscriber(session).add(uri)
        return {}

    def _unsubscribe(self, request: Request) -> dict[str, object]:
        uri = _read(request, _Resource).uri
        session = self.session
        if session is None:
            raise MethodNotFound(request.method)
        self._subscriber(session).discard(uri)
        return {}

    def _subscriber(self, session: Session) -> LegacySubscriber:
        """The legacy client's subscriber, from when it is first needed."""
        if session.subscriber is None:
            router = self._router
            assert router.hub is not None
            lists: list[ListKind] = [
                kind for kind in LIST_KINDS if router.has_capability(kind, "listChanged")
            ]
            # An exchange is gone before there is anything to tell.
            peer = session.own_peer if self._is_exchange else self._peer
            session.subscriber = LegacySubscriber(router.hub, peer, lists)
        return session.subscriber

    async def _listen(self, ctx: Context, params: _Listen) -> object:
        router = self._router
        assert router.hub is not None
        wanted = params.notifications
        if len(wanted.resourceSubscriptions) > MAX_SUBSCRIBED_URIS:
            raise RpcError(ErrorCode.INVALID_PARAMS, "too many resource subscriptions")
        if len(self._listening) >= MAX_SUBSCRIPTIONS:
            raise RpcError(ErrorCode.INVALID_PARAMS, "too many subscriptions")
        # MCP patterns/subscriptions: "Notification types the server does not support are
        # omitted."
        granted = SubscriptionFilter(
            toolsListChanged=wanted.toolsListChanged
            and router.has_capability("tools", "listChanged"),
            promptsListChanged=wanted.promptsListChanged
            and router.has_capability("prompts", "listChanged"),
            resourcesListChanged=wanted.resourcesListChanged
            and router.has_capability("resources", "listChanged"),
            resourceSubscriptions=wanted.resourceSubscriptions
            if router.has_capability("resources", "subscribe")
            else [],
        )
        subscriber = ModernSubscriber(router.hub, self._peer, ctx.request.id)
        self._listening.append(subscriber)
        if self._ended:  # the request had to wait for a handler
            subscriber.end()
        try:
            return await subscriber.run(granted)
        finally:
            self._listening.remove(subscriber)


_Builtin: TypeAlias = Callable[[ServerConversation, Request], object]
_BUILTIN: dict[tuple[Era | None, str], _Builtin] = {
    ("modern", "server/discover"): ServerConversation._discover,
    ("legacy", "initialize"): ServerConversation._initialize,
    ("legacy", "ping"): ServerConversation._ping,
    (None, "ping"): ServerConversation._ping,
    ("legacy", "logging/setLevel"): ServerConversation._set_level,
    ("legacy", "resources/subscribe"): ServerConversation._subscribe,
    ("legacy", "resources/unsubscribe"): ServerConversation._unsubscribe,
}
_decode_listen = msgspec.json.Decoder(_Listen)


def _read(request: Request, type_: type[T]) -> T:
    try:
        return request.params_as(type_)
    except msgspec.ValidationError as error:
        raise RpcError(ErrorCode.INVALID_PARAMS, f"Invalid params: {error}") from error


async def _dispatch(
    dispatch: Callable[[Context, Request | Notification], Awaitable[object]], ctx: Context
) -> object:
    return await dispatch(ctx, ctx.message)
