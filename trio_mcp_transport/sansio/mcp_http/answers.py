"""Reading what answers a POST: pure decisions of the client, for both eras.

Called by the wires of the HTTP client, which do the reading itself.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Raw

from ...errors import HttpError, InvalidHttpResponse, TransportError
from ...jsonrpc import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    InvalidMessage,
    Message,
    Notification,
    Request,
    RequestId,
    decode_batch,
    decode_message,
)
from ..eras import is_legacy_status
from ..headers import Headers
from ..metadata import PROTOCOL_VERSION_KEY

__all__ = [
    "MODERN_ERRORS",
    "check_encoding",
    "decode_payload",
    "describe_type",
    "failed_answer",
    "kind_of_body",
    "modern_revision",
    "refusal",
]

#: Errors that only a modern server gives. The drafts' codes for the same do not count.
MODERN_ERRORS = frozenset({
    ErrorCode.HEADER_MISMATCH,
    ErrorCode.MISSING_CLIENT_CAPABILITY,
    ErrorCode.UNSUPPORTED_PROTOCOL_VERSION,
})


class _Meta(msgspec.Struct):
    version: object = msgspec.field(name=PROTOCOL_VERSION_KEY, default=UNSET)


class _Head(msgspec.Struct):
    meta: _Meta | None = msgspec.field(name="_meta", default=None)


_decode_head = msgspec.json.Decoder(_Head).decode


def modern_revision(message: Message) -> str | None:
    """The revision in the `_meta` of a message, which makes it a modern one; else None."""
    if not isinstance(message, Request | Notification) or message.params is UNSET:
        return None
    params = message.params
    if isinstance(params, dict):
        meta = params.get("_meta")
        if isinstance(meta, dict):
            version = meta.get(PROTOCOL_VERSION_KEY)
            return version if isinstance(version, str) else None
        if not isinstance(meta, Raw):
            return None
        params = {"_meta": meta}
    try:
        head = _decode_head(params if isinstance(params, Raw) else msgspec.json.encode(params))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    version = None if head.meta is None else head.meta.version
    return version if isinstance(version, str) else None


def kind_of_body(headers: Headers) -> Literal["json", "sse", "other"]:
    """What a response says that its body is."""
    essence = headers.get("content-type", "").partition(";")[0].strip().lower()
    if essence == "application/json":
        return "json"
    return "sse" if essence == "text/event-stream" else "other"


def describe_type(headers: Headers) -> str:
    """What a response says that its body is, for the text of an error."""
    said = headers.get("content-type")
    return "it has no Content-Type" if said is None else f"its Content-Type is {said!r:.100}"


def check_encoding(headers: Headers, status: int) -> None:
    """Refuse a body that is packed; nobody asked for that.

    Raises:
        InvalidHttpResponse: It has a Content-Encoding.
    """
    encoding = headers.get("content-encoding", "identity").strip()
    if encoding and encoding.lower() != "identity":
        raise InvalidHttpResponse(
            f"the response has the Content-Encoding {encoding!r:.100}, which was not asked for",
            status=status,
        )


def decode_payload(data: bytes, *, batches: bool) -> list[Message]:
    """The messages of one JSON document; only 2025-03-26 has arrays of them.

    Raises:
        InvalidMessage: It is none, or one of the array is none.
    """
    if batches and data.lstrip()[:1] == b"[":
        messages: list[Message] = []
        for item in decode_batch(data).items:
            if isinstance(item, InvalidMessage):
                raise item
            messages.append(item)
        return messages
    return [decode_message(data)]


def refusal(body: bytes, request_id: RequestId, cause: HttpError) -> ErrorResponse:
    """How a request ends that a server refused with a status.

    A JSON-RPC error in the body is what the request gets, whatever id it has, as it can be
    about nothing else. The statuses with which MCP itself refuses need no more; with any
    other one, which some proxy may have sent, the typed error counts.
    """
    try:
        found = decode_message(body)
    except InvalidMessage:
        found = None
    if not isinstance(found, ErrorResponse):
        return failed_answer(request_id, cause)
    answer = ErrorResponse(request_id, found.error)
    return answer if is_legacy_status(cause.status) else answer.with_cause(cause)


def failed_answer(request_id: RequestId, cause: Exception) -> ErrorResponse:
    """The answer that stands for one that will not come."""
    if not isinstance(cause, TransportError):
        wrapped = InvalidHttpResponse(f"the exchange failed: {cause!r}", status=0)
        wrapped.__cause__ = cause
        cause = wrapped
    error = ErrorObject(int(ErrorCode.INTERNAL_ERROR), str(cause))
    return ErrorResponse(request_id, error).with_cause(cause)
