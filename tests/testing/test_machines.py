"""Driving machines: every cut, joined pairs, and that the checks can fail."""

from __future__ import annotations

import pytest

from trio_mcp_transport import Message, Notification, Request
from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.limits import Framing
from trio_mcp_transport.sansio import (
    EndOfData,
    Frame,
    Framer,
    LengthPrefixFramer,
    MalformedMessage,
    MessageMachine,
    NeedData,
    NewlineFramer,
    make_framer,
)
from trio_mcp_transport.testing import JoinedMachines, check_every_cut, drain, feed

pytestmark = pytest.mark.testing

FRAMINGS: list[Framing] = ["newline", "content-length", "length-prefix"]


def machine(framing: Framing = "newline") -> MessageMachine:
    return MessageMachine(make_framer(framing))


@pytest.mark.parametrize("cut", [None, 1, 7])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_joined_machines_pass_every_event_through_both_ways(
    framing: Framing, cut: int | None
) -> None:
    joined = JoinedMachines(machine(framing), machine(framing), cut=cut)
    there: list[Message] = [Request(1, "a"), Notification("b")]
    assert joined.send(*there) == there
    assert joined.answer(Request("1", "c")) == [Request("1", "c")]
    assert joined.end() == ([EndOfData()], [EndOfData()])


def test_framers_can_be_joined_as_well() -> None:
    joined = JoinedMachines(NewlineFramer(), NewlineFramer(), cut=1)
    assert joined.send(b"1", b"[2]") == [Frame(b"1"), Frame(b"[2]")]


def test_a_fault_is_the_last_event_and_nothing_is_handed_over_after_it() -> None:
    framer = LengthPrefixFramer(max_message_bytes=3)
    events = feed(framer, b"\0\0\0\1x" + b"\0\0\0\4" + b"\0\0\0\1y", cut=1)
    assert events[0] == Frame(b"x")
    assert isinstance(events[1], RemoteProtocolError)
    assert len(events) == 2


def test_draining_a_machine_without_input_gives_nothing() -> None:
    assert drain(machine()) == []


@pytest.mark.parametrize("cut", [0, -1])
def test_a_cut_of_no_bytes_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        feed(machine(), b"x", cut=cut)


def test_every_cut_of_sound_malformed_and_cut_off_input_gives_the_same() -> None:
    data = b'{"jsonrpc":"2.0","method":"a"}\n{"jsonrpc":"2.0"}\n\xff\n{"jsonrpc":"2.0"'
    events = check_every_cut(machine, data)
    kinds = [type(event) for event in events]
    assert kinds == [Notification, MalformedMessage, MalformedMessage, RemoteProtocolError]
    assert check_every_cut(machine, data, eof=False) != events


class SplitsAtReads(NewlineFramer):
    """A broken framer: each read ends a payload."""

    def receive_data(self, data: bytes) -> None:
        super().receive_data(data + b"\n")


class LosesSecondBytes(NewlineFramer):
    """A broken framer: only a cut after exactly two bytes shows it."""

    def receive_data(self, data: bytes) -> None:
        super().receive_data(b"" if len(data) == 2 else data)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [(SplitsAtReads, "byte by byte"), (LosesSecondBytes, "cut after 2 bytes")],
)
def test_a_machine_that_depends_on_the_cuts_is_found(broken: type[Framer], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_every_cut(broken, b"abcd\n")


class Moody:
    """A broken machine: its second instance tells another reason."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self._fault = f"reason {type(self).made}"

    def receive_data(self, data: bytes) -> None:
        """Nothing of it counts."""

    def receive_eof(self) -> None:
        """Nor does that."""

    def next_event(self) -> NeedData:
        raise RemoteProtocolError(self._fault)


def test_faults_are_compared_by_what_they_say() -> None:
    with pytest.raises(AssertionError, match="reason 2"):
        check_every_cut(Moody, b"abc")
