"""Tasks of one short-lived owner in a nursery that belongs to somebody else.

Used by `Peer` where its channel lends a nursery: over HTTP there is a peer for each
request, most of them need no task at all, and a nursery of its own costs more than running
a task does. What runs here must not raise anything but `Cancelled`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVarTuple

import trio

__all__ = ["LentNursery", "Tasks"]

Args = TypeVarTuple("Args")


class Tasks(Protocol):
    """Where tasks can be started: a `trio.Nursery`, or a part of one."""

    def start_soon(
        self,
        async_fn: Callable[[*Args], Awaitable[object]],
        /,
        *args: *Args,
        name: object = None,
    ) -> None:
        """Run it soon. See `trio.Nursery.start_soon`."""


class LentNursery:
    """A part of a nursery, which is left by `aclose`.

    Args:
        nursery: Where the tasks really run; must stay open until then.
    """

    __slots__ = ("_idle", "_nursery", "_scopes")

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._idle: trio.Event | None = None

    def start_soon(
        self,
        async_fn: Callable[[*Args], Awaitable[object]],
        /,
        *args: *Args,
        name: object = None,
    ) -> None:
        """Run it soon. See `trio.Nursery.start_soon`."""
        scope = trio.CancelScope()
        self._scopes.add(scope)
        self._nursery.start_soon(self._run, scope, async_fn, args, name=name or async_fn)

    async def _run(
        self,
        scope: trio.CancelScope,
        async_fn: Callable[[*Args], Awaitable[object]],
        args: tuple[*Args],
    ) -> None:
        try:
            with scope:
                await async_fn(*args)
        finally:
            self._scopes.discard(scope)
            if self._idle is not None and not self._scopes:
                self._idle.set()

    def cancel(self) -> None:
        """Cancel what runs here now."""
        for scope in self._scopes:
            scope.cancel()

    async def aclose(self) -> None:
        """Cancel what runs here, and wait until it has ended. No checkpoint if nothing does."""
        if not self._scopes:
            return
        self._idle = trio.Event()
        self.cancel()
        with trio.CancelScope(shield=True):  # as the end of a nursery waits
            await self._idle.wait()
