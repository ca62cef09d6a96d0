"""Server-sent events, as the WHATWG HTML standard has them (section 9.2).

Written by the HTTP server's exchanges, read by the HTTP client. Everything works on bytes:
lines end with CR LF, CR or LF and with nothing else, so that U+2028, U+2029 and U+0085, which
are legal in JSON and line ends elsewhere, stay what they are. Where the standard forgives
(unknown fields, bytes that are no UTF-8), so does the decoder; what it does not forgive is
size.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TypeAlias

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError
from ..limits import DEFAULT_MAX_MESSAGE_BYTES
from .machine import NEED_DATA, EndOfData, NeedData

__all__ = [
    "SseComment",
    "SseDecoder",
    "SseEvent",
    "SseItem",
    "encode_comment",
    "encode_event",
    "encode_message",
]

#: One id or type, in bytes. Event ids of ours are under 100 bytes; a peer's id comes back to
#: it in the header field Last-Event-ID, where about 8 KiB is what servers take.
MAX_FIELD_BYTES = 4096
#: `retry` in milliseconds has at most so many digits: 31 years.
_MAX_RETRY_DIGITS = 12
_DIGITS = re.compile(rb"[0-9]+")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
# UTF-8 of U+2028, U+2029 and U+0085, which some clients take for line ends.
_FOREIGN_LINE_END = re.compile(rb"\xe2\x80[\xa8\xa9]|\xc2\x85")
_ESCAPES = {
    b"\xe2\x80\xa8": b"\\u2028",
    b"\xe2\x80\xa9": b"\\u2029",
    b"\xc2\x85": b"\\u0085",
}


class SseEvent(msgspec.Struct, frozen=True):
    """One event.

    Attributes:
        data: What its ``data`` lines carry, joined with line feeds; None when it has no
            ``data`` line at all, so that it only sets an id or a retry time (the standard
            dispatches nothing then). Empty data is no message either in MCP.
        event: Its type.
        id: The last event id as of this event: what a client sends to resume after it. None
            as long as the stream has set none; empty when it took one back.
        retry: Milliseconds to wait before reconnecting, if this event says so.
    """

    data: bytes | None
    event: str = "message"
    id: str | None = None
    retry: int | None = None


class SseComment(msgspec.Struct, frozen=True):
    """A comment line, such as keeps an idle stream open.

    Attributes:
        text: What follows the colon, at most the first 100 bytes.
    """

    text: bytes = b""


#: What `SseDecoder.next_event` gives beside the end.
SseItem: TypeAlias = SseEvent | SseComment


def encode_event(
    data: bytes | str | None,
    *,
    event: str | None = None,
    id: str | None = None,  # ruff: ignore[builtin-argument-shadowing]
    retry: int | None = None,
) -> bytes:
    """The bytes of one event.

    Args:
        data: Its data, with a ``data`` line for each of its lines; empty for a ``data``
            line without any, None for no such line. CR and CR LF come out as LF.
        event: Its type; without one it is ``message``.
        id: Its id, which every later event has as well unless it has its own.
        retry: Milliseconds, at least 0.

    Raises:
        LocalProtocolError: An id or type with a line break or NUL, or beyond 4096 bytes.
    """
    if isinstance(data, str):
        data = data.encode()
    lines = [] if data is None else [b"data: %b\n" % line for line in _LINE_END.split(data)]
    return _fields(event, id, retry) + b"".join(lines) + b"\n"


def encode_message(
    payload: bytes,
    *,
    id: str | None = None,  # ruff: ignore[builtin-argument-shadowing]
    retry: int | None = None,
) -> bytes:
    """The bytes of one event whose data is one JSON text, on one line whatever it holds.

    The characters that some clients take for line ends are escaped, which changes no JSON
    value: outside strings they are not legal.

    Args:
        payload: The JSON text.
        id: As in `encode_event`.
        retry: As in `encode_event`.

    Raises:
        LocalProtocolError: As `encode_event`.
    """
    if b"\n" in payload or b"\r" in payload:
        # In JSON these stand between tokens only.
        payload = payload.replace(b"\r", b" ").replace(b"\n", b" ")
    if b"\xe2\x80" in payload or b"\xc2\x85" in payload:
        payload = _FOREIGN_LINE_END.sub(lambda match: _ESCAPES[match[0]], payload)
    if id is None and retry is None:
        return b"data: %b\n\n" % payload
    return b"%bdata: %b\n\n" % (_fields(None, id, retry), payload)


def _fields(event: str | None, event_id: str | None, retry: int | None) -> bytes:
    text = ""
    for name, value in (("event", event), ("id", event_id)):
        if value is not None:
            if "\n" in value or "\r" in value or "\0" in value:
                raise LocalProtocolError(f"an event's {name} with a line break or NUL")
            if len(value.encode()) > MAX_FIELD_BYTES:
                raise LocalProtocolError(f"an event's {name} is over {MAX_FIELD_BYTES} bytes")
            text += f"{name}: {value}\n"
    if retry is not None:
        if retry < 0:
            raise LocalProtocolError(f"a retry time of {retry} ms")
        text += f"retry: {retry}\n"
    return text.encode()


def encode_comment(text: str = "") -> bytes:
    """The bytes of a comment, such as keeps an idle stream open.

    Raises:
        LocalProtocolError: The text has a line break.
    """
    if "\n" in text or "\r" in text:
        raise LocalProtocolError("a comment with a line break")
    return f": {text}\n\n".encode() if text else b":\n\n"


class SseDecoder:
    """Bytes of a stream to events. Linear in the bytes, however they are cut.

    An id counts from the end of its event on, also without data. An event that no blank line
    ended is dropped at the end of the stream (so is its id), as the standard has it.

    Args:
        max_event_bytes: Most bytes of one event, all its lines together.
    """

    __slots__ = (
        "_begun",
        "_data",
        "_eof",
        "_event",
        "_event_bytes",
        "_fault",
        "_id",
        "_items",
        "_last_event_id",
        "_max_event_bytes",
        "_retry",
        "_seen_cr",
        "_tail",
    )

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._items: deque[SseItem] = deque()
        self._fault: RemoteProtocolError | None = None
        self._eof = False
        self._begun = False  # whether a BOM would be data
        self._seen_cr = False  # the last line ended with CR, and LF may belong to it
        self._tail = bytearray()  # a line that has not ended
        # Of the event that is being read.
        self._event_bytes = 0
        self._data: list[bytes] = []
        self._event = b""
        self._retry: int | None = None
        self._id: str | None = None
        self._last_event_id: str | None = None

    @property
    def last_event_id(self) -> str | None:
        """The id to resume from: of the last event that came out of `next_event` or waits."""
        return self._last_event_id

    def receive_data(self, data: bytes) -> None:
        """Take bytes in. Faults come out of `next_event`, in order.

        Raises:
            LocalProtocolError: After `receive_eof`.
        """
        if self._eof:
            raise LocalProtocolError("receive_data() after receive_eof()")
        if self._fault is None and data:
            try:
                self._take(data)
            except RemoteProtocolError as error:
                self._fault = error
                self._tail = bytearray()
                self._data = []

    def receive_eof(self) -> None:
        """Tell that no more will come: an event that no blank line ended is dropped."""
        self._eof = True
        self._tail = bytearray()
        self._data = []

    def next_event(self) -> SseItem | EndOfData | NeedData:
        """The next event or comment, `EndOfData`, or `NEED_DATA`.

        Raises:
            RemoteProtocolError: An event or a line is over a limit. Final.
        """
        if self._items:
            return self._items.popleft()
        if self._fault is not None:
            raise RemoteProtocolError(str(self._fault))
        return EndOfData() if self._eof else NEED_DATA

    def _take(self, data: bytes) -> None:
        if self._seen_cr:
            self._seen_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._seen_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            if self._tail:
                lines[0] = bytes(self._tail + lines[0])
                self._tail = bytearray()
            for line in lines:
                self._take_line(line)
        if rest:
            self._tail += rest
            self._check(self._event_bytes + len(self._tail))

    def _take_line(self, line: bytes) -> None:
        if not self._begun:
            self._begun = True
            if line.startswith(_BOM):
                line = line[3:]
        if not line:
            self._end_event()
            return
        self._event_bytes += len(line)
        self._check(self._event_bytes)
        if line.startswith(b"data:"):  # nearly always
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            return
        name, _, value = line.partition(b":")
        if not name:
            # Part of no event: a stream of nothing else may go on for ever.
            self._event_bytes -= len(line)
            self._items.append(SseComment(value[:100]))
            return
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = _short(value, "type")
        elif name == b"id":
            if b"\0" not in value:
                self._id = _short(value, "id").decode("utf-8", "replace")
        elif name == b"retry" and _DIGITS.fullmatch(value):
            # Anything longer is for ever anyway, and int() of it may refuse.
            self._retry = int(value.lstrip(b"0")[:_MAX_RETRY_DIGITS] or b"0")

    def _end_event(self) -> None:
        data, retry, self._event_bytes = self._data, self._retry, 0
        if self._id is not None:
            self._last_event_id = self._id
        elif not data and retry is None:
            # A blank line too many, or the one after a comment.
            self._event = b""
            return
        self._items.append(
            SseEvent(
                (data[0] if len(data) == 1 else b"\n".join(data)) if data else None,
                self._event.decode("utf-8", "replace") if self._event else "message",
                self._last_event_id,
                retry,
            )
        )
        self._data = []
        self._event = b""
        self._retry = None
        self._id = None

    def _check(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise RemoteProtocolError(f"an event is larger than {self._max_event_bytes} bytes")


def _short(value: bytes, what: str) -> bytes:
    if len(value) > MAX_FIELD_BYTES:
        raise RemoteProtocolError(f"the {what} of an event is over {MAX_FIELD_BYTES} bytes")
    return value
