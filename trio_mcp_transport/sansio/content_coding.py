"""Content codings of HTTP: which a peer takes, and bodies that are coded and decoded.

Used by whoever sends and receives bodies, on either side; the machines of HTTP know nothing of
it. RFC 9110, section 8.4: a coding is a property of the content, so it is undone before
anybody looks at a body, and its limits are those of what comes out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ..compression_settings import Algorithm, CompressionSettings
from ..errors import RemoteProtocolError
from .compression import Compressor, available_algorithms, make_compressor, make_decompressor
from .compression_choice import CompressionCounter, RatioGuard, choose
from .remembering import remember_short

__all__ = [
    "BodyDecoder",
    "BodyEncoder",
    "accept_encoding",
    "coding_of",
    "decode_body",
    "decode_steps",
    "encode_body",
    "read_accept_encoding",
    "read_content_encoding",
]

#: The name of each algorithm in HTTP: RFC 9110 (gzip), RFC 8878 (zstd), RFC 7932 (br). LZ4
#: has none that is registered; it is only ever used with those who name it.
_CODINGS: Mapping[Algorithm, str] = {"zstd": "zstd", "gzip": "gzip", "brotli": "br", "lz4": "lz4"}
_ALGORITHMS: Mapping[str, Algorithm] = {name: key for key, name in _CODINGS.items()} | {
    # RFC 9110, section 8.4.1.3: "A recipient SHOULD consider "x-gzip" to be equivalent".
    "x-gzip": "gzip"
}
#: What is given of a compressed body at a time, and what is taken: even where every few bytes
#: are a block or a member of their own, a step of it takes a few milliseconds.
_STEP_BYTES_IN = 8 * 1024
_STEP_BYTES_OUT = 64 * 1024
#: What is flushed at a time of what would be compressed too well.
_STEP_BYTES_SPARSE = 256


def coding_of(algorithm: Algorithm) -> str:
    """What HTTP calls it."""
    return _CODINGS[algorithm]


def accept_encoding(settings: CompressionSettings) -> str:
    """The value of ``Accept-Encoding`` that tells what can be read here."""
    usable = [name for name in settings.algorithms if name in available_algorithms()]
    return ", ".join(_CODINGS[name] for name in usable) or "identity"


@remember_short
def read_accept_encoding(value: str | None) -> frozenset[Algorithm]:
    """The algorithms that an ``Accept-Encoding`` takes.

    RFC 9110, section 12.5.3: a weight of zero forbids, ``*`` stands for those that are not
    listed; a request without the field would take any, but may come from a client that
    never thought of it, so nothing is compressed for it.
    """
    if value is None:
        return frozenset()
    weights: dict[str, float] = {}
    for part in value.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights[name] = _weight(parameters)
    others = weights.get("*", 0.0)
    taken = (
        algorithm
        for name, algorithm in _ALGORITHMS.items()
        # LZ4 is no coding that a wildcard can mean.
        if weights.get(name, 0.0 if algorithm == "lz4" else others) > 0
    )
    return frozenset(taken)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def read_content_encoding(value: str | None, allowed: Collection[Algorithm]) -> Algorithm | None:
    """What a body is coded with; None for nothing.

    Raises:
        RemoteProtocolError: It is a coding that is not spoken here (status 415), several of
            them among others.
    """
    name = "identity" if value is None else value.strip().lower()
    if name in {"", "identity"}:
        return None
    algorithm = _ALGORITHMS.get(name)
    if algorithm is None or algorithm not in allowed:
        known = ", ".join(_CODINGS[each] for each in allowed) or "identity"
        raise RemoteProtocolError(f"the content coding must be one of: {known}", status=415)
    return algorithm


def encode_body(
    settings: CompressionSettings,
    body: bytes,
    accepted: Collection[Algorithm],
    counter: CompressionCounter,
) -> tuple[bytes, str | None]:
    """Compress a whole body, if that is worth it.

    Args:
        settings: What is wanted.
        body: All of it.
        accepted: What the peer takes.
        counter: Counts it.

    Returns:
        The body to send, and its ``Content-Encoding`` if it has one.
    """
    counter.start()
    choice = choose(settings, body, accepted)
    if choice is not None:
        engine = make_compressor(choice.algorithm, choice.level)
        coded = engine.compress(body) + engine.finish()
        if len(coded) < len(body) and not RatioGuard(settings).may_refuse(len(coded), len(body)):
            counter.done(len(body), len(coded), compressed=True)
            return coded, _CODINGS[choice.algorithm]
    counter.done(len(body), len(body), compressed=False)
    return body, None


class BodyEncoder:
    """Compresses a body that comes bit by bit, such as a stream of events.

    Each piece can be read by the peer when it is there.

    Args:
        algorithm: With which.
        settings: How hard, and the bounds that the other side may have.
        counter: Counts it.
    """

    def __init__(
        self, algorithm: Algorithm, settings: CompressionSettings, counter: CompressionCounter
    ) -> None:
        self.coding = _CODINGS[algorithm]
        self._engine: Compressor = make_compressor(algorithm, settings.level)
        self._guard = RatioGuard(settings)
        self._counter = counter
        self._before = self._after = 0

    def encode(self, data: bytes) -> bytes:
        """Code one piece."""
        self._counter.start()
        parts = [
            self._encode(data[start : start + _STEP_BYTES_OUT])
            for start in range(0, len(data), _STEP_BYTES_OUT)
        ]
        coded = b"".join(parts)
        self._counter.done(len(data), len(coded), compressed=True)
        return coded

    def _encode(self, data: bytes) -> bytes:
        self._before += len(data)
        # What is nearly all blanks would look like an attack to the other side. A flush costs
        # a few bytes, so that many of them keep the measure.
        step = len(data)
        if self._guard.may_refuse(self._after, self._before):
            step = _STEP_BYTES_SPARSE
        engine = self._engine
        parts = [
            engine.compress(data[start : start + step]) + engine.flush()
            for start in range(0, len(data), step)
        ]
        coded = b"".join(parts)
        self._after += len(coded)
        return coded

    def finish(self) -> bytes:
        """What ends the body."""
        return self._engine.finish()


class BodyDecoder:
    """Decompresses a body that comes bit by bit, in bounded steps.

    Args:
        algorithm: What it is coded with.
        settings: The bounds.
    """

    def __init__(self, algorithm: Algorithm, settings: CompressionSettings) -> None:
        self._engine = make_decompressor(algorithm)
        self._guard = RatioGuard(settings)
        self._algorithm = algorithm

    def decode(self, data: bytes) -> bytes:
        """Take bytes in and give at most 64 KiB; call with ``b""`` until `needs_input`.

        Raises:
            RemoteProtocolError: They are malformed, or grow beyond measure.
        """
        output = self._engine.decompress(data, _STEP_BYTES_OUT)
        self._guard.check(self._engine.bytes_in, self._engine.bytes_out)
        return output

    @property
    def needs_input(self) -> bool:
        """Whether all was given that there is."""
        return self._engine.needs_input

    def finish(self) -> None:
        """Tell that the body has ended.

        Raises:
            RemoteProtocolError: It was cut off.
        """
        if not self._engine.is_finished:
            raise RemoteProtocolError(f"a body of {self._algorithm} was cut off")


def decode_steps(
    algorithm: Algorithm, body: bytes, settings: CompressionSettings, max_bytes: int
) -> Iterator[bytes]:
    """Decompress a whole body, part by part, so that others get their turn in between.

    Yields:
        The next bytes, at most 64 KiB; none where a step had nothing to give.

    Raises:
        RemoteProtocolError: It is malformed or cut off, or too large (status 413), which is
            noticed before more than that was decompressed.
    """
    decoder = BodyDecoder(algorithm, settings)
    size = 0
    for start in range(0, len(body), _STEP_BYTES_IN):
        data = body[start : start + _STEP_BYTES_IN]
        while True:
            part = decoder.decode(data)
            size += len(part)
            if size > max_bytes:
                raise RemoteProtocolError(f"a body of more than {max_bytes} bytes", status=413)
            yield part
            if decoder.needs_input:
                break
            data = b""
    decoder.finish()


def decode_body(
    algorithm: Algorithm, body: bytes, settings: CompressionSettings, max_bytes: int
) -> bytes:
    """Decompress a whole body at once. Raises as `decode_steps`."""
    return b"".join(decode_steps(algorithm, body, settings, max_bytes))
