"""How every command runs: signals, errors and the exit status.

The first SIGINT or SIGTERM asks the command to come to an end in good order; the second
cancels it. Whatever goes wrong is told in one line on stderr.
"""

from __future__ import annotations

import enum
import logging
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import trio

from ..errors import ConfigurationError, TransportError
from ..reporting import lone_exception
from .log_writer import LogWriter
from .terminal import StdoutClosed, tell

__all__ = ["ExitStatus", "Shutdown", "explain", "run", "set_up_logging"]


class ExitStatus(enum.IntEnum):
    """What a command tells its caller; a signal adds its number to 128."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STDOUT_CLOSED = 141  # as if SIGPIPE had ended it


class Shutdown:
    """Whether a signal asked the command to end.

    Attributes:
        requested: Set by the first signal.
        signal: Its number, once there was one.
        insistent: Whether a second signal aborts; if not, somebody else calls `abort`.
        everything: The whole command.
    """

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.signal: int | None = None
        self.insistent = True
        self.everything = trio.CancelScope()
        self._scopes: set[trio.CancelScope] = set()

    def request(self, number: int) -> None:
        """Ask for the end."""
        self.signal = number
        self.requested.set()
        for scope in self._scopes:
            scope.cancel()

    def abort(self) -> None:
        """End at once."""
        self.everything.cancel()

    @contextmanager
    def cancelling(self) -> Generator[trio.CancelScope]:
        """A scope around what ends at once when the end is asked for, or was before."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            if self.requested.is_set():
                scope.cancel()
            try:
                yield scope
            finally:
                self.spare(scope)

    def spare(self, scope: trio.CancelScope) -> None:
        """From now on the end of what is inside is seen to by somebody else."""
        self._scopes.discard(scope)


def run(main: Callable[[Shutdown], Awaitable[int]]) -> int:
    """Run a command's main function under Trio; returns its exit status.

    Args:
        main: Awaited with the `Shutdown` that it should watch; a second signal cancels it.

    Raises:
        Exception: What `main` raised, as it was.
    """
    try:
        return trio.run(_run, main)
    finally:
        for handler in logging.getLogger().handlers:
            handler.flush()  # before anything is told of the end


async def _run(main: Callable[[Shutdown], Awaitable[int]]) -> int:
    shutdown = Shutdown()
    status: int = ExitStatus.OK
    failure: Exception | None = None
    with shutdown.everything:
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_signals, shutdown)
            try:
                status = await main(shutdown)
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
    if shutdown.signal is not None:
        # Its failures are those of an end that somebody wanted.
        return 128 + shutdown.signal
    if failure is not None:
        raise failure
    return status


async def _watch_signals(
    shutdown: Shutdown, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if shutdown.signal is None:
                shutdown.request(number)
            elif shutdown.insistent:
                shutdown.abort()


def explain(error: Exception, *, debug: bool) -> int:
    """Tell why a command failed, in one line, and return its exit status."""
    error = lone_exception(error)
    if isinstance(error, StdoutClosed):
        return ExitStatus.STDOUT_CLOSED
    if debug and sys.stderr is not None:
        traceback.print_exception(error)
    if isinstance(error, TransportError | OSError):
        tell(_one_line(str(error) or type(error).__name__))
    else:
        hint = "" if debug else " (--debug shows where)"
        tell(_one_line(f"unexpected {type(error).__name__}: {error}") + hint)
    return ExitStatus.USAGE if isinstance(error, ConfigurationError) else ExitStatus.FAILED


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Formatter(logging.Formatter):
    """One line for each record; tracebacks only where they were asked for."""

    def __init__(self, *, debug: bool) -> None:
        super().__init__("trio-mcp: %(levelname)s: %(message)s")
        self._debug = debug

    def format(self, record: logging.LogRecord) -> str:
        if self._debug:
            return super().format(record)
        reason = record.exc_info[1] if record.exc_info else None
        line = f"trio-mcp: {record.levelname}: {record.getMessage()}"
        return _one_line(line if reason is None else f"{line}: {reason!r}")


def set_up_logging(level: str, *, debug: bool) -> None:
    """Log to stderr, without ever waiting for it."""
    try:
        handler: logging.Handler = LogWriter(sys.stderr)
    except (AttributeError, OSError):  # there is none, or none that is a file
        handler = logging.NullHandler() if sys.stderr is None else logging.StreamHandler()
    handler.setFormatter(_Formatter(debug=debug))
    logging.basicConfig(level=level.upper(), handlers=[handler])
