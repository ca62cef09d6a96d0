"""The wire under a TLS stream: who writes when, and what a failure means for the others."""

from __future__ import annotations

import pytest
import trio
import trio.testing

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import machines

from trio_mcp_transport.transports.tls_wire import TlsWire

pytestmark = [pytest.mark.tls, pytest.mark.usefixtures("in_time")]


class Slow(trio.abc.Stream):
    """Each write waits until it is let go."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.go = trio.Semaphore(0)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        await self.go.acquire()

    async def wait_send_all_might_not_block(self) -> None:
        self.written.append(b"waited")
        await self.go.acquire()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError("never")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def wire_over(stream: trio.abc.Stream, files: TlsFiles) -> TlsWire:
    return TlsWire(stream, machines(files)[0])


async def test_who_writes_does_so_in_the_order_in_which_they_came(tls_files: TlsFiles) -> None:
    stream = Slow()
    wire = wire_over(stream, tls_files)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            if number == 2:
                nursery.start_soon(wire.wait_writable)
            else:
                nursery.start_soon(wire.write, b"%d" % number)
            await trio.testing.wait_all_tasks_blocked()
        assert wire.is_writing
        for written in range(1, 6):
            await trio.testing.wait_all_tasks_blocked()
            assert len(stream.written) == written
            stream.go.release()
    assert stream.written == [b"0", b"1", b"waited", b"3", b"4"]
    assert not wire.is_writing


async def test_a_writer_that_is_cancelled_in_line_breaks_the_wire_for_all(
    tls_files: TlsFiles,
) -> None:
    # Its record has a number, and none that comes later can be read without it.
    stream = Slow()
    wire = wire_over(stream, tls_files)
    outcomes: list[str] = []

    async def write(data: bytes, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await wire.write(data)
                outcomes.append("written")
            except trio.BrokenResourceError as error:
                outcomes.append(str(error))

    async with trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(4)]
        for number, scope in enumerate(scopes):
            nursery.start_soon(write, b"%d" % number, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        stream.go.release()
    assert stream.written == [b"0"]
    assert outcomes[0] == "written"
    assert len(outcomes) == 3
    assert all("cancelled while it wrote" in outcome for outcome in outcomes[1:])
    assert not wire.is_writing


async def test_who_is_cancelled_when_its_turn_has_come_lets_the_next(tls_files: TlsFiles) -> None:
    stream = Slow()
    wire = wire_over(stream, tls_files)
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            await wire.wait_writable()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.wait_writable)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wire.wait_writable)
        await trio.testing.wait_all_tasks_blocked()
        stream.go.release()
        await trio.testing.wait_all_tasks_blocked()
        assert len(stream.written) == 2
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert len(stream.written) == 3
        stream.go.release()
    assert not wire.is_writing


async def test_who_waits_in_line_is_told_that_it_was_closed(tls_files: TlsFiles) -> None:
    stream = Slow()
    wire = wire_over(stream, tls_files)

    async def write() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await wire.write(b"late")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.write, b"first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert wire.end(with_farewell=False) == b""
        stream.go.release()
    assert stream.written == [b"first"]


async def test_a_stream_that_cannot_even_be_closed_ends_no_program(tls_files: TlsFiles) -> None:
    class Faulty(Slow):
        closed = False

        async def aclose(self) -> None:
            self.closed = True
            raise trio.BrokenResourceError("closing failed")

    stream = Faulty()
    wire_over(stream, tls_files).close(b"")
    await trio.testing.wait_all_tasks_blocked()
    assert stream.closed
