"""What a hostile or broken peer may send: sizes, framing, messages, in any pieces."""

from __future__ import annotations

import msgspec
import pytest
import trio
from faulty_wire import FRAMES, LINE, PAYLOAD, PING, PING_AS_DATA, Wire, has_failed

from trio_mcp_transport import (
    ChannelOptions,
    ChannelState,
    MessageTooLarge,
    Notification,
    OutboxOverflow,
    PeerProtocolError,
    Request,
    encode_message,
)
from trio_mcp_transport.limits import MAX_HEADER_BYTES, Framing
from trio_mcp_transport.testing import stall_after

pytestmark = [pytest.mark.hardening, pytest.mark.channel]


@pytest.fixture(params=[False, True], ids=["plain", "closable"])
def closable(request: pytest.FixtureRequest) -> bool:
    """Tests run over a stream with no more than Trio's interface, and one with `close`."""
    return bool(request.param)


# -- sizes ------------------------------------------------------------------------------


async def test_a_message_over_the_limit_is_not_sent_and_the_channel_goes_on(
    nursery: trio.Nursery,
) -> None:
    wire = Wire(nursery, ChannelOptions(max_message_bytes=200))
    with pytest.raises(MessageTooLarge) as caught:
        await wire.channel.send(Request(1, "x" * 500))
    assert caught.value.limit == 200
    await wire.channel.send(PING)
    assert await wire.answers(1) == [PING_AS_DATA]


@pytest.mark.parametrize("framing", FRAMES)
async def test_a_received_message_over_the_limit_ends_the_channel(
    nursery: trio.Nursery, framing: Framing
) -> None:
    wire = Wire(nursery, ChannelOptions(max_message_bytes=100, framing=framing))
    large = encode_message(Request(2, "x" * 200))
    frames: dict[str, bytes] = {
        "newline": large + b"\n",
        "content-length": b"Content-Length: %d\r\n\r\n%b" % (len(large), large),
        "length-prefix": len(large).to_bytes(4, "big") + large,
    }
    await wire.to_channel.send_all(FRAMES[framing] + frames[framing])
    assert await wire.channel.receive() == PING
    with pytest.raises(PeerProtocolError, match="over the limit of 100 bytes"):
        await wire.channel.receive()


async def test_a_line_without_end_is_refused_once_it_is_too_long(nursery: trio.Nursery) -> None:
    wire = Wire(nursery, ChannelOptions(max_message_bytes=1000))
    await wire.to_channel.send_all(b'{"' + b"x" * 1000)
    with pytest.raises(PeerProtocolError, match="over the limit"):
        await wire.channel.receive()


async def test_an_announced_length_is_refused_before_anything_of_it_comes(
    nursery: trio.Nursery,
) -> None:
    wire = Wire(nursery, ChannelOptions(framing="content-length"))
    await wire.to_channel.send_all(b"Content-Length: 9999999999\r\n\r\n")
    with pytest.raises(PeerProtocolError, match="9999999999 bytes"):
        await wire.channel.receive()


# -- broken framing ---------------------------------------------------------------------

BROKEN_FRAMING: list[tuple[Framing, bytes, str]] = [
    ("content-length", b"Content-Length: 5\r\n\r\n" + PAYLOAD + b"\r\n\r\n", "no header field"),
    ("content-length", b"Content-Length: 500\r\n\r\n" + PAYLOAD, "inside a message"),
    ("content-length", b"Content-Type: application/json\r\n\r\n{}", "no Content-Length"),
    ("content-length", b"Content-Length: ten\r\n\r\n{}", "no valid number"),
    ("content-length", b"Content-Length: -1\r\n\r\n{}", "no valid number"),
    ("content-length", b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "conflicting"),
    ("content-length", b"Content-Len", "inside a header"),
    ("content-length", b"Content-Length: 2\r\n", "inside a header"),
    ("content-length", b"X: " + b"x" * MAX_HEADER_BYTES, "over the limit"),
    ("content-length", b"GET / HTTP/1.1\r\n\r\n", "no header field"),
    ("newline", b'{"jsonrpc":"2.0","id":2,"met', "inside a message"),
    ("newline", b"\xff\xfe", "inside a message"),
    ("length-prefix", b"\0\0", "inside a length prefix"),
    ("length-prefix", b"\0\0\0\5{}", "2 of 5 bytes came"),
    ("length-prefix", b"\xff\xff\xff\xff{}", "over the limit"),
]


