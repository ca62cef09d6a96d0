"""Which message goes out when: admission and order of one HTTP client channel.

Used by `HttpClientChannel`. Each message is an exchange of its own, and requests run beside
each other. Theory of operation:

* At most `max_exchanges` are admitted; whoever sends more waits in line, first come first
  served, and has sent nothing if it is cancelled there.
* A message without an answer (a notification, a response) starts when every earlier one is
  written, so that no cancel overtakes its request, and later ones start when the server has
  taken it. So `initialized` stands before whatever comes after it.
* While `initialize` is unanswered nothing but `ping` starts. 2025-11-25, lifecycle: "The
  client SHOULD NOT send requests other than pings before the server has responded to the
  initialize request."
* What is sent by the control lane passes those who wait for admission, and nothing else.

All but `admit` and `settled` is synchronous.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context

import outcome
import trio

from ..abc import ChannelBroken, OutboxOverflow
from ..jsonrpc import ErrorResponse, Message, Request, RequestId, Response
from ..limits import CONTROL_LANE_BYTES
from ..sansio.headers import Headers
from ..sansio.mcp_http.answers import modern_revision
from ..sansio.mcp_http.reconnect import Reconnect
from .http_sender import BegunRequest

__all__ = ["Exchange", "Phase", "SendLine"]


class Phase(enum.IntEnum):
    """How far an exchange has come."""

    WAITING = 0  # for admission
    QUEUED = 1
    STARTED = 2
    WRITTEN = 3
    TAKEN = 4  # the head of its response is there
    DONE = 5


# Looking up a member of an enum costs, before Python 3.12.
_WAITING, _QUEUED, _STARTED, _WRITTEN, _TAKEN, _DONE = Phase


class Exchange:
    """One message on its way, and what answers it.

    Attributes:
        message: The message.
        data: The same, encoded.
        request_id: Its id, if it is a request.
        is_request: Whether it will be answered by a message.
        revision: What its `_meta` says: a modern message; else None.
        given_up: Whether it is to end, with or without an answer.
        stop: Ends what its task waits for, while it waits; called when it is given up.
        begun: Its request, where that was sent at once, and the fields of that.
        phase: How far it has come.
        answered: Whether its answer was delivered.
        silent: Whether it ends without one: it was cancelled.
        cause: Why it is given up; it becomes the cause of its answer.
        generation: The session that it was sent in.
        retried: Whether it was sent a second time.
        cancels: The request that it cancels, for which there is nothing to do once it is
            delivered.
        is_cancelled: Whether the application has cancelled it, and that was admitted.
        is_control: Whether it was sent by the control lane.
        is_internal: Whether the channel itself sent it, and gets its answer.
        opens_stream: Whether later ones wait until it is over: the standalone stream opens
            with it.
        reply: The answer of an internal one, with the head that brought it.
        held: An answer that is kept back until it is clear that it stands.
        resume: How to go on with its stream, which was lost for this reason.
        parked: Set when its answer has come by another stream, where it waits for that.
        context: The context variables of its sender, while it is queued.
    """

    __slots__ = (
        "answered",
        "begun",
        "cancels",
        "cause",
        "context",
        "data",
        "generation",
        "given_up",
        "held",
        "is_cancelled",
        "is_control",
        "is_internal",
        "is_request",
        "message",
        "opens_stream",
        "parked",
        "phase",
        "reply",
        "reply_headers",
        "request_id",
        "resume",
        "retried",
        "revision",
        "sent_headers",
        "silent",
        "stop",
    )

    def __init__(self, message: Message, data: bytes) -> None:
        self.message = message
        self.data = data
        self.request_id: RequestId | None = message.id if type(message) is Request else None
        self.is_request = self.request_id is not None
        self.revision = modern_revision(message)
        self.given_up = False
        self.stop: Callable[[], object] | None = None
        self.begun: BegunRequest | None = None
        self.sent_headers: Headers | None = None
        self.phase: Phase = _WAITING
        self.answered = False
        self.silent = False
        self.cause: Exception | None = None
        self.generation = 0
        self.retried = False
        self.cancels: Exchange | None = None
        self.is_control = False
        self.is_internal = False
        self.opens_stream = False
        self.reply: Response | ErrorResponse | None = None
        self.reply_headers: Headers | None = None
        self.is_cancelled = False
        self.held: ErrorResponse | None = None
        self.parked: trio.Event | None = None
        self.resume: tuple[Reconnect, Exception] | None = None
        self.context: Context | None = None

    @property
    def is_initialize(self) -> bool:
        """Whether it begins a session."""
        return (
            type(self.message) is Request
            and self.message.method == "initialize"
            and self.revision is None
        )

    def give_up(self, cause: Exception) -> None:
        """End it with a cause, unless its answer has come; that one may wait for room."""
        if self.cause is None and not self.answered:
            self.cause = cause
            self._give_up()

    def silence(self) -> None:
        """End it without an answer: whoever sent it wants none any more."""
        self.silent = True
        self._give_up()

    def _give_up(self) -> None:
        self.given_up = True
        if self.stop is not None:
            self.stop()


class SendLine:
    """The sending half of one HTTP client channel.

    Args:
        limit: `max_exchanges`.
        start: Starts the task of an exchange.

    Attributes:
        admitted: Exchanges that are not done.
    """

    def __init__(self, limit: int, start: Callable[[Exchange], object]) -> None:
        self._limit = limit
        self._start = start
        self._queue: deque[Exchange] = deque()
        self._waiting: deque[tuple[trio.lowlevel.Task, Sequence[Exchange]]] = deque()
        self._unwritten = 0
        self._delivering: Exchange | None = None
        self._initializing: Exchange | None = None
        self._control_bytes = 0
        self._settled: list[trio.lowlevel.Task] = []
        self.admitted = 0

    @property
    def is_settled(self) -> bool:
        """Whether every message is written, and taken if that is all it gets."""
        return not self._queue and not self._unwritten and self._delivering is None

    @property
    def queued_bytes(self) -> int:
        """Bytes of the messages that could not start yet."""
        return sum(len(exchange.data) for exchange in self._queue)

    @property
    def has_room(self) -> bool:
        """Whether one more would be admitted at once."""
        return not self._waiting and self._has_room(1)

    # -- admission -------------------------------------------------------------------

    def try_admit(self, exchanges: Sequence[Exchange]) -> bool:
        """Queue or start them now, if there is room for all and nobody waits in line."""
        if self._waiting or not self._has_room(len(exchanges)):
            return False
        self._admit(exchanges)
        return True

    async def admit(self, exchanges: Sequence[Exchange]) -> None:
        """Wait in line until there is room. `Cancelled` means that nothing was queued.

        Raises:
            ChannelBroken: The channel failed meanwhile.
            trio.ClosedResourceError: It was closed meanwhile.
        """
        ticket = (trio.lowlevel.current_task(), exchanges)
        self._waiting.append(ticket)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(ticket)
            self._serve_waiting()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def put_control(self, exchange: Exchange) -> ChannelBroken | None:
        """Queue or start a message past those who wait for admission.

        Returns:
            None, or what the channel fails with: too many of them wait.
        """
        size = len(exchange.data)
        if self._control_bytes and self._control_bytes + size > CONTROL_LANE_BYTES:
            return OutboxOverflow(
                f"the control lane is full ({self._control_bytes} bytes wait):"
                " the server does not take what it is sent"
            )
        exchange.is_control = True
        self._control_bytes += size
        self._admit([exchange])
        return None

    def _has_room(self, count: int) -> bool:
        return not self.admitted or self.admitted + count <= self._limit

    def _admit(self, exchanges: Sequence[Exchange]) -> None:
        self.admitted += len(exchanges)
        for exchange in exchanges:
            exchange.phase = _QUEUED
            if exchange.cancels is not None:
                exchange.cancels.is_cancelled = True
            if self._queue or not self._may_start(exchange):
                exchange.context = copy_context()
                self._queue.append(exchange)
            else:
                self._begin(exchange)
        if self._queue and exchanges[-1] is self._queue[-1]:
            self._pump()  # a ping may go out although others wait

    def _serve_waiting(self) -> None:
        while self._waiting and self._has_room(len(self._waiting[0][1])):
            task, exchanges = self._waiting.popleft()
            task.context.copy().run(self._admit, exchanges)
            trio.lowlevel.reschedule(task)

    # -- order -----------------------------------------------------------------------

    def _may_start(self, exchange: Exchange) -> bool:
        if self._initializing is not None and not _is_ping(exchange):
            return False
        if self._delivering is not None:
            return False
        return exchange.is_request or not self._unwritten

    def _begin(self, exchange: Exchange) -> None:
        exchange.phase = _STARTED
        self._unwritten += 1
        if not exchange.is_request:
            self._delivering = exchange
        elif exchange.is_initialize:
            self._initializing = exchange
        self._start(exchange)

    def _begin_queued(self, exchange: Exchange) -> None:
        """Begin one whose turn has come, with the context variables of who sent it."""
        context, exchange.context = exchange.context, None
        assert context is not None
        context.run(self._begin, exchange)

    def _pump(self) -> None:
        """Start what may start now, in order."""
        while self._queue and self._may_start(self._queue[0]):
            self._begin_queued(self._queue.popleft())
        if self._initializing is not None and self._delivering is None:
            for exchange in [found for found in self._queue if _is_ping(found)]:
                self._queue.remove(exchange)
                self._begin_queued(exchange)
        if self._settled and self.is_settled:
            tasks, self._settled = self._settled, []
            for task in tasks:
                trio.lowlevel.reschedule(task)

    # -- progress of an exchange -----------------------------------------------------

    def written(self, exchange: Exchange) -> None:
        """The operating system has it."""
        if exchange.phase is _STARTED:
            exchange.phase = _WRITTEN
            self._unwritten -= 1
            if self._queue or self._settled:
                self._pump()

    def taken(self, exchange: Exchange) -> None:
        """The head of its response is there."""
        self.written(exchange)
        if exchange.phase is _WRITTEN:
            exchange.phase = _TAKEN
        if self._delivering is exchange:
            self._delivering = None
            self._pump()

    def done(self, exchange: Exchange) -> None:
        """It is over, one way or another. Idempotent."""
        if exchange.phase is _DONE:
            return
        if exchange.phase is _QUEUED and exchange in self._queue:
            self._queue.remove(exchange)
            self._pump()
        self.taken(exchange)
        exchange.phase = _DONE
        if self._initializing is exchange:
            self._initializing = None
            self._pump()
        if exchange.is_control:
            self._control_bytes -= len(exchange.data)
        self.admitted -= 1
        if self._waiting:
            self._serve_waiting()

    # -- the end ---------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait until `is_settled`.

        Raises:
            ChannelBroken: The channel failed meanwhile.
            trio.ClosedResourceError: It was closed meanwhile.
        """
        if self.is_settled:
            await trio.lowlevel.checkpoint()
            return
        task = trio.lowlevel.current_task()
        self._settled.append(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._settled.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def close(self, error: Callable[[], BaseException]) -> None:
        """Drop what has not started and wake everybody with an exception of their own."""
        self._queue.clear()
        woken = [task for task, _ in self._waiting] + self._settled
        self._waiting.clear()
        self._settled.clear()
        for task in woken:
            trio.lowlevel.reschedule(task, outcome.Error(error()))


def _is_ping(exchange: Exchange) -> bool:
    message = exchange.message
    return type(message) is Request and message.method == "ping"
