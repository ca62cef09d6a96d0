"""TLS around any stream: what `tls://`, `tls+unix:`, `https://` and `wss://` stand on.

A `TlsStream` is made from a stream that is connected and a session that
`security.tls_contexts` made; which certificates are good was decided there. This module
moves bytes between the stream and the session's machine and decides nothing but when to
wait.

Theory of operation:

* Whatever the machine has to write gets in line for the wire (a strict first-in-first-out
  lock) with no checkpoint after it was taken out of the machine: each record has its number,
  and one that came out of order would end the connection.
* Therefore a write that fails or is cancelled, or a record that was taken out and not
  written, breaks the stream for good. Nobody knows how much of it arrived.
* A read that is cancelled loses nothing. What was read is in the machine.
* There is no renegotiation, so sending never waits for the peer to say something, and
  receiving writes only what is rare: the answer to a fatal fault, or the refusal of a
  renegotiation. One handshake runs, in the task that needs it first; others wait for it.
* When the machine finds a fault it may have an alert that tells the peer why. The alert is
  written before the error is raised, as far as the peer takes it within `TLS_CLOSE_TIMEOUT`.
* `send_nowait` encrypts before it knows how much fits. If a record was taken in part, its
  rest waits here and its plaintext counts as not written; whoever gets a short count sends
  that plaintext next, as it must, and gets the rest of the record written instead. That it is
  the same plaintext is checked.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Protocol

import trio

from ..errors import LocalProtocolError, ProtocolError, TlsError, TlsHandshakeFailed
from ..limits import TLS_CLOSE_TIMEOUT, WRITE_SLICE_BYTES
from ..sansio.machine import NEED_DATA
from ..sansio.tls import TlsData, TlsHandshakeCompleted, TlsMachine
from ..tls_facts import TlsFacts
from .fd_stream import read_size

__all__ = ["TlsSession", "TlsStream"]


class TlsSession(Protocol):
    """What a stream needs to know of who it talks TLS for.

    Attributes:
        machine: A fresh one, whose handshake has not begun.
        handshake_timeout: Seconds for the whole handshake; `math.inf` for no limit.
    """

    @property
    def machine(self) -> TlsMachine:
        """See above."""

    @property
    def handshake_timeout(self) -> float:
        """See above."""

    def finish(self) -> TlsFacts:
        """Called once, when the handshake is complete, before any data passes.

        Raises:
            TlsError: The connection is refused after all.
        """

    def explain(self, error: TlsHandshakeFailed, /) -> TlsError:
        """Called with the error of a failed handshake; gives the same one, or a better one."""

    def remember(self) -> None:
        """Called once, when the first data came: a server's session tickets come before it."""


class _State(enum.Enum):
    OPEN = enum.auto()
    BROKEN = enum.auto()
    CLOSED = enum.auto()


