"""Remembering what header fields say, as most clients send the same ones each time.

Used by those who read fields of strangers: what is remembered has to be bounded in bytes, not
only in number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

__all__ = ["remember_short"]

R = TypeVar("R")

_MAX_VALUES = 256
#: Real values of Accept, Content-Type and Accept-Encoding are below 150.
_MAX_LENGTH = 256


def remember_short(read: Callable[[str | None], R]) -> Callable[[str | None], R]:
    """A pure function of a field's value, which remembers what it said of short ones."""
    remembered = functools.lru_cache(maxsize=_MAX_VALUES)(read)

    @functools.wraps(read)
    def reading(value: str | None) -> R:
        return remembered(value) if value is None or len(value) <= _MAX_LENGTH else read(value)

    return reading
