"""OCSP responses written byte by byte: what `cryptography` reads, but does not write.

Several answers in one response, extensions of an answer, critical ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from trio_mcp_transport.security.spki import issuer_name, key_bits

SHA1 = bytes.fromhex("06052b0e03021a")
SHA256 = bytes.fromhex("0609608648016503040201")
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
ECDSA_SHA1 = bytes.fromhex("06072a8648ce3d0401")
OCSP_BASIC = bytes.fromhex("06092b0601050507300101")
#: 1.3.6.1.4.1.11129.2.4.5: the SCTs of an OCSP response (RFC 6962, section 3.3).
SCT_LIST = bytes.fromhex("060a2b06010401d679020405")
#: 1.3.6.1.4.1.99999.1: nobody's.
NOBODYS = bytes.fromhex("06092b06010401868d1f01")


def der(tag: int, *parts: bytes) -> bytes:
    """One element: SEQUENCE is 0x30, OCTET STRING 4, and so on."""
    content = b"".join(parts)
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    encoded = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(encoded)]) + encoded + content


def extension(oid: bytes, content: bytes, *, critical: bool = False) -> bytes:
    flag = der(1, b"\xff") if critical else b""
    return der(0x30, oid, flag, der(4, content))


def moment(seconds: float) -> bytes:
    return der(0x18, f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d%H%M%SZ}".encode())


@dataclass
class Answer:
    """What a response says of one certificate: good, unless it is revoked."""

    leaf: x509.Certificate
    issuer: x509.Certificate
    this_update: float
    next_update: float | None
    revoked: bool = False
    extensions: Sequence[bytes] = ()
    hash_name: str = "sha1"

    def encode(self) -> bytes:
        algorithm = {"sha1": SHA1, "sha256": SHA256}[self.hash_name]
        serial = self.leaf.serial_number
        name = hashlib.new(self.hash_name, issuer_name(self.leaf)).digest()
        key = hashlib.new(self.hash_name, key_bits(self.issuer)).digest()
        identity = der(
            0x30,
            der(0x30, algorithm, der(5)),
            der(4, name),
            der(4, key),
            der(2, serial.to_bytes(serial.bit_length() // 8 + 1)),
        )
        status = der(0xA1, moment(self.this_update)) if self.revoked else der(0x80)
        following = () if self.next_update is None else (der(0xA0, moment(self.next_update)),)
        more = (der(0xA1, der(0x30, *self.extensions)),) if self.extensions else ()
        return der(0x30, identity, status, moment(self.this_update), *following, *more)


def response(
    *answers: Answer,
    responder: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    shown: Sequence[x509.Certificate] = (),
    extensions: Sequence[bytes] = (),
    weak: bool = False,
) -> bytes:
    """A response that a responder signed (weakly: with SHA-1), and the certificates it shows."""
    identity = der(0xA2, der(4, hashlib.sha1(key_bits(responder)).digest()))
    more = (der(0xA1, der(0x30, *extensions)),) if extensions else ()
    made = moment(max(answer.this_update for answer in answers))
    said = der(0x30, *(answer.encode() for answer in answers))
    signed = der(0x30, identity, made, said, *more)
    signature = key.sign(signed, ec.ECDSA(hashes.SHA1() if weak else hashes.SHA256()))
    certificates = b"".join(each.public_bytes(Encoding.DER) for each in shown)
    basic = der(
        0x30,
        signed,
        der(0x30, ECDSA_SHA1 if weak else ECDSA_SHA256),
        der(3, b"\0" + signature),
        *((der(0xA0, der(0x30, certificates)),) if certificates else ()),
    )
    return der(0x30, der(10, b"\0"), der(0xA0, der(0x30, OCSP_BASIC, der(4, basic))))
