"""A message channel over any `trio.abc.Stream`.

TCP, Unix sockets, child processes and own stdio differ only in how they make the stream;
this class does the rest. Theory of operation:

* **Receiving** has no task of its own: the task in `receive` reads the stream. What was
  read and not yet returned lives here and in the machine, so cancelling loses nothing.
* **Sending** goes through the `Outbox`, whose writer exists only while bytes wait.
* **The end** comes once: `_fail` (or `abort`) records the first cause, wakes everybody
  and closes the stream; it is synchronous, so it can be called from anywhere. What was
  received before is still delivered.
* A malformed message in a sound frame is answered through the outbox's control lane, so
  reading never waits for writing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

import trio

from ..abc import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelEvent,
    ChannelState,
    ChannelStatistics,
    EventHandler,
    HandshakeTimeout,
    IdleTimeout,
    MessageChannel,
    PeerProtocolError,
)
from ..errors import LocalProtocolError, RemoteProtocolError
from ..jsonrpc import (
    Batch,
    InvalidMessage,
    Message,
    Notification,
    RequestId,
)
from ..limits import READ_CHUNK_BYTES, ChannelOptions
from ..reporting import report
from ..sansio.batch import BatchAnswers
from ..sansio.framing import Frame, make_framer
from ..sansio.machine import NEED_DATA, EndOfData
from ..sansio.messages import MalformedMessage, MessageEvent, MessageMachine
from .channel_state import StateCell, half_closeable, make_session_id, stream_lost, with_compression
from .outbox import Outbox, SupportsChunks
from .own_words import OwnWords

__all__ = ["StreamChannel", "SupportsClose"]

#: Messages decoded at a time, so that one read of tiny messages is no long stretch.
_DECODE_AT_ONCE = 1000
#: What comes from the machine and is no message.
_UNUSUAL = frozenset({Batch, MalformedMessage})


@runtime_checkable
class SupportsClose(Protocol):
    """A stream that can be closed at once, synchronously."""

    def close(self) -> None:
        """Close; wakes whoever waits in the stream with `trio.ClosedResourceError`."""


class StreamChannel(MessageChannel):
    """Messages over a stream of bytes.

    Args:
        stream: Any stream; the channel owns it from here on. Three extras are used where
            it has them: ``send_nowait(data) -> int`` (writes what fits now), ``close()``
            (synchronous) and ``best_chunk_bytes`` (for reads and writes).
        nursery: Where the writer runs while bytes wait. An idle channel has no task, so
            it never holds the nursery open.
        context: Facts about the connection.
        options: Framing, limits, timeouts.
        on_event: Told of faults that no caller sees, such as malformed messages.
        connecting: Whether only the first byte from the other side tells that somebody is
            there; until then the state is CONNECTING.
        accepted: Whether the other side has connected to this one, and so has only
            `handshake_timeout` to deliver its first message, and must begin with JSON: a
            browser that is made to send HTTP to a local port shall not get far.
        answer_malformed: Whether the other side is told what it sent wrong. A client does
            not: a server that answers in text would be asked about its answer for ever.

    Attributes:
        accept_batches: Whether arrays of messages are taken (revision 2025-03-26): their
            messages are delivered singly and the answers sent as one array.
        on_broken_answer: Called with the id and the error of a malformed answer, so that
            whoever waits for it need not wait on; a `Peer` sets it.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        nursery: trio.Nursery,
        context: ChannelContext,
        options: ChannelOptions | None = None,
        on_event: EventHandler | None = None,
        connecting: bool = False,
        accepted: bool = False,
        answer_malformed: bool = True,
    ) -> None:
        self._stream = stream
        self._nursery = nursery
        self._context = context
        self._options = options = options or ChannelOptions()
        self._on_event = on_event
        self._machine = MessageMachine(
            make_framer(options.framing, max_message_bytes=options.max_message_bytes)
        )
        self._read_bytes = READ_CHUNK_BYTES
        if isinstance(stream, SupportsChunks):
            self._read_bytes = stream.best_chunk_bytes
        self._outbox = Outbox(stream, nursery=nursery, options=options, on_failure=self._fail)
        self._own_words = OwnWords(self._outbox, self._machine.framer, self._may_speak)
        self._state = StateCell(ChannelState.CONNECTING if connecting else ChannelState.CONNECTED)
        self._answer_malformed = answer_malformed
        self.on_broken_answer: Callable[[RequestId, InvalidMessage], object] | None = None
        self._must_begin_with_json = accepted
        self._first_message_due = math.inf
        if accepted:
            self._first_message_due = trio.current_time() + options.handshake_timeout
        self._batches = BatchAnswers()
        self._inbox: deque[Message] = deque()
        self._frames: deque[bytes] = deque()
        self._input_ended = False
        self._eof_sent = False
        self._receiver_busy = False
        self._stream_closed = trio.Event()
        self._closing_in_background = False
        self._session_id: str | None = None
        self._messages_sent = 0
        self._messages_received = 0
        self._bytes_received = 0
        self._malformed = 0

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
    def stream(self) -> trio.abc.Stream:
        """The stream underneath, to look at; reading or writing it breaks the channel."""
        return self._stream

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
    def accept_batches(self) -> bool:
        """Whether arrays of messages are taken."""
        return self._machine.accept_batches

    @accept_batches.setter
    def accept_batches(self, accept: bool) -> None:
        self._machine.accept_batches = accept

    @property
    def can_send_eof(self) -> bool:
        """Whether the stream can be closed for sending alone."""
        return half_closeable(self._stream) is not None

    @property
    def capabilities(self) -> ChannelCapabilities:
        """What this channel can do."""
        framing = self._machine.framer.framing
        return ChannelCapabilities(
            max_message_bytes=self._options.max_message_bytes,
            half_close=self.can_send_eof,
            framing=None if framing == "detect" else framing,
        )

    def statistics(self) -> ChannelStatistics:
        """The counters now."""
        counted = ChannelStatistics(
            messages_sent=self._messages_sent + self._own_words.sent,
            messages_received=self._messages_received,
            bytes_sent=self._outbox.bytes_written,
            bytes_received=self._bytes_received,
            malformed_received=self._malformed,
            outbox_bytes=self._outbox.size,
            inbox_messages=len(self._inbox) + len(self._frames),
        )
        return with_compression(counted, self._stream)

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
        self._check_may_send()
        if not self._outbox.put(self._machine.send(value)):
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
            data = self._machine.send_many(values)
        await self._queue(data, len(values))

    def send_control(self, value: Message) -> None:
        """Queue a small message past a full outbox. See `MessageChannel.send_control`."""
        data = self._encode(value)
        if data:
            self._outbox.put_control(data)
        self._messages_sent += 1

    async def send_frames(self, payloads: Sequence[bytes]) -> None:
        """Queue payloads as they are, without looking inside: for byte-exact bridges.

        As `send_many` otherwise.

        Raises:
            LocalProtocolError: A payload has line feeds, is no JSON, and the framing is
                newline, so it cannot be sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_may_send()
        data = self._machine.framer.send_many(payloads)
        await self._queue(data, len(payloads))

    async def flush(self) -> None:
        """Wait until the operating system took everything that was queued."""
        await self._outbox.flush()

    async def send_eof(self) -> None:
        """Flush, then end the sending half. See `MessageChannel.send_eof`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._state.check_open()
        stream = half_closeable(self._stream)
        if stream is None:
            raise LocalProtocolError(f"{self._context.transport} cannot end one direction alone")
        await self._outbox.flush()
        while not self._outbox.is_idle:  # somebody sent before this task came to run
            await self._outbox.flush()
        if self._eof_sent:
            return
        self._eof_sent = True
        try:
            await stream.send_eof()
        except trio.Cancelled:
            self._eof_sent = False
            raise
        except trio.BrokenResourceError as error:
            cause = stream_lost(error, "while ending the sending half")
            raise self._failed(cause) from self._state.failure
        except trio.ClosedResourceError:
            self._state.check_open()
            raise

    def _encode(self, value: Message) -> bytes:
        """The bytes for one message; empty when it was kept for a batch's answer."""
        self._check_may_send()
        if self._batches:
            data = self._machine.send(value)  # one that is too large is no answer
            complete = self._batches.answer(value)
            if complete is None:
                return data
            self._own_words.answer_batch(complete)
            return b""
        return self._machine.send(value)

    def _may_speak(self) -> bool:
        return self._state.is_open and not self._eof_sent

    def _check_may_send(self) -> None:
        if not self._state.is_open:
            self._state.check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("this side has sent EOF")

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
        await self._wait_for_input(self._inbox)
        self._messages_received += 1
        return self._inbox.popleft()

    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        """Wait for the first message, return all that are here."""
        _check_count(max_messages)
        await self._wait_for_input(self._inbox)
        inbox = self._inbox
        if len(inbox) <= max_messages:
            messages = list(inbox)
            inbox.clear()
        else:
            messages = [inbox.popleft() for _ in range(max_messages)]
        self._messages_received += len(messages)
        return messages

    async def receive_frames(self, max_frames: int = 1000) -> list[bytes]:
        """Wait for the first frame; return the payloads that are here, not decoded.

        For byte-exact bridges; not to be mixed with `receive`. Raises as `receive` does.
        """
        _check_count(max_frames)
        await self._wait_for_input(self._frames)
        frames = self._frames
        count = min(len(frames), max_frames)
        self._messages_received += count
        return [frames.popleft() for _ in range(count)]

    async def _wait_for_input(self, queue: deque[Message] | deque[bytes]) -> None:
        """Return, after a checkpoint, when the queue has something; or raise why not."""
        if self._receiver_busy:
            raise trio.BusyResourceError("another task is receiving")
        self._receiver_busy = True
        try:
            if not self._state.is_open and self._state.failure is None:
                self._state.check_open()
            # What is here comes before a new read, and before a failure.
            if queue or (not self._machine.needs_data and self._take(queue)):
                await trio.lowlevel.checkpoint()
                return
            while not self._input_ended:
                data = await self._read()
                if data:
                    if not self._bytes_received:
                        self._state.move(ChannelState.CONNECTED)
                    if self._must_begin_with_json:
                        self._check_beginning(data)
                    self._bytes_received += len(data)
                    self._machine.receive_data(data)
                else:
                    self._machine.receive_eof()
                if self._take(queue):
                    self._first_message_due = math.inf
                    return
            self._state.check_open()
            await trio.lowlevel.checkpoint()
            raise trio.EndOfChannel
        except (ChannelBroken, trio.ClosedResourceError):
            # If this task was cancelled, as that which writes may have been, that comes first.
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120
            raise
        finally:
            self._receiver_busy = False

    def _check_beginning(self, data: bytes) -> None:
        """Refuse who speaks another protocol in lines: nothing of it may be heeded.

        A web page can make a browser send HTTP to a local port, with a body of its choice.
        """
        beginning = data.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not beginning:
            return
        self._must_begin_with_json = False
        starts = {"newline": b"{[", "detect": b"{[Cc"}.get(self._options.framing)
        if starts is not None and beginning[0] not in starts:
            error = RemoteProtocolError("the first bytes are no JSON: another protocol is spoken")
            self._own_words.say_why_it_ends(error)
            raise self._failed(_broke_protocol(error)) from self._state.failure

    async def _read(self) -> bytes:
        self._state.check_open()
        idle, due = self._options.idle_read_timeout, self._first_message_due
        try:
            if idle == due == math.inf:
                return bytes(await self._stream.receive_some(self._read_bytes))
            with trio.move_on_at(min(trio.current_time() + idle, due)):
                return bytes(await self._stream.receive_some(self._read_bytes))
        except trio.BrokenResourceError as error:
            raise self._failed(stream_lost(error, "while receiving")) from self._state.failure
        except trio.ClosedResourceError:
            self._state.check_open()
            raise
        if trio.current_time() < due:
            raise self._failed(IdleTimeout(f"no byte arrived for {idle:g} s"))
        limit = self._options.handshake_timeout
        raise self._failed(HandshakeTimeout(f"no message arrived within {limit:g} s"))

    def _take(self, queue: deque[Message] | deque[bytes]) -> bool:
        """Move what the machine has to the queue; whether there is something now.

        Raises:
            ChannelBroken: There is nothing, and the peer broke the framing.
        """
        while not self._input_ended:
            if queue is self._frames:
                self._frames.extend(self._machine.framer.next_payloads(_DECODE_AT_ONCE))
            else:
                events = self._machine.next_events(_DECODE_AT_ONCE)
                if self._batches or not _UNUSUAL.isdisjoint(map(type, events)):
                    for event in events:
                        self._accept(event)
                else:
                    self._inbox.extend(events)  # type: ignore[arg-type]  # all are messages
            if queue:
                return True
            # No message: all is read, or there is an end or a fault, or what was there was
            # malformed and more may follow.
            try:
                last = (
                    self._machine.framer.next_event()
                    if queue is self._frames
                    else self._machine.next_event()
                )
            except RemoteProtocolError as error:
                self._own_words.say_why_it_ends(error)
                raise self._failed(_broke_protocol(error)) from self._state.failure
            if last is NEED_DATA:
                return False
            if isinstance(last, EndOfData):
                self._input_ended = True
            elif isinstance(last, Frame):
                self._frames.append(last.payload)
            else:
                self._accept(last)
            if queue:
                return True
        return False

    def _accept(self, event: MessageEvent) -> None:
        """Queue a message; see to what is not simply one."""
        kind = type(event)
        if kind is MalformedMessage:
            assert isinstance(event, MalformedMessage)
            self._refuse(event)
        elif kind is Batch:
            assert isinstance(event, Batch)
            messages, answer = self._batches.add(event)
            self._malformed += sum(isinstance(item, Exception) for item in event.items)
            self._inbox.extend(messages)
            self._messages_sent += len(answer)
            self._own_words.answer_batch(answer)
        else:
            if self._batches and kind is Notification:
                assert isinstance(event, Notification)
                if event.method == "notifications/cancelled":
                    self._own_words.answer_batch(self._batches.cancelled(event))
            self._inbox.append(event)  # type: ignore[arg-type]  # the other kinds are done

    def _refuse(self, event: MalformedMessage) -> None:
        """Count a malformed message, report it, answer it. Never raises."""
        self._malformed += 1
        child = self._context.process_id
        of = "" if child is None else f"process {child}: "
        report(
            self._on_event,
            ChannelEvent(
                name="message.malformed",
                message=f"{of}a frame of {event.size} bytes holds no valid message: {event.error}",
                error=event.error,
                context=self._context,
            ),
        )
        error = event.error
        if error.answerable:
            if self._answer_malformed:
                self._own_words.refuse(error)
        elif error.request_id is not None and self.on_broken_answer is not None:
            self.on_broken_answer(error.request_id, error)

    # -- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Flush within `close_timeout`, then close. See `MessageChannel.aclose`."""
        if not self._state.is_open:
            try:
                await self._stream_closed.wait()
            finally:
                self._close_stream_now()  # only a cancelled wait finds it open
            return
        self._state.move(ChannelState.CLOSING)
        try:
            # It may fail meanwhile, or another task may abort it.
            with (
                trio.move_on_after(self._options.close_timeout),
                suppress(ChannelBroken, trio.ClosedResourceError),
            ):
                await self._outbox.flush()
        finally:
            self._report_unsent()
            self._outbox.close(self._state.ending)
            # In a cancelled scope a stream closes at once, and a child is given what is
            # left of the shielded time.
            try:
                await self._stream.aclose()
            finally:
                self._state.move(ChannelState.CLOSED)
                self._stream_closed.set()

    def abort(self, cause: ChannelBroken | None = None) -> None:
        """Close at once, without flushing. See `MessageChannel.abort`."""
        if cause is not None:
            self._fail(cause)
            return
        self._state.move(ChannelState.CLOSED)
        self._outbox.close(self._state.ending)
        self._close_stream_now()

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
        if self._state.fail(cause):
            self._outbox.close(self._state.ending)
            self._close_stream_now()

    def _close_stream_now(self) -> None:
        """Close the stream without waiting; idempotent."""
        if self._stream_closed.is_set() or self._closing_in_background:
            return
        if isinstance(self._stream, SupportsClose):
            self._stream.close()
            self._stream_closed.set()
            return
        self._closing_in_background = True
        try:
            self._nursery.start_soon(self._close_in_background)
        except RuntimeError:  # the nursery has ended, the loop has not
            trio.lowlevel.spawn_system_task(self._close_in_background)

    async def _close_in_background(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)
        self._stream_closed.set()

    def _failed(self, cause: ChannelBroken) -> Exception:
        """Fail, unless the channel has ended before; the exception that tells of its end."""
        self._fail(cause)
        return self._state.ending()


def _broke_protocol(error: RemoteProtocolError) -> PeerProtocolError:
    """The cause to record when the other side broke the framing."""
    cause = PeerProtocolError(str(error))
    cause.error = error
    cause.__cause__ = error
    return cause


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"at least 1 must be asked for, not {count}")
