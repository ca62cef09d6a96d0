"""Each framer: whole, cut at every byte, at its limits, and at the end of the stream."""

from __future__ import annotations

import tracemalloc

import pytest

from trio_mcp_transport.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from trio_mcp_transport.limits import MAX_HEADER_BYTES, Framing
from trio_mcp_transport.sansio.framing import (
    ContentLengthFramer,
    DetectFramer,
    Frame,
    Framer,
    LengthPrefixFramer,
    NewlineFramer,
    make_framer,
)
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData, Side

FRAMINGS: list[Framing] = ["newline", "content-length", "length-prefix", "detect"]
BOM = b"\xef\xbb\xbf"


def drain(framer: Framer) -> tuple[list[bytes], str]:
    """All payloads, and how it ended: more, end, or the error's text."""
    payloads: list[bytes] = []
    while True:
        try:
            event = framer.next_event()
        except RemoteProtocolError as error:
            return payloads, str(error)
        if event is NEED_DATA:
            return payloads, "more"
        if isinstance(event, EndOfData):
            return payloads, "end"
        assert isinstance(event, Frame)
        payloads.append(event.payload)


def feed(
    framing: Framing, data: bytes, cut: int, *, eof: bool, limit: int = 100
) -> tuple[list[bytes], str]:
    framer = make_framer(framing, max_message_bytes=limit)
    for start in range(0, len(data), cut):
        framer.receive_data(data[start : start + cut])
    if eof:
        framer.receive_eof()
    return drain(framer)


