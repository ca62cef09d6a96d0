"""A web application with an MCP endpoint among its pages."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tool_server import router

from trio_mcp_transport.interop.asgi import AsgiApp

mcp = AsgiApp(router)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    async with mcp.running():
        yield


async def front_page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("The tools are at /api/mcp.\n")


app = Starlette(routes=[Route("/", front_page), Mount("/api", mcp)], lifespan=lifespan)
