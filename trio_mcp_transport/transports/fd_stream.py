"""Byte streams over one file descriptor that can be waited for: pipes, terminals, sockets.

Used by own stdio and by child processes. They never change the descriptor's flags: whoever
makes one sees to it that reading and writing do not block.

Beside what every Trio stream does they can write without waiting (`send_nowait`), close
without waiting (`close`), and be told that the process at the other end is gone
(`finish`): from then on "nothing there" is the end, even while somebody else, such as a
grandchild, holds the other end open.

A descriptor's number may be given to another file as soon as it is closed. So it is
replaced by -1 first, and looked at again after every wait.
"""

from __future__ import annotations

import operator
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import trio

from ..limits import READ_CHUNK_BYTES

__all__ = ["FdReceiveStream", "FdSendStream", "ReceiveHalf", "SendHalf", "read_size"]


def read_size(max_bytes: int | None) -> int:
    """How much to read at most, from what `receive_some` was given.

    Raises:
        ValueError: It is less than 1.
        TypeError: It is no integer.
    """
    if max_bytes is None:
        return READ_CHUNK_BYTES
    if operator.index(max_bytes) < 1:
        raise ValueError("max_bytes must be at least 1")
    return max_bytes


class ReceiveHalf(trio.abc.ReceiveStream):
    """A stream to read from that can also be closed, or finished, without waiting.

    Attributes:
        ended: Whether the end was read: nobody holds the other end any more.
    """

    ended: bool = False

    @abstractmethod
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first byte; ``b""`` is the end."""

    @abstractmethod
    def finish(self) -> None:
        """Take "nothing there" for the end from now on; wakes a task that waits."""

    @abstractmethod
    def detach(self) -> ReceiveHalf:
        """Close this stream but not its descriptor: a new, unfinished one has it then."""

    @abstractmethod
    def close(self) -> None:
        """Close at once; wakes a task that waits with `ClosedResourceError`. Idempotent."""

    async def aclose(self) -> None:
        """Close, then checkpoint. Closes in a cancelled scope as well."""
        self.close()
        await trio.lowlevel.checkpoint()


class SendHalf(trio.abc.SendStream):
    """A stream to write to that can also write, close and finish without waiting."""

    @abstractmethod
    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what fits now, without waiting; returns how many bytes that were."""

    @abstractmethod
    def finish(self) -> None:
        """Take "no room" for a broken stream from now on; wakes a task that waits."""

    @abstractmethod
    def close(self) -> None:
        """Close at once; wakes a task that waits with `ClosedResourceError`. Idempotent."""

    async def aclose(self) -> None:
        """Close, then checkpoint. Closes in a cancelled scope as well."""
        self.close()
        await trio.lowlevel.checkpoint()


class _Descriptor:
    """Owns a descriptor until it is closed; -1 afterwards."""

    def __init__(self, fd: int, close: Callable[[], None] | None) -> None:
        self.fd = fd
        self._close = close or partial(os.close, fd)
        self._busy = False
        self._finished = False

    def fileno(self) -> int:
        """The descriptor's number; -1 once closed."""
        return self.fd

    def close(self) -> None:
        """Close at once; wakes a task that waits with `ClosedResourceError`. Idempotent."""
        if self.fd >= 0:
            # First the number, so that a woken task finds the stream closed.
            fd, self.fd = self.fd, -1
            trio.lowlevel.notify_closing(fd)
            self._close()

    def finish(self) -> None:
        """Do not wait for the other end any more; wakes a task that waits."""
        self._finished = True
        if self.fd >= 0:
            # Wakes with ClosedResourceError; as fd is still set, the task tries once more.
            trio.lowlevel.notify_closing(self.fd)

    def _check_open(self) -> None:
        if self.fd < 0:
            raise trio.ClosedResourceError("this side closed the stream")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {f'fd {self.fd}' if self.fd >= 0 else 'closed'}>"

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.fd = -1
            self._close()
            name = type(self).__name__
            warnings.warn(f"unclosed {name}", ResourceWarning, stacklevel=2, source=self)


