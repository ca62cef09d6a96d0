"""Open a channel, or a peer, to an endpoint, whatever its transport.

Called by applications and the command line. It applies the connect timeout, owns the
nursery of a channel's background tasks, and keeps exception groups away from the caller.
It speaks no protocol: transports make channels, peers talk over them.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Literal, Protocol, TypeAlias, Unpack, runtime_checkable

import trio

from . import security
from .abc import EventHandler, MessageChannel
from .conversation import Dispatcher
from .endpoint_parser import EndpointSpec
from .endpoints import Endpoint
from .errors import ConfigurationError, ConnectTimeout
from .http_endpoints import HttpEndpoint
from .lifecycle import negotiate
from .limits import (
    DEFAULT_DRAIN_SECONDS,
    DEFAULT_MAX_HANDLERS,
    DEFAULT_MAX_HELD_BYTES,
    DEFAULT_MAX_QUEUED_REQUESTS,
    DISCOVER_PROBE_TIMEOUT,
)
from .peer import Peer
from .registry import ChannelOverrides, StderrHandler, connect_endpoint, resolve_endpoint
from .reporting import choose_failure, flatten, report_task_failure
from .sansio.eras import EraCache
from .sansio.metadata import LogLevel
from .transports.http_sender import AsyncHttpClient, HttpSender

__all__ = ["HttpClient", "connect_channel", "open_channel", "open_peer"]

#: What may carry the requests of an http endpoint in place of the package's own connections:
#: an `httpx.AsyncClient`, an `httpx2.AsyncClient`, or an `HttpSender` of your own. It stays
#: yours to close.
HttpClient: TypeAlias = HttpSender | AsyncHttpClient

#: What this process has learned about servers over HTTP; wrong entries are noticed.
_known_eras = EraCache()


async def connect_channel(
    nursery: trio.Nursery,
    endpoint: EndpointSpec,
    *,
    on_event: EventHandler | None = None,
    on_stderr: StderrHandler | None = None,
    client: HttpClient | None = None,
    tls: security.TlsClient | None = None,
    **options: Unpack[ChannelOverrides],
) -> MessageChannel:
    """Connect to an endpoint; the channel's background tasks run in your nursery.

    The channel is yours to close, from any task. If this is cancelled, nothing is left
    behind.

    Args:
        nursery: Must stay open as long as the channel; cancelling it breaks the channel.
        endpoint: A string, mapping or object, as `parse_endpoint` reads it.
        on_event: Gets the faults that no caller would see; they are logged without it.
        on_stderr: Gets each line of a child process's stderr, for ``stderr="capture"``.
        client: What carries the requests of an http endpoint, in place of connections of
            the channel's own.
        tls: For an endpoint with TLS, in place of its own options: certificates that are
            read once, and sessions that are resumed, for many channels.
        options: Fields of `ChannelOptions`, which beat those of the endpoint.

    Raises:
        ConfigurationError: The endpoint is wrong, or cannot be connected to.
        ConnectTimeout: The channel was not ready within `connect_timeout`.
        ConnectFailed: There is no connection; the cause is chained. A channel over HTTP
            connects when it sends, and its requests fail so.
        HttpError: A server of HTTP+SSE refused its stream.
    """
    resolved = resolve_endpoint(endpoint, options)
    timeout = resolved.options.connect_timeout
    with trio.move_on_after(timeout):
        if client is not None:
            if tls is not None:
                raise ConfigurationError("tls is a matter of the `client=` given beside it")
            return await _connect_with(nursery, resolved, on_event, on_stderr, client)
        return await connect_endpoint(nursery, resolved, on_event, on_stderr, tls)
    # Only its own deadline gets here: a cancellation from outside passes through.
    raise ConnectTimeout(f"{resolved.label}: no channel within {timeout:g} seconds")


async def _connect_with(
    nursery: trio.Nursery,
    endpoint: Endpoint,
    on_event: EventHandler | None,
    on_stderr: StderrHandler | None,
    client: HttpClient,
) -> MessageChannel:
    """Connect by way of a client that the caller brought."""
    if not isinstance(endpoint, HttpEndpoint) or on_stderr is not None:
        raise ConfigurationError(f"client is for http endpoints, not for {endpoint.label}")
    from .transports.http_client import connect_with
    from .transports.httpx_sender import HttpxSender

    sender = client if isinstance(client, HttpSender) else HttpxSender(client)
    return await connect_with(nursery, endpoint, on_event, sender)


def open_channel(
    endpoint: EndpointSpec,
    *,
    on_event: EventHandler | None = None,
    on_stderr: StderrHandler | None = None,
    client: HttpClient | None = None,
    tls: security.TlsClient | None = None,
    **options: Unpack[ChannelOverrides],
) -> AbstractAsyncContextManager[MessageChannel]:
    """Connect to an endpoint for the length of an ``async with`` block.

    At the block's end the channel is closed gracefully; if the block raises or is
    cancelled, it is aborted. What the block raises comes out as it is, the same object,
    never inside an exception group.

    Args:
        endpoint: A string, mapping or object, as `parse_endpoint` reads it.
        on_event: Gets the faults that no caller would see; they are logged without it.
        on_stderr: Gets each line of a child process's stderr, for ``stderr="capture"``.
        client: As for `connect_channel`.
        tls: As for `connect_channel`.
        options: Fields of `ChannelOptions`, which beat those of the endpoint.

    Raises:
        ConfigurationError: On entering, as for `connect_channel`.
        ConnectTimeout: On entering, likewise.
        ConnectFailed: On entering, likewise.
    """

    async def connect(nursery: trio.Nursery) -> MessageChannel:
        return await connect_channel(
            nursery,
            endpoint,
            on_event=on_event,
            on_stderr=on_stderr,
            client=client,
            tls=tls,
            **options,
        )

    return _OpenChannel(connect, on_event)


@runtime_checkable
class _KeepsTasks(Protocol):
    """A channel that can keep tasks for later, where they may hold their nursery open."""

    keeps_tasks: bool


class _OpenChannel(AbstractAsyncContextManager[MessageChannel]):
    """Owns a channel and the nursery of its background tasks.

    The nursery is left by hand, with no exception, so that it never wraps the block's own.
    What its tasks raised is looked at on its own; by contract that is nothing but
    `Cancelled` and, as it may strike anywhere, `KeyboardInterrupt`.
    """

    def __init__(
        self,
        connect: Callable[[trio.Nursery], Awaitable[MessageChannel]],
        on_event: EventHandler | None,
    ) -> None:
        self._connect = connect
        self._on_event = on_event
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> MessageChannel:
        self._nursery = await self._manager.__aenter__()
        try:
            self._channel = await self._connect(self._nursery)
        except BaseException as error:
            await self._end_tasks(error)  # noqa: ASYNC102 (a cancelled nursery ends)
            raise
        if isinstance(self._channel, _KeepsTasks):
            self._channel.keeps_tasks = True
        return self._channel

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        try:
            if exc is None:
                await self._channel.aclose()
            else:
                self._channel.abort()
        except BaseException as error:
            await self._end_tasks(error)  # noqa: ASYNC102 (a cancelled nursery ends)
            raise
        await self._end_tasks(exc)  # noqa: ASYNC102 (a cancelled nursery ends)
        return False

    async def _end_tasks(self, error: BaseException | None) -> None:
        """Leave the nursery; raise only what must win over the block's error."""
        self._nursery.cancel_scope.cancel()
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseException as ending:  # noqa: ASYNC103 (raised below)
            failure = choose_failure(ending, self._on_event)
        else:
            return
        if error is None or not isinstance(failure, Exception | trio.Cancelled):
            raise failure
        if isinstance(failure, trio.Cancelled):
            return
        if all(isinstance(leaf, trio.Cancelled) for leaf in flatten(error)):
            # A task that broke is what cancelled the block.
            raise failure
        report_task_failure(failure, self._on_event)


