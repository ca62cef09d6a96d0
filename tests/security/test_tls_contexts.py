"""Both sides of TLS, by real handshakes in memory: each setting takes effect."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path

import pytest

pytest.importorskip("OpenSSL")

from cryptography import x509
from msgspec.structs import replace
from OpenSSL import SSL
from tls_files import SPIFFE_ID, TlsFiles
from tls_pairs import connect, shake_hands

from trio_mcp_transport import (
    CertificateError,
    ChannelEvent,
    ConfigurationError,
    TlsError,
    TlsHandshakeFailed,
    TlsSettings,
)
from trio_mcp_transport.security import StapleFiles, StapleSource, TlsClient, TlsServer
from trio_mcp_transport.security.tls_verification import Verification

pytestmark = pytest.mark.tls


# -- What both know afterwards -------------------------------------------------------


def test_both_sides_know_what_they_agreed_on_and_the_servers_certificate(
    tls_files: TlsFiles,
) -> None:
    pair = connect(tls_files.client_settings, tls_files.server_settings)
    client, server = pair.client_facts, pair.server_facts
    assert (client.version, client.cipher) == (server.version, server.cipher)
    assert client.version == "TLSv1.3"
    assert client.peer_certificate == server.own_certificate
    assert client.peer_certificate is not None
    assert client.peer_certificate.dns_names == ("localhost", "server.example")
    assert client.peer_certificate.ip_addresses == ("127.0.0.1", "::1")
    assert client.peer_certificate.serial == f"{tls_files.server.certificate.serial_number:x}"
    assert client.peer_certificate.issuer == "CN=Throw-away authority"
    assert client.own_certificate is None
    assert server.peer_certificate is None
    assert server.principal is None
    assert client.server_name == server.server_name == "localhost"
    assert client.resumed is False
    assert server.resumed is None
    pair.exchange()


def test_the_end_of_a_certificate_can_be_read(tls_files: TlsFiles) -> None:
    pair = connect(tls_files.client_settings, tls_files.server_settings)
    certificate = pair.client_facts.peer_certificate
    assert certificate is not None
    end = tls_files.server.certificate.not_valid_after_utc.timestamp()
    assert certificate.expires_in(end - 60) == pytest.approx(60.0)


# -- Versions and ciphers ------------------------------------------------------------


def test_tls_1_2_is_spoken_only_when_both_sides_ask_for_it(tls_files: TlsFiles) -> None:
    old_server = TlsServer(replace(tls_files.server_settings, min_tls="1.2"))
    limited = TlsClient(replace(tls_files.client_settings, min_tls="1.2"))
    session = limited.begin("localhost")
    session.machine.connection.set_options(SSL.OP_NO_TLSv1_3)
    pair = shake_hands(session, old_server.begin())
    assert pair.client_facts.version == pair.server_facts.version == "TLSv1.2"
    assert pair.client_facts.cipher.startswith("ECDHE-ECDSA-")
    pair.exchange()
    session = limited.begin("localhost")
    session.machine.connection.set_options(SSL.OP_NO_TLSv1_3)
    pair = shake_hands(session, TlsServer(tls_files.server_settings).begin())
    assert isinstance(pair.client.error, TlsHandshakeFailed)
    assert pair.client.error.alert == "protocol_version"
    assert isinstance(pair.server.error, TlsHandshakeFailed)
    assert "no version of TLS in common" in str(pair.server.error)


def test_tls_1_3_is_preferred_though_1_2_is_allowed(tls_files: TlsFiles) -> None:
    pair = connect(
        replace(tls_files.client_settings, min_tls="1.2"),
        replace(tls_files.server_settings, min_tls="1.2"),
    )
    assert pair.client_facts.version == "TLSv1.3"


def plain_client(*, ciphers: bytes | None = None, version: int | None = None) -> SSL.Connection:
    """Somebody else's client that checks nothing."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if ciphers is not None:
        context.set_cipher_list(ciphers + b":@SECLEVEL=0")
    if version is not None:
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(version)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    return connection


