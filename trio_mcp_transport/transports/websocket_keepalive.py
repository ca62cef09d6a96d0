"""When a WebSocket peer is pinged, and when one that does not answer counts as gone. Pure.

Driven by `WebSocketReader`, which tells it the time. What it must decide is whether the other
side is alive, which is more than that bytes come: a peer whose reading half has died may send
for ever, and one that a proxy has forgotten sends nothing. So:

* A ping goes out every `interval`, whatever else moves, and each ping has a deadline of its
  own that nothing but its pong takes away: neither data nor other pongs do. The payload is
  random, so only who has read the ping can answer it.
* The deadline runs from when the operating system had the ping, and only while this side
  reads: a pong cannot be seen by who does not look for it. (An application that does not
  take what has come is the inbox's business, not the peer's fault.)
* A pong cannot overtake the message in front of it (RFC 6455, section 5.4: control frames come
  between the fragments of a message, but never inside of a frame). So where the deadline
  finds a message half here that moves on, at least a slice of 64 KiB in each `timeout`,
  that one message may be finished first. Only that one: who begins another instead is gone.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from ..limits import WRITE_SLICE_BYTES

__all__ = ["GONE", "Arrivals", "Gone", "KeepAlive"]

_PAYLOAD_BYTES = 4


class Gone(enum.Enum):
    """The type of `GONE`."""

    GONE = "GONE"

    def __repr__(self) -> str:
        return self.name


#: The peer did not answer in time.
GONE: Final[Literal[Gone.GONE]] = Gone.GONE


class Arrivals(msgspec.Struct, frozen=True):
    """What has come from the peer so far.

    Attributes:
        total_bytes: Bytes.
        messages: Messages that are complete.
        halfway: Whether a part of another one is here.
    """

    total_bytes: int
    messages: int
    halfway: bool


class KeepAlive:
    """The pings of one connection.

    Args:
        interval: Seconds between pings; `math.inf` for none.
        timeout: Seconds in which each must be answered; `math.inf` for any time.
        now: The time.
        random_bytes: Makes so many random bytes.

    Attributes:
        due: When `look` is to be called next.
    """

    __slots__ = (
        "_awaited",
        "_interval",
        "_next_ping",
        "_random_bytes",
        "_seen",
        "_timeout",
        "_waits_for",
        "due",
    )

    def __init__(
        self, interval: float, timeout: float, now: float, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._interval = interval
        self._timeout = timeout
        self._random_bytes = random_bytes
        self._next_ping = now + interval
        self._awaited: bytes | None = None
        #: What had come at the last look, and the message that may be finished.
        self._seen = Arrivals(0, 0, False)
        self._waits_for: int | None = None
        self.due = self._next_ping

    def look(self, now: float, arrivals: Arrivals, *, ping_taken: bool = True) -> bytes | Gone:
        """What is to be done: the payload of a ping that is to be sent, or none, or `GONE`.

        Args:
            now: The time.
            arrivals: What has come so far.
            ping_taken: Whether the operating system has the last ping.
        """
        if now < self.due:
            return b""
        if self._awaited is None:
            self._awaited = self._random_bytes(_PAYLOAD_BYTES)
            self._next_ping = now + self._interval
            self._seen, self._waits_for = arrivals, None
            self.due = now + self._timeout
            return self._awaited
        if ping_taken and not self._may_finish(arrivals):
            self.due = math.inf
            return GONE
        self._seen = arrivals
        self.due = now + self._timeout
        return b""

    def _may_finish(self, arrivals: Arrivals) -> bool:
        """Whether the message that is half here may come to its end first."""
        if self._waits_for is None:
            self._waits_for = arrivals.messages
        return (
            arrivals.halfway
            and arrivals.messages == self._waits_for
            and arrivals.total_bytes - self._seen.total_bytes >= WRITE_SLICE_BYTES
        )

    def pong(self, payload: bytes) -> bool:
        """Take a pong; whether it is the answer to the last ping. Others mean nothing."""
        if self._awaited is None or payload != self._awaited:
            return False
        self._awaited = None
        self.due = self._next_ping
        return True

    def paused(self, seconds: float) -> None:
        """Tell that this side did not read for so long: that does not count."""
        self.due += seconds
