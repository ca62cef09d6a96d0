"""Where faults go that no caller sees: the user's `on_event`, or the log.

Used by transports and peers. Never raises and never holds a lock: whoever reports goes
on with its work.
"""

from __future__ import annotations

import logging

from .abc import ChannelEvent, EventHandler
from .errors import TransportError

__all__ = ["report"]

_logger = logging.getLogger("trio_mcp_transport")


def report(on_event: EventHandler | None, event: ChannelEvent) -> None:
    """Hand an event to its handler; log it where there is none, or where that fails.

    What the peer or the network did is logged as a warning; an exception that is none of
    this package's own is logged as an error, with its traceback.
    """
    if on_event is not None:
        try:
            on_event(event)
        except Exception:
            _logger.exception("on_event failed for %s: %s", event.name, event.message)
        else:
            return
    if event.error is None or isinstance(event.error, TransportError):
        _logger.warning("%s: %s", event.name, event.message)
    else:
        _logger.error("%s: %s", event.name, event.message, exc_info=event.error)