class TlsStream(trio.abc.HalfCloseableStream):
    """A stream of plaintext over a stream of ciphertext, which it owns from now on.

    The handshake happens in `do_handshake`, or else as part of what is called first.

    Args:
        stream: Connected. `send_nowait`, `receive_nowait` and `close` (synchronous) are used
            where it has them.
        session: Fresh.

    Attributes:
        transport_stream: The stream underneath, to look at.
        facts: What is known of the connection once the handshake is complete, else None.
    """

    def __init__(self, stream: trio.abc.Stream, session: TlsSession) -> None:
        self.transport_stream = stream
        self.facts: TlsFacts | None = None
        self._session = session
        self._machine = session.machine
        self._send_now: Callable[[bytes], int] | None = getattr(stream, "send_nowait", None)
        self._receive_now: Callable[[], bytes | None] | None = getattr(
            stream, "receive_nowait", None
        )
        self._state = _State.OPEN
        self._cause: BaseException | None = None  # of BROKEN
        self._shaking: trio.Event | None = None  # set when the handshake has ended
        self._wire = trio.StrictFIFOLock()
        self._is_sending = False
        self._is_receiving = False
        self._eof_sent = False
        self._remembered = False
        # Decrypted and not returned: `_plain` from `_plain_at` on.
        self._plain = b""
        self._plain_at = 0
        # The rest of a record that was written in part, and the plaintext of it that
        # `send_nowait` has not counted.
        self._unsent = b""
        self._owed = b""

    def __repr__(self) -> str:
        return f"<TlsStream {self._state.name.lower()} over {self.transport_stream!r}>"

    @property
    def can_send_eof(self) -> bool:
        """Whether the sending direction can end alone: TLS 1.3 can, TLS 1.2 cannot.

        Before the handshake nobody knows; it says yes.
        """
        return self.facts is None or self._machine.can_half_close

    # -- handshake ----------------------------------------------------------------------

    async def do_handshake(self) -> TlsFacts:
        """Complete the handshake, or wait until another task has; say what came of it.

        At most the session's `handshake_timeout`. If cancelled, the stream is broken.

        Raises:
            TlsError: It failed, or a certificate was refused, or it took too long. The peer
                was told, where TLS has an alert for it.
            trio.BrokenResourceError: It was cancelled before, or the stream broke since.
            trio.ClosedResourceError: This side closed the stream.
        """
        if self._state is _State.OPEN:
            if self.facts is not None:
                await trio.lowlevel.checkpoint()
                return self.facts
            if self._shaking is None:
                return await self._shake()
            await self._shaking.wait()
        if self._state is not _State.CLOSED and isinstance(self._cause, TlsError):
            raise copy.copy(self._cause) from self._cause
        self._check_open()
        assert self.facts is not None
        return self.facts

    async def _ensure_handshake(self) -> None:
        """As `do_handshake`, for those who were asked for something else."""
        try:
            await self.do_handshake()
        except TlsError as error:
            raise trio.BrokenResourceError(str(error)) from error

    @trio.lowlevel.enable_ki_protection
    async def _shake(self) -> TlsFacts:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._shaking = trio.Event()
        limit = self._session.handshake_timeout
        try:
            with trio.move_on_after(limit):
                self.facts = await self._run_handshake()
                return self.facts
            raise TlsHandshakeFailed(f"the TLS handshake was not complete within {limit:g} s")
        except BaseException as error:
            self._break(error)
            raise
        finally:
            self._shaking.set()

    async def _run_handshake(self) -> TlsFacts:
        machine = self._machine
        while True:
            try:
                event = machine.next_event()
            except TlsHandshakeFailed as error:
                self._cause = error  # the first one, whatever comes of telling the peer
                await self._say_last_words()
                better = self._session.explain(error)
                raise better from (None if better is error else error.__cause__)
            except Exception as error:  # a callback's own, such as CertificateError
                self._cause = error
                await self._say_last_words()
                raise
            facts = None
            if isinstance(event, TlsHandshakeCompleted):
                # Before this side's last flight, so that a peer which is refused now does not
                # take the handshake for complete.
                facts = self._session.finish()
            output = machine.bytes_to_send()
            try:
                if output:
                    await self._write(output)
                if facts is not None:
                    return facts
                await self._read()
            except trio.BrokenResourceError as error:
                why = self._look_for_alert() or error
                if isinstance(why, TlsHandshakeFailed):
                    raise self._session.explain(why) from error
                raise TlsHandshakeFailed(
                    f"the connection broke during the TLS handshake: {error}".rstrip(": ")
                ) from error

    # -- receiving ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first byte; ``b""`` is the peer's close_notify.

        Cancelling loses nothing, but for the rare case that the machine had something to
        write: then the stream is broken.

        Args:
            max_bytes: At most so many; 64 KiB by default.

        Raises:
            trio.BrokenResourceError: The handshake failed, the connection failed, the peer
                broke TLS, or it ended the connection without close_notify.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is receiving.
        """
        max_bytes = read_size(max_bytes)
        self._check_can_receive()
        self._is_receiving = True
        try:
            if self.facts is None:
                await self._ensure_handshake()
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            while True:
                self._check_open()
                try:
                    data = self._take(max_bytes)
                except ProtocolError as error:
                    self._cause = error
                    await self._say_last_words()
                    self._give_up(error)
                output = self._machine.bytes_to_send()
                if output:
                    await self._write(output)
                    waited = True
                if data is not None:
                    if not waited:
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return data
                await self._read()
                waited = True
        finally:
            self._is_receiving = False

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        """Read what is there, without waiting; no checkpoint.

        Not for use while a task is in `receive_some`, whose bytes it would take.

        Args:
            max_bytes: At most so many; 64 KiB by default.

        Returns:
            The bytes; ``b""`` at the end; None when there is nothing yet. Always None before
            the handshake.

        Raises:
            trio.BrokenResourceError: As `receive_some`.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: A task is receiving.
        """
        max_bytes = read_size(max_bytes)
        self._check_can_receive()
        if self.facts is None or self._wire.locked():
            return None
        while True:
            try:
                data = self._take(max_bytes)
            except ProtocolError as error:
                self._write_what_fits(self._machine.bytes_to_send())
                self._give_up(error)
            self._write_what_fits(self._machine.bytes_to_send())
            if data is not None or not self._read_nowait():
                return data

    def _take(self, max_bytes: int) -> bytes | None:
        """Plaintext that is here already, ``b""`` at the end, None when there is nothing.

        Raises:
            ProtocolError: The machine found a fault, and nothing came before it.
        """
        at = self._plain_at
        if at < len(self._plain):
            piece = self._plain[at : at + max_bytes]
            self._plain_at = at + len(piece)
            return piece
        machine = self._machine
        event = machine.next_event()
        if event is NEED_DATA:
            return None
        if not isinstance(event, TlsData):
            return b""
        if not self._remembered:
            self._remembered = True
            self._session.remember()
        data = event.data
        if len(data) < max_bytes:
            parts, size = [data], len(data)
            with suppress(ProtocolError):  # it comes again, after what came before it
                while size < max_bytes and isinstance(event := machine.next_event(), TlsData):
                    parts.append(event.data)
                    size += len(event.data)
            if len(parts) == 1:
                return data
            data = b"".join(parts)
        if len(data) > max_bytes:
            self._plain, self._plain_at = data, max_bytes
            return data[:max_bytes]
        return data

    async def _read(self) -> None:
        """Let the machine have what comes next."""
        try:
            data = await self.transport_stream.receive_some()
        except trio.BrokenResourceError as error:
            self._break(error)
            raise
        if data:
            self._machine.receive_data(bytes(data))
        else:
            self._machine.receive_eof()

    def _read_nowait(self) -> bool:
        """Let the machine have what is there; whether there was something, or the end."""
        if self._receive_now is None:
            return False
        try:
            data = self._receive_now()
        except trio.BrokenResourceError as error:
            self._break(error)
            raise
        if data is None:
            return False
        if data:
            self._machine.receive_data(data)
        else:
            self._machine.receive_eof()
        return True

    # -- sending ------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and write everything, 64 KiB at a time.

        If cancelled, an unknown part was written and the stream is broken.

        Raises:
            trio.BrokenResourceError: The handshake or the connection failed.
            trio.ClosedResourceError: This side closed the stream or sent EOF.
            trio.BusyResourceError: Another task is sending.
            LocalProtocolError: `send_nowait` gave a short count, and this is not what it left.
        """
        self._check_can_send()
        self._is_sending = True
        try:
            if self.facts is None:
                await self._ensure_handshake()
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_open()
            with memoryview(data) as view, view.cast("B") as octets:
                at = self._take_owed(octets)
                if at == len(octets):
                    await self._write(b"")
                while at < len(octets):
                    with octets[at : at + WRITE_SLICE_BYTES] as piece:
                        record = self._encrypt(piece)
                        at += len(piece)
                    await self._write(record)
                    self._check_open()
        finally:
            self._is_sending = False
            del data  # or whoever keeps the exception keeps it

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what fits now, without waiting; no checkpoint.

        What is not counted is to be sent next, by this or by `send_all`: the beginning of it
        may be on its way already.

        Returns:
            How many bytes were written; 0 when it would block, before the handshake, and
            always where the stream underneath cannot write without waiting.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream or sent EOF.
            trio.BusyResourceError: A task is sending.
            LocalProtocolError: This is not what the last call left.
        """
        self._check_can_send()
        if self._send_now is None or self.facts is None or self._wire.locked():
            return 0
        if self._unsent and not self._write_what_fits(b""):
            return 0
        with memoryview(data) as view, view.cast("B") as octets:
            at = self._take_owed(octets)
            while at < len(octets):
                with octets[at : at + WRITE_SLICE_BYTES] as piece:
                    if not self._write_what_fits(self._encrypt(piece)):
                        self._owed = bytes(piece)
                        break
                    at += len(piece)
            return at

    def _encrypt(self, piece: memoryview) -> bytes:
        try:
            return self._machine.send_data(piece)
        except BaseException as error:
            self._break(error)
            raise

    def _take_owed(self, octets: memoryview) -> int:
        """How many bytes of this were encrypted before, when they did not fit."""
        if not self._owed:
            return 0
        size = min(len(self._owed), len(octets))
        if octets[:size] != self._owed[:size]:
            raise LocalProtocolError(
                "send_nowait() took a part of its data; what it did not count must be sent next"
            )
        self._owed = self._owed[size:]
        return size

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream underneath would take at least some bytes.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send(after_eof=True)
        self._is_sending = True
        try:
            async with self._wire:
                self._check_open()
                await self.transport_stream.wait_send_all_might_not_block()
        finally:
            self._is_sending = False

    @trio.lowlevel.enable_ki_protection
    async def send_eof(self) -> None:
        """End the sending direction by close_notify; the peer can still send. Idempotent.

        Raises:
            LocalProtocolError: The connection speaks TLS 1.2: see `can_send_eof`.
            trio.BrokenResourceError: The handshake or the connection failed.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send(after_eof=True)
        self._is_sending = True
        try:
            if self.facts is None:
                await self._ensure_handshake()
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._eof_sent:
                return
            if not self._machine.can_half_close:
                raise LocalProtocolError("TLS 1.2 cannot end one direction alone")
            self._eof_sent = True
            await self._write(self._machine.send_close())
        finally:
            self._is_sending = False

    # -- the wire -----------------------------------------------------------------------

    async def _write(self, data: bytes) -> None:
        """Write what came out of the machine just now, after what came before it."""
        try:
            try:
                self._wire.acquire_nowait()
            except trio.WouldBlock:
                await self._wire.acquire()
            try:
                if self._state is _State.BROKEN:
                    self._check_open()
                if self._unsent:
                    data = self._unsent + data
                    self._unsent = b""
                await self.transport_stream.send_all(data)
            finally:
                self._wire.release()
        except trio.BrokenResourceError as error:
            self._give_up(self._look_for_alert() or error)
        except BaseException as error:
            self._break(error)
            raise

    def _write_what_fits(self, data: bytes) -> bool:
        """Write without waiting, keep the rest for later; whether nothing is left.

        Only while nobody has the wire.
        """
        data = self._unsent + data
        if not data:
            return True
        self._unsent = data
        if self._send_now is None:
            return False
        try:
            written = self._send_now(data)
        except trio.BrokenResourceError as error:
            self._give_up(self._look_for_alert() or error)
        except BaseException as error:
            self._break(error)
            raise
        self._unsent = data[written:]
        return not self._unsent

    async def _say_last_words(self) -> None:
        """Let the peer have the alert that tells why this is the end, if there is one."""
        alert = self._machine.bytes_to_send()
        if alert:
            with (
                trio.move_on_after(TLS_CLOSE_TIMEOUT),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await self._write(alert)

    def _look_for_alert(self) -> ProtocolError | TlsError | None:
        """Why the peer does not take anything, if it said so before it closed."""
        if self._is_receiving and self.facts is not None:
            return None  # that task finds out by itself
        try:
            while self._read_nowait() and self._machine.next_event() is NEED_DATA:
                pass
        except (ProtocolError, TlsError) as error:
            return None if self._machine.was_cut_off else error
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        return None

    # -- the end ------------------------------------------------------------------------

    def close(self) -> None:
        """Close at once; tasks that wait here get `trio.ClosedResourceError`. Idempotent.

        The peer reads a clean end if close_notify can be said without waiting.
        """
        farewell = self._end()
        if farewell and self._send_now is not None and not self._wire.locked():
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self._send_now(farewell)
        close: Callable[[], object] | None = getattr(self.transport_stream, "close", None)
        if close is not None:
            close()
        else:
            trio.lowlevel.spawn_system_task(_close_in_background, self.transport_stream)

    async def aclose(self) -> None:
        """Say close_notify, close, then checkpoint. Idempotent.

        A peer that does not read holds it up for `TLS_CLOSE_TIMEOUT` at most; in a cancelled
        scope nothing does.
        """
        farewell = self._end()
        try:
            if farewell:
                await self._say_goodbye(farewell)
        finally:
            await self.transport_stream.aclose()

    def _end(self) -> bytes:
        """Be closed from now on; return what to write before, if anything can be written."""
        state, self._state = self._state, _State.CLOSED
        if state is not _State.OPEN or self.facts is None or self._is_sending or self._eof_sent:
            return b""
        farewell = self._unsent + self._machine.send_close()
        self._unsent = b""
        return farewell

    async def _say_goodbye(self, farewell: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._send_now is not None and not self._wire.locked():
                farewell = farewell[self._send_now(farewell) :]
            if farewell:
                with trio.move_on_after(TLS_CLOSE_TIMEOUT):
                    async with self._wire:
                        await self.transport_stream.send_all(farewell)

    def _break(self, error: BaseException) -> None:
        """Nothing can be sent or received any more, and the first cause says why."""
        if self._state is _State.OPEN:
            self._state = _State.BROKEN
            if self._cause is None:
                self._cause = error
            self._machine.send_failed()

    def _give_up(self, error: Exception) -> NoReturn:
        """Break, and raise what that is for the caller."""
        self._break(error)
        if self._state is _State.CLOSED:
            self._check_open()
        if isinstance(error, (trio.BrokenResourceError, TlsError)):
            raise error
        raise trio.BrokenResourceError(str(error)) from error

    def _check_open(self) -> None:
        if self._state is _State.CLOSED:
            raise trio.ClosedResourceError("this side closed the TLS stream")
        if self._state is _State.BROKEN:
            cause = self._cause
            text = str(cause) or "the TLS stream is broken"
            if isinstance(cause, trio.Cancelled):
                text = "the TLS stream is broken: a task was cancelled while it wrote"
            raise trio.BrokenResourceError(text) from cause

    def _check_can_receive(self) -> None:
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving on this TLS stream")
        self._check_open()

    def _check_can_send(self, *, after_eof: bool = False) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this TLS stream")
        self._check_open()
        if self._eof_sent and not after_eof:
            raise trio.ClosedResourceError("this side sent EOF")


async def _close_in_background(stream: trio.abc.Stream) -> None:
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)
