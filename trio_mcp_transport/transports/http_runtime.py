"""What channels over HTTP are made with, and how their handlers are run.

Shared by `HttpService`, which sees to requests and exchanges, and `HttpSessions`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial

import trio

from ..abc import ChannelContext, ChannelEvent, EventHandler, MessageChannel
from ..limits import EVENT_STORE_TIMEOUT, ChannelOptions
from ..reporting import lone_exception, report
from ..sansio.mcp_http.options import HttpServerOptions
from ..sansio.mcp_http.sessions import SessionRecord
from ..sansio.mcp_http.streams import EventStream, Step
from ..stores.events import EventStore
from .deadlines import Deadlines
from .http_outflow import Outflow, StoreStep
from .http_request import HttpRequestStream
from .http_session import HttpSession

__all__ = ["HttpRuntime"]


class HttpRuntime:
    """What one service's channels have in common.

    Args:
        options: The endpoint's.
        handler: Called with each channel.
        store: Keeps the events of streams, if there is one.
        channel_options: Limits of the channels.
        on_event: Told of faults that no caller sees.

    Attributes:
        nursery: Where everything runs; set once there is one.
        deadlines: All timers.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        options: HttpServerOptions,
        handler: Callable[[MessageChannel], Awaitable[object]],
        store: EventStore | None,
        channel_options: ChannelOptions,
        on_event: EventHandler | None,
    ) -> None:
        self.options = options
        self.store = store
        self.channel_options = channel_options
        self.on_event = on_event
        self.deadlines = Deadlines(self._timer_failed)
        self._handler = handler

    async def run_handler(self, channel: MessageChannel) -> None:
        """Run the handler; nothing leaves it but `Cancelled` and the like."""
        try:
            try:  # ruff: ignore[suppressible-exception] (here a context manager costs)
                await self._handler(channel)
            except trio.EndOfChannel:
                pass  # the peer has said its last word: a handler that lets this out is done
        except* Exception as group:
            error = lone_exception(group)
            # A client that goes away in the middle is an everyday event. A WebSocket whose end
            # was seen may have something to deliver before that is its failure.
            exchange = channel.context.exchange
            gone = channel.failure is not None or not (exchange or channel.is_connected)
            if not (gone and isinstance(error, trio.BrokenResourceError)):
                what = "an exchange" if exchange else "a connection"
                self.report(
                    "handler.failed",
                    f"the handler of {what} raised {type(error).__name__}",
                    error,
                    channel.context,
                )

    def outflow(
        self, stream: EventStream, record: SessionRecord | None, carrier: HttpRequestStream | None
    ) -> Outflow:
        """Where a stream's steps go."""
        store: StoreStep | None = None
        if stream.numbered and record is not None and self.store is not None:
            store = partial(self._keep, self.store, record.id, stream.name)
        outflow = Outflow(
            nursery=self.nursery,
            limit=self.channel_options.outbox_bytes,
            carrier=carrier,
            store=store,
        )
        if store is not None and record is not None and isinstance(record.owner, HttpSession):
            record.owner.outflows.add(outflow)
        return outflow

    @contextmanager
    def store_deadline(self) -> Generator[None, None, None]:
        """Bound what is asked of the event store in the block.

        Raises:
            TimeoutError: It took longer than `EVENT_STORE_TIMEOUT`.
        """
        with trio.move_on_after(EVENT_STORE_TIMEOUT) as scope:
            yield
        if scope.cancelled_caught:
            raise TimeoutError(f"the event store took longer than {EVENT_STORE_TIMEOUT:g} s")

    async def _keep(self, store: EventStore, session: str, stream: str, step: Step) -> None:
        with self.store_deadline():
            if step.records:
                await store.append(session, stream, step.records)
            if step.finished:
                await store.finish(session, stream)

    def _timer_failed(self, error: Exception) -> None:
        self.report("request.failed", f"what a timer does failed: {error!r}", error)

    def report(
        self,
        name: str,
        message: str,
        error: BaseException | None = None,
        context: ChannelContext | None = None,
    ) -> None:
        """Report a fault that no caller sees."""
        report(
            self.on_event,
            ChannelEvent(name=name, message=message, error=error, context=context),
        )
