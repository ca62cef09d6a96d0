"""Hostile, slow, dead and killed peers, against a channel over a stream.

Streams with faults and a mock clock: what happens depends on bytes and on Trio's time only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import trio
from faulty_wire import LINE, PING, PING_AS_DATA, Caught, Wire, has_failed
from trio.testing import (
    MockClock,
    wait_all_tasks_blocked,
)

from trio_mcp_transport import (
    ChannelOptions,
    ChannelState,
    ConnectionLost,
    IdleTimeout,
    Notification,
    OutboxOverflow,
    PeerProtocolError,
    Request,
    StreamChannel,
    WriteTimeout,
    encode_message,
)
from trio_mcp_transport.limits import WRITE_SLICE_BYTES
from trio_mcp_transport.testing import Fault, cut_after, fail_after, stall_after

pytestmark = [pytest.mark.hardening, pytest.mark.channel]


@pytest.fixture(params=[False, True], ids=["plain", "closable"])
def closable(request: pytest.FixtureRequest) -> bool:
    """Tests run over a stream with no more than Trio's interface, and one with `close`."""
    return bool(request.param)


# -- idle read --------------------------------------------------------------------------


async def test_a_silent_peer_ends_the_channel_while_a_receive_waits(
    nursery: trio.Nursery, autojump_clock: MockClock, closable: bool
) -> None:
    wire = Wire(nursery, ChannelOptions(idle_read_timeout=10), closable=closable)
    start = trio.current_time()
    with pytest.raises(IdleTimeout, match="no byte arrived for 10 s"):
        await wire.channel.receive()
    assert trio.current_time() == start + 10
    await has_failed(wire.channel, IdleTimeout)
    assert await wire.written_to_the_end() == b""


