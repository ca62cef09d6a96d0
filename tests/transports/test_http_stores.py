"""Event stores that take their time, or never answer, while exchanges and sessions end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from http_served import LEGACY, RESULT, Application, serving
from trio.testing import MockClock

from trio_mcp_transport import MessageChannel, Notification, Request, Response
from trio_mcp_transport.limits import EVENT_STORE_TIMEOUT
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions, ResponseMode
from trio_mcp_transport.stores.events import EventRecord, Replay
from trio_mcp_transport.stores.memory_events import MemoryEventStore
from trio_mcp_transport.transports.http_exchange import ExchangeChannel
from trio_mcp_transport.transports.http_serving import HttpServing


class DeliberateStore(MemoryEventStore):
    """Takes so many seconds over each call."""

    def __init__(self, append: float = 0, replay: float = 0, drop: float = 0) -> None:
        super().__init__()
        self.seconds = {"append": append, "replay": replay, "drop": drop}
        self.finished: list[tuple[str, str]] = []
        self.kept: set[str] = set()

    async def append(self, session: str, stream: str, records: Sequence[EventRecord]) -> None:
        await trio.sleep(self.seconds["append"])
        self.kept.add(session)
        await super().append(session, stream, records)

    async def replay(self, session: str, stream: str, after: int) -> Replay | None:
        await trio.sleep(self.seconds["replay"])
        return await super().replay(session, stream, after)

    async def finish(self, session: str, stream: str) -> None:
        await trio.sleep(self.seconds["append"])
        self.finished.append((session, stream))
        await super().finish(session, stream)

    async def drop(self, session: str) -> None:
        await trio.sleep(self.seconds["drop"])
        self.kept.discard(session)
        await super().drop(session)


async def notifies(channel: MessageChannel) -> None:
    """Say something at once, and answer after 50 seconds."""
    async for request in channel:
        if not isinstance(request, Request):
            continue
        if request.method == "initialize":
            await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
            continue
        await channel.send(Notification("notifications/message", {"n": 0}))
        await trio.sleep(50)
        await channel.send(Response(request.id, RESULT))


@pytest.mark.parametrize("response", ["auto", "sse"])
async def test_a_session_that_is_deleted_while_its_first_words_are_stored_leaves_nothing(
    response: ResponseMode, autojump_clock: MockClock
) -> None:
    store = DeliberateStore(append=2)
    options = HttpServerOptions(response=response)
    async with serving(notifies, options, http=HttpServing(event_store=store)) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await trio.sleep(1)
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        # Nothing was begun that could be ended.
        assert await client.responses.end() == b""
        await trio.sleep(10)
        assert served.service.endpoint.exchanges == 0
        assert store.kept == set()
        assert served.names == []


async def test_a_session_that_is_deleted_between_two_words_ends_its_stream_whole(
    autojump_clock: MockClock,
) -> None:
    async with serving(notifies, http=HttpServing(event_store=DeliberateStore(2))) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await client.stream_head()
        await trio.sleep(10)
        other = served.connect()
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        assert (await client.event())["data"] == ""  # primes
        assert '"n":0' in (await client.event())["data"]
        await client.stream_end()


async def test_what_is_stored_last_of_a_session_that_is_deleted_does_not_stay_in_the_store(
    autojump_clock: MockClock,
) -> None:
    store = DeliberateStore(append=2)
    options = HttpServerOptions(response="sse")
    async with serving(Application(), options, http=HttpServing(event_store=store)) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await client.call("now", session=session)  # is answered; the answer is being stored
        await trio.sleep(1)
        assert served.service.endpoint.exchanges == 0
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        await trio.sleep(10)
        assert store.kept == set()


async def test_one_channel_that_cannot_be_ended_keeps_nobody_else_from_ending(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = Application()
    left = [True]
    end = ExchangeChannel.end

    def fails_once(channel: ExchangeChannel, cause: Exception) -> None:
        if left:
            left.pop()
            raise ValueError("a fault")
        end(channel, cause)  # type: ignore[arg-type]  # what it is called with

    monkeypatch.setattr(ExchangeChannel, "end", fails_once)
    async with serving(application) as served:
        clients = [served.connect() for _ in range(3)]
        session = await clients[0].initialize()
        for number, client in enumerate(clients):
            await client.call("wait", id=number, session=session)
        await trio.sleep(1)
        other = served.connect()
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        await trio.sleep(1)
        assert application.cancelled == 3
        assert application.ended == 1
        assert served.service.endpoint.exchanges == 0
        assert served.names == ["session.failed"]


async def test_a_store_that_never_takes_what_is_said_fails_the_exchange_in_time(
    autojump_clock: MockClock,
) -> None:
    store = DeliberateStore(append=1e9)
    async with serving(notifies, http=HttpServing(event_store=store)) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await trio.sleep(EVENT_STORE_TIMEOUT - 1)
        assert served.names == []
        assert await client.responses.end() == b""
        assert served.names == ["store.failed"]
        await trio.sleep(50)
        assert served.service.endpoint.exchanges == 0


async def test_a_store_that_never_replays_gets_the_client_an_answer_in_time(
    autojump_clock: MockClock,
) -> None:
    store = DeliberateStore(replay=1e9)
    async with serving(Application(), http=HttpServing(event_store=store)) as served:
        client, again = served.connect(), served.connect()
        session = await client.initialize()
        await client.call("steps", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        assert await again.get(session, last) == 500
        assert served.names == ["store.failed"]


async def test_a_store_that_never_forgets_does_not_keep_the_server_from_ending(
    autojump_clock: MockClock,
) -> None:
    store = DeliberateStore(append=1e9, drop=1e9)
    async with serving(notifies, http=HttpServing(event_store=store)) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await trio.sleep(1)
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
    assert set(served.names) == {"store.failed"}


async def test_a_stream_to_which_nobody_comes_back_in_time_is_complete_in_the_store(
    autojump_clock: MockClock,
) -> None:
    store = DeliberateStore()
    options = HttpServerOptions(session_idle_timeout=100)
    async with serving(Application(), options, http=HttpServing(event_store=store)) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call("wait", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        await client.aclose()
        await trio.sleep(99)
        assert store.finished == []
        await trio.sleep(2)
        assert [known for known, _ in store.finished] == [session]
        late = served.connect()
        assert await late.get(session, last) == 200
        await late.stream_end()
