"""The accept loop: it outlives every connection, and every connection is closed.

The loop is driven by a listener of which the test decides what each accept does.
"""

from __future__ import annotations

import errno
import logging
import os
from functools import partial

import pytest
import trio
import trio.testing

from trio_mcp_transport.abc import (
    ChannelBroken,
    ChannelContext,
    ChannelEvent,
    ChannelState,
    ConnectionLost,
    MessageChannel,
    MessageListener,
)
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.jsonrpc import Notification
from trio_mcp_transport.transports.accept import (
    ServingListener,
    serve_listener,
)
from trio_mcp_transport.transports.memory_channel import MemoryChannel, memory_channel_pair

HELLO = Notification("hello")


class ScriptedListener(MessageListener):
    """Accepts what the test puts in: a channel, or an exception to raise."""

    def __init__(self) -> None:
        self._put, self._get = trio.open_memory_channel[MemoryChannel | Exception](1000)
        self.nurseries: list[trio.Nursery] = []
        self.accepts = 0

    @property
    def endpoint(self) -> str:
        return "memory:scripted"

    def arrive(self) -> MemoryChannel:
        """A client connects; returns its side."""
        client, server = memory_channel_pair()
        self._put.send_nowait(server)
        return client

    def fail(self, error: Exception) -> None:
        self._put.send_nowait(error)

    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        self.accepts += 1
        self.nurseries.append(nursery)
        arrived = await self._get.receive()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    async def aclose(self) -> None:
        self._get.close()
        self._put.close()
        await trio.lowlevel.checkpoint()


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        await channel.send(message)


async def sleep_forever(channel: MessageChannel) -> None:
    await trio.sleep_forever()


async def test_it_says_where_it_serves_and_how_many() -> None:
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(serve_listener, listener, echo)
        assert isinstance(serving, ServingListener)
        assert serving.endpoint == "memory:scripted"
        assert serving.listener is listener
        first, second = listener.arrive(), listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        assert (serving.open_connections, serving.accepted) == (2, 2)
        await first.send(HELLO)
        assert await first.receive() is HELLO
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (serving.open_connections, serving.accepted) == (1, 2)
        await second.aclose()
        nursery.cancel_scope.cancel()


async def test_each_connection_has_a_nursery_of_its_own_that_ends_with_it() -> None:
    listener = ScriptedListener()
    served: list[MessageChannel] = []

    async def handler(channel: MessageChannel) -> None:
        # As a writer that hangs would be: it must not hold the place of a closed channel.
        listener.nurseries[len(served)].start_soon(trio.sleep_forever)
        served.append(channel)
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        serving = await nursery.start(serve_listener, listener, handler)
        first, second = listener.arrive(), listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        assert listener.nurseries[0] is not listener.nurseries[1]
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert serving.open_connections == 1
        assert served[0].state is ChannelState.CLOSED
        assert served[1].state is ChannelState.CONNECTED
        await second.aclose()
        nursery.cancel_scope.cancel()


async def test_when_a_handler_returns_the_channel_is_closed_gracefully() -> None:
    async def handler(channel: MessageChannel) -> None:
        await channel.send(HELLO)

    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_listener, listener, handler)
        client = listener.arrive()
        assert await client.receive() is HELLO
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_channel_may_leave_the_handler() -> None:
    async def handler(channel: MessageChannel) -> None:
        while True:
            await channel.send(await channel.receive())

    events: list[ChannelEvent] = []
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, handler)
        client = listener.arrive()
        await client.send(HELLO)
        await client.send_eof()
        assert [message async for message in client] == [HELLO]
        nursery.cancel_scope.cancel()
    assert events == []


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_handlers_exception_is_reported_and_the_others_go_on(grouped: bool) -> None:
    events: list[ChannelEvent] = []
    bug = ValueError("a bug")
    served: list[MessageChannel] = []

    async def handler(channel: MessageChannel) -> None:
        served.append(channel)
        if len(served) == 2:
            await echo(channel)
        elif grouped:
            async with trio.open_nursery() as inner:

                async def fail() -> None:
                    await trio.lowlevel.checkpoint()
                    raise bug

                inner.start_soon(fail)
                inner.start_soon(trio.sleep_forever)
        raise bug

    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, handler)
        failing = listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ConnectionLost):
            await failing.receive()
        working = listener.arrive()
        await working.send(HELLO)
        assert await working.receive() is HELLO
        nursery.cancel_scope.cancel()
    [event] = events
    assert event.name == "handler.failed"
    assert event.error is bug
    assert event.context == ChannelContext(transport="memory")
    assert served[0].state is ChannelState.CLOSED


async def test_several_exceptions_of_one_handler_are_reported_together() -> None:
    events: list[ChannelEvent] = []

    async def handler(channel: MessageChannel) -> None:
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])

    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, handler)
        listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    [event] = events
    assert isinstance(event.error, ExceptionGroup)
    assert [type(error) for error in event.error.exceptions] == [ValueError, KeyError]


async def test_a_peer_that_goes_away_is_no_fault_of_the_handler() -> None:
    events: list[ChannelEvent] = []
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, echo)
        client = listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        client.abort()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    [event] = events
    assert event.name == "connection.lost"
    assert isinstance(event.error, ConnectionLost)


async def test_another_channels_loss_is_a_failure_of_the_handler() -> None:
    events: list[ChannelEvent] = []

    async def handler(channel: MessageChannel) -> None:
        await trio.lowlevel.checkpoint()
        raise ChannelBroken("a channel of the handler's own")

    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, handler)
        listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [event.name for event in events] == ["handler.failed"]


