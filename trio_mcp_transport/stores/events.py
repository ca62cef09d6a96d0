"""Where the events of resumable streams are kept until their client has them.

Servers append before they write, and replay for a client that comes back. A store is asked
for the streams of one session only, and the session is the one that the request was found
to belong to: what an event id says never leads into another session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..sansio.mcp_http.streams import EventRecord, Replay

__all__ = ["EventRecord", "EventStore", "Replay"]


class EventStore(ABC):
    """An event store. Every method may wait; cancelling one leaves it done or not done.

    Who waits for it gives up after `EVENT_STORE_TIMEOUT` seconds, cancels the call and takes
    the store for failed: the exchange whose words it did not take fails.

    A store is bounded and forgets the oldest events first; a stream that has lost events is
    not replayed over the gap.
    """

    @abstractmethod
    async def append(self, session: str, stream: str, records: Sequence[EventRecord]) -> None:
        """Keep events of a stream. Their numbers go on from those before."""

    @abstractmethod
    async def replay(self, session: str, stream: str, after: int) -> Replay | None:
        """What a stream holds after the event of this number.

        Returns:
            None when this cannot be told completely, because the session or stream is not
            known, the number was never given, or what followed it is forgotten.
        """

    @abstractmethod
    async def finish(self, session: str, stream: str) -> None:
        """Note that a stream is complete. Nothing happens if it is not known."""

    @abstractmethod
    async def drop(self, session: str) -> None:
        """Forget a session with all its streams. Nothing happens if it is not known."""
