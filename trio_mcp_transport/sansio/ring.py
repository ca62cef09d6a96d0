"""A byte ring in memory that two processes share: one writes, the other reads.

Used by `doorbell`, and by whoever wants a ring over any writable buffer. It copies bytes in
and out and keeps count; it never waits, and never says a word to the other side: how far
each side has come is told by other means (the doorbell's socket), so that nothing but the
bytes themselves is shared.

Theory of operation:

* **Positions** count bytes. The writer has its *head* (how much was written) and the last
  *tail* it was told of (how much was read); the reader has its tail and the last head it was
  told of. Own positions live in private memory. What the other side tells is checked every
  time: ``0 <= head - tail <= size`` and always forwards, so no peer can make this side read
  or write outside of the ring, or count in circles.
* **Starting over.** A writer that knows the ring to be empty begins again at its first byte,
  with all positions at 0, and says so. So only as much memory is ever touched as was once
  on its way at a time, and small amounts of it stay in the processor's cache.
* The bytes may be changed by the other side at any time. They are copied out once, and
  nobody looks at them before that.
"""

from __future__ import annotations

import struct

import msgspec

from ..errors import RemoteProtocolError
from ..limits import MAX_RING_BYTES

__all__ = [
    "RING_HEADER_BYTES",
    "RingHeader",
    "RingReader",
    "RingWriter",
]

#: In front of the bytes of a ring: a page, so that the ring begins on one.
RING_HEADER_BYTES = 4096

_MAGIC = b"MCP ring"
_VERSION = 1
# Magic, version, where the ring begins, its bytes, the largest message. Little-endian, as both
# sides are on one machine, and to have it fixed anyhow.
_LAYOUT = struct.Struct("<8sIIQQ")


class RingHeader(msgspec.Struct, frozen=True):
    """What stands in front of each ring, written by whoever creates it.

    Attributes:
        ring_bytes: Size of the ring alone.
        max_message_bytes: Largest message that the creator takes and sends.
    """

    ring_bytes: int
    max_message_bytes: int

    @property
    def segment_bytes(self) -> int:
        """Size of the whole: header and ring."""
        return RING_HEADER_BYTES + self.ring_bytes

    def encode(self) -> bytes:
        """The bytes to put at the beginning of the segment."""
        return _LAYOUT.pack(
            _MAGIC, _VERSION, RING_HEADER_BYTES, self.ring_bytes, self.max_message_bytes
        )

    @classmethod
    def decode_untrusted(cls, data: bytes) -> RingHeader:
        """Read a header that the other side has written.

        Args:
            data: The beginning of the segment, copied out of it; more than the header is fine.

        Raises:
            RemoteProtocolError: It is none, of another version, or names impossible sizes.
        """
        if len(data) < _LAYOUT.size:
            raise RemoteProtocolError(f"a ring's header of {len(data)} bytes is too short")
        magic, version, offset, ring_bytes, max_message_bytes = _LAYOUT.unpack_from(data)
        if magic != _MAGIC:
            raise RemoteProtocolError("what the other side shares is no ring")
        if version != _VERSION:
            raise RemoteProtocolError(
                f"the other side's ring is of version {version}, not {_VERSION}"
            )
        if offset != RING_HEADER_BYTES or not 1 <= ring_bytes <= MAX_RING_BYTES:
            raise RemoteProtocolError(f"a ring of {ring_bytes} bytes at {offset} is not possible")
        if not 1 <= max_message_bytes <= ring_bytes:
            raise RemoteProtocolError(
                f"messages of {max_message_bytes} bytes do not fit the ring of {ring_bytes}"
            )
        return cls(ring_bytes, max_message_bytes)


