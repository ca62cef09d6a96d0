"""Starting the fresh processes that do the work, and reading what they tell.

Two levels: the run starts a *measurer* for each value, and a measurer starts the *server*
that it measures against. A server is told to stop by the end of its stdin, so it ends
with its measurer whatever happened to that.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from .cases import Task

__all__ = [
    "MeasurementFailed",
    "measure",
    "resident_bytes",
    "server_command",
    "started_server",
    "until_stdin_ends",
]

PACKAGE = __name__.partition(".")[0]
_WORKER = f"{__package__}.worker"
#: Start-up, warm-up and the longest work; only a process that hangs takes that long.
_MEASURER_SECONDS = 120.0
#: An import takes so long that few make a median.
_IMPORTS = 5


class MeasurementFailed(Exception):
    """A process gave no value; the text has the end of what it wrote to stderr."""


def _worker_command(task: Task) -> list[str]:
    return [sys.executable, "-m", _WORKER, msgspec.json.encode(task).decode()]


def server_command(task: Task) -> list[str]:
    """The command of the server for a measurer's task."""
    return _worker_command(msgspec.structs.replace(task, role="serve"))


async def measure(task: Task, directory: str, *, compile_anew: bool = True) -> float:
    """Let a fresh process do a task; return its value: seconds an operation, or bytes.

    If cancelled, the process is killed; its server sees that and ends.

    Args:
        task: What to do.
        directory: Of the run: for sockets and compiled modules.
        compile_anew: Whether modules are compiled for this run alone, so that what is
            compiled elsewhere is the same for all, namely nothing.

    Raises:
        MeasurementFailed: It failed or hung.
    """
    environment = dict(os.environ)
    if compile_anew:
        environment["PYTHONPYCACHEPREFIX"] = os.path.join(directory, "compiled")
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if task.http_engine:
        environment["TRIO_MCP_HTTP1_ENGINE"] = task.http_engine
    what = f"{task.contestant} {task.work} {task.transport}"
    if task.work == "import":
        return await _measure_import(task, environment, what)
    address = os.path.join(tempfile.mkdtemp(dir=directory), "socket")
    command = _worker_command(msgspec.structs.replace(task, address=address))
    return await _value_of(command, environment, what)


async def _measure_import(task: Task, environment: Mapping[str, str], what: str) -> float:
    """The median of a few; the first only compiles."""
    # Nothing may be imported before, so this is no worker.
    module = "trio" if task.contestant == "floor" else PACKAGE
    code = (
        "import time; start = time.perf_counter();"
        f" import {module}; print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    values = [await _value_of(command, environment, what) for _ in range(1 + _IMPORTS)]
    return statistics.median(values[1:])


async def _value_of(command: list[str], environment: Mapping[str, str], what: str) -> float:
    with trio.move_on_after(_MEASURER_SECONDS) as scope:
        done = await trio.run_process(
            command,
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment,
        )
    if scope.cancelled_caught:
        raise MeasurementFailed(f"{what}: no result in {_MEASURER_SECONDS:g} s")
    if done.returncode:
        # The last line of a traceback says what, and --debug shows nothing of other processes.
        lines = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise MeasurementFailed(f"{what}: exit status {done.returncode}: {' '.join(lines)}")
    try:
        return float(done.stdout)
    except ValueError as error:
        raise MeasurementFailed(f"{what}: {error}") from error


@asynccontextmanager
async def started_server(task: Task) -> AsyncGenerator[tuple[str, int], None]:
    """Start a socket server; gives the address it listens on and its process id."""
    process = await trio.lowlevel.open_process(
        server_command(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        told = bytearray()
        while not told.endswith(b"\n"):
            piece = await process.stdout.receive_some()
            if not piece:
                raise MeasurementFailed("the server ended before it listened")
            told += piece
        yield told.decode().strip(), process.pid
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            await process.stdout.aclose()
            process.kill()
            await process.wait()


async def until_stdin_ends() -> None:
    """Wait for the end of what nobody writes."""
    await trio.lowlevel.wait_readable(0)


def resident_bytes(process_id: int) -> int:
    """How much memory of a process is in use (Linux)."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
