"""One outgoing event stream: numbering, resuming, and what each step of it writes.

Used by the writers of exchanges, of standalone GET streams and of HTTP+SSE. A stream is not
its connection: where its events are numbered, the connection may be lost or closed and the
client comes back for the rest.

Theory of operation: each call that has something to say returns a `Step`. Its `records` are
to be appended to the event store first ("store before send": what the client saw can be
resumed after), then its `events` are written to the connection that the stream is attached
to. An adapter with an event store holds one lock per stream over "make the step, append,
write" and over "replay, attach", so that numbers reach store and wire in order and no
event falls between a replay and what follows it. Without a store there are no records,
nothing is awaited in between, and no lock is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from ...errors import LocalProtocolError
from ..headers import Headers
from ..http1 import BodyData, EndOfBody, ResponseEvent, ResponseHead
from ..sse import encode_event, encode_message

__all__ = [
    "NOTHING",
    "SSE_HEAD",
    "SSE_HEADERS",
    "Cursor",
    "EventRecord",
    "EventStream",
    "Replay",
    "Step",
    "parse_event_id",
    "replayed",
]

#: 2026-07-28, Receiving Messages: "servers SHOULD include the X-Accel-Buffering: no header
#: in the HTTP response".
SSE_HEADERS: Final = Headers([
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),
])
#: The head of every event stream but the one that opens a session.
SSE_HEAD: Final = ResponseHead(200, SSE_HEADERS)
_KEEP_ALIVE: Final = (BodyData(b": keep-alive\n\n"),)
_EVENT_ID: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)


class EventRecord(msgspec.Struct, frozen=True):
    """One event as the store keeps it.

    Attributes:
        number: Its place in the stream, from 1.
        data: The JSON of a message; empty for the event that only gives an id.
    """

    number: int
    data: bytes


class Cursor(msgspec.Struct, frozen=True):
    """What a ``Last-Event-ID`` says: the stream, and the last event of it that arrived."""

    stream: str
    number: int


class Replay(msgspec.Struct, frozen=True):
    """What a store has of a stream after a cursor.

    Attributes:
        events: In order, none missing.
        finished: Whether nothing more will come.
    """

    events: tuple[EventRecord, ...] = ()
    finished: bool = False


class Step(msgspec.Struct, frozen=True):
    """What to do for one call: first store, then write.

    Attributes:
        records: To be appended to the event store, in order, before anything is written.
        events: To be written to the connection, which may be none.
        finished: Whether a numbered stream ended with this: to be marked in the store,
            after the records, so that whoever resumes it learns that it is complete.
    """

    records: tuple[EventRecord, ...] = ()
    events: tuple[ResponseEvent, ...] = ()
    finished: bool = False


NOTHING: Final = Step()


def parse_event_id(text: str) -> Cursor | None:
    """Read an event id of ours; None if it is none."""
    found = _EVENT_ID.fullmatch(text)
    return Cursor(found[1], int(found[2])) if found else None


def replayed(stream: str, replay: Replay) -> tuple[ResponseEvent, ...]:
    """The whole response to a resumption of a stream that has ended.

    2025-11-25, Resumability: "The server MUST NOT replay messages that would have been
    delivered on a different stream."
    """
    data = b"".join([_event(stream, record.number, record.data) for record in replay.events])
    return (SSE_HEAD, BodyData(data), EndOfBody()) if data else (SSE_HEAD, EndOfBody())


def _event(stream: str, number: int, payload: bytes) -> bytes:
    event_id = f"{stream}-{number}"
    return encode_message(payload, id=event_id) if payload else encode_event(b"", id=event_id)


class EventStream:
    """One stream of server-sent events.

    Args:
        name: Unique in the session; part of the event ids.
        numbered: Whether events carry ids, so that the stream can be resumed.
        primed: Whether a client is given an id before there is anything to say.

    Attributes:
        attached: Whether a connection carries the stream at the moment.
        ended: Whether the stream is over: nothing more goes out on it.
        dropped: Messages that had nowhere to go.
        owner: The adapter's own; never looked at here.
    """

    def __init__(self, name: str, *, numbered: bool, primed: bool) -> None:
        self.name = name
        self.numbered = numbered
        self.primed = primed
        self.attached = False
        self.ended = False
        self.dropped = 0
        self.owner: object | None = None
        self._open = False  # the head of a stream went out on this connection
        self._number = 0

    @property
    def can_close_connection(self) -> bool:
        """Whether `close_connection` is possible: the client knows how to come back."""
        return self.numbered and self.primed

    def attach(self, replay: Replay) -> Step:
        """A client came back: all that it missed, then the stream goes on here.

        The connection that carried the stream before gets nothing more; end it first.
        """
        self.attached = self._open = True
        events = replayed(self.name, replay)
        return Step(events=events if self.ended else events[:-1])

    def detach(self) -> None:
        """The connection is gone: steps have no events until the stream is attached again."""
        self.attached = self._open = False

    def keep_alive(self) -> tuple[ResponseEvent, ...]:
        """A comment for a stream that was silent; nothing where no stream is open."""
        return _KEEP_ALIVE if self._open and not self.ended else ()

    def close_connection(self, retry: float) -> Step:
        """End the connection but not the stream: the client comes back for the rest.

        Args:
            retry: Seconds that the client is to wait.

        Raises:
            LocalProtocolError: `can_close_connection` is False.
        """
        if not self.can_close_connection:
            raise LocalProtocolError("the client could not come back to this stream")
        if self.ended or not self.attached:
            return NOTHING
        records: list[EventRecord] = []
        # 2025-11-25: "it SHOULD send an SSE event with a standard retry field before closing
        # the connection."
        data = self._first_data(records) + encode_event(None, retry=round(retry * 1000))
        events = (*self._head(), BodyData(data), EndOfBody())
        self.detach()
        return Step(tuple(records), events)

    def end(self) -> Step:
        """End the stream without another message."""
        if self.ended:
            return NOTHING
        return self._say((), end=True)

    def _head(self) -> tuple[ResponseEvent, ...]:
        """The head, if this connection has none yet."""
        if self._open:
            return ()
        self._open = True
        return (SSE_HEAD,)

    def _first_data(self, records: list[EventRecord]) -> bytes:
        """What a stream begins with, if it has not begun: the event that primes the client."""
        if self._open or not self.numbered or not self.primed:
            return b""
        # "The server SHOULD immediately send an SSE event consisting of an event ID and an
        # empty data field in order to prime the client to reconnect".
        return self._numbered(b"", records)

    def _numbered(self, payload: bytes, records: list[EventRecord]) -> bytes:
        self._number += 1
        records.append(EventRecord(self._number, payload))
        return _event(self.name, self._number, payload)

    def _say(self, payloads: Iterable[bytes], *, end: bool = False) -> Step:
        """Events on the wire, with the head before them and the end after them if need be."""
        if self.numbered:
            records: list[EventRecord] = []
            data = self._first_data(records) if self.attached else b""
            data += b"".join([self._numbered(payload, records) for payload in payloads])
            kept = tuple(records)
        else:
            data = b"".join(map(encode_message, payloads))
            kept = ()
        self.ended = end
        if not self.attached:
            return Step(kept, finished=end and self.numbered)
        body = (BodyData(data),) if data else ()
        return Step(
            kept,
            (*self._head(), *body, EndOfBody()) if end else (*self._head(), *body),
            end and self.numbered,
        )
