"""Certificate Transparency: was this certificate shown to the public logs?

Called by `tls_verification` in a client's handshake. Pure decisions on certificates, signed
certificate timestamps (SCTs; RFC 6962), a list of logs that the user gives (the public JSON
format, version 3) and a time. Fetches nothing.

SCTs come inside of the certificate or of a stapled OCSP response. (Those in a TLS extension
of their own cannot be had through pyOpenSSL and do not count.) An SCT counts if its log is
on the list in a state in which its word held when it was given, if the log takes
certificates that end when this one does, and if its signature is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

import msgspec

from ..errors import ConfigurationError
from ..tls_settings import TransparencyMode
from .spki import spki_sha256

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from cryptography.x509.certificate_transparency import SignedCertificateTimestamp

__all__ = ["TransparencyOutcome", "TransparencyPolicy"]

#: SCTs that are looked at. Certificates have two or three.
_MAX_TIMESTAMPS = 20
# RFC 6962, section 3.2: the numbers of v1, certificate_timestamp, x509_entry, precert_entry.
_V1_TIMESTAMP = b"\0\0"
_X509_ENTRY = b"\0\0"
_PRECERT_ENTRY = b"\0\1"

# -- the log list: https://www.gstatic.com/ct/log_list/v3/log_list_schema.json ------------

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _State(msgspec.Struct, frozen=True):
    timestamp: _Time


class _Interval(msgspec.Struct, frozen=True):
    start_inclusive: _Time
    end_exclusive: _Time


class _FormerOperator(msgspec.Struct, frozen=True):
    name: str
    end_time: _Time


class _ListedLog(msgspec.Struct, frozen=True):
    log_id: bytes
    key: bytes
    description: str = ""
    state: dict[str, _State] = {}
    temporal_interval: _Interval | None = None
    previous_operators: tuple[_FormerOperator, ...] = ()


class _Operator(msgspec.Struct, frozen=True):
    name: str
    logs: tuple[_ListedLog, ...] = ()
    tiled_logs: tuple[_ListedLog, ...] = ()


class _LogList(msgspec.Struct, frozen=True):
    operators: tuple[_Operator, ...]


class _Log(NamedTuple):
    """A log that may vouch: what the list says of it, with its key ready."""

    facts: _ListedLog
    operator: str
    key: PublicKeyTypes

    @property
    def name(self) -> str:
        return self.facts.description or self.facts.log_id.hex()

    def is_retired(self) -> bool:
        return "retired" in self.facts.state

    def operator_at(self, moment: datetime) -> str:
        """Who ran it then: logs change hands, and what counts is who signed."""
        former = sorted(self.facts.previous_operators, key=lambda operator: operator.end_time)
        return next((one.name for one in former if moment < one.end_time), self.operator)

    def objection(self, signed_at: datetime, leaf: x509.Certificate) -> str:
        """Why its word on this certificate does not count; empty if it does."""
        state = self.facts.state
        if "retired" in state:
            if signed_at >= state["retired"].timestamp:
                return "was retired before it signed"
        elif not {"usable", "qualified", "readonly"}.intersection(state):
            return "is not one that browsers trust"
        interval = self.facts.temporal_interval
        end = leaf.not_valid_after_utc
        if interval and not interval.start_inclusive <= end < interval.end_exclusive:
            return "is not for certificates that end when this one does"
        return ""


# -- the policy --------------------------------------------------------------------------


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
    """How many logs of how many operators must know a certificate. Get one from `load`.

    Args:
        logs: By log id.
        mode: ``report`` accepts what has too few, and says so in the outcome.
        min_logs: How many distinct logs must have signed.
        min_operators: How many distinct operators those must have.
    """

    def __init__(
        self,
        logs: Mapping[bytes, _Log],
        *,
        mode: TransparencyMode,
        min_logs: int,
        min_operators: int,
    ) -> None:
        self._logs = logs
        self.mode = mode
        self.min_logs = min_logs
        self.min_operators = min_operators

    @classmethod
    def load(
        cls,
        log_list: bytes,
        *,
        mode: TransparencyMode = "require",
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
            ConfigurationError: It is no such list, or has too few logs for any certificate
                to be accepted; the text says what is wrong.
        """
        try:
            listed = msgspec.json.decode(log_list, type=_LogList)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigurationError(f"this is no log list of version 3: {error}") from error
        logs = {
            facts.log_id: _Log(facts, operator.name, _load_key(facts))
            for operator in listed.operators
            for facts in (*operator.logs, *operator.tiled_logs)
        }
        operators = {log.operator for log in logs.values()}
        if len(logs) < max(1, min_logs) or len(operators) < min_operators:
            raise ConfigurationError(
                f"no certificate could be accepted: {min_logs} logs of {min_operators} operators "
                f"are asked for, and the log list has {len(logs)} of {len(operators)}"
            )
        return cls(logs, mode=mode, min_logs=min_logs, min_operators=min_operators)

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
        moment = datetime.fromtimestamp(now, UTC)
        counted: dict[bytes, _Log] = {}
        operators: dict[str, None] = {}
        ignored: list[str] = []
        found = [(timestamp, _signed_staple(leaf)) for timestamp in stapled[:_MAX_TIMESTAMPS]]
        embedded = _embedded(leaf)[:_MAX_TIMESTAMPS]
        if embedded and issuer is not None:
            entry = _signed_precertificate(leaf, issuer)
            found += [(timestamp, entry) for timestamp in embedded]
        elif embedded:
            ignored.append("those in the certificate cannot be verified: its issuer is not known")
        for timestamp, entry in found:
            log = self._logs.get(timestamp.log_id)
            if log is None:
                ignored.append("one is of a log that is not on the list")
            elif objection := self._objection(log, timestamp, entry, leaf, moment):
                ignored.append(f"{log.name} {objection}")
            else:
                counted[timestamp.log_id] = log
                operators[log.operator_at(_signed_at(timestamp))] = None
        reason = self._reason(counted, len(operators), ignored)
        return TransparencyOutcome(
            accepted=not reason or self.mode != "require",
            logs=tuple(log.name for log in counted.values()),
            operators=tuple(operators),
            ignored=tuple(ignored),
            reason=reason,
        )

    def _objection(
        self,
        log: _Log,
        timestamp: SignedCertificateTimestamp,
        entry: bytes,
        leaf: x509.Certificate,
        now: datetime,
    ) -> str:
        # RFC 6962, section 5.2: "TLS clients MUST reject SCTs whose timestamp is in the future."
        if _signed_at(timestamp) > now:
            return "signed in the future"
        return log.objection(_signed_at(timestamp), leaf) or (
            "" if _is_genuine(log.key, timestamp, entry) else "did not sign this"
        )

    def _reason(self, counted: Mapping[bytes, _Log], operators: int, ignored: Sequence[str]) -> str:
        if len(counted) < self.min_logs or operators < self.min_operators:
            reason = (
                f"{len(counted)} logs of {operators} operators vouch for it, "
                f"and {self.min_logs} of {self.min_operators} are asked for"
            )
        elif all(log.is_retired() for log in counted.values()):
            reason = "all logs that vouch for it have been retired"
        else:
            return ""
        return f"{reason} ({'; '.join(ignored)})" if ignored else reason


