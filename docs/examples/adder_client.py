"""The official SDK's client, to any endpoint."""

import sys

import trio
from mcp import Client

from trio_mcp_transport.interop.mcp_sdk import sdk_transport


async def main(endpoint: str) -> None:
    async with Client(sdk_transport(endpoint)) as client:
        result = await client.call_tool("add", {"a": 40, "b": 2})
        print(result.structured_content)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
