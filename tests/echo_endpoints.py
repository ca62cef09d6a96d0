"""Something to connect to that answers pings, over each transport. Used by tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from trio_mcp_transport.abc import MessageChannel
from trio_mcp_transport.jsonrpc import Request, Response
from trio_mcp_transport.serve import serve_channels

TRANSPORTS = ["memory", "tcp", "unix", "ws", "process"]

ECHO_CHILD = """
import sys
for line in sys.stdin:
    sys.stdout.write(line.replace('"method":"ping"', '"result":{}'))
    sys.stdout.flush()
"""


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        assert isinstance(message, Request)
        await channel.send(Response(id=message.id, result={}))


@asynccontextmanager
async def echo_endpoint(
    transport: str, tmp_path: Path
) -> AsyncGenerator[str | Mapping[str, object]]:
    """Something to connect to that answers pings."""
    if transport == "process":
        yield {"command": sys.executable, "args": ["-c", ECHO_CHILD], "stderr": "drop"}
        return
    listen_at = {
        "memory": "memory:echo",
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix:{tmp_path}/echo",
        "ws": "ws://127.0.0.1:0/mcp",
    }[transport]
    async with trio.open_nursery() as nursery:
        (bound,) = await nursery.start(serve_channels, echo, listen_at)
        try:
            yield bound
        finally:
            nursery.cancel_scope.cancel()
