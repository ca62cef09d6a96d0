"""The WebSocket machine: the closing handshake, what it says by itself, what may be sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from websocket_wire import (
    MASK,
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

from trio_mcp_transport.errors import (
    ConfigurationError,
    LocalProtocolError,
    RemoteProtocolError,
)
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData, Side
from trio_mcp_transport.sansio.websocket import (
    BinaryMessage,
    Close,
    CloseCode,
    CloseReceived,
    Ping,
    Pong,
    TextMessage,
    WebSocketItem,
    WebSocketLimits,
    WebSocketMachine,
)
from trio_mcp_transport.testing import JoinedMachines, drain, feed

pytestmark = pytest.mark.sansio

BOTH = pytest.mark.parametrize("role", ["client", "server"])
OPEN, DONE, ERROR = Side.OPEN, Side.DONE, Side.ERROR

EVERYTHING: list[WebSocketItem] = [
    TextMessage(b"{}"),
    TextMessage(b""),
    BinaryMessage(b"\xff" * 125),
    BinaryMessage(b"\xff" * 126),
    TextMessage("é".encode() * 600),  # longer than what is masked as an integer
    TextMessage(b"x" * 65_535),
    TextMessage(b"x" * 65_536),
    TextMessage(b"x" * 65_537),
    Ping(),
    Ping(b"x" * 125),
    Pong(b"\x00"),
]


def states(of: WebSocketMachine) -> tuple[Side, Side]:
    return of.receiving, of.sending


# -- what is sent -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("cut", [None, 1000])
def test_what_one_side_sends_the_other_receives(role: Role, cut: int | None) -> None:
    pair = JoinedMachines(machine(role), machine(other(role)), cut=cut)
    assert pair.send(*EVERYTHING) == EVERYTHING
    assert pair.send(Close(1001, "bye")) == [CloseReceived(1001, "bye")]


@BOTH
@pytest.mark.parametrize(
    ("item", "frame"),
    [
        (TextMessage(b"{}"), Frame(TEXT, b"{}")),
        (TextMessage(b"x" * 126), Frame(TEXT, b"x" * 126)),
        (TextMessage(b"x" * 2000), Frame(TEXT, b"x" * 2000)),
        (TextMessage(b"x" * 65_536), Frame(TEXT, b"x" * 65_536)),
        (BinaryMessage(b""), Frame(2)),
        (Ping(b"1"), Frame(PING, b"1")),
        (Pong(), Frame(PONG)),
        (Close(), close_frame(1000)),
        (Close(None), close_frame(None)),
        (Close(4000, "é"), close_frame(4000, "é".encode())),
    ],
)
def test_frames_are_written_to_the_byte(role: Role, item: WebSocketItem, frame: Frame) -> None:
    assert machine(role).send(item) == to(other(role), frame)


def test_each_frame_of_a_client_has_a_mask_of_its_own() -> None:
    keys = [b"\0\0\0\0", b"\1\2\3\4"]
    client = WebSocketMachine("client", mask_key=iter(keys).__next__)
    sent = [client.send(TextMessage(b"aaaa")), client.send(TextMessage(b"aaaa"))]
    assert sent == [Frame(TEXT, b"aaaa").wire(key) for key in keys]
    server = machine("server")
    assert feed(server, b"".join(sent)) == [TextMessage(b"aaaa")] * 2


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_a_mask_of_the_wrong_length_is_no_mask(key: bytes) -> None:
    client = WebSocketMachine("client", mask_key=lambda: key)
    with pytest.raises(LocalProtocolError, match="4 bytes"):
        client.send(TextMessage(b"aaaa"))


@BOTH
@pytest.mark.parametrize("size", [125, 126, 250, 251, 375])
def test_a_long_message_is_cut_into_frames(role: Role, size: int) -> None:
    limits = WebSocketLimits(max_frame_bytes=125)
    data = b"abcde" * 75
    wire = machine(role, limits=limits).send(TextMessage(data[:size]))
    pieces = [data[:size][at : at + 125] for at in range(0, size, 125)]
    frames = [Frame(0, piece, fin=False) for piece in pieces]
    frames[0] = frames[0]._replace(opcode=TEXT)
    frames[-1] = frames[-1]._replace(fin=True)
    assert wire == to(other(role), *frames)
    assert feed(machine(other(role), limits=limits), wire) == [TextMessage(data[:size])]


@BOTH
def test_a_text_that_is_no_utf8_is_not_sent(role: Role) -> None:
    sender = machine(role)
    with pytest.raises(LocalProtocolError, match="UTF-8"):
        sender.send(TextMessage(b"\xff"))
    assert sender.send(TextMessage(b"a"))


@BOTH
def test_events_that_only_come_in_cannot_be_sent(role: Role) -> None:
    with pytest.raises(LocalProtocolError, match="CloseReceived"):
        machine(role).send(CloseReceived(1000))  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ping(b"x" * 126),
        lambda: Pong(b"x" * 126),
        lambda: Close(None, "why"),
        lambda: Close(1005),
        lambda: Close(1006),
        lambda: Close(1015),
        lambda: Close(999),
        lambda: Close(2000),
        lambda: Close(5000),
    ],
)
def test_what_may_not_be_on_the_wire_cannot_be_made(make: Callable[[], WebSocketItem]) -> None:
    with pytest.raises(LocalProtocolError):
        make()


@BOTH
def test_a_long_reason_is_cut_between_two_characters(role: Role) -> None:
    wire = machine(role).send(Close(1000, "x" + "é" * 100))
    assert feed(machine(other(role)), wire) == [CloseReceived(1000, "x" + "é" * 61)]


@BOTH
def test_a_reason_that_cannot_be_written_is_written_as_far_as_it_can(role: Role) -> None:
    wire = machine(role).send(Close(1000, "a\ud800b"))
    assert feed(machine(other(role)), wire) == [CloseReceived(1000, "a?b")]


# -- pings --------------------------------------------------------------------------


@BOTH
def test_a_ping_is_answered_with_its_payload(role: Role) -> None:
    answering = machine(role)
    has_words = [answering.has_own_words]
    assert feed(answering, to(role, Frame(PING, b"1"))) == [Ping(b"1")]
    has_words.append(answering.has_own_words)
    assert answering.bytes_to_send() == to(other(role), Frame(PONG, b"1"))
    assert answering.bytes_to_send() == b""
    assert [*has_words, answering.has_own_words] == [False, True, False]


@BOTH
def test_of_a_flood_of_pings_only_the_newest_is_answered(role: Role) -> None:
    answering = machine(role)
    pings = [Frame(PING, b"%d" % number) for number in range(1000)]
    assert len(feed(answering, to(role, *pings))) == 1000
    assert answering.bytes_to_send() == to(other(role), Frame(PONG, b"999"))
    assert answering.bytes_to_send() == b""


@BOTH
def test_pings_are_answered_after_our_close_and_not_after_the_peers(role: Role) -> None:
    closing = machine(role)
    closing.send(Close())
    feed(closing, to(role, Frame(PING, b"1")))
    assert closing.bytes_to_send() == to(other(role), Frame(PONG, b"1"))
    feed(closing, to(role, Frame(PING, b"2"), close_frame(1000), Frame(PING, b"3")))
    assert closing.bytes_to_send() == b""


@BOTH
def test_a_close_takes_the_place_of_a_pong_that_was_not_written(role: Role) -> None:
    answering = machine(role)
    feed(answering, to(role, Frame(PING), close_frame(1000)))
    assert answering.bytes_to_send() == to(other(role), close_frame(1000))
    assert answering.bytes_to_send() == b""


# -- closing ------------------------------------------------------------------------


@BOTH
def test_a_peer_that_closes_is_answered_with_its_own_code(role: Role) -> None:
    for code, answer in ((1000, 1000), (4321, 4321), (None, None)):
        closing = machine(role)
        assert feed(closing, to(role, close_frame(code))) == [CloseReceived(code or 1005)]
        assert states(closing) == (DONE, DONE)
        assert closing.has_own_words
        assert close_code(role, closing.bytes_to_send()) == answer
        assert closing.bytes_to_send() == b""
        with pytest.raises(LocalProtocolError, match="after a Close"):
            closing.send(TextMessage(b"{}"))
        assert closing.next_event() is NEED_DATA
        closing.receive_eof()
        assert drain(closing) == [EndOfData()]


@BOTH
def test_after_our_close_messages_still_come_until_the_peer_closes(role: Role) -> None:
    closing = machine(role)
    assert closing.send(Close(1001, "bye")) == to(other(role), close_frame(1001, b"bye"))
    assert states(closing) == (OPEN, DONE)
    for item in (TextMessage(b"{}"), Ping(), Close()):
        with pytest.raises(LocalProtocolError, match="after a Close"):
            closing.send(item)
    wire = to(role, Frame(TEXT, b"{}"), close_frame(1001))
    assert feed(closing, wire) == [TextMessage(b"{}"), CloseReceived(1001)]
    assert states(closing) == (DONE, DONE)
    assert closing.bytes_to_send() == b""
    closing.receive_eof()
    assert drain(closing) == [EndOfData()]


@BOTH
def test_both_may_close_at_once(role: Role) -> None:
    left, right = machine(role), machine(other(role))
    to_right, to_left = left.send(Close(1000)), right.send(Close(1001))
    assert feed(left, to_left, eof=True) == [CloseReceived(1001), EndOfData()]
    assert feed(right, to_right, eof=True) == [CloseReceived(1000), EndOfData()]
    assert left.bytes_to_send() == right.bytes_to_send() == b""
    assert states(left) == states(right) == (DONE, DONE)


@BOTH
def test_an_end_without_an_answer_to_our_close_is_told(role: Role) -> None:
    closing = machine(role)
    closing.send(Close())
    [error] = feed(closing, b"", eof=True)
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == CloseCode.ABNORMAL
    assert states(closing) == (ERROR, DONE)
    assert closing.bytes_to_send() == b""


@BOTH
def test_messages_before_the_close_are_all_there_when_they_come_at_once(role: Role) -> None:
    texts = [Frame(TEXT, b"%d" % number) for number in range(100)]
    events = feed(machine(role), to(role, *texts, close_frame(1000)), eof=True)
    assert events == [
        *(TextMessage(frame.payload) for frame in texts),
        CloseReceived(1000),
        EndOfData(),
    ]


# -- faults -------------------------------------------------------------------------


@BOTH
def test_a_fault_is_final_and_leaves_nothing_to_send(role: Role) -> None:
    failed = machine(role)
    failed.receive_data(to(role, Frame(3), Frame(TEXT, b"{}")))
    texts = set()
    for _ in range(3):
        with pytest.raises(RemoteProtocolError) as caught:
            failed.next_event()
        texts.add((str(caught.value), caught.value.close_code))
        failed.receive_data(to(role, Frame(TEXT, b"{}")))
    assert len(texts) == 1
    failed.receive_eof()
    with pytest.raises(RemoteProtocolError):
        failed.next_event()
    assert states(failed) == (ERROR, DONE)
    with pytest.raises(LocalProtocolError, match="after a Close"):
        failed.send(TextMessage(b"{}"))
    assert close_code(role, failed.bytes_to_send()) == 1002
    assert failed.bytes_to_send() == b""


@BOTH
def test_the_peer_hears_in_words_why_it_is_closed(role: Role) -> None:
    failed = machine(role)
    [error] = feed(failed, to(role, Frame(TEXT, b"\xff")))
    [heard] = feed(machine(other(role)), failed.bytes_to_send())
    assert heard == CloseReceived(1007, str(error))


@BOTH
def test_after_our_close_a_fault_says_nothing_more(role: Role) -> None:
    closing = machine(role)
    closing.send(Close())
    [error] = feed(closing, to(role, Frame(3)))
    assert isinstance(error, RemoteProtocolError)
    assert states(closing) == (ERROR, DONE)
    assert closing.bytes_to_send() == b""


@BOTH
def test_an_end_without_a_close_leaves_nobody_to_talk_to(role: Role) -> None:
    failed = machine(role)
    [_ping, error] = feed(failed, to(role, Frame(PING)), eof=True)
    assert isinstance(error, RemoteProtocolError)
    assert states(failed) == (ERROR, ERROR)
    assert failed.bytes_to_send() == b""
    with pytest.raises(LocalProtocolError, match="any more"):
        failed.send(TextMessage(b"{}"))


@BOTH
def test_after_a_failed_send_nothing_can_be_sent_and_everything_be_received(role: Role) -> None:
    failed = machine(role)
    feed(failed, to(role, Frame(PING)))
    failed.send_failed()
    assert states(failed) == (OPEN, ERROR)
    with pytest.raises(LocalProtocolError, match="any more"):
        failed.send(Close())
    events = feed(failed, to(role, Frame(TEXT, b"{}"), Frame(PING), close_frame(1000)))
    assert events == [TextMessage(b"{}"), Ping(), CloseReceived(1000)]
    assert failed.bytes_to_send() == b""


@BOTH
def test_a_close_that_was_not_written_is_not_offered_again(role: Role) -> None:
    failed = machine(role)
    feed(failed, to(role, close_frame(1000)))
    failed.send_failed()
    assert states(failed) == (DONE, ERROR)
    assert failed.bytes_to_send() == b""


@BOTH
def test_data_after_the_end_is_misuse(role: Role) -> None:
    ended = machine(role)
    ended.receive_eof()
    ended.receive_eof()
    with pytest.raises(LocalProtocolError, match="after receive_eof"):
        ended.receive_data(b"x")


# -- how it is made -----------------------------------------------------------------


def test_a_client_needs_masks_and_a_server_has_none() -> None:
    with pytest.raises(ConfigurationError, match="client needs a mask_key"):
        WebSocketMachine("client")
    with pytest.raises(ConfigurationError, match="server has no mask_key"):
        WebSocketMachine("server", mask_key=lambda: MASK)
    with pytest.raises(ConfigurationError, match="role must be"):
        WebSocketMachine("peer")  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_message_bytes", 0),
        ("max_frame_bytes", 0),
        ("max_frame_bytes", 124),
        ("max_fragments", 0),
        ("max_fragments", 1.5),
    ],
)
def test_limits_that_are_none_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=name):
        WebSocketLimits(**{name: value})
