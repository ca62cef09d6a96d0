"""One fresh process of a benchmark: ``python -m trio_mcp_transport.cli.bench.worker TASK``.

A measurer prints one number: seconds per operation, or bytes where memory is measured. A
server serves until its stdin ends.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import trio

from . import memory
from .available import TooFewDescriptors, allow_descriptors
from .cases import OVER_HTTP, Task
from .timing import seconds_per_operation

Work = Callable[[int], Awaitable[None]]

#: A batch in which every client starts and ends is longer, so that this is not what counts.
_CLIENTS_BATCH_SECONDS = 0.2


class _Side(Protocol):
    """What each contestant's module offers."""

    def client(self, task: Task) -> AbstractAsyncContextManager[Work]: ...

    async def serve(self, task: Task) -> None: ...


def _side(task: Task) -> _Side:
    """The contestant's module; each process imports only the one it needs."""
    over_http = task.transport in OVER_HTTP
    if task.contestant in {"trio-websocket", "websockets.trio"}:
        from . import websocket_peers

        return websocket_peers
    if task.contestant == "sdk":
        if over_http:
            from . import http_sdk

            return http_sdk
        from . import sdk

        return sdk
    if task.contestant == "ours":
        if over_http:
            from . import http_ours

            return http_ours
        from . import ours

        return ours
    if over_http:
        from . import http_floor

        return http_floor
    from . import floor

    return floor


async def _measure(task: Task) -> float:
    if task.work == "memory-idle":
        return await memory.bytes_per_idle_connection(task)
    if task.work == "memory-growth":
        return await memory.growth_in_bytes(task)
    async with _side(task).client(task) as work:
        if task.work != "many-clients":
            return await seconds_per_operation(work, seconds=task.seconds, warm_up=task.warm_up)
        each = await seconds_per_operation(
            work,
            seconds=task.seconds,
            warm_up=task.warm_up,
            batch_seconds=_CLIENTS_BATCH_SECONDS,
        )
        return each / task.connections


async def _main(task: Task) -> None:
    try:
        allow_descriptors(task.transport, task.connections)
    except TooFewDescriptors as error:
        sys.exit(str(error))
    if task.role == "serve":
        await _side(task).serve(task)
    else:
        print(await _measure(task), flush=True)  # ruff: ignore[print] (read by the run)


if __name__ == "__main__":
    trio.run(_main, msgspec.json.decode(sys.argv[1], type=Task))
