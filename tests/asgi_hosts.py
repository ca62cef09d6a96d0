"""Servers of others that run ASGI applications, as processes, and as fixtures."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

TESTS = Path(__file__).parent
#: How each is started; ``{fd}`` is a listening socket.
HOSTS = {
    "uvicorn": ["uvicorn", "--fd", "{fd}", "--timeout-graceful-shutdown", "1"],
    "hypercorn-trio": ["hypercorn", "-k", "trio", "-b", "fd://{fd}", "--graceful-timeout", "1"],
    "hypercorn-asyncio": ["hypercorn", "-b", "fd://{fd}", "--graceful-timeout", "1"],
}


@dataclass
class Host:
    """A server that runs.

    Attributes:
        name: Which one.
        origin: ``http://127.0.0.1:PORT``.
        process: Its process.
        log: What it writes to stderr and stdout.
    """

    name: str
    origin: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @property
    def url(self) -> str:
        return f"{self.origin}/mcp"

    def stop(self) -> str:
        """Tell it to end and wait until it has; what it wrote."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
        self.log.seek(0)
        return self.log.read().decode()


@contextmanager
def hosting(name: str, app: str, directory: Path, cwd: Path = TESTS) -> Generator[Host]:
    """Run ``MODULE:NAME`` under one of `HOSTS`. Connections are taken at once."""
    program = HOSTS[name][0]
    if importlib.util.find_spec(program) is None:
        pytest.skip(f"{program} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener, (directory / "log").open("w+b") as log:
        fd = listener.fileno()
        arguments = [part.format(fd=fd) for part in HOSTS[name][1:]]
        process = subprocess.Popen(
            [sys.executable, "-m", program, *arguments, app],
            pass_fds=[fd],
            stdout=log,
            stderr=log,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(cwd)},
        )
        host = Host(name, f"http://127.0.0.1:{listener.getsockname()[1]}", process, log)
        try:
            yield host
        finally:
            host.stop()


@pytest.fixture(scope="module", params=HOSTS)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """`asgi_served` under each of them."""
    with hosting(request.param, "asgi_served:app", tmp_path_factory.mktemp("asgi")) as found:
        yield found
