"""Channels in memory: order, bounds, and each way for them to end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from trio_mcp_transport.abc import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelState,
    ChannelStatistics,
    ConnectionLost,
    IdleTimeout,
    OutboxOverflow,
    WriteTimeout,
)
from trio_mcp_transport.endpoints import MemoryEndpoint
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.transports.memory import connect, listen
from trio_mcp_transport.transports.memory_channel import MemoryChannel, memory_channel_pair


def note(number: int) -> Notification:
    return Notification(f"note/{number}")


def notes(count: int, start: int = 0) -> list[Message]:
    return [note(number) for number in range(start, start + count)]


async def drain(channel: MemoryChannel) -> list[Message]:
    return [message async for message in channel]


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


# -- the end ------------------------------------------------------------------------


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


# -- the hub ------------------------------------------------------------------------

NAME = MemoryEndpoint(name="server")


async def test_a_client_finds_whoever_listens_under_the_name() -> None:
    async with trio.open_nursery() as nursery, await listen(NAME, None) as listener:
        assert listener.endpoint == "memory:server"
        client = await connect(nursery, NAME, None)
        await client.send(note(1))  # not accepted yet, and yet not lost
        server = await listener.accept(nursery)
        assert await server.receive() == note(1)
        await server.send(note(2))
        assert await client.receive() == note(2)
        assert client.context == ChannelContext(transport="memory", peer_address="memory:server")
        assert server.context == ChannelContext(transport="memory", local_address="memory:server")


async def test_each_client_has_a_channel_of_its_own() -> None:
    async with trio.open_nursery() as nursery, await listen(NAME, None) as listener:
        clients = [await connect(nursery, NAME, None) for _ in range(3)]
        servers = [await listener.accept(nursery) for _ in range(3)]
        for number, server in enumerate(servers):
            await server.send(note(number))
        for number, client in enumerate(clients):
            assert await client.receive() == note(number)


async def test_each_side_has_its_own_options() -> None:
    served = MemoryEndpoint(name="x", max_messages=1, options=ChannelOptions(when_full="close"))
    called = MemoryEndpoint(name="x", max_messages=3)
    async with trio.open_nursery() as nursery, await listen(served, None) as listener:
        client = await connect(nursery, called, None)
        server = await listener.accept(nursery)
        assert (client.options, server.options) == (called.options, served.options)
        for number in range(3):
            await client.send(note(number))
        await server.send(note(0))
        with pytest.raises(OutboxOverflow):
            await server.send(note(1))


async def test_nobody_listening_is_a_failed_connect() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectFailed, match="cannot connect to memory:server: nobody"):
            await connect(nursery, NAME, None)


async def test_a_name_is_listened_on_once_and_given_back() -> None:
    async with await listen(NAME, None) as listener:
        with pytest.raises(ConnectFailed, match="somebody listens there already"):
            await listen(NAME, None)
        async with await listen(MemoryEndpoint(name="another"), None):
            pass
    await listener.aclose()
    async with await listen(NAME, None) as again:
        await listener.aclose()  # must not take the name from its new owner
        async with trio.open_nursery() as nursery:
            await connect(nursery, NAME, None)
            await again.accept(nursery)


async def test_closing_the_listener_refuses_those_who_wait() -> None:
    async with trio.open_nursery() as nursery:
        listener = await listen(NAME, None)
        client = await connect(nursery, NAME, None)

        async def accept_all() -> None:
            await listener.accept(nursery)
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept(nursery)

        nursery.start_soon(accept_all)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
        assert client.state is ChannelState.CONNECTED  # was accepted

        another = await listen(NAME, None)
        waiting = await connect(nursery, NAME, None)
        await another.aclose()
        assert isinstance(waiting.failure, ConnectionLost)


async def test_a_full_backlog_holds_the_client_and_cancelling_it_leaves_nothing() -> None:
    async with trio.open_nursery() as nursery, await listen(NAME, None) as listener:
        for _ in range(128):
            await connect(nursery, NAME, None)
        connected: list[object] = []

        async def connect_one_more() -> None:
            connected.append(await connect(nursery, NAME, None))

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(connect_one_more)
                await trio.testing.wait_all_tasks_blocked()
                assert not connected
                scope.cancel()
        nursery.start_soon(connect_one_more)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(129):
            await listener.accept(nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert len(connected) == 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await listener.accept(nursery)
        assert scope.cancelled_caught


def test_names_do_not_outlive_their_run() -> None:
    async def listen_and_forget() -> None:
        await listen(NAME, None)

    trio.run(listen_and_forget)
    trio.run(listen_and_forget)
