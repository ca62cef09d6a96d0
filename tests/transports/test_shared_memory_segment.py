"""What is handed over for shared memory: creators that lie, and steps that fail."""

from __future__ import annotations

import array
import errno
import mmap
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from shared_memory import at, false_creator, needs_linux, needs_sealed_memory, refused

from trio_mcp_transport.sansio.ring import RING_HEADER_BYTES, RingHeader
from trio_mcp_transport.transports.shared_memory_segment import hand_over

pytestmark = [pytest.mark.shm, needs_sealed_memory]

#: Seals that keep a segment's size: shrink, grow, and the seals themselves (fcntl(2)).
SIZE_SEALS = 0x0001 | 0x0002 | 0x0004

# -- creators that are not to be trusted ------------------------------------------------


def memory(size: int, *, seals: int = SIZE_SEALS, content: bytes = b"") -> int:
    import fcntl

    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


HEADER = RingHeader(ring_bytes=1000, max_message_bytes=100)
SIZE = HEADER.segment_bytes
HEAD = HEADER.encode()


def good() -> int:
    return memory(SIZE, content=HEAD)


def sock(kind: int = socket.SOCK_STREAM, family: int = socket.AF_UNIX) -> int:
    return socket.socket(family, kind).detach()


def pipe_end() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


#: What the creator sends, what with it, and what the client says to that.
LIES: dict[str, tuple[bytes, list[Callable[[], int]], str]] = {
    "nothing but bytes": (HEAD, [], "0 descriptors, not 3"),
    "two descriptors": (HEAD, [good, good], "2 descriptors, not 3"),
    "four descriptors": (HEAD, [good, good, sock, sock], "descriptors, not 3"),
    "no header": (b"hello", [good, good, sock], "too short"),
    "something else": (b"x" * 40, [good, good, sock], "is no ring"),
    "pipes": (HEAD, [pipe_end, good, sock], "no memory that can be sealed"),
    "no seals": (HEAD, [partial(memory, SIZE, seals=0, content=HEAD), good, sock], "not sealed"),
    "it could shrink": (
        HEAD,
        [good, partial(memory, SIZE, seals=0x6, content=HEAD), sock],
        "not sealed",
    ),
    "it could grow": (
        HEAD,
        [good, partial(memory, SIZE, seals=0x5, content=HEAD), sock],
        "not sealed",
    ),
    "seals could follow": (
        HEAD,
        [good, partial(memory, SIZE, seals=0x3, content=HEAD), sock],
        "not sealed",
    ),
    "it cannot be written": (
        HEAD,
        [good, partial(memory, SIZE, seals=0xF, content=HEAD), sock],
        "cannot be written",
    ),
    "too small": (HEAD, [partial(memory, SIZE - 1, content=HEAD), good, sock], "5095 bytes, not"),
    "too large": (HEAD, [partial(memory, SIZE + 1, content=HEAD), good, sock], "5097 bytes, not"),
    "memory without a header": (HEAD, [good, partial(memory, SIZE), sock], "is no ring"),
    "two stories": (
        HEAD,
        [good, partial(memory, SIZE, content=RingHeader(1000, 99).encode()), sock],
        "one thing and its memory another",
    ),
    "no socket": (HEAD, [good, good, good], "no socket"),
    "datagrams": (HEAD, [good, good, partial(sock, socket.SOCK_DGRAM)], "wrong kind"),
    "TCP": (HEAD, [good, good, partial(sock, family=socket.AF_INET)], "wrong kind"),
}


@needs_linux
@pytest.mark.parametrize("lie", LIES)
async def test_what_a_creator_hands_over_is_checked(tmp_path: Path, lie: str) -> None:
    said, makers, complaint = LIES[lie]
    with false_creator(tmp_path) as server:
        descriptors = [make() for make in makers]
        try:
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def lie_to_it() -> None:
                        await trio.lowlevel.wait_readable(server)
                        accepted, _ = server.accept()
                        with accepted:
                            rights = array.array("i", descriptors)
                            with_them = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                            accepted.sendmsg([said], with_them if descriptors else [])

                    error = await refused(at(tmp_path))
                    assert str(error).startswith("cannot connect to shm://test: ")
                    assert complaint in str(error)
        finally:
            for fd in descriptors:
                os.close(fd)


async def test_a_creator_that_closes_without_a_word_is_told_of(tmp_path: Path) -> None:
    with false_creator(tmp_path) as server:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def refuse() -> None:
                    await trio.lowlevel.wait_readable(server)
                    server.accept()[0].close()

                error = await refused(at(tmp_path))
                assert "has closed the connection" in str(error)


# -- steps that fail -----------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["memfd_create", "ftruncate", "mmap", "socketpair", "send_fds"])
def test_when_a_step_of_handing_over_fails_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    module = {"mmap": mmap, "socketpair": socket, "send_fds": socket}.get(failing, os)
    left, right = socket.socketpair()
    with left, right:
        before = os.listdir("/proc/self/fd")
        with monkeypatch.context() as patch:
            patch.setattr(module, failing, fail)
            with pytest.raises(OSError, match="Too many open files"):
                hand_over(left, "test", HEADER)
        assert os.listdir("/proc/self/fd") == before


def test_the_header_does_not_reach_into_the_ring() -> None:
    assert len(HEAD) <= RING_HEADER_BYTES == mmap.PAGESIZE
