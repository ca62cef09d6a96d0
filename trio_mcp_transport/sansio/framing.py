"""Framers: how the bytes of one message are told apart on a byte stream.

Used by `MessageMachine` and by byte-exact bridges; usable alone, for example to fuzz. A
framer knows nothing of JSON: it finds where a payload begins and ends, holds the size
limit before it buffers, and raises `RemoteProtocolError` where the peer's framing is
unsound, because nothing after that can be trusted. Blank payloads carry no message and
are skipped.

=================== ============================================== =====================
framing             on the wire                                    who speaks it
=================== ============================================== =====================
`NewlineFramer`     payload, line feed                             MCP's stdio, the default
`ContentLengthFramer` `Content-Length: N`, blank line, N bytes     language-server tools
`LengthPrefixFramer` 4 bytes big-endian, then that many            private TCP protocols
`DetectFramer`      the first or second, by the peer's first bytes servers for both
=================== ============================================== =====================
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import msgspec

from ..errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from ..jsonrpc import compact
from ..limits import DEFAULT_MAX_MESSAGE_BYTES, MAX_HEADER_BYTES, Framing
from .lines import PartialLine, are_lines, split_lines
from .machine import NEED_DATA, EndOfData, NeedData, Side

__all__ = [
    "ContentLengthFramer",
    "DetectFramer",
    "Frame",
    "Framer",
    "LengthPrefixFramer",
    "NewlineFramer",
    "make_framer",
]

_BOM = b"\xef\xbb\xbf"
_OPEN = Side.OPEN  # looking up a member of an enum costs, before Python 3.12


class Frame(msgspec.Struct, frozen=True):
    """The payload of one frame.

    Attributes:
        payload: The bytes of one message, as they came.
        terminated: False for a last line that ended with the stream instead of a line
            feed: it may be whole or cut off, which only its decoding can tell.
    """

    payload: bytes
    terminated: bool = True


class Framer(ABC):
    """What every framer offers. One per connection and direction; never reused.

    Args:
        max_message_bytes: Largest payload, in both directions.
    """

    def __init__(self, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        self.max_message_bytes = max_message_bytes
        self._frames: deque[bytes] = deque()
        self._unterminated: bytes | None = None
        self._fault: RemoteProtocolError | None = None
        self._eof = False
        self._receiving = Side.OPEN
        self._sending = Side.OPEN

    @property
    @abstractmethod
    def framing(self) -> Framing:
        """The name of the framing; ``detect`` as long as it is not known."""

    @property
    def receiving(self) -> Side:
        """The state of the receiving side."""
        return self._receiving

    @property
    def sending(self) -> Side:
        """The state of the sending side."""
        return self._sending

    @property
    def needs_data(self) -> bool:
        """Whether `next_event` would return `NEED_DATA`: a quick look before it is asked."""
        return not (
            self._frames or self._eof or self._fault is not None or self._unterminated is not None
        )

    def receive_data(self, data: bytes) -> None:
        """Take bytes in. Faults come out of `next_event`, in order.

        Raises:
            LocalProtocolError: After `receive_eof`.
        """
        if self._eof:
            raise LocalProtocolError("receive_data() after receive_eof()")
        if self._fault is None and data:
            self._fault = self._parse(data)

    def receive_eof(self) -> None:
        """Tell that the peer will send no more. Idempotent."""
        if not self._eof:
            self._eof = True
            if self._fault is None:
                self._fault = self._parse_eof()

    def next_event(self) -> Frame | EndOfData | NeedData:
        """The next frame, `EndOfData`, or `NEED_DATA`.

        Raises:
            RemoteProtocolError: The peer's framing is unsound. Final.
        """
        if self._frames:
            return Frame(self._frames.popleft())
        if self._unterminated is not None:
            payload, self._unterminated = self._unterminated, None
            return Frame(payload, terminated=False)
        if self._fault is not None:
            self._receiving = Side.ERROR
            raise RemoteProtocolError(str(self._fault), code=self._fault.code)
        if self._eof:
            self._receiving = Side.DONE
            return EndOfData()
        return NEED_DATA

    def next_payloads(self, max_frames: int) -> list[bytes]:
        """Drain the terminated frames that are here, as bare payloads, at most so many.

        The quick way past `next_event` for busy streams; never raises. What it leaves
        (a last line, the end, a fault) comes out of `next_event`.
        """
        frames = self._frames
        if len(frames) <= max_frames:
            payloads = list(frames)
            frames.clear()
            return payloads
        return [frames.popleft() for _ in range(max_frames)]

    def send(self, payload: bytes) -> bytes:
        """The bytes to write for one message.

        Raises:
            MessageTooLarge: Over `max_message_bytes`; the machine goes on.
            LocalProtocolError: After `send_failed`, or the payload does not fit the
                framing.
        """
        if self._sending is not _OPEN:
            raise LocalProtocolError("send() after send_failed()")
        if len(payload) > self.max_message_bytes:
            raise MessageTooLarge(len(payload), self.max_message_bytes)
        return self._encode(payload)

    def send_many(self, payloads: Sequence[bytes]) -> bytes:
        """The bytes to write for several messages; as `send` otherwise, all or none."""
        return b"".join([self.send(payload) for payload in payloads])

    def send_failed(self) -> None:
        """Tell that bytes from `send` were not, or not wholly, written."""
        self._sending = Side.ERROR

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """Received bytes that belong to no returned frame, and whether EOF followed."""
        return self._unread(), self._eof

    @abstractmethod
    def _parse(self, data: bytes) -> RemoteProtocolError | None:
        """Move whole frames from `data` to `_frames`; return what is unsound."""

    @abstractmethod
    def _parse_eof(self) -> RemoteProtocolError | None:
        """Return what the end of the stream cut off."""

    @abstractmethod
    def _encode(self, payload: bytes) -> bytes:
        """Frame one payload of legal size."""

    @abstractmethod
    def _unread(self) -> bytes:
        """All that was received and not returned."""

    def _too_large(self, size: int | None = None) -> RemoteProtocolError:
        found = "a message" if size is None else f"a message of {size} bytes"
        return RemoteProtocolError(f"{found} is over the limit of {self.max_message_bytes} bytes")


class NewlineFramer(Framer):
    """One message a line, as MCP's stdio transport has it.

    MCP, transports/stdio: "Messages are delimited by newlines, and MUST NOT contain
    embedded newlines." A carriage return before the line feed is white space of the
    payload; one byte order mark at the very beginning is skipped.
    """

    def __init__(self, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        super().__init__(max_message_bytes=max_message_bytes)
        self._partial = PartialLine()
        self._at_start = True

    @property
    def framing(self) -> Framing:
        """The name of the framing."""
        return "newline"

    def _parse(self, data: bytes) -> RemoteProtocolError | None:
        if self._at_start:
            return self._parse_start(data)
        return self._parse_lines(data)

    def _parse_start(self, data: bytes) -> RemoteProtocolError | None:
        """Skip a byte order mark, which may come in pieces."""
        start = self._partial.take() + data
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._partial.add(start)
            return None
        self._at_start = False
        return self._parse_lines(start.removeprefix(_BOM))

    def _parse_lines(self, data: bytes) -> RemoteProtocolError | None:
        lines = split_lines(data)
        rest = lines.pop()
        if lines and self._partial.size:
            lines[0] = self._partial.take(lines[0])
        # No line can be longer than all that is here; so most reads need no look at each.
        if lines and len(lines[0]) + len(data) > self.max_message_bytes:
            for index, line in enumerate(lines):
                if len(line) > self.max_message_bytes:
                    self._add(lines[:index])
                    return self._too_large(len(line))
        self._add(lines)
        if rest:
            self._partial.add(rest)
            if self._partial.size > self.max_message_bytes:
                return self._too_large()
        return None

    def _add(self, lines: list[bytes]) -> None:
        # Blank lines are rare, and less than all that begin with "{".
        if lines and min(lines) < b"!":
            lines = [line for line in lines if line and not line.isspace()]
        self._frames.extend(lines)

    def _parse_eof(self) -> RemoteProtocolError | None:
        rest = self._partial.take()
        if rest and not rest.isspace():
            self._unterminated = rest
        return None

    def _encode(self, payload: bytes) -> bytes:
        if b"\n" in payload:
            # In JSON a literal line feed can only be white space between tokens.
            try:
                payload = compact(payload)
            except msgspec.DecodeError as error:
                raise LocalProtocolError(
                    f"a payload with line feeds is not JSON, so it cannot be one line: {error}"
                ) from error
        return payload + b"\n"

    def send(self, payload: bytes) -> bytes:
        """The bytes to write for one message. See `Framer.send`."""
        line = payload + b"\n"
        return line if self.takes_line(line) else super().send(payload)

    def send_many(self, payloads: Sequence[bytes]) -> bytes:
        """The bytes to write for several messages; as `send` otherwise, all or none."""
        data = b"\n".join([*payloads, b""])
        return data if self.takes_lines(data, len(payloads)) else super().send_many(payloads)

    def takes_line(self, line: bytes) -> bool:
        """Whether one payload, with a line feed behind it, goes out as it is; as `takes_lines`."""
        return (
            self._sending is _OPEN
            and len(line) <= self.max_message_bytes
            and line.find(b"\n") == len(line) - 1
        )

    def takes_lines(self, lines: bytes, count: int) -> bool:
        """Whether so many payloads, with a line feed behind each, go out as they are.

        If not, `send_many` makes them fit, or says why they do not.
        """
        limit = self.max_message_bytes
        return (
            self._sending is _OPEN
            and are_lines(lines, count)
            # Where even all together are within the limit, none is over it.
            and (len(lines) - count <= limit or max(map(len, lines.split(b"\n"))) <= limit)
        )

    def _unread(self) -> bytes:
        parts = [*self._frames]
        if self._unterminated is not None:
            return b"".join([line + b"\n" for line in parts]) + self._unterminated
        return b"".join([line + b"\n" for line in parts]) + self._partial.join()


class _SizedFramer(Framer):
    """A framer whose payloads announce their size: the loop that both share."""

    def __init__(self, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        super().__init__(max_message_bytes=max_message_bytes)
        self._buffer = bytearray()
        self._size: int | None = None

    def _parse(self, data: bytes) -> RemoteProtocolError | None:
        buffer = self._buffer
        buffer += data
        while True:
            if self._size is None:
                try:
                    self._size = self._take_header()
                except RemoteProtocolError as error:
                    return error
                if self._size is None:
                    return None
                if self._size > self.max_message_bytes:
                    return self._too_large(self._size)
            if len(buffer) < self._size:
                return None
            payload = bytes(memoryview(buffer)[: self._size])
            del buffer[: self._size]
            self._size = None
            if payload and not payload.isspace():
                self._frames.append(payload)

    @abstractmethod
    def _take_header(self) -> int | None:
        """Take one header off `_buffer`; return the size it tells, None if not whole yet."""

    def _parse_eof(self) -> RemoteProtocolError | None:
        if self._size is not None:
            return RemoteProtocolError(
                f"the stream ended inside a message: {len(self._buffer)} of {self._size} bytes came"
            )
        if self._buffer.strip():
            return RemoteProtocolError("the stream ended inside a header")
        return None

    def _unread(self) -> bytes:
        frames = [self._encode(payload) for payload in self._frames]
        head = b"" if self._size is None else self._encode_header(self._size)
        return b"".join(frames) + head + bytes(self._buffer)

    def _encode(self, payload: bytes) -> bytes:
        return self._encode_header(len(payload)) + payload

    @abstractmethod
    def _encode_header(self, size: int) -> bytes:
        """The header of a payload of that many bytes."""


# RFC 9110, section 5.6.2: token
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:[ \t]*(.*?)[ \t]*\Z", re.DOTALL)
_CHARSET = re.compile(rb"charset[ \t]*=[ \t]*\"?([^\";, \t]+)", re.IGNORECASE)


class ContentLengthFramer(_SizedFramer):
    """Header lines with `Content-Length: N`, an empty line, then N bytes.

    Names are matched without regard to case, lines may end in CRLF or LF alone, blank
    lines before a header are skipped, other fields are ignored. N counts bytes.
    Refused: a header over 8 KiB, a length that is missing, no number or given twice
    differently, a charset other than UTF-8.
    """

    def __init__(self, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        super().__init__(max_message_bytes=max_message_bytes)
        self._searched = 0
        self._at_start = True

    @property
    def framing(self) -> Framing:
        """The name of the framing."""
        return "content-length"

    def _take_header(self) -> int | None:
        buffer = self._buffer
        if self._at_start:
            if len(buffer) < len(_BOM) and _BOM.startswith(bytes(buffer)):
                return None
            if buffer.startswith(_BOM):
                del buffer[: len(_BOM)]
            self._at_start = False
        if not self._searched:
            blank = 0
            while blank < len(buffer) and buffer[blank] in b"\r\n":
                blank += 1
            del buffer[:blank]
        while (line_end := buffer.find(b"\n", self._searched)) != -1:
            following = bytes(buffer[line_end + 1 : line_end + 3])
            if following[:1] == b"\n" or following == b"\r\n":
                header = bytes(memoryview(buffer)[:line_end])
                del buffer[: line_end + 1 + following.index(b"\n") + 1]
                self._searched = 0
                if len(header) > MAX_HEADER_BYTES:
                    raise self._header_too_large()
                return self._read_length(header)
            if following in (b"", b"\r"):
                self._searched = line_end  # what follows this line feed is not here yet
                break
            self._searched = line_end + 1
        else:
            self._searched = len(buffer)
        if len(buffer) > MAX_HEADER_BYTES:
            raise self._header_too_large()
        return None

    def _header_too_large(self) -> RemoteProtocolError:
        return RemoteProtocolError(f"a frame header is over the limit of {MAX_HEADER_BYTES} bytes")

    def _read_length(self, header: bytes) -> int:
        lengths: set[bytes] = set()
        for line in header.split(b"\n"):
            field = _FIELD.match(line.removesuffix(b"\r"))
            if field is None:
                raise RemoteProtocolError("a frame header has a line that is no header field")
            name, value = field[1].lower(), field[2]
            if name == b"content-length":
                lengths.add(value)
            elif name == b"content-type":
                charset = _CHARSET.search(value)
                if charset and charset[1].lower().replace(b"-", b"") != b"utf8":
                    raise RemoteProtocolError("a frame header names a charset other than UTF-8")
        if not lengths:
            raise RemoteProtocolError("a frame header has no Content-Length")
        if len(lengths) > 1:
            raise RemoteProtocolError("a frame header has conflicting Content-Lengths")
        length = lengths.pop()
        # 19 digits are more than any limit, and keep int() away from its own.
        if not length.isdigit() or len(length) > 19:
            raise RemoteProtocolError("a frame header's Content-Length is no valid number")
        return int(length)

    def _encode_header(self, size: int) -> bytes:
        return b"Content-Length: %d\r\n\r\n" % size


class LengthPrefixFramer(_SizedFramer):
    """Four bytes, big-endian, that tell how many follow. A zero is a keep-alive."""

    @property
    def framing(self) -> Framing:
        """The name of the framing."""
        return "length-prefix"

    def _take_header(self) -> int | None:
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        size = int.from_bytes(buffer[:4], "big")
        del buffer[:4]
        return size

    def _parse_eof(self) -> RemoteProtocolError | None:
        if self._size is None and self._buffer:
            return RemoteProtocolError("the stream ended inside a length prefix")
        return super()._parse_eof()

    def _encode_header(self, size: int) -> bytes:
        return size.to_bytes(4, "big")


class DetectFramer(Framer):
    """Newline or Content-Length framing, as the peer's first bytes tell.

    A peer whose first bytes, after blank ones, are ``Content-`` speaks Content-Length,
    any other newlines. What is sent before the peer's first byte goes out with newlines.
    """

    _CONTENT = b"content-"

    def __init__(self, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        super().__init__(max_message_bytes=max_message_bytes)
        self._start = bytearray()
        self._chosen: NewlineFramer | ContentLengthFramer | None = None
        self._before = NewlineFramer(max_message_bytes=max_message_bytes)

    @property
    def framing(self) -> Framing:
        """The framing found; ``detect`` as long as the peer's first bytes are missing."""
        return "detect" if self._chosen is None else self._chosen.framing

    def _choose(self, chosen: NewlineFramer | ContentLengthFramer) -> RemoteProtocolError | None:
        self._chosen = chosen
        self._frames = chosen._frames  # the chosen one's queue is ours
        start, self._start = bytes(self._start), bytearray()
        return chosen._parse(start)

    def _parse(self, data: bytes) -> RemoteProtocolError | None:
        if self._chosen is not None:
            return self._chosen._parse(data)
        self._start += data
        if len(self._start) < len(_BOM) and _BOM.startswith(bytes(self._start)):
            return None
        seen = bytes(self._start[:MAX_HEADER_BYTES]).removeprefix(_BOM).lstrip()
        seen = seen[: len(self._CONTENT)].lower()
        if seen == self._CONTENT:
            return self._choose(ContentLengthFramer(max_message_bytes=self.max_message_bytes))
        if not self._CONTENT.startswith(seen) or len(self._start) > MAX_HEADER_BYTES:
            return self._choose(NewlineFramer(max_message_bytes=self.max_message_bytes))
        return None

    def _parse_eof(self) -> RemoteProtocolError | None:
        if self._chosen is None:
            fault = self._choose(NewlineFramer(max_message_bytes=self.max_message_bytes))
            if fault is not None:
                return fault
        chosen = self._chosen
        assert chosen is not None
        fault = chosen._parse_eof()
        self._unterminated = chosen._unterminated
        return fault

    def _encode(self, payload: bytes) -> bytes:
        return (self._chosen or self._before)._encode(payload)

    def _unread(self) -> bytes:
        if self._chosen is None:
            return bytes(self._start)
        self._chosen._unterminated = self._unterminated
        return self._chosen._unread()


_FRAMERS: dict[Framing, type[Framer]] = {
    "newline": NewlineFramer,
    "content-length": ContentLengthFramer,
    "length-prefix": LengthPrefixFramer,
    "detect": DetectFramer,
}


def make_framer(framing: Framing, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> Framer:
    """The framer of that name."""
    return _FRAMERS[framing](max_message_bytes=max_message_bytes)
