"""From bytes to JSON-RPC messages and back: a framer with the message decoder on top.

Used by `StreamChannel`; usable alone behind any event loop. A bad message in a sound
frame is an event, `MalformedMessage`, and the conversation goes on; unsound framing
raises and ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from ..errors import RemoteProtocolError
from ..jsonrpc import (
    Batch,
    InvalidMessage,
    Message,
    decode_batch,
    decode_message,
    encode_lines,
    encode_message,
)
from ..limits import MAX_NESTING_DEPTH
from .framing import Frame, Framer, NewlineFramer
from .machine import EndOfData, NeedData, Side

__all__ = ["MalformedMessage", "MessageEvent", "MessageMachine"]


class MalformedMessage(msgspec.Struct, frozen=True):
    """A sound frame that holds no valid message.

    Attributes:
        error: Why, and how to answer it.
        size: Bytes of the frame's payload, which itself is not kept.
    """

    error: InvalidMessage
    size: int


MessageEvent: TypeAlias = Message | Batch | MalformedMessage


class MessageMachine:
    """The two directions of one stream of messages.

    Args:
        framer: Where messages begin and end.
        max_depth: Deepest nesting of a message.

    Attributes:
        framer: The framer.
        accept_batches: Whether an array of messages is a `Batch` (revision 2025-03-26)
            or malformed. May be changed between events, when the revision is known.
    """

    def __init__(self, framer: Framer, *, max_depth: int = MAX_NESTING_DEPTH) -> None:
        self.framer = framer
        self._newline_framer = framer if isinstance(framer, NewlineFramer) else None
        self.accept_batches = False
        self._max_depth = max_depth
        self._cut_off = False
        self.receive_data = framer.receive_data
        self.receive_eof = framer.receive_eof
        self.send_failed = framer.send_failed

    @property
    def receiving(self) -> Side:
        """The state of the receiving side."""
        return Side.ERROR if self._cut_off else self.framer.receiving

    @property
    def sending(self) -> Side:
        """The state of the sending side."""
        return self.framer.sending

    @property
    def needs_data(self) -> bool:
        """Whether `next_event` would return `NEED_DATA`: a quick look before it is asked."""
        return not self._cut_off and self.framer.needs_data

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """Received bytes that belong to no returned event, and whether EOF followed."""
        return self.framer.trailing_data

    def next_event(self) -> MessageEvent | EndOfData | NeedData:
        """The next message or `MalformedMessage`, `EndOfData`, or `NEED_DATA`.

        Raises:
            RemoteProtocolError: The framing is unsound, or a message was cut off by the
                end of the stream. Final.
        """
        if self._cut_off:
            raise RemoteProtocolError("the stream ended inside a message")
        frame = self.framer.next_event()
        if type(frame) is not Frame:
            return frame  # type: ignore[return-value]  # narrowed by exact type
        event = self._decode(frame.payload)
        if not frame.terminated and type(event) is MalformedMessage:
            self._cut_off = True
            raise RemoteProtocolError("the stream ended inside a message")
        return event

    def next_events(self, max_events: int) -> list[MessageEvent]:
        """Drain the messages that are here, at most so many; empty when there is none.

        Never raises. What it leaves (an unterminated last line, the end, a fault) comes
        out of `next_event`.
        """
        payloads = self.framer.next_payloads(max_events)
        decode, depth = decode_message, self._max_depth
        try:
            return [decode(payload, depth) for payload in payloads]
        except InvalidMessage:
            return [self._decode(payload) for payload in payloads]

    def _decode(self, payload: bytes) -> MessageEvent:
        try:
            return decode_message(payload, max_depth=self._max_depth)
        except InvalidMessage as error:
            return self._unusual(payload, error)

    def _unusual(self, payload: bytes, error: InvalidMessage) -> MessageEvent:
        """What is no single message: a batch, where those are taken, or malformed."""
        if self.accept_batches and payload.lstrip()[:1] == b"[":
            try:
                return decode_batch(payload, max_depth=self._max_depth)
            except InvalidMessage as batch_error:
                error = batch_error
        return MalformedMessage(error, len(payload))

    def send(self, message: Message) -> bytes:
        """The bytes to write for one message.

        Raises:
            MessageTooLarge: Over the framer's limit; the machine goes on.
            TypeError: It is no message, or holds what JSON cannot express.
            LocalProtocolError: After `send_failed`.
        """
        if self._newline_framer is not None:
            line = encode_lines([message])
            if self._newline_framer.takes_line(line):
                return line
        return self.framer.send(encode_message(message))

    def send_many(self, messages: Sequence[Message]) -> bytes:
        """The bytes to write for several messages. Raises as `send`, for all or none."""
        if self._newline_framer is not None:
            lines = encode_lines(messages)
            if self._newline_framer.takes_lines(lines, len(messages)):
                return lines
        return self.framer.send_many([encode_message(message) for message in messages])
