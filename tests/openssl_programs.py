"""OpenSSL's own client and server, and curl, as peers that nobody here wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

#: Seconds that no test reaches unless something hangs.
PATIENCE = 30.0

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")

_LISTENING = re.compile(rb"ACCEPT [^\n]*:(\d+)\n")


@dataclass
class Ended:
    """What became of a program."""

    status: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        return self.output + self.errors


async def run(*command: str, stdin: bytes = b"") -> Ended:
    """Run a program to its end, whatever its status."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


async def s_client(port: int, *options: str, stdin: bytes = b"hello\n") -> Ended:
    """Connect with `openssl s_client` and send something; ends when the server has."""
    address = f"127.0.0.1:{port}"
    return await run("openssl", "s_client", "-connect", address, "-ign_eof", *options, stdin=stdin)


@asynccontextmanager
async def s_server(*options: str) -> AsyncGenerator[int, None]:
    """A running `openssl s_server`, which turns each line round; gives its port."""
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-rev", *options]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(_start, command)
        try:
            with trio.fail_after(PATIENCE):
                yield await _port(process)
        finally:
            process.kill()


async def _start(command: Sequence[str], *, task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        task_status=task_status,
    )


async def _port(process: trio.Process) -> int:
    printed = b""
    assert process.stdout is not None
    while (match := _LISTENING.search(printed)) is None:
        chunk = await process.stdout.receive_some()
        assert chunk, "openssl s_server did not start"
        printed += chunk
    return int(match[1])