def offer(connection: SSL.Connection, server: TlsServer) -> Exception | None:
    """What the server says to a first flight."""
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    machine = server.begin().machine
    machine.receive_data(connection.bio_read(65536))
    try:
        machine.next_event()
    except TlsHandshakeFailed as error:
        return error
    return None


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
def test_versions_before_1_2_are_refused_even_where_1_2_is_allowed(
    tls_files: TlsFiles, version: int
) -> None:
    server = TlsServer(replace(tls_files.server_settings, min_tls="1.2"))
    client = plain_client(ciphers=b"ALL", version=version)
    assert "no version of TLS in common" in str(offer(client, server))


@pytest.mark.parametrize(
    ("ciphers", "refused"),
    [
        (b"ECDHE-ECDSA-AES256-GCM-SHA384", False),
        (b"ECDHE-ECDSA-CHACHA20-POLY1305", False),
        (b"ECDHE-ECDSA-AES256-SHA384", True),  # CBC
        (b"DHE-RSA-AES256-GCM-SHA384", True),  # no elliptic curve
        (b"AES256-GCM-SHA384", True),  # no forward secrecy
    ],
)
def test_tls_1_2_has_only_ciphers_with_forward_secrecy_and_authentication(
    tls_files: TlsFiles, ciphers: bytes, refused: bool
) -> None:
    server = TlsServer(replace(tls_files.server_settings, min_tls="1.2"))
    answer = offer(plain_client(ciphers=ciphers, version=SSL.TLS1_2_VERSION), server)
    assert (answer is not None) is refused
    assert not refused or "no cipher in common" in str(answer)


# -- ALPN ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "accepted", "chosen"),
    [
        (("mcp", "http/1.1"), ("http/1.1", "mcp"), "http/1.1"),
        (("mcp",), (), None),
        ((), ("mcp",), None),
    ],
)
def test_the_servers_preference_decides_the_protocol(
    tls_files: TlsFiles, offered: tuple[str, ...], accepted: tuple[str, ...], chosen: str | None
) -> None:
    pair = connect(
        replace(tls_files.client_settings, alpn=offered),
        replace(tls_files.server_settings, alpn=accepted),
    )
    assert pair.client_facts.alpn == pair.server_facts.alpn == chosen


def test_without_a_protocol_in_common_both_sides_say_so(tls_files: TlsFiles) -> None:
    server = TlsServer(replace(tls_files.server_settings, alpn=("http/1.1",)))
    client = TlsClient(replace(tls_files.client_settings, alpn=("h2",)))
    pair = shake_hands(client.begin("localhost"), server.begin())
    assert isinstance(pair.client.error, TlsHandshakeFailed)
    assert pair.client.error.alert == "no_application_protocol"
    assert isinstance(pair.server.error, TlsHandshakeFailed)
    assert "the client offers h2, and this server has http/1.1" in str(pair.server.error)
    # Nothing of that failure is left for the next connection.
    other = TlsClient(tls_files.client_settings)
    assert shake_hands(other.begin("localhost"), server.begin()).server_facts.alpn is None


# -- Several certificates ------------------------------------------------------------


