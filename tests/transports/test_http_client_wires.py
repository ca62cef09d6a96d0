"""The HTTP client channel on the older wires: HTTP+SSE, falling back to it, two paths."""

from __future__ import annotations

import pytest
import trio
from scripted_server import (
    URL,
    Exchange,
    FakeResponse,
    ScriptedServer,
    event,
    make_channel,
    refused,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelEvent,
    ConnectFailed,
    ConnectionLost,
    ErrorResponse,
    HttpStatusError,
    InvalidHttpResponse,
    LocalProtocolError,
    Message,
    Notification,
    Request,
    RequestIdInUse,
    Response,
    UnexpectedRedirect,
)
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.transports.http_client_channel import HttpClientChannel

pytestmark = pytest.mark.channel

ENDPOINT = b"event: endpoint\ndata: /messages?session=1\n\n"


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


def failure(message: Message) -> BaseException | None:
    assert isinstance(message, ErrorResponse)
    return message.cause


async def open_sse(
    nursery: trio.Nursery, server: ScriptedServer, channel: HttpClientChannel
) -> tuple[Exchange, FakeResponse]:
    """Open the channel; returns its GET and the stream."""
    opened = trio.Event()

    async def run() -> None:
        await channel.open()
        opened.set()

    nursery.start_soon(run)
    get = await server.next_get()
    stream = get.stream()
    stream.feed(b": hello\n\n" + ENDPOINT)
    await opened.wait()
    return get, stream


# -- HTTP+SSE ------------------------------------------------------------------------


async def test_messages_are_posted_and_come_on_the_stream(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, sse_only=True)
    get, stream = await open_sse(nursery, server, channel)
    assert get.headers["accept"] == "text/event-stream"
    await channel.send(Request(1, "m"))
    post = await server.next("m")
    assert post.url == "http://server.example/messages?session=1"
    assert "mcp-protocol-version" not in post.headers
    post.respond(202, b"Accepted")
    stream.feed(event(Notification("n")) + event(Request(1, "ping")) + event(Response(1, {})))
    messages = await channel.receive_many()
    assert [message.related_to for message in messages] == [None, None, 1]
    await channel.send(Response(1, {}))
    (await server.next()).respond(202)
    await channel.flush()
    await channel.aclose()
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert not nursery.child_tasks


async def test_an_answer_may_come_before_the_post_is_taken(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, sse_only=True)
    _, stream = await open_sse(nursery, server, channel)
    await channel.send(Request(1, "m"))
    post = await server.next("m")
    stream.feed(event(Response(1, {})))
    assert isinstance(await channel.receive(), Response)
    post.respond(202)
    await wait_all_tasks_blocked()
    assert server.open == 1  # the stream
    await channel.send_eof()
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    await wait_all_tasks_blocked()
    assert server.open == 0
    channel.abort()


async def test_an_id_that_is_in_flight_is_refused(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, sse_only=True)
    _, stream = await open_sse(nursery, server, channel)
    await channel.send(Request(1, "m"))
    (await server.next("m")).respond(202)
    with pytest.raises(RequestIdInUse):
        await channel.send_many([Request(2, "n"), Request(1, "n")])
    with pytest.raises(RequestIdInUse):
        await channel.send_many([Request(3, "n"), Request(3, "n")])
    with pytest.raises(RequestIdInUse):
        channel.try_send(Request(1, "n"))
    await channel.send(Request("1", "other"))  # another id
    (await server.next("other")).respond(202)
    stream.feed(event(Response(1, {})) + event(Response("1", {})))
    assert len(await channel.receive_many()) == 2
    await channel.send(Request(1, "again"))  # it is free again
    (await server.next("again")).respond(202)
    stream.feed(event(Response(1, {})))
    await channel.receive()
    await channel.send_eof()
    with pytest.raises(trio.EndOfChannel), trio.fail_after(5):
        await channel.receive()
    channel.abort()


async def test_a_post_that_is_refused_fails_its_request_alone(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, sse_only=True)
    await open_sse(nursery, server, channel)
    await channel.send(Request(1, "m"))
    (await server.next("m")).respond(500)
    assert isinstance(failure(await channel.receive()), HttpStatusError)
    await channel.send(Request(2, "m"))
    await server.next("m")
    channel.abort()


