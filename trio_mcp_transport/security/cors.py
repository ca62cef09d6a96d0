"""CORS: what a browser is told about pages of other origins (Fetch standard, section 3.2).

Called by `admission`, which has decided before whether the page's origin may call at all.
These headers keep nobody out: they tell a browser whether the page may see the answer.
"""

from __future__ import annotations

import re
from typing import Final, Literal, Self

import msgspec

from ..errors import ConfigurationError
from ..sansio.headers import Headers

__all__ = ["EXPOSED_HEADERS", "REQUEST_HEADERS", "CorsPolicy", "CorsPreset"]

CorsPreset = Literal["restrictive", "strict", "permissive", "disabled"]

#: What MCP clients send beside what every page may; ``Mcp-Param-*`` comes on top.
REQUEST_HEADERS: Final = (
    "Content-Type",
    "Authorization",
    "MCP-Protocol-Version",
    "Mcp-Session-Id",
    "Mcp-Method",
    "Mcp-Name",
    "Last-Event-ID",
)
_PARAMETER_PREFIX = "mcp-param-"
#: What a page must be able to read of an answer.
EXPOSED_HEADERS: Final = ("Mcp-Session-Id", "WWW-Authenticate", "Retry-After")
#: A preflight names the headers of one request; a head may not have more of them anyway.
_MAX_REQUESTED_HEADERS = 100
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARY_PREFLIGHT = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


class CorsPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What browsers are told. The origins are `AdmissionPolicy.allowed_origins`.

    Attributes:
        enabled: False sends nothing, so that pages of other origins see no answer.
        allow_credentials: Whether a browser may send cookies and the like along. Not
            together with any origin (``*``).
        allowed_methods: What a page may use. OPTIONS needs no mention.
        allowed_headers: Further request headers, beside those of MCP (`REQUEST_HEADERS`
            and ``Mcp-Param-*``). ``*`` for any that is asked for.
        exposed_headers: Further response headers, beside those of MCP (`EXPOSED_HEADERS`).
        max_age: Seconds for which a browser may remember the answer to a preflight.
    """

    enabled: bool = True
    allow_credentials: bool = False
    allowed_methods: tuple[str, ...] = ("GET", "POST", "DELETE")
    allowed_headers: tuple[str, ...] = ()
    exposed_headers: tuple[str, ...] = ()
    max_age: int = 600

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: A name is none, or the age is no number of seconds.
        """
        for field in ("allowed_methods", "allowed_headers", "exposed_headers"):
            for name in getattr(self, field):
                if _TOKEN.fullmatch(name) is None:
                    raise ConfigurationError(f"{field}: {name[:100]!r} is no name")
        if type(self.max_age) is not int or self.max_age < 0:
            raise ConfigurationError(f"max_age must be whole seconds, not {self.max_age!r}")

    @classmethod
    def preset(cls, name: CorsPreset) -> Self:
        """A policy by name.

        ``restrictive`` is the usual one: named origins, credentials, ``X-Requested-With``,
        remembered for half an hour. ``strict``: named origins, credentials, no header but
        those of MCP, ten minutes. ``permissive``: for any origin (which
        `AdmissionPolicy.allowed_origins` has to say as well), any header, no credentials,
        an hour. ``disabled``: nothing is told.

        Raises:
            ConfigurationError: There is none of that name.
        """
        if name == "restrictive":
            return cls(allow_credentials=True, allowed_headers=("X-Requested-With",), max_age=1800)
        if name == "strict":
            return cls(allow_credentials=True)
        if name == "permissive":
            return cls(allowed_headers=("*",), max_age=3600)
        if name == "disabled":
            return cls(enabled=False)
        raise ConfigurationError(
            f"cors must be restrictive, strict, permissive or disabled, not {name!r}"
        )

    def answer_headers(self, origin: str | None, *, any_origin: bool) -> Headers:
        """What an answer carries.

        Args:
            origin: The request's Origin if pages from there may see the answer, else None.
            any_origin: Whether that holds whatever the Origin.
        """
        if any_origin:
            told = [("access-control-allow-origin", "*")]
        elif origin is None:
            # A cache must not give this answer to a page that may see it.
            return Headers([("vary", "Origin")])
        else:
            told = [("access-control-allow-origin", origin), ("vary", "Origin")]
        if self.allow_credentials:
            told.append(("access-control-allow-credentials", "true"))
        exposed = dict.fromkeys([*EXPOSED_HEADERS, *self.exposed_headers])
        told.append(("access-control-expose-headers", ", ".join(exposed)))
        return Headers(told)

    def preflight_headers(self, requested: str | None) -> Headers:
        """What the answer to a preflight carries beside `answer_headers`.

        Args:
            requested: The value of ``Access-Control-Request-Headers``, if there was one.
        """
        told = [
            ("access-control-allow-methods", ", ".join(self.allowed_methods)),
            ("access-control-max-age", str(self.max_age)),
            ("vary", _VARY_PREFLIGHT),
        ]
        allowed = self._allowed_of(requested or "")
        if allowed:
            told.append(("access-control-allow-headers", ", ".join(allowed)))
        return Headers(told)

    def _allowed_of(self, requested: str) -> list[str]:
        """Those of the requested headers that may be sent."""
        known = {name.lower() for name in (*REQUEST_HEADERS, *self.allowed_headers)}
        names = [name.strip() for name in requested.split(",")[:_MAX_REQUESTED_HEADERS]]
        return [
            name
            for name in dict.fromkeys(names)
            if _TOKEN.fullmatch(name) is not None
            and (
                "*" in known or name.lower() in known or name.lower().startswith(_PARAMETER_PREFIX)
            )
        ]
