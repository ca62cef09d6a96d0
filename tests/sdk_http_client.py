"""The official SDK's client on its own HTTP transports, on asyncio: a program.

``python sdk_http_client.py URL http|sse sdk|builtin progress|silent MODE...`` talks to
`sdk_server` or to the built-in server in each mode, on a connection of its own, and says
which revisions were agreed upon.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, cast

from mcp import Client
from mcp.client.sse import sse_client
from sdk_conversations import holds_a_conversation, tries_the_builtin_server

if TYPE_CHECKING:
    from mcp.client._transport import Transport


async def main(url: str, wire: str, served: str, progress: str, *modes: str) -> None:
    talk = {"sdk": holds_a_conversation, "builtin": tries_the_builtin_server}[served]
    for mode in modes:
        server = url if wire == "http" else cast("Transport", sse_client(url))
        async with Client(server, mode=mode) as client:
            await talk(client, progress=progress == "progress")
            sys.stdout.write(f"{client.protocol_version}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
