"""Certificates and keys as they stand in files, and what a certificate says.

Called by `tls_contexts` and `tls_engine` when contexts are built, and by `tls_verification` in
each handshake for the facts. Reads
files synchronously; they are small. Error texts name files and certificates, never what is
in a key.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConfigurationError
from ..limits import MAX_PEM_BYTES
from ..tls_facts import CertificateFacts
from .spki import spki_sha256

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    from ..tls_settings import TlsSettings

    PrivateKey = (
        ec.EllipticCurvePrivateKey
        | rsa.RSAPrivateKey
        | ed25519.Ed25519PrivateKey
        | ed448.Ed448PrivateKey
    )

__all__ = [
    "Identity",
    "certificate_facts",
    "describe_names",
    "describe_subject",
    "host_names",
    "load_authorities",
    "load_identities",
    "printable",
    "read_file",
    "watched_paths",
]

_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)
#: Of one name in an error text; host names have at most 253.
_SHOWN_CHARACTERS = 256
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


class Identity(NamedTuple):
    """A certificate with what belongs to it, read and found to fit together.

    Attributes:
        certificate: The certificate itself.
        chain: The certificates that are shown behind it.
        key: Its private key.
        label: Where it came from, for error texts.
        facts: What the certificate says.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    label: str
    facts: CertificateFacts


class _Source(NamedTuple):
    """A text in PEM and how errors call it."""

    label: str
    data: bytes


# -- What a certificate says ---------------------------------------------------------


