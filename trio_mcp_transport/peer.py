"""One side of a JSON-RPC conversation on a channel: requests out, handlers in.

Applications use a `Peer` directly; `Router` says what it answers, `negotiate` makes an MCP
client of it.

Theory of operation. One task reads the channel and never waits for anything else: not for
a send (what it must say itself goes through the channel's control lane), not for a free
handler, not for the application. Whoever waits for an answer is parked and woken by the
reader. Each request that comes in runs in a task of its own, which also sends the answer,
inside of the cancel scope that the other side's `notifications/cancelled` cancels: an
answer is therefore sent whole or not at all. When reading ends, for whatever reason, the
reader's task takes the peer down: requests in flight fail with the cause, handlers may
finish within `drain`, the channel is closed.

An exchange (one POST over HTTP) is a channel as well, but there is a peer for each, so what
its life costs counts: such a channel hands its messages over synchronously, there is
no reader's task, its first request is handled in the task that called `run`, and whatever
else needs a task gets it from the nursery that the channel lends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar, overload

import msgspec
import trio
from msgspec import UNSET, Raw

from .abc import ChannelBroken, ChannelEvent, ConnectionLost, EventHandler, MessageChannel
from .conversation import (
    AcceptsBatches,
    Conversation,
    Dispatcher,
    RequestPolicy,
    TellsBrokenAnswers,
)
from .errors import LocalProtocolError, RpcError
from .handlers import Handlers, PeerErrorCode
from .incoming import Incoming
from .jsonrpc import Notification, RequestId
from .lent_nursery import LentNursery, Tasks
from .limits import (
    DEFAULT_DRAIN_SECONDS,
    DEFAULT_MAX_HANDLERS,
    DEFAULT_MAX_HELD_BYTES,
    DEFAULT_MAX_QUEUED_REQUESTS,
    DEFAULT_MAX_REQUEST_TIMEOUT,
    MAX_QUEUED_NOTIFICATIONS,
)
from .outgoing import Outgoing, fresh
from .pending import Progress
from .reporting import diagnose, lone_exception, report
from .sansio.eras import Negotiated
from .sansio.metadata import with_meta

__all__ = ["Peer", "PeerErrorCode", "PeerStatistics"]

T = TypeVar("T")


class PeerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one peer since its start, and how much it has to do now.

    Attributes:
        requests_sent: Requests that were handed to the channel.
        requests_received: Requests that came, refused ones included.
        requests_refused: Requests that were answered with an error without a handler.
        requests_pending: Sent requests without an answer, now.
        handlers_running: Handlers, now.
        handlers_waiting: Requests that wait for a handler, now.
        handlers_bytes: What these and the notifications in work hold, now.
        answers_late: Answers to requests that had been given up.
        answers_unknown: Answers to nothing that was asked.
        progress_dropped: Progress that did not rise, or was nobody's.
        notifications_dropped: Notifications that found their queue full.
        cancels_ignored: Cancellations of what was not running or must not be cancelled.
    """

    requests_sent: int
    requests_received: int
    requests_refused: int
    requests_pending: int
    handlers_running: int
    handlers_waiting: int
    handlers_bytes: int
    answers_late: int
    answers_unknown: int
    progress_dropped: int
    notifications_dropped: int
    cancels_ignored: int


