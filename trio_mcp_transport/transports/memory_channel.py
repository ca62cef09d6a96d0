"""A pair of channels inside one process: messages go over by reference, nothing is encoded.

Made by `memory_channel_pair` and by the hub in `memory`. For tests, demos, and a client and
server in one program. Behaves as a channel over a socket does, with what follows from
having no bytes: queues are bounded in messages, not in bytes, and no message is too large.

Theory of operation: each direction is a `_Lane` that both sides hold. Everything changes
synchronously, so each state is seen whole or not at all. Senders that find their lane
full stand in line with their messages; whoever makes room queues for them, in order, and
wakes them. So nothing overtakes, and a sender that is cancelled has queued nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import outcome
import trio

from ..abc import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelState,
    ChannelStatistics,
    ConnectionLost,
    IdleTimeout,
    MessageChannel,
    OutboxOverflow,
    WriteTimeout,
)
from ..jsonrpc import ErrorResponse, Message, Notification, Request, Response
from ..limits import ChannelOptions
from .channel_state import StateCell, make_session_id

__all__ = ["DEFAULT_MAX_MESSAGES", "MemoryChannel", "memory_channel_pair"]

#: Messages that may wait in each direction.
DEFAULT_MAX_MESSAGES = 64
#: Control messages that may wait on top of them; as many as a control lane in bytes holds
#: of small ones.
_CONTROL_MESSAGES = 1000

_KINDS = (Request, Notification, Response, ErrorResponse)


class _Ticket:
    """A sender's place in line; without messages, that of somebody who flushes."""

    __slots__ = ("messages", "scope", "task")

    def __init__(self, task: trio.lowlevel.Task, messages: Sequence[Message]) -> None:
        self.task = task
        self.messages = messages
        self.scope = trio.CancelScope()


class _Lane:
    """One direction. All synchronous; the channels wait."""

    __slots__ = (
        "_control",
        "abandoned",
        "discarded",
        "ended",
        "limit",
        "line",
        "lost",
        "queue",
        "receiver",
        "sent",
        "taken",
        "write_timeout",
    )

    def __init__(self, limit: int, write_timeout: float) -> None:
        self.limit = limit
        self.write_timeout = write_timeout
        self.queue: deque[Message] = deque()
        self.line: deque[_Ticket] = deque()
        self.receiver: trio.lowlevel.Task | None = None
        self.ended = False  # the sender has said its last
        self.lost = False  # the sender broke off
        self.abandoned = False  # the receiver takes no more
        self.discarded = False  # and left messages behind
        self.sent = 0
        self.taken = 0
        self._control: deque[int] = deque()  # which messages, counted as `sent` does

    def has_room(self, count: int) -> bool:
        """Whether so many may be queued now: they fit, or the queue is empty."""
        return not self.line and self._fits(count)

    def _fits(self, count: int) -> bool:
        waiting = len(self.queue) - len(self._control)
        return not count or not waiting or waiting + count <= self.limit

    def put(self, messages: Sequence[Message]) -> None:
        self.queue.extend(messages)
        self.sent += len(messages)
        self.wake_receiver()

    def put_control(self, message: Message) -> bool:
        """Queue past the limit, in order; False if too many of these wait already."""
        if len(self._control) >= _CONTROL_MESSAGES:
            return False
        self._control.append(self.sent)
        self.put([message])
        return True

    def take(self, max_messages: int) -> list[Message]:
        count = min(max_messages, len(self.queue))
        messages = [self.queue.popleft() for _ in range(count)]
        self.taken += count
        while self._control and self._control[0] < self.taken:
            self._control.popleft()
        self.serve_line()
        return messages

    def serve_line(self) -> None:
        """Queue for those first in line, as far as there is room, and wake them."""
        while self.line and self._fits(len(self.line[0].messages)):
            ticket = self.line.popleft()
            self.put(ticket.messages)
            trio.lowlevel.reschedule(ticket.task)
        self.arm()

    def arm(self) -> None:
        """Time how long the first in line waits, from now on: something was just taken."""
        if self.line:
            self.line[0].scope.deadline = trio.current_time() + self.write_timeout

    def leave(self, ticket: _Ticket) -> None:
        was_first = self.line[0] is ticket
        self.line.remove(ticket)
        if was_first:
            self.serve_line()

    def wake_receiver(self) -> None:
        if self.receiver is not None:
            trio.lowlevel.reschedule(self.receiver)
            self.receiver = None


