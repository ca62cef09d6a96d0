"""Compressors and decompressors: gzip, zstd, brotli and LZ4 behind one small contract.

Byte transformers, no machines: bytes in, bytes out, no events. Used by `compressed_records`
for streams, by `content_coding` for HTTP, and usable alone. The libraries are imported when
an algorithm is first used; gzip is always there.

A decompressor never gives more than it was asked for at a time, whatever the peer sent, and
holds on to no more than one block beside. That is not what the libraries do by themselves:
zstandard has no bounded way to push data in, so it is given one block at a time, of which at
most 128 KiB come (RFC 8878, section 3.1.1.2.4); brotli's limit is a hint.
"""

from __future__ import annotations

import importlib.util
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from ..compression_settings import ALGORITHMS, Algorithm
from ..errors import FeatureUnavailable, LocalProtocolError, RemoteProtocolError

__all__ = [
    "Compressor",
    "Decompressor",
    "available_algorithms",
    "installed",
    "make_compressor",
    "make_decompressor",
]

#: The module of each algorithm, and what to install for it; gzip is in every Python.
_MODULES: Mapping[Algorithm, str] = {"zstd": "zstandard", "brotli": "brotli", "lz4": "lz4"}
#: The most that a peer may have its decompressor remember: RFC 8878, section 3.1.1.1.2,
#: recommends to support at least this, and "to not generate frames requiring more".
_MAX_WINDOW_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 4096
_GZIP_FORMAT = 31  # zlib's way to say gzip, with its largest window
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: RFC 8878, section 3.1.1.2.4.
_MAX_ZSTD_BLOCK_BYTES = 128 * 1024

# What the levels 0 to 11 are for each algorithm: from as fast as it can be to as small as is
# still quick enough for a message that somebody waits for.
_LEVELS: Mapping[Algorithm, tuple[int, ...]] = {
    "gzip": (1, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 9),
    "zstd": (1, 1, 2, 2, 3, 3, 3, 5, 7, 9, 12, 15),
    "brotli": (0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 9, 11),
    "lz4": (0, 0, 0, 0, 0, 1, 1, 3, 5, 7, 9, 12),
}


class Compressor(ABC):
    """Compresses one run of bytes."""

    @abstractmethod
    def compress(self, data: bytes) -> bytes:
        """Take bytes in; what comes back may be nothing, until `flush`."""

    @abstractmethod
    def flush(self) -> bytes:
        """What is needed so that everything taken in can be read by the peer now."""

    @abstractmethod
    def finish(self) -> bytes:
        """What ends the run; nothing may follow."""


class Decompressor(ABC):
    """Reads what one compressor made, in bounded steps.

    Attributes:
        bytes_in: Compressed bytes that were taken in.
        bytes_out: Bytes that came of them.
    """

    bytes_in = 0
    bytes_out = 0

    def decompress(self, data: bytes, max_bytes: int) -> bytes:
        """Take bytes in and give at most so many.

        While `needs_input` is False there may be more: call again, with ``b""``.

        Args:
            data: What comes next; must be empty while `needs_input` is False.
            max_bytes: At least 1.

        Raises:
            RemoteProtocolError: It is not what it claims to be, or goes on after its end.
            LocalProtocolError: Data was given while there was more to take.
        """
        if data and not self.needs_input:
            raise LocalProtocolError("there is more to take before data is given")
        self.bytes_in += len(data)
        output = self._step(data, max_bytes)
        self.bytes_out += len(output)
        return output

    @property
    @abstractmethod
    def needs_input(self) -> bool:
        """Whether everything was given that the bytes taken in are good for."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether the run has ended as it should: otherwise it was cut off."""

    @abstractmethod
    def _step(self, data: bytes, max_bytes: int) -> bytes: ...


def available_algorithms() -> tuple[Algorithm, ...]:
    """Those that this installation has, the preferred first."""
    return tuple(
        name
        for name in ALGORITHMS
        if name not in _MODULES or importlib.util.find_spec(_MODULES[name]) is not None
    )


def make_compressor(algorithm: Algorithm, level: int = 6) -> Compressor:
    """Make a compressor.

    Args:
        algorithm: Which.
        level: 0 (fastest) to 11 (smallest).

    Raises:
        FeatureUnavailable: Its library is not installed.
    """
    with installed(algorithm):
        return _COMPRESSORS[algorithm](_LEVELS[algorithm][level])


def make_decompressor(algorithm: Algorithm) -> Decompressor:
    """Make a decompressor.

    Raises:
        FeatureUnavailable: Its library is not installed.
    """
    with installed(algorithm):
        return _DECOMPRESSORS[algorithm]()


