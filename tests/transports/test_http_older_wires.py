"""HTTP+SSE of 2024-11-05, and the wire of two paths."""

from __future__ import annotations

import trio
from http_served import INITIALIZE, RESULT, Application, Client, serving
from trio.testing import MockClock

from trio_mcp_transport import (
    ConnectionLost,
    Message,
    MessageChannel,
    Notification,
    Peer,
    Request,
    Response,
    Router,
)
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions

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
        assert isinstance(channels[0].failure, ConnectionLost)
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


async def test_while_stopping_no_stream_of_http_sse_is_begun(autojump_clock: MockClock) -> None:
    application = Application()
    async with serving(application, SSE) as served:
        client, late = served.connect(), served.connect()
        await client.call("wait")
        await trio.sleep(1)
        served.service.stop()
        await late.send("GET", {"Accept": "text/event-stream"}, path="/sse")
        assert (await late.responses.whole())[0] == 503
        assert len(served.service.endpoint.sessions) == 0
        application.release.set()
        assert (await client.json())[1]["result"] == RESULT


async def test_notifications_that_are_being_handled_count_as_exchanges(
    autojump_clock: MockClock,
) -> None:
    release = trio.Event()
    handled = 0

    async def wait(channel: MessageChannel) -> None:
        nonlocal handled
        async for _ in channel:
            await release.wait()
            handled += 1

    options = HttpServerOptions(rpc_path="/rpc", notify_path="/notify", max_exchanges=3)
    async with serving(wait, options) as served:
        client = served.connect()
        statuses = []
        for _ in range(6):
            await client.post({"jsonrpc": "2.0", "method": "n"}, path="/notify")
            statuses.append((await client.responses.whole())[0])
            await trio.sleep(1)
        assert statuses == [200, 200, 200, 503, 503, 503]
        assert served.service.endpoint.exchanges == 3
        await client.post({"jsonrpc": "2.0", "id": 1, "method": "m"}, path="/rpc")
        assert (await client.responses.whole())[0] == 503
        # They are work like any other, so a stop lets them finish.
        served.service.stop()
        await trio.sleep(1)
        assert served.service.endpoint.exchanges == 3
        release.set()
        await trio.sleep(1)
        assert handled == 3
        assert served.service.endpoint.exchanges == 0
