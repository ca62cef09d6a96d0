"""WebSocket frames (RFC 6455, section 5): read into whole messages, and written.

Used by the machine alone. Frames are taken apart by wsproto's `FrameDecoder`, which knows
the rules of the format; what it lets pass is decided here: limits, which it has none of, the
order of fragments, reserved bits, and UTF-8. All limits are looked at as soon as a header is
there, so nothing is stored that would be refused.

Most messages of a conversation are text in a single frame. Those do not go through the
decoder: `MessageReader.plain_texts` recognises them by their first two bytes, waits until they
are there as a whole, and takes all that are out of the buffer at once, each copied once.
Whatever is unusual about a frame in the slightest (fragmented, compressed, over a limit, no
UTF-8, a control frame, wrong) is left to the decoder.
"""

from __future__ import annotations

import sys
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from typing import Final

from wsproto.frame_protocol import (
    CloseReason,
    FrameDecoder,
    Opcode,
    ParseFailed,
    RsvBits,
    XorMaskerSimple,
)

from ..errors import LocalProtocolError, RemoteProtocolError
from .websocket_deflate import Deflater, Inflater
from .websocket_events import CloseCode, WebSocketLimits, is_sendable_code
from .websocket_masking import mask

__all__ = [
    "BINARY",
    "CLOSE",
    "PING",
    "PONG",
    "TEXT",
    "FrameWriter",
    "MessageReader",
    "close_payload",
    "is_utf8",
    "parse_close_untrusted",
]

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
#: The first byte of a text that is a single frame, not compressed.
_PLAIN: Final = _FIN | TEXT
_RSV1: Final = 0x40
_MASKED: Final = 0x80
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
#: Bytes that are masked at a time, as they are to be joined anyway: large blocks of memory are
#: not cheap. Divisible by four, so that each piece begins with the key's first byte.
_MASK_AT_ONCE: Final = 64 * 1024
#: Two bytes, eight for the length, four for the key.
_LONGEST_HEADER: Final = 14
#: A control frame holds 125 bytes, and the code takes two of them.
_MAX_REASON_BYTES: Final = 123
#: Bytes of text that is not ASCII which are decoded at a time, to be thrown away.
_UTF8_PIECE_BYTES: Final = 64 * 1024

_make_utf8_decoder = getincrementaldecoder("utf-8")


