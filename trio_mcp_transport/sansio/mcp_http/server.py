"""An MCP endpoint over HTTP: what is to be done about each request.

Used by the Trio server, the ASGI app and any other HTTP server: for each request
`judge_head` says whether to read the body, then `judge_body` what the body is. Admission
(Host, Origin, authentication) comes before and is not decided here. The endpoint
keeps the table of sessions and counts exchanges; it never waits and reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable

from ..http1 import RequestHead
from .options import HttpServerOptions
from .replies import Reply
from .sessions import SessionRecord, SessionTable
from .streams import Replay
from .verdicts import (
    BodyVerdict,
    Deliver,
    EndSession,
    HeadVerdict,
    OpenSse,
    OpenStream,
    ReadBody,
    Resumed,
    ResumeStream,
    StartExchange,
)

__all__ = [
    "BodyVerdict",
    "Deliver",
    "EndSession",
    "HeadVerdict",
    "OpenSse",
    "OpenStream",
    "ReadBody",
    "ResumeStream",
    "Resumed",
    "ServerEndpoint",
    "StartExchange",
]


class ServerEndpoint:
    """The decisions of one endpoint.

    Args:
        options: What is served, and how.
        new_id: Gives a new session id each time: unguessable, visible ASCII, such as
            `secrets.token_urlsafe`.
        header_schema: Gives a tool's ``inputSchema`` headers (see `mirrored`), or None for
            a tool that has none or is not known.

    Attributes:
        options: As given.
        sessions: The legacy sessions.
        exchanges: How many exchanges are in flight.
    """

    options: HttpServerOptions
    sessions: SessionTable
    exchanges: int

    def __init__(self, options: HttpServerOptions, *, new_id: Callable[[], str]) -> None:
        raise NotImplementedError

    def judge_head(self, head: RequestHead, *, principal: str | None, now: float) -> HeadVerdict:
        """Decide about a request that was admitted, before its body is read."""
        raise NotImplementedError

    def judge_body(
        self, head: RequestHead, body: bytes, *, principal: str | None, now: float
    ) -> BodyVerdict:
        """Decide about a request whose head got `ReadBody`."""
        raise NotImplementedError

    def resume(self, verdict: ResumeStream, replay: Replay | None) -> Reply | Resumed:
        """Decide about a client that came back, once the event store was asked."""
        raise NotImplementedError

    def end_exchange(self, start: StartExchange, *, now: float) -> None:
        """An exchange is over, whatever ended it; to be called exactly once for each."""
        raise NotImplementedError

    def end_session(self, session: SessionRecord) -> None:
        """Take a session out; unknown to everybody from now on."""
        raise NotImplementedError

    def expire(self, now: float) -> list[SessionRecord]:
        """Sessions that have been idle for too long: out of the table, to be torn down."""
        raise NotImplementedError

    def next_expiry(self) -> float | None:
        """When `expire` may have something next, or None."""
        raise NotImplementedError
