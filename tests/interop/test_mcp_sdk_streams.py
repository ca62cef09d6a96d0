"""The SDK's streams over a channel: ends, errors, messages, and what they need."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from functools import partial

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

pytest.importorskip("mcp.server.mcpserver", reason="the official MCP SDK is not installed")

import anyio
from mcp import Client, MCPError
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.shared.message import SessionMessage
from mcp.types import (
    CONNECTION_CLOSED,
    JSONRPCError,
    JSONRPCNotification,
    ListToolsResult,
)
from sdk_endpoints import endpoint
from sdk_server import server as sdk_server
from serving import PATIENCE, serving

from trio_mcp_transport import (
    ChannelBroken,
    ChannelEvent,
    ChannelState,
    ConnectFailed,
    ConnectionLost,
    ErrorObject,
    ErrorResponse,
    FeatureUnavailable,
    InvalidMessage,
    Message,
    MessageChannel,
    MessageTooLarge,
    Notification,
    Request,
    Response,
    encode_message,
    memory_channel_pair,
    open_channel,
    serve_channels,
)
from trio_mcp_transport.interop.mcp_sdk import (
    run_sdk_server,
    sdk_streams,
    sdk_transport,
    serve_sdk,
)
from trio_mcp_transport.testing import cancel_at

pytestmark = [pytest.mark.interop]
__all__ = ["endpoint"]  # a fixture

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}

# -- ends and errors -----------------------------------------------------------------------


async def test_a_refused_connection_comes_out_as_it_is() -> None:
    with pytest.raises(ConnectFailed):
        async with Client(sdk_transport("memory:nobody")):
            raise AssertionError("not reached")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
async def test_what_the_block_raises_comes_out_as_it_is(
    endpoint: str, kind: type[BaseException]
) -> None:
    boom = kind("boom")
    async with serving(partial(serve_sdk, sdk_server, endpoint)) as bound:
        with pytest.raises(kind) as caught:
            async with sdk_transport(bound):
                raise boom
        assert caught.value is boom


async def test_a_server_that_goes_away_fails_what_waits_and_ends_the_session() -> None:
    messages: list[object] = []

    async def note(message: object) -> None:
        messages.append(message)
        await trio.lowlevel.checkpoint()

    async def receive_and_break(channel: MessageChannel) -> None:
        await channel.receive()
        channel.abort(ConnectionLost("pulled the plug"))

    async with (
        serving(partial(serve_channels, receive_and_break, "memory:broken")) as bound,
        Client(sdk_transport(bound), mode="2026-07-28", message_handler=note) as client,
    ):
        for _ in range(2):
            with pytest.raises(MCPError) as caught:
                await client.list_tools()
            assert caught.value.error.code == CONNECTION_CLOSED
    assert any(isinstance(message, ChannelBroken) for message in messages)


async def test_a_clean_end_is_an_end_for_the_sdk() -> None:
    left, right = memory_channel_pair()
    async with sdk_streams(left) as (reading, writing):
        await right.send(Notification("last"))
        await right.aclose()
        items = [item async for item in reading]
        assert len(items) == 1
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await reading.receive()
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await writing.send(note_message())
        assert isinstance(caught.value.__cause__, ChannelBroken)


def note_message() -> SessionMessage:
    return SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="x"))


async def test_closed_streams_and_closed_channels_are_closed_resources() -> None:
    left, _ = memory_channel_pair()
    async with sdk_streams(left) as (reading, writing):
        await writing.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await writing.send(note_message())
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await reading.receive()

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            await reading.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await reading.receive()
    left, _ = memory_channel_pair()
    async with sdk_streams(left) as (reading, writing):
        await left.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await reading.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await writing.send(note_message())


async def test_a_cancelled_read_loses_nothing() -> None:
    left, right = memory_channel_pair()
    async with sdk_streams(left) as (reading, _):
        await right.send(Notification("x"))
        for number in itertools.count():
            got: list[object] = []

            async def read(got: list[object] = got) -> None:
                got.append(await reading.receive())

            if not await cancel_at(number, read):
                assert len(got) == 1
                break
            assert not got


async def test_answers_in_work_are_written_although_the_peer_has_ended(endpoint: str) -> None:
    server = MCPServer("slow")
    go_on = trio.Event()

    @server.tool()
    async def wait() -> str:
        await go_on.wait()
        return "written"

    async with (
        serving(partial(serve_sdk, server, endpoint)) as bound,
        open_channel(bound) as channel,
    ):
        await channel.send(Request(1, "initialize", INITIALIZE))
        await channel.receive()
        await channel.send(Notification("notifications/initialized"))
        for number in (2, 3):
            await channel.send(Request(number, "tools/call", {"name": "wait"}))
        await channel.send(Notification("notifications/cancelled", {"requestId": 3}))
        await channel.send_eof()
        await wait_all_tasks_blocked(0.02)
        go_on.set()
        answers = [message async for message in channel]
        assert [message.id for message in answers if isinstance(message, Response)] == [2]


async def test_handlers_are_cancelled_when_the_drain_is_over(
    autojump_clock: MockClock,
) -> None:
    server = MCPServer("slow")

    @server.tool()
    async def wait() -> None:
        await trio.sleep_forever()

    left, right = memory_channel_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run_sdk_server, server, right, drain=7))
        await left.send(Request(1, "initialize", INITIALIZE))
        await left.receive()
        await left.send(Request(2, "tools/call", {"name": "wait"}))
        start = trio.current_time()
        await left.send_eof()
        answers = [message async for message in left]
        assert trio.current_time() == start + 7
        assert all(isinstance(message, ErrorResponse) for message in answers)


async def test_stopping_finishes_what_is_in_work_and_closes(endpoint: str) -> None:
    server = MCPServer("slow")
    started, go_on, stop = trio.Event(), trio.Event(), trio.Event()

    @server.tool()
    async def wait() -> str:
        started.set()
        await go_on.wait()
        return "finished"

    results: list[object] = []

    async def call(bound: str) -> None:
        async with Client(sdk_transport(bound)) as client:
            await client.list_tools()  # so that the client need not ask for the schema later
            results.append((await client.call_tool("wait")).structured_content)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            bound = (await nursery.start(partial(serve_sdk, server, endpoint, stop=stop)))[0]
            nursery.start_soon(call, bound)
            await started.wait()
            stop.set()
            await wait_all_tasks_blocked(0.01)
            go_on.set()
    assert results == [{"result": "finished"}]


async def test_a_channel_that_fails_fails_the_server_that_serves_it() -> None:
    left, right = memory_channel_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(ConnectionLost, match="broke the channel off"):
                await run_sdk_server(sdk_server, right)

        nursery.start_soon(serve)
        await left.send(Request(1, "initialize", INITIALIZE))
        await left.receive()
        left.abort()


async def test_an_exception_of_a_handler_comes_out_bare_where_that_is_wanted() -> None:
    left, right = memory_channel_pair()

    async def list_tools(_: object, __: object) -> ListToolsResult:
        await trio.lowlevel.checkpoint()
        raise OSError("exactly this")

    server = Server("broken", on_list_tools=list_tools)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(OSError, match="exactly this"):
                await run_sdk_server(server, right, raise_exceptions=True)

        nursery.start_soon(serve)
        await left.send(Request(1, "initialize", INITIALIZE))
        await left.receive()
        await left.send(Notification("notifications/initialized"))
        await left.send(Request(2, "tools/list"))
        assert isinstance(await left.receive(), ErrorResponse)
        with pytest.raises(ChannelBroken):
            await left.receive()


async def test_cancelling_a_server_closes_its_channel() -> None:
    left, right = memory_channel_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_sdk_server, sdk_server, right)
        await left.send(Request(1, "initialize", INITIALIZE))
        await left.receive()
        nursery.cancel_scope.cancel()
    assert not right.is_connected
    assert right.state is ChannelState.CLOSED


# -- messages ------------------------------------------------------------------------------


async def test_messages_become_the_sdks_and_ours_again() -> None:
    left, right = memory_channel_pair()
    ours: list[Message] = [
        Request(1, "a", {"x": [1, 2.5, None, "ä"]}),
        Request("1", "b"),
        Notification("c", msgspec.Raw(b'{"y": {}}')),
        Notification("d"),
        Response("1", {"z": 1}),
        ErrorResponse(1, ErrorObject(-32000, "no", {"why": "because"})),
        ErrorResponse(None, ErrorObject(-32700, "no")),
    ]
    async with sdk_streams(left) as (reading, writing):
        for message in ours:
            await right.send(message)
            item = await reading.receive()
            assert isinstance(item, SessionMessage)
            await writing.send(item)
            back = await right.receive()
            assert type(back) is type(message)
            assert msgspec.json.decode(encode_message(back)) == msgspec.json.decode(
                encode_message(message)
            )


async def test_requests_that_the_sdk_cannot_take_are_answered() -> None:
    events: list[ChannelEvent] = []
    left, right = memory_channel_pair()
    async with sdk_streams(left, on_event=events.append) as (reading, _):
        await right.send(Request(1, "positional", [1, 2]))
        await right.send(Request(2, "huge", msgspec.Raw(b'{"n":' + b"9" * 5000 + b"}")))
        await right.send(Notification("fine"))
        item = await reading.receive()
        assert isinstance(item, SessionMessage)
        assert isinstance(item.message, JSONRPCNotification)
        for number in (1, 2):
            answer = await right.receive()
            assert isinstance(answer, ErrorResponse)
            assert (answer.id, answer.error.code) == (number, -32602)
    assert [event.name for event in events] == ["message.malformed"] * 2


async def test_answers_that_the_sdk_cannot_take_become_errors() -> None:
    events: list[ChannelEvent] = []
    left, right = memory_channel_pair()
    async with sdk_streams(left, on_event=events.append) as (reading, _):
        await right.send(Response(7, [1, 2]))
        item = await reading.receive()
        assert isinstance(item, SessionMessage)
        assert isinstance(item.message, JSONRPCError)
        assert item.message.id == 7
    assert [event.name for event in events] == ["message.malformed"]


async def test_notifications_that_the_sdk_cannot_take_are_exceptions_on_its_stream() -> None:
    left, right = memory_channel_pair()
    async with sdk_streams(left) as (reading, _):
        await right.send(Notification("positional", [1]))
        assert isinstance(await reading.receive(), InvalidMessage)


async def test_a_message_over_the_limit_is_refused_and_the_session_goes_on() -> None:
    async with (
        serving(partial(serve_sdk, sdk_server, "tcp://127.0.0.1:0")) as bound,
        Client(sdk_transport(bound, max_message_bytes=100_000)) as client,
    ):
        with pytest.raises(MessageTooLarge):
            await client.call_tool("add", {"a": "x" * 200_000, "b": 1})
        assert (await client.list_tools()).tools


# -- what is needed ------------------------------------------------------------------------


def test_another_event_loop_is_told_what_to_do() -> None:
    async def main() -> None:
        async with sdk_transport("memory:x"):
            raise AssertionError("not reached")

    with pytest.raises(FeatureUnavailable, match="trio"):
        asyncio.run(main())


@pytest.mark.parametrize("missing", ["mcp", "mcp.server.runner", "anyio"])
def test_a_missing_sdk_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import trio_mcp_transport\n"
        "try:\n"
        "    import trio_mcp_transport.interop.mcp_sdk\n"
        "except trio_mcp_transport.FeatureUnavailable as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert 'pip install "trio-mcp-transport[mcp]"' in done.stdout
