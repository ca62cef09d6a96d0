"""A server whose tools do what the tests of sentences need, at a URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio
from serving import serving

from trio_mcp_transport import (
    ChannelEvent,
    Context,
    ErrorCode,
    Hub,
    InputRequest,
    Router,
    RpcError,
    serve_peers,
)
from trio_mcp_transport.security.admission import Authenticator

#: An argument that is repeated in a header, in each type that may be.
REGION_TOOL: dict[str, object] = {
    "name": "region",
    "inputSchema": {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "level": {"type": "integer", "x-mcp-header": "Level"},
            "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        },
    },
}
ELICIT = InputRequest("elicitation/create", {"message": "who?", "requestedSchema": {}})


class Arguments(msgspec.Struct):
    count: int = 0
    text: str = ""


class Call(msgspec.Struct):
    name: str
    arguments: Arguments = msgspec.field(default_factory=Arguments)


class Server:
    """What is served, and what the tests look at.

    Tools: ``echo`` answers at once, ``steps`` reports progress, ``wait`` does, too, waits until
    `release` is set and then speaks once more, ``ask`` asks the client, ``leave`` ends its
    connection and goes on when `release` is set, ``region`` has arguments in headers, ``fail``
    raises.
    """

    def __init__(self) -> None:
        self.url = ""
        self.events: list[ChannelEvent] = []
        self.hub = Hub()
        self.release = trio.Event()
        self.started = 0
        self.cancelled = 0
        self.finished = 0
        self.calls = trio.Event()
        self.cancellation = trio.Event()
        capabilities: dict[str, object] = {
            "tools": {"listChanged": True},
            "resources": {"subscribe": True, "listChanged": True},
            "logging": {},
        }
        self.router = Router(
            "server",
            "1",
            capabilities=capabilities,
            hub=self.hub,
            tool_schema=lambda tool: REGION_TOOL["inputSchema"] if tool == "region" else None,
        )
        self.router.method("tools/list")(self._list)
        self.router.method("tools/call", params=Call)(self._call)

    async def _list(self, ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"tools": [REGION_TOOL]}

    async def _call(self, ctx: Context, call: Call) -> object:
        self.started += 1
        self.calls.set()
        try:
            found = await self._tool(ctx, call)
        except trio.Cancelled:
            self.cancelled += 1
            self.cancellation.set()
            raise
        self.finished += 1
        return {"content": [{"type": "text", "text": found}]}

    async def _tool(self, ctx: Context, call: Call) -> str:
        match call.name:
            case "steps":
                for number in range(call.arguments.count):
                    await ctx.progress(number + 1)
            case "wait":
                for number in range(call.arguments.count):
                    await ctx.progress(number + 1)
                await self.release.wait()
                await ctx.progress(call.arguments.count + 1)
            case "leave":
                await ctx.progress(1)
                await ctx.close_stream(retry=2)
                await self.release.wait()
                await ctx.progress(2)
            case "ask":
                answers = await ctx.ask({"who": ELICIT})
                return answers["who"].__class__.__name__
            case "fail":
                raise RpcError(ErrorCode.METHOD_NOT_FOUND, "not the router's word")
            case _:
                await trio.lowlevel.checkpoint()
        return call.arguments.text


@asynccontextmanager
async def served(
    options: str = "", *, authenticate: Authenticator | None = None
) -> AsyncGenerator[Server, None]:
    """Serve it at ``/mcp`` of a port of its own; `options` is the query of the endpoint."""
    server = Server()
    endpoint = "http://127.0.0.1:0/mcp" + (f"?{options}" if options else "")
    serve = partial(
        serve_peers,
        server.router,
        endpoint,
        authenticate=authenticate,
        on_event=server.events.append,
    )
    async with serving(serve) as bound:
        server.url = bound.partition("?")[0]
        yield server
