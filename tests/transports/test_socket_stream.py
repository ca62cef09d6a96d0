"""The stream over a socket: Trio's own contract, and what ours adds to it."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
import trio
import trio.testing

from trio_mcp_transport.limits import READ_CHUNK_BYTES
from trio_mcp_transport.transports.socket_stream import (
    SocketStream,
    connect_failed,
    take_socket,
)


def unix_pair() -> tuple[SocketStream, SocketStream]:
    left, right = socket.socketpair()
    return SocketStream(left), SocketStream(right)


def tcp_pair() -> tuple[SocketStream, SocketStream]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        served, _ = server.accept()
    return SocketStream(client), SocketStream(served)


def fill(stream: SocketStream) -> int:
    """Write until it would block; return how much went in."""
    total = 0
    while written := stream.send_nowait(b"x" * 65536):
        total += written
    return total


def reset(stream: SocketStream) -> None:
    """Close so that the peer gets a reset, not an end."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


async def test_it_keeps_the_contract_of_a_half_closeable_stream_over_a_unix_pair() -> None:
    async def make() -> tuple[SocketStream, SocketStream]:
        await trio.lowlevel.checkpoint()
        return unix_pair()

    async def make_clogged() -> tuple[SocketStream, SocketStream]:
        left, right = await make()
        for stream in (left, right):
            fill(stream)
        return left, right

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_it_keeps_the_contract_of_a_half_closeable_stream_over_tcp() -> None:
    async def make() -> tuple[SocketStream, SocketStream]:
        await trio.lowlevel.checkpoint()
        return tcp_pair()

    # No clogged pair: how much TCP takes changes by itself, as windows grow.
    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, None)


async def test_it_leaves_the_sockets_options_alone() -> None:
    left, right = tcp_pair()
    async with left, right:
        assert left.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0


async def test_sending_without_waiting_writes_what_fits_and_then_nothing() -> None:
    left, right = unix_pair()
    async with left, right:
        total = fill(left)
        assert total > 0
        assert left.send_nowait(b"y") == 0
        received = bytearray()
        while len(received) < total:
            received += await right.receive_some()
        assert received == b"x" * total
        assert left.send_nowait(b"y") == 1
        assert left.send_nowait(b"") == 0


async def test_sending_without_waiting_takes_a_memoryview() -> None:
    left, right = unix_pair()
    async with left, right:
        assert left.send_nowait(memoryview(b"hello")[1:]) == 4
        assert await right.receive_some() == b"ello"


async def test_receiving_without_waiting_takes_what_is_there() -> None:
    left, right = unix_pair()
    async with left, right:
        with trio.testing.assert_no_checkpoints():
            assert right.receive_nowait() is None
            assert left.send_nowait(b"abc") == 3
            assert right.receive_nowait(2) == b"ab"
            assert right.receive_nowait() == b"c"
            assert right.receive_nowait() is None
        left.close()
        assert right.receive_nowait() == b""
        assert right.receive_nowait() == b""
        right.close()
        with pytest.raises(trio.ClosedResourceError):
            right.receive_nowait()


async def test_receiving_without_waiting_tells_of_a_reset() -> None:
    left, right = tcp_pair()
    async with left, right:
        reset(left)
        with pytest.raises(trio.BrokenResourceError):
            right.receive_nowait()


async def test_one_read_is_at_most_64_kib_by_default() -> None:
    left, right = unix_pair()
    async with left, right:
        fill(left)
        assert len(await right.receive_some()) <= READ_CHUNK_BYTES
        assert len(await right.receive_some(3)) == 3
        with pytest.raises(ValueError, match="max_bytes"):
            await right.receive_some(0)


