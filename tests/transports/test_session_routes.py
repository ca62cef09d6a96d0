"""Sessions where two workers serve one endpoint: whichever is asked, the one that has it answers.

Both workers live in this process, joined by real Unix sockets.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

import msgspec
import pytest
import trio
from http_served import (
    FACTS,
    INITIALIZE,
    LEGACY,
    META,
    RESULT,
    Application,
    Client,
    Served,
    serving,
)
from trio.testing import wait_all_tasks_blocked

from trio_mcp_transport import MessageChannel, Notification, Request, Response, serve_channels
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import BodyData, EndOfBody, RequestHead, ResponseHead
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.security.admission import AdmissionPolicy, Doorkeeper
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.security.response_headers import ResponseHeaderPolicy
from trio_mcp_transport.tls_facts import CertificateFacts, TlsFacts
from trio_mcp_transport.transports.session_handover import (
    HandedOver,
    decode_request,
    decode_response,
    encode_response,
)
from trio_mcp_transport.transports.session_routes import SessionRoutes, worker_of
from trio_mcp_transport.transports.worker_seat import WorkerSeat, take_seat

pytestmark = [
    pytest.mark.http,
    pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets"),
]

PATIENCE = 20.0
SSE_TOO = HttpServerOptions(sse_path="/sse", message_path="/messages")
PLAIN = HttpServerOptions()


@pytest.fixture
def directory() -> Generator[str, None, None]:
    # A socket's path is short; those of tests are not.
    with tempfile.TemporaryDirectory(prefix="routes-") as name:
        yield name
        assert os.listdir(name) == []


@asynccontextmanager
async def two_workers(
    directory: str,
    first: Application | None = None,
    second: Application | None = None,
    *,
    options: HttpServerOptions = PLAIN,
    doorkeeper: Doorkeeper | None = None,
) -> AsyncGenerator[tuple[Served, Served], None]:
    """Their handlers may be given; sessions are usually begun at the first one."""
    with trio.fail_after(PATIENCE):
        routes = [SessionRoutes(directory, number, "http://x/mcp", None) for number in (1, 2)]
        application = first or Application()
        async with (
            serving(application, options, doorkeeper=doorkeeper, routes=routes[0]) as one,
            serving(
                second or Application(), options, doorkeeper=doorkeeper, routes=routes[1]
            ) as two,
        ):
            yield one, two


async def status_of(client: Client, session: str, name: str = "tool") -> int:
    await client.call(name, session=session)
    status, _ = await client.json()
    return status


class Failing:
    """In place of the class of sockets: none can be made, or none connects."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, *_: object) -> NoReturn:
        raise OSError(self._number, os.strerror(self._number))


