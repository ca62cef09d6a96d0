"""The log of the commands: whoever does not read it holds up nobody."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
from cli_process import running

from trio_mcp_transport.cli import log_writer
from trio_mcp_transport.cli.log_writer import LogWriter

pytestmark = [
    pytest.mark.cli,
    pytest.mark.hardening,
    pytest.mark.skipif(sys.platform != "linux", reason="a pipe that is opened again"),
]

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


def fill(descriptor: int) -> None:
    """Fill a pipe, through a description of its own that does not wait."""
    writer = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for size in (65536, 4096, 1):
            while True:
                try:
                    os.write(writer, b"x" * size)
                except BlockingIOError:
                    break
    finally:
        os.close(writer)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def log_writer_of(descriptor: int) -> LogWriter:
    with open(descriptor, "w", closefd=False) as stream:
        return LogWriter(stream)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.WARNING, "", 0, text, (), None)


def test_what_is_logged_is_written_in_order(pipe: tuple[int, int]) -> None:
    writer = log_writer_of(pipe[1])
    writer.emit(record("one"))
    writer.emit(record("two \udcff"))
    writer.flush()
    assert os.read(pipe[0], 100) == b"one\ntwo \\udcff\n"
    writer.close()


def accounted_for(read: bytes) -> int:
    """Lines that were written, and those that were told to be dropped."""
    lines = read.lstrip(b"x").decode().split("\n")[:-1]
    dropped = [line for line in lines if line.endswith(" log lines dropped")]
    return len(lines) - len(dropped) + sum(int(line.split()[1]) for line in dropped)


async def test_what_has_no_room_is_counted_and_told_later(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "MAX_QUEUED_LINES", 3)
    monkeypatch.setattr(log_writer, "FLUSH_SECONDS", 0.01)
    read_end, write_end = pipe
    fill(write_end)
    writer = log_writer_of(write_end)
    writer.emit(record("first"))
    for number in range(100):
        writer.emit(record(f"line {number}"))
    writer.flush()  # ends though nothing can be written
    monkeypatch.undo()
    read = b""
    with trio.fail_after(60):
        while accounted_for(read) < 101:
            read += await trio.to_thread.run_sync(os.read, read_end, 65536)
    writer.flush()
    writer.close()
    # The thread may or may not have taken the first before the others came, and it tells
    # what was dropped whenever it finds room.
    assert read.lstrip(b"x").decode().splitlines()[:3] == ["first", "line 0", "line 1"]
    assert accounted_for(read) == 101
    assert b"dropped" in read


@pytest.mark.integration
async def test_a_stderr_that_nobody_reads_does_not_stop_the_server() -> None:
    async with running(
        "serve", "--listen", "tcp://127.0.0.1:0", stdin=subprocess.DEVNULL
    ) as server:
        host, _, port = (await server.wait_listening()).removeprefix("tcp://").rpartition(":")
        assert server.process.stderr is not None
        fill(server.process.stderr.fileno())  # type: ignore[attr-defined]  # it is a pipe
        async with (
            await trio.open_tcp_stream(host, int(port)) as stranger,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(stranger.send_all, b"{bad}\n" * 20_000)
            answers = 0
            while answers < 20_000:
                answers += (await stranger.receive_some()).count(b"\n")
        async with await trio.open_tcp_stream(host, int(port)) as client:
            await client.send_all(PING)
            assert b'"result"' in await client.receive_some()
        server.signal(signal.SIGTERM)
        assert await server.process.wait() == 128 + signal.SIGTERM
