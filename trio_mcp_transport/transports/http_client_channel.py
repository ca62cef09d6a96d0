"""MCP over HTTP, seen by the client: one channel to one endpoint.

`http_client` makes one. Which wire and which era carry a message is decided for each message
alone: a request with modern `_meta` is a modern POST, `initialize` begins a session,
everything else belongs to that session. So peers, bridges and programs that send messages by
hand all just work.

Theory of operation. Each message is an exchange, and has a task in the caller's nursery until
its answer is here; the task may be kept for another one (`keeps_tasks`). `SendLine` decides
when it may start, a `Wire` carries it, `Inbox` takes what comes. A request that fails without
an answer from the server gets an `ErrorResponse` of this side's own, whose `cause` says why:
so each request that was sent ends exactly once. Cancelling a modern request closes its
stream, which is how a server is told; a legacy one is told by `notifications/cancelled`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import trio

from ..abc import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelEvent,
    ChannelState,
    ChannelStatistics,
    ConnectionLost,
    EventHandler,
    IdleTimeout,
    MessageChannel,
)
from ..errors import InvalidHttpResponse, MessageTooLarge, RequestIdInUse, TransportError
from ..jsonrpc import Message, Notification, encode_message
from ..limits import ChannelOptions
from ..reporting import report
from ..sansio.headers import Headers
from ..sansio.mcp_http.client_options import HttpClientOptions
from .channel_state import StateCell, make_session_id, stream_lost, with_compression
from .http_client_line import Exchange, Phase, SendLine
from .http_client_port import Port, cancelled_id, failed
from .http_client_sse import SseWire
from .http_client_streamable import StreamableWire
from .http_client_two_path import TwoPathWire
from .http_client_wire import Wire
from .http_sender import HttpSender
from .inbox import Inbox
from .reused_tasks import ReusedTasks

__all__ = ["HttpClientChannel"]


class HttpClientChannel(MessageChannel):
    """A channel to an MCP endpoint over HTTP.

    * `send` returns when the message is admitted: at most `max_exchanges` are on their way.
    * Requests run beside each other, in no order. A notification or response goes out when
      all that was sent before it has left, and what is sent after it waits until the server
      has taken it.
    * Each message that comes says in `related_to` which request's stream brought it.
    * After `send_eof` the channel ends when all requests are answered.

    Args:
        sender: Sends the requests.
        settings: The endpoint.
        nursery: Where the exchanges run.
        context: Facts about the endpoint.
        options: `max_message_bytes`, the inbox's, `close_timeout` and `idle_read_timeout`
            count here; there is no outbox.
        on_event: Gets ``connection.failed``, ``message.dropped``, ``message.malformed``,
            ``send.failed``, ``session.kept``, ``session.lost``, ``session.renewed``,
            ``stream.lost`` and ``tool.rejected``.
        owns_sender: Whether the sender is closed with the channel.

    Attributes:
        accept_batches: Whether arrays of messages are taken (revision 2025-03-26).
    """

    def __init__(
        self,
        sender: HttpSender,
        settings: HttpClientOptions,
        *,
        nursery: trio.Nursery,
        context: ChannelContext | None = None,
        options: ChannelOptions | None = None,
        on_event: EventHandler | None = None,
        owns_sender: bool = True,
    ) -> None:
        self._sender = sender
        self._tasks = ReusedTasks(self._run, nursery, "trio_mcp_transport exchange")
        self._context = context or ChannelContext(transport="http")
        self._options = options = options or ChannelOptions()
        self._on_event = on_event
        self._owns_sender = owns_sender
        self._state = StateCell()
        self._inbox = Inbox(options, self._fail)
        self._line = SendLine(settings.max_exchanges, self._start)
        self._port = Port(
            sender=sender,
            settings=settings,
            options=options,
            nursery=nursery,
            inbox=self._inbox,
            line=self._line,
            report=self._report,
            fail=self._fail_with,
            use=self._use,
        )
        headers = Headers([("Host", settings.authority)]).merged(settings.headers)
        self._wire: Wire
        self._ids_are_shared = False  # by all that runs, so that each may be there once
        if settings.two_paths is not None:
            self._wire = TwoPathWire(self._port, headers, settings.two_paths)
        elif settings.sse_only:
            self._use(SseWire(self._port, headers))
        else:
            self._wire = StreamableWire(self._port, headers)
        self._running: set[Exchange] = set()
        self._eof_sent = False
        self._receiver_busy = False
        self._session_id: str | None = None
        self._messages_sent = 0

    def __repr__(self) -> str:
        return f"<HttpClientChannel {self.session_id} {self.state.value}>"

    async def open(self) -> None:
        """Do what must be done before anything can be sent: HTTP+SSE has its stream to open.

        Raises:
            HttpError: The server has no such stream.
            ConnectFailed: It cannot be reached.
        """
        if isinstance(self._wire, SseWire):
            await self._wire.open()
        else:
            await trio.lowlevel.checkpoint()

    # -- facts --------------------------------------------------------------------------

    @property
    def context(self) -> ChannelContext:
        """Facts about the endpoint."""
        return self._context

    @property
    def options(self) -> ChannelOptions:
        """The limits and timeouts that this channel was built with."""
        return self._options

    @property
    def session_id(self) -> str:
        """The transport's name and randomness; has nothing to do with MCP's sessions."""
        if self._session_id is None:
            self._session_id = make_session_id(self._context.transport)
        return self._session_id

    @property
    def state(self) -> ChannelState:
        """Where the channel is in its life."""
        return self._state.state

    @property
    def failure(self) -> ChannelBroken | None:
        """The first cause, once `state` is FAILED."""
        return self._state.failure

    @property
    def accept_batches(self) -> bool:
        """Whether arrays of messages are taken."""
        return self._port.accept_batches

    @accept_batches.setter
    def accept_batches(self, accept: bool) -> None:
        self._port.accept_batches = accept

    @property
    def keeps_tasks(self) -> bool:
        """Whether tasks wait for further messages, until this is closed; at first none does.

        While one waits, the nursery is held open.
        """
        return self._tasks.keep

    @keeps_tasks.setter
    def keeps_tasks(self, keep: bool) -> None:
        self._tasks.keep = keep

    @property
    def can_send_eof(self) -> bool:
        """Always: it is kept on this side."""
        return True

    @property
    def capabilities(self) -> ChannelCapabilities:
        """What this channel can do."""
        return ChannelCapabilities(
            max_message_bytes=self._options.max_message_bytes, half_close=True, framing=None
        )

    async def wait_state(self, *states: ChannelState) -> ChannelState:
        """Wait until the channel is in one of the states; return which."""
        return await self._state.wait(states)

    def statistics(self) -> ChannelStatistics:
        """The counters now; bytes are those of bodies."""
        counted = ChannelStatistics(
            messages_sent=self._messages_sent,
            messages_received=self._port.received,
            bytes_sent=self._port.bytes_sent,
            bytes_received=self._port.bytes_received,
            malformed_received=self._port.malformed,
            outbox_bytes=self._line.queued_bytes,
            inbox_messages=len(self._inbox),
        )
        return with_compression(counted, self._sender)

    # -- sending ------------------------------------------------------------------------

    async def send(self, value: Message) -> None:
        """Send one message; returns when its exchange is admitted. See `MessageChannel.send`."""
        await self.send_many((value,))

    async def send_many(self, values: Sequence[Message]) -> None:
        """Send several messages, all or none. See `MessageChannel.send_many`.

        Raises:
            RequestIdInUse: Over HTTP+SSE, where answers are told apart by their id alone: a
                request with this id has not ended yet.
        """
        prepared = self._prepare(values)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_may_send()
        exchanges, unsaid = self._enter(prepared)
        if not exchanges or self._line.try_admit(exchanges):
            self._end_unsaid(unsaid)
            self._messages_sent += len(values)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            await self._line.admit(exchanges)
        except BaseException:
            for exchange in exchanges:
                self._port.forget(exchange)
            raise
        self._end_unsaid(unsaid)
        self._messages_sent += len(values)

    def try_send(self, value: Message) -> bool:
        """Send one message if it is admitted at once. See `MessageChannel.try_send`."""
        if not self._line.has_room:
            self._check_may_send()
            return False
        exchanges, unsaid = self._enter(self._prepare((value,)))
        if exchanges:
            self._line.try_admit(exchanges)
        self._end_unsaid(unsaid)
        self._messages_sent += 1
        return True

    def send_control(self, value: Message) -> None:
        """Send past those who wait for admission. See `MessageChannel.send_control`."""
        exchanges, unsaid = self._enter(self._prepare((value,)))
        self._end_unsaid(unsaid)
        for exchange in exchanges:
            self._put_control(exchange)
        self._messages_sent += 1

    def _put_control(self, exchange: Exchange) -> None:
        overflow = self._line.put_control(exchange)
        if overflow is not None:
            self._port.forget(exchange)
            raise self._failed(overflow)

    async def flush(self) -> None:
        """Wait until all that was sent has left, and what has no answer was taken."""
        self._state.check_open()
        await self._line.settled()

    async def send_eof(self) -> None:
        """Send no more; the channel ends once all requests are answered."""
        await self.flush()
        self._eof_sent = True
        self._check_ended()

    def _check_may_send(self) -> None:
        self._state.check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("this side has sent EOF")

    def _prepare(self, values: Sequence[Message]) -> list[Exchange]:
        self._check_may_send()
        limit = self._options.max_message_bytes
        exchanges = []
        for value in values:
            data = encode_message(value)
            if len(data) > limit:
                raise MessageTooLarge(len(data), limit)
            exchanges.append(Exchange(value, data))
        return exchanges

    def _enter(self, exchanges: list[Exchange]) -> tuple[list[Exchange], list[Exchange]]:
        """Note who is to be answered.

        Returns:
            Those that are to be sent; and cancellations that need no sending, which are for
            `_end_unsaid` when the others are admitted: until then nothing has happened.

        Raises:
            RequestIdInUse: See `send_many`; then nothing is noted.
        """
        table = self._port.exchanges
        if self._ids_are_shared:
            self._check_ids(exchanges)
        sending, unsaid = [], []
        for exchange in exchanges:
            if exchange.is_request:
                table[type(exchange.request_id), exchange.request_id] = exchange
            elif not self._is_wanted(exchange):
                continue
            elif exchange.cancels is not None and _needs_no_word(exchange.cancels):
                unsaid.append(exchange)
                continue
            sending.append(exchange)
        return sending, unsaid

    def _check_ids(self, exchanges: list[Exchange]) -> None:
        taken = {*self._port.exchanges}
        for exchange in exchanges:
            key = type(exchange.request_id), exchange.request_id
            if exchange.is_request and key in taken:
                raise RequestIdInUse(f"request id {key[1]!r} has not been answered yet")
            taken.add(key)

    def _is_wanted(self, exchange: Exchange) -> bool:
        """Whether a message without an answer has to go to the server."""
        message = exchange.message
        if not isinstance(message, Notification):
            if self._wire.is_modern_only:
                # 2026-07-28: "The client MUST NOT send JSON-RPC responses."
                self._report("message.dropped", "an answer, and no request it is for", None)
                return False
            return True
        if message.method != "notifications/cancelled":
            return True
        request_id = cancelled_id(message)
        target = None
        if request_id is not None:
            target = self._port.exchanges.get((type(request_id), request_id))
        # 2025-11-25, cancellation: "The initialize request MUST NOT be cancelled by clients".
        if target is None or target.is_initialize or target.is_cancelled:
            return False
        exchange.cancels = target
        return True

    def _end_unsaid(self, cancellations: list[Exchange]) -> None:
        """End the requests that these cancel."""
        for exchange in cancellations:
            target = exchange.cancels
            assert target is not None
            if _needs_no_word(target):
                target.is_cancelled = True
                self._silence(target)
            else:  # it was written while this waited for admission with others
                self._put_control(exchange)

    def _silence(self, exchange: Exchange) -> None:
        exchange.silence()
        if exchange.phase == Phase.QUEUED:
            self._settle(exchange, None)

    # -- the exchanges ---------------------------------------------------------------

    def _start(self, exchange: Exchange) -> None:
        self._running.add(exchange)
        try:
            self._tasks.start_soon(exchange)
        except RuntimeError as error:  # the nursery has ended
            cause = ConnectionLost("the nursery that the channel was opened in has ended")
            cause.__cause__ = error
            self._fail(cause)

    async def _run(self, exchange: Exchange) -> bool:
        """The work of an exchange: never raises but what ends everything anyway.

        Returns:
            Whether it was one of the quick ones, which mostly follow one another.
        """
        cause: Exception | None = None
        was_quick = False
        try:
            if not exchange.given_up:
                was_quick = await self._wire.carry_at_once(exchange)
            if not was_quick and not exchange.given_up:
                with trio.CancelScope() as scope:
                    exchange.stop = scope.cancel
                    await self._wire.carry(exchange)
        except Exception as error:  # becomes the cause of the answer, or is reported
            cause = error
        except BaseException as error:
            lost = ConnectionLost("the task of an exchange was cancelled")
            lost.__cause__ = error
            # Whoever cancelled the nursery knows.
            self._fail(lost, silently=isinstance(error, trio.Cancelled))
            raise
        finally:
            self._running.discard(exchange)
        self._settle(exchange, cause)
        return was_quick

    def _settle(self, exchange: Exchange, cause: Exception | None) -> None:
        """An exchange is over: see to it that its request has ended exactly once."""
        cause = exchange.cause or cause
        if exchange.is_request:
            if not exchange.answered and not exchange.silent:
                exchange.answered = True
                if cause is None:
                    cause = InvalidHttpResponse("the response holds no answer", status=200)
                elif not isinstance(cause, TransportError):
                    cause = stream_lost(cause, "before the answer")
                self._port.received += 1
                self._inbox.put_owed(failed(exchange, cause))
        elif cause is not None and self._state.is_open:
            self._report("send.failed", f"a message was not taken: {cause}", cause)
        if exchange.cancels is not None:
            self._silence(exchange.cancels)
        self._port.finish(exchange)
        self._check_ended()

    def _use(self, wire: Wire) -> None:
        self._wire = wire
        self._ids_are_shared = isinstance(wire, SseWire)

    # -- receiving ----------------------------------------------------------------------

    async def receive(self) -> Message:
        """Wait for one message. See `MessageChannel.receive`."""
        return (await self.receive_many(1))[0]

    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        """Wait for the first message, return all that are here."""
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        if self._receiver_busy:
            raise trio.BusyResourceError("another task is receiving")
        self._receiver_busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            while not self._has_input():
                await self._wait_for_input()
                waited = True
            messages = self._inbox.take(max_messages)
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
        except trio.EndOfChannel:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._receiver_busy = False
        return messages

    def _has_input(self) -> bool:
        """Whether there is a message; or raise why there will be none."""
        if len(self._inbox):
            return True
        self._state.check_open()
        if self._is_ended:
            raise trio.EndOfChannel("all requests are answered, and no more will be sent")
        return False

    async def _wait_for_input(self) -> None:
        idle = self._options.idle_read_timeout
        if idle == math.inf:
            await self._inbox.wait()
            return
        with trio.CancelScope(deadline=trio.current_time() + idle) as scope:
            self._port.on_read = lambda: self._extend(scope, idle)
            try:
                await self._inbox.wait()
            finally:
                self._port.on_read = None
        if scope.cancelled_caught:
            raise self._failed(IdleTimeout(f"no byte arrived for {idle:g} s"))

    def _extend(self, scope: trio.CancelScope, idle: float) -> None:
        scope.deadline = trio.current_time() + idle

    @property
    def _is_ended(self) -> bool:
        return self._eof_sent and not self._port.exchanges and not self._line.admitted

    def _check_ended(self) -> None:
        if self._is_ended:
            self._wire.stop_listening()
            self._inbox.wake()

    # -- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Let what has no answer be delivered, end the session, close.

        All within `close_timeout`. Requests that are not answered are given up. In a
        cancelled scope nothing is waited for, and no session ended. Called again, it waits
        for the first call.
        """
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._state.is_open:
                self._state.move(ChannelState.CLOSING)
                self._inbox.wake()  # before the server ends what it hears is over
                with (
                    trio.move_on_after(self._options.close_timeout),
                    # It may fail meanwhile, or another task may abort it.
                    contextlib.suppress(ChannelBroken, trio.ClosedResourceError),
                ):
                    await self._line.settled()
                    await self._wire.close()
            else:
                await self._state.wait((ChannelState.CLOSED, ChannelState.FAILED))
        finally:
            self.abort()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def abort(self, cause: ChannelBroken | None = None) -> None:
        """Close at once. See `MessageChannel.abort`."""
        if cause is not None:
            self._fail(cause)
        elif not self._state.is_final:
            self._state.move(ChannelState.CLOSED)
            self._let_go(keep=False)

    def _failed(self, cause: ChannelBroken) -> ChannelBroken:
        """Fail with the cause, if it is the first; returns the exception to raise."""
        self._fail(cause)
        return (self._state.failure or cause).again()

    def _fail_with(self, error: Exception) -> None:
        self._fail(stream_lost(error, "while receiving"))

    def _fail(self, cause: ChannelBroken, *, silently: bool = False) -> None:
        if self._state.fail(cause):
            if not silently:
                self._report("connection.failed", f"the channel failed: {cause}", cause)
            self._let_go(keep=True)

    def _let_go(self, *, keep: bool) -> None:
        """Stop everything and wake whoever waits here."""
        self._inbox.close(keep=keep)
        self._tasks.close()
        self._line.close(self._state.ending)
        self._wire.abort()
        if self._owns_sender:
            self._sender.close()
        for exchange in self._running:
            exchange.silence()
        self._port.exchanges.clear()

    def _report(self, name: str, message: str, error: BaseException | None) -> None:
        report(
            self._on_event,
            ChannelEvent(name=name, message=message, error=error, context=self._context),
        )


def _needs_no_word(target: Exchange) -> bool:
    """Whether a request is cancelled without `notifications/cancelled`.

    Closing its stream says it all where it is a modern one; and what the server never saw
    needs no word.
    """
    return target.revision is not None or target.phase < Phase.WRITTEN
