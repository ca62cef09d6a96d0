"""Contract: what a channel says about itself, checkpoints, and what stays behind it."""

from __future__ import annotations

import trio
from trio.testing import assert_checkpoints

from ...abc import ChannelBroken, ChannelState, ConnectionLost
from ...limits import ChannelOptions
from .support import (
    Check,
    MakePair,
    end_of,
    expect,
    numbered,
    numbers,
    outcome_of,
    receive_numbers,
    settle,
)

__all__ = ["FACTS_CHECKS"]


async def statistics_count_messages_both_ways(make_pair: MakePair) -> None:
    """Bytes are counted where there are any: at least what the messages need."""
    async with make_pair(ChannelOptions()) as (left, right):
        assert left.statistics().messages_sent == left.statistics().messages_received == 0
        await left.send(numbered(0, 1000))
        await left.send_many([numbered(1, 1000), numbered(2, 1000)])
        await right.send(numbered(3))
        await left.flush()
        assert await receive_numbers(right, 3) == [0, 1, 2]
        assert await receive_numbers(left, 1) == [3]
        ours, theirs = left.statistics(), right.statistics()
        assert (ours.messages_sent, ours.messages_received) == (3, 1)
        assert (theirs.messages_sent, theirs.messages_received) == (1, 3)
        assert ours.outbox_bytes == ours.inbox_messages == ours.malformed_received == 0
        if left.capabilities.framing is not None:
            assert ours.bytes_sent > 3000
            assert theirs.bytes_received > 3000
            assert 0 < ours.bytes_received < 3000


async def a_channel_says_what_it_is(make_pair: MakePair) -> None:
    """Transport, session id, capabilities and options agree with each other."""
    options = ChannelOptions(request_timeout=12.5)
    async with make_pair(options) as pair, make_pair(options) as others:
        for channel in pair:
            assert channel.context.transport
            assert channel.session_id.startswith(f"{channel.context.transport}-")
            assert channel.session_id == channel.session_id
            assert channel.options == options
            assert channel.capabilities.half_close is channel.can_send_eof
            assert channel.capabilities.max_message_bytes in (None, options.max_message_bytes)
            assert channel.capabilities.framing in (None, options.framing)
            assert channel.state in {ChannelState.CONNECTING, ChannelState.CONNECTED}
            assert channel.is_connected
            assert channel.failure is None
        assert len({channel.session_id for channel in (*pair, *others)}) == 4


async def the_state_can_be_waited_for(make_pair: MakePair) -> None:
    """`wait_state` returns the one of the states that was reached."""
    async with make_pair(ChannelOptions()) as (left, right), trio.open_nursery() as nursery:
        await right.send(numbered(0))
        await left.receive()
        assert await left.wait_state(ChannelState.CONNECTED) is ChannelState.CONNECTED
        closed = outcome_of(
            nursery, lambda: left.wait_state(ChannelState.CLOSED, ChannelState.FAILED)
        )
        failed = outcome_of(
            nursery, lambda: right.wait_state(ChannelState.CLOSED, ChannelState.FAILED)
        )
        await settle()
        assert not closed.done.is_set()
        await left.aclose()
        await closed.done.wait()
        assert closed.value is ChannelState.CLOSED
        assert await left.wait_state(ChannelState.CLOSED) is ChannelState.CLOSED
        right.abort(ConnectionLost("over"))
        await failed.done.wait()
        assert failed.value is ChannelState.FAILED


async def every_operation_is_a_checkpoint(make_pair: MakePair) -> None:
    """Also when it need not wait: no loop of calls can starve the other tasks."""
    async with make_pair(ChannelOptions()) as (left, right):
        with assert_checkpoints():
            await left.send(numbered(0))
        with assert_checkpoints():
            await left.send_many([numbered(1), numbered(2), numbered(3)])
        with assert_checkpoints():
            await left.send_many([])
        await left.flush()
        await settle()
        with assert_checkpoints():
            assert await receive_numbers(right, 1) == [0]
        with assert_checkpoints():
            assert numbers(await right.receive_many(1)) == [1]
        with assert_checkpoints():
            assert await receive_numbers(right, 1) == [2]
        with assert_checkpoints():
            assert await receive_numbers(right, 1) == [3]
        with assert_checkpoints():
            await left.flush()
        with assert_checkpoints():
            await left.wait_state(left.state)
        if left.can_send_eof:
            for _ in range(2):
                with assert_checkpoints():
                    await left.send_eof()
            for _ in range(2):
                with assert_checkpoints():
                    await expect(trio.EndOfChannel, right.receive)
        for channel in (left, right):
            for _ in range(2):
                with assert_checkpoints():
                    await channel.aclose()


async def an_exception_in_the_body_comes_out_as_it_is(make_pair: MakePair) -> None:
    """The same object, in no exception group, with both channels closed."""
    for boom in (ValueError("boom"), KeyboardInterrupt(), ConnectionLost("own")):
        try:
            async with make_pair(ChannelOptions()) as (left, right):
                await left.send(numbered(1))
                raise boom
        except BaseException as raised:  # noqa: ASYNC103 (it is the one raised here)
            if raised is not boom:
                raise
        for channel in (left, right):
            assert channel.state in {ChannelState.CLOSED, ChannelState.FAILED}


async def a_cancelled_body_leaves_nothing(make_pair: MakePair) -> None:
    """Cancelled while it receives, and while it waits for room to send."""
    for busy in (False, True):
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.CancelScope() as scope:
            async with make_pair(ChannelOptions()) as (left, right):
                if busy:
                    left.send_control(numbered(1))
                    await left.send_many([numbered(number, 60_000) for number in range(10)])
                scope.cancel()
                await right.receive()
                await right.receive()
        assert scope.cancelled_caught
        for channel in (left, right):
            assert channel.state in {ChannelState.CLOSED, ChannelState.FAILED}
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living <= tasks


async def a_peer_failure_in_the_body_comes_out_as_it_is(make_pair: MakePair) -> None:
    """What `receive` or `send` raises leaves the body bare, and leaves nothing behind."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    errors: list[Exception] = []
    try:
        async with make_pair(ChannelOptions()) as (left, right):
            right.abort()
            errors.append(await end_of(left))
            raise errors[0]
    except (trio.EndOfChannel, ChannelBroken) as raised:
        errors.append(raised)
    assert len(errors) == 2
    assert errors[0] is errors[1]
    assert left.state in {ChannelState.CLOSED, ChannelState.FAILED}
    await settle()
    assert trio.lowlevel.current_statistics().tasks_living <= tasks


async def closed_channels_leave_no_tasks(make_pair: MakePair) -> None:
    """Nor do they after a busy life."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with make_pair(ChannelOptions()) as (left, right):
        for _ in range(5):
            await left.send_many([numbered(number, 10_000) for number in range(50)])
            assert await receive_numbers(right, 50) == list(range(50))
    await settle()
    assert trio.lowlevel.current_statistics().tasks_living <= tasks


FACTS_CHECKS: list[Check] = [
    statistics_count_messages_both_ways,
    a_channel_says_what_it_is,
    the_state_can_be_waited_for,
    every_operation_is_a_checkpoint,
    an_exception_in_the_body_comes_out_as_it_is,
    a_cancelled_body_leaves_nothing,
    a_peer_failure_in_the_body_comes_out_as_it_is,
    closed_channels_leave_no_tasks,
]
