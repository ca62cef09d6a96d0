"""Streams with faults, and cancels at each place where a function waits."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.lowlevel
import trio.testing
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport.testing import (
    FaultyStream,
    cancel_at,
    cut_after,
    fail_after,
    stall_after,
)

pytestmark = pytest.mark.testing


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def test_without_faults_it_is_the_stream_below() -> None:
    inner, peer = memory_stream_pair()
    async with FaultyStream(inner) as stream, peer:
        await stream.wait_send_all_might_not_block()
        await stream.send_all(b"")
        await stream.send_all(b"abc")
        await stream.send_eof()
        assert await read_all(peer) == b"abc"
        await peer.send_all(b"def")
        assert await stream.receive_some() == b"def"
        assert (stream.bytes_read, stream.bytes_written) == (3, 3)
    assert stream.closed


async def test_a_cut_ends_reading_after_so_many_bytes_and_again() -> None:
    inner, peer = memory_stream_pair()
    stream = FaultyStream(inner, reading=cut_after(4))
    await peer.send_all(b"abcdef")
    assert await stream.receive_some(3) == b"abc"
    assert await stream.receive_some(3) == b"d"
    assert await stream.receive_some(3) == b""
    assert await stream.receive_some() == b""


async def test_a_cut_ends_writing_and_the_peer_reads_the_end() -> None:
    inner, peer = memory_stream_pair()
    stream = FaultyStream(inner, writing=cut_after(4))
    with pytest.raises(trio.BrokenResourceError, match="cut"):
        await stream.send_all(b"abcdef")
    assert await read_all(peer) == b"abcd"


async def test_a_failure_comes_after_so_many_bytes() -> None:
    inner, peer = memory_stream_pair()
    stream = FaultyStream(inner, reading=fail_after(2), writing=fail_after(0))
    await peer.send_all(b"abc")
    assert await stream.receive_some() == b"ab"
    for call in (stream.receive_some, stream.wait_send_all_might_not_block):
        with pytest.raises(trio.BrokenResourceError, match="failed"):
            await call()
    with pytest.raises(trio.BrokenResourceError, match="failed"):
        await stream.send_all(b"x")
    assert stream.bytes_written == 0


async def test_a_stall_waits_until_it_is_healed() -> None:
    inner, peer = memory_stream_pair()
    stream = FaultyStream(inner, reading=stall_after(1), writing=stall_after(2))
    await peer.send_all(b"abc")
    assert await stream.receive_some() == b"a"
    assert not stream.read_stalled.is_set()
    read: list[bytes] = []

    async def receive() -> None:
        read.append(bytes(await stream.receive_some()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(stream.send_all, b"defg")
        await stream.read_stalled.wait()
        await stream.write_stalled.wait()
        await wait_all_tasks_blocked()
        assert stream.bytes_written == 2
        stream.heal()
    assert read == [b"bc"]
    assert await peer.receive_some() == b"defg"


@pytest.mark.parametrize("call", ["receive_some", "send_all", "wait_send_all_might_not_block"])
async def test_closing_wakes_who_is_stalled(call: str) -> None:
    inner, _ = memory_stream_pair()
    stream = FaultyStream(inner, reading=stall_after(0), writing=stall_after(0))
    arguments = (b"x",) if call == "send_all" else ()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await getattr(stream, call)(*arguments)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_eof()


async def test_killing_breaks_both_directions_and_ends_the_other_side() -> None:
    inner, peer = trio.testing.lockstep_stream_pair()
    stream = FaultyStream(inner)

    async def breaks(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.BrokenResourceError, match="killed"):
            await call()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(breaks, stream.receive_some)
        nursery.start_soon(breaks, lambda: stream.send_all(b"nobody reads"))
        await wait_all_tasks_blocked()
        await stream.kill()
    await breaks(stream.receive_some)
    await breaks(stream.send_eof)
    assert stream.killed
    with pytest.raises(trio.BrokenResourceError):
        await peer.send_all(b"x")
    await stream.aclose()


async def test_a_trickle_passes_so_many_bytes_at_a_time() -> None:
    inner, peer = memory_stream_pair()
    stream = FaultyStream(inner, read_size=2, write_size=3)
    await peer.send_all(b"abc")
    assert await stream.receive_some() == b"ab"
    assert await stream.receive_some() == b"c"
    pieces: list[bytes] = []

    async def note() -> None:
        pieces.append(bytes(await peer.receive_some()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note)
        await wait_all_tasks_blocked()
        await stream.send_all(b"defg")
    assert pieces[0] == b"def"


async def test_delays_are_on_trios_clock(autojump_clock: trio.testing.MockClock) -> None:
    inner, peer = memory_stream_pair()
    stream = FaultyStream(inner, read_delay=10, write_delay=100, write_size=1)
    await peer.send_all(b"x")
    start = trio.current_time()
    await stream.receive_some()
    assert trio.current_time() == start + 10
    await stream.send_all(b"abc")
    assert trio.current_time() == start + 310


async def test_half_closing_needs_a_stream_that_can() -> None:
    class Whole(trio.abc.Stream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise AssertionError

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise AssertionError

        async def wait_send_all_might_not_block(self) -> None:
            raise AssertionError

        async def aclose(self) -> None:
            raise AssertionError

    stream = FaultyStream(Whole(), writing=cut_after(0))
    with pytest.raises(NotImplementedError, match="Whole"):
        await stream.send_eof()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


def test_faults_are_checked() -> None:
    with pytest.raises(ValueError, match="number of bytes"):
        cut_after(-1)
    with pytest.raises(ValueError, match="at least 1"):
        FaultyStream(memory_stream_pair()[0], read_size=0)


async def test_cancel_at_cancels_at_each_wait_and_tells_when_there_is_none() -> None:
    reached: list[str] = []

    async def three_waits() -> None:
        reached.append("start")
        await trio.lowlevel.checkpoint()
        reached.append("one")
        await trio.lowlevel.checkpoint()
        reached.append("two")
        await trio.lowlevel.cancel_shielded_checkpoint()
        reached.append("shielded")
        await trio.lowlevel.checkpoint()
        reached.append("end")

    last: list[str] = []
    number = 0
    while True:
        reached.clear()
        if not await cancel_at(number, three_waits):
            break
        last.append(reached[-1])
        number += 1
    assert last[0] == "start"
    assert set(last) == {"start", "one", "shielded"}
    assert reached[-1] == "end"


async def test_cancel_at_cancels_who_sleeps_for_ever_and_passes_exceptions_on() -> None:
    assert await cancel_at(1, trio.sleep, math.inf)

    async def fail(text: str) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError(text)

    with pytest.raises(ValueError, match="boom"):
        await cancel_at(99, fail, "boom")