def certificate_facts(certificate: x509.Certificate) -> CertificateFacts:
    """What a certificate says, as plain data.

    Raises:
        ValueError: It cannot be read, such as for an extension that is malformed.
    """
    try:
        return _read_facts(certificate)
    except ValueError:
        raise
    except Exception as error:
        # An extension that is there twice, a version or a kind of name that nobody knows...:
        # cryptography has classes of its own for those, and they are no ValueErrors.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_facts(certificate: x509.Certificate) -> CertificateFacts:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    names: x509.SubjectAlternativeName | None
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)

    def of(
        kind: type[x509.DNSName | x509.UniformResourceIdentifier | x509.RFC822Name],
    ) -> tuple[str, ...]:
        return () if names is None else tuple(names.get_values_for_type(kind))

    addresses = () if names is None else tuple(names.get_values_for_type(x509.IPAddress))
    return CertificateFacts(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        common_name=str(common[0].value) if common else None,
        dns_names=of(x509.DNSName),
        ip_addresses=tuple(map(str, addresses)),
        uris=of(x509.UniformResourceIdentifier),
        emails=of(x509.RFC822Name),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        spki_sha256=base64.b64encode(spki_sha256(certificate)).decode(),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def host_names(facts: CertificateFacts) -> tuple[str, ...]:
    """The host names that a server with this certificate can be asked for, in lower case."""
    return tuple(name.lower().rstrip(".") for name in facts.dns_names)


# -- Own certificates ----------------------------------------------------------------


def load_identities(settings: TlsSettings) -> list[Identity]:
    """The own certificates: the main one first, then those of `sni_certificates`; or none.

    Raises:
        ConfigurationError: A file cannot be read, holds something else, the key is that of
            another certificate, or a further certificate has no host names.
    """
    if not settings.has_certificate:
        return []
    certificate = _source("cert_file", settings.cert_file, "cert_pem", settings.cert_pem)
    key = certificate
    if settings.key_file is not None or settings.key_pem is not None:
        key = _source("key_file", settings.key_file, "key_pem", settings.key_pem)
    found = [_identity(certificate, key, settings.key_password)]
    for pair in settings.sni_certificates:
        certificate_path, key_path = _split_pair(pair)
        certificate = read_file("sni_certificates", certificate_path)
        key = certificate if key_path is None else read_file("sni_certificates", key_path)
        identity = _identity(certificate, key, settings.key_password)
        if not identity.facts.dns_names:
            raise ConfigurationError(
                f"{identity.label}: the certificate has no host names, so no client can ask for it"
            )
        found.append(identity)
    return found


def load_authorities(settings: TlsSettings) -> list[x509.Certificate]:
    """The certificates of `ca_file` and `ca_pem`; those of `ca_path` OpenSSL reads itself.

    Raises:
        ConfigurationError: A file cannot be read, or holds no certificate; `ca_path` is no
            directory as OpenSSL wants it.
    """
    sources = []
    if settings.ca_file is not None:
        sources.append(read_file("ca_file", settings.ca_file))
    if settings.ca_pem is not None:
        sources.append(_Source("ca_pem", settings.ca_pem.encode()))
    if settings.ca_path is not None:
        try:
            names = os.listdir(settings.ca_path)
        except OSError as error:
            raise ConfigurationError(f"ca_path {settings.ca_path}: {error.strerror}") from error
        if not any(_HASHED.fullmatch(name) for name in names):
            raise ConfigurationError(
                f"ca_path {settings.ca_path}: no certificate there can be found by OpenSSL:"
                f" run `openssl rehash {settings.ca_path}`"
            )
    return [certificate for source in sources for certificate in _certificates(source)]


def watched_paths(settings: TlsSettings) -> tuple[str, ...]:
    """The files whose change means that contexts have to be built anew."""
    paths = [settings.cert_file, settings.key_file, settings.ca_file, settings.ca_path]
    paths.append(settings.ct_log_file)
    for pair in settings.sni_certificates:
        paths += _split_pair(pair)
    return tuple(dict.fromkeys(path for path in paths if path is not None))


def _split_pair(pair: str) -> tuple[str, str | None]:
    certificate, _, key = pair.partition(":")
    return certificate, key or None


def _source(file_name: str, path: str | None, text_name: str, text: str | None) -> _Source:
    if path is not None:
        return read_file(file_name, path)
    return _Source(text_name, (text or "").encode())


def read_file(name: str, path: str) -> _Source:
    """What a file holds, and how errors call it.

    Raises:
        ConfigurationError: It cannot be read, is larger than any such file, or is no file but
            a pipe, say, which nobody can look at twice.
    """
    label = f"{name} {path}"
    try:
        # Opening a pipe would wait for its other end otherwise.
        with open(path, "rb", opener=_open_nonblocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationError(f"{label}: not a regular file")
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{label}: {error.strerror}") from error
    if len(data) > MAX_PEM_BYTES:
        raise ConfigurationError(f"{label}: over {MAX_PEM_BYTES} bytes")
    return _Source(label, data)


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _certificates(source: _Source) -> list[x509.Certificate]:
    from cryptography import x509

    if b"-----BEGIN CERTIFICATE-----" not in source.data:
        hint = " (it may be DER: `openssl x509 -in FILE -inform DER` converts)"
        is_der = source.data[:1] == b"\x30"
        raise ConfigurationError(
            f"{source.label}: no certificate in PEM there{hint if is_der else ''}"
        )
    try:
        return x509.load_pem_x509_certificates(source.data)
    except Exception as error:  # of many classes, as in `certificate_facts`
        text = f"{source.label}: a certificate is malformed: {_in_words(error)}"
        raise ConfigurationError(text) from error


def _identity(certificate: _Source, key: _Source, password: str | None) -> Identity:
    leaf, *chain = _certificates(certificate)
    private = _private_key(key, password)
    try:
        facts = certificate_facts(leaf)
        public = leaf.public_key()
    except Exception as error:  # of many classes, as in `certificate_facts`
        text = f"{certificate.label}: the certificate is malformed: {_in_words(error)}"
        raise ConfigurationError(text) from error
    if private.public_key() != public:
        ours = "the private key" if key.label == certificate.label else key.label
        raise ConfigurationError(
            f"{ours} is not the key of the first certificate of {certificate.label}"
        )
    return Identity(leaf, tuple(chain), private, certificate.label, facts)


def _private_key(source: _Source, password: str | None) -> PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found = _KEY.search(source.data)
    if found is None:
        raise ConfigurationError(f"{source.label}: no private key in PEM there")
    is_encrypted = b"ENCRYPTED" in found[0]
    if is_encrypted and password is None:
        raise ConfigurationError(f"{source.label}: the private key is encrypted: key_password?")
    secret = password.encode() if is_encrypted and password is not None else None
    try:
        key = load_pem_private_key(found[0], secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: nothing of a key shall reach a log.
        reason = "key_password is wrong, or it is malformed" if secret else "malformed"
        raise ConfigurationError(f"{source.label}: the private key: {reason}") from None
    kinds = (
        ec.EllipticCurvePrivateKey,
        rsa.RSAPrivateKey,
        ed25519.Ed25519PrivateKey,
        ed448.Ed448PrivateKey,
    )
    if not isinstance(key, kinds):
        raise ConfigurationError(f"{source.label}: TLS has no use for this kind of private key")
    return key


def describe_names(facts: CertificateFacts, limit: int = 5) -> str:
    """The names that a certificate is for, for an error text; not more than a few."""
    names: Sequence[str] = facts.dns_names + facts.ip_addresses
    if not names:
        return "no host at all"
    more = len(names) - limit
    shown = ", ".join(map(printable, names[:limit]))
    return f"{shown} and {more} more" if more > 0 else shown


def describe_subject(certificate: x509.Certificate) -> str | None:
    """Whose certificate it is, for an error text; None if it does not say. Never raises."""
    try:
        if subject := certificate.subject.rfc4514_string():
            return printable(subject)
        names = certificate_facts(certificate).names
    except Exception:  # it is refused; that nobody can read its names is none of the reasons
        return None
    return printable(names[0]) if names else None


def _in_words(error: Exception) -> str:
    return printable(f"{error}" or type(error).__name__)


def printable(text: str) -> str:
    """Words of a certificate as they may stand in a line of a log or on a terminal.

    Anybody can show a certificate before it is refused, and have line ends or control
    sequences in its names.
    """
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text[:_SHOWN_CHARACTERS]
    )
    return f"{shown}..." if len(text) > _SHOWN_CHARACTERS else shown
