"""Starting a server again: how often, after how long, and when not."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_mcp_transport import (
    ChannelEvent,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    RestartPolicy,
    run_with_restarts,
)

pytestmark = pytest.mark.process


class Server:
    """Something that can be opened; counts, and fails as told."""

    def __init__(self, *openings: Exception | None) -> None:
        self.openings = list(openings)
        self.times: list[float] = []
        self.open = 0

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[int, None]:
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        failure = self.openings.pop(0) if self.openings else None
        if failure is not None:
            raise failure
        self.open += 1
        try:
            yield len(self.times)
        finally:
            self.open -= 1


@pytest.mark.parametrize(
    ("restarts", "delay"), [(0, 0.5), (1, 1), (2, 2), (5, 16), (6, 20), (100, 20), (10**9, 20)]
)
def test_the_delay_doubles_up_to_its_limit(restarts: int, delay: float) -> None:
    assert RestartPolicy(max_restarts=math.inf, max_delay=20).delay(restarts) == delay


def test_there_is_no_delay_after_the_last_restart() -> None:
    policy = RestartPolicy(max_restarts=2)
    assert [policy.delay(n) for n in range(4)] == [0.5, 1.0, None, None]
    assert RestartPolicy(max_restarts=0).delay(0) is None


@pytest.mark.parametrize("name", ["max_restarts", "initial_delay", "max_delay", "steady_after"])
def test_a_negative_number_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        RestartPolicy(**{name: -1})
    with pytest.raises(ConfigurationError, match=name):
        RestartPolicy(**{name: math.nan})


@pytest.mark.parametrize("error", [ConnectionLost, trio.EndOfChannel])
async def test_an_unexpected_end_starts_it_again_with_growing_delays(
    autojump_clock: trio.testing.MockClock, error: type[Exception]
) -> None:
    server = Server()
    events: list[ChannelEvent] = []

    async def use(connection: int) -> str:
        await trio.lowlevel.checkpoint()
        if connection < 4:
            raise error(f"end {connection}")
        return f"done with {connection}"

    result = await run_with_restarts(server.connect, use, on_event=events.append)
    assert result == "done with 4"
    start = server.times[0]
    assert [time - start for time in server.times] == pytest.approx([0, 0.5, 1.5, 3.5])
    assert [event.name for event in events] == ["connection.restarting"] * 3
    assert "end 2" in events[1].message
    assert isinstance(events[1].error, error)
    assert server.open == 0


async def test_the_last_failure_comes_out_when_there_were_too_many(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server()

    async def use(connection: int) -> None:
        await trio.lowlevel.checkpoint()
        raise ConnectionLost(f"end {connection}")

    with pytest.raises(ConnectionLost, match="end 3"):
        await run_with_restarts(server.connect, use, RestartPolicy(max_restarts=2))
    assert len(server.times) == 3


async def test_a_server_that_never_started_is_not_tried_again() -> None:
    server = Server(ConnectFailed("no such program"))
    with pytest.raises(ConnectFailed, match="no such program"):
        await run_with_restarts(server.connect, trio.sleep)
    assert len(server.times) == 1


async def test_a_restart_that_fails_counts_as_one(autojump_clock: trio.testing.MockClock) -> None:
    server = Server(None, ConnectFailed("busy"), ConnectFailed("still busy"), None)

    async def use(connection: int) -> int:
        await trio.lowlevel.checkpoint()
        if connection == 1:
            raise ConnectionLost("end")
        return connection

    assert await run_with_restarts(server.connect, use) == 4


async def test_counting_begins_anew_after_a_steady_conversation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server()

    async def use(connection: int) -> int:
        await trio.sleep(100)
        if connection < 10:
            raise ConnectionLost("end")
        return connection

    assert await run_with_restarts(server.connect, use, RestartPolicy(max_restarts=1)) == 10


@pytest.mark.parametrize("error", [ValueError, trio.BrokenResourceError, ConnectFailed])
async def test_other_exceptions_pass_through(error: type[Exception]) -> None:
    server = Server()

    async def use(connection: int) -> None:
        await trio.lowlevel.checkpoint()
        raise error("not ours to repeat")

    with pytest.raises(error, match="not ours"):
        await run_with_restarts(server.connect, use)
    assert (len(server.times), server.open) == (1, 0)


async def test_cancelling_ends_the_wait_between_two_starts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server()

    async def use(connection: int) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel

    policy = RestartPolicy(initial_delay=1000, max_delay=1000)
    with trio.move_on_after(1) as scope:
        await run_with_restarts(server.connect, use, policy)
    assert scope.cancelled_caught
    assert (len(server.times), server.open) == (1, 0)
