"""A `serve_...` function for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

#: For everything that a test waits for. A machine under load gets much more than it needs.
PATIENCE = 60.0


class Serve(Protocol):
    """What `functools.partial` makes of a `serve_...` function and its arguments."""

    def __call__(self, *, task_status: trio.TaskStatus[list[str]]) -> Awaitable[None]: ...


@asynccontextmanager
async def serving(serve: Serve) -> AsyncGenerator[str, None]:
    """Run it in the background; yields the one endpoint that it serves at.

    What the block raises comes out as it is.
    """
    failure: BaseException | None = None
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (bound,) = await nursery.start(serve)
            try:
                yield bound
            except BaseException as error:  # noqa: ASYNC103
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
