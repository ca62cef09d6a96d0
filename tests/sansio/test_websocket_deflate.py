"""permessage-deflate: what is negotiated, and compressed messages, hostile ones too."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from websocket_wire import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Frame,
    Role,
    close_frame,
    machine,
    other,
    to,
)

from trio_mcp_transport.errors import ConfigurationError, RemoteProtocolError
from trio_mcp_transport.sansio.websocket import (
    BinaryMessage,
    CloseReceived,
    DeflateSettings,
    Ping,
    TextMessage,
    WebSocketItem,
    WebSocketLimits,
    WebSocketMachine,
)
from trio_mcp_transport.sansio.websocket_deflate import accept_offer, offer, read_accepted
from trio_mcp_transport.testing import JoinedMachines, check_every_cut, feed

pytestmark = pytest.mark.sansio

BOTH = pytest.mark.parametrize("role", ["client", "server"])
SETTINGS = DeflateSettings(min_bytes=1)
JSON = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","x":[1,1,1,1]}}'
COMPRESSED = 4


def compress(*messages: bytes, bits: int = 12) -> list[bytes]:
    """Messages that were compressed one after another by one compressor."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return [(compressor.compress(m) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for m in messages]


def final_block(data: bytes) -> bytes:
    """A message whose block has the final bit, as in RFC 7692, section 7.2.3.4."""
    return zlib.compress(data, wbits=-12) + b"\x00"


def compressed(payload: bytes, *, fin: bool = True, opcode: int = TEXT) -> Frame:
    return Frame(opcode, payload, fin=fin, rsv=COMPRESSED)


def inflating(
    role: Role, limits: WebSocketLimits | None = None, settings: DeflateSettings = SETTINGS
) -> WebSocketMachine:
    return machine(role, limits=limits, deflate=settings)


# -- compressed messages ------------------------------------------------------------


@BOTH
def test_long_messages_are_compressed_and_short_ones_are_not(role: Role) -> None:
    sender = inflating(role, settings=DeflateSettings(min_bytes=20))
    assert sender.send(TextMessage(b"x" * 19)) == to(other(role), Frame(TEXT, b"x" * 19))
    wire = sender.send(TextMessage(b"x" * 1000))
    assert len(wire) < 30
    assert wire[0] == 0xC0 | TEXT
    assert sender.send(Ping(b"x" * 20)) == to(other(role), Frame(PING, b"x" * 20))
    assert feed(inflating(other(role)), wire) == [TextMessage(b"x" * 1000)]


@BOTH
@pytest.mark.parametrize("cut", [None, 1])
def test_compressed_messages_come_out_as_they_were(role: Role, cut: int | None) -> None:
    sent: list[WebSocketItem] = [
        TextMessage(JSON),
        TextMessage("où ça ".encode() * 100),
        BinaryMessage(bytes(range(256)) * 20),
        TextMessage(JSON),
    ]
    pair = JoinedMachines(inflating(role), inflating(other(role)), cut=cut)
    assert pair.send(*sent) == sent


@BOTH
def test_what_is_sent_may_be_dropped_or_overtaken(role: Role) -> None:
    sender = inflating(role)
    wires = [sender.send(TextMessage(JSON + b"%d" % number)) for number in range(4)]
    events = feed(inflating(other(role)), wires[3] + wires[1])
    assert events == [TextMessage(JSON + b"3"), TextMessage(JSON + b"1")]


@BOTH
def test_a_peer_may_go_on_with_its_context(role: Role) -> None:
    first, second = compress(JSON, JSON)
    assert len(second) < len(first) / 2
    wire = to(role, compressed(first), compressed(second))
    assert check_every_cut(lambda: inflating(role), wire + to(role, close_frame(1000)))[:2] == [
        TextMessage(JSON),
        TextMessage(JSON),
    ]


@BOTH
def test_a_peer_that_agreed_to_forget_its_context_may_not_use_it(role: Role) -> None:
    settings = DeflateSettings(peer_no_context_takeover=True)
    first, second = compress(JSON, JSON)
    receiver = inflating(role, settings=settings)
    event, error = feed(receiver, to(role, compressed(first), compressed(second)))
    assert event == TextMessage(JSON)
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1007
    [again] = compress(JSON)
    assert (
        feed(inflating(role, settings=settings), to(role, *[compressed(again)] * 3))
        == [TextMessage(JSON)] * 3
    )


