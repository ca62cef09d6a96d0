"""Open a channel, or a peer, to an endpoint, whatever its transport.

Called by applications and the command line. It applies the connect timeout, owns the
nursery of a channel's background tasks, and keeps exception groups away from the caller.
It speaks no protocol: transports make channels, peers talk over them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, Unpack

import trio

from .abc import EventHandler, MessageChannel
from .endpoint_parser import EndpointSpec
from .errors import ConnectTimeout
from .registry import ChannelOverrides, connect_endpoint, resolve_endpoint
from .reporting import choose_failure, flatten, report_task_failure

__all__ = ["connect_channel", "open_channel"]


async def connect_channel(
    nursery: trio.Nursery,
    endpoint: EndpointSpec,
    *,
    on_event: EventHandler | None = None,
    **options: Unpack[ChannelOverrides],
) -> MessageChannel:
    """Connect to an endpoint; the channel's background tasks run in your nursery.

    The channel is yours to close, from any task. If this is cancelled, nothing is left
    behind.

    Args:
        nursery: Must stay open as long as the channel; cancelling it breaks the channel.
        endpoint: A string, mapping or object, as `parse_endpoint` reads it.
        on_event: Gets the faults that no caller would see; they are logged without it.
        options: Fields of `ChannelOptions`, which beat those of the endpoint.

    Raises:
        ConfigurationError: The endpoint is wrong, or cannot be connected to.
        ConnectTimeout: The channel was not ready within `connect_timeout`.
        ConnectFailed: There is no connection; the cause is chained.
    """
    resolved = resolve_endpoint(endpoint, options)
    timeout = resolved.options.connect_timeout
    with trio.move_on_after(timeout):
        return await connect_endpoint(nursery, resolved, on_event)
    # Only its own deadline gets here: a cancellation from outside passes through.
    raise ConnectTimeout(f"{resolved}: no channel within {timeout:g} seconds")


def open_channel(
    endpoint: EndpointSpec,
    *,
    on_event: EventHandler | None = None,
    **options: Unpack[ChannelOverrides],
) -> AbstractAsyncContextManager[MessageChannel]:
    """Connect to an endpoint for the length of an ``async with`` block.

    At the block's end the channel is closed gracefully; if the block raises or is
    cancelled, it is aborted. What the block raises comes out as it is, the same object,
    never inside an exception group.

    Args:
        endpoint: A string, mapping or object, as `parse_endpoint` reads it.
        on_event: Gets the faults that no caller would see; they are logged without it.
        options: Fields of `ChannelOptions`, which beat those of the endpoint.

    Raises:
        ConfigurationError: On entering, as for `connect_channel`.
        ConnectTimeout: On entering, likewise.
        ConnectFailed: On entering, likewise.
    """

    async def connect(nursery: trio.Nursery) -> MessageChannel:
        return await connect_channel(nursery, endpoint, on_event=on_event, **options)

    return _OpenChannel(connect, on_event)


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
            await self._end_tasks(error)
            raise
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
            await self._end_tasks(error)
            raise
        await self._end_tasks(exc)
        return False

    async def _end_tasks(self, error: BaseException | None) -> None:
        """Leave the nursery; raise only what must win over the block's error."""
        self._nursery.cancel_scope.cancel()
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseException as ending:
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