def open_peer(
    endpoint: EndpointSpec,
    router: Dispatcher | None = None,
    *,
    era: Literal["auto", "modern", "legacy", "none"] | None = None,
    revision: str | None = None,
    client_info: Mapping[str, object] | None = None,
    client_capabilities: Mapping[str, object] | None = None,
    log_level: LogLevel | None = None,
    probe_timeout: float = DISCOVER_PROBE_TIMEOUT,
    max_handlers: int = DEFAULT_MAX_HANDLERS,
    max_queued: int = DEFAULT_MAX_QUEUED_REQUESTS,
    max_held_bytes: int = DEFAULT_MAX_HELD_BYTES,
    drain: float = DEFAULT_DRAIN_SECONDS,
    expose_errors: bool = False,
    on_event: EventHandler | None = None,
    on_stderr: StderrHandler | None = None,
    client: HttpClient | None = None,
    tls: security.TlsClient | None = None,
    era_cache: EraCache | None = None,
    **options: Unpack[ChannelOverrides],
) -> AbstractAsyncContextManager[Peer]:
    """Connect to an MCP server, agree on a revision, and talk to it inside the block.

    What the block raises comes out as it is, as for `open_channel`.

    Args:
        endpoint: A string, mapping or object, as `parse_endpoint` reads it.
        router: What answers the server's requests; without one they are refused.
        era: Which era of MCP to speak: ``auto`` asks the server and prefers modern.
            ``none`` negotiates nothing, for a peer of plain JSON-RPC. By default what the
            endpoint says, if it is one that can, else ``auto``.
        revision: The one protocol revision to accept; by default likewise.
        client_info: ``{"name": ..., "version": ...}``; this package's by default.
        client_capabilities: What this client offers; the router must handle it.
        log_level: Least severe log message that a modern server shall send.
        probe_timeout: Seconds of silence after which a server counts as legacy.
        max_handlers: As for `Peer`.
        max_queued: As for `Peer`.
        max_held_bytes: As for `Peer`.
        drain: As for `Peer`.
        expose_errors: As for `Peer`.
        on_event: As for `Peer` and `open_channel`.
        on_stderr: As for `open_channel`.
        client: As for `open_channel`.
        tls: As for `open_channel`.
        era_cache: Where it is noted which servers over HTTP are legacy, to spare them the
            question next time; by default all peers of the process share one.
        options: Fields of `ChannelOptions`, which beat those of the endpoint. Each
            request waits `request_timeout` for its answer unless it says otherwise.

    Raises:
        ConfigurationError: An argument is wrong, or contradicts another.
        ConnectFailed: As for `open_channel`.
        NegotiationFailed: There is no protocol revision in common.
        InvalidResult: The server's answers make no sense.
        HttpError: A server over HTTP refused, such as `AuthenticationRequired`.
        RequestTimeout: The server did not answer at all.
        ChannelBroken: The server went away while it was negotiated with.
    """
    resolved = resolve_endpoint(endpoint, options)
    server: str | None = None
    if isinstance(resolved, HttpEndpoint):
        # The query of an endpoint may be a key, and is not what tells servers apart.
        server = f"{resolved.origin}{resolved.path}"
        if resolved.two_paths is not None:
            era = era or "none"
        elif era is None and revision is None:
            era, revision = resolved.era, resolved.revision
    agreed_era = era or "auto"
    if (
        agreed_era == "none"
        and (revision, client_info, client_capabilities, log_level) != (None,) * 4
    ):
        raise ConfigurationError("era='none' negotiates nothing: leave out what it would offer")
    channel_manager = open_channel(
        resolved, on_event=on_event, on_stderr=on_stderr, client=client, tls=tls
    )
    make_peer = functools.partial(
        Peer,
        router=router,
        max_handlers=max_handlers,
        max_queued=max_queued,
        max_held_bytes=max_held_bytes,
        drain=drain,
        expose_errors=expose_errors,
        on_event=on_event,
    )

    async def agree(peer: Peer) -> None:
        if agreed_era != "none":
            await negotiate(
                peer,
                client_info=_own_info() if client_info is None else client_info,
                client_capabilities=client_capabilities,
                era=agreed_era,
                revision=revision,
                log_level=log_level,
                probe_timeout=probe_timeout,
                era_cache=_known_eras if era_cache is None else era_cache,
                server=server,
            )

    return _OpenPeer(channel_manager, make_peer, agree)


class _OpenPeer(AbstractAsyncContextManager[Peer]):
    """Owns a channel and the peer on it.

    A class, as a generator that yields inside of nurseries loses them when it is not run
    to its end.
    """

    def __init__(
        self,
        channel_manager: AbstractAsyncContextManager[MessageChannel],
        make_peer: Callable[[MessageChannel], Peer],
        agree: Callable[[Peer], Awaitable[None]],
    ) -> None:
        self._channel_manager = channel_manager
        self._make_peer = make_peer
        self._agree = agree
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Peer:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(self._channel_manager)
            peer = await stack.enter_async_context(self._make_peer(channel))
            await self._agree(peer)
            self._stack = stack.pop_all()
        return peer

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (as each of them does)


def _own_info() -> Mapping[str, object]:
    from . import __version__

    return {"name": "trio-mcp-transport", "version": __version__}
