"""Listening for MCP over HTTP: ``http://HOST:PORT/PATH``.

Called through `listen`. A listener owns the sockets, runs an `HttpConnection` for each
connection that it accepts, and one `HttpService` behind all of them. Connections and
channels are different things here: a connection carries many exchanges, and a session's
exchanges come over many connections.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import msgspec
import trio

from ..abc import EventHandler, MessageChannel, MessageListener
from ..endpoints import TcpEndpoint
from ..errors import ConnectFailed, LocalProtocolError
from ..http_endpoints import HttpEndpoint
from ..limits import DEFAULT_MAX_CONNECTIONS, ChannelOptions
from ..sansio.mcp_http.options import HttpServerOptions
from ..security.admission import Doorkeeper
from ..security.facts import ConnectionFacts
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
)
from .socket_stream import SocketStream
from .tcp import host_and_port, open_listeners, set_options
from .websocket_server import WebSocketServing

__all__ = ["HttpListener", "HttpListenerOptions", "listen"]

#: Connections over the cap that are told so, at a time; more wait in the backlog.
_TURNED_AWAY = 32


async def listen(endpoint: HttpEndpoint, on_event: EventHandler | None) -> MessageListener:
    """Listen on every address of the host, as `tcp.listen` does.

    The listener's `endpoint` has the real address and port.

    Args:
        endpoint: Where to listen, and everything else that is plain data.
        on_event: Not used here: `HttpListener.serve` has its own.

    Raises:
        ConfigurationError: An option is for connecting, or cannot be served.
        ConnectFailed: The name cannot be looked up, or an address cannot be bound.
        FeatureUnavailable: It needs what this installation does not have.
    """
    check_listening(endpoint)
    options = HttpListenerOptions(
        server=server_options(endpoint),
        connection=connection_options(endpoint),
        channel=endpoint.options,
        tcp=tcp_options(endpoint),
    )
    doorkeeper = make_doorkeeper(endpoint)
    sockets = await open_listeners(options.tcp, endpoint.label)
    host, port = host_and_port(sockets[0].getsockname())
    if len(sockets) > 1:
        host = endpoint.host
    bound = type(endpoint)(host=host, port=port, path=endpoint.path)
    return HttpListener(sockets, str(bound), options=options, doorkeeper=doorkeeper)


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
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        endpoint: str,
        *,
        options: HttpListenerOptions,
        doorkeeper: Doorkeeper,
    ) -> None:
        self._acceptor = SocketAcceptor(sockets)
        self._endpoint = endpoint
        self._options = options
        self._doorkeeper = doorkeeper

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

        What is at work then goes on in the nursery, and nothing new is begun: connections
        end with the request that they are at.

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
        service = HttpService(
            self._options.server,
            handler,
            http=http,
            doorkeeper=self._doorkeeper,
            channel_options=self._options.channel,
            websocket=self._options.websocket,
            on_event=on_event,
        )
        loop = _HttpAcceptLoop(
            self._acceptor, self._endpoint, service, self._options, max_connections, on_event
        )
        async with self:
            await handler_nursery.start(service.run)
            try:
                task_status.started(loop)
                failure = await loop.run(service.nursery)
            finally:
                service.stop()
                loop.drain()
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        """Stop listening, then checkpoint. Idempotent."""
        self._acceptor.close()
        await trio.lowlevel.checkpoint()


class _HttpAcceptLoop(AcceptLoop):
    """Accepts sockets and runs a connection on each.

    Attributes:
        connections: Those that are open, the oldest first.
    """

    def __init__(
        self,
        acceptor: SocketAcceptor,
        endpoint: str,
        service: HttpService,
        options: HttpListenerOptions,
        max_connections: int,
        on_event: EventHandler | None,
    ) -> None:
        super().__init__(endpoint, max_connections + _TURNED_AWAY, on_event)
        self.connections: dict[HttpConnection, None] = {}
        self._acceptor = acceptor
        self._service = service
        self._options = options
        self._max_connections = max_connections

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
            connection = self._make_connection(sock)
            # Trio would put a name together for each task.
            nursery.start_soon(self._run, connection, name="trio_mcp_transport http connection")
        except OSError as error:
            self._places.release()
            sock.close()
            return ConnectFailed(f"the connection failed as it came: {error}")
        except BaseException:
            self._places.release()
            sock.close()
            raise
        return None

    def _make_connection(self, sock: socket.socket) -> HttpConnection:
        facts = ConnectionFacts(
            local_address=host_and_port(sock.getsockname()),
            peer_address=host_and_port(sock.getpeername()),
        )
        set_options(sock, self._options.tcp)
        connection = HttpConnection(
            SocketStream(sock),
            facts,
            service=self._service,
            deadlines=self._service.deadlines,
            options=self._options.connection,
            on_event=self._on_event,
            turned_away=not self._make_room(),
        )
        self.connections[connection] = None
        return connection

    def _make_room(self) -> bool:
        """Whether one more connection may be served, maybe in place of an idle one."""
        if len(self.connections) < self._max_connections:
            return True
        for connection in self.connections:
            if connection.is_idle:
                connection.close()
                del self.connections[connection]
                return True
        return False

    async def _run(self, connection: HttpConnection) -> None:
        try:
            await connection.run()
        finally:
            self.connections.pop(connection, None)
            self._places.release()

    def drain(self) -> None:
        """Let the connections end with what they are at."""
        for connection in list(self.connections):
            connection.drain()
