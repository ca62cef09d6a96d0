"""A child process with its whole process group: started, owned, ended, reaped.

Used by `process`. Theory of operation:

* The child leads a session, and so a process group, of its own; signals go to the group.
* Nothing is awaited between the spawn and the moment when a system task owns the child. If
  everything else is lost, that task ends and reaps it, at the latest when `trio.run` ends.
* The owner notices the child's exit without reaping it (WNOWAIT). While the dead child is
  not reaped, the kernel cannot give its number to another group, so it stays safe to
  signal the group, and it is killed last of all: a wrapper such as ``npx`` may be gone
  while the server that it started lives on.
* `_finish` is the one place where the child is reaped and everything is closed.

Not tried on Windows and macOS: there the child is waited for and reaped in a thread, and on
Windows only the child itself is terminated, not those that it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import msgspec
import trio

from ..abc import EventHandler
from ..endpoints import StderrPolicy
from ..limits import MAX_CANCELLED_CLOSE_SECONDS
from .child_stderr import StderrLines, StderrPump, open_own_stderr, stderr_is_open
from .fd_stream import FdReceiveStream, FdSendStream, ReceiveHalf, SendHalf
from .supervisor import Supervisor
from .thread_stream import ThreadReceiveStream, ThreadSendStream

__all__ = ["Child", "ChildCommand"]

_TERMINATE = signal.SIGTERM
_KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL
#: Whether an exit can be seen without reaping. Windows has no zombies; macOS has this
#: since Python 3.13, and before it the group of a dead child is left alone.
_HAS_WAITID = hasattr(os, "waitid")


class ChildCommand(msgspec.Struct, frozen=True, kw_only=True):
    """What to start.

    Attributes:
        arguments: The program's name as it shall see it, and its arguments.
        executable: The file to run.
        environment: All variables of the child. Never shown.
        working_directory: None for this process's.
        stderr: What becomes of its stderr.
        supervise: Whether a helper ends the group when this process is killed.
    """

    arguments: Sequence[str]
    executable: str
    environment: Mapping[str, str]
    working_directory: str | None = None
    stderr: StderrPolicy = "inherit"
    supervise: bool = False

    def __repr__(self) -> str:
        return f"<ChildCommand {self.arguments[0]!r}>"


class Child:
    """A running child process. Use `start`.

    Attributes:
        pid: Its process id, and that of its process group.
        stdin: Where to write to it.
        stdout: Where to read from it.
        exit_status: None while it runs; negative: the signal that killed it. Stays None
            if somebody else has reaped it.
        exited: Set when it has exited; others of its group may live on.
        gone: Set when the group was killed, the child reaped and everything closed.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        stdin: SendHalf,
        stdout: ReceiveHalf,
        stderr: StderrPump | None,
        supervisor: Supervisor | None,
    ) -> None:
        self.pid = popen.pid
        self.stdin = stdin
        self.stdout = stdout
        self.exit_status: int | None = None
        self.exited = trio.Event()
        self.gone = trio.Event()
        self._popen = popen
        self._stderr = stderr
        self._supervisor = supervisor
        self._let_go = trio.Event()
        self._ending = False
        self._until_exit = trio.CancelScope()
        self._token = trio.lowlevel.current_trio_token()
        self._pidfd = _open_pidfd(popen.pid)

    @classmethod
    @trio.lowlevel.enable_ki_protection
    async def start(
        cls,
        command: ChildCommand,
        *,
        on_stderr: Callable[[str], object] | None = None,
        on_event: EventHandler | None = None,
    ) -> Child:
        """Start it, in a thread. Cancelled before the spawn or not at all.

        Raises:
            OSError: It cannot be started.
            FeatureUnavailable: `supervise` cannot be had here.
        """
        await trio.lowlevel.checkpoint()
        with ExitStack() as undo, ExitStack() as child_ends:
            stdin_read, stdin_write = _pipe(child_ends, undo, ours=1)
            stdout_read, stdout_write = _pipe(child_ends, undo, ours=0)
            own_stderr = open_own_stderr() if command.stderr == "inherit" else None
            if own_stderr is not None:
                undo.callback(own_stderr.close)
            stderr_read: int | None = None
            stderr_write: int | None = subprocess.DEVNULL
            if own_stderr is not None or command.stderr == "capture":
                stderr_read, stderr_write = _pipe(child_ends, undo, ours=0)
            elif command.stderr == "inherit" and stderr_is_open():
                stderr_write = None
            spawn = partial(_spawn, command, stdin_read, stdout_write, stderr_write)
            with trio.CancelScope(shield=True):
                # A limiter of its own, so that busy threads elsewhere cannot hold it up.
                popen, supervisor = await trio.to_thread.run_sync(
                    spawn, limiter=trio.CapacityLimiter(1)
                )
            undo.pop_all()
            pump: StderrPump | None = None
            if stderr_read is not None:
                pump = StderrPump(
                    _receive_stream(stderr_read),
                    own_stderr=own_stderr,
                    lines=None if on_stderr is None else StderrLines(on_stderr),
                    on_event=on_event,
                )
            child = cls(
                popen, _send_stream(stdin_write), _receive_stream(stdout_read), pump, supervisor
            )
            trio.lowlevel.spawn_system_task(child._own, name=f"owner of process {popen.pid}")
            if pump is not None:
                trio.lowlevel.spawn_system_task(pump.run, name=f"stderr of process {popen.pid}")
        return child

    @property
    def stderr_tail(self) -> str:
        """The last that it wrote to stderr; empty where that is not piped."""
        if self._stderr is None:
            return ""
        if self.exited.is_set():
            self._stderr.read_rest()
        return self._stderr.tail

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the child and all of its group that are left.

        Does nothing once the child was reaped, by whomever: then the number may be given
        to another process.
        """
        if sys.platform == "win32":
            self._popen.terminate()
        elif not self.gone.is_set() and self._is_ours():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def abandon(self) -> None:
        """Kill the group soon; from any thread, even from a finalizer."""
        with suppress(trio.RunFinishedError):  # then the owner has done it
            self._token.run_sync_soon(self._kill_and_let_go)

    def _kill_and_let_go(self) -> None:
        self.signal_group(_KILL)
        self._let_go.set()

    async def end(self, step: float) -> None:
        """End the whole group; return when it is reaped. Idempotent, from any task.

        Closes stdin, waits `step` seconds for the exit, sends SIGTERM, waits as long, sends
        SIGKILL. What the child writes to stdout meanwhile is read and dropped, so that it is
        not held up. Those of its group that outlive it and hold stdout open get SIGTERM and
        `step` seconds as well.

        Cancelled, it goes on in short steps for at most two seconds altogether. A child that
        even then does not die (it hangs in the kernel) is reaped whenever it does.
        """
        if self._ending:
            await self._let_go.wait()
            return
        self._ending = True
        self.stdin.close()
        # Whoever is receiving gets ClosedResourceError; from here on it is read to be dropped.
        self.stdout = self.stdout.detach()
        try:
            await self._end_in_steps(step, step, step)
            if self.exited.is_set() and not self.stdout.ended:
                self.signal_group(_TERMINATE)
                with trio.move_on_after(step):
                    await self._drop_output()
        finally:
            with trio.CancelScope(shield=True):
                if not self.exited.is_set():
                    await self._end_quickly()
                self._finish()

    async def _end_quickly(self) -> None:
        total = MAX_CANCELLED_CLOSE_SECONDS
        await self._end_in_steps(total / 4, total / 4, total / 2)

    async def _end_in_steps(self, *seconds: float) -> None:
        """Wait for the exit; SIGTERM, wait; SIGKILL, wait."""
        for step, then in zip(seconds, (_TERMINATE, _KILL, None), strict=True):
            with trio.move_on_after(step) as self._until_exit:
                # A dead child's output may be held open by others: the exit cancels this.
                if not self.exited.is_set():
                    await self._drop_output()
                await self.exited.wait()
            if self.exited.is_set():
                return
            if then is not None:
                self.signal_group(then)

    async def _drop_output(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self.stdout.receive_some():
                pass

    async def _own(self) -> None:
        """The owner: a system task, so that it holds no nursery open."""
        try:
            await self._watch()
            await self._let_go.wait()
        finally:
            if not self.gone.is_set():
                with trio.CancelScope(shield=True):
                    if not self.exited.is_set():  # trio.run is ending, and nobody else did it
                        await self._end_with_the_run()
                    self._finish()
                    if not self.gone.is_set():
                        self._reap_blocking()
                    self._close_pidfd()

    async def _end_with_the_run(self) -> None:
        self.stdin.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await self._end_quickly()
            nursery.cancel_scope.cancel()

    def _reap_blocking(self) -> None:
        """Wait for a killed child by the real clock: a test's clock may have jumped."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(MAX_CANCELLED_CLOSE_SECONDS / 2)
            self.exit_status = self._popen.returncode
            self.exited.set()
            self._finish()

    async def _watch(self) -> None:
        """Wait until the child exits, and note how."""
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
        else:
            await trio.to_thread.run_sync(
                self._wait_in_thread, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        self.exit_status = self._read_exit_status()
        self.exited.set()
        self._until_exit.cancel()
        # The conversation is over, after what is there to be read; unless it has exited
        # well: then it may have been a launcher, and what it started goes on.
        if self.exit_status != 0:
            self.stdin.finish()
            self.stdout.finish()

    def _wait_in_thread(self) -> None:
        if _HAS_WAITID:
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._popen.wait()

    def _read_exit_status(self) -> int | None:
        if not _HAS_WAITID:
            return self._popen.returncode
        try:
            result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return None
        if result is None:
            return None
        killed = result.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
        return -result.si_status if killed else result.si_status

    def _is_ours(self) -> bool:
        """Whether the process id still belongs to this child, running or dead."""
        if self._popen.returncode is not None:
            return False
        if not _HAS_WAITID:
            return True
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return False
        return True

    def _finish(self) -> None:
        """Kill what is left of the group, reap the child, close everything. Idempotent.

        If it has not exited in spite of SIGKILL, the owner comes back here when it has.
        """
        self._let_go.set()
        self.stdin.close()
        self.stdout.close()
        if self.gone.is_set():
            return
        self.signal_group(_KILL)
        if self._stderr is not None:
            self._stderr.close()
        if not self.exited.is_set():
            return
        self._popen.poll()
        self._close_pidfd()
        if self._supervisor is not None:
            self._supervisor.stop()
        self.gone.set()

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the child exits, where there is such."""
    if sys.platform == "linux":
        # An old kernel, a sandbox, or too many open files: then a thread waits.
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None


def _pipe(child_ends: ExitStack, undo: ExitStack, *, ours: int) -> tuple[int, int]:
    """A pipe with one end, 0 to read or 1 to write, for this process; neither inheritable."""
    ends = os.pipe()
    undo.callback(os.close, ends[ours])
    child_ends.callback(os.close, ends[1 - ours])
    if sys.platform != "win32":
        os.set_blocking(ends[ours], False)
    return ends


def _receive_stream(fd: int) -> ReceiveHalf:
    return ThreadReceiveStream(fd) if sys.platform == "win32" else FdReceiveStream(fd)


def _send_stream(fd: int) -> SendHalf:
    return ThreadSendStream(fd) if sys.platform == "win32" else FdSendStream(fd)


def _spawn(
    command: ChildCommand, stdin: int, stdout: int, stderr: int | None
) -> tuple[subprocess.Popen[bytes], Supervisor | None]:
    """Runs in a thread: starting a process waits for the disk."""
    supervisor = Supervisor() if command.supervise else None
    try:
        popen = subprocess.Popen(
            list(command.arguments),
            executable=command.executable,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=command.working_directory,
            env=command.environment,
            start_new_session=sys.platform != "win32",
        )
    except BaseException:
        if supervisor is not None:
            supervisor.stop()
        raise
    if supervisor is not None:
        supervisor.watch(popen.pid)
    return popen, supervisor
