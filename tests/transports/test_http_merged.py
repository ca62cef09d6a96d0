"""A legacy session as one channel, for raw handlers (``http="session"``)."""

from __future__ import annotations

import pytest
import trio
from http_served import INITIALIZE, LEGACY, serving
from trio.testing import MockClock

from trio_mcp_transport import (
    ChannelOptions,
    LocalProtocolError,
    Message,
    MessageChannel,
    Notification,
    Request,
    Response,
    relate,
)
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.transports.http_serving import HttpServing

RESULT: dict[str, object] = {"content": []}
SESSION = HttpServing(mode="session")


class Server:
    """A raw handler: answers `initialize`, keeps everything else for the test."""

    def __init__(self) -> None:
        self.channels: list[MessageChannel] = []
        self.received: list[Message] = []
        self.ended = 0

    async def __call__(self, channel: MessageChannel) -> None:
        self.channels.append(channel)
        async for message in channel:
            if isinstance(message, Request) and message.method == "initialize":
                await channel.send(Response(message.id, {"protocolVersion": LEGACY}))
            else:
                self.received.append(message)
        self.ended += 1

    def request(self, number: int) -> Request:
        return [message for message in self.received if isinstance(message, Request)][number]


async def test_a_session_is_one_channel_from_initialize_to_its_end(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with serving(server, http=SESSION) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await client.call("a", id=1, session=session)
        await other.call("b", id="x", session=session)
        await trio.sleep(1)
        (channel,) = server.channels
        assert channel.context.session is not None
        assert channel.context.protocol_version == LEGACY
        assert [getattr(message, "id", None) for message in server.received] == [None, 1, "x"]
        await channel.send_many([Response("x", {"for": "b"}), Response(1, {"for": "a"})])
        assert (await client.json())[1]["result"] == {"for": "a"}
        assert (await other.json())[1]["result"] == {"for": "b"}
        await other.send("DELETE", {"Mcp-Session-Id": session})
        assert (await other.responses.whole())[0] == 204
        await trio.sleep(1)
        assert server.ended == 1
        assert len(served.service.endpoint.sessions) == 0


async def test_modern_requests_have_channels_of_their_own(autojump_clock: MockClock) -> None:
    async def answer(channel: MessageChannel) -> None:
        assert channel.context.exchange
        async for message in channel:
            assert isinstance(message, Request)
            await channel.send(Response(message.id, RESULT))

    async with serving(answer, http=SESSION) as served:
        client = served.connect()
        await client.call()
        assert (await client.json())[1]["result"] == RESULT


async def test_requests_with_the_same_id_are_renamed_and_get_their_own_back(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with serving(server, http=SESSION) as served:
        clients = [served.connect() for _ in range(3)]
        session = await clients[0].initialize()
        for number, client in enumerate(clients):
            await client.call(f"tool-{number}", id=1, session=session)
            await trio.sleep(1)
        channel = server.channels[0]
        ids = [server.request(number).id for number in range(3)]
        assert ids[0] == 1
        assert len(set(ids)) == 3
        for number in (2, 0, 1):
            await channel.send(Response(ids[number], {"n": number}))
            _, answer = await clients[number].json()
            assert (answer["id"], answer["result"]) == (1, {"n": number})
        # Once they are answered, the id is free again.
        await clients[0].call(id=1, session=session)
        await trio.sleep(1)
        assert server.request(3).id == 1


async def test_a_cancellation_has_the_id_that_its_request_has_here(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with serving(server, http=SESSION) as served:
        clients = [served.connect() for _ in range(2)]
        session = await clients[0].initialize()
        await clients[0].call(id="a", session=session)
        await trio.sleep(1)
        await clients[1].notify(
            "notifications/cancelled", session, {"requestId": "a", "reason": "over"}
        )
        status, headers, body = await clients[0].responses.whole()
        assert (status, headers["content-type"], body) == (200, "text/event-stream", b"")
        cancelled = server.received[-1]
        assert isinstance(cancelled, Notification)
        assert cancelled.params_as(dict[str, object]) == {"requestId": "a", "reason": "over"}
        assert cancelled.related_to == "a"
        # An answer that comes all the same goes nowhere, and does no harm.
        await server.channels[0].send(Response("a", RESULT))
        assert served.service.endpoint.exchanges == 0


async def test_what_is_related_to_a_request_goes_out_on_its_stream_and_the_rest_on_the_sessions(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with serving(server, http=SESSION) as served:
        clients = [served.connect() for _ in range(2)]
        stream = served.connect()
        session = await clients[0].initialize()
        for client in clients:
            await client.call(id=1, session=session)
            await trio.sleep(1)
        await stream.get(session)
        channel = server.channels[0]
        ids = [server.request(number).id for number in range(2)]
        await channel.send_many([
            relate(Notification("for-0"), ids[0]),
            relate(Notification("for-1"), ids[1]),
            Notification("for-all"),
            relate(Notification("late"), "gone"),
        ])
        for number, client in enumerate(clients):
            await client.stream_head()
            assert (await client.message())["method"] == f"for-{number}"
        assert (await stream.message())["method"] == "for-all"
        assert (await stream.message())["method"] == "late"
        channel.send_control(relate(Notification("control"), ids[1]))
        assert channel.try_send(relate(Notification("tried"), ids[1]))
        await channel.flush()
        assert (await clients[1].message())["method"] == "control"
        assert (await clients[1].message())["method"] == "tried"


async def test_answers_to_what_the_server_asks_come_to_the_channel_with_its_own_id(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with serving(server, http=SESSION) as served:
        client, poster = served.connect(), served.connect()
        session = await client.initialize()
        await client.call(id=1, session=session)
        await trio.sleep(1)
        channel = server.channels[0]
        await channel.send(relate(Request("ask", "elicitation/create", {}), 1))
        await client.stream_head()
        asked = await client.message()
        await poster.post(
            {"jsonrpc": "2.0", "id": asked["id"], "result": {"ok": True}},
            {"Mcp-Session-Id": session},
        )
        assert (await poster.responses.whole())[0] == 202
        answer = server.received[-1]
        assert isinstance(answer, Response)
        assert answer.id == "ask"


async def test_a_request_cannot_be_sent_where_the_answer_is_json(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with serving(server, HttpServerOptions(response="json"), http=SESSION) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(id=1, session=session)
        await trio.sleep(1)
        with pytest.raises(LocalProtocolError):
            await server.channels[0].send(relate(Request("ask", "elicitation/create"), 1))
        await server.channels[0].send(Response(1, RESULT))
        assert (await client.json())[1]["result"] == RESULT


async def test_a_failed_initialize_ends_the_channel(autojump_clock: MockClock) -> None:
    ended = 0

    async def refuse(channel: MessageChannel) -> None:
        nonlocal ended
        async for message in channel:
            assert isinstance(message, Request)
            await channel.send(Response(message.id, {"no": "version"}))
        ended += 1

    async with serving(refuse, http=SESSION) as served:
        client = served.connect()
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}
        await client.post(message)
        _, headers, _ = await client.responses.whole()
        assert "mcp-session-id" not in headers
        await trio.sleep(1)
        assert ended == 1
        assert len(served.service.endpoint.sessions) == 0


@pytest.mark.parametrize("how", ["return", "raise", "close", "abort"])
async def test_the_session_ends_with_its_handler(how: str, autojump_clock: MockClock) -> None:
    async def leave(channel: MessageChannel) -> None:
        async for message in channel:
            if isinstance(message, Request) and message.method == "initialize":
                await channel.send(Response(message.id, {"protocolVersion": LEGACY}))
            elif isinstance(message, Request):
                break
        if how == "raise":
            raise RuntimeError("boom")
        if how == "close":
            await channel.aclose()
        if how == "abort":
            channel.abort()

    async with serving(leave, http=SESSION) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await client.call(session=session)
        status, headers, _ = await client.responses.whole()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        await trio.sleep(1)
        assert len(served.service.endpoint.sessions) == 0
        assert await other.notify("notifications/x", session) == 404
        assert served.names == (["handler.failed"] if how == "raise" else [])


async def test_a_lost_connection_is_no_cancellation_and_its_answer_is_dropped(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with serving(server, HttpServerOptions(grace_timeout=30), http=SESSION) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(id=1, session=session)
        await trio.sleep(1)
        await client.aclose()
        await trio.sleep(1)
        assert served.service.endpoint.exchanges == 1
        await server.channels[0].send(Response(1, RESULT))
        await trio.sleep(1)
        assert served.service.endpoint.exchanges == 0
        assert server.channels[0].is_connected


async def test_streams_of_a_merged_session_are_resumed_as_ever(autojump_clock: MockClock) -> None:
    server = Server()
    async with serving(server, HttpServerOptions(resumable=True), http=SESSION) as served:
        client, again = served.connect(), served.connect()
        session = await client.initialize()
        await client.call(id=1, session=session)
        await trio.sleep(1)
        channel = server.channels[0]
        await channel.send(relate(Notification("one"), 1))
        await client.stream_head()
        last = (await client.event())["id"]
        await client.aclose()
        await trio.sleep(1)
        await channel.send(relate(Notification("two"), 1))
        await again.get(session, last)
        assert (await again.message())["method"] == "one"
        assert (await again.message())["method"] == "two"
        await channel.send(Response(1, RESULT))
        assert (await again.message())["result"] == RESULT
        await again.stream_end()
        await trio.sleep(1)
        assert served.service.endpoint.exchanges == 0


async def test_one_slow_client_makes_only_those_wait_who_send_to_it(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    options = ChannelOptions(outbox_bytes=2000)
    async with serving(server, http=SESSION, channel_options=options) as served:
        slow, quick = served.connect(), served.connect()
        session = await quick.initialize()
        await slow.call(id=1, session=session)
        await trio.sleep(1)
        await quick.call(id=2, session=session)
        await trio.sleep(1)
        release = trio.Event()
        slow.server.send_stream.send_all_hook = release.wait
        channel = server.channels[0]

        def big(related: int) -> Notification:
            return relate(Notification("big", {"text": "x" * 600}), related)

        for _ in range(2):
            await channel.send(big(1))
        assert not channel.try_send(big(1))
        with trio.move_on_after(2) as scope:
            await channel.send_many([big(2), big(1)])
        assert scope.cancelled_caught  # so neither was queued
        await channel.send(Response(2, RESULT))
        assert (await quick.json())[1]["result"] == RESULT

        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, big(1))
            await trio.sleep(1)
            release.set()
        await channel.send(Response(1, RESULT))
        await slow.stream_head()
        for _ in range(3):
            assert (await slow.message())["method"] == "big"
        assert (await slow.message())["result"] == RESULT


async def test_a_handler_that_does_not_receive_makes_its_clients_wait_with_503(
    autojump_clock: MockClock,
) -> None:
    begin = trio.Event()

    async def late(channel: MessageChannel) -> None:
        message = await channel.receive()
        assert isinstance(message, Request)
        await channel.send(Response(message.id, {"protocolVersion": LEGACY}))
        await begin.wait()
        async for message in channel:
            if isinstance(message, Request):
                await channel.send(Response(message.id, RESULT))

    options = ChannelOptions(inbox_bytes=3000)
    async with serving(late, http=SESSION, channel_options=options) as served:
        client = served.connect()
        session = await client.initialize()
        statuses = []
        for _ in range(10):
            params = {"text": "x" * 1000}
            statuses.append(await served.connect().notify("notifications/x", session, params))
        assert statuses[0] == 202
        assert statuses[-1] == 503
        waiting = served.connect()
        await waiting.call(id=5, session=session, text="x" * 5000)
        assert (await waiting.responses.whole())[0] == 503
        begin.set()
        await trio.sleep(1)
        await waiting.call(id=5, session=session, text="x" * 5000)
        assert (await waiting.json())[1]["id"] == 5


async def test_requests_that_are_not_received_fill_the_inbox_like_anything_else(
    autojump_clock: MockClock,
) -> None:
    begin = trio.Event()
    received: list[Message] = []

    async def late(channel: MessageChannel) -> None:
        message = await channel.receive()
        assert isinstance(message, Request)
        await channel.send(Response(message.id, {"protocolVersion": LEGACY}))
        await begin.wait()
        async for message in channel:
            received.append(message)
            if isinstance(message, Request) and message.id == 99:
                await channel.send(Response(message.id, RESULT))

    options = ChannelOptions(inbox_bytes=3000)
    async with serving(late, http=SESSION, channel_options=options) as served:
        session = await served.connect().initialize()
        callers = [served.connect() for _ in range(10)]
        for number, caller in enumerate(callers):
            await caller.call(id=number, session=session, text="x" * 1000)
            await trio.sleep(1)
        assert len(served.service.endpoint.sessions) == 1
        assert served.service.endpoint.exchanges == 2
        assert (await callers[-1].responses.whole())[0] == 503
        # Who cancels does not come again, so that is taken in nevertheless.
        reason = {"requestId": 0, "reason": "y" * 2000}
        notified = served.connect()
        assert await notified.notify("notifications/cancelled", session, reason) == 202
        begin.set()
        await trio.sleep(1)
        names = [getattr(message, "method", None) for message in received]
        assert names.count("tools/call") == 2
        assert names[-1] == "notifications/cancelled"
        # And what was received has made room.
        await callers[-1].call(id=99, session=session, text="x" * 2500)
        assert (await callers[-1].json())[1]["result"] == RESULT
        await callers[1].aclose()
        await served.connect().send("DELETE", {"Mcp-Session-Id": session})
