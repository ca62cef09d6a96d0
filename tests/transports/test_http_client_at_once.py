"""Answers that come whole and at once, where the client has more to do than to deliver them.

Each test runs with requests that wait and with requests that are sent at once.
"""

from __future__ import annotations

import pytest
import trio
from scripted_server import JSON, ScriptedServer, make_channel
from trio.testing import wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelEvent,
    ErrorResponse,
    InvalidHttpResponse,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.transports.inbox import Inbox

pytestmark = pytest.mark.channel

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
TOOL = {
    "name": "tool",
    "inputSchema": {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
}


def call(request_id: int) -> Request:
    params = {"name": "tool", "arguments": {"region": "r"}, "_meta": META}
    return Request(request_id, "tools/call", params)


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.mark.parametrize("status", [200, 400])
async def test_a_header_mismatch_is_explained_by_what_was_learned_meanwhile(
    nursery: trio.Nursery, server: ScriptedServer, status: int
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(call(1))
    first = await server.next("tools/call")
    await channel.send(Request(2, "tools/list", {"_meta": META}))
    (await server.next("tools/list")).answer({"tools": [TOOL]})
    assert isinstance(await channel.receive(), Response)
    first.error(status, -32020)
    (await server.next("tools/list")).answer({"tools": [TOOL]})
    second = await server.next("tools/call")
    assert second.headers["mcp-param-region"] == "r"
    second.answer()
    answer = await channel.receive()
    assert (type(answer), answer.related_to) == (Response, 1)
    await wait_all_tasks_blocked()
    assert (server.open, server.is_idle) == (0, True)
    channel.abort()


async def test_what_is_learned_counts_for_the_next_call_of_the_tool(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    for number in range(2):
        await channel.send(call(number))
        exchange = await server.next("tools/call")
        assert "mcp-param-region" not in exchange.headers
        exchange.answer()
        await channel.receive()
    await channel.send(Request(2, "tools/list", {"_meta": META}))
    (await server.next("tools/list")).answer({"tools": [TOOL]})
    await channel.receive()
    await channel.send(call(3))
    assert (await server.next("tools/call")).headers["mcp-param-region"] == "r"
    channel.abort()


async def test_a_response_that_answers_another_request_is_no_answer(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    events: list[ChannelEvent] = []
    channel = make_channel(nursery, server, events)
    await channel.send(call(1))
    body = b'{"jsonrpc":"2.0","id":2,"result":{}}'
    (await server.next()).respond(200, body, JSON)
    answer = await channel.receive()
    assert isinstance(answer, ErrorResponse)
    assert isinstance(answer.cause, InvalidHttpResponse)
    assert [event.name for event in events] == ["message.dropped"]
    channel.abort()


async def test_a_notification_alone_is_delivered_and_no_answer(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(call(1))
    (await server.next()).respond(200, b'{"jsonrpc":"2.0","method":"n"}', JSON)
    found = [await channel.receive(), await channel.receive()]
    assert [type(message) for message in found] == [Notification, ErrorResponse]
    await wait_all_tasks_blocked()
    assert (server.open, server.is_idle) == (0, True)
    channel.abort()


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_a_packed_answer_is_refused_and_its_connection_left(
    nursery: trio.Nursery, server: ScriptedServer, coding: str
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(call(1))
    (await server.next()).answer(headers={"content-encoding": coding})
    answer = await channel.receive()
    assert isinstance(answer, Response if coding == "identity" else ErrorResponse)
    await wait_all_tasks_blocked()
    assert server.open == 0
    channel.abort()


async def test_the_credentials_of_a_request_are_asked_for_each_time(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    asked = 0

    async def credentials() -> Headers:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        return Headers([("Authorization", f"Bearer {asked}")])

    channel = make_channel(nursery, server, credentials=credentials)
    for number in (1, 2):
        await channel.send(call(number))
        exchange = await server.next()
        assert exchange.headers["authorization"] == f"Bearer {number}"
        exchange.answer()
        assert isinstance(await channel.receive(), Response)
    channel.abort()


async def test_nothing_is_sent_in_a_session_that_is_known_to_be_lost(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    initialize = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    await channel.send(Request(0, "initialize", initialize))
    nursery.start_soon(server.initialize)
    await channel.receive()
    await channel.send(Notification("notifications/initialized"))
    await wait_all_tasks_blocked()
    await channel.send(Request(1, "first"))
    (await server.next("first")).respond(404)
    again = await server.next("initialize")
    await channel.send(Request(2, "second"))
    await wait_all_tasks_blocked()
    assert not any(exchange.is_call_of("second") for exchange in server.seen)
    again.answer({"protocolVersion": "2025-11-25"}, {"mcp-session-id": "s2"})
    (await server.next("notifications/initialized")).respond(202)
    for name in ("first", "second"):
        exchange = await server.next(name)
        assert exchange.headers["mcp-session-id"] == "s2"
        exchange.answer()
        assert isinstance(await channel.receive(), Response)
    channel.abort()


async def test_what_fits_waits_behind_what_came_before_and_does_not(
    nursery: trio.Nursery,
) -> None:
    inbox = Inbox(ChannelOptions(inbox_bytes=50), lambda cause: pytest.fail(str(cause)))
    one, two, three = (Notification(name) for name in ("one", "two", "three"))
    assert inbox.try_put([(one, 40)])
    assert not inbox.try_put([(two, 40)])
    nursery.start_soon(inbox.put, [(two, 40)])
    await wait_all_tasks_blocked()
    assert not inbox.try_put([(three, 1)])
    assert inbox.take(1) == [one]
    assert inbox.try_put([(three, 1)])
    assert inbox.take(2) == [two, three]
    inbox.close(keep=False)
    assert inbox.try_put([(three, 1)])
    assert inbox.take(1) == []
