"""What is said between the official SDK and us, wherever each of them is."""

from __future__ import annotations

import anyio.lowlevel
import pytest
from mcp import Client, MCPError
from mcp.types import TextContent, TextResourceContents

from trio_mcp_transport import Peer, RpcError


async def holds_a_conversation(client: Client, *, progress: bool = True) -> None:
    """With `sdk_server`, wherever it is."""
    tools = await client.list_tools()
    assert [tool.name for tool in tools.tools] == ["add", "steps", "fail"]
    added = await client.call_tool("add", {"a": 2, "b": 0.5})
    assert added.structured_content == {"result": 2.5}
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        await anyio.lowlevel.checkpoint()

    await client.call_tool("steps", {"count": 2}, progress_callback=note)
    assert sorted(seen) == ([(1, 2, "step 1"), (2, 2, "step 2")] if progress else [])
    failed = await client.call_tool("fail")
    assert failed.is_error
    (content,) = (await client.read_resource("test://greeting")).contents
    assert isinstance(content, TextResourceContents)
    assert content.text == "Grüße\n☃"
    with pytest.raises(MCPError, match="nknown"):
        await client.read_resource("test://nothing")


async def tries_the_builtin_server(client: Client, *, progress: bool = True) -> None:
    """With `BuiltinServer`, wherever it is.

    Args:
        client: The SDK's.
        progress: Whether reports of progress are to be expected.
    """
    names = [tool.name for tool in (await client.list_tools()).tools]
    assert {"echo", "add", "slow", "large"} <= set(names)
    echoed = await client.call_tool("echo", {"text": "hällo"})
    assert isinstance(echoed.content[0], TextContent)
    assert echoed.content[0].text == "hällo"
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)
        await anyio.lowlevel.checkpoint()

    await client.call_tool("slow", {"seconds": 0, "steps": 3}, progress_callback=note)
    # Reports may be left out where they come too fast; none is made up.
    assert bool(seen) == progress
    large = await client.call_tool("large", {"size": 1_000_000})
    assert isinstance(large.content[0], TextContent)
    assert len(large.content[0].text) == 1_000_000
    assert (await client.list_resources()).resources
    assert (await client.list_prompts()).prompts
    with pytest.raises(MCPError):
        await client.get_prompt("nothing")


async def we_hold_a_conversation(peer: Peer, *, progress: bool = True) -> None:
    """With `sdk_server`, wherever it is."""
    tools = await peer.request("tools/list", result_type=dict[str, object])
    assert isinstance(tools["tools"], list)
    assert len(tools["tools"]) == 3
    call = {"name": "add", "arguments": {"a": 1, "b": 2}}
    added = await peer.request("tools/call", call, result_type=dict[str, object])
    assert added["structuredContent"] == {"result": 3.0}
    seen: list[float] = []
    call = {"name": "steps", "arguments": {"count": 3}}
    await peer.request("tools/call", call, on_progress=lambda found: seen.append(found.progress))
    assert seen == ([1, 2, 3] if progress else [])
    with pytest.raises(RpcError):
        await peer.request("no/such/method")
