"""The official SDK on our channels, and we against it: both directions, both eras."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import trio

pytest.importorskip("mcp.server.mcpserver", reason="the official MCP SDK is not installed")

from mcp import Client, ClientSession
from mcp.client.stdio import StdioServerParameters
from mcp.server.mcpserver import Context, MCPServer
from sdk_conversations import (
    holds_a_conversation,
    tries_the_builtin_server,
    we_hold_a_conversation,
)
from sdk_endpoints import endpoint
from sdk_server import server as sdk_server
from serving import PATIENCE, serving

from trio_mcp_transport import (
    ChannelContext,
    open_channel,
    open_peer,
    serve_peers,
)
from trio_mcp_transport.cli.builtin_server import BuiltinServer
from trio_mcp_transport.interop.mcp_sdk import (
    sdk_streams,
    sdk_transport,
    serve_sdk,
)

pytestmark = [pytest.mark.interop]
__all__ = ["endpoint"]  # a fixture

SDK_SERVER = str(Path(__file__).parents[1] / "sdk_server.py")
Era = Literal["legacy", "modern", "auto"]
MODES = ["legacy", "auto", "2026-07-28"]


# -- clients and servers of the SDK -------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_an_sdk_client_talks_to_an_sdk_server(endpoint: str, mode: str) -> None:
    async with (
        serving(partial(serve_sdk, sdk_server, endpoint)) as bound,
        Client(sdk_transport(bound), mode=mode) as client,
    ):
        await holds_a_conversation(client)
        assert client.protocol_version.startswith("2025" if mode == "legacy" else "2026")


async def test_an_sdk_client_session_runs_on_the_streams_of_a_channel(endpoint: str) -> None:
    async with (
        serving(partial(serve_sdk, sdk_server, endpoint)) as bound,
        open_channel(bound) as channel,
        sdk_streams(channel) as streams,
        ClientSession(*streams) as session,
    ):
        greeting = await session.initialize()
        assert greeting.server_info.version == "1.2.3"
        assert len((await session.list_tools()).tools) == 3


@pytest.mark.parametrize("mode", MODES)
async def test_an_sdk_client_talks_to_a_program_made_with_the_sdk(mode: str) -> None:
    transport = sdk_transport({"command": sys.executable, "args": [SDK_SERVER]})
    with trio.fail_after(PATIENCE):
        async with Client(transport, mode=mode) as client:
            await holds_a_conversation(client)


async def test_many_sdk_clients_share_one_server_and_its_lifespan(endpoint: str) -> None:
    entered: list[str] = []

    @asynccontextmanager
    async def lifespan(_: MCPServer[str]) -> AsyncGenerator[str, None]:
        entered.append("entered")
        try:
            yield "the state"
        finally:
            entered.append("left")

    server = MCPServer("shared", lifespan=lifespan)

    @server.tool()
    def state(ctx: Context[str, object]) -> str:
        return ctx.request_context.lifespan_context

    async def call(bound: str) -> None:
        async with Client(sdk_transport(bound)) as client:
            result = await client.call_tool("state")
            assert result.structured_content == {"result": "the state"}

    async with serving(partial(serve_sdk, server, endpoint)) as bound:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(call, bound)
        assert entered == ["entered"]
    assert entered == ["entered", "left"]


async def test_handlers_find_the_channels_context_as_their_request(tmp_path: Path) -> None:
    seen: list[object] = []
    server = MCPServer("curious")

    @server.tool()
    def look(ctx: Context[object, object]) -> None:
        seen.append(ctx.request_context.request)

    async with (
        serving(partial(serve_sdk, server, f"unix:{tmp_path}/s")) as bound,
        Client(sdk_transport(bound)) as client,
    ):
        await client.call_tool("look")
    (context,) = seen
    assert isinstance(context, ChannelContext)
    assert context.transport == "unix"


async def test_cancelling_a_call_cancels_the_handler(endpoint: str) -> None:
    events: list[str] = []
    started, cancelled = trio.Event(), trio.Event()
    server = MCPServer("slow")

    @server.tool()
    async def sleep() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            events.append("cancelled")
            cancelled.set()
            raise

    async with (
        serving(partial(serve_sdk, server, endpoint)) as bound,
        Client(sdk_transport(bound)) as client,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call_tool, "sleep")
            await started.wait()
            nursery.cancel_scope.cancel()
        await cancelled.wait()
        assert events == ["cancelled"]
        assert (await client.list_tools()).tools  # the conversation goes on


# -- the SDK's clients against our servers -------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_an_sdk_client_talks_to_our_server(endpoint: str, mode: str) -> None:
    async with (
        serving(partial(serve_peers, BuiltinServer().router, endpoint)) as bound,
        Client(sdk_transport(bound), mode=mode) as client,
    ):
        await tries_the_builtin_server(client)


async def test_the_sdks_stdio_client_talks_to_trio_mcp_serve() -> None:
    serve = StdioServerParameters(
        command=sys.executable, args=["-m", "trio_mcp_transport", "serve"]
    )
    with trio.fail_after(PATIENCE):
        for mode in MODES:
            async with Client(serve, mode=mode) as client:
                added = await client.call_tool("add", {"a": 1, "b": 2})
                assert not added.is_error


async def test_the_sdks_stdio_client_reaches_a_socket_through_trio_mcp_connect() -> None:
    async with serving(partial(serve_sdk, sdk_server, "tcp://127.0.0.1:0")) as bound:
        connect = StdioServerParameters(
            command=sys.executable, args=["-m", "trio_mcp_transport", "connect", bound]
        )
        for mode in MODES:
            async with Client(connect, mode=mode) as client:
                await holds_a_conversation(client)


# -- our clients against the SDK's servers -------------------------------------------------


@pytest.mark.parametrize("era", ["legacy", "modern", "auto"])
async def test_our_peer_talks_to_an_sdk_server(endpoint: str, era: Era) -> None:
    async with (
        serving(partial(serve_sdk, sdk_server, endpoint)) as bound,
        open_peer(bound, era=era) as peer,
    ):
        assert peer.negotiated is not None
        assert peer.negotiated.era == ("legacy" if era == "legacy" else "modern")
        await we_hold_a_conversation(peer)


@pytest.mark.parametrize("era", ["legacy", "modern", "auto"])
async def test_our_peer_talks_to_a_program_made_with_the_sdk(era: Era) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(f"stdio:{sys.executable} {SDK_SERVER}", era=era) as peer:
            await we_hold_a_conversation(peer)
