"""The client's side of one HTTP/1.1 connection.

Driven by the connection pool. One request at a time: the next one may be sent after
`start_next_cycle`. It never decides whether to send a request again, and what a server sends
without being asked is a fault.

==========  ===================================  ===========================================
receiving   `next_event` returns                 leaves by
==========  ===================================  ===========================================
IDLE        `NEED_DATA`, `EndOfData`             `send_request`: HEAD
HEAD        `InformationalResponse`,             the final head: BODY; 101, and 2xx to
            `ResponseHead`                       CONNECT: SWITCHED
BODY        `BodyData`, `EndOfBody`              the body is complete: DONE
DONE        `PAUSED`                             `start_next_cycle`, if `reusable`: IDLE
SWITCHED    `PAUSED`                             never: `trailing_data` is another protocol's
ENDED       `EndOfData`                          never
ERROR       raises                               never
==========  ===================================  ===========================================
"""

from __future__ import annotations

import enum
import re
from typing import TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError
from .http1 import (
    BodyData,
    EndOfBody,
    Http1Limits,
    InformationalResponse,
    RequestHead,
    ResponseHead,
)
from .http1_body import BodyReader, body_reader
from .http1_head import UNTIL_CLOSE, HeadMemory, HeadScanner, check_first_bytes, parse_response
from .machine import NEED_DATA, PAUSED, EndOfData, NeedData, Paused

__all__ = ["ClientEvent", "Http1Client"]

#: What `Http1Client.next_event` gives beside `NEED_DATA` and `PAUSED`.
ClientEvent: TypeAlias = InformationalResponse | ResponseHead | BodyData | EndOfBody | EndOfData

_END_OF_BODY = EndOfBody()
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_TARGET = re.compile(r"[\x21\x22\x24-\x7e]+")  # visible, and no fragment
#: Methods whose requests say that they have no body (RFC 9110, section 8.6).
_SAYS_EMPTY = frozenset({"POST", "PUT", "PATCH"})


class _Receiving(enum.Enum):
    IDLE = "idle"
    HEAD = "waiting for a response"
    BODY = "in the middle of a response"
    DONE = "at the end of a response"
    SWITCHED = "of another protocol now"
    ENDED = "at its end"
    ERROR = "broken"


# Looking up a member of an enum costs, before Python 3.12.
_IDLE, _HEAD, _BODY, _DONE, _SWITCHED, _ENDED, _ERROR = _Receiving