class FdReceiveStream(_Descriptor, ReceiveHalf):
    """Reads from a descriptor, which it owns from now on.

    Args:
        fd: Readable, and known to the operating system's poll; reading must not block.
        read: Reads at most so many bytes, or raises BlockingIOError; default `os.read`.
        close: Closes the descriptor; default `os.close`.
    """

    def __init__(
        self,
        fd: int,
        *,
        read: Callable[[int], bytes] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(fd, close)
        self._read = read or partial(os.read, fd)
        self._was_emptied = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first byte; ``b""`` is the end.

        Exactly one checkpoint; a cancelled call has read nothing.

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
            data: bytes | None = None
            # A read that was not filled took all there was: the next one would most likely
            # fail, which is not cheap, so it begins with waiting. Not once finished: then
            # "nothing there" is the end, and waiting for it could last for ever.
            if not self._was_emptied or self._finished:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = self._try_read(max_bytes)
                if data is not None:
                    # What was read must not be lost: this checkpoint only lets others run.
                    await trio.lowlevel.cancel_shielded_checkpoint()
            while data is None:
                try:
                    await trio.lowlevel.wait_readable(self.fd)
                except trio.ClosedResourceError:
                    if not self._finished:
                        raise
                self._check_open()
                data = self._try_read(max_bytes)
            return data
        finally:
            self._busy = False

    def receive_nowait(self, max_bytes: int = READ_CHUNK_BYTES) -> bytes | None:
        """Read what is there, without waiting; None when there is nothing yet.

        Another task may be waiting in `receive_some` meanwhile.

        Raises:
            trio.BrokenResourceError: Reading failed.
            trio.ClosedResourceError: This side closed the stream.
        """
        self._check_open()
        return self._try_read(max_bytes)

    def detach(self) -> FdReceiveStream:
        """Close this stream but not its descriptor: a new, unfinished one has it then.

        Raises:
            trio.ClosedResourceError: It was closed before.
        """
        self._check_open()
        fd, self.fd = self.fd, -1
        trio.lowlevel.notify_closing(fd)
        return FdReceiveStream(fd, read=self._read, close=self._close)

    def _try_read(self, max_bytes: int) -> bytes | None:
        try:
            data = self._read(max_bytes)
        except BlockingIOError:
            return b"" if self._finished else None
        except OSError as error:
            raise trio.BrokenResourceError(f"reading failed: {error}") from error
        if not data:
            self.ended = True
        self._was_emptied = len(data) < max_bytes
        return data


class FdSendStream(_Descriptor, SendHalf):
    """Writes to a descriptor, which it owns from now on.

    Args:
        fd: Writable, and known to the operating system's poll; writing must not block.
        write: Writes some bytes and returns how many, or raises BlockingIOError; default
            `os.write`.
        close: Closes the descriptor; default `os.close`.
    """

    def __init__(
        self,
        fd: int,
        *,
        write: Callable[[bytes | bytearray | memoryview], int] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(fd, close)
        self._write = write or partial(os.write, fd)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what fits now, without waiting; no checkpoint.

        Returns:
            How many bytes were written; 0 when it would block.

        Raises:
            trio.BrokenResourceError: Nobody reads any more.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: A task is sending.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is sending")
        self._check_open()
        return self._try_write(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. If cancelled, an unknown part of it was written.

        Raises:
            trio.BrokenResourceError: Nobody reads any more.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is sending.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is sending")
        self._check_open()
        self._busy = True
        try:
            with memoryview(data) as view, view.cast("B") as octets:
                await self._send_octets(octets)
        finally:
            self._busy = False

    async def _send_octets(self, octets: memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        sent, total, waited = 0, len(octets), False
        while sent < total:
            with octets[sent:] as rest:
                count = self._try_write(rest)
            sent += count
            if not count:
                await self._wait_writable()
                waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the operating system would take at least some bytes.

        Raises:
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is sending.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is sending")
        self._check_open()
        self._busy = True
        try:
            if self._finished:
                await trio.lowlevel.checkpoint()
            else:
                await self._wait_writable()
        finally:
            self._busy = False

    async def _wait_writable(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self.fd)
        except trio.ClosedResourceError:
            if not self._finished:
                raise
            await trio.lowlevel.checkpoint()
        self._check_open()

    def _try_write(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._write(data)
        except BlockingIOError:
            if self._finished:
                raise trio.BrokenResourceError("the process that read is gone") from None
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(f"writing failed: {error}") from error
