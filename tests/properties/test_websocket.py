"""WebSocket: no cut, no order and no garbage makes a difference that it should not."""

from __future__ import annotations

import itertools
import zlib
from typing import TypeAlias

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from websocket_wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Role, other, to
from websocket_wire import machine as make_machine
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from trio_mcp_transport.errors import LocalProtocolError, RemoteProtocolError
from trio_mcp_transport.sansio.machine import EndOfData, Side
from trio_mcp_transport.sansio.websocket import (
    BinaryMessage,
    Close,
    CloseReceived,
    DeflateSettings,
    Ping,
    Pong,
    TextMessage,
    WebSocketItem,
    WebSocketLimits,
    WebSocketMachine,
)
from trio_mcp_transport.sansio.websocket_frames import is_utf8
from trio_mcp_transport.testing import drain, feed

pytestmark = pytest.mark.properties

roles = st.sampled_from(["client", "server"])
texts = st.text(max_size=40).map(str.encode)
blobs = st.binary(max_size=40) | st.integers(120, 300).map(lambda size: b"x" * size)
control = st.binary(max_size=125)
codes = st.sampled_from([1000, 1001, 1011, 3000, 4999])
items: st.SearchStrategy[WebSocketItem] = st.one_of(
    texts.map(TextMessage),
    blobs.map(lambda data: TextMessage(bytes(byte & 0x7F for byte in data))),
    blobs.map(BinaryMessage),
    control.map(Ping),
    control.map(Pong),
)
payloads = st.one_of(texts, blobs, codes.map(lambda code: code.to_bytes(2, "big")))
#: A frame of any kind, legal only where it happens to be.
frames = st.builds(
    Frame,
    st.sampled_from([CONTINUATION, TEXT, BINARY, PING, PONG, CLOSE, 3]),
    payloads,
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 4, 1]),
    length_bytes=st.sampled_from([None, None, None, 8]),
    claim=st.none(),
)


@st.composite
def messages(draw: st.DrawFn) -> list[Frame]:
    """The frames of a message, pings among them; now and then any frame."""
    if draw(st.integers(0, 9)) == 0:
        return [draw(frames)]
    kind = draw(st.sampled_from([TEXT, BINARY]))
    parts = draw(st.lists(texts if kind == TEXT else blobs, min_size=1, max_size=4))
    found = []
    for number, part in enumerate(parts):
        opcode = CONTINUATION if number else kind
        found.append(Frame(opcode, part, fin=number == len(parts) - 1))
        if draw(st.booleans()):
            found.append(Frame(draw(st.sampled_from([PING, PONG])), draw(control)))
    return found


streams = st.lists(messages(), max_size=5).map(lambda lists: [*itertools.chain(*lists)])
LIMITS = WebSocketLimits(max_message_bytes=500, max_frame_bytes=400, max_fragments=5)
DEFLATE = DeflateSettings(min_bytes=1)
Outcome: TypeAlias = msgspec.Struct | tuple[str, int]


def outcomes(machine: WebSocketMachine, data: bytes, *, eof: bool = False) -> list[Outcome]:
    found: list[Outcome] = []
    for one in feed(machine, data, eof=eof):
        if isinstance(one, RemoteProtocolError):
            found.append((str(one), one.close_code))
        else:
            found.append(one)
    return found


def in_pieces(machine: WebSocketMachine, wire: bytes, cuts: list[int]) -> list[Outcome]:
    """What comes out when the bytes are cut at these places, and then end."""
    found: list[Outcome] = []
    points = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(points):
        found += outcomes(machine, wire[start:end])
        if found and isinstance(found[-1], tuple):
            return found
    return found + outcomes(machine, b"", eof=True)


@settings(deadline=None)
@given(roles, streams, st.booleans(), st.binary(max_size=6), st.data())
def test_cutting_the_stream_changes_nothing(
    role: Role, sent: list[Frame], deflates: bool, garbage: bytes, data: st.DataObject
) -> None:
    wire = to(role, *sent) + garbage
    if wire and data.draw(st.integers(0, 3), "whether a bit flips") == 0:
        place = data.draw(st.integers(0, len(wire) - 1))
        flipped = wire[place] ^ 1 << data.draw(st.integers(0, 7))
        wire = wire[:place] + bytes([flipped]) + wire[place + 1 :]
    cuts = data.draw(st.lists(st.integers(0, 2**16), max_size=10))
    deflate = DEFLATE if deflates else None
    whole = in_pieces(make_machine(role, limits=LIMITS, deflate=deflate), wire, [])
    pieces = in_pieces(make_machine(role, limits=LIMITS, deflate=deflate), wire, cuts)
    single = in_pieces(
        make_machine(role, limits=LIMITS, deflate=deflate), wire, [*range(len(wire))]
    )
    assert whole == pieces == single
    last = whole[-1]
    event(f"ends with {last[1]}" if isinstance(last, tuple) else "ends cleanly")


