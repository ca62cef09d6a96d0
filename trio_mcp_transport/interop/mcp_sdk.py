"""The official Python SDK on our channels, under Trio: its typed API over every transport.

Called by programs that use the SDK's `Client`, `ClientSession`, `Server` or `MCPServer`
(``pip install "trio-mcp-transport[mcp]"``). It opens and closes channels around the SDK and
keeps exception groups away from the caller; it speaks no MCP itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar, Unpack

import trio

from ..abc import EventHandler, MessageChannel
from ..connect import open_channel
from ..endpoint_parser import EndpointSpec
from ..errors import FeatureUnavailable
from ..limits import DEFAULT_DRAIN_SECONDS
from ..registry import ChannelOverrides, StderrHandler
from ..reporting import choose_failure
from ..serve import serve_channels
from .mcp_sdk_streams import SdkReadStream, SdkStreams, SdkWriteStream, Wire

try:
    from mcp.server import MCPServer, Server
    from mcp.server.runner import serve_dual_era_loop
except ImportError as error:
    raise FeatureUnavailable(
        "the official MCP SDK, 2.3 or later, is not installed:"
        ' pip install "trio-mcp-transport[mcp]"'
    ) from error

__all__ = [
    "SdkReadStream",
    "SdkStreams",
    "SdkWriteStream",
    "run_sdk_server",
    "sdk_streams",
    "sdk_transport",
    "serve_sdk",
]

S = TypeVar("S")


# -- clients ----------------------------------------------------------------------------


@asynccontextmanager
async def sdk_streams(
    channel: MessageChannel, *, drain: float = 0.0, on_event: EventHandler | None = None
) -> AsyncGenerator[SdkStreams, None]:
    """The two streams that the SDK wants of a transport, over a channel of ours.

    For `ClientSession`, whose arguments they are, and as it is for `Client`::

        async with open_channel("unix:/run/mcp.sock") as channel:
            async with Client(sdk_streams(channel)) as client: ...

    Closes the channel at the end; aborts it if the block raises.

    Args:
        channel: Any channel. Nobody else may receive from it.
        drain: Seconds for which the end is held back while the peer's requests are not
            answered. For the side that serves; a client has nothing to drain.
        on_event: Told of messages that the SDK cannot take. They are logged without it.

    Raises:
        FeatureUnavailable: Not called under Trio.
    """
    _require_trio()
    wire = Wire(channel, drain, on_event)
    try:
        yield SdkReadStream(wire), SdkWriteStream(wire)
    except BaseException:
        channel.abort()
        raise
    else:
        await channel.aclose()


@asynccontextmanager
async def sdk_transport(
    endpoint: EndpointSpec,
    *,
    on_event: EventHandler | None = None,
    on_stderr: StderrHandler | None = None,
    **options: Unpack[ChannelOverrides],
) -> AsyncGenerator[SdkStreams, None]:
    """A transport for the SDK's `Client`, to any endpoint of ours.

    ``async with Client(sdk_transport("tcp://127.0.0.1:9000")) as client: ...``, under
    ``trio.run`` or ``anyio.run(..., backend="trio")``. Connects when it is entered.

    Args:
        endpoint: A string, mapping or object, as `parse_endpoint` reads it.
        on_event: Gets the faults that no caller would see; they are logged without it.
        on_stderr: Gets each line that a child process writes to stderr.
        options: Fields of `ChannelOptions`, which beat those of the endpoint.

    Raises:
        FeatureUnavailable: Not entered under Trio.
        ConfigurationError: As for `open_channel`.
        ConnectFailed: As for `open_channel`.
    """
    _require_trio()
    async with (
        open_channel(endpoint, on_event=on_event, on_stderr=on_stderr, **options) as channel,
        sdk_streams(channel, on_event=on_event) as streams,
    ):
        yield streams


# -- servers ----------------------------------------------------------------------------


async def run_sdk_server(
    server: MCPServer[S] | Server[S],
    channel: MessageChannel,
    *,
    drain: float = DEFAULT_DRAIN_SECONDS,
    raise_exceptions: bool = False,
    on_event: EventHandler | None = None,
) -> None:
    """Let a server made with the SDK serve one channel, until the peer ends.

    The peer's first request decides the era, as over the SDK's own stdio. Handlers find
    the channel's `ChannelContext` as the SDK's ``ctx.request``. Closes the channel.
    Cancelling it cancels the handlers and aborts the channel.

    Args:
        server: An `MCPServer` or low-level `Server`. Its lifespan is entered here.
        channel: Any channel.
        drain: Seconds that running handlers get to finish after the peer's end.
        raise_exceptions: Whether a handler's exception ends the conversation and comes
            out of here; for tests.
        on_event: Told of messages that the SDK cannot take. They are logged without it.

    Raises:
        ChannelBroken: The channel failed.
        FeatureUnavailable: Not called under Trio.
    """
    _require_trio()
    low_level = _low_level(server)
    async with low_level.lifespan(low_level) as state:
        connection = _Connection(low_level, state, drain, raise_exceptions, on_event, None)
        await connection.serve(channel)


async def serve_sdk(
    server: MCPServer[S] | Server[S],
    *endpoints: EndpointSpec,
    raise_exceptions: bool = False,
    on_event: EventHandler | None = None,
    stop: trio.Event | None = None,
    drain: float = DEFAULT_DRAIN_SECONDS,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ChannelOverrides],
) -> None:
    """Listen at endpoints and let a server made with the SDK serve whoever connects.

    As `serve_channels`, which see for what is not here. The server's lifespan is entered
    once, around all connections, as the SDK does over HTTP. Once `stop` is set, a
    connection is closed as soon as nothing that it asked for is in work.

    Args:
        server: An `MCPServer` or low-level `Server`.
        endpoints: Where to listen, at least one.
        raise_exceptions: As for `run_sdk_server`; reported as ``handler.failed``.
        on_event: Gets the faults that no caller would see; they are logged without it.
        stop: As for `serve_channels`.
        drain: Seconds that handlers get to finish, after `stop` or a peer's end.
        task_status: As for `serve_channels`.
        options: Fields of `ChannelOptions`, which beat those of every endpoint.

    Raises:
        FeatureUnavailable: Not called under Trio.
        ConfigurationError: As for `serve_channels`.
        ConnectFailed: As for `serve_channels`.
        OSError: As for `serve_channels`.
    """
    _require_trio()
    low_level = _low_level(server)
    async with low_level.lifespan(low_level) as state:
        connection = _Connection(low_level, state, drain, raise_exceptions, on_event, stop)
        await serve_channels(
            connection.serve,
            *endpoints,
            on_event=on_event,
            stop=stop,
            drain=drain,
            task_status=task_status,
            **options,
        )


def _low_level(server: MCPServer[S] | Server[S]) -> Server[S]:
    # The SDK's own transports reach it in this way; it has no public name yet.
    return server._lowlevel_server if isinstance(server, MCPServer) else server


class _Connection(Generic[S]):
    """How each connection of a server is served."""

    def __init__(
        self,
        server: Server[S],
        state: S,
        drain: float,
        raise_exceptions: bool,
        on_event: EventHandler | None,
        stop: trio.Event | None,
    ) -> None:
        self._server = server
        self._state = state
        self._drain = drain
        self._raise_exceptions = raise_exceptions
        self._on_event = on_event
        self._stop = stop

    async def serve(self, channel: MessageChannel) -> None:
        """Serve one channel until its end, and close it."""
        wire = Wire(channel, self._drain, self._on_event)
        try:
            async with trio.open_nursery() as nursery:
                if self._stop is not None:
                    nursery.start_soon(self._watch, self._stop, wire)
                await serve_dual_era_loop(
                    self._server,
                    SdkReadStream(wire),
                    SdkWriteStream(wire),
                    lifespan_state=self._state,
                    session_id=channel.session_id,
                    init_options=self._server.create_initialization_options(),
                    raise_exceptions=self._raise_exceptions,
                )
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

    async def _watch(self, stop: trio.Event, wire: Wire) -> None:
        await stop.wait()
        wire.finish()


def _require_trio() -> None:
    if not trio.lowlevel.in_trio_run():
        raise FeatureUnavailable(
            "channels need Trio: run the program with trio.run(main)"
            ' or anyio.run(main, backend="trio")'
        )
