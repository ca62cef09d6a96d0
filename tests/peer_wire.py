"""A peer and the other side of its channel, by hand: for the tests of peers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from trio_mcp_transport.abc import (
    ChannelEvent,
)
from trio_mcp_transport.jsonrpc import (
    Message,
    Notification,
    Request,
    RequestId,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.pending import Progress
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.memory_channel import MemoryChannel


class Wire:
    """The other side, by hand."""

    def __init__(self, peer: Peer, channel: MemoryChannel, events: list[ChannelEvent]) -> None:
        self.peer = peer
        self.channel = channel
        self.events = events

    async def receive_request(self) -> Request:
        message = await self.channel.receive()
        assert isinstance(message, Request)
        return message

    async def cancelled_id(self) -> object:
        message = await self.channel.receive()
        assert isinstance(message, Notification)
        assert message.method == "notifications/cancelled"
        return message.params_as(dict[str, object])["requestId"]

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self.channel.send(message)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def wired(
    options: ChannelOptions = ChannelOptions(),  # ruff: ignore[function-call-in-default-argument] (frozen)
    *,
    request_timeout: float | None = None,
    tells: bool = True,
) -> AsyncGenerator[Wire]:
    ours, theirs = memory_channel_pair(options)
    events: list[ChannelEvent] = []
    on_event = events.append if tells else None  # else it logs
    peer = Peer(ours, on_event=on_event, request_timeout=request_timeout)
    async with theirs, peer:
        yield Wire(peer, theirs, events)


def progress_of(token: object, value: float) -> Notification:
    return Notification("notifications/progress", {"progressToken": token, "progress": value})


def token_of(request: Request) -> object:
    meta = request.params_as(dict[str, object])["_meta"]
    assert isinstance(meta, dict)
    return meta["progressToken"]


class Asked:
    """A request that is sent by a task of its own, and what became of it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.outcome: object = None

    async def run(self, call: Callable[[], Awaitable[object]]) -> None:
        with self.scope:
            try:
                self.outcome = await call()
            except Exception as error:
                self.outcome = error
        if self.scope.cancelled_caught:
            self.outcome = "cancelled"


def ask(
    nursery: trio.Nursery,
    peer: Peer,
    method: str = "m",
    *,
    timeout: float | None = None,
    max_timeout: float | None = None,
    request_id: RequestId | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    on_notification: Callable[[Notification], object] | None = None,
) -> Asked:
    asked = Asked()
    nursery.start_soon(
        asked.run,
        lambda: peer.request(
            method,
            timeout=timeout,
            max_timeout=max_timeout,
            id=request_id,
            on_progress=on_progress,
            on_notification=on_notification,
        ),
    )
    return asked
