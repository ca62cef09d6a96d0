"""What a legacy session's server says beside all exchanges: the GET stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ...errors import LocalProtocolError
from ...jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
    encode_message,
)
from ...limits import CONTROL_LANE_BYTES, MAX_QUEUED_NOTIFICATIONS
from .asked import AskedRequests
from .streams import NOTHING, EventStream, Replay, Step

__all__ = ["StandaloneWriter"]


class StandaloneWriter(EventStream):
    """The standalone stream of one session, whether or not a GET carries it at the moment.

    What is said while none does is held for the next one, up to 1,000 messages and 256 KiB;
    beyond that the oldest are dropped and counted.
    """

    def __init__(self, asked: AskedRequests) -> None:
        super().__init__("0", numbered=False, primed=False)
        self._asked = asked
        self._held: deque[bytes] = deque()
        self._held_bytes = 0

    def open(self) -> Step:
        """A GET without a ``Last-Event-ID`` takes the stream over from any before it."""
        self.detach()
        if self.ended:
            return NOTHING
        self.attached = True
        return self._say(self._take_held())

    def attach(self, replay: Replay) -> Step:
        """A client came back: what it missed, then what was held, then what comes."""
        replayed = super().attach(replay)
        if self.ended or not self._held:
            return replayed
        more = self._say(self._take_held())
        return Step(more.records, (*replayed.events, *more.events))

    def send(self, message: Message) -> Step:
        """Say something; held if no GET is open.

        Raises:
            LocalProtocolError: It is an answer.
        """
        return self.send_encoded(((message, encode_message(message)),))

    def send_many(self, messages: Iterable[Message]) -> Step:
        """Say several things with one write; see `send`."""
        return self.send_encoded([(message, encode_message(message)) for message in messages])

    def send_encoded(self, messages: Sequence[tuple[Message, bytes]]) -> Step:
        """As `send_many`, for messages whose JSON is there already.

        Raises:
            LocalProtocolError: As `send`; nothing was done.
        """
        if any(isinstance(message, Response | ErrorResponse) for message, _ in messages):
            # "The server MUST NOT send a JSON-RPC response on the stream unless resuming a
            # stream associated with a previous client request."
            raise LocalProtocolError("an answer belongs to the exchange of its request")
        if self.ended:
            self.dropped += len(messages)
            return NOTHING
        payloads: list[bytes] = []
        for message, data in messages:
            assert isinstance(message, Request | Notification)
            payload = self._asked.outgoing(message, data, None)
            if payload is None:
                self.dropped += 1
            else:
                payloads.append(payload)
        if self.attached:
            return self._say(payloads) if payloads else NOTHING
        self._hold(payloads)
        return NOTHING

    def _hold(self, payloads: Iterable[bytes]) -> None:
        for payload in payloads:
            self._held.append(payload)
            self._held_bytes += len(payload)
        while len(self._held) > MAX_QUEUED_NOTIFICATIONS or self._held_bytes > CONTROL_LANE_BYTES:
            self._held_bytes -= len(self._held.popleft())
            self.dropped += 1

    def _take_held(self) -> tuple[bytes, ...]:
        held = tuple(self._held)
        self._held.clear()
        self._held_bytes = 0
        return held
