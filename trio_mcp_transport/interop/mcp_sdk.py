"""The official Python SDK on our channels, under Trio: its typed API over every transport.

Called by programs that use the SDK's `Client`, `ClientSession`, `Server` or `MCPServer`
(``pip install "trio-mcp-transport[mcp]"``). It opens and closes channels around the SDK and
keeps exception groups away from the caller; it speaks no MCP itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TypeVar, Unpack

import trio

from ..abc import EventHandler, MessageChannel
from ..connect import HttpClient, open_channel
from ..endpoint_parser import EndpointSpec
from ..errors import FeatureUnavailable
from ..limits import DEFAULT_DRAIN_SECONDS
from ..registry import ChannelOverrides, StderrHandler
from ..security.admission import Authenticator
from ..security.tls_contexts import TlsClient, TlsServer
from ..serve import serve_channels
from ..stores.events import EventStore
from .mcp_sdk_serving import SdkConnections, header_schema, low_level
from .mcp_sdk_streams import SdkReadStream, SdkStreams, SdkWriteStream, Wire

try:
    from mcp.server import MCPServer, Server
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


def sdk_transport(
    endpoint: EndpointSpec,
    *,
    on_event: EventHandler | None = None,
    on_stderr: StderrHandler | None = None,
    client: HttpClient | None = None,
    tls: TlsClient | None = None,
    **options: Unpack[ChannelOverrides],
) -> AbstractAsyncContextManager[SdkStreams]:
    """A transport for the SDK's `Client`, to any endpoint of ours.

    ``async with Client(sdk_transport("tcp://127.0.0.1:9000")) as client: ...``, under
    ``trio.run`` or ``anyio.run(..., backend="trio")``. Connects when it is entered.

    Args:
        endpoint: A string, mapping or object, as `parse_endpoint` reads it.
        on_event: Gets the faults that no caller would see; they are logged without it.
        on_stderr: Gets each line that a child process writes to stderr.
        client: As for `open_channel`.
        tls: As for `open_channel`.
        options: Fields of `ChannelOptions`, which beat those of the endpoint.

    Raises:
        FeatureUnavailable: Not entered under Trio.
        ConfigurationError: As for `open_channel`.
        ConnectFailed: As for `open_channel`, on entering.
    """
    return _SdkTransport(
        partial(
            open_channel,
            endpoint,
            on_event=on_event,
            on_stderr=on_stderr,
            client=client,
            tls=tls,
            **options,
        ),
        on_event,
    )


class _SdkTransport(AbstractAsyncContextManager[SdkStreams]):
    """Owns a channel and the two streams on it.

    A class, as a generator that yields inside of nurseries loses them when it is not run
    to its end.
    """

    def __init__(
        self,
        open_: Callable[[], AbstractAsyncContextManager[MessageChannel]],
        on_event: EventHandler | None,
    ) -> None:
        self._open = open_
        self._on_event = on_event

    async def __aenter__(self) -> SdkStreams:
        _require_trio()
        self._manager = self._open()
        wire = Wire(await self._manager.__aenter__(), 0, self._on_event)
        return SdkReadStream(wire), SdkWriteStream(wire)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (as that does)


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
    inner = low_level(server)
    async with inner.lifespan(inner) as state:
        connections = SdkConnections(
            inner, state, drain=drain, raise_exceptions=raise_exceptions, on_event=on_event
        )
        await connections.serve(channel)


async def serve_sdk(
    server: MCPServer[S] | Server[S],
    *endpoints: EndpointSpec,
    raise_exceptions: bool = False,
    on_event: EventHandler | None = None,
    stop: trio.Event | None = None,
    drain: float = DEFAULT_DRAIN_SECONDS,
    authenticate: Authenticator | None = None,
    event_store: EventStore | None = None,
    tls: TlsServer | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ChannelOverrides],
) -> None:
    """Listen at endpoints and let a server made with the SDK serve whoever connects.

    As `serve_channels`, which see for what is not here. The server's lifespan is entered
    once, around all connections, as the SDK does over HTTP. Once `stop` is set, a
    connection is closed as soon as nothing that it asked for is in work.

    Over HTTP it serves both eras. A legacy session is one conversation: what a handler says
    goes out with the answer to its request, anything else on the session's own stream.
    Handlers find the `ChannelContext` of their own request as the SDK's ``ctx.request``; its
    `headers` are what the SDK's ``ctx.headers`` is then.

    Args:
        server: An `MCPServer` or low-level `Server`.
        endpoints: Where to listen, at least one.
        raise_exceptions: As for `run_sdk_server`; reported as ``handler.failed``.
        on_event: Gets the faults that no caller would see; they are logged without it.
        stop: As for `serve_channels`.
        drain: Seconds that handlers get to finish, after `stop` or a peer's end.
        authenticate: As for `serve_channels`.
        event_store: As for `serve_channels`.
        tls: As for `serve_channels`.
        task_status: As for `serve_channels`.
        options: Fields of `ChannelOptions`, which beat those of every endpoint.

    Raises:
        FeatureUnavailable: Not called under Trio.
        ConfigurationError: As for `serve_channels`.
        ConnectFailed: As for `serve_channels`.
        OSError: As for `serve_channels`.
    """
    _require_trio()
    inner = low_level(server)
    async with inner.lifespan(inner) as state:
        connections = SdkConnections(
            inner,
            state,
            drain=drain,
            raise_exceptions=raise_exceptions,
            on_event=on_event,
            stop=stop,
        )
        await serve_channels(
            connections.serve,
            *endpoints,
            on_event=on_event,
            stop=stop,
            drain=drain,
            http="session",
            authenticate=authenticate,
            event_store=event_store,
            header_schema=header_schema(inner),
            tls=tls,
            task_status=task_status,
            **options,
        )


def _require_trio() -> None:
    if not trio.lowlevel.in_trio_run():
        raise FeatureUnavailable(
            "channels need Trio: run the program with trio.run(main)"
            ' or anyio.run(main, backend="trio")'
        )
