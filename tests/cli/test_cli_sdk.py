"""The official SDK's stdio client, with ``trio-mcp`` as the server that it starts."""

from __future__ import annotations

import sys

import pytest
import trio
from cli_process import PATIENCE, running

pytest.importorskip("mcp", reason="the official SDK is not installed")

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

pytestmark = [pytest.mark.cli, pytest.mark.interop, pytest.mark.integration]


async def converse(*words: str) -> None:
    """List and call, as the SDK does it."""
    program = StdioServerParameters(
        command=sys.executable, args=["-m", "trio_mcp_transport", *words]
    )
    with trio.fail_after(PATIENCE):
        async with stdio_client(program) as streams, ClientSession(*streams) as session:
            await session.initialize()
            listed = await session.list_tools()
            assert [tool.name for tool in listed.tools] == ["echo", "add", "slow", "large"]
            added = await session.call_tool("add", {"a": 1, "b": 2})
            assert added.structured_content == {"sum": 3}
            seen: list[float] = []

            async def on_progress(
                progress: float, total: float | None, message: str | None
            ) -> None:
                await trio.lowlevel.checkpoint()
                seen.append(progress)

            slow = {"seconds": 0.05, "steps": 3}
            await session.call_tool("slow", slow, progress_callback=on_progress)
            # It may still be at work on the last one when it has the result.
            assert seen[:2] == [1, 2]
            resource = await session.read_resource("trio-mcp://status")
            assert "slowRunning" in resource.model_dump_json()
            prompt = await session.get_prompt("greeting", {"name": "Ada"})
            assert "Ada" in prompt.model_dump_json()


async def test_it_talks_to_the_built_in_server() -> None:
    await converse("serve")


async def test_it_reaches_a_server_on_tcp_through_connect() -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        await converse("connect", await server.wait_listening())


async def test_it_reaches_a_served_command_through_two_bridges() -> None:
    command = [sys.executable, "-m", "trio_mcp_transport", "serve"]
    async with running("serve", "--listen", "tcp://127.0.0.1:0", "--", *command) as server:
        await converse("connect", await server.wait_listening())
