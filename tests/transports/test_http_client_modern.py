"""The HTTP client channel and modern servers: one POST for each request, nothing else."""

from __future__ import annotations

import msgspec
import pytest
import trio
from scripted_server import ScriptedServer, event, make_channel, refused
from trio.testing import wait_all_tasks_blocked

from trio_mcp_transport import (
    AuthenticationRequired,
    ChannelEvent,
    ConnectFailed,
    ConnectionLost,
    EndpointNotFound,
    ErrorResponse,
    Forbidden,
    HttpStatusError,
    InvalidHttpResponse,
    MessageTooLarge,
    Notification,
    Request,
    RequestTimeout,
    Response,
    ServerBusy,
    UnexpectedRedirect,
)
from trio_mcp_transport.limits import ChannelOptions

pytestmark = pytest.mark.channel

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def modern(request_id: int | str = 1, method: str = "m", **params: object) -> Request:
    return Request(request_id, method, {**params, "_meta": META})


def call(request_id: int = 1, **arguments: object) -> Request:
    return modern(request_id, "tools/call", name="tool", arguments=arguments)


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


async def test_a_json_answer_is_received_with_what_it_belongs_to(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(call(7))
    exchange = await server.next("tools/call")
    assert exchange.method == "POST"
    assert exchange.headers["mcp-protocol-version"] == "2026-07-28"
    assert exchange.headers["mcp-name"] == "tool"
    assert exchange.headers["host"] == "server.example"
    assert "mcp-session-id" not in exchange.headers
    exchange.answer({"a": 1})
    answer = await channel.receive()
    assert isinstance(answer, Response)
    assert answer.result_as(dict[str, int]) == {"a": 1}
    assert answer.related_to == 7
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert not nursery.child_tasks
    await channel.aclose()
    assert server.closed


async def test_a_stream_brings_notifications_and_then_the_answer(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern("a"))
    stream = (await server.next()).stream()
    stream.feed(b": a comment\n\n" + event(Notification("one")))
    first = await channel.receive()
    assert isinstance(first, Notification)
    assert first.related_to == "a"
    stream.feed(event(Notification("two")) + event(Response("a", {})) + event(Notification("late")))
    messages = await channel.receive_many()
    assert [type(message) for message in messages] == [Notification, Response]
    stream.end()
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert channel.statistics().messages_received == 3
    channel.abort()


async def test_a_stream_that_goes_on_after_the_answer_is_left(
    nursery: trio.Nursery, server: ScriptedServer, autojump_clock: trio.testing.MockClock
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1))
    exchange = await server.next()
    exchange.stream().feed(event(Response(1, {})))
    await channel.receive()
    await exchange.left.wait()
    channel.abort()


async def test_requests_run_beside_each_other(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send_many([modern(1), modern(2), modern("2")])
    for _ in range(3):
        await server.next()
    for exchange in reversed(server.seen):
        exchange.answer()
        answer = await channel.receive()
        assert isinstance(answer, Response)
        assert answer.id == getattr(exchange.message, "id")  # noqa: B009
    channel.abort()


async def test_requests_of_the_server_are_counted_and_never_delivered(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(modern(1))
    stream = (await server.next()).stream()
    stream.feed(event(Request(1, "sampling/createMessage")) + event(Response(1, {})))
    stream.end()
    assert isinstance(await channel.receive(), Response)
    assert [found.name for found in events] == ["message.dropped"]
    channel.abort()


async def test_answers_that_are_no_answer_to_this_request_are_dropped(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(modern(1))
    stream = (await server.next()).stream()
    stream.feed(event(Response("1", {})) + event(Response(2, {})) + event(Response(1, {"x": 1})))
    stream.feed(event(Response(1, {"y": 1})))
    stream.end()
    answer = await channel.receive()
    assert isinstance(answer, Response)
    assert answer.result_as(dict[str, int]) == {"x": 1}
    await wait_all_tasks_blocked()
    assert [found.name for found in events] == ["message.dropped"] * 3
    assert channel.statistics().inbox_messages == 0
    channel.abort()


async def test_an_error_without_id_is_the_requests_own(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1))
    (await server.next()).respond(
        400,
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32022,"message":"no"}}',
        {"content-type": "application/json"},
    )
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert (answer.id, answer.error.code, answer.related_to, answer.cause) == (1, -32022, 1, None)
    await channel.send(modern(2))
    stream = (await server.next()).stream()
    stream.feed(b'data: {"jsonrpc":"2.0","error":{"code":-32603,"message":"no"}}\n\n')
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert (answer.id, answer.error.code) == (2, -32603)
    channel.abort()


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (400, {}, HttpStatusError),
        (401, {"www-authenticate": "Bearer"}, AuthenticationRequired),
        (403, {}, Forbidden),
        (404, {}, EndpointNotFound),
        (405, {}, HttpStatusError),
        (429, {"retry-after": "3"}, ServerBusy),
        (500, {}, HttpStatusError),
        (301, {"location": "/x"}, UnexpectedRedirect),
        (307, {"location": "http://evil.example/"}, UnexpectedRedirect),
        (200, {"content-type": "text/html"}, InvalidHttpResponse),
        (200, {}, InvalidHttpResponse),
        (202, {}, InvalidHttpResponse),
        (200, {"content-type": "application/json"}, InvalidHttpResponse),
    ],
)
async def test_what_is_no_answer_becomes_one_with_a_typed_cause(
    nursery: trio.Nursery,
    server: ScriptedServer,
    status: int,
    headers: dict[str, str],
    kind: type[Exception],
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1))
    (await server.next()).respond(status, b"<html>", headers)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert answer.id == answer.related_to == 1
    assert type(answer.cause) is kind
    await wait_all_tasks_blocked()
    assert server.open == 0
    assert channel.is_connected  # the next request may fare better
    channel.abort()


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"content-type": "text/html; charset=x"}, "'text/html; charset=x'"),
        ({}, "no Content-Type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "'gzip'"),
        ({"content-type": "text/event-stream", "content-encoding": "br"}, "'br'"),
    ],
)
async def test_a_body_that_cannot_be_read_is_named(
    nursery: trio.Nursery, server: ScriptedServer, headers: dict[str, str], said: str
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1))
    (await server.next()).respond(200, b"\x1f\x8b", headers)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert isinstance(answer.cause, InvalidHttpResponse)
    assert said in str(answer.cause)
    assert answer.error.message == str(answer.cause)