@pytest.mark.parametrize("read_size", [None, 1], ids=["whole", "trickled"])
@pytest.mark.parametrize(
    ("framing", "data", "complaint"), BROKEN_FRAMING, ids=[repr(x[1][:20]) for x in BROKEN_FRAMING]
)
async def test_broken_framing_ends_the_channel_after_what_came_before(
    nursery: trio.Nursery,
    closable: bool,
    framing: Framing,
    data: bytes,
    complaint: str,
    read_size: int | None,
) -> None:
    wire = Wire(nursery, ChannelOptions(framing=framing), closable=closable, read_size=read_size)
    await wire.to_channel.send_all(FRAMES[framing] * 2 + data)
    await wire.to_channel.aclose()
    for _ in range(2):
        assert await wire.channel.receive() == PING
    with pytest.raises(PeerProtocolError, match=complaint) as caught:
        await wire.channel.receive()
    assert caught.value.error is not None
    await has_failed(wire.channel, PeerProtocolError)
    await wire.written_to_the_end()  # it comes: the stream was closed


async def test_receive_many_delivers_all_before_a_fault(nursery: trio.Nursery) -> None:
    wire = Wire(nursery, ChannelOptions(max_message_bytes=100))
    await wire.to_channel.send_all(LINE * 3 + b"x" * 101)
    assert await wire.channel.receive_many() == [PING] * 3
    assert wire.channel.failure is None
    with pytest.raises(PeerProtocolError):
        await wire.channel.receive_many()
    await has_failed(wire.channel, PeerProtocolError)


@pytest.mark.parametrize("framing", FRAMES)
async def test_a_trickle_of_single_bytes_is_read_like_anything_else(
    nursery: trio.Nursery, framing: Framing
) -> None:
    wire = Wire(nursery, ChannelOptions(framing=framing), read_size=1)
    await wire.to_channel.send_all(FRAMES[framing] * 3)
    await wire.to_channel.aclose()
    assert [message async for message in wire.channel] == [PING] * 3
    assert wire.channel.state is ChannelState.CONNECTED


async def test_a_last_line_without_line_feed_is_delivered(nursery: trio.Nursery) -> None:
    wire = Wire(nursery)
    await wire.to_channel.send_all(LINE + PAYLOAD)
    await wire.to_channel.aclose()
    assert [message async for message in wire.channel] == [PING, PING]
    await wire.channel.send(PING)  # the end of what comes is not the end of what goes
    assert await wire.answers(1) == [PING_AS_DATA]


# -- malformed messages -----------------------------------------------------------------

DEEP = b"[" * 100_000 + b"]" * 100_000
HUGE_NUMBER = b"9" * 5000
MALFORMED: list[tuple[bytes, int, object]] = [
    (b"garbage", -32700, None),
    (b"\xff\xfe\xfd", -32700, None),
    (b'{"jsonrpc":"2.0","id":7,"method":"\xff"}', -32700, None),
    (b'{"jsonrpc":"2.0","id":7,"method":"x"', -32700, None),
    (b'{"jsonrpc":"2.0","id":7,"method":"x"}}', -32700, None),
    (b"{}", -32600, None),
    (b"17", -32600, None),
    (b"[]", -32600, None),
    (b"[" + PAYLOAD + b"]", -32600, None),
    (b'{"jsonrpc":"1.0","id":7,"method":"x"}', -32600, 7),
    (b'{"id":"seven","method":"x"}', -32600, "seven"),
    (b'{"jsonrpc":"2.0","id":null,"method":"x"}', -32600, None),
    (b'{"jsonrpc":"2.0","id":7,"method":5}', -32600, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"x","params":3}', -32600, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"x","result":3}', -32600, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"x","method":"y"}', -32600, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":"x","params":' + DEEP + b"}", -32600, None),
    (b'{"jsonrpc":"2.0","id":7,"method":"x","params":' + b"[" * 200 + b"]" * 200 + b"}", -32600, 7),
    (b'{"jsonrpc":"2.0","id":' + HUGE_NUMBER + b',"method":"x"}', -32600, None),
    (b'{"jsonrpc":"2.0","id":1.5,"method":"x"}', -32600, None),
]


