"""Channels over TCP: ``tcp://HOST:PORT``.

Called through `connect` and `listen`. A name is looked up, all its addresses are tried
(RFC 6555, happy eyeballs) or listened on, and every option of the endpoint is set on the
socket itself. No encryption and no authentication: that is for networks that are trusted.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import trio

from ..abc import ChannelContext, EventHandler, MessageChannel, MessageListener
from ..endpoints import TcpEndpoint, join_host_port
from ..reporting import choose_failure
from .accept import StreamListener, options_for_client
from .compressed_stream import check_available, compressed, settings_for_client
from .socket_file import BACKLOG
from .socket_stream import SocketStream, connect_failed, set_buffer_size, take_socket
from .stream_channel import StreamChannel
from .worker_seat import current_seat

__all__ = [
    "SocketAddress",
    "connect",
    "host_and_port",
    "listen",
    "make_context",
    "open_listeners",
    "open_socket",
    "set_options",
]

#: Probes that must stay unanswered, and how much of `keep_alive` they take in all: a peer
#: that vanished is noticed after twice `keep_alive`.
KEEP_ALIVE_PROBES = 4
#: Largest TCP_KEEPIDLE and TCP_KEEPINTVL that Linux takes (MAX_TCP_KEEPIDLE).
_MAX_KEEP_ALIVE_SECONDS = 32767
#: Tries to find one port that is free on every address.
_SAME_PORT_TRIES = 16

SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


async def connect(
    nursery: trio.Nursery, endpoint: TcpEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    """Connect to the first address of the host that answers.

    If cancelled, nothing is left behind.

    Args:
        nursery: Where the channel's writer runs while bytes wait.
        endpoint: Where to connect, and the socket's options.
        on_event: Told of faults that no caller sees.

    Raises:
        ConnectFailed: The name cannot be looked up, or no address accepts.
    """
    where = f"tcp://{join_host_port(endpoint.host, endpoint.port)}"
    sock = await open_socket(endpoint, where, on_event)
    try:
        return _make_channel(sock, nursery, endpoint, on_event, accepted=False)
    except OSError as error:
        sock.close()
        raise connect_failed(f"cannot connect to {where}", error) from error
    except BaseException:
        sock.close()
        raise


async def open_socket(
    endpoint: TcpEndpoint, where: str, on_event: EventHandler | None
) -> socket.socket:
    """A socket that is connected to the first address of the host that answers.

    If cancelled, nothing is left behind.

    Args:
        endpoint: Host and port.
        where: What the error is to name.
        on_event: Told of faults that no caller sees.

    Raises:
        ConnectFailed: The name cannot be looked up, or no address accepts.
        FeatureUnavailable: It asks for a compression that is not installed.
    """
    check_available(endpoint.compression)
    try:
        stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    # A name that no DNS can have is a UnicodeError from the IDNA codec.
    except (OSError, UnicodeError) as error:
        raise connect_failed(f"cannot connect to {where}", error) from error
    except BaseExceptionGroup as group:
        # Addresses are tried side by side: cancelled, each try tells so.
        raise choose_failure(group, on_event) from None
    sock = take_socket(stream.socket)
    try:
        # A port of this machine that nobody listens on, but that the system just chose for
        # this end, connects to itself (RFC 9293, simultaneous open).
        if sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except OSError as error:
        sock.close()
        raise connect_failed(f"cannot connect to {where}", error) from error
    return sock


async def listen(endpoint: TcpEndpoint, on_event: EventHandler | None) -> MessageListener:
    """Listen on every address of the host.

    A name with several addresses gets one socket for each, all with the same port, also
    where the system chooses it. ``::`` means every IPv6 interface and no IPv4 ones
    (RFC 3493, IPV6_V6ONLY), so that no peer appears under a mapped address.

    The listener's `endpoint` has the real address and port; with several addresses, the
    name and the port.

    Args:
        endpoint: Where to listen, and the options of the sockets that are accepted.
        on_event: Given to each channel.

    Raises:
        ConnectFailed: The name cannot be looked up, or an address cannot be bound.
    """
    sockets = await open_listeners(
        endpoint, f"tcp://{join_host_port(endpoint.host, endpoint.port)}"
    )
    host, port = host_and_port(sockets[0].getsockname())
    if len(sockets) > 1:
        host = endpoint.host

    def make_channel(sock: socket.socket, nursery: trio.Nursery) -> MessageChannel:
        return _make_channel(sock, nursery, endpoint, on_event, accepted=True)

    bound = TcpEndpoint(
        host=host,
        port=port,
        compression=settings_for_client(endpoint.compression),
        options=options_for_client(endpoint.options),
    )
    return StreamListener(sockets, str(bound), make_channel)


async def open_listeners(endpoint: TcpEndpoint, where: str) -> list[socket.socket]:
    """A listening socket for each address of the host, all on one port.

    In a worker those that it has inherited (`worker_seat`).

    Args:
        endpoint: Host, port and buffer size.
        where: What the error is to name.

    Raises:
        ConnectFailed: The name cannot be looked up, or an address cannot be bound.
        FeatureUnavailable: It asks for a compression that is not installed.
    """
    check_available(endpoint.compression)
    seat = current_seat()
    if seat is not None and (sockets := seat.take((endpoint.host, endpoint.port))):
        await trio.lowlevel.checkpoint()
        return sockets
    try:
        found = await trio.socket.getaddrinfo(
            endpoint.host,
            endpoint.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        return _bind_all(addresses, endpoint)
    except (OSError, UnicodeError) as error:
        raise connect_failed(f"cannot listen on {where}", error) from error


def _make_channel(
    sock: socket.socket,
    nursery: trio.Nursery,
    endpoint: TcpEndpoint,
    on_event: EventHandler | None,
    *,
    accepted: bool,
) -> StreamChannel:
    """Set the options and wrap the socket; an OSError means that the peer is gone already."""
    context = make_context(sock, endpoint)
    set_options(sock, endpoint)
    return StreamChannel(
        compressed(SocketStream(sock), endpoint.compression, accepted=accepted),
        nursery=nursery,
        context=context,
        options=endpoint.options,
        on_event=on_event,
        accepted=accepted,
        answer_malformed=accepted,
    )


def make_context(sock: socket.socket, endpoint: TcpEndpoint) -> ChannelContext:
    """Where both ends of a connected socket are.

    Raises:
        OSError: The peer is gone already.
    """
    return ChannelContext(
        transport=endpoint.scheme,
        local_address=join_host_port(*host_and_port(sock.getsockname())),
        peer_address=join_host_port(*host_and_port(sock.getpeername())),
    )


def set_options(sock: socket.socket, endpoint: TcpEndpoint) -> None:
    """Set what the endpoint says on a connected socket."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, endpoint.nodelay)
    _set_keep_alive(sock, endpoint.keep_alive)
    set_buffer_size(sock, endpoint.buffer_size)


