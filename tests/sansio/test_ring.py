"""The ring: what one side writes the other reads, and no peer gets beyond its bytes."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.limits import MAX_RING_BYTES
from trio_mcp_transport.sansio.ring import (
    RING_HEADER_BYTES,
    RingHeader,
    RingReader,
    RingWriter,
)


class Rings:
    """A writer and a reader on one buffer, each told what the other does."""

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)
        self.writer = RingWriter(memoryview(self.memory))
        self.reader = RingReader(memoryview(self.memory))

    def write(self, data: bytes) -> int:
        count = self.writer.place(data)
        if count:
            position, over = self.writer.position_after(count), self.writer.starts_over
            self.writer.advance(count)
            self.reader.written_untrusted(position, starts_over=over)
        return count

    def tell_what_was_read(self) -> None:
        if self.reader.tail != self.reader.returned:
            self.writer.returned_untrusted(self.reader.tail)
            self.reader.returned = self.reader.tail


# -- both sides -------------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    rings = Rings(16)
    assert rings.write(b"hello") == 5
    assert rings.reader.available == 5
    assert rings.reader.read(2) == b"he"
    assert rings.reader.read(100) == b"llo"
    assert rings.reader.read(100) == b""


def test_a_full_ring_takes_what_fits_and_then_nothing() -> None:
    rings = Rings(4)
    assert rings.write(b"abcdef") == 4
    assert rings.write(b"ef") == 0
    assert rings.writer.free == 0
    assert rings.reader.read(3) == b"abc"
    assert rings.write(b"ef") == 0  # not told yet
    rings.tell_what_was_read()
    assert rings.writer.free == 3
    assert rings.write(b"efgh") == 3
    assert rings.reader.read(9) == b"defg"


def test_bytes_go_around_the_end() -> None:
    rings = Rings(5)
    rings.write(b"abcd")
    rings.reader.read(3)
    rings.tell_what_was_read()
    assert rings.write(b"efgh") == 4
    assert bytes(rings.memory) == b"fghde"
    assert rings.reader.read(5) == b"defgh"


def test_a_ring_that_is_known_to_be_empty_is_begun_anew() -> None:
    rings = Rings(100)
    for _ in range(50):
        rings.write(b"abc")
        assert rings.reader.read(9) == b"abc"
        rings.tell_what_was_read()
    assert bytes(rings.memory) == b"abc" + bytes(97)
    rings.write(b"ab")
    rings.reader.read(9)  # but the writer does not know
    rings.write(b"cd")
    assert bytes(rings.memory[:4]) == b"abcd"
    assert rings.reader.read(9) == b"cd"


def test_what_was_placed_does_not_count_before_it_was_told() -> None:
    rings = Rings(8)
    assert rings.writer.place(b"lost") == 4
    assert rings.writer.free == 8
    rings.write(b"kept")
    assert rings.reader.read(9) == b"kept"
    rings.tell_what_was_read()
    assert rings.writer.place(b"lost") == 4  # this time from the start
    rings.write(b"kept too")
    assert rings.reader.read(9) == b"kept too"


def test_a_memoryview_can_be_written() -> None:
    rings = Rings(8)
    assert rings.write(memoryview(b"hello")[1:]) == 4  # type: ignore[arg-type]
    assert rings.reader.read(9) == b"ello"


@given(
    size=st.integers(1, 40),
    steps=st.lists(
        st.one_of(st.binary(min_size=1, max_size=50), st.integers(1, 50), st.just("tell")),
        max_size=60,
    ),
)
def test_any_order_of_writing_reading_and_telling_keeps_the_bytes(
    size: int, steps: list[bytes | int | str]
) -> None:
    rings = Rings(size)
    written, read = bytearray(), bytearray()
    for step in steps:
        if isinstance(step, bytes):
            written += step[: rings.write(step)]
        elif isinstance(step, int):
            read += rings.reader.read(step)
        else:
            rings.tell_what_was_read()
        assert 0 <= rings.reader.available <= size
        assert 0 <= rings.writer.free <= size
    read += rings.reader.read(size)
    assert read == written


def test_a_released_ring_holds_no_memory() -> None:
    rings = Rings(8)
    rings.writer.release()
    rings.reader.release()
    rings.memory += b"a bytearray that is lent cannot grow"
    with pytest.raises(ValueError, match="released"):
        rings.writer.place(b"x")


@pytest.mark.parametrize(
    "area",
    [
        memoryview(b"read-only"),
        memoryview(bytearray(0)),
        memoryview(bytearray(16))[::2],
        memoryview(bytearray(16)).cast("I"),
    ],
    ids=["read-only", "empty", "with gaps", "of numbers"],
)
def test_a_ring_to_write_needs_plain_bytes(area: memoryview) -> None:
    with pytest.raises(ValueError, match="buffer of bytes"):
        RingWriter(area)
    if not area.readonly:
        with pytest.raises(ValueError, match="buffer of bytes"):
            RingReader(area)


# -- peers that are not to be trusted ---------------------------------------------------


@pytest.mark.parametrize("position", [0, 3, 14, 2**63, 2**64 - 1])
def test_a_head_that_stands_still_goes_back_or_too_far_is_refused(position: int) -> None:
    rings = Rings(10)
    rings.write(b"abc")
    with pytest.raises(RemoteProtocolError, match="has written up to"):
        rings.reader.written_untrusted(position, starts_over=False)
    assert rings.reader.read(100) == b"abc"


@pytest.mark.parametrize("position", [0, 11, 2**64 - 1])
def test_starting_over_cannot_go_beyond_the_ring(position: int) -> None:
    rings = Rings(10)
    with pytest.raises(RemoteProtocolError, match="has written up to"):
        rings.reader.written_untrusted(position, starts_over=True)
    assert rings.reader.read(100) == b""


@pytest.mark.parametrize("read", [0, 2, 3])
def test_starting_over_in_a_ring_that_is_in_use_is_refused(read: int) -> None:
    rings = Rings(10)
    rings.write(b"abc")
    rings.reader.read(read)  # and nobody was told
    with pytest.raises(RemoteProtocolError, match="in use"):
        rings.reader.written_untrusted(1, starts_over=True)


@pytest.mark.parametrize("position", [0, 2, 6, 2**64 - 1])
def test_a_tail_that_stands_still_goes_back_or_too_far_is_refused(position: int) -> None:
    rings = Rings(10)
    rings.write(b"abcde")
    rings.writer.returned_untrusted(2)
    with pytest.raises(RemoteProtocolError, match="has read up to"):
        rings.writer.returned_untrusted(position)
    assert rings.writer.free == 7


@given(
    size=st.integers(1, 30),
    steps=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 100), st.integers(0, 2**64 - 1)),
            st.booleans(),
            st.integers(1, 40),
            st.booleans(),
        ),
        max_size=40,
    ),
)
def test_whatever_a_writer_says_only_the_ring_is_read(
    size: int, steps: list[tuple[int, bool, int, bool]]
) -> None:
    around = bytearray(b"secret" * 10)
    memory = memoryview(around)
    ring = memory[12 : 12 + size]
    ring[:] = b"." * size
    reader = RingReader(ring)
    for position, over, count, tell in steps:
        with contextlib.suppress(RemoteProtocolError):
            reader.written_untrusted(position, starts_over=over)
        assert 0 <= reader.available <= size
        data = reader.read(count)
        assert len(data) <= size
        assert set(data) <= set(b".")
        if tell:
            reader.returned = reader.tail


@given(
    size=st.integers(1, 30),
    steps=st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=60), st.integers(0, 100), st.integers(0, 2**64 - 1)
        ),
        max_size=60,
    ),
)
def test_whatever_a_reader_says_only_the_ring_is_written(
    size: int, steps: list[bytes | int]
) -> None:
    around = bytearray(100)
    writer = RingWriter(memoryview(around)[20 : 20 + size])
    for step in steps:
        if isinstance(step, bytes):
            count = writer.place(step)
            if count:
                writer.advance(count)
        else:
            with contextlib.suppress(RemoteProtocolError):
                writer.returned_untrusted(step)
        assert 0 <= writer.free <= size
    assert not any(around[:20])
    assert not any(around[20 + size :])


# -- the header -------------------------------------------------------------------------

HEADER = RingHeader(ring_bytes=1000, max_message_bytes=100)


def test_a_header_is_read_as_it_was_written() -> None:
    assert RingHeader.decode_untrusted(HEADER.encode() + bytes(100)) == HEADER
    assert HEADER.segment_bytes == RING_HEADER_BYTES + 1000


@pytest.mark.parametrize("size", range(len(HEADER.encode())))
def test_a_header_that_is_cut_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="too short"):
        RingHeader.decode_untrusted(HEADER.encode()[:size])


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ((b"MCP RING", 1, 4096, 1000, 100), "no ring"),
        ((b"MCP ring", 2, 4096, 1000, 100), "version 2, not 1"),
        ((b"MCP ring", 1, 64, 1000, 100), "1000 bytes at 64 is not possible"),
        ((b"MCP ring", 1, 4096, 0, 100), "0 bytes"),
        ((b"MCP ring", 1, 4096, MAX_RING_BYTES + 1, 100), "is not possible"),
        ((b"MCP ring", 1, 4096, 1000, 0), "messages of 0 bytes"),
        ((b"MCP ring", 1, 4096, 1000, 1001), "do not fit"),
    ],
)
def test_a_header_of_something_else_is_refused(
    fields: tuple[bytes, int, int, int, int], complaint: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        RingHeader.decode_untrusted(struct.pack("<8sIIQQ", *fields))


@given(st.binary(max_size=64))
def test_any_bytes_are_a_possible_header_or_refused(data: bytes) -> None:
    try:
        header = RingHeader.decode_untrusted(HEADER.encode()[:16] + data)
    except RemoteProtocolError:
        return
    assert 1 <= header.max_message_bytes <= header.ring_bytes <= MAX_RING_BYTES
