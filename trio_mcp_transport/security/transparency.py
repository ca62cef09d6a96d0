"""Certificate Transparency: was this certificate shown to the public logs?

Called by `tls_contexts` in a client's handshake. Pure decisions on certificates, signed
certificate timestamps (SCTs; RFC 6962), a list of logs that the user gives (the public JSON
format, version 3) and a time. Fetches nothing.

SCTs come inside of the certificate or of a stapled OCSP response. (Those in a TLS extension
of their own cannot be had through pyOpenSSL and do not count.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

import msgspec

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509.certificate_transparency import SignedCertificateTimestamp

__all__ = ["CtMode", "TransparencyOutcome", "TransparencyPolicy"]

CtMode = Literal["off", "report", "require"]


class TransparencyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the logs' signatures say of a certificate.

    Attributes:
        accepted: Whether the connection may go on: there are enough, or it is only reported.
        logs: The descriptions of the distinct logs whose SCTs count.
        operators: The distinct operators of those.
        ignored: Why each of the other SCTs does not count.
        reason: Why there are not enough, for an error or an event; empty if there are.
    """

    accepted: bool
    logs: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    reason: str = ""


class TransparencyPolicy:
    """How many logs of how many operators must know a certificate. See `load`."""

    @classmethod
    def load(
        cls,
        log_list: bytes,
        *,
        mode: CtMode = "require",
        min_logs: int = 2,
        min_operators: int = 2,
    ) -> Self:
        """A policy with the logs of a log list.

        Args:
            log_list: The JSON text, such as https://www.gstatic.com/ct/log_list/v3/log_list.json
            mode: ``report`` accepts what has too few, and says so in the outcome.
            min_logs: How many distinct logs must have signed.
            min_operators: How many distinct operators those must have.

        Raises:
            ConfigurationError: It is no such list; the text says where it is wrong.
        """
        raise NotImplementedError

    def check(
        self,
        leaf: x509.Certificate,
        issuer: x509.Certificate | None,
        stapled: Sequence[SignedCertificateTimestamp],
        now: float,
    ) -> TransparencyOutcome:
        """Judge a server's certificate.

        Args:
            leaf: The server's certificate.
            issuer: The next certificate of the verified chain; embedded SCTs are bound to
                its key. None if there is no chain: then none of them counts.
            stapled: `StapleOutcome.timestamps`.
            now: Epoch seconds.
        """
        raise NotImplementedError
