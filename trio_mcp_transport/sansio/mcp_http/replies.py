"""Whole answers to HTTP requests that were decided without any handler.

Made by everything that judges requests, admission among it; written by adapters as they
are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET

from ...errors import RpcError
from ...jsonrpc import InvalidMessage, RequestId
from ..headers import NO_HEADERS, Headers
from ..http1 import BodyData, EndOfBody, ResponseEvent, ResponseHead

__all__ = [
    "ACCEPTED",
    "JSON_HEADERS",
    "Reply",
    "error_body",
    "error_reply",
    "invalid_message_reply",
    "method_not_allowed",
    "not_acceptable",
    "rpc_error_reply",
    "unavailable",
    "unsupported_media_type",
]

_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """A response without a stream.

    Attributes:
        status: The HTTP status.
        headers: Header fields but for the framing, which the HTTP machine adds.
        body: The whole body; empty for none.
    """

    status: int
    headers: Headers = NO_HEADERS
    body: bytes = b""

    @property
    def head(self) -> ResponseHead:
        """The response's head, for `Http1Server.send_response(reply.head, reply.body)`."""
        return ResponseHead(self.status, self.headers)

    def events(self) -> list[ResponseEvent]:
        """The response as events, for any HTTP server."""
        if self.status == 204:  # has no body by itself
            return [self.head, EndOfBody()]
        length = self.headers.with_("content-length", str(len(self.body)))
        head = ResponseHead(self.status, length)
        return [head, BodyData(self.body), EndOfBody()] if self.body else [head, EndOfBody()]


JSON_HEADERS: Final = Headers([("content-type", "application/json")])
#: "If the server accepts the input, the server MUST return HTTP status code 202 Accepted
#: with no body."
ACCEPTED: Final = Reply(202)


def error_body(
    code: int,
    message: str,
    *,
    request_id: RequestId | None = None,
    data: object = UNSET,
    null_id: bool = False,
) -> bytes:
    """A JSON-RPC error answer.

    Args:
        code: The JSON-RPC error code.
        message: Says what is wrong.
        request_id: The id of the request, where one is known.
        data: The error's data.
        null_id: Without an id: write ``"id": null`` as JSON-RPC 2.0 wants it, instead of
            no such member as revisions from 2025-11-25 on have it.
    """
    body: dict[str, object] = {"jsonrpc": "2.0"}
    if request_id is not None or null_id:
        body["id"] = request_id
    error: dict[str, object] = {"code": int(code), "message": message}
    if data is not UNSET:
        error["data"] = data
    body["error"] = error
    return _encode(body)


def error_reply(
    status: int,
    code: int,
    message: str,
    *,
    request_id: RequestId | None = None,
    data: object = UNSET,
    null_id: bool = False,
    headers: Iterable[tuple[str, str]] = (),
) -> Reply:
    """An HTTP error whose body is a JSON-RPC error; the arguments of `error_body`."""
    body = error_body(code, message, request_id=request_id, data=data, null_id=null_id)
    extra = tuple(headers)
    return Reply(status, JSON_HEADERS.merged(Headers(extra)) if extra else JSON_HEADERS, body)


def method_not_allowed(*allowed: str) -> Reply:
    """405: the path is served, but not with this method."""
    # RFC 9110, section 15.5.6: "The origin server MUST generate an Allow header field in a
    # 405 response".
    return error_reply(405, -32600, "method not allowed", headers=[("allow", ", ".join(allowed))])


def not_acceptable(wanted: str) -> Reply:
    """406: the client does not take what it would be answered."""
    return error_reply(406, -32600, f"the Accept header must list {wanted}")


def unsupported_media_type() -> Reply:
    """415: the body is no JSON, by its own account."""
    return error_reply(415, -32600, "the Content-Type must be application/json")


def unsupported_encoding() -> Reply:
    """415: the body is coded in a way that is not spoken here."""
    # RFC 9110, section 12.5.3: where a request is refused for its coding, "the server SHOULD
    # include an Accept-Encoding header field in that response".
    reply = error_reply(
        415, -32600, "the Content-Encoding is none of those that Accept-Encoding names"
    )
    return Reply(reply.status, reply.headers.with_("accept-encoding", "identity"), reply.body)


def invalid_message_reply(error: InvalidMessage, *, null_id: bool) -> Reply:
    """400: the body is no message."""
    request_id = error.request_id
    return error_reply(400, error.code, str(error), request_id=request_id, null_id=null_id)


def rpc_error_reply(status: int, error: RpcError, request_id: RequestId | None) -> Reply:
    """A JSON-RPC error with an HTTP status."""
    data = UNSET if error.data is None else error.data
    return error_reply(status, error.code, error.message, request_id=request_id, data=data)


def unavailable(message: str, retry_after: int, request_id: RequestId | None = None) -> Reply:
    """503: too much at the moment; come back in `retry_after` seconds."""
    return error_reply(
        503,
        -32603,
        message,
        request_id=request_id,
        headers=[("retry-after", str(retry_after))],
    )
