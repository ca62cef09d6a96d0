"""A channel that is one exchange, without any HTTP: for the tests of peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio
from msgspec import Raw

from trio_mcp_transport.abc import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelSession,
    ChannelState,
    ChannelStatistics,
    ConnectionLost,
    MessageChannel,
)
from trio_mcp_transport.errors import LocalProtocolError
from trio_mcp_transport.jsonrpc import ErrorResponse, Message, Request, RequestId, Response
from trio_mcp_transport.limits import ChannelOptions

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
KEY = "io.modelcontextprotocol/"
OPTIONS = ChannelOptions()
META = {KEY + "protocolVersion": MODERN, KEY + "clientCapabilities": {}}


def request(request_id: RequestId, method: str, params: object = None) -> Request:
    """A legacy request, as it comes from a wire."""
    return Request(request_id, method, Raw(msgspec.json.encode(params or {})))


def modern(request_id: RequestId, method: str, **params: object) -> Request:
    """A modern request, as it comes from a wire."""
    return request(request_id, method, {"_meta": META, **params})


class PushedChannel(MessageChannel):
    """Hands over what the test gives it, and keeps what is sent.

    Args:
        nursery: Lent to the peer; None for a channel that has to be read.
        messages: What is there from the beginning.
        session: Of a legacy exchange.
        version: What the transport found it to be.
        exchange: False for a session's own channel.
        revisions: What the endpoint serves.

    Attributes:
        sent: What was sent, in order.
        closed_streams: What `close_stream` was called with.
        resumable: Whether it may be.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *messages: Message,
        session: ChannelSession | None = None,
        version: str | None = MODERN,
        exchange: bool = True,
        revisions: tuple[str, ...] | None = None,
    ) -> None:
        self._nursery = nursery
        self._messages = list(messages)
        self._context = ChannelContext(
            transport="http",
            session=session,
            protocol_version=version,
            exchange=exchange,
            revisions=revisions,
        )
        self.sent: list[Message] = []
        self.closed_streams: list[float | None] = []
        self.resumable = True
        self.deliver: Callable[[Message], object] = self._messages.append
        self._ended: Callable[[Exception], object] = print
        self._state = ChannelState.CONNECTED
        self._failure: ChannelBroken | None = None

    # -- for the test -------------------------------------------------------------------

    @property
    def answers(self) -> dict[RequestId | None, Response | ErrorResponse]:
        return {
            message.id: message
            for message in self.sent
            if isinstance(message, Response | ErrorResponse)
        }

    def fail(self) -> None:
        """The client went away."""
        self.abort(ConnectionLost("gone"))

    # -- MessageChannel -----------------------------------------------------------------

    def push_to(
        self, deliver: Callable[[Message], object], ended: Callable[[Exception], object]
    ) -> trio.Nursery:
        self.deliver, self._ended = deliver, ended
        for message in self._messages:
            deliver(message)
        return self._nursery

    def close_stream(self, retry: float | None = None) -> None:
        if not self.resumable:
            raise LocalProtocolError("not resumable")
        self.closed_streams.append(retry)

    def try_send(self, value: Message) -> bool:
        if self._failure is not None:
            raise self._failure.again()
        if self._state is not ChannelState.CONNECTED:
            raise trio.ClosedResourceError
        self.sent.append(value)
        return True

    async def send(self, value: Message) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.try_send(value)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_many(self, values: Sequence[Message]) -> None:
        for value in values:
            await self.send(value)

    def send_control(self, value: Message) -> None:
        self.try_send(value)

    async def aclose(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self, cause: ChannelBroken | None = None) -> None:
        if self._state is ChannelState.CONNECTED:
            self._failure = cause
            self._state = ChannelState.CLOSED if cause is None else ChannelState.FAILED
            self._ended(trio.ClosedResourceError() if cause is None else cause)

    @property
    def context(self) -> ChannelContext:
        return self._context

    @property
    def options(self) -> ChannelOptions:
        return OPTIONS

    @property
    def session_id(self) -> str:
        return "http-test"

    @property
    def state(self) -> ChannelState:
        return self._state

    @property
    def failure(self) -> ChannelBroken | None:
        return self._failure

    @property
    def capabilities(self) -> ChannelCapabilities:
        return ChannelCapabilities(max_message_bytes=None, half_close=False, framing=None)

    @property
    def can_send_eof(self) -> bool:
        return False

    async def wait_state(self, *states: ChannelState) -> ChannelState:
        raise NotImplementedError

    async def receive(self) -> Message:
        raise NotImplementedError

    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        raise NotImplementedError

    async def flush(self) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        raise NotImplementedError

    def statistics(self) -> ChannelStatistics:
        raise NotImplementedError
