"""What a client of this package sends over HTTP, as a server without it sees it."""

from __future__ import annotations

import logging

import pytest
import trio
from plain_http import BOTH, KEY, MODERN
from scripted_http import (
    Seen,
    initialized,
    legacy,
    modern_server,
    scripted,
)

from trio_mcp_transport import Progress, open_peer
from trio_mcp_transport.errors import HttpStatusError, UnexpectedRedirect

pytestmark = pytest.mark.conformance

HEADER_MISMATCH = -32020


def own_headers(seen: Seen) -> dict[str, str]:
    """The headers of MCP."""
    return {name: value for name, value in seen.headers.items() if name.startswith("mcp-")}


async def no_get(seen: Seen) -> None:
    """What most servers say of requests that are not tested."""
    if seen.method == "GET":
        await seen.reply(405, headers={"Allow": "POST"})
    elif seen.rpc_method in {"tools/list", "tools/call", "ping"}:
        await seen.result({"tools": [], "content": []})
    else:
        await seen.reply(202)


# -- Legacy ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_a_client_with_a_session_says_what_it_must_on_every_request(version: str) -> None:
    async with scripted(legacy(no_get, version)) as script:
        async with open_peer(f"{script.url}?era=legacy") as peer:
            await peer.request("tools/list")
            await peer.request("ping")
        posts = [seen for seen in script.seen if seen.method == "POST"]
        assert [seen.rpc_method for seen in posts] == [
            "initialize",
            "notifications/initialized",
            "tools/list",
            "ping",
        ]
        for seen in posts:
            assert seen.path == "/mcp"
            assert seen.headers["content-type"] == "application/json"
            accepted = {each.strip() for each in seen.headers["accept"].split(",")}
            assert accepted >= {"application/json", "text/event-stream"}
            assert seen.message["jsonrpc"] == "2.0"
        assert "mcp-session-id" not in posts[0].headers
        later = {"mcp-session-id": "session-1", "mcp-protocol-version": version}
        for seen in script.seen[1:]:
            assert own_headers(seen).items() >= later.items()
        assert script.methods.count("DELETE") == 1
        assert script.methods[-1] == "DELETE"


async def test_a_client_without_a_session_sends_no_id_and_deletes_nothing() -> None:
    async with scripted(legacy(no_get, session_id=None)) as script:
        async with open_peer(f"{script.url}?era=legacy") as peer:
            await peer.request("tools/list")
        assert "DELETE" not in script.methods
        assert all("mcp-session-id" not in seen.headers for seen in script.seen)


async def test_a_client_listens_with_a_get_that_accepts_event_streams() -> None:
    listening = trio.Event()

    async def answer(seen: Seen) -> None:
        if seen.method == "GET":
            assert "text/event-stream" in seen.headers["accept"]
            await seen.begin_stream()
            await seen.event({"jsonrpc": "2.0", "id": "s1", "method": "ping"})
            listening.set()
            await seen.until_gone()
        elif seen.body and "result" in seen.message:
            assert seen.message["id"] == "s1"
            await seen.reply(202)
            answered.set()
        else:
            await no_get(seen)

    answered = trio.Event()
    async with scripted(legacy(answer)) as script, open_peer(f"{script.url}?era=legacy"):
        await listening.wait()
        await answered.wait()
        assert "last-event-id" not in script.of("GET").headers


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_takes_json_and_streams(era: str, stream: bool) -> None:
    async def answer(seen: Seen) -> None:
        if seen.rpc_method != "tools/call":
            await no_get(seen)
        elif not stream:
            await seen.result({"content": [1]})
        else:
            meta = seen.params["_meta"]
            assert isinstance(meta, dict)
            await seen.begin_stream()
            progress = {"progressToken": meta["progressToken"], "progress": 1}
            await seen.event({
                "jsonrpc": "2.0",
                "method": "notifications/progress",
                "params": progress,
            })
            result = {"content": [1]}
            await seen.event({"jsonrpc": "2.0", "id": seen.message["id"], "result": result})
            await seen.end()

    server = legacy(answer) if era == "legacy" else modern_server(answer)
    seen_progress: list[Progress] = []
    async with scripted(server) as script, open_peer(f"{script.url}?era={era}") as peer:
        found = await peer.request(
            "tools/call",
            {"name": "t"},
            result_type=dict[str, object],
            on_progress=seen_progress.append,
        )
        assert found["content"] == [1]
        assert len(seen_progress) == stream


