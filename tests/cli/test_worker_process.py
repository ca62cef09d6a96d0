"""One worker: how it is started, what it is told, and what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_mcp_transport import ConfigurationError
from trio_mcp_transport.cli import worker_process as module
from trio_mcp_transport.cli.running import Shutdown, run
from trio_mcp_transport.cli.worker_process import (
    Orders,
    Post,
    Worker,
    WorkerFailed,
    enlist,
    how_ended,
    start_worker,
    worker_command,
)
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.worker_seat import WorkerSeat

pytestmark = [
    pytest.mark.cli,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no workers"),
]

PATIENCE = 60.0


def orders(directory: str = "/nowhere") -> Orders:
    return Orders(number=7, directory=directory, state_key=b"", listening=[])


def program(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


# -- its start ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("pass", "ended before it was ready (exit status 0)", 0),
        ("raise SystemExit(2)", "ended before it was ready (exit status 2)", 2),
        ("import os; os.kill(os.getpid(), 9)", "ended before it was ready (SIGKILL)", -9),
    ],
)
async def test_one_that_ends_before_it_is_ready_is_told_with_how(
    code: str, reason: str, status: int
) -> None:
    with trio.fail_after(PATIENCE), pytest.raises(WorkerFailed) as caught:
        await start_worker(program(code), orders())
    assert str(caught.value) == f"worker 7 {reason}"
    assert caught.value.status == status


async def test_one_that_is_only_slow_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START_SECONDS", 0.1)
    with trio.fail_after(PATIENCE), pytest.raises(WorkerFailed) as caught:
        await start_worker(program("import time; time.sleep(600)"), orders())
    assert str(caught.value) == "worker 7 was not ready within 0.1 seconds"
    assert caught.value.status is None


def test_a_signal_is_told_by_its_name_if_it_has_one() -> None:
    assert [how_ended(status) for status in (3, -15, -63)] == [
        "exit status 3",
        "SIGTERM",
        "signal 63",
    ]


@pytest.mark.parametrize("text", ["99999999999999999999999", "-1", "x", ""])
def test_a_variable_that_makes_no_sense_is_no_fault_of_the_program(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_MCP_WORKER", text)
    with pytest.raises(ConfigurationError, match="TRIO_MCP_WORKER is set by `serve --workers`"):
        enlist()


def test_a_worker_is_an_interpreter_with_the_same_options() -> None:
    options = ["-O", "-O", "-B", "-s", "-E", "-X", "utf8", "-X", "pycache_prefix=/x", "-We"]
    code = (
        "import msgspec, sys\n"
        "from trio_mcp_transport.cli.worker_process import worker_command\n"
        "sys.stdout.buffer.write(msgspec.json.encode(worker_command(['serve'], None)))\n"
    )
    out = subprocess.run(
        [sys.executable, *options, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        check=True,
        capture_output=True,
    ).stdout
    line = msgspec.json.decode(out, type=list[str])
    found = line[1 : line.index("-m")]
    assert [option for option in found if option != "-P"] == [
        "-B",
        "-E",
        "-s",
        "-O",
        "-O",
        "-X",
        "utf8",
        "-X",
        "pycache_prefix=/x",
        "-We",
    ]


def test_a_directory_that_was_removed_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    assert "-P" in worker_command(["serve"], None)


# -- what it is told ---------------------------------------------------------------------


@asynccontextmanager
async def seen_from_outside(control: socket.socket) -> AsyncGenerator[Worker, None]:
    process = await trio.lowlevel.open_process(program("pass"))
    try:
        yield Worker(7, process, [], SocketStream(control))
    finally:
        with trio.CancelScope(shield=True):
            await process.wait()


def run_worker(script: Callable[[Worker, Shutdown], Awaitable[None]]) -> tuple[int, bool]:
    """Run what a command is as a worker, under a script that lets go of it in the end.

    Returns:
        Its exit status, and whether the script came to its end: it was not aborted.
    """
    ours, theirs = socket.socketpair()
    post = Post(orders(), theirs, WorkerSeat(7, "/nowhere", {}))
    whole = False

    async def main(shutdown: Shutdown) -> int:
        nonlocal whole
        with trio.fail_after(PATIENCE):
            async with seen_from_outside(ours) as worker, trio.open_nursery() as nursery:
                nursery.start_soon(post.watch, shutdown)
                await wait_all_tasks_blocked()
                await script(worker, shutdown)
                await wait_all_tasks_blocked()
                whole = True
                nursery.cancel_scope.cancel()
        return 0

    with ours, theirs:
        return run(main), whole


TERMINATED = 128 + signal.SIGTERM


def test_it_ends_in_good_order_when_it_is_told_to_and_any_signals_change_nothing() -> None:
    async def script(worker: Worker, shutdown: Shutdown) -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            worker.end()
            await shutdown.requested.wait()
            await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    assert run_worker(script) == (TERMINATED, True)


@pytest.mark.parametrize("told_before", [False, True])
def test_it_aborts_when_it_is_told_to_whatever_was_before(told_before: bool) -> None:
    async def script(worker: Worker, shutdown: Shutdown) -> None:
        if told_before:
            worker.end()
        worker.abort()
        await trio.sleep_forever()

    assert run_worker(script) == (TERMINATED, False)


def test_without_a_supervisor_it_ends_and_a_signal_after_that_aborts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def ends(worker: Worker, shutdown: Shutdown) -> None:
        await worker.wait()  # closes the supervisor's side
        worker.end()  # which goes nowhere
        await shutdown.requested.wait()
        await wait_all_tasks_blocked()

    async def aborts(worker: Worker, shutdown: Shutdown) -> None:
        await ends(worker, shutdown)
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    assert run_worker(ends) == (TERMINATED, True)
    assert "the supervisor has ended, and so does this" in capsys.readouterr().err
    assert run_worker(aborts) == (TERMINATED, False)


# -- what it leaves ----------------------------------------------------------------------


@pytest.fixture
def directory() -> Generator[Path, None, None]:
    # A socket's path is short; those of tests are not.
    with tempfile.TemporaryDirectory(prefix="w") as name:
        path = Path(name, "d")
        path.mkdir()
        yield path


def bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.mark.parametrize("told", [b"", b"e"])
def test_the_last_one_removes_what_the_supervisor_and_those_that_were_killed_have_left(
    directory: Path, told: bytes
) -> None:
    bind(directory / "1-x").close()
    with bind(directory / "2-x"):
        leave(directory, told)
        assert os.listdir(directory) == ["2-x"]  # it lives
    leave(directory, told)
    assert not directory.exists()


def leave(directory: Path, told: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.send(told)
    ours.close()
    Post(orders(str(directory)), theirs, WorkerSeat(7, str(directory), {})).close()
    assert theirs.fileno() == -1


def test_as_long_as_there_is_a_supervisor_it_is_the_one_that_tidies_up(directory: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        Post(orders(str(directory)), theirs, WorkerSeat(7, str(directory), {})).close()
    assert directory.exists()
