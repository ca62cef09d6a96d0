"""The two sides of TLS: what makes a session for each connection.

`TlsClient` and `TlsServer` are made once (for a pool, for a listener) from `TlsSettings`, and
hold what outlives connections: certificates and trust as read from files, sessions that can
be resumed, and when to look at the files again.

`begin` looks at the files when `reload_interval` has passed, and uses what has changed for
the new connection and those after it. There is no task: a server that nobody connects to
needs no new certificate. What cannot be used is reported, and what was read before stays.

Reads files synchronously: a few milliseconds, and some 30 for the system's authorities. A key
that is encrypted takes as long as whoever encrypted it wanted guessing to take.
"""

from __future__ import annotations

import importlib.util
import time
from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ..abc import ChannelEvent, EventHandler
from ..errors import ConfigurationError, FeatureUnavailable
from ..limits import MAX_TLS_SESSIONS
from ..reporting import report
from ..sansio.tls import TlsMachine
from ..tls_facts import CertificateFacts
from ..tls_settings import TlsSettings, TlsSide
from .ocsp import StaplePolicy
from .pinning import PinPolicy
from .staples import StapleFiles, StapleSource
from .tls_certificates import load_identities, read_file, watched_paths
from .tls_rotation import ExpiryWatch, FileWatch
from .tls_session import ClientSession, KeptSession, ServerSession, TlsSession
from .tls_verification import Policy, Verification, is_ip_address
from .transparency import TransparencyPolicy

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["TlsClient", "TlsServer"]

#: Sessions kept of one server: it gives one or two to each connection, and each is used once
#: (RFC 8446, appendix C.4).
_SESSIONS_PER_SERVER: Final = 4
_DEFAULT: Final = TlsSettings()
_MODULES: Final = ("OpenSSL", "service_identity")


class _ClientState(NamedTuple):
    """What a client has read."""

    context: SSL.Context
    policy: Policy
    own: list[CertificateFacts]  # one or none


class _ServerState(NamedTuple):
    """What a server has read."""

    context: SSL.Context
    policy: Policy
    own: dict[SSL.Context, CertificateFacts]  # of each context: SNI may choose another


class _Side:
    """What both sides do alike.

    Attributes:
        settings: As given.
    """

    _side: TlsSide

    def __init__(
        self, settings: TlsSettings, on_event: EventHandler | None, clock: Callable[[], float]
    ) -> None:
        settings.check_side(self._side)
        for module in _MODULES:
            if importlib.util.find_spec(module) is None:
                raise FeatureUnavailable(
                    "TLS needs the extra tls: pip install 'trio-mcp-transport[tls]'"
                )
        self.settings = settings
        self._on_event = on_event
        self._clock = clock
        # Before they are read: what changes meanwhile is another version.
        self._files = FileWatch(watched_paths(settings), settings.reload_interval, clock())
        self._expiry = ExpiryWatch()
        self._failure: str | None = None  # why the last look at the files was in vain
        self._read()

    def reload(self) -> None:
        """Read all files anew, for the connections that begin from now on.

        It happens by itself every `TlsSettings.reload_interval` seconds, if one has changed.

        Raises:
            ConfigurationError: Something cannot be used; all stays as it was.
        """
        self._files.look()
        try:
            self._read()
        except ConfigurationError as error:
            self._files.forget()
            self._failure = str(error)
            raise
        self._failure = None
        self._expiry.reset()

    def _refresh(self) -> None:
        now = self._clock()
        if self._files.has_changed(now):
            known = self._failure
            try:
                _Side.reload(self)
            except ConfigurationError as error:
                if str(error) != known:  # told once, though each look tries them again
                    message = f"changed certificate files are not used: {error}"
                    event = ChannelEvent(name="reload.failed", message=message, error=error)
                    report(self._on_event, event)
        for certificate in self._expiry.find(self._own_certificates(), now):
            days = certificate.expires_in(now) / 86_400
            when = f"expires in {days:.1f} days" if days > 0 else f"expired {-days:.1f} days ago"
            message = f"the own certificate of {_whose(certificate)} {when}"
            report(self._on_event, ChannelEvent(name="certificate.expiring", message=message))

    def _read(self) -> None:
        try:
            self._load()
        except (ConfigurationError, FeatureUnavailable):
            raise
        except Exception as error:
            # Files can be odd in more ways than anybody thought of, and whoever reloads has
            # something that works.
            kind = type(error).__name__
            raise ConfigurationError(f"the certificate files cannot be used: {kind}") from error

    def _policy(self) -> Policy:
        settings = self.settings
        is_server = self._side == "server"
        pins = transparency = staples = None
        if settings.pins:
            pins = PinPolicy.parse(settings.pins, mode=settings.pin_mode, scope=settings.pin_scope)
        if settings.ocsp != "off" and not is_server:
            staples = StaplePolicy(settings.ocsp, skew=settings.ocsp_skew)
        if settings.ct != "off" and settings.ct_log_file is not None:
            label, log_list = read_file("ct_log_file", settings.ct_log_file)
            try:
                transparency = TransparencyPolicy.load(
                    log_list,
                    mode=settings.ct,
                    min_logs=settings.ct_min_logs,
                    min_operators=settings.ct_min_operators,
                )
            except ConfigurationError as error:
                raise ConfigurationError(f"{label}: {error}") from error
        return Policy(
            is_server=is_server,
            verify_hostname=settings.verify_hostname,
            trusts_system=not settings.names_authorities,
            pins=pins,
            staples=staples,
            transparency=transparency,
            on_event=self._on_event,
            clock=self._clock,
        )

    @abstractmethod
    def _load(self) -> None:
        """Read everything; only if all of it is right, use it."""

    @abstractmethod
    def _own_certificates(self) -> list[CertificateFacts]:
        """All that this side can show."""


