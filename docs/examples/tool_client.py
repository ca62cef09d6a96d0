"""Calls a tool and prints its progress and its result."""

import sys

import msgspec
import trio

from trio_mcp_transport import Progress, open_peer


class Text(msgspec.Struct):
    text: str


class Result(msgspec.Struct):
    content: list[Text]


def show(progress: Progress) -> None:
    print(f"{progress.progress:g} of {progress.total:g}")


async def main(endpoint: str) -> None:
    async with open_peer(endpoint) as peer:
        result = await peer.request(
            "tools/call",
            {"name": "add", "arguments": {"numbers": [1, 2, 39]}},
            result_type=Result,
            on_progress=show,
            timeout=10,
        )
        print(result.content[0].text)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