@contextmanager
def not_accepting(path: str) -> Generator[None, None, None]:
    """A worker that hangs."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        try:
            yield
        finally:
            os.unlink(path)


@asynccontextmanager
async def running_on(served: Served, application: Application) -> AsyncGenerator[None, None]:
    """Keep a worker at work, so that it does not end."""
    client = served.connect()
    await client.call("wait")
    await application.begun.wait()
    yield  # ruff: ignore[fallible-context-manager] (a failed test leaves no result)
    application.release.set()
    assert (await client.json())[0] == 200


async def is_silent(client: Client) -> bool:
    """Whether nothing comes, not even the end."""
    found: list[object] = []

    async def receive() -> None:
        found.append(await client.stream.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return not found


# -- requests ----------------------------------------------------------------------------


async def test_a_request_is_answered_by_the_worker_that_has_the_session(directory: str) -> None:
    async with two_workers(directory) as (one, two):
        session = await one.connect().initialize()
        assert session.startswith("1.")
        client = two.connect()
        for _ in range(3):  # also: the connection goes on to the next request
            await client.call(session=session)
            assert await client.json() == (200, {"jsonrpc": "2.0", "id": 1, "result": RESULT})
        assert [len(each.service.endpoint.sessions) for each in (one, two)] == [1, 0]
        assert (one.names, two.names) == ([], [])


async def test_what_is_streamed_comes_as_it_is_said(directory: str) -> None:
    proceed = trio.Event()

    async def streams(channel: MessageChannel) -> None:
        async for request in channel:
            if not isinstance(request, Request):
                continue
            if request.method == "initialize":
                await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
                continue
            await channel.send(Notification("notifications/message", {"n": 0}))
            await proceed.wait()
            await channel.send(Notification("notifications/message", {"text": "x" * 3_000_000}))
            await channel.send(Response(request.id, RESULT))

    with trio.fail_after(PATIENCE):
        routes = [SessionRoutes(directory, number, "http://x/mcp", None) for number in (1, 2)]
        async with (
            serving(streams, routes=routes[0]) as one,
            serving(Application(), routes=routes[1]) as two,
        ):
            session = await one.connect().initialize()
            client = two.connect()
            await client.call(session=session)
            assert await client.stream_head() == 200
            assert (await client.message())["params"] == {"n": 0}
            proceed.set()
            params = msgspec.convert((await client.message())["params"], dict[str, str])
            assert len(params["text"]) == 3_000_000
            assert (await client.message())["result"] == RESULT
            await client.stream_end()
            assert await status_of(client, "2.none") == 404


async def test_notifications_and_the_end_of_the_session_reach_its_worker(directory: str) -> None:
    application = Application()
    async with two_workers(directory, application) as (one, two):
        session = await one.connect().initialize()
        waiting, client = two.connect(), two.connect()
        await waiting.call("wait", session=session)
        await application.begun.wait()
        assert await client.notify("notifications/cancelled", session, {"requestId": 1}) == 202
        await client.send("DELETE", {"Mcp-Session-Id": session})
        assert (await client.responses.whole())[0] == 204
        assert len(one.service.endpoint.sessions) == 0
        await application.was_cancelled.wait()
        assert await status_of(client, session) == 404
        assert await status_of(one.connect(), session) == 404


async def test_modern_requests_are_answered_where_they_come(directory: str) -> None:
    async with two_workers(directory) as (one, two):
        session = await one.connect().initialize()
        client = two.connect()
        headers = {
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "tool",
            "Mcp-Session-Id": session,
        }
        params = {"name": "tool", "arguments": {}, "_meta": META}
        one.service.stop()
        await client.post(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, headers
        )
        assert (await client.json())[0] == 200


# -- streams -----------------------------------------------------------------------------


async def test_what_a_session_says_by_itself_reaches_a_get_at_the_other_worker(
    directory: str,
) -> None:
    application = Application()
    async with two_workers(directory, application) as (one, two):
        session = await one.connect().initialize()
        client = two.connect()
        assert await client.get(session) == 200
        await application.sessions[0].send(Notification("notifications/message", {"n": 7}))
        assert (await client.message())["params"] == {"n": 7}
        # That the client goes away is seen where the session is.
        (record,) = one.service.endpoint.sessions
        assert record.standalone.attached
        await client.aclose()
        while record.standalone.attached:
            await wait_all_tasks_blocked()


async def test_a_worker_that_ends_lets_its_gets_end_and_the_session_goes_on(
    directory: str,
) -> None:
    application = Application()
    async with two_workers(directory, application) as (one, two):
        session = await one.connect().initialize()
        client = two.connect()
        assert await client.get(session) == 200
        two.service.stop()
        await client.stream_end()
        again = one.connect()
        assert await again.get(session) == 200
        await application.sessions[0].send(Notification("notifications/message"))
        assert (await again.message())["method"] == "notifications/message"


async def test_the_posts_of_http_sse_find_the_stream(directory: str) -> None:
    async def answers(channel: MessageChannel) -> None:
        async for message in channel:
            if isinstance(message, Request):
                await channel.send(Response(message.id, RESULT))

    with trio.fail_after(PATIENCE):
        routes = [SessionRoutes(directory, number, "http://x/mcp", None) for number in (1, 2)]
        async with (
            serving(answers, SSE_TOO, routes=routes[0]) as one,
            serving(answers, SSE_TOO, routes=routes[1]) as two,
        ):
            stream, client = one.connect(), two.connect()
            await stream.send("GET", {"Accept": "text/event-stream"}, path="/sse")
            assert await stream.stream_head() == 200
            address = (await stream.event())["data"]
            body = {"jsonrpc": "2.0", "id": 4, "method": "initialize", "params": INITIALIZE}
            await client.post(body, path=address)
            assert (await client.json())[0] == 202
            assert (await stream.message())["id"] == 4


async def test_at_the_end_of_a_worker_what_is_short_is_handed_over_and_streams_are_refused(
    directory: str,
) -> None:
    application = Application()
    async with two_workers(directory, None, application) as (one, two):
        session = await one.connect().initialize()
        get, post, delete, late = [two.connect() for _ in range(4)]
        async with running_on(two, application):
            two.service.stop()
            await get.send("GET", {"Mcp-Session-Id": session, "Accept": "text/event-stream"})
            status, headers, _ = await get.responses.whole()
            assert status == 503
            assert headers["retry-after"]
            assert await status_of(post, session) == 200
            await delete.send("DELETE", {"Mcp-Session-Id": session})
            assert (await delete.responses.whole())[0] == 204
            assert await status_of(late, session) == 404


async def test_a_stream_that_has_not_begun_is_refused_when_its_worker_ends(directory: str) -> None:
    with trio.fail_after(PATIENCE):
        routes = SessionRoutes(directory, 2, "http://x/mcp", None)
        with not_accepting(routes.path(1)):
            async with serving(Application(), routes=routes) as two:
                get, delete = two.connect(), two.connect()
                await get.send("GET", {"Mcp-Session-Id": "1.x", "Accept": "text/event-stream"})
                await delete.send("DELETE", {"Mcp-Session-Id": "1.x"})
                await wait_all_tasks_blocked()
                two.service.stop()
                status, headers, _ = await get.responses.whole()
                assert status == 503
                assert headers["retry-after"]
                assert await is_silent(delete)  # which is waited for


# -- who and whose -----------------------------------------------------------------------


async def test_admission_is_decided_once_and_its_outcome_travels(directory: str) -> None:
    asked: list[str] = []
    seen: list[MessageChannel] = []

    async def authenticate(head: RequestHead, facts: ConnectionFacts) -> str:
        await trio.lowlevel.checkpoint()
        asked.append(head.headers["x-user"])
        return head.headers["x-user"]

    class Noting(Application):
        async def answer(self, channel: MessageChannel, request: Request) -> None:
            seen.append(channel)
            await super().answer(channel, request)

    policy = AdmissionPolicy(response_headers=ResponseHeaderPolicy.preset("production"))
    doorkeeper = Doorkeeper(policy, authenticate=authenticate)
    async with two_workers(directory, Noting(), doorkeeper=doorkeeper) as (one, two):
        first, client = one.connect(), two.connect()
        await first.post(
            {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE},
            {"X-User": "ann"},
        )
        session = (await first.responses.whole())[1]["mcp-session-id"]
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "tool"}}
        await client.post(call, {"X-User": "ann", "Mcp-Session-Id": session})
        status, headers, _ = await client.responses.whole()
        assert status == 200
        assert headers["x-content-type-options"] == "nosniff"
        await client.post(call, {"X-User": "bob", "Mcp-Session-Id": session})
        assert (await client.json())[0] == 404
        assert asked == ["ann", "ann", "bob"]
        assert [each.context.principal for each in seen] == ["ann", "ann"]
        assert seen[1].context.peer_address == "127.0.0.1:50000"


@pytest.mark.parametrize(
    "session", ["7.abc", "2.abc", "1.abc", "0.abc", "../1.abc", "1", "1.", "x.y", "99999999999.a"]
)
async def test_ids_that_nobody_gave_are_unknown(directory: str, session: str) -> None:
    async with two_workers(directory) as (_, two):
        assert await status_of(two.connect(), session) == 404


async def test_sessions_of_a_worker_that_is_gone_are_unknown(directory: str) -> None:
    with trio.fail_after(PATIENCE):
        routes = [SessionRoutes(directory, number, "http://x/mcp", None) for number in (1, 2)]
        async with serving(Application(), routes=routes[1]) as two:
            async with serving(Application(), routes=routes[0]) as one:
                session = await one.connect().initialize()
            assert await status_of(two.connect(), session) == 404


async def test_a_worker_that_dies_cuts_off_what_it_was_answering(directory: str) -> None:
    application = Application()
    with trio.fail_after(PATIENCE):
        routes = [SessionRoutes(directory, number, "http://x/mcp", None) for number in (1, 2)]
        async with serving(Application(), routes=routes[1]) as two, trio.open_nursery() as nursery:
            sessions: list[str] = []
            ready = trio.Event()

            async def first() -> None:
                async with serving(application, routes=routes[0]) as one:
                    sessions.append(await one.connect().initialize())
                    ready.set()
                    await application.begun.wait()
                    nursery.cancel_scope.cancel()
                    await trio.sleep_forever()

            nursery.start_soon(first)
            await ready.wait()
            client = two.connect()
            await client.call("wait", session=sessions[0])
            with trio.CancelScope(shield=True):
                assert await client.stream.receive_some() == b""
            assert application.cancelled == 1


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOENT, 404),
        (errno.ECONNREFUSED, 404),
        (errno.EMFILE, 503),
        (errno.ENOBUFS, 503),
        (errno.EACCES, 503),
    ],
)
async def test_only_a_worker_that_is_gone_makes_its_sessions_unknown(
    directory: str, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    async with two_workers(directory) as (one, two):
        session = await one.connect().initialize()
        client = two.connect()
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", Failing(number))
            await client.call(session=session)
            found, headers, _ = await client.responses.whole()
        assert found == status
        assert ("retry-after" in headers) == (status == 503)
        assert two.names == (["request.failed"] if status == 503 else [])
        two.events.clear()
        assert await status_of(client, session) == 200


async def test_one_that_listens_is_not_ready_before_others_reach_it(directory: str) -> None:
    endpoint = "http://127.0.0.1:0/mcp"
    nowhere = os.path.join(directory, "none")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            with take_seat(WorkerSeat(1, nowhere, {})), pytest.raises(FileNotFoundError):
                await nursery.start(serve_channels, Application(), endpoint)
            with take_seat(WorkerSeat(1, directory, {})):
                await nursery.start(serve_channels, Application(), endpoint)
            assert [name.partition("-")[0] for name in os.listdir(directory)] == ["1"]
            nursery.cancel_scope.cancel()


async def test_endpoints_do_not_mix(directory: str) -> None:
    with trio.fail_after(PATIENCE):
        here = SessionRoutes(directory, 1, "http://x/mcp", None)
        there = SessionRoutes(directory, 2, "http://x/other", None)
        async with serving(Application(), routes=here) as one:
            session = await one.connect().initialize()
            async with serving(Application(), routes=there) as two:
                assert await status_of(two.connect(), session) == 404


# -- pure parts --------------------------------------------------------------------------


def test_an_id_tells_its_worker_and_is_as_random_as_any() -> None:
    routes = SessionRoutes("/nowhere", 12, "x", None)
    ids = {routes.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert {worker_of(each) for each in ids} == {12}
    assert min(len(each) for each in ids) >= len("12.") + 43
    assert routes.elsewhere(routes.new_id()) is None
    assert (routes.elsewhere("3.abc"), routes.elsewhere("abc"), routes.elsewhere(None)) == (
        3,
        None,
        None,
    )


@pytest.mark.parametrize("body", [None, b"", b"{}"])
def test_a_request_is_the_same_on_the_other_side(body: bytes | None) -> None:
    certificate = CertificateFacts(
        subject="CN=a",
        issuer="CN=b",
        serial="01",
        common_name="a",
        dns_names=("a.example",),
        ip_addresses=(),
        uris=(),
        emails=(),
        not_before=0.0,
        not_after=1.5,
        spki_sha256="x",
        sha256="y",
    )
    tls = TlsFacts(version="TLSv1.3", cipher="c", peer_certificate=certificate, resumed=True)
    for facts in (FACTS, ConnectionFacts(local_address="/a", scheme="https", tls=tls)):
        handed = HandedOver(
            "POST", "/mcp?a=b", [(b"Host", b"x"), (b"A", b"\xe9")], "1.0", "/m", facts, "ann", body
        )
        found = decode_request(handed.encode()[4:])
        assert found == handed
        assert found.head == RequestHead(
            "POST", "/mcp?a=b", Headers([("host", "x"), ("a", "é")]), http_version="1.0"
        )


@pytest.mark.parametrize(
    "events",
    [
        (ResponseHead(200, Headers([("a", "b"), ("a", "c")]), "Fine"),),
        (ResponseHead(202), EndOfBody()),
        (ResponseHead(200), BodyData(b"x"), EndOfBody()),
        (BodyData(b"data: x\n\n"),),
        (EndOfBody(),),
    ],
)
def test_what_is_written_is_the_same_on_the_other_side(
    events: tuple[ResponseHead | BodyData | EndOfBody, ...],
) -> None:
    assert decode_response(encode_response(events)[4:]) == events
