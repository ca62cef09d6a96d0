"""What endpoints that are reached by an HTTP request have in common.

The base of `http_endpoints` and `websocket_endpoints`: the URL, who comes in, whom to
trust, TLS and proxies. One struct serves both sides, as one URL does; what only a client or
only a server can use is refused by the other (`refuse_options_of`). Pure.

Values of headers, tokens, secrets and the query of the server's own are never shown, in
`str` and `repr` neither: ``***`` stands for them, and the parser refuses that.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import msgspec

from .endpoint_values import percent_decode, percent_encode, struct_fields
from .endpoints import HIDDEN, Endpoint, check_host, join_host_port
from .errors import ConfigurationError
from .http_origins import (
    DEFAULT_PORTS,
    Origin,
    normalise_host,
    parse_authority,
    parse_configured_origin,
    parse_host_pattern,
    parse_network,
)
from .limits import DEFAULT_MAX_CONNECTIONS, HTTP_HEAD_TIMEOUT, HTTP_RETRY_AFTER
from .tls_settings import TlsSettings, TlsSide

__all__ = [
    "Authentication",
    "CorsPreset",
    "ProxyHeader",
    "SecurityHeadersPreset",
    "WebEndpoint",
    "check_url_path",
]

Authentication = Literal["none", "bearer", "oauth2"]
CorsPreset = Literal["restrictive", "strict", "permissive", "disabled"]
SecurityHeadersPreset = Literal["none", "development", "staging", "production", "strict"]
ProxyHeader = Literal["auto", "forwarded", "x-forwarded-for"]

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]

_OAUTH = ("oauth_token_url", "client_id", "client_secret", "scope", "token_refresh_skew")
_OAUTH_REQUIRED = ("oauth_token_url", "client_id", "client_secret")

# RFC 3986, section 3.3: what a path may be made of, percent escapes included.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
# RFC 9110, sections 5.6.2 and 5.5; values are sent as Latin-1.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# RFC 6750, section 2.1.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# RFC 3986, section 3.2: USER:PASSWORD@HOST:PORT, and nothing behind it.
_PROXY = re.compile(r"http://(?:([^/?#@]*)@)?([^/?#@]+)/?")


class WebEndpoint(Endpoint, frozen=True):
    """Base of endpoints with a URL that HTTP requests go to.

    Attributes:
        host: Name or address, IPv6 without brackets.
        port: 0 lets the system choose when listening.
        path: Where the endpoint is, as it stands in a URL, percent-escapes and all.
        idle_timeout: Seconds that a connection without a request is kept. None is
            `HTTP_CLIENT_IDLE_TIMEOUT` for connecting, less where the server announces an
            earlier end (``Keep-Alive: timeout=5``), and `HTTP_IDLE_TIMEOUT` for listening.
        auth: ``bearer`` sends `bearer_token`, or demands it; ``oauth2`` fetches tokens.
        bearer_token: The token. Never shown.
        tls: The certificates of both sides, and what is demanded of them; only for the
            schemes with TLS.

        url_query: Connecting: the query that the server's own URL has, percent-encoded; as
            it may hold a key, it is never shown.
        headers: Connecting: further headers of every request. Values are never shown.
        proxy: Connecting: through this HTTP proxy (``http://HOST:PORT``, or
            ``http://USER:PASSWORD@HOST:PORT``), always by CONNECT; many proxies allow that
            to port 443 alone. The user and the password are never shown.
        oauth_token_url: Connecting, ``oauth2``: where tokens come from.
        client_id: Connecting, ``oauth2``.
        client_secret: Connecting, ``oauth2``. Never shown.
        scope: Connecting, ``oauth2``: names with blanks between.
        token_refresh_skew: Connecting, ``oauth2``: seconds before its end at which a
            token is replaced.

        max_connections: Listening: connections at a time.
        head_timeout: Listening: seconds in which a request's head must be complete.
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

    target_fields = ("host", "port", "path", "headers")
    secret_fields = ("url_query", "bearer_token", "client_secret", *TlsSettings.secrets)
    #: What only whoever connects can use.
    client_only: ClassVar[tuple[str, ...]] = ("url_query", "headers", "proxy", *_OAUTH)
    #: What only whoever listens can use.
    server_only: ClassVar[tuple[str, ...]] = (
        "max_connections",
        "head_timeout",
        "retry_after",
        "allowed_hosts",
        "allowed_origins",
        "check_host",
        "check_origin",
        "trusted_proxies",
        "proxy_header",
        "cors",
        "security_headers",
    )
    #: Headers that the transport itself decides, in lower case.
    own_headers: ClassVar[frozenset[str]] = frozenset({
        "connection",
        "content-length",
        "host",
        "transfer-encoding",
        "upgrade",
    })

    host: str
    port: _Port
    path: str = "/"
    idle_timeout: _Seconds | None = None
    auth: Authentication = "none"
    bearer_token: str | None = None
    tls: TlsSettings = TlsSettings()

    url_query: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    proxy: str | None = None
    oauth_token_url: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    token_refresh_skew: _Seconds | None = None

    max_connections: _Positive = DEFAULT_MAX_CONNECTIONS
    head_timeout: _Seconds = HTTP_HEAD_TIMEOUT
    retry_after: _Natural = HTTP_RETRY_AFTER
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
        check_url_path("path", self.path)
        if self.url_query is not None and _QUERY.fullmatch(self.url_query) is None:
            raise ConfigurationError("url_query has a character that must be percent-encoded")
        self._check_headers()
        self._check_authentication()
        self._check_policies()
        self._check_proxy()
        if any(protocol != "http/1.1" for protocol in self.tls.alpn):
            raise ConfigurationError("alpn: only http/1.1 is spoken here")
        if not self.uses_tls:
            for field in struct_fields(TlsSettings):
                if getattr(self.tls, field.name) != field.default:
                    raise ConfigurationError(
                        f"{field.name} is for TLS: write {self.url_scheme}s://"
                        f" instead of {self.url_scheme}://"
                    )

    # -- What it is ------------------------------------------------------------------

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return False

    @property
    def url_scheme(self) -> str:
        """How its URL begins, as clients write it."""
        return self.origin.scheme

    @property
    def origin(self) -> Origin:
        """Scheme of HTTP, host and port, as a client compares them."""
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
        return f"{self.url_scheme}://{self.authority}{self.request_target}"

    def request_headers(self) -> tuple[tuple[str, str], ...]:
        """`headers` and the authentication, for every request to this origin. Secrets."""
        found = tuple(self.headers.items())
        if self.auth == "bearer":
            found += (("authorization", f"Bearer {self.bearer_token}"),)
        return found

    def refuse_options_of(self, side: TlsSide) -> None:
        """Raise if an option is set that only the named side can use.

        Raises:
            ConfigurationError: The text names the option.
        """
        names, doing = (
            (self.client_only, "connecting")
            if side == "client"
            else (self.server_only, "listening")
        )
        for field in struct_fields(type(self)):
            value = getattr(self, field.name)
            if field.name in names and value != field.default and value != {}:
                raise ConfigurationError(f"{field.name} is for {doing} to {self.label}, not here")
        self.tls.refuse_options_of(side)

    # -- As text ---------------------------------------------------------------------

    def target(self) -> str:
        """``//HOST:PORT/PATH``; the percent sign of an IPv6 zone is encoded (RFC 6874)."""
        host = percent_encode(self.host, safe=":")
        return "//" + join_host_port(host, self.port) + self.path

    def parameters(self) -> dict[str, str]:
        """The options as text, with secrets and the values of headers hidden."""
        found = super().parameters()
        if self.proxy is not None and "@" in self.proxy:
            found["proxy"] = f"http://{HIDDEN}@{self.proxy.rpartition('@')[2]}"
        return found | {f"header.{name}": HIDDEN for name in sorted(self.headers)}

    # -- Checks ----------------------------------------------------------------------

    def _check_headers(self) -> None:
        seen: set[str] = set()
        for name, value in self.headers.items():
            if _TOKEN.fullmatch(name) is None:
                raise ConfigurationError(f"headers: {name[:100]!r} cannot be the name of a header")
            lowered = name.lower()
            if lowered in seen:
                raise ConfigurationError(f"headers: {name} is given twice")
            seen.add(lowered)
            if lowered in self.own_headers or lowered.startswith("mcp-param-"):
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

    def _check_proxy(self) -> None:
        if self.proxy is None:
            return
        found = _PROXY.fullmatch(self.proxy)
        user, authority = found.groups() if found else (None, "")
        if parse_authority(authority, 80) is None:
            # Not shown: it may have a password.
            raise ConfigurationError(
                "proxy must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT (what is"
                " percent-encoded there is encoded twice where it stands in another URL)"
            )
        if user == HIDDEN:
            raise ConfigurationError(f"proxy: {HIDDEN} only stands for what is not shown")
        if user is not None:
            percent_decode("proxy: its user", user)


def check_url_path(name: str, path: str) -> None:
    """Refuse what cannot be the path of a URL as it stands in a request.

    Raises:
        ConfigurationError: The text starts with `name`.
    """
    # A leading "//" would be taken for a host where only a path is wanted.
    if _PATH.fullmatch(path) is None or path.startswith("//"):
        raise ConfigurationError(
            f"{name} must be the path of a URL: one slash first, other characters"
            " percent-encoded, no query and no fragment"
        )