def _load_key(facts: _ListedLog) -> PublicKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    name = facts.description or facts.log_id.hex()
    if hashlib.sha256(facts.key).digest() != facts.log_id:
        raise ConfigurationError(f"log list: the id of {name!r} is not that of its key")
    try:
        return load_der_public_key(facts.key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"log list: the key of {name!r} cannot be read: {error}"
        ) from error


def _embedded(leaf: x509.Certificate) -> Sequence[SignedCertificateTimestamp]:
    from cryptography import x509

    kind = x509.PrecertificateSignedCertificateTimestamps
    try:
        return list(leaf.extensions.get_extension_for_class(kind).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()


def _signed_at(timestamp: SignedCertificateTimestamp) -> datetime:
    try:
        return timestamp.timestamp.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # 64 bits of milliseconds reach far into the future
        return datetime.max.replace(tzinfo=UTC)


def _is_genuine(key: PublicKeyTypes, timestamp: SignedCertificateTimestamp, entry: bytes) -> bool:
    """See that the log signed what RFC 6962, section 3.2, says it signs."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.certificate_transparency import SignatureAlgorithm

    milliseconds = round(_signed_at(timestamp).timestamp() * 1000)
    signed = (
        _V1_TIMESTAMP
        + milliseconds.to_bytes(8)
        + entry
        + len(timestamp.extension_bytes).to_bytes(2)
        + timestamp.extension_bytes
    )
    # Section 2.1.4: "A log MUST use either" ECDSA with P-256 "or RSA", both with SHA-256.
    try:
        if not isinstance(timestamp.signature_hash_algorithm, SHA256):
            return False
        algorithm = timestamp.signature_algorithm
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm is SignatureAlgorithm.ECDSA:
            key.verify(timestamp.signature, signed, ec.ECDSA(SHA256()))
            return True
        if isinstance(key, rsa.RSAPublicKey) and algorithm is SignatureAlgorithm.RSA:
            key.verify(timestamp.signature, signed, padding.PKCS1v15(), SHA256())
            return True
    except (InvalidSignature, ValueError):  # ValueError: numbers of no known algorithm
        pass
    return False


def _signed_staple(leaf: x509.Certificate) -> bytes:
    """The entry that the SCTs of a staple are for: the certificate itself."""
    from cryptography.hazmat.primitives.serialization import Encoding

    encoded = leaf.public_bytes(Encoding.DER)
    return _X509_ENTRY + len(encoded).to_bytes(3) + encoded


def _signed_precertificate(leaf: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """The entry that embedded SCTs are for: the certificate without them, and its issuer."""
    encoded = leaf.tbs_precertificate_bytes
    return _PRECERT_ENTRY + spki_sha256(issuer) + len(encoded).to_bytes(3) + encoded