class TlsClient(_Side):
    """The side that connects: whom it trusts, who it is, and sessions to resume.

    Whoever connects often makes one and keeps it: trust is read once, and later connections
    to the same server resume an earlier session, which saves the server's certificate and
    its verification. A session is resumed only by the client that it was made with, so all
    that its settings demand was found true when it began. Where staples are required
    (``ocsp="require"``), nothing is resumed: a resumed connection has none.

    Args:
        settings: The options.
        on_event: Gets what nobody else would see: ``certificate.expiring``,
            ``reload.failed``, ``keylog.failed``, ``pin.mismatched``, ``transparency.failed``.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: A file cannot be used, or an option is for the other side.
        FeatureUnavailable: The extra is not installed.
    """

    _side = "client"
    _state: _ClientState

    def __init__(
        self,
        settings: TlsSettings = _DEFAULT,
        *,
        on_event: EventHandler | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sessions: OrderedDict[tuple[str, int], deque[KeptSession]] = OrderedDict()
        super().__init__(settings, on_event, clock)

    def begin(self, host: str, port: int = 0) -> TlsSession:
        """The TLS of a new connection.

        Args:
            host: Whom it is to: the name or address that the certificate must be for,
                unless `TlsSettings.server_name` says another.
            port: Where it is to; sessions are kept by host and port.

        Raises:
            ConfigurationError: The name is none that a certificate could be for.
        """
        from . import tls_engine

        self._refresh()
        state = self._state
        name = self.settings.server_name or host
        # A zone (fe80::1%eth0) is a matter of this machine, and the final dot of DNS.
        name = name.partition("%")[0].strip("[]") if ":" in name else name.removesuffix(".")
        server_name: bytes | None = None
        if not is_ip_address(name):  # RFC 6066, section 3: addresses are not asked for
            server_name = tls_engine.encode_name(name)
        kept = self._take((host, port))
        verification = Verification(state.policy, name)
        connection = tls_engine.client_connection(
            state.context,
            verification,
            server_name,
            None if kept is None else kept.session,
            staple=state.policy.staples is not None,
        )
        keeps = self.settings.session_resumption and self.settings.ocsp != "require"
        return ClientSession(
            TlsMachine(connection, is_server=False),
            verification,
            handshake_timeout=self.settings.tls_handshake_timeout,
            own=lambda _: state.own[0] if state.own else None,
            server_name=None if server_name is None else server_name.decode(),
            kept=kept,
            keep=partial(self._keep, (host, port), state) if keeps else None,
            clock=self._clock,
        )

    def _load(self) -> None:
        from . import tls_engine

        identities = load_identities(self.settings)
        policy = self._policy()
        context = tls_engine.client_context(self.settings, identities, policy)
        self._state = _ClientState(context, policy, [each.facts for each in identities])
        # They were found good by what was read before, and are of another context.
        self._sessions.clear()

    def _own_certificates(self) -> list[CertificateFacts]:
        return self._state.own

    def _take(self, key: tuple[str, int]) -> KeptSession | None:
        found = self._sessions.get(key)
        if found is None:
            return None
        kept = found.pop()
        if not found:
            del self._sessions[key]
        return kept

    def _keep(self, key: tuple[str, int], state: _ClientState, kept: KeptSession) -> None:
        if state is not self._state:
            return  # reloaded since
        if key not in self._sessions:
            self._sessions[key] = deque(maxlen=_SESSIONS_PER_SERVER)
        self._sessions[key].append(kept)
        self._sessions.move_to_end(key)
        if len(self._sessions) > MAX_TLS_SESSIONS:
            self._sessions.popitem(last=False)


class TlsServer(_Side):
    """The side that listens: its certificates, and whose client certificates it accepts.

    With several certificates, the name that the client asks for chooses (SNI); a wildcard
    stands for one label. Connections that are there keep the certificate they began with.

    A server that asks for client certificates looks at them in every handshake: it resumes
    nothing.

    Args:
        settings: The options.
        staple: Gives what is stapled; None for `TlsSettings.ocsp_staple_file`, if there is
            one.
        on_event: Gets what nobody else would see: ``certificate.expiring``,
            ``reload.failed``, ``keylog.failed``, ``pin.mismatched``, ``staple.failed``.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: A file cannot be used, or an option is for the other side.
        FeatureUnavailable: The extra is not installed.
    """

    _side = "server"
    _state: _ServerState

    def __init__(
        self,
        settings: TlsSettings,
        *,
        staple: StapleSource | None = None,
        on_event: EventHandler | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if staple is not None and settings.ocsp_staple_file is not None:
            raise ConfigurationError("ocsp_staple_file and staple= exclude each other")
        if staple is None and settings.ocsp_staple_file is not None:
            staple = StapleFiles(
                settings.ocsp_staple_file,
                check_interval=settings.reload_interval,
                on_event=on_event,
            )
        self._staple = staple
        super().__init__(settings, on_event, clock)

    def reload(self) -> None:
        """As for clients; the files of staples are read anew at the next handshake, too.

        Raises:
            ConfigurationError: Something cannot be used; all stays as it was.
        """
        super().reload()
        if self._staple is not None:
            self._staple.reload()

    @property
    def certificates(self) -> tuple[CertificateFacts, ...]:
        """What it shows to those who connect now: the main one, then those for SNI."""
        return tuple(self._state.own.values())

    def begin(self) -> TlsSession:
        """The TLS of a connection that was accepted."""
        from . import tls_engine

        self._refresh()
        state = self._state
        verification = Verification(state.policy, None)
        connection = tls_engine.server_connection(state.context, verification)
        return ServerSession(
            TlsMachine(connection, is_server=True),
            verification,
            handshake_timeout=self.settings.tls_handshake_timeout,
            own=lambda connection: state.own.get(connection.get_context()),
            needs_client=self.settings.client_auth == "required",
        )

    def _load(self) -> None:
        from . import tls_engine

        identities = load_identities(self.settings)
        policy = self._policy()
        contexts = tls_engine.server_contexts(self.settings, identities, policy, self._staple)
        facts = [each.facts for each in identities]
        self._state = _ServerState(contexts[0], policy, dict(zip(contexts, facts, strict=True)))

    def _own_certificates(self) -> list[CertificateFacts]:
        return list(self._state.own.values())


def _whose(certificate: CertificateFacts) -> str:
    return ", ".join(certificate.names[:3]) or certificate.subject
