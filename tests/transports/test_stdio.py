"""Own stdin and stdout: private, put back, and whatever kind of file they are."""

from __future__ import annotations

import errno
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_mcp_transport import (
    ChannelEvent,
    ConnectFailed,
    MessageChannel,
    Notification,
    Request,
    Response,
    StdioEndpoint,
    encode_message,
)
from trio_mcp_transport.transports import stdio
from trio_mcp_transport.transports.private_fd import duplicate
from trio_mcp_transport.transports.stdio import StdioStream

pytestmark = [
    pytest.mark.stdio,
    pytest.mark.skipif(os.name != "posix", reason="redirects POSIX descriptors"),
]

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
PONG = b'{"jsonrpc":"2.0","id":1,"result":{}}\n'


@contextmanager
def standard(stdin: int, stdout: int, stderr: int | None = None) -> Generator[None, None, None]:
    """Make these descriptors 0 and 1 (and 2); a pytest run has others."""
    new = [stdin, stdout, 2 if stderr is None else stderr]
    saved = [os.dup(fd) for fd in range(3)]
    moved = [os.dup(fd) for fd in new]
    try:
        for fd in range(3):
            os.dup2(moved[fd], fd)
        yield
    finally:
        for fd in range(3):
            os.dup2(saved[fd], fd)
        for fd in saved + moved:
            os.close(fd)


class Pipes:
    """The two ends that this process's stdin and stdout are, and the two of its parent."""

    def __init__(self) -> None:
        self.stdin, self.to_stdin = os.pipe()
        self.from_stdout, self.stdout = os.pipe()

    def hang_up(self) -> None:
        os.close(self.to_stdin)
        self.to_stdin = -1

    def close(self) -> None:
        for fd in (self.stdin, self.to_stdin, self.from_stdout, self.stdout):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
async def pipes() -> AsyncGenerator[Pipes, None]:
    # An async fixture, as it lives while the test runs: around that, pytest itself moves
    # the standard descriptors about.
    await trio.lowlevel.checkpoint()
    made = Pipes()
    with standard(made.stdin, made.stdout):
        yield made
    made.close()


def identity(fd: int) -> tuple[int, int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino, facts.st_rdev


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def open_numbers() -> set[int]:
    # The listing has a descriptor of its own, which is closed again.
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)}


NULL_DEVICE = os.stat(os.devnull).st_rdev


async def answer_one(channel: MessageChannel) -> None:
    request = await channel.receive()
    assert isinstance(request, Request)
    await channel.send(Response(request.id, {}))
    await channel.flush()


async def read_exactly(fd: int, size: int) -> bytes:
    """What a parent reads, in a thread so that the channel can go on."""

    def read() -> bytes:
        data = b""
        while len(data) < size and (more := os.read(fd, size - len(data))):
            data += more
        return data

    return await trio.to_thread.run_sync(read, abandon_on_cancel=True)


async def test_a_conversation_over_pipes(pipes: Pipes, nursery: trio.Nursery) -> None:
    with trio.fail_after(30):
        async with await stdio.connect(nursery, StdioEndpoint()) as channel:
            os.write(pipes.to_stdin, PING)
            await answer_one(channel)
            assert os.read(pipes.from_stdout, 1000) == PONG
            assert channel.context.transport == "stdio"
            assert not channel.can_send_eof


async def test_answers_still_get_out_after_stdin_has_ended(
    pipes: Pipes, nursery: trio.Nursery
) -> None:
    os.write(pipes.to_stdin, PING)
    pipes.hang_up()
    with trio.fail_after(30):
        async with await stdio.connect(nursery, StdioEndpoint()) as channel:
            request = await channel.receive()
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
            assert isinstance(request, Request)
            await channel.send(Response(request.id, {}))
    assert os.read(pipes.from_stdout, 1000) == PONG


async def test_messages_larger_than_a_pipe_go_both_ways(
    pipes: Pipes, nursery: trio.Nursery
) -> None:
    message = Notification("blob", {"data": "x" * 1_000_000})
    with trio.fail_after(30):
        async with await stdio.connect(nursery, StdioEndpoint()) as channel:
            await channel.send(message)
            line = await read_exactly(pipes.from_stdout, len(encode_message(message)) + 1)
            assert line == encode_message(message) + b"\n"
            nursery.start_soon(trio.to_thread.run_sync, os.write, pipes.to_stdin, line)
            received = await channel.receive()
    assert isinstance(received, Notification)
    assert received.params_as(dict[str, str]) == {"data": "x" * 1_000_000}


