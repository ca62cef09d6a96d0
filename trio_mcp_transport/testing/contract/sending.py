"""Contract: what is sent arrives whole, in order, once; what is cancelled never does."""

from __future__ import annotations

import itertools

import msgspec
import trio

from ...abc import ChannelState, OutboxOverflow
from ...errors import MessageTooLarge
from ...jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
    encode_message,
)
from ...limits import ChannelOptions
from ..faults import cancel_at
from .support import (
    FLOOD_BYTES,
    FLOOD_MESSAGES,
    Check,
    MakePair,
    cancelled,
    encoded,
    expect,
    flooded,
    numbered,
    numbers,
    outcome_of,
    receive_numbers,
    settle,
)

__all__ = ["SENDING_CHECKS"]

_ALL_KINDS: list[Message] = [
    Request(id=1, method="tools/call", params={"name": "echo", "arguments": {"text": "ä\n☃"}}),
    Request(id="1", method="ping"),
    Notification("notifications/initialized"),
    Notification("notifications/message", params={"level": "info", "data": [1, 2.5, None, True]}),
    Response(id=1, result={"content": []}),
    Response(id="1", result=None),
    ErrorResponse(id=2, error=ErrorObject(-32601, "no such method")),
    ErrorResponse(id=None, error=ErrorObject(-32700, "not JSON", data={"at": 0})),
]


async def every_kind_of_message_arrives_as_it_was_sent(make_pair: MakePair) -> None:
    """Requests, notifications, results and errors; ids keep their type; both directions."""
    async with make_pair(ChannelOptions()) as pair:
        for sender, receiver in (pair, pair[::-1]):
            for message in _ALL_KINDS:
                await sender.send(message)
            for message in _ALL_KINDS:
                arrived = await receiver.receive()
                assert type(arrived) is type(message)
                assert encoded(arrived) == encoded(message)


