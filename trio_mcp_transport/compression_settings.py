"""What compression is asked for, and what it has done: plain data.

Read by `sansio.compression_choice`, which decides by it, and by the transports; built by
endpoints and by hand. Pure.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from .errors import ConfigurationError

__all__ = ["ALGORITHMS", "Algorithm", "CompressionSettings", "CompressionStatistics"]

Algorithm = Literal["zstd", "gzip", "brotli", "lz4"]
#: All that there are, the one first that does best on JSON for the time it takes.
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


_ANY = 2**62
#: How the fields are called as options of an endpoint.
_OPTIONS = {
    "algorithms": "compression",
    "level": "compression_level",
    "min_size": "compression_min_size",
    "streaming_threshold": "compression_streaming_threshold",
    "max_ratio": "compression_max_ratio",
    "max_free_bytes": "compression_max_free_bytes",
}


class CompressionSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_OPTIONS
):
    """How to compress, and how much may come of what a peer has compressed.

    As options of an endpoint the fields begin with ``compression_``, and `algorithms` is
    ``compression``: ``tcp://127.0.0.1:9000?compression=zstd,gzip&compression_level=9``.

    Attributes:
        algorithms: Those that may be used, the preferred first. Empty for no compression.
        level: 0 (fastest) to 11 (smallest); each algorithm has a scale of its own, which
            this is mapped to.
        min_size: Bytes below which nothing is compressed: at 336 bytes of JSON a third is
            saved at best, at 1 KiB more than half.
        streaming_threshold: Bytes from which speed goes before size: what takes time to
            compress is then compressed at a fast level.
        max_ratio: Bytes that may come of one compressed byte. gzip reaches 1,030 at most,
            and only for what says nothing.
        max_free_bytes: Bytes that may come out whatever the ratio is, as a short text of
            blanks is no attack.
    """

    algorithms: tuple[Algorithm, ...] = ()
    level: int = 6
    min_size: int = 1024
    streaming_threshold: int = 64 * 1024
    max_ratio: int = 1000
    max_free_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ConfigurationError(
                    f"compression: there is no {name!r} (there are: {', '.join(ALGORITHMS)})"
                )
        if len(set(self.algorithms)) != len(self.algorithms):
            raise ConfigurationError("compression: an algorithm is given twice")
        for field, low, high in (
            ("level", 0, 11),
            ("min_size", 0, _ANY),
            ("streaming_threshold", 0, _ANY),
            ("max_ratio", 1, _ANY),
            ("max_free_bytes", 0, _ANY),
        ):
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                most = "" if high == _ANY else f" and at most {high}"
                raise ConfigurationError(
                    f"{_OPTIONS[field]} must be a whole number, at least {low}{most}, not {value!r}"
                )


class CompressionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What compression has done, in one direction.

    Attributes:
        bytes_before: Bytes that were to be sent, or that came out.
        bytes_after: Bytes of them on the wire.
        pieces: How many bursts, bodies or events were compressed.
        pieces_left: How many were left as they are.
        seconds: Time that went into it.
    """

    bytes_before: int
    bytes_after: int
    pieces: int
    pieces_left: int
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times smaller it became; 1.0 while there is nothing."""
        return self.bytes_before / self.bytes_after if self.bytes_after else 1.0