async def test_a_legacy_request_is_cancelled_by_a_message() -> None:
    cancelled = trio.Event()

    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "tools/call":
            await seen.begin_stream()
            await cancelled.wait()
            await seen.end()
        elif seen.rpc_method == "notifications/cancelled":
            await seen.reply(202)
            cancelled.set()
        else:
            await no_get(seen)

    async with scripted(legacy(answer)) as script, open_peer(f"{script.url}?era=legacy") as peer:
        with trio.move_on_after(0.2):
            await peer.request("tools/call", {"name": "t"})
        await cancelled.wait()
        told = script.of("notifications/cancelled").params
        assert told["requestId"] == script.of("tools/call").message["id"]


async def test_a_modern_request_is_cancelled_by_closing_its_stream() -> None:
    gone = trio.Event()

    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "tools/call":
            await seen.begin_stream()
            await seen.until_gone()
            gone.set()
        else:
            await no_get(seen)

    async with scripted(modern_server(answer)) as script, open_peer(script.url) as peer:
        with trio.move_on_after(0.2):
            await peer.request("tools/call", {"name": "t"})
        await gone.wait()
        assert "notifications/cancelled" not in script.methods


async def test_a_lost_stream_is_resumed_by_get_after_the_time_it_was_told() -> None:
    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "tools/call":
            await seen.begin_stream()
            await seen.event("", id="a-1", retry="50")
            await seen.end()  # the connection, not the stream
        elif seen.method == "GET" and "last-event-id" in seen.headers:
            await seen.begin_stream()
            if seen.headers["last-event-id"] == "a-1":
                await seen.event(id="a-2")
                await seen.end()
                return
            call = script.of("tools/call").message
            await seen.event({"jsonrpc": "2.0", "id": call["id"], "result": {"content": []}})
            await seen.end()
        else:
            await no_get(seen)

    async with scripted(legacy(answer)) as script, open_peer(f"{script.url}?era=legacy") as peer:
        found = await peer.request("tools/call", {"name": "t"}, result_type=dict[str, object])
        assert found == {"content": []}
        resumed = [seen for seen in script.seen if "last-event-id" in seen.headers]
        assert [seen.method for seen in resumed] == ["GET", "GET"]
        assert [seen.headers["last-event-id"] for seen in resumed] == ["a-1", "a-2"]
        assert all(seen.headers["mcp-session-id"] == "session-1" for seen in resumed)
        assert all("text/event-stream" in seen.headers["accept"] for seen in resumed)
        assert script.methods.count("tools/call") == 1


async def test_a_session_that_is_not_found_is_opened_anew_without_its_id() -> None:
    ids = iter(["first", "second"])

    async def answer(seen: Seen) -> None:
        if seen.method in {"GET", "DELETE"}:
            await seen.reply(405)
        elif seen.rpc_method == "initialize":
            assert "mcp-session-id" not in seen.headers
            await seen.result(initialized(), {"Mcp-Session-Id": next(ids)})
        elif seen.headers.get("mcp-session-id") == "first" and seen.rpc_method == "tools/list":
            await seen.error(404, -32600)
        else:
            await no_get(seen)

    async with scripted(answer) as script:
        async with open_peer(f"{script.url}?era=legacy") as peer:
            await peer.request("tools/list")
        calls = [seen for seen in script.seen if seen.rpc_method == "tools/list"]
        assert [seen.headers["mcp-session-id"] for seen in calls] == ["first", "second"]
        assert script.methods.count("initialize") == 2
        assert script.methods.count("notifications/initialized") == 2


async def test_a_session_id_is_told_to_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    secret = "s3cret-session"
    caplog.set_level(logging.DEBUG)

    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "tools/call":
            await seen.reply(307, headers={"Location": elsewhere.url})
        elif seen.rpc_method == "fails":
            await seen.reply(500)
        else:
            await no_get(seen)

    async with (
        scripted(no_get) as elsewhere,
        scripted(legacy(answer, session_id=secret)) as script,
        open_peer(f"{script.url}?era=legacy") as peer,
    ):
        for method in ("tools/call", "fails"):
            with pytest.raises((UnexpectedRedirect, HttpStatusError)) as caught:
                await peer.request(method, {"name": "t"})
            assert secret not in repr(caught.value) + str(caught.value)
        assert elsewhere.seen == []
        assert secret not in repr(peer) + repr(peer.channel) + repr(peer.channel.context)
    assert secret not in caplog.text


# -- Modern ------------------------------------------------------------------------------


