"""Channels in memory: order, bounds, and one receiver at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from notes import drain, note, notes

from trio_mcp_transport.abc import (
    ChannelCapabilities,
    ChannelContext,
    ChannelState,
    ChannelStatistics,
    ConnectionLost,
    IdleTimeout,
    OutboxOverflow,
    WriteTimeout,
)
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.transports.memory_channel import memory_channel_pair

# -- messages -----------------------------------------------------------------------


async def test_messages_go_over_by_reference_and_in_order() -> None:
    one, other = memory_channel_pair()
    sent: list[Message] = [
        Request(1, "work", {"key": object()}),
        Notification("hello"),
        Response("a", [1, 2]),
        ErrorResponse(None, ErrorObject(-32700, "no")),
    ]
    for message in sent:
        await one.send(message)
    for message in sent:
        assert await other.receive() is message


async def test_both_directions_are_independent() -> None:
    one, other = memory_channel_pair(max_messages=1)
    await one.send(note(1))
    await other.send(note(2))
    assert await one.receive() == note(2)
    assert await other.receive() == note(1)


async def test_what_is_no_message_is_refused_and_nothing_is_sent() -> None:
    one, other = memory_channel_pair()
    with pytest.raises(TypeError, match="not a message: dict"):
        await one.send({"method": "hello"})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await one.send_many([note(1), "no"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        one.send_control(b"{}")  # type: ignore[arg-type]
    assert other.statistics().inbox_messages == 0


async def test_receiving_many_takes_what_is_there() -> None:
    one, other = memory_channel_pair()
    await one.send_many(notes(10))
    assert await other.receive_many(4) == notes(4)
    assert await other.receive_many() == notes(6, 4)
    with pytest.raises(ValueError, match="max_messages"):
        await other.receive_many(0)


async def test_receiving_many_waits_for_the_first_only() -> None:
    one, other = memory_channel_pair()
    received: list[list[Message]] = []

    async def receive() -> None:
        received.append(await other.receive_many())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await one.send(note(1))
    assert received == [[note(1)]]


async def test_every_operation_is_a_checkpoint() -> None:
    one, other = memory_channel_pair()
    operations: list[Callable[[], Awaitable[object]]] = [
        lambda: one.send(note(1)),
        lambda: one.send_many([]),
        lambda: one.send_many(notes(2)),
        one.flush,
        other.receive,
        other.receive_many,
        one.send_eof,
        one.send_eof,
        lambda: one.wait_state(ChannelState.CONNECTED),
        one.aclose,
        one.aclose,
    ]
    for operation in operations:
        with trio.testing.assert_checkpoints():
            await operation()
    with trio.testing.assert_checkpoints(), pytest.raises(trio.EndOfChannel):
        await other.receive()


# -- bounds -------------------------------------------------------------------------


async def test_a_full_queue_holds_the_sender_until_there_is_room() -> None:
    one, other = memory_channel_pair(max_messages=2)
    await one.send_many(notes(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, note(2))
        await trio.testing.wait_all_tasks_blocked()
        assert other.statistics().inbox_messages == 2
        assert await other.receive() == note(0)
        assert other.statistics().inbox_messages == 2  # queued on behalf of the sender
    assert await other.receive_many() == notes(2, 1)


async def test_senders_in_line_are_served_first_come_first() -> None:
    one, other = memory_channel_pair(max_messages=3)
    await one.send_many(notes(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_many, notes(3, 2))  # does not fit
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(one.send, note(5))  # would fit, but may not overtake
        await trio.testing.wait_all_tasks_blocked()
        received: list[Message] = []
        while len(received) < 6:
            received += await other.receive_many(1)
    assert received == notes(6)


async def test_more_at_once_than_the_queue_holds_goes_when_it_is_empty() -> None:
    one, other = memory_channel_pair(max_messages=2)
    await one.send_many(notes(5))
    assert await other.receive_many() == notes(5)
    await one.send(note(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_many, notes(5, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert other.statistics().inbox_messages == 1
        assert await other.receive() == note(0)
    assert await other.receive_many() == notes(5, 1)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancelled_send_has_queued_nothing(waits: bool) -> None:
    one, other = memory_channel_pair(max_messages=1)
    if waits:
        await one.send(note(0))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

            if waits:
                nursery.start_soon(cancel)
            else:
                scope.cancel()
            await one.send_many(notes(2, 1))
    assert scope.cancelled_caught
    await one.aclose()
    assert await drain(other) == (notes(1) if waits else [])


async def test_a_sender_that_gives_up_its_place_lets_the_next_one_in() -> None:
    one, other = memory_channel_pair(max_messages=3)
    await one.send_many(notes(2))
    large = trio.CancelScope()

    async def send_much() -> None:
        with large:
            await one.send_many(notes(9, 100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_much)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(one.send, note(2))
        await trio.testing.wait_all_tasks_blocked()
        large.cancel()
    assert large.cancelled_caught
    assert await other.receive_many() == notes(3)


async def test_a_full_queue_closes_the_channel_where_that_is_the_policy() -> None:
    one, other = memory_channel_pair(ChannelOptions(when_full="close"), max_messages=2)
    await one.send_many(notes(2))
    with pytest.raises(OutboxOverflow) as caught:
        await one.send(note(2))
    assert one.state is ChannelState.FAILED
    assert caught.value.__cause__ is one.failure
    with pytest.raises(OutboxOverflow):
        await one.send(note(3))
    # What was queued is delivered before the loss is.
    assert await other.receive_many() == notes(2)
    with pytest.raises(ConnectionLost):
        await other.receive()


async def test_control_messages_pass_a_full_queue_but_keep_their_place() -> None:
    one, other = memory_channel_pair(max_messages=2)
    await one.send_many(notes(2))
    one.send_control(note(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, note(3))
        await trio.testing.wait_all_tasks_blocked()
        assert await other.receive_many(1) == notes(1)
        await trio.testing.wait_all_tasks_blocked()
        assert await other.receive_many() == notes(3, 1)
    # The control message took no room of the others.
    assert one.statistics().messages_sent == 4


async def test_too_many_control_messages_end_the_channel() -> None:
    one, other = memory_channel_pair(max_messages=1)
    for number in range(1000):
        one.send_control(note(number))
    with pytest.raises(OutboxOverflow, match="control lane"):
        one.send_control(note(1000))
    assert one.statistics().messages_sent == 1000
    assert one.state is ChannelState.FAILED
    assert len(await other.receive_many(5000)) == 1000


async def test_control_messages_that_were_received_make_room_for_others() -> None:
    one, other = memory_channel_pair(max_messages=1)
    for _ in range(3):
        for number in range(1000):
            one.send_control(note(number))
        assert await other.receive_many() == notes(1000)


async def test_a_send_that_the_peer_makes_no_room_for_ends_the_channel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = memory_channel_pair(ChannelOptions(write_timeout=10), max_messages=1)
    await one.send(note(0))
    with pytest.raises(WriteTimeout, match="10 s"):
        await one.send(note(1))
    assert trio.current_time() == 10
    assert isinstance(one.failure, WriteTimeout)
    assert isinstance(other.failure, ConnectionLost)


async def test_a_slow_peer_is_not_a_stalled_one(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_channel_pair(ChannelOptions(write_timeout=10), max_messages=1)
    received: list[Message] = []
    await one.send(note(0))
    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            nursery.start_soon(one.send, note(number))
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(6):
            await trio.sleep(9)
            received.append(await other.receive())
    assert received == notes(6)
    assert one.state is ChannelState.CONNECTED


async def test_whoever_is_next_in_line_is_timed_from_when_the_peer_took_something(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = memory_channel_pair(ChannelOptions(write_timeout=10), max_messages=1)
    await one.send(note(0))

    async def expect_timeout() -> None:
        with pytest.raises(WriteTimeout):
            await one.send(note(2))

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, note(1))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(expect_timeout)
            await trio.sleep(9)
            assert await other.receive() == note(0)
    assert trio.current_time() == 19


async def test_a_receive_that_gets_nothing_for_too_long_ends_the_channel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = memory_channel_pair(ChannelOptions(idle_read_timeout=10))
    await trio.sleep(100)  # nobody receives: nobody is idle
    await one.send(note(1))
    assert await other.receive() == note(1)
    with pytest.raises(IdleTimeout, match="10 s"):
        await other.receive()
    assert trio.current_time() == 110
    assert isinstance(other.failure, IdleTimeout)
    with pytest.raises(IdleTimeout):
        await other.receive()


# -- receiving ----------------------------------------------------------------------


async def test_a_cancelled_receive_loses_nothing() -> None:
    one, other = memory_channel_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await other.receive()
    await one.send(note(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await other.receive()
    assert scope.cancelled_caught
    assert await other.receive() == note(1)


async def test_a_receive_that_is_cancelled_as_a_message_comes_returns_it() -> None:
    one, other = memory_channel_pair()
    received: list[Message] = []
    scope = trio.CancelScope()

    async def receive() -> None:
        with scope:
            received.append(await other.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        one.send_control(note(1))
        scope.cancel()
    assert received == [note(1)]


async def test_one_task_receives_at_a_time() -> None:
    one, other = memory_channel_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.receive)
        await trio.testing.wait_all_tasks_blocked()
        for operation in (other.receive, other.receive_many):
            with pytest.raises(trio.BusyResourceError):
                await operation()
        one.send_control(note(1))
        # Woken but not run yet, the first receiver is still receiving.
        with pytest.raises(trio.BusyResourceError):
            await other.receive()


async def test_two_receivers_of_a_full_inbox_do_not_share_a_message() -> None:
    one, other = memory_channel_pair()
    await one.send(note(1))
    outcomes: list[object] = []

    async def receive() -> None:
        try:
            outcomes.append(await other.receive())
        except trio.BusyResourceError as error:
            outcomes.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
    assert sorted(outcomes, key=str) == sorted([trio.BusyResourceError, note(1)], key=str)


# -- facts --------------------------------------------------------------------------


async def test_the_facts_are_true() -> None:
    options = ChannelOptions(close_timeout=1)
    one, other = memory_channel_pair(options)
    assert one.session_id.startswith("memory-")
    assert one.session_id != other.session_id
    assert one.options is options
    assert one.context == ChannelContext(transport="memory")
    assert one.can_send_eof
    assert one.capabilities == ChannelCapabilities(
        max_message_bytes=None, half_close=True, framing=None
    )
    await one.send_many(notes(3))
    await other.receive()
    assert other.statistics() == ChannelStatistics(
        messages_sent=0,
        messages_received=1,
        bytes_sent=0,
        bytes_received=0,
        malformed_received=0,
        outbox_bytes=0,
        inbox_messages=2,
    )
    assert one.statistics().messages_sent == 3


def test_a_pair_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_messages"):
        memory_channel_pair(max_messages=0)


async def test_a_dropped_pair_is_garbage() -> None:
    one, other = memory_channel_pair()
    await one.send(note(1))
    gone = weakref.ref(one)
    del one, other
    gc.collect()
    assert gone() is None


async def test_many_messages_leave_nothing_behind() -> None:
    one, other = memory_channel_pair()
    for round_ in range(1000):
        one.send_control(note(round_))
        await one.send_many(notes(50))
        await other.receive_many()
    assert one.statistics().messages_sent == other.statistics().messages_received == 51_000
    assert not one._outbox._control
    assert not one._outbox.queue
