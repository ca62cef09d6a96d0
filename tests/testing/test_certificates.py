"""The throw-away authority: what it issues is what was asked for, and keys stay private."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from trio_mcp_transport import ConfigurationError, FeatureUnavailable
from trio_mcp_transport.testing import (
    CertificateAuthority,
    IssuedCertificate,
    RevocationStatus,
    write_private,
)

pytestmark = [pytest.mark.tls, pytest.mark.testing]


def extension(issued: IssuedCertificate, kind: type[x509.ExtensionType]) -> x509.ExtensionType:
    return issued.certificate.extensions.get_extension_for_class(kind).value


def test_names_become_what_they_look_like() -> None:
    issued = CertificateAuthority.create().issue_server(
        "a.example", "*.b.example", "127.0.0.1", "::1", "spiffe://a/b", "me@a.example"
    )
    names = extension(issued, x509.SubjectAlternativeName)
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "*.b.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://a/b"]
    assert names.get_values_for_type(x509.RFC822Name) == ["me@a.example"]
    with pytest.raises(ConfigurationError, match="A-label"):
        CertificateAuthority.create().issue_server("bücher.example")


def test_each_certificate_is_for_one_purpose() -> None:
    authority = CertificateAuthority.create()
    for issued, usage in (
        (authority.issue_server("a"), ExtendedKeyUsageOID.SERVER_AUTH),
        (authority.issue_client("a"), ExtendedKeyUsageOID.CLIENT_AUTH),
        (authority.issue_responder(), ExtendedKeyUsageOID.OCSP_SIGNING),
        (authority.issue_responder(ocsp_signing=False), ExtendedKeyUsageOID.SERVER_AUTH),
    ):
        assert list(extension(issued, x509.ExtendedKeyUsage)) == [usage]  # type: ignore[call-overload]  # it is iterable
        constraints = extension(issued, x509.BasicConstraints)
        assert constraints == x509.BasicConstraints(ca=False, path_length=None)


def test_validity_is_what_was_asked_for() -> None:
    issued = CertificateAuthority.create().issue_server("a", not_before=1000.0, not_after=2000.9)
    assert issued.certificate.not_valid_before_utc.timestamp() == pytest.approx(1000)
    assert issued.certificate.not_valid_after_utc.timestamp() == pytest.approx(2000)


def test_what_an_intermediate_issues_comes_with_its_certificate() -> None:
    root = CertificateAuthority.create("Root")
    middle = root.intermediate("Middle")
    issued = middle.issue_server("a")
    assert issued.chain == (middle.certificate,)
    issued.certificate.verify_directly_issued_by(middle.certificate)
    middle.certificate.verify_directly_issued_by(root.certificate)
    assert issued.certificate_pem.count("BEGIN CERTIFICATE") == 2


def size(number: int) -> bytes:
    return number.to_bytes(2, "big")


def test_must_staple_and_sct_lists_are_in_the_certificate() -> None:
    seen: list[tuple[bytes, x509.Certificate]] = []

    def make(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        seen.append((certificate.tbs_certificate_bytes, issuer))
        # RFC 6962, section 3.2: version, log, time, extensions, SHA-256 with ECDSA, signature.
        timestamp = bytes(1 + 32 + 8 + 2) + b"\4\3" + size(200) + bytes(200)
        return size(len(timestamp) + 2) + size(len(timestamp)) + timestamp

    authority = CertificateAuthority.create()
    issued = authority.issue_server("a", must_staple=True, sct_list=make)
    feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
    assert extension(issued, x509.TLSFeature) == feature
    # What logs sign is the certificate without the list, to the byte.
    assert seen == [(issued.certificate.tbs_precertificate_bytes, authority.certificate)]
    timestamps = extension(issued, x509.PrecertificateSignedCertificateTimestamps)
    assert isinstance(timestamps, x509.PrecertificateSignedCertificateTimestamps)
    assert [each.signature for each in timestamps] == [bytes(200)]


@pytest.mark.parametrize("status", ["good", "revoked", "unknown"])
@pytest.mark.parametrize("delegated", [False, True])
def test_an_ocsp_response_says_what_it_is_told(status: RevocationStatus, delegated: bool) -> None:
    authority = CertificateAuthority.create()
    issued = authority.issue_server("a")
    responder = authority.issue_responder() if delegated else None
    encoded = authority.ocsp_response(
        issued, status, this_update=1000.0, next_update=2000.0, responder=responder
    )
    response = ocsp.load_der_ocsp_response(encoded)
    assert response.certificate_status.name.lower() == status
    assert response.serial_number == issued.certificate.serial_number
    assert response.this_update_utc.timestamp() == pytest.approx(1000)
    assert response.next_update_utc is not None
    assert response.next_update_utc.timestamp() == pytest.approx(2000)
    assert response.certificates == ([responder.certificate] if responder else [])
    assert (
        ocsp.load_der_ocsp_response(
            authority.ocsp_response(issued.certificate, status, next_update=None)
        ).next_update_utc
        is None
    )


# -- Files ---------------------------------------------------------------------------


def test_a_key_file_is_private_whatever_the_umask_and_whatever_was_there(tmp_path: Path) -> None:
    issued = CertificateAuthority.create().issue_server("a")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    key.write_text("what was there")
    key.chmod(0o644)
    before = os.umask(0)
    try:
        assert issued.write(certificate, key) == (str(certificate), str(key))
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text() == issued.key_pem
    assert certificate.read_text() == issued.certificate_pem
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cert.pem", "key.pem"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(IsADirectoryError):
        write_private(tmp_path / "target", "secret")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_link_in_the_place_of_a_key_is_replaced_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    (tmp_path / "key").symlink_to(elsewhere)
    write_private(tmp_path / "key", "secret")
    assert elsewhere.read_text() == "untouched"
    assert not (tmp_path / "key").is_symlink()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_openssl_verifies_the_chain_and_reads_the_key(tmp_path: Path) -> None:
    root = CertificateAuthority.create()
    ca_file = root.write(tmp_path / "ca.pem")
    issued = root.intermediate().issue_server("a.example")
    cert_file, key_file = issued.write(tmp_path / "cert.pem", tmp_path / "key.pem")
    for arguments in (
        ["verify", "-x509_strict", "-CAfile", ca_file, "-untrusted", cert_file, cert_file],
        ["pkey", "-in", key_file, "-noout"],
    ):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FeatureUnavailable, match=r"pip install 'trio-mcp-transport\[tls\]'"):
        CertificateAuthority.create()