class MessageReader:
    """Makes whole messages and control frames out of bytes.

    Args:
        limits: What the peer may send.
        is_client: Which side this is: a server's frames are not masked, a client's are.
        inflater: Where compression was agreed on.
    """

    __slots__ = ("_decoder", "_inflater", "_is_client", "_limits", "_message", "_plain_limit")

    def __init__(
        self, limits: WebSocketLimits, *, is_client: bool, inflater: Inflater | None
    ) -> None:
        self._limits = limits
        self._is_client = is_client
        self._inflater = inflater
        self._decoder = _CheckingDecoder(limits, is_client, inflater is not None)
        self._message = bytearray()
        self._plain_limit = min(limits.max_message_bytes, limits.max_frame_bytes)

    def receive_data(self, data: bytes) -> None:
        """Store bytes."""
        self._decoder.receive_bytes(data)

    def discard(self) -> None:
        """Forget what is there: nothing more will be read."""
        self._decoder = _CheckingDecoder(self._limits, self._is_client, False)
        self._message = bytearray()
        self._inflater = None

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of a message or frame is there that is not complete."""
        decoder = self._decoder
        return not decoder.buffer.buffer and decoder.header is None and decoder.kind is None

    def read_untrusted(self) -> tuple[int, bytes] | None:
        """The next message or control frame.

        Returns:
            Its opcode and its data: for a text message UTF-8, for a Close what
            `parse_close_untrusted` takes; None if it is not all there.

        Raises:
            RemoteProtocolError: The peer broke the protocol or a limit; `close_code` says
                how to answer. Nothing can be read after it.
        """
        texts, may_grow = self._plain_texts(1, 1)
        if texts:
            return TEXT, texts[0]
        if may_grow:
            return None
        decoder = self._decoder
        try:
            while (frame := decoder.process_buffer()) is not None:
                # Text is of no concern here, and older releases give a bytearray.
                assert isinstance(frame.payload, bytes | bytearray)
                payload = bytes(frame.payload)
                if frame.opcode >= CLOSE:
                    return frame.opcode.value, payload
                self._take_untrusted(payload)
                if frame.frame_finished and frame.message_finished:
                    return self._finish_untrusted()
        except ParseFailed as error:
            # A message about sizes, bits or opcodes: never what the peer wrote.
            raise RemoteProtocolError(str(error), close_code=error.code.value) from error
        return None

    def plain_texts(self, max_bytes: int) -> list[bytes]:
        """The next messages, as far as they are text in a single frame and all there.

        Never raises. What comes after them, if anything, comes out of `read_untrusted`.

        Args:
            max_bytes: When they hold so many, no further one is taken.
        """
        return self._plain_texts(max_bytes, sys.maxsize)[0]

    def _plain_texts(self, max_bytes: int, max_texts: int) -> tuple[list[bytes], bool]:
        """Those texts; and whether what is behind them may still become another one.

        Called for every message, so it is one loop without calls that can be done without.
        """
        texts: list[bytes] = []
        decoder = self._decoder
        if decoder.header is not None or decoder.kind is not None:
            return texts, False
        buffer = decoder.buffer.buffer
        size, limit = len(buffer), self._plain_limit
        is_masked = not self._is_client
        mask_bit, mask_bytes = (_MASKED, 4) if is_masked else (0, 0)
        at = 0
        may_grow = True
        with memoryview(buffer) as view:
            while max_bytes > 0 and len(texts) < max_texts:
                start = at + 2
                if size < start:
                    may_grow = size == at or buffer[at] == _PLAIN
                    break
                length, least = buffer[at + 1] - mask_bit, 0
                if not 0 <= length <= _EIGHT_BYTES or buffer[at] != _PLAIN:
                    may_grow = False
                    break
                if length == _TWO_BYTES:
                    start += 2
                    if size < start:
                        break
                    length, least = buffer[at + 2] << 8 | buffer[at + 3], _TWO_BYTES
                elif length == _EIGHT_BYTES:
                    start += 8
                    if size < start:
                        break
                    length, least = int.from_bytes(buffer[at + 2 : start], "big"), 0x10000
                start += mask_bytes
                end = start + length
                if not least <= length <= limit:
                    may_grow = False
                    break
                if size < end:
                    break
                # No slice of the view outlives its line, so that the buffer may change again.
                if is_masked:
                    data = mask(view[start:end], buffer[start - 4 : start])
                else:
                    data = bytes(view[start:end])
                if not data.isascii() and not is_utf8(data):
                    may_grow = False
                    break
                texts.append(data)
                max_bytes -= length
                at = end
        if at:
            del buffer[:at]
        return texts, may_grow

    def _take_untrusted(self, payload: bytes) -> None:
        if self._decoder.is_compressed:
            assert self._inflater is not None
            self._inflater.inflate_untrusted(payload, self._message, self._limits.max_message_bytes)
        else:
            self._message += payload

    def _finish_untrusted(self) -> tuple[int, bytes]:
        decoder = self._decoder
        kind = decoder.kind
        assert kind is not None
        if decoder.is_compressed:
            assert self._inflater is not None
            self._inflater.end_message_untrusted(self._message, self._limits.max_message_bytes)
        decoder.end_message()
        data = bytes(self._message)
        self._message = bytearray()
        if kind == TEXT:
            _check_utf8(data)
        return kind, data


class _CheckingDecoder(FrameDecoder):
    """wsproto's decoder, with our verdict on each header.

    Attributes:
        kind: The opcode of the message that is being read, None between two.
        is_compressed: Whether that message is.
    """

    def __init__(self, limits: WebSocketLimits, is_client: bool, may_compress: bool) -> None:
        super().__init__(client=is_client)
        self.kind: int | None = None
        self.is_compressed = False
        self._limits = limits
        self._may_compress = may_compress
        self._fragments = 0
        self._wire_bytes = 0

    def end_message(self) -> None:
        """The message is complete."""
        self.kind = None
        self._fragments = self._wire_bytes = 0

    def extension_processing(self, opcode: Opcode, rsv: RsvBits, payload_len: int) -> None:
        """Judge a header before its payload. wsproto calls it again if the mask is missing."""
        if opcode >= CLOSE:
            if any(rsv):
                raise ParseFailed("a reserved bit in a control frame")
            return
        if opcode == Opcode.CONTINUATION:
            if self.kind is None:
                raise ParseFailed("a continuation of no message")
            is_compressed = self.is_compressed
        else:
            if self.kind is not None:
                raise ParseFailed("a message within a message")
            is_compressed = rsv.rsv1
        # RFC 7692, section 6.1: "Per-Message Compressed" bit in the first fragment only.
        may_compress = self._may_compress and opcode != Opcode.CONTINUATION
        if (rsv.rsv1 and not may_compress) or rsv.rsv2 or rsv.rsv3:
            raise ParseFailed("a reserved bit that no extension uses")
        limits = self._limits
        if payload_len > limits.max_frame_bytes:
            raise ParseFailed(
                f"a frame of more than {limits.max_frame_bytes} bytes",
                CloseReason.MESSAGE_TOO_BIG,
            )
        most = limits.max_message_bytes
        if is_compressed:
            most += (most >> 10) + 64  # what deflate adds to what it cannot compress
        if self._wire_bytes + payload_len > most:
            raise ParseFailed(
                f"a message of more than {limits.max_message_bytes} bytes",
                CloseReason.MESSAGE_TOO_BIG,
            )
        if self._fragments >= limits.max_fragments:
            raise ParseFailed(
                f"a message of more than {limits.max_fragments} fragments",
                CloseReason.POLICY_VIOLATION,
            )

    def parse_header(self) -> bool:
        """Read a header, if it is there; count it."""
        head = bytes(self.buffer.buffer[:_LONGEST_HEADER])
        if not super().parse_header():
            return False
        header = self.header
        assert header is not None
        if not self.client:
            key_at = {_TWO_BYTES: 4, _EIGHT_BYTES: 10}.get(head[1] & ~_MASKED, 2)
            self.masker = _Unmasker(head[key_at : key_at + 4])
        if header.opcode < CLOSE:
            if header.opcode != Opcode.CONTINUATION:
                self.kind = header.opcode.value
                self.is_compressed = header.rsv.rsv1
            self._fragments += 1
            self._wire_bytes += header.payload_len
        return True


class _Unmasker(XorMaskerSimple):
    """Unmasks one frame, piece by piece."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def process(self, data: bytearray) -> bytearray:
        """The next piece, unmasked."""
        mixed = bytearray(mask(data, self._key))
        rotate = len(data) % 4
        self._key = self._key[rotate:] + self._key[:rotate]
        return mixed


