"""The stream that HTTP or WebSocket is spoken over: TCP, maybe a tunnel, maybe TLS.

Used by `http_pool` and by the WebSocket client. In this order: a connection to the host or
its proxy, CONNECT, the TLS handshake. Decides nothing; what went wrong first is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import msgspec

from ..abc import EventHandler
from ..endpoints import TcpEndpoint, join_host_port
from ..security.tls_contexts import TlsClient, TlsServer
from ..web_endpoints import WebEndpoint
from .http_proxy import HttpProxy, open_tunnel
from .http_round_trip import HttpStream
from .socket_stream import SocketStream
from .tcp import open_socket, set_options
from .tls import shake_hands
from .tls_stream import TlsStream

if TYPE_CHECKING:
    import trio

    from ..tls_settings import TlsSettings

__all__ = [
    "HTTP_ALPN",
    "OpenStream",
    "Tell",
    "make_tls_client",
    "make_tls_server",
    "open_tcp_stream",
    "open_web_stream",
]

#: What is offered and accepted where nothing else is said (RFC 7301, section 6).
HTTP_ALPN = "http/1.1"

#: Connects to a host and port.
OpenStream: TypeAlias = Callable[[str, int], Awaitable[HttpStream]]
#: Is told a stage and what came of it, by whoever looks for a fault.
Tell: TypeAlias = Callable[[str, str], None]


async def open_web_stream(
    host: str,
    port: int,
    *,
    tls: TlsClient | None = None,
    proxy: HttpProxy | None = None,
    open_stream: OpenStream | None = None,
    on_event: EventHandler | None = None,
    tell: Tell | None = None,
) -> HttpStream:
    """Connect to a server; if cancelled, nothing is left behind.

    Args:
        host: Name or address, IPv6 without brackets.
        port: Its port.
        tls: Speak TLS, with this; None for plain text.
        proxy: Go through this.
        open_stream: Connects to a host and port; by default `open_tcp_stream`. For TLS its
            streams must be those of Trio (`trio.abc.Stream`).
        on_event: Told of faults that no caller sees.
        tell: Told ``tunnelled`` and ``secured``, as these succeed.

    Returns:
        A `SocketStream` or `TlsStream`, unless `open_stream` makes something else.

    Raises:
        ConnectFailed: There is no connection, or no tunnel.
        TlsError: There is no agreement on TLS, or the server's certificate is refused.
    """
    next_hop = (host, port) if proxy is None else (proxy.host, proxy.port)
    if open_stream is None:
        stream: HttpStream = await open_tcp_stream(*next_hop, on_event)
    else:
        stream = await open_stream(*next_hop)
    try:
        if proxy is not None:
            await open_tunnel(stream, proxy, host, port)
            if tell is not None:
                tell("tunnelled", f"{join_host_port(*next_hop)} to {join_host_port(host, port)}")
        if tls is None:
            return stream
        # One of Trio's has all that an `HttpStream` has, and more.
        secured = TlsStream(cast("trio.abc.Stream", stream), tls.begin(host, port))
    except BaseException:
        stream.close()
        raise
    facts = await shake_hands(secured, join_host_port(host, port))
    if tell is not None:
        certificate = facts.peer_certificate
        whose = "" if certificate is None else f", certificate {certificate.sha256}"
        how = "resumed" if facts.resumed else "new"
        tell("secured", f"{join_host_port(host, port)}: {facts.version} ({how}){whose}")
    return secured


async def open_tcp_stream(
    host: str, port: int, on_event: EventHandler | None = None
) -> SocketStream:
    """Connect to the first address of a host that answers, with a socket as HTTP wants it.

    Raises:
        ConnectFailed: The name cannot be looked up, or no address accepts.
        OSError: The server closed at once.
    """
    endpoint = TcpEndpoint(host=host, port=port)
    sock = await open_socket(endpoint, join_host_port(host, port), on_event)
    try:
        set_options(sock, endpoint)
    except OSError:  # it is gone already
        sock.close()
        raise
    return SocketStream(sock)


def make_tls_client(endpoint: WebEndpoint, on_event: EventHandler | None) -> TlsClient | None:
    """The client side of an endpoint's TLS; None where it has none.

    Raises:
        ConfigurationError: An option is for listening, or a file cannot be used.
        FeatureUnavailable: The extra ``tls`` is not installed.
    """
    if not endpoint.uses_tls:
        return None
    return TlsClient(_with_alpn(endpoint.tls), on_event=on_event)


def make_tls_server(endpoint: WebEndpoint, on_event: EventHandler | None) -> TlsServer | None:
    """The server side of an endpoint's TLS; None where it has none.

    Raises:
        ConfigurationError: An option is for connecting, or a file cannot be used.
        FeatureUnavailable: The extra ``tls`` is not installed.
    """
    if not endpoint.uses_tls:
        return None
    return TlsServer(_with_alpn(endpoint.tls), on_event=on_event)


def _with_alpn(settings: TlsSettings) -> TlsSettings:
    return settings if settings.alpn else msgspec.structs.replace(settings, alpn=(HTTP_ALPN,))
