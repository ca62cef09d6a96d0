"""One worker of ``serve --workers``, seen from the supervisor and from inside.

Theory of operation: supervisor and worker are joined by a pair of sockets. On it the worker
finds its orders as it starts (a line of JSON; nothing secret stands in its arguments or its
environment), says that it is ready (another line), is told to come to its end or to abort
(a byte each), and notices the supervisor's end: the kernel closes the other socket, however
that ended. A worker is a fresh interpreter with the same command line, so it has the code and
the files of the time at which it was started; it is in a process group of its own, as a Ctrl-C
is for the supervisor to act upon.

Signals are no orders, since others send them too: a service manager sends SIGTERM to all
processes of a service, and the supervisor hears it as they do. So a worker that gets one comes
to its end in good order, and any further ones change nothing: that a second one aborts is for
the supervisor to say, which counts its own. (SIGKILL is still there for one worker.) Without a
supervisor there is nobody to say it, so that its end counts as the first signal, and one that
comes after it aborts.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import trio

from ..endpoints import Endpoint, TcpEndpoint
from ..errors import ConfigurationError
from ..transports.socket_stream import SocketStream
from ..transports.worker_seat import SocketKey, WorkerSeat
from ..web_endpoints import WebEndpoint
from .running import Shutdown
from .terminal import tell

__all__ = [
    "Listening",
    "Orders",
    "Post",
    "Worker",
    "WorkerFailed",
    "enlist",
    "how_ended",
    "start_worker",
    "worker_command",
]

#: Names the worker's end of the pair of sockets.
_VARIABLE = "TRIO_MCP_WORKER"
_MAX_LINE_BYTES = 1 << 20
#: A worker that is not ready after so long never will be. A COMMAND may take its time.
_START_SECONDS = 120.0
#: What `sys.flags` says of this interpreter, and how that is said to another one.
_FLAGS = {
    "bytes_warning": "-b",
    "dont_write_bytecode": "-B",
    "ignore_environment": "-E",
    "isolated": "-I",
    "no_site": "-S",
    "no_user_site": "-s",
    "optimize": "-O",
}
#: Orders to a worker that serves.
_END, _ABORT = b"e", b"a"


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """The sockets of one endpoint.

    Attributes:
        port: The real one, where there are ports.
        key: What the worker finds them by.
        descriptors: Of the sockets.
    """

    port: int | None
    key: SocketKey
    descriptors: list[int]


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has to know.

    Attributes:
        number: Its number; no other worker of the supervisor has had it.
        directory: Where workers reach each other.
        state_key: What all of them sign with.
        listening: For each endpoint of the command line, in order.
    """

    number: int
    directory: str
    state_key: bytes
    listening: list[Listening]


class _Ready(msgspec.Struct, frozen=True):
    endpoints: list[str]


class WorkerFailed(Exception):
    """A worker ended, or was ended, before it was ready.

    Attributes:
        status: Its exit status, or minus the signal that killed it; None if it did not end.
    """

    def __init__(self, number: int, status: int | None) -> None:
        super().__init__(
            f"worker {number} was not ready within {_START_SECONDS:g} seconds"
            if status is None
            else f"worker {number} ended before it was ready ({how_ended(status)})"
        )
        self.status = status


