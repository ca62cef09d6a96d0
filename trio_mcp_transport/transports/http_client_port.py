"""What the wires of the HTTP client know of their channel.

Used by the wires (`http_client_wire` and those built on it), made by `HttpClientChannel`. It
keeps books and passes on; it waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import trio

from ..errors import HttpError
from ..jsonrpc import ErrorResponse, Notification, RequestId, relate
from ..limits import ChannelOptions
from ..sansio.mcp_http.answers import failed_answer
from ..sansio.mcp_http.client_options import HttpClientOptions
from .http_client_line import Exchange, SendLine
from .http_sender import HttpSender
from .inbox import Inbox

if TYPE_CHECKING:
    from .http_client_wire import Wire

__all__ = ["Port", "Refused", "cancelled_id", "failed"]


class Port:
    """What a wire needs of its channel.

    Attributes:
        sender: Sends the requests.
        settings: The endpoint's.
        options: The channel's.
        nursery: For what goes on beside the exchanges.
        inbox: Where messages go.
        line: Told how far an exchange has come.
        report: Takes a fault that no caller sees: name, text, error.
        fail: Ends the channel with a cause.
        accept_batches: Whether arrays of messages are taken.
        bytes_sent: Bytes of bodies.
        bytes_received: Likewise.
        malformed: Bodies and events that were no message.
        dropped: Messages that came where they must not.
        on_read: Called when bytes have come, where somebody wants to know.
    """

    def __init__(
        self,
        *,
        sender: HttpSender,
        settings: HttpClientOptions,
        options: ChannelOptions,
        nursery: trio.Nursery,
        inbox: Inbox,
        line: SendLine,
        report: Callable[[str, str, BaseException | None], object],
        fail: Callable[[Exception], object],
        use: Callable[[Wire], object],
    ) -> None:
        self.sender = sender
        self.settings = settings
        self.options = options
        self.nursery = nursery
        self.inbox = inbox
        self.line = line
        self.report = report
        self.fail = fail
        self.use = use
        self.accept_batches = False
        self.exchanges: dict[object, Exchange] = {}
        self.bytes_sent = self.bytes_received = self.malformed = self.dropped = 0
        self.received = 0
        self.on_read: Callable[[], object] | None = None

    def count_read(self, size: int) -> None:
        """Bytes of a body have come."""
        self.bytes_received += size
        if self.on_read is not None:
            self.on_read()

    def finish(self, exchange: Exchange) -> None:
        """Its answer is delivered, or none will come: it holds no place any more."""
        self.forget(exchange)
        self.line.done(exchange)

    def forget(self, exchange: Exchange) -> None:
        """It can be cancelled no more."""
        request_id = exchange.request_id
        if request_id is not None:
            key = (type(request_id), request_id)
            if self.exchanges.get(key) is exchange:
                del self.exchanges[key]

    def drop(self, what: str) -> None:
        """Count and report a message that came where it must not."""
        self.dropped += 1
        self.report("message.dropped", f"the server sent {what}", None)


class Refused(Exception):
    """A response that is no success; never leaves the wires.

    Attributes:
        cause: The typed error.
        body: How its body begins.
    """

    def __init__(self, cause: HttpError, body: bytes) -> None:
        super().__init__(cause)
        self.cause = cause
        self.body = body


class _Cancelled(msgspec.Struct):
    requestId: RequestId  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


def cancelled_id(notification: Notification) -> RequestId | None:
    """Which request `notifications/cancelled` is about."""
    try:
        return notification.params_as(_Cancelled).requestId
    except msgspec.DecodeError:
        return None


def failed(exchange: Exchange, cause: Exception) -> ErrorResponse:
    """The answer of a request that failed."""
    assert exchange.request_id is not None
    return relate(failed_answer(exchange.request_id, cause), exchange.request_id)
