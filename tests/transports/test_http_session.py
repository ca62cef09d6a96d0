"""Legacy sessions: their own channel, their GET stream, resuming, and how they end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from http_served import INITIALIZE, LEGACY, Client, serving
from trio.testing import MockClock

from trio_mcp_transport import (
    ChannelOptions,
    Hub,
    LocalProtocolError,
    Message,
    MessageChannel,
    Notification,
    Peer,
    Request,
    Response,
    Router,
)
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.stores.events import EventRecord, EventStore, Replay
from trio_mcp_transport.stores.memory_events import MemoryEventStore
from trio_mcp_transport.transports.http_serving import HttpServing

RESULT: dict[str, object] = {"content": []}
RESUMABLE = HttpServerOptions(resumable=True)


class Application:
    """A handler of exchanges and sessions that does what each request's name says."""

    def __init__(self) -> None:
        self.sessions: list[MessageChannel] = []
        self.received: list[Message] = []
        self.ended = 0
        self.cancelled = 0
        self.release = trio.Event()

    async def __call__(self, channel: MessageChannel) -> None:
        if channel.context.exchange:
            async for request in channel:
                if isinstance(request, Request):
                    await self.answer(channel, request)
            return
        self.sessions.append(channel)
        async for message in channel:
            self.received.append(message)
        self.ended += 1

    async def answer(self, channel: MessageChannel, request: Request) -> None:
        if request.method == "initialize":
            await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
            return
        name = request.params_as(dict[str, object])["name"]
        try:
            if name == "steps":
                for number in range(5):
                    await channel.send(Notification("notifications/message", {"n": number}))
                    await trio.sleep(1)
            elif name == "wait":
                await self.release.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        await channel.send(Response(request.id, RESULT))


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

    async with serving(Application(), http=HttpServing(authenticate=fail)) as served:
        client = served.connect()
        await client.call()
        status, _, body = await client.responses.whole()
        assert status == 500
        assert b"directory" not in body
        assert served.names == ["request.failed"]


# -- resuming ----------------------------------------------------------------------------


async def read_steps(client: Client, numbers: Sequence[int], *, result: bool = False) -> str:
    """Read notifications of the tool ``steps``; the id of the last event."""
    last = ""
    for number in numbers:
        event = await client.event()
        assert f'"n":{number}' in event["data"]
        last = event["id"]
    if result:
        assert '"result"' in (await client.event())["data"]
        await client.stream_end()
    return last


async def test_a_broken_stream_is_resumed_where_it_broke(autojump_clock: MockClock) -> None:
    async with serving(Application(), RESUMABLE) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        assert (await client.event())["data"] == ""  # primes
        last = await read_steps(client, (0, 1))
        await client.aclose()
        await trio.sleep(1.5)
        again = served.connect()
        assert await again.get(session, last) == 200
        await read_steps(again, (2, 3, 4), result=True)


async def test_a_stream_that_ended_meanwhile_is_replayed_and_ends(
    autojump_clock: MockClock,
) -> None:
    async with serving(Application(), RESUMABLE) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        await client.aclose()
        await trio.sleep(100)
        again = served.connect()
        assert await again.get(session, last) == 200
        await read_steps(again, range(5), result=True)
        # As often as the client likes.
        assert await again.get(session, last) == 200
        await read_steps(again, range(5), result=True)


async def test_resuming_takes_over_a_half_open_connection_of_the_same_stream(
    autojump_clock: MockClock,
) -> None:
    async with serving(Application(), RESUMABLE) as served:
        client, again = served.connect(), served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        await client.event()
        last = await read_steps(client, (0,))
        assert await again.get(session, last) == 200
        assert await client.responses.end() == b""
        await read_steps(again, (1, 2, 3, 4), result=True)


async def test_nothing_is_missing_and_nothing_twice_when_a_stream_is_resumed_again_and_again(
    autojump_clock: MockClock,
) -> None:
    async with serving(Application(), RESUMABLE) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        for number in range(5):
            client = served.connect()
            await client.get(session, last)
            last = await read_steps(client, (number,))
        client = served.connect()
        await client.get(session, last)
        assert '"result"' in (await client.event())["data"]


async def test_the_server_may_close_a_connection_and_go_on_with_the_stream(
    autojump_clock: MockClock,
) -> None:
    async def polled(channel: MessageChannel) -> None:
        async for request in channel:
            if not isinstance(request, Request):
                continue
            if request.method == "initialize":
                await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
                continue
            await channel.send(Notification("notifications/message", {"n": 0}))
            channel.close_stream(2.5)  # type: ignore[attr-defined]
            await channel.send(Notification("notifications/message", {"n": 1}))
            await trio.sleep(5)
            await channel.send(Response(request.id, RESULT))

    async with serving(polled, RESUMABLE) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await client.stream_head()
        await client.event()
        last = await read_steps(client, (0,))
        assert (await client.event())["retry"] == "2500"
        await client.stream_end()
        # The connection is good for the GET.
        assert await client.get(session, last) == 200
        await read_steps(client, (1,), result=True)


