"""Listening for MCP over HTTP: ``http://HOST:PORT/PATH`` and ``https://``.

Called through `listen`. A listener owns the sockets, runs an `HttpConnection` for each
connection that it accepts, and one `HttpService` behind all of them. Connections and
channels are different things here: a connection carries many exchanges, and a session's
exchanges come over many connections. With TLS each connection begins with a handshake in
its own task, so that a slow client holds up nobody else.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial

import msgspec
import trio

from ..abc import EventHandler, MessageChannel, MessageListener
from ..endpoints import TcpEndpoint, join_host_port
from ..errors import ConnectFailed, LocalProtocolError
from ..http_endpoints import HttpEndpoint
from ..limits import DEFAULT_MAX_CONNECTIONS, ChannelOptions
from ..sansio.mcp_http.options import HttpServerOptions
from ..security.admission import Doorkeeper
from ..security.facts import ConnectionFacts
from ..security.tls_contexts import TlsServer
from .accept import AcceptLoop, ChannelHandler, SocketAcceptor
from .http_connection import HttpConnection, HttpConnectionOptions
from .http_service import HttpService
from .http_serving import HttpServing
from .http_settings import (
    check_listening,
    connection_options,
    make_doorkeeper,
    server_options,
    tcp_options,
    websocket_serving,
)
from .socket_stream import SocketStream
from .tcp import host_and_port, open_listeners, set_options
from .tls_stream import TlsStream
from .web_stream import make_tls_server
from .websocket_settings import WebSocketServing
from .worker_seat import current_seat

__all__ = ["HttpListener", "HttpListenerOptions", "listen", "listen_with_tls"]

#: Connections over the cap that are told so, at a time; more wait in the backlog.
_TURNED_AWAY = 32
#: In which a last request must come on connections that are spared at the end.
_LAST_REQUEST_SECONDS = 1.0


async def listen(endpoint: HttpEndpoint, on_event: EventHandler | None) -> MessageListener:
    """Listen on every address of the host, as `tcp.listen` does.

    The listener's `endpoint` has the real address and port.

    Args:
        endpoint: Where to listen, and everything else that is plain data.
        on_event: Told of what becomes of certificates; `HttpListener.serve` has its own.

    Raises:
        ConfigurationError: An option is for connecting, or cannot be served, or a file cannot
            be used.
        ConnectFailed: The name cannot be looked up, or an address cannot be bound.
        FeatureUnavailable: It needs what this installation does not have.
    """
    check_listening(endpoint)
    return await _listen(endpoint, make_tls_server(endpoint, on_event))


async def listen_with_tls(
    endpoint: HttpEndpoint, on_event: EventHandler | None, tls: TlsServer
) -> MessageListener:
    """Listen as `listen` does, with a TLS server that the caller keeps."""
    check_listening(endpoint)
    return await _listen(endpoint, tls)


async def _listen(endpoint: HttpEndpoint, tls: TlsServer | None) -> MessageListener:
    options = HttpListenerOptions(
        server=server_options(endpoint),
        connection=connection_options(endpoint),
        channel=endpoint.options,
        tcp=tcp_options(endpoint),
        websocket=websocket_serving(endpoint),
    )
    doorkeeper = make_doorkeeper(endpoint)
    sockets = await open_listeners(options.tcp, endpoint.label)
    host, port = host_and_port(sockets[0].getsockname())
    if len(sockets) > 1:
        host = endpoint.host
    bound = type(endpoint)(host=host, port=port, path=endpoint.path)
    return HttpListener(sockets, str(bound), options=options, doorkeeper=doorkeeper, tls=tls)


class HttpListenerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one listener is like.

    Attributes:
        server: The endpoint: paths, eras, sessions.
        connection: Limits and timeouts of connections.
        channel: Limits of the channels that requests become.
        tcp: The options of accepted sockets.
        websocket: Where requests may become WebSockets; None for nowhere.
    """

    server: HttpServerOptions = HttpServerOptions()
    connection: HttpConnectionOptions = HttpConnectionOptions()
    channel: ChannelOptions = ChannelOptions()
    tcp: TcpEndpoint = TcpEndpoint(host="localhost", port=0)
    websocket: WebSocketServing | None = None


