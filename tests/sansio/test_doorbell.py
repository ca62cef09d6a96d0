"""What goes over the sockets beside two rings, whole, cut anywhere, and from hostile peers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.doorbell import (
    END,
    ESCAPE,
    Inflow,
    Lane,
    lane_word,
    position_word,
)
from trio_mcp_transport.sansio.ring import RingReader, RingWriter


class Outflow:
    """The writer of one direction, as the transport is: what it sends is kept.

    Args:
        size: Of the ring.
    """

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)
        self.writer = RingWriter(memoryview(self.memory))
        self.wire = bytearray()

    def inline(self, data: bytes) -> None:
        assert ESCAPE not in data
        self.wire += data

    def through_ring(self, data: bytes) -> bytes:
        """Returns what fitted."""
        count = self.writer.place(data)
        if count:
            over = self.writer.starts_over
            self.wire += position_word(self.writer.position_after(count), starts_over=over)
            self.writer.advance(count)
        return data[:count]

    def inflow(self) -> Inflow:
        return Inflow(RingReader(memoryview(self.memory)))


def read_all(inflow: Inflow, chunk: bytes, max_bytes: int = 1000) -> bytes:
    """Everything that a chunk makes readable."""
    found = inflow.accept(chunk, max_bytes)
    assert len(found) <= max(max_bytes, len(chunk))
    while inflow.has_more and (data := inflow.read(max_bytes)):
        assert len(data) <= max_bytes
        found += data
    return found


# -- the stream -------------------------------------------------------------------------


def test_small_bytes_are_on_the_wire_as_they_are() -> None:
    out = Outflow(10)
    out.inline(b'{"jsonrpc":"2.0"}\n')
    inflow = out.inflow()
    chunk = bytes(out.wire)
    assert inflow.accept(chunk, 1000) is chunk
    assert not inflow.has_more


def test_no_text_has_the_byte_that_begins_a_word() -> None:
    assert ESCAPE not in "\U0010ffff\u00ff".encode()
    assert position_word(1, starts_over=False)[0] == ESCAPE
    assert position_word(1, starts_over=True)[0] == ESCAPE


def test_the_order_of_the_stream_is_kept() -> None:
    out = Outflow(100)
    out.inline(b"one ")
    out.through_ring(b"two ")
    out.through_ring(b"three ")
    out.inline(b"four ")
    out.through_ring(b"five")
    assert read_all(out.inflow(), bytes(out.wire)) == b"one two three four five"


@pytest.mark.parametrize("max_bytes", [1, 2, 3, 7, 100])
def test_no_more_is_read_than_was_asked_for(max_bytes: int) -> None:
    out = Outflow(100)
    out.inline(b"inline")
    out.through_ring(b"through the ring")
    out.inline(b"inline again")
    inflow = out.inflow()
    found = b""
    for at in range(0, len(out.wire), max_bytes):
        found += read_all(inflow, bytes(out.wire[at : at + max_bytes]), max_bytes)
    assert found == b"inlinethrough the ringinline again"


@given(
    parts=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=20)), max_size=20),
    cuts=st.lists(st.integers(1, 30), min_size=1),
    max_bytes=st.integers(1, 50),
)
def test_it_does_not_matter_how_the_wire_is_cut(
    parts: list[tuple[bool, bytes]], cuts: list[int], max_bytes: int
) -> None:
    out = Outflow(200)
    expected = b""
    for inline, data in parts:
        if inline and ESCAPE not in data:
            out.inline(data)
            expected += data
        else:
            expected += out.through_ring(data)
    inflow = out.inflow()
    wire, found = bytes(out.wire), b""
    while wire:
        for cut in cuts:
            chunk, wire = wire[: min(cut, max_bytes)], wire[min(cut, max_bytes) :]
            if chunk:
                found += read_all(inflow, chunk, max_bytes)
    assert found == expected
    assert not inflow.has_more


def test_the_beginning_of_a_word_is_something_that_is_left() -> None:
    out = Outflow(100)
    out.through_ring(b"ring")
    inflow = out.inflow()
    for octet in out.wire[:-1]:
        assert inflow.accept(bytes([octet]), 100) == b""
        assert inflow.has_more
        assert inflow.read(100) == b""
    assert inflow.accept(bytes(out.wire[-1:]), 100) == b"ring"
    assert not inflow.has_more


# -- the lane ---------------------------------------------------------------------------


def lane(written: int = 50) -> Lane:
    writer = RingWriter(memoryview(bytearray(100)))
    writer.place(bytes(written))
    writer.advance(written)
    return Lane(writer)


@pytest.mark.parametrize("cut", range(1, 25))
def test_what_was_read_comes_back_however_it_is_cut(cut: int) -> None:
    coming = lane()
    words = lane_word(10) + lane_word(30) + END
    for at in range(0, len(words), cut):
        coming.receive_data(words[at : at + cut])
    assert coming.ring.free == 80
    assert coming.has_ended


def test_the_end_can_be_seen_before_it_is_taken() -> None:
    coming = lane()
    words = lane_word(10) + END + lane_word(20)
    assert coming.would_end(words)
    assert not coming.would_end(words[:15])
    assert not coming.has_ended
    coming.receive_data(words[:11])
    assert not coming.would_end(words[11:15])
    assert coming.would_end(words[11:])
    coming.receive_data(words[11:])
    assert coming.would_end(b"")
    assert coming.ring.free == 70


# -- peers that are not to be trusted ---------------------------------------------------


def test_a_word_of_no_known_kind_is_refused_again_and_again() -> None:
    inflow = Outflow(10).inflow()
    with pytest.raises(RemoteProtocolError, match="no known kind"):
        inflow.accept(b"\xffX" + bytes(8), 100)
    with pytest.raises(RemoteProtocolError, match="no known kind"):
        inflow.read(100)


def test_what_came_before_a_fault_is_read_before_it() -> None:
    inflow = Outflow(10).inflow()
    assert inflow.accept(b"hello\xffX" + bytes(8), 100) == b"hello"
    with pytest.raises(RemoteProtocolError):
        inflow.read(100)


def test_words_that_say_nothing_new_are_refused() -> None:
    out = Outflow(10)
    out.through_ring(b"abc")
    inflow = out.inflow()
    assert inflow.accept(bytes(out.wire) * 2, 100) == b"abc"
    with pytest.raises(RemoteProtocolError, match="has written up to 3"):
        inflow.read(100)


def test_a_lane_that_broke_the_rules_stays_broken() -> None:
    coming = lane()
    with pytest.raises(RemoteProtocolError, match="has read up to 51"):
        coming.receive_data(lane_word(51))
    with pytest.raises(RemoteProtocolError, match="has read up to 51"):
        coming.receive_data(lane_word(20))


def test_ending_twice_is_refused() -> None:
    coming = lane()
    with pytest.raises(RemoteProtocolError, match="twice"):
        coming.receive_data(END + END)


_WORDS = st.builds(
    position_word,
    st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1)),
    starts_over=st.booleans(),
)


@given(
    size=st.integers(1, 30),
    chunks=st.lists(st.one_of(st.binary(min_size=1, max_size=30), _WORDS), max_size=40),
    max_bytes=st.integers(30, 60),
    tell=st.booleans(),
)
def test_whatever_comes_only_inline_bytes_and_those_of_the_ring_are_read(
    size: int, chunks: list[bytes], max_bytes: int, tell: bool
) -> None:
    around = memoryview(bytearray(b"\xfe" * 100))
    ring = around[40 : 40 + size]
    ring[:] = b"." * size
    inflow = Inflow(RingReader(ring))
    inline = bytearray().join(chunks).replace(b"\xfe", b"")
    found = bytearray()
    try:
        for chunk in chunks:
            chunk = chunk.replace(b"\xfe", b"")
            if chunk:
                found += read_all(inflow, chunk, max_bytes)
            if tell:
                inflow.ring.returned = inflow.ring.tail
    except RemoteProtocolError:
        pass
    assert b"\xfe" not in found
    # Each word of ten bytes is worth at most a ring full.
    assert len(found) <= len(inline) + size * (len(inline) // 10)


@given(
    words=st.lists(
        st.one_of(st.integers(0, 60).map(lane_word), st.just(END), st.binary(max_size=12)),
        max_size=30,
    )
)
def test_whatever_the_lane_says_no_more_is_free_than_the_ring_has(words: list[bytes]) -> None:
    coming = lane()
    for word in words:
        with contextlib.suppress(RemoteProtocolError):
            coming.receive_data(word)
        assert 50 <= coming.ring.free <= 100
