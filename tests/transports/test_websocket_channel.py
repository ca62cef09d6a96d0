"""WebSocket channels: messages, pings and timeouts, against a peer that is played."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import pytest
import trio
from trio.testing import (
    MockClock,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)
from websocket_peer import (
    REQUEST,
    ROLES,
    WIRE,
    channel_and_peer,
    numbered,
    receive_ids,
    sockets,
)
from websocket_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Frame,
    Role,
)

from trio_mcp_transport import (
    ChannelEvent,
    ChannelOptions,
    ChannelState,
    HandshakeTimeout,
    IdleTimeout,
    InboxStalled,
    InvalidMessage,
    MessageTooLarge,
    Notification,
    PeerProtocolError,
    PongTimeout,
    RequestId,
    Response,
    WriteTimeout,
)
from trio_mcp_transport.sansio.websocket import (
    DeflateSettings,
    Ping,
    Pong,
)
from trio_mcp_transport.transports.inbox import Inbox, Sized
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel
from trio_mcp_transport.transports.websocket_reader import WebSocketTiming
from trio_mcp_transport.transports.websocket_settings import MaskKeys, WebSocketOptions

pytestmark = [pytest.mark.websocket, pytest.mark.channel]

PINGS = WebSocketTiming(ping_interval=30.0, pong_timeout=20.0)


async def end_of(channel: WebSocketChannel) -> Exception:
    """Receive until there is no more; return what said so."""
    while True:
        try:
            await channel.receive()
        except (trio.EndOfChannel, trio.BrokenResourceError) as error:
            return error


# -- messages ---------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
async def test_each_text_is_one_message_in_both_directions(role: Role) -> None:
    async with channel_and_peer(memory_stream_pair(), role) as (channel, peer):
        await channel.send(REQUEST)
        await channel.send_many([numbered(2), numbered(3)])
        assert await peer.text() == WIRE
        assert [json.loads(await peer.text())["id"] for _ in range(2)] == [2, 3]
        await peer.say(REQUEST, numbered(4))
        await peer.write(Frame(TEXT, b'\n{"jsonrpc": "2.0",\n "id": "a", "result": {}}\n'))
        assert await receive_ids(channel, 2) == [1, 4]
        answer = await channel.receive()
        assert isinstance(answer, Response)
        assert (answer.id, answer.result_as(dict)) == ("a", {})


@pytest.mark.parametrize("role", ROLES)
async def test_a_thousand_fragments_of_a_byte_make_one_message(role: Role) -> None:
    text = WIRE + b" " * (1000 - len(WIRE))
    pieces = [Frame(CONTINUATION if i else TEXT, text[i : i + 1], fin=False) for i in range(1000)]
    async with channel_and_peer(memory_stream_pair(), role) as (channel, peer):
        await peer.write(*pieces, Frame(PING, b"in between"), Frame(CONTINUATION))
        assert await channel.receive() == REQUEST
        assert await peer.event() == Pong(b"in between")


async def test_more_fragments_than_allowed_end_it() -> None:
    pieces = [Frame(TEXT, b"{", fin=False), *[Frame(CONTINUATION, b" ", fin=False)] * 10]
    few = WebSocketOptions(max_fragments=10)
    async with channel_and_peer(memory_stream_pair(), websocket=few) as (channel, peer):
        await peer.write(*pieces)
        with pytest.raises(PeerProtocolError, match="more than 10 fragments"):
            await channel.receive()
        assert (await peer.closed())[0] == 1008


async def test_large_messages_leave_in_frames_of_the_limit() -> None:
    few = WebSocketOptions(max_frame_bytes=1000)
    async with (
        channel_and_peer(memory_stream_pair(), websocket=few) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(channel.send, numbered(1, 10_000))
        assert len(await peer.text()) > 10_000
        await channel.flush()
        assert channel.statistics().bytes_sent >= 10_000 + 11 * 4


async def test_a_message_over_the_limit_is_refused_from_its_header_on() -> None:
    options = ChannelOptions(max_message_bytes=1000)
    async with channel_and_peer(memory_stream_pair(), options=options) as (channel, peer):
        with pytest.raises(MessageTooLarge):
            await channel.send(numbered(1, 1000))
        await peer.write(Frame(TEXT, WIRE), Frame(TEXT, claim=2**40, length_bytes=8))
        assert await channel.receive() == REQUEST
        with pytest.raises(PeerProtocolError, match="more than") as failed:
            await channel.receive()
        assert failed.value.error is not None
        assert failed.value.error.close_code == 1009
        assert (await peer.closed())[0] == 1009


async def test_compressed_messages_pass_both_ways() -> None:
    async with channel_and_peer(memory_stream_pair(), deflate=DeflateSettings()) as (channel, peer):
        for number in range(3):
            await channel.send(numbered(number, 5000))
            assert json.loads(await peer.text())["id"] == number
            await peer.say(numbered(number, 5000))
            assert await receive_ids(channel, 1) == [number]
        assert channel.statistics().bytes_sent < 1000
        assert channel.statistics().bytes_received < 1000


async def test_a_compressed_message_that_was_cancelled_is_not_missed_by_the_next() -> None:
    options = ChannelOptions(outbox_bytes=1)
    async with channel_and_peer(
        memory_stream_pair(), options=options, deflate=DeflateSettings()
    ) as (channel, peer):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await channel.send(numbered(1, 1000))
                nursery.start_soon(channel.send, numbered(2, 1000))
                scope.cancel()
        await channel.send(numbered(3, 1000))
        await channel.flush()
        assert [json.loads(await peer.text())["id"] for _ in range(2)] == [1, 3]


async def test_what_inflates_beyond_the_limit_ends_it() -> None:
    compressor = zlib.compressobj(wbits=-12)
    bomb = compressor.compress(bytes(20_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 20_000
    options = ChannelOptions(max_message_bytes=1_000_000)
    async with channel_and_peer(
        memory_stream_pair(), options=options, deflate=DeflateSettings()
    ) as (channel, peer):
        await peer.write(Frame(TEXT, bomb[:-4], rsv=4))
        with pytest.raises(PeerProtocolError, match="inflates to more than"):
            await channel.receive()
        assert (await peer.closed())[0] == 1009


@pytest.mark.parametrize(
    ("frames", "code", "says"),
    [
        ([Frame(TEXT, b'"\xff"')], 1007, "UTF-8"),
        ([Frame(BINARY, WIRE)], 1003, "binary"),
        ([Frame(TEXT, WIRE, rsv=4)], 1002, "reserved bit"),
        ([Frame(CONTINUATION, WIRE)], 1002, "continuation"),
        ([Frame(3, WIRE)], 1002, "opcode"),
        ([Frame(CLOSE, b"\x03")], 1002, "Close frame"),
    ],
)
async def test_what_breaks_the_protocol_ends_it_after_what_came_before(
    frames: list[Frame], code: int, says: str
) -> None:
    async with channel_and_peer(memory_stream_pair()) as (channel, peer):
        await peer.write(Frame(TEXT, WIRE), *frames)
        assert (await peer.closed())[0] == code
        assert await channel.receive() == REQUEST
        with pytest.raises(PeerProtocolError, match=says) as failed:
            await channel.receive()
        assert failed.value.error is not None
        assert failed.value.error.close_code == code
        assert channel.state is ChannelState.FAILED


async def test_a_client_must_mask_and_a_server_must_not() -> None:
    for role in ROLES:
        async with channel_and_peer(memory_stream_pair(), role) as (channel, peer):
            wrong = None if role == "server" else b"abcd"
            await peer.stream.send_all(Frame(TEXT, WIRE).wire(wrong))
            with pytest.raises(PeerProtocolError):
                await channel.receive()
            assert (await peer.closed())[0] == 1002


async def test_a_malformed_message_is_answered_by_a_server_and_the_talk_goes_on() -> None:
    events: list[ChannelEvent] = []
    async with channel_and_peer(memory_stream_pair(), events=events) as (channel, peer):
        await peer.write(Frame(TEXT, b"{oops"), Frame(TEXT, b""), Frame(TEXT, b"[]"))
        await peer.say(REQUEST)
        assert await channel.receive() == REQUEST
        codes = [json.loads(await peer.text())["error"]["code"] for _ in range(3)]
        assert codes == [-32700, -32700, -32600]
        assert channel.statistics().malformed_received == 3
        assert channel.statistics().messages_sent == 3
    assert [event.name for event in events] == ["message.malformed"] * 3
    assert events[0].context == channel.context


async def test_a_client_tells_whoever_waits_of_a_malformed_answer_and_not_the_server() -> None:
    broken: list[tuple[RequestId, InvalidMessage]] = []
    async with channel_and_peer(memory_stream_pair(), "client") as (channel, peer):
        channel.on_broken_answer = lambda id_, error: broken.append((id_, error))
        await peer.write(Frame(TEXT, b'{"jsonrpc":"2.0","id":7,"result":1,"error":2}'))
        await peer.write(Frame(TEXT, b"{oops"))
        await peer.say(REQUEST)
        assert await channel.receive() == REQUEST
        assert [id_ for id_, _ in broken] == [7]
        await channel.send(REQUEST)
        assert await peer.text() == WIRE


async def test_batches_are_taken_where_the_revision_has_them_and_answered_as_one() -> None:
    batch = b"[%b,%b]" % (WIRE, WIRE.replace(b'"id":1', b'"id":2'))
    async with channel_and_peer(memory_stream_pair()) as (channel, peer):
        channel.accept_batches = True
        await peer.write(Frame(TEXT, batch))
        assert await receive_ids(channel, 2) == [1, 2]
        assert channel.try_send(Response(1, {})) is False
        await channel.send(Response(1, {}))
        await channel.send_many([Response(2, {})])
        answers = json.loads(await peer.text())
        assert [answer["id"] for answer in answers] == [1, 2]
        await peer.write(Frame(TEXT, batch))
        await receive_ids(channel, 2)
        cancel = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}'
        await peer.write(Frame(TEXT, cancel % 2))
        await channel.receive()
        channel.send_control(Response(1, {}))
        assert [answer["id"] for answer in json.loads(await peer.text())] == [1]
        await peer.write(Frame(TEXT, b"[1]"))
        assert json.loads(await peer.text())[0]["error"]["code"] == -32600


# -- pings ------------------------------------------------------------------------------


async def test_pings_are_answered_while_the_application_is_slow_up_to_the_inbox() -> None:
    options = ChannelOptions(inbox_bytes=1000)
    async with channel_and_peer(memory_stream_pair(), options=options) as (channel, peer):
        await peer.say(numbered(1, 400), numbered(2, 400))
        await peer.send(Ping(b"still there?"))
        assert await peer.event() == Pong(b"still there?")
        await peer.say(numbered(3, 400), numbered(4))
        await wait_all_tasks_blocked()
        await peer.send(Ping(b"and now?"))
        await wait_all_tasks_blocked()
        assert channel.statistics().inbox_messages == 2
        assert await receive_ids(channel, 4) == [1, 2, 3, 4]
        assert await peer.event() == Pong(b"and now?")


async def test_an_application_that_never_receives_ends_it(autojump_clock: MockClock) -> None:
    options = ChannelOptions(inbox_bytes=1000, inbox_stall_timeout=60.0)
    async with channel_and_peer(sockets(), options=options, timing=PINGS) as (channel, peer):
        await peer.say(*[numbered(number, 400) for number in range(20)])
        assert await channel.wait_state(ChannelState.FAILED) is ChannelState.FAILED
        assert isinstance(channel.failure, InboxStalled)
        assert trio.current_time() == pytest.approx(60.0)
        assert (await peer.closed())[0] == 1011
        waiting = channel.statistics().inbox_messages
        assert 1 <= waiting < 20
        assert await receive_ids(channel, waiting) == list(range(waiting))
        with pytest.raises(InboxStalled):
            await channel.receive()


async def test_a_peer_whose_bytes_were_left_unread_hears_why(autojump_clock: MockClock) -> None:
    options = ChannelOptions(inbox_bytes=1000, inbox_stall_timeout=60.0)
    async with channel_and_peer(sockets(), options=options, timing=PINGS) as (channel, peer):
        await peer.say(*[numbered(number, 400) for number in range(300)])
        assert await channel.wait_state(ChannelState.FAILED) is ChannelState.FAILED
        await channel.aclose()
        assert trio.current_time() == pytest.approx(62.0)
        assert (await peer.closed())[0] == 1011
        await peer.ended()  # and not by a reset


async def test_a_flood_of_pings_is_answered_with_few_pongs() -> None:
    async with channel_and_peer(memory_stream_pair()) as (channel, peer):
        await peer.write(*[Frame(PING, b"%d" % number) for number in range(5000)])
        await peer.say(REQUEST)
        assert await channel.receive() == REQUEST
        assert channel.statistics().bytes_sent < 100
        while await peer.event() != Pong(b"4999"):
            pass


async def test_each_ping_is_sent_in_time_and_keeps_a_peer_that_answers(
    autojump_clock: MockClock,
) -> None:
    times = []
    async with channel_and_peer(memory_stream_pair(), timing=PINGS) as (channel, peer):
        for _ in range(4):
            event = await peer.event()
            assert isinstance(event, Ping)
            assert len(event.payload) == 4
            times.append(trio.current_time())
            await trio.sleep(15)  # the answer was written already
        assert times == [30.0, 60.0, 90.0, 120.0]
        assert channel.is_connected


async def test_a_peer_that_withholds_its_pongs_is_given_up_however_busy_it_is(
    autojump_clock: MockClock,
) -> None:
    async with (
        channel_and_peer(memory_stream_pair(), timing=PINGS) as (channel, peer),
        trio.open_nursery() as nursery,
    ):

        async def be_busy() -> None:
            while True:
                await peer.say(numbered(1, 10_000))
                await peer.send(Pong(b"none"))
                await peer.send(Ping(b""))
                await trio.sleep(0.5)

        nursery.start_soon(be_busy)
        error = await end_of(channel)
        assert isinstance(error, PongTimeout)
        assert str(error) == "no answer to a ping within 20 s"
        assert trio.current_time() == pytest.approx(50.0)
        nursery.cancel_scope.cancel()


async def test_a_slow_application_is_not_taken_for_a_peer_that_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    options = ChannelOptions(inbox_bytes=1000, inbox_stall_timeout=1000.0)
    async with channel_and_peer(memory_stream_pair(), options=options, timing=PINGS) as (
        channel,
        peer,
    ):
        assert isinstance(await peer.event(answer=False), Ping)
        await peer.say(*[numbered(number, 400) for number in range(4)])
        await trio.sleep(500)
        await peer.stream.send_all(peer.machine.bytes_to_send())  # behind what nobody takes
        assert await receive_ids(channel, 4) == [0, 1, 2, 3]
        await trio.sleep(19)
        assert channel.is_connected


async def test_a_ping_that_is_due_when_the_inbox_is_full_is_not_the_last_one(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, ended = Inbox.put, []

    async def put_or_make_room(inbox: Inbox, items: Sequence[Sized]) -> None:
        try:
            await put(inbox, items)
        except trio.Cancelled:
            ended.extend(inbox.take(1))  # as the application may do in the same step
            raise

    monkeypatch.setattr(Inbox, "put", put_or_make_room)
    options = ChannelOptions(inbox_bytes=500)
    async with channel_and_peer(memory_stream_pair(), options=options, timing=PINGS) as (
        channel,
        peer,
    ):
        await peer.say(numbered(0, 400))
        await wait_all_tasks_blocked()
        await peer.say(numbered(1, 400))  # wakes the reader, whose ping is due in this step
        autojump_clock.jump(30)
        with trio.fail_after(1000):
            await channel.wait_state(ChannelState.FAILED)
        assert len(ended) == 1
        assert isinstance(channel.failure, PongTimeout)
        assert trio.current_time() == pytest.approx(50.0)


async def test_a_message_that_is_on_its_way_may_delay_the_pong_behind_it(
    autojump_clock: MockClock,
) -> None:
    data = Frame(TEXT, b'"' + b"x" * 700_000 + b'"').wire(b"abcd")
    async with channel_and_peer(memory_stream_pair(), timing=PINGS) as (channel, peer):
        await trio.sleep(25)
        for start in range(0, len(data), 100_000):
            await peer.stream.send_all(data[start : start + 100_000])
            await trio.sleep(10)
        assert trio.current_time() > 30 + 2 * 20
        assert isinstance(await peer.event(), Ping)
        await wait_all_tasks_blocked()
        assert channel.is_connected


async def test_a_peer_that_pings_and_reads_nothing_is_owed_one_pong(
    autojump_clock: MockClock,
) -> None:
    async with channel_and_peer(lockstep_stream_pair()) as (channel, peer):
        for _ in range(1000):
            await peer.write(Frame(PING, b"x" * 125))
        assert channel.statistics().outbox_bytes < 200
        assert await channel.wait_state(ChannelState.FAILED)
        assert isinstance(channel.failure, WriteTimeout)


async def test_a_ping_is_answered_after_what_was_queued_before_it() -> None:
    async with channel_and_peer(lockstep_stream_pair()) as (channel, peer):
        await channel.send(REQUEST)
        await wait_all_tasks_blocked()
        await peer.write(Frame(PING, b"1"), Frame(PING, b"2"))
        await wait_all_tasks_blocked()
        await peer.write(Frame(PING, b"3"))
        await wait_all_tasks_blocked()
        assert await peer.text() == WIRE
        assert await peer.event() == Pong(b"3")
        await channel.send(REQUEST)
        assert await peer.text() == WIRE


# -- timeouts ---------------------------------------------------------------------------


async def test_who_connects_and_says_nothing_is_given_up(autojump_clock: MockClock) -> None:
    timing = WebSocketTiming(ping_interval=7.0, accepted=True)
    options = ChannelOptions(handshake_timeout=60.0)
    async with (
        channel_and_peer(sockets(), options=options, timing=timing) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        closed: list[tuple[int, str]] = []

        async def answer_pings() -> None:
            closed.append(await peer.closed())

        nursery.start_soon(answer_pings)
        with pytest.raises(HandshakeTimeout, match="no message arrived within 60 s"):
            await channel.receive()
    assert closed == [(1008, "")]


async def test_the_first_message_ends_the_wait_for_it(autojump_clock: MockClock) -> None:
    timing = WebSocketTiming(ping_interval=float("inf"), accepted=True)
    options = ChannelOptions(handshake_timeout=60.0)
    async with channel_and_peer(memory_stream_pair(), options=options, timing=timing) as (
        channel,
        peer,
    ):
        await peer.say(REQUEST)
        await trio.sleep(100)
        assert channel.is_connected
        assert await channel.receive() == REQUEST


async def test_silence_is_timed_while_somebody_receives(autojump_clock: MockClock) -> None:
    options = ChannelOptions(idle_read_timeout=10.0)
    async with (
        channel_and_peer(memory_stream_pair(), options=options) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        await trio.sleep(100)
        assert channel.is_connected

        async def trickle() -> None:
            for byte in Frame(TEXT, WIRE).wire(b"abcd"):
                await peer.stream.send_all(bytes([byte]))
                await trio.sleep(9)

        nursery.start_soon(trickle)
        assert await channel.receive() == REQUEST
        started = trio.current_time()
        with pytest.raises(IdleTimeout, match="no byte arrived for 10 s"):
            await channel.receive()
        assert trio.current_time() == pytest.approx(started + 10)


def test_mask_keys_do_not_repeat() -> None:
    keys = MaskKeys()
    seen = [keys() for _ in range(3000)]
    assert all(len(key) == 4 for key in seen)
    assert len({*seen}) > 2990


async def test_notifications_go_out_by_every_way_there_is() -> None:
    note = Notification("x")
    async with channel_and_peer(memory_stream_pair()) as (channel, peer):
        await channel.send(note)
        channel.send_control(note)
        assert channel.try_send(note)
        texts = {await peer.text() for _ in range(3)}
        assert texts == {b'{"jsonrpc":"2.0","method":"x"}'}
        assert channel.statistics().messages_sent == 3
        assert repr(channel) == f"<WebSocketChannel {channel.session_id} connected>"
