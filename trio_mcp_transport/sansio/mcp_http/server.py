"""An MCP endpoint over HTTP: what is to be done about each request.

Used by the Trio server, the ASGI app and any other HTTP server: for each request
`judge_head` says whether to read the body, then `judge_body` what the body is. Admission
(Host, Origin, authentication) comes before and is not decided here. The endpoint
keeps the table of sessions and counts exchanges; it never waits and reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import RpcError
from ...jsonrpc import (
    ErrorCode,
    ErrorResponse,
    InvalidMessage,
    Notification,
    Request,
    Response,
    decode_message,
)
from ..eras import MODERN_REVISIONS
from ..http1 import RequestHead
from ..metadata import RequestMeta, read_meta
from .era_table import VERSION_HEADER, judge_era, unsupported_version
from .legacy_server import LegacyServer, wants_null_id
from .media_types import is_json, read_accept
from .modern_server import ModernServer, SchemaLookup
from .options import HttpServerOptions
from .replies import (
    Reply,
    error_reply,
    invalid_message_reply,
    method_not_allowed,
    not_acceptable,
    rpc_error_reply,
    unavailable,
    unsupported_encoding,
    unsupported_media_type,
)
from .sessions import SessionRecord, SessionTable
from .sse_server import SseServer, session_in_query
from .streams import EventStream, Replay, Step, replayed
from .two_path_server import TwoPathServer
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

_NO_META = RequestMeta()
_VERSION_HEADER = VERSION_HEADER.lower()  # a name in lower case is found at once
_PATHS = ("path", "sse_path", "message_path", "rpc_path", "notify_path")


def _is_encoded(head: RequestHead) -> bool:
    """Whether the body would have to be decoded before it is JSON."""
    encoding = head.headers.get("content-encoding")
    return encoding is not None and encoding.lower() not in {"", "identity"}


class ServerEndpoint:
    """The decisions of one endpoint.

    Args:
        options: What is served, and how.
        new_id: Gives a new session id each time: unguessable, visible ASCII, such as
            `secrets.token_urlsafe`.
        header_schema: Gives what headers a tool mirrors, by its name, or None for a tool
            that has none or is not known; see `mirrored`.

    Attributes:
        options: As given.
        sessions: The legacy sessions.
        exchanges: How many exchanges are in flight.
        read_body: What `judge_head` says of a POST to the path of Streamable HTTP whose head
            is in order, which depends on the head alone: it may be remembered for that head.
    """

    def __init__(
        self,
        options: HttpServerOptions,
        *,
        new_id: Callable[[], str],
        header_schema: SchemaLookup | None = None,
    ) -> None:
        self.options = options
        self.sessions = SessionTable(
            options.max_sessions, options.session_idle_timeout, resumable=options.resumable
        )
        self.exchanges = 0
        self._revisions = options.served_revisions
        self._is_modern_only = not set(self._revisions) - set(MODERN_REVISIONS)
        self._modern = ModernServer(options, header_schema)
        self._legacy = LegacyServer(options, self.sessions, new_id)
        self._sse = SseServer(options, self.sessions, new_id)
        self._two_path = TwoPathServer(options)
        self.read_body = ReadBody(options.max_message_bytes)
        # A path is served with and without a slash at its end: a redirect would lose the
        # body of a POST with many a client.
        self._wires = {
            path.rstrip("/"): name
            for name in _PATHS
            if (path := getattr(options, name)) is not None
        }

    def judge_head(self, head: RequestHead, *, principal: str | None, now: float) -> HeadVerdict:
        """Decide about a request that was admitted, before its body is read.

        Args:
            head: The request.
            principal: Who sent it, as admission found; None: nobody in particular.
            now: The time in seconds, of a clock that never goes back.
        """
        wire = self._wires.get(head.path.rstrip("/"))
        if wire == "path":
            return self._judge_endpoint(head, principal=principal, now=now)
        if wire == "sse_path":
            return self._sse.judge_stream(head, principal=principal, now=now)
        if wire is not None:
            judge = self._sse.judge_post if wire == "message_path" else self._two_path.judge_head
            verdict = judge(head)
            if isinstance(verdict, ReadBody) and _is_encoded(head):
                return unsupported_encoding()
            return verdict
        return error_reply(404, ErrorCode.INVALID_REQUEST, "no such path")

    def judge_body(
        self, head: RequestHead, body: bytes, *, principal: str | None, now: float
    ) -> BodyVerdict:
        """Decide about a request whose head got `ReadBody`. Arguments as in `judge_head`."""
        wire = self._wires.get(head.target) or self._wires[head.path.rstrip("/")]
        verdict: BodyVerdict
        if wire == "path":
            verdict = self._judge_streamable(head, body, principal=principal, now=now)
        elif wire == "message_path":
            return self._sse.judge_message(head, body, principal=principal, now=now)
        elif wire == "notify_path":
            return self._two_path.judge_note(body)
        else:
            verdict = self._two_path.judge_call(body)
        if type(verdict) is StartExchange:
            self.exchanges += 1
            if self.exchanges > self.options.max_exchanges:
                self.end_exchange(verdict, now=now)
                request_id = verdict.messages[0].id if len(verdict.messages) == 1 else None
                return unavailable("too many requests", self.options.retry_after, request_id)
        return verdict

    def named_session(self, head: RequestHead) -> str | None:
        """The id of the legacy session that a request claims to be of, whether there is one.

        Args:
            head: The request.
        """
        wire = self._wires.get(head.path.rstrip("/"))
        if wire == "path" and head.headers.get(VERSION_HEADER) not in MODERN_REVISIONS:
            return head.headers.get("mcp-session-id")
        return session_in_query(head) if wire == "message_path" else None

    def resume(self, verdict: ResumeStream, replay: Replay | None) -> Reply | Resumed:
        """Decide about a client that came back, once the event store was asked.

        Args:
            verdict: What `judge_head` said.
            replay: What the store said.
        """
        session, name = verdict.session, verdict.cursor.stream
        if replay is None or session.state != "open":
            # Told apart from a stream that has nothing new, and from a session that is gone.
            return error_reply(
                410,
                ErrorCode.INVALID_REQUEST,
                "the stream cannot be resumed from there",
                null_id=wants_null_id(session.revision),
            )
        writer: EventStream | None = (
            session.standalone if name == session.standalone.name else session.exchanges.get(name)
        )
        if writer is None:
            return Resumed(Step(events=replayed(name, replay)))
        step = writer.attach(replay)
        return Resumed(step, None if writer.ended else writer)

    def end_exchange(self, start: StartExchange, *, now: float) -> None:
        """An exchange is over, whatever ended it; to be called exactly once for each."""
        self.exchanges -= 1
        session = start.session
        if session is not None:
            if session.exchanges.get(start.writer.name) is start.writer:
                session.end(start.writer)
            self.sessions.end_exchange(session, now=now)

    def begin_alone(self) -> bool:
        """A notification that belongs to no session is handled: it counts as an exchange.

        Returns:
            False if there are too many; else `end_alone` is to be called once.
        """
        if self.exchanges >= self.options.max_exchanges:
            return False
        self.exchanges += 1
        return True

    def end_alone(self) -> None:
        """It has been handled."""
        self.exchanges -= 1

    def end_session(self, session: SessionRecord) -> None:
        """Take a session out; nobody finds it any more. Idempotent."""
        self.sessions.remove(session)

    def expire(self, now: float) -> list[SessionRecord]:
        """Sessions that were idle for too long: out of the table, to be torn down.

        To be called when `next_expiry` is due, and when a session begins, as one of these
        may have made room for it.
        """
        return self.sessions.take_expired(now)

    def next_expiry(self) -> float | None:
        """When `expire` may have something next, or None."""
        return self.sessions.next_expiry()

    # -- Streamable HTTP ----------------------------------------------------------------

    def _judge_endpoint(
        self, head: RequestHead, *, principal: str | None, now: float
    ) -> HeadVerdict:
        if head.method == "POST":
            # Before the body is read, or a page of another origin could have it sent without
            # a preflight.
            if not is_json(head.headers.get("content-type")):
                return unsupported_media_type()
            if _is_encoded(head):
                return unsupported_encoding()
            # "The client MUST include an Accept header, listing both application/json and
            # text/event-stream as supported content types."
            if not read_accept(head.headers.get("accept")).sse:
                return not_acceptable("application/json and text/event-stream")
            return self.read_body
        if head.method == "GET":
            return self._legacy.judge_get(head, principal=principal, now=now)
        if head.method == "DELETE":
            return self._legacy.judge_delete(head, principal=principal, now=now)
        return method_not_allowed(*self._legacy.methods)

    def _judge_streamable(
        self, head: RequestHead, body: bytes, *, principal: str | None, now: float
    ) -> BodyVerdict:
        version = head.headers.get(_VERSION_HEADER)
        if body[:1] != b"{" and body[:64].lstrip()[:1] == b"[":
            if version in MODERN_REVISIONS or self._is_modern_only:
                return error_reply(400, ErrorCode.INVALID_REQUEST, "an array is no message")
            return self._legacy.judge_batch(head, body, principal=principal, now=now)
        try:
            message = decode_message(body)
        except InvalidMessage as error:
            return invalid_message_reply(error, null_id=wants_null_id(version))
        if isinstance(message, Request):
            return self._judge_request(head, message, version, principal=principal, now=now)
        return self._judge_other(head, message, version, principal=principal, now=now)

    def _judge_request(
        self,
        head: RequestHead,
        request: Request,
        version: str | None,
        *,
        principal: str | None,
        now: float,
    ) -> BodyVerdict:
        try:
            try:
                meta = read_meta(request.params)
            except RpcError:
                if version in MODERN_REVISIONS:
                    raise
                meta = _NO_META  # a legacy handler says for itself what is wrong with it
            era = judge_era(request, meta, version, self._revisions, self.options.told_revisions)
        except RpcError as error:
            return rpc_error_reply(400, error, request.id)
        if era == "modern":
            assert version is not None  # it is that of the body
            return self._modern.judge_request(head, request, version)
        return self._legacy.judge_request(head, request, principal=principal, now=now)

    def _judge_other(
        self,
        head: RequestHead,
        message: Notification | Response | ErrorResponse,
        version: str | None,
        *,
        principal: str | None,
        now: float,
    ) -> BodyVerdict:
        """A notification or an answer: the header alone tells the era.

        2026-07-28: "header requirements for notification POSTs are not defined by this
        revision", so one without any counts as modern where nothing legacy is served.
        """
        if version is None and self._is_modern_only:
            version = self._revisions[0]
        if version not in MODERN_REVISIONS:
            return self._legacy.judge_other(head, message, principal=principal, now=now)
        if version not in self._revisions:
            told = self.options.told_revisions
            return rpc_error_reply(400, unsupported_version(version, self._revisions, told), None)
        return self._modern.judge_other(message, version)
