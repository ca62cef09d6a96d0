"""An MCP server as a child process, spoken to over its stdin and stdout.

`connect_process` starts the process that a `ProcessEndpoint` describes and makes a channel of it;
`child` owns and ends it. Here stands what the two mean for whoever uses the channel:

* What the child wrote before it died is delivered first. Then a child that exited with
  status 0 reads as the plain end, and any other death is a `ConnectionLost` with the exit
  status and the last that it wrote to stderr.
* A write to a child that is gone waits for that outcome (at most a second), so that it
  says as much and not just "broken pipe".
* If the child is dead and others hold its stdout open: after a failure they are not waited
  for; after a status of 0 they may be the real server, started by a launcher, and the
  conversation goes on until they close it.
* Closing ends the whole process group: see `ProcessStream.aclose`.

Not tried on Windows; see `child` for what is different there.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from ..abc import ChannelContext, ConnectionLost, EventHandler
from ..endpoints import ProcessEndpoint
from ..errors import ConfigurationError, ConnectFailed
from .child import Child, ChildCommand
from .stream_channel import StreamChannel

__all__ = ["ProcessStream", "child_environment", "connect_process"]

#: How long the exit status of a child whose pipes have ended may take. A process closes
#: its files before its parent is told, usually by less than a millisecond.
EXIT_STATUS_SECONDS = 1.0
#: How much of the last line on stderr an exception's text repeats.
SHOWN_CHARACTERS = 200

#: What a program needs to find itself and its files: the variables that the official SDKs
#: pass on, the locale, the time zone, and where caches (uv, npm) and certificates are.
#: Nothing that opens a door, such as SSH_AUTH_SOCK, and no proxies, whose URLs may hold
#: passwords.
_MINIMAL = frozenset({
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
})
_MINIMAL_WINDOWS = frozenset({
    "APPDATA",
    "COMSPEC",
    "HOMEDRIVE",
    "HOMEPATH",
    "LOCALAPPDATA",
    "PATH",
    "PATHEXT",
    "PROCESSOR_ARCHITECTURE",
    "PROGRAMDATA",
    "PROGRAMFILES",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "USERNAME",
    "USERPROFILE",
    "WINDIR",
})


def child_environment(endpoint: ProcessEndpoint, parent: Mapping[str, str]) -> dict[str, str]:
    """All variables of the child.

    Args:
        endpoint: Its `environment` says what `environment_vars` are added to: ``minimal``
            (a short list of the parent's), ``inherit`` (all of the parent's) or ``exact``
            (nothing).
        parent: The parent's variables.
    """
    if endpoint.environment == "exact":
        return dict(endpoint.environment_vars)
    if endpoint.environment == "inherit":
        return {**parent, **endpoint.environment_vars}
    wanted = _MINIMAL_WINDOWS if sys.platform == "win32" else _MINIMAL
    minimal = {
        name: value
        for name, value in parent.items()
        # A value that starts with "()" is an exported shell function: code, not data.
        if (name in wanted or name.startswith("LC_")) and not value.startswith("()")
    }
    return {**minimal, **endpoint.environment_vars}


class ProcessStream(trio.abc.HalfCloseableStream):
    """A child's stdin to write to and its stdout to read from. Made by `connect_process`.

    Must be closed with `aclose`; one that is merely dropped has its process group killed,
    with a ResourceWarning.

    Args:
        child: The running child; owned from now on.
        name: What error texts call it.
        startup_timeout: Seconds, counted from the first byte written to it, within which
            the child must write its first one. Looked at while somebody receives.
        shutdown_timeout: Seconds for each step of `aclose`.
    """

    def __init__(
        self,
        child: Child,
        *,
        name: str,
        startup_timeout: float = math.inf,
        shutdown_timeout: float = 5.0,
    ) -> None:
        self._child = child
        self._name = name
        self._stdin = child.stdin
        self._stdout = child.stdout
        self._write = child.stdin.send_nowait
        self._startup_timeout = startup_timeout
        self._shutdown_timeout = shutdown_timeout
        #: Whether the first byte is still to come, and somebody minds.
        self._starting = startup_timeout != math.inf
        self._first_byte_due = math.inf
        self._startup_scope = trio.CancelScope()
        self._output_ended = trio.Event()
        self._closed = False

    @property
    def pid(self) -> int:
        """The child's process id, also of its process group."""
        return self._child.pid

    @property
    def exit_status(self) -> int | None:
        """Its exit status; None while it runs. Negative: the signal that killed it."""
        return self._child.exit_status

    @property
    def is_alive(self) -> bool:
        """Whether it has not exited."""
        return not self._child.exited.is_set()

    @property
    def stderr_tail(self) -> str:
        """The last that it wrote to stderr, at most 8 KiB.

        Empty where stderr is dropped, and where it is inherited and a terminal.
        """
        return self._child.stderr_tail

    async def wait(self) -> int | None:
        """Wait until the child has exited; return its exit status.

        None if something else in this process has reaped it.
        """
        await self._child.exited.wait()
        return self._child.exit_status

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what the child wrote; ``b""`` when it will write no more.

        Cancelling loses nothing.

        Raises:
            ConnectionLost: It died of a signal or exited with a status other than 0, and
                all that it wrote was returned before; or it did not start in time.
            trio.BrokenResourceError: Reading failed.
            trio.ClosedResourceError: The stream was closed.
        """
        if self._starting:
            data = await self._receive_first(max_bytes)
        else:
            data = await self._stdout.receive_some(max_bytes)
        if not data:
            await self._end_of_output()
        return data

    async def _receive_first(self, max_bytes: int | None) -> bytes:
        with trio.CancelScope(deadline=self._first_byte_due) as self._startup_scope:
            data = await self._stdout.receive_some(max_bytes)
            self._starting = False
            return data
        limit = self._startup_timeout
        raise self._lost(f"wrote nothing within {limit:g} s of the first message")

    async def _end_of_output(self) -> None:
        if not self._output_ended.is_set():
            # It may have closed its stdout and live on; that is asked only once.
            with trio.move_on_after(EXIT_STATUS_SECONDS):
                await self._child.exited.wait()
            self._output_ended.set()
        if self._child.exit_status:
            raise self._lost("ended unexpectedly")

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what fits now, without waiting; no checkpoint.

        Returns:
            How many bytes were written; 0 when it would block, and also when the child is
            gone: `send_all` finds out why.

        Raises:
            trio.ClosedResourceError: The stream was closed, or EOF was sent.
            trio.BusyResourceError: A task is sending.
        """
        if self._starting:
            self._expect_first_byte()
        try:
            return self._write(data)
        except trio.BrokenResourceError:
            return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. If cancelled, an unknown part of it was written.

        Raises:
            ConnectionLost: The child is gone, or has closed its stdin.
            trio.ClosedResourceError: The stream was closed, or EOF was sent.
            trio.BusyResourceError: Another task is sending.
        """
        if self._starting:
            self._expect_first_byte()
        try:
            await self._stdin.send_all(data)
        except trio.BrokenResourceError as error:
            broken = error
        else:
            return
        # A receiver shall first get all that the child wrote, and then the same cause.
        with trio.move_on_after(EXIT_STATUS_SECONDS):
            await self._child.exited.wait()
            await self._output_ended.wait()
        if self._closed:
            raise trio.ClosedResourceError("this side closed the stream") from broken
        gone = self._child.exited.is_set()
        raise self._lost("is gone" if gone else "has closed its stdin") from broken

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the child's stdin would take at least some bytes."""
        await self._stdin.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Close the child's stdin; it can still answer. Idempotent."""
        if self._closed:
            raise trio.ClosedResourceError("this side closed the stream")
        await self._stdin.aclose()

    async def aclose(self) -> None:
        """End the child and all of its process group. Idempotent, from any task.

        Closes its stdin and waits `shutdown_timeout` for it to exit, reading and dropping
        what it still writes; sends SIGTERM to the group and waits as long; sends SIGKILL.
        The whole group is killed in the end, also if the child itself exited early. When
        this returns, the child was reaped.

        Cancelled, or in a cancelled scope, the same happens within two seconds.
        """
        self._closed = True
        await self._child.end(self._shutdown_timeout)

    def _expect_first_byte(self) -> None:
        if self._first_byte_due == math.inf:
            self._first_byte_due = trio.current_time() + self._startup_timeout
            self._startup_scope.deadline = self._first_byte_due

    def _lost(self, what: str) -> ConnectionLost:
        """A `ConnectionLost` with all that is known about the child's end."""
        tail = self.stderr_tail
        text = f"the child process {self._name!r} {what}{_how(self.exit_status)}"
        if last := tail.strip():
            text += f"; the last line on its stderr: {last.splitlines()[-1][:SHOWN_CHARACTERS]}"
        lost = ConnectionLost(text)
        lost.exit_status = self.exit_status
        lost.stderr_tail = tail
        return lost

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not self._child.gone.is_set():
            self._child.abandon()
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<ProcessStream {self._name!r}, process {self.pid}{_how(self.exit_status)}>"


