"""Bodies: by length, in chunks, or until the connection ends.

Used by `Http1Server` and `Http1Client`, which hold the buffer. A body is counted as it
arrives; a length over the limit is refused as soon as it is known, before its bytes are kept.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from ..errors import RemoteProtocolError
from .http1 import Http1Limits
from .http1_head import CHUNKED, Framing

__all__ = ["BodyReader", "body_reader"]

#: The line of a chunk's size with its extensions. RFC 9112, section 7.1.1, wants a limit on
#: extensions; nobody uses them.
MAX_CHUNK_LINE = 256
# 15 digits are an exabyte: int() of more could only be over the limit, or an attack.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class BodyReader(ABC):
    """Takes one body out of a buffer.

    Attributes:
        done: Whether the body is complete.
    """

    __slots__ = ("_max_bytes", "done")

    def __init__(self, max_bytes: int | None) -> None:
        self.done = False
        self._max_bytes = max_bytes

    @abstractmethod
    def read(self, buffer: bytearray) -> bytes:
        """Take what is there; ``b""`` when more is needed or the body is complete.

        Raises:
            RemoteProtocolError: It is malformed or too large. What came before the fault
                has been returned.
        """

    def read_eof(self) -> None:
        """Tell that the connection ended after what was read.

        Raises:
            RemoteProtocolError: The body is not complete.
        """
        raise RemoteProtocolError("the connection ended in the middle of a body")

    def _check(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise RemoteProtocolError(
                f"the body is larger than {self._max_bytes} bytes", status=413
            )


def body_reader(framing: Framing, max_bytes: int | None, limits: Http1Limits) -> BodyReader:
    """The reader for a body.

    Args:
        framing: How it is framed.
        max_bytes: Most bytes of it; None for no limit.
        limits: The limits of its trailer section are those of a head.
    """
    if isinstance(framing, int):
        return LengthReader(framing, max_bytes)
    if framing == CHUNKED:
        return ChunkedReader(max_bytes, limits)
    return UntilCloseReader(max_bytes)


class LengthReader(BodyReader):
    """A body whose length is known."""

    __slots__ = ("_remaining",)

    def __init__(self, length: int, max_bytes: int | None) -> None:
        super().__init__(max_bytes)
        self._remaining = length
        self.done = not length

    def read(self, buffer: bytearray) -> bytes:
        """Take what belongs to the body."""
        self._check(self._remaining)  # matters in the first call; later there is less
        data = bytes(buffer[: self._remaining])
        del buffer[: self._remaining]
        self._remaining -= len(data)
        self.done = not self._remaining
        return data


class UntilCloseReader(BodyReader):
    """A body that the end of the connection ends (RFC 9112, section 6.3, point 8)."""

    __slots__ = ("_count",)

    def __init__(self, max_bytes: int | None) -> None:
        super().__init__(max_bytes)
        self._count = 0

    def read(self, buffer: bytearray) -> bytes:
        """Take everything that the limit allows; the rest is the fault."""
        if self._max_bytes is None:
            data = bytes(buffer)
        else:
            data = bytes(buffer[: self._max_bytes - self._count])
            if buffer and not data:
                self._check(self._max_bytes + 1)
        self._count += len(data)
        del buffer[: len(data)]
        return data

    def read_eof(self) -> None:
        """That was it."""
        self.done = True


class ChunkedReader(BodyReader):
    """A body in chunks (RFC 9112, section 7.1), strictly.

    Chunks that came together are returned together. Extensions and trailers are checked,
    bounded and dropped.
    """

    __slots__ = (
        "_count",
        "_fault",
        "_limits",
        "_remaining",
        "_searched",
        "_trailer_bytes",
        "_trailer_lines",
    )

    def __init__(self, max_bytes: int | None, limits: Http1Limits) -> None:
        super().__init__(max_bytes)
        self._limits = limits
        self._count = 0  # of the sizes announced
        # Bytes of this chunk that are still to come, its CR LF included; 0 before a size,
        # -1 in the trailer section.
        self._remaining = 0
        self._searched = 0
        self._trailer_bytes = 0
        self._trailer_lines = 0
        self._fault: RemoteProtocolError | None = None

    def read(self, buffer: bytearray) -> bytes:
        """Take the data of all chunks that are there."""
        if self._fault is not None:
            raise self._fault
        pieces: list[bytes] = []
        if self._remaining == 0 and self._searched == 0:
            self._take_whole_chunks(buffer, pieces)
        try:
            while not self.done and self._step(buffer, pieces):
                pass
        except RemoteProtocolError as error:
            if not pieces:
                raise
            self._fault = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_whole_chunks(self, buffer: bytearray, pieces: list[bytes]) -> None:
        """Take what is whole and in order; all else is left to `_step`.

        A busy stream of events is a row of small chunks.
        """
        data = bytes(buffer)
        start = 0
        while (match := _CHUNK_LINE.match(data, start)) is not None:
            begin = match.end()
            size = int(match[1], 16)
            end = begin + size
            if (
                not size
                or begin - start > MAX_CHUNK_LINE
                or data[end : end + 2] != b"\r\n"
                or (self._max_bytes is not None and self._count + size > self._max_bytes)
            ):
                break
            pieces.append(data[begin:end])
            self._count += size
            start = end + 2
        del buffer[:start]

    def _step(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        """Take one line, or one piece of data; False when more bytes are needed."""
        if self._remaining > 0:
            return self._take_data(buffer, pieces)
        limit = MAX_CHUNK_LINE if self._remaining == 0 else self._limits.max_header_bytes
        found = buffer.find(b"\n", self._searched, limit)
        if found < 0:
            if len(buffer) >= limit:
                raise RemoteProtocolError("a line between the chunks of a body is too long")
            self._searched = len(buffer)
            return False
        line = bytes(buffer[: found + 1])
        del buffer[: found + 1]
        self._searched = 0
        if self._remaining == 0:
            self._begin_chunk(line)
        else:
            self._take_trailer(line)
        return True

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("malformed chunk size")
        size = int(match[1], 16)
        self._count += size
        self._check(self._count)
        self._remaining = size + 2 if size else -1

    def _take_data(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        if not buffer:
            return False
        if self._remaining > 2:
            data = bytes(buffer[: self._remaining - 2])
            del buffer[: len(data)]
            self._remaining -= len(data)
            pieces.append(data)
        if self._remaining > 2 or not buffer:
            return False
        # Byte by byte, so that a wrong one is refused when it comes.
        footer = bytes(buffer[: self._remaining])
        if not b"\r\n"[2 - self._remaining :].startswith(footer):
            raise RemoteProtocolError("a chunk does not end with CR LF")
        del buffer[: len(footer)]
        self._remaining -= len(footer)
        return self._remaining == 0

    def _take_trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done = True
            return
        self._trailer_bytes += len(line)
        self._trailer_lines += 1
        limits = self._limits
        if (
            self._trailer_bytes > limits.max_header_bytes
            or self._trailer_lines > limits.max_headers
        ):
            raise RemoteProtocolError("the trailer section of a body is too large", status=431)
        if not _TRAILER_LINE.fullmatch(line):
            raise RemoteProtocolError("malformed trailer field")
