"""The timeouts of many connections, sessions and streams, kept by one task.

Used by the HTTP server, where a cancel scope around each wait would cost more than the
wait: here, moving a deadline is the assignment of a number, nearly always.

Theory of operation: a heap holds, for each `Timer`, the time at which it is to be looked
at. A timer whose deadline moved on is found to be not due then, and is put back; so
deadlines that move later and later (an idle connection that is used) touch the heap once
per period. The task sleeps until the first entry, in a cancel scope whose deadline is
moved when an earlier one comes in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

import trio

__all__ = ["Deadlines", "Timer"]

#: Entries of closed or moved timers that are left in the heap before it is built anew.
_MAX_DEAD_ENTRIES = 64


class Timer:
    """One deadline, and what to call when it has passed.

    Attributes:
        due: The time, on Trio's clock; `math.inf` when there is none.
    """

    __slots__ = ("_callback", "_deadlines", "_looked_at", "due")

    def __init__(self, deadlines: Deadlines, callback: Callable[[], object]) -> None:
        self._deadlines = deadlines
        self._callback: Callable[[], object] | None = callback
        self._looked_at = math.inf
        self.due = math.inf

    def set(self, due: float) -> None:
        """Move the deadline; `math.inf` takes it away. A closed timer stays closed."""
        if self._callback is None:
            return
        self.due = due
        if due < self._looked_at:
            superseded = self._looked_at < math.inf
            self._looked_at = due
            self._deadlines._push(due, self)
            if superseded:
                self._deadlines._note_dead()

    def close(self) -> None:
        """Take the deadline away for good, and let go of the callback. Idempotent."""
        if self._callback is not None:
            self._callback = None
            self.due = math.inf
            if self._looked_at < math.inf:
                self._looked_at = math.inf
                self._deadlines._note_dead()


class Deadlines:
    """The timers of one listener. `run` is to run in a task for as long as they count.

    Args:
        on_error: Called with what a callback raised, which should not happen: the other
            timers must not suffer for it. Without it the exception leaves `run`.
    """

    def __init__(self, on_error: Callable[[Exception], object] | None = None) -> None:
        self._on_error = on_error
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._dead = 0
        self._sleep: trio.CancelScope | None = None

    def __len__(self) -> int:
        """How many entries there are, for tests that look for what is left behind."""
        return sum(at == timer._looked_at for at, _, timer in self._heap)

    def timer(self, callback: Callable[[], object]) -> Timer:
        """A timer that calls this when it is due, synchronously."""
        return Timer(self, callback)

    async def run(self) -> None:
        """Call what is due, when it is due. Never returns."""
        while True:
            self._expire(trio.current_time())
            first = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=first) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None

    def _expire(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            looked_at, _, timer = heapq.heappop(heap)
            if looked_at != timer._looked_at:  # closed, or moved to an earlier time since
                self._dead = max(0, self._dead - 1)
            elif timer._callback is not None:
                timer._looked_at = math.inf
                if timer.due <= now:
                    timer.due = math.inf
                    self._call(timer._callback)
                elif timer.due < math.inf:
                    timer.set(timer.due)

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception as error:
            if self._on_error is None:
                raise
            self._on_error(error)

    def _push(self, due: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (due, next(self._order), timer))
        if self._sleep is not None and due < self._sleep.deadline:
            self._sleep.deadline = due

    def _note_dead(self) -> None:
        self._dead += 1
        if self._dead > _MAX_DEAD_ENTRIES and self._dead * 2 > len(self._heap):
            # In place: `_expire` may be at work on it.
            self._heap[:] = [entry for entry in self._heap if entry[0] == entry[2]._looked_at]
            heapq.heapify(self._heap)
            self._dead = 0