class HttpListener(MessageListener):
    """Listening sockets, and what answers there.

    Args:
        sockets: Listening sockets, owned from now on.
        endpoint: Where they listen, as a URL.
        options: What it is like.
        doorkeeper: Decides who may come in.
        tls: For https: makes the sessions.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        endpoint: str,
        *,
        options: HttpListenerOptions,
        doorkeeper: Doorkeeper,
        tls: TlsServer | None = None,
    ) -> None:
        self._acceptor = SocketAcceptor(sockets)
        self._endpoint = endpoint
        self._options = options
        self._doorkeeper = doorkeeper
        self._tls = tls

    @property
    def endpoint(self) -> str:
        """The URL that a client may connect to."""
        return self._endpoint

    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        """Not possible: channels come out of requests, connections are served.

        Raises:
            LocalProtocolError: Always. Use `serve_channels` or `serve_listener`.
        """
        await trio.lowlevel.checkpoint()
        raise LocalProtocolError("an HTTP listener is served, not accepted from")

    async def serve(
        self,
        handler: ChannelHandler,
        *,
        http: HttpServing,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        on_event: EventHandler | None = None,
        handler_nursery: trio.Nursery,
        task_status: trio.TaskStatus[AcceptLoop] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until the listener is closed or this is cancelled; see `serve_listener`.

        What is at work then goes on in the nursery: connections end with the request that they
        are at, or of which a byte is here. Those that have only just come are let make their
        first request, if it comes within a second: their clients could not know. In a
        worker (`worker_seat`), whose place another one takes, all are let make one more request
        in that time, which counts from the end of an answer that was under way. After it
        sessions and WebSockets end, too.

        Args:
            handler: Called with each channel, which is closed after it.
            http: What else HTTP needs to know.
            max_connections: How many may be open at a time. For one more an idle one is
                closed, and where none is, it is answered 503.
            on_event: Gets the faults that no caller would see.
            handler_nursery: Where connections and handlers run.
            task_status: Started once connections are accepted.

        Raises:
            OSError: Accepting failed in a way that will not pass.
        """
        routes, seat = None, current_seat()
        if seat is not None:
            from .session_routes import SessionRoutes

            routes = SessionRoutes(seat.directory, seat.number, self._endpoint, on_event)
        service = HttpService(
            self._options.server,
            handler,
            http=http,
            doorkeeper=self._doorkeeper,
            channel_options=self._options.channel,
            websocket=self._options.websocket,
            routes=routes,
            on_event=on_event,
        )
        loop = _HttpAcceptLoop(
            self._acceptor,
            self._endpoint,
            service,
            self._options,
            self._tls,
            max_connections,
            on_event,
            last_used=0.0 if seat is None else _LAST_REQUEST_SECONDS,
        )
        async with self:
            await handler_nursery.start(service.run)
            try:
                task_status.started(loop)
                failure = await loop.run(service.nursery)
            finally:
                if loop.drain():
                    handler_nursery.start_soon(_end_sessions_later, service, loop)
                else:
                    service.end_sessions()
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        """Stop listening, then checkpoint. Idempotent."""
        self._acceptor.close()
        await trio.lowlevel.checkpoint()


async def _end_sessions_later(service: HttpService, loop: _HttpAcceptLoop) -> None:
    """End the sessions once connections that were spared have had their last request."""
    try:
        with trio.move_on_after(_LAST_REQUEST_SECONDS):
            await loop.spared_ended.wait()
    finally:
        loop.end_handshakes()
        service.end_sessions()


