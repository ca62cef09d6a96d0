"""Serves any MCP server at other endpoints: ``bridge.py SERVER ENDPOINT...``."""

import sys

import trio

from trio_mcp_transport import MessageChannel, bridge_channels, open_channel, serve_channels


async def bridge(client: MessageChannel) -> None:
    async with open_channel(sys.argv[1]) as server:
        await bridge_channels(client, server)


if __name__ == "__main__":
    trio.run(serve_channels, bridge, *sys.argv[2:])
