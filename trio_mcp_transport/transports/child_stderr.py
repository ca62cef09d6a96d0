"""What a child process writes to stderr: always drained, its end kept, passed on.

Used by `child`. A child that nobody reads from stops as soon as its pipe is full, so the
pump never waits for anybody for long: not for our own stderr, and the callback is
synchronous.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from ..abc import ChannelEvent, EventHandler
from ..limits import CHILD_STDERR_TAIL_BYTES
from ..reporting import report
from .fd_stream import FdReceiveStream, FdSendStream, ReceiveHalf
from .private_fd import duplicate

__all__ = ["StderrLines", "StderrPump", "open_own_stderr"]

#: How long our own stderr may take nothing before the child's lines are dropped.
STALLED_SECONDS = 1.0
#: Reads on behalf of a dead child: a full pipe, even in small pieces. A grandchild may go
#: on writing for ever.
_LAST_READS = 64


def open_own_stderr() -> FdSendStream | None:
    """A stream to this process's stderr; None when it is a terminal, or closed.

    A child had better get a terminal itself: then it may ask for its width and colours.
    """
    if not stderr_is_open() or os.isatty(2):
        return None
    fd = duplicate(2)
    return FdSendStream(fd, write=partial(_write_if_ready, fd))


def _write_if_ready(fd: int, data: bytes | bytearray | memoryview) -> int:
    """Write without waiting, though the descriptor blocks: its flags are not only ours."""
    if sys.platform != "win32":
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        # A pipe with room takes so much at least (pipe(7)); a file takes everything.
        data = data[: select.PIPE_BUF]
    return os.write(fd, data)


def stderr_is_open() -> bool:
    """Whether this process has a stderr to inherit."""
    try:
        os.fstat(2)
    except OSError:
        return False
    return True


class StderrLines:
    """Cuts bytes into lines of text and hands each to a callback.

    Lines are decoded as UTF-8, with U+FFFD for what is none, and come without their line
    end; one longer than 8 KiB comes in pieces.
    """

    def __init__(self, callback: Callable[[str], object]) -> None:
        self._callback = callback
        self._begun = b""

    def feed(self, data: bytes) -> None:
        """Take bytes. Whatever the callback raises passes through, after the rest of them."""
        limit = CHILD_STDERR_TAIL_BYTES
        *ended, begun = (self._begun + data).split(b"\n")
        pieces: list[bytes] = []
        for line in ended:
            pieces += (line[start : start + limit] for start in range(0, len(line) or 1, limit))
        while len(begun) > limit:
            pieces.append(begun[:limit])
            begun = begun[limit:]
        self._begun = begun
        self._hand_out(pieces)

    def end(self) -> None:
        """Hand out a last line that has no line end."""
        if self._begun:
            begun, self._begun = self._begun, b""
            self._hand_out([begun])

    def _hand_out(self, lines: list[bytes]) -> None:
        failure: Exception | None = None
        for line in lines:
            try:
                self._callback(line.removesuffix(b"\r").decode("utf-8", "replace"))
            except Exception as error:  # reported by the pump, and must not stop it
                failure = error
        if failure is not None:
            raise failure


class StderrPump:
    """Reads a child's stderr until its end.

    Args:
        source: The pipe; owned from now on.
        own_stderr: Where to copy it; owned from now on.
        lines: Where to hand it line by line.
        on_event: Told when lines were dropped, or when the callback failed.
    """

    def __init__(
        self,
        source: ReceiveHalf,
        *,
        own_stderr: FdSendStream | None,
        lines: StderrLines | None,
        on_event: EventHandler | None,
    ) -> None:
        self._source = source
        self._own_stderr = own_stderr
        self._lines = lines
        self._on_event = on_event
        self._tail = bytearray()
        self._stalled = False
        self._closed = False

    @property
    def tail(self) -> str:
        """The last that was written, at most 8 KiB, as text."""
        return self._tail.decode("utf-8", "replace")

    async def run(self) -> None:
        """Pump until the end, or until `close`. Raises nothing but `Cancelled`."""
        try:
            while data := await self._source.receive_some():
                self._take(data)
                await self._pass_on(data)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return  # closed from this side; the tail holds what came

    def close(self) -> None:
        """Take what is already there, then stop and close. Idempotent.

        What a dead child wrote is all there; others who hold the pipe are not waited for.
        """
        if self._closed:
            return
        self._closed = True
        self.read_rest()
        self._source.close()
        if self._own_stderr is not None:
            self._own_stderr.close()
        if self._lines is not None:
            self._call(self._lines.end)

    def read_rest(self) -> None:
        """Take what is already there, without waiting."""
        if not isinstance(self._source, FdReceiveStream):
            return  # in a thread nobody can tell what is there
        for _ in range(_LAST_READS):
            try:
                data = self._source.receive_nowait()
                if not data:
                    return
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return
            self._take(data)
            if self._own_stderr is not None:
                with suppress(trio.BrokenResourceError, trio.BusyResourceError):
                    while data and (sent := self._own_stderr.send_nowait(data)):
                        data = data[sent:]

    def _take(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-CHILD_STDERR_TAIL_BYTES]
        lines = self._lines
        if lines is not None:
            self._call(lambda: lines.feed(data))

    async def _pass_on(self, data: bytes) -> None:
        stream = self._own_stderr
        if stream is None:
            return
        try:
            sent = stream.send_nowait(data)
            if sent:
                self._stalled = False
            if sent < len(data) and not self._stalled:
                with trio.move_on_after(STALLED_SECONDS) as scope:
                    await stream.send_all(data[sent:])
                if scope.cancelled_caught:
                    self._stalled = True
                    self._report(
                        "process.stderr-dropped",
                        "this process's stderr takes nothing: lines of the child are dropped",
                    )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Nobody reads our stderr any more; the child's is drained all the same.
            stream.close()
            self._own_stderr = None

    def _call(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:  # somebody else's callback
            self._report("process.stderr-handler-failed", "the callback for stderr failed", error)

    def _report(self, name: str, message: str, error: Exception | None = None) -> None:
        report(self._on_event, ChannelEvent(name=name, message=message, error=error))
