"""What all channels that an HTTP server makes have in common: the inbox and the state.

`http_exchange` and `http_session` derive theirs from `HttpServerChannel`. Messages come
in by `deliver`, from whichever task read them off a request, and go out through an
`Outflow`. A channel holds no socket: requests come to it, and it may outlive them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

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
    MessageChannel,
    OutboxOverflow,
)
from ..errors import LocalProtocolError, MessageTooLarge
from ..jsonrpc import Message, encode_message
from ..limits import CONTROL_LANE_BYTES, ChannelOptions
from ..reporting import report
from ..sansio.mcp_http.streams import NOTHING, Step
from .channel_state import StateCell, make_session_id
from .http_outflow import AsyncAct, Outflow

if TYPE_CHECKING:
    from .http_request import HttpRequestStream

__all__ = ["Encoded", "HttpServerChannel"]

#: A message and its JSON.
Encoded = tuple[Message, bytes]


def _say_nothing() -> Step:
    return NOTHING


class HttpServerChannel(MessageChannel):
    """A channel that requests bring messages to.

    Args:
        context: Facts about the request that it came into being with.
        options: Limits. The handshake and idle timeouts mean nothing here: requests come
            whole, and have deadlines of their own.
        outflow: Where what is said goes.
        on_event: Told of faults that no caller sees.

    Attributes:
        outflow: See above.
    """

    def __init__(
        self,
        context: ChannelContext,
        options: ChannelOptions,
        outflow: Outflow,
        on_event: EventHandler | None,
    ) -> None:
        self._context = context
        self._options = options
        self.outflow = outflow
        outflow.on_failure = self._outflow_failed
        self._on_event = on_event
        self._state = StateCell()
        self._inbox: deque[tuple[Message, int]] = deque()  # each with its bytes
        self._inbox_size = 0
        self._input_ended = False
        self._receiver: trio.lowlevel.Task | None = None
        self._receiver_busy = False
        self._end_told = False
        self._just_begun = context.exchange
        self._deliver_to: Callable[[Message], object] | None = None
        self._ended_to: Callable[[Exception], object] | None = None
        self._session_id: str | None = None
        self._messages_sent = self._messages_received = 0
        self._bytes_sent = self._bytes_received = 0
        self._control_size = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} {self.state.value}>"

    # -- for whoever derives ------------------------------------------------------------

    @abstractmethod
    def _say(self, messages: Sequence[Encoded]) -> Step:
        """The next step of the stream's writer."""

    def _say_whole(self, message: Message, data: bytes) -> bool:
        """Say a message right away, if it makes a whole response and there is room for it.

        Returns:
            False if it does not, and nothing was done: go on with `_say`, in its turn.
        """
        return False

    @abstractmethod
    def _conclude(self, *, graceful: bool) -> None:
        """Called once, synchronously, when the channel is closed.

        Args:
            graceful: Whether something can still be said.
        """

    @abstractmethod
    def connection_lost(self) -> None:
        """The connection that carries what is said is gone."""

    def _check_message(self, value: Message) -> None:
        """Refuse what cannot be said here, before anything is done.

        Raises:
            LocalProtocolError: It cannot.
        """

    # -- the connection that carries what is said ---------------------------------------

    def take_over(self, carrier: HttpRequestStream) -> None:
        """Let a connection carry what is said from now on; one before it ends."""
        self.leave()
        self.outflow.carrier = carrier
        carrier.on_gone = self.connection_lost
        if carrier.gone:
            self.connection_lost()

    def leave(self) -> None:
        """The connection that carries what is said ends, though not all was said."""
        carrier, self.outflow.carrier = self.outflow.carrier, None
        if carrier is not None:
            carrier.on_gone = None
            # Whoever still listens there shall not take it for the whole.
            carrier.abort()

    def resume(self, act: AsyncAct, on_dropped: Callable[[], object]) -> None:
        """Do something in its turn among what is said, such as a `take_over`.

        Args:
            act: What to do.
            on_dropped: Called if the channel ends before that.
        """
        self.outflow.put_async(act, on_dropped)

    # -- facts --------------------------------------------------------------------------

    @property
    def context(self) -> ChannelContext:
        """Facts about the request that the channel came into being with."""
        return self._context

    @property
    def options(self) -> ChannelOptions:
        """The limits and timeouts that this channel was built with."""
        return self._options

    @property
    def session_id(self) -> str:
        """The transport's name and randomness, for logs; never the session's id itself."""
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
        """Whether sending may still succeed."""
        return self._state.is_open

    @property
    def capabilities(self) -> ChannelCapabilities:
        """Messages up to a size; no half-close and no framing of its own."""
        return ChannelCapabilities(
            max_message_bytes=self._options.max_message_bytes,
            half_close=self.can_send_eof,
            framing=None,
        )

    @property
    def can_send_eof(self) -> bool:
        """Never: the end of what is said here is the end of the channel."""
        return False

    @property
    def bytes_received(self) -> int:
        """Bytes of what was delivered, which is what came after a POST's own body."""
        return self._bytes_received

    async def wait_state(self, *states: ChannelState) -> ChannelState:
        """Wait until the channel is in one of the states; return which."""
        return await self._state.wait(states)

    def statistics(self) -> ChannelStatistics:
        """The counters now. Bytes are those of the messages."""
        return ChannelStatistics(
            messages_sent=self._messages_sent,
            messages_received=self._messages_received,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            malformed_received=0,
            outbox_bytes=self.outflow.backlog,
            inbox_messages=len(self._inbox),
        )

    # -- sending ------------------------------------------------------------------------

    async def send(self, value: Message) -> None:
        """Queue one message. See `MessageChannel.send`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        message = self._encode(value)
        if self._say_whole(*message):
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._send((message,))

    async def send_many(self, values: Sequence[Message]) -> None:
        """Queue several messages, all or none. See `MessageChannel.send_many`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_may_send()
        await self._send([self._encode(value) for value in values])

    def try_send(self, value: Message) -> bool:
        """Queue one message if there is room. See `MessageChannel.try_send`."""
        encoded = self._encode(value)
        if self._say_whole(*encoded):
            return True
        size = len(encoded[1])
        if not self.outflow.has_room(size):
            return False
        self.put((encoded,), size)
        return True

    def send_control(self, value: Message) -> None:
        """Queue a small message past a full outbox. See `MessageChannel.send_control`."""
        encoded = self._encode(value)
        if self._say_whole(*encoded):
            return
        size = len(encoded[1])
        outflow = self.outflow
        if not outflow.has_room(size):
            if self._control_size and self._control_size + size > CONTROL_LANE_BYTES:
                raise self._failed(
                    OutboxOverflow(
                        f"the control lane is full ({self._control_size} bytes wait):"
                        " the peer does not read"
                    )
                )
            self._control_size += size
        else:
            self._control_size = 0
        self.put((encoded,), size)

    async def flush(self) -> None:
        """Wait until everything queued was taken by the operating system.

        Where no connection carries the stream at the moment, it is what the event store has
        that counts.
        """
        self._state.check_open()
        await self.outflow.flush()
        self._state.check_open()

    async def send_eof(self) -> None:
        """Not possible here.

        Raises:
            LocalProtocolError: Always.
        """
        await trio.lowlevel.checkpoint()
        self._state.check_open()
        raise LocalProtocolError("HTTP cannot end one direction of an exchange alone")

    def _check_may_send(self) -> None:
        if not self._state.is_open:
            self._state.check_open()

    def _encode(self, value: Message) -> Encoded:
        if not self._state.is_open:
            self._state.check_open()
        self._check_message(value)
        data = encode_message(value)
        if len(data) > self._options.max_message_bytes:
            raise MessageTooLarge(len(data), self._options.max_message_bytes)
        return value, data

    async def _send(self, messages: Sequence[Encoded]) -> None:
        size = sum(len(data) for _, data in messages)
        outflow = self.outflow
        if outflow.has_room(size):
            self.put(messages, size)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if self._options.when_full == "close":
            raise self._failed(
                OutboxOverflow(
                    f"the outbox is full ({outflow.backlog} bytes wait) and its policy is to close"
                )
            )
        await outflow.wait_and_put(partial(self._say, messages), size)
        self._count(len(messages), size)

    async def wait_for_room(self, size: int) -> None:
        """Wait in line until so many bytes could be said, if only for an instant."""
        await self.outflow.wait_and_put(_say_nothing, size)

    def put(self, messages: Sequence[Encoded], size: int) -> None:
        """Say messages whose JSON is there, whether there is room or not."""
        self._count(len(messages), size)
        self.outflow.put(partial(self._say, messages), size)

    def _count(self, messages: int, size: int) -> None:
        self._messages_sent += messages
        self._bytes_sent += size

    # -- receiving ----------------------------------------------------------------------

    def deliver(self, message: Message, size: int) -> bool:
        """Take a message in; False if the channel has ended or holds too much already."""
        if not self._state.is_open or self._input_ended:
            return False
        self._bytes_received += size
        if self._deliver_to is not None:
            self._messages_received += 1
            self._deliver_to(message)
            return True
        if not self.has_inbox_room(size):
            self._bytes_received -= size
            return False
        self._take_in(message, size)
        return True

    def _take_in(self, message: Message, size: int) -> None:
        self._inbox.append((message, size))
        self._inbox_size += size
        self._wake_receiver()

    def has_inbox_room(self, size: int) -> bool:
        """Whether a message of so many bytes may come in: it fits, or nothing waits."""
        # Nobody can tell how much of it is raw, so what was received is what counts.
        limit = self._options.inbox_bytes
        # What is counted as nothing (the rest of a batch) has come in with what was counted.
        return not self._inbox_size or not size or self._inbox_size + size <= limit

    def end_input(self) -> None:
        """Nothing more will be delivered."""
        self._input_ended = True
        self._wake_receiver()

    def push_to(
        self, deliver: Callable[[Message], object], ended: Callable[[Exception], object]
    ) -> trio.Nursery | None:
        """Hand messages over from now on. See `MessageChannel.push_to`."""
        if self._receiver_busy or self._deliver_to is not None:
            raise trio.BusyResourceError("another task is receiving")
        self._deliver_to, self._ended_to = deliver, ended
        for _ in range(len(self._inbox)):
            deliver(self._take_first())
        if self._input_ended or not self._state.is_open:
            self._wake_receiver()
        return self.outflow.nursery

    def _wake_receiver(self) -> None:
        if self._ended_to is not None and (self._input_ended or not self._state.is_open):
            ended, self._ended_to = self._ended_to, None
            ended(trio.EndOfChannel() if self._state.is_open else self._state.ending())
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    async def receive(self) -> Message:
        """Wait for one message. See `MessageChannel.receive`.

        It is a checkpoint, but for two cases in which other tasks need not have had their
        turn, since there is a channel for each request. If the first call on an exchange finds
        a message, its task has only just begun; and the first time that the end is told, it is
        nearly done.
        """
        if self._receiver_busy or self._deliver_to is not None:
            raise trio.BusyResourceError("another task is receiving")
        self._receiver_busy = True
        just_begun, self._just_begun = self._just_begun, False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._has_input():
                message = self._take_first()
                if not just_begun:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return message
            while not self._has_input():
                await self._park()
            return self._take_first()
        except trio.EndOfChannel:
            if self._end_told:
                await trio.lowlevel.cancel_shielded_checkpoint()
            self._end_told = True
            raise
        finally:
            self._receiver_busy = False

    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        """Wait for the first message, return all that are here."""
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        messages = [await self.receive()]
        while self._inbox and len(messages) < max_messages:
            messages.append(self._take_first())
        return messages

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def _has_input(self) -> bool:
        """Whether there is a message; or raise why there will be none."""
        if self._state.failure is None:
            self._state.check_open()
        if self._inbox:
            return True
        self._state.check_open()
        if self._input_ended:
            raise trio.EndOfChannel
        return False

    def _take_first(self) -> Message:
        message, size = self._inbox.popleft()
        self._inbox_size -= size
        self._messages_received += 1
        return message

    async def _park(self) -> None:
        self._receiver = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    # -- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Say what is left to say, within `close_timeout`, then close.

        See `MessageChannel.aclose`.
        """
        if not self._state.is_open:
            await trio.lowlevel.checkpoint()
            return
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self.abort()
            raise
        self._state.move(ChannelState.CLOSING)
        self._wake_receiver()
        self._conclude(graceful=True)
        try:
            with (
                trio.move_on_after(self._options.close_timeout),
                suppress(trio.BrokenResourceError),
            ):
                await self.outflow.flush()
        finally:
            self.outflow.close(self._state.ending)
            self._state.move(ChannelState.CLOSED)

    def abort(self, cause: ChannelBroken | None = None) -> None:
        """Close at once, without flushing. See `MessageChannel.abort`."""
        if cause is not None:
            self._fail(cause)
        elif not self._state.is_final:
            was_open = self._state.is_open
            self._state.move(ChannelState.CLOSED)
            self._ended(conclude=was_open)

    def _fail(self, cause: ChannelBroken) -> None:
        """Record the first cause and wake everybody."""
        was_open = self._state.is_open
        if self._state.fail(cause):
            self._ended(conclude=was_open)

    def _failed(self, cause: ChannelBroken) -> Exception:
        self._fail(cause)
        return self._state.ending()

    def _ended(self, *, conclude: bool) -> None:
        self.outflow.close(self._state.ending)
        self._wake_receiver()
        if conclude:
            self._conclude(graceful=False)

    def _outflow_failed(self, error: Exception) -> None:
        """The event store could not take what was said."""
        cause = ConnectionLost(f"what was said could not be kept: {error}".rstrip(": "))
        cause.__cause__ = error
        self._report("store.failed", str(cause), error)
        self._fail(cause)

    def _report(self, name: str, message: str, error: BaseException | None = None) -> None:
        report(
            self._on_event,
            ChannelEvent(name=name, message=message, error=error, context=self._context),
        )