CL = b"Content-Length: "
CASES: list[tuple[str, Framing, bytes, bool, list[bytes], str]] = [
    # name, framing, bytes, EOF follows, payloads, how it ends
    ("one line", "newline", b"{}\n", False, [b"{}"], "more"),
    ("lines", "newline", b"{}\n[1]\n{}\n", True, [b"{}", b"[1]", b"{}"], "end"),
    ("CRLF stays in the payload", "newline", b"{}\r\n", False, [b"{}\r"], "more"),
    ("blank lines", "newline", b"\n \t\r\n\n{}\n\n", True, [b"{}"], "end"),
    ("byte order mark", "newline", BOM + b"{}\n", False, [b"{}"], "more"),
    ("byte order mark only", "newline", BOM, True, [], "end"),
    ("half a byte order mark", "newline", BOM[:2], True, [BOM[:2]], "end"),
    (
        "later byte order mark",
        "newline",
        b"{}\n" + BOM + b"{}\n",
        False,
        [b"{}", BOM + b"{}"],
        "more",
    ),
    ("unfinished", "newline", b"{}\n{", False, [b"{}"], "more"),
    ("last line without a line feed", "newline", b"{}\n[2]", True, [b"{}", b"[2]"], "end"),
    ("last line blank", "newline", b"{}\n  ", True, [b"{}"], "end"),
    ("not UTF-8 is not the framer's business", "newline", b"\xff\n", False, [b"\xff"], "more"),
    ("at the limit", "newline", b"x" * 100 + b"\n", False, [b"x" * 100], "more"),
    (
        "over the limit",
        "newline",
        b"{}\n" + b"x" * 101 + b"\n{}\n",
        True,
        [b"{}"],
        "over the limit of 100 bytes",
    ),
    (
        "over the limit without an end",
        "newline",
        b"{}\n" + b"x" * 300,
        False,
        [b"{}"],
        "over the limit of 100 bytes",
    ),
    ("exact header", "content-length", CL + b"2\r\n\r\n{}", False, [b"{}"], "more"),
    (
        "frames",
        "content-length",
        CL + b"2\r\n\r\n{}" + CL + b"3\r\n\r\n[1]",
        True,
        [b"{}", b"[1]"],
        "end",
    ),
    (
        "bare line feeds",
        "content-length",
        CL + b"2\n\n{}" + CL + b"2\n\n{}",
        True,
        [b"{}", b"{}"],
        "end",
    ),
    ("mixed line ends", "content-length", CL + b"2\r\n\n{}", True, [b"{}"], "end"),
    ("case and spaces", "content-length", b"cOnTeNt-lEnGtH :\t 2 \r\n\r\n{}", True, [b"{}"], "end"),
    (
        "other fields",
        "content-length",
        b"X-A: b\r\nContent-Type: application/json; charset=utf-8\r\n" + CL + b"2\r\n\r\n{}",
        True,
        [b"{}"],
        "end",
    ),
    (
        "quoted charset",
        "content-length",
        b'Content-Type: a/b; charset="UTF8"\r\n' + CL + b"2\r\n\r\n{}",
        True,
        [b"{}"],
        "end",
    ),
    (
        "type without charset",
        "content-length",
        b"Content-Type: a/b\r\n" + CL + b"2\r\n\r\n{}",
        True,
        [b"{}"],
        "end",
    ),
    (
        "other charset",
        "content-length",
        b"Content-Type: a/b; charset=utf-16\r\n" + CL + b"2\r\n\r\n{}",
        True,
        [],
        "charset other than UTF-8",
    ),
    (
        "blank lines between",
        "content-length",
        b"\r\n\n" + CL + b"2\r\n\r\n{}\r\n\r\n" + CL + b"2\r\n\r\n{}\n",
        True,
        [b"{}", b"{}"],
        "end",
    ),
    (
        "byte order mark before the header",
        "content-length",
        BOM + CL + b"2\r\n\r\n{}",
        True,
        [b"{}"],
        "end",
    ),
    ("empty body", "content-length", CL + b"0\r\n\r\n" + CL + b"2\r\n\r\n{}", True, [b"{}"], "end"),
    ("same length twice", "content-length", (CL + b"2\r\n") * 2 + b"\r\n{}", True, [b"{}"], "end"),
    (
        "conflicting lengths",
        "content-length",
        CL + b"2\r\n" + CL + b"3\r\n\r\n{}",
        False,
        [],
        "conflicting Content-Lengths",
    ),
    ("no length", "content-length", b"X: y\r\n\r\n{}", False, [], "no Content-Length"),
    ("length in words", "content-length", CL + b"two\r\n\r\n{}", False, [], "no valid number"),
    ("negative length", "content-length", CL + b"-2\r\n\r\n{}", False, [], "no valid number"),
    ("plus sign", "content-length", CL + b"+2\r\n\r\n{}", False, [], "no valid number"),
    ("empty length", "content-length", CL + b"\r\n\r\n{}", False, [], "no valid number"),
    (
        "digits without end",
        "content-length",
        CL + b"1" * 5000 + b"\r\n\r\n",
        False,
        [],
        "no valid number",
    ),
    (
        "at the limit",
        "content-length",
        CL + b"100\r\n\r\n" + b"x" * 100,
        False,
        [b"x" * 100],
        "more",
    ),
    (
        "over the limit, before the body",
        "content-length",
        CL + b"9999999999\r\n\r\n",
        False,
        [],
        "9999999999 bytes is over the limit of 100 bytes",
    ),
    (
        "good frame, then garbage",
        "content-length",
        CL + b"2\r\n\r\n{}garbage\r\n\r\n",
        False,
        [b"{}"],
        "no header field",
    ),
    (
        "length too short eats the next header",
        "content-length",
        CL + b"1\r\n\r\n{}" + CL + b"2\r\n\r\n{}",
        False,
        [b"{"],
        "no header field",
    ),
    (
        "header without end",
        "content-length",
        b"X: " + b"y" * (MAX_HEADER_BYTES + 10),
        False,
        [],
        "header is over the limit",
    ),
    (
        "header over the cap in one piece",
        "content-length",
        b"X: " + b"y" * MAX_HEADER_BYTES + b"\r\n" + CL + b"2\r\n\r\n{}",
        False,
        [],
        "header is over the limit",
    ),
    ("end inside a header", "content-length", CL + b"2\r\n", True, [], "ended inside a header"),
    ("end inside a body", "content-length", CL + b"5\r\n\r\n{}", True, [], "2 of 5 bytes came"),
    ("prefix", "length-prefix", b"\0\0\0\2{}\0\0\0\3[1]", True, [b"{}", b"[1]"], "end"),
    ("zero is a keep-alive", "length-prefix", b"\0\0\0\0\0\0\0\2{}\0\0\0\0", True, [b"{}"], "end"),
    (
        "prefix at the limit",
        "length-prefix",
        b"\0\0\0\x64" + b"x" * 100,
        False,
        [b"x" * 100],
        "more",
    ),
    (
        "prefix over the limit",
        "length-prefix",
        b"\xff\xff\xff\xff",
        False,
        [],
        "4294967295 bytes is over the limit of 100 bytes",
    ),
    ("end inside a prefix", "length-prefix", b"\0\0", True, [], "ended inside a length prefix"),
    ("end inside a prefixed body", "length-prefix", b"\0\0\0\2{", True, [], "1 of 2 bytes came"),
    ("detect newline", "detect", b"{}\n[1]\n", True, [b"{}", b"[1]"], "end"),
    ("detect content-length", "detect", b"CONTENT-length: 2\r\n\r\n{}", True, [b"{}"], "end"),
    (
        "detect content-type first",
        "detect",
        b"Content-Type: a/b\r\n" + CL + b"2\r\n\r\n{}",
        True,
        [b"{}"],
        "end",
    ),
    ("detect after blanks and a mark", "detect", BOM + b" \n{}\n", True, [b"{}"], "end"),
    (
        "detect content-length after a mark",
        "detect",
        BOM + CL + b"2\r\n\r\n{}",
        True,
        [b"{}"],
        "end",
    ),
    ("detect a log line", "detect", b"Connecting...\n{}\n", True, [b"Connecting...", b"{}"], "end"),
    ("detect nothing", "detect", b"", True, [], "end"),
    ("detect undecided", "detect", b"Cont", False, [], "more"),
    ("detect undecided at the end", "detect", b"Cont", True, [b"Cont"], "end"),
    ("detect an unfinished line", "detect", b"{}\n[3]", True, [b"{}", b"[3]"], "end"),
    ("detect over the limit", "detect", b"x" * 101, False, [], "over the limit of 100 bytes"),
    (
        "detect blanks without end",
        "detect",
        b" " * (MAX_HEADER_BYTES + 1),
        False,
        [],
        "over the limit of 100 bytes",
    ),
    (
        "detect blanks over the limit at the end",
        "detect",
        b" " * 101,
        True,
        [],
        "over the limit of 100 bytes",
    ),
    ("detect end inside a body", "detect", CL + b"5\r\n\r\n{}", True, [], "2 of 5 bytes came"),
]


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 10**6])
@pytest.mark.parametrize(
    ("framing", "data", "eof", "payloads", "end"),
    [case[1:] for case in CASES],
    ids=[f"{case[1]}: {case[0]}" for case in CASES],
)
def test_frames_are_the_same_however_the_bytes_are_cut(
    framing: Framing, data: bytes, eof: bool, payloads: list[bytes], end: str, cut: int
) -> None:
    got, how = feed(framing, data, cut, eof=eof)
    assert got == payloads
    assert end in how if end not in ("more", "end") else how == end


