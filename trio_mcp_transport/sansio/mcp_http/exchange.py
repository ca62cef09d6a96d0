"""The answer to one POST of requests: messages in, HTTP events out.

Made by `ServerEndpoint.judge_body`, used by the exchange's channel. It decides whether the
answer is one JSON document or an event stream, which status it has, and when it is over.
It never waits and remembers nothing that went out.

Theory of operation: an exchange begins undecided. Its answers alone make it a document;
the first notification or request, `quiet` or `close_connection` makes it a stream, which
has status 200 whatever follows. What `initialize` has to say before its result is held
back, because the head must name the session, which exists only with a good result. What
fails to reach a client that is gone is counted, and stored where it can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from ...errors import LocalProtocolError, MethodNotFound
from ...jsonrpc import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    encode_message,
)
from ...limits import MAX_QUEUED_NOTIFICATIONS
from ..eras import LEGACY_REVISIONS, Era
from ..http1 import BodyData, EndOfBody, ResponseEvent, ResponseHead
from .options import ResponseMode
from .replies import JSON_HEADERS
from .streams import NOTHING, SSE_HEAD, EventStream, Step

if TYPE_CHECKING:
    from .sessions import SessionRecord

__all__ = ["ExchangeWriter", "status_of"]

_END: Final = EndOfBody()
#: Built once, so that whoever decorates or serialises heads may keep what it made of them.
_JSON_HEADS: Final = {status: ResponseHead(status, JSON_HEADERS) for status in (200, 400, 404)}
_BAD_REQUEST: Final = frozenset({
    ErrorCode.HEADER_MISMATCH,
    ErrorCode.MISSING_CLIENT_CAPABILITY,
    ErrorCode.UNSUPPORTED_PROTOCOL_VERSION,
})


class _InitializeResult(msgspec.Struct):
    protocol_version: str = msgspec.field(name="protocolVersion")


class _Initialized(msgspec.Struct):
    result: _InitializeResult


_decode_initialized = msgspec.json.Decoder(_Initialized).decode


def status_of(message: Message, era: Era) -> int:
    """The HTTP status of an answer that goes out as a document: by its cause, not its code."""
    if era != "modern" or not isinstance(message, ErrorResponse):
        return 200
    # 2026-07-28, Protocol Version Header: "If the server does not implement the requested RPC
    # method, it MUST respond with 404 Not Found and a JSON-RPC error with code -32601". A
    # handler's own -32601 means something else was not found.
    if isinstance(message.cause, MethodNotFound):
        return 404
    # Basic, Error Codes: these three come with "400 Bad Request".
    return 400 if message.error.code in _BAD_REQUEST else 200


class ExchangeWriter(EventStream):
    """What answers one POST.

    Args:
        requests: Ids of what is to be answered.
        era: What they are.
        mode: Document, stream, or whatever is needed.
        accepts_json: Whether the client takes a document.
        session: The legacy session, or None.
        initializes: Whether this is `initialize`; the session is then a pending one.
        open_session: Called with the revision when `initialize` has succeeded.
        batch: Whether the requests came as an array, so that a document is one too.
        failed: What the broken items of that array are answered.

    Attributes:
        requests: As given, all different.
        waiting: Those that have no final answer yet, in order.
        streaming: Whether this has become an event stream.
        answers_to_session: Whether the answers to requests that are sent here go to the
            session's channel in place of this exchange's.
    """

    def __init__(
        self,
        requests: Iterable[RequestId],
        *,
        era: Era,
        mode: ResponseMode,
        accepts_json: bool = True,
        session: SessionRecord | None = None,
        initializes: bool = False,
        open_session: Callable[[str], object] | None = None,
        batch: bool = False,
        failed: Iterable[Message] = (),
    ) -> None:
        if session is None or initializes:
            super().__init__("", numbered=False, primed=False)
        else:
            super().__init__(
                session.next_stream(), numbered=session.resumable, primed=session.primed
            )
        self.requests = tuple(requests)
        self.waiting = dict.fromkeys(self.requests)
        self.streaming = False
        self.answers_to_session = False
        self.attached = True
        self._era = era
        self._mode = mode
        self._accepts_json = accepts_json
        self._session = session
        self._initializes = initializes
        self._open_session = open_session
        self._opened = False
        self._batch = batch
        self._answers = list(map(encode_message, failed))  # for the document
        self._status = 200
        self._held: list[bytes] = []  # what is said before `initialize` has its result

    @property
    def can_ask(self) -> bool:
        """Whether the server may send requests here at the moment."""
        # 2026-07-28: "The server MUST NOT send independent JSON-RPC requests on this stream."
        return (
            self._session is not None
            and not self._initializes
            and (self._mode != "json" or self.streaming)
            and bool(self.waiting)
            and not self.lost
        )

    @property
    def lost(self) -> bool:
        """Whether nothing that is said here can reach the client any more."""
        # A client that has seen no event id has nothing to come back with.
        return self.ended or not (self.attached or (self.numbered and self.streaming))

    # -- what is said -------------------------------------------------------------------

    def answer(
        self, message: Message, data: bytes | None = None
    ) -> tuple[ResponseHead, bytes] | None:
        """The whole response, if this message makes one; the exchange is over then.

        The quick way for the common case, meant for `Http1Server.send_response`.

        Args:
            message: What the server says.
            data: Its JSON, where that is there already.

        Returns:
            None if it does not; then nothing was done, go on with `send`.
        """
        if (
            (type(message) is not Response and type(message) is not ErrorResponse)
            or self.streaming
            or not self.attached
            or self._batch
            or self._initializes
            or message.id is None
            or message.id not in self.waiting
        ):
            return None
        status = status_of(message, self._era)
        if status == 200 and (self._mode == "sse" or not self._accepts_json):
            return None
        body = encode_message(message) if data is None else data
        self.waiting.clear()
        self.ended = True
        return _JSON_HEADS[status], body

    def send(self, message: Message) -> Step:
        """Say something.

        Raises:
            LocalProtocolError: It is a request, and `can_ask` is False.
        """
        return self.send_encoded(((message, encode_message(message)),))

    def send_many(self, messages: Iterable[Message]) -> Step:
        """Say several things with one write.

        Raises:
            LocalProtocolError: As `send`; nothing was done.
        """
        return self.send_encoded([(message, encode_message(message)) for message in messages])

    def send_encoded(self, messages: Sequence[tuple[Message, bytes]]) -> Step:
        """As `send_many`, for messages whose JSON is there already.

        Raises:
            LocalProtocolError: As `send`; nothing was done.
        """
        for message, _ in messages:
            if type(message) is Request and not self.can_ask:
                raise LocalProtocolError("no request can be sent to this client from here")
        payloads: list[bytes] = []
        for message, data in messages:
            if isinstance(message, Response | ErrorResponse):
                self._take_answer(message, data, payloads)
            else:
                self._take_other(message, data, payloads)
        return self._put(payloads)

    def quiet(self) -> Step:
        """Nothing was said for `quiet_interval`: begin a stream, where that is wanted."""
        if self.lost or self.streaming or self._mode == "json" or self._initializes:
            return NOTHING
        self.streaming = True
        return self._say(self._take_answers())

    def close_connection(self, retry: float) -> Step:
        """End the connection but not the stream. See `EventStream.close_connection`."""
        step = super().close_connection(retry)
        self.streaming = self.streaming or step is not NOTHING
        return step

    # -- the end ------------------------------------------------------------------------

    def cancel(self, request_id: RequestId) -> Step:
        """A request was cancelled by the client: it gets no answer.

        `initialize` cannot be cancelled.
        """
        if request_id not in self.waiting or self._initializes:
            return NOTHING
        del self.waiting[request_id]
        return NOTHING if self.waiting else self.end()

    def finish(self) -> Step:
        """The handler is done: requests without an answer get -32603."""
        text = "the server has no answer to this request"
        return self.send_many([
            ErrorResponse(request_id, ErrorObject(ErrorCode.INTERNAL_ERROR, text))
            for request_id in self.waiting
        ])

    def end(self) -> Step:
        """End without another message: of a document that is begun, the rest is left out."""
        self.waiting.clear()
        if self.ended:
            return NOTHING
        if not self._answers:
            # A stream even where a document was wanted: none can say nothing.
            self.streaming = True
        return self._put([], end=True)

    # -- inside -------------------------------------------------------------------------

    def _take_answer(
        self, message: Response | ErrorResponse, data: bytes, payloads: list[bytes]
    ) -> None:
        request_id, lost = message.id, self.lost
        if request_id is None or request_id not in self.waiting:
            self.dropped += 1  # late, or the second one
            return
        del self.waiting[request_id]
        if lost:
            self.dropped += 1
            return
        if self._initializes and isinstance(message, Response):
            self._begin_session(data)
            if self._held and self._mode != "json":
                self.streaming = True
                payloads += self._held
        if not self.streaming:
            status = status_of(message, self._era)
            if (self._accepts_json and self._mode != "sse") or status != 200:
                self._status = status
                self._answers.append(data)
                return
            self.streaming = True
        payloads.append(data)

    def _take_other(
        self, message: Request | Notification, data: bytes, payloads: list[bytes]
    ) -> None:
        payload: bytes | None = data
        if self._session is not None:
            owner = None if self.answers_to_session else self
            payload = self._session.asked.outgoing(message, data, owner)
        if payload is None or not self.waiting or self.lost:
            self.dropped += 1
        elif self._initializes:
            if len(self._held) < MAX_QUEUED_NOTIFICATIONS:
                self._held.append(payload)
            else:
                self.dropped += 1
        elif self._mode == "json" and not self.streaming:
            self.dropped += 1
        else:
            self.streaming = True
            payloads.append(payload)

    def _begin_session(self, data: bytes) -> None:
        """Open the session, if the result of `initialize` is a good one."""
        if self._open_session is None:
            return
        try:
            revision = _decode_initialized(data).result.protocol_version
        except msgspec.DecodeError:
            return
        if revision in LEGACY_REVISIONS:
            self._open_session(revision)
            self._opened = True

    def _put(self, payloads: list[bytes], *, end: bool = False) -> Step:
        """What goes out now that `payloads` are to."""
        if self.ended:
            return NOTHING
        done = end or not self.waiting
        if self.streaming:
            payloads = self._take_answers() + payloads
            if not self.attached and not self.numbered:
                self.dropped += len(payloads)
                self.ended = done
                return NOTHING
            return self._say(payloads, end=done) if payloads or done else NOTHING
        if not done:
            return NOTHING  # some of a batch is answered
        self.ended = True
        answers = self._take_answers()
        if not self.attached:
            self.dropped += len(answers)
            return NOTHING
        # JSON-RPC 2.0, section 6: "The Server should respond with an Array containing the
        # corresponding Response objects".
        body = b"[%b]" % b",".join(answers) if self._batch else answers[0]
        head = _JSON_HEADS[self._status]
        return Step(events=(self._with_session(head), BodyData(body), _END))

    def _take_answers(self) -> list[bytes]:
        answers, self._answers = self._answers, []
        return answers

    def _head(self) -> tuple[ResponseEvent, ...]:
        head = super()._head()
        return (self._with_session(SSE_HEAD),) if head else head

    def _with_session(self, head: ResponseHead) -> ResponseHead:
        if not self._opened or self._session is None:
            return head
        # "A server [...] MAY assign a session ID at initialization time, by including it in an
        # MCP-Session-Id header on the HTTP response containing the InitializeResult."
        return ResponseHead(head.status, head.headers.with_("mcp-session-id", self._session.id))
