"""What is known of a TLS connection once its handshake is complete. Pure data.

Made by `security.tls_contexts`, found in `ChannelContext.tls`.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

import msgspec

__all__ = ["CertificateFacts", "OcspStatus", "PinStatus", "TlsFacts", "TransparencyStatus"]

OcspStatus = Literal["unchecked", "missing", "good"]
PinStatus = Literal["unchecked", "matched", "mismatched"]
TransparencyStatus = Literal["unchecked", "satisfied", "insufficient"]

# Printable ASCII but the percent sign, so that nothing in a certificate can break a log.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a certificate says.

    Attributes:
        subject: Whose it is, as RFC 4514 writes it: ``CN=example.com,O=Example``.
        issuer: Who signed it, likewise.
        serial: Serial number, lower-case hex.
        common_name: The first common name of the subject, or None.
        dns_names: Host names it is for (subject alternative names), wildcards among them.
        ip_addresses: Addresses it is for.
        uris: URIs it is for, such as a SPIFFE ID.
        emails: Mailboxes it is for.
        not_before: Seconds since 1970 from which on it is valid.
        not_after: Seconds since 1970 after which it is not.
        spki_sha256: SHA-256 of its public key (SubjectPublicKeyInfo), base64: what a pin
            names.
        sha256: SHA-256 of the whole certificate, lower-case hex.
    """

    subject: str
    issuer: str
    serial: str
    common_name: str | None
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    not_before: float
    not_after: float
    spki_sha256: str
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it is for: hosts, addresses, URIs, mailboxes."""
        return self.dns_names + self.ip_addresses + self.uris + self.emails

    def expires_in(self, now: float) -> float:
        """Seconds that it is still valid; negative if it is not any more.

        Args:
            now: Seconds since 1970, as `time.time` gives them.
        """
        return self.not_after - now

    @property
    def principal(self) -> str | None:
        """Whom it identifies, as `ChannelContext.principal` has it; None if nobody.

        The most specific name that it has, after what kind of name that is, so that names
        of different kinds are never taken for each other: ``cert:uri:spiffe://a.example/b``
        (a SPIFFE ID before any other URI), ``cert:dns:client.example``,
        ``cert:email:a@example.com``, ``cert:ip:192.0.2.1``, ``cert:cn:Some Client``.
        Anything but printable ASCII is percent-encoded. Host names are in lower case, without
        a final dot, as they are the same name otherwise. A name that is empty is none.
        """
        spiffe = [uri for uri in self.uris if uri.startswith("spiffe://")]
        for kind, names in (
            ("uri", (*spiffe, *self.uris)),
            ("dns", tuple(name.lower().rstrip(".") for name in self.dns_names)),
            ("email", self.emails),
            ("ip", self.ip_addresses),
            ("cn", (self.common_name or "",)),
        ):
            if name := next(filter(None, names), None):
                return f"cert:{kind}:{quote(name, safe=_PLAIN)}"
        return None


class TlsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a connection is protected, and who is at its other end.

    Attributes:
        version: ``TLSv1.3`` or ``TLSv1.2``.
        cipher: The cipher suite, as OpenSSL calls it.
        alpn: The protocol that both sides agreed on, or None.
        server_name: The name that the client asked for (SNI); None if it asked for none,
            as it does for an address.
        peer_certificate: The other side's certificate, which was verified; None for a
            client that showed none.
        own_certificate: The certificate that was shown to the peer, or may have been.
        resumed: Whether an earlier connection was resumed, so that its certificate was not
            shown again; None where that is not known, as to servers.
        ocsp: What became of the stapled proof that the peer's certificate is not revoked.
        pins: What the pins said of the peer's key.
        transparency: Whether the certificate is in enough logs.
        sct_count: Logs of those asked for that vouch for the certificate; None unless
            looked at.
    """

    version: str
    cipher: str
    alpn: str | None = None
    server_name: str | None = None
    peer_certificate: CertificateFacts | None = None
    own_certificate: CertificateFacts | None = None
    resumed: bool | None = None
    ocsp: OcspStatus = "unchecked"
    pins: PinStatus = "unchecked"
    transparency: TransparencyStatus = "unchecked"
    sct_count: int | None = None

    @property
    def principal(self) -> str | None:
        """Whom the peer's certificate identifies: `CertificateFacts.principal`."""
        return None if self.peer_certificate is None else self.peer_certificate.principal
