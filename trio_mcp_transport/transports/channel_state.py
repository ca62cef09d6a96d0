"""The state that every channel has: where it is in its life, why it failed, who waits.

Used by `StreamChannel` and `MemoryChannel`. The first cause of a failure stays the cause.
"""

from __future__ import annotations

import secrets

import trio

from ..abc import ChannelBroken, ChannelState

__all__ = ["StateCell", "make_session_id"]

_FINAL = (ChannelState.CLOSED, ChannelState.FAILED)


def make_session_id(transport: str) -> str:
    """The transport's name and 64 random bits."""
    return f"{transport}-{secrets.token_hex(8)}"


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
        """Enter a later state; a final one stays."""
        if not self.is_final:
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
        if self.is_open:
            return
        if self.failure is not None:
            raise self.failure.again() from self.failure
        raise trio.ClosedResourceError("this side closed the channel")

    async def wait(self, states: tuple[ChannelState, ...]) -> ChannelState:
        """Wait for one of the states; return which."""
        await trio.lowlevel.checkpoint()
        while self.state not in states:
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()
        return self.state
