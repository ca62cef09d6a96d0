"""Streamable HTTP of 2025-03-26 to 2025-11-25: the server's decisions.

Called by `ServerEndpoint` for GET and DELETE, and for a POST once its era is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from ...jsonrpc import (
    ErrorCode,
    ErrorResponse,
    InvalidMessage,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    decode_batch,
    encode_batch,
    invalid_message_answer,
)
from ..eras import LEGACY_REVISIONS, MODERN_REVISIONS
from ..http1 import RequestHead
from .era_table import VERSION_HEADER, unsupported_version
from .exchange import ExchangeWriter
from .media_types import read_accept
from .options import HttpServerOptions
from .replies import (
    ACCEPTED,
    JSON_HEADERS,
    Reply,
    error_reply,
    invalid_message_reply,
    method_not_allowed,
    not_acceptable,
    rpc_error_reply,
    unavailable,
)
from .sessions import Delivery, SessionRecord, SessionTable
from .streams import parse_event_id
from .verdicts import Deliver, EndSession, OpenStream, ResumeStream, StartExchange

__all__ = ["ASSUMED_REVISION", "LegacyServer", "wants_null_id"]

#: "if the server does not receive an MCP-Protocol-Version header, and has no other way to
#: identify the version [...] the server SHOULD assume protocol version 2025-03-26."
ASSUMED_REVISION = "2025-03-26"
#: The only revision with batches. 2025-06-18: "The body of the POST request MUST be a single
#: JSON-RPC request, notification, or response."
_BATCH_REVISION = "2025-03-26"
#: From this one on an error that belongs to no request "has no id".
_NO_ID_SINCE = "2025-11-25"
_INVALID = ErrorCode.INVALID_REQUEST


def wants_null_id(revision: str | None) -> bool:
    """Whether an error that belongs to no request says ``"id": null`` in this revision."""
    return (revision or ASSUMED_REVISION) < _NO_ID_SINCE


class LegacyServer:
    """The decisions about legacy requests.

    Args:
        options: The endpoint.
        sessions: Its sessions.
        new_id: Gives session ids.
    """

    def __init__(
        self, options: HttpServerOptions, sessions: SessionTable, new_id: Callable[[], str]
    ) -> None:
        self._options = options
        self._sessions = sessions
        self._new_id = new_id
        self._revisions = options.served_revisions
        self._told = options.told_revisions
        self._stateless = options.stateless
        legacy = any(revision in LEGACY_REVISIONS for revision in self._revisions)
        #: What the MCP endpoint's path takes.
        self.methods = ("POST", "GET", "DELETE") if legacy and not self._stateless else ("POST",)

    # -- GET and DELETE -----------------------------------------------------------------

    def judge_get(
        self, head: RequestHead, *, principal: str | None, now: float
    ) -> Reply | OpenStream | ResumeStream:
        """Decide about a GET: a standalone stream, or one that is taken up again."""
        headers = head.headers
        if "GET" not in self.methods or headers.get(VERSION_HEADER) in MODERN_REVISIONS:
            # "The server MUST either return Content-Type: text/event-stream in response to
            # this HTTP GET, or else return HTTP 405 Method Not Allowed".
            return method_not_allowed(*self._other_methods(head))
        if not read_accept(headers.get("accept")).sse:
            return not_acceptable("text/event-stream")
        session = self._find_session(head, None, principal=principal, now=now)
        if isinstance(session, Reply):
            return session
        last = headers.get("last-event-id")
        if not last or not session.resumable:
            return OpenStream(session, session.standalone)
        cursor = parse_event_id(last)
        if cursor is None:
            return error_reply(400, _INVALID, "the Last-Event-ID is none of this server's")
        return ResumeStream(session, cursor)

    def judge_delete(
        self, head: RequestHead, *, principal: str | None, now: float
    ) -> Reply | EndSession:
        """Decide about a DELETE: the end of a session."""
        headers = head.headers
        if "DELETE" not in self.methods or headers.get(VERSION_HEADER) in MODERN_REVISIONS:
            return method_not_allowed(*self._other_methods(head))
        session = self._find_session(head, None, principal=principal, now=now)
        if isinstance(session, Reply):
            return session
        self._sessions.remove(session)
        return EndSession(session, Reply(204))

    def _other_methods(self, head: RequestHead) -> tuple[str, ...]:
        modern = head.headers.get(VERSION_HEADER) in MODERN_REVISIONS
        return ("POST",) if modern else self.methods

    # -- POST of one message ------------------------------------------------------------

    def judge_request(
        self, head: RequestHead, request: Request, *, principal: str | None, now: float
    ) -> Reply | StartExchange:
        """Decide about a request."""
        if request.method == "initialize":
            return self._initialize(head, request, principal=principal, now=now)
        session = self._session_or_none(head, request.id, principal=principal, now=now)
        if isinstance(session, Reply):
            return session
        writer = self._writer(head, (request.id,), session)
        return self._start(head, (request,), writer, session)

    def judge_other(
        self,
        head: RequestHead,
        message: Notification | Response | ErrorResponse,
        *,
        principal: str | None,
        now: float,
    ) -> Reply | Deliver:
        """Decide about a notification, or an answer."""
        session = self._session_or_none(head, None, principal=principal, now=now)
        if isinstance(session, Reply):
            return session
        return self._deliver(head, (message,), session, now=now)

    def _initialize(
        self, head: RequestHead, request: Request, *, principal: str | None, now: float
    ) -> Reply | StartExchange:
        session: SessionRecord | None = None
        open_session: Callable[[str], object] | None = None
        if not self._stateless:
            if "mcp-session-id" in head.headers:
                return error_reply(
                    400,
                    _INVALID,
                    "initialize begins a session and must not name one",
                    request_id=request.id,
                )
            session = self._sessions.create(self._new_id(), principal, kind="streamable", now=now)
            if session is None:
                return unavailable("too many sessions", self._options.retry_after, request.id)
            open_session = partial(self._sessions.open, session)
        writer = ExchangeWriter(
            (request.id,),
            era="legacy",
            mode=self._options.response,
            accepts_json=read_accept(head.headers.get("accept")).json,
            session=session,
            initializes=True,
            open_session=open_session,
        )
        return StartExchange((request,), writer, "legacy", None, session)

    # -- POST of a batch ----------------------------------------------------------------

    def judge_batch(
        self, head: RequestHead, body: bytes, *, principal: str | None, now: float
    ) -> Reply | StartExchange | Deliver:
        """Decide about an array of messages."""
        session = self._session_or_none(head, None, principal=principal, now=now)
        if isinstance(session, Reply):
            return session
        revision = self._revision(head, session)
        null_id = wants_null_id(revision)
        if revision != _BATCH_REVISION:
            return error_reply(400, _INVALID, "an array is no message", null_id=null_id)
        try:
            items = decode_batch(body, max_messages=self._options.max_batch_messages).items
        except InvalidMessage as error:
            return invalid_message_reply(error, null_id=null_id)
        requests: dict[RequestId, Request] = {}
        others: list[Notification | Response | ErrorResponse] = []
        failed: list[Message] = []
        for item in items:
            if isinstance(item, InvalidMessage):
                if item.answerable:
                    failed.append(invalid_message_answer(item))
            elif not isinstance(item, Request):
                others.append(item)
            elif item.id in requests:
                again = InvalidMessage("the batch has this id twice", request_id=item.id)
                failed.append(invalid_message_answer(again))
            else:
                requests[item.id] = item
        if requests and any(not isinstance(other, Notification) for other in others):
            # "An array batching one or more requests and/or notifications" or "one or more
            # responses".
            return error_reply(
                400, _INVALID, "a batch must not hold both requests and answers", null_id=null_id
            )
        if requests:
            return self._start_batch(head, requests, others, failed, session, now=now)
        if failed:
            return Reply(400, JSON_HEADERS, encode_batch(failed))
        return self._deliver(head, others, session, now=now)

    def _start_batch(
        self,
        head: RequestHead,
        requests: dict[RequestId, Request],
        others: list[Notification | Response | ErrorResponse],
        failed: list[Message],
        session: SessionRecord | None,
        *,
        now: float,
    ) -> StartExchange:
        writer = self._writer(head, tuple(requests), session, batch=True, failed=failed)
        start = self._start(head, tuple(requests.values()), writer, session)
        # After it has begun: a cancellation may be of a request in the same batch.
        deliveries = self._deliver(head, others, session, now=now).deliveries
        return StartExchange(start.messages, writer, "legacy", start.revision, session, deliveries)

    # -- parts --------------------------------------------------------------------------

    def _writer(
        self,
        head: RequestHead,
        requests: tuple[RequestId, ...],
        session: SessionRecord | None,
        *,
        batch: bool = False,
        failed: list[Message] | None = None,
    ) -> ExchangeWriter:
        return ExchangeWriter(
            requests,
            era="legacy",
            mode=self._options.response,
            accepts_json=read_accept(head.headers.get("accept")).json,
            session=session,
            batch=batch,
            failed=failed or (),
        )

    def _start(
        self,
        head: RequestHead,
        requests: tuple[Request, ...],
        writer: ExchangeWriter,
        session: SessionRecord | None,
    ) -> StartExchange:
        if session is not None:
            session.begin(writer)
            self._sessions.begin_exchange(session)
        return StartExchange(requests, writer, "legacy", self._revision(head, session), session)

    def _deliver(
        self,
        head: RequestHead,
        messages: Iterable[Notification | Response | ErrorResponse],
        session: SessionRecord | None,
        *,
        now: float,
    ) -> Deliver:
        deliveries: list[Delivery] = []
        for message in messages:
            delivery: Delivery | None
            if session is not None:
                delivery = session.route(message)
            else:
                # Nothing was asked of a client that has no session.
                delivery = Delivery(message) if isinstance(message, Notification) else None
            if delivery is not None:
                deliveries.append(delivery)
        if session is not None:
            self._sessions.touch(session, now=now)
        # "If the server accepts the input, the server MUST return HTTP status code 202
        # Accepted with no body."
        return Deliver(
            tuple(deliveries), ACCEPTED, session, "legacy", self._revision(head, session)
        )

    def _revision(self, head: RequestHead, session: SessionRecord | None) -> str:
        if session is not None and session.revision is not None:
            return session.revision
        return head.headers.get(VERSION_HEADER) or ASSUMED_REVISION

    def _session_or_none(
        self, head: RequestHead, request_id: RequestId | None, *, principal: str | None, now: float
    ) -> SessionRecord | Reply | None:
        """The session of a POST; None for a server that has none."""
        if self._stateless:
            return self._refuse_version(head, request_id)
        return self._find_session(head, request_id, principal=principal, now=now)

    def _find_session(
        self, head: RequestHead, request_id: RequestId | None, *, principal: str | None, now: float
    ) -> SessionRecord | Reply:
        refused = self._refuse_version(head, request_id)
        if refused is not None:
            return refused
        headers = head.headers
        null_id = request_id is None and wants_null_id(headers.get(VERSION_HEADER))
        session_id = headers.get("mcp-session-id")
        if session_id is None:
            # "Servers that require a session ID SHOULD respond to requests without an
            # MCP-Session-Id header (other than initialization) with HTTP 400 Bad Request."
            return error_reply(
                400, _INVALID, "no MCP-Session-Id", request_id=request_id, null_id=null_id
            )
        session = self._sessions.find(session_id, principal, kind="streamable", now=now)
        if session is None:
            # "[...] after which it MUST respond to requests containing that session ID with
            # HTTP 404 Not Found." One's own unknown session and another's are alike.
            return error_reply(
                404, _INVALID, "no such session", request_id=request_id, null_id=null_id
            )
        return session

    def _refuse_version(self, head: RequestHead, request_id: RequestId | None) -> Reply | None:
        version = head.headers.get(VERSION_HEADER)
        if version is None or (version in LEGACY_REVISIONS and version in self._revisions):
            return None
        # One that is served but is not the session's is let pass: "The protocol version sent by
        # the client SHOULD be the one negotiated", and some send their own newest.
        # "If the server receives a request with an invalid or unsupported
        # MCP-Protocol-Version, it MUST respond with 400 Bad Request."
        error = unsupported_version(version, self._revisions, self._told)
        return rpc_error_reply(400, error, request_id)
