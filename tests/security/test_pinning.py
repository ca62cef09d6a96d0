"""Pins: which keys match, and that nothing matches without one."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from openssl_programs import needs_openssl

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.security.pinning import PinPolicy
from trio_mcp_transport.security.spki import issuer_name, key_bits, spki_sha256, subject_name
from trio_mcp_transport.testing.certificates import CertificateAuthority
from trio_mcp_transport.tls_pins import format_pin

pytestmark = [pytest.mark.security, pytest.mark.tls]

OTHER = bytes(32)


@pytest.fixture(scope="module")
def chain() -> list[x509.Certificate]:
    """A leaf, an intermediate, a root."""
    root = CertificateAuthority.create()
    middle = root.intermediate()
    leaf = middle.issue_server("a.example").certificate
    return [leaf, middle.certificate, root.certificate]


def test_the_right_key_is_accepted_and_named(chain: list[x509.Certificate]) -> None:
    digest = spki_sha256(chain[0])
    outcome = PinPolicy([OTHER, digest]).check(chain)
    assert outcome.accepted
    assert outcome.matched == format_pin(digest)
    assert outcome.presented == (format_pin(digest),)
    assert outcome.reason == ""


def test_another_key_is_refused_and_named(chain: list[x509.Certificate]) -> None:
    outcome = PinPolicy([OTHER]).check(chain)
    assert not outcome.accepted
    assert outcome.matched is None
    shown = format_pin(spki_sha256(chain[0]))
    assert outcome.reason == f"its public key {shown} does not match the pin"


def test_pins_that_only_report_accept_and_say_why_they_would_not(
    chain: list[x509.Certificate],
) -> None:
    outcome = PinPolicy([OTHER, b"\1" * 32], mode="report").check(chain)
    assert outcome.accepted
    assert outcome.matched is None
    assert "does not match the 2 pins" in outcome.reason


@pytest.mark.parametrize("position", [1, 2])
def test_an_issuers_key_counts_only_with_the_scope_chain(
    chain: list[x509.Certificate], position: int
) -> None:
    digest = spki_sha256(chain[position])
    assert PinPolicy([digest], scope="chain").check(chain).matched == format_pin(digest)
    outcome = PinPolicy([digest], scope="leaf").check(chain)
    assert not outcome.accepted
    assert "counts with the scope 'chain'" in outcome.reason


def test_a_chain_without_any_pinned_key_is_refused(chain: list[x509.Certificate]) -> None:
    outcome = PinPolicy([OTHER], scope="chain").check(chain)
    assert not outcome.accepted
    assert outcome.presented == tuple(format_pin(spki_sha256(each)) for each in chain)
    assert outcome.reason.startswith("no public key of its chain matches the pin")


@pytest.mark.parametrize("scope", ["leaf", "chain"])
def test_without_a_certificate_nothing_matches(scope: str) -> None:
    policy = PinPolicy.parse(["00" * 32], scope="chain" if scope == "chain" else "leaf")
    assert not policy.check([]).accepted
    assert policy.check([]).reason == "the peer has no certificate that the pin could match"


def test_a_policy_without_pins_is_not_made() -> None:
    with pytest.raises(ValueError, match="at least one pin"):
        PinPolicy.parse([])


def test_a_malformed_pin_is_refused_when_the_policy_is_made() -> None:
    with pytest.raises(ConfigurationError, match="is no pin"):
        PinPolicy.parse(["00" * 32, "sha256/short"])


def test_what_is_hashed_is_what_stands_in_the_certificate(chain: list[x509.Certificate]) -> None:
    for certificate in chain:
        key = certificate.public_key()
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert spki_sha256(certificate) == hashlib.sha256(info).digest()
        assert subject_name(certificate) == certificate.subject.public_bytes()
        assert issuer_name(certificate) == certificate.issuer.public_bytes()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        assert key_bits(certificate) == point


@needs_openssl
def test_openssl_finds_the_same_pin(tmp_path: Path) -> None:
    """Also for a key that `cryptography` would write in another form than it stands there."""
    commands = """
        openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:1024 -out key.pem
        openssl req -x509 -new -key key.pem -subj /CN=a -days 2 -out cert.pem
        openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform DER -out key.der
    """
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    assert spki_sha256(certificate) == hashlib.sha256((tmp_path / "key.der").read_bytes()).digest()


def test_a_certificate_of_the_first_version_has_no_version_field() -> None:
    """`cryptography` only writes v3; this is a v1 certificate that OpenSSL wrote."""
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = version_1(key)
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert certificate.version is x509.Version.v1
    assert spki_sha256(certificate) == hashlib.sha256(info).digest()


def version_1(key: ed25519.Ed25519PrivateKey) -> x509.Certificate:
    def der(tag: int, *parts: bytes) -> bytes:
        content = b"".join(parts)
        assert len(content) < 256
        size = [len(content)] if len(content) < 128 else [0x81, len(content)]
        return bytes([tag, *size]) + content

    algorithm = der(0x30, bytes.fromhex("06032b6570"))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")]).public_bytes()
    validity = der(0x30, der(0x17, b"250101000000Z"), der(0x17, b"450101000000Z"))
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signed = der(0x30, der(2, b"\1"), algorithm, name, validity, name, info)
    whole = der(0x30, signed, algorithm, der(3, b"\0", key.sign(signed)))
    return x509.load_der_x509_certificate(whole)
