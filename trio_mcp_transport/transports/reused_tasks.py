"""Tasks that go on with the next job when they are done with one.

Used by the HTTP client's channel, which has a job for each request: to start a task and to
end it costs a tenth of what a request costs, and mostly the next job comes as soon as the one
before is done. A job runs as it would in a task of its own: with the context variables of
whoever started it, and with nothing left over from the job before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Generic, TypeVar

import outcome
import trio

__all__ = ["ReusedTasks"]

T = TypeVar("T")

#: That many tasks are kept for jobs to come; after a burst, the others end.
_MAX_SPARE = 8


class ReusedTasks(Generic[T]):
    """Starts jobs in the tasks of a nursery.

    Idle ones keep that nursery's block from ending, until `close` or its cancellation.

    Args:
        work: Does a job; says whether the next one is likely to come soon, or else its task
            ends. It must not raise anything but what is to leave the nursery.
        nursery: Where they run.
        name: Their name.
    """

    __slots__ = ("_closed", "_name", "_nursery", "_spare", "_work")

    def __init__(
        self, work: Callable[[T], Awaitable[bool]], nursery: trio.Nursery, name: str
    ) -> None:
        self._work = work
        self._nursery = nursery
        self._name = name
        self._spare: list[trio.lowlevel.Task] = []
        self._closed = False

    def start_soon(self, job: T) -> None:
        """Do a job soon, in the context of the caller. See `trio.Nursery.start_soon`.

        Raises:
            RuntimeError: A new task is needed, and the nursery has ended.
        """
        if self._spare:
            task = self._spare.pop()
            task.context = copy_context()
            trio.lowlevel.reschedule(task, outcome.Value(job))
        else:
            self._nursery.start_soon(self._run, job, name=self._name)

    def close(self) -> None:
        """End the tasks that have no job, and the others with the one that they have."""
        self._closed = True
        while self._spare:
            trio.lowlevel.reschedule(self._spare.pop(), outcome.Value(None))

    async def _run(self, job: T | None) -> None:
        while job is not None:
            more = await self._work(job)
            job = None  # it may hold much
            if not more or self._closed or len(self._spare) >= _MAX_SPARE:
                return
            job = await self._next_job()

    async def _next_job(self) -> T | None:
        task = trio.lowlevel.current_task()
        self._spare.append(task)
        task.context = Context()  # the last job's may hold much

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._spare.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        job: T | None = await trio.lowlevel.wait_task_rescheduled(give_up)
        return job
