"""Certificates that are refused: which check failed for which name, and nothing gets past."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("OpenSSL")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace
from odd_certificates import KINDS, odd_certificate
from tls_files import TlsFiles
from tls_pairs import Side, connect
from tls_sides import client_context, client_of, events_of

from trio_mcp_transport import (
    CertificateCheck,
    CertificateError,
    RemoteProtocolError,
    TlsHandshakeFailed,
    TlsSettings,
)
from trio_mcp_transport.security import TlsServer
from trio_mcp_transport.security.ocsp import StapleOutcome, StaplePolicy
from trio_mcp_transport.security.pinning import PinOutcome, PinPolicy
from trio_mcp_transport.security.tls_verification import Policy, Verification
from trio_mcp_transport.testing import CertificateAuthority, IssuedCertificate

pytestmark = [pytest.mark.security, pytest.mark.tls]

NOW = time.time()
DAY = 86_400.0


def server_with(issued: IssuedCertificate) -> TlsSettings:
    return TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)


def expired(root: CertificateAuthority) -> IssuedCertificate:
    return root.issue_server("localhost", not_before=NOW - 2 * DAY, not_after=NOW - DAY)


def early(root: CertificateAuthority) -> IssuedCertificate:
    return root.issue_server("localhost", not_before=NOW + DAY)


def self_signed(root: CertificateAuthority) -> IssuedCertificate:
    lone = CertificateAuthority.create("localhost")
    return IssuedCertificate(lone.certificate, lone.key)


def with_its_root(root: CertificateAuthority) -> IssuedCertificate:
    """What shows its root as well, which is not trusted."""
    other = CertificateAuthority.create("Nobody")
    issued = other.issue_server("localhost")
    return IssuedCertificate(issued.certificate, issued.key, (other.certificate,))


def without_its_root(root: CertificateAuthority) -> IssuedCertificate:
    return CertificateAuthority.create("Nobody").issue_server("localhost")


def for_clients(root: CertificateAuthority) -> IssuedCertificate:
    return root.issue_client("localhost", sans=["localhost"])


def below_what_expired(root: CertificateAuthority) -> IssuedCertificate:
    old = root.intermediate("Old", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    return old.issue_server("localhost")


def altered(root: CertificateAuthority) -> IssuedCertificate:
    """One bit of the signature is another."""
    issued = root.issue_server("localhost")
    encoded = bytearray(issued.certificate.public_bytes(Encoding.DER))
    encoded[-1] ^= 1
    return IssuedCertificate(x509.load_der_x509_certificate(bytes(encoded)), issued.key)


def by_a_leaf(root: CertificateAuthority) -> IssuedCertificate:
    """Signed with the key of a certificate that is no authority's."""
    leaf = root.issue_server("a.example", common_name="Leaf")
    authority = CertificateAuthority(leaf.certificate, leaf.key, (leaf.certificate,))
    return authority.issue_server("localhost")


def below_its_path(root: CertificateAuthority) -> IssuedCertificate:
    """Below an intermediate that may have no further one below it."""
    return root.intermediate("One").intermediate("Two").issue_server("localhost")


Make = Callable[[CertificateAuthority], IssuedCertificate]
CASES: list[tuple[Make, CertificateCheck, str, str]] = [
    (expired, "expired", "it expired on 2", "certificate_expired"),
    (early, "not-yet-valid", "it is not valid before 2", "bad_certificate"),
    (self_signed, "self-signed", "it is self-signed", "unknown_ca"),
    (with_its_root, "untrusted", "its root 'CN=Nobody' is not among", "unknown_ca"),
    (without_its_root, "untrusted", "its issuer 'CN=Nobody' is not trusted", "unknown_ca"),
    (for_clients, "purpose", "it is not for servers", "unsupported_certificate"),
    (below_what_expired, "expired", "'CN=Old' in the chain of localhost", "certificate_expired"),
    (altered, "invalid", "its signature is wrong", "decrypt_error"),
    (by_a_leaf, "invalid", "its issuer is no authority", "unknown_ca"),
    (below_its_path, "invalid", "more authorities in its chain", "unknown_ca"),
]


