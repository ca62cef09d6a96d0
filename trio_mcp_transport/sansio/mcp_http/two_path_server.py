"""The wire with two paths, one for requests and one for notifications: the server's decisions.

A request is answered with one JSON document, a notification with ``{}``. No eras, no
sessions, no streams: each POST stands alone.
"""

from __future__ import annotations

from typing import Final

from ...jsonrpc import ErrorCode, InvalidMessage, Notification, Request, decode_message
from ..http1 import RequestHead
from .exchange import ExchangeWriter
from .media_types import is_json
from .options import HttpServerOptions
from .replies import (
    JSON_HEADERS,
    Reply,
    error_reply,
    invalid_message_reply,
    method_not_allowed,
    unsupported_media_type,
)
from .sessions import Delivery
from .verdicts import Deliver, ReadBody, StartExchange

__all__ = ["TwoPathServer"]

#: What a notification is answered.
_NOTED: Final = Reply(200, JSON_HEADERS, b"{}")


class TwoPathServer:
    """The decisions about both paths."""

    def __init__(self, options: HttpServerOptions) -> None:
        self._options = options

    def judge_head(self, head: RequestHead) -> Reply | ReadBody:
        """Decide before the body is read."""
        if head.method != "POST":
            return method_not_allowed("POST")
        if not is_json(head.headers.get("content-type")):
            return unsupported_media_type()
        return ReadBody(self._options.max_message_bytes)

    def judge_call(self, body: bytes) -> Reply | StartExchange | Deliver:
        """Decide about what came to the path for requests."""
        try:
            message = decode_message(body)
        except InvalidMessage as error:
            return invalid_message_reply(error, null_id=True)
        if isinstance(message, Request):
            writer = ExchangeWriter((message.id,), era="legacy", mode="json")
            return StartExchange((message,), writer, "legacy", None)
        if isinstance(message, Notification):
            return _noted(message)
        return error_reply(
            400, ErrorCode.INVALID_REQUEST, "nothing was asked of this client", null_id=True
        )

    def judge_note(self, body: bytes) -> Reply | Deliver:
        """Decide about what came to the path for notifications."""
        try:
            message = decode_message(body)
        except InvalidMessage as error:
            return invalid_message_reply(error, null_id=True)
        if isinstance(message, Notification):
            return _noted(message)
        request_id = message.id if isinstance(message, Request) else None
        return error_reply(
            400,
            ErrorCode.INVALID_REQUEST,
            "this path takes notifications",
            request_id=request_id,
            null_id=True,
        )


def _noted(message: Notification) -> Deliver:
    return Deliver((Delivery(message),), _NOTED, None, "legacy", None)
