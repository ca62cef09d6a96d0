"""Protocol machines without I/O: bytes in, events out; events in, bytes out.

Nothing in here knows Trio, sockets, clocks, threads or randomness; a test walks the
imports. Adapters in `transports/` do the reading, writing and waiting.
"""

from __future__ import annotations

from ..public_paths import show_public_paths as _show_public_paths
from .framing import (
    ContentLengthFramer,
    DetectFramer,
    Frame,
    Framer,
    LengthPrefixFramer,
    NewlineFramer,
    make_framer,
)
from .machine import NEED_DATA, PAUSED, EndOfData, NeedData, Paused, Side
from .messages import MalformedMessage, MessageEvent, MessageMachine

__all__ = [
    "NEED_DATA",
    "PAUSED",
    "ContentLengthFramer",
    "DetectFramer",
    "EndOfData",
    "Frame",
    "Framer",
    "LengthPrefixFramer",
    "MalformedMessage",
    "MessageEvent",
    "MessageMachine",
    "NeedData",
    "NewlineFramer",
    "Paused",
    "Side",
    "make_framer",
]

_show_public_paths(__name__)  # ruff: ignore[non-empty-init-module]
