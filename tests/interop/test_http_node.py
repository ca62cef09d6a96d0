"""What Node's MCP world has over HTTP: the reference server, and the inspector as a client."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest
import trio
from cli_process import run_cli
from http_peers import everything_server, node, node_program
from serving import PATIENCE, serving

from trio_mcp_transport import Peer, RpcError, open_peer, serve_peers
from trio_mcp_transport.cli.builtin_server import BuiltinServer

pytestmark = [pytest.mark.interop, pytest.mark.integration]


@pytest.fixture(scope="module", params=["streamableHttp", "sse"])
def everything(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The reference server; its URL."""
    with everything_server(request.param, tmp_path_factory.mktemp("everything")) as url:
        yield url


async def echo(peer: Peer, text: str) -> object:
    call = {"name": "echo", "arguments": {"message": text}}
    result = await peer.request("tools/call", call, result_type=dict[str, object])
    return result["content"]


async def test_the_reference_server_holds_a_conversation(everything: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(everything) as peer:
            assert peer.negotiated is not None
            assert peer.negotiated.revision == "2025-11-25"
            assert await echo(peer, "hällo") == [{"type": "text", "text": "Echo: hällo"}]
            with pytest.raises(RpcError):
                await peer.request("no/such/method")
            seen: list[float] = []
            arguments = {"duration": 0.2, "steps": 4}
            call = {"name": "trigger-long-running-operation", "arguments": arguments}
            await peer.request(
                "tools/call", call, on_progress=lambda found: seen.append(found.progress)
            )
            assert seen == [1, 2, 3, 4]


async def test_the_reference_server_takes_many_requests_at_a_time(everything: str) -> None:
    async def ask(peer: Peer, number: int) -> None:
        assert await echo(peer, str(number)) == [{"type": "text", "text": f"Echo: {number}"}]

    with trio.fail_after(PATIENCE):
        async with open_peer(everything) as peer, trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, peer, number)


async def test_trio_mcp_call_reaches_the_reference_server(everything: str) -> None:
    done = await run_cli(
        "call", everything, "tools/call", '{"name":"echo","arguments":{"message":"hi"}}'
    )
    assert done.status == 0, done.err
    assert done.messages[0]["content"] == [{"type": "text", "text": "Echo: hi"}]


@pytest.mark.parametrize("revision", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_the_reference_server_speaks_the_older_revisions(
    everything: str, revision: str
) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(everything, era="legacy", revision=revision) as peer:
            assert peer.negotiated is not None
            assert peer.negotiated.revision == revision
            assert await echo(peer, "x") == [{"type": "text", "text": "Echo: x"}]


# -- the inspector ---------------------------------------------------------------------------


async def inspect(url: str, transport: str, era: str, *arguments: str) -> dict[str, object]:
    options = ["--transport", transport, "--protocol-era", era, "--format", "json", "-q"]
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [node(22), node_program("mcp-inspector"), "--cli", url, *options, *arguments],
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    found = msgspec.json.decode(done.stdout, type=dict[str, dict[str, object]])
    assert "result" in found, found
    return found["result"]


@pytest.mark.parametrize(
    ("endpoint", "era"),
    [
        ("http://127.0.0.1:0/mcp", "legacy"),
        ("http://127.0.0.1:0/mcp", "auto"),
        ("http://127.0.0.1:0/mcp", "modern"),
        ("sse+http://127.0.0.1:0/sse", "legacy"),
    ],
)
async def test_the_inspector_lists_and_calls_our_tools(endpoint: str, era: str) -> None:
    node_program("mcp-inspector")
    transport = "sse" if endpoint.startswith("sse+") else "http"
    async with serving(partial(serve_peers, BuiltinServer().router, endpoint)) as bound:
        url = bound.removeprefix("sse+")
        listed = await inspect(url, transport, era, "--method", "tools/list")
        tools = msgspec.convert(listed["tools"], list[dict[str, object]])
        assert {"echo", "add"} <= {tool["name"] for tool in tools}
        call = ["--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=1", "b=2"]
        added = await inspect(url, transport, era, *call)
        assert added["structuredContent"] == {"sum": 3}