async def test_the_flags_of_what_was_inherited_are_never_touched(pipes: Pipes) -> None:
    stream = StdioStream()
    # Duplicates share the flags of one file description: the parent would see a change.
    assert os.get_blocking(pipes.stdin)
    assert os.get_blocking(pipes.stdout)
    await stream.aclose()
    assert os.get_blocking(pipes.stdin)
    assert os.get_blocking(pipes.stdout)


async def test_descriptors_0_and_1_lead_elsewhere_until_it_is_closed(pipes: Pipes) -> None:
    before = [identity(fd) for fd in range(3)]
    async with StdioStream():
        assert os.fstat(0).st_rdev == NULL_DEVICE
        assert identity(1) == before[2] != before[1]
        assert identity(2) == before[2]
    assert [identity(fd) for fd in range(3)] == before


async def test_a_cancelled_block_puts_them_back_too(pipes: Pipes) -> None:
    before = [identity(fd) for fd in range(3)]
    with trio.CancelScope() as scope:
        async with StdioStream() as stream:
            scope.cancel()
            await stream.receive_some()
    assert scope.cancelled_caught
    assert [identity(fd) for fd in range(3)] == before


async def test_the_wire_is_not_inherited_by_children(pipes: Pipes) -> None:
    before = open_numbers()
    async with StdioStream():
        new = open_numbers() - before
        assert len(new) == 4
        assert not any(map(os.get_inheritable, new))
        # What a child may have are the standard ones, and they are not the wire.
        wire = {identity(pipes.stdin), identity(pipes.stdout)}
        assert not wire & {identity(fd) for fd in range(3)}
        assert all(os.get_inheritable(fd) for fd in range(2))


async def test_there_can_be_only_one_at_a_time(pipes: Pipes, nursery: trio.Nursery) -> None:
    async with StdioStream():
        with pytest.raises(trio.BusyResourceError, match="in use"):
            StdioStream()
        with pytest.raises(trio.BusyResourceError):
            await stdio.connect(nursery, StdioEndpoint())
        with pytest.raises(trio.BusyResourceError):
            await stdio.listen(StdioEndpoint())
    async with StdioStream():
        pass


async def test_a_parent_that_no_longer_reads_is_a_broken_stream(pipes: Pipes) -> None:
    async with StdioStream() as stream:
        os.close(pipes.from_stdout)
        pipes.from_stdout = -1
        # The end that this process itself holds does not count as a reader.
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(PONG)


async def test_a_closed_stream_says_so(pipes: Pipes) -> None:
    stream = StdioStream()
    stream.close()
    stream.close()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        stream.send_nowait(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await stream.wait_send_all_might_not_block()


# -- other kinds of files -----------------------------------------------------------------


async def test_regular_files_are_read_and_written_where_they_stand(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"skipped\n" + PING)
    target.write_bytes(b"")
    stdin, stdout = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY)
    os.lseek(stdin, len(b"skipped\n"), os.SEEK_SET)
    os.write(stdout, b"before\n")
    with standard(stdin, stdout), trio.fail_after(30):
        async with await stdio.connect(nursery, StdioEndpoint()) as channel:
            await answer_one(channel)
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
        os.write(1, b"after\n")
    assert target.read_bytes() == b"before\n" + PONG + b"after\n"
    os.close(stdin)
    os.close(stdout)


async def test_the_null_device_ends_at_once_and_takes_everything() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    with standard(null, null), trio.fail_after(30):
        async with StdioStream() as stream:
            assert await stream.receive_some() == b""
            await stream.send_all(b"x" * 1_000_000)
    os.close(null)


@pytest.mark.parametrize("default_timeout", [None, 5.0])
async def test_a_socket_serves_as_both_and_keeps_its_flags(
    default_timeout: float | None, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(default_timeout)
    try:
        with ours, theirs, standard(ours.fileno(), ours.fileno()), trio.fail_after(30):
            async with await stdio.connect(nursery, StdioEndpoint()) as channel:
                assert os.get_blocking(ours.fileno())
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(answer_one, channel)
                    await trio.testing.wait_all_tasks_blocked()
                    theirs.sendall(PING)
                assert theirs.recv(1000) == PONG
                assert os.get_blocking(ours.fileno())
            assert identity(0) == identity(1) == identity(ours.fileno())
    finally:
        socket.setdefaulttimeout(before)


async def test_a_full_socket_waits_for_room() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, standard(ours.fileno(), ours.fileno()), trio.fail_after(30):
        async with StdioStream() as stream:
            while stream.send_nowait(b"x" * 65536):
                pass
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, b"last")
                await trio.testing.wait_all_tasks_blocked()
                with theirs.makefile("rb") as file:
                    ours_done = False
                    while not ours_done:
                        ours_done = (await trio.to_thread.run_sync(file.read1)).endswith(b"last")


