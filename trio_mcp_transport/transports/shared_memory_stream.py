"""A byte stream over two rings in shared memory and the sockets beside them.

Made by `shared_memory`; `StreamChannel` stands on it. What goes over the sockets is decided
by `sansio.doorbell`, here it is moved.

Theory of operation:

* The two directions share nothing. Each has a ring and a socket of its own, so a sender and
  a receiver never wait for the same readiness, and space is never returned behind data. The
  sender writes to its socket and reads its lane; the receiver reads from its socket and
  writes its lane. The one exception: whoever reads the end of a socket looks, without taking
  anything, for `END` in the other one's lane, to tell an end from a death.
* The kernel orders memory: bytes are in the ring before the word that tells of them is sent,
  and are read after it was received.
* Every call on a socket says MSG_DONTWAIT. A peer may share the file description of a socket
  that it handed over, and O_NONBLOCK is a flag of that.
* Words are lost only with the connection: one that does not fit the socket is not counted as
  sent, and is made anew, with the latest position, when there is room.
* What was told and what is counted change together, so every public method keeps Control-C
  to checkpoints.
"""

from __future__ import annotations

import errno
import mmap
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

import trio

from ..abc import PeerProtocolError
from ..errors import RemoteProtocolError
from ..limits import READ_CHUNK_BYTES
from ..sansio.doorbell import END, ESCAPE, Inflow, Lane, lane_word, position_word
from ..sansio.ring import RING_HEADER_BYTES, RingReader, RingWriter
from .fd_stream import read_size

__all__ = ["Direction", "SharedMemoryStream"]

#: Up to here a socket copies for less than a ring's words cost; measured.
INLINE_BYTES = 64 * 1024
#: Written before the reader is told of it. Copying that much takes as long as waking it.
PIECE_BYTES = 1024 * 1024
#: Words of the lane read at a time; as many as a socket ever holds.
_LANE_BYTES = 8 * 1024
#: `socket.MSG_DONTWAIT`, which Windows does not have.
_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Direction:
    """One direction's socket and memory, owned from now on.

    Args:
        sock: A connected Unix stream socket.
        segment: The shared memory, header included.
    """

    def __init__(self, sock: socket.socket, segment: mmap.mmap) -> None:
        self.socket = sock
        self._segment = segment
        self.area = memoryview(segment)[RING_HEADER_BYTES:]

    def close(self) -> None:
        """Close the socket, unmap the memory; wakes whoever waits for the socket."""
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()
        self.area.release()
        self._segment.close()


