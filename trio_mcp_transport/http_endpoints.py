"""Endpoints of MCP over HTTP: ``http://``, ``https://`` and ``sse+http://``.

Built by `http_schemes` from text, or by hand; read by the HTTP transports through
`transports.http_settings`. One struct serves both sides, as one URL does: what only a
client or only a server can use is refused by the other (`refuse_options_of`). Pure.

Values of headers, tokens, secrets and the query of the server's own are never shown, in
`str` and `repr` neither: ``***`` stands for them, and the parser refuses that.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import msgspec

from .endpoint_values import percent_encode
from .endpoints import HIDDEN, Endpoint, check_host, join_host_port
from .errors import ConfigurationError
from .http_origins import (
    DEFAULT_PORTS,
    Origin,
    normalise_host,
    parse_configured_origin,
    parse_host_pattern,
    parse_network,
)
from .limits import (
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MAX_EXCHANGES,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_MAX_UNSENT_BYTES,
    EXCHANGE_GRACE_TIMEOUT,
    HTTP_BODY_TIMEOUT,
    HTTP_HEAD_TIMEOUT,
    HTTP_RETRY_AFTER,
    SESSION_IDLE_TIMEOUT,
    SSE_KEEP_ALIVE_INTERVAL,
    SSE_QUIET_INTERVAL,
    SSE_RETRY_INTERVAL,
)

__all__ = [
    "Authentication",
    "CorsPreset",
    "Era",
    "HttpEndpoint",
    "HttpsEndpoint",
    "ResponseMode",
    "SecurityHeadersPreset",
    "SseEndpoint",
    "SseTlsEndpoint",
]

Era = Literal["auto", "modern", "legacy"]
ResponseMode = Literal["auto", "json", "sse"]
Authentication = Literal["none", "bearer", "oauth2"]
CorsPreset = Literal["restrictive", "strict", "permissive", "disabled"]
SecurityHeadersPreset = Literal["none", "development", "staging", "production", "strict"]
ProxyHeader = Literal["auto", "forwarded", "x-forwarded-for"]

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]

#: What only whoever connects can use.
_CLIENT_ONLY = (
    "url_query",
    "headers",
    "oauth_token_url",
    "client_id",
    "client_secret",
    "scope",
    "token_refresh_skew",
    "server_name",
    "ca_file",
    "ca_path",
    "read_timeout",
    "diagnostics",
)
#: What only whoever listens can use.
_SERVER_ONLY = (
    "response",
    "stateless",
    "resumable",
    "max_connections",
    "max_sessions",
    "max_unsent_bytes",
    "session_idle_timeout",
    "keep_alive_interval",
    "quiet_interval",
    "head_timeout",
    "body_timeout",
    "grace_timeout",
    "retry_interval",
    "retry_after",
    "sse_path",
    "message_path",
    "proxy_header",
    "allowed_hosts",
    "allowed_origins",
    "check_host",
    "check_origin",
    "trusted_proxies",
    "cors",
    "security_headers",
)
#: What has no use without TLS.
_TLS_ONLY = ("server_name", "ca_file", "ca_path", "cert_file", "key_file")
_OAUTH = ("oauth_token_url", "client_id", "client_secret", "scope", "token_refresh_skew")
_OAUTH_REQUIRED = ("oauth_token_url", "client_id", "client_secret")
_SECRETS = ("url_query", "bearer_token", "client_secret")

# RFC 3986, section 3.3: what a path may be made of, percent escapes included.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
# RFC 9110, sections 5.6.2 and 5.5; values are sent as Latin-1.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# RFC 6750, section 2.1.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
#: Headers that the transport itself decides.
_OWN_HEADERS = frozenset({
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "transfer-encoding",
    "upgrade",
})


class HttpEndpoint(Endpoint, frozen=True):
    """MCP over HTTP: ``http://HOST:PORT/PATH``.

    Attributes:
        host: Name or address, IPv6 without brackets.
        port: 0 lets the system choose when listening.
        path: Where the endpoint is, as it stands in a URL, percent-escapes and all.
        era: ``modern`` (2026-07-28), ``legacy``, or ``auto``: both, by what is sent.
        revision: The only protocol revision to speak; None for every one of the era.
        rpc_path: Speak the wire of two paths as well (listening) or alone (connecting):
            POST here answers with JSON. None for not at all.
        notify_path: The other path of that wire: POST here answers ``{}``.
        max_exchanges: Requests in flight at a time.
        idle_timeout: Seconds that a connection without a request is kept. None is
            `HTTP_CLIENT_IDLE_TIMEOUT` for connecting, less where the server announces an
            earlier end (``Keep-Alive: timeout=5``), and `HTTP_IDLE_TIMEOUT` for listening.
        auth: ``bearer`` sends `bearer_token`, or demands it; ``oauth2`` fetches tokens.
        bearer_token: The token. Never shown.

        url_query: Connecting: the query that the server's own URL has, percent-encoded; as
            it may hold a key, it is never shown.
        headers: Connecting: further headers of every request. Values are never shown.
        read_timeout: Connecting: seconds from a request until its response has begun.
        diagnostics: Connecting: tell of each stage of each request, from the name lookup to
            the last byte, as events ``http.*``; logged at the level debug.
        oauth_token_url: Connecting, ``oauth2``: where tokens come from.
        client_id: Connecting, ``oauth2``.
        client_secret: Connecting, ``oauth2``. Never shown.
        scope: Connecting, ``oauth2``: names with blanks between.
        token_refresh_skew: Connecting, ``oauth2``: seconds before its end at which a
            token is replaced.
        server_name: Connecting, TLS: the name that the certificate must have; None for
            `host`.
        ca_file: Connecting, TLS: certificates to trust instead of the system's.
        ca_path: Connecting, TLS: likewise, a directory.
        cert_file: TLS: own certificate.
        key_file: TLS: its key.

        response: Listening: how a request is answered: ``json``, ``sse``, or ``auto``,
            which is JSON unless something has to be said before the result.
        stateless: Listening: legacy requests need no session and can have none.
        resumable: Listening: streams of sessions can be resumed after a broken connection.
        max_connections: Listening: connections at a time.
        max_sessions: Listening: legacy sessions at a time.
        max_unsent_bytes: Listening: bytes that all responses together may hold for clients
            that do not take them; beyond it the slowest connections are closed.
        session_idle_timeout: Listening: seconds after which an unused session ends.
        keep_alive_interval: Listening: seconds between comments on a silent stream.
        quiet_interval: Listening: seconds of silence after which an answer in ``auto``
            becomes a stream.
        head_timeout: Listening: seconds in which a request's head must be complete.
        body_timeout: Listening: seconds in which its body must be.
        sse_path: Listening: serve HTTP+SSE (2024-11-05) as well: GET this.
        message_path: Listening: where that wire's POSTs go.
        grace_timeout: Listening: seconds that a legacy request goes on after its
            connection was lost, where nobody can resume it.
        retry_interval: Listening: seconds that a client is told to wait before it comes
            back to a stream that the server closed.
        retry_after: Listening: seconds that a client is told to wait when there are too
            many of it.
        allowed_hosts: Listening: values of Host that are right beside those that the
            socket implies: ``example.com``, ``example.com:8443``, ``*.example.com``.
        allowed_origins: Listening: web pages that may call, ``https://app.example.com``.
        check_host: Listening: false lets any Host in, so that any web page can call a
            server on this machine by DNS rebinding.
        check_origin: Listening: false lets any web page in.
        trusted_proxies: Listening: addresses or networks whose ``Forwarded`` and
            ``X-Forwarded-For`` are believed.
        proxy_header: Listening: which of the two they set.
        cors: Listening: what browsers are told: `CorsPolicy.preset`.
        security_headers: Listening: a preset of `ResponseHeaderPolicy`.
    """

    scheme = "http"
    target_fields = ("host", "port", "path", "headers")
    #: Whether it is HTTP+SSE of 2024-11-05 and nothing else.
    sse_only: ClassVar[bool] = False

    host: str
    port: _Port
    path: str = "/"
    era: Era = "auto"
    revision: str | None = None
    rpc_path: str | None = None
    notify_path: str | None = None
    max_exchanges: _Positive = DEFAULT_MAX_EXCHANGES
    idle_timeout: _Seconds | None = None
    auth: Authentication = "none"
    bearer_token: str | None = None

    url_query: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    read_timeout: _Seconds | None = None
    diagnostics: bool = False
    oauth_token_url: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    token_refresh_skew: _Seconds | None = None
    server_name: str | None = None
    ca_file: str | None = None
    ca_path: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    response: ResponseMode = "auto"
    stateless: bool = False
    resumable: bool = False
    max_connections: _Positive = DEFAULT_MAX_CONNECTIONS
    max_sessions: _Positive = DEFAULT_MAX_SESSIONS
    max_unsent_bytes: _Positive = DEFAULT_MAX_UNSENT_BYTES
    session_idle_timeout: _Seconds = SESSION_IDLE_TIMEOUT
    keep_alive_interval: _Seconds = SSE_KEEP_ALIVE_INTERVAL
    quiet_interval: _Seconds = SSE_QUIET_INTERVAL
    head_timeout: _Seconds = HTTP_HEAD_TIMEOUT
    body_timeout: _Seconds = HTTP_BODY_TIMEOUT
    grace_timeout: _Seconds = EXCHANGE_GRACE_TIMEOUT
    retry_interval: _Seconds = SSE_RETRY_INTERVAL
    retry_after: _Natural = HTTP_RETRY_AFTER
    sse_path: str | None = None
    message_path: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    check_host: bool = True
    check_origin: bool = True
    trusted_proxies: tuple[str, ...] = ()
    proxy_header: ProxyHeader = "auto"
    cors: CorsPreset = "restrictive"
    security_headers: SecurityHeadersPreset = "none"

    def __post_init__(self) -> None:
        """Check every field, and what they say together.

        Raises:
            ConfigurationError: Something is wrong; the text starts with the name of the
                field and repeats no secret.
        """
        super().__post_init__()
        check_host(self.host)
        if self.options.framing != "newline":
            raise ConfigurationError("framing is for byte streams; HTTP has its own")
        self._check_paths()
        self._check_headers()
        self._check_authentication()
        self._check_policies()
        for name in _TLS_ONLY:
            if not self.uses_tls and getattr(self, name) is not None:
                raise ConfigurationError(f"{name} is for TLS: write https:// instead of http://")
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigurationError("cert_file and key_file are given together")

    # -- What it is ------------------------------------------------------------------

    @property
    def uses_tls(self) -> bool:
        """Whether it is ``https``."""
        return False

    @property
    def origin(self) -> Origin:
        """Scheme, host and port, as a client compares them."""
        return Origin("https" if self.uses_tls else "http", normalise_host(self.host), self.port)

    @property
    def authority(self) -> str:
        """The value of Host: without the port where that is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if DEFAULT_PORTS[self.origin.scheme] == self.port else f"{host}:{self.port}"

    @property
    def request_target(self) -> str:
        """What a request line names: the path, and the query of the server's own.

        It may hold a secret: do not log it.
        """
        return self.path if self.url_query is None else f"{self.path}?{self.url_query}"

    @property
    def url(self) -> str:
        """The URL as a client sends it. It may hold a secret: do not log it."""
        return f"{self.origin.scheme}://{self.authority}{self.request_target}"

    @property
    def two_paths(self) -> tuple[str, str] | None:
        """The paths of requests and notifications, if that wire is asked for."""
        if self.rpc_path is None or self.notify_path is None:
            return None
        return self.rpc_path, self.notify_path

    def request_headers(self) -> tuple[tuple[str, str], ...]:
        """`headers` and the authentication, for every request to this origin. Secrets."""
        found = tuple(self.headers.items())
        if self.auth == "bearer":
            found += (("authorization", f"Bearer {self.bearer_token}"),)
        return found

    def refuse_options_of(self, side: Literal["client", "server"]) -> None:
        """Raise if an option is set that only the named side can use.

        Raises:
            ConfigurationError: The text names the option.
        """
        names, doing = (
            (_CLIENT_ONLY, "connecting") if side == "client" else (_SERVER_ONLY, "listening")
        )
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if field.name in names and value != field.default and value != {}:
                raise ConfigurationError(f"{field.name} is for {doing} to {self.label}, not here")

    # -- As text ---------------------------------------------------------------------

    def target(self) -> str:
        """``//HOST:PORT/PATH``; the percent sign of an IPv6 zone is encoded (RFC 6874)."""
        host = percent_encode(self.host, safe=":")
        return "//" + join_host_port(host, self.port) + self.path

    def parameters(self) -> dict[str, str]:
        """The options as text, with secrets and the values of headers hidden."""
        found = super().parameters()
        for name in _SECRETS:
            if name in found:
                found[name] = HIDDEN
        return found | {f"header.{name}": HIDDEN for name in sorted(self.headers)}

    # -- Checks ----------------------------------------------------------------------

    def _check_paths(self) -> None:
        for name in ("path", "rpc_path", "notify_path", "sse_path", "message_path"):
            path = getattr(self, name)
            # A leading "//" would be taken for a host where only a path is wanted.
            if path is not None and (_PATH.fullmatch(path) is None or path.startswith("//")):
                raise ConfigurationError(
                    f"{name} must be the path of a URL: one slash first, other characters"
                    " percent-encoded, no query and no fragment"
                )
        if (self.rpc_path is None) != (self.notify_path is None):
            raise ConfigurationError("rpc_path and notify_path are given together")
        if self.sse_only:
            if self.sse_path is not None or self.rpc_path is not None:
                raise ConfigurationError(f"{self.scheme} has no sse_path and no rpc_path")
        elif (self.sse_path is None) != (self.message_path is None):
            raise ConfigurationError("sse_path and message_path are given together")
        if self.url_query is not None and _QUERY.fullmatch(self.url_query) is None:
            raise ConfigurationError("url_query has a character that must be percent-encoded")
        used = [self.path, self.rpc_path, self.notify_path, self.sse_path, self.message_path]
        there = [path.rstrip("/") for path in used if path is not None]
        if len({*there}) != len(there):
            raise ConfigurationError(
                "path, rpc_path, notify_path, sse_path and message_path must all differ"
            )

    def _check_headers(self) -> None:
        seen: set[str] = set()
        for name, value in self.headers.items():
            if _TOKEN.fullmatch(name) is None:
                raise ConfigurationError(f"headers: {name[:100]!r} cannot be the name of a header")
            lowered = name.lower()
            if lowered in seen:
                raise ConfigurationError(f"headers: {name} is given twice")
            seen.add(lowered)
            if lowered in _OWN_HEADERS or lowered.startswith("mcp-param-"):
                raise ConfigurationError(f"headers: {name} is set by the transport itself")
            if _VALUE.fullmatch(value) is None or value != value.strip(" \t"):
                raise ConfigurationError(
                    f"headers.{name} has a character that no header has, or blanks around it"
                )
        if self.auth != "none" and "authorization" in seen:
            raise ConfigurationError("headers: Authorization is given twice, by auth as well")

    def _check_authentication(self) -> None:
        if self.bearer_token is not None:
            if self.auth != "bearer":
                raise ConfigurationError("bearer_token needs auth=bearer")
            if _BEARER.fullmatch(self.bearer_token) is None:
                raise ConfigurationError("bearer_token has a character that no token has")
        elif self.auth == "bearer":
            raise ConfigurationError("auth=bearer needs a bearer_token")
        for name in _OAUTH:
            given = getattr(self, name) is not None
            if given and self.auth != "oauth2":
                raise ConfigurationError(f"{name} needs auth=oauth2")
            if not given and self.auth == "oauth2" and name in _OAUTH_REQUIRED:
                raise ConfigurationError(f"auth=oauth2 needs {name}")

    def _check_policies(self) -> None:
        for host in self.allowed_hosts:
            parse_host_pattern("allowed_hosts", host)
        for origin in self.allowed_origins:
            if origin == "*":
                raise ConfigurationError(
                    "allowed_origins: * is every web page there is: name the origins,"
                    " or say cors=permissive"
                )
            parse_configured_origin("allowed_origins", origin)
        for network in self.trusted_proxies:
            parse_network("trusted_proxies", network)
        if self.cors == "permissive" and self.allowed_origins:
            raise ConfigurationError("cors=permissive lets every origin in: omit allowed_origins")


class HttpsEndpoint(HttpEndpoint, frozen=True):
    """MCP over HTTP over TLS: ``https://HOST:PORT/PATH``."""

    scheme = "https"

    @property
    def uses_tls(self) -> bool:
        """Yes."""
        return True


class SseEndpoint(HttpEndpoint, frozen=True):
    """HTTP+SSE of revision 2024-11-05 alone: ``sse+http://HOST:PORT/PATH`` of its GET."""

    scheme = "sse+http"
    sse_only = True


class SseTlsEndpoint(SseEndpoint, frozen=True):
    """The same over TLS: ``sse+https://HOST:PORT/PATH``."""

    scheme = "sse+https"

    @property
    def uses_tls(self) -> bool:
        """Yes."""
        return True
