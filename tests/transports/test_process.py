"""Child processes: what reaches them, how they end, and that nothing of them stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_mcp_transport import (
    ChannelEvent,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    FeatureUnavailable,
    Notification,
    ProcessEndpoint,
    Request,
    open_channel,
)
from trio_mcp_transport.limits import CHILD_STDERR_TAIL_BYTES, MAX_CANCELLED_CLOSE_SECONDS
from trio_mcp_transport.restart import RestartPolicy, run_with_restarts
from trio_mcp_transport.transports import child as child_module
from trio_mcp_transport.transports import child_stderr, process, supervisor
from trio_mcp_transport.transports.fd_stream import FdReceiveStream, FdSendStream
from trio_mcp_transport.transports.process import (
    ProcessStream,
    child_environment,
    connect_process,
)
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="POSIX processes and signals"),
]

SHELL = "/bin/sh"
#: A server in shell: answers each line with the same message.
MESSAGE = '{"jsonrpc":"2.0","method":"said"}'


def shell(script: str, **fields: object) -> ProcessEndpoint:
    return ProcessEndpoint(command=(SHELL, "-c", script), **fields)  # type: ignore[arg-type]


def python(script: str, **fields: object) -> ProcessEndpoint:
    command = (sys.executable, "-I", "-S", "-c", script)
    return ProcessEndpoint(command=command, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def opened(endpoint: ProcessEndpoint) -> AsyncGenerator[StreamChannel, None]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            channel = await connect_process(nursery, endpoint)
            async with channel:
                yield channel


def stream_of(channel: StreamChannel) -> ProcessStream:
    stream = channel.stream
    assert isinstance(stream, ProcessStream)
    return stream


async def tell(channel: StreamChannel) -> str:
    """The text of the next message that a child tells."""
    message = await channel.receive()
    assert isinstance(message, Notification)
    told: dict[str, str] = message.params_as(dict[str, str])
    return told["text"]


#: For the start of a Python child.
TELL = """
import json, os, signal, subprocess, sys, time
def tell(text):
    message = {"jsonrpc": "2.0", "method": "tell", "params": {"text": text}}
    print(json.dumps(message), flush=True)
