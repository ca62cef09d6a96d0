"""One connection's TLS, from the first byte of its handshake to what is known in the end.

Made by `tls_contexts`, driven by `transports.tls_stream`: the machine does the talking, and
the session knows whether the peer is one to talk to. What OpenSSL verifies is judged in
`tls_verification`, within the handshake; `finish` is the last word, before any data passes,
and closed where something was not looked at that must be.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ..errors import CertificateError, TlsError, TlsHandshakeFailed
from ..sansio.tls import TlsMachine
from ..tls_facts import CertificateFacts, TlsFacts
from .tls_certificates import printable
from .tls_verification import Findings, Verification

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["ClientSession", "KeptSession", "ServerSession", "TlsSession"]

#: Alerts by which a peer refuses this side's certificate (RFC 8446, section 6.2).
_REFUSALS: Final = frozenset({
    "access_denied",
    "bad_certificate",
    "bad_certificate_status_response",
    "certificate_expired",
    "certificate_revoked",
    "certificate_unknown",
    "unknown_ca",
    "unsupported_certificate",
})
#: OpenSSL's word for a client that showed no certificate though it had to.
_SILENT_CLIENT: Final = "did not return a certificate"


class KeptSession(NamedTuple):
    """A session of an earlier connection, and what was found out about its server."""

    session: SSL.Session
    findings: Findings


class TlsSession:
    """One connection's TLS. `TlsClient.begin` and `TlsServer.begin` make it.

    Attributes:
        machine: What turns plaintext into ciphertext and back.
        handshake_timeout: Seconds in which the handshake must be complete.
    """

    __slots__ = ("_own", "_verification", "handshake_timeout", "machine")

    def __init__(
        self,
        machine: TlsMachine,
        verification: Verification,
        *,
        handshake_timeout: float,
        own: Callable[[SSL.Connection], CertificateFacts | None],
    ) -> None:
        self.machine = machine
        self.handshake_timeout = handshake_timeout
        self._verification = verification
        self._own = own

    @abstractmethod
    def finish(self) -> TlsFacts:
        """What is known now that the handshake is complete; call it once, before any data.

        Raises:
            TlsError: The peer is not one to talk to, though OpenSSL has let it pass.
        """

    @abstractmethod
    def remember(self) -> None:
        """Keep what is needed to resume later; call it when the first data has come."""

    def explain(self, error: TlsHandshakeFailed) -> TlsError:
        """Why the handshake failed, if more is known than what OpenSSL said.

        Returns:
            A `CertificateError` if a certificate was refused, by this side or by the peer;
            else the error itself.
        """
        if self._verification.error is not None:
            return self._verification.error
        if error.alert == "certificate_required":
            return CertificateError(str(error), check="client-certificate", name=None)
        if error.alert in _REFUSALS:
            own = self._own(self.machine.connection)
            if own is not None:
                name = (own.subject, *own.names, None)[0 if own.subject else 1]
                return CertificateError(str(error), check="refused-by-peer", name=name)
        if error.alert is None and self.machine.is_server and _SILENT_CLIENT in str(error):
            return CertificateError(
                "the client showed no certificate, and one is required",
                check="client-certificate",
                name=None,
            )
        return error

    def _facts(
        self, findings: Findings | None, server_name: str | None, resumed: bool | None
    ) -> TlsFacts:
        connection = self.machine.connection
        # What the judgement needed is not needed for as long as the connection lives.
        connection.set_app_data(None)
        alpn = connection.get_alpn_proto_negotiated().decode("ascii", "backslashreplace")
        facts = TlsFacts(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
            alpn=alpn or None,
            server_name=server_name,
            own_certificate=self._own(connection),
            resumed=resumed,
        )
        if findings is None:
            return facts
        return msgspec.structs.replace(
            facts,
            peer_certificate=findings.certificate,
            ocsp=findings.ocsp,
            pins=findings.pins,
            transparency=findings.transparency,
            sct_count=findings.sct_count,
        )


class ClientSession(TlsSession):
    """A session of the side that connected.

    Args:
        machine: The machine.
        verification: Judges the server's certificate, or has nothing to do where an earlier
            session is resumed.
        handshake_timeout: Seconds in which the handshake must be complete.
        own: Tells the own certificate.
        server_name: The name that was asked for (SNI), or None.
        kept: What the server was offered to resume, or None.
        keep: Takes what can be resumed later; None where nothing shall be.
        clock: Seconds since 1970.
    """

    __slots__ = ("_clock", "_findings", "_keep", "_kept", "_server_name")

    def __init__(
        self,
        machine: TlsMachine,
        verification: Verification,
        *,
        handshake_timeout: float,
        own: Callable[[SSL.Connection], CertificateFacts | None],
        server_name: str | None,
        kept: KeptSession | None,
        keep: Callable[[KeptSession], None] | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(machine, verification, handshake_timeout=handshake_timeout, own=own)
        self._server_name = server_name
        self._kept = kept
        self._keep = keep
        self._clock = clock
        self._findings: Findings | None = None

    def finish(self) -> TlsFacts:
        """See `TlsSession.finish`."""
        findings = self._verification.conclude()
        resumed = not self._verification.was_asked
        if resumed:
            findings = self._resumed()
        elif findings is None:
            raise TlsHandshakeFailed("the server showed no certificate")
        self._kept = None
        self._findings = findings
        return self._facts(findings, self._server_name, resumed)

    def remember(self) -> None:
        """Keep the newest session: with TLS 1.3 it comes before the first data."""
        keep, self._keep = self._keep, None
        if keep is None or self._findings is None:
            return
        session = self.machine.connection.get_session()
        if session is not None:
            keep(KeptSession(session, self._findings))

    def _resumed(self) -> Findings:
        """What was found when the resumed session began; it must still be true."""
        if self._kept is None:
            raise TlsHandshakeFailed("the server resumed a session that it was not offered")
        findings = self._kept.findings
        certificate = findings.certificate
        if certificate.expires_in(self._clock()) < 0:
            name = self._verification.name
            raise CertificateError(
                f"the certificate of {name} was refused (expired): it has expired since the"
                " session that was resumed began",
                check="expired",
                name=name,
                depth=0,
            )
        return findings._replace(ocsp="unchecked")


class ServerSession(TlsSession):
    """A session of the side that accepted.

    Args:
        machine: The machine.
        verification: Judges the client's certificate, if there is one.
        handshake_timeout: Seconds in which the handshake must be complete.
        own: Tells the own certificate.
        needs_client: Whether the client has to have a certificate.
    """

    __slots__ = ("_needs_client",)

    def __init__(
        self,
        machine: TlsMachine,
        verification: Verification,
        *,
        handshake_timeout: float,
        own: Callable[[SSL.Connection], CertificateFacts | None],
        needs_client: bool,
    ) -> None:
        super().__init__(machine, verification, handshake_timeout=handshake_timeout, own=own)
        self._needs_client = needs_client

    def finish(self) -> TlsFacts:
        """See `TlsSession.finish`."""
        findings = self._verification.conclude()
        if findings is None and self._needs_client:
            raise CertificateError(
                "the client showed no certificate, and one is required",
                check="client-certificate",
                name=None,
            )
        asked = self.machine.connection.get_servername()
        name = None if asked is None else printable(asked.decode("ascii", "backslashreplace"))
        # OpenSSL does not tell a server's program whether it resumed.
        return self._facts(findings, name, None)

    def remember(self) -> None:
        """Nothing: a server's tickets hold all that there is, and the client keeps them."""