async def test_a_modern_client_repeats_the_body_in_headers() -> None:
    async with scripted(modern_server(no_get)) as script:
        async with open_peer(script.url) as peer:
            await peer.request("tools/call", {"name": "add"})
            await peer.request("tools/list")
            await peer.notify("notifications/any")
        assert script.methods == [
            "server/discover",
            "tools/call",
            "tools/list",
            "notifications/any",
        ]
        for seen in script.seen:
            assert (seen.method, seen.headers["accept"]) == ("POST", BOTH)
            assert seen.headers["mcp-protocol-version"] == MODERN
            assert seen.headers["mcp-method"] == seen.rpc_method
            assert "mcp-session-id" not in seen.headers
            if "id" in seen.message:
                meta = seen.params["_meta"]
                assert isinstance(meta, dict)
                assert meta[KEY + "protocolVersion"] == MODERN
                assert {KEY + "clientInfo", KEY + "clientCapabilities"} <= meta.keys()
        assert script.of("tools/call").headers["mcp-name"] == "add"
        assert "mcp-name" not in script.of("tools/list").headers


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("add", "add"),
        ("Wetter_für", "=?base64?V2V0dGVyX2bDvHI=?="),
        (" padded", "=?base64?IHBhZGRlZA==?="),
        ("tab\there", "=?base64?dGFiCWhlcmU=?="),
        ("line\r\nbreak", "=?base64?bGluZQ0KYnJlYWs=?="),
        ("=?base64?YWRk?=", "=?base64?PT9iYXNlNjQ/WVdSaz89?="),
        ("=?base64?open", "=?base64?open"),
    ],
)
async def test_what_no_header_can_hold_is_encoded(name: str, header: str) -> None:
    async with scripted(modern_server(no_get)) as script, open_peer(script.url) as peer:
        await peer.request("tools/call", {"name": name})
        assert script.of("tools/call").headers["mcp-name"] == header
        assert script.of("tools/call").params["name"] == name


def tool(name: str, **properties: object) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object", "properties": properties}
    return {"name": name, "inputSchema": schema}


def marked(header: object, kind: object = "string", **more: object) -> dict[str, object]:
    return {"type": kind, "x-mcp-header": header, **more}


NESTED = {"type": "object", "properties": {"inner": marked("Inner", "integer")}}


async def test_arguments_that_a_schema_marks_go_into_headers() -> None:
    tools = [tool("t", region=marked("Region"), dry=marked("Dry", "boolean"), outer=NESTED)]

    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "tools/list":
            await seen.result({"resultType": "complete", "tools": tools})
        else:
            await no_get(seen)

    async with scripted(modern_server(answer)) as script, open_peer(script.url) as peer:
        await peer.request("tools/list")
        cases: list[tuple[dict[str, object], dict[str, str]]] = [
            ({"region": "north"}, {"mcp-param-region": "north"}),
            ({"region": ""}, {"mcp-param-region": ""}),
            ({"region": "Süd"}, {"mcp-param-region": "=?base64?U8O8ZA==?="}),
            ({"region": None, "dry": True}, {"mcp-param-dry": "true"}),
            ({"outer": {"inner": 42}}, {"mcp-param-inner": "42"}),
            ({"other": "x"}, {}),
            ({}, {}),
        ]
        for arguments, headers in cases:
            await peer.request("tools/call", {"name": "t", "arguments": arguments})
            sent = own_headers(script.of("tools/call"))
            assert {n: v for n, v in sent.items() if n.startswith("mcp-param-")} == headers


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": marked("")}},
        {"properties": {"a": marked("no blanks")}},
        {"properties": {"a": marked("line\r\nbreak")}},
        {"properties": {"a": marked("Naïve")}},
        {"properties": {"a": marked(7)}},
        {"properties": {"a": marked("Same"), "b": marked("same")}},
        {"properties": {"a": marked("A", "number")}},
        {"properties": {"a": marked("A", "object")}},
        {"properties": {"a": marked("A", "array")}},
        {"properties": {"a": {"type": "array", "items": marked("A")}}},
        {"properties": {"a": {"oneOf": [marked("A")]}}},
        {"oneOf": [{"properties": {"a": marked("A")}}]},
        {"if": {"properties": {"a": marked("A")}}},
        {"$defs": {"a": marked("A")}, "properties": {"a": {"$ref": "#/$defs/a"}}},
    ],
)
async def test_a_tool_with_a_bad_mark_is_taken_out_and_told(
    schema: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"name": "bad-one", "inputSchema": {"type": "object", **schema}}

    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "tools/list":
            await seen.result({"resultType": "complete", "tools": [tool("good"), bad]})
        else:
            await no_get(seen)

    async with scripted(modern_server(answer)) as script, open_peer(script.url) as peer:
        found = await peer.request("tools/list", result_type=dict[str, object])
        assert found["tools"] == [tool("good")]
    (record,) = [each for each in caplog.records if "bad-one" in each.getMessage()]
    assert record.levelno >= logging.WARNING