@BOTH
def test_a_compressed_message_may_come_in_fragments_and_between_plain_ones(role: Role) -> None:
    [payload] = compress(JSON)
    wire = to(
        role,
        Frame(TEXT, b"plain"),
        compressed(payload[:5], fin=False),
        Frame(PING, b"x"),
        Frame(CONTINUATION, b"", fin=False),
        Frame(CONTINUATION, payload[5:]),
        Frame(BINARY, b"plain"),
        close_frame(1000),
    )
    assert check_every_cut(lambda: inflating(role), wire)[:4] == [
        TextMessage(b"plain"),
        Ping(b"x"),
        TextMessage(JSON),
        BinaryMessage(b"plain"),
    ]


@BOTH
def test_a_compressed_message_that_is_cut_for_size_is_put_together(role: Role) -> None:
    limits = WebSocketLimits(max_frame_bytes=125)
    data = bytes((number * number) % 251 for number in range(400))
    wire = inflating(role, limits).send(BinaryMessage(data))
    assert wire[0] == 0x40 | BINARY  # compressed, more follows
    assert feed(inflating(other(role), limits), wire) == [BinaryMessage(data)]


@BOTH
def test_final_blocks_are_read_as_the_rfc_shows_them(role: Role) -> None:
    # RFC 7692, section 7.2.3: "Hello" as one message, with a final block, and in two blocks.
    examples = {
        "one block": b"\xf2\x48\xcd\xc9\xc9\x07\x00",
        "no compression": b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        "a final block": b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        "two blocks": b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    }
    for payload in examples.values():
        wire = to(role, compressed(payload), compressed(payload), close_frame(1000))
        events = check_every_cut(lambda: inflating(role), wire)
        assert events[:3] == [TextMessage(b"Hello")] * 2 + [CloseReceived(1000)]


@BOTH
def test_an_empty_message_may_be_compressed(role: Role) -> None:
    wire = to(role, compressed(b"\x00"), compressed(b"\x02\x00"), compressed(b""))
    assert feed(inflating(role), wire) == [TextMessage(b"")] * 3


@BOTH
def test_without_agreement_nothing_compressed_is_taken(role: Role) -> None:
    [payload] = compress(JSON)
    [error] = check_every_cut(lambda: machine(role), to(role, compressed(payload)))
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1002


@BOTH
def test_only_the_first_frame_says_that_a_message_is_compressed(role: Role) -> None:
    [payload] = compress(JSON)
    for frames in (
        [compressed(payload[:5], fin=False), compressed(payload[5:], opcode=CONTINUATION)],
        [Frame(TEXT, b"x", fin=False), compressed(payload, opcode=CONTINUATION)],
        [compressed(payload[:5], opcode=PING)],
    ):
        [error] = check_every_cut(lambda: inflating(role), to(role, *frames))
        assert isinstance(error, RemoteProtocolError)
        assert error.close_code == 1002


# -- hostile ones -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xff\xff",  # a reserved kind of block
        b"\x00\x05\x00\xfa\xfe",  # lengths that do not match
        compress(JSON, JSON)[1],  # refers to what never came
    ],
    ids=["block", "lengths", "context"],
)
def test_garbage_is_refused_however_it_is_cut(role: Role, payload: bytes) -> None:
    [error] = check_every_cut(
        lambda: inflating(role), to(role, compressed(payload), Frame(TEXT, b"x"))
    )
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1007
    assert "inflate" in str(error)


@BOTH
def test_compressed_text_must_be_utf8(role: Role) -> None:
    [payload] = compress(b"abc\xff")
    [error] = check_every_cut(lambda: inflating(role), to(role, compressed(payload)))
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1007
    assert feed(inflating(role), to(role, compressed(payload, opcode=BINARY))) == [
        BinaryMessage(b"abc\xff")
    ]


@BOTH
@pytest.mark.parametrize("size", [299, 300, 301, 400])
def test_the_limit_is_that_of_the_inflated_message_to_the_byte(role: Role, size: int) -> None:
    limits = WebSocketLimits(max_message_bytes=300)
    [payload] = compress(b"x" * size)
    wire = to(role, compressed(payload[:4], fin=False), Frame(CONTINUATION, payload[4:]))
    [event, *_] = check_every_cut(lambda: inflating(role, limits), wire + to(role, Frame(PING)))
    if size <= 300:
        assert event == TextMessage(b"x" * size)
    else:
        assert isinstance(event, RemoteProtocolError)
        assert event.close_code == 1009
        assert "300" in str(event)


