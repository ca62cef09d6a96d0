"""Streamable HTTP of revisions 2025-03-26 to 2025-11-25, as a client without this package sees it.

Each test holds sentences of the manifest.
"""

from __future__ import annotations

import re

import pytest
import trio
from plain_http import Answer, LegacyClient, error_of, initialize, requesting
from specification.served_http import served

pytestmark = pytest.mark.conformance

LEGACY = ["2025-03-26", "2025-06-18", "2025-11-25"]
PROGRESS = {"_meta": {"progressToken": "t"}}


def call(name: str, progress: bool = False, **arguments: object) -> dict[str, object]:
    found: dict[str, object] = {"name": name, "arguments": arguments}
    return {**found, **PROGRESS} if progress else found


async def ended(answer: Answer) -> bool:
    return await answer.event() is None


# -- One path ----------------------------------------------------------------------------


async def test_one_path_takes_posts_and_gets() -> None:
    async with served() as server:
        for url in (server.url, server.url + "/"):
            client = LegacyClient(url)
            await client.initialize()
            async with client.request("tools/list") as answer:
                assert answer.status == 200
            async with client.get() as answer:
                assert answer.status == 200
                assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("revision", LEGACY)
async def test_a_notification_or_response_is_accepted_with_202_and_no_body(revision: str) -> None:
    async with served() as server:
        client = LegacyClient(server.url, revision)
        await client.initialize()
        for body in (
            {"jsonrpc": "2.0", "method": "notifications/any"},
            {"jsonrpc": "2.0", "id": 99, "result": {}},
        ):
            async with client.post(body) as answer:
                assert (answer.status, await answer.body()) == (202, b"")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "m"}', 400),
        (b'{"jsonrpc": "2.0", "method": 1}', 400),
        (b"[]", 400),
        (b"", 400),
    ],
)
async def test_what_cannot_be_accepted_gets_an_error_status(body: bytes, status: int) -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        async with client.post(body) as answer:
            assert answer.status == status
            assert "error" in await answer.json()


@pytest.mark.parametrize("response", ["auto", "json", "sse"])
@pytest.mark.parametrize("revision", LEGACY)
async def test_a_request_is_answered_with_json_or_a_stream(response: str, revision: str) -> None:
    async with served(f"response={response}") as server:
        client = LegacyClient(server.url, revision)
        await client.initialize()
        async with client.request("tools/call", call("echo", text="x")) as answer:
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind == ("text/event-stream" if response == "sse" else "application/json")
            assert (await answer.outcome())["id"] == 1
        async with client.request("tools/call", call("steps", True, count=2)) as answer:
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind == ("application/json" if response == "json" else "text/event-stream")
            assert (await answer.outcome())["id"] == 1


# -- The stream of a request -------------------------------------------------------------


async def test_a_stream_ends_with_the_response_and_not_before() -> None:
    async with served("response=sse") as server:
        client = LegacyClient(server.url)
        await client.initialize()
        async with client.request("tools/call", call("wait", True, count=1)) as answer:
            assert (await answer.message())["method"] == "notifications/progress"
            assert not answer.ended
            server.release.set()
            first, last = await answer.message(), await answer.message()
            assert first["method"] == "notifications/progress"
            assert last["id"] == 1
            assert "result" in last
            assert await ended(answer)


async def test_what_a_handler_says_goes_onto_the_stream_of_its_request_alone() -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize({"elicitation": {}})
        async with client.get() as standalone:
            async with client.request("tools/call", call("steps", True, count=3)) as answer:
                messages = await answer.messages()
                assert [each.get("method") for each in messages[:3]] == [
                    "notifications/progress"
                ] * 3
                assert messages[3]["id"] == 1
            async with client.request("tools/call", call("ask")) as answer:
                asked = await answer.message()
                assert asked["method"] == "elicitation/create"
                reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}
                async with client.post(reply) as taken:
                    assert taken.status == 202
                assert "result" in await answer.message()
            # Nothing of all that came here; the first that does is what belongs to no request.
            server.hub.changed("tools")
            assert (await standalone.message())["method"] == "notifications/tools/list_changed"


