"""This package at work, through the functions that every program uses."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import msgspec
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
    StreamChannel,
    open_channel,
    serve_channels,
    serve_peers,
)
from ...limits import READ_CHUNK_BYTES
from ...transports.outbox import SupportsChunks
from .cases import BATCH_MESSAGES, ENCRYPTED, WEBSOCKETS, Task
from .certificates import client_options, server_options
from .clients import room_for, side_by_side
from .payloads import FIRST_ID, METHOD, params_of_size
from .processes import server_command, started_server, until_stdin_ends

__all__ = ["client", "serve"]


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times."""
    params = params_of_size(task.payload_bytes)
    async with _connected(task) as channels:
        channel = channels[0]
        if task.work == "peer-round-trip":
            async with Peer(channel) as peer:

                async def request(count: int) -> None:
                    for _ in range(count):
                        await peer.request(METHOD, params)

                yield request
            return
        works = {
            "round-trip": _round_trips,
            "many-clients": _round_trips,
            "one-way": _one_way,
            "one-way-batched": _one_way_batched,
            "stream-round-trip": _stream_round_trips,
        }
        do_work = works[task.work]

        async def work(count: int) -> None:
            await side_by_side([partial(do_work, each, params) for each in channels], count)

        yield work


async def _round_trips(channel: MessageChannel, params: object, count: int) -> None:
    for number in range(FIRST_ID, FIRST_ID + count):
        await channel.send(Request(number, METHOD, params))
        await channel.receive()


async def _stream_round_trips(channel: MessageChannel, params: object, count: int) -> None:
    """As many bytes as a request has, there and back, without a channel's work."""
    stream, read_bytes = _stream_of(channel)
    data = msgspec.json.encode(params)
    for _ in range(count):
        await stream.send_all(data)
        left = len(data)
        while left:
            left -= len(await stream.receive_some(read_bytes))


def _stream_of(channel: MessageChannel) -> tuple[trio.abc.Stream, int]:
    """What is under a channel, and how much a channel reads from it at a time."""
    assert isinstance(channel, StreamChannel)
    stream = channel.stream
    chunk = stream.best_chunk_bytes if isinstance(stream, SupportsChunks) else READ_CHUNK_BYTES
    return stream, chunk


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


async def _answer_bytes(size: int, channel: MessageChannel) -> None:
    """Send so many bytes for so many that come."""
    stream, read_bytes = _stream_of(channel)
    answer, missing = b"x" * size, size
    while data := await stream.receive_some(read_bytes):
        missing -= len(data)
        if not missing:
            await stream.send_all(answer)
            missing = size


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
async def _connected(task: Task) -> AsyncGenerator[list[MessageChannel], None]:
    if task.transport == "memory":
        async with trio.open_nursery() as nursery:
            (endpoint,) = await nursery.start(_serve_at, task, "memory:bench")
            async with open_channel(endpoint) as channel:
                yield [channel]
            nursery.cancel_scope.cancel()
    elif task.transport == "stdio":
        child = ProcessEndpoint(command=tuple(server_command(task)), environment="inherit")
        async with open_channel(child) as channel:
            yield [channel]
    else:
        async with started_server(task) as (address, _), AsyncExitStack() as stack:
            if task.transport in ENCRYPTED:
                address += f"?{client_options(task)}"
            yield [
                await stack.enter_async_context(open_channel(address))
                for _ in range(task.connections)
            ]


async def serve(task: Task) -> None:
    """Serve the channels of the task's transport."""
    if task.transport == "stdio":
        await _serve_at(task, "stdio:")
        return
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(_serve_at, task, _listening(task))
        if task.transport != "shm":  # where it says in which directory
            address = address.partition("?")[0]
        print(address, flush=True)  # ruff: ignore[print] (told to the measurer)
        await until_stdin_ends()
        nursery.cancel_scope.cancel()


def _listening(task: Task) -> str:
    """The endpoint at which a task's server listens."""
    most = room_for(task.connections)
    if task.transport == "unix":
        return f"unix:{task.address}?max_connections={most}"
    if task.transport == "shm":
        directory = os.path.dirname(task.address)
        return f"shm://bench?directory={directory}&max_connections={most}"
    path = "/mcp" if task.transport in WEBSOCKETS else ""
    options = [f"max_connections={most}"]
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
        handler: Callable[[MessageChannel], Awaitable[None]] = _answer
        if task.work == "one-way-batched":
            handler = _answer_many
        elif task.work == "stream-round-trip":
            size = len(msgspec.json.encode(params_of_size(task.payload_bytes)))
            handler = partial(_answer_bytes, size)
        await serve_channels(handler, endpoint, task_status=task_status)


async def _echo(ctx: Context) -> object:  # ruff: ignore[unused-async] (as handlers are)
    return ctx.request.params
