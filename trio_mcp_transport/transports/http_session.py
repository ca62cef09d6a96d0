"""A legacy session as the Trio server keeps it, and the channel that goes with it.

Made by `HttpService` when `initialize` comes, or when a client opens HTTP+SSE. The table of
sessions, and every decision about which message goes where, is the pure `SessionRecord`;
here are what needs a task, a channel or the event store.

A session has exactly one channel of its own, from the answer to `initialize` to the end of
the session, whether or not a GET carries what it says: for what belongs to no request. On
HTTP+SSE it is the only channel there is, and lasts as long as its GET.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

import trio

from ..abc import ChannelContext, ChannelSession, ConnectionLost, EventHandler
from ..errors import LocalProtocolError
from ..jsonrpc import ErrorResponse, Message, Response
from ..limits import ChannelOptions
from ..sansio.mcp_http.sessions import SessionRecord
from ..sansio.mcp_http.sse_writer import SseWriter
from ..sansio.mcp_http.standalone import StandaloneWriter
from ..sansio.mcp_http.streams import NOTHING, Step
from .http_channel import Encoded, HttpServerChannel
from .http_outflow import Outflow

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .http_request import HttpRequestStream

__all__ = ["HttpSession", "SessionChannel"]

SessionWriter: TypeAlias = StandaloneWriter | SseWriter


class HttpSession:
    """What the adapter keeps beside a `SessionRecord`, as its `owner`.

    Attributes:
        record: The record.
        shared: What the contexts of all its channels carry.
        channel: The session's own channel, once it is open.
        outflows: Of its streams that are kept, as long as they are in use: also of exchanges
            that are over while the store is still taking their last words.
    """

    def __init__(self, record: SessionRecord) -> None:
        self.record = record
        self.shared = ChannelSession(record.id, record.principal)
        self.channel: SessionChannel | None = None
        self.outflows: WeakSet[Outflow] = WeakSet()


class SessionChannel(HttpServerChannel):
    """A session's own channel.

    Args:
        writer: The stream of what it says.
        outflow: Where the writer's steps go; its carrier is the open GET, if there is one.
        context: Of the request that began the session.
        options: Limits.
        keep_alive_interval: Seconds of silence until a comment.
        deadlines: Keeps the time.
        on_lost: Called when the connection is lost; where it is None the session goes on.
        on_event: Told of faults that no caller sees.

    Attributes:
        scope: What the handler runs in.
    """

    def __init__(
        self,
        writer: SessionWriter,
        outflow: Outflow,
        context: ChannelContext,
        options: ChannelOptions,
        *,
        keep_alive_interval: float,
        deadlines: Deadlines,
        on_lost: Callable[[], object] | None,
        on_event: EventHandler | None,
    ) -> None:
        super().__init__(context, options, outflow, on_event)
        self.scope = trio.CancelScope()
        self.writer = writer
        writer.owner = self
        self._interval = keep_alive_interval
        self._on_lost = on_lost
        self._timer = deadlines.timer(self._tick)

    @property
    def standalone_open(self) -> bool:
        """Whether a connection carries what the session says beside its exchanges."""
        return self.writer.attached

    def push_to(
        self, deliver: Callable[[Message], object], ended: Callable[[Exception], object]
    ) -> trio.Nursery | None:
        """Hand messages over from now on, but for HTTP+SSE. See `MessageChannel.push_to`."""
        # There, requests come this way, which deserve the time that a reader gives them.
        return None if self._on_lost is not None else super().push_to(deliver, ended)

    # -- from the service ---------------------------------------------------------------

    def carry(self, carrier: HttpRequestStream, act: Callable[[], Step]) -> None:
        """A GET carries the stream from now on; the one before it, if any, ends.

        Args:
            carrier: Its response.
            act: The step that it begins with.
        """
        self.outflow.put(partial(self._begin, carrier, act), 0)

    def _begin(self, carrier: HttpRequestStream, act: Callable[[], Step]) -> Step:
        if not self._state.is_open or self.writer.ended:
            carrier.abort()
            return NOTHING
        self.leave()
        step = act()
        self.take_over(carrier)
        return step

    def take_over(self, carrier: HttpRequestStream) -> None:
        """Go on with this connection. See `HttpServerChannel.take_over`."""
        super().take_over(carrier)
        self._arm()

    def connection_lost(self) -> None:
        """The client closed its GET, or it broke."""
        self.outflow.carrier = None
        if not self.writer.ended:
            self.writer.detach()
        self._timer.due = math.inf
        if self._on_lost is not None and self._state.is_open:
            self.abort(ConnectionLost("the client closed its connection"))
            self.scope.cancel()
            self._on_lost()

    def end(self, patience: float) -> None:
        """The session has ended: the handler sees the end, and has some time to finish."""
        self.end_input()
        self.scope.deadline = trio.current_time() + patience
        self.outflow.put(self._end_stream, 0)

    # -- inside -------------------------------------------------------------------------

    def _check_message(self, value: Message) -> None:
        # "The server MUST NOT send a JSON-RPC response on the stream unless resuming a stream
        # associated with a previous client request."
        if self._on_lost is None and isinstance(value, Response | ErrorResponse):
            raise LocalProtocolError("an answer belongs to the exchange of its request")

    def _say(self, messages: Sequence[Encoded]) -> Step:
        if self.writer.ended:
            return NOTHING
        step = self.writer.send_encoded(messages)
        self._arm()
        return step

    def _end_stream(self) -> Step:
        self._timer.close()
        return NOTHING if self.writer.ended else self.writer.end()

    def _arm(self) -> None:
        if self.writer.attached:
            self._timer.set(trio.current_time() + self._interval)

    def _tick(self) -> None:
        self.outflow.put(self._keep_alive, 0)
        self._arm()

    def _keep_alive(self) -> Step:
        return NOTHING if self.writer.ended else Step(events=self.writer.keep_alive())

    def _conclude(self, *, graceful: bool) -> None:
        if graceful:
            self.outflow.put(self._end_stream, 0)
        else:
            self._timer.close()
            self.leave()
