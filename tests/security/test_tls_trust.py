"""Whom each side of TLS believes: names, authorities and client certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("OpenSSL")

from cryptography.hazmat.primitives.serialization import (
    Encoding,
)
from msgspec.structs import replace
from OpenSSL import SSL
from tls_files import SPIFFE_ID, TlsFiles
from tls_pairs import connect, shake_hands

from trio_mcp_transport import (
    CertificateError,
    ConfigurationError,
    TlsHandshakeFailed,
    TlsSettings,
)
from trio_mcp_transport.security import TlsClient, TlsServer
from trio_mcp_transport.testing import CertificateAuthority

pytestmark = pytest.mark.tls


# -- Names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("server.example", "server.example"),
        ("SERVER.example.", "server.example"),
        ("127.0.0.1", None),
        ("::1", None),
        ("[::1]", None),
    ],
)
def test_the_certificate_is_checked_for_the_host_or_address(
    tls_files: TlsFiles, host: str, asked: str | None
) -> None:
    pair = connect(tls_files.client_settings, tls_files.server_settings, host)
    assert pair.client_facts.server_name == pair.server_facts.server_name == asked


@pytest.mark.parametrize("host", ["other.example", "127.0.0.2", "::2", "x.localhost", "fe80::1%lo"])
def test_a_certificate_for_other_names_is_refused(tls_files: TlsFiles, host: str) -> None:
    pair = connect(tls_files.client_settings, tls_files.server_settings, host)
    error = pair.client.error
    assert isinstance(error, CertificateError)
    assert (error.check, error.name) == ("host-name", host.partition("%")[0])
    assert "it is for localhost, server.example, 127.0.0.1, ::1" in str(error)
    assert isinstance(pair.server.error, TlsHandshakeFailed)  # not a broken connection: an alert


def test_another_name_may_be_asked_for_than_the_host(tls_files: TlsFiles) -> None:
    client = replace(tls_files.client_settings, server_name="server.example")
    pair = connect(client, tls_files.server_settings, "10.0.0.1")
    assert pair.server_facts.server_name == "server.example"
    client = replace(tls_files.client_settings, server_name="other.example")
    error = connect(client, tls_files.server_settings).client.error
    assert isinstance(error, CertificateError)
    assert error.name == "other.example"


def test_a_wildcard_stands_for_one_label(tls_files: TlsFiles) -> None:
    issued = tls_files.authority.issue_server("*.wild.example")
    server = TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)
    assert connect(tls_files.client_settings, server, "a.wild.example").client_facts
    for host in ("a.b.wild.example", "wild.example"):
        error = connect(tls_files.client_settings, server, host).client.error
        assert isinstance(error, CertificateError)
        assert error.check == "host-name"


def test_an_international_name_is_asked_for_as_its_a_label(tls_files: TlsFiles) -> None:
    issued = tls_files.authority.issue_server("xn--bcher-kva.example")
    server = TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)
    pair = connect(tls_files.client_settings, server, "bücher.example")
    assert pair.server_facts.server_name == "xn--bcher-kva.example"


def test_a_common_name_is_no_host_name(tls_files: TlsFiles) -> None:
    issued = tls_files.authority.issue_server(common_name="localhost")
    server = TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)
    error = connect(tls_files.client_settings, server).client.error
    assert isinstance(error, CertificateError)
    assert "it is for no host at all" in str(error)


def test_without_verification_of_the_name_only_the_authority_counts(tls_files: TlsFiles) -> None:
    client = replace(tls_files.client_settings, verify_hostname=False)
    assert connect(client, tls_files.server_settings, "other.example").client_facts
    client = TlsSettings(
        verify_hostname=False, ca_pem=CertificateAuthority.create().certificate_pem
    )
    error = connect(client, tls_files.server_settings).client.error
    assert isinstance(error, CertificateError)
    assert error.check == "untrusted"


@pytest.mark.parametrize("host", ["", "a b", "bad_\x00name", "b%C3%BCcher.example"])
def test_what_no_certificate_can_be_for_is_refused_before_anything_is_sent(
    tls_files: TlsFiles, host: str
) -> None:
    with pytest.raises(ConfigurationError, match="is no host name"):
        TlsClient(tls_files.client_settings).begin(host)


# -- Trust ---------------------------------------------------------------------------


def test_the_system_does_not_trust_a_throw_away_authority(tls_files: TlsFiles) -> None:
    error = connect(TlsSettings(), tls_files.server_settings).client.error
    assert isinstance(error, CertificateError)
    assert error.check == "untrusted"
    assert "CN=Throw-away authority" in str(error)
    assert "without ca_file only the system's authorities are trusted" in str(error)


def test_the_systems_authorities_are_those_that_openssl_finds(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", tls_files.ca_file)
    assert connect(TlsSettings(), tls_files.server_settings).client_facts


def test_authorities_that_are_named_take_the_place_of_the_systems(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", tls_files.ca_file)
    other = type(tls_files.authority).create("Somebody else")
    error = connect(TlsSettings(ca_pem=other.certificate_pem), tls_files.server_settings)
    assert isinstance(error.client.error, CertificateError)


def test_authorities_may_be_given_as_text_file_or_directory(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    pem = tls_files.authority.certificate_pem
    hashed = tmp_path / f"{name_hash(tls_files)}.0"
    hashed.write_text(pem)
    for client in (
        TlsSettings(ca_pem=pem),
        TlsSettings(ca_file=tls_files.ca_file),
        TlsSettings(ca_path=str(tmp_path)),
        TlsSettings(
            ca_path=str(tmp_path),
            ca_pem=type(tls_files.authority).create("Somebody else").certificate_pem,
        ),
    ):
        assert connect(client, tls_files.server_settings).client_facts


def name_hash(tls_files: TlsFiles) -> str:
    from OpenSSL.crypto import X509

    return f"{X509.from_cryptography(tls_files.authority.certificate).subject_name_hash():08x}"


def test_a_chain_with_an_intermediate_is_shown_whole(tls_files: TlsFiles) -> None:
    issued = tls_files.authority.intermediate().issue_server("localhost")
    server = TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)
    assert connect(tls_files.client_settings, server).client_facts
    lone = issued.certificate.public_bytes(Encoding.PEM).decode()
    error = connect(tls_files.client_settings, replace(server, cert_pem=lone)).client.error
    assert isinstance(error, CertificateError)
    assert error.check == "untrusted"
    assert "an intermediate is missing" in str(error)


def test_an_intermediate_or_the_servers_own_certificate_can_be_trusted_alone(
    tls_files: TlsFiles,
) -> None:
    middle = tls_files.authority.intermediate()
    issued = middle.issue_server("localhost")
    server = TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)
    own = issued.certificate.public_bytes(Encoding.PEM).decode()
    for trusted in (middle.certificate_pem, own):
        assert connect(TlsSettings(ca_pem=trusted), server).client_facts


# -- Client certificates -------------------------------------------------------------


def test_the_clients_certificate_is_its_identity(tls_files: TlsFiles) -> None:
    pair = connect(tls_files.mutual_client_settings, tls_files.mutual_server_settings)
    assert pair.server_facts.principal == f"cert:uri:{SPIFFE_ID}"
    assert pair.client_facts.own_certificate == pair.server_facts.peer_certificate
    pair.exchange()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_without_a_required_certificate_is_refused(
    tls_files: TlsFiles, version: str
) -> None:
    server = TlsServer(replace(tls_files.mutual_server_settings, min_tls="1.2"))
    session = TlsClient(replace(tls_files.client_settings, min_tls="1.2")).begin("localhost")
    if version == "1.2":
        session.machine.connection.set_options(SSL.OP_NO_TLSv1_3)
    pair = shake_hands(session, server.begin())
    error = pair.server.error
    assert isinstance(error, CertificateError)
    assert error.check == "client-certificate"
    assert pair.client.error is not None


def test_an_optional_certificate_is_taken_but_must_be_good(tls_files: TlsFiles) -> None:
    server = replace(tls_files.mutual_server_settings, client_auth="optional")
    assert connect(tls_files.client_settings, server).server_facts.principal is None
    pair = connect(tls_files.mutual_client_settings, server)
    assert pair.server_facts.principal == f"cert:uri:{SPIFFE_ID}"
    stranger = type(tls_files.authority).create("Somebody else").issue_client("Some Client")
    client = TlsSettings(
        ca_file=tls_files.ca_file, cert_pem=stranger.certificate_pem, key_pem=stranger.key_pem
    )
    error = connect(client, server).server.error
    assert isinstance(error, CertificateError)
    assert (error.check, error.name) == ("untrusted", "CN=Some Client")


def test_public_authorities_do_not_vouch_for_clients(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", tls_files.ca_file)
    other = type(tls_files.authority).create("Somebody else")
    server = TlsSettings(
        cert_file=tls_files.server_cert,
        key_file=tls_files.server_key,
        ca_pem=other.certificate_pem,
        client_auth="required",
    )
    error = connect(tls_files.mutual_client_settings, server).server.error
    assert isinstance(error, CertificateError)
    assert error.check == "untrusted"


def test_a_client_learns_whose_certificates_are_accepted(tls_files: TlsFiles) -> None:
    pair = connect(tls_files.mutual_client_settings, tls_files.mutual_server_settings)
    names = pair.client.session.machine.connection.get_client_ca_list()
    assert [name.commonName for name in names] == ["Throw-away authority"]


def test_the_client_says_that_its_certificate_was_refused(tls_files: TlsFiles) -> None:
    server = TlsServer(replace(tls_files.mutual_server_settings, min_tls="1.2"))
    stranger = type(tls_files.authority).create("Somebody else").issue_client("Some Client")
    settings = TlsSettings(
        min_tls="1.2",
        ca_file=tls_files.ca_file,
        cert_pem=stranger.certificate_pem,
        key_pem=stranger.key_pem,
    )
    session = TlsClient(settings).begin("localhost")
    session.machine.connection.set_options(SSL.OP_NO_TLSv1_3)
    error = shake_hands(session, server.begin()).client.error
    assert isinstance(error, CertificateError)
    assert (error.check, error.name) == ("refused-by-peer", "CN=Some Client")
    assert "unknown_ca" in str(error)


def test_the_server_says_that_its_certificate_was_refused(tls_files: TlsFiles) -> None:
    error = connect(TlsSettings(), tls_files.server_settings).server.error
    assert isinstance(error, CertificateError)
    assert (error.check, error.name) == ("refused-by-peer", "localhost")
