"""One channel as the two streams that the official SDK reads and writes.

Used by `mcp_sdk`. Theory of operation: both streams are thin faces of one channel, with no
task and no buffer between: the SDK's reader waits in `receive`, its writers in `send`, so
cancelling and back-pressure are the channel's. The SDK cancels its handlers as soon as its
read stream ends; so that the answers in work are still written, the end is held back until
they are, for at most `drain` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

import msgspec
import trio
from msgspec import Raw

from ..abc import ChannelBroken, ChannelEvent, EventHandler, MessageChannel
from ..conversation import ClosesStreams, HasExchanges, MayAsk
from ..errors import FeatureUnavailable, LocalProtocolError, MethodNotFound
from ..handlers import GONE, error_answer
from ..jsonrpc import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    InvalidMessage,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    decode_message,
    relate,
)
from ..reporting import report
from ..sansio.eras import MODERN_REVISIONS

try:
    import anyio
    from mcp.shared.message import ServerMessageMetadata, SessionMessage
    from mcp.types import (
        ErrorData,
        JSONRPCError,
        JSONRPCMessage,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
    )
except ImportError as error:
    raise FeatureUnavailable(
        "the official MCP SDK, 2.3 or later, is not installed:"
        ' pip install "trio-mcp-transport[mcp]"'
    ) from error

__all__ = ["SdkReadStream", "SdkStreams", "SdkWriteStream", "Wire"]

# What decoding of well-formed JSON may still stumble over: see `jsonrpc`.
_DECODE_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
#: Methods that 2026-07-28 has no more.
_LEGACY_ONLY = frozenset({
    "initialize",
    "logging/setLevel",
    "ping",
    "resources/subscribe",
    "resources/unsubscribe",
})
_decode_object = msgspec.json.Decoder(dict[str, object]).decode


class SdkReadStream:
    """The channel's receiving half as the SDK reads it.

    Iterating yields a `SessionMessage` for each message. When the channel has failed it
    yields the `ChannelBroken`, which the SDK hands to its `message_handler`, and ends.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def receive(self) -> SessionMessage | Exception:
        """Wait for one message. A checkpoint; cancelling loses nothing.

        Raises:
            anyio.EndOfStream: There will be no more.
            anyio.ClosedResourceError: This side closed the stream or the channel.
        """
        return await self._wire.receive()

    async def aclose(self) -> None:
        """Stop reading; whoever waits here is woken. The channel stays open.

        Never raises `Cancelled`: the SDK closes what it owns after this, in one `finally`.
        """
        self._wire.stop_reading()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class SdkWriteStream:
    """The channel's sending half as the SDK writes it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send(self, item: SessionMessage, /) -> None:
        """Queue one message. If cancelled, nothing was queued.

        Raises:
            MessageTooLarge: Over the channel's limit; the conversation goes on.
            anyio.BrokenResourceError: The channel failed; the cause is chained.
            anyio.ClosedResourceError: This side closed the stream or the channel.
        """
        await self._wire.send(item)

    async def aclose(self) -> None:
        """Stop writing. What was sent is flushed when the channel is closed.

        Never raises `Cancelled`, as `SdkReadStream.aclose`.
        """
        self._wire.writing_closed = True
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


SdkStreams: TypeAlias = tuple[SdkReadStream, SdkWriteStream]


class Wire:
    """What both streams share: the channel, and which requests are not answered yet.

    Args:
        channel: The channel.
        drain: See the module.
        on_event: Told of messages that the SDK cannot take.
        has_method: For a server: whether it has a handler for a method.
    """

    def __init__(
        self,
        channel: MessageChannel,
        drain: float,
        on_event: EventHandler | None,
        has_method: Callable[[str], bool] | None = None,
    ) -> None:
        self._channel = channel
        self._drain = drain
        self._on_event = on_event
        self._has_method = has_method
        self._metadata = ServerMessageMetadata(request_context=channel.context)
        context = channel.context
        self._is_modern_exchange = context.exchange and context.protocol_version in MODERN_REVISIONS
        self._ended = False
        self._reading_closed = False
        self._reader: trio.CancelScope | None = None
        self._unanswered: dict[RequestId, str] = {}  # with the methods
        self._settled = trio.Event()
        self.writing_closed = False

    # -- reading ------------------------------------------------------------------------

    async def receive(self) -> SessionMessage | Exception:
        """See `SdkReadStream.receive`."""
        while not self._ended:
            self._check_reading()
            with trio.CancelScope() as self._reader:
                try:
                    message = await self._channel.receive()
                except trio.EndOfChannel:
                    self._ended = True
                    break
                except trio.ClosedResourceError as error:
                    raise anyio.ClosedResourceError from error
                except ChannelBroken as error:
                    self._ended = True
                    self._settle()
                    return error
                found = self._convert(message)
                if found is not None:
                    return found
        self._check_reading()
        with trio.move_on_after(self._drain), trio.CancelScope() as self._reader:
            if self._unanswered and not self._channel.failure:
                await self._settled.wait()
        self._check_reading()
        await trio.lowlevel.checkpoint()
        raise anyio.EndOfStream

    def _check_reading(self) -> None:
        if self._reading_closed:
            raise anyio.ClosedResourceError

    def _wake_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    def finish(self) -> None:
        """Take nothing more; the end comes when all that is in work was answered."""
        self._ended = True
        self._wake_reader()

    def stop_reading(self) -> None:
        """See `SdkReadStream.aclose`."""
        self._reading_closed = True
        self._wake_reader()

    def _convert(self, message: Message) -> SessionMessage | Exception | None:
        """The SDK's message; an exception for it to report; None if this answered it."""
        try:
            converted = _to_sdk(message)
        except _DECODE_FAULTS as error:
            return self._refuse(message, error)
        if isinstance(message, Request):
            if self._is_modern_exchange and message.method in _LEGACY_ONLY:
                self._refuse_legacy(message)
                return None
            self._unanswered[message.id] = message.method
            self._settled = trio.Event()
            return SessionMessage(converted, self._metadata_of(message.id))
        if isinstance(message, Notification):
            self._note_cancel(converted)
        return SessionMessage(converted, self._metadata)

    def _refuse_legacy(self, request: Request) -> None:
        """Say that a modern server has no such method, which the SDK's own HTTP does."""
        with suppress(*GONE):  # the next receive says so
            self._channel.send_control(error_answer(request.id, MethodNotFound(request.method)))

    def _metadata_of(self, request_id: RequestId) -> ServerMessageMetadata:
        """What is special to one request: over HTTP each has an exchange of its own."""
        exchange: MessageChannel | None = self._channel
        if isinstance(self._channel, HasExchanges):
            exchange = self._channel.exchange_of(request_id)
        if exchange is None or not exchange.context.exchange:
            return self._metadata

        async def close_stream() -> None:
            # The SDK says that it does nothing where the client cannot come back.
            with suppress(LocalProtocolError):
                if isinstance(exchange, ClosesStreams):
                    exchange.close_stream()
            await trio.lowlevel.checkpoint()

        return ServerMessageMetadata(
            request_context=exchange.context,
            close_sse_stream=close_stream,
            can_send_request=isinstance(exchange, MayAsk) and exchange.can_ask,
        )

    def _note_cancel(self, message: JSONRPCMessage) -> None:
        """A request that the peer has cancelled gets no answer."""
        if isinstance(message, JSONRPCNotification) and message.params is not None:
            request_id = message.params.get("requestId")
            if message.method == "notifications/cancelled" and isinstance(request_id, int | str):
                self._answered(request_id)

    def _refuse(self, message: Message, fault: Exception) -> Exception | SessionMessage | None:
        """See to what is a message but none of MCP's: its params or result are no object."""
        what = "result" if isinstance(message, Response) else "params"
        reason = f"{what} must be an object that can be decoded: {fault}"
        error = InvalidMessage(reason, code=ErrorCode.INVALID_REQUEST)
        event = ChannelEvent(
            name="message.malformed",
            message=reason,
            error=error,
            context=self._channel.context,
        )
        if isinstance(message, Request):
            report(self._on_event, event)
            answer = ErrorResponse(message.id, ErrorObject(ErrorCode.INVALID_PARAMS, reason))
            try:
                self._channel.send_control(answer)
            except (ChannelBroken, trio.ClosedResourceError):
                return None  # the next receive tells
            return None
        if isinstance(message, Response):
            # Whoever waits for it shall not wait any longer.
            report(self._on_event, event)
            data = ErrorData(code=ErrorCode.INTERNAL_ERROR, message=reason)
            return SessionMessage(JSONRPCError(jsonrpc="2.0", id=message.id, error=data))
        return error

    # -- writing ------------------------------------------------------------------------

    async def send(self, item: SessionMessage) -> None:
        """See `SdkWriteStream.send`."""
        if self.writing_closed:
            raise anyio.ClosedResourceError
        message = item.message
        try:
            await self._channel.send(self._to_send(item))
        except trio.ClosedResourceError as error:
            self._settle()
            raise anyio.ClosedResourceError from error
        except ChannelBroken as error:
            self._settle()
            raise anyio.BrokenResourceError from error
        if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            self._answered(message.id)

    def _to_send(self, item: SessionMessage) -> Message:
        """Our message, with what HTTP wants to know beside it."""
        message = _from_sdk(item.message)
        metadata = item.metadata
        if isinstance(metadata, ServerMessageMetadata) and metadata.related_request_id is not None:
            relate(message, metadata.related_request_id)
        if isinstance(message, ErrorResponse) and message.id is not None:
            method = self._unanswered.get(message.id)
            if (
                message.error.code == ErrorCode.METHOD_NOT_FOUND
                and method is not None
                and self._has_method is not None
                and not self._has_method(method)
            ):
                message.with_cause(MethodNotFound(method))
        elif isinstance(message, Response):
            revisions = self._channel.context.revisions
            if revisions is not None and self._unanswered.get(message.id) == "server/discover":
                return _with_revisions(message, revisions)
        return message

    def _answered(self, request_id: RequestId) -> None:
        self._unanswered.pop(request_id, None)
        if not self._unanswered:
            self._settled.set()

    def _settle(self) -> None:
        """Nothing will be answered any more."""
        self._unanswered.clear()
        self._settled.set()


