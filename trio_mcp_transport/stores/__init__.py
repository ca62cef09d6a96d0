"""Records that outlive an exchange: small async interfaces, and memory behind them."""

from __future__ import annotations

from ..public_paths import show_public_paths as _show_public_paths
from .events import EventRecord, EventStore, Replay
from .memory_events import MemoryEventStore

__all__ = ["EventRecord", "EventStore", "MemoryEventStore", "Replay"]

_show_public_paths(__name__)  # ruff: ignore[non-empty-init-module]
