"""The HTTP client channel and a session that was lost: how it is begun anew, whatever happens."""

from __future__ import annotations

import pytest
import trio
from scripted_server import ScriptedServer, event, make_channel
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelEvent,
    ChannelOptions,
    ChannelState,
    ErrorResponse,
    Notification,
    Request,
    RequestTimeout,
    Response,
    SessionExpired,
)
from trio_mcp_transport.sansio.headers import NO_HEADERS, Headers
from trio_mcp_transport.transports.http_client_channel import HttpClientChannel

pytestmark = pytest.mark.channel


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


async def begin(channel: HttpClientChannel, server: ScriptedServer) -> None:
    """Shake hands, open the standalone stream, and let the session be of some use."""
    await channel.send(Request(0, "initialize", {"protocolVersion": "2025-11-25"}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_handshake, server, "s1")
        await channel.receive()
        await channel.send(Notification("notifications/initialized"))
    await wait_all_tasks_blocked()


async def serve_handshake(server: ScriptedServer, session_id: str) -> None:
    get = await server.initialize(session_id)
    assert get is not None
    assert get.headers["mcp-session-id"] == session_id
    get.stream()


def cancel(request_id: int) -> Notification:
    return Notification("notifications/cancelled", {"requestId": request_id})


async def test_cancelling_the_request_that_found_out_leaves_the_new_session_whole(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await begin(channel, server)
    await channel.send(Request(1, "a"))
    (await server.next("a")).respond(404)
    initialize = await server.next("initialize")
    initialize.answer({"protocolVersion": "2025-11-25"}, {"mcp-session-id": "s2"})
    initialized = await server.next("notifications/initialized")
    channel.send_control(cancel(1))
    await channel.send(Request(2, "b"))
    await wait_all_tasks_blocked()
    # Nothing is said in the new session before the server has taken this.
    assert server.seen[-1] is initialized
    assert not initialized.left.is_set()
    initialized.respond(202)
    get = await server.next_get()
    assert get.headers["mcp-session-id"] == "s2"
    get.stream()
    (await server.next("notifications/cancelled")).respond(202)
    found = await server.next("b")
    assert found.headers["mcp-session-id"] == "s2"
    found.answer()
    assert (await channel.receive()).related_to == 2
    assert [each for each in server.seen if each.method == "POST" and each.is_call_of("a")] == [
        server.seen[3]
    ]


async def test_a_session_that_was_not_told_that_it_begins_is_no_session(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await begin(channel, server)
    await channel.send(Request(1, "a"))
    (await server.next("a")).answer()
    await channel.receive()
    await channel.send(Request(2, "a"))
    (await server.next("a")).respond(404)
    initialize = await server.next("initialize")
    initialize.answer({"protocolVersion": "2025-11-25"}, {"mcp-session-id": "s2"})
    (await server.next("notifications/initialized")).respond(500)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert isinstance(answer.cause, SessionExpired)
    assert [each.name for each in events] == ["session.lost"]
    # The next one finds the same, and tries again.
    await channel.send(Request(3, "a"))
    again = await server.next("a")
    assert again.headers["mcp-session-id"] == "s1"
    again.respond(404)
    await serve_handshake(server, "s3")
    again = await server.next("a")
    assert again.headers["mcp-session-id"] == "s3"
    again.answer()
    assert (await channel.receive()).related_to == 3


async def test_a_server_that_does_not_answer_initialize_blocks_nobody_for_ever(
    autojump_clock: MockClock, nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events, delivery_timeout=7)
    await begin(channel, server)
    for number in (1, 2):
        await channel.send(Request(number, "a"))
    for _ in range(2):
        (await server.next("a")).respond(404)
    started = trio.current_time()
    stream = (await server.next("initialize")).stream()  # begins, and brings nothing
    for _ in range(2):
        answer = await channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert isinstance(answer.cause, SessionExpired)
    assert trio.current_time() - started == 7
    assert isinstance(events[0].error, RequestTimeout)
    assert [each.name for each in events] == ["session.lost"]
    stream.end()


async def test_closing_while_the_session_is_begun_anew_waits_for_nothing(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await begin(channel, server)
    await channel.send(Request(1, "a"))
    (await server.next("a")).respond(404)
    initialize = await server.next("initialize")
    channel.abort()
    await initialize.left.wait()
    await wait_all_tasks_blocked()
    assert events == []
    assert server.open == 0


async def test_resuming_does_not_wait_for_ever_for_the_head_of_a_stream(
    autojump_clock: MockClock, nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, delivery_timeout=7)
    await begin(channel, server)
    await channel.send(Request(1, "a"))
    stream = (await server.next("a")).stream()
    stream.feed(event(None, id="e1", retry=1000))
    stream.end()
    started = trio.current_time()
    await server.next_get()
    get = await server.next_get()  # a second attempt, as the first had no head in time
    assert trio.current_time() - started >= 8
    get.stream().feed(event(Response(1, {})))
    assert (await channel.receive()).related_to == 1


async def test_what_this_side_closes_itself_is_no_lost_stream(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(Request(0, "initialize", {"protocolVersion": "2025-11-25"}))
    async with trio.open_nursery() as shaking:

        async def shake() -> None:
            get = await server.initialize("s1")
            assert get is not None
            get.fail(trio.ClosedResourceError("this pool was closed"))

        shaking.start_soon(shake)
        await channel.receive()
        await channel.send(Notification("notifications/initialized"))
    await wait_all_tasks_blocked()
    assert events == []


async def test_an_answer_that_waits_for_room_is_not_given_up_with_its_session(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    options = ChannelOptions(inbox_bytes=100)
    channel = make_channel(nursery, server, options=options)
    await begin(channel, server)
    for number in (1, 2, 3):
        await channel.send(Request(number, f"m{number}"))
    (await server.next("m1")).answer("x" * 90)
    await wait_all_tasks_blocked()
    (await server.next("m2")).answer("x" * 90)
    await wait_all_tasks_blocked()  # it has come, and has to wait
    (await server.next("m3")).respond(404)
    await serve_handshake(server, "s2")
    (await server.next("m3")).answer()
    answers = [await channel.receive() for _ in range(3)]
    assert [answer.related_to for answer in answers] == [1, 2, 3]
    assert all(isinstance(answer, Response) for answer in answers)


async def test_credentials_that_fail_do_not_keep_the_channel_open(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    expired = False

    async def credentials() -> Headers:
        await trio.lowlevel.checkpoint()
        if expired:
            raise KeyError("token")
        return NO_HEADERS

    channel = make_channel(nursery, server, events, credentials=credentials)
    await begin(channel, server)
    expired = True
    await channel.aclose()
    assert channel.state is ChannelState.CLOSED
    assert [each.name for each in events] == ["session.kept"]