async def test_an_event_id_of_another_session_replays_nothing(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application, RESUMABLE) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        foreign = await other.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        assert await other.get(foreign, last) == 410
        for unknown in ("99-1", "1-99", "nonsense", "1"):
            other = served.connect()
            assert await other.get(session, unknown) in {400, 410}


class FailingStore(MemoryEventStore):
    """Takes so many events, then fails."""

    def __init__(self, events: int) -> None:
        super().__init__()
        self.left = events

    async def append(self, session: str, stream: str, records: Sequence[EventRecord]) -> None:
        await trio.lowlevel.checkpoint()
        self.left -= len(records)
        if self.left < 0:
            raise OSError("the store is full")
        await super().append(session, stream, records)


async def test_a_store_that_fails_ends_the_exchange_with_its_cause(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    async with serving(application, http=HttpServing(event_store=FailingStore(3))) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        await client.event()
        await read_steps(client, (0, 1))
        assert not (await client.responses.end()).endswith(b"0\r\n\r\n")
        await trio.sleep(5)
        assert served.service.endpoint.exchanges == 0
        assert "store.failed" in served.names
        # The session and its other exchanges go on.
        assert await served.connect().notify("notifications/x", session) == 202


class SlowStore(EventStore):
    """A store that takes its time, as one on the network does."""

    def __init__(self) -> None:
        self._store = MemoryEventStore()
        self.dropped: list[str] = []

    async def append(self, session: str, stream: str, records: Sequence[EventRecord]) -> None:
        await trio.sleep(0.3)
        await self._store.append(session, stream, records)

    async def replay(self, session: str, stream: str, after: int) -> Replay | None:
        await trio.sleep(0.3)
        return await self._store.replay(session, stream, after)

    async def finish(self, session: str, stream: str) -> None:
        await trio.sleep(0.3)
        await self._store.finish(session, stream)

    async def drop(self, session: str) -> None:
        await trio.sleep(0.3)
        self.dropped.append(session)
        await self._store.drop(session)


async def test_events_are_stored_before_they_are_sent_and_in_order_however_slow_the_store(
    autojump_clock: MockClock,
) -> None:
    async def burst(channel: MessageChannel) -> None:
        async for request in channel:
            if not isinstance(request, Request):
                continue
            if request.method == "initialize":
                await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
                continue
            for number in range(0, 20, 2):
                await channel.send(Notification("notifications/message", {"n": number}))
                channel.send_control(Notification("notifications/message", {"n": number + 1}))
            await channel.send(Response(request.id, RESULT))

    store = SlowStore()
    async with serving(burst, http=HttpServing(event_store=store)) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        await read_steps(client, range(7))
        again = served.connect()
        assert await again.get(session, last) == 200
        await read_steps(again, range(20), result=True)
        await again.send("DELETE", {"Mcp-Session-Id": session})
        assert (await again.responses.whole())[0] == 204
    assert store.dropped == [session]


async def test_a_slow_store_makes_senders_wait_and_a_cancelled_one_has_sent_nothing(
    autojump_clock: MockClock,
) -> None:
    sent: list[int] = []
    finished = trio.Event()

    async def flood(channel: MessageChannel) -> None:
        async for request in channel:
            if not isinstance(request, Request):
                continue
            if request.method == "initialize":
                await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
                continue
            for number in range(20):
                with trio.move_on_after(0.1) as scope:
                    text = "x" * 1000
                    await channel.send(
                        Notification("notifications/message", {"n": number, "t": text})
                    )
                if not scope.cancelled_caught:
                    sent.append(number)
            assert not channel.try_send(Notification("notifications/message", {"t": "x" * 3000}))
            await channel.send(Response(request.id, RESULT))
            finished.set()

    options = ChannelOptions(outbox_bytes=3000)
    store = SlowStore()
    async with serving(
        flood, http=HttpServing(event_store=store), channel_options=options
    ) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await client.stream_head()
        await client.event()
        await finished.wait()
        assert 2 < len(sent) < 20
        await read_steps(client, sent, result=True)


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


# -- HTTP+SSE ----------------------------------------------------------------------------

SSE = HttpServerOptions(sse_path="/sse", message_path="/messages")


async def open_sse(client: Client) -> str:
    """Open the stream; where to POST."""
    await client.send("GET", {"Accept": "text/event-stream"}, path="/sse")
    assert await client.stream_head() == 200
    event = await client.event()
    assert event["event"] == "endpoint"
    return event["data"]


async def test_http_sse_is_one_channel_that_lasts_as_long_as_its_stream(
    autojump_clock: MockClock,
) -> None:
    channels: list[MessageChannel] = []

    async def echo(channel: MessageChannel) -> None:
        channels.append(channel)
        async for message in channel:
            if isinstance(message, Request):
                await channel.send(Response(message.id, {"method": message.method}))

    async with serving(echo, SSE) as served:
        stream, poster = served.connect(), served.connect()
        path = await open_sse(stream)
        for number in range(3):
            await poster.post({"jsonrpc": "2.0", "id": number, "method": "m"}, path=path)
            assert (await poster.responses.whole())[::2] == (202, b"")
            answer = await stream.message()
            assert (answer["id"], answer["result"]) == (number, {"method": "m"})
        assert len(channels) == 1
        assert not channels[0].context.exchange
        assert channels[0].context.session is None
        assert "" in await stream.event()  # comments keep it open
        await stream.aclose()
        await trio.sleep(1)
        assert not channels[0].is_connected
        assert len(served.service.endpoint.sessions) == 0
        await poster.post({"jsonrpc": "2.0", "id": 9, "method": "m"}, path=path)
        assert (await poster.responses.whole())[0] == 404
        assert served.names == []


async def test_closing_an_http_sse_channel_ends_its_stream(autojump_clock: MockClock) -> None:
    async def once(channel: MessageChannel) -> None:
        await channel.receive()
        await channel.send(Notification("bye"))

    async with serving(once, SSE) as served:
        stream, poster = served.connect(), served.connect()
        path = await open_sse(stream)
        await poster.post({"jsonrpc": "2.0", "method": "m"}, path=path)
        await poster.responses.whole()
        assert (await stream.message())["method"] == "bye"
        await stream.stream_end()
        await trio.sleep(1)
        assert len(served.service.endpoint.sessions) == 0


# -- the wire of two paths ---------------------------------------------------------------


async def test_the_wire_of_two_paths_answers_requests_with_json_and_notifications_with_an_object(
    autojump_clock: MockClock,
) -> None:
    received: list[Message] = []

    async def echo(channel: MessageChannel) -> None:
        async for message in channel:
            received.append(message)
            if isinstance(message, Request):
                await channel.send(Response(message.id, {"method": message.method}))

    options = HttpServerOptions(rpc_path="/mcp/rpc", notify_path="/mcp/notify")
    async with serving(echo, options) as served:
        client = served.connect()
        await client.post({"jsonrpc": "2.0", "id": 1, "method": "m"}, path="/mcp/rpc")
        status, answer = await client.json()
        assert (status, answer["result"]) == (200, {"method": "m"})
        await client.post({"jsonrpc": "2.0", "method": "n"}, path="/mcp/notify")
        assert await client.json() == (200, {})
        await trio.sleep(1)
        assert [message.method for message in received] == ["m", "n"]  # type: ignore[union-attr]


# -- what may go wrong in between --------------------------------------------------------


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


class BrokenReplay(MemoryEventStore):
    """Forgets how to replay."""

    async def replay(self, session: str, stream: str, after: int) -> Replay | None:
        await trio.lowlevel.checkpoint()
        raise OSError("the store is gone")


async def test_a_replay_that_fails_is_answered_and_harms_neither_stream_nor_session(
    autojump_clock: MockClock,
) -> None:
    store = BrokenReplay()
    async with serving(Application(), http=HttpServing(event_store=store)) as served:
        client, again = served.connect(), served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        assert await again.get(session, last) == 500
        await read_steps(client, range(5), result=True)
        assert served.names == ["store.failed"]


async def test_resuming_a_stream_whose_session_ends_meanwhile_is_no_hang(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    async with serving(application, http=HttpServing(event_store=SlowStore())) as served:
        client, again, other = (served.connect() for _ in range(3))
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        # The store is busy with the first step, so this one waits for its turn.
        headers = {"Mcp-Session-Id": session, "Accept": "text/event-stream", "Last-Event-ID": last}
        await again.send("GET", headers)
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        await again.responses.end()
        await trio.sleep(10)
        assert served.service.endpoint.exchanges == 0


async def test_requests_over_http_sse_are_finished_after_a_stop(autojump_clock: MockClock) -> None:
    router = Router("test", "1", capabilities={"tools": {}})
    stopping: list[Peer] = []

    @router.method("tools/call")
    async def call(ctx: object) -> object:
        await trio.sleep(8)
        return RESULT

    async def peer(channel: MessageChannel) -> None:
        one = Peer(channel, router)
        stopping.append(one)
        await one.run()

    async with serving(peer, SSE) as served:
        stream, poster = served.connect(), served.connect()
        path = await open_sse(stream)
        await poster.post(
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}, path=path
        )
        await poster.responses.whole()
        await stream.message()
        message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "x"}}
        await poster.post(message, path=path)
        await poster.responses.whole()
        served.service.stop()
        stopping[0].end_soon()
        assert (await stream.message())["result"] == RESULT
        await stream.stream_end()