@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_is_sent_is_what_arrives(framing: Framing) -> None:
    sender, receiver = make_framer(framing), make_framer(framing)
    payloads = [b'{"a":1}', b"[]", b"x" * 100_000]
    for payload in payloads:
        receiver.receive_data(sender.send(payload))
    assert drain(receiver) == (payloads, "more")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_fault_is_final_and_comes_after_what_preceded_it(framing: Framing) -> None:
    framer = make_framer(framing, max_message_bytes=10)
    good = {"content-length": CL + b"2\r\n\r\n{}", "length-prefix": b"\0\0\0\2{}"}.get(
        framing, b"{}\n"
    )
    bad = {"content-length": CL + b"11\r\n\r\n", "length-prefix": b"\0\0\0\x0b"}.get(
        framing, b"y" * 11
    )
    framer.receive_data(good + bad)
    sides = [framer.receiving]
    assert framer.next_event() == Frame(b"{}")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="over the limit of 10 bytes"):
            framer.next_event()
        sides.append(framer.receiving)
        framer.receive_data(good)  # swallowed: nothing after a fault can be trusted
    assert sides == [Side.OPEN, Side.ERROR, Side.ERROR]
    framer.receive_eof()
    with pytest.raises(RemoteProtocolError):
        framer.next_event()
    assert framer.sending is Side.OPEN
    assert framer.send(b"bye")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_end_is_told_once_and_for_all(framing: Framing) -> None:
    framer = make_framer(framing)
    framer.receive_eof()
    framer.receive_eof()
    assert framer.next_event() == EndOfData()
    assert framer.receiving is Side.DONE
    assert framer.next_event() == EndOfData()
    with pytest.raises(LocalProtocolError, match="after receive_eof"):
        framer.receive_data(b"{}\n")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_sending_has_its_limit_and_ends_with_a_failed_write(framing: Framing) -> None:
    framer = make_framer(framing, max_message_bytes=5)
    with pytest.raises(MessageTooLarge) as caught:
        framer.send(b"123456")
    assert (caught.value.size, caught.value.limit) == (6, 5)
    assert framer.send(b"12345")
    framer.send_failed()
    assert framer.sending is Side.ERROR
    with pytest.raises(LocalProtocolError, match="after send_failed"):
        framer.send(b"1")
    framer.receive_data(b"")
    assert framer.next_event() is NEED_DATA


