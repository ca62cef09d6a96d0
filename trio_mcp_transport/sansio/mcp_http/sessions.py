"""The sessions of one endpoint, and where each message of a session belongs.

Called by the legacy and HTTP+SSE servers. All of it is bookkeeping: nothing waits, nothing
is sent, and the time is an argument.

Theory of operation: a session is *pending* from the POST of `initialize` until its
successful result goes out, which opens it; a failed one leaves nothing behind. It is
removed in one place, whatever ended it. A session with a request in flight is busy; all
others wait in the order in which they fell idle, so expiry looks only at the front.

Ids: requests that arrive are known by their exchange and their id, so two exchanges may
use the same one. Those that go out are renamed, see `asked`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from ...errors import LocalProtocolError
from ...jsonrpc import ErrorResponse, Message, Notification, RequestId, Response
from .asked import AskedRequests, id_member
from .exchange import ExchangeWriter
from .standalone import StandaloneWriter

__all__ = ["Delivery", "SessionKind", "SessionRecord", "SessionState", "SessionTable"]

SessionKind: TypeAlias = Literal["streamable", "sse"]
SessionState: TypeAlias = Literal["pending", "open", "ended"]
#: The first revision whose clients know an event without a message for what it is.
_PRIMED_SINCE = "2025-11-25"
#: When all places are taken, a session gives up its own that nobody has used for so long
#: and that has no stream open; its client begins another when it comes back.
_SPARE_SECONDS = 60.0
#: Likewise one whose client has never said anything in it, which any does at once.
_UNUSED_SECONDS = 5.0
_VISIBLE_ASCII = re.compile(r"[!-~]+")


class Delivery(msgspec.Struct, frozen=True):
    """Where a received message goes.

    Attributes:
        message: As its receiver is to see it: an answer has the id that the request had
            before it was renamed.
        exchange: The exchange whose channel gets it; None: the session's own channel.
        cancels: The request of that exchange that it cancels: after handing the message
            over, `exchange.cancel(cancels)` tells what goes out.
    """

    message: Message
    exchange: ExchangeWriter | None = None
    cancels: RequestId | None = None


class SessionRecord:
    """One session.

    Attributes:
        id: What the client names it by.
        principal: Who began it; nobody else ever finds it.
        kind: ``streamable``, or ``sse`` for HTTP+SSE.
        state: ``pending``, ``open`` or ``ended``.
        revision: What `initialize` agreed on; None before, and on HTTP+SSE.
        resumable: Whether its streams carry event ids.
        primed: Whether its client takes an event that carries an id and no message.
        asked: The requests that were sent to the client.
        standalone: What goes out beside all exchanges.
        exchanges: Those that are in flight, by the names of their streams.
        used: Whether the client has said anything in it.
        ignored: How many messages went nowhere, by reason.
        owner: The adapter's own; never looked at here.
    """

    def __init__(
        self, session_id: str, principal: str | None, *, kind: SessionKind, resumable: bool
    ) -> None:
        self.id = session_id
        self.principal = principal
        self.kind = kind
        self.state: SessionState = "pending"
        self.revision: str | None = None
        self.resumable = resumable
        self.primed = False
        self.asked = AskedRequests()
        self.standalone = StandaloneWriter(self.asked)
        self.exchanges: dict[str, ExchangeWriter] = {}
        self.ignored: Counter[str] = Counter()
        self.used = False
        self.owner: object | None = None
        self._streams = 0
        self._by_request: dict[RequestId, list[ExchangeWriter]] = {}

    def __repr__(self) -> str:
        # Whoever has the id of a session is half-way into it.
        return f"<SessionRecord {self.state} revision={self.revision}>"

    def next_stream(self) -> str:
        """A name for a new stream; the standalone one is ``0``."""
        self._streams += 1
        return str(self._streams)

    def open(self, revision: str | None) -> None:
        """Its `initialize` succeeded, or its HTTP+SSE stream begins."""
        self.state = "open"
        self.revision = revision
        self.primed = revision is not None and revision >= _PRIMED_SINCE
        self.standalone.numbered = self.resumable
        self.standalone.primed = self.primed

    def begin(self, exchange: ExchangeWriter) -> None:
        """An exchange is in flight."""
        self.used = True
        self.exchanges[exchange.name] = exchange
        for request_id in exchange.requests:
            self._by_request.setdefault(request_id, []).append(exchange)

    def end(self, exchange: ExchangeWriter) -> None:
        """An exchange is over."""
        del self.exchanges[exchange.name]
        for request_id in exchange.requests:
            holders = self._by_request[request_id]
            holders.remove(exchange)
            if not holders:
                del self._by_request[request_id]
        self.asked.forget(exchange)

    def route(self, message: Notification | Response | ErrorResponse) -> Delivery | None:
        """Where a message that the client POSTed goes; None: nowhere, which is counted."""
        self.used = True
        if not isinstance(message, Notification):
            answered = self.asked.take_answer(message)
            if answered is None:
                # Late, or an answer to a question that nobody asked.
                self.ignored["answer"] += 1
                return None
            return Delivery(*answered)
        if message.method == "notifications/cancelled":
            return self._route_cancel(message)
        if message.method == "notifications/progress":
            progress = self.asked.take_progress(message)
            if progress is None:
                self.ignored["progress"] += 1
                return None
            return Delivery(*progress)
        return Delivery(message)

    def _route_cancel(self, message: Notification) -> Delivery | None:
        request_id = id_member(message, "requestId")
        if request_id is None:
            self.ignored["cancelled"] += 1
            return None
        holders = [
            exchange
            for exchange in self._by_request.get(request_id, ())
            if request_id in exchange.waiting
        ]
        if len(holders) != 1:
            # Cancellation: servers "MAY ignore cancellation notifications if the referenced
            # request is unknown" - or if it could be either of two.
            self.ignored["ambiguous cancelled" if holders else "cancelled"] += 1
            return None
        return Delivery(message, holders[0], request_id)


class SessionTable:
    """The sessions of one endpoint.

    Args:
        max_sessions: Most sessions at a time, pending ones included. Beyond that the one
            that was idle the longest makes room, if it was for a while.
        idle_timeout: Seconds without activity after which a session ends.
        resumable: Whether their streams carry event ids.

    Attributes:
        refused: How many could not begin because the table was full.
    """

    def __init__(self, max_sessions: int, idle_timeout: float, *, resumable: bool) -> None:
        self._max = max_sessions
        self._idle_timeout = idle_timeout
        self._resumable = resumable
        self._sessions: dict[str, SessionRecord] = {}
        self._pending: dict[str, SessionRecord] = {}
        self._busy: Counter[str] = Counter()
        self._idle_since: dict[str, float] = {}  # in order
        self._expired: list[SessionRecord] = []
        self.refused = 0

    def __len__(self) -> int:
        """How many there are, pending ones included."""
        return len(self._sessions) + len(self._pending)

    def __iter__(self) -> Iterator[SessionRecord]:
        """Those that are open."""
        return iter(self._sessions.values())

    def create(
        self, session_id: str, principal: str | None, *, kind: SessionKind, now: float
    ) -> SessionRecord | None:
        """A pending session, or None when there are too many.

        Raises:
            LocalProtocolError: The id cannot be one, or there is a session of that id.
        """
        # "The session ID MUST only contain visible ASCII characters (ranging from 0x21 to 0x7E)."
        if not _VISIBLE_ASCII.fullmatch(session_id):
            raise LocalProtocolError("a session id must consist of visible ASCII characters")
        if session_id in self._sessions or session_id in self._pending:
            raise LocalProtocolError("session ids must be unique: this one was given before")
        self._collect_expired(now)
        if len(self) >= self._max and not self._make_room(now):
            self.refused += 1
            return None
        record = SessionRecord(
            session_id,
            principal,
            kind=kind,
            resumable=self._resumable and kind == "streamable",
        )
        self._pending[session_id] = record
        return record

    def open(self, record: SessionRecord, revision: str | None) -> None:
        """A pending session comes into being. It is busy until `end_exchange`.

        One of HTTP+SSE stays busy until it is removed, as its stream is its life.
        """
        del self._pending[record.id]
        record.open(revision)
        self._sessions[record.id] = record
        self._busy[record.id] += 1

    def find(
        self, session_id: str, principal: str | None, *, kind: SessionKind, now: float
    ) -> SessionRecord | None:
        """The open session of that id and kind, if it is this principal's.

        A foreign session is not told from an unknown one.
        """
        self._collect_expired(now)
        record = self._sessions.get(session_id)
        if record is None or record.principal != principal or record.kind != kind:
            return None
        return record

    def touch(self, record: SessionRecord, *, now: float) -> None:
        """There was activity."""
        if self._idle_since.pop(record.id, None) is not None:
            self._idle_since[record.id] = now

    def begin_exchange(self, record: SessionRecord) -> None:
        """A request of the session is in flight: it is not idle."""
        self._idle_since.pop(record.id, None)
        self._busy[record.id] += 1

    def end_exchange(self, record: SessionRecord, *, now: float) -> None:
        """One request is no longer in flight. A session that is still pending is discarded."""
        if self._pending.pop(record.id, None) is not None:
            record.state = "ended"
        elif record.id in self._sessions:
            self._busy[record.id] -= 1
            if not self._busy[record.id]:
                del self._busy[record.id]
                self._idle_since[record.id] = now

    def remove(self, record: SessionRecord) -> None:
        """Take a session out; nobody finds it any more. Nothing happens the second time."""
        record.state = "ended"
        for table in (self._sessions, self._pending, self._busy, self._idle_since):
            table.pop(record.id, None)

    def take_expired(self, now: float) -> list[SessionRecord]:
        """The sessions that ended because they were idle, since this was last asked."""
        self._collect_expired(now)
        expired, self._expired = self._expired, []
        return expired

    def next_expiry(self) -> float | None:
        """When the next session will have been idle for too long, if none is used before.

        In the past while there are some that `take_expired` has not given out.
        """
        if self._expired:
            return -math.inf
        for since in self._idle_since.values():
            return since + self._idle_timeout
        return None

    def _make_room(self, now: float) -> bool:
        """End the session that is missed the least; False if all are in use."""
        spare: SessionRecord | None = None
        for session_id, since in self._idle_since.items():
            idle, record = now - since, self._sessions[session_id]
            if idle < _UNUSED_SECONDS:
                break
            if record.standalone.attached:
                continue
            if not record.used:
                spare = record
                break
            if spare is None and idle >= _SPARE_SECONDS:
                spare = record
        if spare is None:
            return False
        self.remove(spare)
        self._expired.append(spare)
        return True

    def _collect_expired(self, now: float) -> None:
        while self._idle_since:
            session_id, since = next(iter(self._idle_since.items()))
            if since + self._idle_timeout > now:
                break
            record = self._sessions[session_id]
            self.remove(record)
            self._expired.append(record)
