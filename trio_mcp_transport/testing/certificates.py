"""A throw-away certificate authority: certificates, and what speaks for or against them.

Used by tests, by ``trio-mcp cert`` and by ``trio-mcp demo``. Keys are elliptic (P-256), so
making one takes a fraction of a millisecond. Never for certificates that others shall
trust: whoever can read the directory can make any certificate.

Needs the extra ``tls``; `cryptography` is imported when the first authority is made.
"""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from ..errors import ConfigurationError, FeatureUnavailable

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "CertificateAuthority",
    "IssuedCertificate",
    "RevocationStatus",
    "SctListMaker",
    "write_private",
]

RevocationStatus = Literal["good", "revoked", "unknown"]
#: Makes the SCT list of a certificate: it is given the certificate as it is without the list
#: (whose `tbs_certificate_bytes` are what logs sign for a precertificate) and the issuer's,
#: and returns the `SignedCertificateTimestampList` of RFC 6962, section 3.3.
SctListMaker = Callable[["x509.Certificate", "x509.Certificate"], bytes]

_DAY = 86_400.0
#: 825 days is the most that Apple's systems accept; a throw-away one needs no more.
_LIFETIME = 397 * _DAY
# RFC 6962, section 3.3.
_SCT_LIST_OID = "1.3.6.1.4.1.11129.2.4.2"


def _need_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise FeatureUnavailable(
            "making certificates needs the extra tls: pip install 'trio-mcp-transport[tls]'"
        )


class IssuedCertificate:
    """A certificate with its private key and the certificates above it.

    Attributes:
        certificate: The certificate itself.
        key: Its private key.
        chain: The certificates between it and the root, its issuer's first; the root is
            not among them.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        chain: Sequence[x509.Certificate] = (),
    ) -> None:
        self.certificate = certificate
        self.key = key
        self.chain = tuple(chain)

    @property
    def certificate_pem(self) -> str:
        """The certificate and those of `chain`, as a server shows them."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return "".join(
            each.public_bytes(Encoding.PEM).decode() for each in (self.certificate, *self.chain)
        )

    @property
    def key_pem(self) -> str:
        """The private key, not encrypted (PKCS #8)."""
        return self.private_key_pem()

    def private_key_pem(self, password: str | None = None) -> str:
        """The private key as PKCS #8, encrypted if there is a password."""
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()

    def write(
        self, certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str]
    ) -> tuple[str, str]:
        """Write both as PEM, replacing what is there; only the owner can read the key.

        The key comes first, so that whoever watches the certificate finds a pair.

        Returns:
            The two paths.
        """
        write_private(key_file, self.key_pem)
        _write(certificate_file, self.certificate_pem, mode=0o644)
        return os.fspath(certificate_file), os.fspath(key_file)