async def test_what_relates_to_no_request_goes_onto_one_stream_and_no_response_does() -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        async with (
            client.request("tools/call", call("wait", True, count=1)) as answer,
            client.get() as standalone,
        ):
            server.hub.changed("tools")
            assert (await standalone.message())["method"] == "notifications/tools/list_changed"
            server.release.set()
            messages = await answer.messages()
            assert [each.get("method") for each in messages] == [
                *["notifications/progress"] * 2,
                None,
            ]
            server.hub.changed("resources")
            assert (await standalone.message())["method"] == "notifications/resources/list_changed"


async def test_a_lost_connection_cancels_no_legacy_request_and_a_message_does() -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        async with client.request("tools/call", call("steps", True, count=1)) as answer:
            await answer.message()
        # Over HTTP/1.1 a client that leaves closes its connection.
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                async with client.request("tools/call", call("wait", True), request_id=2):
                    raise AssertionError("there is nothing to answer yet")

            server.calls = trio.Event()
            nursery.start_soon(leave)
            await server.calls.wait()
            nursery.cancel_scope.cancel()
        async with client.request("tools/list", request_id=3) as answer:
            assert answer.status == 200
        assert (server.cancelled, server.finished) == (0, 1)
        assert await client.notify("notifications/cancelled", {"requestId": 2}) == 202
        await server.cancellation.wait()
        assert server.finished == 1


# -- The stream of a session -------------------------------------------------------------


async def test_a_get_opens_a_stream_or_is_no_method() -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        async with client.get() as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
    async with served("stateless=true") as server:
        client = LegacyClient(server.url)
        await client.initialize()
        assert client.session_id is None
        async with client.get() as answer:
            assert answer.status == 405
            assert "POST" in answer.headers["allow"]
        assert await client.delete() == 405


# -- Resuming ----------------------------------------------------------------------------


@pytest.mark.parametrize("revision", LEGACY)
async def test_a_stream_is_primed_where_the_revision_has_it(revision: str) -> None:
    async with served("resumable=true&response=sse") as server:
        client = LegacyClient(server.url, revision)
        await client.initialize()
        async with client.request("tools/call", call("echo")) as answer:
            first = await answer.event()
            assert first is not None
            assert first.id is not None
            assert (first.data == "") == (revision == "2025-11-25")


async def test_event_ids_are_unique_in_a_session_and_tell_the_stream() -> None:
    async with served("resumable=true") as server:
        client = LegacyClient(server.url)
        await client.initialize()
        ids = []
        for number in range(3):
            request = client.request("tools/call", call("steps", True, count=3), request_id=number)
            async with request as answer:
                while event := await answer.event():
                    ids.append(event.id)
        assert len(ids) == len(set(ids)) == 3 * 5
        # From each of them its stream is resumed: what is missing, and the end.
        for place, event_id in enumerate(ids):
            async with client.get(event_id) as answer:
                assert answer.status == 200
                missing = await answer.messages()
                assert len(missing) == 4 - place % 5
                if missing:
                    assert missing[-1]["id"] == place // 5


async def test_only_the_stream_that_was_lost_is_replayed() -> None:
    async with served("resumable=true") as server:
        client, other = LegacyClient(server.url), LegacyClient(server.url)
        await client.initialize()
        await other.initialize()
        async with client.get() as standalone:
            server.hub.changed("tools")
            event = await standalone.event()
            while event is not None and not event.data:
                event = await standalone.event()
            assert event is not None
            seen = event.id
        server.hub.changed("resources")
        async with client.request("tools/call", call("steps", True, count=3)) as answer:
            first = await answer.event()
            assert first is not None
            while await answer.event() is not None:
                pass
        async with client.get(seen) as standalone:
            missed = await standalone.message()
            assert missed["method"] == "notifications/resources/list_changed"
        async with client.get(first.id) as answer:
            methods = [each.get("method") for each in await answer.messages()]
            assert methods == ["notifications/progress"] * 3 + [None]
        # Somebody else's event replays nothing.
        async with other.get(first.id) as answer:
            assert answer.status >= 400


async def test_a_connection_that_the_server_closes_says_when_to_come_back() -> None:
    async with served("resumable=true") as server:
        client = LegacyClient(server.url)
        await client.initialize()
        async with client.request("tools/call", call("leave", True)) as answer:
            events = []
            while event := await answer.event():
                events.append(event)
        assert [each.retry for each in events if each.retry is not None] == ["2000"]
        assert all("result" not in (each.data or "") for each in events)
        server.release.set()
        seen = [each.id for each in events if each.id is not None]
        async with client.get(seen[-1]) as answer:
            messages = await answer.messages()
            assert messages[-1]["id"] == 1
            assert "result" in messages[-1]


