"""The stream through shared memory: Trio's contract, peers that die, and peers that lie."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from shared_memory import (
    RING_BYTES,
    Impostor,
    fill,
    needs_linux,
    needs_sealed_memory,
    stream_pair,
    wires,
)

from trio_mcp_transport.abc import PeerProtocolError
from trio_mcp_transport.limits import READ_CHUNK_BYTES
from trio_mcp_transport.sansio.doorbell import END, lane_word, position_word
from trio_mcp_transport.transports.shared_memory_stream import (
    INLINE_BYTES,
    PIECE_BYTES,
    SharedMemoryStream,
)

pytestmark = [pytest.mark.shm, needs_sealed_memory]

#: Bytes that cannot go inline.
BINARY = bytes(range(256))


@pytest.fixture
async def impostor() -> AsyncIterator[Impostor]:
    await trio.lowlevel.checkpoint()
    found = Impostor()
    yield found
    found.close()
    found.stream.close()


async def read_exactly(stream: SharedMemoryStream, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        data = await stream.receive_some(count - len(found))
        assert data
        found += data
    return bytes(found)


# -- the contract of a stream ---------------------------------------------------------


async def test_it_keeps_the_contract_of_a_half_closeable_stream() -> None:
    async def make() -> tuple[SharedMemoryStream, SharedMemoryStream]:
        await trio.lowlevel.checkpoint()
        return stream_pair()

    async def make_clogged() -> tuple[SharedMemoryStream, SharedMemoryStream]:
        left, right = await make()
        for stream in (left, right):
            fill(stream)
        return left, right

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_large_writes_cross_the_memory_and_small_ones_the_socket() -> None:
    left_out, left_in, right_out, right_in = wires()
    async with SharedMemoryStream(left_out, left_in), SharedMemoryStream(right_out, right_in):
        left = SharedMemoryStream(left_out, left_in)
        assert left.send_nowait(b"x" * INLINE_BYTES) == INLINE_BYTES
        assert not any(right_in.area)
        assert left.send_nowait(b"y" * (INLINE_BYTES + 1)) == INLINE_BYTES + 1
        assert bytes(right_in.area[: INLINE_BYTES + 1]) == b"y" * (INLINE_BYTES + 1)


@pytest.mark.parametrize(
    "data",
    [b"x", b"\xff", BINARY, b"x" * INLINE_BYTES, BINARY * 1000, b"x" * (RING_BYTES * 3 + 7)],
    ids=["small", "one byte that is none inline", "binary", "inline", "a ring", "three rings"],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_all_that_is_sent_arrives(
    data: bytes, kind: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    left, right = stream_pair()
    with trio.fail_after(30):
        async with left, right, trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, kind(data))
            assert await read_exactly(right, len(data)) == data


@pytest.mark.parametrize("ring_bytes", [1, 100, 4096, 70_000])
async def test_what_is_larger_than_the_ring_passes_in_pieces(ring_bytes: int) -> None:
    left, right = stream_pair(ring_bytes)
    data = os.urandom(200) * (1 + ring_bytes // 50)
    with trio.fail_after(30):
        async with left, right, trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, data)
            nursery.start_soon(right.send_all, data[::-1])
            assert await read_exactly(right, len(data)) == data
            assert await read_exactly(left, len(data)) == data[::-1]


async def test_numbers_in_a_memoryview_are_sent_as_their_bytes() -> None:
    left, right = stream_pair()
    async with left, right:
        with trio.testing.assert_checkpoints():
            await left.send_all(memoryview(b"abcdefgh").cast("I"))
        assert await right.receive_some() == b"abcdefgh"
        assert left.send_nowait(memoryview(b"abcdefgh").cast("I")) == 8
        assert await right.receive_some() == b"abcdefgh"
        data = BINARY * 400
        await left.send_all(memoryview(data).cast("I"))
        assert await read_exactly(right, len(data)) == data


async def test_small_and_large_writes_keep_their_order() -> None:
    left, right = stream_pair()
    parts = [b"small", BINARY, b"small again", b"x" * 100_000, b"end"] * 5
    with trio.fail_after(30):
        async with left, right, trio.open_nursery() as nursery:

            async def send() -> None:
                for part in parts:
                    await left.send_all(part)

            nursery.start_soon(send)
            expected = b"".join(parts)
            assert await read_exactly(right, len(expected)) == expected


async def test_each_direction_flows_while_nobody_reads_the_other() -> None:
    left, right = stream_pair()
    with trio.fail_after(30):
        async with left, right, trio.open_nursery() as nursery:
            fill(right)  # and left never reads it
            data = BINARY * 10_000
            nursery.start_soon(left.send_all, data)
            assert await read_exactly(right, len(data)) == data


async def test_memory_is_used_from_its_beginning_while_it_is_emptied_each_time() -> None:
    left_out, left_in, right_out, right_in = wires()
    left, right = SharedMemoryStream(left_out, left_in), SharedMemoryStream(right_out, right_in)
    async with left, right:
        for _ in range(50):
            await left.send_all(BINARY * 8)
            assert await right.receive_some() == BINARY * 8
        assert not any(right_in.area[2048:])


async def test_one_read_is_at_most_64_kib_by_default_and_never_more_than_was_asked_for() -> None:
    left, right = stream_pair()
    async with left, right:
        fill(left)
        assert len(await right.receive_some()) <= READ_CHUNK_BYTES
        assert len(await right.receive_some(3)) == 3
        assert len(await right.receive_some(PIECE_BYTES)) > READ_CHUNK_BYTES
        with pytest.raises(ValueError, match="max_bytes"):
            await right.receive_some(0)


async def test_sending_without_waiting_writes_what_fits_and_then_nothing() -> None:
    left, right = stream_pair()
    async with left, right:
        total = fill(left)
        assert total >= RING_BYTES
        assert left.send_nowait(b"y") == 0
        assert left.send_nowait(b"\xff") == 0
        assert left.send_nowait(b"") == 0
        await read_exactly(right, total)
        assert left.send_nowait(b"\xff") == 1
        assert left.send_nowait(memoryview(b"hello")[1:]) == 4
        assert await read_exactly(right, 5) == b"\xffello"


async def test_receiving_without_waiting_takes_what_is_there() -> None:
    left, right = stream_pair()
    async with left, right:
        with trio.testing.assert_no_checkpoints():
            assert right.receive_nowait() is None
            left.send_nowait(b"abc\xff")
            assert right.receive_nowait(2) == b"ab"
            assert right.receive_nowait() == b"c\xff"
            assert right.receive_nowait() is None
        await left.aclose()
        assert right.receive_nowait() == b""
        assert right.receive_nowait() == b""
        right.close()
        with pytest.raises(trio.ClosedResourceError):
            right.receive_nowait()


@pytest.mark.parametrize("data", [b"kept", b"kept \xff"])
async def test_a_cancelled_receive_has_read_nothing(data: bytes) -> None:
    left, right = stream_pair()
    async with left, right:
        for _ in range(2):  # the second time after a read that took everything
            left.send_nowait(data)
            with trio.CancelScope() as scope:
                scope.cancel()
                await right.receive_some()
            assert scope.cancelled_caught
            with trio.testing.assert_checkpoints():
                assert await right.receive_some() == data


async def test_sending_what_fits_is_a_checkpoint() -> None:
    left, right = stream_pair()
    async with left, right:
        for data in (b"here", b"\xff", b"", BINARY * 300):
            with trio.testing.assert_checkpoints():
                await left.send_all(data)
            with trio.CancelScope() as scope:
                scope.cancel()
                await left.send_all(data)
            assert scope.cancelled_caught


async def test_a_second_sender_or_receiver_is_refused_while_one_waits() -> None:
    left, right = stream_pair()
    async with left, right, trio.open_nursery() as nursery:
        fill(left)
        nursery.start_soon(left.send_all, b"waits")
        nursery.start_soon(left.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            left.send_nowait(b"no")
        for call in (left.send_eof, left.wait_send_all_might_not_block, left.receive_some):
            with pytest.raises(trio.BusyResourceError):
                await call()
        with pytest.raises(trio.BusyResourceError):
            left.receive_nowait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("octet", [b"x", b"\xff"])
async def test_whoever_waits_for_room_goes_on_when_there_is_some(octet: bytes) -> None:
    left, right = stream_pair()
    with trio.fail_after(30):
        async with left, right, trio.open_nursery() as nursery:
            total = fill(left)
            nursery.start_soon(left.send_all, octet * 10)
            await trio.testing.wait_all_tasks_blocked()
            assert (await read_exactly(right, total + 10))[-10:] == octet * 10


async def test_closing_at_once_wakes_whoever_waits() -> None:
    left, right = stream_pair()
    fill(left)

    async def expect_closed(wait: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await wait()

    async def send() -> None:
        await left.send_all(b"\xff")

    with trio.fail_after(10):
        async with right, trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, left.receive_some)
            nursery.start_soon(expect_closed, send)
            await trio.testing.wait_all_tasks_blocked()
            left.close()
            left.close()  # idempotent


async def test_a_closed_stream_says_so_everywhere() -> None:
    left, right = stream_pair()
    async with right:
        left.send_nowait(b"x")
        await left.aclose()
        assert left.is_closed
        for call in (left.receive_some, left.send_eof, left.wait_send_all_might_not_block):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        with pytest.raises(trio.ClosedResourceError):
            left.send_nowait(b"x")
        await left.aclose()


# -- ends and deaths --------------------------------------------------------------------


@pytest.mark.parametrize("unread", [False, True])
async def test_an_end_comes_after_all_that_was_sent(unread: bool) -> None:
    left, right = stream_pair()
    with trio.fail_after(10):
        async with left, right:
            if unread:  # closing with unread bytes resets a Unix socket
                await right.send_all(BINARY + b"never read")
            total = fill(left)
            await left.aclose()
            await read_exactly(right, total)
            for _ in range(2):
                assert await right.receive_some() == b""
            with pytest.raises(trio.BrokenResourceError):
                await right.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await right.send_all(b"\xff")


async def test_a_half_close_leaves_the_other_direction_as_it_is() -> None:
    left, right = stream_pair()
    with trio.fail_after(10):
        async with left, right, trio.open_nursery() as nursery:
            await left.send_all(BINARY)
            await left.send_eof()
            await left.send_eof()
            with pytest.raises(trio.ClosedResourceError, match="EOF"):
                left.send_nowait(b"x")
            assert await right.receive_some() == BINARY
            assert await right.receive_some() == b""
            data = BINARY * 10_000
            nursery.start_soon(right.send_all, data)
            assert await read_exactly(left, len(data)) == data
            await right.aclose()
            assert await left.receive_some() == b""


async def test_an_end_is_told_from_a_death_by_a_sender_who_waits_for_space() -> None:
    """The word that tells of the end must not be taken from under a waiting sender."""
    left, right = stream_pair()
    with trio.fail_after(10):
        async with left, right, trio.open_nursery() as nursery:
            total = fill(right)
            nursery.start_soon(right.send_all, b"\xff the last")
            await trio.testing.wait_all_tasks_blocked()
            await left.send_eof()
            assert await right.receive_some() == b""
            assert (await read_exactly(left, total + 10))[-10:] == b"\xff the last"


@pytest.mark.parametrize("unread", [False, True])
async def test_a_stream_that_breaks_off_is_no_end_but_what_was_sent_is_read(unread: bool) -> None:
    left, right = stream_pair()
    with trio.fail_after(10):
        async with left, right:
            if unread:
                await right.send_all(BINARY)
            total = fill(left)
            left.close()
            await read_exactly(right, total)
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError, match="gone"):
                    await right.receive_some()


@pytest.mark.parametrize("octet", [b"x", b"\xff"])
async def test_a_peer_that_dies_breaks_those_who_wait(octet: bytes) -> None:
    left, right = stream_pair()
    fill(right)

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await right.receive_some()

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await right.send_all(octet * 100)

    with trio.fail_after(10):
        async with right, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            left.close()


async def test_a_half_close_towards_a_peer_that_is_gone_says_so() -> None:
    left, right = stream_pair()
    async with right:
        left.close()
        with pytest.raises(trio.BrokenResourceError):
            await right.send_eof()


async def test_closing_lets_go_of_the_memory() -> None:
    left_out, left_in, right_out, right_in = wires()
    left, right = SharedMemoryStream(left_out, left_in), SharedMemoryStream(right_out, right_in)
    left.close()
    await right.aclose()
    for direction in (left_out, left_in, right_out, right_in):
        assert direction._segment.closed


# -- a full lane ------------------------------------------------------------------------


@needs_linux
async def test_space_is_given_back_though_the_lane_was_full() -> None:
    left_out, left_in, right_out, right_in = wires(1000)
    left, right = SharedMemoryStream(left_out, left_in), SharedMemoryStream(right_out, right_in)
    right_in.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    data = BINARY * 40
    with trio.fail_after(10):
        async with left, right:
            assert left.send_nowait(data) == 1000
            junk = 0
            with suppress(BlockingIOError):
                while True:  # no sender looks at it meanwhile
                    junk += right_in.socket.send(b"\0", socket.MSG_DONTWAIT)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def receive() -> None:
                    assert await read_exactly(right, len(data)) == data

                await trio.testing.wait_all_tasks_blocked()
                # It has read what there was, and cannot tell.
                assert right._inflow.ring.tail > right._inflow.ring.returned
                left_out.socket.recv(junk)
                await left.send_all(data[1000:])


@needs_linux
async def test_closing_wakes_a_receiver_who_waits_for_a_full_lane() -> None:
    left_out, left_in, right_out, right_in = wires()
    left, right = SharedMemoryStream(left_out, left_in), SharedMemoryStream(right_out, right_in)
    left.send_nowait(BINARY)
    with suppress(BlockingIOError):
        while True:
            right_in.socket.send(b"\0" * 100, socket.MSG_DONTWAIT)
    with trio.fail_after(10):
        async with left, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                assert await right.receive_some() == BINARY
                with pytest.raises(trio.ClosedResourceError):
                    await right.receive_some()

            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError):
                await right.send_eof()  # the word for it does not fit
            right.close()


# -- peers that are not to be trusted ---------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"\xff?" + bytes(8),
        position_word(0, starts_over=False),
        position_word(RING_BYTES + 1, starts_over=False),
        position_word(2**64 - 1, starts_over=True),
        position_word(5, starts_over=False) + position_word(4, starts_over=False),
        position_word(5, starts_over=False) + position_word(5, starts_over=True),
    ],
)
async def test_a_word_that_cannot_be_breaks_the_stream_for_good(
    impostor: Impostor, words: bytes
) -> None:
    async with impostor.stream as stream:
        impostor.data.send(b"before" + words)
        assert await stream.receive_some() == b"before"
        if words.startswith(position_word(5, starts_over=False)):
            assert await stream.receive_some() == bytes(5)
        for _ in range(2):
            with pytest.raises(PeerProtocolError) as caught:
                await stream.receive_some()
            assert caught.value.error is not None
        impostor.close()


@pytest.mark.parametrize("words", [lane_word(0), lane_word(1), lane_word(2**64 - 2), END + END])
async def test_a_lane_that_cannot_be_breaks_sending(impostor: Impostor, words: bytes) -> None:
    async with impostor.stream as stream:
        impostor.lane.send(words)
        for _ in range(2):
            with pytest.raises(PeerProtocolError):
                await stream.send_all(b"\xff")
        impostor.close()


async def test_what_broke_sending_breaks_receiving_too(impostor: Impostor) -> None:
    async with impostor.stream as stream:
        impostor.data.send(b"before")
        assert await stream.receive_some() == b"before"
        impostor.lane.send(lane_word(1))
        with pytest.raises(PeerProtocolError):
            await stream.send_all(b"\xff")
        with trio.fail_after(10), pytest.raises(PeerProtocolError):
            await stream.receive_some()
        impostor.close()


async def test_a_peer_cannot_say_that_it_read_what_was_not_written(impostor: Impostor) -> None:
    async with impostor.stream as stream:
        await stream.send_all(b"\xff" * 10)
        impostor.lane.send(lane_word(11))
        with pytest.raises(PeerProtocolError, match="has read up to 11"):
            await stream.send_all(b"\xff")
        impostor.close()


async def test_a_socket_that_ends_within_a_word_has_lost_its_peer(impostor: Impostor) -> None:
    async with impostor.stream as stream:
        impostor.lane.send(END)
        impostor.data.send(b"\xffP")
        impostor.close()
        with pytest.raises(trio.BrokenResourceError, match="gone"):
            await stream.receive_some()


async def test_bytes_that_change_after_they_were_told_of_are_copied_once(
    impostor: Impostor,
) -> None:
    async with impostor.stream as stream:
        impostor.memory[:5] = b"first"
        impostor.data.send(position_word(5, starts_over=False))
        data = await stream.receive_some()
        impostor.memory[:5] = b"other"
        assert data == b"first"
        impostor.close()


@needs_linux
async def test_a_peer_cannot_make_this_side_block_with_a_socket_that_it_shares() -> None:
    """O_NONBLOCK belongs to the file description, which a peer may have kept."""
    impostor = Impostor()
    with trio.fail_after(10):
        async with impostor.stream as stream:
            for direction in (stream._out, stream._in):
                with socket.socket(fileno=os.dup(direction.socket.fileno())) as kept:
                    kept.setblocking(True)
                assert os.get_blocking(direction.socket.fileno())
            assert stream.receive_nowait() is None
            fill(stream)
            assert stream.send_nowait(b"x") == 0
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.receive_some()
            assert scope.cancelled_caught
            impostor.close()


async def test_descriptors_that_come_with_bytes_are_not_kept(impostor: Impostor) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with impostor.stream as stream:
        socket.send_fds(impostor.data, [b"hello"], [0, 1, 2])
        assert await stream.receive_some() == b"hello"
        assert len(os.listdir("/proc/self/fd")) == before
        impostor.close()


async def test_a_word_that_was_cut_breaks_the_stream() -> None:
    class CuttingSocket(socket.socket):
        def send(self, data: object, flags: int = 0) -> int:
            return super().send(bytes(data)[:4], flags)  # type: ignore[call-overload]

    left_out, left_in, right_out, right_in = wires()
    left_out.socket = CuttingSocket(fileno=left_out.socket.detach())
    left, right = SharedMemoryStream(left_out, left_in), SharedMemoryStream(right_out, right_in)
    async with left, right:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await left.send_all(b"\xff")
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EIO
