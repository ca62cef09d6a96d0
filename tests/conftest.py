"""What holds for every test: nothing is left behind.

After each test there are no new file descriptors, child processes, threads or socket
files, the standard streams are as they were, and nothing was garbage collected that
should have been closed. A test that leaks fails itself, not its neighbour.

`test_conftest.py` proves that each of these checks can fail.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_mcp_transport import reporting

if TYPE_CHECKING:
    from tls_files import TlsFiles

HAS_PROC = sys.platform == "linux"
#: Only waited for when a thread is still there: one that was told to end may need a moment.
THREAD_GRACE_SECONDS = 1.0

# Shells start background jobs with SIGINT ignored, and every program that the tests start
# and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def open_descriptors() -> dict[int, str]:
    """Each open descriptor with what it refers to, such as ``socket:[4711]``."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def standard_stream_flags() -> tuple[int | None, ...]:
    """The status flags of fds 0 to 2: O_NONBLOCK left on would break whoever shares them."""
    flags: list[int | None] = []
    for fd in range(3):
        try:
            flags.append(fcntl.fcntl(fd, fcntl.F_GETFL))
        except OSError:
            flags.append(None)
    return tuple(flags)


def child_processes() -> set[int]:
    """The ids of all children, zombies included. One system call when there are none."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        children.update(map(int, (task / "children").read_text().split()))
    return children


def describe_process(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        command = ""
    return f"process {pid} ({command.strip() or 'zombie'})"


def foreign_threads() -> set[threading.Thread]:
    """All threads but the idle ones that Trio keeps for later, which end by themselves.

    Trio gives a worker its job's name while it runs one, so a busy one is not excused.
    """
    return {
        thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread ")
    }


def socket_files(directory: Path) -> list[Path]:
    found: list[Path] = []
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if stat.S_ISSOCK(path.lstat().st_mode):
                found.append(path)
    return found


class Leftovers:
    """Compares the process before and after a test."""

    def __init__(self) -> None:
        self.threads = foreign_threads()
        self.children: set[int] = set()
        self.descriptors: dict[int, str] = {}
        if HAS_PROC:
            self.children = child_processes()
            self.descriptors = open_descriptors()
            self.flags = standard_stream_flags()

    def _new_descriptors(self) -> dict[int, str]:
        before = self.descriptors
        now = open_descriptors()
        changed = {fd: what for fd, what in now.items() if before.get(fd) != what}
        # A standard stream may not go away either; other descriptors may.
        changed.update({fd: "closed" for fd in range(3) if fd in before and fd not in now})
        return changed

    def find(self, directory: Path | None = None) -> list[str]:
        """Say what is here that was not; empty when all is well."""
        found: list[str] = []
        for thread in foreign_threads() - self.threads:
            thread.join(THREAD_GRACE_SECONDS)
            if thread.is_alive():
                found.append(f"thread {thread.name!r}")
        if HAS_PROC:
            found += map(describe_process, sorted(child_processes() - self.children))
            if self._new_descriptors():
                # An object that nobody closed may still hold it: it shall say so itself.
                gc.collect()
                found += [
                    f"file descriptor {fd} ({what})" for fd, what in self._new_descriptors().items()
                ]
            if standard_stream_flags() != self.flags:
                found.append("changed flags of the standard streams")
        if directory is not None:
            found += [f"socket file {path}" for path in socket_files(directory)]
        return found


@pytest.fixture(scope="session", autouse=True)
def _settled_heap() -> None:
    """Take all that was imported out of the garbage collector's sight: it stays cheap."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_left_behind() -> Iterator[None]:
    """Collect what has grown old, so that its warnings fail this module, not another."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _nothing_logged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find its events left out of the log for what others logged."""
    monkeypatch.setattr(reporting, "_limit", reporting.LogLimit())


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    before = Leftovers()
    yield
    gc.collect(1)  # unclosed resources of this test warn now, and warnings are errors
    directory = request.node.funcargs.get("tmp_path")
    leftovers = before.find(directory)
    if leftovers:
        pytest.fail("left behind: " + ", ".join(leftovers), pytrace=False)


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """An authority, a server and a client certificate; skips where the extra is missing."""
    pytest.importorskip("OpenSSL")
    # Not at the top: `test_conftest.py` runs this file alone.
    from tls_files import make_tls_files

    return make_tls_files(tmp_path_factory.mktemp("tls"))
