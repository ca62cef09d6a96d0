"""A byte stream over a connected socket: TCP and Unix stand on it.

Unlike `trio.SocketStream` it sets no socket option by itself (so ``nodelay=False`` is
what it says), can write without waiting and close without waiting. It works on the
operating system's socket directly, with the same promises as Trio's: each call is
exactly one checkpoint or more, and a cancelled `receive_some` has read nothing.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import NoReturn

import trio

from ..errors import ConnectFailed
from .fd_stream import read_size

__all__ = ["SocketStream", "connect_failed", "set_buffer_size", "take_socket"]

#: The descriptor is gone: this side closed it (ENOTSOCK is what Windows says).
_CLOSED_ERRNOS = frozenset({errno.EBADF, errno.ENOTSOCK})


def take_socket(sock: trio.socket.SocketType) -> socket.socket:
    """The operating system's socket out of a Trio socket, which is empty afterwards."""
    family, type_, proto = sock.family, sock.type, sock.proto
    return socket.socket(family, type_, proto, fileno=sock.detach())


def set_buffer_size(sock: socket.socket, size: int | None) -> None:
    """Set both of the kernel's buffers; None leaves them alone.

    Linux doubles the value for its own bookkeeping and silently stops at
    ``net.core.wmem_max`` and ``rmem_max`` (socket(7)).
    """
    if size is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def connect_failed(what: str, error: OSError | UnicodeError) -> ConnectFailed:
    """The exception to raise `from` the error: what was tried, why not, and its errno.

    Where several addresses were tried in parallel, it names each reason once.
    """
    reasons: Sequence[BaseException] = [error]
    if isinstance(error.__cause__, BaseExceptionGroup):
        reasons = error.__cause__.exceptions
    failed = ConnectFailed(f"{what}: {'; '.join(dict.fromkeys(map(_reason, reasons)))}")
    if isinstance(reasons[0], OSError):
        failed.errno = reasons[0].errno
    return failed


def _reason(error: BaseException) -> str:
    if isinstance(error, socket.gaierror) and error.strerror:  # its numbers are not errno's
        return error.strerror
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectFailed):
        return os.strerror(error.errno)
    return str(error)


class SocketStream(trio.abc.HalfCloseableStream):
    """A stream over a connected SOCK_STREAM socket, which it owns from now on.

    Args:
        sock: Connected; is made non-blocking. Its options are left as they are.

    Attributes:
        socket: The socket, for its options and addresses.

    Raises:
        ValueError: It is no SOCK_STREAM socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"SocketStream needs a SOCK_STREAM socket, not {sock.type!r}")
        sock.setblocking(False)
        self.socket = sock
        self._sending = False
        self._eof_sent = False
        self._was_emptied = False

    def __repr__(self) -> str:
        return f"<SocketStream {self.socket!r}>"

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first byte; ``b""`` is the end.

        Args:
            max_bytes: At most so many; 64 KiB by default.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is receiving.
        """
        max_bytes = read_size(max_bytes)
        if self._was_emptied and self.socket.fileno() != -1:
            data = None
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._try_receive(max_bytes)
            if data is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
        while data is None:  # also because readiness may be spurious
            await trio.lowlevel.wait_readable(self.socket)
            data = self._try_receive(max_bytes)
        # A read that was not filled took all there was: the next one would most likely
        # fail, which is not cheap, so it begins with waiting.
        self._was_emptied = len(data) < max_bytes
        return data

    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        """Read what is there, without waiting; no checkpoint.

        Not for use while a task is in `receive_some`, whose bytes it would take.

        Args:
            max_bytes: At most so many; 64 KiB by default.

        Returns:
            The bytes; ``b""`` at the end; None when there is nothing yet.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream.
        """
        return self._try_receive(read_size(max_bytes))

    def _try_receive(self, max_bytes: int) -> bytes | None:
        """What is there; None when nothing is."""
        try:
            return self.socket.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            _raise_for(error)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. If cancelled, an unknown part of it was written.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream or sent EOF.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send()
        self._sending = True
        try:
            with memoryview(data) as view, view.cast("B") as octets:
                await self._send_octets(octets)
        finally:
            self._sending = False
            del data  # or whoever keeps the exception keeps it

    async def _send_octets(self, octets: memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        sent, total, waited = 0, len(octets), False
        while sent < total:
            try:
                with octets[sent:] as rest:
                    sent += self.socket.send(rest)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
                waited = True
            except OSError as error:
                _raise_for(error)
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the operating system would take at least some bytes.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send(after_eof=True)
        self._sending = True
        try:
            await trio.lowlevel.wait_writable(self.socket)
        finally:
            self._sending = False

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what fits now, without waiting; no checkpoint.

        Returns:
            How many bytes were written; 0 when it would block.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream or sent EOF.
            trio.BusyResourceError: A task is sending.
        """
        self._check_can_send()
        if not data:
            return 0
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            _raise_for(error)

    async def send_eof(self) -> None:
        """Half-close: the peer reads the end, and can still send. Idempotent.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send(after_eof=True)
        await trio.lowlevel.checkpoint()
        self._check_can_send(after_eof=True)
        if self._eof_sent:
            return
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            _raise_for(error)
        self._eof_sent = True

    def close(self) -> None:
        """Close at once; tasks that wait here get `ClosedResourceError`. Idempotent."""
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    async def aclose(self) -> None:
        """Close, then checkpoint. Idempotent; closes in a cancelled scope as well."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _check_can_send(self, *, after_eof: bool = False) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this socket")
        if self.socket.fileno() == -1:
            raise trio.ClosedResourceError("this side closed the socket")
        if self._eof_sent and not after_eof:
            raise trio.ClosedResourceError("this side sent EOF")


def _raise_for(error: OSError) -> NoReturn:
    if error.errno in _CLOSED_ERRNOS:
        raise trio.ClosedResourceError("this side closed the socket") from None
    raise trio.BrokenResourceError(f"the connection failed: {error}") from error
