"""A legacy session as one channel: for raw handlers that know nothing of exchanges.

Made by `HttpService` in its mode ``session``, for bridges and for servers that others have
written. Underneath each POST is an exchange as ever; here all of them, and the session's own
stream, are one channel. What is sent goes where it belongs: an answer to the exchange of
its request, anything else to the exchange of the request that it is related to
(`jsonrpc.relate`), or to the session's own stream where there is none.

Two exchanges of one session may use the same request id. To the handler each request in
flight has an id of its own: one that would collide is renamed, and gets its own back in
what goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

import msgspec
import trio
from msgspec import Raw

from ..abc import ChannelBroken, ChannelContext, ChannelState, EventHandler, OutboxOverflow
from ..errors import LocalProtocolError
from ..jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    encode_message,
    relate,
)
from ..limits import ChannelOptions
from ..sansio.mcp_http.standalone import StandaloneWriter
from ..sansio.metadata import as_raw
from .deadlines import Deadlines
from .http_channel import Encoded, HttpServerChannel
from .http_exchange import ExchangeChannel
from .http_outflow import Outflow
from .http_session import SessionChannel

__all__ = ["MergedChannel"]

#: Where the numbers of renamed requests begin: beyond what clients count to.
_FIRST_NEW_ID = 2**52


class _Part(msgspec.Struct):
    """What of one call goes to one stream."""

    channel: HttpServerChannel
    messages: list[Encoded]
    size: int


class MergedChannel(SessionChannel):
    """A session's own channel, and all its exchanges. Made as a `SessionChannel` is.

    Args:
        on_forget: Takes the session out of the table.
    """

    def __init__(
        self,
        writer: StandaloneWriter,
        outflow: Outflow,
        context: ChannelContext,
        options: ChannelOptions,
        *,
        keep_alive_interval: float,
        deadlines: Deadlines,
        on_forget: Callable[[], object],
        on_event: EventHandler | None,
    ) -> None:
        self._on_forget = on_forget
        super().__init__(
            writer,
            outflow,
            context,
            options,
            keep_alive_interval=keep_alive_interval,
            deadlines=deadlines,
            on_lost=None,
            on_event=on_event,
        )
        self._exchanges: dict[RequestId, tuple[ExchangeChannel, RequestId]] = {}
        self._new_ids = count(_FIRST_NEW_ID)

    @property
    def standalone_open(self) -> bool:
        """Whether the client has a GET open, for what belongs to no request."""
        return self.writer.attached

    def opened(self, revision: str | None) -> None:
        """The session is open now: it was begun with a request that had no revision yet."""
        self._context = msgspec.structs.replace(self._context, protocol_version=revision)

    def forget_session(self) -> None:
        """Let nobody find the session any more (404); what is in work can still be answered."""
        self._on_forget()

    def begin(self, exchange: ExchangeChannel, size: int, on_end: Callable[[], object]) -> None:
        """Take an exchange in: its messages are received here.

        Args:
            exchange: Nobody else may receive from it.
            size: Bytes of the body that it came with. Whether there is room for them, and for
                what comes later, is asked before.
            on_end: Called once, when it is over.
        """
        ids: dict[RequestId, RequestId] = {}
        exchange.writer.answers_to_session = True
        counted = -size  # of what the exchange has received, its body beside that

        def deliver(message: Message) -> None:
            nonlocal counted
            if isinstance(message, Request):
                known = self._new_id(message.id)
                ids[message.id] = known
                self._exchanges[known] = (exchange, message.id)
                if known is not message.id:
                    message = Request(known, message.method, message.params)
            elif isinstance(message, Notification):
                message = _rename_cancelled(message, ids)
                if ids:
                    relate(message, next(iter(ids.values())))
            received = exchange.bytes_received
            self._take_from(message, received - counted)
            counted = received

        def ended(_: Exception) -> None:
            for known in ids.values():
                self._exchanges.pop(known, None)
            exchange.retire()
            on_end()

        exchange.push_to(deliver, ended)

    def _take_from(self, message: Message, size: int) -> None:
        if self._deliver_to is not None or not self._state.is_open or self._input_ended:
            self.deliver(message, size)
        else:
            # A cancellation comes in also where there is no room: nobody would say it again.
            self._bytes_received += size
            self._take_in(message, size)

    def exchange_of(self, request_id: RequestId) -> ExchangeChannel | None:
        """The exchange of a request that was received and is not answered yet.

        Not to be received from; it tells of its own request: `context`, `close_stream`.
        """
        found = self._exchanges.get(request_id)
        return None if found is None else found[0]

    def _new_id(self, wanted: RequestId) -> RequestId:
        if wanted not in self._exchanges:
            return wanted
        return next(new for new in self._new_ids if new not in self._exchanges)

    # -- sending ------------------------------------------------------------------------

    def _check_message(self, value: Message) -> None:
        if type(value) is Request and value.related_to is not None:
            found = self._exchanges.get(value.related_to)
            if found is not None and not found[0].writer.can_ask:
                raise LocalProtocolError("no request can be sent to this client from there")

    async def _send(self, messages: Sequence[Encoded]) -> None:
        while True:
            parts = self._sort(messages)
            full = next((part for part in parts if not _has_room(part)), None)
            if full is None:
                break
            if self._options.when_full == "close":
                raise self._failed(OutboxOverflow("the outbox is full and its policy is to close"))
            await full.channel.wait_for_room(full.size)
            self._state.check_open()
        for part in parts:
            _put(part)
        self._count(len(messages), sum(len(data) for _, data in messages))
        await trio.lowlevel.cancel_shielded_checkpoint()

    def try_send(self, value: Message) -> bool:
        """Queue one message if there is room. See `MessageChannel.try_send`."""
        encoded = self._encode(value)
        parts = self._sort((encoded,))
        if not all(map(_has_room, parts)):
            return False
        for part in parts:
            _put(part)
        self._count(1, len(encoded[1]))
        return True

    def send_control(self, value: Message) -> None:
        """Queue a small message past a full outbox. See `MessageChannel.send_control`."""
        for part in self._sort((self._encode(value),)):
            if part.channel is self:
                super().send_control(value)
            elif part.channel.state is ChannelState.CONNECTED:
                for message, _ in part.messages:
                    part.channel.send_control(message)

    async def flush(self) -> None:
        """Wait until everything queued was taken by the operating system."""
        await super().flush()
        for exchange in {exchange for exchange, _ in self._exchanges.values()}:
            with suppress(ChannelBroken, trio.ClosedResourceError):
                await exchange.flush()

    def _sort(self, messages: Sequence[Encoded]) -> list[_Part]:
        """Which message goes where; answers to requests that are over go nowhere."""
        parts: list[_Part] = []
        for message, data in messages:
            channel: HttpServerChannel = self
            if isinstance(message, Response | ErrorResponse):
                found = None if message.id is None else self._exchanges.get(message.id)
                if found is None:
                    continue
                channel, own_id = found
                if own_id != message.id:
                    message = _with_id(message, own_id)
                    data = encode_message(message)
            elif message.related_to is not None:
                found = self._exchanges.get(message.related_to)
                if found is not None:
                    channel = found[0]
            if parts and parts[-1].channel is channel:
                parts[-1].messages.append((message, data))
                parts[-1].size += len(data)
            else:
                parts.append(_Part(channel, [(message, data)], len(data)))
        return parts


def _has_room(part: _Part) -> bool:
    channel = part.channel
    # What is said to an exchange that has ended takes no room.
    return not channel.is_connected or channel.outflow.has_room(part.size)


def _put(part: _Part) -> None:
    if part.channel.is_connected:
        part.channel.put(part.messages, part.size)


def _with_id(message: Response | ErrorResponse, own_id: RequestId) -> Response | ErrorResponse:
    if isinstance(message, Response):
        return Response(own_id, message.result)
    return ErrorResponse(own_id, message.error).with_cause(message.cause)


class _Cancelled(msgspec.Struct):
    requestId: RequestId  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


def _rename_cancelled(message: Notification, ids: dict[RequestId, RequestId]) -> Notification:
    """A cancellation, with the id that its request has here."""
    if message.method != "notifications/cancelled":
        return message
    cancelled = message.params_as(_Cancelled).requestId
    known = ids.get(cancelled, cancelled)
    if known == cancelled:
        return message
    fields = msgspec.json.decode(as_raw(message.params), type=dict[str, Raw])
    return Notification(message.method, {**fields, "requestId": known})
