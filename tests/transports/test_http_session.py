"""Legacy sessions: their own channel, their GET stream, resuming, and how they end."""

from __future__ import annotations

import pytest
import trio
from http_served import INITIALIZE, LEGACY, MODERN, RESULT, RESUMABLE, Application, serving
from trio.testing import MockClock

from trio_mcp_transport import (
    ChannelOptions,
    Hub,
    LocalProtocolError,
    MessageChannel,
    Notification,
    Peer,
    Request,
    Response,
    Router,
)
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.security.admission import AdmissionPolicy, Doorkeeper
from trio_mcp_transport.security.response_headers import ResponseHeaderPolicy
from trio_mcp_transport.stores.memory_events import MemoryEventStore
from trio_mcp_transport.transports.http_serving import HttpServing

# -- the session's own channel -----------------------------------------------------------


async def test_a_session_has_one_channel_of_its_own_from_initialize_to_delete(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    async with serving(application) as served:
        client = served.connect()
        session = await client.initialize()
        await trio.sleep(1)
        (channel,) = application.sessions
        assert channel.context.session is not None
        assert channel.context.session.id == session
        assert channel.context.protocol_version == LEGACY
        assert not channel.context.exchange
        await client.notify("notifications/roots/list_changed", session)
        await client.get(session)
        await trio.sleep(1)
        assert [message.method for message in application.received] == [  # type: ignore[union-attr]
            "notifications/initialized",
            "notifications/roots/list_changed",
        ]
        assert len(application.sessions) == 1
        other = served.connect()
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        await client.stream_end()
        await trio.sleep(1)
        assert application.ended == 1
        assert len(served.service.endpoint.sessions) == 0


async def test_a_failed_initialize_leaves_no_session(autojump_clock: MockClock) -> None:
    router = Router("test", "1")

    async def peer(channel: MessageChannel) -> None:
        await Peer(channel, router).run()

    async with serving(peer) as served:
        client = served.connect()
        params = {**INITIALIZE, "clientInfo": "not an object"}
        await client.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        status, headers, _ = await client.responses.whole()
        assert status == 200
        assert "mcp-session-id" not in headers
        await trio.sleep(1)
        assert len(served.service.endpoint.sessions) == 0


async def test_what_a_session_says_is_held_until_a_get_comes(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application) as served:
        client = served.connect()
        session = await client.initialize()
        await trio.sleep(1)
        channel = application.sessions[0]
        await channel.send(Notification("notifications/message", {"n": 1}))
        await channel.flush()
        assert await client.get(session) == 200
        assert (await client.message())["params"] == {"n": 1}
        await channel.send_many([Notification("notifications/message", {"n": n}) for n in (2, 3)])
        channel.send_control(Notification("notifications/message", {"n": 4}))
        for number in (2, 3, 4):
            assert (await client.message())["params"] == {"n": number}
        with pytest.raises(LocalProtocolError):
            await channel.send(Response(1, RESULT))


async def test_a_new_get_takes_the_stream_over(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application) as served:
        first, second = served.connect(), served.connect()
        session = await first.initialize()
        assert await first.get(session) == 200
        assert await second.get(session) == 200
        assert await first.responses.end() == b""
        await application.sessions[0].send(Notification("notifications/message", {"n": 1}))
        assert (await second.message())["params"] == {"n": 1}


async def test_a_get_that_is_lost_leaves_the_session_as_it_is(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application) as served:
        first, second = served.connect(), served.connect()
        session = await first.initialize()
        await first.get(session)
        await first.aclose()
        await trio.sleep(1)
        channel = application.sessions[0]
        assert channel.is_connected
        await channel.send(Notification("notifications/message", {"n": 1}))
        await second.get(session)
        assert (await second.message())["params"] == {"n": 1}
        assert served.names == []


async def test_an_idle_get_stream_gets_comments(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application) as served:
        client = served.connect()
        session = await client.initialize()
        await client.get(session)
        start = trio.current_time()
        for number in (1, 2, 3):
            assert "" in await client.event()
            assert trio.current_time() - start == pytest.approx(15 * number)
        await trio.sleep(10)
        await application.sessions[0].send(Notification("notifications/message", {"n": 1}))
        await client.message()
        assert "" in await client.event()
        assert trio.current_time() - start == pytest.approx(45 + 10 + 15)


async def test_changes_reach_a_session_once_on_its_own_stream(autojump_clock: MockClock) -> None:
    hub = Hub()
    router = Router("test", "1", capabilities={"tools": {"listChanged": True}}, hub=hub)

    async def peer(channel: MessageChannel) -> None:
        await Peer(channel, router).run()

    async with serving(peer) as served:
        clients = [served.connect() for _ in range(3)]
        for client in clients:
            await client.get(await client.initialize())
        await trio.sleep(1)
        hub.changed("tools")
        for client in clients:
            assert (await client.message())["method"] == "notifications/tools/list_changed"
            assert "" in await client.event()  # nothing but comments after it


# -- whose session it is -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_an_unknown_session_is_not_found(method: str, autojump_clock: MockClock) -> None:
    async with serving(Application()) as served:
        client = served.connect()
        headers = {"Mcp-Session-Id": "guessed"}
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}' if method == "POST" else None
        await client.send(method, headers, body)
        assert (await client.responses.whole())[0] == 404


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_the_session_of_another_principal_is_not_found(
    method: str, autojump_clock: MockClock
) -> None:
    async def by_header(head: object, facts: object) -> str:
        await trio.lowlevel.checkpoint()
        return str(head.headers["authorization"])  # type: ignore[attr-defined]

    async with serving(Application(), http=HttpServing(authenticate=by_header)) as served:
        client = served.connect()
        await client.post(
            {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE},
            {"Authorization": "alice"},
        )
        session = (await client.responses.whole())[1]["mcp-session-id"]
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}' if method == "POST" else None
        await client.send(method, {"Mcp-Session-Id": session, "Authorization": "mallory"}, body)
        assert (await client.responses.whole())[0] == 404
        assert len(served.service.endpoint.sessions) == 1


