"""The security headers that every answer of a server carries, errors among them.

Called by `admission`. MCP answers are JSON and event streams, in which these change
nothing; they matter where a browser is led to such an answer, and to scanners.
"""

from __future__ import annotations

import re
from typing import Final, Literal, Self

import msgspec

from ..errors import ConfigurationError, LocalProtocolError
from ..sansio.headers import Headers

__all__ = [
    "ContentSecurityPolicy",
    "FrameOptions",
    "ResponseHeaderPolicy",
    "SecurityHeadersPreset",
]

FrameOptions = Literal["DENY", "SAMEORIGIN"]
SecurityHeadersPreset = Literal["none", "development", "staging", "production", "strict"]

_YEAR: Final = 31_536_000
_DIRECTIVE = re.compile(r"[a-z][a-z-]*")
# CSP Level 3, section 2.2.1: neither white space nor what ends a directive or a policy.
_SOURCE = re.compile(r"[\x21-\x2b\x2d-\x3a\x3c-\x7e]+")
_NO_SENSORS: Final = "geolocation=(), microphone=(), camera=(), payment=(), usb=()"


class ContentSecurityPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The value of Content-Security-Policy, put together a directive at a time.

    ``ContentSecurityPolicy().default_src("'self'").connect_src("'self'", "wss://a.example")``

    Attributes:
        directives: Each directive's name with its sources, in order.
    """

    directives: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        """Check what would change the meaning of other directives.

        Raises:
            ConfigurationError: A name or a source has a character that it cannot have, or
                a directive stands there twice.
        """
        names = [name for name, _ in self.directives]
        for name, sources in self.directives:
            if _DIRECTIVE.fullmatch(name) is None or names.count(name) > 1:
                raise ConfigurationError(f"CSP: {name!r} is no directive, or there twice")
            for source in sources:
                if _SOURCE.fullmatch(source) is None:
                    raise ConfigurationError(f"CSP: {name} cannot have the source {source!r}")

    def with_(self, directive: str, *sources: str) -> Self:
        """The policy with one directive set, in place of what it said before.

        Raises:
            ConfigurationError: As the constructor.
        """
        kept = tuple(pair for pair in self.directives if pair[0] != directive)
        return type(self)((*kept, (directive, sources)))

    def default_src(self, *sources: str) -> Self:
        """Where anything may come from that no other directive names."""
        return self.with_("default-src", *sources)

    def connect_src(self, *sources: str) -> Self:
        """What a script may connect to."""
        return self.with_("connect-src", *sources)

    def script_src(self, *sources: str) -> Self:
        """Where scripts may come from."""
        return self.with_("script-src", *sources)

    def style_src(self, *sources: str) -> Self:
        """Where styles may come from."""
        return self.with_("style-src", *sources)

    def __str__(self) -> str:
        return "; ".join(" ".join([name, *sources]) for name, sources in self.directives)


class ResponseHeaderPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which security headers are sent; none by default.

    Attributes:
        content_security_policy: Content-Security-Policy.
        hsts_max_age: Seconds of Strict-Transport-Security; sent only over TLS, as RFC
            6797, section 7.2, demands.
        hsts_include_subdomains: Whether that holds for all names below as well.
        hsts_preload: Whether browsers may ship with it.
        frame_options: X-Frame-Options; sets ``frame-ancestors`` of the CSP likewise, if
            there is one that does not say.
        nosniff: X-Content-Type-Options: nosniff.
        referrer_policy: Referrer-Policy.
        permissions_policy: Permissions-Policy.
        opener_policy: Cross-Origin-Opener-Policy.
        resource_policy: Cross-Origin-Resource-Policy.
        embedder_policy: Cross-Origin-Embedder-Policy.
        extra: Any further headers, as pairs.
    """

    content_security_policy: ContentSecurityPolicy | None = None
    hsts_max_age: int | None = None
    hsts_include_subdomains: bool = False
    hsts_preload: bool = False
    frame_options: FrameOptions | None = None
    nosniff: bool = False
    referrer_policy: str | None = None
    permissions_policy: str | None = None
    opener_policy: str | None = None
    resource_policy: str | None = None
    embedder_policy: str | None = None
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check that all of it can be sent.

        Raises:
            ConfigurationError: Something cannot; the text names it.
        """
        age = self.hsts_max_age
        if age is not None and (type(age) is not int or age < 0):
            raise ConfigurationError(f"hsts_max_age must be whole seconds, not {age!r}")
        if age is None and (self.hsts_include_subdomains or self.hsts_preload):
            raise ConfigurationError("hsts_include_subdomains and hsts_preload need hsts_max_age")
        if self.frame_options not in {None, "DENY", "SAMEORIGIN"}:
            raise ConfigurationError(
                f"frame_options must be DENY or SAMEORIGIN, not {self.frame_options!r}"
            )
        try:
            self.headers(tls=True)
        except LocalProtocolError as error:
            raise ConfigurationError(f"response headers: {error}") from None

    @classmethod
    def preset(cls, name: SecurityHeadersPreset) -> Self:
        """A policy by name.

        ``none`` and ``development`` send nothing. ``staging`` allows inline scripts and
        frames of the same origin. ``production`` allows neither, and no referrer and no
        sensors. ``strict`` allows nothing to be loaded at all and isolates the origin.

        Raises:
            ConfigurationError: There is none of that name.
        """
        own = ContentSecurityPolicy().default_src("'self'")
        if name in {"none", "development"}:
            return cls()
        if name == "staging":
            inline = ("'self'", "'unsafe-inline'")
            return cls(
                content_security_policy=own.script_src(*inline).style_src(*inline),
                hsts_max_age=_YEAR,
                frame_options="SAMEORIGIN",
                nosniff=True,
                referrer_policy="strict-origin-when-cross-origin",
            )
        if name == "production":
            return cls(
                content_security_policy=own
                .script_src("'self'")
                .style_src("'self'")
                .with_("object-src", "'none'")
                .with_("frame-src", "'none'"),
                hsts_max_age=2 * _YEAR,
                frame_options="DENY",
                nosniff=True,
                referrer_policy="no-referrer",
                permissions_policy=_NO_SENSORS,
            )
        if name == "strict":
            return cls(
                content_security_policy=ContentSecurityPolicy()
                .default_src("'none'")
                .with_("base-uri", "'none'")
                .with_("form-action", "'none'"),
                hsts_max_age=2 * _YEAR,
                hsts_include_subdomains=True,
                frame_options="DENY",
                nosniff=True,
                referrer_policy="no-referrer",
                permissions_policy=_NO_SENSORS,
                opener_policy="same-origin",
                resource_policy="same-origin",
                embedder_policy="require-corp",
            )
        raise ConfigurationError(
            f"security_headers must be none, development, staging, production or strict,"
            f" not {name!r}"
        )

    def headers(self, *, tls: bool) -> Headers:
        """What an answer carries.

        Args:
            tls: Whether the client came over TLS.
        """
        pairs: list[tuple[str, str | None]] = [
            ("content-security-policy", self._csp()),
            ("strict-transport-security", self._hsts() if tls else None),
            ("x-frame-options", self.frame_options),
            ("x-content-type-options", "nosniff" if self.nosniff else None),
            ("referrer-policy", self.referrer_policy),
            ("permissions-policy", self.permissions_policy),
            ("cross-origin-opener-policy", self.opener_policy),
            ("cross-origin-resource-policy", self.resource_policy),
            ("cross-origin-embedder-policy", self.embedder_policy),
            *self.extra,
        ]
        return Headers([(name, value) for name, value in pairs if value is not None])

    def _csp(self) -> str | None:
        policy = self.content_security_policy
        if policy is None:
            return None
        if self.frame_options is not None and all(
            name != "frame-ancestors" for name, _ in policy.directives
        ):
            ancestors = "'none'" if self.frame_options == "DENY" else "'self'"
            policy = policy.with_("frame-ancestors", ancestors)
        return str(policy)

    def _hsts(self) -> str | None:
        if self.hsts_max_age is None:
            return None
        return (
            f"max-age={self.hsts_max_age}"
            + ("; includeSubDomains" if self.hsts_include_subdomains else "")
            + ("; preload" if self.hsts_preload else "")
        )
