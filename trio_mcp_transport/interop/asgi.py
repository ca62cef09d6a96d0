"""MCP over HTTP as an ASGI application: for programs that have an HTTP server already.

Called by ASGI servers and frameworks, on Trio (hypercorn's Trio worker) or on asyncio
(uvicorn, hypercorn), where Trio runs as a guest in the same thread. The server reads and
frames HTTP; all that MCP is about is decided by the `HttpService` that our own listener
has as well, admission included. What a server keeps to itself (timeouts of heads and idle
connections, the number of connections) is its business.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, Unpack

import trio

from ..abc import EventHandler, MessageChannel
from ..conversation import Dispatcher
from ..errors import LocalProtocolError
from ..http_endpoints import Era, HttpEndpoint, ResponseMode
from ..limits import DEFAULT_DRAIN_SECONDS, ChannelOptions
from ..reporting import choose_failure
from ..security.admission import Authenticator
from ..serve import PeerHandler
from ..stores.events import EventStore
from ..transports.http_service import HttpService
from ..transports.http_serving import HttpMode, HttpServing, SchemaLookup
from ..transports.http_settings import check_listening, make_doorkeeper, server_options
from ..web_endpoints import CorsPreset, ProxyHeader, SecurityHeadersPreset
from .asgi_request import AsgiRequest, Receive, Send

if TYPE_CHECKING:
    from .guest_run import GuestRun

__all__ = ["AsgiApp", "AsgiOptions"]

T = TypeVar("T")
ChannelHandler = Callable[[MessageChannel], Awaitable[object]]


class AsgiOptions(TypedDict, total=False):
    """What `AsgiApp` takes of an `HttpEndpoint`, where each is explained."""

    era: Era
    revision: str | None
    response: ResponseMode
    stateless: bool
    resumable: bool
    sse_path: str | None
    message_path: str | None
    rpc_path: str | None
    notify_path: str | None
    max_exchanges: int
    max_unsent_bytes: int
    max_sessions: int
    session_idle_timeout: float
    keep_alive_interval: float
    quiet_interval: float
    body_timeout: float
    grace_timeout: float
    retry_interval: float
    retry_after: int
    auth: Literal["none", "bearer"]
    bearer_token: str | None
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    check_host: bool
    check_origin: bool
    trusted_proxies: tuple[str, ...]
    proxy_header: ProxyHeader
    cors: CorsPreset
    security_headers: SecurityHeadersPreset
    options: ChannelOptions


class AsgiApp:
    """An ASGI 3 application that serves MCP: Streamable HTTP, and HTTP+SSE if asked to.

    ``app = AsgiApp(router)``, then ``hypercorn -k trio module:app`` or ``uvicorn
    module:app``. It needs the server's lifespan events. Where it is mounted in another
    application, whose lifespan the server runs instead, that enters `running`::

        @asynccontextmanager
        async def lifespan(app):
            async with mcp.running():
                yield

        Starlette(routes=[Mount("/", mcp)], lifespan=lifespan)

    Who may come in is decided by the address that the server gives in ``scope["server"]``.
    A server behind a proxy that is asked for by another name needs ``allowed_hosts``.

    A client that goes away cancels what it asked for in the modern era, and nothing in the
    older ones, as over our own listener. When the lifespan ends, what is being answered gets
    `drain` seconds; what is left is cancelled.

    Args:
        served: A `Router` (or another dispatcher), which answers requests as with
            `serve_peers`, or an async function that is called with each channel, as with
            `serve_channels`.
        path: Where the endpoint is, under whatever the application is mounted at.
        http: As for `serve_channels`.
        authenticate: As for `serve_channels`.
        event_store: As for `serve_channels`.
        header_schema: As for `serve_channels`; a `Router` brings its own.
        drain: Those seconds; `math.inf` waits for every handler.
        expose_errors: As for `serve_peers`.
        on_event: As for `serve_channels`.
        options: What else `HttpEndpoint` has for a server.

    Raises:
        ConfigurationError: An option is wrong.
    """

    def __init__(
        self,
        served: Dispatcher | ChannelHandler,
        path: str = "/mcp",
        *,
        http: HttpMode = "exchange",
        authenticate: Authenticator | None = None,
        event_store: EventStore | None = None,
        header_schema: SchemaLookup | None = None,
        drain: float = DEFAULT_DRAIN_SECONDS,
        expose_errors: bool = False,
        on_event: EventHandler | None = None,
        **options: Unpack[AsgiOptions],
    ) -> None:
        # The host is that of whichever server runs this, which the scope of each request tells.
        endpoint = HttpEndpoint(host="localhost", port=0, path=path, **options)
        check_listening(endpoint)
        self._endpoint = endpoint
        self._server_options = server_options(endpoint)
        self._doorkeeper = make_doorkeeper(endpoint)
        self._served = served
        self._http = HttpServing(
            mode=http,
            authenticate=authenticate,
            event_store=event_store,
            header_schema=header_schema or getattr(served, "header_schema", None),
            revisions=getattr(served, "revisions", None),
        )
        self._drain = drain
        self._expose_errors = expose_errors
        self._on_event = on_event
        self._life: _Life | None = None

    def running(self) -> AbstractAsyncContextManager[None]:
        """What the application needs around all of its requests; the lifespan does this.

        Under Trio or asyncio, whichever the server uses. Leaving it drains; leaving it by
        an exception cancels what is at work.

        Raises:
            LocalProtocolError: On entering: it is running already.
        """
        return _Running(self)

    def stop(self) -> None:
        """Begin nothing new, and end streams and sessions once nothing is being answered.

        For a program that ends its server itself, before it does: most servers end the
        lifespan only when the last response is complete, and a stream is a response.
        Idempotent. Called in the thread of the server, from Trio or asyncio.
        """
        if self._life is not None:
            self._life.stop()

    async def __call__(self, scope: Mapping[str, object], receive: Receive, send: Send) -> None:
        """Answer one request, or live through the server's lifespan.

        Raises:
            LocalProtocolError: It is not `running`, or the scope is of another kind.
        """
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            # "If this is sent before accept, the server must close with HTTP status 403."
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif kind != "http":
            raise LocalProtocolError(f"an ASGI scope of type {kind!r} is not supported")
        elif self._life is None:
            raise LocalProtocolError(
                "the MCP application is not running: run the server with its lifespan on, or"
                " enter `running()` in the lifespan of the application that this is part of"
            )
        else:
            await self._life.answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        running = self.running()
        try:
            await running.__aenter__()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        except BaseException as error:
            await running.__aexit__(type(error), error, error.__traceback__)  # noqa: ASYNC102 (everything is cancelled)
            raise
        await running.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})

    def _begin(self) -> _Life:
        if self._life is not None:
            raise LocalProtocolError("the MCP application is running already")
        peers: PeerHandler | None = None
        if callable(self._served):
            handler = self._served
        else:
            peers = PeerHandler(
                self._served,
                drain=self._drain,
                expose_errors=self._expose_errors,
                on_event=self._on_event,
            )
            handler = peers.serve
        service = HttpService(
            self._server_options,
            handler,
            http=self._http,
            doorkeeper=self._doorkeeper,
            channel_options=self._endpoint.options,
            on_event=self._on_event,
        )
        self._life = _Life(service, peers, self._endpoint, self._drain, self._on_event)
        return self._life

    def _end(self) -> None:
        self._life = None


class _Life:
    """The application at work, from one start to one end. Its async methods are Trio's."""

    guest: GuestRun | None = None

    def __init__(
        self,
        service: HttpService,
        peers: PeerHandler | None,
        endpoint: HttpEndpoint,
        drain: float,
        on_event: EventHandler | None,
    ) -> None:
        self._service = service
        self._peers = peers
        self._body_timeout = endpoint.body_timeout
        self._write_timeout = endpoint.options.write_timeout
        self._drain = drain
        self._on_event = on_event
        self._scope = trio.CancelScope()
        self.ended = trio.Event()
        self.ended.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the service until it was ended."""
        self.ended = trio.Event()
        try:
            with self._scope:
                await self._service.run(task_status=task_status)
        finally:
            self.ended.set()

    def stop(self) -> None:
        """Begin nothing new."""
        self._service.stop()
        if self._peers is not None:
            self._peers.end_soon()

    async def end(self) -> None:
        """Drain, then cancel what is left."""
        self.stop()
        self._scope.deadline = trio.current_time() + self._drain
        await self.ended.wait()

    def cancel(self) -> None:
        """Cancel everything; it may take until `ended`."""
        self._scope.cancel()

    async def answer(self, scope: Mapping[str, object], receive: Receive, send: Send) -> None:
        """Answer a request; called by the host."""
        if self.guest is None:
            await self._answer(scope, receive, send)
            return
        from .guest_run import call_host

        context = contextvars.copy_context()
        trio_receive, trio_send = call_host(context, receive), call_host(context, send)
        # If the application has ended, the server breaks off what is incomplete.
        with suppress(trio.ClosedResourceError):
            await self.guest.call(lambda: self._answer(scope, trio_receive, trio_send))

    async def _answer(self, scope: Mapping[str, object], receive: Receive, send: Send) -> None:
        try:
            request = AsgiRequest(
                scope,
                receive,
                send,
                body_timeout=self._body_timeout,
                write_timeout=self._write_timeout,
            )
        except LocalProtocolError:
            await _refuse(send)
            return
        try:
            await request.answer(self._service)
        except BaseExceptionGroup as group:
            failure = choose_failure(group, self._on_event)
        else:
            return
        raise failure


async def _refuse(send: Send) -> None:
    """Answer a request with headers that our own server would refuse as well."""
    await send({
        "type": "http.response.start",
        "status": 400,
        "headers": [(b"content-length", b"0")],
    })
    await send({"type": "http.response.body", "body": b""})


class _Running(AbstractAsyncContextManager[None]):
    """Runs an application: in a nursery of its own, or in that of a guest run."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._guest: GuestRun | None = None

    async def __aenter__(self) -> None:
        life = self._life = self._app._begin()
        try:
            if trio.lowlevel.in_trio_task():
                self._manager = trio.open_nursery()
                self._nursery = await self._manager.__aenter__()
                await self._nursery.start(life.run)
            else:
                from .guest_run import GuestRun

                self._guest = life.guest = guest = await GuestRun.enter()
                await guest.call(lambda: guest.nursery.start(life.run))  # noqa: ASYNC105 (Trio awaits it)
        except BaseException:
            await self._clean_up()  # noqa: ASYNC102 (everything is cancelled)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None and self._guest is not None:
                await self._guest.call(self._life.end)  # noqa: ASYNC102 (by the drain)
            elif exc is None:
                await self._life.end()  # noqa: ASYNC102 (bounded by the drain)
        finally:
            await self._clean_up()  # noqa: ASYNC102 (everything is cancelled)

    async def _clean_up(self) -> None:
        """Cancel what is left, and wait until it has ended."""
        life = self._life
        self._app._end()
        life.cancel()
        if self._guest is not None:
            try:
                await self._guest.call(life.ended.wait)
            finally:
                await self._guest.leave()  # noqa: ASYNC102 (it waits through a cancellation)
        elif hasattr(self, "_nursery"):
            self._nursery.cancel_scope.cancel()
            try:
                await self._manager.__aexit__(None, None, None)
            except BaseExceptionGroup as group:
                failure = choose_failure(group, None)
            else:
                return
            raise failure