class Http1Client:
    """One connection of a client: one request at a time.

    Args:
        limits: What a head may measure.
    """

    __slots__ = (
        "_asked_to_close",
        "_asked_to_upgrade",
        "_buffer",
        "_eof",
        "_fault",
        "_heads",
        "_informational",
        "_is_connect",
        "_is_head",
        "_keep_alive",
        "_limits",
        "_max_body_bytes",
        "_reader",
        "_receiving",
        "_scanner",
        "_sent",
        "_start",
    )

    def __init__(self, limits: Http1Limits | None = None) -> None:
        self._limits = Http1Limits() if limits is None else limits
        self._scanner = HeadScanner(self._limits, "response")
        self._heads = HeadMemory(parse_response)
        # The head that was sent last, and its bytes but for the length: most are sent again.
        self._sent: RequestHead | None = None
        self._start = b""
        self._buffer = bytearray()
        self._eof = False
        self._fault: RemoteProtocolError | None = None
        self._receiving = _IDLE
        self._keep_alive = True
        # Of the request in progress.
        self._is_head = False
        self._is_connect = False
        self._asked_to_close = False
        self._asked_to_upgrade = False
        self._max_body_bytes: int | None = None
        self._informational = 0
        self._reader: BodyReader | None = None

    @property
    def reusable(self) -> bool:
        """Whether another request may follow, now or after `start_next_cycle`.

        The response was read to its end or none was asked for, both sides keep the
        connection, and nothing came that nobody asked for.
        """
        return (
            (self._receiving is _DONE or self._receiving is _IDLE)
            and self._keep_alive
            and not self._eof
            and not self._buffer
        )

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """What was received and not consumed, and whether the end follows it."""
        return bytes(self._buffer), self._eof

    def send_request(
        self, head: RequestHead, body: bytes = b"", *, max_body_bytes: int | None = None
    ) -> bytes:
        """A whole request as one buffer; ``Content-Length`` is set where there is a body.

        Args:
            head: Method, target and header fields, ``Host`` among them. The target of
                CONNECT is ``HOST:PORT``.
            body: The whole body.
            max_body_bytes: Most bytes of the response's body; more is a fault. None for a
                body that is bounded by who reads it, such as a stream of events.

        Raises:
            LocalProtocolError: The head is not valid, or another request is in progress.
                Nothing was made.
        """
        if self._receiving is not _IDLE:
            raise LocalProtocolError(f"a request on a connection that is {self._receiving.value}")
        if not self.reusable:
            raise LocalProtocolError("a request on a connection that ends")
        if head is not self._sent:
            self._prepare(head, body)
        self._max_body_bytes = max_body_bytes
        self._informational = 0
        self._receiving = _HEAD
        if body or head.method in _SAYS_EMPTY:
            return b"%bContent-Length: %d\r\n\r\n%b" % (self._start, len(body), body)
        return self._start + b"\r\n"

    def _prepare(self, head: RequestHead, body: bytes) -> None:
        """Check a head that is not that of the request before, and make its bytes."""
        method, headers = head.method, head.headers
        if not _METHOD.fullmatch(method) or (method == "CONNECT" and body):
            raise LocalProtocolError(f"{method!r:.100} is no method that can be sent like that")
        if not _TARGET.fullmatch(head.target):
            raise LocalProtocolError("a request target has a character that cannot be sent")
        if len(headers.get_all("host")) != 1:
            raise LocalProtocolError("a request needs one Host header field")
        for name in ("transfer-encoding", "content-length", "expect"):
            if name in headers:
                raise LocalProtocolError(f"{name} is the machine's own")
        options = headers.get("connection", "").lower()
        self._asked_to_close = "close" in options
        self._asked_to_upgrade = "upgrade" in options and "upgrade" in headers
        self._is_head = method == "HEAD"
        self._is_connect = method == "CONNECT"
        self._start = f"{method} {head.target} HTTP/1.1\r\n".encode("ascii") + headers.wire
        # Whether it may have a body is no matter of the head alone.
        self._sent = None if self._is_connect else head

    def send_failed(self) -> None:
        """Tell that the request was not written, or not all of it.

        The server may answer all the same (RFC 9112, section 9.5, has it answer early and
        close), so reading goes on; the connection is not used again.
        """
        self._keep_alive = False

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

    def next_event(self) -> ClientEvent | NeedData | Paused:
        """The next event, `NEED_DATA` or `PAUSED`.

        `PAUSED` comes after `EndOfBody`, and after the head of a response that makes the
        connection another protocol's.

        Raises:
            RemoteProtocolError: The peer broke HTTP or a limit, or ended the connection in
                the middle of a response. Final.
        """
        receiving = self._receiving
        try:
            if receiving is _BODY:
                return self._next_of_body()
            if receiving is _HEAD:
                return self._next_head()
            if receiving is _IDLE:
                return self._next_of_idle()
        except RemoteProtocolError as error:
            self._fault = error
            self._receiving = receiving = _ERROR
            self._buffer.clear()
        if receiving is _ERROR:
            assert self._fault is not None
            raise RemoteProtocolError(str(self._fault), status=self._fault.status)
        return EndOfData() if receiving is _ENDED else PAUSED

    def _next_of_idle(self) -> EndOfData | NeedData:
        if self._buffer:
            # Taken for the answer to the next request, it would shift all that follow.
            raise RemoteProtocolError("the server sent what nobody asked for")
        if not self._eof:
            return NEED_DATA
        self._receiving = _ENDED
        return EndOfData()

    def _next_head(self) -> InformationalResponse | ResponseHead | NeedData:
        buffer = self._buffer
        if buffer:
            check_first_bytes(buffer, "response")
            head = self._scanner.scan(buffer)
            if head is not None:
                return self._take_head(head)
        if self._eof:
            raise RemoteProtocolError("the connection ended before the head of a response")
        return NEED_DATA

    def _take_head(self, head: bytes) -> InformationalResponse | ResponseHead:
        status, reason, headers, framing, keep_alive = self._heads.read(head)
        if status == 101:
            # RFC 9110, section 7.8: "A server MUST NOT switch to a protocol that was not
            # indicated by the client in the corresponding request's Upgrade header field."
            if not self._asked_to_upgrade:
                raise RemoteProtocolError("the server changed the protocol without being asked")
            self._receiving = _SWITCHED
            return ResponseHead(status, headers, reason)
        if status < 200:
            self._informational += 1
            if self._informational > self._limits.max_informational:
                raise RemoteProtocolError(
                    f"more than {self._limits.max_informational} informational responses"
                )
            return InformationalResponse(status, headers)
        # RFC 9112, section 6.3, point 2: "Any 2xx (Successful) response to a CONNECT request
        # implies that the connection will become a tunnel immediately after the empty line
        # that concludes the header fields."
        if self._is_connect and status < 300:
            self._receiving = _SWITCHED
            return ResponseHead(status, headers, reason)
        # RFC 9112, section 6.3, points 1 and 8.
        if self._is_head or status == 204 or status == 304:
            framing = 0
        elif framing is None:
            framing = UNTIL_CLOSE
        if not keep_alive or self._asked_to_close or framing == UNTIL_CLOSE:
            self._keep_alive = False
        self._reader = body_reader(framing, self._max_body_bytes, self._limits)
        self._receiving = _BODY
        return ResponseHead(status, headers, reason)

    def receive_whole(self, data: bytes | bytearray) -> tuple[ResponseHead, bytes] | None:
        """Take in a whole response that came in one piece, if it is that and nothing else.

        What `receive_data` and `next_event` would give in several steps; for the responses
        whose head was read on this connection before, which are nearly all.

        Returns:
            Its head and its body; None for everything else. Nothing was taken in then.
        """
        if self._receiving is not _HEAD or self._buffer or self._eof or self._is_head:
            return None
        start = data.find(b"\r\n\r\n") + 4
        known = self._heads.known(bytes(data[:start]))  # some streams give a bytearray
        if known is None:
            return None
        status, reason, headers, framing, keep_alive = known
        size = len(data) - start
        if (
            framing != size
            or status < 200
            or status == 204
            or status == 304
            or self._is_connect
            or (self._max_body_bytes is not None and size > self._max_body_bytes)
        ):
            return None
        if not keep_alive or self._asked_to_close:
            self._keep_alive = False
        self._receiving = _DONE
        return ResponseHead(status, headers, reason), bytes(data[start:])

    def _next_of_body(self) -> BodyData | EndOfBody | NeedData:
        reader = self._reader
        assert reader is not None
        data = b"" if reader.done else reader.read(self._buffer)
        if data:
            return BodyData(data)
        if self._eof and not reader.done:
            reader.read_eof()
        if reader.done:
            self._receiving = _DONE
            self._reader = None
            return _END_OF_BODY
        return NEED_DATA

    def start_next_cycle(self) -> None:
        """Allow the next request.

        Raises:
            LocalProtocolError: The response is not read to its end, or the connection is
                not `reusable`.
        """
        if self._receiving is not _DONE or not self.reusable:
            raise LocalProtocolError(f"no other request: the connection is {self._receiving.value}")
        self._receiving = _IDLE
