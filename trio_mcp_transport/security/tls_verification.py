"""Is the certificate good? What one handshake asks, and what it was answered.

OpenSSL calls the two functions here from within a handshake: `on_certificate` for each
certificate of the chain that it has built and checked (signatures, validity, purpose,
trust), the root's first and the peer's own last; then, on clients that asked for one,
`on_staple` with the OCSP response. So what is refused is refused within the handshake, and
the peer gets an alert. Nothing is ever raised into OpenSSL: a failure is kept as `error`,
and whatever goes wrong in a check is a refusal.

Without `on_certificate` in a handshake, OpenSSL resumed an earlier connection of the same
context, in which all of this was found to be good.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..abc import ChannelEvent, EventHandler
from ..errors import CertificateCheck, CertificateError
from ..reporting import report
from ..tls_facts import CertificateFacts, OcspStatus, PinStatus, TransparencyStatus
from .tls_certificates import certificate_facts, describe_names, describe_subject, printable

if TYPE_CHECKING:
    from cryptography import x509

    from .ocsp import StapleOutcome, StaplePolicy
    from .pinning import PinPolicy
    from .transparency import TransparencyPolicy

__all__ = ["Findings", "Policy", "Verification", "is_ip_address"]

# OpenSSL's numbers for what can be wrong (x509_vfy.h), where there is a word for it.
_CHECKS: dict[int, CertificateCheck] = {
    2: "untrusted",
    9: "not-yet-valid",
    10: "expired",
    18: "self-signed",
    19: "self-signed",
    20: "untrusted",
    21: "untrusted",
    26: "purpose",
    27: "untrusted",
    28: "untrusted",
}
_REASONS = {
    7: "its signature is wrong",
    22: "the chain is too long",
    24: "its issuer is no authority",
    25: "there are more authorities in its chain than one of them allows",
    34: "it has a critical extension that is not understood",
    47: "an authority in its chain may not sign for this name",
    66: "its key is too small",
    67: "the key of an authority in its chain is too small",
    68: "it was signed with a digest that is too weak",
    79: "its issuer is no authority",
}


class Policy(NamedTuple):
    """What the certificates of peers are measured by; the same for every connection.

    Attributes:
        is_server: Whether the peers are clients.
        verify_hostname: Whether the certificate must be for the name.
        trusts_system: Whether the system's authorities are trusted, as none were named.
        pins: The keys that the peer may have, or None for any.
        staples: What is demanded of staples; None where none are asked for.
        transparency: In which logs the certificate must be; None where that is no matter.
        on_event: Gets what is only reported.
        clock: Seconds since 1970.
    """

    is_server: bool
    verify_hostname: bool
    trusts_system: bool
    pins: PinPolicy | None
    staples: StaplePolicy | None
    transparency: TransparencyPolicy | None
    on_event: EventHandler | None
    clock: Callable[[], float]


class Findings(NamedTuple):
    """What was found out about a peer; kept with its session, if that may be resumed."""

    certificate: CertificateFacts
    ocsp: OcspStatus = "unchecked"
    pins: PinStatus = "unchecked"
    transparency: TransparencyStatus = "unchecked"
    sct_count: int | None = None


class Verification:
    """What is asked in one handshake.

    Args:
        policy: What to ask.
        name: For a client, the host that the certificate must be for.

    Attributes:
        name: See above.
        error: The first thing that was wrong, or None.
        was_asked: Whether the peer has shown a certificate in this handshake.
    """

    __slots__ = ("_chain", "_findings", "_policy", "_staple_seen", "error", "name", "was_asked")

    def __init__(self, policy: Policy, name: str | None) -> None:
        self._policy = policy
        self.name = name
        #: By depth: 0 is the peer's own.
        self._chain: dict[int, x509.Certificate] = {}
        self._findings: Findings | None = None
        self._staple_seen = False
        self.error: CertificateError | None = None
        self.was_asked = False

    def on_certificate(
        self, read: Callable[[], x509.Certificate], code: int, depth: int, is_good: bool
    ) -> bool:
        """Judge one certificate of the chain; called from within OpenSSL.

        Args:
            read: Gives the certificate, and raises ValueError if nobody can make sense of it.
            code: OpenSSL's number of what is wrong with it.
            depth: 0 for the peer's own, 1 for that of who signed it...
            is_good: Whether OpenSSL found nothing wrong.
        """
        self.was_asked = True
        if self.error is not None:
            return False
        try:
            certificate = read()
            self._chain[depth] = certificate
            if not is_good:
                self._refuse_for(code, depth, certificate)
            if depth == 0:
                self._judge_peer(certificate)
        except CertificateError as error:
            self.error = error
        except ValueError as error:
            self.error = self._refusal(
                "invalid", f"it is malformed ({printable(str(error))})", depth
            )
        except Exception as error:  # never into OpenSSL; `explain` raises it, chained
            reason = f"checking it failed: {printable(repr(error))}"
            self.error = self._refusal("invalid", reason, depth)
            self.error.__cause__ = error
        return self.error is None

    def on_staple(self, staple: bytes) -> bool:
        """Judge the server's OCSP response, empty if there is none; called from OpenSSL."""
        if self.error is not None:
            return False
        if not self.was_asked:
            return True  # resumed: servers staple nothing then
        try:
            self._judge_staple(staple)
        except CertificateError as error:
            self.error = error
        except Exception as error:  # as above
            reason = f"checking the staple failed: {printable(repr(error))}"
            self.error = self._refusal("ocsp", reason)
            self.error.__cause__ = error
        return self.error is None

    def conclude(self) -> Findings | None:
        """What was found, once the handshake is complete; None: there is no certificate.

        Raises:
            CertificateError: Something was wrong, or was not asked that must be.
        """
        if self.error is not None:
            raise self.error
        must_have_seen = self._findings is not None and self._policy.staples is not None
        if must_have_seen and not self._staple_seen:
            raise self._refusal("ocsp", "its staple was not looked at")
        self._chain.clear()  # the facts are enough for as long as the connection lives
        return self._findings

    def chain(self) -> list[x509.Certificate]:
        """The verified chain, the peer's own certificate first."""
        return [self._chain[depth] for depth in sorted(self._chain)]

    # -- Judging ---------------------------------------------------------------------

    def _judge_peer(self, certificate: x509.Certificate) -> None:
        policy = self._policy
        facts = certificate_facts(certificate)
        if not policy.is_server and policy.verify_hostname:
            self._check_name(certificate, facts)
        self._findings = Findings(certificate=facts)
        if policy.pins is not None:
            outcome = policy.pins.check(self.chain())
            if not outcome.accepted:
                raise self._refusal("pin", outcome.reason)
            if outcome.reason:
                self._report("pin.mismatched", outcome.reason)
            self._findings = self._findings._replace(
                pins="matched" if outcome.matched else "mismatched"
            )
        if policy.staples is None:
            self._judge_transparency(None)

    def _check_name(self, certificate: x509.Certificate, facts: CertificateFacts) -> None:
        from service_identity import CertificateError as BadNames
        from service_identity import VerificationError
        from service_identity.cryptography import (
            verify_certificate_hostname,
            verify_certificate_ip_address,
        )

        name = self.name or ""
        try:
            if is_ip_address(name):
                verify_certificate_ip_address(certificate, name)
            else:
                verify_certificate_hostname(certificate, name)
        except (VerificationError, BadNames):
            reason = f"it is for {describe_names(facts)}"
            if is_ip_address(name) and name in facts.dns_names:
                reason += f"; {name} stands there as a name, and not as an address"
            raise self._refusal("host-name", reason) from None

    def _judge_staple(self, staple: bytes) -> None:
        policy, findings = self._policy, self._findings
        self._staple_seen = True
        if policy.staples is None or findings is None:
            raise self._refusal("ocsp", "there is nothing that a staple could be for")
        chain = self.chain()
        issuer = chain[1] if len(chain) > 1 else None
        outcome = policy.staples.check(staple, chain[0], issuer, policy.clock())
        if not outcome.accepted:
            check: CertificateCheck = "revoked" if outcome.status == "revoked" else "ocsp"
            raise self._refusal(check, outcome.reason)
        status: OcspStatus = "good" if outcome.status == "good" else "missing"
        self._findings = findings._replace(ocsp=status)
        self._judge_transparency(outcome)

    def _judge_transparency(self, staple: StapleOutcome | None) -> None:
        policy, findings = self._policy, self._findings
        if policy.transparency is None or findings is None:
            return
        chain = self.chain()
        issuer = chain[1] if len(chain) > 1 else None
        stapled = () if staple is None else staple.timestamps
        outcome = policy.transparency.check(chain[0], issuer, stapled, policy.clock())
        if not outcome.accepted:
            raise self._refusal("transparency", outcome.reason)
        if outcome.reason:
            self._report("transparency.failed", outcome.reason)
        self._findings = findings._replace(
            transparency="insufficient" if outcome.reason else "satisfied",
            sct_count=len(outcome.logs),
        )

    # -- Words -----------------------------------------------------------------------

    def _refuse_for(self, code: int, depth: int, certificate: x509.Certificate) -> None:
        """Raise what OpenSSL's number means."""
        check = _CHECKS.get(code, "invalid")
        if check == "expired":
            reason = f"it expired on {_day(certificate.not_valid_after_utc)}"
        elif check == "not-yet-valid":
            reason = f"it is not valid before {_day(certificate.not_valid_before_utc)}"
        elif check == "self-signed":
            reason = "it is self-signed, and not among those that are trusted"
            if code == 19:
                root = printable(certificate.subject.rfc4514_string())
                reason = f"its root '{root}' is not among those that are trusted"
        elif check == "untrusted":
            issuer = printable(certificate.issuer.rfc4514_string())
            reason = f"its issuer '{issuer}' is not trusted, or an intermediate is missing"
        elif check == "purpose":
            reason = f"it is not for {'clients' if self._policy.is_server else 'servers'}"
        else:
            reason = _REASONS.get(code, f"OpenSSL refuses it (X509 error {code})")
        if check == "self-signed" and code == 19:
            check = "untrusted"
        if check in {"self-signed", "untrusted"} and self._policy.trusts_system:
            reason += "; without ca_file only the system's authorities are trusted"
        subject = describe_subject(certificate) if depth else None
        raise self._refusal(check, reason, depth, of=subject)

    def _refusal(
        self, check: CertificateCheck, reason: str, depth: int = 0, of: str | None = None
    ) -> CertificateError:
        name = self.name
        if name is None and 0 in self._chain:
            name = describe_subject(self._chain[0])
        whose = f"of {name}" if name is not None else "of the client"
        if depth and of:
            whose = f"'{of}' in the chain {whose}"
        return CertificateError(
            f"the certificate {whose} was refused ({check}): {reason}",
            check=check,
            name=name,
            depth=depth,
        )

    def _report(self, name: str, reason: str) -> None:
        whose = self.name if self.name is not None else "the client"
        report(
            self._policy.on_event,
            ChannelEvent(name=name, message=f"the certificate of {whose}: {reason}"),
        )


def is_ip_address(host: str) -> bool:
    """Whether it is an address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _day(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
