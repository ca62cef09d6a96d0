"""`trio-mcp` as a real process, for the tests of the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

#: For everything that a test waits for. A machine under load gets much more than it needs.
PATIENCE = 60.0

#: What the command reads from the environment; a test sets it or goes without.
_VARIABLES = (
    "TRANSPORT",
    "MCP_STDIO_CONFIG",
    "MCP_STDIOTRANSPORT_TIMEOUT_MS",
    "MCP_KEEPALIVE_MS",
    "MCP_LOG_LEVEL",
)

INITIALIZE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
    b'"capabilities":{},"clientInfo":{"name":"test","version":"1"}}}\n'
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trio_mcp_transport", *arguments]


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    return kept | dict(variables or {})


@dataclass(frozen=True)
class Finished:
    """What came of a command."""

    status: int
    out: bytes
    err: str

    @property
    def messages(self) -> list[dict[str, object]]:
        """What was written to stdout, as JSON lines."""
        decode = msgspec.json.Decoder(dict[str, object]).decode
        return [decode(line) for line in self.out.splitlines()]


async def run_cli(
    *arguments: str,
    stdin: bytes = b"",
    variables: Mapping[str, str] | None = None,
    program: Sequence[str] | None = None,
) -> Finished:
    """Run a command to its end."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command(*arguments) if program is None else program,
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(variables),
        )
    return Finished(done.returncode, done.stdout, done.stderr.decode())


class Running:
    """A command that runs, with its stdin, stdout and stderr as pipes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.pid = process.pid
        self._err = b""
        self._out = b""

    async def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def close_stdin(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def read_line(self) -> bytes:
        """One line of stdout; empty at its end."""
        assert self.process.stdout is not None
        while b"\n" not in self._out:
            chunk = await self.process.stdout.receive_some()
            if not chunk:
                line, self._out = self._out, b""
                return line
            self._out += chunk
        line, _, self._out = self._out.partition(b"\n")
        return line

    async def wait_err(self, pattern: str) -> re.Match[str]:
        """Wait until something is told on stderr."""
        assert self.process.stderr is not None
        while (found := re.search(pattern, self._err.decode(errors="replace"))) is None:
            chunk = await self.process.stderr.receive_some()
            assert chunk, f"stderr ended without {pattern!r}: {self._err.decode()}"
            self._err += chunk
        return found

    async def wait_listening(self, scheme: str = "tcp") -> str:
        """The endpoint that it listens at."""
        return (await self.wait_err(rf"listening on ({scheme}:\S+)\n"))[1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def finish(self) -> Finished:
        """Wait until it ends; what was left on its stdout and stderr."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain_err)
            while chunk := await self.process.stdout.receive_some():
                self._out += chunk
        status = await self.process.wait()
        return Finished(status, self._out, self._err.decode(errors="replace"))

    async def _drain_err(self) -> None:
        assert self.process.stderr is not None
        while chunk := await self.process.stderr.receive_some():
            self._err += chunk


@asynccontextmanager
async def running(
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    program: Sequence[str] | None = None,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
) -> AsyncGenerator[Running, None]:
    """Start a command, which must end by itself or when it is told to, within `PATIENCE`."""
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            command(*arguments) if program is None else program,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment(variables),
        )
        try:
            yield Running(process)
            if process.poll() is None:
                process.terminate()
                await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                if process.poll() is None:
                    process.kill()
                    await process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream is not None:
                        await stream.aclose()


#: A stdio server that needs no time to start: writes its process id to the file that it is
#: given, then answers each line with the line.
ECHO_SERVER = (
    "import os, sys\n"
    "path = sys.argv[1]\n"
    "with open(path + '.new', 'w') as file: file.write(str(os.getpid()))\n"
    "os.rename(path + '.new', path)\n"
    "for line in sys.stdin.buffer:\n"
    "    os.write(1, line)\n"
)


def echo_server(pid_file: Path) -> list[str]:
    """The command line of an echo server."""
    return [sys.executable, "-I", "-S", "-c", ECHO_SERVER, str(pid_file)]


async def wait_gone(pid: int) -> None:
    """Wait until a process that is nobody's or somebody else's child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
