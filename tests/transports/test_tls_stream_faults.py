"""TLS streams and what goes wrong: liars, the dead and the slow."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing

from trio_mcp_transport.errors import CertificateError, RemoteProtocolError, TlsHandshakeFailed
from trio_mcp_transport.limits import TLS_CLOSE_TIMEOUT
from trio_mcp_transport.testing import FaultyStream
from trio_mcp_transport.testing.faults import stall_after
from trio_mcp_transport.transports.socket_stream import SocketStream

pytest.importorskip("OpenSSL")

from OpenSSL import SSL
from tls_files import TlsFiles
from tls_sides import (
    Session,
    client_context,
    client_of,
    machines,
    outcome_of,
    reset,
    server_context,
    server_of,
    shake_streams,
    socket_pair,
    stream_pair,
    streams_over,
    tcp_pair,
)

from trio_mcp_transport.transports.tls_stream import TlsStream

pytestmark = [
    pytest.mark.tls,
    pytest.mark.hardening,
    pytest.mark.usefixtures("in_time"),
]

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


# -- handshakes that fail ----------------------------------------------------------------


async def test_the_peer_is_told_before_the_error_is_raised(tls_files: TlsFiles) -> None:
    left, right = socket_pair()
    async with (
        TlsStream(left, Session(client_of(client_context(tls_files, trusting=False)))) as client,
        TlsStream(right, Session(server_of(server_context(tls_files)))) as server,
    ):
        outcomes: dict[str, object] = {}
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outcome_of, client.do_handshake, outcomes, "client")
                nursery.start_soon(outcome_of, server.do_handshake, outcomes, "server")
        ours, theirs = outcomes["client"], outcomes["server"]
        assert isinstance(ours, TlsHandshakeFailed)
        assert "certificate verify failed" in str(ours)
        assert isinstance(theirs, TlsHandshakeFailed)
        assert theirs.alert == "unknown_ca"
        # Nothing but the same again can be had from it.
        with pytest.raises(TlsHandshakeFailed, match="unknown_ca") as again:
            await server.do_handshake()
        assert again.value is not theirs
        assert again.value.__cause__ is theirs
        with pytest.raises(trio.BrokenResourceError, match="unknown_ca") as broken:
            await server.receive_some()
        assert broken.value.__cause__ is theirs
        with pytest.raises(trio.BrokenResourceError, match="unknown_ca"):
            await server.send_all(b"x")


async def test_the_session_may_know_better_why_a_handshake_failed(tls_files: TlsFiles) -> None:
    left, right = socket_pair()
    session = Session(client_of(client_context(tls_files, trusting=False)))
    session.better = CertificateError("no such host", check="host-name", name="a.example")
    async with TlsStream(left, session) as client, right:
        server = TlsStream(right, Session(server_of(server_context(tls_files))))
        outcomes: dict[str, object] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, client.do_handshake, outcomes, "client")
            nursery.start_soon(outcome_of, server.do_handshake, outcomes, "server")
        assert outcomes["client"] is session.better
        with pytest.raises(trio.BrokenResourceError, match="no such host"):
            await client.receive_some()


async def test_those_who_wait_for_a_handshake_get_its_error_as_well(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    outcomes: dict[str, object] = {}
    async with client, server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, client.do_handshake, outcomes, "first")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(outcome_of, client.do_handshake, outcomes, "second")
            nursery.start_soon(outcome_of, client.receive_some, outcomes, "receiver")
            await trio.testing.wait_all_tasks_blocked()
            server.close()
        assert isinstance(outcomes["first"], TlsHandshakeFailed)
        assert isinstance(outcomes["second"], TlsHandshakeFailed)
        assert isinstance(outcomes["receiver"], trio.BrokenResourceError)


@pytest.mark.parametrize("finisher", ["client", "server"])
async def test_a_side_that_refuses_at_the_end_has_not_completed_the_handshake(
    tls_files: TlsFiles, finisher: str
) -> None:
    left, right = socket_pair()
    sessions = [Session(machine) for machine in machines(tls_files, "1.2")]
    refusal = CertificateError("not this one", check="pin", name="a.example")
    sessions[0 if finisher == "client" else 1].refuse = refusal
    outcomes: dict[str, object] = {}
    async with TlsStream(left, sessions[0]) as client, TlsStream(right, sessions[1]) as server:

        async def shake(stream: TlsStream, name: str) -> None:
            await outcome_of(stream.do_handshake, outcomes, name)
            await stream.aclose()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shake, client, "client")
                nursery.start_soon(shake, server, "server")
    assert outcomes[finisher] is refusal
    if finisher == "server":  # the client has nothing more to say in TLS 1.2, only to hear
        assert isinstance(outcomes["client"], TlsHandshakeFailed)


async def test_a_handshake_that_stalls_ends_in_time(
    tls_files: TlsFiles, autojump_clock: trio.testing.MockClock
) -> None:
    client_machine, _ = machines(tls_files)
    left, right = trio.testing.memory_stream_pair()
    async with TlsStream(left, Session(client_machine, handshake_timeout=30.0)) as client, right:
        with pytest.raises(TlsHandshakeFailed, match="not complete within 30 s"):
            await client.do_handshake()
        assert trio.current_time() == pytest.approx(30.0)
        with pytest.raises(trio.BrokenResourceError, match="not complete within 30 s"):
            await client.send_all(b"x")


async def test_a_peer_that_takes_no_alert_holds_nobody_up(
    tls_files: TlsFiles, autojump_clock: trio.testing.MockClock
) -> None:
    left, right = trio.testing.memory_stream_pair()
    machine = client_of(client_context(tls_files, trusting=False))
    stuck = FaultyStream(left)
    async with right:
        client = TlsStream(stuck, Session(machine))
        server = TlsStream(right, Session(server_of(server_context(tls_files))))
        outcomes: dict[str, object] = {}

        async def shake() -> None:
            await outcome_of(client.do_handshake, outcomes, "client")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake)
            await trio.testing.wait_all_tasks_blocked()
            stuck._writing.change(stall_after(stuck.bytes_written))
            nursery.start_soon(outcome_of, server.do_handshake, outcomes, "server")
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(TLS_CLOSE_TIMEOUT)
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(outcomes["client"], TlsHandshakeFailed)
            assert "certificate verify failed" in str(outcomes["client"])
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(client)


async def test_a_handshake_that_is_out_of_time_while_it_tells_the_peer_knows_its_cause(
    tls_files: TlsFiles, autojump_clock: trio.testing.MockClock
) -> None:
    _, server_machine = machines(tls_files)
    left, right = trio.testing.memory_stream_pair()
    stuck = FaultyStream(right, writing=stall_after(0))
    async with left, TlsStream(stuck, Session(server_machine, TLS_CLOSE_TIMEOUT / 2)) as server:
        await left.send_all(b"\x16\x03\x01\xff\xff")
        with pytest.raises(TlsHandshakeFailed, match="does not speak TLS"):
            await server.do_handshake()
        assert trio.current_time() == pytest.approx(TLS_CLOSE_TIMEOUT / 2)
        stuck.heal()


@pytest.mark.parametrize("is_server", [True, False])
async def test_a_peer_that_speaks_plain_http_is_told_by_name(
    tls_files: TlsFiles, is_server: bool
) -> None:
    left, right = socket_pair()
    async with left:
        machine = machines(tls_files)[is_server]
        async with TlsStream(right, Session(machine)) as stream:
            await left.send_all(b"GET / HTTP/1.1\r\n\r\n" if is_server else b"HTTP/1.1 400 No\r\n")
            with pytest.raises(trio.BrokenResourceError, match="plain HTTP") as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, TlsHandshakeFailed)


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_peer_that_dies_in_the_handshake_fails_it(tls_files: TlsFiles, how: str) -> None:
    left, right = tcp_pair()
    _, machine = machines(tls_files)
    async with TlsStream(right, Session(machine)) as server:
        hello, _ = machines(tls_files)
        hello.next_event()
        await left.send_all(hello.bytes_to_send()[:-10])
        reset(left) if how == "reset" else left.close()
        said = "broke during" if how == "reset" else "ended the connection during"
        with pytest.raises(TlsHandshakeFailed, match=f"{said} the TLS handshake"):
            await server.do_handshake()


async def test_an_alert_is_found_although_the_connection_broke_while_writing(
    tls_files: TlsFiles,
) -> None:
    left, right = socket_pair()
    client_machine = client_of(client_context(tls_files, "1.2"))
    server_machine = server_of(server_context(tls_files, "1.3"))

    class Breaking(SocketStream):
        """Breaks with the second write, when the answer is there already."""

        writes = 0

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            self.writes += 1
            if self.writes == 2:
                raise trio.BrokenResourceError("broken pipe")
            await super().send_all(data)

    client_machine.next_event()
    async with right, Breaking(left.socket) as wire:
        server = TlsStream(right, Session(server_machine))
        await wire.send_all(client_machine.bytes_to_send())
        with pytest.raises(TlsHandshakeFailed):
            await server.do_handshake()
        # A client which is made to write once more finds out why it cannot.
        client_machine._output.append(b"more")
        with pytest.raises(TlsHandshakeFailed, match="protocol_version") as caught:
            await TlsStream(wire, Session(client_machine)).do_handshake()
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


async def test_a_callback_that_fails_comes_out_of_the_handshake_as_it_is(
    tls_files: TlsFiles,
) -> None:
    bug = ZeroDivisionError("bug")

    def select(*_: object) -> bytes:
        raise bug

    client_side, server_side = client_context(tls_files), server_context(tls_files)
    client_side.set_alpn_protos([b"http/1.1"])
    server_side.set_alpn_select_callback(select)
    left, right = socket_pair()
    client = TlsStream(left, Session(client_of(client_side)))
    async with client, TlsStream(right, Session(server_of(server_side))) as server:
        outcomes: dict[str, object] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, client.do_handshake, outcomes, "client")
            with pytest.raises(ZeroDivisionError) as caught:
                await server.do_handshake()
        assert caught.value is bug
        assert isinstance(outcomes["client"], TlsHandshakeFailed)
        with pytest.raises(trio.BrokenResourceError, match="bug"):
            await server.do_handshake()


async def test_a_tls_1_3_client_whose_certificate_was_refused_learns_it_by_reading(
    tls_files: TlsFiles,
) -> None:
    left, right = socket_pair()
    client = TlsStream(left, Session(client_of(client_context(tls_files))))
    server = TlsStream(right, Session(server_of(server_context(tls_files, mutual=True))))
    async with client, server:
        outcomes: dict[str, object] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, server.do_handshake, outcomes, "server")
            await client.do_handshake()
        with pytest.raises(trio.BrokenResourceError, match="certificate_required"):
            await client.receive_some()


@pytest.mark.parametrize("way", ["send_all", "send_nowait"])
async def test_a_tls_1_3_client_whose_certificate_was_refused_learns_it_by_writing(
    tls_files: TlsFiles, way: str
) -> None:
    left, right = socket_pair()
    client = TlsStream(left, Session(client_of(client_context(tls_files))))
    server = TlsStream(right, Session(server_of(server_context(tls_files, mutual=True))))
    async with client:
        async with server:
            outcomes: dict[str, object] = {}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outcome_of, server.do_handshake, outcomes, "server")
                await client.do_handshake()
        with pytest.raises(trio.BrokenResourceError, match="certificate_required"):
            await client.send_all(b"x") if way == "send_all" else client.send_nowait(b"x")


# -- faults after the handshake ----------------------------------------------------------


@both_versions
async def test_a_connection_that_is_cut_off_is_no_clean_end(
    tls_files: TlsFiles, version: str
) -> None:
    client, server = stream_pair(tls_files, version)
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(b"whole")
        await client.transport_stream.aclose()
        assert await server.receive_some() == b"whole"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
                await server.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
            await server.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
            server.receive_nowait()


async def test_a_connection_that_is_reset_is_broken(tls_files: TlsFiles) -> None:
    left, right = tcp_pair()
    client, server = streams_over(left, right, tls_files)
    async with server:
        await shake_streams(client, server)
        reset(left)
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="connection failed"):
                await server.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="connection failed"):
            await server.do_handshake()


async def test_garbage_ends_it_and_the_peer_hears_why(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        wire = client.transport_stream
        await wire.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises(trio.BrokenResourceError, match="broke TLS"):
            await server.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="bad_record_mac"):
            await client.receive_some()


async def test_garbage_after_data_is_told_after_the_data(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(b"good")
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert await server.receive_some() == b"good"
        with pytest.raises(trio.BrokenResourceError, match="broke TLS"):
            await server.receive_some()


@pytest.mark.parametrize("then", ["send_all", "send_nowait", "send_eof"])
async def test_garbage_after_data_is_told_to_who_sends(tls_files: TlsFiles, then: str) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(b"good")
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert await server.receive_some() == b"good"

        async def send() -> None:
            if then == "send_all":
                await server.send_all(b"x")
            elif then == "send_eof":
                await server.send_eof()
            else:
                server.send_nowait(b"x")

        with pytest.raises(trio.BrokenResourceError, match="broke TLS"):
            await send()


@pytest.mark.parametrize("way", ["close", "aclose"])
async def test_a_stream_with_garbage_in_it_can_be_closed(tls_files: TlsFiles, way: str) -> None:
    client, server = stream_pair(tls_files)
    async with client:
        await shake_streams(client, server)
        await client.send_all(b"good")
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert await server.receive_some() == b"good"
        server.close() if way == "close" else await server.aclose()
        with pytest.raises(trio.BrokenResourceError, match="bad_record_mac"):
            await client.receive_some()


async def test_a_stream_can_be_closed_while_the_peer_is_told_of_a_fault(
    tls_files: TlsFiles, autojump_clock: trio.testing.MockClock
) -> None:
    left, right = trio.testing.memory_stream_pair()
    wire = FaultyStream(right)
    client, server = streams_over(left, wire, tls_files)
    async with client:
        await shake_streams(client, server)
        wire._writing.change(stall_after(wire.bytes_written))
        await left.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await server.receive_some()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError, match="broke TLS"):
                await server.send_all(b"x")
            await server.aclose()


async def test_renegotiation_is_refused_and_the_stream_goes_on(tls_files: TlsFiles) -> None:
    left, right = socket_pair()
    peer = SSL.Connection(client_context(tls_files, "1.2"))
    peer.set_connect_state()
    server = TlsStream(right, Session(server_of(server_context(tls_files))))

    async def pump() -> None:
        """What the peer has to write, and one read for it."""
        with suppress(SSL.WantReadError):
            await left.send_all(peer.bio_read(65536))
        peer.bio_write(await left.receive_some())

    async with left, server:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.do_handshake)
                while True:
                    try:
                        peer.do_handshake()
                        break
                    except SSL.WantReadError:
                        await pump()
            assert peer.renegotiate()
            with pytest.raises(SSL.WantReadError):
                peer.do_handshake()
            await left.send_all(peer.bio_read(65536))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outcome_of, server.receive_some, {}, "server")
                peer.bio_write(await left.receive_some())
                with pytest.raises(SSL.Error, match="no renegotiation"):
                    peer.do_handshake()
                await server.send_all(b"still here")
                assert await left.receive_some()
                nursery.cancel_scope.cancel()


async def test_writing_to_a_peer_that_has_left_politely_fails(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    with trio.fail_after(10):
        async with client:
            await shake_streams(client, server)
            await server.aclose()
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError):
                    await client.send_all(b"x" * 1_000_000)
            assert await client.receive_some() == b""


@pytest.mark.parametrize("farewell", ["nothing", "goodbye", "alert"])
async def test_a_server_that_leaves_before_the_last_flight_fails_the_handshake(
    tls_files: TlsFiles, farewell: str
) -> None:
    left, right = socket_pair()
    client_machine, server_machine = machines(tls_files)
    client_machine.next_event()
    server_machine.receive_data(client_machine.bytes_to_send())
    server_machine.next_event()
    await right.send_all(server_machine.bytes_to_send())

    class Leaving(SocketStream):
        """What is written arrives nowhere, as the peer leaves at that moment."""

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            server_machine.receive_data(bytes(data))
            server_machine.next_event()
            if farewell == "goodbye":
                await right.send_all(server_machine.send_close())
            elif farewell == "alert":
                server_machine.receive_data(b"\x17\x03\x03\x00\x20" + b"x" * 32)
                with pytest.raises(RemoteProtocolError):
                    server_machine.next_event()
                await right.send_all(server_machine.bytes_to_send())
            right.close()
            raise trio.BrokenResourceError("broken pipe")

    async with Leaving(left.socket) as wire:
        said = "bad_record_mac" if farewell == "alert" else "broken pipe"
        with pytest.raises(TlsHandshakeFailed, match=f"broke during the TLS handshake: .*{said}"):
            await TlsStream(wire, Session(client_machine)).do_handshake()


@pytest.mark.parametrize("way", ["receive_some", "receive_nowait"])
async def test_what_was_received_is_returned_although_its_answer_cannot_be_written(
    tls_files: TlsFiles, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(b"data")
        # As if what came made the machine say something, which the peer does not take.
        server._wire.machine._output.append(b"words")

        def fail(_: object) -> int:
            raise trio.BrokenResourceError("broken pipe")

        async def fail_later(data: object) -> None:
            await trio.lowlevel.checkpoint()
            fail(data)

        monkeypatch.setattr(server._wire, "_send_now", fail)
        monkeypatch.setattr(server.transport_stream, "send_all", fail_later)
        if way == "receive_some":
            assert await server.receive_some() == b"data"
        else:
            assert server.receive_nowait() == b"data"
        with pytest.raises(trio.BrokenResourceError, match="broken pipe"):
            await server.send_all(b"x")


async def test_what_came_before_the_connection_broke_for_writing_can_still_be_read(
    tls_files: TlsFiles,
) -> None:
    # As an HTTP server that answers a large request early, and then stops reading it.
    client, server = stream_pair(tls_files)
    async with client:
        await shake_streams(client, server)
        await server.send_all(b"too large")
        await server.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x" * 1_000_000)
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            client.send_nowait(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await client.send_eof()
        assert await client.receive_some() == b"too large"
        assert await client.receive_some() == b""
