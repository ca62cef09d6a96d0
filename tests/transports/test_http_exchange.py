"""Exchanges: one POST of requests as a channel, in both eras."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from http_served import LEGACY, MODERN, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelOptions,
    ChannelState,
    ConnectionLost,
    Context,
    LocalProtocolError,
    MessageChannel,
    MessageTooLarge,
    Notification,
    Peer,
    Request,
    Response,
    Router,
)
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions

RESULT: dict[str, object] = {"content": []}


def answering(result: object = RESULT) -> Callable[[MessageChannel], Awaitable[None]]:
    async def answer(channel: MessageChannel) -> None:
        async for message in channel:
            if isinstance(message, Request):
                if message.method == "initialize":
                    await channel.send(Response(message.id, {"protocolVersion": LEGACY}))
                else:
                    await channel.send(Response(message.id, result))

    return answer


class Recorder:
    """A handler that keeps its channels, and does what the test says with exchanges."""

    def __init__(self, then: Callable[[MessageChannel, Request], Awaitable[object]]) -> None:
        self.then = then
        self.channels: list[MessageChannel] = []
        self.cancelled = 0
        self.received: list[object] = []
        self.errors: list[BaseException] = []

    async def __call__(self, channel: MessageChannel) -> None:
        if not channel.context.exchange:
            async for message in channel:
                self.received.append(message)
            return
        request = await channel.receive()
        if not isinstance(request, Request):
            self.received.append(request)
            return
        if request.method == "initialize":
            await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
            return
        self.channels.append(channel)
        try:
            await self.then(channel, request)
        except trio.Cancelled:
            self.cancelled += 1
            raise


async def forever(channel: MessageChannel, request: Request) -> None:
    await trio.sleep_forever()


async def test_a_modern_request_is_answered_with_one_document() -> None:
    async with serving(answering()) as served:
        client = served.connect()
        for number in (1, "1", 2**53):
            await client.call(id=number)
            status, answer = await client.json()
            assert status == 200
            assert answer == {"jsonrpc": "2.0", "id": number, "result": RESULT}


async def test_the_context_of_an_exchange_tells_what_is_known() -> None:
    recorder = Recorder(lambda channel, request: channel.send(Response(request.id, RESULT)))
    async with serving(recorder) as served:
        client = served.connect()
        await client.call()
        await client.json()
        context = recorder.channels[0].context
        assert context.transport == "http"
        assert context.local_address == "127.0.0.1:80"
        assert context.peer_address == "127.0.0.1:50000"
        assert context.protocol_version == MODERN
        assert context.session is None
        assert context.headers is not None
        assert context.headers["mcp-name"] == "tool"
        session = await client.initialize()
        await client.call(session=session)
        await client.json()
        context = recorder.channels[1].context
        assert context.protocol_version == LEGACY
        assert context.session is not None
        assert context.session.id == session
        assert session not in recorder.channels[1].session_id


async def test_what_is_said_before_the_result_makes_the_answer_a_stream() -> None:
    async def talk(channel: MessageChannel, request: Request) -> None:
        await channel.send(Notification("notifications/message", {"n": 1}))
        await channel.send_many([Notification("notifications/message", {"n": n}) for n in (2, 3)])
        await channel.send(Response(request.id, RESULT))

    async with serving(Recorder(talk)) as served:
        client = served.connect()
        await client.call()
        assert await client.stream_head() == 200
        for number in (1, 2, 3):
            assert (await client.message())["params"] == {"n": number}
        assert (await client.message())["result"] == RESULT
        await client.stream_end()
        await client.call()  # and the connection is good for more
        assert await client.stream_head() == 200


async def test_a_channel_ends_for_its_handler_once_the_last_answer_is_queued() -> None:
    async def answer_and_look(channel: MessageChannel, request: Request) -> None:
        await channel.send(Response(request.id, RESULT))
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        ended.set()

    ended = trio.Event()
    async with serving(Recorder(answer_and_look)) as served:
        client = served.connect()
        await client.call()
        await client.json()
        await ended.wait()


async def test_a_handler_that_returns_without_an_answer_yields_an_internal_error() -> None:
    async def nothing(channel: MessageChannel, request: Request) -> None:
        await trio.lowlevel.checkpoint()

    async with serving(Recorder(nothing)) as served:
        client = served.connect()
        await client.call(id=7)
        _, answer = await client.json()
        assert answer["id"] == 7
        assert answer["error"]["code"] == -32603  # type: ignore[index]


async def test_a_handler_that_fails_is_reported_and_its_request_answered() -> None:
    async def fail(channel: MessageChannel, request: Request) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("secret")

    async with serving(Recorder(fail)) as served:
        client = served.connect()
        await client.call(id=7)
        _, answer = await client.json()
        assert answer["error"]["code"] == -32603  # type: ignore[index]
        assert "secret" not in str(answer)
        assert served.names == ["handler.failed"]
        await client.call(id=8)
        assert (await client.json())[1]["id"] == 8


# -- the end of the connection -------------------------------------------------------------


async def test_a_modern_client_that_goes_away_cancels_its_request(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder(forever)
    async with serving(recorder) as served:
        client = served.connect()
        await client.call()
        await trio.sleep(1)
        await client.aclose()
        await trio.sleep(1)
        assert recorder.cancelled == 1
        assert isinstance(recorder.channels[0].failure, ConnectionLost)
        assert served.connections == 0
        assert served.names == []


async def test_a_modern_client_that_closes_its_stream_cancels_its_request(
    autojump_clock: MockClock,
) -> None:
    async def talk(channel: MessageChannel, request: Request) -> None:
        while True:
            await channel.send(Notification("notifications/message"))
            await trio.sleep(1)

    recorder = Recorder(talk)
    async with serving(recorder) as served:
        client = served.connect()
        await client.call()
        await client.stream_head()
        await client.event()
        await client.aclose()
        await trio.sleep(2)
        assert recorder.cancelled + len(recorder.errors) == 1
        assert recorder.channels[0].state is ChannelState.FAILED
        assert served.names == []


async def test_a_peers_handler_is_cancelled_at_once_when_its_modern_client_goes_away(
    autojump_clock: MockClock,
) -> None:
    router = Router("test", "1", capabilities={"tools": {}})
    cancelled_at: list[float] = []

    @router.method("tools/call")
    async def call(ctx: Context) -> object:
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    async def peer(channel: MessageChannel) -> None:
        await Peer(channel, router, drain=500).run()

    async with serving(peer) as served:
        client = served.connect()
        await client.call()
        await trio.sleep(1)
        await client.aclose()
        await trio.sleep(1)
        assert cancelled_at == pytest.approx([1], abs=0.1)
        assert served.names == []


async def test_a_legacy_exchange_outlives_its_connection(autojump_clock: MockClock) -> None:
    async def slow(channel: MessageChannel, request: Request) -> None:
        await trio.sleep(10)
        await channel.send(Response(request.id, RESULT))
        done.set()

    done = trio.Event()
    recorder = Recorder(slow)
    async with serving(recorder) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await trio.sleep(1)
        await client.aclose()
        await done.wait()
        assert trio.current_time() == pytest.approx(10)
        assert recorder.cancelled == 0
        assert recorder.channels[0].failure is None
        assert served.names == []


async def test_a_legacy_exchange_that_nobody_can_resume_is_cut_off_after_the_grace_timeout(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder(forever)
    async with serving(recorder, HttpServerOptions(grace_timeout=30)) as served:
        client = served.connect()
        session = await client.initialize()
        await client.call(session=session)
        await trio.sleep(3)
        await client.aclose()
        await trio.sleep(29)
        assert recorder.cancelled == 0
        assert served.service.endpoint.exchanges == 1
        await trio.sleep(2)
        assert recorder.cancelled == 1
        assert served.service.endpoint.exchanges == 0


async def test_a_legacy_client_cancels_with_a_message_and_gets_no_answer(
    autojump_clock: MockClock,
) -> None:
    router = Router("test", "1", capabilities={"tools": {}})
    cancelled = 0

    @router.method("tools/call")
    async def call(ctx: Context) -> object:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled += 1

    async def peer(channel: MessageChannel) -> None:
        await Peer(channel, router).run()

    async with serving(peer) as served:
        client, other = served.connect(), served.connect()
        session = await client.initialize()
        await client.call(id=5, session=session)
        await trio.sleep(1)
        assert await other.notify("notifications/cancelled", session, {"requestId": 5}) == 202
        status, headers, body = await client.responses.whole()
        assert (status, headers["content-type"], body) == (200, "text/event-stream", b"")
        assert cancelled == 1
        # The connection is good for more.
        await client.post(
            {"jsonrpc": "2.0", "id": 6, "method": "ping"}, {"Mcp-Session-Id": session}
        )
        assert (await client.json())[1] == {"jsonrpc": "2.0", "id": 6, "result": {}}


# -- ids -----------------------------------------------------------------------------------


async def test_two_exchanges_of_one_session_may_use_the_same_id() -> None:
    router = Router("test", "1", capabilities={"tools": {}})
    release = {"a": trio.Event(), "b": trio.Event()}

    @router.method("tools/call")
    async def call(ctx: Context) -> object:
        name = ctx.params_as(dict)["name"]
        await release[name].wait()
        return {"content": [], "name": name}

    async def peer(channel: MessageChannel) -> None:
        await Peer(channel, router).run()

    async with serving(peer) as served:
        clients = {"a": served.connect(), "b": served.connect()}
        session = await clients["a"].initialize()
        for name, client in clients.items():
            await client.call(name, id=1, session=session)
        await wait_all_tasks_blocked()
        for name in ("b", "a"):
            release[name].set()
            _, answer = await clients[name].json()
            assert answer["id"] == 1
            assert answer["result"]["name"] == name  # type: ignore[index]


async def test_requests_to_a_legacy_client_have_ids_of_the_session_and_their_answers_come_back(
    autojump_clock: MockClock,
) -> None:
    async def ask(channel: MessageChannel, request: Request) -> None:
        await channel.send(Request(1, "elicitation/create", {}))
        answer = await channel.receive()
        assert isinstance(answer, Response)
        assert answer.id == 1
        await channel.send(Response(request.id, {"got": answer.result}))

    async with serving(Recorder(ask)) as served:
        clients = [served.connect() for _ in range(3)]
        session = await clients[0].initialize()
        asked = []
        for client in clients:
            await client.call(id=1, session=session)
            await client.stream_head()
            asked.append((await client.message())["id"])
        assert len(set(asked)) == 3
        poster = served.connect()
        for number in (2, 0, 1):
            message = {"jsonrpc": "2.0", "id": asked[number], "result": {"n": number}}
            await poster.post(message, {"Mcp-Session-Id": session})
            assert (await poster.responses.whole())[0] == 202
            answer = await clients[number].message()
            assert answer["result"] == {"got": {"n": number}}
        # Late, or nobody's: accepted, and nothing comes of it.
        await poster.post(message, {"Mcp-Session-Id": session})
        assert (await poster.responses.whole())[0] == 202


async def test_a_modern_exchange_cannot_send_requests() -> None:
    async def ask(channel: MessageChannel, request: Request) -> None:
        with pytest.raises(LocalProtocolError):
            await channel.send(Request(1, "elicitation/create", {}))
        assert not channel.statistics().messages_sent
        await channel.send(Response(request.id, RESULT))

    async with serving(Recorder(ask)) as served:
        client = served.connect()
        await client.call()
        assert (await client.json())[1]["result"] == RESULT


# -- intervals -----------------------------------------------------------------------------


async def test_silence_turns_an_answer_into_a_stream_with_comments(
    autojump_clock: MockClock,
) -> None:
    async def slow(channel: MessageChannel, request: Request) -> None:
        await trio.sleep(40)
        await channel.send(Response(request.id, RESULT))

    async with serving(Recorder(slow)) as served:
        client = served.connect()
        await client.call()
        await client.stream_head()
        assert trio.current_time() == pytest.approx(5)
        for number in (1, 2):
            assert "" in await client.event()
            assert trio.current_time() == pytest.approx(5 + 15 * number)
        assert (await client.message())["result"] == RESULT
        await client.stream_end()


async def test_initialize_is_never_a_stream(autojump_clock: MockClock) -> None:
    async def slow(channel: MessageChannel) -> None:
        async for message in channel:
            assert isinstance(message, Request)
            await trio.sleep(40)
            await channel.send(Response(message.id, {"protocolVersion": LEGACY}))

    async with serving(slow) as served:
        await served.connect().initialize()
        assert trio.current_time() == pytest.approx(40)


# -- limits --------------------------------------------------------------------------------


async def test_a_result_that_is_too_large_is_refused_to_the_handler_and_nothing_is_sent() -> None:
    async def boast(channel: MessageChannel, request: Request) -> None:
        with pytest.raises(MessageTooLarge):
            await channel.send(Response(request.id, {"text": "x" * 2000}))
        await channel.send(Response(request.id, RESULT))

    async with serving(
        Recorder(boast), channel_options=ChannelOptions(max_message_bytes=1000)
    ) as served:
        client = served.connect()
        await client.call()
        assert (await client.json())[1]["result"] == RESULT


async def test_a_client_that_reads_slowly_makes_the_handler_wait(
    autojump_clock: MockClock,
) -> None:
    sent = 0

    async def flood(channel: MessageChannel, request: Request) -> None:
        nonlocal sent
        for _ in range(100):
            await channel.send(Notification("notifications/message", {"text": "x" * 1000}))
            sent += 1
        await channel.send(Response(request.id, RESULT))

    options = ChannelOptions(outbox_bytes=5000)
    async with serving(Recorder(flood), channel_options=options) as served:
        client = served.connect()
        # A memory stream takes everything that it is not kept from taking.
        release = trio.Event()
        client.server.send_stream.send_all_hook = release.wait
        await client.call()
        await wait_all_tasks_blocked()
        assert 4 <= sent <= 8
        release.set()
        await client.stream_head()
        for _ in range(100):
            await client.message()
        assert (await client.message())["result"] == RESULT


async def test_nobody_overtakes_those_who_wait_for_room(autojump_clock: MockClock) -> None:
    async def talk(channel: MessageChannel, request: Request) -> None:
        await channel.send(Notification("n", {"n": 0, "text": "x" * 900}))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, Notification("n", {"n": 1, "text": "x" * 900}))
            await trio.sleep(1)
            # There is room for this one, but it is not its turn.
            assert not channel.try_send(Notification("n", {"n": 2}))
            nursery.start_soon(channel.send, Notification("n", {"n": 2}))
            await trio.sleep(1)
            release.set()
        await channel.send(Response(request.id, RESULT))

    release = trio.Event()
    options = ChannelOptions(outbox_bytes=1500)
    async with serving(Recorder(talk), channel_options=options) as served:
        client = served.connect()
        client.server.send_stream.send_all_hook = release.wait
        await client.call()
        await client.stream_head()
        for number in range(3):
            assert f'"n":{number}' in (await client.event())["data"]


async def test_more_exchanges_than_allowed_get_503_with_retry_after(
    autojump_clock: MockClock,
) -> None:
    recorder = Recorder(forever)
    async with serving(recorder, HttpServerOptions(max_exchanges=2, retry_after=9)) as served:
        clients = [served.connect() for _ in range(3)]
        for client in clients[:2]:
            await client.call()
        await trio.sleep(1)
        await clients[2].call()
        status, headers, _ = await clients[2].responses.whole()
        assert (status, headers["retry-after"]) == (503, "9")
        await clients[0].aclose()
        await clients[1].aclose()
        await trio.sleep(1)
        await clients[2].call()
        await wait_all_tasks_blocked()
        assert served.service.endpoint.exchanges == 1


# -- channels as every other -----------------------------------------------------------------


async def test_an_exchange_is_a_channel_like_every_other() -> None:
    async def look(channel: MessageChannel, request: Request) -> None:
        assert await channel.wait_state(ChannelState.CONNECTED) is ChannelState.CONNECTED
        assert not channel.can_send_eof
        with pytest.raises(LocalProtocolError):
            await channel.send_eof()
        assert channel.capabilities.max_message_bytes == channel.options.max_message_bytes
        assert channel.statistics().messages_received == 1
        assert channel.try_send(Notification("notifications/message"))
        channel.send_control(Notification("notifications/message"))
        await channel.flush()
        await channel.send(Response(request.id, RESULT))
        assert channel.statistics().messages_sent == 3
        await channel.aclose()
        assert await channel.wait_state(ChannelState.CLOSED) is ChannelState.CLOSED
        for attempt in (
            lambda: channel.send(Notification("late")),
            channel.receive,
            channel.flush,
        ):
            with pytest.raises(trio.ClosedResourceError):
                await attempt()
        await channel.aclose()
        looked.set()

    looked = trio.Event()
    async with serving(Recorder(look)) as served:
        client = served.connect()
        await client.call()
        await client.stream_head()
        await client.message()
        await client.message()
        assert (await client.message())["result"] == RESULT
        await looked.wait()
        assert served.names == []


async def test_closing_early_answers_what_has_no_answer() -> None:
    async with serving(Recorder(lambda channel, _: channel.aclose())) as served:
        client = served.connect()
        await client.call(id=3)
        _, answer = await client.json()
        assert answer["id"] == 3
        assert answer["error"]["code"] == -32603  # type: ignore[index]


async def test_aborting_breaks_the_response_off() -> None:
    async def abort(channel: MessageChannel, request: Request) -> None:
        await channel.send(Notification("notifications/message"))
        await channel.flush()
        channel.abort()
        with pytest.raises(trio.ClosedResourceError):
            await channel.send(Response(request.id, RESULT))

    async with serving(Recorder(abort)) as served:
        client = served.connect()
        await client.call()
        await client.stream_head()
        assert not (await client.responses.end()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("is_modern", [True, False])
async def test_cancelling_the_service_ends_everything_at_once(
    is_modern: bool, autojump_clock: MockClock
) -> None:
    recorder = Recorder(forever)
    with trio.CancelScope() as scope:
        async with serving(recorder) as served:
            client = served.connect()
            session = None if is_modern else await client.initialize()
            await client.call(session=session)
            await trio.sleep(1)
            scope.cancel()
            await trio.sleep_forever()
    assert recorder.cancelled == 1
    assert len(served.service.deadlines) == 0
