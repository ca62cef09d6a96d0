"""The listener over real sockets: fair, cancel-safe, and it survives want of descriptors."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from trio_mcp_transport.abc import (
    ChannelContext,
    ChannelEvent,
    MessageChannel,
)
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.jsonrpc import Notification
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.transports.accept import (
    StreamListener,
    options_for_client,
    serve_listener,
)
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.stream_channel import StreamChannel

HELLO = Notification("hello")


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        await channel.send(message)


def make_channel(sock: socket.socket, nursery: trio.Nursery) -> MessageChannel:
    return StreamChannel(
        SocketStream(sock), nursery=nursery, context=ChannelContext(transport="test")
    )


def listen(count: int = 1) -> StreamListener:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    return StreamListener(sockets, "tcp://127.0.0.1:0", make_channel)


def dial(listener: StreamListener, index: int = 0) -> socket.socket:
    return socket.create_connection(listener.sockets[index].getsockname())


@contextmanager
def no_more_descriptors() -> Generator[None, None, None]:
    """Let this process open no descriptor beyond those it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.dup(2))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in fillers:
            os.close(number)


@pytest.mark.parametrize("count", [1, 3])
async def test_every_socket_is_accepted_from(count: int) -> None:
    with trio.fail_after(10):
        async with listen(count) as listener, trio.open_nursery() as nursery:
            for index in range(count):
                with dial(listener, index) as client:
                    channel = await listener.accept(nursery)
                    assert isinstance(channel, StreamChannel)
                    assert isinstance(channel.stream, SocketStream)
                    assert channel.stream.socket.getpeername() == client.getsockname()
                    await channel.aclose()


@pytest.mark.parametrize("count", [1, 3])
async def test_accepting_waits_for_a_connection(count: int) -> None:
    accepted: list[MessageChannel] = []
    with trio.fail_after(10):
        async with listen(count) as listener, trio.open_nursery() as nursery:

            async def accept() -> None:
                accepted.append(await listener.accept(nursery))

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            with dial(listener, count - 1):
                while not accepted:  # noqa: ASYNC110
                    await trio.lowlevel.checkpoint()
            await accepted[0].aclose()


async def test_a_busy_socket_does_not_starve_the_others() -> None:
    with trio.fail_after(10):
        async with listen(2) as listener, trio.open_nursery() as nursery:
            busy, quiet = [sock.getsockname() for sock in listener.sockets]
            clients = [socket.create_connection(busy) for _ in range(4)]
            clients.append(socket.create_connection(quiet))
            order = []
            for _ in clients:
                channel = await listener.accept(nursery)
                assert isinstance(channel, StreamChannel)
                assert isinstance(channel.stream, SocketStream)
                order.append(channel.stream.socket.getsockname())
                await channel.aclose()
            assert quiet in order[:2]
            for client in clients:
                client.close()


@pytest.mark.parametrize("count", [1, 3])
async def test_a_cancelled_accept_loses_no_connection(count: int) -> None:
    with trio.fail_after(10):
        async with listen(count) as listener, trio.open_nursery() as nursery:
            with dial(listener):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await listener.accept(nursery)
                assert scope.cancelled_caught
                channel = await listener.accept(nursery)
                await channel.aclose()


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_wakes_whoever_accepts(count: int) -> None:
    with trio.fail_after(10):
        async with listen(count) as listener, trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await listener.accept(nursery)

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
            await listener.aclose()


async def test_accepting_is_a_checkpoint_and_one_task_at_a_time() -> None:
    with trio.fail_after(10):
        async with listen() as listener, trio.open_nursery() as nursery:
            with dial(listener), trio.testing.assert_checkpoints():
                channel = await listener.accept(nursery)
            await channel.aclose()
            nursery.start_soon(listener.accept, nursery)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await listener.accept(nursery)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOTCONN, "gone"), ConnectFailed),
        (ConnectFailed("refused"), ConnectFailed),
        (ValueError("a bug"), ValueError),
    ],
)
async def test_a_socket_of_which_no_channel_could_be_made_is_closed(
    error: Exception, expected: type[Exception]
) -> None:
    def fail(sock: socket.socket, nursery: trio.Nursery) -> MessageChannel:
        raise error

    sockets = [socket.create_server(("127.0.0.1", 0))]
    with trio.fail_after(10):
        async with (
            StreamListener(sockets, "tcp://127.0.0.1:0", fail) as listener,
            trio.open_nursery() as nursery,
        ):
            with dial(listener) as client:
                with pytest.raises(expected):
                    await listener.accept(nursery)
                assert client.recv(1) == b""


async def test_what_is_done_on_close_is_done_once_and_before_the_sockets_close() -> None:
    alive: list[bool] = []
    sockets = [socket.create_server(("127.0.0.1", 0))]
    listener = StreamListener(
        sockets, "x", make_channel, lambda: alive.append(sockets[0].fileno() != -1)
    )
    await listener.aclose()
    await listener.aclose()
    assert alive == [True]
    assert sockets[0].fileno() == -1


async def test_serving_survives_that_there_are_no_descriptors_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    events: list[ChannelEvent] = []
    listener = listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, echo)
        with dial(listener) as client:
            with no_more_descriptors():
                await trio.sleep(1)
                assert [event.name for event in events] == ["accept.failed"]
                assert isinstance(events[0].error, OSError)
                assert events[0].error.errno == errno.EMFILE
            # There is room again: the client that waited is served.
            client.sendall(b'{"jsonrpc":"2.0","method":"hello"}\n')
            await trio.to_thread.run_sync(expect, client, b'{"jsonrpc":"2.0","method":"hello"}\n')
        nursery.cancel_scope.cancel()
    assert [event.name for event in events] == ["accept.failed"]


def expect(client: socket.socket, data: bytes) -> None:
    client.settimeout(10)
    received = b""
    while len(received) < len(data):
        received += client.recv(100)
    assert received == data


@pytest.mark.parametrize(
    ("framing", "told"),
    [
        ("newline", "newline"),
        ("detect", "newline"),
        ("length-prefix", "length-prefix"),
    ],
)
def test_clients_are_told_the_framing_that_they_must_use(framing: str, told: str) -> None:
    options = ChannelOptions(framing=framing, max_message_bytes=10)  # type: ignore[arg-type]
    assert options_for_client(options) == ChannelOptions(framing=told)  # type: ignore[arg-type]