async def test_a_terminal_works_and_its_flags_are_never_touched(nursery: trio.Nursery) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave, termios.TCSANOW)
    with standard(slave, slave, slave), trio.fail_after(30):
        events: list[ChannelEvent] = []
        async with await stdio.connect(nursery, StdioEndpoint(), events.append) as channel:
            assert os.get_blocking(slave)
            assert os.fstat(1).st_rdev == NULL_DEVICE
            async with trio.open_nursery() as waiting:
                waiting.start_soon(answer_one, channel)
                await trio.testing.wait_all_tasks_blocked()
                os.write(master, PING)
            assert await read_exactly(master, len(PONG)) == PONG
            assert os.get_blocking(slave)
        assert events == []  # a person at a terminal sees it anyway
    os.close(master)
    os.close(slave)


async def test_named_pipes_work(tmp_path: Path, nursery: trio.Nursery) -> None:
    ends: list[int] = []
    for name in ("in", "out"):
        os.mkfifo(tmp_path / name)
        ends.append(os.open(tmp_path / name, os.O_RDWR))
    with trio.fail_after(30):
        stdin = os.open(tmp_path / "in", os.O_RDONLY)
        stdout = os.open(tmp_path / "out", os.O_WRONLY)
        with standard(stdin, stdout):
            async with await stdio.connect(nursery, StdioEndpoint()) as channel:
                os.write(ends[0], PING)
                await answer_one(channel)
                assert os.read(ends[1], 1000) == PONG
                os.close(ends.pop(0))
                with pytest.raises(trio.EndOfChannel):
                    await channel.receive()
    for fd in (stdin, stdout, *ends):
        os.close(fd)


