"""WebSocket: the quick ways to read, write and mask give what the slow ones give."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeAlias

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from websocket_wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Role, machine, to

from trio_mcp_transport.errors import LocalProtocolError, RemoteProtocolError
from trio_mcp_transport.sansio import websocket_frames
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData
from trio_mcp_transport.sansio.websocket import (
    DeflateSettings,
    TextMessage,
    WebSocketLimits,
    WebSocketMachine,
)
from trio_mcp_transport.sansio.websocket_masking import Mask, mask, mask_in_python

pytestmark = pytest.mark.properties

LIMITS = WebSocketLimits(max_message_bytes=70_000, max_frame_bytes=66_000, max_fragments=5)
DEFLATE = DeflateSettings(min_bytes=1)
Outcome: TypeAlias = msgspec.Struct | tuple[str, int]

roles = st.sampled_from(["client", "server"])
#: Lengths on both sides of each way to write one, and of each limit.
sizes = st.sampled_from([0, 1, 125, 126, 127, 300, 1024, 1025, 65535, 65536, 66_000, 66_001])
payloads = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.binary(max_size=20),
    sizes.map(lambda size: b"{" * size),
)
plain = payloads.map(lambda payload: Frame(TEXT, payload))
frames = st.builds(
    Frame,
    st.sampled_from([TEXT, TEXT, CONTINUATION, BINARY, PING, PONG, CLOSE, 3]),
    payloads,
    fin=st.sampled_from([True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 4, 1]),
    length_bytes=st.sampled_from([None, None, None, 2, 8]),
    claim=st.one_of(st.none(), st.none(), st.none(), st.sampled_from([5, 2**63])),
).filter(lambda frame: frame.length_bytes != 2 or (frame.claim or len(frame.payload)) <= 0xFFFF)
streams = st.lists(plain | plain | frames, max_size=6)


@contextmanager
def masking(function: Mask) -> Generator[None, None, None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(websocket_frames, "mask", function)
        yield


def read(reader: WebSocketMachine, pieces: list[bytes], max_bytes: int | None) -> list[Outcome]:
    """What comes out of all pieces, then the end; texts as many as can be had at a time."""
    found: list[Outcome] = []
    for piece in [*pieces, None]:
        if piece is None:
            reader.receive_eof()
        else:
            reader.receive_data(piece)
        while True:
            if max_bytes is not None:
                texts = reader.next_texts(max_bytes)
                assert sum(map(len, texts[:-1])) < max_bytes
                found += map(TextMessage, texts)
            nothing_is_here = reader.needs_data
            try:
                one = reader.next_event()
            except RemoteProtocolError as error:
                assert not nothing_is_here
                assert not reader.next_texts(1)
                return [*found, (str(error), error.close_code)]
            if one is NEED_DATA:
                break
            assert not nothing_is_here
            found.append(one)
            if isinstance(one, EndOfData):
                return found
    raise AssertionError("the end is an event, too")


@settings(deadline=None)
@given(roles, streams, st.booleans(), st.integers(1, 400), st.data())
def test_texts_by_the_lot_are_the_texts_one_by_one(
    role: Role, sent: list[Frame], deflates: bool, max_bytes: int, data: st.DataObject
) -> None:
    wire = to(role, *sent)
    if wire and data.draw(st.integers(0, 3), "whether a bit flips") == 0:
        place = data.draw(st.integers(0, len(wire) - 1))
        flipped = wire[place] ^ 1 << data.draw(st.integers(0, 7))
        wire = wire[:place] + bytes([flipped]) + wire[place + 1 :]
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    pieces = [wire[a:b] for a, b in itertools.pairwise(sorted({0, len(wire), *cuts}))]
    deflate = DEFLATE if deflates else None

    def outcomes(max_bytes: int | None) -> list[Outcome]:
        return read(machine(role, limits=LIMITS, deflate=deflate), pieces, max_bytes)

    with masking(mask_in_python):
        expected = outcomes(None)
        assert outcomes(max_bytes) == expected
    with masking(mask):
        assert outcomes(None) == expected
        assert outcomes(max_bytes) == expected
    last = expected[-1]
    event(f"ends with {last[1]}" if isinstance(last, tuple) else "ends cleanly")


@settings(deadline=None)
@given(roles, st.lists(payloads, max_size=6), st.booleans(), st.integers(125, 70_000))
def test_texts_are_written_by_the_lot_as_one_by_one(
    role: Role, sent: list[bytes], deflates: bool, frame_bytes: int
) -> None:
    limits = WebSocketLimits(max_frame_bytes=frame_bytes)
    writer = machine(role, limits=limits, deflate=DEFLATE if deflates else None)
    with masking(mask_in_python):
        try:
            expected = b"".join([writer.send(TextMessage(text)) for text in sent])
        except LocalProtocolError:
            with pytest.raises(LocalProtocolError, match="must be UTF-8"):
                writer.send_texts(sent)
            return
        assert writer.send_texts(sent) == expected
    with masking(mask):
        assert writer.send_texts(sent) == expected