class Peer:
    """One side of a conversation: sends requests, runs handlers for those that come.

    Use it as ``async with Peer(channel, router) as peer:``, which runs its tasks in a
    nursery of its own and closes the channel at the end, or ``await Peer(channel,
    router).run()`` where the other side decides when it ends. What the block raises leaves
    it as it is. A peer is used once.

    Args:
        channel: The channel, which from here on belongs to the peer.
        router: What answers requests; without one they are answered with -32601.
        request_timeout: Seconds to wait for an answer; by default the channel's option.
        max_handlers: Requests that are handled at a time.
        max_queued: Requests that wait for a handler; more are refused at once with
            `PeerErrorCode.TOO_MANY_REQUESTS`.
        max_held_bytes: What the requests and notifications in work or waiting may hold in
            all. Beyond it requests are refused likewise and notifications dropped; one
            message may always come in, however large.
        drain: Seconds that handlers may run on after the other side's end, or after the
            beginning of this side's.
        expose_errors: Whether the text of a handler's exception goes out in the answer.
        on_event: Gets the faults that no caller sees; without one they are logged:
            ``handler.failed``, ``answer.late``, ``answer.unknown``,
            ``answer.dropped``, ``notification.dropped``, ``request.refused``,
            ``callback.failed``, ``drain.expired``.
    """

    def __init__(
        self,
        channel: MessageChannel,
        router: Dispatcher | None = None,
        *,
        request_timeout: float | None = None,
        max_handlers: int = DEFAULT_MAX_HANDLERS,
        max_queued: int = DEFAULT_MAX_QUEUED_REQUESTS,
        max_held_bytes: int = DEFAULT_MAX_HELD_BYTES,
        drain: float = DEFAULT_DRAIN_SECONDS,
        expose_errors: bool = False,
        on_event: EventHandler | None = None,
    ) -> None:
        if max_handlers < 1 or max_queued < 0 or max_held_bytes < 1:
            raise ValueError(
                "max_handlers and max_held_bytes must be at least 1, max_queued at least 0"
            )
        if request_timeout is None:
            request_timeout = channel.options.request_timeout
        self.channel = channel
        self.negotiated: Negotiated | None = None
        self.request_timeout = request_timeout
        self._drain = drain
        self._on_event = on_event
        self._policy: RequestPolicy | None = None
        self._outgoing = Outgoing(channel, self.report, self._diagnose)
        self._is_exchange = channel.context.exchange
        if not self._is_exchange and isinstance(channel, TellsBrokenAnswers):
            channel.on_broken_answer = self._outgoing.deliver_broken
        self._handlers = Handlers(
            channel,
            max_handlers=max_handlers,
            max_queued=max_queued,
            max_notifications=MAX_QUEUED_NOTIFICATIONS,
            max_bytes=max_held_bytes,
            expose_errors=expose_errors,
            reporter=self.report,
        )
        self._incoming = Incoming(self, self._outgoing, self._handlers)
        self._end: Exception | None = None
        self._closed = trio.Event()
        self._own_nursery: trio.Nursery | None = None
        self._tasks: Tasks | None = None
        self._kept: tuple[tuple[Callable[[], Awaitable[object]], str], ...] = ()
        self.conversation: Conversation | None = None if router is None else router.join(self)

    # -- life -----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start reading."""
        self._check_fresh()
        self._manager = trio.open_nursery()
        self._tasks = self._own_nursery = await self._manager.__aenter__()
        self._handlers.begin(self._tasks)
        self._tasks.start_soon(self._read)
        if self._kept:
            self._start_kept()
        if self._incoming.draining:
            self._end_when_drained()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Fail what is in flight, cancel the handlers, close the channel."""
        assert self._own_nursery is not None
        self._finish(trio.ClosedResourceError("this side closed the peer"))
        try:
            if not self._closed.is_set():
                self._handlers.cancel_all()
                await self.channel.aclose()
        finally:
            self._closed.set()
            self._own_nursery.cancel_scope.cancel()
            try:
                await self._manager.__aexit__(None, None, None)  # noqa: ASYNC102 (a cancelled nursery ends)
            except BaseExceptionGroup as group:
                # Background tasks record what happens to them; what comes here is a
                # KeyboardInterrupt or the cancellation of a scope around the peer.
                serious = group.split(trio.Cancelled)[1]
                if serious is not None:
                    raise lone_exception(serious) from None
                if exc is None:
                    raise

    async def run(self, stop: trio.Event | None = None) -> None:
        """Serve until the other side's EOF; then finish the handlers and close the channel.

        On an exchange (see `ChannelContext.exchange`) until its requests are answered, or
        its client has gone away, which is an ordinary thing there.

        Args:
            stop: Once it is set, this side ends likewise: see `drain`.

        Raises:
            ChannelBroken: The channel failed.
        """
        self._check_fresh()
        lender = self.channel.push_to(self._incoming.deliver, self._push_ended)
        if lender is not None:
            await self._run_pushed(LentNursery(lender), stop)
            return
        async with self:
            if stop is not None:
                assert self._tasks is not None
                self._tasks.start_soon(self._stop_on, stop)
            await self.wait_closed()
        if self._is_exchange:
            return
        if isinstance(self._end, ChannelBroken) and self.channel.failure is not None:
            raise self._end.again()

    async def _run_pushed(self, tasks: LentNursery, stop: trio.Event | None) -> None:
        """Serve a channel that hands its messages over, and has already begun to."""
        self._tasks = tasks
        try:
            first = self._handlers.begin(tasks, keep_first=self._is_exchange)
            if self._kept:
                self._start_kept()
            if stop is not None:
                tasks.start_soon(self._stop_on, stop)
            if self._incoming.draining:
                self._end_when_drained()
            if first is not None:
                await self._handlers.handle(first)
            if self._is_exchange:
                await self._handlers.wait_idle()
            else:
                await self._closed.wait()
        finally:
            self._finish(trio.ClosedResourceError("this side closed the peer"))
            self._handlers.cancel_all()
            self._closed.set()
            await tasks.aclose()  # noqa: ASYNC102 (cancelled tasks end)
            await self.channel.aclose()  # noqa: ASYNC102 (where this is cancelled, it aborts)

    def _push_ended(self, cause: Exception) -> None:
        """The channel will hand over no more."""
        if isinstance(cause, trio.EndOfChannel):
            self._finish(ConnectionLost("the other side ended the conversation"))
        else:
            # Nobody can be answered any more.
            self._finish(cause)
            self._handlers.cancel_all()
        if not self._is_exchange:
            self._closed.set()

    def _check_fresh(self) -> None:
        if self._tasks is not None:
            raise LocalProtocolError("a peer is used once")

    async def wait_closed(self) -> None:
        """Wait until the conversation has ended, whoever ended it."""
        await self._closed.wait()

    async def _stop_on(self, stop: trio.Event) -> None:
        await stop.wait()
        self.end_soon()

    def end_soon(self) -> None:
        """Begin to end gracefully, as `drain` does, and close the channel after that.

        Does not wait, and may be called before the peer runs. What is not done within
        `drain` seconds is cut off.
        """
        if self._incoming.draining or self._closed.is_set():
            return
        self._begin_drain()
        self._end_when_drained()

    def _end_when_drained(self) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._end_drained)

    async def _end_drained(self) -> None:
        await self._handlers.drain(self._drain)
        self._handlers.cancel_all()
        if self._is_exchange and isinstance(self._tasks, LentNursery):
            # With the last of them it ends; what was not answered then gets an error.
            self._tasks.cancel()
        else:
            await self.channel.aclose()  # which ends the reader, and that the rest

    async def drain(self) -> None:
        """Before stopping: let handlers finish what has begun, within `drain` seconds.

        Subscriptions are ended; requests that come from now on are refused with
        `PeerErrorCode.SHUTTING_DOWN`. What is not done in time is reported as
        ``drain.expired`` and goes on until the block is left.
        """
        self._begin_drain()
        await self._handlers.drain(self._drain)

    def _begin_drain(self) -> None:
        self._incoming.draining = True
        if self.conversation is not None:
            self.conversation.end()

    def statistics(self) -> PeerStatistics:
        """The counters now."""
        return PeerStatistics(
            requests_sent=self._outgoing.sent,
            requests_received=self._incoming.received,
            requests_refused=self._incoming.refused,
            requests_pending=len(self._outgoing),
            handlers_running=self._handlers.running,
            handlers_waiting=self._handlers.waiting,
            handlers_bytes=self._handlers.held,
            answers_late=self._outgoing.late,
            answers_unknown=self._outgoing.unknown,
            progress_dropped=self._outgoing.progress_dropped,
            notifications_dropped=self._incoming.notifications_dropped,
            cancels_ignored=self._incoming.cancels_ignored,
        )

    def report(self, name: str, message: str, error: BaseException | None = None) -> None:
        """Report a fault that no caller sees."""
        report(
            self._on_event,
            ChannelEvent(name=name, message=message, error=error, context=self.channel.context),
        )

    def _diagnose(self, name: str, message: str) -> None:
        """Tell of what is no fault; without a handler it is logged at the level debug."""
        event = ChannelEvent(name=name, message=message, context=self.channel.context)
        diagnose(self._on_event, event)

    def start_soon(self, work: Callable[[], Awaitable[object]], what: str) -> None:
        """Run something until the peer ends; an exception is reported, not raised.

        Before the peer runs, it is kept until then.

        Raises:
            trio.ClosedResourceError: The peer has ended.
        """
        if self._closed.is_set():
            raise trio.ClosedResourceError("the peer has ended")
        if self._tasks is None:
            self._kept = (*self._kept, (work, what))
        else:
            self._tasks.start_soon(self._handlers.guard, work, what)

    def _start_kept(self) -> None:
        kept, self._kept = self._kept, ()
        for work, what in kept:
            self.start_soon(work, what)

    # -- requests out ---------------------------------------------------------------

    def adopt(self, negotiated: Negotiated, policy: RequestPolicy | None) -> None:
        """Take on what `negotiate` found out; from now on requests follow it."""
        self.negotiated = negotiated
        self._policy = policy
        if negotiated.revision == "2025-03-26":
            self.accept_batches()

    def accept_batches(self) -> None:
        """Let the channel take arrays of messages from now on, if it can."""
        # 2025-03-26: implementations "MUST support receiving JSON-RPC batches".
        if isinstance(self.channel, AcceptsBatches):
            self.channel.accept_batches = True

    @overload
    async def request(
        self,
        method: str,
        params: object = None,
        *,
        result_type: type[T],
        timeout: float | None = None,  # ruff: ignore[async-function-with-timeout]
        max_timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_notification: Callable[[Notification], object] | None = None,
        id: RequestId | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> T: ...

    @overload
    async def request(
        self,
        method: str,
        params: object = None,
        *,
        result_type: None = None,
        timeout: float | None = None,  # ruff: ignore[async-function-with-timeout]
        max_timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_notification: Callable[[Notification], object] | None = None,
        id: RequestId | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> Raw: ...

    async def request(
        self,
        method: str,
        params: object = None,
        *,
        result_type: type[T] | None = None,
        timeout: float | None = None,  # ruff: ignore[async-function-with-timeout] (progress moves it)
        max_timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_notification: Callable[[Notification], object] | None = None,
        id: RequestId | None = None,  # ruff: ignore[builtin-argument-shadowing]
        meta: Mapping[str, object] | None = None,
    ) -> T | Raw:
        """Send a request and wait for its result. Any number of tasks may do so.

        Cancelling the call tells the other side to stop (never for `initialize`) and
        forgets the request. After `negotiate` found a modern server, the protocol's
        `_meta` is added, and what a server asks for with `input_required` is answered by
        this peer's own router, after which the request is sent anew: `timeout` is that of
        each sending.

        Args:
            method: The method's name.
            params: A mapping, or anything that msgspec encodes as an object or array;
                None for none.
            result_type: What to decode the result into; without it the raw JSON comes.
            timeout: Seconds without an answer; `request_timeout` by default, `math.inf`
                for none. Progress starts it anew.
            max_timeout: Seconds in spite of all progress. By default 600, or `timeout`
                where that is longer.
            on_progress: Called with each `Progress`. It runs in the reader: it must be
                quick and must not block.
            on_notification: Called, likewise, with each notification that belongs to this
                request: progress (which only `on_progress` asks for), messages of its
                subscription, and log messages while it is the only request in flight.
            id: The request's id; by default a number of the peer's own.
            meta: Keys for `_meta` of the params.

        Raises:
            RpcError: The other side answered with an error.
            RequestTimeout: There was no answer in time; the other side was told.
            RequestIdInUse: An earlier request with this id was not answered.
            MessageTooLarge: The request is over the channel's limit.
            ConnectionLost: The other side ended the conversation first.
            ChannelBroken: The channel failed; the cause is chained.
            trio.ClosedResourceError: This side closed the peer.
            InvalidMessage: The answer is malformed, though its id could be read.
            InvalidResult: The result breaks the negotiated revision.
            msgspec.ValidationError: The result is not of `result_type`.
        """
        if timeout is None:
            timeout = self.request_timeout
        if max_timeout is None:
            max_timeout = max(timeout, DEFAULT_MAX_REQUEST_TIMEOUT)
        policy = self._policy
        round_, refused = 0, False
        while True:
            sending = params if policy is None else policy.prepare(params)
            if meta is not None:
                sending = with_meta(sending, meta)
            tasks = self._check_open()
            try:
                raw = await self._outgoing.exchange(
                    tasks, method, sending, timeout, max_timeout, on_progress, on_notification, id
                )
            except RpcError as error:
                if policy is None or refused or not policy.may_retry(error):
                    raise
                id, refused = None, True  # ruff: ignore[builtin-variable-shadowing]
                continue
            if policy is None:
                break
            retry = await policy.follow_up(method, params, raw, round_)
            if retry is None:
                break
            # MCP patterns/mrtr: "The JSON-RPC id MUST be different between the initial
            # request and the retry".
            params, id, round_ = retry, None, round_ + 1  # ruff: ignore[builtin-variable-shadowing]
        return raw if result_type is None else msgspec.json.decode(raw, type=result_type)

    async def notify(self, method: str, params: object = None) -> None:
        """Send a notification.

        A checkpoint; `Cancelled` means that nothing was sent.

        Raises:
            MessageTooLarge: It is over the channel's limit.
            ChannelBroken: The channel failed.
            trio.ClosedResourceError: This side closed the peer.
        """
        await self.channel.send(Notification(method, UNSET if params is None else params))

    def _check_open(self) -> Tasks:
        if self._tasks is None:
            raise LocalProtocolError("the peer is not running: use `async with`")
        if self._end is not None:
            raise fresh(self._end) from self._end
        if self._is_exchange and self.channel.context.session is None:
            # 2026-07-28, Streamable HTTP: "The server MUST NOT send independent JSON-RPC
            # requests on this stream."
            raise LocalProtocolError("a server cannot send requests here: there is no session")
        return self._tasks

    # -- the reader -----------------------------------------------------------------

    async def _read(self) -> None:
        receive_many = self.channel.receive_many
        deliver = self._incoming.deliver
        try:
            while True:
                for message in await receive_many():
                    deliver(message)
        except trio.EndOfChannel:
            cause: Exception = ConnectionLost("the other side ended the conversation")
        except ChannelBroken as error:
            cause = error
        except trio.ClosedResourceError:
            cause = trio.ClosedResourceError("this side closed the channel")
        self._finish(cause)
        if self.channel.is_connected:
            await self._handlers.drain(self._drain)
        self._handlers.cancel_all()
        await self.channel.aclose()
        self._closed.set()

    def _finish(self, cause: Exception) -> None:
        """Fail what waits for answers, with the first cause; end what is endless."""
        if self._end is None:
            self._end = cause
            self._incoming.closed = self._handlers.ending = True
            self._outgoing.fail_all(cause)
            if self.conversation is not None:
                self.conversation.end()
