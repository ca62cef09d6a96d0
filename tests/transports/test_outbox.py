"""The outbox: order, bounds, slices, the control lane, and what a failure does."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_mcp_transport.abc import (
    ChannelBroken,
    ConnectionLost,
    OutboxOverflow,
    WriteTimeout,
)
from trio_mcp_transport.limits import CONTROL_LANE_BYTES, WRITE_SLICE_BYTES, ChannelOptions
from trio_mcp_transport.transports.outbox import Outbox


class GatedStream(trio.abc.SendStream):
    """Takes one write each time the test says so."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.gate = trio.Semaphore(0)
        self.error: Exception | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.gate.acquire()
        if self.error is not None:
            raise self.error
        self.written.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError("not used")

    async def aclose(self) -> None:
        raise AssertionError("the outbox does not own the stream")

    def let(self, writes: int) -> None:
        for _ in range(writes):
            self.gate.release()


class NowaitStream(GatedStream):
    """Takes `room` bytes at once."""

    room = 0
    broken = False

    def send_nowait(self, data: bytes) -> int:
        if self.broken:
            raise trio.BrokenResourceError("gone")
        taken = min(self.room, len(data))
        self.room -= taken
        if taken:
            self.written.append(data[:taken])
        return taken


class Failures(list[ChannelBroken]):
    """What a channel would do with a failure."""

    outbox: Outbox

    def __call__(self, cause: ChannelBroken) -> None:
        self.append(cause)
        self.outbox.close(lambda: cause.again())


def make(
    stream: trio.abc.SendStream,
    nursery: trio.Nursery,
    *,
    outbox_bytes: int = 10,
    when_full: str = "block",
    write_timeout: float = math.inf,
) -> tuple[Outbox, Failures]:
    failures = Failures()
    options = ChannelOptions(
        outbox_bytes=outbox_bytes,
        when_full=when_full,  # type: ignore[arg-type]
        write_timeout=write_timeout,
    )
    outbox = Outbox(stream, nursery=nursery, options=options, on_failure=failures)
    failures.outbox = outbox
    return outbox, failures


