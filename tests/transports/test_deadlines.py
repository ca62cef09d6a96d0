"""Many timeouts kept by one task."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_transport.transports.deadlines import Deadlines


@asynccontextmanager
async def running() -> AsyncGenerator[Deadlines, None]:
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.testing.wait_all_tasks_blocked()
        yield deadlines  # ruff: ignore[fallible-context-manager] (a failed test has no more to do)
        nursery.cancel_scope.cancel()


def note(times: list[float]) -> Callable[[], None]:
    return lambda: times.append(trio.current_time())


async def test_each_timer_is_called_once_at_its_time(autojump_clock: MockClock) -> None:
    async with running() as deadlines:
        times: list[float] = []
        for due in (5.0, 2.0, 9.0, 2.0):
            deadlines.timer(note(times)).set(due)
        await trio.sleep(20)
        assert times == pytest.approx([2, 2, 5, 9])
        assert len(deadlines) == 0


@pytest.mark.parametrize("moves", [[8.0], [3.0], [8.0, 3.0], [3.0, 8.0], [3.0, 8.0, 4.0, 6.0]])
async def test_what_counts_is_where_the_deadline_was_moved_last(
    moves: list[float], autojump_clock: MockClock
) -> None:
    async with running() as deadlines:
        times: list[float] = []
        timer = deadlines.timer(note(times))
        timer.set(5)
        for due in moves:
            await trio.sleep(0.1)
            timer.set(due)
        await trio.sleep(20)
        assert times == pytest.approx([moves[-1]])
        assert len(deadlines) == 0


async def test_a_deadline_that_moves_later_and_later_occupies_one_place(
    autojump_clock: MockClock,
) -> None:
    async with running() as deadlines:
        times: list[float] = []
        timer = deadlines.timer(note(times))
        for _ in range(1000):
            timer.set(trio.current_time() + 5)
            await trio.sleep(1)
            assert len(deadlines) == 1
        await trio.sleep(10)
        assert times == pytest.approx([1004])


async def test_a_timer_without_a_deadline_is_never_called(autojump_clock: MockClock) -> None:
    async with running() as deadlines:
        times: list[float] = []
        timer = deadlines.timer(note(times))
        timer.set(5)
        timer.set(math.inf)
        await trio.sleep(100)
        assert times == []
        timer.set(150)
        await trio.sleep(100)
        assert times == pytest.approx([150])


async def test_a_closed_timer_is_never_called_and_lets_go_of_its_callback(
    autojump_clock: MockClock,
) -> None:
    class Connection:
        def expire(self) -> None:
            raise AssertionError("closed")

    async with running() as deadlines:
        connection = Connection()
        timer = deadlines.timer(connection.expire)
        timer.set(5)
        timer.close()
        timer.close()
        timer.set(6)
        gone = weakref.ref(connection)
        del connection
        gc.collect()
        assert gone() is None
        await trio.sleep(10)
        assert len(deadlines) == 0


async def test_ten_thousand_closed_timers_leave_no_entries_though_their_time_is_far(
    autojump_clock: MockClock,
) -> None:
    async with running() as deadlines:
        times: list[float] = []
        deadlines.timer(note(times)).set(1000)
        for _ in range(10_000):
            timer = deadlines.timer(note([]))
            timer.set(500)
            timer.close()
        assert len(deadlines._heap) < 200
        await trio.sleep(2000)
        assert times == pytest.approx([1000])


async def test_timers_that_were_moved_earlier_and_closed_leave_none_either(
    autojump_clock: MockClock,
) -> None:
    async with running() as deadlines:
        for _ in range(10_000):
            timer = deadlines.timer(lambda: None)
            for due in (600.0, 60.0, 15.0):
                timer.set(trio.current_time() + due)
            timer.close()
        assert len(deadlines._heap) < 1000


async def test_a_callback_may_set_close_and_make_timers(autojump_clock: MockClock) -> None:
    async with running() as deadlines:
        times: list[float] = []
        doomed = [deadlines.timer(note([])) for _ in range(200)]
        for timer in doomed:
            timer.set(300)

        def again() -> None:
            times.append(trio.current_time())
            for timer in doomed:
                timer.close()
            if len(times) < 3:
                first.set(trio.current_time() + 10)
            deadlines.timer(note(times)).set(100)

        first = deadlines.timer(again)
        first.set(10)
        await trio.sleep(200)
        assert times == pytest.approx([10, 20, 30, 100, 100, 100])


async def test_a_callback_that_fails_is_told_and_the_others_are_called_all_the_same(
    autojump_clock: MockClock,
) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    errors: list[Exception] = []
    times: list[float] = []
    deadlines = Deadlines(errors.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        deadlines.timer(fail).set(1)
        deadlines.timer(note(times)).set(1)
        deadlines.timer(note(times)).set(2)
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert times == pytest.approx([1, 2])
    assert [str(error) for error in errors] == ["boom"]
