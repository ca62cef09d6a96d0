"""Compression around any stream: what ``?compression=zstd`` puts between stream and channel.

The transports of byte streams wrap theirs in a `CompressedStream` where an endpoint asks for
it; nothing is decided here but when to wait. `sansio.compressed_records` has what goes over
the wire.

Theory of operation. The side that connected says hello at once and never waits for an answer.
The side that was connected to says nothing until the peer's first byte has shown whether it
speaks compression at all; whoever wants to send before that reads it, unless somebody is
reading already. It says hello with its first data and not before: a peer that has sent all that
it wanted to and closes has nothing unread then, which would make its close a reset.

What was read stays in the reader, so that a cancelled read loses nothing; a cancelled write
leaves half a record, so the stream is broken then. Ctrl+C is raised where something is waited
for, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

import trio

from ..compression_settings import CompressionSettings, CompressionStatistics
from ..errors import FeatureUnavailable, LocalProtocolError, RemoteProtocolError
from ..limits import READ_CHUNK_BYTES
from ..sansio.compressed_records import RecordReader, RecordWriter, hello
from ..sansio.compression import available_algorithms
from .channel_state import half_closeable
from .fd_stream import read_size
from .outbox import SupportsSendNowait
from .stream_channel import SupportsClose

__all__ = ["CompressedStream", "check_available", "compressed", "settings_for_client"]


def check_available(settings: CompressionSettings) -> None:
    """Refuse algorithms that this installation does not have.

    Raises:
        FeatureUnavailable: One is missing; the text says what to install.
    """
    missing = [name for name in settings.algorithms if name not in available_algorithms()]
    if missing:
        raise FeatureUnavailable(
            f"compression with {' and '.join(missing)} needs an extra:"
            " pip install 'trio-mcp-transport[compression]'"
        )


def compressed(
    stream: trio.abc.Stream, settings: CompressionSettings, *, accepted: bool
) -> trio.abc.Stream:
    """The stream as it is, or where an algorithm is asked for, a `CompressedStream` of it."""
    if not settings.algorithms:
        return stream
    compressing = CompressedStream(stream, settings, accepted=accepted)
    if not accepted:
        compressing.say_hello()
    return compressing


def settings_for_client(settings: CompressionSettings) -> CompressionSettings:
    """What a listener's endpoint tells its clients: the algorithms that they may use."""
    return CompressionSettings(algorithms=settings.algorithms)