def test_line_feeds_inside_a_payload_are_taken_out_or_refused() -> None:
    framer = NewlineFramer()
    assert framer.send(b'{\n "a": "b\\nc"\n}') == b'{"a":"b\\nc"}\n'
    with pytest.raises(LocalProtocolError, match="cannot be one line"):
        framer.send(b"not\njson")


def test_only_an_unterminated_line_is_marked_so() -> None:
    for framer in (NewlineFramer(), DetectFramer()):
        framer.receive_data(b"[1]\n[2]")
        framer.receive_eof()
        assert framer.next_event() == Frame(b"[1]")
        assert framer.next_event() == Frame(b"[2]", terminated=False)
        assert framer.next_event() == EndOfData()


def test_payloads_can_be_drained_some_at_a_time() -> None:
    framer = NewlineFramer()
    framer.receive_data(b"1\n2\n3\n4")
    assert framer.next_payloads(2) == [b"1", b"2"]
    assert framer.next_payloads(2) == [b"3"]
    assert framer.next_payloads(2) == []
    framer.receive_eof()
    assert framer.next_payloads(2) == []
    assert framer.next_event() == Frame(b"4", terminated=False)


@pytest.mark.parametrize(
    ("framing", "data"),
    [
        ("newline", b"1\n2\n3"),
        ("content-length", CL + b"1\r\n\r\n1" + CL + b"1\r\n\r\n2" + CL + b"5\r\n\r\n12"),
        ("content-length", CL + b"1\r\n\r\n1" + CL + b"1\r\n\r\n2" + b"Conten"),
        ("length-prefix", b"\0\0\0\1\x31\0\0\0\1\x32\0\0"),
        ("detect", b"1\n2\n3"),
        ("detect", CL + b"1\r\n\r\n1" + CL + b"1\r\n\r\n2" + b"Conten"),
    ],
)
def test_unread_bytes_can_be_handed_over(framing: Framing, data: bytes) -> None:
    framer = make_framer(framing)
    framer.receive_data(data)
    assert framer.trailing_data == (data, False)
    first = framer.next_event()
    assert first == Frame(b"1")
    rest, eof = framer.trailing_data
    assert data.endswith(rest)
    assert not eof
    again = make_framer(framing)
    again.receive_data(rest)
    assert again.next_event() == Frame(b"2")


@pytest.mark.parametrize("framer", [NewlineFramer(), DetectFramer()])
def test_unread_bytes_include_a_last_line_and_the_end(framer: Framer) -> None:
    framer.receive_data(b"1\n2")
    framer.receive_eof()
    assert framer.trailing_data == (b"1\n2", True)