async def test_what_is_no_message_is_reported_and_fails_what_it_answers(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events, sse_only=True)
    _, stream = await open_sse(nursery, server, channel)
    await channel.send(Request(1, "m"))
    (await server.next("m")).respond(202)
    stream.feed(b"data: rubbish\n\n")
    stream.feed(b'data: {"jsonrpc":"2.0","id":1,"error":7}\n\n')
    assert "malformed" in str(failure(await channel.receive()))
    assert [found.name for found in events] == ["message.malformed"] * 2
    channel.abort()


@pytest.mark.parametrize("how", ["end", "break"])
async def test_the_end_of_the_stream_is_that_of_the_channel(
    nursery: trio.Nursery, server: ScriptedServer, how: str
) -> None:
    channel = make_channel(nursery, server, [], sse_only=True)
    _, stream = await open_sse(nursery, server, channel)
    await channel.send(Request(1, "m"))
    (await server.next("m")).respond(202)
    if how == "break":
        stream.feed(b"BROKEN")
    stream.end()
    with pytest.raises(ConnectionLost):
        await channel.receive()
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert not nursery.child_tasks


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (404, {}, b"", Exception),
        (200, {"content-type": "application/json"}, b"{}", InvalidHttpResponse),
        (307, {"location": "http://evil.example/"}, b"", UnexpectedRedirect),
        (
            200,
            {"content-type": "text/event-stream"},
            b"event: endpoint\ndata: http://evil.example/\n\n",
            UnexpectedRedirect,
        ),
        (200, {"content-type": "text/event-stream"}, b"", ConnectionLost),
        (200, {"content-type": "text/event-stream"}, b"BROKEN", ConnectionLost),
    ],
)
async def test_a_server_without_such_a_stream_is_told_when_opening(
    nursery: trio.Nursery,
    server: ScriptedServer,
    status: int,
    headers: dict[str, str],
    body: bytes,
    kind: type[Exception],
) -> None:
    channel = make_channel(nursery, server, sse_only=True)

    async def serve() -> None:
        (await server.next_get()).respond(status, body, headers)

    nursery.start_soon(serve)
    with pytest.raises(kind):
        await channel.open()
    channel.abort()
    await wait_all_tasks_blocked()
    assert server.open == 0


