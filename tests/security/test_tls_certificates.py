"""Certificates and keys as they stand in files: what will do, and what is wrong with the rest."""

from __future__ import annotations

import datetime
import importlib.util
import os
from pathlib import Path

import pytest

pytest.importorskip("OpenSSL")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from msgspec.structs import replace
from OpenSSL import crypto
from tls_files import TlsFiles
from tls_pairs import connect

from trio_mcp_transport import (
    ConfigurationError,
    FeatureUnavailable,
    TlsSettings,
)
from trio_mcp_transport.security import TlsClient, TlsServer

pytestmark = pytest.mark.tls


# -- Own certificates ----------------------------------------------------------------


def test_key_and_certificate_may_stand_in_one_file_in_any_order(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    for first, second in (
        (tls_files.server.certificate_pem, tls_files.server.key_pem),
        (tls_files.server.key_pem, tls_files.server.certificate_pem),
    ):
        path = tmp_path / "both.pem"
        path.write_text(f"some words\n{first}{second}")
        assert connect(tls_files.client_settings, TlsSettings(cert_file=str(path))).client_facts


def test_an_encrypted_key_needs_its_password(tls_files: TlsFiles) -> None:
    encrypted = tls_files.server.private_key_pem("correct horse")
    settings = TlsSettings(cert_file=tls_files.server_cert, key_pem=encrypted)
    good = replace(settings, key_password="correct horse")
    assert connect(tls_files.client_settings, good).client_facts
    with pytest.raises(ConfigurationError, match=r"^key_pem: .*encrypted: key_password\?"):
        TlsServer(settings)
    with pytest.raises(ConfigurationError, match="key_password is wrong") as raised:
        TlsServer(replace(settings, key_password="battery staple"))
    assert "battery" not in str(raised.value)


def test_a_password_that_is_not_needed_does_no_harm(tls_files: TlsFiles) -> None:
    TlsServer(replace(tls_files.server_settings, key_password="x"))


@pytest.mark.parametrize("kind", ["sec1", "sec1-encrypted", "pkcs1", "ed25519"])
def test_older_forms_and_other_kinds_of_keys_will_do(tls_files: TlsFiles, kind: str) -> None:
    settings = tls_files.server_settings
    password = None
    if kind in {"sec1", "sec1-encrypted"}:
        password = "x" if kind == "sec1-encrypted" else None
        pem = tls_files.server.key.private_bytes(
            Encoding.PEM,
            PrivateFormat.TraditionalOpenSSL,
            BestAvailableEncryption(b"x") if password else NoEncryption(),
        ).decode()
        settings = TlsSettings(cert_file=tls_files.server_cert, key_pem=pem, key_password=password)
    else:
        key = rsa.generate_private_key(65537, 2048) if kind == "pkcs1" else None
        settings = self_signed(key or ed25519.Ed25519PrivateKey.generate())
    client = replace(tls_files.client_settings, ca_pem=settings.cert_pem)
    assert connect(client, settings).client_facts


def self_signed(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> TlsSettings:
    """A certificate of its own, with the key in its oldest form."""
    now = datetime.datetime.now(datetime.UTC)
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(key, hashes.SHA256() if is_rsa else None)
    )
    form = PrivateFormat.TraditionalOpenSSL if is_rsa else PrivateFormat.PKCS8
    return TlsSettings(
        cert_pem=certificate.public_bytes(Encoding.PEM).decode(),
        key_pem=key.private_bytes(Encoding.PEM, form, NoEncryption()).decode(),
    )


def bad_files(files: TlsFiles, directory: Path) -> dict[str, tuple[TlsSettings, str]]:
    """Settings that cannot work, with the complaint."""
    directory.joinpath("empty").write_text("")
    directory.joinpath("broken").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    directory.joinpath("key").write_text(
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    directory.joinpath("der").write_bytes(files.server.certificate.public_bytes(Encoding.DER))
    good = files.server_settings

    def path(name: str) -> str:
        return str(directory / name)

    return {
        "missing": (replace(good, cert_file=path("no")), "^cert_file .*no: No such file"),
        "missing key": (replace(good, key_file=path("no")), "^key_file .*no: No such file"),
        "directory": (replace(good, cert_file=path("")), "^cert_file .*: Is a directory"),
        "empty": (replace(good, cert_file=path("empty")), "^cert_file .*: no certificate in PEM"),
        "broken": (replace(good, cert_file=path("broken")), "^cert_file .*malformed"),
        "DER": (replace(good, cert_file=path("der")), "^cert_file .*DER.*-inform DER"),
        "no key": (replace(good, key_file=path("empty")), "^key_file .*: no private key"),
        "broken key": (replace(good, key_file=path("key")), "^key_file .*: malformed"),
        "another's key": (
            replace(good, key_file=files.client_key),
            "^key_file .*client.key is not the key of the first certificate of cert_file",
        ),
        "no key at all": (TlsSettings(cert_file=files.server_cert), "^cert_file .*no private key"),
        "no authority": (
            replace(good, client_auth="required", ca_file=path("empty")),
            "^ca_file .*: no certificate",
        ),
        "no such authority": (
            replace(good, client_auth="required", ca_file=path("no")),
            "^ca_file .*: No such file",
        ),
        "no hashes": (
            replace(good, client_auth="required", ca_path=str(directory)),
            "^ca_path .*openssl rehash",
        ),
        "no directory": (
            replace(good, client_auth="required", ca_path=path("no")),
            "^ca_path .*: No such file",
        ),
        "another name": (
            replace(good, sni_certificates=(f"{files.client_cert}:{files.client_key}",)),
            "^sni_certificates .*has no host names",
        ),
        "no log": (replace(good, keylog_file=path("no/log")), "^keylog_file .*: No such file"),
    }


BAD_FILES = [
    "missing", "missing key", "directory", "empty", "broken", "DER", "no key", "broken key",
    "another's key", "no key at all", "no authority", "no such authority", "no hashes",
    "no directory", "another name", "no log",
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_used_is_named(
    tls_files: TlsFiles, tmp_path: Path, case: str
) -> None:
    cases = bad_files(tls_files, tmp_path)
    assert list(cases) == BAD_FILES
    settings, complaint = cases[case]
    with pytest.raises(ConfigurationError, match=complaint):
        TlsServer(settings)


def test_a_file_that_is_far_too_large_is_not_read(tls_files: TlsFiles, tmp_path: Path) -> None:
    path = tmp_path / "huge.pem"
    with path.open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(ConfigurationError, match=r"^ca_file .*over 4194304 bytes"):
        TlsClient(TlsSettings(ca_file=str(path)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are those of POSIX")
def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match=r"^ca_file .*: not a regular file$"):
        TlsClient(TlsSettings(ca_file=str(tmp_path / "pipe")))


def test_a_key_that_is_too_weak_is_refused(tls_files: TlsFiles) -> None:
    with pytest.raises(ConfigurationError, match=r"^cert_pem: OpenSSL refuses it: .*key too small"):
        TlsServer(self_signed(rsa.generate_private_key(65537, 1024)))


@pytest.mark.parametrize("module_name", ["OpenSSL", "service_identity"])
def test_without_the_extra_the_error_says_what_to_install(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch, module_name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module_name else find(name)
    )
    for make in (TlsServer, TlsClient):
        with pytest.raises(FeatureUnavailable, match=r"pip install 'trio-mcp-transport\[tls\]'"):
            make(tls_files.server_settings)


def test_a_key_of_a_kind_that_signs_nothing_is_refused(tls_files: TlsFiles) -> None:
    key = x25519.X25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(ConfigurationError, match=r"^key_pem: TLS has no use for this kind"):
        TlsServer(TlsSettings(cert_file=tls_files.server_cert, key_pem=pem))


def test_an_own_certificate_that_nobody_can_read_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    now = datetime.datetime.now(datetime.UTC)
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"no DER")
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now)
        .add_extension(names, critical=True)
        .sign(key, None)
    )
    settings = TlsSettings(
        cert_pem=certificate.public_bytes(Encoding.PEM).decode(),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )
    with pytest.raises(ConfigurationError, match=r"^cert_pem: the certificate is malformed"):
        TlsServer(settings)


def test_an_authority_that_openssl_refuses_is_named_by_its_option(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: object, certificate: object) -> None:
        raise crypto.Error([("asn1", "", "wrong tag")])

    monkeypatch.setattr(crypto.X509Store, "add_cert", refuse)
    with pytest.raises(ConfigurationError, match=r"^ca_file, ca_path: OpenSSL .*: wrong tag"):
        TlsClient(tls_files.client_settings)
