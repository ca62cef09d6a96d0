"""What compression is asked for: algorithms, levels, thresholds and bounds, as plain data.

Read by `sansio.compression_choice`, which decides by it, and by the transports; built by
endpoints and by hand. Pure.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

from .errors import ConfigurationError

__all__ = ["ALGORITHMS", "Algorithm", "CompressionSettings"]

Algorithm = Literal["zstd", "gzip", "brotli", "lz4"]
#: All that there are, the one first that does best on JSON for the time it takes.
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


class CompressionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to compress, and how much may come of what a peer has compressed.

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
    max_ratio: float = 1000.0
    max_free_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ConfigurationError(
                    f"compression: there is no {name!r} (there are: {', '.join(ALGORITHMS)})"
                )
        if len(set(self.algorithms)) != len(self.algorithms):
            raise ConfigurationError("compression: an algorithm is given twice")
        if not 0 <= self.level <= 11:
            raise ConfigurationError(f"level must be 0 to 11, not {self.level}")
        for name in ("min_size", "streaming_threshold", "max_free_bytes"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative")
        if math.isnan(self.max_ratio) or self.max_ratio < 1:
            raise ConfigurationError(f"max_ratio must be at least 1, not {self.max_ratio}")