async def test_a_cancelled_receive_has_read_nothing() -> None:
    left, right = unix_pair()
    async with left, right:
        left.send_nowait(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await right.receive_some()
        assert scope.cancelled_caught
        assert await right.receive_some() == b"kept"


@pytest.mark.parametrize("data", [b"here", b""])
async def test_receiving_what_is_there_is_a_checkpoint(data: bytes) -> None:
    left, right = unix_pair()
    async with left, right:
        if data:
            left.send_nowait(data)
        else:
            await left.send_eof()
        with trio.testing.assert_checkpoints():
            assert await right.receive_some() == data


async def test_sending_what_fits_is_a_checkpoint() -> None:
    left, right = unix_pair()
    async with left, right:
        for data in (b"here", b""):
            with trio.testing.assert_checkpoints():
                await left.send_all(data)


async def test_a_second_sender_is_refused_while_one_waits() -> None:
    left, right = unix_pair()
    async with left, right, trio.open_nursery() as nursery:
        fill(left)
        nursery.start_soon(left.send_all, b"waits")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            left.send_nowait(b"no")
        with pytest.raises(trio.BusyResourceError):
            await left.send_all(b"no")
        with pytest.raises(trio.BusyResourceError):
            await left.send_eof()
        nursery.cancel_scope.cancel()


async def test_a_second_receiver_is_refused_while_one_waits() -> None:
    left, right = unix_pair()
    async with left, right, trio.open_nursery() as nursery:
        nursery.start_soon(left.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await left.receive_some()
        nursery.cancel_scope.cancel()


async def test_closing_at_once_wakes_whoever_waits() -> None:
    left, right = unix_pair()

    async def expect_closed(wait: object) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await wait()  # type: ignore[operator]

    async def send_much() -> None:
        await left.send_all(b"x" * 10_000_000)

    with trio.fail_after(10):
        async with right, trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, left.receive_some)
            nursery.start_soon(expect_closed, send_much)
            await trio.testing.wait_all_tasks_blocked()
            left.close()
            left.close()  # idempotent


async def test_a_closed_stream_says_so_everywhere() -> None:
    left, right = unix_pair()
    async with right:
        await left.aclose()
        for call in (left.receive_some, left.send_eof, left.wait_send_all_might_not_block):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        with pytest.raises(trio.ClosedResourceError):
            left.send_nowait(b"x")
        await left.aclose()


async def test_after_a_read_that_took_everything_the_next_one_is_as_any_other() -> None:
    left, right = unix_pair()
    with trio.fail_after(10):
        async with left:
            async with right:
                right.send_nowait(b"first")
                assert await left.receive_some() == b"first"
                right.send_nowait(b"second")
                with trio.testing.assert_checkpoints():
                    assert await left.receive_some() == b"second"
                right.send_nowait(b"third")
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await left.receive_some()
                assert scope.cancelled_caught
                assert await left.receive_some() == b"third"
            assert await left.receive_some() == b""
            assert await left.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some()


async def test_nothing_is_sent_after_eof() -> None:
    left, right = unix_pair()
    async with left, right:
        await left.send_eof()
        await left.send_eof()
        with pytest.raises(trio.ClosedResourceError, match="EOF"):
            left.send_nowait(b"x")
        assert await right.receive_some() == b""
        await right.send_all(b"still")
        assert await left.receive_some() == b"still"


async def test_a_reset_by_the_peer_breaks_receiving_with_its_cause() -> None:
    left, right = tcp_pair()
    async with left:
        reset(right)
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError) as caught:
            await left.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_a_reset_while_receiving_waits_breaks_it() -> None:
    left, right = tcp_pair()
    with trio.fail_after(10):
        async with left, trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await left.receive_some()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            reset(right)


async def test_a_peer_that_is_gone_breaks_sending() -> None:
    left, right = unix_pair()
    async with left:
        right.close()
        with pytest.raises(trio.BrokenResourceError) as caught:
            left.send_nowait(b"x")
        assert isinstance(caught.value.__cause__, BrokenPipeError)
        with pytest.raises(trio.BrokenResourceError):
            await left.send_all(b"x")


async def test_a_half_close_after_a_reset_says_that_the_connection_failed() -> None:
    left, right = tcp_pair()
    async with left:
        reset(right)
        with pytest.raises(trio.BrokenResourceError):
            await left.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await left.send_eof()


def test_only_stream_sockets_are_taken() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(ValueError, match="SOCK_STREAM"),
    ):
        SocketStream(datagrams)


async def test_a_socket_taken_from_trio_is_the_same_connection() -> None:
    left, right = trio.socket.socketpair()
    with right:
        number = left.fileno()
        async with SocketStream(take_socket(left)) as stream:
            assert left.fileno() == -1
            assert stream.socket.fileno() == number
            assert stream.socket.family == socket.AF_UNIX
            await stream.send_all(b"hello")
            assert await right.recv(10) == b"hello"


def test_a_failed_connect_names_each_reason_once_and_keeps_the_number() -> None:
    refused = [ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))] * 2
    unreachable = OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
    error = OSError("all attempts failed")
    error.__cause__ = ExceptionGroup("", [*refused, unreachable])
    failed = connect_failed("cannot connect to tcp://x:1", error)
    assert str(failed) == (
        "cannot connect to tcp://x:1: Connection refused; Network is unreachable"
    )
    assert failed.errno == errno.ECONNREFUSED
