"""Where the lines of a byte stream end: what `NewlineFramer` counts, cuts and gathers.

Nothing here knows a limit, or what is in a line.
"""

from __future__ import annotations

from ..limits import READ_CHUNK_BYTES

__all__ = ["PartialLine", "are_lines", "split_lines"]

_SMALL_PIECE = 4096
#: Counting and splitting look at each byte, a search at 32 at a time, which pays from here on.
_LONG_LINE = 1024


def split_lines(data: bytes) -> list[bytes]:
    """The same as splitting at each line feed, quicker where lines are long."""
    lines: list[bytes] = []
    start = 0
    while (end := data.find(b"\n", start)) - start > _LONG_LINE:
        lines.append(data[start:end])
        start = end + 1
    rest = data[start:]
    if end < 0:
        lines.append(rest)
    else:
        lines += rest.split(b"\n")
    return lines


def are_lines(data: bytes, count: int) -> bool:
    """Whether that are so many lines, the last one ended, too."""
    if len(data) < count * _LONG_LINE:
        return data.count(b"\n") == count
    end = -1
    for _ in range(count):
        end = data.find(b"\n", end + 1)
        if end < 0:
            return False
    return end == len(data) - 1


class PartialLine:
    """A line that is not whole yet: as it came, joined once, when its end is here.

    Small pieces are gathered: whoever sends byte by byte shall not cost an object for
    each byte.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] = []
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Put a piece at the end."""
        self.size += len(piece)
        if len(piece) >= _SMALL_PIECE:
            self._pieces.append(piece)
            return
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytearray) and len(last) < READ_CHUNK_BYTES:
            last += piece
        else:
            self._pieces.append(bytearray(piece))

    def join(self, end: bytes = b"") -> bytes:
        """All that is here, and `end`."""
        return b"".join([*self._pieces, end])

    def take(self, end: bytes = b"") -> bytes:
        """The same, after which nothing is here."""
        data = self.join(end)
        self._pieces = []
        self.size = 0
        return data
