"""OCSP staples: what a server's certificate authority says of its certificate just now.

Called by `tls_contexts` in a client's handshake, when the server's staple is there or is
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

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509.certificate_transparency import SignedCertificateTimestamp

__all__ = ["OcspMode", "OcspStatus", "StapleOutcome", "StaplePolicy"]

OcspMode = Literal["off", "if-present", "require"]
OcspStatus = Literal["off", "good", "missing", "revoked", "unknown", "outdated", "invalid"]


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
        timestamps: The signed certificate timestamps in a response that was found to be
            genuine and of this time, for `TransparencyPolicy.check`. Looked for only in
            responses for one certificate.
    """

    accepted: bool
    status: OcspStatus
    reason: str = ""
    this_update: float | None = None
    next_update: float | None = None
    timestamps: Sequence[SignedCertificateTimestamp] = ()


class StaplePolicy:
    """How much a client relies on staples.

    Args:
        mode: ``off`` looks at nothing. ``if-present`` wants a staple that is there to be
            good, and one to be there if the certificate says so ("must staple").
            ``require`` wants one always.
        skew: By how many seconds the clocks of responder and client may differ.
    """

    def __init__(self, mode: OcspMode = "if-present", *, skew: float = 300.0) -> None:
        self.mode = mode
        self.skew = skew

    def check(
        self, staple: bytes, leaf: x509.Certificate, issuer: x509.Certificate | None, now: float
    ) -> StapleOutcome:
        """Judge a server's staple.

        Args:
            staple: The DER of an OCSPResponse; empty if the server sent none.
            leaf: The server's certificate.
            issuer: The next certificate of the verified chain. None if there is no chain,
                as after a resumption; a staple then cannot be verified and is refused.
            now: Epoch seconds.
        """
        raise NotImplementedError
