"""This process's own stdin and stdout as a channel: what an MCP server is started with.

While the channel is open the wire is private: descriptor 0 is the null device and
descriptor 1 goes to stderr, so that neither a ``print`` nor a C library nor a child process
can write into the conversation or read from it. Both are put back when it is closed.

Theory of operation: the wire is opened anew (`private_fd`), the two descriptors are kept in
duplicates of their own, and only then are 0 and 1 pointed elsewhere. The descriptors
belong to the whole process, so there can be only one such channel at a time; the module's
lock says whether there is one.

Where stderr is the same file as stdout (``2>&1``, a terminal) or closed, descriptor 1 goes
to the null device instead. What is written to stderr still reaches the wire then; the
event ``stdio.stderr-is-stdout`` says so, unless it is a terminal, where a person sees it.

Not tried on Windows, where both directions go through threads, nor on systems without
``/proc``, where pipes and terminals do. What a C library holds back in a buffer of its own
until the channel is closed comes out on the real stdout.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TypeVar

import trio

from ..abc import ChannelContext, ChannelEvent, EventHandler, MessageChannel, MessageListener
from ..endpoints import StdioEndpoint
from ..errors import ConnectFailed
from ..reporting import report
from .private_fd import duplicate, open_receive_stream, open_send_stream
from .stream_channel import StreamChannel

__all__ = ["StdioListener", "StdioStream", "connect", "listen"]

T = TypeVar("T")

_CONTEXT = ChannelContext(transport="stdio")
_in_use = threading.Lock()


class StdioStream(trio.abc.Stream):
    """Reads this process's stdin and writes its stdout; takes both over until closed.

    It cannot be half-closed: others may hold stdout open, so its end would reach nobody.

    Args:
        on_event: Told when stderr is the same file as stdout.

    Raises:
        ConnectFailed: Stdin or stdout is closed or cannot be used; the text says which.
        trio.BusyResourceError: Another one is open in this process.
    """

    def __init__(self, *, on_event: EventHandler | None = None) -> None:
        if not _in_use.acquire(blocking=False):
            raise trio.BusyResourceError("this process's stdin and stdout are in use")
        self._restore = ExitStack()
        self._closed = False
        try:
            with ExitStack() as undo:
                undo.callback(_in_use.release)
                _flush_stdout()
                self._receiver = _open("stdin", 0, open_receive_stream)
                undo.callback(self._receiver.close)
                self._sender = _open("stdout", 1, open_send_stream)
                undo.callback(self._sender.close)
                _redirect(undo, on_event)
                # Only now, when nothing more can fail, does it stay open.
                self._restore = undo.pop_all()
        except ConnectFailed:
            raise
        except OSError as error:
            raise ConnectFailed(f"cannot take stdin and stdout over: {error}") from error
        #: Writes what fits now; see `SendHalf.send_nowait`.
        self.send_nowait = self._sender.send_nowait

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what has come; ``b""`` when stdin has ended. Writing goes on then.

        Cancelling loses nothing.

        Raises:
            trio.BrokenResourceError: Reading failed.
            trio.ClosedResourceError: The stream was closed.
        """
        return await self._receiver.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything to stdout. If cancelled, an unknown part of it was written.

        Raises:
            trio.BrokenResourceError: Nobody reads it any more.
            trio.ClosedResourceError: The stream was closed.
        """
        await self._sender.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until stdout would take at least some bytes, where that can be told."""
        await self._sender.wait_send_all_might_not_block()

    def close(self) -> None:
        """Put descriptors 0 and 1 back, at once. Idempotent."""
        if not self._closed:
            self._closed = True
            self._restore.close()

    async def aclose(self) -> None:
        """As `close`, then checkpoint. Closes in a cancelled scope as well."""
        self.close()
        await trio.lowlevel.checkpoint()