class SharedMemoryStream(trio.abc.HalfCloseableStream):
    """A stream whose large writes go through memory.

    Args:
        sending: Where this side writes.
        receiving: Where the other side does.

    Attributes:
        is_closed: Whether this side has closed the stream.
        best_chunk_bytes: How much is best read and written at a time, see `SupportsChunks`.

    A peer that is gone without having ended the stream is a `trio.BrokenResourceError`, never
    an end: all that it had sent can be read before.
    """

    best_chunk_bytes = PIECE_BYTES

    def __init__(self, sending: Direction, receiving: Direction) -> None:
        for direction in (sending, receiving):
            direction.socket.setblocking(False)
        self._out = sending
        self._in = receiving
        self._ring = RingWriter(sending.area)
        self._lane = Lane(self._ring)
        self._inflow = Inflow(RingReader(receiving.area))
        # Space is given back when nothing is left to be read, or so much of it was.
        self._much = max(1, self._inflow.ring.size // 4)
        self._sending = False
        self._receiving = False
        self._needs_space = False
        self._was_emptied = False
        self._eof_sent = False
        self._fault: PeerProtocolError | None = None
        self.is_closed = False
        # What every small message passes is kept short: one flag, no way to the socket.
        self._may_send = self._may_receive = True
        self._send = sending.socket.send
        self._recv = receiving.socket.recv

    # -- receiving ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first byte; ``b""`` is the end.

        If cancelled, nothing was read.

        Args:
            max_bytes: At most so many; 64 KiB by default.

        Raises:
            trio.BrokenResourceError: The other side is gone, or broke the protocol.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is receiving.
        """
        max_bytes = read_size(max_bytes)
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            if self._was_emptied and not self._inflow.has_more and self._may_receive:
                data = None
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = self._try_receive(max_bytes)
                if data is not None:
                    await trio.lowlevel.cancel_shielded_checkpoint()
            while data is None:  # also because readiness may be spurious
                if self._inflow.ring.returned == self._inflow.ring.tail or self._return_space():
                    await trio.lowlevel.wait_readable(self._in.socket)
                else:
                    await self._wait_for_input_and_lane()
                data = self._try_receive(max_bytes)
            return data
        finally:
            self._receiving = False

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        """Read what is there, without waiting; no checkpoint.

        Args:
            max_bytes: At most so many; 64 KiB by default.

        Returns:
            The bytes; ``b""`` at the end; None when there is nothing yet.

        Raises:
            trio.BrokenResourceError: As for `receive_some`.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: A task is receiving.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        return self._try_receive(read_size(max_bytes))

    def _try_receive(self, max_bytes: int) -> bytes | None:
        """What is there; None when nothing is."""
        if not self._may_receive:
            self._raise_ending()
        inflow = self._inflow
        # A socket never has much more.
        at_once = max_bytes if max_bytes < READ_CHUNK_BYTES else READ_CHUNK_BYTES
        try:
            data = inflow.read(max_bytes) if inflow.has_more else b""
            while not data:
                chunk = self._recv(at_once, _DONTWAIT)
                # A read that was not filled took all there was, see `SocketStream`.
                self._was_emptied = len(chunk) < at_once
                if not inflow.has_more and ESCAPE not in chunk:
                    return chunk or self._end()  # nothing but small messages, mostly
                if not chunk:
                    return self._end()
                data = inflow.accept(chunk, max_bytes)
        except BlockingIOError:
            return None
        except ConnectionResetError:  # it left something unread, as everybody may
            return self._end()
        except OSError as error:
            _raise_for(error)
        except RemoteProtocolError as error:
            self._raise_fault(error)
        ring = inflow.ring
        if not inflow.has_more or ring.tail - ring.returned >= self._much:
            self._return_space()
        return data

    def _return_space(self) -> bool:
        """Tell how far the ring was read; False if that cannot be told now."""
        ring = self._inflow.ring
        if ring.tail != ring.returned:
            try:
                _send_word(self._in.socket, lane_word(ring.tail))
            except BlockingIOError:
                return False
            except OSError:
                pass  # whoever wanted to know is gone, which reading finds out
            ring.returned = ring.tail
        return True

    async def _wait_for_input_and_lane(self) -> None:
        """Wait for bytes, or until it can be told how far the ring was read.

        The lane is full, which takes an odd peer or hardly any memory for sockets: the other
        side may be waiting for this very word.
        """
        sock = self._in.socket

        async def wait(for_what: Callable[[socket.socket], Awaitable[None]]) -> None:
            # Closed meanwhile: `_try_receive` finds out, and raises outside of a group.
            with suppress(trio.ClosedResourceError):
                await for_what(sock)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, trio.lowlevel.wait_readable)
            nursery.start_soon(wait, trio.lowlevel.wait_writable)

    def _end(self) -> bytes:
        """What the end of the socket means: ``b""`` if the other side has said so before."""
        if not self._inflow.has_more:  # else it ends within a word
            if self._lane.has_ended:
                return b""
            with suppress(OSError):
                # Not taken: a sender may be waiting for what else there is.
                words = self._out.socket.recv(_LANE_BYTES, socket.MSG_PEEK | _DONTWAIT)
                if self._lane.would_end(words):
                    return b""
        raise trio.BrokenResourceError("the other side is gone, and has not ended the stream")

    # -- sending ------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. If cancelled, an unknown part of it was written.

        Raises:
            trio.BrokenResourceError: The other side is gone, or broke the protocol.
            trio.ClosedResourceError: This side closed the stream or sent EOF.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send()
        self._sending = True
        try:
            if type(data) is memoryview:
                data = data.cast("B")
            await trio.lowlevel.checkpoint_if_cancelled()
            sent = self._try_send(data) if data else 0
            if sent == len(data):
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
            with memoryview(data) as octets:
                while sent < len(octets):
                    if self._needs_space:
                        await trio.lowlevel.wait_readable(self._out.socket)
                    else:
                        await trio.lowlevel.wait_writable(self._out.socket)
                    with octets[sent:] as rest:
                        sent += self._try_send(rest)
        finally:
            self._sending = False
            del data  # or whoever keeps the exception keeps it

    @trio.lowlevel.enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Wait until at least some bytes can be written.

        Raises:
            trio.BrokenResourceError: The other side is gone, or broke the protocol.
            trio.ClosedResourceError: This side closed the stream, now or before.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send(after_eof=True)
        self._sending = True
        try:
            while True:
                await trio.lowlevel.wait_writable(self._out.socket)
                self._read_lane()
                if self._ring.free:
                    return
                await trio.lowlevel.wait_readable(self._out.socket)
        finally:
            self._sending = False

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what fits now, without waiting; no checkpoint.

        Returns:
            How many bytes were written; 0 when it would block.

        Raises:
            trio.BrokenResourceError: The other side is gone, or broke the protocol.
            trio.ClosedResourceError: This side closed the stream or sent EOF.
            trio.BusyResourceError: A task is sending.
        """
        if self._sending or not self._may_send:
            self._check_can_send()
        if type(data) is memoryview:
            data = data.cast("B")
        return self._try_send(data) if data else 0

    def _try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Write what fits. If that is not all, `_needs_space` tells what to wait for."""
        self._needs_space = False
        try:
            if len(data) <= INLINE_BYTES:
                octets = data if type(data) is bytes else bytes(data)
                if ESCAPE not in octets:
                    return self._send(octets, _DONTWAIT)
            with memoryview(data) as view:
                return self._try_send_through_ring(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            _raise_for(error)

    def _try_send_through_ring(self, data: memoryview) -> int:
        ring, sent = self._ring, 0
        self._read_lane()
        while sent < len(data):
            if not ring.free:
                self._needs_space = True
                break
            with data[sent : sent + PIECE_BYTES] as piece:
                count = ring.place(piece)
            word = position_word(ring.position_after(count), starts_over=ring.starts_over)
            try:
                _send_word(self._out.socket, word)
            except BlockingIOError:
                break
            ring.advance(count)
            sent += count
        return sent

    def _read_lane(self) -> None:
        """Take note of what the other side has read."""
        while True:
            try:
                words = self._out.socket.recv(_LANE_BYTES, _DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                _raise_for(error)
            if not words:
                raise trio.BrokenResourceError("the other side is gone")
            try:
                self._lane.receive_data(words)
            except RemoteProtocolError as error:
                self._raise_fault(error)
            if len(words) < _LANE_BYTES:
                return

    @trio.lowlevel.enable_ki_protection
    async def send_eof(self) -> None:
        """Half-close: the peer reads the end, and can still send. Idempotent.

        Raises:
            trio.BrokenResourceError: The other side is gone.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: Another task is sending.
        """
        self._check_can_send(after_eof=True)
        await trio.lowlevel.checkpoint()
        self._check_can_send(after_eof=True)
        if self._eof_sent:
            return
        try:
            _send_word(self._in.socket, END)
            self._out.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            _raise_for(error)
        self._eof_sent = True
        self._may_send = False

    def _check_can_send(self, *, after_eof: bool = False) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self.is_closed or self._fault is not None:
            self._raise_ending()
        if self._eof_sent and not after_eof:
            raise trio.ClosedResourceError("this side sent EOF")

    def _raise_ending(self) -> NoReturn:
        if self.is_closed or self._fault is None:
            raise trio.ClosedResourceError("this side closed the stream")
        raise self._fault.again()

    def _raise_fault(self, error: RemoteProtocolError) -> NoReturn:
        """The other side broke the protocol, which it can do once."""
        self._fault = PeerProtocolError(str(error))
        self._fault.error = error
        self._may_send = self._may_receive = False
        raise self._fault.again() from error

    # -- the end ------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close at once; tasks that wait here get `ClosedResourceError`. Idempotent.

        The other side learns that the stream broke off.
        """
        if not self.is_closed:
            self.is_closed = True
            self._may_send = self._may_receive = False
            self._out.close()
            self._in.close()

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """End the stream and close it, then checkpoint. Idempotent.

        Closes in a cancelled scope as well. What was written can still be read.
        """
        if not self.is_closed:
            if not self._eof_sent:
                # Whoever is gone, or does not read the lane, does not need it.
                with suppress(OSError):
                    _send_word(self._in.socket, END)
            self.close()
        await trio.lowlevel.checkpoint()


def _send_word(sock: socket.socket, word: bytes) -> None:
    """Send a word.

    Raises:
        BlockingIOError: There is no room, and nothing was sent.
        OSError: The other side is gone.
    """
    if sock.send(word, _DONTWAIT) != len(word):
        # A few bytes are one packet to a Unix socket, which goes or does not (af_unix.c).
        raise OSError(errno.EIO, "a word was cut")


def _raise_for(error: OSError) -> NoReturn:
    raise trio.BrokenResourceError(f"the connection failed: {error}") from error
