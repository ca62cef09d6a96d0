"""Contract: closing and aborting, from any task, once or more, and what it does to others."""

from __future__ import annotations

import trio

from ...abc import ChannelBroken, ChannelState, ConnectionLost, MessageChannel
from ...limits import ChannelOptions
from .support import (
    FLOOD_BYTES,
    Check,
    MakePair,
    Outcome,
    cancelled,
    end_of,
    expect,
    flooded,
    numbered,
    outcome_of,
    receive_numbers,
    settle,
)

__all__ = ["CLOSING_CHECKS"]


async def _everything_says_closed(channel: MessageChannel) -> None:
    for call in (
        channel.receive,
        channel.receive_many,
        lambda: channel.send(numbered(1)),
        lambda: channel.send_many([numbered(1)]),
        channel.flush,
    ):
        await expect(trio.ClosedResourceError, call)
    if channel.can_send_eof:
        await expect(trio.ClosedResourceError, channel.send_eof)
    try:
        channel.send_control(cancelled())
    except trio.ClosedResourceError:
        pass
    else:
        raise AssertionError("send_control on a closed channel must raise")


async def a_closed_channel_refuses_everything_but_closing(make_pair: MakePair) -> None:
    """`aclose` and `abort` may be called again; all else is `ClosedResourceError`."""
    async with make_pair(ChannelOptions()) as (left, _):
        await left.aclose()
        assert left.state is ChannelState.CLOSED
        assert left.failure is None
        assert not left.is_connected
        await _everything_says_closed(left)
        await left.aclose()
        left.abort()
        left.abort(ConnectionLost("too late"))
        assert left.state is ChannelState.CLOSED
        assert left.failure is None


async def an_aborted_channel_refuses_everything_but_closing(make_pair: MakePair) -> None:
    """`abort` is synchronous: its effect is there when it returns."""
    async with make_pair(ChannelOptions()) as (left, _):
        left.abort()
        assert left.state is ChannelState.CLOSED
        await _everything_says_closed(left)
        left.abort()
        await left.aclose()


async def _waiters(nursery: trio.Nursery, channel: MessageChannel) -> list[Outcome]:
    """Somebody in each call that can wait. The channel must be flooded."""
    waiting = [
        outcome_of(nursery, call)
        for call in (
            channel.receive,
            lambda: channel.send(numbered(-1, FLOOD_BYTES)),
            lambda: channel.send_many([numbered(-2, FLOOD_BYTES)]),
            channel.flush,
        )
    ]
    await settle()
    assert not any(outcome.done.is_set() for outcome in waiting)
    return waiting


async def closing_wakes_whoever_waits(make_pair: MakePair) -> None:
    """From another task: receivers, senders and flushers get `ClosedResourceError`."""
    options = ChannelOptions(close_timeout=0.01)
    async with make_pair(options) as (left, _), flooded(left) as (nursery, _queued):
        waiting = await _waiters(nursery, left)
        await left.aclose()
        for outcome in waiting:
            await outcome.done.wait()
            assert isinstance(outcome.error, trio.ClosedResourceError)


async def aborting_wakes_whoever_waits(make_pair: MakePair) -> None:
    """The same, at once."""
    async with make_pair(ChannelOptions()) as (left, _), flooded(left) as (nursery, _queued):
        waiting = await _waiters(nursery, left)
        left.abort()
        for outcome in waiting:
            await outcome.done.wait()
            assert isinstance(outcome.error, trio.ClosedResourceError)


async def failing_wakes_whoever_waits_with_the_first_cause(make_pair: MakePair) -> None:
    """Each gets an exception of its own, `from` the cause that stays the same for ever."""
    async with make_pair(ChannelOptions()) as (left, _), flooded(left) as (nursery, _queued):
        waiting = await _waiters(nursery, left)
        cause = ConnectionLost("somebody pulled the plug")
        cause.exit_status = 3
        left.abort(cause)
        left.abort(ConnectionLost("too late"))
        assert left.state is ChannelState.FAILED
        assert left.failure is cause
        for outcome in waiting:
            await outcome.done.wait()
        errors = [outcome.error for outcome in waiting]
        for call in (left.receive, left.flush, lambda: left.send(numbered(1))):
            errors += [await expect(ConnectionLost, call), await expect(ConnectionLost, call)]
        for error in errors:
            assert isinstance(error, ConnectionLost), f"{error!r} is not of the cause's kind"
            assert error.exit_status == 3
            assert str(error) == str(cause)
            assert error.__cause__ is cause, f"{error!r} comes from {error.__cause__!r}"
        distinct = {id(error) for error in [cause, *errors]}
        assert len(distinct) == 1 + len(errors), "an exception object was raised twice"
        await left.aclose()
        assert left.state is ChannelState.FAILED


