"""Cancelling whatever takes time, everywhere it can be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def cancel_at_each_checkpoint(operation: Callable[[], Awaitable[object]]) -> int:
    """Run it again and again, cancelled one scheduler pass later each time, until it is done.

    Returns how many were cancelled. What is left behind, the fixture of all tests finds.
    """
    done = False

    async def run(scope: trio.CancelScope) -> None:
        nonlocal done
        with scope:
            await operation()
            done = True

    for passes in range(1000):
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, scope)
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        if done:
            return passes
    raise AssertionError("it never ends")
