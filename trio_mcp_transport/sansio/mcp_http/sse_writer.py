"""The stream of one HTTP+SSE session (2024-11-05): all that its server says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from ...jsonrpc import Message, encode_message
from ..http1 import BodyData
from ..sse import encode_event
from ..sse import encode_message as encode_data
from .streams import NOTHING, SSE_HEAD, EventStream, Step

__all__ = ["SseWriter"]


class SseWriter(EventStream):
    """The stream of one HTTP+SSE session: all that its server says.

    Args:
        message_path: Where the client POSTs to.
        session_id: Goes into that address.
    """

    def __init__(self, message_path: str, session_id: str) -> None:
        super().__init__("0", numbered=False, primed=False)
        self._message_path = message_path
        self._session_id = session_id

    def open(self, prefix: str = "") -> Step:
        """The head, and the event that names the endpoint for the client's messages.

        Args:
            prefix: What the server's paths are mounted under (ASGI's ``root_path``).
        """
        # "When a client connects, the server MUST send an endpoint event containing a URI for
        # the client to use for sending messages."
        self.attached = self._open = True
        path = quote(prefix + self._message_path, safe="/%:@!$&'()*+,;=-._~")
        uri = f"{path}?session_id={quote(self._session_id, safe='')}"
        return Step(events=(SSE_HEAD, BodyData(encode_event(uri, event="endpoint"))))

    def send(self, message: Message) -> Step:
        """Say something."""
        return self.send_encoded(((message, encode_message(message)),))

    def send_many(self, messages: Iterable[Message]) -> Step:
        """Say several things with one write."""
        return self.send_encoded([(message, encode_message(message)) for message in messages])

    def send_encoded(self, messages: Sequence[tuple[Message, bytes]]) -> Step:
        """As `send_many`, for messages whose JSON is there already."""
        if not self.attached or self.ended:
            self.dropped += len(messages)
            return NOTHING
        # "Server messages are sent as SSE message events, with the message content encoded as
        # JSON in the event data."
        data = b"".join([b"event: message\n" + encode_data(data) for _, data in messages])
        return Step(events=(BodyData(data),)) if data else NOTHING
