"""The one decision before anything of an HTTP request is read: may it come in?

Called by every server (Trio, ASGI, an upgrade to WebSocket) with a request's head, before
its body is read; there is no way past it. Order: Host, then Origin, then authentication
(never for a preflight). All but authentication is `Doorkeeper.judge`, which is pure.

On by default: a server that was given no policy has `AdmissionPolicy()`. Whether a server
is one of this machine alone is not taken from what it was bound to but from the address at
which the connection arrived, so a server on all interfaces is protected on loopback too.
DNS rebinding (a web page's name that resolves to 127.0.0.1) is what Host is checked for:
browsers omit Origin from GET requests to the page's own origin, and after rebinding it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec

from ..errors import ConfigurationError
from ..http_origins import (
    DEFAULT_PORTS,
    Origin,
    normalise_host,
    parse_address,
    parse_authority,
    parse_configured_origin,
    parse_host_pattern,
    parse_network,
    parse_origin,
)
from ..sansio.headers import Headers
from ..sansio.http1 import RequestHead
from ..sansio.mcp_http.replies import Reply, error_reply
from .cors import CorsPolicy
from .facts import Address, ConnectionFacts
from .proxies import ProxyHeader, facts_behind_proxies
from .response_headers import ResponseHeaderPolicy

__all__ = [
    "ANY",
    "AdmissionPolicy",
    "Admitted",
    "Answered",
    "Authenticator",
    "ConnectionFacts",
    "Doorkeeper",
    "Verdict",
]

#: Values of Host that were right, remembered: an attacker's are not among them.
_MAX_KNOWN_HOSTS: Final = 64
#: Any origin, in `AdmissionPolicy.allowed_origins`.
ANY: Final = "*"


class Admitted(msgspec.Struct, frozen=True):
    """The request may come in.

    Attributes:
        principal: Who sent it, as the authenticator or else the client's certificate says;
            None where neither does.
        facts: The connection as policies see it: behind a trusted proxy with the real
            client's address and scheme.
    """

    principal: str | None
    facts: ConnectionFacts


class Answered(msgspec.Struct, frozen=True):
    """The request goes no further: a refusal, or the answer to a preflight.

    Attributes:
        reply: What to send, `Doorkeeper.response_headers` not yet among its headers.
        reason: For logs: one line, nothing secret; empty for a preflight.
    """

    reply: Reply
    reason: str


Verdict: TypeAlias = Admitted | Answered
#: ``await authenticate(head, facts)`` returns the principal (None: anonymous is fine), or
#: the reply that refuses, usually made by `authentication.unauthorized`.
Authenticator: TypeAlias = Callable[[RequestHead, ConnectionFacts], Awaitable[str | Reply | None]]


class AdmissionPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may talk to a server.

    Attributes:
        allowed_hosts: Values of Host that are right beside those that the socket implies:
            ``example.com`` (any port), ``example.com:8443``, ``*.example.com``. Without
            any, a connection that arrives at a loopback address must say ``localhost`` or
            a loopback address, and any other must say the address it arrives at; both
            with the port it arrives at.
        allowed_origins: Origins of web pages that may call, such as
            ``https://app.example.com``; the server's own always may. ``*`` is any.
        check_host: False lets any Host in: DNS rebinding is then possible.
        check_origin: False lets any web page in.
        trusted_proxies: Networks whose Forwarded and X-Forwarded-* headers are believed.
        proxy_header: Which of them the proxies set.
        cors: What browsers are told about allowed origins.
        response_headers: The security headers on every answer.
    """

    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    check_host: bool = True
    check_origin: bool = True
    trusted_proxies: tuple[str, ...] = ()
    proxy_header: ProxyHeader = "auto"
    cors: CorsPolicy = CorsPolicy.preset("restrictive")
    response_headers: ResponseHeaderPolicy = ResponseHeaderPolicy()

    def __post_init__(self) -> None:
        """Check every host, origin and network.

        Raises:
            ConfigurationError: One is malformed (the text repeats it), or any origin is
                allowed together with credentials.
        """
        for host in self.allowed_hosts:
            parse_host_pattern("allowed_hosts", host)
        for origin in self.allowed_origins:
            if origin != ANY:
                parse_configured_origin("allowed_origins", origin)
        for network in self.trusted_proxies:
            parse_network("trusted_proxies", network)
        if ANY in self.allowed_origins:
            if len(self.allowed_origins) > 1:
                raise ConfigurationError("allowed_origins: * stands alone, it is every origin")
            if self.cors.enabled and self.cors.allow_credentials:
                # Fetch standard, section 3.2.5: the answer to a request with credentials
                # must name the origin, and to name any that asks is to give them away.
                raise ConfigurationError(
                    "allowed_origins: * does not go with allow_credentials: name the"
                    " origins, or use cors=permissive"
                )


