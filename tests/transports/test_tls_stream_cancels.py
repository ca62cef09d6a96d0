"""TLS streams that are cancelled, interrupted and forgotten."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from collections.abc import Iterator
from functools import partial

import pytest
import trio
import trio.testing

from trio_mcp_transport.limits import TLS_CLOSE_TIMEOUT
from trio_mcp_transport.testing import FaultyStream, cancel_at
from trio_mcp_transport.testing.faults import stall_after
from trio_mcp_transport.transports.socket_stream import SocketStream

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import (
    outcome_of,
    reset,
    shake_streams,
    stream_pair,
    streams_over,
    tcp_pair,
)

pytestmark = [
    pytest.mark.tls,
    pytest.mark.hardening,
    pytest.mark.usefixtures("in_time"),
]

# -- cancels and interrupts --------------------------------------------------------------


async def test_a_cancelled_send_breaks_the_stream(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, b"x" * 10_000_000)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        for call in (
            lambda: client.send_all(b"more"),
            client.receive_some,
            client.send_eof,
            client.do_handshake,
        ):
            with pytest.raises(trio.BrokenResourceError, match="cancelled while it wrote"):
                await call()


async def test_a_send_in_a_cancelled_scope_has_written_nothing(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.send_all(b"lost")
        assert scope.cancelled_caught
        await client.send_all(b"kept")
        assert await server.receive_some() == b"kept"


async def test_a_receive_that_is_cancelled_anywhere_loses_nothing(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    data = bytes(range(256)) * 100
    with trio.fail_after(30):
        async with client, server:
            await shake_streams(client, server)
            received = b""

            async def receive() -> None:
                nonlocal received
                received += await server.receive_some(1000)

            async with trio.open_nursery() as nursery:
                # Cut into pieces, so that a receive waits in the middle of records as well.
                wire = FaultyStream(client.transport_stream, write_size=700)
                client._wire.stream = wire
                client._wire._send_now = None
                nursery.start_soon(client.send_all, data)
                for number in itertools.cycle(range(4)):
                    if len(received) == len(data):
                        break
                    await cancel_at(number, receive)
            assert received == data


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_handshake_that_is_cancelled_anywhere_leaves_a_broken_stream(
    tls_files: TlsFiles, side: str
) -> None:
    for number in itertools.count():
        client, server = stream_pair(tls_files)
        ours, theirs = (client, server) if side == "client" else (server, client)
        outcomes: dict[str, object] = {}
        async with ours, theirs, trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, theirs.do_handshake, outcomes, "theirs")
            was_cancelled = await cancel_at(number, ours.do_handshake)
            if was_cancelled and number:
                with pytest.raises(trio.BrokenResourceError):
                    await ours.do_handshake()
            ours.close()
        if not was_cancelled:
            assert number > 1
            return


@pytest.mark.parametrize("stuck", [False, True])
async def test_a_close_that_is_cancelled_anywhere_closes(
    tls_files: TlsFiles, stuck: bool, autojump_clock: trio.testing.MockClock
) -> None:
    for number in itertools.count():
        left, right = trio.testing.memory_stream_pair()
        wire = FaultyStream(left)
        client, server = streams_over(wire, right, tls_files)
        await shake_streams(client, server)
        if stuck:
            wire._writing.change(stall_after(wire.bytes_written))
        was_cancelled = await cancel_at(number, client.aclose)
        assert wire.closed
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        await client.aclose()
        await trio.aclose_forcefully(server)
        if not was_cancelled:
            assert number
            return


async def test_a_peer_that_does_not_read_delays_closing_only_so_long(
    tls_files: TlsFiles, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = streams_over(*trio.testing.lockstep_stream_pair(), tls_files)
    await shake_streams(client, server)
    began = trio.current_time()
    await client.aclose()
    assert trio.current_time() - began == pytest.approx(TLS_CLOSE_TIMEOUT)
    await trio.aclose_forcefully(server)


async def test_closing_does_not_wait_for_another_task_that_sends(
    tls_files: TlsFiles, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = streams_over(*trio.testing.lockstep_stream_pair(), tls_files)
    await shake_streams(client, server)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome_of, lambda: client.send_all(b"x"), {}, "sender")
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
    assert trio.current_time() == began
    assert await server.receive_some() == b"x"  # the pair keeps what was on its way
    with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
        await server.receive_some()
    await trio.aclose_forcefully(server)


async def test_a_write_that_was_interrupted_breaks_the_stream(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = stream_pair(tls_files)
    async with server:
        await shake_streams(client, server)

        async def interrupt(_: object) -> None:
            await trio.lowlevel.checkpoint()
            raise KeyboardInterrupt

        monkeypatch.setattr(client.transport_stream, "send_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.send_all(b"x")
        assert isinstance(caught.value.__cause__, KeyboardInterrupt)
        client.close()
        with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
            await server.receive_some()


# -- what stays --------------------------------------------------------------------------


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("way", ["send_all", "send_nowait"])
async def test_a_stream_that_broke_holds_nothing_of_what_it_was_to_write(
    tls_files: TlsFiles, way: str
) -> None:
    client, server = stream_pair(tls_files)
    data = b"x" * 1_000_000
    before = sys.getrefcount(data)
    async with client:
        await shake_streams(client, server)
        server.close()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(data) if way == "send_all" else client.send_nowait(data)
        assert sys.getrefcount(data) == before


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize(
    "fault", ["none", "cut", "garbage", "reset", "handshake", "cancelled", "write"]
)
async def test_a_closed_stream_is_freed_at_once(tls_files: TlsFiles, fault: str) -> None:
    client, server = streams_over(*tcp_pair(), tls_files)
    outcomes: dict[str, object] = {}
    if fault != "handshake":
        await shake_streams(client, server)
    if fault in {"garbage", "handshake"}:
        await client.transport_stream.send_all(b"x" * 100)
    elif fault == "cut":
        await client.transport_stream.aclose()
    elif fault == "reset":
        assert isinstance(client.transport_stream, SocketStream)
        reset(client.transport_stream)
    elif fault == "write":
        client.close()
        await outcome_of(partial(server.send_all, bytes(10_000_000)), outcomes, "server")
        assert isinstance(outcomes.pop("server"), trio.BrokenResourceError)
    if fault not in {"none", "cancelled", "write"}:
        await outcome_of(server.receive_some, outcomes, "server")
        assert isinstance(outcomes.pop("server"), trio.BrokenResourceError)
    if fault == "cancelled":
        with trio.move_on_after(0):
            await server.receive_some()
    known = weakref.ref(server)
    await server.aclose()
    del server
    assert known() is None
    await client.aclose()
