"""What the supervisor of ``serve --workers`` does when workers fail, with workers that are none."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_transport import ConfigurationError, TransportError, parse_endpoint
from trio_mcp_transport.cli import workers as module
from trio_mcp_transport.cli.running import Shutdown
from trio_mcp_transport.cli.worker_process import Orders, Worker, WorkerFailed
from trio_mcp_transport.cli.workers import Supervisor
from trio_mcp_transport.endpoints import MAX_SOCKET_PATH_BYTES
from trio_mcp_transport.transports.session_routes import SessionRoutes

pytestmark = [
    pytest.mark.cli,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no workers"),
]


class FakeWorker(Worker):
    """Lives until it is told to end, or for some seconds."""

    def __init__(self, number: int, lives: float) -> None:
        self.number = number
        self.endpoints = ["tcp://127.0.0.1:1"]
        self.ready_at = trio.current_time()
        self.lives = lives
        self.calls: list[str] = []
        self.ended = trio.Event()

    async def wait(self) -> int:
        with trio.move_on_after(self.ready_at + self.lives - trio.current_time()):
            await self.ended.wait()
        return -9

    def end(self) -> None:
        self.calls.append("end")
        self.ended.set()

    def abort(self) -> None:
        self.calls.append("abort")

    def kill(self) -> None:
        self.calls.append("kill")
        self.ended.set()


class Factory:
    """In place of `start_worker`.

    Attributes:
        made: All workers.
        tries: When it was tried to start one.
        lives: How long the worker with a number lives; None if it cannot start.
    """

    def __init__(self, lives: Callable[[int], float | None]) -> None:
        self.made: list[FakeWorker] = []
        self.tries: list[float] = []
        self.lives = lives

    async def __call__(self, command: Sequence[str], orders: Orders) -> Worker:
        await trio.lowlevel.checkpoint()
        self.tries.append(trio.current_time())
        lives = self.lives(orders.number)
        if lives is None:
            raise WorkerFailed(orders.number, 1)
        self.made.append(FakeWorker(orders.number, lives))
        return self.made[-1]


FOR_EVER = 1e9
TCP = parse_endpoint("tcp://127.0.0.1:0")


def supervisor(
    monkeypatch: pytest.MonkeyPatch, count: int, lives: Callable[[int], float | None]
) -> tuple[Supervisor, Factory]:
    factory = Factory(lives)
    monkeypatch.setattr(module, "start_worker", factory)
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    return Supervisor(["none"], [TCP], count, 30.0), factory


async def test_those_that_always_die_are_given_up(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    supervised, factory = supervisor(monkeypatch, 1, lambda _: 1.0)
    with pytest.raises(TransportError, match="ended 8 times in a row"):
        await supervised.run(Shutdown())
    gaps = [round(b - a - 1.0, 3) for a, b in zip(factory.tries, factory.tries[1:], strict=False)]
    assert gaps == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8]


async def test_as_long_as_another_serves_they_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    supervised, factory = supervisor(
        monkeypatch, 2, lambda number: FOR_EVER if number == 1 else None if number > 2 else 5.0
    )
    shutdown = Shutdown()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervised.run, shutdown)
        await trio.sleep(600)
        tries = len(factory.tries)
        assert 20 < tries < 30  # ever 30 seconds
        shutdown.request(signal.SIGTERM)
    assert len(factory.tries) == tries
    assert factory.made[0].calls == ["end"]


async def test_one_that_has_lived_for_long_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    supervised, factory = supervisor(monkeypatch, 1, lambda _: 100.0)
    shutdown = Shutdown()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervised.run, shutdown)
        await trio.sleep(1000)
        assert len(factory.tries) == 10
        shutdown.request(signal.SIGTERM)


async def test_a_first_worker_that_cannot_start_is_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    supervised, factory = supervisor(monkeypatch, 4, lambda _: None)
    assert await supervised.run(Shutdown()) == 1
    assert len(factory.tries) == 1
    assert "worker 1 ended before it was ready (exit status 1)" in capsys.readouterr().err


async def test_a_reload_that_fails_keeps_those_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    supervised, factory = supervisor(monkeypatch, 2, lambda n: FOR_EVER if n != 4 else None)
    shutdown = Shutdown()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervised.run, shutdown)
            while len(factory.made) < 2:
                await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGHUP)
            while "those before go on" not in capsys.readouterr().err:
                await trio.testing.wait_all_tasks_blocked()
            # One was replaced before it was found out.
            assert [each.calls for each in factory.made] == [["end"], [], []]
            shutdown.request(signal.SIGTERM)
    assert [each.calls for each in factory.made] == [["end"], ["end"], ["end"]]


async def test_those_that_do_not_end_are_told_again_and_then_killed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    supervised, factory = supervisor(monkeypatch, 1, lambda _: FOR_EVER)
    monkeypatch.setattr(FakeWorker, "end", lambda self: self.calls.append("end"))
    shutdown = Shutdown()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervised.run, shutdown)
        await trio.sleep(1)
        shutdown.request(signal.SIGTERM)
        begun = trio.current_time()
    assert factory.made[0].calls == ["end", "abort", "kill"]
    assert 45 <= trio.current_time() - begun < 46


async def test_an_old_one_that_hangs_is_told_to_abort_and_then_killed(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    supervised, factory = supervisor(monkeypatch, 1, lambda _: FOR_EVER)
    monkeypatch.setattr(FakeWorker, "end", lambda self: self.calls.append("end"))
    shutdown = Shutdown()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervised.run, shutdown)
        await trio.sleep(1)
        signal.raise_signal(signal.SIGHUP)
        await trio.sleep(39)
        old, new = factory.made
        assert old.calls == ["end"]
        await trio.sleep(3)
        assert old.calls == ["end", "abort"]
        assert "worker 1 has not ended in 40 seconds: aborting" in capsys.readouterr().err
        await trio.sleep(4)
        assert old.calls == ["end", "abort", "kill"]
        assert "worker 1 has ended before it was done (SIGKILL)" in capsys.readouterr().err
        assert new.calls == []
        shutdown.request(signal.SIGTERM)
    assert len(factory.made) == 2


async def test_one_that_was_only_slow_is_told_as_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    supervised, _ = supervisor(monkeypatch, 1, lambda _: None)

    async def slow(command: Sequence[str], orders: Orders) -> Worker:
        await trio.lowlevel.checkpoint()
        raise WorkerFailed(orders.number, None)

    monkeypatch.setattr(module, "start_worker", slow)
    assert await supervised.run(Shutdown()) == 1
    assert "worker 1 was not ready within 120 seconds" in capsys.readouterr().err


async def test_one_that_no_process_can_be_started_for_is_an_error_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervised, _ = supervisor(monkeypatch, 1, lambda _: None)

    async def fails(command: Sequence[str], orders: Orders) -> Worker:
        await trio.lowlevel.checkpoint()
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(module, "start_worker", fails)
    with pytest.raises(BlockingIOError):
        await supervised.run(Shutdown())


@pytest.fixture
def long_directory(monkeypatch: pytest.MonkeyPatch) -> Generator[str, None, None]:
    """A directory for temporary files that is too long for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="w") as short:
        path = os.path.join(short, "d" * 80)
        os.mkdir(path)
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield path
        assert os.listdir(path) == []


