"""What has come and was not received yet: one queue, bounded in bytes.

Used by `HttpClientChannel`, for all its exchanges, and by `WebSocketChannel`. They put what
they read; whoever finds no room waits in line, which keeps it from reading on, and so its peer
from sending on. If the application takes nothing for `inbox_stall_timeout` meanwhile, that is
the channel's end: without it a forgotten channel would hold all its connections for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from ..abc import ChannelBroken, InboxStalled
from ..jsonrpc import Message
from ..limits import ChannelOptions

__all__ = ["Inbox", "Sized"]

#: A message and the bytes that it came in.
Sized = tuple[Message, int]


class Inbox:
    """The receiving half of one channel that reads by itself.

    Args:
        options: `inbox_bytes` and `inbox_stall_timeout` count here.
        on_stall: Called once with the cause when nobody reads.

    Attributes:
        size: Bytes that wait.
    """

    def __init__(
        self, options: ChannelOptions, on_stall: Callable[[ChannelBroken], object]
    ) -> None:
        self._limit = options.inbox_bytes
        self._stall_timeout = options.inbox_stall_timeout
        self._on_stall = on_stall
        self._queue: deque[Sized] = deque()
        # Each with its bytes: whoever takes looks whether the first of the line fits by now.
        self._line: deque[tuple[trio.lowlevel.Task, Sequence[Sized], int]] = deque()
        self._scopes: list[trio.CancelScope] = []
        self._receiver: trio.lowlevel.Task | None = None
        self._last_taken = 0.0
        self._closed = False
        self.size = 0

    def __len__(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    def try_put(self, items: Sequence[Sized]) -> bool:
        """Do what `put` does, if it needs no waiting; whether it was done."""
        if not self._closed:
            size = _bytes_of(items)
            if self._line or not self._fits(size):
                return False
            self._add(items, size)
        return True

    async def put(self, items: Sequence[Sized]) -> None:
        """Queue messages, all at once, when there is room or nothing else waits.

        No checkpoint where there is room. Cancelled, nothing was queued. After the
        channel's end they are dropped.
        """
        if self.try_put(items):
            return
        size = _bytes_of(items)
        if not self._line:
            self._last_taken = trio.current_time()
        ticket = (trio.lowlevel.current_task(), items, size)
        self._line.append(ticket)

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._line.remove(ticket)
            self._serve_line()
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.CancelScope(deadline=self._last_taken + self._stall_timeout) as scope:
            self._scopes.append(scope)
            try:
                await trio.lowlevel.wait_task_rescheduled(give_up)
            finally:
                self._scopes.remove(scope)
        if scope.cancelled_caught:
            self._on_stall(
                InboxStalled(
                    f"nobody received for {self._stall_timeout:g} s while"
                    f" {self.size} bytes of messages waited"
                )
            )

    def put_owed(self, message: Message) -> None:
        """Queue a small message of this side's own, whether there is room or not."""
        if not self._closed:
            self._add([(message, 0)], 0)

    def take(self, max_messages: int) -> list[Message]:
        """What waits, at most so many; makes room for those in line."""
        queue = self._queue
        taken: list[Message]
        if len(queue) <= max_messages:
            taken = [message for message, _ in queue]
            queue.clear()
            self.size = 0
        else:
            taken = []
            while len(taken) < max_messages:
                message, size = queue.popleft()
                self.size -= size
                taken.append(message)
        if self._line:
            now = trio.current_time()
            # To move a deadline costs more than to take a message: it may be a little early.
            if now - self._last_taken >= self._stall_timeout / 64:
                self._last_taken = now
                for scope in self._scopes:
                    scope.deadline = now + self._stall_timeout
            self._serve_line()
        return taken

    async def wait(self) -> None:
        """Park the receiver until something comes or `wake` is called."""
        self._receiver = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def wake(self) -> None:
        """Wake the receiver, if one waits."""
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    def close(self, *, keep: bool) -> None:
        """Take nothing more and let everybody go.

        Args:
            keep: Whether what waits may still be received: after a failure it may.
        """
        self._closed = True
        if not keep:
            self._queue.clear()
            self.size = 0
        line, self._line = self._line, deque()
        for task, _, _ in line:
            trio.lowlevel.reschedule(task)
        self.wake()

    def _fits(self, size: int) -> bool:
        return not self._queue or self.size + size <= self._limit

    def _add(self, items: Sequence[Sized], size: int) -> None:
        self._queue.extend(items)
        self.size += size
        self.wake()

    def _serve_line(self) -> None:
        while self._line and self._fits(self._line[0][2]):
            task, items, size = self._line.popleft()
            self._add(items, size)
            trio.lowlevel.reschedule(task)


def _bytes_of(items: Sequence[Sized]) -> int:
    return sum(size for _, size in items)
