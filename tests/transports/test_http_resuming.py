"""Streams that are resumed, and the event store behind them."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from http_served import LEGACY, RESULT, RESUMABLE, Application, Client, serving
from trio.testing import MockClock

from trio_mcp_transport import (
    ChannelOptions,
    MessageChannel,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.stores.events import EventRecord, EventStore, Replay
from trio_mcp_transport.stores.memory_events import MemoryEventStore
from trio_mcp_transport.transports.http_serving import HttpServing


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


async def test_a_request_to_which_nobody_comes_back_ends_and_so_does_its_session(
    autojump_clock: MockClock,
) -> None:
    application = Application()
    options = HttpServerOptions(resumable=True, session_idle_timeout=100, keep_alive_interval=15)
    async with serving(application, options) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call("wait", session=session)
        await client.stream_head()
        last = (await client.event())["id"]
        await client.aclose()
        await trio.sleep(90)
        again = served.connect()
        assert await again.get(session, last) == 200
        await again.aclose()
        await trio.sleep(95)
        assert (application.cancelled, application.ended) == (0, 0)
        await trio.sleep(10)
        assert application.cancelled == 1
        assert served.service.endpoint.exchanges == 0
        await trio.sleep(100)
        assert application.ended == 1
        assert len(served.service.endpoint.sessions) == 0
