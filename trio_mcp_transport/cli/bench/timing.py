"""How a piece of work is timed: warmed up, in batches, the median of them.

Used by the processes that measure. The clock is read between batches only, so that it
costs nothing, and a batch is long enough for the clock and short enough for many of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable
from time import perf_counter

import trio

__all__ = ["BATCH_SECONDS", "seconds_per_operation"]

#: Does the work so many times.
Work = Callable[[int], Awaitable[None]]
BATCH_SECONDS = 0.05
#: Nothing that is measured takes longer; a process that hangs shall not hang the run.
_STUCK_SECONDS = 60.0


async def seconds_per_operation(
    work: Work, *, seconds: float, warm_up: float, batch_seconds: float = BATCH_SECONDS
) -> float:
    """The median over batches of what one operation took.

    Args:
        work: Does the work so many times.
        seconds: How long to measure.
        warm_up: How long to work before that; the batch's size is found meanwhile.
        batch_seconds: How long a batch shall take, about.
    """
    count = 1
    with trio.fail_after(_STUCK_SECONDS):
        await work(count)  # a child that is still starting would take all of the warm-up
        start = perf_counter()
        while True:
            before = perf_counter()
            await work(count)
            took = max(perf_counter() - before, 1e-6)
            # At most ten times more at once: the first calls are far from typical.
            wanted = count * min(10.0, batch_seconds / took)
            if perf_counter() - start >= warm_up and (wanted < 2 * count or warm_up == 0):
                break
            count = max(1, math.ceil(wanted))
        samples: list[float] = []
        start = perf_counter()
        while not samples or perf_counter() - start < seconds:
            before = perf_counter()
            await work(count)
            samples.append((perf_counter() - before) / count)
    return statistics.median(samples)
