"""Whatever is sent arrives, whatever is cut, whatever is garbage: for every framer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.limits import Framing
from trio_mcp_transport.sansio.framing import Frame, Framer, make_framer
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData

framings: st.SearchStrategy[Framing] = st.sampled_from([
    "newline",
    "content-length",
    "length-prefix",
    "detect",
])
#: Payloads as JSON writers make them: no blank ones, no raw line feeds.
payloads = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).map(
        lambda text: b'{"x":"' + text.replace("\n", "").encode() + b'"}'
    ),
    max_size=8,
)


def outcome(framer: Framer) -> tuple[list[bytes], str]:
    got: list[bytes] = []
    while True:
        try:
            event = framer.next_event()
        except RemoteProtocolError as error:
            return got, str(error)
        if event is NEED_DATA or isinstance(event, EndOfData):
            return got, repr(event)
        assert isinstance(event, Frame)
        got.append(event.payload)


def fed(framing: Framing, pieces: list[bytes], *, eof: bool) -> tuple[list[bytes], str]:
    framer = make_framer(framing, max_message_bytes=64)
    for piece in pieces:
        framer.receive_data(piece)
    if eof:
        framer.receive_eof()
    return outcome(framer)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    points = sorted(draw(st.lists(st.integers(0, len(data)), max_size=10)))
    return [data[a:b] for a, b in zip([0, *points], [*points, len(data)], strict=True)]


@given(framings, payloads, st.data())
def test_round_trip_however_cut(framing: Framing, sent: list[bytes], data: st.DataObject) -> None:
    sender = make_framer(framing)
    if framing == "detect":
        sender = make_framer(data.draw(st.sampled_from(["newline", "content-length"])))
    wire = b"".join(sender.send(payload) for payload in sent)
    receiver = make_framer(framing)
    for piece in data.draw(cut(wire)):
        receiver.receive_data(piece)
    receiver.receive_eof()
    assert outcome(receiver) == (sent, "EndOfData()")


_pieces_of_frames = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"{}", b"Content-Length", b": ", b"2", b"70", b"\r\n\r\n", b"\0\0\0\2",
         b"\xef\xbb\xbf", b" ", b"x" * 30, b"\0", b"Content-Type: a; charset=latin1"]
    )
    | st.binary(max_size=6),
    max_size=14,
).map(b"".join)  # fmt: skip


@given(framings, _pieces_of_frames, st.booleans(), st.data())
def test_garbage_has_one_outcome_however_cut(
    framing: Framing, wire: bytes, eof: bool, data: st.DataObject
) -> None:
    whole = fed(framing, [wire], eof=eof)
    assert fed(framing, data.draw(cut(wire)), eof=eof)[0] == whole[0]
    bytewise = fed(framing, [wire[i : i + 1] for i in range(len(wire))], eof=eof)
    assert bytewise[0] == whole[0]
    assert bytewise[1].startswith("NEED") == whole[1].startswith("NEED")
    assert all(len(payload) <= 64 for payload in whole[0])


@given(framings, payloads, st.integers(0, 8), st.data())
def test_unread_bytes_continue_where_reading_stopped(
    framing: Framing, sent: list[bytes], taken: int, data: st.DataObject
) -> None:
    sender = make_framer("newline" if framing == "detect" else framing)
    wire = b"".join(sender.send(payload) for payload in sent)
    received = wire[: data.draw(st.integers(0, len(wire)))]
    first = make_framer(framing)
    first.receive_data(received)
    got = first.next_payloads(taken)
    unread, eof = first.trailing_data
    assert not eof
    second = make_framer(framing)
    second.receive_data(unread + wire[len(received) :])
    second.receive_eof()
    assert got + outcome(second)[0] == sent
