"""A compressed byte stream: records of plain or compressed bytes, agreed on as it begins.

Used by `transports.compressed_stream`. Two small transformers with a contract of their own,
one for each direction: `RecordWriter` makes records of bytes, `RecordReader` bytes of records.

On the wire (all numbers big-endian)::

    hello   = 8F 4D 43 5A 01 LENGTH(1) NAMES      names of algorithms, separated by commas
    record  = KIND(1) LENGTH(4) BYTES             KIND: 0 plain, else the algorithm's number

Each side begins with a hello that lists what it can decompress, the preferred first. The
side that connected sends it at once and goes on with plain records, so that agreeing costs no
round trip; it compresses as soon as the other's hello is there. The side that was
connected to waits for the first byte: a peer that does not begin with a hello (whose first
byte is in no text) speaks without compression, and so is answered.

All records of one algorithm are one run, at the level of the first, so that later messages gain
from earlier ones; each record ends with a flush, so that it can be read when it is there. A
record stands for at most 64 KiB, which bounds each step of reading it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..compression_settings import ALGORITHMS, Algorithm, CompressionSettings
from ..errors import RemoteProtocolError
from ..limits import WRITE_SLICE_BYTES
from .compression import Compressor, Decompressor, make_compressor, make_decompressor
from .compression_choice import Choice, CompressionCounter, RatioGuard, choose

__all__ = ["RecordReader", "RecordWriter", "hello"]

_MAGIC = b"\x8fMCZ\x01"
_HELLO_HEAD = len(_MAGIC) + 1
_RECORD_HEAD = 5
_PLAIN = 0
_NUMBERS: dict[Algorithm, int] = {"gzip": 1, "zstd": 2, "brotli": 3, "lz4": 4}
_NAMES: dict[int, Algorithm] = {number: name for name, number in _NUMBERS.items()}
#: Plaintext of one record.
MAX_RECORD_BYTES = WRITE_SLICE_BYTES
#: What a record may measure on the wire: compression of what cannot be compressed adds a bit.
_MAX_WIRE_BYTES = MAX_RECORD_BYTES + 4096


def hello(algorithms: tuple[Algorithm, ...]) -> bytes:
    """What a side begins with: what it can decompress, the preferred first."""
    names = ",".join(algorithms).encode()
    return _MAGIC + bytes([len(names)]) + names


class RecordWriter:
    """Makes records of bytes.

    Args:
        settings: What is wanted.
        clock: For the counter.

    Attributes:
        accepted: What the peer takes; nothing, until its hello was read.
        counter: Counts it.
    """

    def __init__(self, settings: CompressionSettings, clock: Callable[[], float]) -> None:
        self.accepted: tuple[str, ...] = ()
        self.counter = CompressionCounter(clock)
        self._settings = settings
        self._guard = RatioGuard(settings)
        self._compressors: dict[Algorithm, Compressor] = {}

    def write(self, data: bytes | bytearray | memoryview) -> bytes:
        """The records for one burst of bytes; the peer can read all of it."""
        view = memoryview(data)
        choice = choose(self._settings, view, self.accepted)
        records = [
            self._record(view[start : start + MAX_RECORD_BYTES], choice)
            for start in range(0, len(view), MAX_RECORD_BYTES)
        ]
        return b"".join(records)

    def _record(self, part: memoryview, choice: Choice | None) -> bytes:
        self.counter.start()
        counted = self.counter
        if self._guard.may_refuse(counted.bytes_after, counted.bytes_before + len(part)):
            choice = None  # a plain record now and then keeps the measure
        if choice is None:
            kind, body = _PLAIN, bytes(part)
        else:
            compressor = self._compressors.get(choice.algorithm)
            if compressor is None:
                compressor = make_compressor(choice.algorithm, choice.level)
                self._compressors[choice.algorithm] = compressor
            kind = _NUMBERS[choice.algorithm]
            body = compressor.compress(bytes(part)) + compressor.flush()
        self.counter.done(len(part), _RECORD_HEAD + len(body), compressed=choice is not None)
        return bytes([kind]) + len(body).to_bytes(4, "big") + body


class RecordReader:
    """Makes bytes of records, after a hello.

    Args:
        settings: The bounds, and what the peer may use.
        clock: For the counter.
        optional: Whether the peer may also speak without compression: what does not begin
            with a hello is then given as it comes.

    Attributes:
        peer_accepts: What the peer's hello lists; None until it was read.
        is_plain: Whether the peer speaks without compression.
        counter: Counts it.
    """

    def __init__(
        self, settings: CompressionSettings, clock: Callable[[], float], *, optional: bool
    ) -> None:
        self.peer_accepts: tuple[str, ...] | None = None
        self.is_plain = False
        self.counter = CompressionCounter(clock)
        self._settings = settings
        self._optional = optional
        self._guard = RatioGuard(settings)
        self._buffer = bytearray()
        self._decompressors: dict[Algorithm, Decompressor] = {}

    def feed(self, data: bytes) -> None:
        """Take bytes in."""
        self._buffer += data

    @property
    def is_between_records(self) -> bool:
        """Whether the stream may end here: otherwise something was cut off."""
        return self.is_plain or not self._buffer

    def agree(self) -> bool:
        """Read the peer's hello, if it is here; whether it is known how the peer speaks.

        Raises:
            RemoteProtocolError: It has none and must have one.
        """
        if self.peer_accepts is None and not self.is_plain and self._buffer:
            self._read_hello()
        return self.peer_accepts is not None or self.is_plain

    def read(self) -> bytes:
        """The next bytes, at most 64 KiB; nothing if more has to come first.

        Raises:
            RemoteProtocolError: The peer does not keep to the format, uses what it may not,
                or sends what grows beyond measure.
        """
        if not self.agree():
            return b""
        if self.is_plain:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        while (record := self._next_record()) is not None:
            kind, body = record
            data = body if kind == _PLAIN else self._decompressed(kind, body)
            if data:
                return data
        return b""

    def _read_hello(self) -> None:
        buffer = self._buffer
        if not _MAGIC.startswith(bytes(buffer[: len(_MAGIC)])):
            if not self._optional or buffer[:1] == _MAGIC[:1]:
                raise RemoteProtocolError(
                    "the peer does not speak this compression: is it switched on there?"
                )
            self.is_plain = True
            return
        if len(buffer) < _HELLO_HEAD or len(buffer) < _HELLO_HEAD + buffer[_HELLO_HEAD - 1]:
            return
        end = _HELLO_HEAD + buffer[_HELLO_HEAD - 1]
        names = bytes(buffer[_HELLO_HEAD:end]).decode("ascii", "replace")
        del buffer[:end]
        # Names that are not known here may come from a later version.
        self.peer_accepts = tuple(name for name in names.split(",") if name in ALGORITHMS)

    def _next_record(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if not buffer:
            return None
        kind = buffer[0]
        if kind != _PLAIN and _NAMES.get(kind) not in self._settings.algorithms:
            raise RemoteProtocolError(f"a record of kind {kind}, which was not agreed on")
        if len(buffer) < _RECORD_HEAD:
            return None
        length = int.from_bytes(buffer[1:_RECORD_HEAD], "big")
        if length > _MAX_WIRE_BYTES:
            raise RemoteProtocolError(f"a record of {length} bytes", status=413)
        end = _RECORD_HEAD + length
        if len(buffer) < end:
            return None
        body = bytes(buffer[_RECORD_HEAD:end])
        del buffer[:end]
        if kind == _PLAIN:
            self.counter.done(length, end, compressed=False)
        return kind, body

    def _decompressed(self, kind: int, body: bytes) -> bytes:
        algorithm = _NAMES[kind]
        engine = self._decompressors.get(algorithm)
        if engine is None:
            engine = self._decompressors[algorithm] = make_decompressor(algorithm)
        self.counter.start()
        data = engine.decompress(body, MAX_RECORD_BYTES + 1)
        while len(data) <= MAX_RECORD_BYTES and not engine.needs_input:
            data += engine.decompress(b"", MAX_RECORD_BYTES + 1 - len(data))
        if engine.is_finished:
            raise RemoteProtocolError(f"a run of {algorithm} that ends in the middle of the stream")
        if len(data) > MAX_RECORD_BYTES:
            raise RemoteProtocolError(f"a record of more than {MAX_RECORD_BYTES} bytes", status=413)
        self.counter.done(len(data), _RECORD_HEAD + len(body), compressed=True)
        self._guard.check(self.counter.bytes_after, self.counter.bytes_before)
        return data