async def closing_while_another_task_receives(make_pair: MakePair) -> None:
    """That one gets `ClosedResourceError`; the peer sees the end."""
    async with make_pair(ChannelOptions()) as (left, right), trio.open_nursery() as nursery:
        waiting = outcome_of(nursery, left.receive)
        await settle()
        await left.aclose()
        await waiting.done.wait()
        assert isinstance(waiting.error, trio.ClosedResourceError)
        assert isinstance(await end_of(right), trio.EndOfChannel)


async def closing_flushes(make_pair: MakePair) -> None:
    """What was queued before `aclose` arrives, if the peer reads in time."""
    async with make_pair(ChannelOptions()) as (left, right), trio.open_nursery() as nursery:
        await left.send_many([numbered(number, 50_000) for number in range(20)])
        closing = outcome_of(nursery, left.aclose)
        assert await receive_numbers(right, 20) == list(range(20))
        assert isinstance(await end_of(right), trio.EndOfChannel)
        await closing.done.wait()
        assert closing.error is None
        assert left.state is ChannelState.CLOSED


async def closing_from_two_tasks_at_once(make_pair: MakePair) -> None:
    """Both return, and neither before the channel is closed."""
    async with make_pair(ChannelOptions()) as (left, _), trio.open_nursery() as nursery:
        await left.send(numbered(1))
        closers = [outcome_of(nursery, left.aclose) for _ in range(3)]
        for closer in closers:
            await closer.done.wait()
            assert closer.error is None
            assert left.state is ChannelState.CLOSED


async def aborting_ends_a_close_that_is_flushing(make_pair: MakePair) -> None:
    """The closer returns as if it had been the one."""
    options = ChannelOptions(close_timeout=1000.0)
    async with make_pair(options) as (left, _), flooded(left) as (nursery, _queued):
        closing = outcome_of(nursery, left.aclose)
        await settle()
        left.abort()
        await closing.done.wait()
        assert closing.error is None, f"aclose raised {closing.error!r}"
        assert left.state is ChannelState.CLOSED


async def closing_gives_up_on_a_peer_that_does_not_read(make_pair: MakePair) -> None:
    """After `close_timeout`; no exception, and the channel is closed."""
    options = ChannelOptions(close_timeout=0.01)
    async with make_pair(options) as (left, _), flooded(left):
        await left.aclose()
        assert left.state is ChannelState.CLOSED


async def closing_in_a_cancelled_scope_does_not_flush(make_pair: MakePair) -> None:
    """It raises `Cancelled`, and the channel is closed all the same."""
    options = ChannelOptions(close_timeout=1000.0)
    async with make_pair(options) as (left, right), flooded(left) as (nursery, _queued):
        waiting = outcome_of(nursery, left.receive)
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await left.aclose()
        assert scope.cancelled_caught
        await left.aclose()
        assert left.state is ChannelState.CLOSED
        await waiting.done.wait()
        assert isinstance(waiting.error, trio.ClosedResourceError)
        # What was on its way may arrive; then it is over, one way or the other.
        assert isinstance(await end_of(right), trio.EndOfChannel | ChannelBroken)


async def cancelling_a_close_that_is_flushing_closes_at_once(make_pair: MakePair) -> None:
    """As in a scope that was cancelled before."""
    options = ChannelOptions(close_timeout=1000.0)
    async with make_pair(options) as (left, _), flooded(left) as (nursery, _queued):
        scope = trio.CancelScope()

        async def close() -> bool:
            with scope:
                await left.aclose()
            return scope.cancelled_caught

        closing = outcome_of(nursery, close)
        await settle()
        was_flushing = not closing.done.is_set()  # memory has nothing to flush
        scope.cancel()
        await closing.done.wait()
        assert closing.value is was_flushing
        await left.aclose()
        assert left.state is ChannelState.CLOSED


async def what_was_received_before_a_failure_is_delivered(make_pair: MakePair) -> None:
    """All messages that are here come first, then the failure, again and again."""
    async with make_pair(ChannelOptions()) as (left, right):
        await right.send_many([numbered(number) for number in range(5)])
        await right.flush()
        await settle()
        assert await receive_numbers(left, 1) == [0]  # the others are here as well
        waiting = left.statistics().inbox_messages
        left.abort(ConnectionLost("over"))
        assert await receive_numbers(left, waiting) == list(range(1, 1 + waiting))
        for _ in range(2):
            await expect(ConnectionLost, left.receive)


CLOSING_CHECKS: list[Check] = [
    a_closed_channel_refuses_everything_but_closing,
    an_aborted_channel_refuses_everything_but_closing,
    closing_wakes_whoever_waits,
    aborting_wakes_whoever_waits,
    failing_wakes_whoever_waits_with_the_first_cause,
    closing_while_another_task_receives,
    closing_flushes,
    closing_from_two_tasks_at_once,
    aborting_ends_a_close_that_is_flushing,
    closing_gives_up_on_a_peer_that_does_not_read,
    closing_in_a_cancelled_scope_does_not_flush,
    cancelling_a_close_that_is_flushing_closes_at_once,
    what_was_received_before_a_failure_is_delivered,
]
