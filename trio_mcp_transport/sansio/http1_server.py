"""The server's side of one HTTP/1.1 connection.

Driven by the HTTP server's connections, by the ASGI application's tests and by examples on
other event loops. It reads requests one after another, holds each until the adapter has
decided whether its body may come, and writes the responses. It never decides whether a
request is allowed, and never writes a byte on its own but 100 Continue.

==========  ===================================  ===========================================
receiving   `next_event` returns                 leaves by
==========  ===================================  ===========================================
HEAD        `RequestHead`, `EndOfData`           the head is complete: HELD
HELD        `PAUSED`                             `accept_body`: BODY
BODY        `BodyData`, `EndOfBody`              the body is complete: DONE
DONE        `PAUSED`                             `start_next_cycle`, after the response: HEAD
SWITCHED    `PAUSED`                             never: `trailing_data` is another protocol's
ENDED       `EndOfData`                          never
ERROR       raises                               never: one response, then the end
==========  ===================================  ===========================================

A response may be sent from HELD on, so before the body has come; a body that is not complete
when the response begins is never read, and the connection closes. What a client sends ahead
(pipelining, RFC 9112, section 9.3.2) stays in the buffer until its turn.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError
from .headers import NO_HEADERS, Headers
from .http1 import (
    BodyData,
    EndOfBody,
    Http1Limits,
    RequestHead,
    ResponseEvent,
    ResponseHead,
    status_line,
)
from .http1_body import BodyReader, body_reader
from .http1_head import (
    CHUNKED,
    UNTIL_CLOSE,
    Framing,
    HeadMemory,
    HeadScanner,
    check_first_bytes,
    parse_request,
)
from .machine import NEED_DATA, PAUSED, EndOfData, NeedData, Paused

__all__ = ["Http1Server", "ServerEvent"]

#: What `Http1Server.next_event` gives beside `NEED_DATA` and `PAUSED`.
ServerEvent: TypeAlias = RequestHead | BodyData | EndOfBody | EndOfData

_END_OF_BODY = EndOfBody()
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"Connection: close\r\n"
_UPGRADE = b"Connection: Upgrade\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


class _Receiving(enum.Enum):
    HEAD = "a head"
    HELD = "a verdict"
    BODY = "a body"
    DONE = "the response"
    SWITCHED = "another protocol"
    ENDED = "nothing"
    ERROR = "nothing after a fault"


class _Sending(enum.Enum):
    IDLE = "no request"
    READY = "a request without a response"
    BODY = "a response in progress"
    DONE = "a complete response"
    SWITCHED = "another protocol"
    ERROR = "a response that was not written"


# Looking up a member of an enum costs, before Python 3.12.
_HEAD, _HELD, _BODY, _DONE, _SWITCHED, _ENDED, _ERROR = _Receiving
_IDLE, _READY, _SENDING, _SENT, _OTHER, _BROKEN = _Sending


class Http1Server:
    """One connection of a server.

    `next_event` gives, for each request, a `RequestHead`, then `PAUSED` until `accept_body`
    or a response; after `accept_body` the body as `BodyData` and `EndOfBody`; then `PAUSED`
    until `start_next_cycle`. `EndOfData` is the end of the connection between requests.

    Args:
        limits: What a head may measure.
    """

    __slots__ = (
        "_buffer",
        "_close",
        "_eof",
        "_fault",
        "_framing",
        "_heads",
        "_limits",
        "_method",
        "_own_words",
        "_plain",
        "_plain_start",
        "_reader",
        "_receiving",
        "_remaining",
        "_request",
        "_response_framing",
        "_scanner",
        "_sending",
        "_skipped_empty_line",
    )

    def __init__(self, limits: Http1Limits | None = None) -> None:
        self._limits = Http1Limits() if limits is None else limits
        self._scanner = HeadScanner(self._limits, "request")
        self._heads = HeadMemory(parse_request)
        self._buffer = bytearray()
        self._eof = False
        self._fault: RemoteProtocolError | None = None
        self._receiving = _HEAD
        self._sending = _IDLE
        self._skipped_empty_line = False
        self._own_words = b""
        # Of the request that is served.
        self._request: RequestHead | None = None
        self._framing: Framing = 0
        self._reader: BodyReader | None = None
        self._close = False
        # Of its response: how the body is framed (None: there is none), and what is to
        # come of a known length.
        self._response_framing: Framing | None = None
        self._remaining = 0
        # The head of a response before in which no field has to do with framing, and its
        # bytes without any length: most come again.
        self._plain: ResponseHead | None = None
        self._plain_start = b""

    @property
    def keep_alive(self) -> bool:
        """Whether the request that is served allows another one after it.

        Turns False as soon as this side decides otherwise: it answered with
        ``Connection: close``, or before the body was complete.
        """
        return not self._close

    @property
    def must_close(self) -> bool:
        """Whether nothing more can be read or written: close the connection.

        While the peer still sends, a socket that is closed at once may take the response
        with it (RFC 9112, section 9.6): end the sending side, read on for a moment, then
        close.
        """
        return (
            self._sending is _BROKEN
            or (self._sending is _SENT and self._close)
            or self._receiving is _ENDED
        )

    @property
    def response_complete(self) -> bool:
        """Whether the response to this request was made in full."""
        return self._sending is _SENT

    @property
    def response_started(self) -> bool:
        """Whether the head of the response to this request was made."""
        return self._sending is not _IDLE and self._sending is not _READY

    @property
    def buffered(self) -> int:
        """Bytes received and not consumed yet: what an adapter that reads on must bound."""
        return len(self._buffer)

    @property
    def has_input(self) -> bool:
        """Whether there may be an event: bytes that are not consumed yet, or the end."""
        return self._eof or bool(self._buffer)

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """What was received and not consumed, and whether the end follows it."""
        return bytes(self._buffer), self._eof

    def receive_data(self, data: bytes) -> None:
        """Take bytes in. Faults come out of `next_event`, in order.

        Raises:
            LocalProtocolError: After `receive_eof`.
        """
        if self._eof:
            raise LocalProtocolError("receive_data() after receive_eof()")
        if self._receiving is not _ERROR:
            self._buffer += data

    def receive_eof(self) -> None:
        """Tell that the peer will send no more. Idempotent."""
        self._eof = True

    def next_event(self) -> ServerEvent | NeedData | Paused:
        """The next event, `NEED_DATA` or `PAUSED`.

        Raises:
            RemoteProtocolError: The peer broke HTTP or a limit; `status` says how to answer.
                Final: one response is still legal, and closes.
        """
        receiving = self._receiving
        try:
            if receiving is _HEAD:
                return self._next_head()
            if receiving is _BODY:
                return self._next_of_body()
        except RemoteProtocolError as error:
            self._fault = error
            self._receiving = receiving = _ERROR
            self._close = True
            self._buffer.clear()
            if self._sending is _IDLE:
                self._sending = _READY
        if receiving is _ERROR:
            assert self._fault is not None
            raise RemoteProtocolError(str(self._fault), status=self._fault.status)
        return EndOfData() if receiving is _ENDED else PAUSED

    def _next_head(self) -> RequestHead | EndOfData | NeedData:
        buffer = self._buffer
        # RFC 9112, section 2.2: "a server that is expecting to receive and parse a
        # request-line SHOULD ignore at least one empty line (CRLF) received prior to the
        # request-line."
        if not self._skipped_empty_line and buffer.startswith(b"\r"):
            if len(buffer) == 1 and not self._eof:
                return NEED_DATA
            if buffer.startswith(b"\r\n"):
                self._skipped_empty_line = True
                del buffer[:2]
        if not buffer:
            if not self._eof:
                return NEED_DATA
            self._receiving = _ENDED
            self._close = True
            return EndOfData()
        check_first_bytes(buffer, "request")
        head = self._scanner.scan(buffer)
        if head is None:
            if self._eof:
                raise RemoteProtocolError("the connection ended in the middle of a head")
            return NEED_DATA
        self._request, self._framing, keep_alive = self._heads.read(head)
        self._close = not keep_alive
        self._receiving = _HELD
        self._sending = _READY
        return self._request

    def _next_of_body(self) -> BodyData | EndOfBody | NeedData:
        reader = self._reader
        assert reader is not None
        data = b"" if reader.done else reader.read(self._buffer)
        if data:
            return BodyData(data)
        if reader.done:
            self._receiving = _DONE
            return _END_OF_BODY
        if self._eof:
            reader.read_eof()
        return NEED_DATA

    def accept_body(self, max_body_bytes: int) -> None:
        """Let the body of this request come, at most so many bytes of it.

        A length over it, or a body that grows over it, is a fault of status 413. If the
        client waits for 100 Continue it is queued for `bytes_to_send`, unless the length is
        over the limit.

        Raises:
            LocalProtocolError: There is no request that waits for this.
        """
        if self._receiving is not _HELD or self._request is None:
            raise LocalProtocolError(f"accept_body() while waiting for {self._receiving.value}")
        framing = self._framing
        self._reader = body_reader(framing, max_body_bytes, self._limits)
        self._receiving = _BODY
        # RFC 9110, section 10.1.1: not needed once a final response has begun.
        if (
            self._request.expects_continue
            and self._sending is _READY
            and (framing == CHUNKED or int(framing) <= max_body_bytes)
        ):
            self._own_words += _CONTINUE

    def accept_whole_body(self, max_body_bytes: int) -> bytes | None:
        """The quick way for the common case: `accept_body`, and the body if all of it is here.

        Returns:
            The body, after which there is no event of it. None if not all of it is here; then
            nothing was done, go on with `accept_body`.

        Raises:
            LocalProtocolError: As `accept_body`.
        """
        if self._receiving is not _HELD or self._request is None:
            raise LocalProtocolError(f"accept_body() while waiting for {self._receiving.value}")
        framing, buffer = self._framing, self._buffer
        if (
            not isinstance(framing, int)
            or framing > len(buffer)
            or framing > max_body_bytes
            or self._request.expects_continue
        ):
            return None
        self._receiving = _DONE
        body = bytes(buffer if framing == len(buffer) else buffer[:framing])
        del buffer[:framing]
        return body

    def bytes_to_send(self) -> bytes:
        """What the machine writes on its own (100 Continue); drain it after `accept_body`."""
        data, self._own_words = self._own_words, b""
        return data

    def send(self, event: ResponseEvent) -> bytes:
        """The bytes to write for a part of a response.

        A body whose ``Content-Length`` is not given is sent in chunks; to a client of
        HTTP/1.0, until the connection closes. The body of a response to HEAD is left out, and
        `BodyData` without data writes nothing.

        Raises:
            LocalProtocolError: The event is not legal now, or not valid. Nothing was made,
                and the state is what it was.
        """
        if isinstance(event, BodyData):
            return self._send_data(event.data)
        if isinstance(event, EndOfBody):
            return self._end_response()
        if isinstance(event, ResponseHead):
            return self._send_head(event)
        self._check_ready()
        if not 100 <= event.status <= 199 or event.status == 101:
            raise LocalProtocolError(f"{event.status} is no informational status")
        # RFC 9110, section 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client."
        if self._request is None or self._request.http_version == "1.0":
            return b""
        return b"%b%b\r\n" % (status_line(event.status, ""), event.headers.wire)

    def send_response(self, head: ResponseHead, body: bytes = b"") -> bytes:
        """A whole response as one buffer; ``Content-Length`` is set.

        Args:
            head: The head. A ``Content-Length`` in it must be right; that of a response to
                HEAD, whose body is never written, may be any.
            body: The whole body.

        Raises:
            LocalProtocolError: As `send`.
        """
        self._check_ready()
        if head is self._plain and self._receiving is _DONE and not self._close:
            self._sending = _SENT
            if self._request is not None and self._request.method == "HEAD":
                return b"%bContent-Length: %d\r\n\r\n" % (self._plain_start, len(body))
            return b"%bContent-Length: %d\r\n\r\n%b" % (self._plain_start, len(body), body)
        status, headers = head.status, head.headers
        self._check_head(status, headers)
        is_head = self._request is not None and self._request.method == "HEAD"
        has_no_body = status == 204 or status == 304
        if has_no_body and body:
            raise LocalProtocolError(f"a response of status {status} has no body")
        length = b"Content-Length: %d\r\n" % len(body)
        if has_no_body:
            # RFC 9110, section 8.6: "A server MUST NOT send a Content-Length header field in
            # any response with a status code of 1xx (Informational) or 204 (No Content)."
            length = b""
        elif "content-length" in headers:
            if not is_head and headers["content-length"] != str(len(body)):
                raise LocalProtocolError("Content-Length is not that of the body")
            length = b""
        close = self._decide_close(headers)
        self._sending = _SENT
        start = status_line(status, head.reason) + headers.wire
        if length and not close and "connection" not in headers and "upgrade" not in headers:
            self._plain, self._plain_start = head, start
        return b"".join((start, length, close, b"\r\n", b"" if is_head else body))

    def _send_head(self, head: ResponseHead) -> bytes:
        self._check_ready()
        status, headers = head.status, head.headers
        self._check_head(status, headers)
        framing: Framing | None
        line = b""
        given = headers.get("content-length")
        if given is not None and not (given.isascii() and given.isdecimal()):
            raise LocalProtocolError("Content-Length must be a number")
        if status == 204 or status == 304:
            framing = None
        elif given is not None:
            framing = int(given)
        elif self._request is None or self._request.http_version == "1.0":
            framing = UNTIL_CLOSE
            self._close = True
        else:
            framing = CHUNKED
            line = _CHUNKED
        if self._request is not None and self._request.method == "HEAD":
            framing = None
        close = self._decide_close(headers)
        self._response_framing = framing
        self._remaining = framing if isinstance(framing, int) else 0
        self._sending = _SENDING
        return b"%b%b%b%b\r\n" % (status_line(status, head.reason), headers.wire, line, close)

    def _send_data(self, data: bytes) -> bytes:
        if self._sending is not _SENDING:
            raise LocalProtocolError(f"a part of a body for {self._sending.value}")
        framing = self._response_framing
        if framing == CHUNKED:
            # No data would be the last chunk.
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if framing == UNTIL_CLOSE:
            return data
        if framing is None:
            if data and (self._request is None or self._request.method != "HEAD"):
                raise LocalProtocolError("a response of this status has no body")
            return b""
        if len(data) > self._remaining:
            raise LocalProtocolError("the body is longer than its Content-Length")
        self._remaining -= len(data)
        return data

    def _end_response(self) -> bytes:
        if self._sending is not _SENDING:
            raise LocalProtocolError(f"the end of a body for {self._sending.value}")
        if self._remaining:
            raise LocalProtocolError("the body is shorter than its Content-Length")
        self._sending = _SENT
        return b"0\r\n\r\n" if self._response_framing == CHUNKED else b""

    def _check_ready(self) -> None:
        if self._sending is not _READY:
            raise LocalProtocolError(f"a response to {self._sending.value}")

    def _check_head(self, status: int, headers: Headers) -> None:
        if not 200 <= status <= 599:
            raise LocalProtocolError(f"{status} is no status of a final response")
        if "transfer-encoding" in headers:
            raise LocalProtocolError("Transfer-Encoding is the machine's own")
        if status == 204 and "content-length" in headers:
            raise LocalProtocolError("a response of status 204 has no Content-Length")
        if "connection" in headers and headers["connection"].lower() != "close":
            raise LocalProtocolError("Connection is the machine's own, but for close")

    def _decide_close(self, headers: Headers) -> bytes:
        """Decide whether this is the last response; the lines of Connection that are due."""
        receiving, reader = self._receiving, self._reader
        if not (
            receiving is _DONE
            or (receiving is _HELD and self._framing == 0)
            or (receiving is _BODY and reader is not None and reader.done)
        ):
            # A body that was not read stands between this request and the next.
            self._close = True
        line = b""
        if "connection" in headers:
            self._close = True
        elif self._close:
            line = _CLOSE
        # RFC 9110, section 7.8: "A sender of Upgrade MUST also send an "Upgrade" connection
        # option in the Connection header field".
        return line + _UPGRADE if "upgrade" in headers else line

    def send_failed(self) -> None:
        """Tell that what was made was not written, or not all of it: only closing is left."""
        self._sending = _BROKEN
        self._close = True

    def switch_protocol(self, protocol: str, headers: Headers = NO_HEADERS) -> bytes:
        """The bytes of 101 Switching Protocols.

        From then on both directions belong to the other protocol, whose first bytes may be
        in `trailing_data` already.

        Args:
            protocol: One of those that the request offers, such as ``websocket``.
            headers: Further fields of the response.

        Raises:
            LocalProtocolError: The request does not offer it or has a body, or its response
                has begun.
        """
        self._check_ready()
        request = self._request
        offered = "" if request is None or request.upgrade is None else request.upgrade
        if protocol.lower() not in {name.strip() for name in offered.split(",")}:
            raise LocalProtocolError(f"the request does not offer {protocol!r:.100}")
        if self._receiving not in {_HELD, _DONE} or self._framing != 0:
            raise LocalProtocolError("a request with a body cannot change the protocol")
        self._receiving = _SWITCHED
        self._sending = _OTHER
        upgrade = Headers([("Upgrade", protocol), ("Connection", "Upgrade")])
        return b"%b%b\r\n" % (status_line(101, ""), headers.merged(upgrade).wire)

    def start_next_cycle(self) -> None:
        """Go on to the next request, which may be in the buffer already.

        Raises:
            LocalProtocolError: The request or its response is not complete, or the
                connection must close.
        """
        if self._sending is not _SENT or self._close:
            raise LocalProtocolError(f"start_next_cycle() after {self._sending.value}")
        self._receiving = _HEAD
        self._sending = _IDLE
        self._skipped_empty_line = False
        self._request = None
        self._reader = None
