"""The HTTP client channel and legacy servers: sessions, streams, losing and resuming both."""

from __future__ import annotations

import pytest
import trio
from scripted_server import ScriptedServer, event, make_channel, refused
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelEvent,
    ConnectionLost,
    ErrorResponse,
    HttpStatusError,
    InvalidHttpResponse,
    Message,
    Notification,
    Request,
    Response,
    SessionExpired,
)
from trio_mcp_transport.transports.http_client_channel import HttpClientChannel

pytestmark = pytest.mark.channel

INITIALIZE = Request(0, "initialize", {"protocolVersion": "2025-11-25"})
INITIALIZED = Notification("notifications/initialized")


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


async def begin(
    channel: HttpClientChannel, server: ScriptedServer, session_id: str | None = "s1"
) -> None:
    """Shake hands and let the standalone stream be refused."""
    await channel.send(INITIALIZE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_begin, server, session_id)
        assert isinstance(await channel.receive(), Response)
        await channel.send(INITIALIZED)
    await wait_all_tasks_blocked()


async def serve_begin(server: ScriptedServer, session_id: str | None) -> None:
    get = await server.initialize(session_id)
    if get is not None:
        get.respond(405)


def failure(message: Message) -> BaseException | None:
    assert isinstance(message, ErrorResponse)
    assert message.related_to == message.id
    return message.cause


# -- The session ---------------------------------------------------------------------


