"""A peer with a router and a client by hand: for the tests of handlers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import trio
from msgspec import Raw

from trio_mcp_transport.abc import ChannelEvent
from trio_mcp_transport.context import Context
from trio_mcp_transport.jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
)
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.router import Router
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.memory_channel import MemoryChannel


class Served:
    """A peer with a router, and the other side by hand."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.events: list[ChannelEvent] = []
        self.peer: Peer
        self.channel: MemoryChannel

    async def ask(self, method: str, params: object = None, request_id: RequestId = 1) -> Message:
        await self.send(method, params, request_id)
        return await self.channel.receive()

    async def send(self, method: str, params: object = None, request_id: RequestId = 1) -> None:
        raw = msgspec.UNSET if params is None else Raw(msgspec.json.encode(params))
        await self.channel.send(Request(request_id, method, raw))

    async def error(self, method: str, params: object = None) -> tuple[int, str]:
        answer = await self.ask(method, params)
        assert isinstance(answer, ErrorResponse)
        assert answer.id == 1
        return answer.error.code, answer.error.message

    async def cancel(self, request_id: object) -> None:
        await self.channel.send(Notification("notifications/cancelled", {"requestId": request_id}))
        await trio.testing.wait_all_tasks_blocked()

    @property
    def event_names(self) -> list[str]:
        return [event.name for event in self.events]


@asynccontextmanager
async def served(
    router: Router,
    *,
    max_handlers: int = 100,
    max_queued: int = 1000,
    max_held_bytes: int = 1_000_000,
    drain: float = 10,
    expose_errors: bool = False,
) -> AsyncGenerator[Served]:
    ours, theirs = memory_channel_pair()
    found = Served(router)
    found.channel = theirs
    found.peer = Peer(
        ours,
        router,
        max_handlers=max_handlers,
        max_queued=max_queued,
        max_held_bytes=max_held_bytes,
        drain=drain,
        expose_errors=expose_errors,
        on_event=found.events.append,
    )
    async with theirs, found.peer:
        yield found


class Gate:
    """A handler that waits to be let through, and says who came and who was cancelled."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.started: list[RequestId] = []
        self.cancelled: list[RequestId] = []

    async def __call__(self, ctx: Context) -> object:
        self.started.append(ctx.request.id)
        try:
            await self.open.wait()
        except trio.Cancelled:
            self.cancelled.append(ctx.request.id)
            raise
        return {"id": ctx.request.id}


def gated() -> tuple[Router, Gate]:
    router, gate = Router(), Gate()
    router.method("wait")(gate)
    router.method("initialize")(gate)

    @router.method("echo")
    async def echo(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return ctx.message.params

    return router, gate
