"""Peers and networks that misbehave on demand: streams with faults, cancels at each await.

For tests of whatever stands on a `trio.abc.Stream`. Faults happen at a given byte, not at
a given time, and delays are on Trio's clock, so a mock clock drives them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, TypeVarTuple

import trio

__all__ = ["Fault", "FaultyStream", "cancel_at", "cut_after", "fail_after", "stall_after"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in one direction of a stream, and when.

    Attributes:
        kind: ``cut``, ``stall`` or ``fail``.
        after: Bytes that pass unharmed before.
    """

    kind: Literal["cut", "stall", "fail"]
    after: int

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"after must be a number of bytes, not {self.after}")


def cut_after(after: int) -> Fault:
    """The direction ends: reading gives EOF; writing breaks, and the peer reads EOF."""
    return Fault("cut", after)


def stall_after(after: int) -> Fault:
    """Nothing moves any more: reading or writing waits until closed, cancelled or healed."""
    return Fault("stall", after)


def fail_after(after: int) -> Fault:
    """The connection breaks: `trio.BrokenResourceError`."""
    return Fault("fail", after)


class _Direction:
    """How far one direction has come, and what happens then."""

    def __init__(self, fault: Fault | None, size: int | None, delay: float) -> None:
        if size is not None and size < 1:
            raise ValueError(f"a piece must have at least 1 byte, not {size}")
        self.fault = fault
        self.size = size
        self.delay = delay
        self.passed = 0
        self.stalled = trio.Event()
        self._changed = trio.Event()

    def allowed(self, wanted: int) -> int:
        """How many bytes may pass in the next piece; 0 when the fault is due."""
        if self.size is not None:
            wanted = min(wanted, self.size)
        if self.fault is not None:
            wanted = min(wanted, self.fault.after - self.passed)
        return wanted

    def change(self, fault: Fault | None) -> None:
        self.fault = fault
        self._changed.set()
        self._changed = trio.Event()

    async def stall(self) -> None:
        self.stalled.set()
        await self._changed.wait()

    async def wait(self) -> None:
        await trio.sleep(self.delay)


class FaultyStream(trio.abc.HalfCloseableStream):
    """A stream around a stream, with faults.

    Args:
        stream: Where the bytes come from and go to; owned from now on.
        reading: What goes wrong with `receive_some`.
        writing: What goes wrong with `send_all`. The bytes before the fault are written.
        read_size: Hand out at most so many bytes at a time; 1 is a trickle.
        write_size: Write at most so many bytes at a time.
        read_delay: Seconds to wait before each piece that is read.
        write_delay: Seconds to wait before each piece that is written.

    Attributes:
        bytes_read: Bytes handed out so far.
        bytes_written: Bytes written so far.
        read_stalled: Set once `receive_some` has run into its ``stall``.
        write_stalled: Set once `send_all` has.
        closed: Whether it was closed.
        killed: Whether `kill` was called.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        reading: Fault | None = None,
        writing: Fault | None = None,
        read_size: int | None = None,
        write_size: int | None = None,
        read_delay: float = 0.0,
        write_delay: float = 0.0,
    ) -> None:
        self._stream = stream
        self._reading = _Direction(reading, read_size, read_delay)
        self._writing = _Direction(writing, write_size, write_delay)
        self.closed = False
        self.killed = False
        self._busy: set[trio.CancelScope] = set()

    @property
    def bytes_read(self) -> int:
        """Bytes handed out so far."""
        return self._reading.passed

    @property
    def bytes_written(self) -> int:
        """Bytes written so far."""
        return self._writing.passed

    @property
    def read_stalled(self) -> trio.Event:
        """Set once `receive_some` has run into its ``stall``."""
        return self._reading.stalled

    @property
    def write_stalled(self) -> trio.Event:
        """Set once `send_all` has run into its ``stall``."""
        return self._writing.stalled

    def heal(self) -> None:
        """Take all faults away; whoever is stalled goes on."""
        self._reading.change(None)
        self._writing.change(None)

    async def kill(self) -> None:
        """Break the connection at once, as when a process is killed or a cable is cut.

        Whoever waits here and whoever comes later gets `trio.BrokenResourceError`; the
        other end sees what it sees when the stream below is closed.
        """
        self.killed = True
        self.heal()
        for scope in self._busy:
            scope.cancel()
        await trio.aclose_forcefully(self._stream)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read what the faults let through."""
        direction = self._reading
        await direction.wait()
        while not (size := direction.allowed(max_bytes or 2**16)):
            await self._suffer(direction)
            if direction.fault is not None and direction.fault.kind == "cut":
                return b""
        data = await self._unless_killed(self._stream.receive_some, size)
        direction.passed += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write what the faults let through."""
        direction = self._writing
        rest = memoryview(data)
        while True:
            await direction.wait()
            size = direction.allowed(len(rest))
            if rest and not size:
                await self._suffer(direction)
                if direction.fault is not None and direction.fault.kind == "cut":
                    if isinstance(self._stream, trio.abc.HalfCloseableStream):
                        await self._stream.send_eof()
                    raise trio.BrokenResourceError("the faulty stream was cut")
                continue
            await self._unless_killed(self._stream.send_all, rest[:size])
            direction.passed += size
            rest = rest[size:]
            if not rest:
                return

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the stream does; a stalled direction always blocks."""
        direction = self._writing
        while direction.fault is not None and not direction.allowed(1):
            await self._suffer(direction)
            if direction.fault is not None and direction.fault.kind == "cut":
                break
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End the sending half, if the stream below can."""
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            raise NotImplementedError(f"{type(self._stream).__name__} cannot half-close")
        self._check_open()
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream below; who is stalled gets `trio.ClosedResourceError`."""
        self.closed = True
        self.heal()
        await self._stream.aclose()

    async def _suffer(self, direction: _Direction) -> None:
        """The fault is due."""
        self._check_open()
        fault = direction.fault
        if fault is None or fault.kind == "cut":
            return
        if fault.kind == "fail":
            raise trio.BrokenResourceError("the faulty stream failed")
        await direction.stall()
        self._check_open()

    async def _unless_killed(self, async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        self._check_open()
        with trio.CancelScope() as scope:
            self._busy.add(scope)
            try:
                return await async_fn(*args)
            finally:
                self._busy.discard(scope)
        self._check_open()
        raise AssertionError("only kill cancels this")

    def _check_open(self) -> None:
        if self.killed:
            raise trio.BrokenResourceError("the faulty stream was killed")
        if self.closed:
            raise trio.ClosedResourceError("this side closed the faulty stream")


class _CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when a task has come to a halt for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, steps: int) -> None:
        self._task = task
        self._scope = scope
        self._steps = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps -= 1
            if self._steps == 0:
                self._scope.cancel()


async def cancel_at(number: int, async_fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> bool:
    """Call an async function and cancel it at one of the places where it waits.

    Called with 0, 1, 2... until it returns False it has cancelled the function everywhere::

        for number in itertools.count():
            channel, peer = make()
            if not await cancel_at(number, channel.send, message):
                break
            assert nothing_was_queued(channel)

    Args:
        number: 0 cancels before the first step; n when the calling task has come to a
            halt for the n-th time. A halt that is shielded is passed, so the cancel
            comes at the next.
        async_fn: What to call.
        args: With what.

    Returns:
        Whether `trio.Cancelled` came out. Any other exception does come out of here.
    """
    with trio.CancelScope() as scope:
        if number == 0:
            scope.cancel()
        instrument = _CancelAtStep(trio.lowlevel.current_task(), scope, number)
        trio.lowlevel.add_instrument(instrument)
        try:
            await async_fn(*args)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught
