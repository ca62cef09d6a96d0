"""The official Python SDK on the same work: its raw transport streams over stdio.

Imported only where it is installed. It runs under Trio, as this package does.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, JSONRPCResponse

from .cases import Task
from .payloads import FIRST_ID, METHOD, params_of_size
from .processes import server_command

__all__ = ["client", "serve"]


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times.

    What others do one way, the SDK does as pipelined requests: all are sent without
    waiting for the answers, which are counted.
    """
    command, *args = server_command(task)
    parameters = StdioServerParameters(command=command, args=args, env=dict(os.environ))
    params = params_of_size(task.payload_bytes)
    async with stdio_client(parameters) as (answers, requests):

        async def send(number: int) -> None:
            request = JSONRPCRequest(jsonrpc="2.0", id=number, method=METHOD, params=params)
            await requests.send(SessionMessage(request))

        async def round_trips(count: int) -> None:
            for number in range(FIRST_ID, FIRST_ID + count):
                await send(number)
                await answers.receive()

        async def send_all(count: int) -> None:
            for number in range(FIRST_ID, FIRST_ID + count):
                await send(number)

        async def pipelined(count: int) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, count)
                for _ in range(count):
                    await answers.receive()

        yield round_trips if task.work.endswith("round-trip") else pipelined


async def serve(task: Task) -> None:
    """Answer the requests of this process's stdin."""
    async with stdio_server() as (requests, answers):
        async for received in requests:
            if isinstance(received, Exception):
                raise received
            request = received.message
            assert isinstance(request, JSONRPCRequest)
            answer = JSONRPCResponse(jsonrpc="2.0", id=request.id, result=request.params or {})
            await answers.send(SessionMessage(answer))
