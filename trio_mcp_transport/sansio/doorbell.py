"""What goes over the sockets beside two rings: the wire of shared memory, as machines.

Used by `transports.shared_memory_stream`, which moves the bytes. Pure.

Theory of operation. Each direction of a stream has a ring and a socket. The writer sends on
the socket, in the order of the stream,

* bytes *inline*: small amounts, as they are. They must not hold the byte 0xFF (which UTF-8
  does not have); what does goes through the ring;
* *words* of 10 bytes: 0xFF, ``P`` or ``R``, and the writer's position in the ring (64 bits,
  little-endian). Up to there the ring's bytes follow next. ``R`` says as well that the ring
  was empty, and that its positions start over.

So small messages cost what they cost on any socket, and large ones one word. In the other
direction of the same socket, the *lane*, the reader sends words of 8 bytes:

* how far it has read, so that the space can be used again;
* `END`: the end of what *it* writes, in the other direction's ring and socket. That lane is
  never full, so a stream can be ended whatever waits in it. A socket that ends without that
  word has lost its peer.

A peer can neither flood a ring with words nor go backwards: each position must be ahead of
the last one and within the ring, so each word is worth at least one byte.
"""

from __future__ import annotations

import struct

from ..errors import RemoteProtocolError
from .ring import RingReader, RingWriter

__all__ = ["END", "ESCAPE", "Inflow", "Lane", "lane_word", "position_word"]

#: The word of the lane that says that nothing more will be written.
END = b"\xff" * 8

#: Begins a word. Bytes that hold it go through the ring, as they cannot go inline.
#: (A number, as looking for that in bytes costs a fifth of looking for a byte string.)
ESCAPE = 0xFF

_WORD = struct.Struct("<2sQ")
_LANE_WORD = struct.Struct("<Q")
_AHEAD = b"\xffP"
_STARTS_OVER = b"\xffR"


def position_word(position: int, *, starts_over: bool) -> bytes:
    """The word that tells how far the ring was written."""
    return _WORD.pack(_STARTS_OVER if starts_over else _AHEAD, position)


def lane_word(position: int) -> bytes:
    """The word that tells how far the ring was read."""
    return _LANE_WORD.pack(position)


class Inflow:
    """One direction as its reader sees it: bytes of a socket in, bytes of the stream out.

    Args:
        ring: The ring that its words are about.

    Attributes:
        ring: See above.
        has_more: Whether there is something left to `read`, be it part of a word.
    """

    __slots__ = ("_at", "_rest", "has_more", "ring")

    def __init__(self, ring: RingReader) -> None:
        self.ring = ring
        self.has_more = False
        self._rest = b""
        self._at = 0

    def accept(self, chunk: bytes, max_bytes: int) -> bytes:
        """Take what the socket gave, which is at most `max_bytes`, and read.

        Only when everything before was read.

        Returns:
            As `read`.

        Raises:
            RemoteProtocolError: As `read`.
        """
        if not self._rest:
            if ESCAPE not in chunk:
                return chunk
            self._rest = chunk
        else:
            self._rest = self._rest[self._at :] + chunk
        self._at = 0
        return self.read(max_bytes)

    def read(self, max_bytes: int) -> bytes:
        """The next bytes of the stream, at most so many; ``b""`` when more must come first.

        Raises:
            RemoteProtocolError: The peer has sent what it must not.
        """
        self._take_words()
        if self.ring.available:
            data = self.ring.read(max_bytes)
        else:
            rest, at = self._rest, self._at
            word = rest.find(ESCAPE, at)
            end = min(len(rest) if word < 0 else word, at + max_bytes)
            data = rest[at:end]
            self._drop(end)
        self.has_more = self.ring.available > 0 or bool(self._rest)
        return data

    def _take_words(self) -> None:
        """Take those that come next, as far as they are whole.

        Raises:
            RemoteProtocolError: One cannot be, and nothing comes before it.
        """
        rest, at = self._rest, self._at
        while len(rest) - at >= _WORD.size and rest[at] == ESCAPE:
            kind, position = _WORD.unpack_from(rest, at)
            try:
                if kind not in {_AHEAD, _STARTS_OVER}:
                    raise RemoteProtocolError("the other side sent a word of no known kind")
                self.ring.written_untrusted(position, starts_over=kind == _STARTS_OVER)
            except RemoteProtocolError:
                if not self.ring.available:
                    raise
                return  # its turn comes
            at += _WORD.size
            self._drop(at)

    def _drop(self, end: int) -> None:
        """All up to there is done with."""
        if end == len(self._rest):
            self._rest = b""
            self._at = 0
        else:
            self._at = end


class Lane:
    """What comes back on the socket that one direction is written to.

    Args:
        ring: The ring that is written.

    Attributes:
        has_ended: Whether the other side has said that it writes nothing more.
    """

    __slots__ = ("_fault", "_rest", "has_ended", "ring")

    def __init__(self, ring: RingWriter) -> None:
        self.ring = ring
        self.has_ended = False
        self._rest = b""
        self._fault: str | None = None

    def receive_data(self, data: bytes) -> None:
        """Take words that have come, in pieces of any size.

        Raises:
            RemoteProtocolError: The peer has sent what it must not, now or before.
        """
        if self._fault is None:
            try:
                self._take_words(self._rest + data)
            except RemoteProtocolError as error:
                self._fault = str(error)
        if self._fault is not None:
            raise RemoteProtocolError(self._fault)

    def _take_words(self, data: bytes) -> None:
        whole = len(data) - len(data) % _LANE_WORD.size
        self._rest = data[whole:]
        for at in range(0, whole, _LANE_WORD.size):
            if data[at : at + _LANE_WORD.size] != END:
                self.ring.returned_untrusted(_LANE_WORD.unpack_from(data, at)[0])
            elif self.has_ended:
                raise RemoteProtocolError("the other side has ended twice")
            else:
                self.has_ended = True

    def would_end(self, data: bytes) -> bool:
        """Whether the end is among words that have come but are not taken yet."""
        data = self._rest + data
        return self.has_ended or any(
            data[at : at + _LANE_WORD.size] == END for at in range(0, len(data), _LANE_WORD.size)
        )