# -- conversion -------------------------------------------------------------------------


def _to_sdk(message: Message) -> JSONRPCMessage:
    """The SDK's model. The payload is decoded here, once.

    Raises:
        ValueError: The payload is no object, or cannot be decoded.
    """
    if isinstance(message, Request):
        if message.params is msgspec.UNSET:
            return JSONRPCRequest(jsonrpc="2.0", id=message.id, method=message.method)
        params = _plain_object(message.params)
        return JSONRPCRequest(jsonrpc="2.0", id=message.id, method=message.method, params=params)
    if isinstance(message, Notification):
        if message.params is msgspec.UNSET:
            return JSONRPCNotification(jsonrpc="2.0", method=message.method)
        params = _plain_object(message.params)
        return JSONRPCNotification(jsonrpc="2.0", method=message.method, params=params)
    if isinstance(message, Response):
        return JSONRPCResponse(jsonrpc="2.0", id=message.id, result=_plain_object(message.result))
    error = ErrorData(code=message.error.code, message=message.error.message)
    if message.error.data is not msgspec.UNSET:
        error = error.model_copy(update={"data": message.error.data_as(object)})
    return JSONRPCError(jsonrpc="2.0", id=message.id, error=error)


def _plain_object(value: object) -> dict[str, object]:
    """A payload as a dict of the receiver's own."""
    raw = value if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    return _decode_object(raw)


def _with_revisions(discovered: Response, revisions: Sequence[str]) -> Response:
    """What `server/discover` says, with the revisions that the endpoint's errors name too.

    The SDK names the modern ones alone there; legacy clients are served all the same.
    """
    fields = dict(discovered.result_as(dict[str, Raw]))
    fields["supportedVersions"] = Raw(msgspec.json.encode(revisions))
    return Response(discovered.id, Raw(msgspec.json.encode(fields)))


def _from_sdk(message: JSONRPCMessage) -> Message:
    """Our message. The payload is encoded here, once, and goes out as it is.

    Raises:
        InvalidMessage: It is nested too deep to be sent.
    """
    return decode_message(message.model_dump_json(by_alias=True, exclude_unset=True).encode())
