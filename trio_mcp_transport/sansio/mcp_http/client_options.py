"""What a client of MCP over HTTP is to be like: read by everything that decides about it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from ...errors import ConfigurationError
from ...limits import DEFAULT_MAX_EXCHANGES, MAX_RECONNECTS
from ..headers import NO_HEADERS, Headers
from .mirrored import NAME_SOURCES
from .redirects import resolve

__all__ = ["Credentials", "HttpClientOptions"]

#: Gives header fields that prove who asks, such as `Authorization`; asked before each HTTP
#: request, so it can renew what has run out. What it raises fails the request.
Credentials = Callable[[], Awaitable[Headers]]


class HttpClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint, seen by its client. Durations are seconds.

    Attributes:
        url: The endpoint. It may hold a secret, so it is never shown.
        headers: Fields of every request; they go to this origin only. Never shown.
        credentials: Fields that have to be asked for each time.
        sse_only: Speak HTTP+SSE (2024-11-05) and nothing else.
        two_paths: Speak the wire of two paths: the URLs of requests and of notifications.
        max_exchanges: Messages on their way at a time, each until it is answered.
        read_timeout: Time from a request until its response has begun. A server that
            answers with JSON begins when it is done.
        delivery_timeout: The same for what has no answer but its status: notifications,
            responses, and the requests that keep a session.
        listen: Whether a session has a standalone stream, which brings what belongs to no
            request.
        max_reconnects: Attempts to take up a broken stream without anything new on it.
        name_sources: Where the value of `Mcp-Name` comes from, by method.
    """

    url: str
    headers: Headers = NO_HEADERS
    credentials: Credentials | None = None
    sse_only: bool = False
    two_paths: tuple[str, str] | None = None
    max_exchanges: int = DEFAULT_MAX_EXCHANGES
    read_timeout: float = math.inf
    delivery_timeout: float = 30.0
    listen: bool = True
    max_reconnects: int = MAX_RECONNECTS
    name_sources: Mapping[str, str] = msgspec.field(default_factory=lambda: NAME_SOURCES)

    def __post_init__(self) -> None:
        for name, url in (("url", self.url), *(("two_paths", url) for url in self.two_paths or ())):
            if resolve(url, "") is None:
                raise ConfigurationError(f"{name} must be an absolute http or https URL")
        if self.sse_only and self.two_paths is not None:
            raise ConfigurationError("sse_only and two_paths exclude each other")
        for name in ("max_exchanges", "max_reconnects"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1")
        for name in ("read_timeout", "delivery_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be positive seconds")

    @property
    def authority(self) -> str:
        """The value of Host."""
        return urlsplit(self.url).netloc

    def __repr__(self) -> str:
        return f"HttpClientOptions(max_exchanges={self.max_exchanges})"
