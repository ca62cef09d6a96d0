"""Where faults go that no caller sees: the user's `on_event`, or the log.

Used by transports and peers. Never raises and never holds a lock: whoever reports goes
on with its work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import overload

import trio

from .abc import ChannelEvent, EventHandler
from .errors import TransportError

__all__ = ["choose_failure", "flatten", "lone_exception", "report", "report_task_failure"]

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


def report_task_failure(error: BaseException, on_event: EventHandler | None) -> None:
    """Report what a background task raised while something more important was raised."""
    message = f"a background task raised {type(error).__name__}"
    report(on_event, ChannelEvent(name="task.failed", message=message, error=error))


def flatten(error: BaseException) -> Iterator[BaseException]:
    """The exceptions inside of a group and its groups; of any other, itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from flatten(inner)
    else:
        yield error


@overload
def lone_exception(error: Exception) -> Exception: ...


@overload
def lone_exception(error: BaseException) -> BaseException: ...


def lone_exception(error: BaseException) -> BaseException:
    """What a group holds, if that is one exception; else the group, or what was given."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def choose_failure(error: BaseException, on_event: EventHandler | None) -> BaseException:
    """The one exception that stands for a group; other errors in it are reported.

    What is not an `Exception` (a `KeyboardInterrupt`, say) comes before an error, and that
    before `trio.Cancelled`.
    """
    leaves = list(flatten(error))
    errors = [leaf for leaf in leaves if isinstance(leaf, Exception)]
    others = [leaf for leaf in leaves if not isinstance(leaf, Exception | trio.Cancelled)]
    chosen = (others or errors or leaves)[0]
    for leaf in errors:
        if leaf is not chosen:
            report_task_failure(leaf, on_event)
    return chosen
