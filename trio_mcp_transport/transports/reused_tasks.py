"""Tasks that go on with the next job when they are done with one.

Used by the HTTP client's channel, which has a job for each request: to start a task and to
end it costs a tenth of what a request costs, and mostly the next job comes as soon as the one
before is done. A job runs as it would in a task of its own: with the context variables of
whoever started it, and with nothing left over from the job before.

A task that waits for a job holds its nursery open. So there are none but where somebody who
closes them owns the nursery as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Generic, TypeVar

import outcome
import trio

__all__ = ["ReusedTasks"]

T = TypeVar("T")

#: Tasks that wait for jobs, at most; after a burst, the others end. One is all that a program
#: needs that waits for each answer, and one that asks many things at a time has other costs.
_MAX_SPARE = 8


class ReusedTasks(Generic[T]):
    """Starts jobs in the tasks of a nursery.

    Args:
        work: Does a job; says whether the next one is likely to come soon, or else its task
            ends. It must not raise anything but what is to leave the nursery.
        nursery: Where they run.
        name: Their name.

    Attributes:
        keep: Whether tasks wait for further jobs, until `close`; at first they do not.
    """

    __slots__ = ("_name", "_nursery", "_spare", "_work", "keep")

    def __init__(
        self, work: Callable[[T], Awaitable[bool]], nursery: trio.Nursery, name: str
    ) -> None:
        self._work = work
        self._nursery = nursery
        self._name = name
        self._spare: list[trio.lowlevel.Task] = []
        self.keep = False

    # Between taking a task out and waking it nothing may come, such as `KeyboardInterrupt`.
    @trio.lowlevel.enable_ki_protection
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

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """End the tasks that have no job, and the others with the one that they have."""
        self.keep = False
        while self._spare:
            trio.lowlevel.reschedule(self._spare.pop(), outcome.Value(None))

    async def _run(self, job: T | None) -> None:
        while job is not None:
            more = await self._work(job)
            job = None  # it may hold much
            if not more or not self.keep or len(self._spare) >= _MAX_SPARE:
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