class MemoryChannel(MessageChannel):
    """One side of a pair; `memory_channel_pair` makes both.

    Messages are frozen and passed as they are: what the receiver gets is the sender's
    object. A `params` that is a dict is shared, so nobody should change it afterwards.

    * ``max_messages`` bounds what waits in each direction, in place of `outbox_bytes`;
      a `send_many` of more is admitted when nothing waits. Control messages are bounded on
      their own, and keep their place in the order.
    * Of the options, `max_message_bytes`, `framing` and `close_timeout` mean nothing here.
      `write_timeout` runs while a sender waits for room and the other side takes nothing.
    * There is no operating system that takes messages: `flush` waits for senders that
      stand in line, not for the other side to receive.
    * When the other side closes, what it sent is still received, then `EndOfChannel`; when
      it aborts or fails, then `ConnectionLost`. Sending to it is `ConnectionLost`.
    """

    def __init__(
        self, inbox: _Lane, outbox: _Lane, context: ChannelContext, options: ChannelOptions
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._context = context
        self._options = options
        self._state = StateCell()
        self._session_id = make_session_id("memory")
        self._receiving = False
        self._peer: MemoryChannel = self  # until `_make_pair` joins them

    def __repr__(self) -> str:
        return f"<MemoryChannel {self._session_id} {self.state.value}>"

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
        """``memory-`` and randomness."""
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
        """Whether sending may still succeed: both sides are there."""
        return self._state.is_open and not self._outbox.abandoned

    @property
    def capabilities(self) -> ChannelCapabilities:
        """Messages of any size, half-close, no wire."""
        return ChannelCapabilities(max_message_bytes=None, half_close=True, framing=None)

    @property
    def can_send_eof(self) -> bool:
        """Always."""
        return True

    async def wait_state(self, *states: ChannelState) -> ChannelState:
        """Wait until the channel is in one of the states; return which."""
        return await self._state.wait(states)

    def statistics(self) -> ChannelStatistics:
        """The counters now. Bytes are always 0: there are none."""
        return ChannelStatistics(
            messages_sent=self._outbox.sent,
            messages_received=self._inbox.taken,
            bytes_sent=0,
            bytes_received=0,
            malformed_received=0,
            outbox_bytes=0,
            inbox_messages=len(self._inbox.queue),
        )

    # -- sending ------------------------------------------------------------------------

    async def send(self, value: Message) -> None:
        """Queue one message. See `MessageChannel.send`."""
        await self._send((value,))

    def try_send(self, value: Message) -> bool:
        """Queue one message if there is room. See `MessageChannel.try_send`."""
        _check_types((value,))
        self._check_may_send()
        if not self._outbox.has_room(1):
            return False
        self._outbox.put((value,))
        return True

    async def send_many(self, values: Sequence[Message]) -> None:
        """Queue several messages, all or none. See `MessageChannel.send_many`."""
        await self._send(tuple(values))

    async def _send(self, messages: tuple[Message, ...]) -> None:
        _check_types(messages)
        self._check_may_send()
        await trio.lowlevel.checkpoint_if_cancelled()
        lane = self._outbox
        if lane.has_room(len(messages)):
            lane.put(messages)
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif self._options.when_full == "close":
            raise self._failed(
                OutboxOverflow(
                    f"the outbox is full ({len(lane.queue)} messages wait)"
                    " and its policy is to close"
                )
            )
        else:
            await self._stand_in_line(messages)

    def send_control(self, value: Message) -> None:
        """Queue past a full outbox. See `MessageChannel.send_control`."""
        _check_types((value,))
        self._check_may_send()
        if not self._outbox.put_control(value):
            raise self._failed(
                OutboxOverflow(
                    f"the control lane is full ({_CONTROL_MESSAGES} messages wait):"
                    " the peer does not read"
                )
            )

    async def flush(self) -> None:
        """Wait until nobody stands in line any more; what is queued, the peer can receive.

        Raises:
            ChannelBroken: The channel failed, or the peer left without receiving all.
            trio.ClosedResourceError: This side closed the channel.
        """
        self._state.check_open()
        if self._outbox.discarded:
            raise self._failed(_peer_closed())
        if self._outbox.line:
            await self._stand_in_line(())
        else:
            await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Flush, then end the sending half. See `MessageChannel.send_eof`."""
        await self.flush()
        self._outbox.ended = True
        self._outbox.wake_receiver()

    def _check_may_send(self) -> None:
        self._state.check_open()
        if self._outbox.ended:
            raise trio.ClosedResourceError("this side has sent EOF")
        if self._outbox.abandoned:
            raise self._failed(_peer_closed())

    async def _stand_in_line(self, messages: tuple[Message, ...]) -> None:
        lane = self._outbox
        ticket = _Ticket(trio.lowlevel.current_task(), messages)
        lane.line.append(ticket)
        if len(lane.line) == 1:
            lane.arm()

        def give_up(_: object) -> trio.lowlevel.Abort:
            lane.leave(ticket)
            return trio.lowlevel.Abort.SUCCEEDED

        with ticket.scope:
            await trio.lowlevel.wait_task_rescheduled(give_up)
        if ticket.scope.cancelled_caught:
            raise self._failed(
                WriteTimeout(f"the peer took no message in {self._options.write_timeout:g} s")
            )

    # -- receiving ----------------------------------------------------------------------

    async def receive(self) -> Message:
        """Wait for one message. See `MessageChannel.receive`."""
        return (await self.receive_many(1))[0]

    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        """Wait for the first message, return all that are here."""
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if not self._has_input():
                while not self._has_input():
                    await self._wait_for_input()
                return self._inbox.take(max_messages)
            messages = self._inbox.take(max_messages)
            await trio.lowlevel.cancel_shielded_checkpoint()
        except trio.EndOfChannel:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        finally:
            self._receiving = False
        return messages

    def _has_input(self) -> bool:
        """Whether there is a message; or raise why there will be none."""
        if self._state.failure is None:
            self._state.check_open()
        if self._inbox.queue:
            return True
        if self._inbox.ended and not self._inbox.lost:
            raise trio.EndOfChannel("the other side sends no more")
        self._state.check_open()
        return False

    async def _wait_for_input(self) -> None:
        inbox, idle = self._inbox, self._options.idle_read_timeout
        inbox.receiver = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            inbox.receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.CancelScope(deadline=trio.current_time() + idle) as scope:
            await trio.lowlevel.wait_task_rescheduled(give_up)
        if scope.cancelled_caught:
            raise self._failed(IdleTimeout(f"no message arrived for {idle:g} s"))

    # -- the end ------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close: the peer receives what was sent, then the end. See `MessageChannel.aclose`."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self.abort()
            raise
        if not self._state.is_final:
            self._state.move(ChannelState.CLOSED)
            self._leave(lost=False)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def abort(self, cause: ChannelBroken | None = None) -> None:
        """Close at once. See `MessageChannel.abort`."""
        if cause is not None:
            self._fail(cause)
        elif not self._state.is_final:
            self._state.move(ChannelState.CLOSED)
            self._leave(lost=True)

    def _failed(self, cause: ChannelBroken) -> ChannelBroken:
        """Fail with the cause, if it is the first; returns the exception to raise."""
        self._fail(cause)
        return (self._state.failure or cause).again()

    def _fail(self, cause: ChannelBroken) -> None:
        if self._state.fail(cause):
            self._leave(lost=True)

    def _leave(self, *, lost: bool) -> None:
        """Wake whoever waits here, and let the other side know."""
        outbox, inbox, peer = self._outbox, self._inbox, self._peer
        waiting, outbox.line = outbox.line, deque()
        for ticket in waiting:
            trio.lowlevel.reschedule(ticket.task, outcome.capture(self._state.check_open))
        inbox.wake_receiver()
        if not outbox.ended:
            outbox.ended, outbox.lost = True, lost
        outbox.wake_receiver()
        inbox.abandoned = True
        inbox.discarded = bool(inbox.queue)
        if self._state.failure is None:
            inbox.queue.clear()
        # A peer that was left properly notices when it receives or sends; one that was
        # broken off, or whose sender waits for room that will never come, at once.
        if lost:
            peer._fail(ConnectionLost("the other side broke the channel off"))
        elif inbox.line:
            peer._fail(_peer_closed())


def memory_channel_pair(
    options: ChannelOptions = ChannelOptions(),  # ruff: ignore[function-call-in-default-argument] - frozen
    *,
    max_messages: int = DEFAULT_MAX_MESSAGES,
) -> tuple[MemoryChannel, MemoryChannel]:
    """Two channels that are connected to each other, inside one `trio.run`.

    They need no nursery, as nothing runs in the background.

    Args:
        options: Of both.
        max_messages: How many may wait in each direction before a sender does.

    Raises:
        ValueError: `max_messages` is less than 1.
    """
    context = ChannelContext(transport="memory")
    return make_pair((context, options, max_messages), (context, options, max_messages))


_Side = tuple[ChannelContext, ChannelOptions, int]


def make_pair(left: _Side, right: _Side) -> tuple[MemoryChannel, MemoryChannel]:
    """Join two sides, each with its own context, options and bound of what it sends."""
    lanes: list[_Lane] = []
    for _, options, max_messages in (left, right):
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        lanes.append(_Lane(max_messages, options.write_timeout))
    one = MemoryChannel(lanes[1], lanes[0], left[0], left[1])
    other = MemoryChannel(lanes[0], lanes[1], right[0], right[1])
    one._peer, other._peer = other, one
    return one, other


def _peer_closed() -> ConnectionLost:
    return ConnectionLost("the other side closed the channel")


def _check_types(messages: Sequence[object]) -> None:
    """Refuse here what an encoder would refuse on a stream."""
    for message in messages:
        if not isinstance(message, _KINDS):
            raise TypeError(f"not a message: {type(message).__name__}")
