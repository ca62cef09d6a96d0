"""A message channel over a WebSocket: each text message is one JSON-RPC message.

Made by `websocket_client` and `websocket_server`, and by whoever has a stream on which the
opening handshake is done. TCP, TLS and memory streams serve alike. What the bytes mean is
`sansio.websocket`'s business; one task in the caller's nursery, the `WebSocketReader`, reads
them for as long as the channel is open, as pings and closes must be answered by themselves.

Sending goes through the `Outbox`, as on any stream: a message is encoded, and so masked and
compressed, when it is sent, and one that waits for room may still be cancelled. That is why
the machine never compresses a message with the help of an earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from ..abc import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelEvent,
    ChannelState,
    ChannelStatistics,
    ConnectionLost,
    EventHandler,
    HandshakeTimeout,
    MessageChannel,
)
from ..errors import LocalProtocolError, MessageTooLarge
from ..jsonrpc import (
    InvalidMessage,
    Message,
    Notification,
    RequestId,
    decode_batch,
    decode_message,
    encode_message,
)
from ..limits import ChannelOptions
from ..reporting import report
from ..sansio.batch import BatchAnswers
from ..sansio.machine import Side
from ..sansio.websocket import Close, CloseCode, WebSocketMachine
from .channel_state import StateCell, make_session_id
from .inbox import Inbox, Sized
from .outbox import Outbox
from .own_words import OwnWords
from .websocket_reader import WebSocketReader, WebSocketTiming, can_speak_at_once

__all__ = ["WebSocketChannel"]

#: How long a server that is stopping waits for a peer's Close: one silent peer must not decide
#: how long a restart takes.
_GOING_AWAY_SECONDS = 2.0


class _Texts:
    """Frames payloads as text messages; for `OwnWords`, and for the channel itself."""

    __slots__ = ("_machine", "max_message_bytes")

    def __init__(self, machine: WebSocketMachine, max_message_bytes: int) -> None:
        self._machine = machine
        self.max_message_bytes = max_message_bytes

    def send(self, payload: bytes) -> bytes:
        if len(payload) > self.max_message_bytes:
            raise MessageTooLarge(len(payload), self.max_message_bytes)
        return self._machine.send_texts((payload,))

    def send_many(self, payloads: Sequence[bytes]) -> bytes:
        largest = max(map(len, payloads), default=0)
        if largest > self.max_message_bytes:
            raise MessageTooLarge(largest, self.max_message_bytes)
        return self._machine.send_texts(payloads)


class WebSocketChannel(MessageChannel):
    """Messages over a WebSocket whose opening handshake is done.

    * While the application is slow, pings are answered until `inbox_bytes` of messages wait;
      then nothing more is read, and after `inbox_stall_timeout` the channel fails with
      `InboxStalled`.
    * When the peer closes, all that it sent before is still received; then comes
      `trio.EndOfChannel` for the codes 1000, 1001 and none, `ClosedByPeer` for any other. A
      connection that ends without a word is `ConnectionLost`, as something may be missing.
    * A WebSocket cannot be half closed, so there is no `send_eof`.
    * `aclose` says 1000 and waits, within `close_timeout`, for the peer's own Close. What
      still comes meanwhile is dropped.
    * The channel holds its nursery open until it is closed, or the peer closed it; cancelling
      the nursery aborts it.

    Args:
        stream: Any stream; the channel owns it from here on.
        machine: Of this side's role, with what came behind the handshake in it already.
        nursery: Where the task that reads runs, and the one that writes while bytes wait.
        context: Facts about the connection.
        options: Limits and timeouts. `max_message_bytes` is also the machine's business.
        timing: Pings, and whether the other side was the one to connect.
        on_event: Told of faults that no caller sees: ``message.malformed`` and
            ``close.incomplete``.

    Attributes:
        accept_batches: Whether arrays of messages are taken (revision 2025-03-26).
        on_broken_answer: As for `StreamChannel`; a `Peer` sets it.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        machine: WebSocketMachine,
        *,
        nursery: trio.Nursery,
        context: ChannelContext,
        options: ChannelOptions | None = None,
        timing: WebSocketTiming | None = None,
        on_event: EventHandler | None = None,
    ) -> None:
        timing = timing or WebSocketTiming()
        self._stream = stream
        self._machine = machine
        self._context = context
        self._options = options = options or ChannelOptions()
        self._on_event = on_event
        self._state = StateCell()
        self._outbox = Outbox(
            stream, nursery=nursery, options=options, on_failure=self._cannot_write
        )
        self._inbox = Inbox(options, self._stalled)
        self._texts = _Texts(machine, options.max_message_bytes)
        self._own_words = OwnWords(self._outbox, self._texts, self._may_speak)
        self._batches = BatchAnswers()
        # A client does not tell a server what it sent wrong: one that answers in other words
        # would be asked about its answer for ever.
        self._answer_malformed = not machine.is_client
        self.accept_batches = False
        self.on_broken_answer: Callable[[RequestId, InvalidMessage], object] | None = None
        self._close_code: int = CloseCode.NORMAL
        self._answer_seconds = math.inf
        self._receiver_busy = False
        self._session_id: str | None = None
        self._messages_sent = self._messages_received = 0
        self._malformed = 0
        self._reader = WebSocketReader(
            stream,
            machine,
            self._inbox,
            self._outbox,
            nursery=nursery,
            options=options,
            timing=timing,
            decode=self._decode,
            fail=self._fail,
            abort=self.abort,
            is_closing=self._is_closing,
        )
        nursery.start_soon(self._reader.run, name="trio_mcp_transport websocket")

    def __repr__(self) -> str:
        return f"<WebSocketChannel {self.session_id} {self.state.value}>"

    # -- facts --------------------------------------------------------------------------

    @property
    def context(self) -> ChannelContext:
        """Facts about the connection."""
        return self._context

    @property
    def options(self) -> ChannelOptions:
        """The limits and timeouts that this channel was built with."""
        return self._options

    @property
    def session_id(self) -> str:
        """The transport's name and randomness."""
        if self._session_id is None:
            self._session_id = make_session_id(self._context.transport)
        return self._session_id

    @property
    def state(self) -> ChannelState:
        """Where the channel is in its life."""
        return self._state.state

    @property
    def failure(self) -> ChannelBroken | None:
        """The first cause, once `state` is FAILED."""
        return self._state.failure

    @property
    def is_connected(self) -> bool:
        """Whether sending may still succeed: neither side has closed."""
        return (
            self._state.is_open
            and self._machine.sending is Side.OPEN
            and self._reader.close_received is None
        )

    @property
    def can_send_eof(self) -> bool:
        """Never: a Close frame ends both directions."""
        return False

    @property
    def capabilities(self) -> ChannelCapabilities:
        """What this channel can do."""
        return ChannelCapabilities(
            max_message_bytes=self._options.max_message_bytes, half_close=False, framing=None
        )

    def statistics(self) -> ChannelStatistics:
        """The counters now; bytes are those on the wire, frames and pings and all."""
        return ChannelStatistics(
            messages_sent=self._messages_sent + self._own_words.sent,
            messages_received=self._messages_received,
            bytes_sent=self._outbox.bytes_written,
            bytes_received=self._reader.bytes_received,
            malformed_received=self._malformed,
            outbox_bytes=self._outbox.size,
            inbox_messages=len(self._inbox),
        )

    async def wait_state(self, *states: ChannelState) -> ChannelState:
        """Wait until the channel is in one of the states; return which."""
        return await self._state.wait(states)

    # -- sending ------------------------------------------------------------------------

    async def send(self, value: Message) -> None:
        """Queue one message. See `MessageChannel.send`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._queue(self._encode(value), 1)

    def try_send(self, value: Message) -> bool:
        """Queue one message if there is room. See `MessageChannel.try_send`."""
        if self._batches:
            return False  # it may be kept for a batch's answer, which is `send`'s business
        if not self._outbox.put(self._encode(value)):
            return False
        self._messages_sent += 1
        return True

    async def send_many(self, values: Sequence[Message]) -> None:
        """Queue several messages, all or none. See `MessageChannel.send_many`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._batches:
            data = b"".join([self._encode(value) for value in values])
        else:
            self._check_may_send()
            data = self._texts.send_many([encode_message(value) for value in values])
        await self._queue(data, len(values))

    def send_control(self, value: Message) -> None:
        """Queue a small message past a full outbox. See `MessageChannel.send_control`."""
        data = self._encode(value)
        if data:
            self._outbox.put_control(data)
        self._messages_sent += 1

    async def flush(self) -> None:
        """Wait until the operating system took everything that was queued."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._state.is_final:
            self._state.check_open()
        await self._outbox.flush()

    async def send_eof(self) -> None:
        """Not possible here.

        Raises:
            LocalProtocolError: Always.
        """
        await trio.lowlevel.checkpoint()
        self._state.check_open()
        raise LocalProtocolError("a WebSocket cannot end one direction alone")

    def _encode(self, value: Message) -> bytes:
        """The bytes for one message; empty when it was kept for a batch's answer."""
        self._check_may_send()
        data = self._texts.send(encode_message(value))
        if self._batches:
            complete = self._batches.answer(value)
            if complete is not None:
                self._own_words.answer_batch(complete)
                return b""
        return data

    def _may_speak(self) -> bool:
        return self.is_connected

    def _check_may_send(self) -> None:
        if not self._state.is_open:
            self._state.check_open()
        if self._reader.close_received is not None:
            cause = ConnectionLost("the peer has closed the connection")
            self._fail(cause)
            ending = self._state.ending()
            raise ending from ending.__cause__
        if self._machine.sending is not Side.OPEN:
            # The task that reads has seen the end, and has to see to what came before it first.
            seen = self._reader.cause_seen
            raise seen from seen.__cause__

    async def _queue(self, data: bytes, count: int) -> None:
        if not data or self._outbox.put(data):
            self._messages_sent += count
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        await self._outbox.wait_and_put(data)
        self._messages_sent += count

    # -- receiving ----------------------------------------------------------------------

    async def receive(self) -> Message:
        """Wait for one message. See `MessageChannel.receive`."""
        return (await self.receive_many(1))[0]

    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        """Wait for the first message, return all that are here."""
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        if self._receiver_busy:
            raise trio.BusyResourceError("another task is receiving")
        self._receiver_busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._has_input():
                messages = self._inbox.take(max_messages)
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                if self._options.idle_read_timeout == math.inf:
                    await self._wait_for_input()
                else:
                    await self._wait_for_input_in_time()
                messages = self._inbox.take(max_messages)
        except trio.EndOfChannel:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        except (ChannelBroken, trio.ClosedResourceError):
            # If this task was cancelled, as that which reads may have been, that comes first.
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120
            raise
        finally:
            self._receiver_busy = False
        self._messages_received += len(messages)
        return messages

    def _has_input(self) -> bool:
        """Whether there is a message; or raise why there will be none."""
        state = self._state
        if not state.is_open and state.failure is None:
            state.check_open()
        if len(self._inbox):
            return True
        if self._reader.ended:
            raise trio.EndOfChannel("the peer closed the connection")
        if not state.is_open:
            state.check_open()
        return False

    async def _wait_for_input(self) -> None:
        await self._inbox.wait()
        while not self._has_input():
            await self._inbox.wait()

    async def _wait_for_input_in_time(self) -> None:
        self._reader.watch_idle(self._options.idle_read_timeout)
        try:
            await self._wait_for_input()
        finally:
            self._reader.watch_idle(math.inf)

    def _decode(self, texts: Sequence[bytes]) -> list[Sized]:
        """The messages that some texts hold; sees to what is not simply one. Never raises."""
        items: list[Sized] = []
        for text in texts:
            try:
                message = decode_message(text)
            except InvalidMessage as error:
                self._take_unusual(text, error, items)
                continue
            if self._batches and type(message) is Notification:
                self._note_cancelled(message)
            items.append((message, len(text)))
        return items

    def _note_cancelled(self, message: Notification) -> None:
        if message.method == "notifications/cancelled":
            self._own_words.answer_batch(self._batches.cancelled(message))

    def _take_unusual(self, text: bytes, error: InvalidMessage, items: list[Sized]) -> None:
        """What is no single message: a batch, where those are taken, or malformed."""
        if self.accept_batches and text.lstrip()[:1] == b"[":
            try:
                batch = decode_batch(text)
            except InvalidMessage as batch_error:
                error = batch_error
            else:
                messages, answer = self._batches.add(batch)
                self._malformed += sum(isinstance(item, Exception) for item in batch.items)
                # The parts alias the whole, which is held as long as any of them.
                items += [(message, len(text)) for message in messages[:1]]
                items += [(message, 0) for message in messages[1:]]
                self._own_words.answer_batch(answer)
                return
        self._refuse(error, len(text))

    def _refuse(self, error: InvalidMessage, size: int) -> None:
        """Count a malformed message, report it, answer it. Never raises."""
        self._malformed += 1
        event = ChannelEvent(
            name="message.malformed",
            message=f"a text of {size} bytes holds no valid message: {error}",
            error=error,
            context=self._context,
        )
        report(self._on_event, event)
        if error.answerable:
            if self._answer_malformed:
                self._own_words.refuse(error)
        elif error.request_id is not None and self.on_broken_answer is not None:
            self.on_broken_answer(error.request_id, error)

    # -- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Flush, then shake hands on the end, all within `close_timeout`, then close.

        See `MessageChannel.aclose`.
        """
        reader, outbox = self._reader, self._outbox
        if not self._state.is_open:
            try:
                await reader.done.wait()
            finally:
                reader.stop()  # only a cancelled wait finds it open
            return
        self._state.move(ChannelState.CLOSING)
        self._inbox.close(keep=False)
        try:
            # It may fail meanwhile, or another task may abort it.
            with (
                trio.move_on_after(self._options.close_timeout),
                suppress(ChannelBroken, trio.ClosedResourceError),
            ):
                await outbox.flush()
                while not outbox.is_idle:  # those who waited for room came first
                    await outbox.flush()
                if self._may_say_close():
                    outbox.put_control(self._machine.send(Close(self._close_code)))
                    await outbox.flush()
                with trio.move_on_after(self._answer_seconds):
                    await reader.done.wait()
        finally:
            if not self._state.is_final:
                self._say_close_now(CloseCode.GOING_AWAY)  # if there was no time for more
            self._report_unsent()
            outbox.close(self._state.ending)
            reader.stop()
            self._state.move(ChannelState.CLOSED)
        await reader.done.wait()

    def go_away(self) -> None:
        """A server is stopping: from now on `aclose` says 1001, and waits 2 seconds at most.

        That is for the peer's own Close, of which nothing depends; what is queued has all of
        `close_timeout` to be written.
        """
        self._close_code = CloseCode.GOING_AWAY
        self._answer_seconds = _GOING_AWAY_SECONDS

    def abort(self, cause: ChannelBroken | None = None) -> None:
        """Close at once, without flushing. See `MessageChannel.abort`.

        The peer is told (1001, or 1011 where there is a cause) if that takes no waiting.
        """
        if cause is not None:
            self._fail(cause)
            return
        if not self._state.is_final:
            self._say_close_now(CloseCode.GOING_AWAY)
            self._state.move(ChannelState.CLOSED)
            self._inbox.close(keep=False)
            self._outbox.close(self._state.ending)
        self._reader.stop()

    def _is_closing(self) -> bool:
        return self._state.state in {ChannelState.CLOSING, ChannelState.CLOSED}

    def _may_say_close(self) -> bool:
        return self._machine.sending is Side.OPEN

    def _say_close_now(self, code: int) -> None:
        """Tell the peer, if nothing is in the way."""
        if self._may_say_close() and can_speak_at_once(self._stream, self._outbox):
            # The stream may have been closed by whoever made it.
            with suppress(ChannelBroken, trio.ClosedResourceError):
                self._outbox.put_control(self._machine.send(Close(code)))

    def _report_unsent(self) -> None:
        """Tell that closing drops what the peer did not take in time."""
        if self._outbox.size and not self._state.is_final:
            event = ChannelEvent(
                name="close.incomplete",
                message=f"closed with {self._outbox.size} bytes that were not written",
                context=self._context,
            )
            report(self._on_event, event)

    def _fail(self, cause: ChannelBroken) -> None:
        """Record the first cause, wake everybody, close the stream."""
        is_first = self._state.fail(cause)
        if is_first:
            self._inbox.close(keep=True)
        if self._reader.is_leaving:
            return  # what is queued, the answer to the Close among it, is still written
        if is_first:
            self._say_close_now(_code_for(cause))
        if self._state.failure is not None:
            self._outbox.close(self._state.ending)
            self._reader.stop_unless_lingering()

    def _stalled(self, cause: ChannelBroken) -> None:
        """As `_fail`; and the peer, whose bytes were left unread, shall hear why."""
        self._reader.give_up()
        self._fail(cause)

    def _cannot_write(self, cause: ChannelBroken) -> None:
        """As `_fail`; and what is queued does not leave any more, so nobody is to wait for it."""
        self._reader.is_leaving = False
        self._fail(cause)


def _code_for(cause: ChannelBroken) -> int:
    """What a peer is told that is left because of this."""
    if isinstance(cause, HandshakeTimeout):
        return CloseCode.POLICY_VIOLATION
    return CloseCode.INTERNAL_ERROR
