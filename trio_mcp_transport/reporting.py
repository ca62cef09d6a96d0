"""Where faults go that no caller sees: the user's `on_event`, or the log.

Used by transports and peers. Never raises and never holds a lock: whoever reports goes
on with its work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import overload

import trio

from .abc import ChannelEvent, EventHandler
from .errors import TransportError

__all__ = [
    "choose_failure",
    "diagnose",
    "flatten",
    "lone_exception",
    "report",
    "report_task_failure",
]

_logger = logging.getLogger("trio_mcp_transport")

#: How many events of one name are logged at once, and how many a second after those.
LOG_BURST = 20
LOGS_PER_SECOND = 1.0


class LogLimit:
    """Decides which events are logged: a peer that floods us must not flood the log.

    A token bucket for each name. Names come from this package, so there are few.

    Args:
        clock: The seconds that have passed since any moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Of each name: how many may be logged now, since when, and how many were not.
        self._states: dict[str, tuple[float, float, int]] = {}

    def admit(self, name: str) -> int | None:
        """How many of this name were left out since the last; None: leave this out, too."""
        now = self._clock()
        room, since, left_out = self._states.get(name, (LOG_BURST, now, 0))
        room = min(LOG_BURST, room + (now - since) * LOGS_PER_SECOND)
        if room < 1:
            self._states[name] = (room, now, left_out + 1)
            return None
        self._states[name] = (room - 1, now, 0)
        return left_out


_limit = LogLimit()


def report(on_event: EventHandler | None, event: ChannelEvent) -> None:
    """Hand an event to its handler; log it where there is none, or where that fails.

    Of many events with one name 20 are logged, and then one a second, with the number of
    those left out. A handler gets them all.

    What the peer or the network did is logged as a warning; an exception that is none of
    this package's own is logged as an error, with its traceback.
    """
    failure: Exception | None = None
    if on_event is not None:
        try:
            on_event(event)
        except Exception as error:
            failure = error
        else:
            return
    left_out = _limit.admit(event.name)
    if left_out is None:
        return
    if failure is not None:
        _logger.error("on_event failed for %s: %s", event.name, event.message, exc_info=failure)
    more = f" (and {left_out} more)" if left_out else ""
    if event.error is None or isinstance(event.error, TransportError):
        _logger.warning("%s: %s%s", event.name, event.message, more)
    else:
        _logger.error("%s: %s%s", event.name, event.message, more, exc_info=event.error)


def diagnose(on_event: EventHandler | None, event: ChannelEvent) -> None:
    """Hand on an event that is no fault, only something for those who look for one.

    It is logged where there is no handler, at the level debug and without any limit.
    """
    if on_event is None:
        _logger.debug("%s: %s", event.name, event.message)
    else:
        report(on_event, event)


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