@pytest.mark.parametrize(
    ("line", "code", "request_id"), MALFORMED, ids=[repr(x[0][:48]) for x in MALFORMED]
)
async def test_a_malformed_message_is_answered_and_the_conversation_goes_on(
    nursery: trio.Nursery, line: bytes, code: int, request_id: object
) -> None:
    wire = Wire(nursery)
    await wire.to_channel.send_all(LINE + line + b"\n" + LINE)
    assert await wire.channel.receive() == PING
    assert await wire.channel.receive() == PING
    (answer,) = await wire.answers(1)
    error = msgspec.convert(answer["error"], dict[str, object])
    assert (answer["id"], error["code"]) == (request_id, code)
    assert wire.channel.statistics().malformed_received == 1
    assert [event.name for event in wire.events] == ["message.malformed"]
    assert wire.events[0].context is wire.channel.context
    assert wire.channel.state is ChannelState.CONNECTED


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","result":1}',
        b'{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"error":"x"}',
        b'{"jsonrpc":"2.0","method":"x","params":3}',
    ],
)
async def test_a_malformed_answer_or_notification_is_counted_but_not_answered(
    nursery: trio.Nursery, line: bytes
) -> None:
    wire = Wire(nursery)
    await wire.to_channel.send_all(line + b"\n" + LINE)
    assert await wire.channel.receive() == PING
    assert wire.channel.statistics().malformed_received == 1
    assert wire.channel.statistics().messages_sent == 0


async def test_a_number_of_thousands_of_digits_in_params_is_passed_on(
    nursery: trio.Nursery,
) -> None:
    wire = Wire(nursery)
    params = b'{"n":' + HUGE_NUMBER + b"}"
    await wire.to_channel.send_all(b'{"jsonrpc":"2.0","method":"x","params":' + params + b"}\n")
    message = await wire.channel.receive()
    assert message == Notification("x", msgspec.Raw(params))


async def test_blank_lines_are_no_messages(nursery: trio.Nursery) -> None:
    wire = Wire(nursery)
    await wire.to_channel.send_all(b"\n \r\n\t\n" + LINE.replace(b"\n", b"\r\n") + b"\n")
    await wire.to_channel.aclose()
    assert [message async for message in wire.channel] == [PING]
    assert wire.channel.statistics().malformed_received == 0


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
async def test_a_message_behind_many_malformed_ones_needs_no_further_read(
    nursery: trio.Nursery, count: int
) -> None:
    wire = Wire(nursery)
    await wire.to_channel.send_all(b"x\n" * count + LINE)
    assert await wire.channel.receive() == PING
    assert wire.channel.statistics().malformed_received == count


async def test_answers_to_a_flood_of_garbage_are_bounded(
    nursery: trio.Nursery, closable: bool
) -> None:
    wire = Wire(nursery, closable=closable, writing=stall_after(0))
    await wire.to_channel.send_all(b"garbage\n" * 20_000)
    with pytest.raises(OutboxOverflow, match="control lane is full"):
        await wire.channel.receive()
    await has_failed(wire.channel, OutboxOverflow)


async def test_an_answer_that_is_itself_over_the_limit_is_left_out(nursery: trio.Nursery) -> None:
    wire = Wire(nursery, ChannelOptions(max_message_bytes=len(PAYLOAD)))
    await wire.to_channel.send_all(b"x\n" + LINE)
    assert await wire.channel.receive() == PING
    assert wire.channel.statistics().messages_sent == 0
