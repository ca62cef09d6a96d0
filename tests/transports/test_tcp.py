"""TCP through real sockets on the loopback: options, names, and peers that vanish."""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial

import pytest
import trio
from cancelling import cancel_at_each_checkpoint

from trio_mcp_transport.abc import (
    ChannelEvent,
    ChannelState,
    ConnectionLost,
    MessageChannel,
)
from trio_mcp_transport.endpoints import TcpEndpoint
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.jsonrpc import Notification, Request
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.transports.accept import StreamListener, serve_listener
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.stream_channel import StreamChannel
from trio_mcp_transport.transports.tcp import connect, listen

HELLO = Notification("hello")
LOOPBACK = TcpEndpoint(host="127.0.0.1", port=0)


def has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


def raw_socket(channel: MessageChannel) -> socket.socket:
    assert isinstance(channel, StreamChannel)
    assert isinstance(channel.stream, SocketStream)
    return channel.stream.socket


def target_of(listener: StreamListener, **options: object) -> TcpEndpoint:
    host, port = listener.sockets[0].getsockname()[:2]
    return TcpEndpoint(host=host, port=port, **options)  # type: ignore[arg-type]


async def open_listener(endpoint: TcpEndpoint = LOOPBACK) -> StreamListener:
    listener = await listen(endpoint, None)
    assert isinstance(listener, StreamListener)
    return listener


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        await channel.send(message)


def fake_lookup(
    monkeypatch: pytest.MonkeyPatch, *addresses: tuple[socket.AddressFamily, str]
) -> None:
    """Give the host names of this test the addresses; the port stays the one asked for."""

    async def getaddrinfo(
        host: str, port: int, *args: object, **kwargs: object
    ) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]]:
        await trio.lowlevel.checkpoint()
        return [
            (
                family,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port) if family == socket.AF_INET else (address, port, 0, 0),
            )
            for family, address in addresses
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("trio._highlevel_open_tcp_stream.getaddrinfo", getaddrinfo)


async def test_messages_go_both_ways() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener() as listener:
            client = await connect(nursery, target_of(listener), None)
            server = await listener.accept(nursery)
            await client.send(Request(1, "work"))
            assert await server.receive() == Request(1, "work")
            await server.send(HELLO)
            assert await client.receive() == HELLO
            assert client.session_id.startswith("tcp-")
            await client.aclose()
            with pytest.raises(trio.EndOfChannel):
                await server.receive()
            await server.aclose()


async def test_both_ends_know_their_addresses() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener() as listener:
            client = await connect(nursery, target_of(listener), None)
            server = await listener.accept(nursery)
            port = target_of(listener).port
            assert client.context.transport == server.context.transport == "tcp"
            assert client.context.peer_address == f"127.0.0.1:{port}"
            assert server.context.local_address == f"127.0.0.1:{port}"
            assert client.context.local_address == server.context.peer_address
            assert client.context.principal is None
            client.abort()
            server.abort()


async def test_the_bound_address_is_told_with_its_real_port() -> None:
    async with await open_listener() as listener:
        port = listener.sockets[0].getsockname()[1]
        assert port != 0
        assert listener.endpoint == f"tcp://127.0.0.1:{port}"


async def test_the_bound_address_tells_the_framing_that_clients_must_use() -> None:
    options = ChannelOptions(framing="length-prefix", max_message_bytes=100)
    async with await open_listener(
        TcpEndpoint(host="127.0.0.1", port=0, options=options, nodelay=False)
    ) as listener:
        assert listener.endpoint.endswith("?framing=length-prefix")


@needs_ipv6
async def test_an_ipv6_address_is_written_in_brackets() -> None:
    with trio.fail_after(10):
        async with (
            trio.open_nursery() as nursery,
            await open_listener(TcpEndpoint(host="::1", port=0)) as listener,
        ):
            port = target_of(listener).port
            assert listener.endpoint == f"tcp://[::1]:{port}"
            client = await connect(nursery, target_of(listener), None)
            assert client.context.peer_address == f"[::1]:{port}"
            client.abort()


@needs_ipv6
async def test_the_ipv6_wildcard_leaves_ipv4_alone() -> None:
    async with await open_listener(TcpEndpoint(host="::", port=0)) as listener:
        [sock] = listener.sockets
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


@needs_ipv6
async def test_a_name_is_listened_on_at_all_its_addresses_with_one_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_lookup(
        monkeypatch,
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET, "127.0.0.1"),  # twice, as some hosts files have it
    )
    with trio.fail_after(10):
        async with (
            trio.open_nursery() as nursery,
            await open_listener(TcpEndpoint(host="both.test", port=0)) as listener,
        ):
            families = [sock.family for sock in listener.sockets]
            [port] = {sock.getsockname()[1] for sock in listener.sockets}
            assert families == [socket.AF_INET, socket.AF_INET6]
            assert listener.endpoint == f"tcp://both.test:{port}"
            for address in ("127.0.0.1", "::1"):
                with socket.create_connection((address, port)):
                    (await listener.accept(nursery)).abort()