def test_detect_tells_what_it_found_and_answers_in_kind() -> None:
    framer = DetectFramer()
    before = framer.framing
    assert framer.send(b"{}") == b"{}\n"
    framer.receive_data(b"Content-")
    assert (before, framer.framing) == ("detect", "content-length")
    assert framer.send(b"{}") == b"Content-Length: 2\r\n\r\n{}"
    framer.receive_data(b"Length: 2\r\n\r\n{}")
    assert framer.next_event() == Frame(b"{}")
    unread = DetectFramer()
    unread.receive_data(b" Con")
    assert unread.trailing_data == (b" Con", False)


def test_framers_know_their_names() -> None:
    for framing in FRAMINGS:
        assert make_framer(framing).framing == framing
    assert isinstance(make_framer("content-length"), ContentLengthFramer)
    assert isinstance(make_framer("length-prefix"), LengthPrefixFramer)
    assert repr(NEED_DATA) == "NEED_DATA"


class _CountingBytes(bytearray):
    """Counts how many bytes are searched, to prove linear cost without a clock."""

    searched = 0

    def lstrip(self, chars: object = None) -> bytearray:
        raise AssertionError("copies all that is there")

    def find(self, sub: bytes, start: int = 0) -> int:  # type: ignore[override]
        found = super().find(sub, start)
        type(self).searched += (len(self) if found < 0 else found + 1) - start
        return found


def test_a_header_that_comes_byte_by_byte_is_searched_once() -> None:
    framer = ContentLengthFramer()
    framer._buffer = _CountingBytes()
    header = b"X: " + b"y" * 4000 + b"\r\n" + CL + b"2\r\n\r\n"
    for byte in header:
        framer.receive_data(bytes([byte]))
    framer.receive_data(b"{}")
    assert framer.next_event() == Frame(b"{}")
    assert _CountingBytes.searched < 3 * len(header)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_many_are_sent_as_one_by_one_and_all_or_none(framing: Framing) -> None:
    framer = make_framer(framing, max_message_bytes=12)
    for payloads in ([], [b"{}"], [b"{}", b'{\n"a":1}', b"[]"], [b"123456789012", b"{}", b"12"]):
        assert framer.send_many(payloads) == b"".join(map(framer.send, payloads))
    with pytest.raises(MessageTooLarge):
        framer.send_many([b"{}", b"1234567890123"])
    framer.send_failed()
    with pytest.raises(LocalProtocolError):
        framer.send_many([b"{}"])


def test_what_cannot_be_one_line_is_refused_among_many() -> None:
    with pytest.raises(LocalProtocolError, match="line feeds"):
        NewlineFramer().send_many([b"{}", b"no\njson"])


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("ends_with", ["nothing", "half a frame", "a fault", "the end"])
def test_a_look_ahead_says_whether_there_is_an_event(framing: Framing, ends_with: str) -> None:
    framer = make_framer(framing, max_message_bytes=20)
    frame = make_framer(framing).send(b'{"a":1}')
    assert framer.needs_data
    framer.receive_data(frame + frame)
    if ends_with == "half a frame":
        framer.receive_data(frame[:-2])
    elif ends_with == "a fault":
        framer.receive_data(make_framer(framing).send(b"x" * 21))
    elif ends_with == "the end":
        framer.receive_eof()
    for _ in range(4):
        expected = framer.needs_data
        try:
            event = framer.next_event()
        except RemoteProtocolError:
            assert not expected
        else:
            assert expected == (event is NEED_DATA)


def test_a_line_that_comes_byte_by_byte_takes_little_more_memory_than_its_bytes() -> None:
    framer = NewlineFramer()
    tracemalloc.start()
    try:
        for _ in range(300_000):
            framer.receive_data(b"x")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 600_000
    framer.receive_data(b"y" * 5000)
    framer.receive_data(b"z\n")
    assert framer.next_payloads(9) == [b"x" * 300_000 + b"y" * 5000 + b"z"]
