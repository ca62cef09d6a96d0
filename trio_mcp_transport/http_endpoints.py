"""Endpoints of MCP over HTTP: ``http://``, ``https://`` and ``sse+http://``.

Built by `http_schemes` from text, or by hand; read by the HTTP transports through
`transports.http_settings`. What HTTP has in common with WebSocket is in `web_endpoints`.
Pure.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from .compression_settings import CompressionSettings
from .errors import ConfigurationError
from .limits import (
    DEFAULT_MAX_EXCHANGES,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_MAX_UNSENT_BYTES,
    EXCHANGE_GRACE_TIMEOUT,
    HTTP_BODY_TIMEOUT,
    SESSION_IDLE_TIMEOUT,
    SSE_KEEP_ALIVE_INTERVAL,
    SSE_QUIET_INTERVAL,
    SSE_RETRY_INTERVAL,
)
from .web_endpoints import WebEndpoint, check_url_path

__all__ = [
    "Era",
    "HttpEndpoint",
    "HttpsEndpoint",
    "ResponseMode",
    "SseEndpoint",
    "SseTlsEndpoint",
]

Era = Literal["auto", "modern", "legacy"]
ResponseMode = Literal["auto", "json", "sse"]

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class HttpEndpoint(WebEndpoint, frozen=True):
    """MCP over HTTP: ``http://HOST:PORT/PATH``.

    Beside these it has the fields of `WebEndpoint`.

    Attributes:
        era: ``modern`` (2026-07-28), ``legacy``, or ``auto``: both, by what is sent.
        revision: The only protocol revision to speak; None for every one of the era.
        rpc_path: Speak the wire of two paths as well (listening) or alone (connecting):
            POST here answers with JSON. None for not at all.
        notify_path: The other path of that wire: POST here answers ``{}``.
        max_exchanges: Requests in flight at a time.
        compression: Bodies of requests and responses, streams of events as well, may be
            compressed, if the peer says that it can read that.

        read_timeout: Connecting: seconds from a request until its response has begun.
        diagnostics: Connecting: tell of each stage of each request, from the name lookup to
            the last byte, as events ``http.*``; logged at the level debug.

        response: Listening: how a request is answered: ``json``, ``sse``, or ``auto``,
            which is JSON unless something has to be said before the result.
        stateless: Listening: legacy requests need no session and can have none.
        resumable: Listening: streams of sessions can be resumed after a broken connection.
        max_sessions: Listening: legacy sessions at a time.
        max_unsent_bytes: Listening: bytes that all responses together may hold for clients
            that do not take them; beyond it the slowest connections are closed.
        session_idle_timeout: Listening: seconds after which an unused session ends.
        keep_alive_interval: Listening: seconds between comments on a silent stream.
        quiet_interval: Listening: seconds of silence after which an answer in ``auto``
            becomes a stream.
        body_timeout: Listening: seconds in which a request's body must be complete.
        sse_path: Listening: serve HTTP+SSE (2024-11-05) as well: GET this.
        message_path: Listening: where that wire's POSTs go.
        websocket: Listening: whether a request to `path` may become a WebSocket, as those of
            ``ws://`` endpoints do. Not within an ASGI server.
        grace_timeout: Listening: seconds that a legacy request goes on after its
            connection was lost, where nobody can resume it.
        retry_interval: Listening: seconds that a client is told to wait before it comes
            back to a stream that the server closed.
    """

    scheme = "http"
    #: Whether it is HTTP+SSE of 2024-11-05 and nothing else.
    sse_only: ClassVar[bool] = False
    client_only = (*WebEndpoint.client_only, "read_timeout", "diagnostics")
    server_only = (
        *WebEndpoint.server_only,
        "response",
        "stateless",
        "resumable",
        "max_sessions",
        "max_unsent_bytes",
        "session_idle_timeout",
        "keep_alive_interval",
        "quiet_interval",
        "body_timeout",
        "grace_timeout",
        "retry_interval",
        "sse_path",
        "message_path",
        "websocket",
    )
    own_headers = WebEndpoint.own_headers | {
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-type",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
    }

    era: Era = "auto"
    revision: str | None = None
    rpc_path: str | None = None
    notify_path: str | None = None
    max_exchanges: _Positive = DEFAULT_MAX_EXCHANGES
    compression: CompressionSettings = CompressionSettings()

    read_timeout: _Seconds | None = None
    diagnostics: bool = False

    response: ResponseMode = "auto"
    stateless: bool = False
    resumable: bool = False
    max_sessions: _Positive = DEFAULT_MAX_SESSIONS
    max_unsent_bytes: _Positive = DEFAULT_MAX_UNSENT_BYTES
    session_idle_timeout: _Seconds = SESSION_IDLE_TIMEOUT
    keep_alive_interval: _Seconds = SSE_KEEP_ALIVE_INTERVAL
    quiet_interval: _Seconds = SSE_QUIET_INTERVAL
    body_timeout: _Seconds = HTTP_BODY_TIMEOUT
    grace_timeout: _Seconds = EXCHANGE_GRACE_TIMEOUT
    retry_interval: _Seconds = SSE_RETRY_INTERVAL
    sse_path: str | None = None
    message_path: str | None = None
    websocket: bool = True

    def __post_init__(self) -> None:
        """Check every field, and what they say together.

        Raises:
            ConfigurationError: As for `WebEndpoint`.
        """
        super().__post_init__()
        self._check_paths()

    @property
    def two_paths(self) -> tuple[str, str] | None:
        """The paths of requests and notifications, if that wire is asked for."""
        if self.rpc_path is None or self.notify_path is None:
            return None
        return self.rpc_path, self.notify_path

    def _check_paths(self) -> None:
        used = [self.path, self.rpc_path, self.notify_path, self.sse_path, self.message_path]
        for name in ("rpc_path", "notify_path", "sse_path", "message_path"):
            path = getattr(self, name)
            if path is not None:
                check_url_path(name, path)
        if (self.rpc_path is None) != (self.notify_path is None):
            raise ConfigurationError("rpc_path and notify_path are given together")
        if self.sse_only:
            if self.sse_path is not None or self.rpc_path is not None:
                raise ConfigurationError(f"{self.scheme} has no sse_path and no rpc_path")
        elif (self.sse_path is None) != (self.message_path is None):
            raise ConfigurationError("sse_path and message_path are given together")
        there = [path.rstrip("/") for path in used if path is not None]
        if len({*there}) != len(there):
            raise ConfigurationError(
                "path, rpc_path, notify_path, sse_path and message_path must all differ"
            )


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
