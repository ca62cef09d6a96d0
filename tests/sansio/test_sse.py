"""Server-sent events: what is written, what is read, and where the standard is odd."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from trio_mcp_transport.errors import LocalProtocolError, RemoteProtocolError
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData
from trio_mcp_transport.sansio.sse import (
    MAX_FIELD_BYTES,
    SseComment,
    SseDecoder,
    SseEvent,
    SseItem,
    encode_comment,
    encode_event,
    encode_message,
)
from trio_mcp_transport.testing import check_every_cut, feed

pytestmark = pytest.mark.sansio

BOM = b"\xef\xbb\xbf"
FOREIGN = "a\u2028b\u2029c\u0085d"

CASES: dict[str, tuple[bytes, list[SseItem]]] = {
    "nothing": (b"", []),
    "a message": (b"data: {}\n\n", [SseEvent(b"{}")]),
    "no space": (b"data:{}\n\n", [SseEvent(b"{}")]),
    "one space only is dropped": (b"data:  {} \n\n", [SseEvent(b" {} ")]),
    "no tab is dropped": (b"data:\t{}\n\n", [SseEvent(b"\t{}")]),
    "CR": (b"data: a\r\rdata: b\r\r", [SseEvent(b"a"), SseEvent(b"b")]),
    "CR LF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [SseEvent(b"a"), SseEvent(b"b")]),
    "mixed": (
        b"data: a\r\n\rdata: b\n\r\ndata: c\r\n\n",
        [SseEvent(b"a"), SseEvent(b"b"), SseEvent(b"c")],
    ),
    "several lines": (b"data: a\ndata\ndata:\ndata: b\n\n", [SseEvent(b"a\n\n\nb")]),
    "empty data": (b"data:\n\n", [SseEvent(b"")]),
    "data without a colon": (b"data\n\n", [SseEvent(b"")]),
    "two empty lines of data": (b"data\ndata\n\n", [SseEvent(b"\n")]),
    "a type": (b"event: endpoint\ndata: /x\n\n", [SseEvent(b"/x", "endpoint")]),
    "the last type counts": (b"event: a\nevent: b\ndata: x\n\n", [SseEvent(b"x", "b")]),
    "an empty type": (b"event\ndata: x\n\n", [SseEvent(b"x")]),
    "a type without data goes to no other event": (b"event: a\n\ndata: x\n\n", [SseEvent(b"x")]),
    "an id stays": (
        b"id: 1\ndata: a\n\ndata: b\n\nid:2\ndata: c\n\n",
        [SseEvent(b"a", id="1"), SseEvent(b"b", id="1"), SseEvent(b"c", id="2")],
    ),
    "an id without data": (
        b"id: 1\n\ndata: a\n\n",
        [SseEvent(None, id="1"), SseEvent(b"a", id="1")],
    ),
    "an id with empty data": (b"id: 1\ndata:\n\n", [SseEvent(b"", id="1")]),
    "an id taken back": (
        b"id: 1\ndata: a\n\nid\ndata: b\n\n",
        [SseEvent(b"a", id="1"), SseEvent(b"b", id="")],
    ),
    "an id with NUL is ignored": (
        b"id: 1\n\nid: 2\x003\ndata: a\n\n",
        [SseEvent(None, id="1"), SseEvent(b"a", id="1")],
    ),
    "an id beyond ASCII": (b"id: \xc3\xa9\ndata: a\n\n", [SseEvent(b"a", id="\xe9")]),
    "an id that is no UTF-8": (b"id: \xff\ndata: a\n\n", [SseEvent(b"a", id="\ufffd")]),
    "retry": (b"retry: 1500\ndata: a\n\n", [SseEvent(b"a", retry=1500)]),
    "retry alone": (b"retry: 0\n\n", [SseEvent(None, retry=0)]),
    "retry with zeros": (b"retry: 0000000000000005\n\n", [SseEvent(None, retry=5)]),
    "retry for ever": (b"retry: " + b"9" * 5000 + b"\n\n", [SseEvent(None, retry=10**12 - 1)]),
    "retry is of one event": (
        b"retry: 5\n\ndata: a\n\n",
        [SseEvent(None, retry=5), SseEvent(b"a")],
    ),
    "retry must be digits": (
        b"retry: 1.5\nretry: -1\nretry: 5s\nretry:\nretry: \xd9\xa1\ndata: a\n\n",
        [SseEvent(b"a")],
    ),
    "comments": (
        b": keep-alive\n\n:\n:x\ndata: a\n\n",
        [SseComment(b" keep-alive"), SseComment(), SseComment(b"x"), SseEvent(b"a")],
    ),
    "a comment in an event": (b"data: a\n:x\ndata: b\n\n", [SseComment(b"x"), SseEvent(b"a\nb")]),
    "unknown fields": (b"x: y\nData: z\n data: z\ndata : z\nx\ndata: a\n\n", [SseEvent(b"a")]),
    "blank lines": (b"\n\r\n\rdata: a\n\n\n\n", [SseEvent(b"a")]),
    "CR LF within an event": (
        b"data: a\r\ndata: b\r\n\r\ndata: c\r\r",
        [SseEvent(b"a\nb"), SseEvent(b"c")],
    ),
    "blank lines behind an id": (b"id: 1\ndata: a\n\n\n\n", [SseEvent(b"a", id="1")]),
    "a byte order mark": (BOM + b"data: a\n\n", [SseEvent(b"a")]),
    "a mark alone": (BOM + b"\ndata: a\n\n", [SseEvent(b"a")]),
    "a second mark": (BOM + BOM + b"data: a\n\ndata: b\n\n", [SseEvent(b"b")]),
    "a mark later": (
        b"data: a\n\n" + BOM + b"data: b\n\ndata: c\n\n",
        [SseEvent(b"a"), SseEvent(b"c")],
    ),
    "an event that was cut off": (b"data: a\n\nid: 5\ndata: b\n", [SseEvent(b"a")]),
    "a line that was cut off": (b"data: a\n\ndata: b", [SseEvent(b"a")]),
    "line ends of others": (
        b"data: " + FOREIGN.encode() + b"\x0b\x0c\x1c\n\n",
        [SseEvent(FOREIGN.encode() + b"\x0b\x0c\x1c")],
    ),
    "no UTF-8": (b"data: \xff\n\n", [SseEvent(b"\xff")]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_read_however_it_is_cut(case: str) -> None:
    data, expected = CASES[case]
    if len(data) > 1000:
        events = feed(SseDecoder(), data, eof=True)
    else:
        events = check_every_cut(SseDecoder, data)
    assert events == [*expected, EndOfData()]


def test_the_id_to_resume_from_is_that_of_the_last_whole_event() -> None:
    decoder = SseDecoder()
    seen = [decoder.last_event_id]
    for data in (b"id: 1\n\nid: 2\n", b"\nid: 3\ndata: x\n"):
        decoder.receive_data(data)
        seen.append(decoder.last_event_id)
    decoder.receive_eof()
    assert [*seen, decoder.last_event_id] == [None, "1", "2", "2"]


def test_after_the_end_nothing_comes() -> None:
    decoder = SseDecoder()
    assert decoder.next_event() is NEED_DATA
    decoder.receive_data(b"")
    decoder.receive_eof()
    decoder.receive_eof()
    for _ in range(2):
        assert decoder.next_event() == EndOfData()
    with pytest.raises(LocalProtocolError):
        decoder.receive_data(b"x")


TOO_LARGE = {
    "a line": b"data: 56789 12345678",
    "several lines": b"data: 6789\ndata: 678901",
    "unknown fields": b"x: 456789\nx: 45678901",
    "a comment": b": 3456789 12345678901",
    "a line end that comes late": b"data: 56789 12345678\n\n",
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_an_event_over_the_limit_is_refused_after_those_before_it(case: str) -> None:
    data = b"data: a\n\n" + TOO_LARGE[case]
    events = check_every_cut(lambda: SseDecoder(19), data, eof=False)
    assert events[0] == SseEvent(b"a")
    assert len(events) == 2
    assert isinstance(events[1], RemoteProtocolError)


def test_an_event_may_be_as_large_as_the_limit() -> None:
    data = b"data: 6789\ndata: 678\n\n"
    assert check_every_cut(lambda: SseDecoder(19), data) == [
        SseEvent(b"6789\n678"),
        EndOfData(),
    ]


def test_a_fault_stays_and_keeps_nothing() -> None:
    decoder = SseDecoder(10)
    decoder.receive_data(b"data: 6789012345")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="larger than 10 bytes"):
            decoder.next_event()
        decoder.receive_data(b"\n\ndata: a\n\n")


def test_comments_alone_may_go_on_for_ever() -> None:
    decoder = SseDecoder(100)
    for _ in range(50):
        decoder.receive_data(b": keep-alive\n")
        assert decoder.next_event() == SseComment(b" keep-alive")


def test_a_long_comment_is_not_kept() -> None:
    (comment, _) = feed(SseDecoder(), b":" + b"x" * 10_000 + b"\n", eof=True)
    assert comment == SseComment(b"x" * 100)


@pytest.mark.parametrize("name", [b"id", b"event"])
def test_a_long_id_or_type_is_refused(name: bytes) -> None:
    def line(size: int) -> bytes:
        return name + b": " + b"x" * size + b"\ndata: a\n\n"

    assert len(feed(SseDecoder(), line(MAX_FIELD_BYTES))) == 1
    (fault,) = feed(SseDecoder(), line(MAX_FIELD_BYTES + 1))
    assert isinstance(fault, RemoteProtocolError)


def test_a_large_event_byte_after_byte_costs_linear_time_and_memory() -> None:
    # Joined anew for each byte, this would copy 20 GB.
    decoder = SseDecoder()
    tracemalloc.start()
    try:
        decoder.receive_data(b"data: ")
        for _ in range(200_000):
            decoder.receive_data(b"x")
        decoder.receive_data(b"\n\n")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoder.next_event() == SseEvent(b"x" * 200_000)
    assert peak < 20 * 200_000


ENCODED: list[tuple[bytes, SseEvent]] = [
    (encode_event(b"{}"), SseEvent(b"{}")),
    (encode_event("\u20ac"), SseEvent("\u20ac".encode())),
    (encode_event(b""), SseEvent(b"")),
    (encode_event(b" a"), SseEvent(b" a")),
    (encode_event(b"a\nb\rc\r\nd\n"), SseEvent(b"a\nb\nc\nd\n")),
    (encode_event(b"x", event="endpoint"), SseEvent(b"x", "endpoint")),
    (encode_event(b"x", id="1", retry=0), SseEvent(b"x", id="1", retry=0)),
    (encode_event(b"", id="1"), SseEvent(b"", id="1")),
    (encode_event(None, id=""), SseEvent(None, id="")),
    (encode_event(None, retry=500), SseEvent(None, retry=500)),
    (encode_message(b"{}"), SseEvent(b"{}")),
    (encode_message(b"{}", id="a b", retry=5), SseEvent(b"{}", id="a b", retry=5)),
    (encode_message(b"{}", id="x"), SseEvent(b"{}", id="x")),
    (encode_message(b"{\r\n}\n"), SseEvent(b"{  } ")),
]


@pytest.mark.parametrize(("data", "event"), ENCODED)
def test_what_is_written_is_what_is_read(data: bytes, event: SseEvent) -> None:
    assert check_every_cut(SseDecoder, data) == [event, EndOfData()]


def test_comments_are_written_as_comments() -> None:
    assert encode_comment() == b":\n\n"
    assert encode_comment("keep-alive") == b": keep-alive\n\n"
    for text in ("a\nb", "a\rb"):
        with pytest.raises(LocalProtocolError):
            encode_comment(text)


def test_line_ends_of_others_survive_every_parser() -> None:
    value = {"text": FOREIGN, "\u2028": "\u20ac\u2019\u0186"}
    data = encode_message(json.dumps(value, ensure_ascii=False).encode())
    # What a parser sees that splits with str.splitlines.
    lines = [line for line in data.decode().splitlines() if line]
    assert len(lines) == 1
    assert json.loads(lines[0].removeprefix("data: ")) == value
    event = feed(SseDecoder(), data)[0]
    assert isinstance(event, SseEvent)
    assert json.loads(event.data or b"") == value


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "x" * 5000])
def test_an_id_or_type_that_cannot_be_written_is_refused(value: str) -> None:
    with pytest.raises(LocalProtocolError, match="id"):
        encode_event(b"", id=value)
    with pytest.raises(LocalProtocolError, match="id"):
        encode_message(b"", id=value)
    with pytest.raises(LocalProtocolError, match="event's event"):
        encode_event(b"", event=value)


def test_a_retry_time_is_not_negative() -> None:
    with pytest.raises(LocalProtocolError, match="-1 ms"):
        encode_event(b"", retry=-1)
