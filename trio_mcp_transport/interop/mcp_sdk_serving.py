"""How a server made with the official SDK serves one channel, whatever kind that is.

Used by `mcp_sdk`. A connection (a socket, stdio, HTTP+SSE) and a legacy session over HTTP
are one conversation, whose first request decides the era, as over the SDK's own stdio. An
exchange over HTTP that belongs to no session is a conversation of one request: a modern one,
or one of a stateless legacy server, which never sees an `initialize`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from ..abc import EventHandler, MessageChannel
from ..errors import FeatureUnavailable
from ..reporting import choose_failure
from ..sansio.eras import MODERN_REVISIONS
from ..sansio.mcp_http.mirrored import HeaderSchema, InvalidHeaderSchema, read_header_schema
from .mcp_sdk_streams import SdkReadStream, SdkWriteStream, Wire

try:
    from mcp.server import MCPServer, Server
    from mcp.server.connection import Connection
    from mcp.server.runner import serve_connection, serve_dual_era_loop
    from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
except ImportError as error:
    raise FeatureUnavailable(
        "the official MCP SDK, 2.3 or later, is not installed:"
        ' pip install "trio-mcp-transport[mcp]"'
    ) from error

__all__ = ["SdkConnections", "header_schema", "low_level"]

S = TypeVar("S")
#: The revision of a request that names none: "the server SHOULD assume protocol version
#: 2025-03-26".
_ASSUMED_REVISION = "2025-03-26"


def low_level(server: MCPServer[S] | Server[S]) -> Server[S]:
    """The SDK's own transports reach it in this way; it has no public name yet."""
    return server._lowlevel_server if isinstance(server, MCPServer) else server


def header_schema(server: Server[S]) -> Callable[[str], HeaderSchema | None]:
    """What ``Mcp-Param-*`` headers its tools have, where the server can tell by name."""

    def find(name: str) -> HeaderSchema | None:
        lookup = server.get_tool_input_schema
        schema = lookup(name) if lookup is not None else None
        if schema is None:
            return None
        try:
            return read_header_schema(dict(schema))
        except InvalidHeaderSchema:
            return None  # a client leaves such a tool out, and the SDK serves it

    return find


class SdkConnections(Generic[S]):
    """How each channel of a server is served.

    Args:
        server: The server.
        state: Its lifespan's.
        drain: Seconds that handlers get after the peer's end.
        raise_exceptions: Whether handlers' exceptions come out of `serve`.
        on_event: Told of messages that the SDK cannot take.
        stop: Once it is set, a channel is closed when nothing is in work on it.
    """

    def __init__(
        self,
        server: Server[S],
        state: S,
        *,
        drain: float,
        raise_exceptions: bool,
        on_event: EventHandler | None,
        stop: trio.Event | None = None,
    ) -> None:
        self._server = server
        self._state = state
        self._drain = drain
        self._raise_exceptions = raise_exceptions
        self._on_event = on_event
        self._stop = stop

    async def serve(self, channel: MessageChannel) -> None:
        """Serve one channel until its end, and close it."""
        wire = Wire(channel, self._drain, self._on_event, self._has_method)
        try:
            async with trio.open_nursery() as nursery:
                if self._stop is not None:
                    nursery.start_soon(self._watch, self._stop, wire)
                await self._converse(channel, SdkReadStream(wire), SdkWriteStream(wire))
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: ASYNC103 (raised below)
            channel.abort()
            failure = choose_failure(error, self._on_event)
        else:
            await channel.aclose()
            if channel.failure is not None:
                raise channel.failure.again()
            return
        raise failure

    async def _converse(
        self, channel: MessageChannel, reading: SdkReadStream, writing: SdkWriteStream
    ) -> None:
        context = channel.context
        if context.exchange and context.protocol_version not in MODERN_REVISIONS:
            dispatcher = JSONRPCDispatcher(
                reading, writing, raise_handler_exceptions=self._raise_exceptions
            )
            revision = context.protocol_version or _ASSUMED_REVISION
            await serve_connection(
                self._server,
                dispatcher,
                connection=Connection.from_envelope(revision, None, None),
                lifespan_state=self._state,
            )
        else:
            await serve_dual_era_loop(
                self._server,
                reading,
                writing,
                lifespan_state=self._state,
                session_id=channel.session_id,
                init_options=self._server.create_initialization_options(),
                raise_exceptions=self._raise_exceptions,
            )

    def _has_method(self, method: str) -> bool:
        return self._server.get_request_handler(method) is not None

    async def _watch(self, stop: trio.Event, wire: Wire) -> None:
        await stop.wait()
        wire.finish()
