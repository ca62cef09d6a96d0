"""MCP over WebSocket as one transport: what `registry` imports for ``ws`` and ``wss``.

A WebSocket begins as an HTTP request, so listening for them is an `HttpListener` that serves
nothing else: the same admission, limits and errors. `websocket_client` connects.
"""

from __future__ import annotations

import trio

from ..abc import EventHandler, MessageChannel, MessageListener
from ..security.tls_contexts import TlsClient, TlsServer
from ..websocket_endpoints import WebSocketEndpoint
from .http_server import HttpListener, HttpListenerOptions
from .http_settings import (
    check_connecting,
    check_listening,
    connection_options,
    make_doorkeeper,
    tcp_options,
)
from .tcp import host_and_port, open_listeners
from .web_stream import make_tls_client, make_tls_server
from .websocket_client import open_websocket
from .websocket_settings import WebSocketServing, websocket_options

__all__ = ["connect", "connect_with_tls", "listen", "listen_with_tls", "listener_options"]


async def connect(
    nursery: trio.Nursery, endpoint: WebSocketEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    """Connect, ask for a WebSocket, and make a channel of it.

    If cancelled, nothing is left behind. The channel holds the nursery open until it is
    closed: a task in there reads.

    Args:
        nursery: Where the channel's tasks run.
        endpoint: Where to connect, and everything else that is plain data.
        on_event: Told of faults that no caller sees.

    Raises:
        ConfigurationError: An option is for listening, or a file cannot be used.
        ConnectFailed: The server cannot be reached, or speaks no WebSocket.
        HttpError: The server answers, and refuses.
        TlsError: There is no agreement, or the server's certificate is refused.
        FeatureUnavailable: It needs what this installation does not have.
    """
    check_connecting(endpoint)
    return await open_websocket(nursery, endpoint, on_event, make_tls_client(endpoint, on_event))


async def connect_with_tls(
    nursery: trio.Nursery,
    endpoint: WebSocketEndpoint,
    on_event: EventHandler | None,
    tls: TlsClient,
) -> MessageChannel:
    """Connect as `connect` does, with a TLS client that the caller keeps."""
    check_connecting(endpoint)
    return await open_websocket(nursery, endpoint, on_event, tls)


async def listen(endpoint: WebSocketEndpoint, on_event: EventHandler | None) -> MessageListener:
    """Listen on every address of the host, as `tcp.listen` does, for WebSockets alone.

    Other requests to the path get 426, to other paths 404. The listener's `endpoint` has the
    real address and port.

    Args:
        endpoint: Where to listen, and everything else that is plain data.
        on_event: Told of faults of own certificates; `HttpListener.serve` has its own.

    Raises:
        ConfigurationError: An option is for connecting, or a file cannot be used.
        ConnectFailed: The name cannot be looked up, or an address cannot be bound.
        FeatureUnavailable: It needs what this installation does not have.
    """
    check_listening(endpoint)
    return await _listen(endpoint, make_tls_server(endpoint, on_event))


async def listen_with_tls(
    endpoint: WebSocketEndpoint, on_event: EventHandler | None, tls: TlsServer
) -> MessageListener:
    """Listen as `listen` does, with a TLS server that the caller keeps."""
    check_listening(endpoint)
    return await _listen(endpoint, tls)


async def _listen(endpoint: WebSocketEndpoint, tls: TlsServer | None) -> MessageListener:
    options = listener_options(endpoint)
    doorkeeper = make_doorkeeper(endpoint)
    sockets = await open_listeners(options.tcp, endpoint.label)
    host, port = host_and_port(sockets[0].getsockname())
    if len(sockets) > 1:
        host = endpoint.host
    bound = type(endpoint)(host=host, port=port, path=endpoint.path)
    return HttpListener(sockets, str(bound), options=options, doorkeeper=doorkeeper, tls=tls)


def listener_options(endpoint: WebSocketEndpoint) -> HttpListenerOptions:
    """An endpoint taken apart: which of its fields are whose options."""
    return HttpListenerOptions(
        connection=connection_options(endpoint),
        channel=endpoint.options,
        tcp=tcp_options(endpoint),
        websocket=WebSocketServing(
            path=endpoint.path,
            only=True,
            options=websocket_options(endpoint),
            retry_after=endpoint.retry_after,
        ),
    )