async def test_identity_is_no_encoding(nursery: trio.Nursery, server: ScriptedServer) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1))
    (await server.next()).answer(headers={"content-encoding": "identity"})
    assert isinstance(await channel.receive(), Response)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (refused(), ConnectFailed),
        (RequestTimeout("late"), RequestTimeout),
        (trio.BrokenResourceError("gone"), ConnectionLost),
        (ValueError("a bug somewhere"), ConnectionLost),
    ],
)
async def test_what_fails_below_is_the_cause(
    nursery: trio.Nursery, server: ScriptedServer, failure: Exception, kind: type[Exception]
) -> None:
    channel = make_channel(nursery, server)
    server.refuse = failure
    await channel.send(modern(1))
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert isinstance(answer.cause, kind)
    assert answer.cause is failure or answer.cause.__cause__ is failure
    channel.abort()


@pytest.mark.parametrize("how", ["end", "break"])
async def test_a_stream_that_ends_without_an_answer_is_lost_and_never_resumed(
    nursery: trio.Nursery, server: ScriptedServer, how: str
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1))
    stream = (await server.next()).stream()
    stream.feed(event(Notification("n"), id="7", retry=1))
    await channel.receive()
    if how == "break":
        stream.feed(b"BROKEN")
    stream.end()
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert isinstance(answer.cause, ConnectionLost)
    await wait_all_tasks_blocked()
    assert server.is_idle
    channel.abort()