@pytest.mark.parametrize(("make", "check", "words", "alert"), CASES)
def test_a_bad_server_certificate_is_refused_and_the_server_is_told(
    tls_files: TlsFiles, make: Make, check: CertificateCheck, words: str, alert: str
) -> None:
    pair = connect(tls_files.client_settings, server_with(make(tls_files.authority)))
    error = pair.client.error
    assert isinstance(error, CertificateError), error
    assert (error.check, error.name) == (check, "localhost")
    assert words in str(error)
    assert "of localhost" in str(error)
    assert isinstance(pair.server.error, TlsHandshakeFailed | CertificateError)
    assert alert in str(pair.server.error)
    assert pair.client.facts is None


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (
            lambda root: root.issue_client("c", not_before=NOW - 2 * DAY, not_after=NOW - DAY),
            "expired",
        ),
        (lambda root: root.issue_client("c", not_before=NOW + DAY), "not-yet-valid"),
        (lambda root: CertificateAuthority.create().issue_client("c"), "untrusted"),
        (lambda root: root.issue_server("localhost", common_name="c"), "purpose"),
    ],
)
def test_a_bad_client_certificate_is_refused(
    tls_files: TlsFiles, make: Make, check: CertificateCheck
) -> None:
    issued = make(tls_files.authority)
    client = replace(
        tls_files.client_settings, cert_pem=issued.certificate_pem, key_pem=issued.key_pem
    )
    pair = connect(client, tls_files.mutual_server_settings)
    error = pair.server.error
    assert isinstance(error, CertificateError), error
    assert (error.check, error.name, error.depth) == (check, "CN=c", 0)
    assert pair.server.facts is None
    assert pair.client.error is not None


@pytest.mark.parametrize(
    ("subject", "sans", "name"),
    [
        (None, ["spiffe://a/b", "a.example"], "a.example"),
        (None, ["spiffe://a/b"], "spiffe://a/b"),
        (None, [], None),
        # Anybody can show a certificate before it is refused: no name steers a terminal, or
        # makes another line in a log, or a very long one.
        ("a\nERROR: \x1b[31mb\u202e", [], r"CN=a\nERROR: \x1b[31mb\u202e"),
        (None, [f"{'a.' * 1000}example"], f"{'a.' * 128}..."),
    ],
)
def test_a_client_is_called_by_what_its_certificate_says(
    tls_files: TlsFiles, subject: str | None, sans: list[str], name: str | None
) -> None:
    issued = CertificateAuthority.create().issue_client(subject, sans=sans)
    client = replace(
        tls_files.client_settings, cert_pem=issued.certificate_pem, key_pem=issued.key_pem
    )
    error = connect(client, tls_files.mutual_server_settings).server.error
    assert isinstance(error, CertificateError)
    assert error.name == name
    whose = "the client" if name is None else name
    assert str(error).startswith(f"the certificate of {whose} was refused (untrusted): ")
    assert str(error).isprintable()


def test_the_names_of_a_foreign_authority_do_not_steer_a_terminal(tls_files: TlsFiles) -> None:
    stranger = CertificateAuthority.create("a\r\nERROR: \x1b[2Jb")
    issued = stranger.issue_server("server.example")
    server = replace(
        tls_files.server_settings,
        cert_file=None,
        key_file=None,
        cert_pem=issued.certificate_pem,
        key_pem=issued.key_pem,
    )
    error = connect(tls_files.client_settings, server).client.error
    assert isinstance(error, CertificateError)
    assert r"'CN=a\r\nERROR: \x1b[2Jb'" in str(error)
    assert str(error).isprintable()


# -- Whatever goes wrong is a refusal ------------------------------------------------


class FaultyPins(PinPolicy):
    """Fails where nobody expects it."""

    def check(self, chain: Sequence[x509.Certificate]) -> PinOutcome:
        raise RuntimeError("out of order")


class FaultyStaples(StaplePolicy):
    """Likewise."""

    def check(
        self,
        staple: bytes,
        leaf: x509.Certificate,
        issuer: x509.Certificate | None,
        now: float,
    ) -> StapleOutcome:
        raise RuntimeError("out of order")


def verification(
    *,
    name: str = "localhost",
    pins: PinPolicy | None = None,
    staples: StaplePolicy | None = None,
) -> Verification:
    policy = Policy(
        is_server=False,
        verify_hostname=True,
        trusts_system=False,
        pins=pins,
        staples=staples,
        transparency=None,
        on_event=None,
        clock=time.time,
    )
    return Verification(policy, name)