async def test_opening_follows_redirects_and_takes_credentials_along(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    async def credentials() -> Headers:
        await trio.lowlevel.checkpoint()
        return Headers([("Authorization", "Bearer t")])

    channel = make_channel(nursery, server, sse_only=True, credentials=credentials)
    nursery.start_soon(channel.open)
    (await server.next_get()).respond(308, b"", {"location": "/elsewhere/sse"})
    get = await server.next_get()
    assert get.url == "http://server.example/elsewhere/sse"
    assert get.headers["authorization"] == "Bearer t"
    get.stream().feed(b"event: endpoint\ndata: post\n\n")
    await wait_all_tasks_blocked()
    await channel.send(Notification("n"))
    assert (await server.next("n")).url == "http://server.example/elsewhere/post"
    channel.abort()


async def test_opening_can_be_cancelled(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server, sse_only=True)
    with trio.CancelScope() as scope:

        async def cancel() -> None:
            await server.next_get()
            scope.cancel()

        nursery.start_soon(cancel)
        await channel.open()
    await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert server.open == 0
    channel.abort()


async def test_cancelling_is_posted_on_this_wire(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, sse_only=True)
    await open_sse(nursery, server, channel)
    await channel.send(Request(1, "m"))
    (await server.next("m")).respond(202)
    await wait_all_tasks_blocked()
    channel.send_control(Notification("notifications/cancelled", {"requestId": 1}))
    (await server.next("notifications/cancelled")).respond(202)
    await wait_all_tasks_blocked()
    assert channel.statistics().inbox_messages == 0
    channel.abort()


# -- Falling back ----------------------------------------------------------------------

INITIALIZE = Request(0, "initialize", {"protocolVersion": "2025-11-25"})


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_initialize_that_is_refused_so_is_sent_by_http_sse(
    nursery: trio.Nursery, server: ScriptedServer, status: int
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(INITIALIZE)
    (await server.next("initialize")).respond(status)
    get = await server.next_get()
    assert get.url == URL
    stream = get.stream()
    stream.feed(ENDPOINT)
    again = await server.next("initialize")
    assert again.url.endswith("/messages?session=1")
    again.respond(202)
    stream.feed(event(Response(0, {"protocolVersion": "2024-11-05"})))
    answer = await channel.receive()
    assert (type(answer), answer.related_to) == (Response, 0)
    await channel.send(Notification("notifications/initialized"))
    await channel.send(Request(1, "m"))
    (await server.next("notifications/initialized")).respond(202)
    assert (await server.next("m")).url.endswith("/messages?session=1")
    channel.abort()
    await wait_all_tasks_blocked()
    assert server.open == 0


@pytest.mark.parametrize("code", [-32020, -32021, -32022])
async def test_a_modern_error_is_no_reason_to_fall_back(
    nursery: trio.Nursery, server: ScriptedServer, code: int
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(INITIALIZE)
    (await server.next("initialize")).error(400, code)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert answer.error.code == code
    assert server.is_idle
    channel.abort()


@pytest.mark.parametrize("status", [401, 403, 406, 415, 429, 500, 503])
async def test_any_other_status_is_none_either(
    nursery: trio.Nursery, server: ScriptedServer, status: int
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(INITIALIZE)
    (await server.next("initialize")).respond(status)
    assert getattr(failure(await channel.receive()), "status") == status  # noqa: B009
    assert server.is_idle
    channel.abort()


@pytest.mark.parametrize("how", ["status", "refused", "json"])
async def test_without_http_sse_the_first_refusal_counts(
    nursery: trio.Nursery, server: ScriptedServer, how: str
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(INITIALIZE)
    (await server.next("initialize")).respond(405, b"the first")
    get = await server.next_get()
    if how == "status":
        get.respond(400)
    elif how == "refused":
        get.fail(refused())
    else:
        get.respond(200, b"{}", {"content-type": "application/json"})
    error = failure(await channel.receive())
    assert isinstance(error, HttpStatusError)
    assert error.text == "the first"
    await wait_all_tasks_blocked()
    assert server.open == 0
    channel.abort()


async def test_a_stream_that_names_no_endpoint_is_not_waited_for_for_ever(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: MockClock
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(INITIALIZE)
    (await server.next("initialize")).respond(404)
    get = await server.next_get()
    get.stream().feed(b": nothing to say\n\n")
    assert getattr(failure(await channel.receive()), "status") == 404  # noqa: B009
    await get.left.wait()
    channel.abort()


# -- Two paths -------------------------------------------------------------------------

TWO_PATHS = ("http://server.example/rpc", "http://server.example/notify")


async def test_requests_and_notifications_go_to_paths_of_their_own(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, two_paths=TWO_PATHS)
    await channel.send(Request(1, "m"))
    await channel.send(Notification("n"))
    request, notification = await server.next("m"), await server.next("n")
    assert (request.url, notification.url) == TWO_PATHS
    assert request.headers["accept"] == "application/json"
    request.answer()
    notification.respond(200, b"{}", {"content-type": "application/json"})
    answer = await channel.receive()
    assert (type(answer), answer.related_to) == (Response, 1)
    await channel.send_eof()
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    await channel.aclose()
    assert server.is_idle


async def test_failures_are_typed_on_this_wire_too(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events, two_paths=TWO_PATHS)
    await channel.send(Request(1, "m"))
    (await server.next("m")).respond(503, b"", {"retry-after": "1"})
    assert getattr(failure(await channel.receive()), "retry_after") == 1  # noqa: B009
    await channel.send(Request(2, "m"))
    (await server.next("m")).error(200, -32601)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.cause) == (-32601, None)
    server.refuse = refused()
    await channel.send(Request(3, "m"))
    assert isinstance(failure(await channel.receive()), ConnectFailed)
    await channel.send(Response(3, {}))
    await wait_all_tasks_blocked()
    assert [found.name for found in events] == ["send.failed"]
    assert isinstance(events[0].error, LocalProtocolError)
    channel.abort()
