"""What a child writes to stderr: drained, kept, handed on, never in the way."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from children import (
    MESSAGE,
    TELL,
    opened,
    python,
    shell,
    stream_of,
    tell,
)

from trio_mcp_transport import (
    ChannelEvent,
    ConfigurationError,
    ConnectionLost,
    Notification,
    ProcessEndpoint,
)
from trio_mcp_transport.limits import CHILD_STDERR_TAIL_BYTES
from trio_mcp_transport.transports import child_stderr
from trio_mcp_transport.transports.fd_stream import FdReceiveStream, FdSendStream
from trio_mcp_transport.transports.process import (
    connect_process,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="POSIX processes and signals"),
]


# -- stderr ---------------------------------------------------------------------------------


async def test_captured_lines_reach_the_callback(nursery: trio.Nursery) -> None:
    lines: list[str] = []
    script = r"printf 'one\ntwo\r\n\nm\303\274 \377\nlast' >&2"
    with trio.fail_after(30):
        endpoint = shell(script, stderr="capture")
        async with await connect_process(nursery, endpoint, on_stderr=lines.append) as channel:
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
    assert lines == ["one", "two", "", "mü \ufffd", "last"]


async def test_a_callback_needs_captured_stderr(nursery: trio.Nursery) -> None:
    with pytest.raises(ConfigurationError, match="on_stderr needs"):
        await connect_process(nursery, ProcessEndpoint(command=("cat",)), on_stderr=print)


async def test_a_callback_that_fails_is_reported_and_stderr_is_drained_on(
    nursery: trio.Nursery,
) -> None:
    events: list[ChannelEvent] = []

    def fail(line: str) -> None:
        raise ValueError(line)

    script = f"head -c 1000000 /dev/zero | tr '\\0' '\\n' >&2; echo '{MESSAGE}'; cat"
    with trio.fail_after(60):
        async with await connect_process(
            nursery, shell(script, stderr="capture"), on_event=events.append, on_stderr=fail
        ) as channel:
            assert await channel.receive() == Notification("said")
    assert {event.name for event in events} == {"process.stderr-handler-failed"}
    assert isinstance(events[0].error, ValueError)


@pytest.mark.parametrize("stderr", ["capture", "drop"])
async def test_a_flood_on_stderr_holds_nobody_up(stderr: str) -> None:
    script = f"head -c 5000000 /dev/zero >&2; echo '{MESSAGE}'; cat"
    async with opened(shell(script, stderr=stderr)) as channel:
        assert await channel.receive() == Notification("said")
        assert len(stream_of(channel).stderr_tail) <= CHILD_STDERR_TAIL_BYTES


def test_lines_of_any_length_are_handed_out_in_pieces() -> None:
    pieces: list[str] = []
    lines = child_stderr.StderrLines(pieces.append)
    for _ in range(5):
        lines.feed(b"x" * CHILD_STDERR_TAIL_BYTES)
    lines.feed(b"y\nz")
    lines.end()
    lines.end()
    assert "".join(pieces) == "x" * 5 * CHILD_STDERR_TAIL_BYTES + "yz"
    assert max(map(len, pieces)) == CHILD_STDERR_TAIL_BYTES


def test_a_long_line_that_comes_with_its_end_is_handed_out_in_pieces_too() -> None:
    pieces: list[str] = []
    lines = child_stderr.StderrLines(pieces.append)
    lines.feed(b"x" * (2 * CHILD_STDERR_TAIL_BYTES + 5) + b"\n\nshort\n")
    sizes = [CHILD_STDERR_TAIL_BYTES, CHILD_STDERR_TAIL_BYTES, 5, 0, 5]
    assert [len(piece) for piece in pieces] == sizes


async def test_closing_takes_the_last_words_that_nobody_has_read_yet() -> None:
    await trio.lowlevel.checkpoint()
    read_end, write_end = os.pipe()
    log_read, log_write = os.pipe()
    os.set_blocking(read_end, False)
    lines: list[str] = []
    pump = child_stderr.StderrPump(
        FdReceiveStream(read_end),
        own_stderr=FdSendStream(log_write),
        lines=child_stderr.StderrLines(lines.append),
        on_event=None,
    )
    os.write(write_end, b"last\nwords")
    pump.close()
    pump.close()
    assert lines == ["last", "words"]
    assert pump.tail == "last\nwords"
    assert os.read(log_read, 1000) == b"last\nwords"
    os.close(write_end)
    os.close(log_read)


@asynccontextmanager
async def own_stderr(fd: int) -> AsyncGenerator[None, None]:
    """Make this descriptor 2, which a child inherits."""
    await trio.lowlevel.checkpoint()
    saved = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


async def test_inherited_stderr_arrives_in_ours_and_in_the_tail() -> None:
    read_end, write_end = os.pipe()
    endpoint = shell("echo to whom it concerns >&2; exit 1")
    async with own_stderr(write_end), opened(endpoint) as channel:
        with pytest.raises(ConnectionLost) as caught:
            await channel.receive()
    assert os.read(read_end, 1000) == b"to whom it concerns\n"
    assert caught.value.stderr_tail == "to whom it concerns\n"
    os.close(read_end)
    os.close(write_end)


async def test_inherited_stderr_is_appended_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"")
    fd = os.open(log, os.O_WRONLY)
    os.write(fd, b"before\n")
    async with own_stderr(fd), opened(shell(f"echo line >&2; echo '{MESSAGE}'; cat")) as channel:
        await channel.receive()
        while "line" not in log.read_text():
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert log.read_bytes() == b"before\nline\n"
    os.close(fd)


async def test_a_terminal_is_inherited_as_it_is() -> None:
    master, slave = os.openpty()
    async with own_stderr(slave), opened(python(TELL + "tell(str(os.isatty(2)))")) as channel:
        assert await tell(channel) == "True"
    os.close(master)
    os.close(slave)


async def test_our_own_stderr_that_nobody_reads_does_not_hold_the_child_up(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_stderr, "STALLED_SECONDS", 0.01)
    events: list[ChannelEvent] = []
    read_end, write_end = os.pipe()
    script = f"head -c 1000000 /dev/zero >&2; echo '{MESSAGE}'; cat"
    with trio.fail_after(60):
        async with own_stderr(write_end):
            channel = await connect_process(nursery, shell(script), on_event=events.append)
            async with channel:
                assert await channel.receive() == Notification("said")
    assert [event.name for event in events] == ["process.stderr-dropped"]
    os.close(read_end)
    os.close(write_end)


async def test_our_own_stderr_without_a_reader_does_not_stop_the_draining() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    script = f"head -c 1000000 /dev/zero >&2; echo '{MESSAGE}'; cat"
    async with own_stderr(write_end), opened(shell(script)) as channel:
        assert await channel.receive() == Notification("said")
    os.close(write_end)


async def test_a_closed_stderr_is_not_inherited() -> None:
    saved = os.dup(2)
    os.close(2)
    try:
        async with opened(shell(f"echo lost >&2; echo '{MESSAGE}'")) as channel:
            assert await channel.receive() == Notification("said")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
