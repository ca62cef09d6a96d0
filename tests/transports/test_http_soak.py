"""Many, hostile and restarted peers over HTTP, against a server as programs start it.

Real sockets and the real clock: what is looked at is what is left behind, and who gets what.
"""

from __future__ import annotations

import gc
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import h11
import msgspec
import pytest
import trio
from plain_http import (
    Answer,
    LegacyClient,
    initialize,
    modern,
    modern_headers,
    modern_params,
    requesting,
)
from scripted_http import Seen, initialized, legacy, scripted
from specification.served_http import Server, served

from trio_mcp_transport import (
    Context,
    Hub,
    Router,
    SessionExpired,
    TransportError,
    open_peer,
    serve_peers,
)
from trio_mcp_transport.sansio.http import Reply, RequestHead
from trio_mcp_transport.sansio.mcp_http import sessions
from trio_mcp_transport.security import ConnectionFacts, unauthorized

pytestmark = pytest.mark.hardening

PROGRESS = {"_meta": {"progressToken": "t"}}


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds. The clock is the kernel's: sockets close when they do."""
    for _ in range(3000):
        if holds():
            return
        await trio.sleep(0.02)
    raise AssertionError("it never did")


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


def own_objects() -> Counter[str]:
    """How many objects there are of each class of this package."""
    gc.collect()
    return Counter(
        type(each).__qualname__
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("trio_mcp_transport")  # not text in each C module
    )


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- What stays behind -------------------------------------------------------------------


async def open_and_drop(server: Server, kind: int) -> None:
    """Open a session and leave it in one of the ways that clients have."""
    client = LegacyClient(server.url)
    await client.initialize()
    if kind == 0:
        assert await client.delete() == 204
    elif kind == 1:  # with its stream open
        async with client.get():
            pass
    elif kind == 2:  # in the middle of an answer
        params = {**call("steps", count=20), **PROGRESS}
        async with client.request("tools/call", params) as answer:
            await answer.event()
    elif kind == 3:  # deleted, with a stream open
        async with client.get():
            assert await client.delete() == 204


async def test_a_thousand_sessions_that_were_opened_and_dropped_leave_nothing() -> None:
    async with served("session_idle_timeout=1&grace_timeout=1&max_sessions=2000") as server:
        for kind in range(5):
            await open_and_drop(server, kind)
        await until(lambda: own_objects()["SessionRecord"] == 0)
        tasks_before, objects_before, files_before = tasks(), own_objects(), descriptors()
        for start in range(0, 1000, 20):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 20):
                    nursery.start_soon(open_and_drop, server, number % 5)
        await until(lambda: own_objects()["SessionRecord"] == 0)
        await until(lambda: tasks() <= tasks_before and descriptors() <= files_before)
        grown = own_objects() - objects_before
        # What a session leaves would be there a thousand times.
        assert {name: count for name, count in grown.items() if count > 100} == {}
        assert server.events == []


async def test_a_thousand_requests_that_were_given_up_leave_nothing() -> None:
    async with served() as server:

        async def give_up() -> None:
            with trio.move_on_after(0.05):
                async with modern(server.url, "tools/call", call("wait")):
                    pass

        await give_up()
        await until(lambda: server.cancelled == server.started > 0)
        tasks_before, objects_before, files_before = tasks(), own_objects(), descriptors()
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(give_up)
        await until(lambda: server.cancelled == server.started)
        await until(lambda: tasks() <= tasks_before and descriptors() <= files_before)
        assert server.started > 100
        grown = own_objects() - objects_before
        assert {name: count for name, count in grown.items() if count > 100} == {}


