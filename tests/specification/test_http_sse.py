"""HTTP+SSE of revision 2024-11-05, as a client without this package sees it."""

from __future__ import annotations

import pytest
from plain_http import initialize, requesting
from specification.served_http import served

pytestmark = pytest.mark.conformance

PATHS = "sse_path=/sse&message_path=/messages"
ACCEPT = {"Accept": "text/event-stream"}


async def test_there_are_two_endpoints_and_the_first_event_names_the_second() -> None:
    async with served(PATHS) as server:
        base = server.url.removesuffix("/mcp")
        async with requesting(f"{base}/sse", "GET", ACCEPT) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            first = await stream.event()
            assert first is not None
            assert first.event == "endpoint"
            assert first.data is not None
            assert first.data.startswith("/messages")
            async with requesting(base + first.data, body=initialize("2024-11-05")) as answer:
                assert answer.status == 202
                assert "mcp-session-id" not in answer.headers
            message = await stream.message()
            assert message["id"] == 0
            result = message["result"]
            assert isinstance(result, dict)
            assert result["protocolVersion"] == "2024-11-05"
            for body in (
                {"jsonrpc": "2.0", "method": "notifications/initialized"},
                {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            ):
                async with requesting(base + first.data, body=body) as answer:
                    assert answer.status == 202
            assert (await stream.message())["id"] == 1
        # With its stream the session is over.
        async with requesting(base + first.data, body=initialize("2024-11-05")) as answer:
            assert answer.status == 404


async def test_the_second_endpoint_is_unguessable_and_only_its_own_streams() -> None:
    async with served(PATHS) as server:
        base = server.url.removesuffix("/mcp")
        async with (
            requesting(f"{base}/sse", "GET", ACCEPT) as first,
            requesting(f"{base}/sse", "GET", ACCEPT) as second,
        ):
            one, two = await first.event(), await second.event()
            assert one is not None
            assert two is not None
            assert one.data != two.data
            assert one.data is not None
            assert len(one.data) > len("/messages") + 22
            async with requesting(base + one.data, body=initialize("2024-11-05")) as answer:
                assert answer.status == 202
            assert (await first.message())["id"] == 0
            for path in ("/messages", "/messages?session_id=", "/messages?sessionId=guessed"):
                async with requesting(base + path, body=initialize("2024-11-05")) as answer:
                    assert answer.status in {400, 404}
            assert two.data is not None
            # The other stream has got nothing of all that: its first message is its own.
            ping = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
            async with requesting(base + two.data, body=ping) as answer:
                assert answer.status == 202
            assert (await second.message())["id"] == 7
