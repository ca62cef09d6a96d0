"""Contract: receiving loses nothing, one task at a time, and the end comes after all else."""

from __future__ import annotations

import itertools

import trio

from ...abc import ChannelBroken, ChannelState
from ...errors import LocalProtocolError
from ...limits import ChannelOptions
from ..faults import cancel_at
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

__all__ = ["RECEIVING_CHECKS"]


async def receive_many_returns_what_is_here(make_pair: MakePair) -> None:
    """It waits only for the first, and takes at most as many as it was told."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send_many([numbered(number) for number in range(10)])
        await left.flush()
        arrived: list[int] = []
        while len(arrived) < 10:
            some = numbers(await right.receive_many(4))
            assert 1 <= len(some) <= 4
            arrived += some
        assert arrived == list(range(10))
        async with trio.open_nursery() as nursery:
            waiting = outcome_of(nursery, right.receive_many)
            await settle()
            assert not waiting.done.is_set()
            await left.send(numbered(10))


async def receive_and_receive_many_can_be_mixed(make_pair: MakePair) -> None:
    """They take from one queue."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send_many([numbered(number) for number in range(20)])
        arrived: list[int] = []
        while len(arrived) < 20:
            arrived += await receive_numbers(right, 1)
            if len(arrived) < 20:
                arrived += numbers(await right.receive_many(3))
        assert arrived == list(range(20))


async def a_cancelled_receive_loses_nothing(make_pair: MakePair) -> None:
    """Cancelled at each place where it waits, with messages here and on their way."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send(numbered(0))
        await left.flush()
        await settle()
        for number in itertools.count():
            got: list[int] = []

            async def receive(into: list[int] = got) -> None:
                into += await receive_numbers(right, 1)

            if not await cancel_at(number, receive):
                assert got == [0]
                break
            assert not got, "received and cancelled at once"
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(right.receive)
                await settle()
                scope.cancel()
        await left.send(numbered(1))
        assert await receive_numbers(right, 1) == [1]


async def a_cancelled_receive_many_loses_nothing(make_pair: MakePair) -> None:
    """The same for several."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send_many([numbered(0), numbered(1)])
        await left.flush()
        await settle()
        got: list[int] = []

        async def receive() -> None:
            got.extend(numbers(await right.receive_many(2)))

        for number in itertools.count():
            before = len(got)
            if not await cancel_at(number, receive):
                break
            assert len(got) == before, "received and cancelled at once"
        got += await receive_numbers(right, 2 - len(got))
        assert got == [0, 1]


async def a_second_receiver_is_refused(make_pair: MakePair) -> None:
    """BusyResourceError for the second; the first goes on waiting."""
    async with make_pair(ChannelOptions()) as (left, right), trio.open_nursery() as nursery:
        first = outcome_of(nursery, right.receive)
        await settle()
        await expect(trio.BusyResourceError, right.receive)
        await expect(trio.BusyResourceError, right.receive_many)
        assert not first.done.is_set()
        await left.send(numbered(1))
        await first.done.wait()
        assert first.error is None
        await left.send(numbered(2))
        assert await receive_numbers(right, 1) == [2]


async def the_end_comes_after_all_messages_and_again(make_pair: MakePair) -> None:
    """`EndOfChannel` each time it is asked for, and the sending half still works."""
    async with make_pair(ChannelOptions()) as (left, right):
        if not left.can_send_eof:
            await expect(LocalProtocolError, left.send_eof)
            await left.send(numbered(1))
            assert await receive_numbers(right, 1) == [1]
            return
        await left.send(numbered(1))
        await left.send_eof()
        await left.send_eof()
        assert await receive_numbers(right, 1) == [1]
        for _ in range(2):
            await expect(trio.EndOfChannel, right.receive)
            await expect(trio.EndOfChannel, right.receive_many)
        assert right.state is ChannelState.CONNECTED
        await right.send(numbered(2))
        assert await receive_numbers(left, 1) == [2]
        await expect(trio.ClosedResourceError, lambda: left.send(numbered(3)))
        await expect(trio.ClosedResourceError, lambda: left.send_many([numbered(3)]))


async def half_close_flushes_first(make_pair: MakePair) -> None:
    """What was queued before `send_eof` arrives before the end."""
    async with make_pair(ChannelOptions()) as (left, right), trio.open_nursery() as nursery:
        if left.can_send_eof:
            await left.send_many([numbered(number, 100_000) for number in range(10)])
            ended = outcome_of(nursery, left.send_eof)
            assert await receive_numbers(right, 10) == list(range(10))
            await expect(trio.EndOfChannel, right.receive)
            await ended.done.wait()
            assert ended.error is None


async def iterating_ends_with_the_channel(make_pair: MakePair) -> None:
    """``async for`` stops without an exception when the peer has closed."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send_many([numbered(1), numbered(2)])
        await left.aclose()
        assert [numbers([message]) async for message in right] == [[1], [2]]


async def a_waiting_receiver_sees_the_peer_close(make_pair: MakePair) -> None:
    """A close is an end, not a failure, when nothing was unread."""
    async with make_pair(ChannelOptions()) as (left, right), trio.open_nursery() as nursery:
        waiting = outcome_of(nursery, right.receive)
        await settle()
        await left.aclose()
        await waiting.done.wait()
        assert isinstance(waiting.error, trio.EndOfChannel)


async def a_waiting_receiver_sees_the_peer_abort(make_pair: MakePair) -> None:
    """It ends or fails; it does not hang."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send(numbered(1))
        assert await receive_numbers(right, 1) == [1]
        left.abort()
        assert isinstance(await end_of(right), trio.EndOfChannel | ChannelBroken)


async def sending_to_a_peer_that_closed_fails_in_the_end(make_pair: MakePair) -> None:
    """With an exception that is both ours and Trio's; the channel then has failed."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.aclose()
        assert isinstance(await end_of(right), trio.EndOfChannel)

        async def send() -> None:
            while True:
                await right.send(numbered(1, 1000))

        error = await expect(ChannelBroken, send)
        assert isinstance(error, trio.BrokenResourceError)
        assert right.state is ChannelState.FAILED
        assert error.__cause__ is right.failure
        await expect(type(error), lambda: right.send(numbered(2)))
        assert not right.is_connected


RECEIVING_CHECKS: list[Check] = [
    receive_many_returns_what_is_here,
    receive_and_receive_many_can_be_mixed,
    a_cancelled_receive_loses_nothing,
    a_cancelled_receive_many_loses_nothing,
    a_second_receiver_is_refused,
    the_end_comes_after_all_messages_and_again,
    half_close_flushes_first,
    iterating_ends_with_the_channel,
    a_waiting_receiver_sees_the_peer_close,
    a_waiting_receiver_sees_the_peer_abort,
    sending_to_a_peer_that_closed_fails_in_the_end,
]
