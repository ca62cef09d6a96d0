"""Sends one request and prints the answer."""

import sys

import trio

from trio_mcp_transport import Request, Response, open_channel


async def main(endpoint: str) -> None:
    async with open_channel(endpoint) as channel:
        await channel.send(Request(id=1, method="echo", params={"text": "hello"}))
        answer = await channel.receive()
        assert isinstance(answer, Response)
        print(answer.result_as(dict[str, str]))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
