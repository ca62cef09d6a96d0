"""What a channel says by itself: no caller sends it, and nobody waits for it.

Used by `StreamChannel` and `WebSocketChannel` for answers to malformed messages, for the arrays
that answer batches, and for the last words before a broken stream is closed. Nothing in here
waits or raises: a failure to write is recorded as the channel's, which its next call raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from ..abc import ChannelBroken
from ..errors import MessageTooLarge, RemoteProtocolError
from ..jsonrpc import (
    ErrorObject,
    ErrorResponse,
    InvalidMessage,
    Message,
    encode_batch,
    encode_message,
    invalid_message_answer,
)
from .outbox import Outbox

__all__ = ["OwnWords", "SendsPayloads"]


class SendsPayloads(Protocol):
    """What frames the JSON of messages: a `Framer`, or what has frames of its own.

    Attributes:
        max_message_bytes: The largest payload.
    """

    @property
    def max_message_bytes(self) -> int:
        """The largest payload."""

    def send(self, payload: bytes, /) -> bytes:
        """The bytes to write for one.

        Raises:
            MessageTooLarge: It is over the limit.
        """

    def send_many(self, payloads: Sequence[bytes], /) -> bytes:
        """The bytes to write for several. Raises as `send`, for all or none."""


class OwnWords:
    """The channel's own voice.

    Args:
        outbox: Where it goes out.
        framer: What frames it.
        may_speak: Whether the channel is open for sending.

    Attributes:
        sent: Messages that it has sent.
    """

    def __init__(
        self, outbox: Outbox, framer: SendsPayloads, may_speak: Callable[[], bool]
    ) -> None:
        self._outbox = outbox
        self._framer = framer
        self._may_speak = may_speak
        self.sent = 0

    def refuse(self, error: InvalidMessage) -> None:
        """Tell the other side about its malformed message."""
        self._say(invalid_message_answer(error))

    def answer_batch(self, answers: list[Message]) -> None:
        """Queue the answers to a batch as one array.

        The sender that completed it may be cancelled; the others' answers must not be lost
        with it. If the array is over the limit, they go out singly.
        """
        if not answers or not self._may_speak():
            return
        payloads = [encode_batch(answers)]
        if len(payloads[0]) > self._framer.max_message_bytes:
            payloads = [encode_message(answer) for answer in answers]
        with suppress(ChannelBroken):
            self._outbox.put_owed(self._framer.send_many(payloads))

    def say_why_it_ends(self, error: RemoteProtocolError) -> None:
        """Tell the other side what it did, if that can be done without waiting."""
        if self._outbox.is_idle:
            self._say(ErrorResponse(None, ErrorObject(error.code, str(error))))

    def _say(self, message: Message) -> None:
        if self._may_speak():
            # One that is too large cannot be told with such a limit.
            with suppress(ChannelBroken, MessageTooLarge):
                self._outbox.put_control(self._framer.send(encode_message(message)))
                self.sent += 1
