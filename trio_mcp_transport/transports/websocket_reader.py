"""The task that reads a WebSocket: messages to the inbox, everything else it sees to.

Made and run by `WebSocketChannel`, one for each. Theory of operation:

* What has come is taken out of the machine in small lots. Pings and closes are answered as
  they are seen, through the outbox, so also while the application is slow; messages are put
  into the inbox, and where that is full, reading stops: up to its bound the peer's control
  frames are seen, beyond it the peer has to wait as on any stream.
* All waiting is inside of one cancel scope, whose deadline is the earliest of this connection's
  timers. It never strikes while messages wait for the inbox, so nothing is lost by it.
* The end is the task's as well: it says the last words, lets the other side hear them, and
  closes the stream, whatever ended it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import msgspec
import trio

from ..abc import (
    ChannelBroken,
    ClosedByPeer,
    ConnectionLost,
    HandshakeTimeout,
    IdleTimeout,
    PeerProtocolError,
    PongTimeout,
)
from ..errors import LocalProtocolError, RemoteProtocolError
from ..limits import (
    READ_CHUNK_BYTES,
    WEBSOCKET_PING_INTERVAL,
    WEBSOCKET_PONG_TIMEOUT,
    ChannelOptions,
)
from ..sansio.machine import NEED_DATA, Side
from ..sansio.websocket import (
    BinaryMessage,
    Close,
    CloseCode,
    CloseReceived,
    Ping,
    Pong,
    TextMessage,
    WebSocketMachine,
)
from .channel_state import stream_lost
from .inbox import Inbox, Sized
from .outbox import Outbox, SupportsSendNowait
from .stream_channel import SupportsClose
from .websocket_keepalive import GONE, Arrivals, KeepAlive

__all__ = ["WebSocketReader", "WebSocketTiming"]

#: Bytes of messages that are taken out of the machine at a time: an inflated lot may be much
#: more than was read.
_TAKE_AT_ONCE = 64 * 1024
#: Close codes that tell of an end and not of a fault; a Close frame without a code is one.
_CLEAN = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS})
#: How long, and how much, a peer that was told off may go on sending: bytes that nobody reads
#: make the operating system reset the connection, which may destroy the last words.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1024 * 1024
#: How long a client waits for the server to end the connection first (RFC 6455, section 7.1.1).
_END_SECONDS = 1.0

_Ending: TypeAlias = CloseReceived | BinaryMessage | RemoteProtocolError


class WebSocketTiming(msgspec.Struct, frozen=True, kw_only=True):
    """When a connection is looked after. Seconds; `math.inf` switches off.

    Attributes:
        ping_interval: Between pings.
        pong_timeout: In which each ping must be answered.
        accepted: Whether the other side connected to this one, and so has only
            `ChannelOptions.handshake_timeout` to deliver its first message.
    """

    ping_interval: float = WEBSOCKET_PING_INTERVAL
    pong_timeout: float = WEBSOCKET_PONG_TIMEOUT
    accepted: bool = False


class WebSocketReader:
    """The receiving half of one connection, and its end.

    Args:
        stream: Read and, in the end, closed.
        machine: What the bytes mean.
        inbox: Where messages go.
        outbox: Where what is to be said goes.
        nursery: Where it runs.
        options: Timeouts.
        timing: More of them.
        decode: Makes messages of texts.
        fail: Records the first cause of a failure; calls `stop`.
        abort: Closes the channel at once; calls `stop`.
        is_closing: Whether this side is closing, so that no end is a failure any more.

    Attributes:
        done: Set when the stream is closed and the task has nothing more to do.
        bytes_received: Bytes that came.
        close_received: The peer's last word, once it has come.
        ended: Whether the peer ended the conversation properly, and all before it is in the
            inbox.
        is_leaving: Whether it lets out what is queued, this side's Close behind it, and then
            ends by itself.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        machine: WebSocketMachine,
        inbox: Inbox,
        outbox: Outbox,
        *,
        nursery: trio.Nursery,
        options: ChannelOptions,
        timing: WebSocketTiming,
        decode: Callable[[Sequence[bytes]], list[Sized]],
        fail: Callable[[ChannelBroken], object],
        abort: Callable[[], object],
        is_closing: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._machine = machine
        self._inbox = inbox
        self._outbox = outbox
        self._nursery = nursery
        self._options = options
        self._decode = decode
        self._fail = fail
        self._abort = abort
        self._is_closing = is_closing
        now = trio.current_time()
        self._keep_alive = KeepAlive(
            timing.ping_interval, timing.pong_timeout, now, secrets.token_bytes
        )
        self._pong_timeout = timing.pong_timeout
        self._lot = min(_TAKE_AT_ONCE, options.inbox_bytes)
        self._ping_end = 0  # where the last ping ends among the bytes that are written
        self._first_message_due = now + options.handshake_timeout if timing.accepted else math.inf
        self._idle_due = math.inf
        self._scope = trio.CancelScope()
        self._pending: list[Sized] = []
        self._ending: _Ending | None = None
        self._blocked = False
        self._messages = 0
        self._at_boundary = 0  # bytes that had come when nothing was half here
        self._stopped = False
        self._lingers = False
        self._answer_waits = False
        self.done = trio.Event()
        self.bytes_received = 0
        self.close_received: CloseReceived | None = None
        self.ended = False
        self.is_leaving = False

    # -- the task -----------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the end, then close. Raises nothing but `Cancelled` and the like."""
        cause: ChannelBroken | None = None
        try:
            while self._ending is None and not self._stopped and not self._lingers:
                with trio.CancelScope(deadline=self._due()) as self._scope:
                    await self._read_on()
                if self._scope.cancelled_caught and not self._stopped:
                    self._look()
            if not self._stopped:
                if self._ending is not None:
                    await self._end()
                elif self._machine.sending is not Side.OPEN:  # the Close was said
                    await self._linger()
        except Exception as error:  # any stream's own exceptions end in the recorded cause
            if not self._stopped and not self._is_closing():
                cause = stream_lost(error, "while receiving")
        except trio.Cancelled:
            self._abort()  # whoever cancelled the nursery has given the channel up
            raise
        except BaseException as error:
            lost = ConnectionLost("the task that reads was ended")
            lost.__cause__ = error
            self._fail(lost)
            raise
        finally:
            try:
                if cause is not None:
                    self._fail(cause)
            finally:
                # It knows this frame by its traceback.
                cause = None
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(self._stream)
                self.done.set()

    def stop(self) -> None:
        """Close the stream now; the task ends by itself. Idempotent, synchronous."""
        self._stopped = True
        if isinstance(self._stream, SupportsClose):
            self._stream.close()
        self._scope.cancel()

    def give_up(self) -> None:
        """This task cannot go on; a `fail` that follows does not stop it from lingering."""
        self._lingers = True

    def stop_unless_lingering(self) -> None:
        """`stop`, but for a peer that shall hear why."""
        if not self._lingers:
            self.stop()

    def watch_idle(self, seconds: float) -> None:
        """A receive waits from now on: so long may nothing come. `math.inf` when it is over."""
        self._idle_due = trio.current_time() + seconds
        if self._ending is None:
            self._scope.deadline = self._due()

    def _due(self) -> float:
        if self._is_closing() or self._blocked:
            return math.inf
        return min(self._keep_alive.due, self._first_message_due, self._idle_due)

    def _look(self) -> None:
        """A timer is due, or was when it was set."""
        if self._is_closing():
            return
        now, options = trio.current_time(), self._options
        if now >= self._first_message_due:
            limit = options.handshake_timeout
            self._fail(HandshakeTimeout(f"no message arrived within {limit:g} s"))
        elif now >= self._idle_due:
            self._fail(IdleTimeout(f"no byte arrived for {options.idle_read_timeout:g} s"))
        else:
            arrivals = Arrivals(
                self.bytes_received, self._messages, self.bytes_received > self._at_boundary
            )
            taken = self._outbox.bytes_written >= self._ping_end
            verdict = self._keep_alive.look(now, arrivals, ping_taken=taken)
            if verdict is GONE:
                self._fail(PongTimeout(f"no answer to a ping within {self._pong_timeout:g} s"))
            elif verdict:
                self._speak(self._machine.send(Ping(verdict)))
                self._ping_end = self._outbox.bytes_written + self._outbox.size

    # -- reading ------------------------------------------------------------------------

    async def _read_on(self) -> None:
        while True:
            if self._pending:
                if self._inbox.try_put(self._pending):
                    self._pending = []
                else:
                    await self._put_pending()
            if self._ending is not None or self._stopped or self._lingers:
                return
            if not self._machine.needs_data:
                self._take_events()
                if self._pending or self._ending is not None:
                    continue
            data = bytes(await self._stream.receive_some(READ_CHUNK_BYTES))
            if data:
                self.bytes_received += len(data)
                if self._idle_due != math.inf:
                    self.watch_idle(self._options.idle_read_timeout)
                self._machine.receive_data(data)
            else:
                self._machine.receive_eof()

    def _take_events(self) -> None:
        """Take some of what is in the machine: messages, or what ends it all."""
        machine = self._machine
        texts: list[bytes] = []
        size = 0
        try:
            while size < self._lot:
                found = machine.next_texts(self._lot - size)
                if found:
                    texts += found
                    size += sum(map(len, found))
                    self._at_boundary = self.bytes_received
                    if machine.needs_data:
                        break
                event = machine.next_event()
                if event is NEED_DATA:
                    break
                if type(event) is TextMessage:
                    texts.append(event.data)
                    size += len(event.data)
                elif type(event) is Pong:
                    if self._keep_alive.pong(event.payload):
                        self._scope.deadline = self._due()
                elif type(event) is not Ping:
                    assert isinstance(event, CloseReceived | BinaryMessage)
                    self._ending = event
                    break
                self._at_boundary = self.bytes_received
        except RemoteProtocolError as error:
            self._ending = error
        if machine.has_own_words:
            if self._ending is not None or self._outbox.is_idle:
                self._say_own_words()
            elif not self._answer_waits:
                # Pongs that wait behind what is queued would pile up: only the newest is due.
                self._answer_waits = True
                self._nursery.start_soon(self._answer_when_written)
        if texts:
            self._messages += len(texts)
            self._pending = self._decode(texts)
            if self._pending:
                self._first_message_due = math.inf

    async def _put_pending(self) -> None:
        """Put what was taken into the inbox, when there is room, which there is not yet."""
        # Nothing is timed meanwhile but that nobody receives, which the inbox does.
        since = trio.current_time()
        self._blocked = True
        self._scope.deadline = math.inf
        try:
            await self._inbox.put(self._pending)
        finally:
            # A timer that was due when this task was woken ends the wait as it begins.
            self._blocked = False
        self._pending = []
        waited = trio.current_time() - since
        self._keep_alive.paused(waited)
        self._idle_due += waited
        self._scope.deadline = self._due()

    async def _answer_when_written(self) -> None:
        with suppress(ChannelBroken, trio.ClosedResourceError):
            await self._outbox.flush()
        self._answer_waits = False
        self._say_own_words()

    def _say_own_words(self) -> None:
        own_words = self._machine.bytes_to_send()
        if own_words:
            self._speak(own_words)

    def _speak(self, data: bytes) -> None:
        # What broke is recorded; and after the end nobody listens.
        with suppress(ChannelBroken, trio.ClosedResourceError):
            self._outbox.put_control(data)

    # -- the end ------------------------------------------------------------------------

    @property
    def cause_seen(self) -> ChannelBroken:
        """Why nothing can be sent although the end has not been recorded yet. A new one."""
        if self._ending is None or isinstance(self._ending, CloseReceived):
            return ConnectionLost("the peer has closed the connection")
        return _cause_of(self._ending)

    async def _end(self) -> None:
        """See to what ended it: record it, say the last words, let them be heard."""
        ending = self._ending
        assert ending is not None
        if isinstance(ending, CloseReceived):
            self.close_received = ending
            if ending.code in _CLEAN or self._is_closing():
                self.ended = True
                self._inbox.wake()
                await self._leave()
                return
        if isinstance(ending, BinaryMessage):
            with suppress(LocalProtocolError):  # this side has closed already
                text = "messages are text"
                self._speak(self._machine.send(Close(CloseCode.UNSUPPORTED_DATA, text)))
        with trio.move_on_after(min(_LINGER_SECONDS, self._options.close_timeout)):
            with suppress(ChannelBroken, trio.ClosedResourceError):
                await self._outbox.flush()
        if self._stopped or self._is_closing():
            return
        cause = _cause_of(ending)
        self._lingers = isinstance(cause, ClosedByPeer | PeerProtocolError)
        self._fail(cause)
        if self._lingers:
            await self._linger()

    async def _leave(self) -> None:
        """Both sides have said their last: let it out, then the server closes first."""
        self.is_leaving = True
        with trio.move_on_after(self._options.close_timeout) as scope:
            with suppress(ChannelBroken, trio.ClosedResourceError):
                await self._outbox.flush()
        if self._stopped:
            return
        if scope.cancelled_caught and not self._is_closing():
            self.is_leaving = False
            text = "the peer closed the connection and did not take all that was sent"
            self._fail(ConnectionLost(text))
            return
        with trio.move_on_after(min(_END_SECONDS, self._options.close_timeout)):
            if self._machine.is_client:
                # RFC 6455, section 7.1.1: the client "SHOULD wait for a TCP Close from the
                # server", so that it is the server's port that is kept busy for a while.
                await self._discard(_LINGER_BYTES)
            await self._stream.aclose()

    async def _linger(self) -> None:
        """Let a peer that goes on sending hear why it is not heard any more.

        That is over when it answers the Close, where that can still be told from the rest.
        """
        with trio.move_on_after(min(_LINGER_SECONDS, self._options.close_timeout)) as self._scope:
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                with suppress(LocalProtocolError):  # TLS 1.2 cannot
                    await self._stream.send_eof()
            await self._discard(_LINGER_BYTES)

    async def _discard(self, most: int) -> None:
        machine = self._machine
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError):
            while most > 0 and (data := await self._stream.receive_some(READ_CHUNK_BYTES)):
                most -= len(data)
                if machine.receiving is Side.OPEN and self._takes_close(bytes(data)):
                    return

    def _takes_close(self, data: bytes) -> bool:
        """Whether the peer's Close is in there."""
        self._machine.receive_data(data)
        while (event := self._machine.next_event()) is not NEED_DATA:
            if isinstance(event, CloseReceived):
                return True
        return False


def can_speak_at_once(stream: trio.abc.Stream, outbox: Outbox) -> bool:
    """Whether a few bytes that are put into the outbox are written there and then."""
    return outbox.is_idle and isinstance(stream, SupportsSendNowait)


def _cause_of(ending: _Ending) -> ChannelBroken:
    if isinstance(ending, CloseReceived):
        said = f" {ending.reason!r}" if ending.reason else ""
        closed = ClosedByPeer(f"the peer closed the connection: {ending.code}{said}")
        closed.close_code, closed.close_reason = ending.code, ending.reason
        return closed
    if isinstance(ending, BinaryMessage):
        text = "a binary message: each message is one text"
        ending = RemoteProtocolError(text, close_code=CloseCode.UNSUPPORTED_DATA)
    if ending.close_code == CloseCode.ABNORMAL:
        lost = ConnectionLost(str(ending))
        lost.__cause__ = ending
        return lost
    cause = PeerProtocolError(str(ending))
    cause.error = ending
    cause.__cause__ = ending
    return cause
