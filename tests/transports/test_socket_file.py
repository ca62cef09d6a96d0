"""The file of a Unix socket: its permissions, whose it may be, and who removes it when."""

# ruff: file-ignore[create-subprocess-in-async-function, blocking-path-method-in-async-function]
# Files and processes are what is looked at here, and nothing else runs meanwhile.

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from unix_sockets import (
    STRANGER,
    at,
    connect_alone,
    leave_stale_socket,
    needs_linux,
    needs_root,
    open_listener,
)

from trio_mcp_transport.abc import ChannelEvent
from trio_mcp_transport.endpoints import UnixEndpoint
from trio_mcp_transport.errors import ConfigurationError, ConnectFailed
from trio_mcp_transport.transports import socket_file
from trio_mcp_transport.transports.accept import StreamListener
from trio_mcp_transport.transports.unix import connect, listen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(mask: int) -> Generator[None, None, None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# -- permissions and owner ----------------------------------------------------------


@pytest.mark.parametrize("permissions", [0o600, 0o660, 0o666, 0o777])
@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
async def test_the_permissions_are_those_asked_for_whatever_the_umask(
    path: Path, mask: int, permissions: int
) -> None:
    with umask(mask):
        async with await open_listener(at(path, permissions=permissions)):
            assert mode_of(path) == permissions
            assert stat.S_ISSOCK(path.lstat().st_mode)


async def test_only_the_owner_may_connect_by_default(path: Path) -> None:
    with umask(0):
        async with await open_listener(at(path)):
            assert mode_of(path) == 0o600


async def test_nobody_can_connect_before_the_permissions_are_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []
    real = os.chmod

    def chmod(target: str, mode: int) -> None:
        for when in ("before", "after"):
            with socket.socket(socket.AF_UNIX) as client:
                with pytest.raises(ConnectionRefusedError):
                    client.connect(target)
                attempts.append(when)
            real(target, mode)

    monkeypatch.setattr(os, "chmod", chmod)
    with umask(0):
        async with await open_listener(at(path)):
            assert attempts == ["before", "after"]


@needs_root
async def test_the_owner_and_group_are_those_asked_for(path: Path) -> None:
    async with await open_listener(at(path, owner=str(STRANGER), group="4712")):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (STRANGER, 4712)
    async with await open_listener(at(path, owner="root", group="root")):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (0, 0)


@pytest.mark.parametrize("name", ["owner", "group"])
async def test_an_unknown_owner_is_a_configuration_error(path: Path, name: str) -> None:
    endpoint = at(path, **{name: "no-such-name"})
    with pytest.raises(ConfigurationError, match=f"{name}: there is no .* 'no-such-name'"):
        await listen(endpoint, None)
    assert not path.exists()


async def test_an_owner_that_cannot_be_set_leaves_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chown(*args: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(ConnectFailed, match="not permitted"):
        await listen(at(path, owner="root"), None)
    assert not path.exists()


@needs_root
@needs_linux
async def test_the_kernel_keeps_other_users_out_of_a_private_socket(tmp_path: Path) -> None:
    # All directories above are open, so that only the socket's own mode can refuse.
    program = (
        "import os, socket, sys\n"
        f"os.setgid({STRANGER}); os.setuid({STRANGER})\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try:\n"
        "    s.connect(sys.argv[1])\n"
        "except PermissionError:\n"
        "    print('kept out')\n"
        "else:\n"
        "    print('let in')\n"
    )
    with trio.fail_after(30):
        for permissions, expected in ((0o600, b"kept out\n"), (0o666, b"let in\n")):
            path = Path(f"/tmp/trio-mcp-test-{os.getpid()}.sock")
            async with await open_listener(at(path, permissions=permissions)):
                done = await trio.run_process(
                    [sys.executable, "-c", program, str(path)], capture_stdout=True
                )
                assert done.stdout == expected
            assert not path.exists()


# -- the path -----------------------------------------------------------------------


async def test_the_file_is_removed_when_the_listener_closes(path: Path) -> None:
    listener = await open_listener(at(path))
    assert path.exists()
    await listener.aclose()
    assert not path.exists()
    await listener.aclose()


async def test_the_file_stays_if_it_was_asked_to(path: Path) -> None:
    listener = await open_listener(at(path, cleanup_on_drop=False))
    await listener.aclose()
    assert path.exists()
    with pytest.raises(ConnectFailed, match="refused"):
        await connect_alone(at(path))
    path.unlink()


async def test_a_file_that_is_not_ours_any_more_stays(path: Path) -> None:
    listener = await open_listener(at(path))
    path.unlink()
    path.write_text("somebody else's")
    await listener.aclose()
    assert path.read_text() == "somebody else's"


async def test_a_file_that_is_gone_already_is_no_matter(path: Path) -> None:
    listener = await open_listener(at(path))
    path.unlink()
    await listener.aclose()


async def test_a_file_that_cannot_be_removed_is_reported_and_the_socket_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[ChannelEvent] = []
    listener = await listen(at(path), events.append)
    assert isinstance(listener, StreamListener)

    def unlink(*args: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        await listener.aclose()
    [event] = events
    assert event.name == "cleanup.failed"
    assert str(path) in event.message
    assert listener.sockets[0].fileno() == -1
    path.unlink()


async def test_a_stale_socket_of_our_own_is_replaced(path: Path) -> None:
    leave_stale_socket(path)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(at(path)) as listener:
            client = await connect(nursery, at(path), None)
            (await listener.accept(nursery)).abort()
            client.abort()
    assert not path.exists()


@needs_root
async def test_a_stale_socket_of_the_configured_owner_is_our_own_too(path: Path) -> None:
    leave_stale_socket(path)
    os.chown(path, STRANGER, -1)
    with pytest.raises(ConnectFailed, match=rf"another user \({STRANGER}\)"):
        await listen(at(path), None)
    assert path.exists()
    async with await open_listener(at(path, owner=str(STRANGER))):
        assert path.lstat().st_uid == STRANGER


async def test_a_live_socket_is_refused_and_lives_on(path: Path) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(at(path)) as listener:
            with pytest.raises(ConnectFailed, match="another server is listening") as caught:
                await listen(at(path), None)
            assert caught.value.errno == errno.EADDRINUSE
            assert str(path) in str(caught.value)
            (await listener.accept(nursery)).abort()  # the probe
            client = await connect(nursery, at(path), None)
            (await listener.accept(nursery)).abort()
            client.abort()


async def test_a_live_socket_with_a_full_backlog_is_refused_too(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            with pytest.raises(ConnectFailed, match="backlog is full"):
                await listen(at(path), None)
    path.unlink()


async def test_a_socket_that_cannot_be_probed_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(path))
        with pytest.raises(ConnectFailed, match="cannot be probed"):
            await listen(at(path), None)
    assert path.exists()
    path.unlink()


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "dangling symlink", "fifo"])
async def test_what_is_no_socket_is_refused_and_stays(path: Path, kind: str) -> None:
    target = path.with_name("target")
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "symlink":
            leave_stale_socket(target)
            path.symlink_to(target)
        case "dangling symlink":
            path.symlink_to(target)
        case _:
            os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(ConnectFailed, match="no socket"):
        await listen(at(path), None)
    assert path.lstat() == before
    target.unlink(missing_ok=True)


async def test_a_missing_directory_is_a_failed_connect_on_both_sides(path: Path) -> None:
    endpoint = at(path / "missing" / "s")
    for call in (listen(endpoint, None), connect_alone(endpoint)):
        with pytest.raises(ConnectFailed, match="No such file or directory") as caught:
            await call
        assert caught.value.errno == errno.ENOENT


def test_a_path_that_is_empty_or_too_long_makes_no_endpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        UnixEndpoint(path="")
    with pytest.raises(ConfigurationError, match="107"):
        at(tmp_path / ("x" * 108))


@pytest.mark.parametrize("name", ["with space", "ünïcödé", "100%", "a?b#c", "-"])
async def test_odd_names_work_and_are_told_so_that_a_client_can_use_them(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(10):
        async with (
            trio.open_nursery() as nursery,
            await open_listener(UnixEndpoint(path=name)) as listener,
        ):
            assert (tmp_path / name).exists()
            client = await connect(nursery, at(tmp_path / name), None)
            (await listener.accept(nursery)).abort()
            client.abort()
            assert listener.endpoint == str(at(tmp_path / name))


async def test_a_relative_path_is_removed_from_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    async with await open_listener(UnixEndpoint(path="s")) as listener:
        assert listener.endpoint == f"unix:{tmp_path}/s"
        monkeypatch.chdir(elsewhere)
    assert not (tmp_path / "s").exists()


async def test_a_relative_path_in_a_deep_directory_stays_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.chdir(deep)
    async with await open_listener(UnixEndpoint(path="s")) as listener:
        assert listener.endpoint == "unix:s"
        assert (deep / "s").exists()
    assert not (deep / "s").exists()


async def test_a_directory_in_which_everybody_can_replace_files_is_refused(
    tmp_path: Path, path: Path
) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConnectFailed, match="lets everybody replace files"):
        await listen(at(path), None)
    tmp_path.chmod(0o1777)  # as /tmp
    async with await open_listener(at(path)):
        pass


async def test_a_directory_in_which_its_group_can_replace_files_is_refused_unless_it_is_named(
    tmp_path: Path, path: Path
) -> None:
    tmp_path.chmod(0o770)
    group = tmp_path.stat().st_gid
    with pytest.raises(ConnectFailed, match=rf"lets its group \({group}\) replace files"):
        await listen(at(path), None)
    assert not path.exists()
    async with await open_listener(at(path, group=str(group))):
        pass
    tmp_path.chmod(0o1770)
    async with await open_listener(at(path)):
        pass


@needs_root
async def test_naming_one_group_does_not_trust_another_one(tmp_path: Path, path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(ConnectFailed, match="lets its group"):
        await listen(at(path, group=str(STRANGER)), None)


@needs_root
async def test_a_directory_of_another_user_is_refused_unless_that_is_the_owner(
    tmp_path: Path, path: Path
) -> None:
    os.chown(tmp_path, STRANGER, -1)
    with pytest.raises(ConnectFailed, match=rf"belongs to another user \({STRANGER}\)"):
        await listen(at(path), None)
    assert not path.exists()
    async with await open_listener(at(path, owner=str(STRANGER))):
        pass


async def test_a_listen_that_is_cancelled_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await listen(at(path), None)
    assert scope.cancelled_caught
    assert not path.exists()

    # Cancelled while the thread is at work: the socket is not lost.
    real = socket_file._check_directory
    scope = trio.CancelScope()

    def check(*args: object) -> None:
        trio.from_thread.run_sync(scope.cancel)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(socket_file, "_check_directory", check)
    listener: StreamListener | None = None
    with scope:
        listener = await open_listener(at(path))
    assert listener is not None
    await listener.aclose()
    assert not path.exists()
    assert len(os.listdir("/dev/fd")) == descriptors


# -- races --------------------------------------------------------------------------

RACER = """
import sys, trio
from trio_mcp_transport.endpoints import UnixEndpoint
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.transports.unix import listen

async def main():
    sys.stdin.readline()
    try:
        listener = await listen(UnixEndpoint(path=sys.argv[1]), None)
    except ConnectFailed:
        print("refused", flush=True)
        return
    print("listening", flush=True)
    await trio.to_thread.run_sync(sys.stdin.read)
    await listener.aclose()

trio.run(main)
"""


async def test_of_servers_that_start_at_once_exactly_one_gets_the_path(path: Path) -> None:
    racers = [
        subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", RACER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]

    def race() -> list[str]:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = []
        for racer in racers:
            assert racer.stdout is not None
            said.append(racer.stdout.readline().strip())
        return said

    leave_stale_socket(path)
    try:
        with trio.fail_after(60):
            said = await trio.to_thread.run_sync(race)
            assert sorted(said) == ["listening", "refused", "refused"]
            channel = await connect_alone(at(path))
            channel.abort()
    finally:
        for racer in racers:
            racer.communicate()
    assert not path.exists()


async def test_servers_of_one_process_that_start_at_once_do_not_both_get_the_path(
    path: Path,
) -> None:
    for _ in range(20):
        leave_stale_socket(path)
        listeners: list[StreamListener] = []
        refused = 0

        async def start(listeners: list[StreamListener] = listeners) -> None:
            nonlocal refused
            try:
                listeners.append(await open_listener(at(path)))
            except ConnectFailed:
                refused += 1

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(start)
        assert (len(listeners), refused) == (1, 3)
        (await connect_alone(at(path))).abort()
        await listeners[0].aclose()


async def test_a_server_that_was_killed_is_replaced_by_the_next_one(path: Path) -> None:
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", RACER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "listening\n"
        os.kill(child.pid, signal.SIGKILL)
    assert path.exists()
    async with await open_listener(at(path)):
        (await connect_alone(at(path))).abort()


async def test_a_locked_directory_is_waited_for(
    tmp_path: Path, path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    async with trio.open_nursery() as nursery:

        async def unlock_later() -> None:
            await trio.sleep(1)
            fcntl.flock(lock, fcntl.LOCK_UN)

        nursery.start_soon(unlock_later)
        async with await open_listener(at(path)):
            assert trio.current_time() >= 1
    os.close(lock)


async def test_a_directory_that_stays_locked_is_given_up(
    tmp_path: Path, path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(ConnectFailed, match="holds a lock"):
        await listen(at(path), None)
    assert trio.current_time() == pytest.approx(5, abs=0.1)
    os.close(lock)
