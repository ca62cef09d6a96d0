"""An ASGI application for tests, in processes of its own: ``uvicorn asgi_served:app``."""

from __future__ import annotations

import sys

import msgspec
import trio

from trio_mcp_transport import ChannelOptions, Context, Router
from trio_mcp_transport.interop.asgi import AsgiApp

router = Router("asgi", "1", capabilities={"tools": {}})
#: Who was cancelled, and who came to an end.
seen: list[str] = []
#: Set when somebody was.
somebody = trio.Event()
#: What lets all who wait go on, made anew each time.
release = trio.Event()


class Call(msgspec.Struct):
    name: str
    arguments: dict[str, object] = {}


@router.method("tools/list")
async def list_tools(ctx: Context) -> object:
    await trio.lowlevel.checkpoint()
    tools = ("echo", "steps", "wait", "release", "seen", "big")
    return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in tools]}


@router.method("tools/call", params=Call)
async def call_tool(ctx: Context, call: Call) -> object:
    global release, somebody
    text = ""
    match call.name:
        case "echo":
            await trio.lowlevel.checkpoint()
            text = str(call.arguments["text"])
        case "steps":
            for number in range(3):
                await ctx.progress(number + 1, 3)
            text = "done"
        case "wait":
            who = str(call.arguments["who"])
            try:
                await ctx.progress(1, 2)
                await release.wait()
                await ctx.progress(2, 2)
            except trio.Cancelled:
                seen.append(f"{who} cancelled")
                somebody.set()
                raise
            seen.append(f"{who} done")
            somebody.set()
        case "release":
            release.set()
            release = trio.Event()
            await trio.lowlevel.checkpoint()
        case "seen":
            await somebody.wait()
            text, seen[:], somebody = ", ".join(seen), [], trio.Event()
        case "big":
            text = "x" * 5_000_000
    return {"content": [{"type": "text", "text": text}]}


app = AsgiApp(
    router,
    drain=5,
    resumable=True,
    sse_path="/sse",
    message_path="/messages",
    options=ChannelOptions(max_message_bytes=8 << 20),
)


async def with_farewell(scope, receive, send):  # type: ignore[no-untyped-def]
    """The application, telling on stderr when its lifespan is over."""
    await app(scope, receive, send)
    if scope["type"] == "lifespan":
        sys.stderr.write("lifespan over\n")