@settings(deadline=None)
@given(
    roles,
    st.lists(st.builds(bytes.__mul__, st.binary(max_size=10), st.integers(1, 80)), max_size=4),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=2),
    st.lists(st.integers(0, 2**16), max_size=10),
)
def test_cutting_compressed_data_changes_nothing(
    role: Role, sent: list[bytes], changes: list[tuple[int, int]], cuts: list[int]
) -> None:
    """Also where it inflates to too much, or is not what zlib made of it any more."""
    compressor = zlib.compressobj(wbits=-DEFLATE.peer_max_window_bits)
    wire = b""
    for data in sent:
        payload = bytearray(compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        for place, value in changes:
            payload[place % len(payload)] = value
        middle = len(payload) // 2
        wire += to(role, Frame(BINARY, bytes(payload[:middle]), fin=False, rsv=4))
        wire += to(role, Frame(CONTINUATION, bytes(payload[middle:])))
    whole = in_pieces(make_machine(role, limits=LIMITS, deflate=DEFLATE), wire, [])
    pieces = in_pieces(make_machine(role, limits=LIMITS, deflate=DEFLATE), wire, cuts)
    single = in_pieces(
        make_machine(role, limits=LIMITS, deflate=DEFLATE), wire, [*range(len(wire))]
    )
    assert whole == pieces == single
    last = whole[-1]
    event(f"ends with {last[1]}" if isinstance(last, tuple) else "ends cleanly")


@settings(deadline=None)
@given(roles, st.lists(items, max_size=8), st.booleans(), st.integers(125, 300), st.data())
def test_what_is_sent_arrives(
    role: Role, sent: list[WebSocketItem], deflates: bool, frame_bytes: int, data: st.DataObject
) -> None:
    limits = WebSocketLimits(max_frame_bytes=frame_bytes)
    deflate = DEFLATE if deflates else None
    sender = make_machine(role, limits=limits, deflate=deflate)
    receiver = make_machine(other(role), limits=limits, deflate=deflate)
    wire = b"".join(map(sender.send, sent)) + sender.send(Close(1001, "bye"))
    cuts = data.draw(st.lists(st.integers(0, 2**16), max_size=10))
    assert in_pieces(receiver, wire, cuts) == [*sent, CloseReceived(1001, "bye"), EndOfData()]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            items,
            st.builds(Close, codes, st.text(max_size=3)),
            frames,
            st.sampled_from(["send_failed", "eof", "drain"]),
        ),
        max_size=20,
    ),
    roles,
)
def test_no_order_of_calls_breaks_the_rules(
    calls: list[WebSocketItem | Frame | str], role: Role
) -> None:
    """Only documented errors; DONE and ERROR are final; one Close, and after it only pongs."""
    machine = make_machine(role, limits=LIMITS)
    written: list[bytes] = []
    ended = False
    for call in calls:
        before = machine.receiving, machine.sending
        if isinstance(call, str):
            if call == "send_failed":
                machine.send_failed()
                assert machine.sending is Side.ERROR
            elif call == "eof":
                machine.receive_eof()
                ended = True
        elif isinstance(call, Frame):
            try:
                machine.receive_data(to(role, call))
            except LocalProtocolError:
                assert ended
        else:
            try:
                written.append(machine.send(call))
            except LocalProtocolError:
                assert before[1] is not Side.OPEN
            else:
                assert before[1] is Side.OPEN
        last = drain(machine)[-1:]
        assert (machine.receiving is Side.ERROR) == (
            bool(last) and isinstance(last[0], RemoteProtocolError)
        )
        words = machine.bytes_to_send()
        if machine.sending is Side.ERROR:
            assert words == b""
        if words:
            written.append(words)
        for was, now in zip(before, (machine.receiving, machine.sending), strict=True):
            assert was is Side.OPEN or now in {was, Side.ERROR}
    heard = feed(make_machine(other(role)), b"".join(written))
    assert not any(isinstance(one, RemoteProtocolError) for one in heard)
    opcodes = [frame[0] & 0x0F for frame in written]
    if CLOSE in opcodes:
        assert set(opcodes[opcodes.index(CLOSE) + 1 :]) <= {PONG}
        assert machine.sending is not Side.OPEN


