"""The requests that a server has sent to one legacy client, and whose they are.

Each exchange of a session, and the session's own channel, may have a peer that counts its
requests from 1. On the wire an id must be unique in the session, and so must a progress
token: both are replaced on the way out and put back on the way in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw

from ...errors import RpcError
from ...jsonrpc import ErrorResponse, Notification, Request, RequestId, Response, encode_message
from ...limits import MAX_ABANDONED_IDS
from ..metadata import as_raw, read_meta, with_meta

if TYPE_CHECKING:
    from .exchange import ExchangeWriter

__all__ = ["AskedRequests", "id_member"]

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_id: Callable[[Raw], RequestId] = msgspec.json.Decoder(int | str).decode
_encode = msgspec.json.Encoder().encode


class _Asked(msgspec.Struct):
    """A request that is not answered yet, or a progress token that is still good."""

    exchange: ExchangeWriter | None
    own_id: RequestId
    is_task: bool = False


class AskedRequests:
    """What one session's server has asked. Every id in here is one that went out."""

    def __init__(self) -> None:
        self._last = 0
        self._by_id: dict[RequestId, _Asked] = {}
        self._by_token: dict[RequestId, _Asked] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def outgoing(
        self, message: Request | Notification, data: bytes, exchange: ExchangeWriter | None
    ) -> bytes | None:
        """The JSON of a message as it goes out; None: it cancels what is not asked.

        Args:
            message: What the server says.
            data: Its JSON.
            exchange: Who says it; None: the session's channel.
        """
        if isinstance(message, Request):
            return encode_message(self.rename(message, exchange))
        if message.method == "notifications/cancelled":
            renamed = self.cancel(message, exchange)
            return None if renamed is None else encode_message(renamed)
        return data

    def rename(self, request: Request, exchange: ExchangeWriter | None) -> Request:
        """The request as it goes out.

        Args:
            request: As its sender made it.
            exchange: Who gets the answer; None: the session's channel.
        """
        self._last += 1
        new_id = self._last
        params = request.params
        token = _progress_token(params)
        is_task = token is not None and _member(params, "task") is not None
        self._by_id[new_id] = _Asked(exchange, request.id, is_task)
        if token is not None:
            self._by_token[new_id] = _Asked(exchange, token)
            params = with_meta(params, {"progressToken": new_id})
        for table in (self._by_id, self._by_token):
            if len(table) > MAX_ABANDONED_IDS:  # never answered; tasks that never ended
                del table[next(iter(table))]
        return Request(new_id, request.method, params)

    def cancel(
        self, notification: Notification, exchange: ExchangeWriter | None
    ) -> Notification | None:
        """The server's own `notifications/cancelled` as it goes out; None: nothing to cancel."""
        own_id = id_member(notification, "requestId")
        for new_id, asked in self._by_id.items():
            if asked.own_id == own_id and asked.exchange is exchange:
                self._drop(new_id)
                return _with_member(notification, "requestId", new_id)
        return None

    def take_answer(
        self, answer: Response | ErrorResponse
    ) -> tuple[Response | ErrorResponse, ExchangeWriter | None] | None:
        """An answer of the client, with the id that its request had; None if it is to none."""
        if answer.id is None:
            return None
        asked = self._by_id.get(answer.id)
        if asked is None:
            return None
        # 2025-11-25, Tasks: the progress token "remains valid throughout the task's lifetime".
        self._drop(answer.id, keep_token=asked.is_task)
        if isinstance(answer, Response):
            return Response(asked.own_id, answer.result), asked.exchange
        return ErrorResponse(asked.own_id, answer.error), asked.exchange

    def take_progress(
        self, notification: Notification
    ) -> tuple[Notification, ExchangeWriter | None] | None:
        """Progress that the client reports, with the token as it was; None if of nothing."""
        token = id_member(notification, "progressToken")
        asked = None if token is None else self._by_token.get(token)
        if asked is None:
            return None
        return _with_member(notification, "progressToken", asked.own_id), asked.exchange

    def forget(self, exchange: ExchangeWriter) -> None:
        """An exchange is over: nobody waits for what it asked."""
        for new_id in [key for key, asked in self._by_id.items() if asked.exchange is exchange]:
            del self._by_id[new_id]
        for token in [key for key, asked in self._by_token.items() if asked.exchange is exchange]:
            del self._by_token[token]

    def _drop(self, new_id: RequestId, *, keep_token: bool = False) -> None:
        del self._by_id[new_id]
        if not keep_token:
            self._by_token.pop(new_id, None)


def _progress_token(params: object) -> RequestId | None:
    try:
        token = read_meta(params).progress_token
    except RpcError:  # the peer will say what is wrong with it
        return None
    return None if token is UNSET else token


def _member(params: object, name: str) -> Raw | None:
    raw = as_raw(params)
    if memoryview(raw)[0] != 0x7B:
        return None
    return _decode_fields(raw).get(name)


def id_member(notification: Notification, name: str) -> RequestId | None:
    """A member of the params that is an id; None if there is no such."""
    if notification.params is UNSET:
        return None
    raw = _member(notification.params, name)
    if raw is None:
        return None
    try:
        return _decode_id(raw)
    except (msgspec.ValidationError, ValueError):
        return None


def _with_member(notification: Notification, name: str, value: RequestId) -> Notification:
    fields = _decode_fields(as_raw(notification.params))
    fields[name] = Raw(_encode(value))
    return Notification(notification.method, Raw(_encode(fields)))