async def test_ten_thousand_initialize_requests_open_no_more_sessions_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Sessions make room for new ones after seconds in which nobody uses them, and this may
    # take longer than that.
    monkeypatch.setattr(sessions, "_UNUSED_SECONDS", math.inf)
    monkeypatch.setattr(sessions, "_SPARE_SECONDS", math.inf)
    body = msgspec.json.encode(initialize())
    async with served("max_sessions=100") as server:
        host = server.url.split("/")[2]
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        statuses: Counter[bytes] = Counter()
        retries: set[bytes] = set()

        async def flood(count: int) -> None:
            port = int(host.rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                for _ in range(count // 50):
                    await stream.send_all((head.encode() + body) * 50)
                    received = b""
                    while len(found := re.findall(rb"HTTP/1\.1 (\d+)", received)) < 50:
                        part = await stream.receive_some(65536)
                        assert part, (received[-600:], server.events)
                        received += part
                    statuses.update(found)
                    retries.update(re.findall(rb"(?i)retry-after: (\d+)", received))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(flood, 1000)
        assert statuses == {b"200": 100, b"503": 9900}
        assert retries == {b"5"}
        assert own_objects()["SessionRecord"] == 100
        # The server is as well as before.
        async with modern(server.url, "tools/list") as answer:
            assert answer.status == 200


# -- Who gets what -----------------------------------------------------------------------


async def test_each_of_many_clients_with_the_same_ids_gets_its_own_answers() -> None:
    async with served() as server:
        got: dict[int, object] = {}

        async def talk(number: int) -> None:
            client = LegacyClient(server.url)
            await client.initialize()
            params = {**call("steps", count=3, text=str(number)), **PROGRESS}
            async with client.request("tools/call", params, request_id=1) as answer:
                got[number] = (await answer.outcome())["result"]

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(talk, number)
        assert got == {
            number: {"content": [{"type": "text", "text": str(number)}]} for number in range(50)
        }


async def test_two_requests_of_a_session_with_one_id_are_both_answered() -> None:
    async with served() as server:
        client = LegacyClient(server.url)
        await client.initialize()
        texts: list[object] = []

        async def ask(text: str) -> None:
            async with client.request(
                "tools/call", call("wait", text=text), request_id=1
            ) as answer:
                texts.append((await answer.outcome())["result"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "a")
            nursery.start_soon(ask, "b")
            await until(lambda: server.started == 2)
            # A cancellation that could mean either is taken for neither.
            assert await client.notify("notifications/cancelled", {"requestId": 1}) == 202
            server.release.set()
        assert sorted(map(str, texts)) == [
            str({"content": [{"type": "text", "text": text}]}) for text in ("a", "b")
        ]
        assert server.cancelled == 0


async def test_another_users_session_is_as_unknown_as_none() -> None:
    async def authenticate(head: RequestHead, facts: ConnectionFacts) -> str | Reply:
        await trio.lowlevel.checkpoint()
        user = head.headers.get("authorization", "")
        return user.removeprefix("Bearer ") or unauthorized()

    async with served("resumable=true", authenticate=authenticate) as server:
        ada, eve = LegacyClient(server.url), LegacyClient(server.url)
        ada.headers["Authorization"] = "Bearer ada"
        eve.headers["Authorization"] = "Bearer eve"
        async with ada.post(initialize()) as answer:
            session_id = answer.headers["mcp-session-id"]
        for client in (ada, eve):
            client.headers["Mcp-Session-Id"] = session_id
        params = {**call("steps", count=1), **PROGRESS}
        async with ada.request("tools/call", params) as answer:
            event = await answer.event()
            assert event is not None
        unknown = LegacyClient(server.url)
        unknown.headers = {**eve.headers, "Mcp-Session-Id": "unknown"}
        seen = []
        for client in (eve, unknown):
            async with client.request("tools/list") as answer:
                seen.append((answer.status, await answer.body()))
            async with client.get(event.id) as answer:
                seen.append((answer.status, await answer.body()))
            seen.append((await client.delete(), b""))
        assert seen[:3] == seen[3:]
        assert [status for status, _ in seen] == [404] * 6
        async with ada.request("tools/list") as answer:
            assert answer.status == 200
        async with requesting(server.url, body=initialize()) as answer:
            assert answer.status == 401


# -- What is sent ------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_as_soon_as_that_is_known(chunked: bool) -> None:
    async with served("max_message_bytes=100000") as server:
        host, _, port = server.url.split("/")[2].rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000000"
            await stream.send_all(
                f"POST /mcp HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
                f"Accept: */*\r\n{length}\r\n\r\n".encode()
            )
            received = b""
            with trio.fail_after(30):
                while b"\r\n\r\n" not in received:
                    if chunked:
                        with trio.move_on_after(0.01):
                            received += await stream.receive_some(65536)
                        if not received:
                            await stream.send_all(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
                    else:
                        received += await stream.receive_some(65536)
        assert received.startswith(b"HTTP/1.1 413 ")
        async with modern(server.url, "tools/list") as answer:
            assert answer.status == 200


SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 4", "Transfer-Encoding: chunked", "", "0\r\n\r\n" + SMUGGLED],
        ["Content-Length: 0", "Content-Length: 40", "", SMUGGLED],
        ["Content-Length: 0, 40", "", SMUGGLED],
        ["Content-Length: +4", "", "abcd" + SMUGGLED],
        ["Transfer-Encoding: chunked", "", "2\r\nabXX0\r\n\r\n" + SMUGGLED],
        ["Transfer-Encoding: chunked", "", "2;\nab\r\n0\r\n\r\n" + SMUGGLED],
        ["Transfer-Encoding: xchunked", "", "0\r\n\r\n" + SMUGGLED],
        ["Transfer-Encoding : chunked", "", "0\r\n\r\n" + SMUGGLED],
        ["X: y\n folded: z", "Content-Length: 0", "", SMUGGLED],
        ["X: y\rContent-Length: 40", "", SMUGGLED],
    ],
)
async def test_a_request_that_two_readers_may_read_differently_ends_its_connection(
    lines: list[str],
) -> None:
    async with served() as server:
        host, _, port = server.url.split("/")[2].rpartition(":")
        head = ["POST /mcp HTTP/1.1", f"Host: {host}:{port}", "Content-Type: application/json"]
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all("\r\n".join([*head, *lines]).encode())
            received = b""
            with trio.fail_after(30):
                while part := await stream.receive_some(65536):
                    received += part
        # One refusal and the end, whatever came behind it.
        assert re.findall(rb"HTTP/1\.1 (\d+)", received) in ([b"400"], [b"501"])


@pytest.mark.parametrize(
    "body",
    [
        '{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":%s}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call","id":2,"params":%s}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%s,"\\u006dethod":"tools/list"}',
        '{"jsonrpc":"2.0","id":1,"Method":"tools/call","params":%s}',
        '{"jsonrpc":"2.0","id":1,"method\\u0000":"tools/call","params":%s}',
    ],
)
async def test_a_message_that_two_parsers_may_read_differently_is_not_run(body: str) -> None:
    params = modern_params(call("echo"))
    text = (body % msgspec.json.encode(params).decode()).encode()
    async with served() as server:
        for method in ("tools/list", "tools/call"):
            headers = modern_headers(method, params)
            async with requesting(server.url, headers=headers, body=text) as answer:
                assert answer.status == 400
        assert server.started == 0


# -- Streams -----------------------------------------------------------------------------


async def test_a_silent_stream_gets_comments_and_a_new_one_takes_its_place() -> None:
    async with served("keep_alive_interval=0.1") as server:
        client = LegacyClient(server.url)
        await client.initialize()
        async with client.get() as first:
            await until_comment(first, server)
            async with client.get() as second:
                assert second.status == 200
                with suppress(h11.RemoteProtocolError):  # cut off is as good as ended
                    assert await first.event() is None
                server.hub.changed("resources")
                message = await second.message()
                assert message["method"] == "notifications/resources/list_changed"
        params = {"notifications": {"toolsListChanged": True}}
        async with modern(server.url, "subscriptions/listen", params) as answer:
            await answer.message()
            await until_comment(answer, server)


async def until_comment(answer: Answer, server: Server) -> None:
    """Read events until comments have come between them."""
    await trio.sleep(0.5)
    server.hub.changed("tools")
    await answer.message()
    assert answer.comments > 0


async def test_a_stream_that_cannot_be_resumed_is_a_failure_of_its_request() -> None:
    asked = 0

    async def answer(seen: Seen) -> None:
        nonlocal asked
        if seen.rpc_method == "tools/call":
            await seen.begin_stream()
            await seen.event("", id="1", retry="1")
            await seen.end()
        elif seen.method == "GET" and "last-event-id" in seen.headers:
            asked += 1
            await seen.reply(410)
        elif seen.method == "GET":
            await seen.reply(405)
        else:
            await seen.result({})

    async with scripted(legacy(answer)) as script, open_peer(f"{script.url}?era=legacy") as peer:
        with pytest.raises((TransportError, trio.BrokenResourceError)):
            await peer.request("tools/call", {"name": "t"})
        assert asked == 1
        await peer.request("ping")
        assert script.methods.count("tools/call") == 1


async def test_a_server_without_a_stream_for_sessions_serves_all_the_same() -> None:
    async def answer(seen: Seen) -> None:
        if seen.method == "GET":
            await seen.reply(405, headers={"Allow": "POST"})
        else:
            await seen.result({"tools": []})

    async with scripted(legacy(answer)) as script:
        async with open_peer(f"{script.url}?era=legacy") as peer:
            for _ in range(5):
                await peer.request("tools/list")
        assert script.methods.count("GET") == 1


# -- Restarts ----------------------------------------------------------------------------


def make_router() -> Router:
    router = Router("again", "1", capabilities={"tools": {}}, hub=Hub())

    @router.method("tools/list")
    async def tools(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"tools": []}

    @router.method("wait")
    async def wait(ctx: Context) -> None:
        await trio.sleep_forever()

    return router


async def serve_until(
    scope: trio.CancelScope,
    url: str,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    with scope:
        await serve_peers(make_router(), url, task_status=task_status)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_client_goes_on_when_its_server_was_restarted(era: str) -> None:
    lost: list[BaseException] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            first, second = trio.CancelScope(), trio.CancelScope()
            (url,) = await nursery.start(serve_until, first, "http://127.0.0.1:0/mcp")
            async with open_peer(f"{url}?era={era}") as peer, trio.open_nursery() as requests:
                await peer.request("tools/list")

                async def wait() -> None:
                    try:
                        await peer.request("wait")
                    except (TransportError, trio.BrokenResourceError) as error:
                        lost.append(error)

                requests.start_soon(wait)
                await until(lambda: peer.statistics().requests_pending == 1)
                first.cancel()
                await until(lambda: len(lost) == 1)  # it may have run: nobody runs it again
                await nursery.start(serve_until, second, url)
                for _ in range(3):
                    await peer.request("tools/list")
            second.cancel()


async def test_what_was_under_way_in_a_lost_session_is_told_so() -> None:
    ids = iter(["first", "second", "third"])

    async def answer(seen: Seen) -> None:
        if seen.method == "GET":
            await seen.reply(405)
        elif seen.method == "DELETE":
            await seen.reply(200)
        elif seen.rpc_method == "initialize":
            await seen.result(initialized(), {"Mcp-Session-Id": next(ids)})
        elif seen.rpc_method == "notifications/initialized":
            await seen.reply(202)
        elif seen.rpc_method == "slow":
            await seen.begin_stream()
            await seen.until_gone()
        elif seen.headers["mcp-session-id"] == "first":
            await seen.error(404, -32600)
        else:
            await seen.result({})

    outcome: list[BaseException] = []
    async with scripted(answer) as script, open_peer(f"{script.url}?era=legacy") as peer:

        async def slow() -> None:
            try:
                await peer.request("slow")
            except (TransportError, trio.BrokenResourceError) as error:
                outcome.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await until(lambda: "slow" in script.methods)
            await trio.sleep(0.1)  # until its head has come
            await peer.request("quick")
        assert [type(each) for each in outcome] == [SessionExpired]
        assert script.methods.count("slow") == 1
        assert script.methods.count("quick") == 2
