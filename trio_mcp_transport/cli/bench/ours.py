"""This package at work, through the functions that every program uses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from ... import (
    Context,
    Message,
    MessageChannel,
    Notification,
    Peer,
    ProcessEndpoint,
    Request,
    Response,
    Router,
    open_channel,
    serve_channels,
    serve_peers,
)
from .certificates import client_options, server_options
from .payloads import FIRST_ID, METHOD, params_of_size
from .plan import BATCH_MESSAGES, ENCRYPTED, IDLE_CONNECTIONS, WEBSOCKETS, Task
from .processes import server_command, started_server, until_stdin_ends

__all__ = ["client", "serve"]


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times."""
    params = params_of_size(task.payload_bytes)
    async with _connected(task) as channel:
        if task.work == "peer-round-trip":
            async with Peer(channel) as peer:

                async def request(count: int) -> None:
                    for _ in range(count):
                        await peer.request(METHOD, params)

                yield request
            return
        works = {
            "round-trip": _round_trips,
            "one-way": _one_way,
            "one-way-batched": _one_way_batched,
        }
        do_work = works[task.work]

        async def work(count: int) -> None:
            await do_work(channel, params, count)

        yield work


async def _round_trips(channel: MessageChannel, params: object, count: int) -> None:
    for number in range(FIRST_ID, FIRST_ID + count):
        await channel.send(Request(number, METHOD, params))
        await channel.receive()


async def _one_way(channel: MessageChannel, params: object, count: int) -> None:
    for _ in range(count):
        await channel.send(Notification(METHOD, params))
    await channel.send(Request(FIRST_ID, METHOD, params))
    await channel.receive()


async def _one_way_batched(channel: MessageChannel, params: object, count: int) -> None:
    for start in range(0, count, BATCH_MESSAGES):
        batch: list[Message] = [
            Notification(METHOD, params) for _ in range(min(BATCH_MESSAGES, count - start))
        ]
        await channel.send_many(batch)
    await channel.send(Request(FIRST_ID, METHOD, params))
    await channel.receive()


async def _answer(channel: MessageChannel) -> None:
    """Answer requests, take notifications, one at a time."""
    async for message in channel:
        if isinstance(message, Request):
            await channel.send(Response(message.id, message.params))


async def _answer_many(channel: MessageChannel) -> None:
    """The same, all that is here at a time."""
    while True:
        try:
            messages = await channel.receive_many()
        except trio.EndOfChannel:
            return
        for message in messages:
            if isinstance(message, Request):
                await channel.send(Response(message.id, message.params))


@asynccontextmanager
async def _connected(task: Task) -> AsyncGenerator[MessageChannel, None]:
    if task.transport == "memory":
        async with trio.open_nursery() as nursery:
            (endpoint,) = await nursery.start(_serve_at, task, "memory:bench")
            async with open_channel(endpoint) as channel:
                yield channel
            nursery.cancel_scope.cancel()
    elif task.transport == "stdio":
        child = ProcessEndpoint(command=tuple(server_command(task)), environment="inherit")
        async with open_channel(child) as channel:
            yield channel
    else:
        async with started_server(task) as (address, _):
            if task.transport in ENCRYPTED:
                address += f"?{client_options(task)}"
            async with open_channel(address) as channel:
                yield channel


async def serve(task: Task) -> None:
    """Serve the channels of the task's transport."""
    if task.transport == "stdio":
        await _serve_at(task, "stdio:")
        return
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(_serve_at, task, _listening(task))
        print(address.partition("?")[0], flush=True)  # ruff: ignore[print] (told to the measurer)
        await until_stdin_ends()
        nursery.cancel_scope.cancel()


def _listening(task: Task) -> str:
    """The endpoint at which a task's server listens."""
    if task.transport == "unix":
        return f"unix:{task.address}"
    path = "/mcp" if task.transport in WEBSOCKETS else ""
    options = [f"max_connections={2 * IDLE_CONNECTIONS}"]
    if task.transport in ENCRYPTED:
        options.append(server_options(task))
    return f"{task.transport}://127.0.0.1:0{path}?{'&'.join(options)}"


async def _serve_at(
    task: Task,
    endpoint: str,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    if task.work == "peer-round-trip":
        router = Router()
        router.method(METHOD)(_echo)
        await serve_peers(router, endpoint, task_status=task_status)
    else:
        handler = _answer_many if task.work == "one-way-batched" else _answer
        await serve_channels(handler, endpoint, task_status=task_status)


async def _echo(ctx: Context) -> object:  # ruff: ignore[unused-async] (as handlers are)
    return ctx.request.params
