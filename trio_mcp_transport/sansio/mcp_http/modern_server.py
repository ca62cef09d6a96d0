"""Streamable HTTP of 2026-07-28 and later: the server's decisions about a POST's body.

Called by `ServerEndpoint` once the era is known. Nothing is kept: each request stands alone.
Session ids and ``Last-Event-ID`` are not even looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from ...jsonrpc import ErrorCode, ErrorResponse, Notification, Request, Response
from ..http1 import RequestHead
from .exchange import ExchangeWriter
from .media_types import read_accept
from .mirrored import HeaderSchema, header_fault
from .options import HttpServerOptions
from .replies import ACCEPTED, Reply, error_reply
from .sessions import Delivery
from .verdicts import Deliver, StartExchange

__all__ = ["ModernServer", "SchemaLookup"]

#: Gives what headers a tool mirrors, by its name; None when it is not known or has none.
SchemaLookup = Callable[[str], HeaderSchema | None]


class ModernServer:
    """The decisions about modern messages.

    Args:
        options: The endpoint.
        header_schema: Looks a tool's mirrored headers up; None checks none of them.
    """

    def __init__(self, options: HttpServerOptions, header_schema: SchemaLookup | None) -> None:
        self._options = options
        self._header_schema = header_schema

    def judge_request(
        self, head: RequestHead, request: Request, revision: str
    ) -> Reply | StartExchange:
        """Decide about a request whose version is in order."""
        headers = head.headers
        fault = header_fault(headers, request, self._header_schema)
        if fault is not None:
            # Server Validation: "servers MUST return HTTP status 400 Bad Request and MUST
            # include a JSON-RPC error response using the following error code".
            return error_reply(
                400,
                ErrorCode.HEADER_MISMATCH,
                fault,
                request_id=request.id,
            )
        mode = self._options.response
        if mode == "json" and request.method == "subscriptions/listen":
            # "The server's response is itself an SSE stream that stays open and delivers the
            # change notifications the client opted in to".
            mode = "auto"
        writer = ExchangeWriter(
            (request.id,),
            era="modern",
            mode=mode,
            accepts_json=read_accept(headers.get("accept")).json,
        )
        return StartExchange((request,), writer, "modern", revision)

    def judge_other(
        self, message: Notification | Response | ErrorResponse, revision: str
    ) -> Reply | Deliver:
        """Decide about a notification, or an answer."""
        if not isinstance(message, Notification):
            # Sending Messages: "The client MUST NOT send JSON-RPC responses."
            return error_reply(400, ErrorCode.INVALID_REQUEST, "nothing was asked of this client")
        # "If the server accepts it, the server MUST return HTTP status code 202 Accepted with
        # no body."
        return Deliver((Delivery(message),), ACCEPTED, None, "modern", revision)
