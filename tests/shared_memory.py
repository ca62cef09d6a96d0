"""What the tests of shared memory share: pairs of streams, and both ends of their wires."""

from __future__ import annotations

import mmap
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from trio_mcp_transport.abc import MessageChannel, MessageListener
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.sansio.ring import RING_HEADER_BYTES
from trio_mcp_transport.shm_endpoints import ShmEndpoint
from trio_mcp_transport.transports.shared_memory import connect
from trio_mcp_transport.transports.shared_memory_stream import Direction, SharedMemoryStream

#: macOS and Windows have no memory that can be sealed.
needs_sealed_memory = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this platform has no memory that can be sealed"
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this")

#: The smallest ring that goes round often.
RING_BYTES = 256 * 1024


def segment_pair(ring_bytes: int = RING_BYTES) -> tuple[mmap.mmap, mmap.mmap]:
    """The same memory, mapped twice."""
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, RING_HEADER_BYTES + ring_bytes)
        return mmap.mmap(fd, 0), mmap.mmap(fd, 0)
    finally:
        os.close(fd)


def wires(ring_bytes: int = RING_BYTES) -> tuple[Direction, Direction, Direction, Direction]:
    """Two directions, each with both of its ends: first the two of left, then those of right."""
    found: list[Direction] = []
    for _ in range(2):
        sockets = socket.socketpair()
        for sock in sockets:
            sock.setblocking(False)
        found += map(Direction, sockets, segment_pair(ring_bytes))
    left_out, right_in, left_in, right_out = found[0], found[1], found[2], found[3]
    return left_out, left_in, right_out, right_in


def stream_pair(ring_bytes: int = RING_BYTES) -> tuple[SharedMemoryStream, SharedMemoryStream]:
    """Two ends of a stream."""
    left_out, left_in, right_out, right_in = wires(ring_bytes)
    return SharedMemoryStream(left_out, left_in), SharedMemoryStream(right_out, right_in)


class Impostor:
    """The other end of a stream, which says what it likes.

    Attributes:
        stream: The honest end.
        data: The socket on which the impostor writes to it.
        lane: The socket whose lane goes to it.
        memory: What the honest end reads from.
    """

    def __init__(self, ring_bytes: int = RING_BYTES) -> None:
        out, into, self._out, self._in = wires(ring_bytes)
        self.stream = SharedMemoryStream(out, into)
        self.data, self.lane = self._out.socket, self._in.socket
        self.memory = self._out.area

    def close(self) -> None:
        """Both sockets, as a process that is killed."""
        if self.data.fileno() != -1:
            self._out.close()
            self._in.close()


def fill(stream: SharedMemoryStream) -> int:
    """Write until it would block, through the ring and inline; return how much went in."""
    total = 0
    for octet in (b"\xff", b"x"):
        while written := stream.send_nowait(octet * 65536):
            total += written
    return total


@contextmanager
def false_creator(directory: Path) -> Generator[socket.socket]:
    """A listening socket where clients look for their creator."""
    (directory / "shm").mkdir(0o700)
    path = directory / "shm" / "test"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        try:
            server.listen()
            yield server
        finally:
            path.unlink()


def at(directory: Path, name: str = "test", /, **options: object) -> ShmEndpoint:
    """An endpoint of a test's own."""
    return ShmEndpoint(name=name, directory=str(directory / "shm"), **options)  # type: ignore[arg-type]


async def join(
    nursery: trio.Nursery, listener: MessageListener, endpoint: ShmEndpoint
) -> tuple[MessageChannel, MessageChannel]:
    """A client and the creator's end of its channel.

    The client waits for what the creator hands over when it accepts.
    """
    found: list[MessageChannel] = []

    async def accept() -> None:
        found.append(await listener.accept(nursery))

    async with trio.open_nursery() as accepting:
        accepting.start_soon(accept)
        client = await connect(nursery, endpoint, None)
    return client, found[0]


async def refused(endpoint: ShmEndpoint) -> ConnectFailed:
    """What connecting fails with."""
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectFailed) as caught:
            await connect(nursery, endpoint, None)
    return caught.value
