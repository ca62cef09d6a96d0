"""OCSP staples: what a server's certificate authority says of its certificate just now.

Called by `tls_verification` in a client's handshake, when the server's staple is there or is
known to be missing. Pure decisions on bytes, certificates and a time (RFC 6960, RFC 6066
section 8, RFC 7633). Asks no responder: a client that did would tell it whom it visits.

What is checked: the response is for this certificate and issuer; it is signed by the
issuer, or by a responder whose certificate the issuer signed for that purpose; it is of
this time; it says "good". There is no nonce in a staple, and the certificate of a delegated
responder is not checked for revocation itself, as nothing staples an answer for that.

A trap: a resumed TLS session brings no staple, and a callback of OpenSSL cannot tell that
from a server that left it out. Whoever requires staples must not offer sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from ..limits import OCSP_CLOCK_SKEW
from ..tls_settings import OcspMode
from .spki import issuer_name, key_bits, subject_name

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509 import ocsp
    from cryptography.x509.certificate_transparency import SignedCertificateTimestamp

__all__ = ["StapleOutcome", "StaplePolicy", "StapleStatus"]

StapleStatus = Literal["off", "good", "missing", "revoked", "unknown", "outdated", "invalid"]

#: Certificates of responders that are tried. Responses have one, hardly ever two.
_MAX_RESPONDERS = 4
#: SHA-1 signatures can be forged; RFC 9654, section 3, asks for SHA-256.
_SOUND_HASHES = frozenset({"sha256", "sha384", "sha512"})


class StapleOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a staple says of a certificate.

    Attributes:
        accepted: Whether the connection may go on.
        status: ``good``, ``revoked`` and ``unknown`` are the responder's words. Without
            those: ``missing`` (no staple, or one that holds no answer), ``outdated`` (not
            of this time), ``invalid`` (malformed, for another certificate, or not signed
            by who may), ``off`` (not looked at).
        reason: Why it is not accepted; empty if it is.
        this_update: When that was known to be right, in epoch seconds; None without it.
        next_update: By when there will be a newer answer; None if it does not say.
        timestamps: The signed certificate timestamps of a response that says "good", for
            `TransparencyPolicy.check`. Looked for only in a response for one certificate.
    """

    accepted: bool
    status: StapleStatus
    reason: str = ""
    this_update: float | None = None
    next_update: float | None = None
    timestamps: Sequence[SignedCertificateTimestamp] = ()


