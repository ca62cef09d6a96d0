"""TLS around any stream: what `tls://`, `tls+unix:`, `https://` and `wss://` stand on.

A `TlsStream` is made from a stream that is connected and a session that
`security.tls_contexts` made; which certificates are good was decided there. This module
decides nothing but when to wait.

Theory of operation (`tls_wire` has that of the bytes):

* One handshake runs, in the task that needs it first; others wait for it. There is no
  renegotiation, so later on sending never waits for the peer to say something, and receiving
  writes only what is rare: an alert.
* A read that is cancelled loses nothing. What was read is in the machine.
* When the machine finds a fault it may have an alert that tells the peer why. The alert is
  written before the error is raised, as far as the peer takes it within `TLS_CLOSE_TIMEOUT`.
* `send_nowait` encrypts before it knows how much fits. If a record was taken in part, its
  rest waits in the wire and its plaintext counts as not written; whoever gets a short count
  sends that plaintext next, as it must, and the rest of the record is written instead. That
  it is the same plaintext is checked.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Final, NoReturn, Protocol

import trio

from ..errors import LocalProtocolError, ProtocolError, TlsError, TlsHandshakeFailed
from ..limits import READ_CHUNK_BYTES, WRITE_SLICE_BYTES
from ..sansio.machine import NEED_DATA
from ..sansio.tls import TlsData, TlsHandshakeCompleted, TlsMachine
from ..tls_facts import TlsFacts
from .fd_stream import read_size
from .tls_wire import TlsWire, WireState

__all__ = ["TlsSession", "TlsStream"]

#: Reads of what is there, 64 KiB each, that one call without a checkpoint makes in search of
#: data: a peer can send records that hold none for ever.
_MAX_READS_NOWAIT: Final = 4


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
        self._wire = TlsWire(stream, session.machine)
        self._shaking: trio.Event | None = None  # set when the handshake has ended
        self._is_sending = False
        self._is_receiving = False
        self._eof_sent = False
        self._remembered = False
        # Decrypted and not returned: `_plain` from `_plain_at` on.
        self._plain = b""
        self._plain_at = 0
        # Encrypted and written in part, and not counted by `send_nowait`.
        self._owed = b""

    def __repr__(self) -> str:
        return f"<TlsStream {self._wire.state.value} over {self.transport_stream!r}>"

    @property
    def can_send_eof(self) -> bool:
        """Whether the sending direction can end alone: TLS 1.3 can, TLS 1.2 cannot.

        Before the handshake nobody knows; it says yes.
        """
        return self.facts is None or self._wire.machine.can_half_close

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
        wire = self._wire
        if wire.state is WireState.OPEN:
            if self.facts is not None:
                await trio.lowlevel.checkpoint()
                return self.facts
            if self._shaking is None:
                return await self._shake()
            await self._shaking.wait()
        if wire.state is WireState.BROKEN and isinstance(wire.cause, TlsError):
            raise copy.copy(wire.cause) from wire.cause
        wire.check_open()
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
        wire, limit = self._wire, self._session.handshake_timeout
        self._shaking = trio.Event()
        try:
            with trio.move_on_after(limit):
                self.facts = await self._run_handshake()
                return self.facts
            if wire.cause is not None:  # the time ran out while the peer was told
                wire.raise_cause()
            raise TlsHandshakeFailed(f"the TLS handshake was not complete within {limit:g} s")
        except BaseException as error:
            wire.break_with(error)
            raise
        finally:
            self._shaking.set()

    async def _run_handshake(self) -> TlsFacts:
        wire, machine, session = self._wire, self._wire.machine, self._session
        while True:
            try:
                event = machine.next_event()
            except TlsHandshakeFailed as error:
                wire.cause = session.explain(error)
            except Exception as error:  # a callback's own, such as CertificateError
                wire.cause = error
            else:
                # `finish` comes before this side's last flight, so that a peer which is
                # refused now does not take the handshake for complete.
                facts = session.finish() if isinstance(event, TlsHandshakeCompleted) else None
                output = machine.bytes_to_send()
                try:
                    if output:
                        await wire.write(output)
                    if facts is not None:
                        return facts
                    await wire.read()
                except trio.BrokenResourceError as error:
                    wire.cause = self._lost_in_handshake(error)
                    raise wire.cause from error
                continue
            # That is the cause, whatever comes of telling the peer.
            await wire.say_last_words()
            wire.raise_cause()

    def _lost_in_handshake(self, error: trio.BrokenResourceError) -> TlsError:
        """Why the connection broke; the peer may have said it before it closed."""
        machine = self._wire.machine
        text = str(error)
        try:
            for _ in range(_MAX_READS_NOWAIT):
                if not self._wire.read_nowait() or machine.next_event() is not NEED_DATA:
                    break
        except TlsHandshakeFailed as why:
            if why.alert is not None:
                return self._session.explain(why)
        except ProtocolError as why:  # this side of the handshake was complete
            if not machine.was_cut_off:
                text = str(why)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        text = f"the connection broke during the TLS handshake: {text}"
        return TlsHandshakeFailed(text.rstrip(": "))

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
        wire = self._wire
        self._is_receiving = True
        try:
            if self.facts is None:
                await self._ensure_handshake()
            waited = False
            if not self._plain and not wire.machine.may_have_event:
                await wire.read()
                waited = True
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            while True:
                wire.check_open()
                try:
                    data = self._take(max_bytes)
                except ProtocolError as error:
                    wire.cause = error
                else:
                    output = wire.machine.bytes_to_send()
                    if output:
                        with suppress(trio.BrokenResourceError):  # only sending is broken
                            await wire.write(output)
                        waited = True
                    if data is not None:
                        if not waited:
                            await trio.lowlevel.cancel_shielded_checkpoint()
                        return data
                    await wire.read()
                    waited = True
                    continue
                await wire.say_last_words()
                wire.fail()
        finally:
            self._is_receiving = False

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        """Read what is there, without waiting; no checkpoint.

        Args:
            max_bytes: At most so many; 64 KiB by default.

        Returns:
            The bytes; ``b""`` at the end; None when there is nothing yet, or nothing but
            records without data for more than 256 KiB. Always None before the handshake and
            while something is being written.

        Raises:
            trio.BrokenResourceError: As `receive_some`.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: A task is receiving.
        """
        max_bytes = read_size(max_bytes)
        self._check_can_receive()
        wire = self._wire
        if self.facts is None or wire.is_writing:
            return None
        reads = 0
        while True:
            try:
                data = self._take(max_bytes)
            except ProtocolError as error:
                with suppress(trio.BrokenResourceError):
                    wire.write_what_fits(wire.machine.bytes_to_send())
                wire.fail(error)
            output = wire.machine.bytes_to_send()
            if output:
                with suppress(trio.BrokenResourceError):
                    wire.write_what_fits(output)
            if data is not None or reads == _MAX_READS_NOWAIT or not wire.read_nowait():
                return data
            reads += 1

    def _take(self, max_bytes: int) -> bytes | None:
        """Plaintext that is here already, ``b""`` at the end, None when there is nothing.

        Raises:
            ProtocolError: The machine found a fault, and nothing came before it.
        """
        if self._plain:
            at = self._plain_at
            data = self._plain[at : at + max_bytes]
            self._plain_at = at + len(data)
            if self._plain_at == len(self._plain):
                self._plain, self._plain_at = b"", 0
            return data
        machine = self._wire.machine
        event = machine.next_event()
        if event is NEED_DATA:
            return None
        if not isinstance(event, TlsData):
            return b""
        if not self._remembered:
            self._remembered = True
            self._session.remember()
        data = event.data
        if len(data) < max_bytes and machine.may_have_event:
            parts, size = [data], len(data)
            with suppress(ProtocolError):  # it comes again, after what came before it
                while size < max_bytes and isinstance(event := machine.next_event(), TlsData):
                    parts.append(event.data)
                    size += len(event.data)
            data = b"".join(parts)
        if len(data) > max_bytes:
            self._plain, self._plain_at = data, max_bytes
            return data[:max_bytes]
        return data

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
        wire = self._wire
        self._is_sending = True
        try:
            if self.facts is None:
                await self._ensure_handshake()
            await trio.lowlevel.checkpoint_if_cancelled()
            wire.check_can_send()
            if isinstance(data, bytes) and 0 < len(data) <= WRITE_SLICE_BYTES and not self._owed:
                await self._write(self._encrypt(data))
                return
            with memoryview(data) as view, view.cast("B") as octets:
                at = self._take_owed(octets)
                if at == len(octets):
                    await self._write(b"")
                while at < len(octets):
                    wire.check_can_send()
                    with octets[at : at + WRITE_SLICE_BYTES] as piece:
                        at += len(piece)
                        ciphertext = self._encrypt(piece)
                    await self._write(ciphertext)
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
        wire = self._wire
        if not wire.can_send_now or self.facts is None or wire.is_writing:
            return 0
        try:
            if wire.has_unsent and not wire.write_what_fits(b""):
                return 0
            if isinstance(data, bytes) and 0 < len(data) <= WRITE_SLICE_BYTES and not self._owed:
                if wire.write_what_fits(self._encrypt(data)):
                    return len(data)
                self._owed = data
                return 0
            with memoryview(data) as view, view.cast("B") as octets:
                at = self._take_owed(octets)
                while at < len(octets):
                    with octets[at : at + WRITE_SLICE_BYTES] as piece:
                        if not wire.write_what_fits(self._encrypt(piece)):
                            self._owed = bytes(piece)
                            break
                        at += len(piece)
                return at
        except trio.BrokenResourceError as error:
            self._raise_why(error)
        finally:
            del data  # or whoever keeps the exception keeps it

    def _encrypt(self, piece: bytes | memoryview) -> bytes:
        try:
            return self._sending_machine().send_data(piece)
        except BaseException as error:
            self._wire.break_with(error)
            raise

    def _sending_machine(self) -> TlsMachine:
        """The machine, unless it is broken by what was received and not told yet."""
        machine = self._wire.machine
        if not machine.can_send:
            try:
                machine.next_event()
            except ProtocolError as error:
                self._wire.fail(error)
        return machine

    async def _write(self, ciphertext: bytes) -> None:
        try:
            await self._wire.write(ciphertext)
        except trio.BrokenResourceError as error:
            self._raise_why(error)

    def _raise_why(self, error: trio.BrokenResourceError) -> NoReturn:
        """Raise why the peer takes nothing: it may have said so before it closed.

        A TLS 1.3 client learns so that its certificate was refused, as its side of the
        handshake was complete before the server's.
        """
        try:
            if not self._is_receiving and not self._plain:
                self._look_for_reason()
            raise error
        finally:
            del error  # which knows this frame by its traceback

    def _look_for_reason(self) -> None:
        wire = self._wire
        try:
            for _ in range(_MAX_READS_NOWAIT):
                if not wire.read_nowait():
                    break
                data = self._take(READ_CHUNK_BYTES)
                if data is not None:  # something to read, or the end, which comes again
                    self._plain = data
                    break
        except ProtocolError as why:
            wire.fail(why)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

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
            await self._wire.wait_writable()
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
            self._wire.check_can_send()
            if self._eof_sent:
                return
            if not self._wire.machine.can_half_close:
                raise LocalProtocolError("TLS 1.2 cannot end one direction alone")
            self._eof_sent = True
            await self._write(self._sending_machine().send_close())
        finally:
            self._is_sending = False

    # -- the end ------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close at once; tasks that wait here get `trio.ClosedResourceError`. Idempotent.

        The peer reads a clean end if close_notify can be said without waiting.
        """
        self._wire.close(self._end())

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Say close_notify, close, then checkpoint. Idempotent.

        A peer that does not read holds it up for `TLS_CLOSE_TIMEOUT` at most; in a cancelled
        scope nothing does.
        """
        await self._wire.aclose(self._end())

    def _end(self) -> bytes:
        """Be closed from now on; return what to write before."""
        can_speak = self.facts is not None and not self._is_sending and not self._eof_sent
        return self._wire.end(with_farewell=can_speak)

    def _check_can_receive(self) -> None:
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving on this TLS stream")
        self._wire.check_open()

    def _check_can_send(self, *, after_eof: bool = False) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this TLS stream")
        self._wire.check_can_send()
        if self._eof_sent and not after_eof:
            raise trio.ClosedResourceError("this side sent EOF")
