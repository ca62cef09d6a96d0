"""Many clients in one process: what they share, whoever they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

__all__ = ["room_for", "side_by_side"]

#: Connections that a server has room for beside those that are to be opened.
_MORE_CONNECTIONS = 100

#: Does the work so many times.
Work = Callable[[int], Awaitable[None]]


async def side_by_side(works: Sequence[Work], count: int) -> None:
    """Let each client do the work so many times, all at a time."""
    if len(works) == 1:
        await works[0](count)
        return
    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work, count)


def room_for(connections: int) -> int:
    """How many connections a server shall admit, with those that are only closing."""
    return 2 * connections + _MORE_CONNECTIONS