class FrameWriter:
    """Makes frames.

    Args:
        is_client: Which side this is: a client masks what it sends.
        mask_key: Gives 4 random bytes for each frame; a server needs none.
        max_frame_bytes: Messages are cut into frames of this many bytes.
        deflater: Where compression was agreed on.
    """

    __slots__ = ("_deflater", "_mask_bit", "_mask_key", "_max_frame_bytes")

    def __init__(
        self,
        *,
        is_client: bool,
        mask_key: Callable[[], bytes] | None,
        max_frame_bytes: int,
        deflater: Deflater | None,
    ) -> None:
        self._mask_bit = _MASKED if is_client else 0
        self._mask_key = mask_key
        self._max_frame_bytes = max_frame_bytes
        self._deflater = deflater

    def message(self, opcode: int, data: bytes) -> bytes:
        """The frames of a message, or a control frame."""
        parts: list[bytes] = []
        self._add_message(parts, opcode, data)
        return b"".join(parts)

    def texts(self, texts: Iterable[bytes]) -> bytes:
        """The frames of several text messages."""
        parts: list[bytes] = []
        if self._deflater is not None:
            for text in texts:
                self._add_message(parts, TEXT, text)
        else:
            add, most = self._add_frame, self._max_frame_bytes
            for text in texts:
                if len(text) <= most:
                    add(parts, _PLAIN, text)
                else:
                    self._add_message(parts, TEXT, text)
        return b"".join(parts)

    def _add_message(self, parts: list[bytes], opcode: int, data: bytes) -> None:
        first = _FIN | opcode
        deflater = self._deflater
        if deflater is not None and opcode < CLOSE and deflater.compresses(len(data)):
            data = deflater.deflate(data)
            first |= _RSV1
        size, most = len(data), self._max_frame_bytes
        if size <= most:
            self._add_frame(parts, first, data)
            return
        # Opcode and reserved bit are those of the first frame; the last has the FIN bit.
        first &= ~_FIN
        for start in range(0, size, most):
            if start + most >= size:
                first |= _FIN
            self._add_frame(parts, first, data[start : start + most])
            first = 0

    def _add_frame(self, parts: list[bytes], first: int, data: bytes) -> None:
        size = len(data)
        if size < _TWO_BYTES:
            parts.append(bytes((first, size | self._mask_bit)))
        elif size <= 0xFFFF:
            parts.append(bytes((first, _TWO_BYTES | self._mask_bit, size >> 8, size & 0xFF)))
        else:
            parts.append(bytes((first, _EIGHT_BYTES | self._mask_bit)) + size.to_bytes(8, "big"))
        mask_key = self._mask_key
        if mask_key is None:
            parts.append(data)
            return
        key = mask_key()
        if len(key) != 4:
            raise LocalProtocolError(f"a mask has 4 bytes, not {len(key)}")
        parts.append(key)
        if size <= _MASK_AT_ONCE:
            parts.append(mask(data, key))
            return
        with memoryview(data) as view:
            for start in range(0, size, _MASK_AT_ONCE):
                parts.append(mask(view[start : start + _MASK_AT_ONCE], key))