def show(judge: Verification, tls_files: TlsFiles) -> bool:
    """Show the server's chain, as OpenSSL does."""
    root = judge.on_certificate(lambda: tls_files.authority.certificate, 0, 1, True)
    return root and judge.on_certificate(lambda: tls_files.server.certificate, 0, 0, True)


def test_a_certificate_that_nobody_can_read_is_refused() -> None:
    def read() -> x509.Certificate:
        raise ValueError("invalid version")

    judge = verification()
    assert not judge.on_certificate(read, 0, 0, True)
    assert judge.error is not None
    assert judge.error.check == "invalid"
    assert "it is malformed (invalid version)" in str(judge.error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_with_an_odd_certificate_is_refused_and_told_so(
    tls_files: TlsFiles, tmp_path: Path, kind: str
) -> None:
    odd = odd_certificate(kind)
    (tmp_path / "odd.pem").write_text(odd.pem)
    context = client_context(tls_files)
    context.use_certificate_file(tmp_path / "odd.pem")
    context.use_privatekey(odd.key)
    client = client_of(context)
    server = Side(TlsServer(tls_files.mutual_server_settings).begin())
    while server.error is None:
        events_of(client)
        server.session.machine.receive_data(client.bytes_to_send())
        client.receive_data(server.run())
    with pytest.raises(RemoteProtocolError, match="ended the connection by the alert"):
        events_of(client)
    assert isinstance(server.error, CertificateError)
    assert server.error.check in {"untrusted", "invalid"}


def test_a_check_that_fails_is_a_refusal_and_keeps_its_cause(tls_files: TlsFiles) -> None:
    judge = verification(pins=FaultyPins([bytes(32)]))
    assert not show(judge, tls_files)
    assert judge.error is not None
    assert isinstance(judge.error.__cause__, RuntimeError)
    judge = verification(staples=FaultyStaples("if-present"))
    assert show(judge, tls_files)
    assert not judge.on_staple(b"")
    assert judge.error is not None
    assert judge.error.check == "ocsp"
    assert isinstance(judge.error.__cause__, RuntimeError)


def test_after_a_refusal_nothing_is_accepted_any_more(tls_files: TlsFiles) -> None:
    judge = verification(staples=StaplePolicy("if-present"))
    assert not judge.on_certificate(lambda: tls_files.authority.certificate, 10, 1, False)
    first = judge.error
    assert not judge.on_certificate(lambda: tls_files.authority.certificate, 20, 0, False)
    assert not show(judge, tls_files)
    assert not judge.on_staple(b"")
    assert judge.error is first
    with pytest.raises(CertificateError, match="expired"):
        judge.conclude()


def test_a_staple_that_was_not_looked_at_is_a_refusal(tls_files: TlsFiles) -> None:
    judge = verification(staples=StaplePolicy("if-present"))
    assert show(judge, tls_files)
    with pytest.raises(CertificateError, match="its staple was not looked at"):
        judge.conclude()
    assert judge.on_staple(b"")
    assert judge.conclude() is not None


def test_a_staple_before_the_peers_own_certificate_is_a_refusal(tls_files: TlsFiles) -> None:
    judge = verification(staples=StaplePolicy("if-present"))
    assert judge.on_certificate(lambda: tls_files.authority.certificate, 0, 1, True)
    assert not judge.on_staple(b"")


def test_without_the_peers_own_certificate_nothing_is_found(tls_files: TlsFiles) -> None:
    judge = verification()
    assert judge.on_certificate(lambda: tls_files.authority.certificate, 0, 1, True)
    assert judge.conclude() is None


def test_an_error_of_openssl_without_a_word_for_it_is_told_by_its_number(
    tls_files: TlsFiles,
) -> None:
    judge = verification()
    assert not judge.on_certificate(lambda: tls_files.server.certificate, 4711, 0, False)
    assert "OpenSSL refuses it (X509 error 4711)" in str(judge.error)


def test_an_address_that_stands_there_as_a_name_is_told() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName("127.0.0.1")])
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2049, 1, 1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    judge = verification(name="127.0.0.1")
    assert not judge.on_certificate(lambda: certificate, 0, 0, True)
    assert "it is for 127.0.0.1; 127.0.0.1 stands there as a name, and not as" in str(judge.error)
