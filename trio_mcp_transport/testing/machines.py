"""Driving machines without I/O: feed bytes, cut them anywhere, join two machines.

For tests of protocol code, ours and other people's: whatever has the verbs of
`trio_mcp_transport.sansio` will do. Nothing in here waits, and nothing needs an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from ..errors import RemoteProtocolError
from ..sansio.machine import EndOfData, NeedData

__all__ = ["JoinedMachines", "Machine", "check_every_cut", "drain", "feed"]

E_co = TypeVar("E_co", covariant=True)
E = TypeVar("E")
S_contra = TypeVar("S_contra", contravariant=True)
S = TypeVar("S")


class Receiving(Protocol[E_co]):
    """The receiving half of a machine."""

    def receive_data(self, data: bytes, /) -> None:
        """Take bytes in."""

    def receive_eof(self) -> None:
        """Tell that no more will come."""

    def next_event(self) -> E_co | EndOfData | NeedData:
        """The next event, `EndOfData`, or `NEED_DATA`."""


class Machine(Receiving[E_co], Protocol[S_contra, E_co]):
    """Both halves: what `MessageMachine` and every `Framer` offer.

    `S_contra` is what it sends and `E_co` its events: messages and message events for a
    `MessageMachine`, payloads and frames for a framer.
    """

    def send(self, item: S_contra, /) -> bytes:
        """The bytes to write for one item."""


#: What came out of a machine. A fault is the last of it, as the exception.
Outcome: TypeAlias = E | EndOfData | RemoteProtocolError


def drain(machine: Receiving[E]) -> list[Outcome[E]]:
    """All events that a machine has now.

    Returns:
        The events in order. The list ends with `EndOfData` at a clean end, or with the
        `RemoteProtocolError` that the machine raised.
    """
    events: list[Outcome[E]] = []
    while True:
        try:
            event = machine.next_event()
        except RemoteProtocolError as error:
            events.append(error)
            return events
        if isinstance(event, NeedData):
            return events
        events.append(event)
        if isinstance(event, EndOfData):
            return events


def feed(
    machine: Receiving[E], data: bytes, *, cut: int | None = None, eof: bool = False
) -> list[Outcome[E]]:
    """Give bytes to a machine and collect what comes out.

    Args:
        machine: The machine.
        data: What the peer sent.
        cut: Hand over so many bytes at a time, draining after each; all at once by default.
        eof: Whether the peer then sends no more.

    Returns:
        As `drain`. After a fault nothing more is handed over.
    """
    events: list[Outcome[E]] = []
    for piece in _pieces(data, cut):
        machine.receive_data(piece)
        events += drain(machine)
        if events and isinstance(events[-1], RemoteProtocolError):
            return events
    if eof:
        machine.receive_eof()
        events += drain(machine)
    return events


def check_every_cut(
    make_machine: Callable[[], Receiving[E]],
    data: bytes,
    *,
    eof: bool = True,
) -> list[Outcome[E]]:
    """Check that it makes no difference how the bytes are cut.

    Runs a fresh machine on the bytes as a whole, one that gets byte after byte, and one for
    each place where the bytes can be cut in two.

    Args:
        make_machine: Makes a machine that has received nothing.
        data: What the peer sends; its length counts twice in the cost.
        eof: Whether the peer then sends no more.

    Returns:
        The events, which were the same each time. As `drain`.

    Raises:
        AssertionError: A cut made a difference; the text tells which.
    """
    whole = feed(make_machine(), data, eof=eof)
    expected = [_comparable(event) for event in whole]
    single = feed(make_machine(), data, cut=1, eof=eof)
    assert [_comparable(event) for event in single] == expected, (
        f"byte by byte: {single}\nas a whole:   {whole}"
    )
    for place in range(1, len(data)):
        machine = make_machine()
        halves = feed(machine, data[:place])
        if not (halves and isinstance(halves[-1], RemoteProtocolError)):
            halves += feed(machine, data[place:], eof=eof)
        assert [_comparable(event) for event in halves] == expected, (
            f"cut after {place} bytes: {halves}\nas a whole: {whole}"
        )
    return whole


class JoinedMachines(Generic[S, E]):
    """Two machines whose bytes go straight into each other.

    Args:
        left: One machine.
        right: The machine it talks to.
        cut: Hand bytes over so many at a time; 1 is cut at every byte.

    Attributes:
        left: The one.
        right: The other.
    """

    def __init__(
        self, left: Machine[S, E], right: Machine[S, E], *, cut: int | None = None
    ) -> None:
        self.left = left
        self.right = right
        self._cut = cut

    def send(self, *items: S) -> list[Outcome[E]]:
        """Send from left to right; return what came out there, as `drain` does."""
        return _push(self.left, self.right, items, self._cut)

    def answer(self, *items: S) -> list[Outcome[E]]:
        """Send from right to left; return what came out there, as `drain` does."""
        return _push(self.right, self.left, items, self._cut)

    def end(self) -> tuple[list[Outcome[E]], list[Outcome[E]]]:
        """End both directions; return what that brings out of left and of right."""
        self.left.receive_eof()
        self.right.receive_eof()
        return drain(self.left), drain(self.right)


def _push(
    sender: Machine[S, E], receiver: Machine[S, E], items: Sequence[S], cut: int | None
) -> list[Outcome[E]]:
    return feed(receiver, b"".join([sender.send(item) for item in items]), cut=cut)


def _pieces(data: bytes, cut: int | None) -> Iterator[bytes]:
    if cut is not None and cut < 1:
        raise ValueError(f"cut must be at least 1 byte, not {cut}")
    size = len(data) if cut is None else cut
    for start in range(0, len(data), size or 1):
        yield data[start : start + size]


def _comparable(value: object) -> object:
    """The same for equal events, also where they hold exceptions, which compare by identity."""
    if isinstance(value, BaseException):
        return type(value), str(value), sorted((k, repr(v)) for k, v in vars(value).items())
    if isinstance(value, msgspec.Raw):
        return bytes(value)
    if isinstance(value, msgspec.Struct):
        fields = value.__struct_fields__
        return type(value), [_comparable(getattr(value, name)) for name in fields]
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    return value
