"""Tasks that go on with the next job."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
import trio
import trio.testing

from trio_mcp_transport.transports import reused_tasks
from trio_mcp_transport.transports.reused_tasks import ReusedTasks

_WHO: ContextVar[str] = ContextVar("_WHO", default="nobody")

_KEPT: ContextVar[object] = ContextVar("_KEPT")


class _Job:
    """What a job saw, and when it may end."""

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.who = ""
        self.may_end = trio.Event()
        self.cancelled = False
        self.more = True


async def _work(job: _Job) -> bool:
    job.task = trio.lowlevel.current_task()
    job.who = _WHO.get()
    _WHO.set("the job before")
    try:
        await job.may_end.wait()
    except trio.Cancelled:
        job.cancelled = True
        raise
    return job.more


@asynccontextmanager
async def kept() -> AsyncGenerator[tuple[ReusedTasks[_Job], trio.Nursery], None]:
    """Tasks that are kept, in a nursery that is left when they are closed."""
    with trio.fail_after(10):  # noqa: ASYNC100 (what is in the block waits)
        async with trio.open_nursery() as nursery:
            tasks = ReusedTasks(_work, nursery, "a job")
            tasks.keep = True
            try:
                yield tasks, nursery
            finally:
                tasks.close()


async def _finished(tasks: ReusedTasks[_Job], count: int = 1) -> list[_Job]:
    """Jobs that were done at the same time."""
    jobs = [_Job() for _ in range(count)]
    for job in jobs:
        tasks.start_soon(job)
    await trio.testing.wait_all_tasks_blocked()
    for job in jobs:
        job.may_end.set()
    await trio.testing.wait_all_tasks_blocked()
    return jobs


async def test_the_next_job_runs_in_the_task_of_the_one_before() -> None:
    async with kept() as (tasks, _):
        (first,) = await _finished(tasks)
        (second,) = await _finished(tasks)
        assert first.task is second.task
        assert first.task is not None
        assert first.task.name == "a job"


async def test_unless_they_are_to_be_kept_tasks_end_with_their_job() -> None:
    async with trio.open_nursery() as nursery:
        tasks = ReusedTasks(_work, nursery, "a job")
        await _finished(tasks, 2)
        assert not nursery.child_tasks


async def test_jobs_at_the_same_time_have_tasks_of_their_own() -> None:
    async with kept() as (tasks, _):
        jobs = await _finished(tasks, 3)
        assert len({job.task for job in jobs}) == 3


async def test_a_job_has_the_context_of_whoever_started_it() -> None:
    async with kept() as (tasks, _):
        token = _WHO.set("one caller")
        (first,) = await _finished(tasks)
        _WHO.set("another")
        (second,) = await _finished(tasks)
        _WHO.reset(token)
        assert (first.who, second.who) == ("one caller", "another")
        assert second.task is first.task


async def test_after_a_burst_most_tasks_end() -> None:
    async with kept() as (tasks, nursery):
        await _finished(tasks, reused_tasks._MAX_SPARE + 5)
        assert len(nursery.child_tasks) == reused_tasks._MAX_SPARE


async def test_a_task_ends_after_a_job_that_is_not_likely_to_be_followed() -> None:
    async with kept() as (tasks, nursery):
        job = _Job()
        job.more = False
        tasks.start_soon(job)
        job.may_end.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_close_lets_the_nursery_end_and_what_is_at_work_finish() -> None:
    async with kept() as (tasks, nursery):
        await _finished(tasks, 2)
        last = _Job()
        tasks.start_soon(last)
        await trio.testing.wait_all_tasks_blocked()
        tasks.close()
        await trio.testing.wait_all_tasks_blocked()
        assert {last.task} == nursery.child_tasks
        last.may_end.set()
    assert not last.cancelled


async def test_a_cancelled_nursery_ends_idle_tasks_and_what_is_at_work() -> None:
    async with kept() as (tasks, nursery):
        await _finished(tasks, 2)
        last = _Job()
        tasks.start_soon(last)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert last.cancelled
    with pytest.raises(RuntimeError):
        tasks.start_soon(_Job())


async def test_a_job_given_to_a_task_as_its_nursery_is_cancelled_runs_to_its_first_wait() -> None:
    async with kept() as (tasks, nursery):
        await _finished(tasks)
        last = _Job()
        tasks.start_soon(last)
        nursery.cancel_scope.cancel()
    assert last.cancelled


async def test_what_a_job_raises_leaves_the_nursery() -> None:
    async def fail(_: _Job) -> bool:
        await trio.lowlevel.checkpoint()
        raise ValueError("broken")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="broken")):
        async with trio.open_nursery() as nursery:
            ReusedTasks(fail, nursery, "a job").start_soon(_Job())


async def test_an_idle_task_holds_nothing_of_its_jobs() -> None:
    async def keep(job: _Job) -> bool:
        await trio.lowlevel.checkpoint()
        _KEPT.set(job)
        return True

    async with trio.open_nursery() as nursery:
        tasks = ReusedTasks(keep, nursery, "a job")
        tasks.keep = True
        for _ in range(3):  # the first comes with its task, the others to it
            gone = weakref.ref((await _finished(tasks))[0])
            gc.collect()
            assert gone() is None
            assert len(nursery.child_tasks) == 1
        tasks.close()
