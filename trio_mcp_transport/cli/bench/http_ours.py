"""This package at work over HTTP, through the functions that every program uses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import msgspec
import trio

from ... import (
    Context,
    Hub,
    MessageChannel,
    Notification,
    Peer,
    Request,
    Response,
    Router,
    open_channel,
    open_peer,
    serve_channels,
    serve_peers,
)
from .cases import BATCH_MESSAGES, ENCRYPTED, Task
from .certificates import client_options, server_options
from .clients import room_for, side_by_side
from .payloads import FIRST_ID, METHOD, http_params_of_size, params_of_size
from .processes import started_server, until_stdin_ends

__all__ = ["client", "serve"]

_PATH, _SSE_PATH = "/mcp", "/sse"


class _Arguments(msgspec.Struct):
    text: str = ""
    count: int = 0


class _Call(msgspec.Struct):
    name: str
    arguments: _Arguments


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times."""
    async with started_server(task) as (address, _), AsyncExitStack() as stack:
        if task.transport in ENCRYPTED:
            address += f"?{client_options(task)}"
        if task.transport == "sse+http":
            address = f"sse+{address.removesuffix(_PATH)}{_SSE_PATH}"
        if task.work == "peer-round-trip":
            peer = await stack.enter_async_context(open_peer(address))
            params = params_of_size(task.payload_bytes)

            async def request(count: int) -> None:
                await _requests(peer, params, count)

            yield request
            return
        channels = [
            await stack.enter_async_context(open_channel(address)) for _ in range(task.connections)
        ]
        if task.work == "sse-stream":

            async def stream(count: int) -> None:
                await _stream(channels[0], count)

            yield stream
            return
        make_params = params_of_size if task.transport == "sse+http" else http_params_of_size
        params = make_params(task.payload_bytes)

        async def work(count: int) -> None:
            works = [partial(_round_trips, each, params) for each in channels]
            await side_by_side(works, count)

        yield work


async def _requests(peer: Peer, params: object, count: int) -> None:
    for _ in range(count):
        await peer.request(METHOD, params)


async def _round_trips(channel: MessageChannel, params: object, count: int) -> None:
    for number in range(FIRST_ID, FIRST_ID + count):
        await channel.send(Request(number, METHOD, params))
        await channel.receive()


async def _stream(channel: MessageChannel, count: int) -> None:
    """One request whose answer is a stream of so many notifications."""
    await channel.send(Request(FIRST_ID, METHOD, http_params_of_size(0, count=count)))
    seen = 0
    while True:
        messages = await channel.receive_many()
        seen += len(messages)
        if isinstance(messages[-1], Response):
            break
    assert seen == count + 1


async def serve(task: Task) -> None:
    """Serve what the task needs until stdin ends."""
    async with trio.open_nursery() as nursery:
        most = room_for(task.connections)
        room = f"max_connections={most}&max_exchanges={most}"
        if task.transport in ENCRYPTED:
            room += f"&{server_options(task)}"
        if task.transport == "sse+http":
            room += f"&max_sessions={most}&sse_path={_SSE_PATH}&message_path=/messages"
        scheme = task.transport.removeprefix("sse+")
        endpoint = f"{scheme}://127.0.0.1:0{_PATH}?{room}"
        (address,) = await nursery.start(_serve_at, task, endpoint)
        print(address.partition("?")[0], flush=True)  # ruff: ignore[print] (told to the measurer)
        await until_stdin_ends()
        nursery.cancel_scope.cancel()


async def _serve_at(
    task: Task,
    endpoint: str,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    if task.work in {"peer-round-trip", "memory-idle"}:
        router = Router(
            name="bench", version="1", capabilities={"tools": {"listChanged": True}}, hub=Hub()
        )
        router.method(METHOD)(_echo)
        await serve_peers(router, endpoint, task_status=task_status)
    else:
        handler = _answer_with_events if task.work == "sse-stream" else _answer
        await serve_channels(handler, endpoint, task_status=task_status)


async def _echo(ctx: Context) -> object:  # ruff: ignore[unused-async] (as handlers are)
    call = ctx.params_as(_Call)
    return {"content": [{"type": "text", "text": call.arguments.text}]}


async def _answer(channel: MessageChannel) -> None:
    """Answer the request of an exchange with what it says."""
    async for message in channel:
        if isinstance(message, Request):
            await channel.send(Response(message.id, message.params))


async def _answer_with_events(channel: MessageChannel) -> None:
    """Answer the request of an exchange with as many notifications as it wants."""
    request = await channel.receive()
    assert isinstance(request, Request)
    count = request.params_as(_Call).arguments.count
    params = http_params_of_size(150)
    for start in range(0, count, BATCH_MESSAGES):
        batch = [Notification(METHOD, params) for _ in range(min(BATCH_MESSAGES, count - start))]
        await channel.send_many(batch)
    await channel.send(Response(request.id, {}))
