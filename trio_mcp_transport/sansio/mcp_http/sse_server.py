"""HTTP+SSE, the transport of revision 2024-11-05: the server's decisions.

One session is one channel: all that the server says goes out on the stream of a GET, all
that the client says comes in by POSTs that are answered 202. The session's id stands in
the address of those POSTs, and is good for the principal that opened the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

from ...jsonrpc import InvalidMessage, decode_message
from ..http1 import RequestHead
from .media_types import is_json, read_accept
from .options import HttpServerOptions
from .replies import (
    ACCEPTED,
    Reply,
    error_reply,
    invalid_message_reply,
    method_not_allowed,
    not_acceptable,
    unavailable,
    unsupported_media_type,
)
from .sessions import Delivery, SessionTable
from .sse_writer import SseWriter
from .verdicts import Deliver, OpenSse, ReadBody

__all__ = ["SseServer", "session_in_query"]

#: What both official SDKs' servers have called it; either is understood.
_ID_NAMES = ("session_id", "sessionId")


def session_in_query(head: RequestHead) -> str | None:
    """The id of the session that the address of a POST names; None if it names none."""
    return next((value for name, value in parse_qsl(head.query) if name in _ID_NAMES), None)


class SseServer:
    """The decisions about the two paths of HTTP+SSE.

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

    def judge_stream(
        self, head: RequestHead, *, principal: str | None, now: float
    ) -> Reply | OpenSse:
        """Decide about a request for the path that opens streams."""
        if head.method != "GET":
            return method_not_allowed("GET")
        if not read_accept(head.headers.get("accept")).sse:
            return not_acceptable("text/event-stream")
        record = self._sessions.create(self._new_id(), principal, kind="sse", now=now)
        if record is None:
            return unavailable("too many sessions", self._options.retry_after)
        self._sessions.open(record, None)
        path = self._options.message_path
        assert path is not None  # the two paths are given together
        return OpenSse(record, SseWriter(path, record.id))

    def judge_post(self, head: RequestHead) -> Reply | ReadBody:
        """Decide about a request for the path that takes messages."""
        if head.method != "POST":
            return method_not_allowed("POST")
        if not is_json(head.headers.get("content-type")):
            return unsupported_media_type()
        return ReadBody(self._options.max_message_bytes)

    def judge_message(
        self, head: RequestHead, body: bytes, *, principal: str | None, now: float
    ) -> Reply | Deliver:
        """Decide about a message."""
        session_id = session_in_query(head)
        if session_id is None:
            return error_reply(400, -32600, "the address names no session")
        record = self._sessions.find(session_id, principal, kind="sse", now=now)
        if record is None:
            return error_reply(404, -32600, "no such session")
        try:
            message = decode_message(body)
        except InvalidMessage as error:
            return invalid_message_reply(error, null_id=True)
        return Deliver((Delivery(message),), ACCEPTED, record, "legacy", None)