class CertificateAuthority:
    """Signs certificates. Make one with `create`.

    Attributes:
        certificate: Its own certificate.
        key: Its private key.
        chain: The certificates above it up to the root, which is not among them: empty for
            a root, itself for an authority that a root signed.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        chain: Sequence[x509.Certificate] = (),
    ) -> None:
        self.certificate = certificate
        self.key = key
        self.chain = tuple(chain)

    @classmethod
    def create(
        cls,
        name: str = "Throw-away authority",
        *,
        not_before: float | None = None,
        not_after: float | None = None,
    ) -> Self:
        """A new root.

        Args:
            name: Its common name.
            not_before: Seconds since 1970; None for an hour ago.
            not_after: Seconds since 1970; None for 397 days from now.

        Raises:
            FeatureUnavailable: `cryptography` is not installed.
        """
        _need_cryptography()
        key = _new_key()
        subject = _subject(name)
        builder = _builder(subject, subject, key, not_before, not_after)
        return cls(_sign(_authority(builder, key, key, path_length=None), key), key)

    def intermediate(
        self,
        name: str = "Throw-away intermediate",
        *,
        not_before: float | None = None,
        not_after: float | None = None,
    ) -> CertificateAuthority:
        """An authority that this one has signed; what it issues comes with its certificate."""
        key = _new_key()
        builder = _builder(_subject(name), self.certificate.subject, key, not_before, not_after)
        certificate = _sign(_authority(builder, key, self.key, path_length=0), self.key)
        return CertificateAuthority(certificate, key, (certificate, *self.chain))

    @property
    def certificate_pem(self) -> str:
        """Its own certificate: what whoever trusts it needs."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM).decode()

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write its certificate (not its key) as PEM, replacing what is there."""
        _write(path, self.certificate_pem, mode=0o644)
        return os.fspath(path)

    # -- Certificates ----------------------------------------------------------------

    def issue_server(
        self,
        *names: str,
        common_name: str | None = None,
        not_before: float | None = None,
        not_after: float | None = None,
        must_staple: bool = False,
        sct_list: SctListMaker | None = None,
    ) -> IssuedCertificate:
        """A certificate for servers.

        Args:
            *names: Host names (wildcards are fine), IP addresses, or URIs that it is for.
            common_name: The subject's; none by default, as nobody looks at it.
            not_before: Seconds since 1970; None for an hour ago.
            not_after: Seconds since 1970; None for 397 days from now.
            must_staple: Whether it demands a stapled OCSP response (RFC 7633).
            sct_list: What the logs of Certificate Transparency say of it.
        """
        from cryptography.x509.oid import ExtendedKeyUsageOID

        return self._issue(
            names,
            ExtendedKeyUsageOID.SERVER_AUTH,
            common_name,
            not_before,
            not_after,
            must_staple=must_staple,
            sct_list=sct_list,
        )

    def issue_client(
        self,
        name: str | None = None,
        *,
        sans: Sequence[str] = (),
        not_before: float | None = None,
        not_after: float | None = None,
    ) -> IssuedCertificate:
        """A certificate for clients.

        Args:
            name: The subject's common name.
            sans: Subject alternative names: a SPIFFE ID or other URI, a mailbox, a host
                name, an IP address.
            not_before: Seconds since 1970; None for an hour ago.
            not_after: Seconds since 1970; None for 397 days from now.
        """
        from cryptography.x509.oid import ExtendedKeyUsageOID

        return self._issue(sans, ExtendedKeyUsageOID.CLIENT_AUTH, name, not_before, not_after)

    def issue_responder(
        self,
        name: str = "Throw-away OCSP responder",
        *,
        not_before: float | None = None,
        not_after: float | None = None,
        ocsp_signing: bool = True,
    ) -> IssuedCertificate:
        """A certificate for whoever signs OCSP responses in this authority's place.

        Args:
            name: Its common name.
            not_before: Seconds since 1970; None for an hour ago.
            not_after: Seconds since 1970; None for 397 days from now.
            ocsp_signing: Whether it says that it may (RFC 6960, section 4.2.2.2).
        """
        from cryptography.x509.oid import ExtendedKeyUsageOID

        usage = (
            ExtendedKeyUsageOID.OCSP_SIGNING if ocsp_signing else ExtendedKeyUsageOID.SERVER_AUTH
        )
        return self._issue((), usage, name, not_before, not_after)

    # -- Revocation ------------------------------------------------------------------

    def ocsp_response(
        self,
        subject: IssuedCertificate | x509.Certificate,
        status: RevocationStatus = "good",
        *,
        this_update: float | None = None,
        next_update: float | Literal["default"] | None = "default",
        responder: IssuedCertificate | None = None,
    ) -> bytes:
        """What an OCSP responder says of a certificate that this authority issued, as DER.

        Args:
            subject: Whom it is about.
            status: What it says.
            this_update: Seconds since 1970 at which this was known; None for an hour ago.
            next_update: Seconds since 1970 until which it holds; None says nothing about
                it. By default a week from now.
            responder: Who signs it, and shows its certificate in the response; None for
                this authority itself.
        """
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509 import ocsp

        about = subject.certificate if isinstance(subject, IssuedCertificate) else subject
        now = _now()
        revoked = status == "revoked"
        statuses = {
            "good": ocsp.OCSPCertStatus.GOOD,
            "revoked": ocsp.OCSPCertStatus.REVOKED,
            "unknown": ocsp.OCSPCertStatus.UNKNOWN,
        }
        until = now + 7 * _DAY if next_update == "default" else next_update
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=about,
            issuer=self.certificate,
            algorithm=hashes.SHA1(),  # it only tells which certificate; RFC 5019 wants it
            cert_status=statuses[status],
            this_update=_moment(now - 3600 if this_update is None else this_update),
            next_update=None if until is None else _moment(until),
            revocation_time=_moment(now - 3600) if revoked else None,
            revocation_reason=None,
        )
        who = self.certificate if responder is None else responder.certificate
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, who)
        if responder is not None:
            builder = builder.certificates([responder.certificate])
        key = self.key if responder is None else responder.key
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    # -- How -------------------------------------------------------------------------

    def _issue(
        self,
        names: Sequence[str],
        usage: x509.ObjectIdentifier,
        common_name: str | None,
        not_before: float | None,
        not_after: float | None,
        *,
        must_staple: bool = False,
        sct_list: SctListMaker | None = None,
    ) -> IssuedCertificate:
        from cryptography import x509

        key = _new_key()
        subject = _subject(common_name)
        builder = _builder(subject, self.certificate.subject, key, not_before, not_after)
        builder = (
            builder
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(_key_id(key), critical=False)
            .add_extension(_issuer_key_id(self.key), critical=False)
        )
        if names:
            # RFC 5280, section 4.2.1.6: critical if the subject is empty.
            general = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(general, critical=common_name is None)
        if must_staple:
            feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
            builder = builder.add_extension(feature, critical=False)
        if sct_list is not None:
            content = sct_list(_sign(builder, self.key), self.certificate)
            builder = builder.add_extension(
                x509.UnrecognizedExtension(
                    x509.ObjectIdentifier(_SCT_LIST_OID), _octet_string(content)
                ),
                critical=False,
            )
        return IssuedCertificate(_sign(builder, self.key), key, self.chain)


def write_private(path: str | os.PathLike[str], text: str) -> None:
    """Write a secret to a file that only the owner can read, replacing what is there."""
    _write(path, text, mode=0o600)


def _write(path: str | os.PathLike[str], text: str, *, mode: int) -> None:
    # In a new file that takes the old one's place: nobody reads half of it, and what may
    # be read by others was never the same file.
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _subject(common_name: str | None) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if common_name is None:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: float | None,
    not_after: float | None,
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = _now()
    return (
        x509
        .CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - 3600 if not_before is None else not_before))
        .not_valid_after(_moment(now + _LIFETIME if not_after is None else not_after))
    )


def _authority(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path_length: int | None,
) -> x509.CertificateBuilder:
    from cryptography import x509

    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return (
        builder
        .add_extension(constraints, critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(_key_id(key), critical=False)
        .add_extension(_issuer_key_id(signer), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _key_id(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    from cryptography import x509

    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _issuer_key_id(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    from cryptography import x509

    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    if "@" in name:
        return x509.RFC822Name(name)
    if not name.isascii():
        raise ConfigurationError(f"{name!r}: write an international name as its A-label (xn--...)")
    return x509.DNSName(name)


def _octet_string(content: bytes) -> bytes:
    """DER: the content of the SCT extension is wrapped once more (RFC 6962, section 3.3)."""
    size = len(content)
    if size < 0x80:
        head = bytes([4, size])
    else:
        length = size.to_bytes((size.bit_length() + 7) // 8, "big")
        head = bytes([4, 0x80 | len(length)]) + length
    return head + content
