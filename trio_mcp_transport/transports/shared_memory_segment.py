"""Sealed memory and a socket, handed from the creator of a shared-memory channel to a client.

Called by `shared_memory` on both sides, once per connection. Neither side trusts the other
with more than its own bytes: the memory's size is sealed before anybody maps it, so that no
access can ever hit a hole (SIGBUS), and what was received is checked before it is used.
Nothing here waits, and every descriptor is closed whatever goes wrong.

One message passes, on the connection that the client has made: a `RingHeader`, and with it
the descriptors of the client's ring (``NAME_c2s``), the creator's ring (``NAME_s2c``) and
the socket beside the latter. The connection itself is the one beside the former.
"""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import ExitStack

from ..errors import ConnectFailed, FeatureUnavailable, RemoteProtocolError
from ..sansio.ring import RING_HEADER_BYTES, RingHeader
from .shared_memory_stream import Direction, SharedMemoryStream

__all__ = ["check_platform", "hand_over", "take_over"]

#: Longer than any header, so that what follows one is seen.
_MESSAGE_BYTES = 256
_DESCRIPTORS = 3


def check_platform() -> None:
    """See whether this platform can do it.

    Raises:
        FeatureUnavailable: It has no memory that can be sealed.
    """
    try:
        import fcntl

        _ = os.memfd_create, fcntl.F_ADD_SEALS, socket.send_fds, socket.MSG_CMSG_CLOEXEC
    except (ImportError, AttributeError):
        raise FeatureUnavailable(
            "this platform has no memory whose size can be sealed, without which a process"
            " could crash the one it shares it with: use unix:/PATH or tcp://127.0.0.1:PORT"
        ) from None


def hand_over(sock: socket.socket, name: str, header: RingHeader) -> SharedMemoryStream:
    """The creator's part: make the memory, send it to who has connected.

    Args:
        sock: The connection; the stream owns it if this succeeds.
        name: The channel's, which the memory is called by in ``/proc/PID/fd``.
        header: The sizes.

    Raises:
        OSError: The client is gone, or there is no room for memory or descriptors.
    """
    with ExitStack() as failing:
        descriptors: list[int] = []
        segments: list[mmap.mmap] = []
        with ExitStack() as handed:
            for suffix in ("c2s", "s2c"):
                fd = _create_segment(f"{name}_{suffix}", header)
                handed.callback(os.close, fd)
                segments.append(mmap.mmap(fd, header.segment_bytes))
                failing.callback(segments[-1].close)
                segments[-1][: len(header.encode())] = header.encode()
                descriptors.append(fd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            failing.callback(ours.close)
            handed.callback(theirs.close)
            descriptors.append(theirs.fileno())
            socket.send_fds(sock, [header.encode()], descriptors, socket.MSG_DONTWAIT)
        failing.pop_all()
    from_client, to_client = segments
    return SharedMemoryStream(Direction(ours, to_client), Direction(sock, from_client))


def _create_segment(name: str, header: RingHeader) -> int:
    import fcntl  # Windows has none

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, header.segment_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _wanted_seals())
    except BaseException:
        os.close(fd)
        raise
    return fd


def _wanted_seals() -> int:
    import fcntl  # Windows has none

    return fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def take_over(sock: socket.socket) -> tuple[SharedMemoryStream, RingHeader] | None:
    """The client's part: receive the memory, check it, map it.

    Args:
        sock: The connection; the stream owns it if this succeeds.

    Returns:
        The stream and the sizes; None when nothing has come yet.

    Raises:
        ConnectFailed: The creator has closed the connection, or what came is not what it
            should be.
        OSError: The connection failed, or there is no room.
    """
    try:
        data, descriptors, flags, _ = socket.recv_fds(
            sock, _MESSAGE_BYTES, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
    except BlockingIOError:
        return None
    with ExitStack() as handed, ExitStack() as failing:
        for fd in descriptors:
            handed.callback(os.close, fd)
        if not data:
            raise ConnectFailed("the creator has closed the connection")
        if flags & socket.MSG_CTRUNC or len(descriptors) != _DESCRIPTORS:
            raise ConnectFailed(f"the creator handed over {len(descriptors)} descriptors, not 3")
        try:
            header = RingHeader.decode_untrusted(data)
        except RemoteProtocolError as error:
            raise ConnectFailed(str(error)) from error
        segments: list[mmap.mmap] = []
        for fd in descriptors[:2]:
            segments.append(_map_untrusted(fd, header))
            failing.callback(segments[-1].close)
        theirs = _take_socket_untrusted(descriptors[2])
        failing.pop_all()
    to_creator, from_creator = segments
    stream = SharedMemoryStream(Direction(sock, to_creator), Direction(theirs, from_creator))
    return stream, header


def _map_untrusted(fd: int, header: RingHeader) -> mmap.mmap:
    """Map memory that the other side has made.

    Raises:
        ConnectFailed: It could be cut under this side's hands, or is not what was said.
        OSError: It cannot be mapped.
    """
    import fcntl  # Windows has none

    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ConnectFailed("what the creator shares is no memory that can be sealed") from error
    if seals & _wanted_seals() != _wanted_seals():
        raise ConnectFailed("the size of the memory that the creator shares is not sealed")
    size = os.fstat(fd).st_size
    if size != header.segment_bytes:
        raise ConnectFailed(
            f"the memory that the creator shares has {size} bytes, not {header.segment_bytes}"
        )
    try:
        segment = mmap.mmap(fd, size)
    except PermissionError as error:  # sealed against writing, too
        raise ConnectFailed("the memory that the creator shares cannot be written") from error
    try:
        found = RingHeader.decode_untrusted(segment[:RING_HEADER_BYTES])
    except RemoteProtocolError as error:
        segment.close()
        raise ConnectFailed(str(error)) from error
    if found != header:
        segment.close()
        raise ConnectFailed("the creator says one thing and its memory another")
    return segment


def _take_socket_untrusted(fd: int) -> socket.socket:
    """A socket of our own out of a descriptor that stays the caller's.

    Raises:
        ConnectFailed: It is no Unix stream socket.
    """
    own = os.dup(fd)  # not inheritable
    try:
        sock = socket.socket(fileno=own)
    except OSError as error:
        os.close(own)
        raise ConnectFailed("the creator handed over no socket") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise ConnectFailed("the creator handed over a socket of the wrong kind")
    return sock
