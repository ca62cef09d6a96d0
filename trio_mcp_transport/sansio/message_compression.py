"""Single messages, compressed and back: for programs that have a wire of their own.

Used by applications; the transports compress runs of messages (`compressed_records`) and bodies
(`content_coding`). What it is compressed with travels beside the message, as `encoding`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, Protocol

import msgspec

from ..compression_settings import (
    ALGORITHMS,
    Algorithm,
    CompressionSettings,
    CompressionStatistics,
)
from ..errors import RemoteProtocolError
from .compression import installed, make_compressor
from .compression_choice import CompressionCounter, RatioGuard, choose
from .content_coding import decode_body

__all__ = ["CompressedMessage", "Encoding", "MessageCompressor"]

#: What a message is compressed with: an algorithm, or LZ4's block format with the size in
#: front (4 bytes, little-endian), which some programs use in place of its frame format.
Encoding = Algorithm | Literal["lz4-block"]

_SIZE_BYTES = 4


class CompressedMessage(msgspec.Struct, frozen=True):
    """A message that may have been compressed.

    Attributes:
        data: Its bytes.
        encoding: What they are compressed with; None for nothing.
    """

    data: bytes
    encoding: Encoding | None


class MessageCompressor:
    """Compresses messages where that is worth it, and decompresses them within bounds.

    Args:
        settings: What is wanted.
        lz4_block: Whether LZ4 writes its block format instead of its frame format. Both are
            read.
        clock: Seconds, for the statistics; without it no time is counted.

    Raises:
        FeatureUnavailable: From the first use of an algorithm that is not installed.
    """

    def __init__(
        self,
        settings: CompressionSettings,
        *,
        lz4_block: bool = False,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._settings = settings
        self._lz4_block = lz4_block
        self._guard = RatioGuard(settings)
        self._counter = CompressionCounter(clock)

    def statistics(self) -> CompressionStatistics:
        """What `compress` has done so far."""
        return self._counter.statistics()

    def compress(
        self, data: bytes, accepted: Collection[Algorithm] = ALGORITHMS
    ) -> CompressedMessage:
        """Compress one message, unless it is small, looks incompressible or grows.

        Args:
            data: The message.
            accepted: What its receiver can decompress.
        """
        self._counter.start()
        choice = choose(self._settings, data, accepted)
        if choice is not None:
            encoding: Encoding = choice.algorithm
            if encoding == "lz4" and self._lz4_block:
                encoding, coded = "lz4-block", _compress_block(data)
            else:
                engine = make_compressor(choice.algorithm, choice.level)
                coded = engine.compress(data) + engine.finish()
            if len(coded) < len(data) and not self._guard.may_refuse(len(coded), len(data)):
                self._counter.done(len(data), len(coded), compressed=True)
                return CompressedMessage(coded, encoding)
        self._counter.done(len(data), len(data), compressed=False)
        return CompressedMessage(data, None)

    def decompress(self, message: CompressedMessage, max_bytes: int) -> bytes:
        """The message as it was.

        Args:
            message: As it came.
            max_bytes: The largest that it may be.

        Raises:
            RemoteProtocolError: It is malformed, cut off or too large.
        """
        if message.encoding is None:
            if len(message.data) > max_bytes:
                raise RemoteProtocolError(f"a message of more than {max_bytes} bytes", status=413)
            return message.data
        if message.encoding == "lz4-block":
            return _decompress_block(message.data, max_bytes)
        return decode_body(message.encoding, message.data, self._settings, max_bytes)


class _BlockFunctions(Protocol):
    """What is used of the library, which has no types."""

    class LZ4BlockError(Exception): ...

    def compress(self, data: bytes, /, *, store_size: bool) -> bytes: ...
    def decompress(self, data: bytes, /, *, uncompressed_size: int) -> bytes: ...


def _block_functions() -> _BlockFunctions:
    with installed("lz4"):
        import lz4.block

        functions: _BlockFunctions = lz4.block
    return functions


def _compress_block(data: bytes) -> bytes:
    return len(data).to_bytes(_SIZE_BYTES, "little") + _block_functions().compress(
        data, store_size=False
    )


def _decompress_block(data: bytes, max_bytes: int) -> bytes:
    functions = _block_functions()
    if len(data) <= _SIZE_BYTES:
        raise RemoteProtocolError("a block of lz4 was cut off")
    # Before anything is allocated for what it claims.
    size = int.from_bytes(data[:_SIZE_BYTES], "little")
    if size > max_bytes:
        raise RemoteProtocolError(f"a block of lz4 claims {size} bytes", status=413)
    try:
        decoded = functions.decompress(data[_SIZE_BYTES:], uncompressed_size=size)
    except functions.LZ4BlockError:
        raise RemoteProtocolError("this is not what lz4 makes") from None
    if len(decoded) != size:
        raise RemoteProtocolError("a block of lz4 is not as large as it claims")
    return decoded