async def test_any_byte_counts_as_a_sign_of_life(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire(nursery, ChannelOptions(idle_read_timeout=10))

    async def trickle() -> None:
        for number in range(len(LINE)):
            await trio.sleep(9)
            await wire.to_channel.send_all(LINE[number : number + 1])

    nursery.start_soon(trickle)
    start = trio.current_time()
    assert await wire.channel.receive() == PING
    assert trio.current_time() == start + 9 * len(LINE)


async def test_idling_counts_only_while_a_receive_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire(nursery, ChannelOptions(idle_read_timeout=10))
    for _ in range(3):
        await trio.sleep(1000)
        await wire.channel.send(PING)
        await wire.to_channel.send_all(LINE)
        assert await wire.channel.receive() == PING
    assert wire.channel.state is ChannelState.CONNECTED


async def test_idling_is_allowed_by_default(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire(nursery)
    with trio.move_on_after(1e9) as scope:
        await wire.channel.receive()
    assert scope.cancelled_caught
    assert wire.channel.state is ChannelState.CONNECTED


async def test_idling_wakes_senders_with_its_cause(
    nursery: trio.Nursery, autojump_clock: MockClock, closable: bool
) -> None:
    options = ChannelOptions(idle_read_timeout=10, write_timeout=math.inf, outbox_bytes=100)
    wire = Wire(nursery, options, closable=closable, writing=stall_after(0))
    await wire.channel.send(PING)
    await wire.stream.write_stalled.wait()
    sending = Caught(nursery, lambda: wire.channel.send(Request(2, "x" * 100)))
    flushing = Caught(nursery, wire.channel.flush)
    with pytest.raises(IdleTimeout):
        await wire.channel.receive()
    await wait_all_tasks_blocked()
    for caught in (sending, flushing):
        assert isinstance(caught.error, IdleTimeout)
        assert caught.error.__cause__ is wire.channel.failure


async def test_a_cancelled_receive_is_no_idle_peer(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire(nursery, ChannelOptions(idle_read_timeout=10))
    for _ in range(5):
        with trio.move_on_after(9):
            await wire.channel.receive()
    assert wire.channel.state is ChannelState.CONNECTED


# -- stalled write ----------------------------------------------------------------------


async def test_a_peer_that_takes_nothing_ends_the_channel(
    nursery: trio.Nursery, autojump_clock: MockClock, closable: bool
) -> None:
    options = ChannelOptions(write_timeout=10, outbox_bytes=100)
    wire = Wire(nursery, options, closable=closable, writing=stall_after(7))
    receiving = Caught(nursery, wire.channel.receive)
    start = trio.current_time()
    await wire.channel.send(PING)
    sending = Caught(nursery, lambda: wire.channel.send(Request(2, "x" * 100)))
    with pytest.raises(WriteTimeout, match="in 10 s"):
        await wire.channel.flush()
    assert trio.current_time() == start + 10
    await wait_all_tasks_blocked()
    for caught in (receiving, sending):
        assert isinstance(caught.error, WriteTimeout)
        assert caught.error.__cause__ is wire.channel.failure
    await has_failed(wire.channel, WriteTimeout)
    assert await wire.written_to_the_end() == LINE[:7]


async def test_a_slow_but_steady_peer_is_not_stalled(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire(nursery, ChannelOptions(write_timeout=10), write_delay=9)
    start = trio.current_time()
    large = Notification("large", {"filling": "x" * (20 * WRITE_SLICE_BYTES)})
    await wire.channel.send(large)
    await wire.channel.flush()
    assert trio.current_time() == start + 21 * 9
    assert wire.channel.statistics().bytes_sent == len(encode_message(large)) + 1


async def test_a_channel_that_has_nothing_to_write_is_not_stalled(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire(nursery, ChannelOptions(write_timeout=10))
    for _ in range(3):
        await wire.channel.send(PING)
        await wire.channel.flush()
        await trio.sleep(1000)
    assert wire.channel.state is ChannelState.CONNECTED


async def test_a_stall_may_be_endured_for_ever(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire(nursery, ChannelOptions(write_timeout=math.inf), writing=stall_after(3))
    await wire.channel.send(PING)
    await trio.sleep(80_000)
    wire.stream.heal()
    await wire.channel.flush()
    assert await wire.answers(1) == [PING_AS_DATA]


# -- closing ----------------------------------------------------------------------------


async def test_closing_gives_up_flushing_after_the_close_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock, closable: bool
) -> None:
    wire = Wire(nursery, ChannelOptions(close_timeout=5), closable=closable, writing=stall_after(0))
    await wire.channel.send(PING)
    start = trio.current_time()
    await wire.channel.aclose()
    assert trio.current_time() == start + 5
    assert wire.channel.state is ChannelState.CLOSED
    assert wire.stream.closed


async def test_closing_ends_early_when_writing_fails(
    nursery: trio.Nursery, autojump_clock: MockClock, closable: bool
) -> None:
    options = ChannelOptions(close_timeout=500, write_timeout=5)
    wire = Wire(nursery, options, closable=closable, writing=stall_after(0))
    await wire.channel.send(PING)
    start = trio.current_time()
    await wire.channel.aclose()
    assert trio.current_time() == start + 5
    assert wire.channel.state is ChannelState.FAILED
    assert wire.stream.closed


async def test_closing_in_a_cancelled_scope_takes_no_time(
    nursery: trio.Nursery, autojump_clock: MockClock, closable: bool
) -> None:
    wire = Wire(
        nursery, ChannelOptions(close_timeout=500), closable=closable, writing=stall_after(0)
    )
    await wire.channel.send(PING)
    start = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.channel.aclose()
    assert scope.cancelled_caught
    assert trio.current_time() == start
    assert wire.stream.closed


# -- the outbox -------------------------------------------------------------------------


async def test_an_overflow_ends_the_channel_if_that_is_the_policy(
    nursery: trio.Nursery, closable: bool
) -> None:
    options = ChannelOptions(outbox_bytes=4096, when_full="close")
    wire = Wire(nursery, options, closable=closable, writing=stall_after(100))
    receiving = Caught(nursery, wire.channel.receive)
    for _ in range(4096 // len(LINE)):
        await wire.channel.send(PING)

    async def overflow() -> None:
        for _ in range(5):
            await wire.channel.send(PING)

    with pytest.raises(OutboxOverflow, match="of 4096 bytes wait"):
        await overflow()
    await wait_all_tasks_blocked()
    assert isinstance(receiving.error, OutboxOverflow)
    await has_failed(wire.channel, OutboxOverflow)


async def test_a_full_outbox_holds_senders_up_until_there_is_room(nursery: trio.Nursery) -> None:
    wire = Wire(nursery, ChannelOptions(outbox_bytes=1000), writing=stall_after(0))
    done: list[int] = []

    async def send() -> None:
        for number in range(100):
            await wire.channel.send(Request(number, "x"))
            done.append(number)

    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    assert 10 < len(done) < 50
    assert wire.channel.statistics().outbox_bytes <= 1000
    wire.stream.heal()
    assert [answer["id"] for answer in await wire.answers(100)] == list(range(100))


async def test_half_closing_does_not_overtake_what_others_send(nursery: trio.Nursery) -> None:
    for _ in range(20):  # the order in which Trio runs two tasks is left to chance
        wire = Wire(nursery, writing=stall_after(0))
        await wire.channel.send(Request(0, "x"))
        await wire.stream.write_stalled.wait()

        async def send_when_flushed(channel: StreamChannel = wire.channel) -> None:
            await channel.flush()
            await channel.send(Request(1, "x"))

        async with trio.open_nursery() as tasks:
            other = Caught(tasks, send_when_flushed)
            tasks.start_soon(wire.channel.send_eof)
            await wait_all_tasks_blocked()
            wire.stream.heal()
        lines = (await wire.written_to_the_end()).splitlines()
        assert len(lines) == (2 if other.error is None else 1)
        assert other.error is None or isinstance(other.error, trio.ClosedResourceError)


# -- dead peers -------------------------------------------------------------------------


async def test_a_connection_that_breaks_while_reading_is_lost_for_all(
    nursery: trio.Nursery, closable: bool
) -> None:
    options = ChannelOptions(outbox_bytes=100)
    wire = Wire(
        nursery,
        options,
        closable=closable,
        reading=fail_after(len(LINE) + 5),
        writing=stall_after(0),
    )
    await wire.to_channel.send_all(LINE * 2)
    await wire.channel.send(PING)
    sending = Caught(nursery, lambda: wire.channel.send(Request(2, "x" * 100)))
    assert await wire.channel.receive() == PING
    with pytest.raises(ConnectionLost, match="while receiving"):
        await wire.channel.receive()
    await wait_all_tasks_blocked()
    assert isinstance(sending.error, ConnectionLost)
    await has_failed(wire.channel, ConnectionLost)
    failure = wire.channel.failure
    assert failure is not None
    assert type(failure.__cause__) is trio.BrokenResourceError


@pytest.mark.parametrize("fault", [fail_after, cut_after])
async def test_a_connection_that_breaks_while_writing_is_lost_for_all(
    nursery: trio.Nursery, closable: bool, fault: Callable[[int], Fault]
) -> None:
    wire = Wire(nursery, closable=closable, writing=fault(10))
    receiving = Caught(nursery, wire.channel.receive)
    await wait_all_tasks_blocked()
    await wire.channel.send(PING)
    with pytest.raises(ConnectionLost, match="while sending"):
        await wire.channel.flush()
    await wait_all_tasks_blocked()
    assert isinstance(receiving.error, ConnectionLost)
    await has_failed(wire.channel, ConnectionLost)
    assert await wire.written_to_the_end() == LINE[:10]


async def test_a_peer_that_is_cut_off_between_messages_has_ended(nursery: trio.Nursery) -> None:
    wire = Wire(nursery, reading=cut_after(2 * len(LINE)))
    await wire.to_channel.send_all(LINE * 5)
    assert [message async for message in wire.channel] == [PING, PING]
    assert wire.channel.state is ChannelState.CONNECTED


@pytest.mark.parametrize("place", range(len(LINE), 2 * len(LINE) - 1))
async def test_a_peer_that_is_cut_off_inside_a_message_has_not_ended_cleanly(
    nursery: trio.Nursery, place: int
) -> None:
    wire = Wire(nursery, reading=cut_after(place + 1))
    await wire.to_channel.send_all(LINE * 2)
    assert await wire.channel.receive() == PING
    if place + 1 == 2 * len(LINE) - 1:  # all but the line feed: whole, and it decodes
        assert await wire.channel.receive() == PING
        with pytest.raises(trio.EndOfChannel):
            await wire.channel.receive()
        return
    with pytest.raises(PeerProtocolError, match="inside a message"):
        await wire.channel.receive()


async def test_a_stream_that_raises_anything_else_is_lost_as_well(nursery: trio.Nursery) -> None:
    wire = Wire(nursery)

    async def explode(data: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("no such luck")

    wire.stream.send_all = explode  # type: ignore[method-assign]
    await wire.channel.send(PING)
    with pytest.raises(ConnectionLost, match="no such luck"):
        await wire.channel.flush()
    assert isinstance(wire.channel.failure, ConnectionLost)
    assert isinstance(wire.channel.failure.__cause__, OSError)


# -- the nursery ------------------------------------------------------------------------


async def test_an_idle_channel_holds_no_nursery_open(closable: bool) -> None:
    async with trio.open_nursery() as nursery:
        wire = Wire(nursery, closable=closable)
        await wire.channel.send(PING)
        await wire.channel.flush()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
    # The nursery has ended, the channel is open; there is no one to write for it now.
    assert wire.channel.state is ChannelState.CONNECTED
    with pytest.raises(ConnectionLost, match="nursery"):
        await wire.channel.send(PING)
    await has_failed(wire.channel, ConnectionLost)
    await wire.channel.aclose()
    assert wire.stream.closed


async def test_cancelling_the_nursery_breaks_a_channel_that_is_writing(
    nursery: trio.Nursery, closable: bool
) -> None:
    async with trio.open_nursery() as inner:
        wire = Wire(inner, closable=closable, writing=stall_after(5))
        receiving = Caught(nursery, wire.channel.receive)
        await wire.channel.send(PING)
        await wire.stream.write_stalled.wait()
        inner.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert isinstance(receiving.error, ConnectionLost)
    await has_failed(wire.channel, ConnectionLost)
    await wire.channel.aclose()
    assert wire.stream.closed


async def test_a_channel_in_a_nursery_that_has_ended_can_still_be_closed(closable: bool) -> None:
    for close in ("aclose", "abort"):
        async with trio.open_nursery() as nursery:
            wire = Wire(nursery, closable=closable)
        if close == "abort":
            wire.channel.abort()
        await wire.channel.aclose()
        assert wire.channel.state is ChannelState.CLOSED
        assert wire.stream.closed
