"""What all responses of one HTTP service hold for clients that do not take it, together.

Used by `http_connection` and `interop.asgi_request`. What one connection may hold is bounded
there; a thousand of them that never read would still fill the memory. Beyond the limit
of this, connections are cut off until there is room: those first that have taken nothing for
the longest time.

Theory of operation: a sender tells of itself when it has written what was not taken at once.
It never tells when that was taken, which would cost every answer something; so the sum is too
high, at times, and is made anew before anybody is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Unsent", "UnsentHolder"]


class UnsentHolder(Protocol):
    """A connection, or whatever else responses are written to."""

    @property
    def held(self) -> int:
        """Bytes that it holds."""

    @property
    def taken(self) -> int:
        """Bytes that were taken from it, ever."""

    def cut(self) -> None:
        """End at once and hold nothing; called synchronously, maybe within a write."""


class _Entry:
    """What is known of one that holds something.

    Attributes:
        size: What it held when it was last looked at.
        goal: How much will have been taken when all that it held in the beginning is.
    """

    __slots__ = ("goal", "size")

    def __init__(self, holder: UnsentHolder) -> None:
        self.size = holder.held
        self.goal = holder.taken + self.size


class Unsent:
    """The bytes that wait to be sent, and who holds them.

    Args:
        limit: Most bytes; a single holder may exceed it.
        on_cut: Called with the bytes that each one held that is cut off.
    """

    def __init__(self, limit: int, on_cut: Callable[[int], object]) -> None:
        self._limit = limit
        self._on_cut = on_cut
        self._entries: dict[UnsentHolder, _Entry] = {}  # the slowest first
        self._size = 0

    def __len__(self) -> int:
        """How many hold something, or did when they were last looked at."""
        return len(self._entries)

    def note(self, holder: UnsentHolder) -> None:
        """It was written to, and holds something. May cut off this one, or others."""
        self._look_at(holder)
        if self._size > self._limit:
            for known in list(self._entries):
                self._look_at(known)
            while self._size > self._limit and len(self._entries) > 1:
                self._cut(next(iter(self._entries)))

    def forget(self, holder: UnsentHolder) -> None:
        """It has ended."""
        entry = self._entries.pop(holder, None)
        if entry is not None:
            self._size -= entry.size

    def _look_at(self, holder: UnsentHolder) -> None:
        entry = self._entries.get(holder)
        if entry is not None and holder.taken < entry.goal:
            self._size += holder.held - entry.size
            entry.size = holder.held
            return
        # It took all that it held at first: it is not slower than the others.
        self.forget(holder)
        if holder.held:
            entry = self._entries[holder] = _Entry(holder)
            self._size += entry.size

    def _cut(self, holder: UnsentHolder) -> None:
        size = holder.held
        self.forget(holder)
        holder.cut()
        self._on_cut(size)
