"""The sessions of one endpoint, and where each message of a session belongs.

Called by the legacy and HTTP+SSE servers. All of it is bookkeeping: nothing waits, nothing
is sent, and the time is an argument.

Theory of operation: a session is *pending* from the POST of `initialize` until its
successful result goes out, which opens it; a failed one leaves nothing behind. It is
removed in one place, whatever ended it. A session with a request in flight is busy; all
others wait in the order in which they fell idle, so expiry looks only at the front.

Ids: requests that arrive are known by their exchange and their id, so two exchanges may
use the same one. Requests that go out get an id of the session, because several peers of
one session each count from 1; the answer gets its own id back.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import UNSET, Raw

from ...errors import LocalProtocolError
from ...jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    encode_message,
)
from ...limits import MAX_ABANDONED_IDS
from ..metadata import as_raw, read_meta, with_meta
from .streams import EventStream, Replay, Step

if TYPE_CHECKING:
    from .exchange import ExchangeWriter

__all__ = ["Delivery", "SessionRecord", "SessionTable", "StandaloneWriter"]


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
        numbered: Whether its streams can be resumed.
        standalone: What goes out beside all exchanges.
        exchanges: Those that are in flight, by the names of their streams.
        ignored: How many messages went nowhere, by reason.
        owner: The adapter's own; never looked at here.
    """

    def __init__(
        self, id: str, principal: str | None, *, kind: Literal["streamable", "sse"], numbered: bool
    ) -> None:
        raise NotImplementedError


class StandaloneWriter(EventStream):
    """What a session's server says beside all exchanges: on the GET stream, when one is open.

    What is said while none is open is held, within bounds, for the next one.
    """

    def open(self) -> Step:
        """A GET without a ``Last-Event-ID``: it takes the stream over from any before it."""
        raise NotImplementedError

    def send(self, message: Message) -> Step:
        """Say something.

        Raises:
            LocalProtocolError: It is an answer.
        """
        raise NotImplementedError


class SessionTable:
    """The sessions of one endpoint."""
