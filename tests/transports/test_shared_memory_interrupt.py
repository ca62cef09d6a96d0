"""Control-C in the middle of what a stream through shared memory does."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import pytest
import trio
from shared_memory import needs_sealed_memory, stream_pair, wires

from trio_mcp_transport.sansio.ring import RingReader, RingWriter
from trio_mcp_transport.transports import shared_memory_stream
from trio_mcp_transport.transports.shared_memory_stream import Direction, SharedMemoryStream

pytestmark = [pytest.mark.shm, needs_sealed_memory]

#: Such bytes go through the ring, and are told of by words.
FIRST, SECOND = b"\xff" + b"A" * 99, b"\xff" + b"B" * 99

Write = Callable[[SharedMemoryStream, bytes], Awaitable[None]]
Read = Callable[[SharedMemoryStream], Awaitable[bytes]]


async def send(stream: SharedMemoryStream, data: bytes) -> None:
    await stream.send_all(data)


async def send_nowait(stream: SharedMemoryStream, data: bytes) -> None:
    await trio.lowlevel.checkpoint()
    assert stream.send_nowait(data) == len(data)


async def receive(stream: SharedMemoryStream) -> bytes:
    return await stream.receive_some()


async def receive_nowait(stream: SharedMemoryStream) -> bytes:
    await trio.lowlevel.checkpoint()
    found = stream.receive_nowait()
    assert found is not None
    return found


def interrupt_once_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Let a real SIGINT strike when that function has run for the first time."""
    original = getattr(owner, name)
    left = [True]

    def run(*args: object, **kwargs: object) -> object:
        result = original(*args, **kwargs)
        if left:
            left.clear()
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, run)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (RingWriter, "place"),
        (shared_memory_stream, "_send_word"),
        (RingReader, "written_untrusted"),
        (RingReader, "read"),
    ],
)
@pytest.mark.parametrize(("write", "read"), [(send, receive), (send_nowait, receive_nowait)])
def test_an_interrupt_between_two_steps_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, write: Write, read: Read
) -> None:
    received: list[bytes] = []
    interrupt_once_after(monkeypatch, owner, name)

    async def main() -> None:
        left, right = stream_pair()

        async def exchange() -> None:
            await write(left, FIRST)
            await trio.lowlevel.checkpoint()
            received.append(await read(right))
            await trio.lowlevel.checkpoint()

        with trio.fail_after(10):
            with pytest.raises(KeyboardInterrupt):
                await exchange()
            if not received:  # it came before that
                received.append(await read(right))
            await write(left, SECOND)
            received.append(await read(right))
        left.close()
        right.close()

    trio.run(main)
    assert received == [FIRST, SECOND]


def test_an_interrupted_close_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = []
    interrupt_once_after(monkeypatch, Direction, "close")

    async def main() -> None:
        left_out, left_in, right_out, right_in = wires()
        sockets.extend([left_out.socket, left_in.socket])
        with pytest.raises(KeyboardInterrupt):
            await SharedMemoryStream(left_out, left_in).aclose()
        right_out.close()
        right_in.close()

    trio.run(main)
    assert [sock.fileno() for sock in sockets] == [-1, -1]
