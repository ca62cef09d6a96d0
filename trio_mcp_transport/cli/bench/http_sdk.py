"""The official Python SDK over HTTP: its `Client` against its own server.

Imported only where it is installed. The server runs as its documentation says, which is
uvicorn and asyncio; the client runs under Trio, as this package does.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer

from .cases import Task
from .clients import side_by_side
from .payloads import params_of_size
from .processes import started_server

__all__ = ["client", "serve"]


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times."""
    arguments = params_of_size(task.payload_bytes)["arguments"]
    assert isinstance(arguments, dict)
    async with started_server(task) as (address, _), AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(address)) for _ in range(task.connections)
        ]

        async def calls(sdk: Client, count: int) -> None:
            for _ in range(count):
                await sdk.call_tool("echo", arguments)

        async def stream(count: int) -> None:
            await clients[0].call_tool("stream", {"count": count}, progress_callback=_ignore)

        async def work(count: int) -> None:
            await side_by_side([partial(calls, sdk) for sdk in clients], count)

        yield stream if task.work == "sse-stream" else work


async def _ignore(progress: float, total: float | None, message: str | None) -> None:
    await trio.lowlevel.checkpoint()


async def serve(task: Task) -> None:
    """Serve until stdin ends."""
    # Its server knows asyncio only: in a thread, while Trio has nothing to do.
    await trio.to_thread.run_sync(_serve_under_asyncio, task)


def _serve_under_asyncio(task: Task) -> None:
    # Here alone: the client runs under Trio, where nothing imports asyncio.
    import asyncio

    import uvicorn

    # With its protocol named, for only then does asyncio turn Nagle's algorithm off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    print(f"http://127.0.0.1:{port}/mcp", flush=True)  # ruff: ignore[print] (told to the measurer)
    app = _server().streamable_http_app(json_response=task.work != "sse-stream")
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_level="error"))

    def leave() -> None:
        uvicorn_server.should_exit = uvicorn_server.force_exit = True

    async def run() -> None:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), leave)
        await uvicorn_server.serve(sockets=[listener])

    asyncio.run(run())


def _server() -> MCPServer[object]:
    server: MCPServer[object] = MCPServer("bench", log_level="ERROR")

    @server.tool()
    async def echo(text: str) -> str:  # ruff: ignore[unused-async] (a plain one gets a thread)
        return text

    @server.tool()
    async def stream(count: int, ctx: Context[object, object]) -> str:
        for number in range(count):
            await ctx.report_progress(number + 1)
        return ""

    return server
