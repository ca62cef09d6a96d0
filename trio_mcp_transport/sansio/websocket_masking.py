"""Masking of WebSocket frames (RFC 6455, section 5.3): a payload xor four bytes, over and over.

Used by `websocket_frames` for every frame that a client sends or a server reads. The same is
done by a function in C where the library `websockets` is installed (the extra ``speedups``),
and by Python elsewhere: what is masked for how long is all that differs. Nothing else of that
library is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["Mask", "choose_mask", "mask", "mask_in_python"]

#: Masks or unmasks data with a key of 4 bytes; gives new bytes.
Mask: TypeAlias = Callable[[bytes | bytearray | memoryview, bytes | bytearray], bytes]

#: Up to here one big integer is the fastest way in Python, beyond it four translations.
_AS_INTEGER_BYTES: Final = 1024
#: Bytes that are translated at a time: what is larger than the processor's cache takes twice as
#: long. Divisible by four, so that each piece begins with the key's first byte.
_PIECE_BYTES: Final = 64 * 1024


def mask_in_python(data: bytes | bytearray | memoryview, key: bytes | bytearray) -> bytes:
    """Mask or unmask without help."""
    size = len(data)
    if size <= _AS_INTEGER_BYTES:
        keys = (bytes(key) * (size // 4 + 1))[:size]
        mixed = int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")
        return mixed.to_bytes(size, "little")
    tables = [_xor_table(byte) for byte in key]
    mixed_pieces = []
    for start in range(0, size, _PIECE_BYTES):
        piece = bytearray(data[start : start + _PIECE_BYTES])
        for place, table in enumerate(tables):
            piece[place::4] = piece[place::4].translate(table)
        mixed_pieces.append(piece)
    return b"".join(mixed_pieces)


@functools.cache
def _xor_table(key: int) -> bytes:
    """What each byte becomes."""
    return bytes(byte ^ key for byte in range(256))


def choose_mask() -> Mask:
    """The fastest that is installed."""
    try:
        # Not there where `websockets` is not, or was built without a compiler.
        from websockets.speedups import apply_mask
    except ImportError:
        return mask_in_python
    return apply_mask


mask: Final = choose_mask()
