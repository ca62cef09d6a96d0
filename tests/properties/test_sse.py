"""Server-sent events: what is written is read, whatever the cut; garbage harms nobody."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.machine import EndOfData
from trio_mcp_transport.sansio.sse import (
    SseComment,
    SseDecoder,
    SseEvent,
    encode_comment,
    encode_event,
    encode_message,
)
from trio_mcp_transport.testing import drain, feed

lines = st.characters(codec="utf-8", exclude_characters="\r\n\0")
fields = st.text(lines, max_size=10)
events = st.builds(
    SseEvent,
    st.none() | st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode),
    fields.filter(bool),
    st.none() | fields,
    st.none() | st.integers(0, 10**9),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    points = sorted(draw(st.lists(st.integers(0, len(data)), max_size=10)))
    return [data[a:b] for a, b in zip([0, *points], [*points, len(data)], strict=True)]


def fed(pieces: list[bytes], limit: int = 1000) -> list[object]:
    decoder = SseDecoder(limit)
    out: list[object] = []
    for piece in pieces:
        decoder.receive_data(piece)
        out += drain(decoder)
        if out and isinstance(out[-1], RemoteProtocolError):
            return [*out[:-1], str(out[-1])]
    decoder.receive_eof()
    return out + list[object](drain(decoder))


@given(st.lists(events | st.text(lines, max_size=10), max_size=6), st.data())
def test_what_is_written_is_read_however_it_is_cut(
    sent: list[SseEvent | str], data: st.DataObject
) -> None:
    wire = b""
    expected: list[object] = []
    last_id: str | None = None
    for item in sent:
        if isinstance(item, str):
            wire += encode_comment(item)
            expected.append(SseComment(b" " + item.encode() if item else b""))
            continue
        wire += encode_event(item.data, event=item.event, id=item.id, retry=item.retry)
        if item.data is None and item.id is None and item.retry is None:
            continue  # a type alone is no event
        last_id = last_id if item.id is None else item.id
        text = item.data
        if text is not None:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        expected.append(SseEvent(text, item.event, last_id, item.retry))
    assert fed(data.draw(cut(wire))) == [*expected, EndOfData()]


@given(value=values, indent=st.booleans())
def test_a_message_is_one_line_to_every_parser(*, value: object, indent: bool) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1 if indent else None)
    wire = encode_message(text.encode("utf-8", "surrogatepass"))
    event = feed(SseDecoder(), wire)[0]
    assert isinstance(event, SseEvent)
    assert json.loads((event.data or b"").decode("utf-8", "surrogatepass")) == value
    for end in (b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85", b"\r"):
        assert end not in wire
    assert wire.count(b"\n") == 2


@given(
    st.lists(
        st.sampled_from([
            b"data",
            b"id",
            b"retry",
            b"event",
            b":",
            b" ",
            b"\r",
            b"\n",
            b"\r\n",
            b"\xef\xbb\xbf",
            b"1",
            b"\0",
            b"x" * 30,
            b"\xff",
        ]),
        max_size=30,
    ).map(b"".join),
    st.data(),
)
def test_no_cut_of_anything_makes_a_difference(wire: bytes, data: st.DataObject) -> None:
    whole = fed([wire], 50)
    assert fed(data.draw(cut(wire)), 50) == whole
    assert fed([bytes([byte]) for byte in wire], 50) == whole