class installed:  # ruff: ignore[invalid-class-name] (used as a function)
    """Tells what to install, where an import fails."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ImportError):
            raise FeatureUnavailable(
                f"compression with {self._algorithm} needs an extra:"
                " pip install 'trio-mcp-transport[compression]'"
            ) from error


def _malformed(algorithm: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"this is not what {algorithm} makes")


# -- gzip (RFC 1952) -------------------------------------------------------------------


class _Gzip(Compressor):
    def __init__(self, level: int) -> None:
        self._engine = zlib.compressobj(level, zlib.DEFLATED, _GZIP_FORMAT)

    def compress(self, data: bytes) -> bytes:
        return self._engine.compress(data)

    def flush(self) -> bytes:
        return self._engine.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._engine.flush()


class _Gunzip(Decompressor):
    def __init__(self) -> None:
        self._engine = zlib.decompressobj(_GZIP_FORMAT)
        # Taken in and not used: what zlib gave back of the last piece, and what comes after it.
        self._held = b""
        self._rest = memoryview(b"")
        self._may_have_more = False

    @property
    def needs_input(self) -> bool:
        return not self._held and not self._rest and not self._may_have_more

    @property
    def is_finished(self) -> bool:
        return self._engine.eof and not self._held and not self._rest

    def _step(self, data: bytes, max_bytes: int) -> bytes:
        if data:
            self._rest = memoryview(data)
        while True:
            piece = self._held
            if not piece:
                # zlib copies what is left behind a member, so it gets little at a time.
                piece, self._rest = bytes(self._rest[:_PIECE_BYTES]), self._rest[_PIECE_BYTES:]
            if self._engine.eof and piece:
                # RFC 1952, section 2.2: "A gzip file consists of a series of "members"".
                self._engine = zlib.decompressobj(_GZIP_FORMAT)
            try:
                output = self._engine.decompress(piece, max_bytes)
            except zlib.error:
                raise _malformed("gzip") from None
            self._held = self._engine.unconsumed_tail or self._engine.unused_data
            self._may_have_more = len(output) == max_bytes and not self._engine.eof
            if output or self.needs_input:
                return output


# -- zstd (RFC 8878) -------------------------------------------------------------------


class _Zstd(Compressor):
    def __init__(self, level: int) -> None:
        import zstandard

        self._flush_block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._engine = zstandard.ZstdCompressor(level=level).compressobj()

    def compress(self, data: bytes) -> bytes:
        return self._engine.compress(data)

    def flush(self) -> bytes:
        return self._engine.flush(self._flush_block)

    def finish(self) -> bytes:
        return self._engine.flush()


class _ZstdBlocks:
    """Cuts what a peer sent into headers, blocks and checksums: RFC 8878, section 3.1.1.

    Nothing is decoded here, and what a part says is checked by the library alone.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._next: Literal["header", "block", "checksum"] = "header"
        self._has_checksum = False

    @property
    def is_between_frames(self) -> bool:
        return self._next == "header" and not self._buffer

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_part(self) -> bytes | None:
        """The next part, if it is here whole."""
        length = self._length()
        if length is None or len(self._buffer) < length:
            return None
        part = bytes(self._buffer[:length])
        del self._buffer[:length]
        if self._next == "header":
            self._has_checksum = bool(part[4] & 4)
            self._next = "block"
        elif self._next == "block" and part[0] & 1:  # the last of its frame
            self._next = "checksum" if self._has_checksum else "header"
        elif self._next == "checksum":
            self._next = "header"
        return part

    def _length(self) -> int | None:
        """Bytes of the next part, as soon as it says so."""
        buffer = self._buffer
        if self._next == "checksum":
            return 4
        if self._next == "header":
            if not _ZSTD_MAGIC.startswith(bytes(buffer[:4])):
                raise _malformed("zstd")
            if len(buffer) < 5:
                return None
            descriptor = buffer[4]
            is_single = descriptor & 0x20
            content_size = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
            return 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3] + content_size
        if len(buffer) < 3:
            return None
        head = int.from_bytes(buffer[:3], "little")
        # Of a block of type 1 there is one byte, which is repeated.
        size = 1 if (head >> 1) & 3 == 1 else head >> 3
        if size > _MAX_ZSTD_BLOCK_BYTES:
            raise _malformed("zstd")
        return 3 + size


class _Unzstd(Decompressor):
    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        # Without a limit of its own: 128 MiB and more are allocated as a frame asks for it.
        self._library = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._engine = self._library.decompressobj()
        self._blocks = _ZstdBlocks()
        self._surplus = b""
        self._has_begun = False
        self._is_waiting = True

    @property
    def needs_input(self) -> bool:
        return self._is_waiting

    @property
    def is_finished(self) -> bool:
        return self._has_begun and self._is_waiting and self._blocks.is_between_frames

    def _step(self, data: bytes, max_bytes: int) -> bytes:
        if data:
            self._has_begun = True
            self._blocks.feed(data)
        parts = [self._surplus]
        size = len(self._surplus)
        self._is_waiting = False
        while size <= max_bytes:
            part = self._blocks.next_part()
            if part is None:
                self._is_waiting = True
                break
            try:
                decoded = self._engine.decompress(part)
            except self._error:
                raise _malformed("zstd") from None
            if self._engine.eof:
                self._engine = self._library.decompressobj()
            if decoded:
                parts.append(decoded)
                size += len(decoded)
        output, self._surplus = _split(b"".join(parts), max_bytes)
        if self._surplus:
            self._is_waiting = False
        return output