@needs_ipv6
async def test_a_port_that_is_free_on_one_address_only_is_given_up_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_lookup(monkeypatch, (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
    taken: list[socket.socket] = []
    real_bind = socket.socket.bind

    class Sockets(socket.socket):
        def bind(self, address: tuple[object, ...]) -> None:  # type: ignore[override]
            if self.family == socket.AF_INET6 and not taken:
                blocker = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
                real_bind(blocker, ("::1", address[1]))
                blocker.listen()
                taken.append(blocker)
            super().bind(address)

    monkeypatch.setattr("trio_mcp_transport.transports.tcp.socket.socket", Sockets)
    async with await open_listener(TcpEndpoint(host="both.test", port=0)) as listener:
        [port] = {sock.getsockname()[1] for sock in listener.sockets}
        assert port != taken[0].getsockname()[1]
    taken[0].close()


@needs_ipv6
async def test_a_client_tries_the_next_address_where_one_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener() as listener:
            fake_lookup(monkeypatch, (socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
            port = target_of(listener).port
            client = await connect(nursery, TcpEndpoint(host="both.test", port=port), None)
            assert client.context.peer_address == f"127.0.0.1:{port}"
            client.abort()


async def test_a_socket_whose_family_the_kernel_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_lookup(monkeypatch, (socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
    real = socket.socket

    def make(family: socket.AddressFamily, *args: object, **kwargs: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("trio_mcp_transport.transports.tcp.socket.socket", make)
        listener = await open_listener(TcpEndpoint(host="both.test", port=0))
    assert [sock.family for sock in listener.sockets] == [socket.AF_INET]
    await listener.aclose()

    fake_lookup(monkeypatch, (socket.AF_INET6, "::1"))
    with monkeypatch.context() as patch:
        patch.setattr("trio_mcp_transport.transports.tcp.socket.socket", make)
        with pytest.raises(ConnectFailed, match="not supported"):
            await listen(TcpEndpoint(host="six.test", port=0), None)


# -- options ------------------------------------------------------------------------

READERS: dict[str, Callable[[socket.socket], int]] = {
    "nodelay": lambda sock: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "keep_alive": lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": lambda sock: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": lambda sock: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "probes": lambda sock: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "send_buffer": lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
    "receive_buffer": lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
}


@pytest.mark.skipif(sys.platform != "linux", reason="names and doubling as on Linux")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"nodelay": 1, "keep_alive": 1, "idle": 60, "interval": 15, "probes": 4}),
        ({"nodelay": True}, {"nodelay": 1}),
        ({"nodelay": False}, {"nodelay": 0}),
        ({"keep_alive": math.inf}, {"keep_alive": 0}),
        ({"keep_alive": 7.6}, {"keep_alive": 1, "idle": 8, "interval": 2}),
        ({"keep_alive": 0.2}, {"keep_alive": 1, "idle": 1, "interval": 1}),
        ({"keep_alive": 1e9}, {"keep_alive": 1, "idle": 32767, "interval": 8192}),
        ({"buffer_size": 40_000}, {"send_buffer": 80_000, "receive_buffer": 80_000}),
    ],
    ids=str,
)
async def test_each_option_can_be_read_back_from_the_sockets_of_both_ends(
    options: dict[str, object], expected: dict[str, int]
) -> None:
    served = TcpEndpoint(host="127.0.0.1", port=0, **options)  # type: ignore[arg-type]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(served) as listener:
            client = await connect(nursery, target_of(listener, **options), None)
            server = await listener.accept(nursery)
            for channel in (client, server):
                sock = raw_socket(channel)
                assert {name: READERS[name](sock) for name in expected} == expected
                channel.abort()


async def test_the_listening_socket_may_take_its_port_again_at_once() -> None:
    async with await open_listener() as listener:
        [sock] = listener.sockets
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1


async def test_the_options_of_the_channel_are_the_endpoints() -> None:
    options = ChannelOptions(framing="length-prefix")
    served = TcpEndpoint(host="127.0.0.1", port=0, options=options)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(served) as listener:
            client = await connect(nursery, target_of(listener, options=options), None)
            server = await listener.accept(nursery)
            assert client.options is options
            assert server.options == options
            await client.send(HELLO)
            assert await server.receive() == HELLO
            client.abort()
            server.abort()


# -- what goes wrong ----------------------------------------------------------------


async def test_a_refused_connect_names_the_address_and_the_reason() -> None:
    async with await open_listener() as listener:
        target = target_of(listener)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10), pytest.raises(ConnectFailed) as caught:
            await connect(nursery, target, None)
    assert str(caught.value) == f"cannot connect to {target}: Connection refused"
    assert caught.value.errno == errno.ECONNREFUSED
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_failed_name_lookup_is_a_failed_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*args: object, **kwargs: object) -> list[object]:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("trio._highlevel_open_tcp_stream.getaddrinfo", getaddrinfo)
    endpoint = TcpEndpoint(host="nowhere.invalid", port=1)
    for call in (listen(endpoint, None), connect_alone(endpoint)):
        with pytest.raises(ConnectFailed, match=r"tcp://nowhere\.invalid:1: Name or service"):
            await call


async def connect_alone(endpoint: TcpEndpoint) -> MessageChannel:
    nursery: trio.Nursery
    async with trio.open_nursery() as nursery:
        try:
            return await connect(nursery, endpoint, None)  # noqa: ASYNC121
        except ConnectFailed as error:
            failed = error
    raise failed


async def test_a_name_that_no_dns_can_have_is_a_failed_connect() -> None:
    endpoint = TcpEndpoint(host="x" * 300 + ".test", port=1)
    for call in (listen(endpoint, None), connect_alone(endpoint)):
        with trio.fail_after(10), pytest.raises(ConnectFailed):
            await call


async def test_a_port_that_is_taken_is_refused() -> None:
    async with await open_listener() as listener:
        target = target_of(listener)
        with pytest.raises(ConnectFailed, match=f"cannot listen on {target}: .*in use") as caught:
            await listen(target, None)
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_connection_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A socket that is bound to a port and connects to it is connected to itself.
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.bind(("127.0.0.1", 0))
    own.connect(own.getsockname())
    endpoint = TcpEndpoint(host="127.0.0.1", port=own.getsockname()[1])

    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        return trio.SocketStream(trio.socket.from_stdlib_socket(own))

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(ConnectFailed, match="Connection refused"):
        await connect_alone(endpoint)


async def test_a_peer_that_resets_is_a_lost_connection_to_whoever_receives() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener() as listener:
            client = await connect(nursery, target_of(listener), None)
            server = await listener.accept(nursery)
            raw_socket(client).setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            client.abort()
            with pytest.raises(ConnectionLost):
                await server.receive()
            assert server.state is ChannelState.FAILED


async def test_a_server_outlives_clients_that_vanish() -> None:
    events: list[ChannelEvent] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listener = await open_listener()
            target = target_of(listener)
            serve = partial(serve_listener, on_event=events.append)
            serving = await nursery.start(serve, listener, echo)
            for _ in range(3):
                with socket.create_connection((target.host, target.port)) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            while serving.accepted + len(events) < 3 or serving.open_connections:  # noqa: ASYNC110
                await trio.lowlevel.checkpoint()
            channel = await connect(nursery, target, None)
            await channel.send(HELLO)
            assert await channel.receive() == HELLO
            await channel.aclose()
            nursery.cancel_scope.cancel()
    assert {event.name for event in events} <= {"connection.lost", "accept.failed"}


# -- cancellation -------------------------------------------------------------------


async def test_a_connect_that_is_cancelled_anywhere_leaves_nothing_behind() -> None:
    descriptors = len(os.listdir("/dev/fd"))
    async with await open_listener() as listener, trio.open_nursery() as nursery:
        target = target_of(listener)

        raised: set[type[BaseException]] = set()

        async def connect_and_close() -> None:
            try:
                channel = await connect(nursery, target, None)
            except BaseException as error:
                raised.add(type(error))
                raise
            channel.abort()

        with trio.fail_after(10):
            assert await cancel_at_each_checkpoint(connect_and_close) > 0
        assert raised == {trio.Cancelled}
        assert len(os.listdir("/dev/fd")) == descriptors + 1


async def test_a_listen_that_is_cancelled_anywhere_leaves_nothing_behind() -> None:
    descriptors = len(os.listdir("/dev/fd"))

    async def listen_and_close() -> None:
        listener = await open_listener()
        with trio.CancelScope(shield=True):
            await listener.aclose()

    with trio.fail_after(10):
        assert await cancel_at_each_checkpoint(listen_and_close) > 0
    assert len(os.listdir("/dev/fd")) == descriptors


async def test_an_accept_that_is_cancelled_anywhere_loses_no_connection() -> None:
    async with await open_listener() as listener, trio.open_nursery() as nursery:
        target = target_of(listener)
        with socket.create_connection((target.host, target.port)):
            accepted: list[MessageChannel] = []

            async def accept() -> None:
                accepted.append(await listener.accept(nursery))

            with trio.fail_after(10):
                assert await cancel_at_each_checkpoint(accept) > 0
            [channel] = accepted
            channel.abort()