class StdioListener(MessageListener):
    """Accepts once: the channel that this process's own stdin and stdout make.

    They are taken over when it is made, so that what is wrong with them is known at once.
    """

    def __init__(self, endpoint: StdioEndpoint, on_event: EventHandler | None = None) -> None:
        self._stream: StdioStream | None = StdioStream(on_event=on_event)
        self._options = endpoint.options
        self._endpoint = str(endpoint)
        self._on_event = on_event

    @property
    def endpoint(self) -> str:
        """``stdio:``, with its options."""
        return self._endpoint

    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        """Make the channel.

        Raises:
            trio.ClosedResourceError: It was made before, or the listener was closed: no
                other will ever come.
        """
        await trio.lowlevel.checkpoint()
        if self._stream is None:
            raise trio.ClosedResourceError("stdin and stdout make one channel only")
        stream, self._stream = self._stream, None
        return StreamChannel(
            stream,
            nursery=nursery,
            context=_CONTEXT,
            options=self._options,
            on_event=self._on_event,
        )

    async def aclose(self) -> None:
        """Give stdin and stdout back if they were not accepted; a channel lives on."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        await trio.lowlevel.checkpoint()


async def connect(
    nursery: trio.Nursery, endpoint: StdioEndpoint, on_event: EventHandler | None = None
) -> MessageChannel:
    """Make a channel of this process's own stdin and stdout.

    Raises:
        ConnectFailed: One of them is closed or cannot be used.
        trio.BusyResourceError: There is such a channel already.
    """
    await trio.lowlevel.checkpoint()
    return StreamChannel(
        StdioStream(on_event=on_event),
        nursery=nursery,
        context=_CONTEXT,
        options=endpoint.options,
        on_event=on_event,
    )


async def listen(endpoint: StdioEndpoint, on_event: EventHandler | None = None) -> MessageListener:
    """Take stdin and stdout over, to be accepted as one channel. Raises as `connect` does."""
    await trio.lowlevel.checkpoint()
    return StdioListener(endpoint, on_event)


def _open(name: str, fd: int, opener: Callable[[int], T]) -> T:
    # A standard stream that was closed at start is None, and its number may since have
    # been given to a file that is not ours to touch, such as Trio's own epoll.
    if getattr(sys, f"__{name}__") is None:
        raise ConnectFailed(f"{name} was closed when this program started")
    try:
        return opener(fd)
    except OSError as error:
        what = "is closed" if error.errno == errno.EBADF else f"cannot be used: {error}"
        raise ConnectFailed(f"{name} {what}") from error


def _redirect(undo: ExitStack, on_event: EventHandler | None) -> None:
    """Point descriptor 0 at the null device and 1 at stderr, until `undo` runs.

    Raises:
        OSError: There are too many open files; `undo` puts back what was changed.
    """
    stderr_is_open = sys.__stderr__ is not None and _is_open(2)
    shared = stderr_is_open and os.path.sameopenfile(1, 2)
    saved = [duplicate(0), -1]
    undo.callback(os.close, saved[0])
    saved[1] = duplicate(1)
    undo.callback(os.close, saved[1])
    null = os.open(os.devnull, os.O_RDWR)
    try:
        undo.callback(os.dup2, saved[0], 0)
        os.dup2(null, 0)
        undo.callback(os.dup2, saved[1], 1)
        os.dup2(2 if stderr_is_open and not shared else null, 1)
    finally:
        os.close(null)
    # What was printed meanwhile is for where descriptor 1 points now, not for the wire.
    undo.callback(_flush_stdout)
    # Without a handler a log record goes to stderr, which is the wire: then rather none.
    told = on_event is not None or logging.getLogger("trio_mcp_transport").hasHandlers()
    if shared and told and not os.isatty(2):
        report(
            on_event,
            ChannelEvent(
                name="stdio.stderr-is-stdout",
                message="stderr and stdout are the same file: what is written to stderr"
                " disturbs the conversation",
                context=_CONTEXT,
            ),
        )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _flush_stdout() -> None:
    if sys.stdout is not None:
        with suppress(OSError, ValueError):  # nobody reads it, or it was closed
            sys.stdout.flush()