async def test_an_authenticator_that_fails_refuses_the_request(autojump_clock: MockClock) -> None:
    async def fail(head: object, facts: object) -> str:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("the user directory is down")

    policy = AdmissionPolicy(response_headers=ResponseHeaderPolicy.preset("production"))
    doorkeeper = Doorkeeper(policy, authenticate=fail)
    async with serving(Application(), doorkeeper=doorkeeper) as served:
        client = served.connect()
        await client.call()
        status, headers, body = await client.responses.whole()
        assert (status, headers["x-content-type-options"]) == (500, "nosniff")
        assert b"directory" not in body
        assert served.names == ["request.failed"]


async def test_who_sends_is_asked_for_each_request_however_alike_they_are(
    autojump_clock: MockClock,
) -> None:
    answers: list[str | Reply] = ["alice", "bob", "alice", Reply(401)]
    asked: list[object] = []
    seen: list[tuple[str | None, str | None, object]] = []

    async def authenticate(head: object, facts: object) -> str | Reply:
        await trio.lowlevel.checkpoint()
        asked.append(head)
        return answers[len(asked) - 1]

    class Looks(Application):
        async def answer(self, channel: MessageChannel, request: Request) -> None:
            context = channel.context
            seen.append((context.principal, context.protocol_version, context.headers))
            await super().answer(channel, request)

    async with serving(Looks(), http=HttpServing(authenticate=authenticate)) as served:
        client = served.connect()
        statuses = []
        for _ in answers:
            await client.call()
            statuses.append((await client.responses.whole())[0])
    assert statuses == [200, 200, 200, 401]
    assert [principal for principal, _, _ in seen] == ["alice", "bob", "alice"]
    assert {revision for _, revision, _ in seen} == {MODERN}
    assert asked[0] is asked[3], "the head was not remembered: this test proves nothing"


async def test_channels_of_requests_that_are_not_alike_have_their_own_headers(
    autojump_clock: MockClock,
) -> None:
    seen: list[str | None] = []

    class Looks(Application):
        async def answer(self, channel: MessageChannel, request: Request) -> None:
            assert channel.context.headers is not None
            seen.append(channel.context.headers.get("mcp-name"))
            await super().answer(channel, request)

    async with serving(Looks()) as served:
        client = served.connect()
        for name in ("a", "b", "b", "a", "b"):
            await client.call(name)
            assert (await client.responses.whole())[0] == 200
    assert seen == ["a", "b", "b", "a", "b"]


# -- the end -----------------------------------------------------------------------------


async def test_deleting_a_session_cancels_its_exchanges(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application, RESUMABLE) as served:
        clients = [served.connect() for _ in range(3)]
        session = await clients[0].initialize()
        for client in clients:
            await client.call("wait", session=session)
        await trio.sleep(1)
        other = served.connect()
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        await trio.sleep(1)
        assert application.cancelled == 3
        assert served.service.endpoint.exchanges == 0
        for client in clients:  # each response has ended properly
            status, headers, _ = await client.responses.whole()
            assert (status, headers["content-type"]) == (200, "text/event-stream")


async def test_an_idle_session_expires_though_its_get_is_open(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application, HttpServerOptions(session_idle_timeout=100)) as served:
        client, stream = served.connect(), served.connect()
        session = await client.initialize()
        await stream.get(session)
        await trio.sleep(90)
        await served.connect().notify("notifications/x", session)  # that was activity
        await trio.sleep(90)
        assert len(served.service.endpoint.sessions) == 1
        await trio.sleep(20)
        assert len(served.service.endpoint.sessions) == 0
        assert application.ended == 1
        assert await served.connect().notify("notifications/x", session) == 404