def test_the_name_that_is_asked_for_chooses_the_certificate(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    pairs = {}
    for number, names in enumerate([
        ("a.example", "b.example"),
        ("*.wild.example",),
        ("a.example",),
    ]):
        issued = tls_files.authority.issue_server(*names)
        paths = issued.write(tmp_path / f"{number}.pem", tmp_path / f"{number}.key")
        pairs[":".join(paths)] = f"{issued.certificate.serial_number:x}"
    serials = list(pairs.values())
    main = f"{tls_files.server.certificate.serial_number:x}"
    server = TlsServer(replace(tls_files.server_settings, sni_certificates=tuple(pairs)))
    assert [facts.serial for facts in server.certificates] == [main, *serials]
    client = TlsClient(replace(tls_files.client_settings, verify_hostname=False))
    for asked, serial in {
        "a.example": serials[0],  # the first that has it
        "B.EXAMPLE.": serials[0],
        "x.wild.example": serials[1],
        "x.y.wild.example": main,
        "wild.example": main,
        "unknown.example": main,
        "localhost": main,
        "127.0.0.1": main,
    }.items():
        pair = shake_hands(client.begin(asked), server.begin())
        assert pair.client_facts.peer_certificate is not None
        assert pair.client_facts.peer_certificate.serial == serial, asked
        assert pair.server_facts.own_certificate is not None
        assert pair.server_facts.own_certificate.serial == serial


def test_a_chosen_certificate_comes_with_all_other_options(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    issued = tls_files.authority.issue_server("a.example")
    key_with_certificate = tmp_path / "a.pem"
    key_with_certificate.write_text(issued.certificate_pem + issued.key_pem)
    server = replace(
        tls_files.mutual_server_settings,
        alpn=("mcp",),
        sni_certificates=(str(key_with_certificate),),
    )
    pair = connect(replace(tls_files.mutual_client_settings, alpn=("mcp",)), server, "a.example")
    assert pair.client_facts.alpn == "mcp"
    assert pair.server_facts.principal == f"cert:uri:{SPIFFE_ID}"
    refused = connect(tls_files.client_settings, server, "a.example").server.error
    assert isinstance(refused, CertificateError)


def test_a_name_is_the_same_in_capitals_and_with_the_final_dot(tls_files: TlsFiles) -> None:
    issued = tls_files.authority.issue_server("a.example")
    paths = issued.write(tls_files.directory / "a.pem", tls_files.directory / "a.key")
    server = TlsServer(replace(tls_files.server_settings, sni_certificates=(":".join(paths),)))
    session = TlsClient(tls_files.client_settings).begin("a.example")
    session.machine.connection.set_tlsext_host_name(b"A.Example.")
    assert shake_hands(session, server.begin()).server_facts.server_name == "A.Example."


def test_of_the_protocols_that_a_client_offers_an_error_tells_only_some(
    tls_files: TlsFiles,
) -> None:
    names = ("\x1b[31m\n", *(f"{number:0200}" for number in range(150)))
    server = TlsServer(replace(tls_files.server_settings, alpn=("http/1.1",)))
    client = TlsClient(replace(tls_files.client_settings, alpn=names))
    error = shake_hands(client.begin("localhost"), server.begin()).server.error
    assert isinstance(error, TlsHandshakeFailed)
    assert len(str(error)) < 400
    assert str(error).isprintable()
    assert "the client offers \\x1b[31m\\n, 000" in str(error)


def test_a_name_without_its_first_label_is_not_for_a_wildcard(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    paths = tls_files.authority.issue_server("*.wild.example").write(
        tmp_path / "w.pem", tmp_path / "w.key"
    )
    server = TlsServer(replace(tls_files.server_settings, sni_certificates=(":".join(paths),)))
    client = TlsClient(replace(tls_files.client_settings, verify_hostname=False))
    shown = []
    for asked in (b"a.wild.example", b".wild.example"):
        session = client.begin("localhost")
        session.machine.connection.set_tlsext_host_name(asked)
        certificate = shake_hands(session, server.begin()).client_facts.peer_certificate
        assert certificate is not None
        shown.append(certificate.dns_names[0])
    assert shown == ["*.wild.example", "localhost"]


def test_what_a_client_asks_for_is_printable_in_the_facts(tls_files: TlsFiles) -> None:
    session = TlsClient(tls_files.client_settings).begin("localhost")
    session.machine.connection.set_tlsext_host_name(b"a\r\n\x1b[31m\xff")
    facts = shake_hands(session, TlsServer(tls_files.server_settings).begin()).server_facts
    assert facts.server_name == "a\\r\\n\\x1b[31m\\xff"


def test_a_name_that_nobody_can_have_is_refused(tls_files: TlsFiles) -> None:
    client = TlsClient(tls_files.client_settings)
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert client.begin(longest)
    with pytest.raises(ConfigurationError, match="is no host name: it is too long"):
        client.begin(f"{longest}a")


def test_a_name_that_is_no_text_gets_the_main_certificate(tls_files: TlsFiles) -> None:
    server = TlsServer(
        replace(
            tls_files.server_settings,
            sni_certificates=(f"{tls_files.server_cert}:{tls_files.server_key}",),
        )
    )
    connection = plain_client()
    connection.set_tlsext_host_name(b"\xff\xfe.example")
    assert offer(connection, server) is None


# -- Key log -------------------------------------------------------------------------


def test_the_key_log_holds_the_secrets_and_is_private(tls_files: TlsFiles, tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    path.write_text("# before\n")
    os.chmod(path, 0o600)
    client = replace(tls_files.client_settings, keylog_file=str(path))
    connect(client, tls_files.server_settings)
    lines = path.read_text().splitlines()
    assert lines[0] == "# before"
    labels = {line.split()[0] for line in lines[1:]}
    assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels
    assert all(len(line.split()) == 3 for line in lines[1:])


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_key_log_that_others_may_read_is_refused(tls_files: TlsFiles, tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    path.touch()
    settings = replace(tls_files.client_settings, keylog_file=str(path))
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=r"^keylog_file .*others may read it"):
            TlsClient(settings)
    path.chmod(0o600)
    assert TlsClient(settings)


def test_a_new_key_log_can_be_read_by_its_owner_alone(tls_files: TlsFiles, tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    before = os.umask(0)
    try:
        TlsServer(replace(tls_files.server_settings, keylog_file=str(path)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_log_that_fails_is_reported_and_stops_nothing(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    events: list[ChannelEvent] = []
    settings = replace(tls_files.server_settings, keylog_file=str(directory / "keys.log"))
    server = TlsServer(settings, on_event=events.append)
    (directory / "keys.log").unlink()
    directory.rmdir()
    shake_hands(TlsClient(tls_files.client_settings).begin("localhost"), server.begin()).exchange()
    assert {event.name for event in events} == {"keylog.failed"}


# -- What holds for every context ----------------------------------------------------


def test_every_address_of_the_loopback_can_be_a_name_of_a_certificate(
    tls_files: TlsFiles,
) -> None:
    issued = tls_files.authority.issue_server("127.0.0.0", "fe80::1")
    server = TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)
    assert connect(tls_files.client_settings, server, str(ipaddress.ip_address("127.0.0.0")))
    assert connect(tls_files.client_settings, server, "fe80::1%eth0").client_facts


def test_staples_come_from_one_place(tls_files: TlsFiles) -> None:
    settings = replace(tls_files.server_settings, ocsp_staple_file="staple.der")
    with pytest.raises(ConfigurationError, match=r"^ocsp_staple_file and staple= exclude"):
        TlsServer(settings, staple=StapleFiles("staple.der"))


class NoStaples(StapleSource):
    """Fails where nobody expects it."""

    def staple_for(self, leaf: x509.Certificate, now: float) -> bytes:
        raise RuntimeError("out of order")


def test_a_source_of_staples_that_fails_is_reported_and_stops_nobody(tls_files: TlsFiles) -> None:
    events: list[ChannelEvent] = []
    server = TlsServer(tls_files.server_settings, staple=NoStaples(), on_event=events.append)
    pair = shake_hands(TlsClient(tls_files.client_settings).begin("localhost"), server.begin())
    assert pair.client_facts.ocsp == "missing"
    assert [event.name for event in events] == ["staple.failed"]
    assert isinstance(events[0].error, RuntimeError)


# -- Nothing gets past ---------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_certificate_that_nobody_judges_is_refused(tls_files: TlsFiles, side: str) -> None:
    client = TlsClient(tls_files.mutual_client_settings).begin("localhost")
    server = TlsServer(tls_files.mutual_server_settings).begin()
    (client if side == "client" else server).machine.connection.set_app_data(None)
    pair = shake_hands(client, server)
    refusing = pair.client if side == "client" else pair.server
    assert isinstance(refusing.error, TlsHandshakeFailed)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_handshake_that_ends_without_a_certificate_is_refused(
    tls_files: TlsFiles, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TlsClient(tls_files.mutual_client_settings).begin("localhost")
    server = TlsServer(tls_files.mutual_server_settings).begin()
    monkeypatch.setattr(Verification, "conclude", lambda self: None)
    pair = shake_hands(client, server)
    refusing = pair.client if side == "client" else pair.server
    assert isinstance(refusing.error, TlsError)
    assert "showed no certificate" in str(refusing.error)


def test_no_certificates_are_kept_for_as_long_as_a_connection_lives(tls_files: TlsFiles) -> None:
    pair = connect(tls_files.mutual_client_settings, tls_files.mutual_server_settings)
    for side in (pair.client, pair.server):
        assert side.facts is not None
        assert side.session._verification.chain() == []
        assert side.session.machine.connection.get_app_data() is None
