"""The client of HTTP+SSE (2024-11-05): one GET brings everything, POSTs go elsewhere.

Pure: says what an event of the stream is.
"""

from __future__ import annotations

from ...errors import UnexpectedRedirect
from ..sse import SseEvent
from .redirects import is_same_origin, resolve

__all__ = ["SseClient"]


class SseClient:
    """What the stream has said.

    Args:
        url: Where the GET was sent, after all redirects.

    Attributes:
        endpoint: Where messages are POSTed to, once the server has said it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.endpoint: str | None = None

    def event(self, event: SseEvent) -> bytes | None:
        """Take one event; returns the message in it, if it is one.

        Raises:
            UnexpectedRedirect: The endpoint is not at the origin of the stream: messages
                and credentials would go to somebody else.
        """
        if event.event == "message":
            return event.data or None
        # 2024-11-05: "the server MUST send an endpoint event containing a URI for the
        # client to use for sending messages". Only once: it is not moved under our feet.
        if event.event == "endpoint" and self.endpoint is None:
            reference = (event.data or b"").decode("utf-8", "replace").strip()
            target = resolve(self._url, reference) if reference else None
            if target is None or not is_same_origin(self._url, target):
                raise UnexpectedRedirect(
                    "the server names an endpoint for messages that is not at its origin",
                    status=200,
                    location=reference[:1000],
                )
            self.endpoint = target
        return None
