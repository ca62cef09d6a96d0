"""Streamable HTTP of revision 2026-07-28, as a client without this package sees it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
from plain_http import (
    BOTH,
    KEY,
    MODERN,
    LegacyClient,
    error_of,
    initialize,
    modern,
    modern_params,
    requesting,
)
from specification.served_http import served

pytestmark = pytest.mark.conformance

HEADER_MISMATCH = -32020
UNSUPPORTED = -32022


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


# -- Requests and answers ----------------------------------------------------------------


@pytest.mark.parametrize("response", ["auto", "json", "sse"])
async def test_a_request_stands_alone(response: str) -> None:
    async with served(f"response={response}") as server:
        for request_id in (1, "one"):
            params = call("echo", text="x")
            async with modern(server.url, "tools/call", params, request_id=request_id) as answer:
                kind = answer.headers["content-type"].partition(";")[0]
                assert kind == ("text/event-stream" if response == "sse" else "application/json")
                assert answer.status == 200
                assert "mcp-session-id" not in answer.headers
                outcome = await answer.outcome()
            assert outcome["id"] == request_id
            result = outcome["result"]
            assert isinstance(result, dict)
            assert result["resultType"] == "complete"
            assert result["_meta"] == {KEY + "serverInfo": {"name": "server", "version": "1"}}


async def test_a_notification_is_accepted_with_202_and_no_body() -> None:
    async with served() as server:
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "notifications/any"}
        for params in (modern_params(), {}):
            body = {"jsonrpc": "2.0", "method": "notifications/any", "params": params}
            async with requesting(server.url, headers=headers, body=body) as answer:
                assert (answer.status, await answer.body()) == (202, b"")


async def test_a_body_is_one_message_and_no_response() -> None:
    async with served() as server:
        one = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": modern_params()}
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
        for body in ([one], {"jsonrpc": "2.0", "id": 1, "result": {}}, b"{", {}):
            async with requesting(server.url, headers=headers, body=body) as answer:
                assert answer.status == 400
                assert "error" in await answer.json()


async def test_a_stream_tells_what_relates_to_its_request_and_ends_with_the_response() -> None:
    async with served() as server:
        params = call("steps", count=3)
        async with modern(server.url, "tools/call", params, meta={"progressToken": 7}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            server.hub.changed("tools")
            events = []
            while event := await answer.event():
                events.append(event)
        assert [event.id for event in events] == [None] * 4
        messages = [event.message for event in events]
        assert [each.get("method") for each in messages] == ["notifications/progress"] * 3 + [None]
        assert messages[-1]["id"] == 1


async def test_a_server_asks_by_its_result_and_sends_no_requests() -> None:
    async with served() as server:
        declared: dict[str, object] = {KEY + "clientCapabilities": {"elicitation": {}}}
        async with modern(server.url, "tools/call", call("ask"), meta=declared) as answer:
            result = (await answer.json())["result"]
        assert isinstance(result, dict)
        assert result["resultType"] == "input_required"
        assert result["inputRequests"].keys() == {"who"}
        async with modern(server.url, "tools/call", call("ask")) as answer:
            assert answer.status == 400
            error = error_of(await answer.json())
        assert (error["code"], error["data"]) == (
            -32021,
            {"requiredCapabilities": {"elicitation": {"form": {}}}},
        )


@pytest.mark.parametrize("token", [None, "t"])
async def test_a_client_that_leaves_cancels_its_request(token: str | None) -> None:
    async with served() as server:
        meta: dict[str, object] = {} if token is None else {"progressToken": token}
        params = call("wait")
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                async with modern(server.url, "tools/call", params, meta=meta):
                    raise AssertionError("there is nothing to answer yet")

            nursery.start_soon(leave)
            await server.calls.wait()
            nursery.cancel_scope.cancel()
        await server.cancellation.wait()
        assert server.finished == 0


async def test_a_listen_stream_acknowledges_and_tags_and_is_kept_apart() -> None:
    async with served() as server:
        params = {"notifications": {"toolsListChanged": True}}
        async with (
            modern(server.url, "subscriptions/listen", params, request_id="a") as first,
            modern(server.url, "subscriptions/listen", params, request_id=2) as second,
        ):
            for answer, request_id in ((first, "a"), (second, 2)):
                acknowledged = await answer.message()
                assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
                assert meta_of(acknowledged)[KEY + "subscriptionId"] == request_id
            server.hub.changed("resources")
            server.hub.changed("tools")
            for answer, request_id in ((first, "a"), (second, 2)):
                changed = await answer.message()
                assert changed["method"] == "notifications/tools/list_changed"
                assert meta_of(changed)[KEY + "subscriptionId"] == request_id
            server.hub.close()
            for answer, request_id in ((first, "a"), (second, 2)):
                cancelled, result = await answer.messages()
                assert cancelled["method"] == "notifications/cancelled"
                assert result["id"] == request_id


def meta_of(message: Mapping[str, object]) -> Mapping[str, object]:
    params = message["params"]
    assert isinstance(params, dict)
    meta = params["_meta"]
    assert isinstance(meta, dict)
    return meta


# -- Which revision ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing", [KEY + "clientCapabilities", KEY + "protocolVersion", "_meta", "params"]
)
async def test_metadata_that_is_missing_is_a_bad_request(missing: str) -> None:
    async with served() as server:
        params = modern_params()
        meta = params["_meta"]
        assert isinstance(meta, dict)
        meta.pop(missing, None)
        params.pop(missing, None)
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
        body.pop(missing, None)
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
        async with requesting(server.url, headers=headers, body=body) as answer:
            assert answer.status == 400
            message = await answer.json()
        assert message["id"] == 1
        assert error_of(message)["code"] == -32602


@pytest.mark.parametrize("header", [None, "2025-11-25", "2099-01-01", "2026-07-28, 2026-07-28"])
async def test_the_version_header_must_be_that_of_the_body(header: str | None) -> None:
    async with served() as server:
        headers = {"MCP-Protocol-Version": header}
        async with modern(server.url, "tools/list", headers=headers) as answer:
            assert answer.status == 400
            message = await answer.json()
        assert message["id"] == 1
        assert error_of(message)["code"] == HEADER_MISMATCH


@pytest.mark.parametrize("version", ["2099-01-01", "draft"])
async def test_a_version_that_is_not_served_is_refused_with_those_that_are(version: str) -> None:
    async with served() as server:
        headers = {"MCP-Protocol-Version": version}
        meta = {KEY + "protocolVersion": version}
        async with modern(server.url, "tools/list", headers=headers, meta=meta) as answer:
            assert answer.status == 400
            error = error_of(await answer.json())
        assert error["code"] == UNSUPPORTED
        data = error["data"]
        assert isinstance(data, dict)
        assert data["requested"] == version
        assert MODERN in data["supported"]


async def test_a_server_without_modern_revisions_does_not_seem_to_have_them() -> None:
    async with served("era=legacy") as server, modern(server.url, "server/discover") as answer:
        assert answer.status == 400
        error = error_of(await answer.json())
    # A client that gets one of the modern codes takes the server for a modern one.
    assert error["code"] not in {HEADER_MISMATCH, -32021, UNSUPPORTED}


async def test_a_method_that_is_not_there_is_not_found_and_a_handlers_word_is_an_answer() -> None:
    async with served() as server:
        async with modern(server.url, "no/such/method") as answer:
            assert answer.status == 404
            assert error_of(await answer.json())["code"] == -32601
        async with modern(server.url, "tools/call", call("fail")) as answer:
            assert answer.status == 200
            assert error_of(await answer.json())["code"] == -32601


async def test_a_modern_only_server_and_what_older_clients_send() -> None:
    async with served("era=modern") as server:
        async with requesting(server.url, body=initialize()) as answer:
            assert answer.status == 400
            assert MODERN in (await answer.body()).decode()
            assert "mcp-session-id" not in answer.headers
        for method in ("GET", "DELETE"):
            async with requesting(server.url, method, {"Mcp-Session-Id": "x"}) as answer:
                assert answer.status == 405
        old = {"Mcp-Session-Id": "x", "Last-Event-ID": "1-1"}
        async with modern(server.url, "tools/list", headers=old) as answer:
            assert answer.status == 200
            assert "mcp-session-id" not in answer.headers
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        async with requesting(server.url, body=body) as answer:
            assert answer.status == 400


async def test_both_eras_are_served_at_one_url() -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        # The session id of a legacy client is nothing to a modern request.
        headers = {"Mcp-Session-Id": client.session_id}
        async with modern(server.url, "tools/list", headers=headers) as answer:
            assert (await answer.json())["result"]["resultType"] == "complete"  # type: ignore[index]
        async with client.request("tools/list") as answer:
            assert "resultType" not in (await answer.body()).decode()


# -- Headers that repeat the body --------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Method": None},
        {"Mcp-Method": "tools/list"},
        {"Mcp-Method": "TOOLS/CALL"},
        {"Mcp-Name": None},
        {"Mcp-Name": "other"},
        {"Mcp-Name": "Echo"},
        {"Mcp-Name": "=?base64?b3RoZXI=?="},
        {"Mcp-Name": "=?base64?ZWNobw=?="},
        {"Mcp-Name": "=?BASE64?ZWNobw==?="},
        {"Mcp-Name": "=?base64?ZWNobw==?"},
    ],
)
async def test_headers_that_are_missing_or_differ_are_refused(
    headers: dict[str, str | None],
) -> None:
    async with served() as server:
        async with modern(server.url, "tools/call", call("echo"), headers=headers) as answer:
            assert answer.status == 400
            message = await answer.json()
        assert message["id"] == 1
        assert error_of(message)["code"] == HEADER_MISMATCH
        assert server.started == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Name": "=?base64?ZWNobw==?="},
        {"MCP-PROTOCOL-VERSION": MODERN, "MCP-Protocol-Version": None},
        {"mcp-method": "tools/call", "Mcp-Method": None},
        {"mCP-nAME": "echo", "Mcp-Name": None},
    ],
)
async def test_headers_are_decoded_and_their_names_have_no_case(
    headers: dict[str, str | None],
) -> None:
    async with served() as server:
        params = call("echo")
        async with modern(server.url, "tools/call", params, headers=headers) as answer:
            assert answer.status == 200


REGION = {"Mcp-Param-Region": "north", "Mcp-Param-Level": "42"}


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "north", "level": 42}, REGION),
        ({"level": 2**53 - 1}, {"Mcp-Param-Level": str(2**53 - 1)}),
        ({"region": "north", "level": 42}, {**REGION, "Mcp-Param-Level": "42.0"}),
        ({"region": "Süd"}, {"mcp-param-region": "=?base64?U8O8ZA==?="}),
        ({"region": "=?base64?x?="}, {"Mcp-Param-Region": "=?base64?PT9iYXNlNjQ/eD89?="}),
        ({"region": None, "level": 1}, {"Mcp-Param-Level": "1"}),
        ({"dry": True}, {"Mcp-Param-Dry": "true"}),
        ({}, {}),
        ({}, {"Mcp-Param-Unknown": "whatever"}),
    ],
)
async def test_arguments_in_headers_are_those_of_the_body(
    arguments: dict[str, object], headers: dict[str, str | None]
) -> None:
    async with served() as server:
        params = {"name": "region", "arguments": arguments}
        async with modern(server.url, "tools/call", params, headers=headers) as answer:
            assert answer.status == 200, await answer.body()


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "north"}, {}),
        ({"region": "north"}, {"Mcp-Param-Region": "south"}),
        ({"region": "north"}, {"Mcp-Param-Region": "North"}),
        ({"level": 42}, {"Mcp-Param-Level": "43"}),
        ({"level": 42}, {"Mcp-Param-Level": "forty-two"}),
        ({"level": 2**53}, {"Mcp-Param-Level": str(2**53)}),
        ({"region": "Süd"}, {"Mcp-Param-Region": "Süd"}),
        ({"region": "north"}, {"Mcp-Param-Region": "=?base64?****?="}),
        ({"region": "Hello"}, {"Mcp-Param-Region": "=?base64?SGVsbG8?="}),
        ({"region": None}, {"Mcp-Param-Region": "north"}),
        ({}, {"Mcp-Param-Region": "north"}),
    ],
)
async def test_arguments_in_headers_that_differ_are_refused(
    arguments: dict[str, object], headers: dict[str, str | None]
) -> None:
    async with served() as server:
        params = {"name": "region", "arguments": arguments}
        sent = {name: latin(value) for name, value in headers.items()}
        async with modern(server.url, "tools/call", params, headers=sent) as answer:
            assert answer.status == 400
            assert error_of(await answer.json())["code"] == HEADER_MISMATCH
        assert server.started == 0


def latin(value: str | None) -> str | None:
    """UTF-8, smuggled into a header as it is."""
    return None if value is None else value.encode().decode("latin-1")


# -- Who may come in ---------------------------------------------------------------------


async def test_pages_of_other_origins_and_of_other_hosts_are_refused() -> None:
    async with served() as server:
        host = server.url.split("/")[2]
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://{host}", "Host": "evil.example"},
            {"Host": f"evil.example:{host.rpartition(':')[2]}"},
        ):
            for method in ("POST", "GET", "DELETE"):
                async with requesting(server.url, method, headers, b"{}") as answer:
                    assert answer.status == 403
        for headers in ({}, {"Origin": f"http://{host}"}):
            async with modern(server.url, "tools/list", headers=headers) as answer:
                assert answer.status == 200
        assert server.started == 0


async def test_authentication_comes_before_everything_of_mcp() -> None:
    async with served("auth=bearer&bearer_token=s3cret") as server:
        for method in ("POST", "GET", "DELETE"):
            async with requesting(server.url, method, body=b"{}") as answer:
                assert answer.status == 401
                assert answer.headers["www-authenticate"].lower().startswith("bearer")
        headers = {"Authorization": "Bearer s3cret"}
        async with modern(server.url, "tools/list", headers=headers) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (BOTH, 200),
        (None, 200),
        ("*/*", 200),
        ("application/*, text/*", 200),
        ("application/json", 406),
        ("text/html", 406),
        ("application/json, text/event-stream;q=0", 406),
    ],
)
async def test_what_a_client_accepts_is_read_with_wildcards(
    accept: str | None, status: int
) -> None:
    headers = {"Accept": accept}
    async with served() as server, modern(server.url, "tools/list", headers=headers) as answer:
        assert answer.status == status
