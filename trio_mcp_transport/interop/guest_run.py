"""Trio inside of an asyncio program: one guest run per event loop, and calls both ways.

Used by `asgi` where the server runs on asyncio, and by nothing else: importing this imports
asyncio. Theory of operation: in guest mode Trio's tasks run as callbacks of the host's loop,
in the same thread; only the wait for I/O is a thread's. So either side may call the other's
synchronous functions directly (`Nursery.start_soon`, `trio.Event.set`, `Task.cancel`), and
nothing needs a lock. A thread can have one run at a time, so all users of a loop share
it; it ends with the last of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import trio
from outcome import Error, Outcome

from ..errors import LocalProtocolError

__all__ = ["GuestRun", "call_host"]

P = ParamSpec("P")
T = TypeVar("T")

#: For which a call that was cancelled may go on. Whatever is written with care is done at once.
_CANCEL_SECONDS = 2.0


class GuestRun:
    """Trio on the loop that runs now. Get it from `enter`, and `leave` it once.

    Attributes:
        nursery: Where its tasks run; cancelled when the last user leaves.
    """

    nursery: trio.Nursery

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def enter(cls) -> GuestRun:
        """Start Trio on this loop, or join what is there. Called by asyncio.

        Raises:
            LocalProtocolError: A run of somebody else's is in this thread.
        """
        loop = asyncio.get_running_loop()
        run = _runs.get(loop)
        if run is None:
            if trio.lowlevel.in_trio_run():
                raise LocalProtocolError("Trio already runs in this thread as another's guest")
            run = _runs[loop] = cls(loop)
            run._start()
        run._users += 1
        try:
            await asyncio.shield(run._started)
        except BaseException:
            await run.leave()  # noqa: ASYNC102 (it waits through a cancellation)
            raise
        return run

    async def leave(self) -> None:
        """Be done with it; the last one ends it and waits for that. Called by asyncio.

        It is over then, also when this is cancelled meanwhile. Raises what ended it, if that
        was something else.
        """
        self._users -= 1
        if self._users == 0:
            _runs.pop(self._loop, None)
            self._scope.cancel()
            await _wait_through(self._ended)
            self._ended.result()

    def _start(self) -> None:
        self._scope = trio.CancelScope()
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=self._loop.call_soon,
            done_callback=self._done,
            # The loop has it, and Trio would take it away.
            host_uses_signal_set_wakeup_fd=True,
        )

    async def _main(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self.nursery:
                self._started.set_result(None)
                await trio.sleep_forever()

    def _done(self, outcome: Outcome[None]) -> None:
        _runs.pop(self._loop, None)
        if isinstance(outcome, Error):
            for future in (self._started, self._ended):
                if not future.done():
                    future.set_exception(outcome.error)
            # Whoever waits for it gets it; if nobody does, that is no second failure.
            self._started.exception()
        else:
            self._ended.set_result(None)

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function of Trio's, and wait for it. Called by asyncio.

        Cancelling this cancels the function, and waits until it has ended.

        Raises:
            trio.ClosedResourceError: The run has ended before the function had.
        """
        result: asyncio.Future[T] = self._loop.create_future()
        scope = trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    result.set_result(await function())
            except Exception as error:
                result.set_exception(error)
            finally:
                if not result.done():
                    result.cancel()

        self.nursery.start_soon(run, name="trio_mcp_transport guest call")
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if result.cancelled() and not _is_cancelled():
                raise trio.ClosedResourceError("Trio's run has ended") from None  # noqa: ASYNC104
            scope.cancel()
            await _wait_through(result)  # noqa: ASYNC102 (through a cancellation)
            raise


#: The run of each loop that has one.
_runs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, GuestRun] = weakref.WeakKeyDictionary()


def _is_cancelled() -> bool:
    """Whether somebody wants the present task to end, rather than what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _wait_through(future: asyncio.Future[T]) -> None:
    """Wait until it is done, however often this is cancelled; then be cancelled."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:  # noqa: ASYNC103 (raised below)
            cancelled = True
    if not future.cancelled():
        future.exception()  # looked at
    if cancelled:
        raise asyncio.CancelledError


def call_host(
    context: contextvars.Context, function: Callable[P, Awaitable[T]]
) -> Callable[P, Awaitable[T]]:
    """Make an async function of asyncio's one that Trio can await.

    Each call is a task of the host's. Cancelling the call cancels that task.

    Args:
        context: What the tasks run in: that of the host's request.
        function: The function.
    """
    loop = asyncio.get_running_loop()

    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        async def invoke() -> T:
            return await function(*args, **kwargs)

        # Not `loop.create_task`: a factory of eager tasks would run its first step right
        # here, inside of a task of Trio's.
        task = asyncio.Task(invoke(), loop=loop, context=context)
        done = trio.Event()
        task.add_done_callback(lambda _: done.set())
        try:
            await done.wait()
        except trio.Cancelled:
            task.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CANCEL_SECONDS):
                await done.wait()
            if task.done() and not task.cancelled():
                task.exception()  # looked at: nobody will ask any more
            raise
        if task.cancelled():
            # By the host, which is about to end: a cancellation of its means nothing here.
            raise trio.ClosedResourceError("the host has cancelled the call")
        return task.result()

    return call
