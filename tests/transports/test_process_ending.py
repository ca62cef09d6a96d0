"""How child processes are ended, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from children import (
    MESSAGE,
    TELL,
    is_running,
    opened,
    python,
    shell,
    stream_of,
    tell,
    until_gone,
)

from trio_mcp_transport import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    FeatureUnavailable,
    ProcessEndpoint,
    Request,
    open_channel,
)
from trio_mcp_transport.limits import MAX_CANCELLED_CLOSE_SECONDS
from trio_mcp_transport.transports import child as child_module
from trio_mcp_transport.transports import supervisor
from trio_mcp_transport.transports.process import (
    ProcessStream,
    connect_process,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="POSIX processes and signals"),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a close is cancelled: how long its steps take is not what is tested."""
    monkeypatch.setattr(child_module, "MAX_CANCELLED_CLOSE_SECONDS", 0.2)


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


@pytest.mark.usefixtures("impatient")
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


@pytest.mark.usefixtures("impatient")
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


@pytest.mark.usefixtures("impatient")
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