class _HttpAcceptLoop(AcceptLoop):
    """Accepts sockets and runs a connection on each.

    Attributes:
        connections: Those that are open, the oldest first.
        spared_ended: Set once all have ended that `drain` has spared.
    """

    def __init__(
        self,
        acceptor: SocketAcceptor,
        endpoint: str,
        service: HttpService,
        options: HttpListenerOptions,
        tls: TlsServer | None,
        max_connections: int,
        on_event: EventHandler | None,
        *,
        last_used: float,
    ) -> None:
        super().__init__(endpoint, max_connections + _TURNED_AWAY, on_event)
        self.connections: dict[HttpConnection, None] = {}
        self.spared_ended = trio.Event()
        self._spared: set[HttpConnection | TlsStream] = set()
        self._shaking: set[TlsStream] = set()
        self._acceptor = acceptor
        self._service = service
        self._options = options
        self._tls = tls
        self._max_connections = max_connections
        self._last_used = last_used

    async def accept_one(self, nursery: trio.Nursery) -> Exception | None:
        """Accept a socket and start its connection; see `AcceptLoop.accept_one`."""
        try:
            sock = await self._acceptor.accept()
        except (OSError, trio.ClosedResourceError) as error:
            self._places.release()
            return error
        except BaseException:
            self._places.release()
            raise
        try:
            facts = ConnectionFacts(
                local_address=host_and_port(sock.getsockname()),
                peer_address=host_and_port(sock.getpeername()),
                scheme="http" if self._tls is None else "https",
            )
            set_options(sock, self._options.tcp)
            turned_away = not self._make_room()
            if self._tls is None:
                connection = self._make_connection(SocketStream(sock), facts, turned_away)
                start = partial(self._run, connection)
            else:
                stream = TlsStream(SocketStream(sock), self._tls.begin())
                self._shaking.add(stream)
                start = partial(self._run_after_handshake, stream, facts, turned_away)
            # Trio would put a name together for each task.
            nursery.start_soon(start, name="trio_mcp_transport http connection")
        except OSError as error:
            self._places.release()
            sock.close()
            return ConnectFailed(f"the connection failed as it came: {error}")
        except BaseException:
            self._places.release()
            sock.close()
            raise
        return None

    def _make_connection(
        self, stream: trio.abc.Stream, facts: ConnectionFacts, turned_away: bool
    ) -> HttpConnection:
        connection = HttpConnection(
            stream,
            facts,
            service=self._service,
            deadlines=self._service.deadlines,
            options=self._options.connection,
            on_event=self._on_event,
            turned_away=turned_away,
        )
        self.connections[connection] = None
        return connection

    def _make_room(self) -> bool:
        """Whether one more connection may be served, maybe in place of an idle one."""
        if len(self.connections) + len(self._shaking) < self._max_connections:
            return True
        for connection in self.connections:
            if connection.is_idle or connection.has_ended:
                connection.close()
                del self.connections[connection]
                return True
        return False

    async def _run(self, connection: HttpConnection) -> None:
        try:
            await connection.run()
        finally:
            self.connections.pop(connection, None)
            self._no_more(connection)
            self._places.release()

    async def _run_after_handshake(
        self, stream: TlsStream, facts: ConnectionFacts, turned_away: bool
    ) -> None:
        try:
            try:
                tls_facts = await stream.do_handshake()
            finally:
                self._shaking.discard(stream)
            facts = msgspec.structs.replace(facts, tls=tls_facts)
            connection = self._make_connection(stream, facts, turned_away)
            if stream in self._spared:
                self._drain(connection)
        except Exception as error:
            stream.close()
            self._no_more(stream)
            self._places.release()
            if not isinstance(error, trio.ClosedResourceError):  # `end_handshakes`
                peer = facts.peer_address
                self._report_handshake(
                    join_host_port(*peer) if isinstance(peer, tuple) else peer, error
                )
        except BaseException:
            stream.close()
            self._no_more(stream)
            self._places.release()
            raise
        else:
            self._no_more(stream)
            await self._run(connection)

    def _no_more(self, spared: HttpConnection | TlsStream) -> None:
        if spared in self._spared:
            self._spared.discard(spared)
            if not self._spared:
                self.spared_ended.set()

    def drain(self) -> bool:
        """Let the connections end with what they are at.

        Returns:
            Whether some are spared, as a request may be under way.
        """
        self._spared.update(self._shaking)
        for connection in list(self.connections):
            self._drain(connection)
        return bool(self._spared)

    def _drain(self, connection: HttpConnection) -> None:
        if connection.drain(fresh=_LAST_REQUEST_SECONDS, used=self._last_used):
            self._spared.add(connection)

    def end_handshakes(self) -> None:
        """Close those that have not done theirs."""
        for stream in list(self._shaking):
            stream.close()
