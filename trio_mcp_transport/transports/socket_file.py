"""The file of a listening Unix socket: made with its owner and mode, removed if still ours.

Called by `unix.listen`. Theory of operation:

* A socket that is bound but does not listen yet refuses every connection. So the file is
  bound, given its owner and mode, and only then does the socket listen: at no moment can
  anyone connect whom the mode keeps out, whatever the umask is.
* Two servers that start at once must not both take a stale file away. All of the above
  happens under a lock on the directory (``flock``, which the kernel drops with its
  holder), and creating the file is `bind` itself, which never replaces anything.
* Only a stale socket of our own is removed: a socket, of our user, that refuses
  connections. A live one, another user's, or any other kind of file is left alone.
* The file is removed before the socket closes, and only if it is still ours: while we
  listen, nobody who plays by these rules can have put another one there.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass

import trio

from ..abc import ChannelEvent, EventHandler
from ..errors import ConnectFailed
from ..reporting import report

__all__ = ["BACKLOG", "SocketFile", "bind_socket_file"]

#: Connections that wait in the kernel, those beyond `max_connections` among them. Linux
#: caps it at net.core.somaxconn.
BACKLOG = 4096 if sys.platform == "linux" else socket.SOMAXCONN
#: Another server sets up its socket in the same directory: a matter of milliseconds.
_LOCK_RETRY_SECONDS = 0.02
_LOCK_TIMEOUT_SECONDS = 5.0


class _DirectoryLocked(Exception):
    """Another process is setting up a socket in this directory."""


@dataclass(frozen=True, slots=True)
class SocketFile:
    """One socket file: its path, and the device and inode that tell it from another."""

    path: str
    identity: tuple[int, int]

    def remove(self, on_event: EventHandler | None) -> None:
        """Remove the file as long as it is still the same; reports ``cleanup.failed``."""
        try:
            if _identity(os.lstat(self.path)) == self.identity:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            message = f"the socket file {self.path} cannot be removed: {error}"
            report(on_event, ChannelEvent(name="cleanup.failed", message=message, error=error))


async def bind_socket_file(
    path: str, permissions: int, uid: int | None, gid: int | None
) -> tuple[socket.socket, SocketFile]:
    """Create a socket file and listen on it.

    If cancelled, nothing is left behind.

    Args:
        path: Where; its directory must exist.
        permissions: Mode of the file, whatever the umask is.
        uid: User that the file is given to; None for this one.
        gid: Group that the file is given to; None for the one it gets by itself.

    Raises:
        OSError: The directory is missing or not safe, the path is taken, or the owner
            cannot be set; a `ConnectFailed` where no system call says so.
    """
    deadline = trio.current_time() + _LOCK_TIMEOUT_SECONDS
    while True:
        try:
            # In a thread, for the file system may be slow; not abandoned when cancelled,
            # so that the socket cannot get lost.
            return await trio.to_thread.run_sync(_bind_and_listen, path, permissions, uid, gid)
        except _DirectoryLocked:
            if trio.current_time() >= deadline:
                raise ConnectFailed("another process holds a lock on the directory") from None
        await trio.sleep(_LOCK_RETRY_SECONDS)


def _bind_and_listen(
    path: str, permissions: int, uid: int | None, gid: int | None
) -> tuple[socket.socket, SocketFile]:
    trusted = {os.geteuid()} if uid is None else {os.geteuid(), uid}
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check_directory(os.fstat(directory), trusted, gid)
        _lock(directory)
        _remove_stale(path, trusted)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
            try:
                file = SocketFile(path, _identity(os.lstat(path)))
                os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
                os.chmod(path, permissions)
                sock.listen(BACKLOG)
            except BaseException:
                os.unlink(path)
                raise
        except BaseException:
            sock.close()
            raise
    finally:
        os.close(directory)  # drops the lock
    return sock, file


def _check_directory(found: os.stat_result, trusted: set[int], gid: int | None) -> None:
    """Refuse a directory in which somebody else could replace the socket by their own.

    Trusted are root, this user, and the user and group that the socket is given to.
    """
    if found.st_uid not in trusted and found.st_uid != 0:
        raise ConnectFailed(
            f"the directory belongs to another user ({found.st_uid}), who could replace the"
            " socket; choose another one, or name that user as the owner"
        )
    if found.st_mode & stat.S_ISVTX:
        return  # only a file's owner, and the directory's, can replace it
    if found.st_mode & stat.S_IWOTH:
        raise ConnectFailed(
            "the directory lets everybody replace files in it; chmod o-w it, or set its sticky bit"
        )
    if found.st_mode & stat.S_IWGRP and found.st_gid != gid:
        raise ConnectFailed(
            f"the directory lets its group ({found.st_gid}) replace files in it; chmod g-w it,"
            " set its sticky bit, or name that group as the socket's"
        )


def _lock(directory: int) -> None:
    import fcntl  # Windows has none

    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _DirectoryLocked from None


def _remove_stale(path: str, trusted: set[int]) -> None:
    """Remove what an earlier server of ours left at the path, and nothing else.

    Raises:
        ConnectFailed: Something is there that must stay.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConnectFailed("a file that is no socket is there, and stays")
    if found.st_uid not in trusted:
        raise ConnectFailed(f"a socket of another user ({found.st_uid}) is there, and stays")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass  # nobody listens: its server is dead
        except FileNotFoundError:
            return
        except BlockingIOError:
            raise _in_use("another server is listening there (its backlog is full)") from None
        except OSError as error:
            raise _in_use(f"a socket is there that cannot be probed: {error}") from error
        else:
            raise _in_use("another server is listening there")
    with suppress(FileNotFoundError):
        if _identity(os.lstat(path)) == _identity(found):
            os.unlink(path)


def _in_use(reason: str) -> ConnectFailed:
    failed = ConnectFailed(reason)
    failed.errno = errno.EADDRINUSE
    return failed


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
