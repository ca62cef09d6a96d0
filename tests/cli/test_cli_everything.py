"""The MCP reference server, run by Node, called and served by ``trio-mcp``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest
from cli_process import run_cli, running

pytestmark = [pytest.mark.cli, pytest.mark.interop, pytest.mark.integration]


def _server() -> list[str]:
    """How the server is started; empty where it is not installed."""
    directory = os.environ.get("TRIO_MCP_NODE_MODULES")
    node = shutil.which("node")
    if directory is None or node is None:
        return []
    program = Path(directory, ".bin", "mcp-server-everything")
    return [node, str(program), "stdio"] if program.exists() else []


SERVER = _server()
needs_server = pytest.mark.skipif(
    not SERVER,
    reason="needs node, and @modelcontextprotocol/server-everything in $TRIO_MCP_NODE_MODULES",
)


def tools(result: dict[str, object]) -> set[object]:
    return {tool["name"] for tool in msgspec.convert(result["tools"], list[dict[str, object]])}


@needs_server
async def test_its_tools_can_be_listed() -> None:
    done = await run_cli("call", f"stdio:?stderr=drop {' '.join(SERVER)}", "tools/list")
    assert done.status == 0, done.err
    assert "echo" in tools(done.messages[0])
    assert done.err == ""


@needs_server
@pytest.mark.parametrize("revision", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_it_can_be_called_in_every_revision_it_knows(revision: str) -> None:
    echo = '{"name":"echo","arguments":{"message":"hello"}}'
    done = await run_cli(
        "call", f"stdio:{' '.join(SERVER)}", "tools/call", echo, "--revision", revision
    )
    assert done.status == 0, done.err
    assert done.messages[0]["content"] == [{"type": "text", "text": "Echo: hello"}]


@needs_server
async def test_served_over_sockets_it_answers_on_each(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    async with running(
        "serve", "--listen", "tcp://127.0.0.1:0", "--listen", f"unix:{path}", "--", *SERVER
    ) as server:
        for scheme in ("tcp", "unix"):
            bound = await server.wait_listening(scheme)
            done = await run_cli("call", bound, "tools/list")
            assert done.status == 0, done.err
            assert "echo" in tools(done.messages[0])