async def test_the_sockets_of_workers_have_paths_that_are_short_enough(
    monkeypatch: pytest.MonkeyPatch, long_directory: str
) -> None:
    supervised, _ = supervisor(monkeypatch, 1, lambda _: FOR_EVER)
    directories: list[str] = []

    async def start(command: Sequence[str], orders: Orders) -> Worker:
        await trio.lowlevel.checkpoint()
        directories.append(orders.directory)
        raise WorkerFailed(orders.number, 1)

    monkeypatch.setattr(module, "start_worker", start)
    assert await supervised.run(Shutdown()) == 1
    (directory,) = directories
    assert directory.startswith("/tmp/trio-mcp-")
    longest = SessionRoutes(directory, 1, "http://x/mcp", None).path(999_999_999)
    assert len(os.fsencode(longest)) <= MAX_SOCKET_PATH_BYTES
    with pytest.raises(FileNotFoundError):
        os.lstat(directory)


async def test_no_place_for_the_sockets_is_told_before_any_worker_is_started(
    monkeypatch: pytest.MonkeyPatch, long_directory: str
) -> None:
    supervised, factory = supervisor(monkeypatch, 1, lambda _: FOR_EVER)
    monkeypatch.setattr(module, "_FALLBACK", long_directory)
    with pytest.raises(ConfigurationError, match=r"at most \d+ bytes: set TMPDIR to another place"):
        await supervised.run(Shutdown())
    assert factory.tries == []


def test_a_directory_is_used_up_to_the_last_byte_of_what_a_socket_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(prefix="w") as short:
        name = len("/trio-mcp-12345678")
        room = MAX_SOCKET_PATH_BYTES - len("/999999999-0123456789abcdef") - name
        fits = os.path.join(short, "x" * (room - len(short) - 1))
        for path, used in ((fits, fits), (fits + "x", "/tmp")):
            os.mkdir(path)
            monkeypatch.setattr(tempfile, "tempdir", path)
            made = module._make_directory()
            os.rmdir(made)
            assert os.path.dirname(made) == used
