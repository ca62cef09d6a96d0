"""Streams over this process's standard descriptors that share nothing with other processes.

Used by own stdio, and to pass a child's stderr on. A descriptor that was inherited shares
its *file description* with the process that it came from, and so do its `dup`s. Setting
O_NONBLOCK there would break the parent's shell, so it is never set:

* pipes and terminals are opened anew through ``/proc/self/fd`` (proc(5)), which gives a
  file description of our own;
* sockets cannot be opened anew, but each call can be told not to wait (MSG_DONTWAIT);
* everything else, and everything where that fails (no ``/proc``; a pipe of another user,
  as under ``sudo -u``), is read and written in threads. Regular files must be: they
  cannot be waited for, and opening one anew would lose the position in it.
"""

from __future__ import annotations

import os
import socket
import stat
import sys

from .fd_stream import FdReceiveStream, FdSendStream, ReceiveHalf, SendHalf
from .thread_stream import ThreadReceiveStream, ThreadSendStream

__all__ = ["duplicate", "open_receive_stream", "open_send_stream"]

#: Descriptors of our own stay above the standard ones, also where those were closed:
#: what is 2 gets tracebacks, whoever it belongs to.
_FIRST_FREE = 3
#: Opening this device makes a new terminal instead of reaching the one at hand (ptmx(4)).
_PTMX = (5, 2)


def duplicate(fd: int) -> int:
    """A descriptor for the same file description: above 2, and not inheritable.

    Raises:
        OSError: `fd` is closed, or there are too many.
    """
    if sys.platform == "win32":
        return os.dup(fd)
    import fcntl  # not on Windows

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)


def open_receive_stream(fd: int) -> ReceiveHalf:
    """A stream that reads what `fd` reads; `fd` itself is left as it is.

    Raises:
        OSError: It is closed, a directory, not open for reading, or a datagram socket.
    """
    mode = _check(fd, unwanted=os.O_WRONLY, purpose="reading")
    if stat.S_ISSOCK(mode):
        sock = _socket(fd)
        return FdReceiveStream(
            sock.fileno(),
            read=lambda size: sock.recv(size, socket.MSG_DONTWAIT),
            close=sock.close,
        )
    reopened = _reopen(fd, mode, os.O_RDONLY)
    if reopened is not None:
        return FdReceiveStream(reopened)
    return ThreadReceiveStream(_binary(duplicate(fd)))


def open_send_stream(fd: int) -> SendHalf:
    """A stream that writes to where `fd` writes; `fd` itself is left as it is.

    Raises:
        OSError: It is closed, a directory, not open for writing, or a datagram socket.
    """
    mode = _check(fd, unwanted=os.O_RDONLY, purpose="writing")
    if stat.S_ISSOCK(mode):
        sock = _socket(fd)
        return FdSendStream(
            sock.fileno(),
            write=lambda data: sock.send(data, socket.MSG_DONTWAIT),
            close=sock.close,
        )
    reopened = _reopen(fd, mode, os.O_WRONLY)
    if reopened is not None:
        return FdSendStream(reopened)
    return ThreadSendStream(_binary(duplicate(fd)))


def _check(fd: int, *, unwanted: int, purpose: str) -> int:
    """The mode of the file, if it can be used for that."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"descriptor {fd} is a directory")
    if sys.platform != "win32":
        import fcntl

        access = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
        if fcntl.fcntl(fd, fcntl.F_GETFL) & access == unwanted:
            raise OSError(f"descriptor {fd} is not open for {purpose}")
    return mode


def _reopen(fd: int, mode: int, access: int) -> int | None:
    """A non-blocking file description of our own; None where there can be none."""
    if sys.platform != "linux":
        return None
    if not stat.S_ISFIFO(mode):
        device = os.fstat(fd).st_rdev
        if not os.isatty(fd) or (os.major(device), os.minor(device)) == _PTMX:
            return None
    try:
        # Without O_NOCTTY a terminal could become this session's controlling terminal.
        reopened = os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    if access == os.O_RDONLY and stat.S_ISFIFO(mode) and not _shows_its_end(reopened):
        os.close(reopened)
        return None
    if reopened >= _FIRST_FREE:
        return reopened
    try:
        return duplicate(reopened)
    finally:
        os.close(reopened)


def _shows_its_end(fd: int) -> bool:
    """Make sure that poll will tell the end of what was just reopened.

    Linux's poll keeps quiet about the end of a FIFO that had no writer when it was opened,
    until there has been one since (pipe_poll compares a count of them): a client that
    wrote and left before this program started would be waited for. So there is one now.
    """
    if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
        return True  # a pipe that has no name cannot be opened by others
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _socket(fd: int) -> socket.socket:
    """A socket object on a descriptor of its own, without touching the flags."""
    blocking = os.get_blocking(fd)
    own = duplicate(fd)
    try:
        sock = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    if socket.getdefaulttimeout() is not None:  # then the line above changed the flags
        sock.settimeout(None)
        os.set_blocking(fd, blocking)
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise OSError(f"descriptor {fd} is a socket that carries no byte stream")
    return sock


def _binary(fd: int) -> int:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(fd, os.O_BINARY)
    return fd
