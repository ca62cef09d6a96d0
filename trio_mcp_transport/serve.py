"""Serve channels, or peers, at any number of endpoints.

Called by applications and the command line. It owns listeners and the nurseries that
connections run in, stops them in order, and keeps exception groups away from the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Unpack

import trio

from . import security
from .abc import ChannelEvent, EventHandler, MessageChannel, MessageListener
from .conversation import Dispatcher
from .endpoint_parser import EndpointSpec
from .errors import ConfigurationError
from .limits import (
    DEFAULT_DRAIN_SECONDS,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MAX_HANDLERS,
    DEFAULT_MAX_HELD_BYTES,
    DEFAULT_MAX_QUEUED_REQUESTS,
)
from .peer import Peer
from .registry import ChannelOverrides, listen_endpoint, resolve_endpoint, uses_tls
from .reporting import choose_failure, report
from .stores.events import EventStore
from .transports.http_serving import HttpMode, HttpServing, SchemaLookup

__all__ = ["serve_channels", "serve_peers"]


async def serve_channels(
    handler: Callable[[MessageChannel], Awaitable[object]],
    *endpoints: EndpointSpec,
    on_event: EventHandler | None = None,
    stop: trio.Event | None = None,
    drain: float = DEFAULT_DRAIN_SECONDS,
    http: HttpMode = "exchange",
    authenticate: security.Authenticator | None = None,
    event_store: EventStore | None = None,
    header_schema: SchemaLookup | None = None,
    told_revisions: tuple[str, ...] = (),
    tls: security.TlsServer | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ChannelOverrides],
) -> None:
    """Listen at endpoints and run ``await handler(channel)`` for each channel.

    A channel is a connection; over HTTP it is one POST of requests, or what a legacy session
    says and hears beside them (see `http`); a handler of a modern request that goes on after
    its answer keeps its client's connection from the next one. Each has its own boundary: an
    exception of its handler is reported as ``handler.failed``, and the others go on. A
    channel is closed after its handler. ``stdio:`` has one connection, and is done after it.
    Returns when all endpoints are done; otherwise it serves until `stop` is set or it is
    cancelled, which aborts all connections.

    Args:
        handler: Called with each channel.
        endpoints: Where to listen, at least one. If one fails, none is listened at.
        on_event: Gets the faults that no caller would see; they are logged without it.
        stop: Once it is set, nothing more is accepted; handlers that run get `drain`
            seconds to finish, and what is left is cancelled and reported as
            ``drain.expired``. Then this returns.
        drain: Those seconds; `math.inf` waits for every handler.
        http: Over HTTP, what a channel is: an ``exchange``, or for clients that have one a
            whole ``session``, whose messages tell which request they belong to
            (`related_to`).
        authenticate: Over HTTP, asked about each request before its body is read:
            ``await authenticate(head, facts)`` returns the principal, or the reply that
            refuses. Without it the endpoint's own options decide.
        event_store: Over HTTP, makes the streams of sessions resumable.
        header_schema: Over HTTP, gives what ``Mcp-Param-*`` headers a tool has, by its name.
        told_revisions: Over HTTP, where nothing modern is served: what modern clients are
            told, with -32022, as a bridge does that knows what is behind it. If empty they
            get -32600.
        tls: For every endpoint with TLS, in place of the options of its own: certificates
            that can be replaced while they are in use (`TlsServer.reload`), staples that a
            function fetches.
        task_status: Started with the endpoints that clients may connect to, in order,
            with the real addresses and ports, once all of them are listened at.
        options: Fields of `ChannelOptions`, which beat those of every endpoint.

    Raises:
        ConfigurationError: An endpoint is wrong, or cannot be listened at.
        ConnectFailed: An endpoint cannot be listened at: in use, not permitted...
        OSError: Accepting failed in a way that will not pass.
    """
    over_http = HttpServing(
        mode=http,
        authenticate=authenticate,
        event_store=event_store,
        header_schema=header_schema,
        told_revisions=told_revisions,
    )
    await _serve(
        handler, endpoints, options, on_event, stop, drain, over_http, task_status, tls=tls
    )


async def _serve(
    handler: Callable[[MessageChannel], Awaitable[object]],
    endpoints: Sequence[EndpointSpec],
    options: ChannelOverrides,
    on_event: EventHandler | None,
    stop: trio.Event | None,
    drain: float,
    http: HttpServing,
    task_status: trio.TaskStatus[list[str]],
    on_stop: Callable[[], object] = lambda: None,
    *,
    tls: security.TlsServer | None = None,
) -> None:
    if not endpoints:
        raise ConfigurationError("there is no endpoint to listen at")
    if not drain >= 0:
        raise ConfigurationError(f"drain must not be negative, not {drain}")
    resolved = [resolve_endpoint(endpoint, options) for endpoint in endpoints]
    if tls is not None and not any(map(uses_tls, resolved)):
        raise ConfigurationError("tls is for endpoints with TLS, and none of these has it")
    service = _Service(handler, on_event, stop, drain, http, on_stop)
    try:
        async with AsyncExitStack() as stack:
            for endpoint in resolved:
                own = tls if uses_tls(endpoint) else None
                listener = await listen_endpoint(endpoint, on_event, own)
                stack.push_async_callback(listener.aclose)
                limit = getattr(endpoint, "max_connections", DEFAULT_MAX_CONNECTIONS)
                service.listeners.append((listener, limit))
            await service.run(task_status)
    except BaseExceptionGroup as group:
        failure = choose_failure(group, on_event)
    else:
        return
    raise failure


class _Service:
    """The tasks of one `serve_channels`, in three nurseries by how long they live.

    The accept loops end first, by themselves or by `stop`; then the handlers, within
    `drain` once `stop` is set; around both, the task that waits for `stop`.
    """

    def __init__(
        self,
        handler: Callable[[MessageChannel], Awaitable[object]],
        on_event: EventHandler | None,
        stop: trio.Event | None,
        drain: float,
        http: HttpServing,
        on_stop: Callable[[], object],
    ) -> None:
        self.listeners: list[tuple[MessageListener, int]] = []
        self._handler = handler
        self._on_event = on_event
        self._stop = stop
        self._drain = drain
        self._http = http
        self._on_stop = on_stop

    async def run(self, task_status: trio.TaskStatus[list[str]]) -> None:
        from .transports.accept import serve_listener

        async with trio.open_nursery() as watch:
            async with trio.open_nursery() as handlers, trio.open_nursery() as loops:
                for listener, max_connections in self.listeners:
                    serve = partial(
                        serve_listener,
                        max_connections=max_connections,
                        on_event=self._on_event,
                        handler_nursery=handlers,
                        http=self._http,
                    )
                    await loops.start(serve, listener, self._handler)
                task_status.started([listener.endpoint for listener, _ in self.listeners])
                if self._stop is not None:
                    watch.start_soon(self._watch, self._stop, loops, handlers)  # noqa: ASYNC111 (it ends them)
            if handlers.cancel_scope.cancelled_caught:
                message = f"handlers were cancelled {self._drain:g} seconds after the stop"
                report(self._on_event, ChannelEvent(name="drain.expired", message=message))
            watch.cancel_scope.cancel()

    async def _watch(self, stop: trio.Event, loops: trio.Nursery, handlers: trio.Nursery) -> None:
        await stop.wait()
        loops.cancel_scope.cancel()
        self._on_stop()
        handlers.cancel_scope.deadline = trio.current_time() + self._drain


class PeerHandler:
    """What `serve_peers` does with each channel: a `Peer`, until the channel's end.

    Its arguments are those of `serve_peers`.
    """

    def __init__(
        self,
        router: Dispatcher,
        *,
        max_handlers: int = DEFAULT_MAX_HANDLERS,
        max_queued: int = DEFAULT_MAX_QUEUED_REQUESTS,
        max_held_bytes: int = DEFAULT_MAX_HELD_BYTES,
        expose_errors: bool = False,
        on_event: EventHandler | None = None,
        drain: float = DEFAULT_DRAIN_SECONDS,
    ) -> None:
        self._make = partial(
            Peer,
            router=router,
            max_handlers=max_handlers,
            max_queued=max_queued,
            max_held_bytes=max_held_bytes,
            drain=drain,
            expose_errors=expose_errors,
            on_event=on_event,
        )
        self._peers: set[Peer] = set()
        self._ending = trio.Event()

    async def serve(self, channel: MessageChannel) -> None:
        """Run a peer on a channel."""
        peer = self._make(channel)
        self._peers.add(peer)
        try:
            # One that comes late ends soon as well, but answers what it brings: an exchange
            # that is its request.
            await peer.run(self._ending if self._ending.is_set() else None)
        finally:
            self._peers.discard(peer)

    def end_soon(self) -> None:
        """Tell all peers, those to come as well, to end as soon as they are done.

        What is not done within `drain` seconds is cut off.
        """
        self._ending.set()
        # One task waits for the stop on behalf of all, as there may be a peer per request.
        for peer in list(self._peers):
            peer.end_soon()


async def serve_peers(
    router: Dispatcher,
    *endpoints: EndpointSpec,
    max_handlers: int = DEFAULT_MAX_HANDLERS,
    max_queued: int = DEFAULT_MAX_QUEUED_REQUESTS,
    max_held_bytes: int = DEFAULT_MAX_HELD_BYTES,
    expose_errors: bool = False,
    on_event: EventHandler | None = None,
    stop: trio.Event | None = None,
    drain: float = DEFAULT_DRAIN_SECONDS,
    authenticate: security.Authenticator | None = None,
    event_store: EventStore | None = None,
    tls: security.TlsServer | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ChannelOverrides],
) -> None:
    """Listen at endpoints and let the router answer every peer that connects.

    As `serve_channels`, which see for what is not here. Once `stop` is set, a peer's
    new requests are refused (`PeerErrorCode.SHUTTING_DOWN`), and it is closed as soon as
    nothing that it asked for is in work.

    Args:
        router: What answers requests: a `Router`, usually.
        endpoints: Where to listen, at least one.
        max_handlers: Requests of one peer that are handled at a time, as for `Peer`.
        max_queued: As for `Peer`.
        max_held_bytes: As for `Peer`.
        expose_errors: As for `Peer`.
        on_event: As for `Peer` and `serve_channels`.
        stop: As for `serve_channels`.
        drain: Seconds that handlers get to finish, after `stop` or a peer's end.
        authenticate: As for `serve_channels`.
        event_store: As for `serve_channels`.
        tls: As for `serve_channels`.
        task_status: As for `serve_channels`.
        options: Fields of `ChannelOptions`, which beat those of every endpoint.

    Raises:
        ConfigurationError: As for `serve_channels`.
        ConnectFailed: As for `serve_channels`.
        OSError: As for `serve_channels`.
    """
    peers = PeerHandler(
        router,
        max_handlers=max_handlers,
        max_queued=max_queued,
        max_held_bytes=max_held_bytes,
        expose_errors=expose_errors,
        on_event=on_event,
        drain=drain,
    )
    http = HttpServing(
        authenticate=authenticate,
        event_store=event_store,
        header_schema=getattr(router, "header_schema", None),
        revisions=getattr(router, "revisions", None),
    )
    await _serve(
        peers.serve,
        endpoints,
        options,
        on_event,
        stop,
        drain,
        http,
        task_status,
        peers.end_soon,
        tls=tls,
    )
