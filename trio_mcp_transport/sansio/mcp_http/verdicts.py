"""What a server decides about a request: the values that `ServerEndpoint` returns."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ...jsonrpc import Request
from ..eras import Era
from .exchange import ExchangeWriter
from .replies import Reply
from .sessions import Delivery, SessionRecord
from .sse_writer import SseWriter
from .standalone import StandaloneWriter
from .streams import Cursor, EventStream, Step

__all__ = [
    "BodyVerdict",
    "Deliver",
    "EndSession",
    "HeadVerdict",
    "OpenSse",
    "OpenStream",
    "ReadBody",
    "ResumeStream",
    "Resumed",
    "StartExchange",
]


class ReadBody(msgspec.Struct, frozen=True):
    """Read the body, then ask `ServerEndpoint.judge_body`.

    Attributes:
        limit: Most bytes of it; more is 413.
    """

    limit: int


class OpenStream(msgspec.Struct, frozen=True):
    """A GET opens the standalone stream of a session: write what `writer.open()` says.

    A connection that carried it before is to be closed first: the newer one takes over.
    """

    session: SessionRecord
    writer: StandaloneWriter


class ResumeStream(msgspec.Struct, frozen=True):
    """A GET takes up a stream of a session again, whichever request began it.

    Ask the event store for ``replay(session.id, cursor.stream, cursor.number)``, then
    `ServerEndpoint.resume` what to write, both under the stream's lock.
    """

    session: SessionRecord
    cursor: Cursor


class Resumed(msgspec.Struct, frozen=True):
    """The stream goes on.

    Attributes:
        step: What to write.
        writer: The stream, which this connection carries from now on; None where the
            stream is over, so that the step is the whole response.
    """

    step: Step
    writer: EventStream | None = None


class EndSession(msgspec.Struct, frozen=True):
    """A DELETE ended a session, which is out of the table already.

    Cancel what runs for it (`session.exchanges`), drop it from the event store, send the
    reply.
    """

    session: SessionRecord
    reply: Reply


class OpenSse(msgspec.Struct, frozen=True):
    """A GET opens HTTP+SSE: write `writer.open()`. Session and channel last as long as it.

    When the connection is gone, call `ServerEndpoint.end_session`.
    """

    session: SessionRecord
    writer: SseWriter


class StartExchange(msgspec.Struct, frozen=True):
    """A POST of requests: make a channel that receives them and sends through the writer.

    Whatever becomes of it, `ServerEndpoint.end_exchange` is called once at its end.

    Attributes:
        messages: The requests, in order.
        writer: For what is answered.
        era: Which era the requests are of.
        revision: The protocol revision, as far as it is known: not for `initialize`, and
            not on the two-path wire.
        session: The legacy session; for `initialize` a pending one, which is open once the
            result went out (`session.state`). None for modern requests and stateless
            servers.
        deliveries: Notifications of the same batch that belong elsewhere.
    """

    messages: tuple[Request, ...]
    writer: ExchangeWriter
    era: Era
    revision: str | None
    session: SessionRecord | None = None
    deliveries: tuple[Delivery, ...] = ()


class Deliver(msgspec.Struct, frozen=True):
    """A POST without requests: hand the messages over, and send the reply.

    Attributes:
        deliveries: Where each goes; what goes nowhere is not among them.
        reply: What the client gets, whatever the receivers make of it.
        session: The session; None where there is none (modern, stateless, two-path): each
            message then goes to a channel of its own that has nothing to answer.
        era: Which era they are of.
        revision: The protocol revision, as far as it is known.
    """

    deliveries: tuple[Delivery, ...]
    reply: Reply
    session: SessionRecord | None
    era: Era
    revision: str | None


HeadVerdict: TypeAlias = Reply | ReadBody | OpenStream | ResumeStream | EndSession | OpenSse
BodyVerdict: TypeAlias = Reply | StartExchange | Deliver
