"""Bytes on their way to a stream: bounded, coalesced, written by one task.

Used by `StreamChannel`. Theory of operation:

* The writer owns the wire. It is a task that exists only while bytes are waiting, so a
  caller's cancellation never leaves half a frame behind, and an idle channel costs
  nothing and holds no nursery open.
* An uncontended send needs no writer: where the stream offers `send_nowait`, it is tried
  while the outbox is empty and no writer runs; what does not fit is queued.
* Senders that find the queue full wait in line with their bytes. Whoever makes room
  queues those bytes for them and wakes them, so nothing can overtake, and a sender that
  was cancelled while it waited has queued nothing.
* Control frames (error answers, cancels) are queued past the bound and past those who wait
  in line, up to a bound of their own. They keep their place in the queue: a cancel that
  overtook its own request would not be understood.
* Progress is one slice: a peer that takes not even that in `write_timeout` is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import outcome
import trio

from ..abc import ChannelBroken, ConnectionLost, OutboxOverflow, WriteTimeout
from ..limits import CONTROL_LANE_BYTES, WRITE_SLICE_BYTES, ChannelOptions
from .channel_state import stream_lost

__all__ = ["Outbox", "SupportsChunks", "SupportsSendNowait"]


@runtime_checkable
class SupportsSendNowait(Protocol):
    """A stream that can write without waiting."""

    def send_nowait(self, data: bytes) -> int:
        """Write what fits now; return how many bytes, 0 when it would block."""


@runtime_checkable
class SupportsChunks(Protocol):
    """A stream that knows how much is best read and written at a time, if not 64 KiB."""

    best_chunk_bytes: int


def _without_what_is_gone(rest: memoryview) -> memoryview:
    """The rest of a frame, with at most as much again of what was written before it.

    Else a peer that takes all but the last bytes of large frames would hold far more memory
    than the bytes that wait.
    """
    if len(rest) * 2 <= len(rest.obj):  # type: ignore[arg-type]  # bytes, as all frames are
        return memoryview(bytes(rest))
    return rest


class Outbox:
    """The sending half of one stream channel.

    Args:
        stream: Where the bytes go.
        nursery: Where the writer runs while there is one.
        options: `outbox_bytes`, `when_full` and `write_timeout` count here.
        on_failure: Called once, synchronously, with what broke the stream.
    """

    def __init__(
        self,
        stream: trio.abc.SendStream,
        *,
        nursery: trio.Nursery,
        options: ChannelOptions,
        on_failure: Callable[[ChannelBroken], None],
    ) -> None:
        self._stream = stream
        self._send_nowait = stream.send_nowait if isinstance(stream, SupportsSendNowait) else None
        self._nursery = nursery
        self._slice = WRITE_SLICE_BYTES
        if isinstance(stream, SupportsChunks):
            self._slice = stream.best_chunk_bytes
        self._limit = options.outbox_bytes
        self._close_when_full = options.when_full == "close"
        self._write_timeout = options.write_timeout
        self._on_failure = on_failure
        self._queue: deque[bytes] = deque()
        self._control: deque[bytes] = deque()
        self._control_size = 0
        self._rest: memoryview | None = None  # of the frame that is being written
        self._waiting: deque[tuple[trio.lowlevel.Task, bytes]] = deque()
        self._flushing: deque[tuple[int, trio.lowlevel.Task]] = deque()
        self._writing = False
        self._closed: Callable[[], BaseException] | None = None
        self.size = 0
        self.bytes_written = 0

    @property
    def is_idle(self) -> bool:
        """Whether everything was taken by the operating system."""
        return not self._writing and not self.size

    def put(self, data: bytes) -> bool:
        """Queue or write bytes now, if there is room and nobody waits in line.

        Returns:
            False if there is no room: `wait_and_put` then.

        Raises:
            ChannelBroken: Full, and the policy is to close; or the stream broke.
        """
        if self._waiting or (self.size and self.size + len(data) > self._limit):
            if self._close_when_full:
                cause = OutboxOverflow(
                    f"the outbox is full ({self.size} of {self._limit} bytes wait)"
                    " and its policy is to close"
                )
                self._on_failure(cause)
                raise cause.again()
            return False
        self._enqueue(data)
        return True

    def put_owed(self, data: bytes) -> None:
        """Queue bytes that nobody can wait with, whether there is room or not.

        They count like any others, so they keep later senders waiting.

        Raises:
            ChannelBroken: The stream broke.
        """
        self._enqueue(data)

    async def wait_and_put(self, data: bytes) -> None:
        """Wait in line for room, first come first served, and queue.

        `Cancelled` out of here means that nothing was queued.

        Raises:
            ChannelBroken: The channel failed while waiting.
            trio.ClosedResourceError: It was closed while waiting.
        """
        ticket = (trio.lowlevel.current_task(), data)
        self._waiting.append(ticket)

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(ticket)
            self._admit()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def put_control(self, data: bytes) -> None:
        """Queue a small frame, whether there is room or not.

        Raises:
            ChannelBroken: Too many of them wait: the peer has long stopped reading.
        """
        if self._control_size + len(data) > CONTROL_LANE_BYTES and self._control_size:
            cause = OutboxOverflow(
                f"the control lane is full ({self._control_size} bytes wait):"
                " the peer does not read"
            )
            self._on_failure(cause)
            raise cause.again()
        if self._writing:
            self._control.append(data)
            self._control_size += len(data)
        self._enqueue(data)

    async def flush(self) -> None:
        """Wait until everything queued so far was taken by the operating system.

        Raises:
            ChannelBroken: The channel failed before.
            trio.ClosedResourceError: It was closed before.
        """
        if self._closed is not None:
            # What cancelled the writer may have cancelled this task, too.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise self._closed()
        if self.is_idle:
            await trio.lowlevel.checkpoint()
            return
        ticket = (self.bytes_written + self.size, trio.lowlevel.current_task())
        self._flushing.append(ticket)

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._flushing.remove(ticket)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    def close(self, error: Callable[[], BaseException]) -> None:
        """Drop what is queued and wake everybody with an exception of their own."""
        if self._closed is not None:
            return
        self._closed = error
        self._queue.clear()
        self._control.clear()
        self._rest = None
        self.size = self._control_size = 0
        woken = [task for task, _ in self._waiting] + [task for _, task in self._flushing]
        self._waiting.clear()
        self._flushing.clear()
        for task in woken:
            trio.lowlevel.reschedule(task, outcome.Error(error()))

    # -- inside -------------------------------------------------------------------------

    def _enqueue(self, data: bytes) -> None:
        if self._send_nowait is not None and not self._writing and not self.size:
            try:
                written = self._send_nowait(data)
            except trio.BrokenResourceError as error:
                cause = stream_lost(error, "while sending")
                try:
                    self._on_failure(cause)
                    raise cause.again() from cause
                finally:
                    # It knows this frame by its traceback, and the frame the bytes.
                    del cause, data
            self.bytes_written += written
            if written == len(data):
                return
            if written:
                self._rest = memoryview(data)[written:]
                self.size += len(self._rest)
                self._start_writer()
                return
        self._queue.append(data)
        self.size += len(data)
        if not self._writing:
            self._start_writer()

    def _start_writer(self) -> None:
        try:
            self._nursery.start_soon(self._write, name="trio_mcp_transport writer")
        except RuntimeError as error:  # the nursery has ended
            cause = ConnectionLost("the nursery that the channel was opened in has ended")
            self._on_failure(cause)
            raise cause.again() from error
        self._writing = True

    def _admit(self) -> None:
        """Queue the bytes of those first in line, as far as there is room, and wake them.

        Somebody waits only while bytes wait, so a writer is running and will take these.
        """
        while self._waiting:
            task, data = self._waiting[0]
            if self.size and self.size + len(data) > self._limit:
                return
            self._waiting.popleft()
            self._queue.append(data)
            self.size += len(data)
            trio.lowlevel.reschedule(task)

    def _next_slice(self) -> bytes | memoryview:
        """What to write next: the rest of a begun frame, else from the queue.

        Small frames are joined up to one slice; a large one goes out in slices.
        """
        rest = self._rest
        if rest is None:
            first = self._take()
            if len(first) <= self._slice:
                parts, size = [first], len(first)
                while self._queue and size + len(self._queue[0]) <= self._slice:
                    part = self._take()
                    parts.append(part)
                    size += len(part)
                return b"".join(parts)
            rest = memoryview(first)
        rest = _without_what_is_gone(rest)
        piece, left = rest[: self._slice], rest[self._slice :]
        self._rest = left if len(left) else None
        return piece

    def _take(self) -> bytes:
        """The first frame of the queue."""
        frame = self._queue.popleft()
        if self._control and self._control[0] is frame:
            self._control_size -= len(self._control.popleft())
        return frame

    async def _write(self) -> None:
        """The writer: never raises but `Cancelled`, which breaks the channel too."""
        failure: ChannelBroken | None = None
        piece: bytes | memoryview = b""
        try:
            with trio.CancelScope() as scope:
                while self._rest is not None or self._queue:
                    piece = self._next_slice()
                    scope.deadline = trio.current_time() + self._write_timeout
                    await self._stream.send_all(piece)
                    if self._closed is not None:
                        return
                    self.size -= len(piece)
                    self.bytes_written += len(piece)
                    self._admit()
                    self._wake_flushed()
            if scope.cancelled_caught:
                failure = WriteTimeout(
                    f"the peer took less than {self._slice} bytes in {self._write_timeout:g} s"
                )
        except Exception as error:  # any stream's own exceptions end in the recorded cause
            if self._closed is None:
                failure = stream_lost(error, "while sending")
        except BaseException as error:
            # Some of a frame may be written and some not: nothing may follow it.
            self._on_failure(_cancelled(error))
            raise
        finally:
            self._writing = False
            # A cause knows this frame by its traceback. Neither may the frame know the cause,
            # or both stay until the next garbage collection, nor may what was not written
            # stay for as long as somebody keeps the cause.
            piece = b""
        if failure is not None:
            try:
                self._on_failure(failure)
            finally:
                failure = None

    def _wake_flushed(self) -> None:
        while self._flushing and self._flushing[0][0] <= self.bytes_written:
            trio.lowlevel.reschedule(self._flushing.popleft()[1])


def _cancelled(error: BaseException) -> ConnectionLost:
    lost = ConnectionLost("the task that writes was cancelled")
    lost.__cause__ = error
    return lost