async def raw_params_with_line_feeds_arrive(make_pair: MakePair) -> None:
    """White space between JSON tokens may be lost, nothing else."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send(Request(1, "raw", msgspec.Raw(b'{\n  "text":\t"a\\nb"\n}')))
        arrived = await right.receive()
        assert isinstance(arrived, Request)
        assert arrived.params_as(dict[str, str]) == {"text": "a\nb"}


async def messages_arrive_in_order(make_pair: MakePair) -> None:
    """Single sends and `send_many` mixed."""
    async with make_pair(ChannelOptions()) as (left, right), trio.open_nursery() as nursery:

        async def send() -> None:
            for number in range(0, 300, 3):
                await left.send(numbered(number))
                await left.send_many([numbered(number + 1), numbered(number + 2)])

        nursery.start_soon(send)
        assert await receive_numbers(right, 300) == list(range(300))


async def messages_of_many_senders_keep_each_senders_order(make_pair: MakePair) -> None:
    """Senders that wait for room are served first come first served, and none is lost."""
    async with (
        make_pair(ChannelOptions(outbox_bytes=4096)) as (left, right),
        trio.open_nursery() as nursery,
    ):

        async def send(first: int) -> None:
            for number in range(first, first + 50):
                await left.send(numbered(number, 500))

        for sender in range(8):
            nursery.start_soon(send, 1000 * sender)
        arrived = await receive_numbers(right, 8 * 50)
    for sender in range(8):
        own = [number for number in arrived if number // 1000 == sender]
        assert own == list(range(1000 * sender, 1000 * sender + 50))


async def large_messages_pass_in_both_directions_at_once(make_pair: MakePair) -> None:
    """Two sides that both send before they read do not lock each other up."""
    async with make_pair(ChannelOptions()) as pair, trio.open_nursery() as nursery:
        for channel in pair:
            nursery.start_soon(channel.send, numbered(1, 1_500_000))
        await settle()
        for channel in pair:
            arrived = await channel.receive()
            assert isinstance(arrived, Request)
            assert len(encode_message(arrived)) > 1_500_000


async def send_returns_when_queued_and_flush_when_taken(make_pair: MakePair) -> None:
    """A few small messages wait for nobody, although the peer does not receive."""
    async with make_pair(ChannelOptions()) as (left, right):
        for number in range(10):
            await left.send(numbered(number))
        await left.flush()
        assert left.statistics().outbox_bytes == 0
        assert await receive_numbers(right, 10) == list(range(10))


async def send_many_of_nothing_sends_nothing(make_pair: MakePair) -> None:
    """An empty sequence is allowed."""
    async with make_pair(ChannelOptions()) as (left, right):
        await left.send_many([])
        await left.send(numbered(1))
        assert await receive_numbers(right, 1) == [1]
        assert left.statistics().messages_sent == 1


async def a_cancelled_send_has_queued_nothing(make_pair: MakePair) -> None:
    """Cancelled at each place where `send` waits: it arrives if and only if not cancelled."""
    async with make_pair(ChannelOptions()) as (left, right):
        for number in itertools.count():
            was_cancelled = await cancel_at(number, left.send, numbered(number))
            await left.send(numbered(-1))
            expected = [-1] if was_cancelled else [number, -1]
            assert await receive_numbers(right, len(expected)) == expected
            if not was_cancelled:
                break


async def a_cancelled_send_many_has_queued_nothing(make_pair: MakePair) -> None:
    """The same for several: all or none."""
    async with make_pair(ChannelOptions()) as (left, right):
        for number in itertools.count():
            batch = [numbered(number), numbered(number + 1000)]
            was_cancelled = await cancel_at(number, left.send_many, batch)
            await left.send(numbered(-1))
            expected = [-1] if was_cancelled else [number, number + 1000, -1]
            assert await receive_numbers(right, len(expected)) == expected
            if not was_cancelled:
                break


async def a_send_that_is_cancelled_while_it_waits_for_room_has_queued_nothing(
    make_pair: MakePair,
) -> None:
    """Those behind it in line are not disturbed."""
    async with (
        make_pair(ChannelOptions()) as (left, right),
        flooded(left) as (nursery, queued),
    ):
        scopes = [trio.CancelScope(), trio.CancelScope()]

        async def cancelled_send() -> None:
            with scopes[0]:
                await left.send(numbered(-1, FLOOD_BYTES))

        async def cancelled_send_many() -> None:
            with scopes[1]:
                await left.send_many([numbered(-2, FLOOD_BYTES), numbered(-3, FLOOD_BYTES)])

        nursery.start_soon(cancelled_send)
        nursery.start_soon(cancelled_send_many)
        await settle()
        last = outcome_of(nursery, lambda: left.send(numbered(-4)))
        await settle()
        assert not last.done.is_set(), "nothing may overtake those who wait for room"
        for scope in scopes:
            scope.cancel()
        await settle()
        assert [scope.cancelled_caught for scope in scopes] == [True, True]
        assert not last.done.is_set()
        arrived = await receive_numbers(right, FLOOD_MESSAGES + 1)
        assert last.done.is_set()
        assert [number for number in arrived if number < 0] == [-4]
        assert [number for number in arrived if number >= 0] == list(range(FLOOD_MESSAGES))
        assert queued == list(range(FLOOD_MESSAGES))


async def a_slow_reader_holds_senders_up_and_loses_nothing(make_pair: MakePair) -> None:
    """With ``when_full="block"``; the outbox keeps within its bound meanwhile."""
    options = ChannelOptions(outbox_bytes=4 * FLOOD_BYTES)
    async with make_pair(options) as (left, right), flooded(left) as (_, queued):
        assert left.statistics().outbox_bytes <= options.outbox_bytes
        assert left.is_connected
        assert await receive_numbers(right, FLOOD_MESSAGES) == list(range(FLOOD_MESSAGES))
        await left.flush()
        assert len(queued) == FLOOD_MESSAGES


async def a_full_outbox_closes_the_channel_if_that_is_its_policy(make_pair: MakePair) -> None:
    """With ``when_full="close"`` the sender is told, and the channel has failed."""
    options = ChannelOptions(outbox_bytes=FLOOD_BYTES, when_full="close")
    async with make_pair(options) as (left, _):

        async def flood() -> None:
            for number in range(FLOOD_MESSAGES):
                await left.send(numbered(number, FLOOD_BYTES))

        error = await expect(OutboxOverflow, flood)
        assert left.state is ChannelState.FAILED
        assert isinstance(left.failure, OutboxOverflow)
        assert error is not left.failure
        assert error.__cause__ is left.failure


async def control_messages_pass_a_full_outbox(make_pair: MakePair) -> None:
    """`send_control` never waits, and what it sends arrives once, between whole messages."""
    async with make_pair(ChannelOptions()) as (left, right), flooded(left) as (_, _queued):
        for _ in range(3):
            left.send_control(cancelled())
        arrived = [await right.receive() for _ in range(FLOOD_MESSAGES + 3)]
        control = [message for message in arrived if isinstance(message, Notification)]
        others = [message for message in arrived if not isinstance(message, Notification)]
        assert [encoded(message) for message in control] == [encoded(cancelled())] * 3
        assert numbers(others) == list(range(FLOOD_MESSAGES))


async def the_control_lane_is_bounded_too(make_pair: MakePair) -> None:
    """A peer that takes not even that much is gone: the channel fails and says so."""
    filling = Notification("notifications/cancelled", {"reason": "x" * 500})
    async with make_pair(ChannelOptions()) as (left, _), flooded(left):
        raised: OutboxOverflow | None = None
        for _ in range(100_000):
            try:
                left.send_control(filling)
            except OutboxOverflow as error:
                raised = error
                break
        assert raised is not None
        assert left.state is ChannelState.FAILED
        assert raised.__cause__ is left.failure


async def a_message_over_the_limit_is_refused_and_the_channel_goes_on(
    make_pair: MakePair,
) -> None:
    """Nothing of it is queued; one exactly at the limit passes. Where there is a limit."""
    limit = 2000
    async with make_pair(ChannelOptions(max_message_bytes=limit)) as (left, right):
        if left.capabilities.max_message_bytes is None:
            return
        assert left.capabilities.max_message_bytes == limit
        overhead = len(encode_message(numbered(1)))
        fitting = numbered(1, limit - overhead)
        too_large = numbered(1, limit - overhead + 1)
        assert len(encode_message(fitting)) == limit
        error = await expect(MessageTooLarge, lambda: left.send(too_large))
        assert isinstance(error, MessageTooLarge)
        assert (error.size, error.limit) == (limit + 1, limit)
        await expect(MessageTooLarge, lambda: left.send_many([numbered(2), too_large]))
        try:
            left.send_control(too_large)
        except MessageTooLarge:
            pass
        else:
            raise AssertionError("send_control must refuse what is too large")
        assert left.is_connected
        await left.send(fitting)
        assert await receive_numbers(right, 1) == [1]
        await right.send(numbered(3))
        assert await receive_numbers(left, 1) == [3]


async def a_message_larger_than_the_outbox_is_admitted_when_nothing_waits(
    make_pair: MakePair,
) -> None:
    """The bound of the outbox never makes a legal message impossible."""
    async with make_pair(ChannelOptions(outbox_bytes=1000)) as (left, right):
        for number in (1, 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(left.send, numbered(number, 200_000))
                assert await receive_numbers(right, 1) == [number]


async def what_is_no_message_is_refused(make_pair: MakePair) -> None:
    """TypeError, nothing queued."""
    async with make_pair(ChannelOptions()) as (left, right):
        # What callers without a type checker pass by mistake.
        wrong: Message = {"jsonrpc": "2.0", "method": "x"}  # type: ignore[assignment]
        await expect(TypeError, lambda: left.send(wrong))
        await expect(TypeError, lambda: left.send_many([numbered(1), wrong]))
        await left.send(numbered(2))
        assert await receive_numbers(right, 1) == [2]


SENDING_CHECKS: list[Check] = [
    every_kind_of_message_arrives_as_it_was_sent,
    raw_params_with_line_feeds_arrive,
    messages_arrive_in_order,
    messages_of_many_senders_keep_each_senders_order,
    large_messages_pass_in_both_directions_at_once,
    send_returns_when_queued_and_flush_when_taken,
    send_many_of_nothing_sends_nothing,
    a_cancelled_send_has_queued_nothing,
    a_cancelled_send_many_has_queued_nothing,
    a_send_that_is_cancelled_while_it_waits_for_room_has_queued_nothing,
    a_slow_reader_holds_senders_up_and_loses_nothing,
    a_full_outbox_closes_the_channel_if_that_is_its_policy,
    control_messages_pass_a_full_outbox,
    the_control_lane_is_bounded_too,
    a_message_over_the_limit_is_refused_and_the_channel_goes_on,
    a_message_larger_than_the_outbox_is_admitted_when_nothing_waits,
    what_is_no_message_is_refused,
]