def _set_keep_alive(sock: socket.socket, seconds: float) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, seconds != math.inf)
    if seconds == math.inf:
        return
    idle = min(max(round(seconds), 1), _MAX_KEEP_ALIVE_SECONDS)
    values = {
        # macOS has another name for it.
        "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE": idle,
        "TCP_KEEPINTVL": max(round(idle / KEEP_ALIVE_PROBES), 1),
        "TCP_KEEPCNT": KEEP_ALIVE_PROBES,
    }
    for name, value in values.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _bind_all(
    addresses: Sequence[tuple[socket.AddressFamily, SocketAddress]], endpoint: TcpEndpoint
) -> list[socket.socket]:
    """Listen on each address; on the same port where the system chooses it."""
    for _ in range(_SAME_PORT_TRIES - 1):
        try:
            return _try_bind_all(addresses, endpoint)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or endpoint.port or len(addresses) == 1:
                raise
    return _try_bind_all(addresses, endpoint)


def _try_bind_all(
    addresses: Sequence[tuple[socket.AddressFamily, SocketAddress]], endpoint: TcpEndpoint
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    unsupported: OSError | None = None
    with ExitStack() as close_on_error:
        for family, (host, port, *rest) in addresses:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                # getaddrinfo lists IPv6 addresses also where the kernel has no IPv6.
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                unsupported = error
                continue
            close_on_error.callback(sock.close)
            if sys.platform != "win32":  # there it would let others take the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Before listen(), as the window that a peer is offered comes from it (tcp(7)).
            set_buffer_size(sock, endpoint.buffer_size)
            if port == 0 and sockets:
                port = sockets[0].getsockname()[1]
            sock.bind((host, port, *rest))
            sock.listen(BACKLOG)
            sockets.append(sock)
        if not sockets:
            raise unsupported or OSError("the name has no address")
        close_on_error.pop_all()
    return sockets


def host_and_port(address: SocketAddress) -> tuple[str, int]:
    """Host and port of a socket address; a link-local one says on which interface it is."""
    host, port, *rest = address
    host = str(host)
    if len(rest) == 2 and rest[1] and "%" not in host:
        host += f"%{socket.if_indextoname(int(rest[1]))}"
    return host, int(port)