# -- other people's machines --------------------------------------------------------


def by_wsproto(role: Role, wire: bytes) -> list[object]:
    """Whole messages and control frames as wsproto reads them; None for a refusal."""
    protocol = FrameProtocol(role == "client", [])
    protocol.receive_bytes(wire)
    found: list[object] = []
    message = b""
    try:
        for frame in protocol.received_frames():
            payload = frame.payload
            if frame.opcode.iscontrol():
                found.append((frame.opcode.value, payload))
                continue
            assert not isinstance(payload, tuple)
            message += payload.encode() if isinstance(payload, str) else payload
            if frame.message_finished:
                found.append((frame.opcode.value, message))
                message = b""
    except ParseFailed:
        found.append(None)
    return found


def by_us(role: Role, wire: bytes) -> list[object]:
    found: list[object] = []
    for one in feed(make_machine(role), wire):
        match one:
            case TextMessage(data):
                found.append((TEXT, data))
            case BinaryMessage(data):
                found.append((BINARY, data))
            case Ping(payload):
                found.append((PING, payload))
            case Pong(payload):
                found.append((PONG, payload))
            case CloseReceived(code, reason):
                found.append((CLOSE, (code, reason)))
            case _:
                found.append(None)
    return found


@settings(deadline=None)
@given(roles, streams)
def test_wsproto_reads_the_same_and_refuses_the_same(role: Role, sent: list[Frame]) -> None:
    # wsproto looks at UTF-8 whenever a part of a text comes, this machine when all has come:
    # so parts end between two characters.
    sent = [
        frame if frame.fin or is_utf8(frame.payload) else frame._replace(payload=b"x")
        for frame in sent
    ]
    wire = to(role, *sent)
    theirs = by_wsproto(role, wire)
    assert by_us(role, wire) == theirs
    event("refused" if None in theirs else "accepted")


@settings(deadline=None)
@given(
    roles,
    st.lists(items, max_size=8),
    st.lists(items, max_size=8),
    st.booleans(),
    st.integers(9, 15),
    st.booleans(),
)
def test_websockets_understands_us_and_we_it(
    role: Role,
    ours: list[WebSocketItem],
    theirs: list[WebSocketItem],
    deflates: bool,
    bits: int,
    forgets: bool,
) -> None:
    protocols = pytest.importorskip("websockets.protocol")
    extensions = pytest.importorskip("websockets.extensions.permessage_deflate")
    side = protocols.Side.SERVER if role == "client" else protocols.Side.CLIENT
    peer = protocols.Protocol(side, state=protocols.State.OPEN)
    deflate = None
    if deflates:
        deflate = DeflateSettings(
            max_window_bits=bits,
            peer_max_window_bits=24 - bits,
            peer_no_context_takeover=forgets,
            min_bytes=1,
        )
        # Ours never keeps a context, which it announces.
        peer.extensions = [extensions.PerMessageDeflate(True, forgets, bits, 24 - bits)]
    machine = make_machine(role, deflate=deflate)
    peer.receive_data(b"".join(map(machine.send, ours)))
    kinds = {"TEXT": TextMessage, "BINARY": BinaryMessage, "PING": Ping, "PONG": Pong}
    heard = [kinds[frame.opcode.name](bytes(frame.data)) for frame in peer.events_received()]
    assert heard == ours
    feed(machine, b"".join(peer.data_to_send()))  # its pongs
    for item in theirs:
        match item:
            case TextMessage(data):
                peer.send_text(data)
            case BinaryMessage(data):
                peer.send_binary(data)
            case Ping(payload):
                peer.send_ping(payload)
            case Pong(payload):
                peer.send_pong(payload)
    assert feed(machine, b"".join(peer.data_to_send())) == theirs
    peer.receive_data(machine.send(Close(1001, "bye")))
    assert peer.close_rcvd.code == 1001
    assert peer.close_rcvd.reason == "bye"
    assert feed(machine, b"".join(peer.data_to_send())) == [CloseReceived(1001, "bye")]