@BOTH
def test_a_message_that_compression_made_longer_passes_at_the_limit(role: Role) -> None:
    limits = WebSocketLimits(max_message_bytes=1000, max_frame_bytes=2000)
    data = bytes((number * 7919) % 257 % 256 for number in range(1000))
    stored = zlib.compressobj(0, zlib.DEFLATED, -12)
    payload = (stored.compress(data) + stored.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(payload) > 1000
    wire = to(role, compressed(payload, opcode=BINARY))
    assert feed(inflating(role, limits), wire) == [BinaryMessage(data)]
    [error] = feed(inflating(role, limits), to(role, compressed(payload + b"\x00" * 100)))
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1009


@BOTH
@pytest.mark.parametrize("cut", [None, 16 * 1024])
def test_a_bomb_is_not_inflated_beyond_the_limit(role: Role, cut: int | None) -> None:
    limits = WebSocketLimits(max_message_bytes=1024 * 1024)
    [payload] = compress(b"\0" * 100_000_000, bits=15)
    assert len(payload) < 100_000
    wire = to(role, compressed(payload))
    receiver = inflating(role, limits, DeflateSettings(peer_max_window_bits=15))
    tracemalloc.start()
    try:
        [error] = feed(receiver, wire, cut=cut)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1009
    assert peak < 5 * limits.max_message_bytes


@BOTH
def test_final_blocks_cannot_be_piled_up(role: Role) -> None:
    event, error = check_every_cut(
        lambda: inflating(role),
        to(role, compressed(b"\x03\x00" * 8 + final_block(b"")[2:]), compressed(b"\x03\x00" * 9)),
    )
    assert event == TextMessage(b"")
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == 1008


# -- negotiation --------------------------------------------------------------------

NAME = "permessage-deflate"
WIDE = DeflateSettings(max_window_bits=15, peer_max_window_bits=15)


FORGETFUL = DeflateSettings(
    max_window_bits=15, peer_max_window_bits=15, peer_no_context_takeover=True
)


def said(*parameters: str) -> str:
    return "; ".join([NAME, *parameters])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (WIDE, f"{NAME}; client_no_context_takeover; client_max_window_bits"),
        (
            DeflateSettings(),
            said(
                "client_no_context_takeover",
                "server_max_window_bits=12",
                "client_max_window_bits=12",
            ),
        ),
        (
            DeflateSettings(
                max_window_bits=8, peer_max_window_bits=15, peer_no_context_takeover=True
            ),
            said(
                "client_no_context_takeover",
                "server_no_context_takeover",
                "client_max_window_bits=8",
            ),
        ),
    ],
)
def test_a_client_offers_what_it_wishes(settings: DeflateSettings, expected: str) -> None:
    assert offer(settings) == expected


@pytest.mark.parametrize(
    ("offers", "settings", "answer", "agreed"),
    [
        (NAME, WIDE, f"{NAME}; server_no_context_takeover", WIDE),
        # The client cannot be told to use less, the server may always do so.
        (
            NAME,
            DeflateSettings(),
            f"{NAME}; server_no_context_takeover; server_max_window_bits=12",
            DeflateSettings(peer_max_window_bits=15),
        ),
        (
            f"{NAME}; client_max_window_bits",
            DeflateSettings(),
            said(
                "server_no_context_takeover",
                "server_max_window_bits=12",
                "client_max_window_bits=12",
            ),
            DeflateSettings(),
        ),
        (
            f"{NAME}; client_max_window_bits",
            WIDE,
            f"{NAME}; server_no_context_takeover",
            WIDE,
        ),
        (
            f'{NAME.upper()} ; client_max_window_bits = "10" ;server_max_window_bits=9',
            DeflateSettings(),
            said(
                "server_no_context_takeover",
                "server_max_window_bits=9",
                "client_max_window_bits=10",
            ),
            DeflateSettings(max_window_bits=9, peer_max_window_bits=10),
        ),
        (
            f"{NAME}; server_max_window_bits=15; server_no_context_takeover",
            WIDE,
            f"{NAME}; server_no_context_takeover; server_max_window_bits=15",
            WIDE,
        ),
        (
            f"{NAME}; client_no_context_takeover",
            WIDE,
            f"{NAME}; server_no_context_takeover; client_no_context_takeover",
            FORGETFUL,
        ),
        (
            NAME,
            FORGETFUL,
            f"{NAME}; server_no_context_takeover; client_no_context_takeover",
            FORGETFUL,
        ),
        # The first that can be accepted.
        (
            f"x-webkit-deflate-frame, , {NAME}; unknown, {NAME}; server_max_window_bits=8",
            WIDE,
            f"{NAME}; server_no_context_takeover; server_max_window_bits=8",
            DeflateSettings(max_window_bits=8, peer_max_window_bits=15),
        ),
    ],
)
def test_a_server_accepts_the_first_offer_it_can(
    offers: str, settings: DeflateSettings, answer: str, agreed: DeflateSettings
) -> None:
    assert accept_offer(offers, settings) == (answer, agreed)