def is_utf8(data: bytes) -> bool:
    """Whether it is valid UTF-8; without holding all of it as text."""
    if data.isascii():
        return True
    decode = _make_utf8_decoder().decode
    try:
        for start in range(0, len(data), _UTF8_PIECE_BYTES):
            decode(data[start : start + _UTF8_PIECE_BYTES])
        decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _check_utf8(data: bytes) -> None:
    # RFC 6455, section 8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds
    # that the byte stream is not, in fact, a valid UTF-8 stream, that endpoint MUST _Fail the
    # WebSocket Connection_."
    if not is_utf8(data):
        raise RemoteProtocolError(
            "a text message is not valid UTF-8", close_code=CloseCode.INVALID_DATA
        )


def parse_close_untrusted(payload: bytes) -> tuple[int, str]:
    """Code and reason of a Close frame.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    if not payload:
        # RFC 6455, section 7.1.5: "If this Close control frame contains no status code, _The
        # WebSocket Connection Close Code_ is considered to be 1005."
        return CloseCode.NO_STATUS.value, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not is_sendable_code(code):
        raise RemoteProtocolError("a Close frame without a valid code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(
            "the reason of a Close frame is not valid UTF-8", close_code=CloseCode.INVALID_DATA
        ) from error


def close_payload(code: int | None, reason: str) -> bytes:
    """The payload of a Close frame; a reason that is too long is cut between two characters."""
    if code is None:
        return b""
    text = reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES]
    return code.to_bytes(2, "big") + text.decode("utf-8", "ignore").encode()
