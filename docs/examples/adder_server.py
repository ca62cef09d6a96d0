"""A server made with the official SDK, at any endpoints."""

import sys

import trio
from mcp.server.mcpserver import MCPServer

from trio_mcp_transport.interop.mcp_sdk import serve_sdk

server = MCPServer("adder")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


if __name__ == "__main__":
    trio.run(serve_sdk, server, *(sys.argv[1:] or ["stdio:"]))
