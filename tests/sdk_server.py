"""A server made with the official SDK, and nothing of ours: run as a program over stdio."""

from __future__ import annotations

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("sdk-server", version="1.2.3", instructions="Be kind.")


@server.tool()
def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


@server.tool()
async def steps(count: int, ctx: Context[object, object]) -> str:
    """Report progress so many times."""
    for number in range(count):
        await ctx.report_progress(number + 1, count, f"step {number + 1}")
    return "done"


@server.tool()
def fail() -> str:
    """Raise an exception."""
    raise ValueError("no luck")


@server.resource("test://greeting")
def greeting() -> str:
    """A greeting."""
    return "Grüße\n☃"


if __name__ == "__main__":
    server.run("stdio")
