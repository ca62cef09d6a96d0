"""Whether to compress something, with what and how hard, and what has come of it.

Called by `compressed_records` and `content_coding` before each piece of data. Pure: the
decision depends on size, a sample and what the peer takes; the clock is the caller's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection

import msgspec

from ..compression_settings import Algorithm, CompressionSettings, CompressionStatistics
from ..errors import RemoteProtocolError

__all__ = [
    "Choice",
    "CompressionCounter",
    "RatioGuard",
    "choose",
    "looks_incompressible",
]

#: Bytes at the begin, in the middle and at the end that are tried out.
_SAMPLE_BYTES = 512
#: What is left of a sample that is not worth it: Base64 of random bytes leaves 0.77.
_INCOMPRESSIBLE = 0.9
#: Of what is large: as fast as it gets without giving much away (see `compression`).
_STREAMING_LEVEL = 3
#: Those that keep up with a fast network, in order of preference for what is large.
_FAST: tuple[Algorithm, ...] = ("zstd", "lz4", "gzip", "brotli")


class Choice(msgspec.Struct, frozen=True):
    """What to do with something.

    Attributes:
        algorithm: With which to compress it.
        level: How hard, 0 to 11.
    """

    algorithm: Algorithm
    level: int


def choose(
    settings: CompressionSettings, data: bytes | memoryview, accepted: Collection[str]
) -> Choice | None:
    """Decide about one piece of data; None is to leave it as it is.

    Args:
        settings: What is wanted.
        data: All of it.
        accepted: What the peer takes.
    """
    size = len(data)
    usable = [name for name in settings.algorithms if name in accepted]
    if not usable or size < settings.min_size or looks_incompressible(data):
        return None
    if size < settings.streaming_threshold:
        return Choice(usable[0], settings.level)
    return Choice(
        next(name for name in _FAST if name in usable), min(settings.level, _STREAMING_LEVEL)
    )


def looks_incompressible(data: bytes | memoryview) -> bool:
    """Whether a small sample of it, compressed in a few microseconds, stays as it was.

    Images, archives and what is encrypted do; their Base64 does not.
    """
    size = len(data)
    if size <= 3 * _SAMPLE_BYTES:
        sample = bytes(data)
    else:
        middle = size // 2
        sample = b"".join((
            data[:_SAMPLE_BYTES],
            data[middle : middle + _SAMPLE_BYTES],
            data[-_SAMPLE_BYTES:],
        ))
    return len(zlib.compress(sample, 1)) > _INCOMPRESSIBLE * len(sample)


class CompressionCounter:
    """Counts what compression does, in one direction.

    Args:
        clock: Seconds of any clock that only goes forward, such as `time.perf_counter`.

    Its attributes are those of `CompressionStatistics`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.bytes_before = 0
        self.bytes_after = 0
        self.pieces = 0
        self.pieces_left = 0
        self.seconds = 0.0
        self._clock = clock
        self._started = 0.0

    def statistics(self) -> CompressionStatistics:
        """The counts now."""
        return CompressionStatistics(
            bytes_before=self.bytes_before,
            bytes_after=self.bytes_after,
            pieces=self.pieces,
            pieces_left=self.pieces_left,
            seconds=self.seconds,
        )

    def start(self) -> None:
        """Begin to measure a piece."""
        self._started = self._clock()

    def done(self, before: int, after: int, *, compressed: bool) -> None:
        """Count a piece, and the time since `start` if it was compressed."""
        self.bytes_before += before
        self.bytes_after += after
        if compressed:
            self.pieces += 1
            self.seconds += self._clock() - self._started
        else:
            self.pieces_left += 1


class RatioGuard:
    """Refuses what grows beyond measure when it is decompressed.

    Args:
        settings: What may come of one byte, and how much whatever the ratio is.
    """

    def __init__(self, settings: CompressionSettings) -> None:
        self._settings = settings

    def may_refuse(self, bytes_in: int, bytes_out: int) -> bool:
        """Whether a peer with the same bounds might soon: what a sender has to avoid."""
        settings = self._settings
        return (
            bytes_out > settings.max_free_bytes / 2
            and bytes_out > settings.max_ratio / 2 * bytes_in
        )

    def check(self, bytes_in: int, bytes_out: int) -> None:
        """Look at what has gone in and come out so far.

        Raises:
            RemoteProtocolError: It is too much.
        """
        settings = self._settings
        if bytes_out > settings.max_free_bytes and bytes_out > settings.max_ratio * bytes_in:
            raise RemoteProtocolError(
                f"{bytes_in} compressed bytes became {bytes_out}, more than"
                f" {settings.max_ratio:g} times as many",
                status=413,
            )
