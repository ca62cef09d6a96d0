"""What a channel over HTTP has to say, on its way to the response that carries it.

Used by `http_channel`. Theory of operation:

* Something to say is an *act*: a callable that makes the next `Step` of the stream's pure
  writer. Acts are done one after the other, in the order in which they came. A step's
  records are appended to the event store first, then its events are written.
* Where there is no store and nothing waits, an act is done right away, by whoever
  brings it. Otherwise it is queued, and a task does what is queued; it exists only while
  there is something to do, so an idle stream costs nothing.
* What is queued here and what the connection holds are bounded together. Senders that find
  no room wait in line with their acts; whoever makes room queues those for them and wakes
  them. So nothing overtakes, and a sender that was cancelled has queued nothing.
* The connection may go away and be replaced, or there may be none for a time: a stream
  that can be resumed goes on, its events go to the store alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import outcome
import trio

from ..sansio.http1 import EndOfBody, ResponseHead
from ..sansio.mcp_http.streams import Step

if TYPE_CHECKING:
    from .http_request import HttpRequestStream

__all__ = ["Act", "AsyncAct", "Outflow", "StoreStep"]

#: Makes the next step; called in order, by one task at a time.
Act: TypeAlias = Callable[[], Step]
#: Likewise, for what must wait in between.
AsyncAct: TypeAlias = Callable[[], Awaitable[Step]]
#: Does what a step asks of the event store.
StoreStep: TypeAlias = Callable[[Step], Awaitable[None]]


class Outflow:
    """The acts of one stream.

    Args:
        nursery: Where the task runs while there is one.
        limit: Bytes that may wait, here and in the connection.
        carrier: The response that carries the stream, if there is one.
        store: Appends records and notes the end; None where there is no store.

    Attributes:
        nursery: See above.
        carrier: See above; may be replaced.
        on_failure: Called with what the store raised; then nothing more is done.
        size: Bytes that wait here.
        is_storing: Whether a step was made that the store is still to take: its events are
            not written yet, so nothing else may be.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        limit: int,
        carrier: HttpRequestStream | None,
        store: StoreStep | None,
    ) -> None:
        self.carrier = carrier
        self.on_failure: Callable[[Exception], object] | None = None
        self.size = 0
        self.is_storing = False
        self._last: HttpRequestStream | None = None  # whose response is complete
        self.nursery = nursery
        self._limit = limit
        self._store = store
        self._queue: deque[tuple[Act | AsyncAct, int]] = deque()
        self._line: deque[tuple[trio.lowlevel.Task, Act, int]] = deque()
        self._on_dropped: dict[Act | AsyncAct, Callable[[], object]] = {}
        self._working = False
        self._idle: trio.Event | None = None
        self._closed: Callable[[], BaseException] | None = None

    @property
    def backlog(self) -> int:
        """Bytes that wait, here and in the connection."""
        carrier = self.carrier
        return self.size if carrier is None else self.size + carrier.held

    @property
    def is_idle(self) -> bool:
        """Whether no task does what is queued here."""
        return not self._working

    def has_room(self, size: int) -> bool:
        """Whether so much may be said now: it fits, or nothing waits."""
        return not self._line and self._fits(size)

    def _fits(self, size: int) -> bool:
        backlog = self.backlog
        return not backlog or backlog + size <= self._limit

    def put(self, act: Act, size: int) -> None:
        """Do an act after those before it, whether there is room or not."""
        if self._closed is not None:
            return
        if self._working or self._store is not None:
            self._queue.append((act, size))
            self.size += size
            self._start()
        else:
            self._write(act())

    def takes_whole(self, size: int) -> bool:
        """Whether `respond` may be called with so much: it goes out, and nothing before it."""
        carrier = self.carrier
        if carrier is None or self._working or self._store is not None or self._closed is not None:
            return False
        held = carrier.held
        return not held or held + size <= self._limit

    def respond(self, head: ResponseHead, body: bytes) -> None:
        """Write a whole response, which is all that is said here; only if `takes_whole`."""
        carrier = self.carrier
        assert carrier is not None
        carrier.on_gone = None
        self.carrier, self._last = None, carrier
        carrier.respond(head, body)

    def put_last(self, step: Step) -> None:
        """Do the last step of a stream, whether or not `close` came before."""
        self._queue.append((lambda: step, 0))
        self._start()

    def put_async(self, act: AsyncAct, on_dropped: Callable[[], object]) -> None:
        """Do an act that must wait, after those before it and before those after it.

        Args:
            act: The act.
            on_dropped: Called instead, if this closes before its turn.
        """
        if self._closed is not None:
            on_dropped()
            return
        self._queue.append((act, 0))
        self._on_dropped[act] = on_dropped
        self._start()

    async def wait_and_put(self, act: Act, size: int) -> None:
        """Wait in line for room, then queue; a cancelled wait has queued nothing.

        Raises:
            Exception: What `close` was given, if that came first.
        """
        ticket = (trio.lowlevel.current_task(), act, size)
        self._line.append(ticket)
        self._start()

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._line.remove(ticket)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    async def settle(self) -> None:
        """Wait until all that was put is stored and written, or was dropped by `close`.

        Not necessarily a checkpoint.
        """
        while self._working:
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()

    async def flush(self) -> None:
        """Wait until all that was put is with the operating system, or has nowhere to go."""
        await self.settle()
        carrier = self.carrier or self._last
        if carrier is not None:
            await carrier.flush()
        else:
            await trio.lowlevel.checkpoint()

    def close(self, error: Callable[[], BaseException]) -> None:
        """Forget what waits; wake those in line with an exception of their own."""
        if self._closed is not None:
            return
        self._closed = error
        self._queue.clear()
        self.size = 0
        dropped, self._on_dropped = self._on_dropped, {}
        for on_dropped in dropped.values():
            on_dropped()
        line, self._line = self._line, deque()
        for task, _, _ in line:
            trio.lowlevel.reschedule(task, outcome.Error(error()))

    # -- inside -------------------------------------------------------------------------

    def _write(self, step: Step) -> None:
        carrier, events = self.carrier, step.events
        if events and carrier is not None:
            if type(events[-1]) is EndOfBody:
                # The connection goes on to its next request.
                carrier.on_gone = None
                self.carrier, self._last = None, carrier
            carrier.write(*events)

    def _start(self) -> None:
        if not self._working:
            self._working = True
            self.nursery.start_soon(self._work, name="trio_mcp_transport outflow")

    async def _work(self) -> None:
        """Do what is queued, admit who waits; ends when there is neither."""
        try:
            while self._queue or self._line:
                if self._queue:
                    act, size = self._queue.popleft()
                    self._on_dropped.pop(act, None)
                    made = act()
                    step = made if isinstance(made, Step) else await made
                    if (step.records or step.finished) and self._store is not None:
                        self.is_storing = True
                        try:
                            await self._store(step)
                        finally:
                            self.is_storing = False
                    self.size = max(0, self.size - size)
                    self._write(step)
                elif self.carrier is not None and not self._fits(self._line[0][2]):
                    await self.carrier.flush()
                self._admit()
        except Exception as error:
            if self.on_failure is None:
                raise
            self.on_failure(error)
        finally:
            self._working = False
            if self._idle is not None:
                self._idle.set()
                self._idle = None

    def _admit(self) -> None:
        while self._line and self._fits(self._line[0][2]):
            task, act, size = self._line.popleft()
            self._queue.append((act, size))
            self.size += size
            trio.lowlevel.reschedule(task)
