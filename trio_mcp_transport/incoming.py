"""What the other side of a conversation says: each message to whom it is for.

Used by `Peer` alone, whose reader (or whose channel, where that hands messages over) calls
`Incoming.deliver` with each. Nothing in here waits, and no exception gets out.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw

from .conversation import Conversation
from .errors import MessageTooLarge, MethodNotFound, RpcError
from .handlers import (
    ENCODE_FAULTS,
    GONE,
    INTERNAL_ERROR,
    Handlers,
    PeerErrorCode,
    error_answer,
    held_bytes,
)
from .jsonrpc import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
)
from .outgoing import Outgoing
from .sansio.metadata import as_raw

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ["Incoming"]

_logger = logging.getLogger("trio_mcp_transport")


class _Cancelled(msgspec.Struct):
    requestId: RequestId  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)
    reason: str | None = None


class Incoming:
    """The way of messages into a peer.

    Args:
        peer: Whose messages these are.
        outgoing: Gets answers, and what belongs to requests that were sent.
        handlers: Get the requests and notifications.

    Attributes:
        closed: Whether the conversation is over: nothing may begin any more.
        draining: Whether this side is about to end: requests are refused.
        received: Requests that came.
        refused: Requests that were answered with an error without a handler.
        notifications_dropped: Notifications that found their queue full.
        cancels_ignored: Cancellations of what was not running or must not be cancelled.
    """

    __slots__ = (
        "_handlers",
        "_outgoing",
        "_peer",
        "cancels_ignored",
        "closed",
        "draining",
        "notifications_dropped",
        "received",
        "refused",
    )

    def __init__(self, peer: Peer, outgoing: Outgoing, handlers: Handlers) -> None:
        self._peer = peer
        self._outgoing = outgoing
        self._handlers = handlers
        self.closed = self.draining = False
        self.received = self.refused = 0
        self.notifications_dropped = self.cancels_ignored = 0

    def deliver(self, message: Message) -> None:
        """Take one message."""
        if self.closed:
            return
        kind = type(message)
        if kind is Response or kind is ErrorResponse:
            self._outgoing.deliver_answer(message)  # type: ignore[arg-type]
        elif kind is Request:
            self.received += 1
            self._deliver_request(message)  # type: ignore[arg-type]
        else:
            self._deliver_notification(message)  # type: ignore[arg-type]

    # -- requests -------------------------------------------------------------------

    def _deliver_request(self, request: Request) -> None:
        peer = self._peer
        if request.id in self._handlers:
            # The first one must not notice.
            self._refuse(request, ErrorCode.INVALID_REQUEST, "this id is of a request in work")
            return
        negotiated = peer.negotiated
        if negotiated is not None and negotiated.era == "modern":
            # MCP stdio: the client "MUST NOT write JSON-RPC responses", as the server "MUST
            # NOT write JSON-RPC requests".
            self.refused += 1
            peer.report("request.refused", f"the server sent a request: {request.method[:100]!r}")
            return
        if self.draining:
            self._refuse(request, PeerErrorCode.SHUTTING_DOWN, "Shutting down")
            return
        conversation = peer.conversation
        if conversation is None:
            # A legacy client answers pings, whatever else it can do.
            if request.method == "ping" and negotiated is not None:
                self._send_control(Response(request.id, {}))
            else:
                self.refused += 1
                self._send_control(error_answer(request.id, MethodNotFound(request.method)))
            return
        try:
            if request.params is not UNSET and type(request.params) is not Raw:
                # Came by reference: handlers see the same as from a wire.
                request = Request(request.id, request.method, as_raw(request.params))
        except ENCODE_FAULTS as error:
            self._refuse(request, ErrorCode.INVALID_PARAMS, f"params are no JSON: {error}")
            return
        size = held_bytes(request)
        if not self._handlers.has_room(size):
            self._refuse(request, PeerErrorCode.TOO_MANY_REQUESTS, "Too many requests")
            return
        self._accept(conversation, request, size)

    def _accept(self, conversation: Conversation, request: Request, size: int) -> None:
        try:
            call = conversation.receive_request(request)
        except RpcError as error:
            self.refused += 1
            self._send_control(error_answer(request.id, error))
        except Exception as error:
            text = f"accepting {request.method[:100]!r} failed"
            self._peer.report("handler.failed", text, error)
            self._refuse(request, ErrorCode.INTERNAL_ERROR, INTERNAL_ERROR.message)
        else:
            self._handlers.add(request, call, size)

    def _refuse(self, request: Request, code: int, message: str) -> None:
        self.refused += 1
        self._send_control(ErrorResponse(request.id, ErrorObject(code, message)))

    def _send_control(self, message: Response | ErrorResponse) -> None:
        try:
            self._peer.channel.send_control(message)
        except GONE:
            pass  # the next receive says so
        except (MessageTooLarge, *ENCODE_FAULTS) as error:
            text = f"an answer could not be sent: {error}"
            self._peer.report("answer.dropped", text, error)

    # -- notifications --------------------------------------------------------------

    def _deliver_notification(self, notification: Notification) -> None:
        peer = self._peer
        method = notification.method
        try:
            if notification.params is not UNSET and type(notification.params) is not Raw:
                notification = Notification(method, as_raw(notification.params))
        except ENCODE_FAULTS as error:
            peer.report("handler.failed", f"params of {method[:100]!r} are no JSON", error)
            return
        if method == "notifications/cancelled":
            self._deliver_cancelled(notification)
            return
        if method == "notifications/progress":
            self._outgoing.deliver_progress(notification)
            return
        if method == "notifications/tasks/status":
            self._outgoing.deliver_task_status(notification)
        # JSON-RPC 2.0, section 4.1: nobody is told about a notification's fate.
        if self._outgoing.deliver_related(notification) or peer.conversation is None:
            return
        try:
            work = peer.conversation.receive_notification(notification)
        except Exception as error:
            peer.report("handler.failed", f"accepting {method[:100]!r} failed", error)
            return
        if work is not None and not self._handlers.add_notification(work, held_bytes(notification)):
            self.notifications_dropped += 1
            peer.report("notification.dropped", f"no room for {method[:100]!r}: handlers are slow")

    def _deliver_cancelled(self, notification: Notification) -> None:
        # MCP patterns/cancellation: "Invalid cancellation notifications SHOULD be ignored".
        try:
            cancelled = notification.params_as(_Cancelled)
        except msgspec.DecodeError:
            self.cancels_ignored += 1
            return
        request_id = cancelled.requestId
        if cancelled.reason is not None:
            # "Both parties SHOULD log cancellation reasons for debugging".
            _logger.debug("request %.100r was cancelled: %.1000r", request_id, cancelled.reason)
        # "A server MUST send notifications/cancelled referencing a subscriptions/listen
        # request ID when it tears down that subscription".
        negotiated = self._peer.negotiated
        modern = negotiated is not None and negotiated.era == "modern"
        if modern and self._outgoing.deliver_to(request_id, notification):
            return
        if not self._handlers.cancel(request_id):
            self.cancels_ignored += 1
