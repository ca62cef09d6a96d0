"""The TLS machine: two of them joined, and peers that do what no TLS peer should."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from trio_mcp_transport.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TlsHandshakeFailed,
)
from trio_mcp_transport.sansio import NEED_DATA, EndOfData

pytest.importorskip("OpenSSL")

from OpenSSL import SSL
from tls_files import TlsFiles
from tls_sides import (
    client_context,
    client_of,
    events_of,
    machines,
    server_context,
    server_of,
    shake,
    shaken,
)

from trio_mcp_transport.sansio.tls import TlsData, TlsHandshakeCompleted, TlsMachine

pytestmark = pytest.mark.tls

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


def record_sizes(ciphertext: bytes) -> list[int]:
    sizes = []
    while ciphertext:
        size = int.from_bytes(ciphertext[3:5], "big")
        sizes.append(size)
        ciphertext = ciphertext[5 + size :]
    return sizes


def plaintext(machine: TlsMachine) -> bytes:
    return b"".join(event.data for event in events_of(machine) if isinstance(event, TlsData))


# -- the handshake -----------------------------------------------------------------------


@both_versions
def test_both_sides_tell_of_the_complete_handshake(tls_files: TlsFiles, version: str) -> None:
    for event in shake(*machines(tls_files, version)):
        assert isinstance(event, TlsHandshakeCompleted)
        assert event.version == f"TLSv{version}"
        assert "GCM" in event.cipher or "CHACHA" in event.cipher
        assert event.alpn is None


def test_the_protocol_that_was_agreed_on_is_told(tls_files: TlsFiles) -> None:
    client_side, server_side = client_context(tls_files), server_context(tls_files)
    client_side.set_alpn_protos([b"h2", b"http/1.1"])
    server_side.set_alpn_select_callback(lambda connection, offered: offered[-1])
    for event in shake(client_of(client_side), server_of(server_side)):
        assert isinstance(event, TlsHandshakeCompleted)
        assert event.alpn == "http/1.1"


@both_versions
def test_a_handshake_may_come_byte_by_byte(tls_files: TlsFiles, version: str) -> None:
    client, server = machines(tls_files, version)
    done: list[object] = []
    while len(done) < 2:
        for here, there in ((client, server), (server, client)):
            event = here.next_event()
            output = here.bytes_to_send()
            for at in range(len(output)):
                there.receive_data(output[at : at + 1])
                if (event_there := there.next_event()) is not NEED_DATA:
                    done.append(event_there)
                # Whatever it has to say comes in its turn.
                if answer := there.bytes_to_send():
                    here.receive_data(answer)
            if event is not NEED_DATA:
                done.append(event)
    assert [type(event) for event in done] == [TlsHandshakeCompleted, TlsHandshakeCompleted]
    server.receive_data(client.send_data(b"hello"))
    assert server.next_event() == TlsData(b"hello")


@pytest.mark.parametrize("until", ["before it began", "in the middle"])
def test_an_end_during_the_handshake_is_no_clean_end(tls_files: TlsFiles, until: str) -> None:
    client, server = machines(tls_files)
    assert client.next_event() is NEED_DATA
    hello = client.bytes_to_send()
    if until == "in the middle":
        server.receive_data(hello[:-1])
    server.receive_eof()
    for _ in range(2):
        with pytest.raises(TlsHandshakeFailed, match="ended the connection during the TLS"):
            server.next_event()
    assert server.bytes_to_send() == b""


# -- data --------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("size", [1, 150, 2**14, 2**14 + 1, 100_000])
def test_data_goes_both_ways_in_records_of_at_most_16_kib(
    tls_files: TlsFiles, version: str, size: int
) -> None:
    client, server = shaken(tls_files, version)
    data = bytes(range(256)) * (size // 256 + 1)
    for here, there in ((client, server), (server, client)):
        ciphertext = here.send_data(data[:size])
        assert max(record_sizes(ciphertext)) <= 2**14 + 256
        there.receive_data(ciphertext)
        assert plaintext(there) == data[:size]
        assert here.bytes_to_send() == there.bytes_to_send() == b""


@pytest.mark.parametrize(
    "make", [bytes, bytearray, memoryview, lambda data: memoryview(data).cast("I")]
)
def test_anything_that_is_bytes_can_be_sent(
    tls_files: TlsFiles, make: Callable[[bytes], bytes]
) -> None:
    client, server = shaken(tls_files)
    data = b"0123456789abcdef" * 2000
    server.receive_data(client.send_data(make(data)))
    assert plaintext(server) == data


def test_nothing_to_send_makes_no_record(tls_files: TlsFiles) -> None:
    client, _ = shaken(tls_files)
    assert client.send_data(b"") == b""


@both_versions
def test_data_and_the_end_may_come_byte_by_byte(tls_files: TlsFiles, version: str) -> None:
    client, server = shaken(tls_files, version)
    ciphertext = client.send_data(b"one") + client.send_data(b"two") + client.send_close()
    events = []
    for at in range(len(ciphertext)):
        server.receive_data(ciphertext[at : at + 1])
        events += events_of(server)
    assert events == [TlsData(b"one"), TlsData(b"two"), EndOfData()]


def test_openssl_is_asked_once_for_each_record_however_they_are_cut(tls_files: TlsFiles) -> None:
    asked: list[str] = []

    class Counting(SSL.Connection):
        def bio_write(self, buf: bytes | bytearray | memoryview) -> int:
            asked.append("write")
            return super().bio_write(buf)

        def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
            asked.append("read")
            return super().recv(bufsiz, flags)

    client = client_of(client_context(tls_files))
    server = TlsMachine(Counting(server_context(tls_files)), is_server=True)
    shake(client, server)
    ciphertext = b"".join(client.send_data(b"%d" % number) for number in range(50))
    for size in (1, 7, len(ciphertext)):
        asked.clear()
        for at in range(0, len(ciphertext), size):
            server.receive_data(ciphertext[at : at + size])
            server.next_event()
        while server.next_event() is not NEED_DATA:
            pass
        assert asked == ["write", "read"] * 50
        ciphertext = b"".join(client.send_data(b"%d" % number) for number in range(50))


def test_session_tickets_wait_until_the_server_says_something(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    assert server.bytes_to_send() == b""
    server.receive_data(client.send_data(b"question"))
    assert server.next_event() == TlsData(b"question")
    assert server.bytes_to_send() == b""
    with_tickets = server.send_data(b"answer")
    assert len(record_sizes(with_tickets)) > 1
    assert len(record_sizes(server.send_data(b"more"))) == 1
    client.receive_data(with_tickets)
    assert client.connection.get_session() is not None
    assert events_of(client) == [TlsData(b"answer")]


def test_session_tickets_come_before_the_end_of_a_server_that_said_nothing(
    tls_files: TlsFiles,
) -> None:
    client, server = shaken(tls_files)
    client.receive_data(server.send_close())
    assert events_of(client) == [EndOfData()]


def test_tls_1_2_has_its_tickets_in_the_handshake(tls_files: TlsFiles) -> None:
    _, server = shaken(tls_files, "1.2")
    assert len(record_sizes(server.send_data(b"answer"))) == 1


# -- the end -----------------------------------------------------------------------------


@both_versions
def test_a_goodbye_is_the_end_again_and_again(tls_files: TlsFiles, version: str) -> None:
    client, server = shaken(tls_files, version)
    server.receive_data(client.send_data(b"last words") + client.send_close())
    assert server.next_event() == TlsData(b"last words")
    assert server.next_event() == server.next_event() == EndOfData()
    server.receive_eof()
    assert server.next_event() == EndOfData()
    assert not server.was_cut_off


def test_tls_1_3_can_be_closed_in_one_direction(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    assert client.can_half_close
    assert server.can_half_close
    server.receive_data(client.send_close())
    assert server.next_event() == EndOfData()
    client.receive_data(server.send_data(b"answer") + server.send_close())
    assert events_of(client) == [TlsData(b"answer"), EndOfData()]


def test_tls_1_2_cannot_be_closed_in_one_direction(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files, "1.2")
    assert not client.can_half_close
    assert not server.can_half_close


def test_what_follows_the_goodbye_is_left_to_others(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    server.receive_data(client.send_data(b"x") + client.send_close() + b"plain text")
    assert events_of(server) == [TlsData(b"x"), EndOfData()]
    assert server.trailing_data == (b"plain text", False)
    server.receive_eof()
    assert server.trailing_data == (b"plain text", True)


@both_versions
@pytest.mark.parametrize("rest", [0, 1, 4, 5, 12])
def test_an_end_without_goodbye_is_told_from_one_with_it(
    tls_files: TlsFiles, version: str, rest: int
) -> None:
    client, server = shaken(tls_files, version)
    server.receive_data(client.send_data(b"whole") + client.send_data(b"cut off")[:rest])
    server.receive_eof()
    assert server.next_event() == TlsData(b"whole")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="without close_notify"):
            server.next_event()
    assert server.was_cut_off
    # It may still be polite itself.
    client.receive_data(server.send_close())
    assert events_of(client) == [EndOfData()]


# -- faults ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beginning", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain HTTP"),
        (b"POST /mcp HTTP/1.1\r\n\r\n", "plain HTTP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "plain HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak TLS: it began with b'SSH-2.0-'"),
        (b'{"jsonrpc": "2.0"}\n', "does not speak TLS"),
        (b"\x16\x03\x01\xff\xff", "does not speak TLS"),
    ],
)
@pytest.mark.parametrize("is_server", [True, False])
def test_a_peer_that_does_not_speak_tls_is_told_by_its_first_bytes(
    tls_files: TlsFiles, beginning: bytes, said: str, is_server: bool
) -> None:
    client, server = machines(tls_files)
    machine = server if is_server else client
    assert machine.next_event() is NEED_DATA
    machine.bytes_to_send()
    machine.receive_data(beginning)
    for _ in range(2):
        with pytest.raises(TlsHandshakeFailed, match=said) as caught:
            machine.next_event()
        assert caught.value.alert is None


def test_a_record_that_claims_too_much_is_refused_before_it_has_come(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    server.receive_data(client.send_data(b"good") + b"\x17\x03\x03\xff\xff")
    assert server.next_event() == TlsData(b"good")
    with pytest.raises(RemoteProtocolError, match="broke TLS"):
        server.next_event()
    client.receive_data(server.bytes_to_send())
    with pytest.raises(RemoteProtocolError, match="record_overflow"):
        events_of(client)


@both_versions
def test_a_changed_byte_ends_it_and_the_peer_hears_why(tls_files: TlsFiles, version: str) -> None:
    client, server = shaken(tls_files, version)
    bad = bytearray(client.send_data(b"bad"))
    bad[-1] ^= 1
    server.receive_data(bytes(bad))
    with pytest.raises(RemoteProtocolError, match="broke TLS"):
        server.next_event()
    client.receive_data(server.bytes_to_send())
    with pytest.raises(RemoteProtocolError, match="by the alert bad_record_mac"):
        events_of(client)
    for machine in (client, server):
        with pytest.raises(RemoteProtocolError):
            machine.next_event()
        with pytest.raises(LocalProtocolError, match="sending is broken"):
            machine.send_data(b"more")
        machine.receive_data(b"ignored")


def test_what_came_before_a_fault_is_delivered_first(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    server.receive_data(client.send_data(b"good") + b"GET / HTTP/1.1\r\n\r\n")
    assert server.next_event() == TlsData(b"good")
    with pytest.raises(RemoteProtocolError):
        server.next_event()


def test_a_client_that_trusts_nobody_tells_the_server_so(tls_files: TlsFiles) -> None:
    client = client_of(client_context(tls_files, trusting=False))
    server = server_of(server_context(tls_files))
    with pytest.raises(TlsHandshakeFailed, match="certificate verify failed") as caught:
        shake(client, server)
    assert caught.value.alert is None
    server.receive_data(client.bytes_to_send())
    with pytest.raises(TlsHandshakeFailed, match=r"unknown_ca \(it does not trust") as told:
        server.next_event()
    assert told.value.alert == "unknown_ca"
    with pytest.raises(TlsHandshakeFailed, match="unknown_ca") as again:
        server.next_event()
    assert again.value.alert == "unknown_ca"


def test_no_version_in_common_is_said_by_both(tls_files: TlsFiles) -> None:
    client = client_of(client_context(tls_files, "1.2"))
    server = server_of(server_context(tls_files, "1.3"))
    with pytest.raises(TlsHandshakeFailed, match="no version of TLS in common"):
        shake(client, server)
    client.receive_data(server.bytes_to_send())
    with pytest.raises(TlsHandshakeFailed, match="no version of TLS in common") as caught:
        client.next_event()
    assert caught.value.alert == "protocol_version"


def test_a_tls_1_3_client_without_certificate_learns_it_after_its_handshake(
    tls_files: TlsFiles,
) -> None:
    client = client_of(client_context(tls_files))
    server = server_of(server_context(tls_files, mutual=True))
    with pytest.raises(TlsHandshakeFailed, match="a client certificate is required"):
        shake(client, server)
    client.receive_data(server.bytes_to_send())
    with pytest.raises(RemoteProtocolError, match="certificate_required"):
        client.next_event()


def test_what_a_callback_raises_comes_out_as_it_is(tls_files: TlsFiles) -> None:
    def select(*_: object) -> bytes:
        raise bug

    bug = ZeroDivisionError("bug")
    client_side, server_side = client_context(tls_files), server_context(tls_files)
    client_side.set_alpn_protos([b"http/1.1"])
    server_side.set_alpn_select_callback(select)
    client, server = client_of(client_side), server_of(server_side)
    client.next_event()
    server.receive_data(client.bytes_to_send())
    with pytest.raises(ZeroDivisionError) as caught:
        server.next_event()
    assert caught.value is bug
    with pytest.raises(LocalProtocolError, match="ZeroDivisionError") as again:
        server.next_event()
    assert again.value.__cause__ is bug
    client.receive_data(server.bytes_to_send())
    with pytest.raises(TlsHandshakeFailed):
        client.next_event()


def test_an_interrupt_within_openssl_is_final(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> bytes:
        raise KeyboardInterrupt

    client, server = shaken(tls_files)
    ciphertext = client.send_data(b"one")
    monkeypatch.setattr(server.connection, "recv", interrupt)
    server.receive_data(ciphertext)
    with pytest.raises(KeyboardInterrupt):
        server.next_event()
    with pytest.raises(LocalProtocolError):
        server.next_event()
    with pytest.raises(LocalProtocolError):
        server.send_data(b"answer")
    monkeypatch.setattr(client.connection, "send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.send_data(b"two")
    with pytest.raises(LocalProtocolError):
        client.send_data(b"two")


def pump(peer: SSL.Connection, machine: TlsMachine) -> list[object]:
    """Carry what each has to say to the other; what the machine tells of it."""
    with suppress(SSL.WantReadError):
        machine.receive_data(peer.bio_read(65536))
    events: list[object] = []
    while (event := machine.next_event()) is not NEED_DATA:
        events.append(event)
    if output := machine.bytes_to_send():
        peer.bio_write(output)
    return events


@pytest.mark.parametrize("is_server", [True, False])
def test_renegotiation_is_refused_and_the_conversation_goes_on(
    tls_files: TlsFiles, is_server: bool
) -> None:
    if is_server:
        peer = SSL.Connection(client_context(tls_files, "1.2"))
        peer.set_connect_state()
        machine = server_of(server_context(tls_files))
    else:
        peer = SSL.Connection(server_context(tls_files, "1.2"))
        peer.set_accept_state()
        machine = client_of(client_context(tls_files, "1.2"))
    events: list[object] = []
    while not events:
        with suppress(SSL.WantReadError):
            peer.do_handshake()
        events += pump(peer, machine)
    peer.do_handshake()
    pump(peer, machine)
    peer.send(b"before")
    assert peer.renegotiate()
    with suppress(SSL.WantReadError):  # a server only asks for it
        peer.do_handshake()
    assert pump(peer, machine) == [TlsData(b"before")]
    with pytest.raises(SSL.Error, match="no renegotiation"):
        peer.recv(100)
    assert machine.send_data(b"after")


def test_a_handshake_message_in_clear_is_no_part_of_tls_1_3(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    again, _ = machines(tls_files)
    again.next_event()
    server.receive_data(client.send_data(b"good") + again.bytes_to_send())
    assert server.next_event() == TlsData(b"good")
    with pytest.raises(RemoteProtocolError, match="broke TLS"):
        server.next_event()


# -- misuse ------------------------------------------------------------------------------


def test_nothing_can_be_sent_before_the_handshake(tls_files: TlsFiles) -> None:
    client, _ = machines(tls_files)
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="sending is handshake"):
            client.send_data(b"early")
        with pytest.raises(LocalProtocolError, match="sending is handshake"):
            client.send_close()
        assert client.next_event() is NEED_DATA
    assert record_sizes(client.bytes_to_send())


def test_nothing_can_be_sent_after_the_goodbye(tls_files: TlsFiles) -> None:
    client, _ = shaken(tls_files)
    client.send_close()
    with pytest.raises(LocalProtocolError, match="sending is ended"):
        client.send_data(b"late")
    with pytest.raises(LocalProtocolError, match="sending is ended"):
        client.send_close()


def test_nothing_can_be_sent_after_what_was_not_written(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    client.send_data(b"lost")
    client.send_failed()
    with pytest.raises(LocalProtocolError, match="sending is broken"):
        client.send_data(b"more")
    client.receive_data(server.send_data(b"still heard") + b"\x17\x03\x03\xff\xff")
    assert client.next_event() == TlsData(b"still heard")
    with pytest.raises(RemoteProtocolError):
        client.next_event()
    assert client.bytes_to_send() == b""  # its alert would be out of order


def test_data_after_the_end_is_a_mistake(tls_files: TlsFiles) -> None:
    client, _ = machines(tls_files)
    client.receive_eof()
    client.receive_eof()
    with pytest.raises(LocalProtocolError):
        client.receive_data(b"more")


def test_its_description_tells_the_side_and_both_states(tls_files: TlsFiles) -> None:
    client, server = shaken(tls_files)
    client.send_close()
    assert repr(client) == "<TlsMachine client, receiving: open, sending: ended>"
    assert repr(server) == "<TlsMachine server, receiving: open, sending: open>"


# -- what can be asked, and what cannot happen often ---------------------------------------


def test_it_tells_what_is_legal_and_whether_asking_is_worth_it(tls_files: TlsFiles) -> None:
    client, server = machines(tls_files)
    legal, worth = [client.can_send], [server.may_have_event]
    shake(client, server)
    legal.append(client.can_send)
    assert events_of(server) == []
    worth.append(server.may_have_event)
    server.receive_data(client.send_data(b"x"))
    worth.append(server.may_have_event)
    assert events_of(server) == [TlsData(b"x")]
    client.send_close()
    legal.append(client.can_send)
    assert legal == [False, True, False]
    assert worth == [True, False, True]


def test_what_fails_in_a_goodbye_is_final(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: SSL.Connection) -> bool:
        raise KeyboardInterrupt

    client, _ = shaken(tls_files)
    monkeypatch.setattr(SSL.Connection, "shutdown", fail)
    with pytest.raises(KeyboardInterrupt):
        client.send_close()
    assert not client.can_send


def test_output_of_many_pieces_is_one(tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_mcp_transport.sansio.tls_machine._OUTPUT_BYTES", 16)
    client, server = machines(tls_files)
    shake(client, server)
    server.receive_data(client.send_close())
    assert events_of(server) == [EndOfData()]


def test_an_end_that_only_openssl_sees_is_a_fault_of_the_peer(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: SSL.Connection, size: int) -> bytes:
        raise SSL.SysCallError(-1, "Unexpected EOF")

    client, server = shaken(tls_files)
    server.receive_data(client.send_data(b"x"))
    monkeypatch.setattr(SSL.Connection, "recv", fail)
    with pytest.raises(RemoteProtocolError, match="ended the connection within a record"):
        server.next_event()
