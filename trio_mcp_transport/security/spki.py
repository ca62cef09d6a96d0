"""A certificate's names and public key, byte for byte as they stand there.

Called by `pinning`, `ocsp`, `staples` and `transparency`, which hash them. Keys that are
loaded and written again may come out differently (RSA-PSS ones do), and some kinds cannot
be loaded at all; so this walks to the place in the DER. The certificate was parsed before:
what is walked here is well formed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["issuer_name", "key_bits", "public_key_info", "spki_sha256", "subject_name"]

_VERSION_TAG = 0xA0
# TBSCertificate's fields after its version (RFC 5280, section 4.1): serialNumber,
# signature, issuer, validity, subject, subjectPublicKeyInfo.
_ISSUER, _SUBJECT, _KEY = 2, 4, 5


def issuer_name(certificate: x509.Certificate) -> bytes:
    """The DER of its issuer's name."""
    return _field(certificate, _ISSUER)


def subject_name(certificate: x509.Certificate) -> bytes:
    """The DER of its own name."""
    return _field(certificate, _SUBJECT)


def public_key_info(certificate: x509.Certificate) -> bytes:
    """The DER of its SubjectPublicKeyInfo."""
    return _field(certificate, _KEY)


def key_bits(certificate: x509.Certificate) -> bytes:
    """The key itself, without algorithm, tag and length: what OCSP hashes (RFC 6960, 4.1.1)."""
    encoded = public_key_info(certificate)
    algorithm, _ = _inside(encoded, 0)
    start, end = _inside(encoded, _inside(encoded, algorithm)[1])
    return encoded[start + 1 : end]  # the first byte of a BIT STRING counts unused bits


def spki_sha256(certificate: x509.Certificate) -> bytes:
    """SHA-256 of its SubjectPublicKeyInfo: what a pin names (RFC 7469, section 2.4)."""
    return hashlib.sha256(public_key_info(certificate)).digest()


def _field(certificate: x509.Certificate, number: int) -> bytes:
    encoded = certificate.tbs_certificate_bytes
    position, _ = _inside(encoded, 0)
    if encoded[position] == _VERSION_TAG:
        position = _inside(encoded, position)[1]
    for _ in range(number):
        position = _inside(encoded, position)[1]
    return encoded[position : _inside(encoded, position)[1]]


def _inside(encoded: bytes, position: int) -> tuple[int, int]:
    """Where the content of the element at a position begins and where it ends."""
    length = encoded[position + 1]
    start = position + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(encoded[position + 2 : start])
    return start, start + length
