"""Answers every request with its own params, at any endpoints."""

import sys

import trio

from trio_mcp_transport import MessageChannel, Request, Response, serve_channels


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        if isinstance(message, Request):
            await channel.send(Response(message.id, message.params))


if __name__ == "__main__":
    trio.run(serve_channels, echo, *(sys.argv[1:] or ["stdio:"]))
