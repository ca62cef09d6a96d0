"""The client of the wire of two paths: requests go to one path, notifications to another.

Pure. Older programs speak it: a POST of one request is answered with one JSON document, a
POST of one notification with ``{}``. There are no eras, sessions or streams.
"""

from __future__ import annotations

from ...errors import LocalProtocolError
from ...jsonrpc import Message, Notification, Request
from ..headers import Headers

__all__ = ["TwoPathClient"]

_HEADERS = Headers([
    ("Accept", "application/json"),
    ("Content-Type", "application/json"),
])


class TwoPathClient:
    """Where each message goes.

    Args:
        requests_url: Where requests are POSTed to.
        notifications_url: Where notifications are.
        headers: Fields of every request.
    """

    def __init__(self, requests_url: str, notifications_url: str, headers: Headers) -> None:
        self._requests_url = requests_url
        self._notifications_url = notifications_url
        self.headers = headers.merged(_HEADERS)

    def url_for(self, message: Message) -> str:
        """Where to POST a message.

        Raises:
            LocalProtocolError: It is an answer: this wire has no requests of the server.
        """
        if isinstance(message, Request):
            return self._requests_url
        if isinstance(message, Notification):
            return self._notifications_url
        raise LocalProtocolError("the wire of two paths has no answers of the client")