async def test_a_session_with_an_exchange_in_flight_does_not_expire(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    async with serving(application, HttpServerOptions(session_idle_timeout=100)) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call("wait", session=session)
        await trio.sleep(1000)
        assert len(served.service.endpoint.sessions) == 1
        application.release.set()
        await trio.sleep(99)
        assert len(served.service.endpoint.sessions) == 1
        await trio.sleep(2)
        assert len(served.service.endpoint.sessions) == 0


async def test_a_handler_that_stays_after_its_session_has_ended_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    cancelled = 0

    async def stay(channel: MessageChannel) -> None:
        nonlocal cancelled
        if channel.context.exchange:
            await Application()(channel)
            return
        try:
            await trio.sleep_forever()
        finally:
            cancelled += 1

    async with serving(stay, channel_options=ChannelOptions(close_timeout=3)) as served:
        client = served.connect()
        session = await client.initialize()
        await client.send("DELETE", {"Mcp-Session-Id": session})
        assert (await client.responses.whole())[0] == 204
        await trio.sleep(2)
        assert cancelled == 0
        await trio.sleep(2)
        assert cancelled == 1


async def test_a_thousand_opened_and_dropped_sessions_leave_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    options = HttpServerOptions(session_idle_timeout=60, max_sessions=2000, resumable=True)
    store = MemoryEventStore()
    async with serving(application, options, http=HttpServing(event_store=store)) as served:
        for number in range(1000):
            client = served.connect()
            session = await client.initialize()
            if number % 3 == 0:
                await client.send("DELETE", {"Mcp-Session-Id": session})
                assert (await client.responses.whole())[0] == 204
            elif number % 3 == 1:
                await client.get(session)
            else:
                await client.call("steps", session=session)
                await client.stream_head()
            await client.aclose()
        assert len(served.service.endpoint.sessions) > 600
        await trio.sleep(200)
        assert len(served.service.endpoint.sessions) == 0
        assert served.service.endpoint.exchanges == 0
        assert served.connections == 0
        assert len(served.service.nursery.child_tasks) == 1  # what waits for the stop
        assert len(served.service.deadlines) <= 1
        assert application.ended == 1000
        assert served.names == []


async def test_a_session_that_makes_room_for_another_is_taken_down(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    options = HttpServerOptions(max_sessions=2)
    async with serving(application, options) as served:
        client = served.connect()
        first, second = await client.initialize(), await client.initialize()
        await trio.sleep(50)
        assert await client.notify("notifications/x", first) == 202
        await trio.sleep(20)
        third = await client.initialize()
        await trio.sleep(1)
        assert application.ended == 1
        statuses = [await client.notify("notifications/x", one) for one in (first, second, third)]
        assert statuses == [202, 404, 202]


async def test_ten_thousand_initialize_requests_hit_the_cap_and_not_the_memory(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    options = HttpServerOptions(max_sessions=50, retry_after=7)
    async with serving(application, options) as served:
        client = served.connect()
        statuses = {200: 0, 503: 0}
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}
        for _ in range(10_000):
            await client.post(message)
            status, headers, _ = await client.responses.whole()
            statuses[status] += 1
            assert status == 200 or headers["retry-after"] == "7"
        assert statuses == {200: 50, 503: 9950}
        assert len(application.sessions) == 50
        assert len(served.service.nursery.child_tasks) == 51  # and one that waits for the stop


async def test_sessions_need_not_be_initialized_twice_over_many_connections(
    autojump_clock: MockClock,
) -> None:
    async with serving(Application()) as served:
        session = await served.connect().initialize()
        for number in range(20):
            client = served.connect()
            await client.call(id=number, session=session)
            assert (await client.json())[1]["id"] == number
            await client.aclose()


async def test_stopping_refuses_new_requests_finishes_what_runs_and_ends_the_sessions(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    async with serving(application) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        served.service.stop()
        await other.call("x", session=session)
        assert (await other.responses.whole())[0] == 503
        for number in range(5):
            assert (await client.message())["params"] == {"n": number}
        assert (await client.message())["result"] == RESULT
        await trio.sleep(1)
        assert application.ended == 1
        assert application.cancelled == 0


async def test_a_session_that_is_deleted_while_stopping_is_taken_down(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    async with serving(application) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await other.call("wait")
        await trio.sleep(1)
        served.service.stop()
        await client.send("DELETE", {"Mcp-Session-Id": session})
        assert (await client.responses.whole())[0] == 204
        await trio.sleep(1)
        assert application.ended == 1
        application.release.set()
        assert (await other.json())[1]["result"] == RESULT


async def test_a_get_for_a_session_whose_handler_wants_no_channel_is_not_allowed(
    autojump_clock: MockClock,
) -> None:
    async def exchanges_only(channel: MessageChannel) -> None:
        if channel.context.exchange:
            await Application()(channel)

    async with serving(exchanges_only) as served:
        client = served.connect()
        session = await client.initialize()
        await trio.sleep(1)
        assert await client.get(session) == 405
        await served.connect().call(session=session)
        assert await served.connect().notify("notifications/x", session) == 202
        assert len(served.service.endpoint.sessions) == 1
