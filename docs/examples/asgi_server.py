"""The server of tool_server.py as an ASGI application."""

from tool_server import router

from trio_mcp_transport.interop.asgi import AsgiApp

app = AsgiApp(router)