class Doorkeeper:
    """An `AdmissionPolicy` at work. One per listener; holds no state of connections.

    Args:
        policy: What is allowed; None for `AdmissionPolicy()`.
        authenticate: Asked last, for everything but preflights; None lets all in.
    """

    def __init__(
        self,
        policy: AdmissionPolicy | None = None,
        *,
        authenticate: Authenticator | None = None,
    ) -> None:
        self.policy = policy = AdmissionPolicy() if policy is None else policy
        self._authenticate = authenticate
        self._hosts = [parse_host_pattern("allowed_hosts", text) for text in policy.allowed_hosts]
        self._known: set[tuple[str, int, Address]] = set()
        self._any_origin = ANY in policy.allowed_origins
        self._origins = {
            parse_configured_origin("allowed_origins", text)
            for text in policy.allowed_origins
            if text != ANY
        }
        self._proxies = [parse_network("trusted_proxies", n) for n in policy.trusted_proxies]
        self._security = {
            scheme: policy.response_headers.headers(tls=scheme == "https")
            for scheme in ("http", "https")
        }
        cors = policy.cors.enabled and bool(policy.allowed_origins)
        #: What an answer to a request without Origin, or with one that may not see it, gets.
        self._plain = {
            scheme: (
                policy.cors.answer_headers(None, any_origin=self._any_origin).merged(security)
                if cors
                else security
            )
            for scheme, security in self._security.items()
        }
        self._tells_origins = cors and not self._any_origin
        #: Likewise for the allowed origins, as they were seen: at most a few of each.
        self._told: dict[tuple[str, str], Headers] = {}

    @property
    def is_constant(self) -> bool:
        """Whether `admit` says the same each time of the same head and facts.

        So it is without an authenticator, who may change his mind.
        """
        return self._authenticate is None

    def judge(self, head: RequestHead, facts: ConnectionFacts) -> Verdict:
        """Host, Origin and preflight: the whole decision but for authentication. Pure.

        Args:
            head: The request.
            facts: What the socket tells.
        """
        facts = self.see(head, facts)
        if self.policy.check_host:
            reason = self._host_fault(head, facts)
            if reason:
                return _refuse("Forbidden Host header", reason)
        origins = head.headers.get_all("origin")
        if not origins:
            # "If the Origin header is present and invalid, servers MUST respond with HTTP
            # 403 Forbidden": only browsers send it, so its absence is fine.
            return Admitted(None, facts)
        if self.policy.check_origin and (
            len(origins) > 1 or not self._may(origins[0], head, facts)
        ):
            return _refuse("Forbidden Origin header", f"origin {origins[0][:100]!r} is not allowed")
        if (
            head.method == "OPTIONS"
            and self.policy.cors.enabled
            and "access-control-request-method" in head.headers
        ):
            requested = head.headers.get("access-control-request-headers")
            return Answered(Reply(204, self.policy.cors.preflight_headers(requested)), "")
        return Admitted(None, facts)

    async def admit(self, head: RequestHead, facts: ConnectionFacts) -> Verdict:
        """`judge`, then who it is: as the authenticator says, else as the certificate does.

        Does not checkpoint unless the authenticator does. Where that finds nobody (None), a
        client certificate still counts; but a trusted proxy's does not say who is behind it.

        An exception of the authenticator is not caught: whoever calls must refuse the
        request then.
        """
        verdict = self.judge(head, facts)
        if isinstance(verdict, Answered) or (self._authenticate is None and facts.tls is None):
            return verdict
        principal: str | None = None
        if self._authenticate is not None:
            found = await self._authenticate(head, verdict.facts)
            if isinstance(found, Reply):
                return Answered(found, f"authentication: {found.status}")
            principal = found
        return Admitted(self._certified(facts) if principal is None else principal, verdict.facts)

    def _certified(self, facts: ConnectionFacts) -> str | None:
        """Whom the certificate identifies that came with the connection, if a client's."""
        if facts.tls is None:
            return None
        peer = facts.peer_address
        if isinstance(peer, tuple):
            address = parse_address(peer[0])
            if address is not None and any(address in network for network in self._proxies):
                return None
        return facts.tls.principal

    def see(self, head: RequestHead, facts: ConnectionFacts) -> ConnectionFacts:
        """The facts with the real client behind trusted proxies."""
        if facts.client_address is None and isinstance(facts.peer_address, tuple):
            facts = msgspec.structs.replace(facts, client_address=facts.peer_address[0])
        if not self._proxies:
            return facts
        return facts_behind_proxies(head.headers, facts, self._proxies, self.policy.proxy_header)

    def response_headers(self, head: RequestHead, facts: ConnectionFacts) -> Headers:
        """What every answer to this request carries beside its own headers.

        CORS and security headers, on errors and refusals too. Empty in the plain case, so
        that it can be skipped; the same object for the same kind of request, so that it
        is serialised once.

        Args:
            head: The request.
            facts: What the socket tells.
        """
        if self._proxies:
            facts = self.see(head, facts)
        scheme = "https" if facts.scheme == "https" else "http"
        if not self._tells_origins:
            return self._plain[scheme]
        origins = head.headers.get_all("origin")
        if len(origins) != 1:
            return self._plain[scheme]
        found = self._told.get((scheme, origins[0]))
        if found is None:
            if parse_origin(origins[0]) not in self._origins:
                return self._plain[scheme]
            found = self.policy.cors.answer_headers(origins[0], any_origin=False)
            found = found.merged(self._security[scheme])
            # One origin has many spellings; a client may not fill the memory with them.
            if len(self._told) < 4 * len(self._origins):
                self._told[scheme, origins[0]] = found
        return found

    # -- Host ------------------------------------------------------------------------

    def _host_fault(self, head: RequestHead, facts: ConnectionFacts) -> str:
        """Why the request is not meant for this server; empty if it is."""
        hosts = head.headers.get_all("host")
        if len(hosts) != 1:
            return f"{len(hosts)} Host headers"
        named = [hosts[0]]
        if not head.target.startswith("/") and "://" in head.target:
            # RFC 9112, section 3.2.2: a server must take the host of such a target and
            # ignore Host. Whoever is behind us may do the other, so both must be right.
            named.append(head.target.partition("://")[2].partition("/")[0].partition("?")[0])
        default = DEFAULT_PORTS.get(facts.scheme, 80)
        for text in named:
            known = (text, default, facts.local_address)
            if known in self._known:
                continue
            found = parse_authority(text, default)
            if found is None or not self._is_own(*found, facts):
                return f"Host {text[:100]!r} is not this server's"
            if len(self._known) < _MAX_KNOWN_HOSTS:
                self._known.add(known)
        return ""

    def _is_own(self, host: str, port: int, facts: ConnectionFacts) -> bool:
        named = parse_address(host)
        if named is not None and named.is_unspecified:
            # Browsers let a page call http://0.0.0.0, which reaches this machine.
            return False
        if any(pattern.matches(host, port) for pattern in self._hosts):
            return True
        if isinstance(facts.local_address, str):
            # A Unix socket: no browser gets there by itself, so only what a program on
            # this machine would say.
            return _is_loopback_name(host)
        if facts.local_address is None:
            return False
        local, local_port = facts.local_address
        address = parse_address(local)
        if address is None or port != local_port:
            return False
        if address.is_loopback:
            return _is_loopback_name(host)
        return host == normalise_host(local)

    # -- Origin ----------------------------------------------------------------------

    def _may(self, text: str, head: RequestHead, facts: ConnectionFacts) -> bool:
        if self._any_origin:
            return True
        origin = parse_origin(text)
        if origin is None:  # "null" is no origin either: any page can have it
            return False
        if origin in self._origins:
            return True
        own = parse_authority(head.headers.get("host", ""), DEFAULT_PORTS.get(facts.scheme, 80))
        return own is not None and origin == Origin(facts.scheme, *own)


def _is_loopback_name(host: str) -> bool:
    address = parse_address(host)
    return host == "localhost" if address is None else address.is_loopback


def _refuse(message: str, reason: str) -> Answered:
    # "The HTTP response body MAY comprise a JSON-RPC error response that has no id."
    return Answered(error_reply(403, -32600, message), reason)
