"""HTTP+SSE, the transport of revision 2024-11-05: the server's decisions."""

from __future__ import annotations

from ...jsonrpc import Message
from .streams import EventStream, Step

__all__ = ["SseWriter"]


class SseWriter(EventStream):
    """The stream of one HTTP+SSE session: all that its server says."""

    def open(self, prefix: str = "") -> Step:
        """The head, and the event that names the endpoint for the client's messages.

        Args:
            prefix: What the server's paths are mounted under (ASGI's ``root_path``).
        """
        raise NotImplementedError

    def send(self, message: Message) -> Step:
        """Say something."""
        raise NotImplementedError
