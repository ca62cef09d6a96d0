"""The official SDK's client on its own HTTP transports, on asyncio: a program.

``python sdk_http_client.py JOB...``, each job ``URL http|sse sdk|builtin progress|silent
MODE...`` as one argument: talks to `sdk_server` or to the built-in server in each mode, on a
connection of its own, and says which revisions were agreed upon, a line for each job.
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


async def main(*jobs: str) -> None:
    for each in jobs:
        agreed = await talk_to(*each.split())
        sys.stdout.write(" ".join(agreed) + "\n")


async def talk_to(url: str, wire: str, served: str, progress: str, *modes: str) -> list[str]:
    agreed: list[str] = []
    talk = {"sdk": holds_a_conversation, "builtin": tries_the_builtin_server}[served]
    for mode in modes:
        server = url if wire == "http" else cast("Transport", sse_client(url))
        async with Client(server, mode=mode) as client:
            await talk(client, progress=progress == "progress")
            agreed.append(str(client.protocol_version))
    return agreed


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
