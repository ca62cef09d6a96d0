"""One POST of requests as a channel.

What is received are the requests and what belongs to them, what is sent is the response.
Made by `HttpService`. Theory of operation: the pure `ExchangeWriter` decides what the
response looks like; this class gives it messages, time and the end of the connection, and
writes what it says. What a lost connection means depends on the era:

* Modern: it is the client's way to cancel. The channel fails, and the scope that its
  handler runs in is cancelled.
* Legacy: it means nothing. The exchange belongs to its session and goes on; the client may
  come back for the rest within `session_idle_timeout` where there is an event store, and
  has `grace_timeout` where there is none (what is said then is dropped).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from ..abc import ChannelBroken, ChannelContext, ChannelState, ConnectionLost, EventHandler
from ..errors import LocalProtocolError
from ..jsonrpc import Message, Request, RequestId
from ..limits import ChannelOptions
from ..sansio.http1 import BodyData, EndOfBody
from ..sansio.mcp_http.options import HttpServerOptions
from ..sansio.mcp_http.server import StartExchange
from ..sansio.mcp_http.streams import NOTHING, Step
from .http_channel import Encoded, HttpServerChannel
from .http_outflow import Outflow

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .http_request import HttpRequestStream

__all__ = ["ExchangeChannel", "NotificationChannel"]

_END = EndOfBody()


class ExchangeChannel(HttpServerChannel):
    """One exchange.

    Args:
        start: What the endpoint decided.
        outflow: Where the writer's steps go.
        context: Facts about the request.
        options: Limits.
        server: The endpoint's options: intervals.
        deadlines: Keeps the time.
        on_opened: Called when the answer to `initialize` has opened a session.
        on_event: Told of faults that no caller sees.
        now: The time.

    Attributes:
        scope: What the handler runs in, unless the scope of its connection will do.
        writer: The exchange's writer.
    """

    def __init__(
        self,
        start: StartExchange,
        outflow: Outflow,
        context: ChannelContext,
        options: ChannelOptions,
        *,
        server: HttpServerOptions,
        deadlines: Deadlines,
        on_opened: Callable[[], object] | None,
        on_event: EventHandler | None,
        now: float,
    ) -> None:
        super().__init__(context, options, outflow, on_event)
        self.scope: trio.CancelScope | None = None
        self.writer = start.writer
        self.writer.owner = self
        self._is_modern = start.era == "modern"
        self._server = server
        self._on_opened = on_opened
        self._lost = False
        self._gives_up_at = math.inf  # if no connection carries it until then
        self._timer = deadlines.timer(self._tick)
        self._timer.set(now + server.quiet_interval)
        for message in start.messages:
            self._inbox.append((message, 0))  # the body has been counted

    # -- from the service ---------------------------------------------------------------

    def cancelled(self, message: Message, size: int, request_id: RequestId) -> None:
        """The client cancelled a request: the handler is told, and it gets no answer."""
        self.deliver(message, size)
        self.outflow.put(partial(self._step, partial(self.writer.cancel, request_id)), 0)

    def connection_lost(self) -> None:
        """The client went away before the response was complete."""
        self.outflow.carrier = None
        if not self.writer.ended:
            self.writer.detach()
        if not self._state.is_open or self.writer.ended:
            return
        if self._is_modern:
            # 2026-07-28, Cancellation: "Closing the SSE response stream [...] the server
            # MUST treat this as cancellation".
            self.abort(ConnectionLost("the client closed the connection of its request"))
            self._cancel()
        elif self.writer.lost:
            self._lost = True
            self._timer.set(trio.current_time() + self._server.grace_timeout)
        else:
            self._arm()

    def end(self, cause: ChannelBroken) -> None:
        """The session has ended: stop at once, and end the response as far as it is."""
        # Not through the outflow: what the store has of a session goes with it.
        events = () if self.writer.ended else self.writer.end().events
        carrier = self.outflow.carrier
        if carrier is not None and events and not self.outflow.is_storing:
            carrier.on_gone = None
            self.outflow.carrier = None
            carrier.write(*events)
        self._stop(cause)

    def _stop(self, cause: ChannelBroken) -> None:
        # A connection that is still there waits for what the store has not taken: it breaks off.
        self.abort(cause)
        self._cancel()

    def retire(self) -> bool:
        """Close if all is said: what is queued still goes out. Whether it is closed now."""
        if self.writer.ended:
            self._timer.close()
            self._state.move(ChannelState.CLOSED)
            self._wake_receiver()
        return self._state.is_final

    def let_go(self) -> None:
        """Its handler and its exchange are over: leave nothing that refers back to it.

        There is one of these for each request, so they must not wait for the garbage
        collector.
        """
        self.writer.owner = None
        if self.outflow.is_idle:
            self.outflow.on_failure = None

    async def aclose(self) -> None:
        """Close; what has no answer gets -32603. See `MessageChannel.aclose`.

        A checkpoint only where there is something to wait for: of these channels there is
        one for each request, and its end is the end of a task.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.retire():
            await super().aclose()

    # -- optional capabilities ----------------------------------------------------------

    def close_stream(self, retry: float | None = None) -> None:
        """End the connection, not the stream: the client comes back for the rest.

        Args:
            retry: Seconds that it is to wait; by default the endpoint's `retry_interval`.

        Raises:
            LocalProtocolError: The stream cannot be resumed.
        """
        self._state.check_open()
        if not self.writer.can_close_connection:
            raise LocalProtocolError("the stream of this exchange cannot be resumed")
        if retry is None:
            retry = self._server.retry_interval
        act = partial(self.writer.close_connection, retry)
        self.outflow.put(partial(self._step, act), 0)

    @property
    def can_ask(self) -> bool:
        """Whether a request may be sent on it at the moment."""
        return self.writer.can_ask

    # -- inside -------------------------------------------------------------------------

    def take_over(self, carrier: HttpRequestStream) -> None:
        """Go on with this connection. See `HttpServerChannel.take_over`."""
        self._lost = False
        self._gives_up_at = math.inf
        super().take_over(carrier)
        self._arm()

    def _check_message(self, value: Message) -> None:
        # 2026-07-28: "The server MUST NOT send independent JSON-RPC requests on this stream."
        if type(value) is Request and not self.writer.can_ask:
            raise LocalProtocolError("no request can be sent to this client from here")

    def _say_whole(self, message: Message, data: bytes) -> bool:
        writer, outflow, size = self.writer, self.outflow, len(data)
        if writer.ended or not outflow.takes_whole(size):
            return False
        whole = writer.answer(message, data)
        if whole is None:
            return False
        self._messages_sent += 1
        self._bytes_sent += size
        self._complete()
        outflow.respond(*whole)
        return True

    def _say(self, messages: Sequence[Encoded]) -> Step:
        if len(messages) == 1 and not self._is_over():
            whole = self.writer.answer(*messages[0])
            if whole is not None:
                self._complete()
                head, body = whole
                return Step(events=(head, BodyData(body), _END))
        try:
            return self._step(partial(self.writer.send_encoded, messages))
        except LocalProtocolError as error:
            # It could be said when it was queued: since then the client has gone.
            self._report("message.dropped", str(error), error)
            return NOTHING

    def _step(self, act: Callable[[], Step]) -> Step:
        """One step of the writer, and what follows from it for the channel."""
        if self._is_over():
            return NOTHING
        step = act()
        if self._is_over():
            self._complete()
        else:
            self._arm()
        return step

    def _cancel(self) -> None:
        if self.scope is not None:
            self.scope.cancel()

    def _is_over(self) -> bool:
        return self.writer.ended

    def _arm(self) -> None:
        if not self._lost:
            server, now = self._server, trio.current_time()
            interval = server.keep_alive_interval if self.writer.attached else server.quiet_interval
            if self.outflow.carrier is None:
                self._gives_up_at = min(self._gives_up_at, now + server.session_idle_timeout)
            self._timer.set(min(now + interval, self._gives_up_at))

    def _tick(self) -> None:
        """It was silent for long."""
        if self._lost or self._gives_up_at <= trio.current_time():
            # The session goes on, and whoever comes back after all learns that this is over.
            step = NOTHING if self.writer.ended else self.writer.end()
            self._stop(ConnectionLost("the client went away and did not come back in time"))
            if step.finished:
                self.outflow.put_last(step)
            return
        self.outflow.put(self._break_silence, 0)
        self._arm()

    def _break_silence(self) -> Step:
        events = self.writer.keep_alive()
        return Step(events=events) if events else self._step(self.writer.quiet)

    def _complete(self) -> None:
        """All is answered, or cancelled: nothing more will come in."""
        self._timer.close()
        self.end_input()
        if self.outflow.carrier is not None:
            self.outflow.carrier.on_gone = None
        if self._on_opened is not None:
            opened, self._on_opened = self._on_opened, None
            opened()

    def _conclude(self, *, graceful: bool) -> None:
        """The channel is closed: what has no answer gets -32603."""
        self._timer.close()
        if graceful:
            if not self.writer.ended:
                self.outflow.put(partial(self._step, self.writer.finish), 0)
        else:
            self.leave()


class NotificationChannel(HttpServerChannel):
    """A notification that belongs to no session: received, then the end.

    There is no way back to the client, so what is sent is refused.
    """

    def __init__(
        self,
        message: Message,
        context: ChannelContext,
        options: ChannelOptions,
        nursery: trio.Nursery,
        on_event: EventHandler | None,
    ) -> None:
        outflow = Outflow(nursery=nursery, limit=options.outbox_bytes, carrier=None, store=None)
        super().__init__(context, options, outflow, on_event)
        self.deliver(message, 0)
        self.end_input()

    def connection_lost(self) -> None:
        """It has none."""

    def _check_message(self, value: Message) -> None:
        raise LocalProtocolError("a notification over HTTP has no way back")

    def _say(self, messages: Sequence[Encoded]) -> Step:
        return NOTHING

    def _conclude(self, *, graceful: bool) -> None:
        pass