"""


def is_running(pid: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


async def until_gone(*pids: int) -> None:
    """Wait for processes that are not our children: only a pidfd tells of their end."""
    with trio.fail_after(30):
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)


# -- the conversation -----------------------------------------------------------------------


async def test_a_conversation_with_a_child() -> None:
    async with opened(ProcessEndpoint(command=("cat",))) as channel:
        await channel.send(Request("a", "ping"))
        assert await channel.receive() == Request("a", "ping")
        assert channel.context.transport == "process"
        assert channel.context.process_id == stream_of(channel).pid
        assert stream_of(channel).is_alive
        assert stream_of(channel).exit_status is None


async def test_a_message_larger_than_both_pipes_goes_there_and_back() -> None:
    message = Notification("blob", {"data": "x" * 1_000_000})
    async with opened(ProcessEndpoint(command=("cat",))) as channel:
        await channel.send(message)
        received = await channel.receive()
        assert isinstance(received, Notification)
        assert received.params_as(dict[str, str]) == {"data": "x" * 1_000_000}


async def test_sending_eof_lets_the_child_finish_and_answer() -> None:
    async with opened(shell(f"cat >/dev/null; echo '{MESSAGE}'")) as channel:
        await channel.send(Request(1, "ping"))
        assert channel.can_send_eof
        await channel.send_eof()
        await channel.send_eof()
        assert await channel.receive() == Notification("said")
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        assert await stream_of(channel).wait() == 0
        with pytest.raises(trio.ClosedResourceError):
            await channel.send(Request(2, "ping"))


async def test_the_stream_speaks_trio() -> None:
    async with opened(ProcessEndpoint(command=("cat",))) as channel:
        stream = stream_of(channel)
        assert "process" in repr(stream)
        await stream.wait_send_all_might_not_block()
        await stream.send_all(b"")
        with trio.testing.assert_checkpoints():
            await stream.send_all(b"one\n")
        with trio.testing.assert_checkpoints():
            assert await stream.receive_some(2) == b"on"
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        stream.send_nowait(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_eof()


async def test_a_receive_that_waits_is_woken_by_closing() -> None:
    errors: list[Exception] = []
    async with opened(ProcessEndpoint(command=("cat",))) as channel:

        async def receive() -> None:
            try:
                await channel.receive()
            except trio.ClosedResourceError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await channel.aclose()
    assert len(errors) == 1


# -- how it is started ----------------------------------------------------------------------


async def test_arguments_reach_the_child_as_they_are() -> None:
    words = ["", "two words", "$HOME", "'quoted'", "ünï", "-x"]
    endpoint = ProcessEndpoint(
        command=(sys.executable, "-I", "-S", "-c", TELL + "tell(json.dumps(sys.argv[1:]))", *words)
    )
    async with opened(endpoint) as channel:
        assert json.loads(await tell(channel)) == words


async def test_the_working_directory_is_the_childs(tmp_path: Path) -> None:
    endpoint = python(TELL + "tell(os.getcwd())", working_directory=str(tmp_path))
    async with opened(endpoint) as channel:
        assert await tell(channel) == str(tmp_path)
    assert os.getcwd() != str(tmp_path)


async def test_a_relative_program_is_found_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "server"
    program.write_text(f"#!{SHELL}\necho '{MESSAGE}'\ncat\n")
    program.chmod(0o700)
    endpoint = ProcessEndpoint(command=("bin/server",), working_directory=str(tmp_path))
    async with opened(endpoint) as channel:
        assert await channel.receive() == Notification("said")


async def test_a_bare_name_is_searched_in_the_childs_path(tmp_path: Path) -> None:
    program = tmp_path / "some-server"
    program.write_text(f"#!{SHELL}\necho '{MESSAGE}'\n")
    program.chmod(0o700)
    endpoint = ProcessEndpoint(
        command=("some-server",), environment_vars={"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    async with opened(endpoint) as channel:
        assert await channel.receive() == Notification("said")


@pytest.fixture
def parent_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("XDG_CACHE_HOME", "() { evil; }")


READ_ENVIRONMENT = TELL + "tell(json.dumps(dict(os.environ)))"


async def environment_of(endpoint: ProcessEndpoint) -> dict[str, str]:
    async with opened(endpoint) as channel:
        variables: dict[str, str] = json.loads(await tell(channel))
    return variables


@pytest.mark.usefixtures("parent_environment")
async def test_the_minimal_environment_has_what_programs_need_and_no_secrets() -> None:
    seen = await environment_of(python(READ_ENVIRONMENT, environment_vars={"DEBUG": "true"}))
    assert seen["PATH"] == os.environ["PATH"]
    assert seen["LC_TIME"] == "C"
    assert seen["DEBUG"] == "true"
    assert "SECRET_TOKEN" not in seen
    assert "XDG_CACHE_HOME" not in seen  # a shell function is no value


@pytest.mark.usefixtures("parent_environment")
async def test_the_inherited_environment_has_everything_and_what_is_given_wins() -> None:
    endpoint = python(
        READ_ENVIRONMENT, environment="inherit", environment_vars={"LC_TIME": "C.UTF-8"}
    )
    seen = await environment_of(endpoint)
    assert seen["SECRET_TOKEN"] == "hunter2"
    assert seen["LC_TIME"] == "C.UTF-8"
    assert seen.keys() >= os.environ.keys()


@pytest.mark.usefixtures("parent_environment")
async def test_the_exact_environment_has_only_what_is_given() -> None:
    endpoint = python(READ_ENVIRONMENT, environment="exact", environment_vars={"A": "1"})
    seen = await environment_of(endpoint)
    assert seen.pop("LC_CTYPE", "") in {"", "C.UTF-8"}  # Python sets it in itself
    assert seen == {"A": "1"}


def test_the_environment_of_windows_is_a_list_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    parent = {"SYSTEMROOT": "C:\\Windows", "PATHEXT": ".COM;.EXE", "SECRET": "x"}
    assert child_environment(ProcessEndpoint(command=("x",)), parent) == {
        "SYSTEMROOT": "C:\\Windows",
        "PATHEXT": ".COM;.EXE",
    }


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"command": ("no-such-program",)}, "'no-such-program': no such program in the PATH"),
        ({"command": ("/no/such/program",)}, "'/no/such/program': there is no such file"),
        ({"command": ("/etc/passwd",)}, "'/etc/passwd': it is not executable"),
        ({"command": ("/etc",)}, "'/etc': it is not executable"),
        (
            {"command": ("cat",), "working_directory": "/no/such"},
            "'cat': no directory '/no/such' to start it in",
        ),
        (
            {"command": ("cat",), "environment_vars": {"PATH": "/secret"}},
            "'cat': no such program in the PATH that it would have$",
        ),
    ],
)
async def test_what_cannot_be_started_is_named(
    fields: Mapping[str, object], complaint: str, nursery: trio.Nursery
) -> None:
    endpoint = ProcessEndpoint(**fields)  # type: ignore[arg-type]
    with pytest.raises(ConnectFailed, match=complaint) as caught:
        await connect_process(nursery, endpoint)
    assert caught.value.errno is not None
    assert "secret" not in str(caught.value)


async def test_a_file_that_is_no_program_is_named(tmp_path: Path, nursery: trio.Nursery) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fnot an executable")
    garbage.chmod(0o700)
    for supervise in (False, True):
        with pytest.raises(ConnectFailed, match="garbage': Exec format error") as caught:
            await connect_process(
                nursery, ProcessEndpoint(command=(str(garbage),), supervise=supervise)
            )
        assert isinstance(caught.value.__cause__, OSError)


async def test_the_child_inherits_nothing_but_its_standard_streams(nursery: trio.Nursery) -> None:
    script = TELL + "tell(json.dumps([int(fd) for fd in os.listdir('/proc/self/fd')]))"
    endpoint = python(script, supervise=True)
    other = await connect_process(nursery, ProcessEndpoint(command=("cat",)))
    async with other, opened(endpoint) as channel:
        seen = set(json.loads(await tell(channel)))
        assert seen - {3} == {0, 1, 2}  # 3 is that of the listing


# -- how it ends by itself ------------------------------------------------------------------


async def test_an_exit_with_status_0_is_the_plain_end() -> None:
    async with opened(shell(f"echo '{MESSAGE}'; echo bye >&2")) as channel:
        assert await channel.receive() == Notification("said")
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        assert stream_of(channel).exit_status == 0
        assert not stream_of(channel).is_alive


@pytest.mark.parametrize("stderr", ["inherit", "capture"])
async def test_a_failed_child_is_explained_after_what_it_said(stderr: str) -> None:
    script = f"echo '{MESSAGE}'; echo '{MESSAGE}'; echo first >&2; echo no disk >&2; exit 3"
    async with opened(shell(script, stderr=stderr)) as channel:
        await channel.send(Request(1, "ping"))
        assert [await channel.receive() for _ in range(2)] == [Notification("said")] * 2
        with pytest.raises(ConnectionLost, match=r"status 3\).*stderr: no disk$") as caught:
            await channel.receive()
        assert caught.value.exit_status == 3
        assert caught.value.stderr_tail == "first\nno disk\n"
        with pytest.raises(ConnectionLost):
            await channel.receive()
        assert channel.failure is not None
        assert isinstance(channel.failure, ConnectionLost)
        assert channel.failure.exit_status == 3


async def test_a_killed_child_names_the_signal() -> None:
    async with opened(ProcessEndpoint(command=("cat",))) as channel:
        await channel.send(Request(1, "ping"))
        await channel.receive()
        os.kill(stream_of(channel).pid, signal.SIGKILL)
        with pytest.raises(ConnectionLost, match=r"'cat' ended unexpectedly .killed by SIGKILL"):
            await channel.receive()
        assert stream_of(channel).exit_status == -signal.SIGKILL
        assert "SIGKILL" in repr(stream_of(channel))


async def test_a_dropped_stderr_leaves_no_tail() -> None:
    async with opened(shell("echo lost >&2; exit 1", stderr="drop")) as channel:
        with pytest.raises(ConnectionLost) as caught:
            await channel.receive()
        assert caught.value.stderr_tail == ""


async def test_a_write_to_a_child_that_is_gone_says_why() -> None:
    endpoint = shell(f"exec <&-; echo no licence >&2; echo '{MESSAGE}'; exit 4")
    async with opened(endpoint) as channel:
        stream = stream_of(channel)
        await stream.wait()
        assert stream.send_nowait(b"x") == 0
        with pytest.raises(ConnectionLost, match=r"is gone .exit status 4.*no licence") as caught:
            await stream.send_all(b"x")
        assert caught.value.exit_status == 4
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


async def test_what_it_said_comes_before_the_failure_of_a_write() -> None:
    said = 2000  # more than one read
    endpoint = shell(f"exec <&-; yes '{MESSAGE}' | head -n {said}; exit 4")
    async with opened(endpoint) as channel:
        received = 0

        async def converse() -> None:
            nonlocal received
            while True:
                await channel.send(Request(received + 1, "ping"))
                assert await channel.receive() == Notification("said")
                received += 1

        with pytest.raises(ConnectionLost, match="exit status 4"):
            await converse()
        assert received == said


async def test_a_write_to_a_child_that_closed_its_stdin_says_so() -> None:
    endpoint = shell(f"exec <&-; echo '{MESSAGE}'; sleep 1000", shutdown_timeout=0.05)
    async with opened(endpoint) as channel:
        await channel.receive()
        with pytest.raises(ConnectionLost, match=r"has closed its stdin$") as caught:
            await stream_of(channel).send_all(b"x")
        assert caught.value.exit_status is None


async def test_a_child_that_closes_its_stdout_and_lives_is_the_plain_end() -> None:
    async with opened(shell("exec >&-; cat >/dev/null")) as channel:
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
        assert stream_of(channel).is_alive


async def test_a_failed_child_is_not_waited_for_because_others_hold_its_stdout() -> None:
    script = f"sleep 1000 & echo '{MESSAGE}'; kill -KILL $$"
    async with opened(shell(script)) as channel:
        assert await channel.receive() == Notification("said")
        with pytest.raises(ConnectionLost, match="SIGKILL"):
            await channel.receive()


async def test_a_launcher_that_exits_well_leaves_the_conversation_to_its_server() -> None:
    # Job control off gives a background job /dev/null as stdin, so it is handed over.
    async with opened(shell("exec 3<&0; cat <&3 & exit 0")) as channel:
        assert await stream_of(channel).wait() == 0
        await channel.send(Request(1, "ping"))
        assert await channel.receive() == Request(1, "ping")


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
    assert max(map(len, pieces)) <= CHILD_STDERR_TAIL_BYTES + 1


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


# -- how it is ended ------------------------------------------------------------------------


async def test_closing_lets_a_polite_child_finish_its_work(tmp_path: Path) -> None:
    done = tmp_path / "done"
    async with opened(shell(f"cat >/dev/null; sleep 0.1; echo well > {done}")) as channel:
        pass
    assert done.read_text() == "well\n"
    assert stream_of(channel).exit_status == 0


async def test_a_child_that_still_talks_is_not_held_up_while_it_finishes() -> None:
    # It must get rid of more than the pipe holds before it exits.
    async with opened(shell("cat >/dev/null; head -c 1000000 /dev/zero; exit 0")) as channel:
        pass
    assert stream_of(channel).exit_status == 0


async def test_a_child_that_ignores_the_end_of_stdin_gets_sigterm() -> None:
    endpoint = shell(f"echo '{MESSAGE}'; exec sleep 1000", shutdown_timeout=0.05)
    async with opened(endpoint) as channel:
        await channel.receive()
    assert stream_of(channel).exit_status == -signal.SIGTERM


IGNORE_SIGTERM = f"trap '' TERM; echo '{MESSAGE}'; sleep 1000 & sleep 1000"


async def test_a_child_that_ignores_sigterm_is_killed() -> None:
    async with opened(shell(IGNORE_SIGTERM, shutdown_timeout=0.05)) as channel:
        await channel.receive()
    assert stream_of(channel).exit_status == -signal.SIGKILL


async def test_a_cancelled_close_is_as_thorough_within_two_seconds() -> None:
    with trio.CancelScope() as scope:
        async with opened(shell(IGNORE_SIGTERM)) as channel:
            await channel.receive()
            started = trio.current_time()
            scope.cancel()
    assert stream_of(channel).exit_status == -signal.SIGKILL
    # Generous for a busy machine; the patient way would take ten seconds.
    assert trio.current_time() - started < MAX_CANCELLED_CLOSE_SECONDS + 5


async def test_cancelling_a_close_that_waits_hurries_it_up() -> None:
    endpoint = shell(IGNORE_SIGTERM, shutdown_timeout=1000.0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            channel = await connect_process(nursery, endpoint)
            await channel.receive()
            async with trio.open_nursery() as closing:
                closing.start_soon(channel.aclose)
                await trio.testing.wait_all_tasks_blocked()
                closing.cancel_scope.cancel()
    assert stream_of(channel).exit_status == -signal.SIGKILL


async def test_aborting_ends_it_too_and_closing_waits_until_it_is_gone() -> None:
    async with opened(shell(IGNORE_SIGTERM)) as channel:
        await channel.receive()
        channel.abort()
        await channel.aclose()
        assert not is_running(stream_of(channel).pid)
        assert stream_of(channel).exit_status == -signal.SIGKILL


async def test_closing_twice_and_from_two_tasks_is_one_close() -> None:
    async with opened(ProcessEndpoint(command=("cat",))) as channel:
        stream = stream_of(channel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.aclose)
            nursery.start_soon(stream.aclose)
        assert not is_running(stream.pid)
        await stream.aclose()


async def test_the_whole_group_is_killed_even_when_its_leader_left_early() -> None:
    # What npx and uvx do, when their server ignores the end of stdin and SIGTERM.
    script = TELL + (
        "child = subprocess.Popen(['/bin/sh', '-c', \"trap '' TERM; echo; sleep 1000\"],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "tell(str(child.pid))\n"
        "sys.stdin.read()\n"
    )
    async with opened(python(script)) as channel:
        grandchild = int(await tell(channel))
        assert is_running(grandchild)
    assert stream_of(channel).exit_status == 0
    await until_gone(grandchild)


async def test_a_server_that_outlives_its_wrapper_has_time_to_finish(tmp_path: Path) -> None:
    done = tmp_path / "done"
    trap = f"trap 'sleep 0.2; echo well > {done}; exit' TERM"
    script = f"({trap}; echo '{MESSAGE}'; sleep 1000 >&2 & wait) & cat >/dev/null"
    async with opened(shell(script)) as channel:
        await channel.receive()
    assert done.read_text() == "well\n"


async def test_a_grandchild_that_holds_the_pipes_does_not_hold_up_the_close() -> None:
    script = f"trap '' TERM; (trap '' TERM; sleep 1000) & echo '{MESSAGE}'; cat >/dev/null"
    async with opened(shell(script, shutdown_timeout=0.05, stderr="capture")) as channel:
        await channel.receive()


async def test_a_child_in_a_session_of_its_own_making_does_not_hold_up_the_close() -> None:
    script = TELL + (
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "tell(str(child.pid))\n"
    )
    async with opened(python(script, shutdown_timeout=0.05, stderr="capture")) as channel:
        daemon = int(await tell(channel))
    assert is_running(daemon)  # it has left the group, on purpose
    os.kill(daemon, signal.SIGKILL)
    await until_gone(daemon)


async def test_signals_for_our_own_group_do_not_reach_the_child() -> None:
    async with opened(python(TELL + "tell(f'{os.getpgrp()} {os.getsid(0)}')")) as channel:
        pid = stream_of(channel).pid
        assert await tell(channel) == f"{pid} {pid}"


def kill_and_reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_a_child_reaped_by_somebody_else_has_no_status_and_is_not_signalled() -> None:
    async with opened(ProcessEndpoint(command=("cat",))) as channel:
        stream = stream_of(channel)
        kill_and_reap(stream.pid)
        assert await stream.wait() is None


@pytest.mark.parametrize("waits_in_threads", [False, True])
async def test_it_works_without_pidfds(
    waits_in_threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits_in_threads:
        monkeypatch.setattr(child_module, "_HAS_WAITID", False)

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError("Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    async with opened(shell(f"echo '{MESSAGE}'; exit 3")) as channel:
        await channel.receive()
        with pytest.raises(ConnectionLost) as caught:
            await channel.receive()
        assert caught.value.exit_status == 3
    async with opened(shell(IGNORE_SIGTERM, shutdown_timeout=0.05)) as channel:
        await channel.receive()
    assert stream_of(channel).exit_status == -signal.SIGKILL


def test_a_child_that_nobody_closed_ends_with_the_run() -> None:
    async def main() -> ProcessStream:
        async with trio.open_nursery() as nursery:
            channel = await connect_process(nursery, shell(IGNORE_SIGTERM))
            await channel.receive()
            return stream_of(channel)

    stream = trio.run(main)
    assert stream.exit_status == -signal.SIGKILL


async def test_a_stream_that_is_dropped_has_its_group_killed_with_a_warning() -> None:
    with trio.fail_after(30):
        child = await child_module.Child.start(
            child_module.ChildCommand(
                arguments=["cat"], executable="/bin/cat", environment={}, stderr="drop"
            )
        )
        stream = ProcessStream(child, name="cat")
        with pytest.warns(ResourceWarning, match="unclosed <ProcessStream 'cat'"):
            del stream
        await child.gone.wait()
    assert child.exit_status == -signal.SIGKILL
    assert "cat" in repr(
        child_module.ChildCommand(arguments=["cat"], executable="", environment={})
    )


# -- start-up -------------------------------------------------------------------------------


async def test_a_child_that_does_not_answer_in_time_is_given_up() -> None:
    endpoint = shell("echo loading >&2; sleep 1000", startup_timeout=0.05, shutdown_timeout=0.05)
    async with opened(endpoint) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(channel.send, Request(1, "initialize"))
        with pytest.raises(ConnectionLost, match=r"wrote nothing within 0.05 s") as caught:
            await channel.receive()
        assert caught.value.stderr_tail == "loading\n"


async def test_the_first_byte_ends_the_startup_time() -> None:
    async with opened(ProcessEndpoint(command=("cat",), startup_timeout=60.0)) as channel:
        stream = stream_of(channel)
        await channel.send(Request(1, "ping"))
        await channel.receive()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"


async def test_the_startup_time_counts_from_the_first_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = ProcessEndpoint(command=("cat",), startup_timeout=10.0)
    async with trio.open_nursery() as nursery:
        channel = await connect_process(nursery, endpoint)
        with trio.move_on_after(1000) as scope:
            await channel.receive()
        assert scope.cancelled_caught
        await channel.aclose()


# -- nothing is left behind -------------------------------------------------------------------


def resources() -> tuple[int, str]:
    children = "".join(
        (task / "children").read_text() for task in Path("/proc/self/task").iterdir()
    )
    return len(os.listdir("/proc/self/fd")), children


@pytest.mark.hardening
async def test_200_failed_connects_leave_nothing(nursery: trio.Nursery, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7f")
    garbage.chmod(0o700)
    before = resources()
    for number in range(200):
        name = str(garbage) if number % 2 else "no-such-program"
        with pytest.raises(ConnectFailed):
            await connect_process(
                nursery, ProcessEndpoint(command=(name,), supervise=number % 4 == 1)
            )
    assert resources() == before


@pytest.mark.hardening
async def test_200_cancelled_connects_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = 0
    real_spawn = child_module._spawn
    token = trio.lowlevel.current_trio_token()
    scope = trio.CancelScope()

    def spawn(
        *arguments: object,
    ) -> tuple[subprocess.Popen[bytes], supervisor.Supervisor | None]:
        nonlocal spawned
        spawned += 1
        token.run_sync_soon(scope.cancel)  # while the thread is at work
        return real_spawn(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(child_module, "_spawn", spawn)
    before = resources()
    with trio.fail_after(100):
        for number in range(200):
            with trio.CancelScope() as scope:
                if number % 2:
                    scope.cancel()
                endpoint = ProcessEndpoint(command=("cat",), supervise=number % 20 == 0)
                async with open_channel(endpoint) as channel:
                    await channel.receive()
            assert scope.cancelled_caught
    assert spawned == 100
    assert resources() == before


@pytest.mark.hardening
async def test_a_connect_timeout_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real_spawn = child_module._spawn

    def slow(*arguments: object) -> object:
        trio.from_thread.run(trio.sleep, 0.05)
        return real_spawn(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(child_module, "_spawn", slow)
    before = resources()
    with trio.fail_after(60):
        try:
            async with open_channel(ProcessEndpoint(command=("cat",)), connect_timeout=0.01):
                pass
        except ConnectTimeout:
            pass
    assert resources() == before


@pytest.mark.hardening
async def test_children_that_died_leave_nothing() -> None:
    before = resources()
    for _ in range(20):
        with trio.fail_after(60), pytest.raises(ConnectionLost):
            async with open_channel(shell("exit 1", supervise=True)) as channel:
                await channel.receive()
    assert resources() == before


# -- the parent's death ---------------------------------------------------------------------

PARENT = """
import sys, trio
from trio_mcp_transport import Notification, ProcessEndpoint
from trio_mcp_transport.transports.process import connect_process

