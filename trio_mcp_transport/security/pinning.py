"""Public key pins: which keys a peer may have, whoever signed its certificate.

Called by `tls_verification` while a handshake goes on, with the chain that was verified. Pure
decisions on certificates; whoever calls turns an outcome into an alert or an event. Fails
closed: without a certificate nothing matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import msgspec

from ..tls_pins import format_pin, parse_pin
from ..tls_settings import PinMode, PinScope
from .spki import spki_sha256

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["PinOutcome", "PinPolicy"]


class PinOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the pins say of one peer.

    Attributes:
        accepted: Whether the connection may go on: a pin matched, or they only report.
        matched: The pin that matched, as ``sha256/BASE64``, or None.
        presented: The pins of the certificates that were looked at, the leaf's first.
        reason: Why none matched, for an error or an event; empty if one did.
    """

    accepted: bool
    matched: str | None = None
    presented: tuple[str, ...] = ()
    reason: str = ""


class PinPolicy:
    """The public keys that a peer may have.

    Args:
        digests: SHA-256 of each key that will do, as `parse_pin` gives them. At least one.
        mode: ``report`` accepts what does not match, and says so in the outcome.
        scope: ``leaf`` wants the peer's own key to be pinned; with ``chain`` the key of any
            certificate in the verified chain will do, such as an issuer's.

    Raises:
        ValueError: No digest is given; such a policy would refuse everybody.
    """

    def __init__(
        self, digests: Sequence[bytes], *, mode: PinMode = "enforce", scope: PinScope = "leaf"
    ) -> None:
        if not digests:
            raise ValueError("a pin policy needs at least one pin")
        self.digests = frozenset(digests)
        self.mode = mode
        self.scope = scope

    @classmethod
    def parse(
        cls, pins: Sequence[str], *, mode: PinMode = "enforce", scope: PinScope = "leaf"
    ) -> Self:
        """A policy of pins in any of the text forms of `parse_pin`.

        Raises:
            ConfigurationError: A pin is malformed.
            ValueError: There is none.
        """
        return cls([parse_pin(pin) for pin in pins], mode=mode, scope=scope)

    def check(self, chain: Sequence[x509.Certificate]) -> PinOutcome:
        """Judge a peer.

        Args:
            chain: Its certificates, its own first. It must be the chain that was verified:
                what the peer sent besides is its own choice and proves nothing. Empty if
                the peer has none, and then no pin matches.
        """
        found = [spki_sha256(certificate) for certificate in chain]
        in_scope = found if self.scope == "chain" else found[:1]
        presented = tuple(map(format_pin, in_scope))
        for digest, shown in zip(in_scope, presented, strict=True):
            if digest in self.digests:
                return PinOutcome(accepted=True, matched=shown, presented=presented)
        return PinOutcome(
            accepted=self.mode == "report", presented=presented, reason=self._reason(found)
        )

    def _reason(self, found: Sequence[bytes]) -> str:
        count = len(self.digests)
        pins = f"the {count} pins" if count > 1 else "the pin"
        if not found:
            return f"the peer has no certificate that {pins} could match"
        if self.scope == "chain":
            return f"no public key of its chain matches {pins}; its own is {format_pin(found[0])}"
        reason = f"its public key {format_pin(found[0])} does not match {pins}"
        if self.digests.intersection(found[1:]):
            reason += " (that of an issuer does, which counts with the scope 'chain')"
        return reason
