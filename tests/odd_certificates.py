"""Certificates that OpenSSL takes and that cannot be read wholly, each in a way of its own.

Bytes of a certificate are replaced by as many others; nothing here looks at its signature.
"""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_ALTERNATIVE_NAMES = "2.5.29.17"
#: A name of the kind x400Address, and a name of a host.
_X400 = bytes.fromhex("3004a3023000")
_HOST = bytes.fromhex("3003820161")

KINDS = ("extension twice", "version", "kind of name", "subject", "subject and names")


@dataclass(frozen=True)
class OddCertificate:
    """A certificate that signed itself, or tries to."""

    der: bytes
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.der)

    @property
    def key_pem(self) -> str:
        encoded = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return encoded.decode()


def odd_certificate(kind: str) -> OddCertificate:
    """One of those `KINDS`."""
    key = ec.generate_private_key(ec.SECP256R1())
    if kind == "extension twice":
        names = [(_ALTERNATIVE_NAMES, _HOST), ("2.5.29.117", _HOST)]
        return OddCertificate(
            _signed(key, "", names).replace(b"\x55\x1d\x75", b"\x55\x1d\x11"), key
        )
    if kind == "version":
        der = _signed(key, "odd", []).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
        return OddCertificate(der, key)
    if kind == "kind of name":
        return OddCertificate(_signed(key, "", [(_ALTERNATIVE_NAMES, _X400)]), key)
    names = [(_ALTERNATIVE_NAMES, _X400)] if kind == "subject and names" else []
    # An IA5 string, which is ASCII, of no characters that ASCII has.
    der = _signed(key, "ABCD", names).replace(b"\x0c\x04ABCD", b"\x16\x04\xff\xfe\xff\xfe")
    return OddCertificate(der, key)


def _signed(
    key: ec.EllipticCurvePrivateKey, name: str, extensions: list[tuple[str, bytes]]
) -> bytes:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = (
        x509
        .CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Nobody")]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2049, 1, 1))
    )
    for identifier, value in extensions:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(identifier), value)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
