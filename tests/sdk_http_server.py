"""The server of `sdk_server` on the SDK's own HTTP transports, each at a path of its own.

At ``/more`` is a server whose tools ask their client, and leave it for a while.

Run it under an ASGI server: ``uvicorn sdk_http_server:app``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import JSONRPCMessage
from pydantic import BaseModel
from sdk_server import server
from starlette.applications import Starlette


class Events(EventStore):
    """Everything that was ever said, in one list."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events) - 1)

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        stream, _ = self._events[int(last_event_id)]
        for number, (name, message) in enumerate(self._events):
            if number > int(last_event_id) and name == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Name(BaseModel):  # type: ignore[explicit-any]  # pydantic's own
    name: str


more = MCPServer("more")


@more.tool()
async def ask(ctx: Context[object, object]) -> str:
    """Ask who the user is."""
    found = await ctx.elicit("who?", Name)
    return found.data.name if found.action == "accept" else found.action


@more.tool()
async def leave(ctx: Context[object, object]) -> str:
    """Close the stream, so that the client has to come back for the rest."""
    await ctx.report_progress(1)
    await ctx.close_sse_stream()
    await ctx.report_progress(2)
    return "back"


@more.tool()
async def change(ctx: Context[object, object]) -> None:
    """Tell that there are other tools."""
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()


APPS = [
    more.streamable_http_app(streamable_http_path="/more", event_store=Events(), retry_interval=10),
    server.streamable_http_app(streamable_http_path="/sse-responses"),
    server.streamable_http_app(streamable_http_path="/json-responses", json_response=True),
    server.streamable_http_app(streamable_http_path="/stateless", stateless_http=True),
    server.streamable_http_app(
        streamable_http_path="/resumable", event_store=Events(), retry_interval=10
    ),
    server.sse_app(sse_path="/old", message_path="/old-messages/"),
]


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        for part in APPS:
            await stack.enter_async_context(part.router.lifespan_context(part))
        yield


app = Starlette(routes=[route for part in APPS for route in part.routes], lifespan=lifespan)