# -- Sessions ----------------------------------------------------------------------------


async def test_session_ids_are_unguessable_and_visible_ascii() -> None:
    async with served() as server:
        ids = set()
        for _ in range(20):
            client = LegacyClient(server.url)
            await client.initialize()
            assert client.session_id is not None
            assert re.fullmatch(r"[\x21-\x7e]{22,}", client.session_id)
            ids.add(client.session_id)
        assert len(ids) == 20
        # Neither counted nor made of the time: every character varies over twenty of them.
        assert all(len(set(column)) > 1 for column in zip(*ids, strict=False))


async def test_a_request_without_a_session_is_a_bad_one() -> None:
    async with served() as server:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        async with requesting(server.url, body=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["id"] == 1


async def test_a_session_that_was_ended_or_never_was_is_not_found() -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        assert await client.delete() == 204
        for session_id in (client.session_id, "never-was"):
            client.headers["Mcp-Session-Id"] = session_id
            async with client.request("tools/list") as answer:
                assert answer.status == 404
            async with client.get() as answer:
                assert answer.status == 404
            assert await client.delete() == 404
            assert await client.notify("notifications/any") == 404


# -- The version -------------------------------------------------------------------------


async def test_without_a_version_header_the_session_knows_or_it_is_2025_03_26() -> None:
    async with served("stateless=true") as server:
        batch = [{"jsonrpc": "2.0", "id": number, "method": "tools/list"} for number in (1, 2)]
        async with requesting(server.url, body=batch) as answer:
            assert answer.status == 200  # as only that revision has it
            assert len(await answer.body()) > 2
    async with served() as server:
        client = LegacyClient(server.url, "2025-06-18")
        await client.initialize()
        del client.headers["MCP-Protocol-Version"]
        async with client.post(batch) as answer:
            assert answer.status == 400
        async with client.request("tools/list") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("version", ["2019-01-01", "latest", "2025-11-25, 2025-06-18"])
async def test_a_version_that_is_not_served_is_refused(version: str) -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        client.headers["MCP-Protocol-Version"] = version
        async with client.request("tools/list") as answer:
            assert answer.status == 400
            assert "error" in await answer.json()


# -- Batches -----------------------------------------------------------------------------


@pytest.mark.parametrize("response", ["auto", "json", "sse"])
async def test_a_batch_is_answered_whole(response: str) -> None:
    async with served(f"response={response}") as server:
        client = LegacyClient(server.url, "2025-03-26")
        await client.initialize()
        batch = [
            {"jsonrpc": "2.0", "id": "a", "method": "tools/list"},
            {"jsonrpc": "2.0", "method": "notifications/any"},
            {"jsonrpc": "2.0", "id": 2, "method": "unknown"},
            {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": call("echo")},
        ]
        async with client.post(batch) as answer:
            assert answer.status == 200
            text = (await answer.body()).decode()
        assert all(f'"id":{each}' in text for each in ('"a"', "2", "3"))
        for body in (
            [{"jsonrpc": "2.0", "method": "notifications/any"}],
            [{"jsonrpc": "2.0", "id": 9, "result": {}}],
        ):
            async with client.post(body) as answer:
                assert (answer.status, await answer.body()) == (202, b"")


async def test_a_batch_mixes_no_responses_with_requests() -> None:
    async with served() as server:
        client = LegacyClient(server.url, "2025-03-26")
        await client.initialize()
        mixed = [
            {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            {"jsonrpc": "2.0", "id": 9, "result": {}},
        ]
        async with client.post(mixed) as answer:
            assert answer.status == 400


async def test_initialize_is_never_part_of_a_batch() -> None:
    body = [initialize("2025-03-26")]
    async with served() as server, requesting(server.url, body=body) as answer:
        assert answer.status == 400
        assert "mcp-session-id" not in answer.headers


@pytest.mark.parametrize("revision", LEGACY[1:])
async def test_from_2025_06_18_on_a_body_is_one_message(revision: str) -> None:
    async with served() as server:
        client = LegacyClient(server.url, revision)
        await client.initialize()
        batch = [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]
        async with client.post(batch) as answer:
            assert answer.status == 400
            assert error_of(await answer.json())["code"] == -32600
        assert server.started == 0