def how_ended(status: int) -> str:
    """What an exit status says, or minus the signal that killed a process."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


# -- the supervisor's side ---------------------------------------------------------------


class Worker:
    """A worker that is ready.

    Attributes:
        number: Its number.
        process: Its process.
        endpoints: Where clients may connect.
        ready_at: When it was ready, by Trio's clock.
    """

    def __init__(
        self, number: int, process: trio.Process, endpoints: list[str], control: SocketStream
    ) -> None:
        self.number = number
        self.process = process
        self.endpoints = endpoints
        self.ready_at = trio.current_time()
        self._control = control

    async def wait(self) -> int:
        """Wait until it has ended; its exit status, or minus the signal that killed it."""
        status = await self.process.wait()
        self._control.close()
        return status

    def end(self) -> None:
        """Tell it to come to its end in good order. Idempotent."""
        self._order(_END)

    def abort(self) -> None:
        """Tell it to end now. Idempotent."""
        self._order(_ABORT)

    def _order(self, order: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it has ended
            self._control.send_nowait(order)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()


async def start_worker(command: Sequence[str], orders: Orders) -> Worker:
    """Start a worker and wait until it is ready. If cancelled, none is left behind.

    Args:
        command: The command line.
        orders: What it has to know.

    Raises:
        WorkerFailed: It ended before it was ready, and has said why on stderr; or it was not
            ready in time.
        OSError: No process can be started.
    """
    ours, theirs = socket.socketpair()
    control = SocketStream(ours)
    process: trio.Process | None = None
    try:
        with theirs:
            await control.send_all(msgspec.json.encode(orders) + b"\n")
            inherited = [fd for each in orders.listening for fd in each.descriptors]
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                env=os.environ | {_VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno(), *inherited],
                process_group=0,
            )
        with trio.move_on_after(_START_SECONDS):
            line = await _read_line(control)
            if line:
                ready = msgspec.json.decode(line, type=_Ready)
                return Worker(orders.number, process, ready.endpoints, control)
            # It has closed its end, so it is about to end, or does not work.
            raise WorkerFailed(orders.number, await process.wait())
        raise WorkerFailed(orders.number, None)
    except BaseException:
        control.close()
        if process is not None:
            await _kill(process)  # noqa: ASYNC102 (shielded, and a killed process ends)
        raise


async def _kill(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _read_line(stream: SocketStream) -> bytes:
    """A line; empty if there comes none."""
    line = b""
    with suppress(trio.BrokenResourceError):
        while not line.endswith(b"\n") and len(line) < _MAX_LINE_BYTES:
            chunk = await stream.receive_some()
            if not chunk:
                return b""
            line += chunk
        return line
    return b""


# -- the worker's side -------------------------------------------------------------------


def enlist() -> Post | None:
    """Find out whether this process is a worker; None if it is not.

    To be called once, before Trio runs and before anything is started that would inherit
    what is a worker's alone.

    Raises:
        ConfigurationError: The variable that says so makes no sense.
    """
    text = os.environ.pop(_VARIABLE, None)
    if text is None:
        return None
    try:
        control = socket.socket(fileno=int(text))
        control.set_inheritable(False)
        with control.dup().makefile("rb") as reader:
            orders = msgspec.json.decode(reader.readline(_MAX_LINE_BYTES), type=Orders)
        sockets = {each.key: _adopt(each.descriptors) for each in orders.listening}
    except (OSError, OverflowError, ValueError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{_VARIABLE} is set by `serve --workers` alone") from error
    return Post(orders, control, WorkerSeat(orders.number, orders.directory, sockets))


def _adopt(descriptors: Sequence[int]) -> list[socket.socket]:
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets


class Post:
    """What a worker knows of itself.

    Attributes:
        orders: What it was told.
        seat: Its sockets, and its place among the others.
    """

    def __init__(self, orders: Orders, control: socket.socket, seat: WorkerSeat) -> None:
        self.orders = orders
        self.seat = seat
        self._control = control

    def placed(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """The endpoints with the ports that the supervisor has got for them.

        Raises:
            ConfigurationError: They are others than those that the supervisor knows.
        """
        listening = self.orders.listening
        if len(listening) != len(endpoints):
            raise ConfigurationError("the endpoints have changed: start `serve` anew")
        return [
            endpoint if each.port is None else _with_port(endpoint, each.port)
            for endpoint, each in zip(endpoints, listening, strict=True)
        ]

    def announce(self, endpoints: Sequence[str]) -> None:
        """Tell the supervisor that this worker is ready."""
        with suppress(OSError):  # it has ended: `watch` sees to that
            self._control.sendall(msgspec.json.encode(_Ready(list(endpoints))) + b"\n")

    async def watch(self, shutdown: Shutdown) -> None:
        """Do what the supervisor says; come to an end, as after SIGTERM, when it has ended.

        As long as there is a supervisor, no number of signals aborts.
        """
        shutdown.insistent = False
        while (said := self._hear()) != b"":
            if said is None:
                await trio.lowlevel.wait_readable(self._control)
                continue
            if not shutdown.requested.is_set():
                shutdown.request(signal.SIGTERM)
            if _ABORT in said:
                shutdown.abort()
        shutdown.insistent = True
        if not shutdown.requested.is_set():
            tell(f"worker {self.orders.number}: the supervisor has ended, and so does this")
            shutdown.request(signal.SIGTERM)

    def _hear(self) -> bytes | None:
        """What the supervisor has said; empty if it has ended, None if it says nothing."""
        try:
            return self._control.recv(100, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def close(self) -> None:
        """Leave; whoever does so last when there is no supervisor any more removes the rest."""
        while said := self._hear():
            pass
        if said == b"":
            _remove_directory(self.orders.directory)
        self._control.close()


def _remove_directory(path: str) -> None:
    """Remove the workers' directory, unless some of them live."""
    with suppress(OSError):
        with os.scandir(path) as entries:
            for entry in entries:
                _remove_dead(entry.path)
        os.rmdir(path)


def _remove_dead(path: str) -> None:
    """Remove the socket of a worker that was killed: one that refuses connections."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        refused = False
        with suppress(OSError):  # its worker lives, or has removed it by now
            refused = probe.connect_ex(path) == errno.ECONNREFUSED
    if refused:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _with_port(endpoint: Endpoint, port: int) -> Endpoint:
    assert isinstance(endpoint, TcpEndpoint | WebEndpoint)
    return msgspec.structs.replace(endpoint, port=port)


def worker_command(words: Sequence[str], child_command: Sequence[str] | None) -> list[str]:
    """The command line that starts this program again, with a fresh interpreter.

    Args:
        words: The arguments of this one.
        child_command: What stood behind ``--``, if there was one.
    """
    options: list[str] = []
    for flag, option in _FLAGS.items():
        options += [option] * int(getattr(sys.flags, flag))
    if not _searches_here():
        options.append("-P")  # `-m` would let modules of this directory come first
    for name, value in sys._xoptions.items():
        options += ["-X", name if value is True else f"{name}={value}"]
    options += [f"-W{option}" for option in sys.warnoptions]
    package = __name__.partition(".")[0]
    behind = [] if child_command is None else ["--", *child_command]
    return [sys.executable, *options, "-m", package, *words, *behind]


def _searches_here() -> bool:
    try:
        here = os.getcwd()
    except OSError:  # it was removed, so there is nothing to be found in it
        return False
    return not {"", here}.isdisjoint(sys.path)