async def test_headers_that_a_server_misses_are_learnt_and_the_request_sent_again() -> None:
    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "tools/list":
            tools = [tool("t", region=marked("Region"))]
            await seen.result({"resultType": "complete", "tools": tools})
        elif "mcp-param-region" not in seen.headers:
            await seen.error(400, HEADER_MISMATCH)
        else:
            await seen.result({"resultType": "complete", "content": []})

    async with scripted(modern_server(answer)) as script, open_peer(script.url) as peer:
        await peer.request("tools/call", {"name": "t", "arguments": {"region": "north"}})
        assert script.methods == ["server/discover", "tools/call", "tools/list", "tools/call"]
        assert script.seen[-1].headers["mcp-param-region"] == "north"


# -- Which era ---------------------------------------------------------------------------


async def test_a_bad_request_with_a_modern_error_is_no_legacy_server() -> None:
    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "server/discover":
            await seen.error(400, -32021, {"requiredCapabilities": {"roots": {}}})
        else:
            await no_get(seen)

    async with scripted(answer) as script:
        # What the probe lacked says that the server is modern: there is no falling back.
        async with open_peer(script.url):
            pass
        assert "initialize" not in script.methods


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_bad_request_without_one_is_and_the_next_client_knows(status: int) -> None:
    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "server/discover":
            await seen.reply(status, b"what?")
        else:
            await inner(seen)

    inner = legacy(no_get)
    async with scripted(answer) as script:
        for _ in range(2):
            async with open_peer(script.url) as peer:
                await peer.request("tools/list")
        assert script.methods.count("initialize") == 2
        # What was found out about an origin is remembered.
        assert script.methods.count("server/discover") == 1


async def test_a_version_that_is_not_served_is_replaced_by_one_that_is() -> None:
    async def answer(seen: Seen) -> None:
        if seen.rpc_method == "server/discover":
            data = {"supported": ["2025-06-18"], "requested": MODERN}
            await seen.error(400, -32022, data)
        else:
            await inner(seen)

    inner = legacy(no_get, "2025-06-18")
    async with scripted(answer) as script, open_peer(script.url) as peer:
        await peer.request("tools/list")
        assert script.of("initialize").params["protocolVersion"] == "2025-06-18"


# -- HTTP+SSE ----------------------------------------------------------------------------


async def test_an_older_client_posts_to_where_the_first_event_says() -> None:
    streams: list[Seen] = []

    async def answer(seen: Seen) -> None:
        if seen.method == "GET":
            streams.append(seen)
            await seen.begin_stream()
            await seen.event("/post?session=1", event="endpoint")
            await seen.until_gone()
            return
        assert seen.path == "/post?session=1"
        await seen.reply(202)
        if "id" in seen.message:
            result: object = initialized("2024-11-05")
            if seen.rpc_method != "initialize":
                result = {"tools": []}
            message = {"jsonrpc": "2.0", "id": seen.message["id"], "result": result}
            await streams[0].event(message, event="message")

    async with scripted(answer, "/sse") as script:
        async with open_peer(f"sse+{script.url}") as peer:
            assert await peer.request("tools/list", result_type=dict) == {"tools": []}
        assert script.methods == ["GET", "initialize", "notifications/initialized", "tools/list"]
        assert script.seen[0].path == "/sse"


async def test_a_client_falls_back_to_the_oldest_transport_last() -> None:
    streams: list[Seen] = []

    async def answer(seen: Seen) -> None:
        if seen.method == "GET":
            streams.append(seen)
            await seen.begin_stream()
            await seen.event("/post", event="endpoint")
            await seen.until_gone()
        elif seen.path == "/mcp":
            await seen.reply(405)
        else:
            await seen.reply(202)
            if "id" in seen.message:
                result = initialized("2024-11-05")
                message = {"jsonrpc": "2.0", "id": seen.message["id"], "result": result}
                await streams[0].event(message, event="message")

    async with scripted(answer) as script, open_peer(script.url):
        ways = [(seen.path, seen.rpc_method) for seen in script.seen if seen.method == "POST"]
        assert ways[:3] == [
            ("/mcp", "server/discover"),
            ("/mcp", "initialize"),
            ("/post", "initialize"),
        ]
