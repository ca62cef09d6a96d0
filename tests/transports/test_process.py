"""Child processes: what reaches them, what they say, and how they end by themselves."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
import trio.testing
from children import (
    MESSAGE,
    SHELL,
    TELL,
    opened,
    python,
    shell,
    stream_of,
    tell,
)

from trio_mcp_transport import (
    ChannelEvent,
    ConnectFailed,
    ConnectionLost,
    Notification,
    ProcessEndpoint,
    Request,
    RestartPolicy,
    open_channel,
    run_with_restarts,
)
from trio_mcp_transport.transports import process
from trio_mcp_transport.transports.process import (
    child_environment,
    connect_process,
)
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="POSIX processes and signals"),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an exit status is waited for that does not come, or not in time."""
    monkeypatch.setattr(process, "EXIT_STATUS_SECONDS", 0.1)


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


async def test_a_line_that_is_no_message_is_told_with_the_child_that_printed_it() -> None:
    events: list[ChannelEvent] = []
    endpoint = shell(f"echo hello; echo '{MESSAGE}'; cat")
    async with open_channel(endpoint, on_event=events.append) as channel:
        assert await channel.receive() == Notification("said")
        assert channel.statistics().malformed_received == 1
        assert [event.name for event in events] == ["message.malformed"]
        assert f"process {channel.context.process_id}: a frame of 5 bytes" in events[0].message


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


async def test_a_program_here_is_never_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    (tmp_path / "cat").write_text("not executable, and in the PATH there is one that is")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectFailed, match=r"'\./cat': it is not executable"):
        await connect_process(nursery, ProcessEndpoint(command=("./cat",)))


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


@pytest.mark.usefixtures("impatient")
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


@pytest.mark.usefixtures("impatient")
async def test_a_write_to_a_child_that_closed_its_stdin_says_so() -> None:
    endpoint = shell(f"exec <&-; echo '{MESSAGE}'; sleep 1000", shutdown_timeout=0.05)
    async with opened(endpoint) as channel:
        await channel.receive()
        with pytest.raises(ConnectionLost, match=r"has closed its stdin$") as caught:
            await stream_of(channel).send_all(b"x")
        assert caught.value.exit_status is None


@pytest.mark.usefixtures("impatient")
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


# -- restarts ---------------------------------------------------------------------------------


async def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    counter = tmp_path / "starts"
    script = f"echo x >> {counter}; read line; [ $(wc -l < {counter}) -ge 3 ] || exit 9; cat"
    endpoint = shell(script)
    policy = RestartPolicy(max_restarts=5, initial_delay=0.001)
    events: list[ChannelEvent] = []

    async def use(channel: object) -> object:
        assert isinstance(channel, StreamChannel)
        await channel.send(Request(1, "ping"))
        await channel.send(Request(2, "ping"))
        return await channel.receive()

    with trio.fail_after(60):
        answer = await run_with_restarts(
            lambda: open_channel(endpoint), use, policy, on_event=events.append
        )
    assert answer == Request(2, "ping")
    assert [event.name for event in events] == ["connection.restarting"] * 2
    assert counter.read_text().count("x") == 3