async def test_what_is_queued_together_is_written_together(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    assert outbox.put(b"one,")
    assert outbox.put(b"two,")
    await wait_all_tasks_blocked()
    assert outbox.put(b"x")
    assert outbox.put(b"y")
    assert outbox.size == 10
    stream.let(2)
    await outbox.flush()
    assert stream.written == [b"one,two,", b"xy"]
    assert (outbox.size, outbox.bytes_written, outbox.is_idle) == (0, 10, True)


async def test_no_task_is_left_when_all_is_written() -> None:
    stream = GatedStream()
    stream.let(1)
    async with trio.open_nursery() as nursery:
        outbox, _ = make(stream, nursery)
        outbox.put(b"x")
    assert stream.written == [b"x"]


async def test_senders_get_room_first_come_first_served(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    outbox.put(b"0" * 10)
    done: list[str] = []

    async def send(data: bytes) -> None:
        await outbox.wait_and_put(data)
        done.append(data.decode())

    assert not outbox.put(b"a" * 8)
    for data in (b"a" * 8, b"b" * 2, b"c" * 9):
        nursery.start_soon(send, data)
        await wait_all_tasks_blocked()
    assert not outbox.put(b"d")  # would fit later, but others were first
    stream.let(1)
    await wait_all_tasks_blocked()
    assert set(done) == {"a" * 8, "bb"}
    stream.let(10)
    await wait_all_tasks_blocked()
    await outbox.flush()
    assert b"".join(stream.written) == b"0" * 10 + b"a" * 8 + b"bb" + b"c" * 9


async def test_a_message_larger_than_the_outbox_passes_when_it_is_empty(
    nursery: trio.Nursery,
) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    assert outbox.put(b"x" * 50)
    assert not outbox.put(b"y")
    stream.let(1)
    await outbox.flush()
    assert outbox.put(b"y")
    stream.let(1)


async def test_a_sender_cancelled_in_line_queued_nothing_and_holds_nobody_up(
    nursery: trio.Nursery,
) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    outbox.put(b"0" * 9)
    scope = trio.CancelScope()
    nursery.start_soon(outbox.wait_and_put, b"tiny")

    async def big() -> None:
        with scope:
            await outbox.wait_and_put(b"B" * 10)

    nursery.start_soon(big)
    await wait_all_tasks_blocked()
    nursery.start_soon(outbox.wait_and_put, b"q")
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    stream.let(5)
    await wait_all_tasks_blocked()  # a flush would not wait for those in line
    assert sorted(b"".join(stream.written)) == sorted(b"0" * 9 + b"tinyq")


async def test_whoever_fits_moves_up_when_the_first_in_line_gives_up(
    nursery: trio.Nursery,
) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    outbox.put(b"0" * 9)
    scope = trio.CancelScope()

    async def big() -> None:
        with scope:
            await outbox.wait_and_put(b"B" * 10)

    nursery.start_soon(big)
    await wait_all_tasks_blocked()
    nursery.start_soon(outbox.wait_and_put, b"q")
    await wait_all_tasks_blocked()
    assert outbox.size == 9
    scope.cancel()
    await wait_all_tasks_blocked()
    assert outbox.size == 10
    stream.let(5)


async def test_a_large_message_goes_out_in_slices(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    data = bytes(range(256)) * (WRITE_SLICE_BYTES // 256 * 2) + b"end"
    outbox.put(data)
    stream.let(3)
    await outbox.flush()
    assert [len(piece) for piece in stream.written] == [WRITE_SLICE_BYTES, WRITE_SLICE_BYTES, 3]
    assert b"".join(stream.written) == data


async def test_what_was_written_of_a_large_message_is_let_go(nursery: trio.Nursery) -> None:
    kept: list[tuple[int, int]] = []

    class Watched(NowaitStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            assert isinstance(data, memoryview)
            assert isinstance(data.obj, bytes)
            kept.append((outbox.size, len(data.obj)))
            await super().send_all(data)

    data = bytes(range(256)) * (WRITE_SLICE_BYTES // 16)  # 16 slices
    for at_once in (0, 11):
        stream = Watched()
        stream.room = WRITE_SLICE_BYTES * at_once
        outbox, _ = make(stream, nursery)
        outbox.put(data)
        stream.let(16)
        await outbox.flush()
        assert b"".join(stream.written) == data
    assert len(kept) == 16 + 5
    assert all(memory <= 2 * size for size, memory in kept)


async def test_a_cancel_never_overtakes_its_request(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    outbox.put(b"begun")
    await wait_all_tasks_blocked()
    outbox.put(b"queue")
    nursery.start_soon(outbox.wait_and_put, b"line")
    await wait_all_tasks_blocked()
    outbox.put_control(b"CANCEL")
    outbox.put_control(b"CANCEL")
    stream.let(4)
    await outbox.flush()
    await wait_all_tasks_blocked()
    assert b"".join(stream.written) == b"begunqueueCANCELCANCELline"


async def test_room_in_the_control_lane_comes_back(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, failures = make(stream, nursery)
    half = b"x" * (CONTROL_LANE_BYTES // 2)
    for _ in range(3):
        outbox.put(b"0")
        await wait_all_tasks_blocked()
        outbox.put_control(half)
        outbox.put_control(half)
        stream.let(10)
        await outbox.flush()
        stream.gate = trio.Semaphore(0)
    assert not failures


async def test_flushing_does_not_wait_for_what_is_queued_later(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    outbox.put(b"early")
    await wait_all_tasks_blocked()
    flushed = trio.Event()

    async def flush() -> None:
        await outbox.flush()
        flushed.set()

    nursery.start_soon(flush)
    await wait_all_tasks_blocked()
    outbox.put(b"late")
    stream.let(1)
    await wait_all_tasks_blocked()
    assert flushed.is_set()
    assert outbox.size == 4
    stream.let(1)


async def test_control_frames_pass_a_full_outbox_up_to_their_own_bound(
    nursery: trio.Nursery,
) -> None:
    stream = GatedStream()
    outbox, failures = make(stream, nursery)
    outbox.put(b"0" * 10)
    await wait_all_tasks_blocked()
    outbox.put_control(b"x" * CONTROL_LANE_BYTES)
    with pytest.raises(OutboxOverflow, match="control lane is full") as caught:
        outbox.put_control(b"y")
    assert caught.value.__cause__ is failures[0]
    assert caught.value is not failures[0]


async def test_a_full_outbox_may_close_the_channel(nursery: trio.Nursery) -> None:
    await trio.lowlevel.checkpoint()
    stream = GatedStream()
    outbox, failures = make(stream, nursery, when_full="close")
    outbox.put(b"0" * 10)
    with pytest.raises(OutboxOverflow, match="10 of 10 bytes wait"):
        outbox.put(b"1")
    assert isinstance(failures[0], OutboxOverflow)


async def test_a_slow_but_steady_peer_is_not_stalled(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stream = GatedStream()
    outbox, failures = make(stream, nursery, write_timeout=10)
    outbox.put(b"x" * WRITE_SLICE_BYTES * 5)
    for _ in range(5):
        await trio.sleep(9)
        stream.let(1)
        await wait_all_tasks_blocked()
    await outbox.flush()
    assert not failures


async def test_a_stalled_write_fails_the_channel(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stream = GatedStream()
    outbox, failures = make(stream, nursery, write_timeout=10)
    outbox.put(b"x" * WRITE_SLICE_BYTES * 2)
    stream.let(1)
    with pytest.raises(WriteTimeout, match="less than 65536 bytes in 10 s"):
        await outbox.flush()
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    assert len(failures) == 1


async def test_a_broken_stream_wakes_everybody_with_an_exception_of_their_own(
    nursery: trio.Nursery,
) -> None:
    stream = GatedStream()
    stream.error = trio.BrokenResourceError("reset")
    outbox, failures = make(stream, nursery)
    outbox.put(b"0" * 10)
    caught: list[ChannelBroken] = []

    async def expect(sending: bool) -> None:
        try:
            await (outbox.wait_and_put(b"1") if sending else outbox.flush())
        except ConnectionLost as error:
            caught.append(error)

    for sending in (True, False, True):
        nursery.start_soon(expect, sending)
    await wait_all_tasks_blocked()
    stream.let(1)
    await wait_all_tasks_blocked()
    assert len(set(map(id, caught))) == 3
    assert "reset" in str(caught[0])
    assert failures[0].__cause__ is stream.error
    with pytest.raises(ConnectionLost):
        await outbox.flush()


async def test_any_exception_of_a_foreign_stream_is_the_cause(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    stream.error = OSError("odd")
    outbox, failures = make(stream, nursery)
    outbox.put(b"0")
    stream.let(1)
    await wait_all_tasks_blocked()
    assert "odd" in str(failures[0])
    assert failures[0].__cause__ is stream.error


async def test_a_streams_own_channel_failure_is_kept_as_it_is(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    stream.error = ConnectionLost("the child died")
    outbox, failures = make(stream, nursery)
    outbox.put(b"0")
    stream.let(1)
    await wait_all_tasks_blocked()
    assert failures == [stream.error]


async def test_a_writer_that_is_cancelled_breaks_the_channel() -> None:
    stream = GatedStream()
    async with trio.open_nursery() as nursery:
        outbox, failures = make(stream, nursery)
        outbox.put(b"0")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert "was cancelled" in str(failures[0])


async def test_a_nursery_that_has_ended_is_named() -> None:
    async with trio.open_nursery() as nursery:
        outbox, failures = make(GatedStream(), nursery)
    with pytest.raises(ConnectionLost, match="nursery that the channel was opened in has ended"):
        outbox.put(b"0")
    assert len(failures) == 1


async def test_an_uncontended_send_needs_no_task(nursery: trio.Nursery) -> None:
    await trio.lowlevel.checkpoint()
    stream = NowaitStream()
    stream.room = 100
    outbox, _ = make(stream, nursery)
    outbox.put(b"one")
    outbox.put_control(b"two")
    assert stream.written == [b"one", b"two"]
    assert outbox.is_idle
    assert not nursery.child_tasks
    assert outbox.bytes_written == 6


async def test_the_rest_of_a_partial_write_comes_first(nursery: trio.Nursery) -> None:
    stream = NowaitStream()
    stream.room = 4
    outbox, _ = make(stream, nursery, outbox_bytes=100)
    outbox.put(b"abcdef")
    stream.room = 100  # not to be used: something is waiting
    outbox.put_control(b"C")
    outbox.put(b"ghi")
    stream.let(3)
    await outbox.flush()
    assert b"".join(stream.written) == b"abcdefCghi"
    assert outbox.bytes_written == 10
    outbox.put(b"!")
    assert stream.written[-1] == b"!"


async def test_a_stream_that_takes_nothing_now_is_written_by_the_task(
    nursery: trio.Nursery,
) -> None:
    stream = NowaitStream()
    outbox, _ = make(stream, nursery)
    outbox.put(b"abc")
    stream.let(1)
    await outbox.flush()
    assert stream.written == [b"abc"]


async def test_a_stream_that_breaks_at_once_fails_the_sender(nursery: trio.Nursery) -> None:
    await trio.lowlevel.checkpoint()
    stream = NowaitStream()
    stream.broken = True
    outbox, failures = make(stream, nursery)
    with pytest.raises(ConnectionLost, match="while sending: gone"):
        outbox.put(b"abc")
    assert len(failures) == 1


async def test_closing_twice_keeps_the_first_reason(nursery: trio.Nursery) -> None:
    outbox, _ = make(GatedStream(), nursery)
    outbox.close(lambda: trio.ClosedResourceError("first"))
    outbox.close(lambda: trio.ClosedResourceError("second"))
    with pytest.raises(trio.ClosedResourceError, match="first"):
        await outbox.flush()


async def test_a_write_that_ends_after_closing_is_not_counted(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, failures = make(stream, nursery)
    outbox.put(b"abc")
    await wait_all_tasks_blocked()
    outbox.close(lambda: trio.ClosedResourceError("closed"))
    stream.let(1)
    await wait_all_tasks_blocked()
    assert outbox.bytes_written == 0
    assert not failures
    stream.error = trio.ClosedResourceError()
    fresh, failures = make(stream, nursery)
    fresh.put(b"abc")
    await wait_all_tasks_blocked()
    fresh.close(lambda: trio.ClosedResourceError("closed"))
    stream.let(1)
    await wait_all_tasks_blocked()
    assert not failures


async def test_a_cancelled_flush_leaves_the_line(nursery: trio.Nursery) -> None:
    stream = GatedStream()
    outbox, _ = make(stream, nursery)
    outbox.put(b"abc")
    with trio.move_on_after(0) as scope:
        await outbox.flush()
    assert scope.cancelled_caught
    stream.let(1)
    await outbox.flush()