class _Refused(Exception):
    """The staple cannot be relied on."""

    def __init__(self, status: StapleStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: StapleStatus = status
        self.reason = reason


class StaplePolicy:
    """How much a client relies on staples.

    Args:
        mode: ``off`` looks at nothing. ``if-present`` wants a staple that is there to be
            good, and one to be there if the certificate says so ("must staple").
            ``require`` wants one always.
        skew: By how many seconds the clocks of responder and client may differ.
    """

    def __init__(self, mode: OcspMode = "if-present", *, skew: float = OCSP_CLOCK_SKEW) -> None:
        self.mode = mode
        self.skew = skew

    def check(
        self, staple: bytes, leaf: x509.Certificate, issuer: x509.Certificate | None, now: float
    ) -> StapleOutcome:
        """Judge a server's staple.

        Args:
            staple: The DER of an OCSPResponse; empty if the server sent none.
            leaf: The server's certificate.
            issuer: The next certificate of the verified chain. None if there is none, as
                for one that is trusted by itself: then a staple counts as missing, unless the
                certificate signed itself.
            now: Epoch seconds.
        """
        if self.mode == "off":
            return StapleOutcome(accepted=True, status="off")
        try:
            return self._judge(staple, leaf, issuer, now)
        except _Refused as refused:
            reason = refused.reason
            if refused.status == "missing":
                if self.mode == "require":
                    return StapleOutcome(accepted=False, status="missing", reason=reason)
                if not must_staple(leaf):
                    return StapleOutcome(accepted=True, status="missing")
                reason += ", and its certificate promises one (must-staple)"
            return StapleOutcome(accepted=False, status=refused.status, reason=reason)

    def _judge(
        self, staple: bytes, leaf: x509.Certificate, issuer: x509.Certificate | None, now: float
    ) -> StapleOutcome:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.x509 import ocsp

        if not staple:
            raise _Refused("missing", "the server stapled no OCSP response")
        # All these come out of cryptography for what cannot be read, and from nowhere else.
        try:
            response = ocsp.load_der_ocsp_response(staple)
            if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
                said = response.response_status.name.lower().replace("_", " ")
                raise _Refused("missing", f"its OCSP staple has no answer, but {said!r}")
            answer = self._answer(response, leaf, _issuer_of(leaf, issuer), now)
        except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
            raise _Refused("invalid", f"its OCSP staple cannot be read: {error}") from error
        this_update, next_update = validity(answer)
        self._check_time(this_update, next_update, now)
        if answer.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            since = answer.revocation_time_utc
            raise _Refused("revoked", f"its OCSP staple says revoked on {since:%Y-%m-%d}")
        if answer.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            raise _Refused("unknown", "its OCSP staple says that the responder does not know it")
        return StapleOutcome(
            accepted=True,
            status="good",
            this_update=this_update,
            next_update=next_update,
            timestamps=_timestamps(response),
        )

    def _answer(
        self,
        response: ocsp.OCSPResponse,
        leaf: x509.Certificate,
        issuer: x509.Certificate,
        now: float,
    ) -> ocsp.OCSPSingleResponse:
        """The part of a genuine response that is about this certificate."""
        from cryptography.x509 import UnrecognizedExtension

        _check_signer(response, issuer, now, self.skew)
        if any(
            extension.critical and isinstance(extension.value, UnrecognizedExtension)
            for extension in response.extensions
        ):
            raise _Refused("invalid", "its OCSP staple has a critical extension nobody knows")
        for answer in response.responses:
            if is_about(answer, leaf) and answer.issuer_key_hash == _digest(
                answer, key_bits(issuer)
            ):
                return answer
        raise _Refused("invalid", "its OCSP staple is for another certificate")

    def _check_time(self, this_update: float, next_update: float | None, now: float) -> None:
        if this_update > now + self.skew:
            raise _Refused("outdated", f"its OCSP staple is valid from {_shown(this_update)} only")
        # Without nextUpdate, newer answers are there all the time (RFC 6960, section 4.2.2.1):
        # such a staple is good while it is fresh.
        end = this_update if next_update is None else next_update
        if now > end + self.skew:
            raise _Refused("outdated", f"its OCSP staple expired on {_shown(end)}")


def validity(answer: ocsp.OCSPSingleResponse) -> tuple[float, float | None]:
    """From when and until when an answer holds, in epoch seconds."""
    end = answer.next_update_utc
    return answer.this_update_utc.timestamp(), None if end is None else end.timestamp()


def is_about(answer: ocsp.OCSPSingleResponse, leaf: x509.Certificate) -> bool:
    """Whether an answer has a certificate's serial number and its issuer's name."""
    return answer.serial_number == leaf.serial_number and answer.issuer_name_hash == _digest(
        answer, issuer_name(leaf)
    )


def must_staple(leaf: x509.Certificate) -> bool:
    """Whether a certificate promises that its server staples (RFC 7633)."""
    from cryptography import x509

    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return False
    except (ValueError, x509.DuplicateExtension):
        return True  # what cannot be read is taken for the stricter of the two
    return x509.TLSFeatureType.status_request in features


def _digest(answer: ocsp.OCSPSingleResponse, data: bytes) -> bytes:
    # Only finds what belongs together: nothing rests on how strong this hash is.
    return hashlib.new(answer.hash_algorithm.name, data, usedforsecurity=False).digest()


def _issuer_of(leaf: x509.Certificate, issuer: x509.Certificate | None) -> x509.Certificate:
    if issuer is not None:
        return issuer
    if issuer_name(leaf) != subject_name(leaf):
        # Trusted by itself: revoking it is up to whoever trusts it.
        raise _Refused("missing", "its OCSP staple cannot be verified: its issuer is not known")
    return leaf


def _check_signer(
    response: ocsp.OCSPResponse, issuer: x509.Certificate, now: float, skew: float
) -> None:
    """See that the issuer signed, or one that it delegated this to (RFC 6960, 4.2.2.2)."""
    # Who it says it is does not matter, only whose key it is.
    if _has_signed(issuer, response):
        return
    problem = "is not signed by its issuer"
    for responder in response.certificates[:_MAX_RESPONDERS]:
        if not _has_issued(issuer, responder):
            problem = "is signed by a responder whom its issuer does not know"
        elif not _may_sign_responses(responder):
            problem = "is signed by a certificate that is not for signing OCSP responses"
        elif not _is_valid(responder, now, skew):
            problem = "is signed by a responder whose certificate is not valid now"
        elif _has_signed(responder, response):
            return
        else:
            problem = "has a signature that does not fit"
    raise _Refused("invalid", f"its OCSP staple {problem}")


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _may_sign_responses(responder: x509.Certificate) -> bool:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    extensions = responder.extensions
    try:
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        return False
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True


def _is_valid(certificate: x509.Certificate, now: float, skew: float) -> bool:
    begin = certificate.not_valid_before_utc.timestamp()
    return begin - skew <= now <= certificate.not_valid_after_utc.timestamp() + skew


def _has_signed(signer: x509.Certificate, response: ocsp.OCSPResponse) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

    key = signer.public_key()
    signature, signed = response.signature, response.tbs_response_bytes
    try:
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
            return True
        algorithm = response.signature_hash_algorithm
        if algorithm is None or algorithm.name not in _SOUND_HASHES:
            return False
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, ec.ECDSA(algorithm))
            return True
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
            return True
    except InvalidSignature:
        pass
    return False


def _timestamps(response: ocsp.OCSPResponse) -> Sequence[SignedCertificateTimestamp]:
    from cryptography import x509

    try:
        extensions = response.single_extensions
        return list(extensions.get_extension_for_class(x509.SignedCertificateTimestamps).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()  # none, or for several certificates; whether that will do others say


def _shown(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