async def test_without_an_event_handler_a_failure_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(channel: MessageChannel) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("a bug")

    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_listener, listener, handler)
        listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("trio_mcp_transport", logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_an_event_handler_that_raises_kills_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_event(event: ChannelEvent) -> None:
        raise RuntimeError("a bug in the event handler")

    async def handler(channel: MessageChannel) -> None:
        if isinstance(await channel.receive(), Notification):
            raise ValueError("a bug in the handler")

    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(partial(serve_listener, on_event=on_event), listener, handler)
        for _ in range(2):
            client = listener.arrive()
            await client.send(HELLO)
            await trio.testing.wait_all_tasks_blocked()
        assert (serving.open_connections, serving.accepted) == (0, 2)
        nursery.cancel_scope.cancel()
    assert any("a bug in the event handler" in str(record.exc_info) for record in caplog.records)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_leaves_the_boundary(kind: type[BaseException]) -> None:
    async def handler(channel: MessageChannel) -> None:
        await trio.lowlevel.checkpoint()
        raise kind

    listener = ScriptedListener()
    client = listener.arrive()
    with pytest.RaisesGroup(kind, flatten_subgroups=True):
        await serve_listener(listener, handler)
    assert client.state is ChannelState.FAILED


async def test_cancelling_aborts_all_connections_and_closes_the_listener() -> None:
    listener = ScriptedListener()
    clients: list[MemoryChannel] = []
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(serve_listener, listener, sleep_forever)
        clients += [listener.arrive(), listener.arrive()]
        await trio.testing.wait_all_tasks_blocked()
        assert serving.open_connections == 2
        nursery.cancel_scope.cancel()
    assert serving.open_connections == 0
    assert [client.state for client in clients] == [ChannelState.FAILED] * 2
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept(nursery)


async def test_closing_the_listener_ends_the_loop_once_its_connections_have_ended() -> None:
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(serve_listener, listener, echo)
        client = listener.arrive()
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
        await trio.testing.wait_all_tasks_blocked()
        await client.send(HELLO)  # still served
        assert await client.receive() is HELLO
        assert serving.open_connections == 1
        await client.aclose()
    assert serving.open_connections == 0


async def test_connections_in_a_nursery_of_the_callers_outlive_the_loop() -> None:
    listener = ScriptedListener()
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            serving = await accepting.start(
                partial(serve_listener, handler_nursery=connections), listener, echo
            )
            client = listener.arrive()
            await trio.testing.wait_all_tasks_blocked()
            accepting.cancel_scope.cancel()
        assert serving.open_connections == 1
        await client.send(HELLO)
        assert await client.receive() is HELLO
        await client.aclose()
    assert serving.open_connections == 0


async def test_at_the_cap_nothing_is_accepted_until_a_connection_ends() -> None:
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(partial(serve_listener, max_connections=2), listener, echo)
        first, second, third = (listener.arrive() for _ in range(3))
        await third.send(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        assert (serving.open_connections, listener.accepts) == (2, 2)
        await second.aclose()
        assert await third.receive() is HELLO
        assert serving.open_connections == 2
        await first.aclose()
        await third.aclose()
        nursery.cancel_scope.cancel()


async def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_connections"):
        await serve_listener(ScriptedListener(), echo, max_connections=0)


async def test_a_failed_accept_gives_its_place_back() -> None:
    events: list[ChannelEvent] = []
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listener, max_connections=1, on_event=events.append)
        await nursery.start(serve, listener, echo)
        for _ in range(3):
            listener.fail(ConnectFailed("a handshake failed"))
        client = listener.arrive()
        await client.send(HELLO)
        assert await client.receive() is HELLO
        await client.aclose()
        nursery.cancel_scope.cancel()
    assert [event.name for event in events] == ["accept.failed"] * 3
    assert "a handshake failed" in events[0].message
    assert isinstance(events[0].error, ConnectFailed)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_without_room_it_waits_and_goes_on(
    number: int, autojump_clock: trio.testing.MockClock
) -> None:
    events: list[ChannelEvent] = []
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, echo)
        for _ in range(5):
            listener.fail(OSError(number, os.strerror(number)))
        client = listener.arrive()
        start = trio.current_time()
        await client.send(HELLO)
        assert await client.receive() is HELLO
        assert trio.current_time() - start == pytest.approx(0.5)
        # Reported once for the five, and again after it had worked.
        listener.fail(OSError(number, os.strerror(number)))
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        nursery.cancel_scope.cancel()
    assert [event.name for event in events] == ["accept.failed"] * 2
    assert isinstance(events[0].error, OSError)
    assert events[0].error.errno == number


async def test_a_connection_that_was_aborted_early_costs_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    events: list[ChannelEvent] = []
    listener = ScriptedListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listener, on_event=events.append), listener, echo)
        listener.fail(OSError(errno.ECONNABORTED, "aborted"))
        client = listener.arrive()
        await client.send(HELLO)
        assert await client.receive() is HELLO
        assert trio.current_time() == 0
        await client.aclose()
        nursery.cancel_scope.cancel()
    assert [event.name for event in events] == ["accept.failed"]


async def test_a_broken_listener_ends_the_loop_with_its_error() -> None:
    listener = ScriptedListener()
    broken = OSError(errno.EINVAL, "not listening")
    client = listener.arrive()
    listener.fail(broken)
    with pytest.raises(OSError, match="not listening") as caught:
        await serve_listener(listener, echo)
    assert caught.value is broken
    assert client.state is ChannelState.FAILED