async def test_a_malformed_answer_on_a_stream_fails_its_request(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(modern(1))
    stream = (await server.next()).stream()
    stream.feed(b"data: rubbish\n\n")
    stream.feed(b'data: {"jsonrpc":"2.0","id":1,"result":{},"error":7}\n\n')
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert "both" in str(answer.cause)
    assert channel.statistics().malformed_received == 2
    assert [found.name for found in events] == ["message.malformed"] * 2
    channel.abort()


async def test_a_response_over_the_limit_fails_its_request(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, options=ChannelOptions(max_message_bytes=300))
    await channel.send(modern(1))
    (await server.next()).answer({"a": "x" * 400})
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert isinstance(answer.cause, MessageTooLarge)
    with pytest.raises(MessageTooLarge):
        await channel.send(modern(2, a="x" * 400))
    assert server.is_idle
    channel.abort()


async def test_cancelling_closes_the_stream_and_says_nothing(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send_many([modern(1), modern(2)])
    one, two = await server.next(), await server.next()
    one.stream()
    channel.send_control(Notification("notifications/cancelled", {"requestId": 1}))
    channel.send_control(Notification("notifications/cancelled", {"requestId": 1}))
    await channel.send(Notification("notifications/cancelled", {"requestId": 2}))
    await channel.send(Notification("notifications/cancelled", {"requestId": "unknown"}))
    await channel.send(Notification("notifications/cancelled", {"odd": 1}))
    await one.left.wait()
    await two.left.wait()
    await wait_all_tasks_blocked()
    assert server.is_idle
    assert channel.statistics().inbox_messages == 0
    channel.abort()


async def test_answers_have_nowhere_to_go(nursery: trio.Nursery, server: ScriptedServer) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(Response(1, {}))
    channel.send_control(Response(2, {}))
    await wait_all_tasks_blocked()
    assert server.is_idle
    assert [found.name for found in events] == ["message.dropped"] * 2
    channel.abort()


async def test_redirects_on_the_same_origin_repeat_the_request(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1))
    first = await server.next()
    first.respond(307, b"", {"location": "/mcp/"})
    second = await server.next()
    assert second.url == "http://server.example/mcp/"
    assert (second.method, second.body) == ("POST", first.body)
    assert second.headers == first.headers
    second.answer()
    assert isinstance(await channel.receive(), Response)
    channel.abort()


async def test_static_headers_and_credentials_go_along(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    from trio_mcp_transport.sansio.headers import Headers

    tokens = iter(["one", "two"])

    async def credentials() -> Headers:
        await trio.lowlevel.checkpoint()
        return Headers([("Authorization", f"Bearer {next(tokens)}")])

    channel = make_channel(
        nursery, server, headers=Headers([("X-Key", "k")]), credentials=credentials
    )
    for token in ("one", "two"):
        await channel.send(modern(1))
        exchange = await server.next()
        assert exchange.headers["x-key"] == "k"
        assert exchange.headers["authorization"] == f"Bearer {token}"
        exchange.answer()
        await channel.receive()
    await channel.send(modern(1))
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)  # the hook failed, nothing was sent
    assert server.is_idle
    channel.abort()


async def test_requests_have_the_read_timeout_and_notifications_a_shorter_one(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server, read_timeout=100, delivery_timeout=5)
    await channel.send(modern(1))
    assert (await server.next()).head_timeout == 100
    await channel.send(Notification("n", {"_meta": META}))
    exchange = await server.next()
    assert exchange.head_timeout == 5
    assert exchange.headers["mcp-method"] == "n"
    channel.abort()


async def test_params_that_cannot_be_mirrored_fail_the_request(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    name = msgspec.Raw(b'{"n')
    request = Request(1, "tools/call", {"name": name, "_meta": META})
    await channel.send(request)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    channel.abort()


# -- Tools ---------------------------------------------------------------------------

TOOL = {
    "name": "tool",
    "inputSchema": {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
}
BAD_TOOL = {"name": "bad", "inputSchema": {"x-mcp-header": "Region"}}


async def test_lists_of_tools_teach_headers_and_lose_their_invalid_tools(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(modern(1, "tools/list"))
    (await server.next("tools/list")).answer({"tools": [TOOL, BAD_TOOL]})
    answer = await channel.receive()
    assert isinstance(answer, Response)
    assert answer.result_as(dict[str, list[object]]) == {"tools": [TOOL]}
    assert answer.related_to == 1
    (warning,) = events
    assert warning.name == "tool.rejected"
    assert "'bad'" in warning.message
    assert "chain of properties" in warning.message
    await channel.send(call(2, region="r"))
    assert (await server.next()).headers["mcp-param-region"] == "r"
    channel.abort()


async def test_a_header_mismatch_asks_for_the_tools_once_and_tries_again(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(call(1, region="r"))
    first = await server.next("tools/call")
    assert "mcp-param-region" not in first.headers
    first.error(400, -32020)
    (await server.next("tools/list")).answer({"tools": [], "nextCursor": "page"})
    page = await server.next("tools/list")
    assert msgspec.json.decode(page.body)["params"]["cursor"] == "page"
    stream = page.stream()
    stream.feed(event(Notification("n")))
    message = page.message
    assert isinstance(message, Request)
    stream.feed(event(Response(message.id, {"tools": [TOOL]})))
    stream.end()
    second = await server.next("tools/call")
    assert second.headers["mcp-param-region"] == "r"
    assert second.body == first.body
    second.error(400, -32020, "still")
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert (answer.id, answer.error.message, answer.related_to) == (1, "still", 1)
    await wait_all_tasks_blocked()
    assert server.is_idle
    assert server.open == 0
    channel.abort()


async def test_a_header_mismatch_that_the_tools_do_not_explain_stands(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(call(1, region="r"))
    (await server.next("tools/call")).error(400, -32020, "why")
    (await server.next("tools/list")).answer({"tools": []})
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.message) == (-32020, "why")
    channel.abort()


@pytest.mark.parametrize("how", ["error", "refusal", "break"])
async def test_a_list_that_fails_leaves_the_mismatch_or_its_own_cause(
    nursery: trio.Nursery, server: ScriptedServer, how: str
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(call(1, region="r"))
    (await server.next("tools/call")).error(400, -32020, "why")
    listing = await server.next("tools/list")
    if how == "error":
        listing.error(200, -32603)
    elif how == "refusal":
        listing.respond(401)
    else:
        listing.fail(trio.BrokenResourceError("gone"))
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert (answer.id, answer.error.code) == (1, -32020)
    channel.abort()


async def test_a_mismatch_of_another_method_is_just_its_error(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(modern(1, "prompts/get", name="p"))
    (await server.next()).error(400, -32020)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert answer.error.code == -32020
    channel.abort()
