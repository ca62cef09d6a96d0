"""Each way for a channel in memory to end, and what either side sees of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from notes import drain, note, notes

from trio_mcp_transport.abc import (
    ChannelBroken,
    ChannelState,
    ConnectionLost,
)
from trio_mcp_transport.transports.memory_channel import MemoryChannel, memory_channel_pair


async def test_after_eof_the_peer_can_still_send() -> None:
    one, other = memory_channel_pair()
    await one.send(note(1))
    await one.send_eof()
    await one.send_eof()
    assert await drain(other) == [note(1)]
    await other.send(note(2))
    assert await one.receive() == note(2)
    for call in (one.send(note(3)), one.send_many(notes(3))):
        with pytest.raises(trio.ClosedResourceError, match="EOF"):
            await call
    with pytest.raises(trio.ClosedResourceError, match="EOF"):
        one.send_control(note(3))
    assert one.state is other.state is ChannelState.CONNECTED


async def test_eof_comes_after_those_who_stand_in_line() -> None:
    one, other = memory_channel_pair(max_messages=1)
    await one.send(note(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, note(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(one.send_eof)
        await trio.testing.wait_all_tasks_blocked()
        assert await drain(other) == notes(2)


async def test_flushing_waits_for_those_who_stand_in_line() -> None:
    one, other = memory_channel_pair(max_messages=1)
    await one.send(note(0))
    await one.flush()  # nobody waits
    flushed = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, note(1))
        await trio.testing.wait_all_tasks_blocked()

        async def flush() -> None:
            nonlocal flushed
            await one.flush()
            flushed = True

        nursery.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked()
        assert not flushed
        await other.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert flushed


async def test_a_closed_side_delivers_what_it_sent_and_then_the_end() -> None:
    one, other = memory_channel_pair()
    await one.send_many(notes(3))
    await one.aclose()
    assert one.state is ChannelState.CLOSED
    assert not other.is_connected
    assert await drain(other) == notes(3)
    with pytest.raises(trio.EndOfChannel):
        await other.receive()
    with pytest.raises(ConnectionLost, match="the other side closed"):
        await other.send(note(1))
    assert isinstance(other.failure, ConnectionLost)
    with pytest.raises(trio.EndOfChannel):  # it had ended before it failed
        await other.receive()
    await other.aclose()


async def test_closing_wakes_whoever_waits_on_this_side() -> None:
    one, other = memory_channel_pair(max_messages=1)
    await one.send(note(1))

    async def expect_closed(operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, one.receive)
        nursery.start_soon(expect_closed, lambda: one.send(note(2)))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(expect_closed, one.flush)
        await trio.testing.wait_all_tasks_blocked()
        await one.aclose()
    for operation in (one.receive, one.receive_many, one.flush, one.send_eof):
        await expect_closed(operation)
    assert await drain(other) == [note(1)]


async def test_closing_wakes_whoever_waits_on_the_other_side() -> None:
    one, other = memory_channel_pair(max_messages=1)
    await other.send(note(1))

    async def expect(expected: type[Exception], operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(expected):
            await operation()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.EndOfChannel, other.receive)
        nursery.start_soon(expect, ConnectionLost, lambda: other.send(note(2)))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(expect, ConnectionLost, other.flush)
        await trio.testing.wait_all_tasks_blocked()
        await one.aclose()
    assert isinstance(other.failure, ConnectionLost)


async def test_flushing_tells_that_the_peer_left_without_taking_all() -> None:
    one, other = memory_channel_pair()
    await one.send(note(1))
    await other.aclose()
    with pytest.raises(ConnectionLost):
        await one.flush()


async def test_what_this_side_had_not_received_is_dropped_when_it_closes() -> None:
    one, other = memory_channel_pair()
    await one.send(note(1))
    await other.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await other.receive()
    assert other.statistics().inbox_messages == 0


async def test_an_abort_reaches_the_other_side_as_a_loss() -> None:
    one, other = memory_channel_pair()
    await one.send(note(1))
    one.abort()
    one.abort()
    assert (one.state, one.failure) == (ChannelState.CLOSED, None)
    assert other.state is ChannelState.FAILED
    assert await other.receive() == note(1)
    with pytest.raises(ConnectionLost) as caught:
        await other.receive()
    assert caught.value is not other.failure
    assert caught.value.__cause__ is other.failure
    with pytest.raises(trio.ClosedResourceError):
        await one.receive()


async def test_an_abort_with_a_cause_fails_this_side_with_it() -> None:
    one, other = memory_channel_pair()
    await other.send(note(1))
    cause = ChannelBroken("nonsense")
    one.abort(cause)
    one.abort(ChannelBroken("later"))
    assert (one.state, one.failure) == (ChannelState.FAILED, cause)
    assert await one.receive() == note(1)  # what came before is still delivered
    with pytest.raises(ChannelBroken, match="nonsense"):
        await one.receive()
    with pytest.raises(ChannelBroken, match="nonsense"):
        await one.send(note(1))
    assert isinstance(other.failure, ConnectionLost)
    await one.aclose()
    assert one.state is ChannelState.FAILED


async def test_an_abort_wakes_whoever_waits_on_either_side() -> None:
    one, other = memory_channel_pair(max_messages=1)
    await one.send(note(1))

    async def expect_lost(operation: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(ChannelBroken):
            await operation()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_lost, lambda: one.send(note(2)))
        nursery.start_soon(expect_lost, one.receive)
        nursery.start_soon(other.wait_state, ChannelState.FAILED)
        await trio.testing.wait_all_tasks_blocked()
        other.abort(ChannelBroken("enough"))


async def test_closing_in_a_cancelled_scope_aborts() -> None:
    one, other = memory_channel_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.aclose()
    assert scope.cancelled_caught
    assert one.state is ChannelState.CLOSED
    with pytest.raises(ConnectionLost):
        await other.receive()


async def test_a_state_can_be_waited_for() -> None:
    one, other = memory_channel_pair()
    assert one.is_connected
    reached: list[ChannelState] = []

    async def wait(channel: MemoryChannel) -> None:
        reached.append(await channel.wait_state(ChannelState.CLOSED, ChannelState.FAILED))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, one)
        nursery.start_soon(wait, other)
        await trio.testing.wait_all_tasks_blocked()
        one.abort()
    assert sorted(state.value for state in reached) == ["closed", "failed"]