async def test_a_pipe_that_cannot_be_opened_anew_goes_through_threads(
    pipes: Pipes, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if path.startswith("/proc/self/fd"):  # as for a pipe that another user made
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with trio.fail_after(30):
        async with await stdio.connect(nursery, StdioEndpoint()) as channel:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(channel.receive)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            os.write(pipes.to_stdin, PING)
            await answer_one(channel)
            assert os.get_blocking(pipes.stdin)
            assert os.read(pipes.from_stdout, 1000) == PONG


async def test_a_pipe_of_another_user_goes_through_threads(pipes: Pipes) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    os.fchmod(pipes.stdin, 0o600)
    os.seteuid(65534)
    try:
        stream = StdioStream()
    finally:
        os.seteuid(0)
    with trio.fail_after(30):
        async with stream:
            os.write(pipes.to_stdin, PING)
            assert await stream.receive_some() == PING
            await stream.send_all(PONG)
    assert os.read(pipes.from_stdout, 1000) == PONG


# -- what cannot be used --------------------------------------------------------------------


@pytest.mark.parametrize(("fd", "name"), [(0, "stdin"), (1, "stdout")])
async def test_a_closed_descriptor_is_named(pipes: Pipes, fd: int, name: str) -> None:
    other = 1 - fd
    before = identity(other)
    os.close(fd)
    with pytest.raises(ConnectFailed, match=f"^{name} is closed$"):
        StdioStream()
    assert identity(other) == before
    os.dup2(pipes.stdin if fd == 0 else pipes.stdout, fd)
    async with StdioStream():  # nothing was taken, so it can be tried again
        pass


async def test_one_that_was_closed_at_start_is_not_taken_for_what_has_its_number_now(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trio.lowlevel.checkpoint()
    monkeypatch.setattr(sys, "__stdin__", None)
    with pytest.raises(ConnectFailed, match="stdin was closed when this program started"):
        StdioStream()


async def test_what_cannot_carry_messages_is_refused(pipes: Pipes, tmp_path: Path) -> None:
    await trio.lowlevel.checkpoint()
    directory = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for stdin, stdout, complaint in (
            (directory, pipes.stdout, "stdin cannot be used: descriptor 0 is a directory"),
            (pipes.stdout, pipes.stdout, "stdin cannot be used: descriptor 0 is not open for re"),
            (pipes.stdin, pipes.stdin, "stdout cannot be used: descriptor 1 is not open for wr"),
            (datagrams.fileno(), pipes.stdout, "stdin .* carries no byte stream"),
        ):
            with standard(stdin, stdout), pytest.raises(ConnectFailed, match=complaint):
                StdioStream()
    os.close(directory)


async def test_running_out_of_descriptors_leaves_everything_as_it_was(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [identity(fd) for fd in range(3)]
    for allowed in range(2):
        left = allowed

        def fail_later(fd: int) -> int:
            nonlocal left
            if not left:
                raise OSError(errno.EMFILE, "Too many open files")
            left -= 1
            return duplicate(fd)

        monkeypatch.setattr(stdio, "duplicate", fail_later)
        with pytest.raises(ConnectFailed, match="Too many open files"):
            StdioStream()
        assert [identity(fd) for fd in range(3)] == before
    monkeypatch.undo()
    async with StdioStream():
        pass


async def test_stderr_that_is_stdout_is_told_and_print_goes_nowhere(pipes: Pipes) -> None:
    events: list[ChannelEvent] = []
    with standard(pipes.stdin, pipes.stdout, pipes.stdout):
        async with StdioStream(on_event=events.append):
            assert os.fstat(1).st_rdev == NULL_DEVICE
            assert identity(2) == identity(pipes.stdout)
        assert identity(1) == identity(pipes.stdout)
    assert [event.name for event in events] == ["stdio.stderr-is-stdout"]


async def test_a_closed_stderr_sends_what_is_printed_nowhere(pipes: Pipes) -> None:
    os.close(2)
    async with StdioStream() as stream:
        assert os.fstat(1).st_rdev == NULL_DEVICE
        # A wire with number 2 would get every traceback.
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)
        await stream.send_all(PONG)
    assert os.read(pipes.from_stdout, 1000) == PONG


# -- the listener ---------------------------------------------------------------------------


async def test_the_listener_accepts_once(pipes: Pipes, nursery: trio.Nursery) -> None:
    listener = await stdio.listen(StdioEndpoint())
    assert listener.endpoint == "stdio:"
    with trio.fail_after(30):
        channel = await listener.accept(nursery)
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept(nursery)
        await listener.aclose()
        os.write(pipes.to_stdin, PING)
        await answer_one(channel)  # the channel does not end with its listener
        await channel.aclose()
    assert identity(1) == identity(pipes.stdout)


async def test_a_listener_that_is_closed_unused_gives_stdio_back(
    pipes: Pipes, nursery: trio.Nursery
) -> None:
    async with await stdio.listen(StdioEndpoint()) as listener:
        assert identity(1) != identity(pipes.stdout)
    assert identity(1) == identity(pipes.stdout)
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept(nursery)


# -- whole programs -------------------------------------------------------------------------

NOISY_SERVER = """
import os, subprocess, sys
import trio
from trio_mcp_transport import Response, StdioEndpoint
from trio_mcp_transport.transports import stdio

async def main():
    print("printed before")
    async with trio.open_nursery() as nursery:
        async with await stdio.connect(nursery, StdioEndpoint()) as channel:
            print("printed")
            os.write(1, b"written\\n")
            subprocess.run(["sh", "-c", "echo a child; cat"], check=True)
            async for request in channel:
                await channel.send(Response(request.id, {}))
            print("printed but not flushed", end="")
    print("printed after")

trio.run(main)
"""


@pytest.mark.integration
def test_nothing_that_a_program_prints_reaches_the_wire() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISY_SERVER],
        input=PING,
        capture_output=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    # In any order, as print has a buffer.
    assert sorted(done.stderr.splitlines()) == [
        b"a child",
        b"printed",
        b"printed but not flushed",
        b"written",
    ]
    assert done.stdout == b"printed before\n" + PONG + b"printed after\n"
    assert done.returncode == 0


@pytest.mark.integration
@pytest.mark.parametrize(("redirection", "name"), [("<&-", "stdin"), (">&-", "stdout")])
def test_a_program_started_without_one_is_told_which(redirection: str, name: str) -> None:
    command = f'exec "$0" -c "$1" {redirection}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, NOISY_SERVER],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert f"ConnectFailed: {name} was closed when this program started" in done.stderr.decode()
    assert done.returncode == 1


@pytest.mark.integration
def test_a_killed_program_leaves_its_terminal_as_it_was() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", NOISY_SERVER.replace("cat", "echo ready >&2")],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        while b"ready" not in process.stderr.readline():
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert os.get_blocking(slave)
    os.close(master)
    os.close(slave)
