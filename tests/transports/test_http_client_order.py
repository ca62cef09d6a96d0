"""The HTTP client channel: what goes out when, what waits, and how it all ends."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
import trio
from scripted_server import JSON, URL, ScriptedServer, event, make_channel
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelBroken,
    ChannelEvent,
    ChannelOptions,
    ChannelState,
    ConnectionLost,
    ErrorResponse,
    IdleTimeout,
    InboxStalled,
    Message,
    Notification,
    OutboxOverflow,
    Request,
    Response,
    decode_message,
)
from trio_mcp_transport.limits import CONTROL_LANE_BYTES
from trio_mcp_transport.transports.http_client_channel import HttpClientChannel

pytestmark = pytest.mark.channel


_SENDER: ContextVar[str] = ContextVar("_SENDER", default="nobody")


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


def methods(server: ScriptedServer) -> list[str]:
    return [exchange.rpc_method for exchange in server.seen]


# -- Order ---------------------------------------------------------------------------


async def test_what_is_sent_after_a_notification_waits_until_the_server_has_it(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Notification("one"))
    await channel.send(Request(1, "two"))
    await channel.send(Notification("three"))
    await wait_all_tasks_blocked()
    assert methods(server) == ["one"]
    (await server.next("one")).respond(202)
    await wait_all_tasks_blocked()
    assert methods(server) == ["one", "two", "three"]
    channel.abort()


async def test_what_had_to_wait_goes_out_with_the_context_of_its_sender(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, max_exchanges=3)
    senders: dict[str, str] = {}

    def note(body: bytes) -> None:
        message = decode_message(body)
        assert isinstance(message, Request | Notification)
        senders[message.method] = _SENDER.get()

    server.on_request = note

    async def send(name: str, message: Message) -> None:
        _SENDER.set(name)
        await channel.send(message)

    await send("first", Notification("first"))
    await send("second", Request(1, "second"))  # waits in the queue
    nursery.start_soon(send, "third", Request(2, "third"))
    await wait_all_tasks_blocked()
    nursery.start_soon(send, "fourth", Request(3, "fourth"))  # waits for admission
    await wait_all_tasks_blocked()
    _SENDER.set("nobody")
    (await server.next("first")).respond(202)
    for name in ("second", "third", "fourth"):
        (await server.next(name)).answer({})
    assert senders == {name: name for name in ("first", "second", "third", "fourth")}
    channel.abort()


async def test_a_notification_waits_until_what_was_sent_before_is_written(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    server.unwritten = True
    await channel.send(Request(1, "one"))
    await channel.send(Notification("two"))
    await wait_all_tasks_blocked()
    assert methods(server) == ["one"]
    assert channel.statistics().outbox_bytes > 0
    (await server.next("one")).begin(200, JSON)
    await server.next("two")
    channel.abort()


async def test_nothing_but_ping_goes_out_before_initialize_is_answered(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Request(0, "initialize"))
    await channel.send(Request(1, "ping"))
    await channel.send(Request(2, "other"))
    await channel.send(Request(3, "ping"))
    await wait_all_tasks_blocked()
    assert sorted(methods(server)) == ["initialize", "ping", "ping"]
    (await server.next("initialize")).answer({"protocolVersion": "2025-06-18"})
    assert (await server.next("other")).headers["mcp-protocol-version"] == "2025-06-18"
    channel.abort()


async def test_a_request_that_waits_in_line_is_cancelled_without_a_word(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Notification("one"))
    await channel.send(Request(1, "two"))
    channel.send_control(Notification("notifications/cancelled", {"requestId": 1}))
    (await server.next("one")).respond(202)
    await wait_all_tasks_blocked()
    assert methods(server) == ["one"]
    assert channel.statistics().inbox_messages == 0
    await channel.flush()
    channel.abort()


async def test_a_request_that_is_not_written_yet_is_cancelled_without_a_word(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    server.unwritten = True
    await channel.send(Request(1, "one"))
    one = await server.next("one")
    channel.send_control(Notification("notifications/cancelled", {"requestId": 1}))
    await one.left.wait()
    await wait_all_tasks_blocked()
    assert server.is_idle
    await channel.flush()
    channel.abort()


async def test_a_notification_that_fails_is_reported_and_holds_nothing_up(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(Notification("one"))
    await channel.send(Request(1, "two"))
    (await server.next("one")).respond(500)
    await server.next("two")
    assert [found.name for found in events] == ["send.failed"]
    channel.abort()


async def test_a_server_that_does_not_take_a_notification_holds_nothing_up_for_ever(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = make_channel(nursery, server, [], delivery_timeout=7)
    await channel.send(Notification("one"))
    await channel.send(Request(1, "two"))
    before = trio.current_time()
    await server.next("one")
    await server.next("two")
    assert trio.current_time() - before == pytest.approx(7)
    channel.abort()


# -- Admission -----------------------------------------------------------------------


async def test_over_the_limit_senders_wait_in_line(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, max_exchanges=2)
    await channel.send_many([Request(1, "a"), Request(2, "b")])
    assert not channel.try_send(Request(3, "c"))
    sent: list[str] = []

    async def send(request_id: int, method: str) -> None:
        await channel.send(Request(request_id, method))
        sent.append(method)

    for request_id, method in ((3, "c"), (4, "d")):
        nursery.start_soon(send, request_id, method)
        await wait_all_tasks_blocked()
    assert sent == []
    channel.send_control(Notification("control"))  # passes them
    (await server.next("control")).respond(202)
    await wait_all_tasks_blocked()
    assert sent == []
    (await server.next("a")).answer()
    await server.next("c")
    assert sent == ["c"]
    (await server.next("b")).answer()
    await server.next("d")
    assert channel.statistics().messages_sent == 5
    channel.abort()


async def test_a_sender_that_is_cancelled_in_line_has_sent_nothing(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, max_exchanges=1)
    await channel.send(Request(1, "a"))
    with trio.CancelScope() as scope:
        nursery.start_soon(wait_and_cancel, scope)
        await channel.send_many([Request(2, "b"), Request(3, "c")])
    assert scope.cancelled_caught
    (await server.next("a")).answer()
    await channel.receive()
    await channel.send_eof()
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    assert methods(server) == ["a"]


async def wait_and_cancel(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_more_than_the_limit_at_once_goes_out_when_nothing_else_does(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, max_exchanges=1)
    await channel.send_many([Request(1, "a"), Request(2, "b")])
    await wait_all_tasks_blocked()
    assert sorted(methods(server)) == ["a", "b"]
    channel.abort()


async def test_try_send_sends_at_once(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server)
    assert channel.try_send(Request(1, "a"))
    assert channel.try_send(Notification("notifications/cancelled", {"requestId": 1}))
    await wait_all_tasks_blocked()
    assert server.open == 0
    channel.abort()
    with pytest.raises(trio.ClosedResourceError):
        channel.try_send(Request(1, "a"))


async def test_a_control_lane_that_is_full_ends_the_channel(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, [])
    big = Notification("n", {"x": "x" * CONTROL_LANE_BYTES})
    channel.send_control(big)
    with pytest.raises(OutboxOverflow):
        channel.send_control(Notification("n"))
    assert channel.state is ChannelState.FAILED
    assert isinstance(channel.failure, OutboxOverflow)
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert server.closed


# -- Receiving -----------------------------------------------------------------------


async def test_only_one_task_receives(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server)
    nursery.start_soon(swallow_closed, channel)
    await wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await channel.receive()
    with pytest.raises(ValueError, match="at least 1"):
        await channel.receive_many(0)
    channel.abort()


async def swallow_closed(channel: HttpClientChannel) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()


async def test_a_receive_that_is_cancelled_loses_nothing(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Request(1, "a"))
    with trio.CancelScope() as scope:
        nursery.start_soon(wait_and_cancel, scope)
        await channel.receive()
    (await server.next()).answer()
    await wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.receive()
    assert isinstance(await channel.receive(), Response)
    channel.abort()


async def test_a_full_inbox_stops_the_reading_until_there_is_room(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, options=ChannelOptions(inbox_bytes=100))
    await channel.send_many([Request(1, "a"), Request(2, "b")])
    streams = [(await server.next(method)).stream() for method in ("a", "b")]
    for stream in streams:
        stream.feed(event(Notification("n", {"x": "x" * 60})))
        await wait_all_tasks_blocked()
        stream.feed(event(Notification("n", {"x": "x" * 60})))
        await wait_all_tasks_blocked()
    assert channel.statistics().inbox_messages == 1
    received: list[Message] = []
    while len(received) < 4:
        received.extend(await channel.receive_many())
        await wait_all_tasks_blocked()
    assert [message.related_to for message in received] in ([1, 1, 2, 2], [1, 2, 1, 2])
    channel.abort()


async def test_an_exchange_that_waits_for_room_can_be_cancelled(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, options=ChannelOptions(inbox_bytes=1))
    await channel.send_many([Request(1, "a"), Request(2, "b"), Request(3, "c")])
    for method in ("a", "b", "c"):
        (await server.next(method)).answer({"of": method})
        await wait_all_tasks_blocked()
    # The one in the middle has its answer but cannot hand it over.
    channel.send_control(Notification("notifications/cancelled", {"requestId": 2}))
    (await server.next("notifications/cancelled")).respond(202)
    await wait_all_tasks_blocked()
    found = [await channel.receive(), await channel.receive()]
    assert [getattr(message, "id") for message in found] == [1, 3]  # noqa: B009
    channel.abort()


async def test_an_inbox_that_nobody_reads_ends_the_channel(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    events: list[ChannelEvent] = []
    options = ChannelOptions(inbox_bytes=1, inbox_stall_timeout=10)
    channel = make_channel(nursery, server, events, options)
    await channel.send_many([Request(1, "a"), Request(2, "b"), Request(3, "c")])
    for method in ("a", "b", "c"):
        (await server.next(method)).answer()
    await trio.sleep(9)
    await channel.receive()  # which begins the time anew
    await trio.sleep(9)
    assert channel.is_connected
    await trio.sleep(2)
    assert isinstance(channel.failure, InboxStalled)
    assert [found.name for found in events] == ["connection.failed"]
    # What had come may still be received.
    assert isinstance(await channel.receive(), Response)
    with pytest.raises(InboxStalled):
        await channel.receive()
    with pytest.raises(InboxStalled):
        await channel.send(Request(4, "d"))


async def test_silence_ends_the_channel_where_that_is_asked_for(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = make_channel(nursery, server, [], ChannelOptions(idle_read_timeout=10))
    await channel.send(Request(1, "a"))
    stream = (await server.next()).stream()

    async def trickle() -> None:
        for _ in range(4):
            await trio.sleep(9)
            stream.feed(b": still there\n\n")

    nursery.start_soon(trickle)
    before = trio.current_time()
    with pytest.raises(IdleTimeout):
        await channel.receive()
    assert trio.current_time() - before == pytest.approx(46)


# -- The end -------------------------------------------------------------------------


async def test_after_eof_the_channel_ends_with_the_last_answer(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    assert channel.can_send_eof
    assert channel.capabilities.half_close
    await channel.send(Request(1, "a"))
    await channel.send_eof()
    await channel.send_eof()
    with pytest.raises(trio.ClosedResourceError, match="EOF"):
        await channel.send(Request(2, "b"))
    (await server.next()).answer()
    assert [message.related_to async for message in channel] == [1]
    assert channel.is_connected
    await channel.aclose()
    assert channel.state is ChannelState.CLOSED


async def test_eof_without_requests_ends_it_at_once(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    nursery.start_soon(expect_end, channel)
    await wait_all_tasks_blocked()
    await channel.send_eof()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    channel.abort()


async def expect_end(channel: HttpClientChannel) -> None:
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()


async def test_closing_waits_for_notifications_and_gives_requests_up(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Request(1, "a"))
    await channel.send(Notification("n"))
    nursery.start_soon(channel.aclose)
    last = await server.next("n")
    await wait_all_tasks_blocked()
    assert channel.state is ChannelState.CLOSING
    with pytest.raises(trio.ClosedResourceError):
        await channel.send(Request(2, "b"))
    last.respond(202)
    assert await channel.wait_state(ChannelState.CLOSED) is ChannelState.CLOSED
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert not nursery.child_tasks
    await channel.aclose()


async def test_closing_in_a_cancelled_scope_waits_for_nothing(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Notification("n"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.aclose()
    assert scope.cancelled_caught
    assert channel.state is ChannelState.CLOSED
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert server.closed


async def test_everybody_who_waits_is_woken_by_the_end(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, max_exchanges=1)
    await channel.send(Notification("n"))
    outcomes: list[type[BaseException]] = []

    async def note(work: object) -> None:
        assert callable(work)
        try:
            await work()
        except (trio.ClosedResourceError, ChannelBroken) as error:
            outcomes.append(type(error))

    for work in (channel.receive, channel.flush, lambda: channel.send(Request(1, "a"))):
        nursery.start_soon(note, work)
    await wait_all_tasks_blocked()
    channel.abort(ConnectionLost("on purpose"))
    await wait_all_tasks_blocked()
    assert outcomes == [ConnectionLost] * 3
    assert not nursery.child_tasks
    with pytest.raises(ConnectionLost):
        await channel.flush()


async def test_a_failure_while_closing_does_not_come_out_of_it(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, [])
    await channel.send(Notification("n"))
    nursery.start_soon(channel.aclose)
    await wait_all_tasks_blocked()
    channel.abort(ConnectionLost("on purpose"))
    await wait_all_tasks_blocked()
    assert channel.state is ChannelState.FAILED


async def test_the_end_of_its_nursery_ends_the_channel(server: ScriptedServer) -> None:
    events: list[ChannelEvent] = []
    async with trio.open_nursery() as nursery:
        channel = make_channel(nursery, server, events)
        await channel.send(Request(1, "a"))
        await server.next()
        nursery.cancel_scope.cancel()
    assert isinstance(channel.failure, ConnectionLost)
    assert server.open == 0
    assert events == []  # whoever cancels knows
    async with trio.open_nursery() as nursery:
        other = make_channel(nursery, server, events)
    await other.send(Request(1, "a"))
    with pytest.raises(ConnectionLost, match="nursery"):
        await other.receive()


async def test_a_channel_tells_what_it_is(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server)
    await channel.open()
    assert channel.context.transport == "http"
    assert channel.session_id.startswith("http-")
    assert channel.session_id in repr(channel)
    assert URL not in repr(channel)
    assert channel.capabilities.max_message_bytes == channel.options.max_message_bytes
    channel.abort()
    assert channel.failure is None


async def test_messages_of_a_failed_exchange_come_in_any_state(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Request(1, "a"))
    exchange = await server.next()
    nursery.start_soon(channel.aclose)
    await wait_all_tasks_blocked()
    exchange.respond(500)
    await wait_all_tasks_blocked()
    assert not isinstance(channel.failure, ErrorResponse)
    assert server.open == 0


async def test_a_cancellation_that_was_not_admitted_has_cancelled_nothing(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, max_exchanges=1)
    await channel.send(Request(0, "initialize", {"protocolVersion": "2025-11-25"}))
    (await server.next("initialize")).answer({"protocolVersion": "2025-11-25"})
    await channel.receive()
    await channel.send(Request(1, "m"))
    request = await server.next("m")
    cancel = Notification("notifications/cancelled", {"requestId": 1})
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as senders:
            senders.start_soon(channel.send, cancel)
            await wait_all_tasks_blocked()  # there is no room for it
            scope.cancel()
    assert not request.left.is_set()
    assert not channel.try_send(cancel)
    channel.send_control(cancel)
    (await server.next("notifications/cancelled")).respond(202)
    await request.left.wait()


async def test_a_batch_that_was_not_admitted_has_cancelled_nothing(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    channel = make_channel(nursery, server, max_exchanges=1)
    await channel.send(Request(1, "first", meta))
    first = await server.next("first")
    batch: list[Message] = [
        Notification("notifications/cancelled", {"requestId": 1}),
        Request(2, "m", meta),
    ]
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as senders:
            senders.start_soon(channel.send_many, batch)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert not first.left.is_set()
    first.answer()
    assert isinstance(await channel.receive(), Response)


async def test_a_request_that_waits_for_admission_can_be_cancelled(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, max_exchanges=1)
    await channel.send(Request(1, "first"))
    first = await server.next("first")
    async with trio.open_nursery() as senders:
        senders.start_soon(channel.send, Request(2, "second"))
        await wait_all_tasks_blocked()
        channel.send_control(Notification("notifications/cancelled", {"requestId": 2}))
        senders.start_soon(channel.send, Request(3, "third"))
        await wait_all_tasks_blocked()
        assert server.is_idle  # there is still no room
        first.answer()
        (await server.next("third")).answer()
    assert methods(server) == ["first", "third"]
    assert [(await channel.receive()).related_to for _ in range(2)] == [1, 3]
