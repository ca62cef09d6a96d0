"""What an MCP endpoint over HTTP is to be like: read by everything that decides about it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ...compression_settings import CompressionSettings
from ...errors import ConfigurationError
from ...limits import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_UNSENT_BYTES, MAX_BATCH_MESSAGES
from ..eras import LEGACY_REVISIONS, MODERN_REVISIONS, REVISIONS, check_revisions

__all__ = ["HttpServerOptions", "ResponseMode", "ServedEra"]

#: How requests are answered: ``json`` (one document, notifications beside it are dropped),
#: ``sse`` (always a stream), ``auto`` (a document, or a stream once there is something to
#: say before the result).
ResponseMode: TypeAlias = Literal["json", "sse", "auto"]
ServedEra: TypeAlias = Literal["modern", "legacy", "auto"]

_TWO_PATHS = ("rpc_path", "notify_path")
_SSE_PATHS = ("sse_path", "message_path")


class HttpServerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One endpoint. Durations are seconds (`math.inf` for no limit).

    Attributes:
        path: The MCP endpoint; served with and without a slash at its end. None serves no
            Streamable HTTP.
        era: ``modern``, ``legacy`` or both (``auto``): narrows `revisions`.
        revisions: Protocol revisions that are served over Streamable HTTP.
        told_revisions: Where nothing modern is served: what clients of other versions are
            told, with -32022, as a bridge does that knows what is behind it. If empty they
            get -32600, by which older clients do not take the server for a modern one.
        response: How requests are answered.
        stateless: Legacy clients get no session: no GET, no DELETE, no requests from the
            server, no resuming.
        resumable: Whether legacy streams carry event ids. Needs an event store.
        sse_path: Where a GET opens the HTTP+SSE transport of 2024-11-05; None serves none.
        message_path: Where its clients POST to.
        rpc_path: Where a POST of one request is answered with one JSON document, without
            eras, sessions or streams; None serves none.
        notify_path: Where a POST of one notification is answered ``{}``.
        max_message_bytes: Largest body of a POST.
        max_batch_messages: Most messages of one batch (2025-03-26).
        max_sessions: Legacy sessions at a time. Over it a session without an open stream
            that was not used for a minute ends in favour of the new one, the longest unused
            first, and those first in which a client never said anything; where there is none,
            `initialize` gets 503.
        max_exchanges: Requests being answered at a time; over it a POST gets 503.
        max_unsent_bytes: Bytes that all responses together may hold for clients that do not
            take them; over it connections are closed, those first that take the least.
        retry_after: Seconds for the ``Retry-After`` of a 503.
        session_idle_timeout: Time without a request after which a session ends. An open
            GET stream is no activity, a request that is being answered is.
        keep_alive_interval: Time of silence after which a stream gets a comment.
        quiet_interval: Time without an answer after which an exchange becomes a stream,
            so that keep-alive comments can flow.
        grace_timeout: How long a legacy exchange goes on after its connection was lost,
            where nobody can resume it.
        retry_interval: What a client is told to wait before it comes back to a stream
            whose connection the server closed.
        compression: How bodies may be coded, either way; without algorithms a coded request
            gets 415.
    """

    path: str | None = "/mcp"
    era: ServedEra = "auto"
    revisions: tuple[str, ...] = REVISIONS
    told_revisions: tuple[str, ...] = ()
    response: ResponseMode = "auto"
    stateless: bool = False
    resumable: bool = False
    sse_path: str | None = None
    message_path: str | None = None
    rpc_path: str | None = None
    notify_path: str | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_batch_messages: int = MAX_BATCH_MESSAGES
    max_sessions: int = 1000
    max_exchanges: int = 1000
    max_unsent_bytes: int = DEFAULT_MAX_UNSENT_BYTES
    retry_after: int = 5
    session_idle_timeout: float = 1800.0
    keep_alive_interval: float = 15.0
    quiet_interval: float = 5.0
    grace_timeout: float = 60.0
    retry_interval: float = 1.0
    compression: CompressionSettings = CompressionSettings()

    def __post_init__(self) -> None:
        for name, choices in (
            ("era", ("modern", "legacy", "auto")),
            ("response", ("json", "sse", "auto")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        check_revisions(self.revisions)
        if self.path is not None and not self.served_revisions:
            raise ConfigurationError(f"none of the revisions belongs to the era {self.era!r}")
        self._check_paths()
        for name in (
            "max_message_bytes",
            "max_batch_messages",
            "max_sessions",
            "max_exchanges",
            "max_unsent_bytes",
        ):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
        if type(self.retry_after) is not int or self.retry_after < 0:
            raise ConfigurationError(f"retry_after must be whole seconds, not {self.retry_after!r}")
        for name in (
            "session_idle_timeout",
            "keep_alive_interval",
            "quiet_interval",
            "grace_timeout",
            "retry_interval",
        ):
            value = getattr(self, name)
            if type(value) not in {int, float} or not value > 0:
                raise ConfigurationError(
                    f"{name} must be positive seconds (math.inf for no limit), not {value!r}"
                )
        # A client waits that long before it may cancel what it asked for by accident, but a
        # proxy would give up on a silent answer: five seconds lie well between.
        if self.quiet_interval < 5:
            raise ConfigurationError("quiet_interval must be at least 5 seconds")

    def _check_paths(self) -> None:
        paths = [self.path, self.sse_path, self.message_path, self.rpc_path, self.notify_path]
        for path in paths:
            if path is not None and (not path.startswith("/") or set(path) & set("?# ")):
                raise ConfigurationError(
                    f"a path must begin with / and hold no ?, # or blank: {path!r}"
                )
        for first, second in (_SSE_PATHS, _TWO_PATHS):
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise ConfigurationError(f"{first} and {second} are set together or not at all")
        given = [path.rstrip("/") for path in paths if path is not None]
        if len(set(given)) != len(given):
            raise ConfigurationError("two of the paths are the same")
        if not given:
            raise ConfigurationError("no path is served")

    @property
    def served_revisions(self) -> tuple[str, ...]:
        """The revisions of `revisions` that belong to `era`, newest first."""
        known = {"modern": MODERN_REVISIONS, "legacy": LEGACY_REVISIONS, "auto": REVISIONS}
        return tuple(sorted(set(self.revisions) & set(known[self.era]), reverse=True))
