"""The event store of a server that is one process: bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ..errors import ConfigurationError
from .events import EventRecord, EventStore, Replay

__all__ = ["MemoryEventStore"]

#: What an event costs beside its data, roughly: the record, its place in the queues.
_EVENT_OVERHEAD = 200


class _Stream:
    """The newest events of one stream."""

    def __init__(self, name: str, siblings: dict[str, _Stream]) -> None:
        self.name = name
        self.siblings = siblings
        self.events: deque[EventRecord] = deque()
        self.last = 0  # the number of the newest event
        self.finished = False


class MemoryEventStore(EventStore):
    """Keeps the newest events in memory.

    Over a bound the oldest events go, whichever stream they are of; over `max_sessions` the
    session that was written to longest ago goes whole. No method ever waits, so it serves
    under any event loop.

    Args:
        max_bytes: Most bytes of events, some 200 each for keeping them included.
        max_events: Most events.
        max_sessions: Most sessions.

    Attributes:
        size: Bytes that are kept.
        forgotten: Events that went because of a bound.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        max_events: int = 100_000,
        max_sessions: int = 10_000,
    ) -> None:
        for name, value in (
            ("max_bytes", max_bytes),
            ("max_events", max_events),
            ("max_sessions", max_sessions),
        ):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
        self._max_bytes = max_bytes
        self._max_events = max_events
        self._max_sessions = max_sessions
        self._sessions: dict[str, dict[str, _Stream]] = {}  # least recently written first
        #: Every event's stream, oldest first; one of a dropped session is skipped when met.
        self._order: deque[_Stream] = deque()
        self._dropped = 0  # entries of `_order` whose event is gone already
        self.size = 0
        self.forgotten = 0

    def __len__(self) -> int:
        """How many events are kept."""
        return len(self._order) - self._dropped

    async def append(self, session: str, stream: str, records: Sequence[EventRecord]) -> None:
        """Keep events. See `EventStore.append`."""
        streams = self._sessions.pop(session, None)
        if streams is None:
            streams = {}
            while len(self._sessions) >= self._max_sessions:
                self.forgotten += self._forget(next(iter(self._sessions)))
        self._sessions[session] = streams
        kept = streams.get(stream)
        if kept is None:
            kept = streams[stream] = _Stream(stream, streams)
        for record in records:
            kept.events.append(record)
            kept.last = record.number
            self._order.append(kept)
            self.size += _cost(record)
        while self.size > self._max_bytes or len(self) > self._max_events:
            self._forget_oldest()

    async def replay(self, session: str, stream: str, after: int) -> Replay | None:
        """What follows an event. See `EventStore.replay`."""
        kept = self._sessions.get(session, {}).get(stream)
        if kept is None or after > kept.last:
            return None
        first = kept.events[0].number if kept.events else kept.last + 1
        if after + 1 < first:
            return None  # a gap
        events = tuple(record for record in kept.events if record.number > after)
        return Replay(events, kept.finished)

    async def finish(self, session: str, stream: str) -> None:
        """Note that a stream is complete. See `EventStore.finish`."""
        kept = self._sessions.get(session, {}).get(stream)
        if kept is not None:
            kept.finished = True

    async def drop(self, session: str) -> None:
        """Forget a session. See `EventStore.drop`."""
        if session in self._sessions:
            self._forget(session)

    def _forget(self, session: str) -> int:
        count = 0
        for kept in self._sessions.pop(session).values():
            self.size -= sum(map(_cost, kept.events))
            count += len(kept.events)
            kept.events.clear()
        self._dropped += count
        if self._dropped > len(self):
            # Or it would grow for as long as sessions come and go.
            self._order = deque(stream for stream in self._order if stream.events)
            self._dropped = 0
        return count

    def _forget_oldest(self) -> None:
        kept = self._order.popleft()
        if not kept.events:
            self._dropped -= 1
            return
        self.size -= _cost(kept.events.popleft())
        self.forgotten += 1
        if kept.finished and not kept.events:
            del kept.siblings[kept.name]  # nobody can come back to it


def _cost(record: EventRecord) -> int:
    return len(record.data) + _EVENT_OVERHEAD