class CompressedStream(trio.abc.HalfCloseableStream):
    """A stream of plain bytes over a stream of compressed ones, which it owns from now on.

    Args:
        stream: Connected; can be closed synchronously, by ``close()``.
        settings: Algorithms and bounds; at least one algorithm.
        accepted: Whether the peer connected to this side. It may then be one that knows
            nothing of compression, and is served without.

    Attributes:
        transport_stream: The stream underneath, to look at.

    Raises:
        FeatureUnavailable: An algorithm is not installed.
    """

    def __init__(
        self, stream: trio.abc.Stream, settings: CompressionSettings, *, accepted: bool
    ) -> None:
        check_available(settings)
        if not isinstance(stream, SupportsClose):
            raise TypeError(f"a stream with close() is needed, not {type(stream).__name__}")
        self.transport_stream: trio.abc.Stream = stream
        self._close = stream.close
        self._settings = settings
        self._writer = RecordWriter(settings, time.perf_counter)
        self._reader = RecordReader(settings, time.perf_counter, optional=accepted)
        # None while the peer has to speak first.
        self._hello: bytes | None = None if accepted else hello(settings.algorithms)
        self._is_sending = False
        self._is_receiving = False
        self._heard: trio.Event | None = None  # set when the task that reads has read
        self._eof = False
        self._surplus = b""
        self._cause: BaseException | None = None  # why it is broken
        self._closed = False

    def __repr__(self) -> str:
        return f"<CompressedStream over {self.transport_stream!r}>"

    def compression_statistics(self) -> tuple[CompressionStatistics, CompressionStatistics]:
        """What compression has done so far for what was sent, and for what was received."""
        return self._writer.counter.statistics(), self._reader.counter.statistics()

    @property
    def can_send_eof(self) -> bool:
        """Whether the stream underneath can end its sending direction alone."""
        return half_closeable(self.transport_stream) is not None

    # -- receiving ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first byte; ``b""`` is the end.

        A checkpoint. If cancelled, nothing is lost.

        Raises:
            trio.BrokenResourceError: The connection failed, or the peer does not keep to the
                format (`RemoteProtocolError` is the cause), or ended in the middle.
            trio.ClosedResourceError: This side closed the stream.
            trio.BusyResourceError: Another task is receiving.
        """
        max_bytes = read_size(max_bytes)
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._is_receiving = True
        try:
            self._surplus = self._surplus or self._read()
            if self._surplus or self._eof:
                await trio.lowlevel.checkpoint()
            while not self._surplus and not self._eof:
                await self._listen()
                self._surplus = self._read()
            data, self._surplus = self._surplus[:max_bytes], self._surplus[max_bytes:]
            return data
        finally:
            self._is_receiving = False

    def _read(self) -> bytes:
        """What the reader has; tells the writer what it learnt on the way."""
        self._check_sound()
        reader = self._reader
        try:
            data = reader.read()
            if not data and self._eof and not reader.is_between_records:
                raise RemoteProtocolError("the stream ended in the middle of a record")
        except RemoteProtocolError as error:
            self._cause = error
            raise trio.BrokenResourceError(str(error)) from error
        if reader.peer_accepts is not None and not self._writer.accepted:
            self._writer.accepted = reader.peer_accepts
        return data

    async def _listen(self) -> None:
        """Read once; whoever comes meanwhile waits for that instead."""
        if self._heard is not None:
            await self._heard.wait()
            return
        self._heard = trio.Event()
        try:
            data = await self.transport_stream.receive_some(READ_CHUNK_BYTES)
            if data:
                self._reader.feed(bytes(data))
            else:
                self._eof = True
        finally:
            self._heard.set()
            self._heard = None

    # -- sending ------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Compress and write everything. If cancelled, the stream is broken.

        Raises:
            trio.BrokenResourceError: The connection failed, or a call was cancelled before.
            trio.ClosedResourceError: This side closed the stream or sent EOF.
            trio.BusyResourceError: Another task is sending.
        """
        with self._sending():
            self._check_sound()
            await self._agree()
            if not data:
                await self.transport_stream.send_all(b"")
                return
            wire = (
                bytes(data)
                if self._reader.is_plain
                else self._greeting() + self._writer.write(data)
            )
            await self._write(wire)

    @trio.lowlevel.enable_ki_protection
    def say_hello(self) -> None:
        """Begin, where this side connected: the peer may want to speak first.

        Never waits: there is always room for the first bytes of a connection. A stream that
        cannot write without waiting says hello with the first data.
        """
        stream = self.transport_stream
        if self._hello and isinstance(stream, SupportsSendNowait):
            with suppress(trio.BrokenResourceError):  # whoever reads or writes is told
                self._hello = self._hello[stream.send_nowait(self._hello) :]

    async def _write(self, wire: bytes) -> None:
        try:
            await self.transport_stream.send_all(wire)
        except trio.ClosedResourceError:  # nothing was written after the end
            raise
        except BaseException as error:
            self._cause = error  # half a record may have been written
            raise

    def _greeting(self) -> bytes:
        """The hello, once."""
        greeting = hello(self._settings.algorithms) if self._hello is None else self._hello
        self._hello = b""
        return greeting

    async def _agree(self) -> None:
        """Wait until the peer has shown how it speaks, if that is its turn."""
        while self._hello is None:
            try:
                if self._reader.agree():
                    return
            except RemoteProtocolError as error:
                self._cause = error
                raise trio.BrokenResourceError(str(error)) from error
            if self._eof:
                raise trio.BrokenResourceError("the peer said nothing and is gone")
            await self._listen()

    @trio.lowlevel.enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream underneath might take something. Raises as `send_all`."""
        with self._sending():
            self._check_sound()
            await self.transport_stream.wait_send_all_might_not_block()

    @trio.lowlevel.enable_ki_protection
    async def send_eof(self) -> None:
        """End the sending direction; receiving goes on. Idempotent. Raises as `send_all`.

        Raises:
            LocalProtocolError: The stream underneath cannot do that.
        """
        with self._sending():
            self._check_sound()
            stream = half_closeable(self.transport_stream)
            if stream is None:
                raise LocalProtocolError("the stream underneath cannot be half-closed")
            await stream.send_eof()

    @contextmanager
    def _sending(self) -> Generator[None, None, None]:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False

    def _check_sound(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this side closed the stream")
        if self._cause is None:
            return
        if isinstance(self._cause, Exception):
            text = f"the stream is broken: {self._cause}"
            raise trio.BrokenResourceError(text) from self._cause
        # Not its cause: whoever keeps a `Cancelled` keeps what it was raised through.
        raise trio.BrokenResourceError("the stream is broken: a call was cancelled")

    # -- closing ------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close at once; tasks that wait here get `trio.ClosedResourceError`. Idempotent."""
        self._closed = True
        self._close()

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Close the stream underneath. Idempotent; what is cancelled closes as well."""
        self._closed = True
        await self.transport_stream.aclose()
