"""The state that every channel has: where it is in its life, why it failed, who waits.

Used by `StreamChannel` and `MemoryChannel`. The first cause of a failure stays the cause.
"""

from __future__ import annotations

import secrets
from typing import Protocol, runtime_checkable

import msgspec
import trio

from ..abc import ChannelBroken, ChannelState, ChannelStatistics, ConnectionLost
from ..compression_settings import CompressionStatistics

__all__ = [
    "CountsCompression",
    "StateCell",
    "half_closeable",
    "make_session_id",
    "stream_lost",
    "with_compression",
]

_FINAL = (ChannelState.CLOSED, ChannelState.FAILED)
_ORDER = {state: place for place, state in enumerate(ChannelState)}


@runtime_checkable
class CountsCompression(Protocol):
    """A stream, or whatever else sends for a channel, that compresses."""

    def compression_statistics(self) -> tuple[CompressionStatistics, CompressionStatistics]:
        """What compression has done so far for what was sent, and for what was received."""


def with_compression(statistics: ChannelStatistics, carrier: object) -> ChannelStatistics:
    """The statistics, with what compression has done if the carrier of the channel compresses."""
    if not isinstance(carrier, CountsCompression):
        return statistics
    sent, received = carrier.compression_statistics()
    return msgspec.structs.replace(statistics, compression_sent=sent, compression_received=received)


def make_session_id(transport: str) -> str:
    """The transport's name and 64 random bits."""
    return f"{transport}-{secrets.token_hex(8)}"


def half_closeable(stream: trio.abc.Stream) -> trio.abc.HalfCloseableStream | None:
    """The stream, if one direction of it can end alone; TLS 1.2, for one, cannot."""
    if isinstance(stream, trio.abc.HalfCloseableStream) and getattr(stream, "can_send_eof", True):
        return stream
    return None


def stream_lost(error: Exception, when: str) -> ChannelBroken:
    """The cause to record when the stream under a channel broke."""
    if isinstance(error, ChannelBroken):
        return error
    cause = ConnectionLost(f"the stream broke {when}: {error}".rstrip(": "))
    cause.__cause__ = error
    return cause


class StateCell:
    """One channel's state. All but `wait` is synchronous.

    Attributes:
        state: The state.
        is_open: Whether it is CONNECTING or CONNECTED.
        failure: The first cause, once FAILED.
    """

    __slots__ = ("_changed", "failure", "is_open", "state")

    def __init__(self, state: ChannelState = ChannelState.CONNECTED) -> None:
        self.state = state
        self.is_open = True
        self.failure: ChannelBroken | None = None
        self._changed: trio.Event | None = None

    @property
    def is_final(self) -> bool:
        """Whether the channel is closed or failed."""
        return self.state in _FINAL

    def move(self, state: ChannelState) -> None:
        """Enter a later state; an earlier one is ignored, and a final one stays."""
        if self.state in _FINAL:
            return
        if state in _FINAL or _ORDER[state] > _ORDER[self.state]:
            self.state = state
            self.is_open = state is ChannelState.CONNECTED
            if self._changed is not None:
                self._changed.set()
                self._changed = None

    def fail(self, cause: ChannelBroken) -> bool:
        """Enter FAILED with its cause; False if the channel had ended before."""
        if self.is_final:
            return False
        self.failure = cause
        self.move(ChannelState.FAILED)
        return True

    def check_open(self) -> None:
        """Raise what a call on an ended channel raises.

        Raises:
            ChannelBroken: It failed; a fresh exception from the first cause.
            trio.ClosedResourceError: It was closed from this side.
        """
        if not self.is_open:
            ending = self.ending()
            raise ending from ending.__cause__

    def ending(self) -> Exception:
        """A fresh exception that tells how the channel ended, for one waiter."""
        if self.failure is None:
            return trio.ClosedResourceError("this side closed the channel")
        return self.failure.again()

    async def wait(self, states: tuple[ChannelState, ...]) -> ChannelState:
        """Wait for one of the states; return which."""
        await trio.lowlevel.checkpoint()
        while self.state not in states:
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()
        return self.state