# -- brotli (RFC 7932) -----------------------------------------------------------------


class _BrotliCompressor(Protocol):
    """What is used of the library, which has no types."""

    def process(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...
    def finish(self) -> bytes: ...


class _BrotliDecompressor(Protocol):
    def process(self, data: bytes, /, *, output_buffer_limit: int) -> bytes: ...
    def can_accept_more_data(self) -> bool: ...
    def is_finished(self) -> bool: ...


class _Brotli(Compressor):
    def __init__(self, level: int) -> None:
        import brotli

        self._engine: _BrotliCompressor = brotli.Compressor(quality=level)

    def compress(self, data: bytes) -> bytes:
        return self._engine.process(data)

    def flush(self) -> bytes:
        return self._engine.flush()

    def finish(self) -> bytes:
        return self._engine.finish()


class _Unbrotli(Decompressor):
    def __init__(self) -> None:
        import brotli

        self._error = brotli.error
        self._engine: _BrotliDecompressor = brotli.Decompressor()
        self._surplus = b""
        self._may_have_more = False

    @property
    def needs_input(self) -> bool:
        # It says that it can accept more also while it holds output back.
        return not self._surplus and not self._may_have_more and self._engine.can_accept_more_data()

    @property
    def is_finished(self) -> bool:
        return not self._surplus and self._engine.is_finished()

    def _step(self, data: bytes, max_bytes: int) -> bytes:
        output = self._surplus
        if not output:
            if self._engine.is_finished():
                self._may_have_more = False
                if data:
                    raise RemoteProtocolError("there is something behind the end of brotli")
                return b""
            try:
                output = self._engine.process(data, output_buffer_limit=max_bytes)
            except self._error:
                raise _malformed("brotli") from None
            # It holds back a few bytes now and then, however far the limit is.
            self._may_have_more = output != b""
        output, self._surplus = _split(output, max_bytes)
        return output


# -- LZ4, in its frame format ----------------------------------------------------------


class _Lz4Compressor(Protocol):
    """What is used of the library, which has no types."""

    def begin(self) -> bytes: ...
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Lz4Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


class _Lz4(Compressor):
    def __init__(self, level: int) -> None:
        import lz4.frame

        # Each call gives a whole block, which is what a flush is.
        self._engine: _Lz4Compressor = lz4.frame.LZ4FrameCompressor(
            compression_level=level, block_linked=True, auto_flush=True
        )
        self._head: bytes = self._engine.begin()

    def compress(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + self._engine.compress(data)

    def flush(self) -> bytes:
        head, self._head = self._head, b""
        return head

    def finish(self) -> bytes:
        return self.flush() + self._engine.flush()


class _Unlz4(Decompressor):
    def __init__(self) -> None:
        import lz4.frame

        self._engine: _Lz4Decompressor = lz4.frame.LZ4FrameDecompressor()
        self._may_have_more = False

    @property
    def needs_input(self) -> bool:
        # It says that it needs input also while it holds output back.
        return not self._may_have_more and (self._engine.eof or self._engine.needs_input)

    @property
    def is_finished(self) -> bool:
        return self._engine.eof

    def _step(self, data: bytes, max_bytes: int) -> bytes:
        engine = self._engine
        if self.is_finished:
            if data:
                raise RemoteProtocolError("there is something behind the end of lz4")
            return b""
        try:
            output = engine.decompress(data, max_length=max_bytes)
        except RuntimeError:  # it has no exception of its own
            raise _malformed("lz4") from None
        self._may_have_more = len(output) == max_bytes and not engine.eof
        if engine.unused_data:
            raise RemoteProtocolError("there is something behind the end of lz4")
        return output


def _split(data: bytes, at: int) -> tuple[bytes, bytes]:
    return (data, b"") if len(data) <= at else (data[:at], data[at:])


_COMPRESSORS: Mapping[Algorithm, Callable[[int], Compressor]] = {
    "brotli": _Brotli,
    "gzip": _Gzip,
    "lz4": _Lz4,
    "zstd": _Zstd,
}
_DECOMPRESSORS: Mapping[Algorithm, Callable[[], Decompressor]] = {
    "brotli": _Unbrotli,
    "gzip": _Gunzip,
    "lz4": _Unlz4,
    "zstd": _Unzstd,
}
