"""Logs of Certificate Transparency that sign whatever they are given, and lists of them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trio_mcp_transport.security.spki import spki_sha256
from trio_mcp_transport.testing.certificates import SctListMaker


def shown(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


class Log:
    """One log: its key, and what a log list says of it.

    Args:
        name: Its description.
        operator: Who runs it.
        state: Such as ``usable`` or ``retired``.
        since: Since when it is in that state, in epoch seconds.
        key: RSA is the other kind that RFC 6962 knows.
        facts: Anything else that the list says.
    """

    def __init__(
        self,
        name: str,
        operator: str,
        *,
        state: str = "usable",
        since: float = 0.0,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
        facts: dict[str, object] | None = None,
    ) -> None:
        self.name = name
        self.operator = operator
        self.state = state
        self.since = since
        self.facts = facts or {}
        self.private_key = key or ec.generate_private_key(ec.SECP256R1())
        public = self.private_key.public_key()
        self.key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.log_id = hashlib.sha256(self.key).digest()

    def entry(self) -> dict[str, object]:
        """What a log list says of it."""
        return {
            "description": self.name,
            "log_id": base64.b64encode(self.log_id).decode(),
            "key": base64.b64encode(self.key).decode(),
            "url": "https://log.example/",
            "mmd": 86400,
            "state": {self.state: {"timestamp": shown(self.since)}},
            **self.facts,
        }

    def sign(self, entry: bytes, moment: float, *, extensions: bytes = b"") -> bytes:
        """A SignedCertificateTimestamp (RFC 6962, section 3.2)."""
        milliseconds = round(moment * 1000).to_bytes(8)
        extra = len(extensions).to_bytes(2) + extensions
        signed = b"\0\0" + milliseconds + entry + extra
        if isinstance(self.private_key, rsa.RSAPrivateKey):
            algorithm = b"\4\1"
            signature = self.private_key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        else:
            algorithm = b"\4\3"
            signature = self.private_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        size = len(signature).to_bytes(2)
        return b"\0" + self.log_id + milliseconds + extra + algorithm + size + signature


def timestamp_list(timestamps: Sequence[bytes]) -> bytes:
    """A SignedCertificateTimestampList (RFC 6962, section 3.3)."""
    each = b"".join(len(timestamp).to_bytes(2) + timestamp for timestamp in timestamps)
    return len(each).to_bytes(2) + each


def precertificate_entry(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """What a log signs for an SCT that goes into the certificate."""
    encoded = certificate.tbs_certificate_bytes
    return b"\0\1" + spki_sha256(issuer) + len(encoded).to_bytes(3) + encoded


def certificate_entry(certificate: x509.Certificate) -> bytes:
    """What a log signs for an SCT that comes with a staple."""
    encoded = certificate.public_bytes(Encoding.DER)
    return b"\0\0" + len(encoded).to_bytes(3) + encoded


def signed_by(*logs: Log, moment: float) -> SctListMaker:
    """For `CertificateAuthority.issue_server(sct_list=...)`: these logs know it."""

    def make(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        entry = precertificate_entry(certificate, issuer)
        return timestamp_list([log.sign(entry, moment) for log in logs])

    return make


def log_list(*logs: Log, kind: str = "logs") -> bytes:
    """A log list (version 3) of these logs."""
    operators: dict[str, list[Log]] = {}
    for log in logs:
        operators.setdefault(log.operator, []).append(log)
    return json.dumps({
        "version": "3.1",
        "log_list_timestamp": shown(0),
        "operators": [
            {"name": name, "email": ["a@example.com"], kind: [log.entry() for log in theirs]}
            for name, theirs in operators.items()
        ],
    }).encode()