class RingWriter:
    """The writing side of a ring.

    Writing has two steps, as the other side may not be reachable just now: `place` copies,
    and `advance` makes it count once the other side was told.

    Args:
        area: The bytes of the ring: a writable buffer, without the header.

    Attributes:
        size: Bytes of the ring.
        head: Bytes that were written and told of.
        tail: Bytes that the other side has read, as far as it told.
    """

    __slots__ = ("_area", "head", "size", "starts_over", "tail")

    def __init__(self, area: memoryview) -> None:
        if area.readonly or area.format != "B" or not area.contiguous or not len(area):
            raise ValueError("a ring needs a writable buffer of bytes")
        self._area = area
        self.size = len(area)
        self.head = 0
        self.tail = 0
        self.starts_over = False

    @property
    def free(self) -> int:
        """How many bytes fit now."""
        return self.size - (self.head - self.tail)

    def place(self, data: bytes | memoryview) -> int:
        """Copy what fits behind the head; it does not count yet.

        Afterwards `starts_over` tells whether it stands at the ring's beginning because
        everything before was read, and positions start again at 0.

        Returns:
            How many bytes were copied, from the start of `data`.
        """
        self.starts_over = self.head == self.tail > 0
        start = 0 if self.starts_over else self.head % self.size
        count = min(len(data), self.free)
        until_end = min(count, self.size - start)
        self._area[start : start + until_end] = data[:until_end]
        if until_end < count:
            self._area[: count - until_end] = data[until_end:count]
        return count

    def position_after(self, count: int) -> int:
        """The position to tell the other side of, for `count` bytes that were placed."""
        return count if self.starts_over else self.head + count

    def advance(self, count: int) -> None:
        """Count bytes that were placed, now that the other side was told."""
        if self.starts_over:
            self.head = self.tail = 0
            self.starts_over = False
        self.head += count

    def returned_untrusted(self, position: int) -> None:
        """Take note of how far the other side says that it has read.

        Raises:
            RemoteProtocolError: It cannot have.
        """
        if not self.tail < position <= self.head:
            raise RemoteProtocolError(
                f"the other side has read up to {position}, between {self.tail} and {self.head}"
            )
        self.tail = position

    def release(self) -> None:
        """Let go of the buffer. Idempotent; nothing can be placed afterwards."""
        self._area.release()


class RingReader:
    """The reading side of a ring.

    Args:
        area: The bytes of the ring: a buffer, without the header.

    Attributes:
        size: Bytes of the ring.
        head: Bytes that the other side has written, as far as it told.
        tail: Bytes that were read.
        returned: Bytes that were read and told of.
    """

    __slots__ = ("_area", "head", "returned", "size", "tail")

    def __init__(self, area: memoryview) -> None:
        if area.format != "B" or not area.contiguous or not len(area):
            raise ValueError("a ring needs a buffer of bytes")
        self._area = area
        self.size = len(area)
        self.head = 0
        self.tail = 0
        self.returned = 0

    @property
    def available(self) -> int:
        """How many bytes are there to be read."""
        return self.head - self.tail

    def written_untrusted(self, position: int, *, starts_over: bool) -> None:
        """Take note of how far the other side says that it has written.

        Args:
            position: Its head.
            starts_over: Whether it says that the ring was empty and positions begin at 0.

        Raises:
            RemoteProtocolError: It cannot have.
        """
        if starts_over:
            # It can only know what it was told.
            if self.returned != self.head:
                raise RemoteProtocolError("the other side starts over in a ring that is in use")
            if 0 < position <= self.size:
                self.tail = self.returned = 0
                self.head = position
                return
        elif self.head < position <= self.tail + self.size:
            self.head = position
            return
        raise RemoteProtocolError(
            f"the other side has written up to {position}, behind {self.head}, in a ring of"
            f" {self.size} bytes that was read up to {self.tail}"
        )

    def read(self, max_bytes: int) -> bytes:
        """Copy out what is there, at most `max_bytes`; ``b""`` when nothing is."""
        start = self.tail % self.size
        count = min(max_bytes, self.head - self.tail)
        until_end = self.size - start
        if count <= until_end:
            data = bytes(self._area[start : start + count])
        else:
            data = b"".join((self._area[start:], self._area[: count - until_end]))
        self.tail += count
        return data

    def release(self) -> None:
        """Let go of the buffer. Idempotent; nothing can be read afterwards."""
        self._area.release()