async def main():
    endpoint = ProcessEndpoint(
        command=("/bin/sh", "-c", sys.argv[1]), supervise=sys.argv[2] == "supervise"
    )
    async with trio.open_nursery() as nursery:
        channel = await connect_process(nursery, endpoint)
        message = await channel.receive()
        print(message.method, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
#: Tells the process ids of the group, which ignores the end of stdin, and SIGTERM.
STUBBORN = """trap '' TERM
sleep 1000 &
echo "{\\"jsonrpc\\":\\"2.0\\",\\"method\\":\\"$$ $!\\"}"
while :; do sleep 1000; done
"""


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


@asynccontextmanager
async def parent(script: str, mode: str) -> AsyncGenerator[tuple[trio.Process, list[int]], None]:
    """Another process that has a child; gives it with the ids that the child told."""
    started = await trio.lowlevel.open_process(
        [sys.executable, "-c", PARENT, script, mode], stdout=subprocess.PIPE
    )
    assert started.stdout is not None
    try:
        with trio.fail_after(60):
            async with started.stdout:
                told = await started.stdout.receive_some()
                yield started, list(map(int, told.split()))
    finally:
        started.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await started.wait()


@pytest.mark.integration
@pytest.mark.hardening
async def test_a_killed_parent_takes_a_supervised_group_with_it() -> None:
    async with parent(STUBBORN, "supervise") as (process_, told):
        children = children_of(process_.pid)
        assert len(children) == 2  # the child and the helper
        assert all(map(is_running, told))
        process_.kill()
        await until_gone(*told, *children)


@pytest.mark.integration
@pytest.mark.hardening
async def test_a_killed_parent_closes_its_childs_stdin() -> None:
    script = """echo "{\\"jsonrpc\\":\\"2.0\\",\\"method\\":\\"$$\\"}"; cat >/dev/null"""
    async with parent(script, "alone") as (process_, told):
        process_.kill()
        await until_gone(*told)


async def test_the_helper_goes_when_the_child_is_closed_and_is_in_no_ones_way() -> None:
    async with opened(ProcessEndpoint(command=("cat",), supervise=True)) as channel:
        (helper,) = set(children_of(os.getpid())) - {stream_of(channel).pid}
        assert os.getpgid(helper) == helper != stream_of(channel).pid
        assert os.getsid(helper) == helper
        await channel.send(Request(1, "ping"))
        await channel.receive()
    assert not is_running(helper)


async def test_a_helper_that_was_killed_is_not_missed() -> None:
    async with opened(ProcessEndpoint(command=("cat",), supervise=True)) as channel:
        (helper,) = set(children_of(os.getpid())) - {stream_of(channel).pid}
        os.kill(helper, signal.SIGKILL)
        await channel.send(Request(1, "ping"))
        await channel.receive()


def test_a_supervisor_that_is_stopped_kills_nobody() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as other:
        for _ in range(10):
            helper = supervisor.Supervisor()
            helper.watch(other.pid)
            helper.stop()
            helper.stop()
            assert not is_running(helper.pid)
        assert is_running(other.pid)
    assert other.returncode == 0


def test_a_supervisor_without_a_group_ends_by_itself() -> None:
    helper = supervisor.Supervisor()
    os.close(helper._pipe)  # as if this process had died before the child was started
    assert helper._process.wait(30) == 0


async def test_supervising_without_a_shell_is_refused(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(supervisor, "_SHELL", "/no/such/sh")
    with pytest.raises(FeatureUnavailable, match="supervise needs a POSIX system"):
        await connect_process(nursery, ProcessEndpoint(command=("cat",), supervise=True))


# -- restarts ---------------------------------------------------------------------------------


async def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    counter = tmp_path / "starts"
    script = f"echo x >> {counter}; read line; [ $(wc -l < {counter}) -ge 3 ] || exit 9; cat"
    endpoint = shell(script, restart=5, restart_delay=0.001)
    events: list[ChannelEvent] = []

    async def use(channel: object) -> object:
        assert isinstance(channel, StreamChannel)
        await channel.send(Request(1, "ping"))
        await channel.send(Request(2, "ping"))
        return await channel.receive()

    with trio.fail_after(60):
        answer = await run_with_restarts(
            lambda: open_channel(endpoint), use, RestartPolicy.of(endpoint), on_event=events.append
        )
    assert answer == Request(2, "ping")
    assert [event.name for event in events] == ["connection.restarting"] * 2
    assert counter.read_text().count("x") == 3


async def test_connect_is_the_registered_form(nursery: trio.Nursery) -> None:
    with trio.fail_after(30):
        channel = await process.connect(nursery, ProcessEndpoint(command=("cat",)), None)
        await channel.send(Request(1, "ping"))
        assert await channel.receive() == Request(1, "ping")
        await channel.aclose()
