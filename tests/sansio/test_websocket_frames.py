"""What comes out of WebSocket frames, good and bad ones, however they are cut."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from websocket_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Role,
    close_code,
    close_frame,
    machine,
    other,
    to,
)

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData
from trio_mcp_transport.sansio.websocket import (
    BinaryMessage,
    CloseReceived,
    Ping,
    Pong,
    TextMessage,
    WebSocketEvent,
    WebSocketLimits,
)
from trio_mcp_transport.testing import check_every_cut, drain, feed

pytestmark = pytest.mark.sansio

BOTH = pytest.mark.parametrize("role", ["client", "server"])
LIMITS = WebSocketLimits(max_message_bytes=300, max_frame_bytes=200, max_fragments=4)
#: The last of the expected events: the code of the Close that answers a fault.
Fault = int
Case = tuple[list[Frame], list[WebSocketEvent | EndOfData | Fault]]

PARIS = "où ça? à Paris 🗼".encode()

GOOD: dict[str, Case] = {
    "a text": ([Frame(TEXT, b"{}")], [TextMessage(b"{}")]),
    "an empty text": ([Frame(TEXT)], [TextMessage(b"")]),
    "an empty binary": ([Frame(BINARY)], [BinaryMessage(b"")]),
    "two texts": ([Frame(TEXT, b"a"), Frame(TEXT, b"b")], [TextMessage(b"a"), TextMessage(b"b")]),
    "the longest length in one byte": ([Frame(TEXT, b"x" * 125)], [TextMessage(b"x" * 125)]),
    "the shortest length in two bytes": ([Frame(TEXT, b"x" * 126)], [TextMessage(b"x" * 126)]),
    "the largest frame": ([Frame(TEXT, b"x" * 200)], [TextMessage(b"x" * 200)]),
    "a binary is no text": ([Frame(BINARY, b"\xff\xfe")], [BinaryMessage(b"\xff\xfe")]),
    "more than ASCII": ([Frame(TEXT, PARIS)], [TextMessage(PARIS)]),
    "a ping": ([Frame(PING)], [Ping()]),
    "a ping with a payload": ([Frame(PING, b"x" * 125)], [Ping(b"x" * 125)]),
    "a pong nobody asked for": ([Frame(PONG, b"\xff")], [Pong(b"\xff")]),
    "two fragments": (
        [Frame(TEXT, b"{", fin=False), Frame(CONTINUATION, b"}")],
        [TextMessage(b"{}")],
    ),
    "as many fragments as may be, some of them empty": (
        [
            Frame(BINARY, fin=False),
            Frame(CONTINUATION, b"a", fin=False),
            Frame(CONTINUATION, fin=False),
            Frame(CONTINUATION),
        ],
        [BinaryMessage(b"a")],
    ),
    "two fragments as large as may be": (
        [Frame(TEXT, b"x" * 200, fin=False), Frame(CONTINUATION, b"y" * 100)],
        [TextMessage(b"x" * 200 + b"y" * 100)],
    ),
    "a fragmented message after another": (
        [
            Frame(TEXT, b"x" * 200, fin=False),
            Frame(CONTINUATION, b"y" * 100),
            Frame(BINARY, b"x" * 200, fin=False),
            Frame(CONTINUATION, b"y" * 100),
            Frame(TEXT, b"z"),
        ],
        [
            TextMessage(b"x" * 200 + b"y" * 100),
            BinaryMessage(b"x" * 200 + b"y" * 100),
            TextMessage(b"z"),
        ],
    ),
    "control frames between fragments": (
        [
            Frame(TEXT, b"{", fin=False),
            Frame(PING, b"1"),
            Frame(PONG, b"2"),
            Frame(CONTINUATION, b"}"),
        ],
        [Ping(b"1"), Pong(b"2"), TextMessage(b"{}")],
    ),
    "a character cut by a fragment": (
        [Frame(TEXT, PARIS[:3], fin=False), Frame(CONTINUATION, PARIS[3:])],
        [TextMessage(PARIS)],
    ),
    "characters at the borders of UTF-8": (
        [
            Frame(
                TEXT, "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\ufeff\uffff\U00010000\U0010ffff".encode()
            )
        ],
        [
            TextMessage(
                "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\ufeff\uffff\U00010000\U0010ffff".encode()
            )
        ],
    ),
    "a Close": ([close_frame(1000)], [CloseReceived(1000)]),
    "a Close without a code": ([close_frame(None)], [CloseReceived(1005)]),
    "a Close with a reason": (
        [close_frame(1001, b"x" * 123)],
        [CloseReceived(1001, "x" * 123)],
    ),
    "a Close between fragments": (
        [Frame(TEXT, b"{", fin=False), close_frame(1011)],
        [CloseReceived(1011)],
    ),
    "what follows a Close is thrown away": (
        [close_frame(1000), Frame(TEXT, b"a"), close_frame(1001), Frame(15)],
        [CloseReceived(1000)],
    ),
    **{
        f"a Close with code {code}": ([close_frame(code)], [CloseReceived(code)])
        for code in (1002, 1003, 1007, 1008, 1009, 1010, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    },
}

BAD: dict[str, Case] = {
    **{
        f"opcode {opcode}": ([Frame(PING), Frame(opcode)], [Ping(), 1002])
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    **{
        f"reserved bits {rsv:03b} in a {name}": ([Frame(opcode, b"x", rsv=rsv)], [1002])
        for name, opcode in {"text": TEXT, "binary": BINARY, "ping": PING, "close": CLOSE}.items()
        for rsv in (1, 2, 4, 7)
    },
    "a reserved bit in a continuation": (
        [Frame(TEXT, fin=False), Frame(CONTINUATION, rsv=4)],
        [1002],
    ),
    "a length in two bytes that needs none": ([Frame(TEXT, b"x" * 125, length_bytes=2)], [1002]),
    "a length in eight bytes that needs none": ([Frame(TEXT, b"x", length_bytes=8)], [1002]),
    "a length in eight bytes that needs two": ([Frame(TEXT, b"x" * 126, length_bytes=8)], [1002]),
    "a length with the highest bit": ([Frame(TEXT, claim=2**63, length_bytes=8)], [1002]),
    "a long ping": ([Frame(PING, b"x" * 126)], [1002]),
    "a long Close": ([Frame(CLOSE, b"\x03\xe8" + b"x" * 124)], [1002]),
    "a ping in fragments": ([Frame(PING, fin=False)], [1002]),
    "a continuation of nothing": ([Frame(CONTINUATION, b"x")], [1002]),
    "a continuation of a message that is complete": (
        [Frame(TEXT, b"a"), Frame(CONTINUATION, b"x")],
        [TextMessage(b"a"), 1002],
    ),
    "a continuation of a fragmented message that is complete": (
        [Frame(TEXT, b"a", fin=False), Frame(CONTINUATION), Frame(CONTINUATION, b"x")],
        [TextMessage(b"a"), 1002],
    ),
    "a message within a message": (
        [Frame(TEXT, b"a", fin=False), Frame(TEXT, b"b")],
        [1002],
    ),
    "a binary within a text": ([Frame(TEXT, b"a", fin=False), Frame(BINARY, b"b")], [1002]),
    "half a Close code": ([Frame(CLOSE, b"\x03")], [1002]),
    **{
        f"a Close with code {code}": ([close_frame(code)], [1002])
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "a reason that is no UTF-8": ([close_frame(1000, b"\xc3")], [1007]),
    **{
        f"a text that is no UTF-8: {data!r}": (
            [Frame(TEXT, b"a"), Frame(TEXT, data)],
            [
                TextMessage(b"a"),
                1007,
            ],
        )
        for data in (
            b"\x80",
            b"abc\xff",
            b"\xc3",
            b"\xc0\xaf",  # overlong
            b"\xed\xa0\x80",  # a surrogate
            b"\xf4\x90\x80\x80",  # beyond U+10FFFF
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        )
    },
    "fragments that are no UTF-8 together": (
        [Frame(TEXT, b"\xc3", fin=False), Frame(CONTINUATION, b"a")],
        [1007],
    ),
    "a frame that is too large": ([Frame(TEXT, b"x" * 201)], [1009]),
    "a binary that is too large": ([Frame(BINARY, b"x" * 201)], [1009]),
    "a frame that claims to be too large": ([Frame(TEXT, claim=201)], [1009]),
    "a frame that claims 2**40 bytes": ([Frame(TEXT, claim=2**40)], [1009]),
    "a message that is too large": (
        [Frame(TEXT, b"x" * 200, fin=False), Frame(CONTINUATION, claim=101)],
        [1009],
    ),
    "too many fragments": (
        [Frame(TEXT, fin=False), *[Frame(CONTINUATION, fin=False)] * 3, Frame(CONTINUATION)],
        [1008],
    ),
    "pings between too many fragments": (
        [
            Frame(TEXT, fin=False),
            *[Frame(PING), Frame(CONTINUATION, fin=False)] * 3,
            Frame(PING),
            Frame(CONTINUATION),
        ],
        [Ping(), Ping(), Ping(), Ping(), 1008],
    ),
}


@BOTH
@pytest.mark.parametrize("name", GOOD)
def test_good_frames_give_their_events_however_they_are_cut(name: str, role: Role) -> None:
    frames, expected = GOOD[name]
    wire = to(role, *frames)
    if isinstance(expected[-1], CloseReceived):
        expected = [*expected, EndOfData()]
    else:
        wire += to(role, close_frame(1000))
        expected = [*expected, CloseReceived(1000), EndOfData()]
    assert check_every_cut(lambda: machine(role, limits=LIMITS), wire) == expected


@BOTH
@pytest.mark.parametrize("name", BAD)
def test_bad_frames_end_the_connection_with_a_code_however_they_are_cut(
    name: str, role: Role
) -> None:
    frames, expected = BAD[name]
    *before, code = expected
    wire = to(role, *frames, Frame(TEXT, b"not read any more"))
    *events, error = check_every_cut(lambda: machine(role, limits=LIMITS), wire)
    assert events == before
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == code
    failed = machine(role, limits=LIMITS)
    feed(failed, wire)
    # The peer is told the reason, and by the code of it.
    answer = failed.bytes_to_send()
    while answer[0] != 0x80 | CLOSE:  # a pong
        answer = failed.bytes_to_send()
    assert close_code(role, answer) == code
    assert failed.bytes_to_send() == b""


@BOTH
def test_frames_that_are_masked_the_wrong_way_are_refused(role: Role) -> None:
    for frame in (Frame(TEXT, b"x"), Frame(TEXT, b"x" * 130), Frame(PING), Frame(TEXT, fin=False)):
        wire = to(role, Frame(PONG)) + to(other(role), frame)
        *events, error = check_every_cut(lambda: machine(role), wire)
        assert events == [Pong()]
        assert isinstance(error, RemoteProtocolError)
        assert error.close_code == 1002


@BOTH
@pytest.mark.parametrize("kind", [TEXT, BINARY])
@pytest.mark.parametrize("size", [65535, 65536, 65537, 200_000])
def test_long_messages_pass_whole_and_in_pieces(role: Role, kind: int, size: int) -> None:
    data = bytes(itertools.islice(itertools.cycle(range(97, 123)), size))
    wire = to(role, Frame(kind, data), Frame(PING))
    event = TextMessage(data) if kind == TEXT else BinaryMessage(data)
    for cut in (None, 4096, 65536, size):
        assert feed(machine(role), wire, cut=cut) == [event, Ping()]


@BOTH
def test_long_text_is_checked_to_its_last_character(role: Role) -> None:
    good = "é".encode() * 100_001
    assert feed(machine(role), to(role, Frame(TEXT, good))) == [TextMessage(good)]
    for bad in (good[:-1], b"a" + good[:-1], good + b"\xff", b"\xff" + good):
        [error] = feed(machine(role), to(role, Frame(TEXT, bad)))
        assert isinstance(error, RemoteProtocolError)
        assert error.close_code == 1007


@BOTH
@pytest.mark.parametrize(
    "frames",
    [
        [Frame(TEXT, claim=2**40)],
        [Frame(BINARY, claim=LIMITS.max_frame_bytes + 1)],
        [Frame(TEXT, b"x" * 200, fin=False), Frame(CONTINUATION, claim=101)],
    ],
)
def test_a_size_over_the_limit_is_refused_before_any_of_it_comes(
    role: Role, frames: list[Frame]
) -> None:
    *_, error = feed(machine(role, limits=LIMITS), to(role, *frames))
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1009
    assert str(LIMITS.max_frame_bytes) in str(error) or str(LIMITS.max_message_bytes) in str(error)


@BOTH
@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "between messages"),
        ([Frame(TEXT, b"{}")], "between messages"),
        ([Frame(TEXT, b"{", fin=False)], "in the middle of messages"),
        ([Frame(TEXT, b"{", claim=2)], "in the middle of messages"),
        ([Frame(PING, b"{", claim=2)], "in the middle of messages"),
    ],
)
def test_an_end_without_a_close_never_looks_like_a_clean_one(
    role: Role, frames: list[Frame], words: str
) -> None:
    *_, error = check_every_cut(lambda: machine(role), to(role, *frames))
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1006
    assert words in str(error)


@BOTH
def test_a_header_that_is_cut_off_is_the_middle_of_a_message(role: Role) -> None:
    wire = to(role, Frame(TEXT, b"x" * 130))
    for length in range(1, 9):
        *_, error = feed(machine(role), wire[:length], eof=True)
        assert isinstance(error, RemoteProtocolError)
        assert "in the middle" in str(error)


@BOTH
def test_nothing_of_a_payload_is_in_the_text_of_an_error(role: Role) -> None:
    for frame in (
        Frame(TEXT, b"secret\xff"),
        Frame(CLOSE, b"\x03\xe8secret\xff"),
        Frame(TEXT, b"secret", rsv=1),
    ):
        [error] = feed(machine(role), to(role, frame))
        assert isinstance(error, RemoteProtocolError)
        assert "secret" not in str(error)


@BOTH
def test_a_message_byte_by_byte_takes_no_more_memory_than_its_size(role: Role) -> None:
    size = 20_000
    wire = to(role, Frame(TEXT, b"x" * (size // 2), fin=False), Frame(CONTINUATION, b"y" * 9_999))
    reader = machine(role)
    reader.receive_data(wire[:10])
    tracemalloc.start()
    try:
        for byte in wire[10:]:
            reader.receive_data(bytes([byte]))
            assert reader.next_event() is NEED_DATA or byte == wire[-1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * size


@BOTH
def test_what_was_stored_is_let_go_at_the_end(role: Role) -> None:
    for last in (close_frame(1000), Frame(15)):
        reader = machine(role)
        tracemalloc.start()
        try:
            reader.receive_data(to(role, Frame(TEXT, b"x" * 500_000, fin=False), last))
            reader.receive_data(b"x" * 500_000)
            drain(reader)
            reader.receive_data(b"x" * 500_000)
            drain(reader)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 100_000