async def test_everything_after_the_handshake_names_session_and_revision(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    initialize, initialized, get = server.seen
    assert "mcp-session-id" not in initialize.headers
    assert "mcp-protocol-version" not in initialize.headers
    await channel.send(Request(1, "m"))
    post = await server.next("m")
    for exchange in (initialized, get, post):
        assert exchange.headers["mcp-session-id"] == "s1"
        assert exchange.headers["mcp-protocol-version"] == "2025-11-25"
    assert get.headers["accept"] == "text/event-stream"
    post.answer()
    await channel.receive()
    # 405 on GET is final and harmless.
    await wait_all_tasks_blocked()
    assert server.is_idle
    channel.abort()


async def test_without_a_session_there_is_no_standalone_stream(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server, None)
    assert server.is_idle
    await channel.aclose()
    assert [exchange.method for exchange in server.seen] == ["POST", "POST"]


async def test_listening_can_be_switched_off(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server, listen=False)
    await channel.send(INITIALIZE)
    nursery.start_soon(lambda: server.initialize(listen=False))
    await channel.receive()
    await channel.send(INITIALIZED)
    await wait_all_tasks_blocked()
    assert server.is_idle
    channel.abort()


async def test_closing_ends_the_session(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    nursery.start_soon(channel.aclose)
    delete = await server.next()
    assert delete.method == "DELETE"
    assert delete.headers["mcp-session-id"] == "s1"
    delete.respond(405)
    await wait_all_tasks_blocked()
    assert server.closed
    assert server.open == 0


@pytest.mark.parametrize("error", [refused(), trio.BrokenResourceError("gone")])
async def test_a_session_that_cannot_be_ended_does_not_keep_the_channel_open(
    nursery: trio.Nursery, server: ScriptedServer, error: Exception
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    server.refuse = error
    await channel.aclose()
    assert server.closed


async def test_a_server_that_does_not_answer_the_end_is_not_waited_for(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    before = trio.current_time()
    await channel.aclose()
    assert trio.current_time() - before == channel.options.close_timeout
    await wait_all_tasks_blocked()
    assert server.open == 0


async def test_a_handshake_that_makes_no_sense_fails_initialize(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(INITIALIZE)
    (await server.next()).answer({"protocolVersion": "2025-11-25"}, {"mcp-session-id": "a b"})
    assert isinstance(failure(await channel.receive()), InvalidHttpResponse)
    channel.abort()


async def test_cancelling_a_legacy_request_tells_the_server_and_then_leaves(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "slow"))
    slow = await server.next("slow")
    slow.stream()
    channel.send_control(Notification("notifications/cancelled", {"requestId": 1}))
    cancelled = await server.next("notifications/cancelled")
    assert not slow.left.is_set()
    cancelled.respond(202)
    await slow.left.wait()
    await wait_all_tasks_blocked()
    assert channel.statistics().inbox_messages == 0
    assert server.is_idle
    channel.abort()


async def test_initialize_is_never_cancelled(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server)
    await channel.send(INITIALIZE)
    exchange = await server.next()
    channel.send_control(Notification("notifications/cancelled", {"requestId": 0}))
    await wait_all_tasks_blocked()
    assert server.is_idle
    assert not exchange.left.is_set()
    channel.abort()


async def test_a_request_of_the_server_is_answered_by_a_post(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "m"))
    stream = (await server.next("m")).stream()
    stream.feed(event(Request(1, "roots/list")))
    request = await channel.receive()
    assert isinstance(request, Request)
    assert request.related_to == 1
    await channel.send(Response(1, {"roots": []}))
    answer = await server.next()
    assert isinstance(answer.message, Response)
    assert answer.headers["mcp-session-id"] == "s1"
    answer.respond(202)
    stream.feed(event(Response(1, {})))
    assert isinstance(await channel.receive(), Response)
    channel.abort()


async def test_a_batch_is_taken_apart_where_the_revision_has_them(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    channel.accept_batches = True
    assert channel.accept_batches
    await channel.send(Request(1, "m"))
    body = b'[{"jsonrpc":"2.0","method":"n"},{"jsonrpc":"2.0","id":1,"result":{}}]'
    (await server.next()).respond(200, body, {"content-type": "application/json"})
    assert [type(found) for found in await channel.receive_many()] == [Notification, Response]
    channel.abort()


# -- Losing the session ----------------------------------------------------------------


async def test_a_lost_session_is_begun_anew_once_and_the_call_repeated(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await begin(channel, server)
    await channel.send_many([Request(1, "streaming"), Request(2, "pending"), Request(3, "call")])
    (await server.next("streaming")).stream()
    pending = await server.next("pending")
    (await server.next("call")).respond(404)
    again = await server.next("initialize")
    assert "mcp-session-id" not in again.headers
    assert again.body == server.seen[0].body
    # What had begun in the lost session has failed.
    assert isinstance(failure(await channel.receive()), SessionExpired)
    again.answer({"protocolVersion": "2025-11-25"}, {"mcp-session-id": "s2"})
    initialized = await server.next("notifications/initialized")
    assert initialized.headers["mcp-session-id"] == "s2"
    initialized.respond(202)
    get, call = await server.next_get(), await server.next("call")
    assert get.headers["mcp-session-id"] == call.headers["mcp-session-id"] == "s2"
    call.answer()
    answer = await channel.receive()
    assert isinstance(answer, Response)
    assert answer.id == 3
    # The one that had no head yet is told by itself, and repeated without another handshake.
    pending.respond(404)
    repeated = await server.next("pending")
    assert repeated.headers["mcp-session-id"] == "s2"
    repeated.answer()
    await channel.receive()
    assert [found.name for found in events] == ["session.renewed"]
    channel.abort()


async def test_a_notification_is_repeated_like_a_call(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, listen=False)
    await channel.send(INITIALIZE)
    nursery.start_soon(lambda: server.initialize(listen=False))
    await channel.receive()
    await channel.send(INITIALIZED)
    await wait_all_tasks_blocked()
    await channel.send(Notification("n"))
    (await server.next("n")).respond(404)
    nursery.start_soon(lambda: server.initialize("s2", listen=False))
    await wait_all_tasks_blocked()
    (await server.next("n")).respond(202)
    await channel.flush()
    channel.abort()


async def test_a_session_that_is_lost_again_at_once_has_expired(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "call"))
    (await server.next("call")).respond(404)
    nursery.start_soon(serve_begin, server, "s2")
    await wait_all_tasks_blocked()
    (await server.next("call")).respond(404)
    assert isinstance(failure(await channel.receive()), SessionExpired)
    await channel.send(Request(2, "call"))
    (await server.next("call")).respond(404)
    assert isinstance(failure(await channel.receive()), SessionExpired)
    assert server.is_idle
    channel.abort()


@pytest.mark.parametrize("how", ["refused", "error", "lost", "revision", "stream"])
async def test_a_session_that_cannot_be_begun_anew_has_expired(
    nursery: trio.Nursery, server: ScriptedServer, how: str
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await begin(channel, server)
    await channel.send(Request(1, "call"))
    (await server.next("call")).respond(404)
    again = await server.next("initialize")
    if how == "refused":
        again.respond(503)
    elif how == "error":
        again.error(200, -32603)
    elif how == "lost":
        again.fail(trio.BrokenResourceError("gone"))
    elif how == "revision":
        again.answer({"protocolVersion": "2024-11-05"}, {"mcp-session-id": "s2"})
    else:
        again.stream().feed(b'data: {"jsonrpc":"2.0","id":0,"error":7}\n\n')
        again.response.end() if again.response else None
    assert isinstance(failure(await channel.receive()), SessionExpired)
    assert "session.lost" in [found.name for found in events]
    channel.abort()


async def test_a_lost_session_during_the_handshake_is_not_begun_anew(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(INITIALIZE)
    (await server.next("initialize")).answer(
        {"protocolVersion": "2025-11-25"}, {"mcp-session-id": "s1"}
    )
    await channel.receive()
    await channel.send(INITIALIZED)
    (await server.next("notifications/initialized")).respond(404)
    await wait_all_tasks_blocked()
    assert server.is_idle
    assert [found.name for found in events] == ["send.failed"]
    assert isinstance(events[0].error, SessionExpired)
    channel.abort()


# -- The standalone stream ---------------------------------------------------------------


async def listening(
    nursery: trio.Nursery, server: ScriptedServer, events: list[ChannelEvent]
) -> HttpClientChannel:
    channel = make_channel(nursery, server, events)
    await channel.send(INITIALIZE)
    (await server.next("initialize")).answer(
        {"protocolVersion": "2025-11-25"}, {"mcp-session-id": "s1"}
    )
    await channel.receive()
    await channel.send(INITIALIZED)
    (await server.next("notifications/initialized")).respond(202)
    return channel


async def test_the_standalone_stream_brings_what_belongs_to_no_request(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = await listening(nursery, server, events)
    stream = (await server.next()).stream()
    stream.feed(event(Response(1, {})) + event(Notification("n")) + event(Request(1, "ping")))
    messages = await channel.receive_many()
    assert [type(message) for message in messages] == [Notification, Request]
    assert [message.related_to for message in messages] == [None, None]
    assert [found.name for found in events] == ["message.dropped"]
    channel.abort()
    await wait_all_tasks_blocked()
    assert server.open == 0


async def test_what_follows_the_handshake_waits_until_the_standalone_stream_is_there(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = await listening(nursery, server, [])
    get = await server.next_get()
    await channel.send(Request(1, "m"))
    await wait_all_tasks_blocked()
    assert server.is_idle
    get.stream()
    before = trio.current_time()
    await server.next("m")
    assert trio.current_time() == before
    channel.abort()


@pytest.mark.parametrize("how", ["silence", "failure", "refusal"])
async def test_but_not_for_ever(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock, how: str
) -> None:
    channel = await listening(nursery, server, [])
    get = await server.next_get()
    await channel.send(Request(1, "m"))
    if how == "failure":
        get.fail(refused())
    elif how == "refusal":
        get.respond(500)
    await server.next("m")
    assert trio.current_time() <= 1 if how == "silence" else trio.current_time() == 0
    channel.abort()


async def test_it_is_opened_again_with_the_last_id_after_the_time_that_the_server_named(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = await listening(nursery, server, [])
    stream = (await server.next()).stream()
    stream.feed(event(b"", id="e1", retry=2500))
    stream.end()
    before = trio.current_time()
    again = await server.next()
    assert trio.current_time() - before == pytest.approx(2.5)
    assert again.method == "GET"
    assert again.headers["last-event-id"] == "e1"
    again.fail(trio.BrokenResourceError("gone"))
    once_more = await server.next()
    once_more.respond(503)
    (await server.next()).stream().feed(event(Notification("n")))
    assert isinstance(await channel.receive(), Notification)
    channel.abort()


@pytest.mark.parametrize(
    ("status", "headers"), [(404, {}), (400, {}), (200, {"content-type": "text/html"})]
)
async def test_a_refusal_ends_listening_and_nothing_else(
    nursery: trio.Nursery, server: ScriptedServer, status: int, headers: dict[str, str]
) -> None:
    events: list[ChannelEvent] = []
    channel = await listening(nursery, server, events)
    (await server.next()).respond(status, b"", headers)
    await wait_all_tasks_blocked()
    assert [found.name for found in events] == ["stream.lost"]
    assert server.is_idle
    await channel.send(Request(1, "m"))
    (await server.next("m")).answer()
    await channel.receive()
    channel.abort()


async def test_a_standalone_stream_that_brings_nothing_is_given_up(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    events: list[ChannelEvent] = []
    channel = await listening(nursery, server, events)
    for _ in range(6):
        (await server.next()).stream().end()
    await trio.sleep(1000)
    assert server.is_idle
    assert [found.name for found in events] == ["stream.lost"]
    channel.abort()


# -- Resuming a request -----------------------------------------------------------------


async def test_a_stream_that_was_closed_is_resumed_by_get_until_the_answer(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "m"))
    first = await server.next("m")
    stream = first.stream()
    stream.feed(event(b"", id="e1", retry=500))
    stream.end()
    await first.left.wait()
    before = trio.current_time()
    second = await server.next()
    assert trio.current_time() - before == pytest.approx(0.5)
    assert (second.method, second.body) == ("GET", b"")
    assert second.headers["last-event-id"] == "e1"
    assert second.headers["mcp-session-id"] == "s1"
    stream = second.stream()
    stream.feed(event(Notification("n"), id="e2"))
    stream.feed(b"BROKEN")
    assert (await channel.receive()).related_to == 1
    third = await server.next()
    assert third.headers["last-event-id"] == "e2"
    third.fail(refused())
    (await server.next()).respond(503)
    stream = (await server.next()).stream()
    stream.feed(event(Response(1, {}), id="e3"))
    stream.end()
    answer = await channel.receive()
    assert isinstance(answer, Response)
    assert answer.related_to == 1
    await wait_all_tasks_blocked()
    assert server.is_idle
    assert server.open == 0
    channel.abort()


async def test_a_stream_without_event_ids_cannot_be_resumed(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "m"))
    stream = (await server.next("m")).stream()
    stream.feed(event(Notification("n")))
    stream.end()
    await channel.receive()
    assert isinstance(failure(await channel.receive()), ConnectionLost)
    assert server.is_idle
    channel.abort()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, SessionExpired), (405, HttpStatusError), (410, HttpStatusError)]
)
async def test_a_resume_that_is_refused_fails_the_request(
    nursery: trio.Nursery,
    server: ScriptedServer,
    autojump_clock: MockClock,
    status: int,
    kind: type[Exception],
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "m"))
    stream = (await server.next("m")).stream()
    stream.feed(event(b"", id="e1"))
    stream.end()
    (await server.next()).respond(status)
    assert type(failure(await channel.receive())) is kind
    channel.abort()


async def test_resuming_is_given_up_after_a_number_of_attempts(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = make_channel(nursery, server, max_reconnects=3)
    await begin(channel, server)
    await channel.send(Request(1, "m"))
    stream = (await server.next("m")).stream()
    stream.feed(event(b"", id="e1"))
    stream.end()
    for _ in range(3):
        stream = (await server.next()).stream()
        stream.feed(event(b"", id="e1"))
        stream.end()
    assert isinstance(failure(await channel.receive()), ConnectionLost)
    assert server.is_idle
    channel.abort()


async def test_a_request_that_waits_to_be_resumed_can_be_cancelled(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "m"))
    stream = (await server.next("m")).stream()
    stream.feed(event(b"", id="e1", retry=1_000_000))
    stream.end()
    await wait_all_tasks_blocked()
    await channel.send(Notification("notifications/cancelled", {"requestId": 1}))
    (await server.next("notifications/cancelled")).respond(202)
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert channel.statistics().inbox_messages == 0
    channel.abort()
