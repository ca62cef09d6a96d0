"""Byte streams for descriptors that cannot be waited for: files, /dev/null, Windows.

Each read and write runs in a thread of its own making. The thread cannot be interrupted,
so a task that is cancelled leaves it behind: what a read brings is kept for the next
`receive_some`; a descriptor that is closed meanwhile is really closed by the thread when
it returns, so that its number is not given to another file under a running call. The
threads hold no lock of Python's standard streams and do not keep the process from ending.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import outcome
import trio

from ..limits import READ_CHUNK_BYTES
from .fd_stream import ReceiveHalf, SendHalf, read_size

__all__ = ["ThreadReceiveStream", "ThreadSendStream"]

T = TypeVar("T")


class _Call(Generic[T]):
    """One blocking call in a thread. Its `done` is set in Trio's thread when it returns."""

    def __init__(self, function: Callable[[], T], name: str) -> None:
        self.done = trio.Event()
        self._lock = threading.Lock()
        self._outcome: outcome.Outcome[T] | None = None
        self._afterwards: Callable[[], None] | None = None
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.start_thread_soon(function, self._deliver, name)

    def _deliver(self, result: outcome.Outcome[T]) -> None:
        # In the thread.
        with self._lock:
            self._outcome = result
            afterwards = self._afterwards
        if afterwards is not None:
            afterwards()
        try:
            self._token.run_sync_soon(self._set_done)
        except trio.RunFinishedError:
            return  # nobody is left to be told

    def _set_done(self) -> None:
        self.done.set()

    def hand_over(self) -> None:
        """Wake those who wait for it; whoever takes it over waits for a new `done`."""
        before, self.done = self.done, trio.Event()
        if before.is_set():
            self.done.set()
        before.set()

    def result(self) -> T:
        """What the call returned or raised; only when it is done."""
        assert self._outcome is not None
        return self._outcome.unwrap()

    def when_returned(self, function: Callable[[], None]) -> None:
        """Run a function now, or in the thread if it has not returned yet."""
        with self._lock:
            if self._outcome is None:
                self._afterwards = function
                return
        function()


class _ThreadDescriptor:
    """Owns a descriptor until it is closed, which a thread that uses it may delay."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._busy = False
        self._closed = False

    def fileno(self) -> int:
        """The descriptor's number; -1 once closed."""
        return -1 if self._closed else self._fd

    def _close(self, call: _Call[bytes] | _Call[None] | None) -> None:
        if self._closed:
            return
        self._closed = True
        if call is None:
            os.close(self._fd)
        else:
            call.when_returned(partial(os.close, self._fd))
            call.done.set()  # wakes who waits for it

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this side closed the stream")


class ThreadReceiveStream(_ThreadDescriptor, ReceiveHalf):
    """Reads from any descriptor, which it owns from now on, in threads."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._call: _Call[bytes] | None = None
        self._rest = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first byte; ``b""`` is the end.

        A checkpoint. What a thread reads after the call was cancelled is returned by the
        next one.

        Raises:
            trio.BrokenResourceError: Reading failed.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is receiving.
        """
        max_bytes = read_size(max_bytes)
        if self._busy:
            raise trio.BusyResourceError("another task is receiving")
        self._check_open()
        self._busy = True
        try:
            if self._rest:
                await trio.lowlevel.checkpoint()
                data = self._rest
            else:
                data = await self._read()
        finally:
            self._busy = False
        self._check_open()
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    async def _read(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._call is None:
            read = partial(os.read, self._fd, READ_CHUNK_BYTES)
            self._call = _Call(read, "trio_mcp_transport read")
        call = self._call
        await call.done.wait()
        self._check_open()
        self._call = None
        try:
            data = call.result()
        except OSError as error:
            raise trio.BrokenResourceError(f"reading failed: {error}") from error
        if not data:
            self.ended = True
        return data

    def finish(self) -> None:
        """Nothing to do: what a thread is just reading can only be waited for."""

    def detach(self) -> ThreadReceiveStream:
        """Close this stream but not its descriptor: a new one has it then.

        Raises:
            trio.ClosedResourceError: It was closed before.
        """
        self._check_open()
        self._closed = True
        fresh = ThreadReceiveStream(self._fd)
        fresh._call, self._call = self._call, None
        fresh._rest = self._rest
        if fresh._call is not None:
            fresh._call.hand_over()
        return fresh

    def close(self) -> None:
        """Close, at once or when a read that runs in a thread returns. Idempotent."""
        self._close(self._call)


class ThreadSendStream(_ThreadDescriptor, SendHalf):
    """Writes to any descriptor, which it owns from now on, in threads."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._call: _Call[None] | None = None

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write nothing: whether a write would block cannot be told here."""
        self._check_open()
        return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. If cancelled, an unknown part of it was or will be written.

        Raises:
            trio.BrokenResourceError: Writing failed, or an earlier call was cancelled.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is sending.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is sending")
        self._check_open()
        self._busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._call is not None:
                raise trio.BrokenResourceError("an earlier write was cancelled")
            self._call = call = _Call(
                partial(_write_all, self._fd, bytes(data)), "trio_mcp_transport write"
            )
            await call.done.wait()
            self._check_open()
            self._call = None
            try:
                call.result()
            except OSError as error:
                raise trio.BrokenResourceError(f"writing failed: {error}") from error
        finally:
            self._busy = False

    async def wait_send_all_might_not_block(self) -> None:
        """Checkpoint: whether a write would block cannot be told here.

        Raises:
            trio.ClosedResourceError: This side closed the stream.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()

    def finish(self) -> None:
        """Nothing to do: a write to a process that is gone fails by itself."""

    def close(self) -> None:
        """Close, at once or when a write that runs in a thread returns. Idempotent."""
        self._close(self._call)


def _write_all(fd: int, data: bytes) -> None:
    with memoryview(data) as view:
        sent = 0
        while sent < len(view):
            sent += os.write(fd, view[sent:])
