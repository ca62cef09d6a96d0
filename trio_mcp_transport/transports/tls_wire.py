"""Where the ciphertext of one `TlsStream` goes and comes from, and what broke it.

Used by `tls_stream` alone. Holds the stream underneath, the machine and the state of both;
moves bytes between them and decides nothing. Theory of operation:

* Whatever the machine has to write gets in line for the wire, first come first served, with
  no checkpoint after it was taken out of the machine: each record has its number,
  and one that came out of order would end the connection.
* Therefore a write that is cancelled, or a record that was taken out and not written, breaks
  everything for good: nobody knows how much of it arrived.
* A write that the connection refuses breaks sending alone. What the peer sent before it went
  away can still be read, among it the alert that says why it went.
* The first cause wins and stays. Whoever comes later gets a fresh exception `from` it.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import trio

from ..limits import TLS_CLOSE_TIMEOUT, WRITE_SLICE_BYTES
from ..sansio.tls import TlsMachine

__all__ = ["TlsWire", "WireState"]

#: One read: what one write of plaintext becomes, with 22 bytes (TLS 1.3) or 29 (TLS 1.2) more
#: for each 16 KiB, so that it need not be read in two.
_READ_BYTES = WRITE_SLICE_BYTES + 1024


class WireState(enum.Enum):
    """What can be done with a wire."""

    OPEN = "open"
    BROKEN = "broken"
    CLOSED = "closed"


class TlsWire:
    """The stream underneath, and the machine.

    Args:
        stream: Carries the ciphertext. `send_nowait`, `receive_nowait` and `close`
            (synchronous) are used where it has them.
        machine: Makes and reads it.

    Attributes:
        stream: See above.
        machine: See above.
        state: OPEN until something broke it or this side closed it.
        cause: What broke it first; also while it is being told to the peer.
        is_writing: Whether a task has the wire for writing.
        can_send_now: Whether `write_what_fits` can ever write anything.
    """

    __slots__ = (
        "_line",
        "_receive_now",
        "_send_fault",
        "_send_now",
        "_unsent",
        "can_send_now",
        "cause",
        "is_writing",
        "machine",
        "state",
        "stream",
    )

    def __init__(self, stream: trio.abc.Stream, machine: TlsMachine) -> None:
        self.stream = stream
        self.machine = machine
        self.state = WireState.OPEN
        self.cause: BaseException | None = None
        self._send_now: Callable[[bytes], int] | None = getattr(stream, "send_nowait", None)
        self._receive_now: Callable[[int], bytes | None] | None = getattr(
            stream, "receive_nowait", None
        )
        self.can_send_now = self._send_now is not None
        self._send_fault: trio.BrokenResourceError | None = None
        self.is_writing = False
        self._line: deque[trio.Event] = deque()  # of those who wait for the wire
        self._unsent = b""  # the rest of what was written in part

    # -- reading ------------------------------------------------------------------------

    async def read(self) -> None:
        """Let the machine have what comes next.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed it.
        """
        try:
            data = await self.stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError as error:
            self.break_with(error)
            raise
        if data:
            self.machine.receive_data(bytes(data))
        else:
            self.machine.receive_eof()

    def read_nowait(self) -> bool:
        """Let the machine have what is there; whether there was something, or the end.

        Raises:
            trio.BrokenResourceError: The connection failed.
        """
        if self._receive_now is None:
            return False
        try:
            data = self._receive_now(_READ_BYTES)
        except trio.BrokenResourceError as error:
            self.break_with(error)
            raise
        if data is None:
            return False
        if data:
            self.machine.receive_data(data)
        else:
            self.machine.receive_eof()
        return True

    # -- writing ------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """Write what came out of the machine just now, after what came before it.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed it.
        """
        try:
            if self.is_writing:
                await self._wait_in_line()
            self.is_writing = True
            try:
                if self._unsent:
                    data = self._unsent + data
                    self._unsent = b""
                await self.stream.send_all(data)
            finally:
                self._let_next()
        except trio.BrokenResourceError as error:
            self._break_sending(error)
            raise
        except BaseException as error:
            self.break_with(error)
            raise

    def write_what_fits(self, data: bytes) -> bool:
        """Write without waiting, keep the rest for later; whether nothing is left.

        Only while no task has the wire.

        Raises:
            trio.BrokenResourceError: The connection failed.
        """
        unsent = self._unsent + data
        if not unsent:
            return True
        self._unsent = unsent
        if self._send_now is None:
            return False
        try:
            written = self._send_now(unsent)
        except trio.BrokenResourceError as error:
            self._break_sending(error)
            raise
        except BaseException as error:
            self.break_with(error)
            raise
        self._unsent = unsent[written:]
        return not self._unsent

    @property
    def has_unsent(self) -> bool:
        """Whether something was written in part."""
        return bool(self._unsent)

    async def wait_writable(self) -> None:
        """Wait until the stream underneath would take something."""
        if self.is_writing:
            await self._wait_in_line()
        self.is_writing = True
        try:
            await self.stream.wait_send_all_might_not_block()
        finally:
            self._let_next()

    async def _wait_in_line(self) -> None:
        """Wait for the wire, first come first served; it stays taken in between.

        Raises:
            trio.BrokenResourceError: It broke meanwhile.
            trio.ClosedResourceError: It was closed meanwhile.
        """
        turn = trio.Event()
        self._line.append(turn)
        try:
            await turn.wait()
            self.check_can_send()
        except BaseException:
            if turn.is_set():
                self._let_next()
            else:
                self._line.remove(turn)
            raise

    def _let_next(self) -> None:
        if self._line:
            self._line.popleft().set()
        else:
            self.is_writing = False

    # -- faults -------------------------------------------------------------------------

    async def say_last_words(self) -> None:
        """Let the peer have the alert that tells why this is the end, if there is one.

        As far as it takes it within `TLS_CLOSE_TIMEOUT`; what comes of it changes no cause.
        """
        alert = self.machine.bytes_to_send()
        if alert and self._send_fault is None:
            with (
                trio.move_on_after(TLS_CLOSE_TIMEOUT),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await self.write(alert)

    def break_with(self, error: BaseException | None) -> None:
        """Nothing can be sent or received any more."""
        if self.state is WireState.OPEN:
            self.state = WireState.BROKEN
            if self.cause is None:
                self.cause = error
            self.machine.send_failed()

    def raise_cause(self) -> NoReturn:
        """Raise the first cause itself, for who has found it.

        Raises:
            trio.ClosedResourceError: This side has closed the stream since.
        """
        if self.cause is None:
            self.check_open()
        assert self.cause is not None
        raise self.cause

    def fail(self, error: BaseException | None = None) -> NoReturn:
        """Break, by this or by the cause that is known; raise what that is for a caller.

        Raises:
            trio.BrokenResourceError: Always...
            trio.ClosedResourceError: ...unless this side has closed the stream since.
        """
        self.break_with(error)
        self.check_open()
        raise AssertionError("it is broken or closed")

    def _break_sending(self, error: trio.BrokenResourceError) -> None:
        if self._send_fault is None and self.state is WireState.OPEN:
            self._send_fault = error
        self.machine.send_failed()

    def check_open(self) -> None:
        """Raise what a call on a closed or broken stream raises.

        Raises:
            trio.BrokenResourceError: It is broken; `from` the first cause.
            trio.ClosedResourceError: This side closed it.
        """
        if self.state is WireState.OPEN:
            return
        if self.state is WireState.CLOSED:
            raise trio.ClosedResourceError("this side closed the TLS stream")
        cause = self.cause
        if isinstance(cause, trio.Cancelled):
            text = "the TLS stream is broken: a task was cancelled while it wrote"
        else:
            text = str(cause) or "the TLS stream is broken"
        raise trio.BrokenResourceError(text) from cause

    def check_can_send(self) -> None:
        """As `check_open`, and the sending direction is unharmed."""
        self.check_open()
        if self._send_fault is not None:
            raise trio.BrokenResourceError(str(self._send_fault)) from self._send_fault

    # -- the end ------------------------------------------------------------------------

    def end(self, *, with_farewell: bool) -> bytes:
        """Be closed from now on; return what to write before, if anything can be written."""
        state, self.state = self.state, WireState.CLOSED
        # Faults know this object by their tracebacks, so it must not know them.
        self.cause = self._send_fault = None
        if not with_farewell or state is not WireState.OPEN or not self.machine.can_send:
            return b""
        farewell = self._unsent + self.machine.send_close()
        self._unsent = b""
        return farewell

    def close(self, farewell: bytes) -> None:
        """Close without waiting, after what can be written without waiting."""
        if farewell and self._send_now is not None and not self.is_writing:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self._send_now(farewell)
        close: Callable[[], object] | None = getattr(self.stream, "close", None)
        if close is not None:
            close()
        else:
            trio.lowlevel.spawn_system_task(_close_in_background, self.stream)

    async def aclose(self, farewell: bytes) -> None:
        """Close, after what the peer takes within `TLS_CLOSE_TIMEOUT`."""
        try:
            if farewell:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._say_goodbye(farewell)
        finally:
            await self.stream.aclose()

    async def _say_goodbye(self, farewell: bytes) -> None:
        if self._send_now is not None and not self.is_writing:
            farewell = farewell[self._send_now(farewell) :]
        if farewell:
            with trio.move_on_after(TLS_CLOSE_TIMEOUT):
                await self.write(farewell)


async def _close_in_background(stream: trio.abc.Stream) -> None:
    # Out of a system task a fault would end the whole program, and nobody is left who
    # would want to know that a stream could not even be closed.
    with trio.CancelScope(shield=True), suppress(Exception):
        await trio.aclose_forcefully(stream)