def _how(exit_status: int | None) -> str:
    """How a child ended, to add to a text."""
    if exit_status is None:
        return ""
    if exit_status >= 0:
        return f" (exit status {exit_status})"
    try:
        return f" (killed by {signal.Signals(-exit_status).name})"
    except ValueError:  # a real-time signal
        return f" (killed by signal {-exit_status})"


async def connect_process(
    nursery: trio.Nursery,
    endpoint: ProcessEndpoint,
    *,
    on_event: EventHandler | None = None,
    on_stderr: Callable[[str], object] | None = None,
) -> StreamChannel:
    """Start a child process and make a channel of it.

    It returns when the program was started; a server says nothing until it is asked, so
    one that dies at once is noticed by the first `receive`. Cancelled, nothing is left
    behind: no process, no descriptor.

    Args:
        nursery: Where the channel's writer runs while bytes wait.
        endpoint: What to start, and how.
        on_event: Told of faults that no caller sees.
        on_stderr: Gets each line that the child writes to stderr; called synchronously.
            What it raises is reported.

    Raises:
        ConnectFailed: It cannot be started; the text names the command.
        ConfigurationError: `on_stderr` is given and the endpoint's `stderr` is not
            ``capture``.
        FeatureUnavailable: `supervise` is set and cannot be had here.
    """
    if on_stderr is not None and endpoint.stderr != "capture":
        raise ConfigurationError(f'on_stderr needs stderr="capture", not "{endpoint.stderr}"')
    name = endpoint.command[0]
    environment = child_environment(endpoint, os.environ)
    command = ChildCommand(
        arguments=endpoint.command,
        executable=_find_program(name, environment, endpoint.working_directory),
        environment=environment,
        working_directory=endpoint.working_directory,
        stderr=endpoint.stderr,
        supervise=endpoint.supervise,
    )
    try:
        child = await Child.start(command, on_stderr=on_stderr, on_event=on_event)
    except OSError as error:
        raise _connect_failed(name, error.strerror or str(error), error) from error
    # No checkpoint from here on: what was started is either returned or does not exist.
    stream = ProcessStream(
        child,
        name=name,
        startup_timeout=endpoint.startup_timeout,
        shutdown_timeout=endpoint.shutdown_timeout,
    )
    return StreamChannel(
        stream,
        nursery=nursery,
        context=ChannelContext(transport="process", process_id=child.pid),
        options=endpoint.options,
        on_event=on_event,
        connecting=True,
        answer_malformed=False,
    )


def _find_program(name: str, environment: Mapping[str, str], working_directory: str | None) -> str:
    """The file to run: searched in the child's PATH, or relative to where it starts.

    Raises:
        ConnectFailed: There is none, or no such directory.
    """
    if working_directory is not None and not Path(working_directory).is_dir():
        raise _connect_failed(name, f"no directory {working_directory!r} to start it in")
    if os.path.dirname(name):
        # Joined as text: a Path would drop "./", and then the PATH would be searched.
        path = os.path.join(working_directory or os.curdir, name)
        found = shutil.which(path)
        if found is None:
            exists = os.path.exists(path)
            raise _connect_failed(
                name, "it is not executable" if exists else "there is no such file"
            )
    else:
        found = shutil.which(name, path=environment.get("PATH", os.defpath))
        if found is None:
            raise _connect_failed(name, "no such program in the PATH that it would have")
    # The child may start elsewhere, where a relative path would lead nowhere.
    return os.path.abspath(found)


def _connect_failed(name: str, why: str, error: OSError | None = None) -> ConnectFailed:
    # Neither arguments nor variables: they may hold secrets.
    failed = ConnectFailed(f"cannot start {name!r}: {why}")
    failed.errno = errno.ENOENT if error is None else error.errno
    return failed