@pytest.mark.parametrize(
    "parameters",
    [
        "unknown",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=10; server_max_window_bits=10",
        "client_max_window_bits=100",
        "client_no_context_takeover=1",
        "server_no_context_takeover; server_no_context_takeover",
    ],
)
def test_parameters_that_are_not_valid_are_neither_accepted_nor_believed(parameters: str) -> None:
    value = f"{NAME}; {parameters}"
    assert accept_offer(value, WIDE) is None
    with pytest.raises(RemoteProtocolError, match="invalid parameters"):
        read_accepted(value, WIDE)


@pytest.mark.parametrize("value", [f"{NAME};", f"{NAME} a", ";", f"{NAME}; a=", '"a"', f"{NAME}=1"])
def test_a_malformed_value_is_refused(value: str) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        accept_offer(value, WIDE)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        read_accepted(value, WIDE)


@pytest.mark.parametrize(
    ("accepted", "settings", "agreed"),
    [
        (NAME, WIDE, WIDE),
        (
            f"{NAME}; server_max_window_bits=10; client_max_window_bits=11",
            WIDE,
            DeflateSettings(max_window_bits=11, peer_max_window_bits=10),
        ),
        (
            f"{NAME}; server_max_window_bits=12; client_max_window_bits=15",
            DeflateSettings(),
            DeflateSettings(),
        ),
        (
            f"{NAME}; client_no_context_takeover; server_no_context_takeover",
            WIDE,
            FORGETFUL,
        ),
    ],
)
def test_a_client_reads_what_is_agreed_on(
    accepted: str, settings: DeflateSettings, agreed: DeflateSettings
) -> None:
    assert read_accepted(accepted, settings) == agreed


@pytest.mark.parametrize(
    ("accepted", "settings", "words"),
    [
        ("x-other", WIDE, "not offered"),
        ("", WIDE, "not offered"),
        (f"{NAME}, {NAME}", WIDE, "not offered"),
        (NAME, DeflateSettings(), "window is larger"),
        (f"{NAME}; server_max_window_bits=13", DeflateSettings(), "window is larger"),
        (NAME, FORGETFUL, "does not agree"),
        (f"{NAME}; client_max_window_bits", WIDE, "invalid parameters"),
    ],
)
def test_a_client_refuses_what_it_did_not_offer(
    accepted: str, settings: DeflateSettings, words: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        read_accepted(accepted, settings)


@pytest.mark.parametrize("bits", range(8, 16))
def test_both_sides_understand_what_they_agreed_on(bits: int) -> None:
    wishes = DeflateSettings(max_window_bits=bits, peer_max_window_bits=23 - bits, min_bytes=1)
    accepted = accept_offer(offer(wishes), WIDE)
    assert accepted is not None
    value, of_server = accepted
    of_client = read_accepted(value, wishes)
    data = TextMessage(bytes(97 + number * number % 26 for number in range(40_000)))
    client, server = inflating("client", None, of_client), inflating("server", None, of_server)
    assert JoinedMachines(client, server).send(data, data) == [data, data]
    assert JoinedMachines(server, client).send(data, data) == [data, data]
    # zlib compresses with no window of 256 bytes; then nothing is compressed.
    is_compressed = client.send(data)[0] & 0x40 != 0
    assert is_compressed == (bits > 8)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_window_bits": 7},
        {"peer_max_window_bits": 16},
        {"level": 0},
        {"memory_level": 10},
        {"min_bytes": 0},
        {"level": True},
    ],
)
def test_settings_that_are_none_are_refused_by_name(fields: dict[str, int]) -> None:
    [name] = fields
    with pytest.raises(ConfigurationError, match=f"^{name} must be"):
        DeflateSettings(**fields)  # type: ignore[arg-type]  # none of them is the boolean
