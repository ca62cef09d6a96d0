"""How WebSocket channels end, against a peer that is played."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import (
    MockClock,
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
    MASK,
    PING,
    TEXT,
    Frame,
    Role,
    close_frame,
)

from trio_mcp_transport import (
    ChannelOptions,
    ChannelState,
    ClosedByPeer,
    ConnectionLost,
    LocalProtocolError,
    PeerProtocolError,
)
from trio_mcp_transport.sansio.websocket import (
    Close,
)
from trio_mcp_transport.testing import cancel_at
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel

pytestmark = [pytest.mark.websocket, pytest.mark.channel]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_all_that_came_before_a_close_is_received_and_then_the_end(
    role: Role, code: int | None, autojump_clock: MockClock
) -> None:
    async with channel_and_peer(memory_stream_pair(), role) as (channel, peer):
        await peer.say(numbered(1), numbered(2))
        await peer.write(close_frame(code, b"" if code is None else b"bye"))
        await wait_all_tasks_blocked()
        assert not channel.is_connected
        assert await receive_ids(channel, 2) == [1, 2]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
        assert channel.state is ChannelState.CONNECTED
        with pytest.raises(ConnectionLost, match="the peer has closed"):
            await channel.send(REQUEST)
        assert (await peer.closed())[0] == (1005 if code is None else code)
        await channel.aclose()


@pytest.mark.parametrize("role", ROLES)
async def test_a_close_that_tells_of_a_fault_comes_out_with_code_and_reason(role: Role) -> None:
    async with channel_and_peer(memory_stream_pair(), role) as (channel, peer):
        await peer.say(numbered(1))
        await peer.send(Close(1011, "the disk is full"))
        assert (await peer.closed())[0] == 1011
        assert await receive_ids(channel, 1) == [1]
        for call in (channel.receive, channel.flush, lambda: channel.send(REQUEST)):
            with pytest.raises(ClosedByPeer, match="1011 'the disk is full'") as failed:
                await call()
            assert (failed.value.close_code, failed.value.close_reason) == (
                1011,
                "the disk is full",
            )
            assert failed.value.__cause__ is channel.failure


async def test_a_connection_that_ends_without_a_word_is_lost() -> None:
    async with channel_and_peer(memory_stream_pair()) as (channel, peer):
        await peer.say(numbered(1))
        await peer.write(Frame(TEXT, b'{"half', fin=False))
        assert isinstance(peer.stream, trio.StapledStream)
        await peer.stream.send_eof()
        assert await receive_ids(channel, 1) == [1]
        with pytest.raises(ConnectionLost, match="ended without a Close, in the middle"):
            await channel.receive()
        assert not isinstance(channel.failure, ClosedByPeer)


async def test_a_peer_that_resets_the_connection_is_lost() -> None:
    ours, theirs = sockets()
    async with channel_and_peer((ours, theirs)) as (channel, peer):
        await channel.send(REQUEST)  # unread bytes make it a reset
        peer.stream.close()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionLost):
            await channel.receive()


@pytest.mark.parametrize("role", ROLES)
async def test_closing_shakes_hands_and_drops_what_still_comes(
    role: Role, autojump_clock: MockClock
) -> None:
    async with (
        channel_and_peer(memory_stream_pair(), role) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        await channel.send(REQUEST)
        nursery.start_soon(channel.aclose)
        assert await peer.text() == WIRE
        await peer.closed(answer=False)
        await peer.write(Frame(TEXT, WIRE), Frame(PING, b"x"))
        states = [channel.state]
        await peer.write(close_frame(1000))
        await peer.ended()
    assert [*states, channel.state] == [ChannelState.CLOSING, ChannelState.CLOSED]
    assert channel.failure is None
    assert channel.statistics().messages_received == 0


@pytest.mark.parametrize(("role", "seconds"), [("server", 0.0), ("client", 1.0)])
async def test_the_server_is_the_first_to_end_the_connection(
    role: Role, seconds: float, autojump_clock: MockClock
) -> None:
    async with (
        channel_and_peer(memory_stream_pair(), role) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(channel.aclose)
        await peer.closed()
        shaken = trio.current_time()
        await peer.ended()
        assert trio.current_time() - shaken == seconds


async def test_a_draining_server_says_that_it_goes_away() -> None:
    async with (
        channel_and_peer(memory_stream_pair()) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        channel.go_away()
        nursery.start_soon(channel.aclose)
        assert await peer.closed() == (1001, "")


async def test_a_peer_that_never_answers_a_close_is_waited_for_no_longer_than_agreed(
    autojump_clock: MockClock,
) -> None:
    options = ChannelOptions(close_timeout=3.0)
    async with channel_and_peer(memory_stream_pair(), options=options) as (channel, peer):
        await channel.aclose()
        assert trio.current_time() == pytest.approx(3.0)
        assert channel.state is ChannelState.CLOSED
        assert (await peer.closed(answer=False))[0] == 1000


async def test_a_peer_that_ends_instead_of_answering_a_close_is_fine() -> None:
    async with (
        channel_and_peer(memory_stream_pair()) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(channel.aclose)
        await peer.closed(answer=False)
        await peer.stream.aclose()
    assert channel.state is ChannelState.CLOSED


async def test_both_may_close_at_once() -> None:
    async with (
        channel_and_peer(memory_stream_pair()) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        await peer.send(Close(1000))
        nursery.start_soon(channel.aclose)
        assert (await peer.closed(answer=False))[0] == 1000
        await peer.ended()
    assert channel.state is ChannelState.CLOSED


async def test_senders_that_waited_for_room_come_before_the_close() -> None:
    options = ChannelOptions(outbox_bytes=1)
    async with (
        channel_and_peer(memory_stream_pair(), options=options) as (channel, peer),
        trio.open_nursery() as nursery,
    ):
        for number in range(3):
            nursery.start_soon(channel.send, numbered(number))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(channel.aclose)
        ids = [json.loads(await peer.text())["id"] for _ in range(3)]
        assert sorted(ids) == [0, 1, 2]
        assert (await peer.closed())[0] == 1000


async def test_a_cancelled_close_still_says_goodbye_where_that_takes_no_waiting() -> None:
    async with channel_and_peer(sockets()) as (channel, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.aclose()
        assert scope.cancelled_caught
        assert (await peer.closed())[0] == 1001


async def test_closing_may_be_cancelled_anywhere() -> None:
    for number in range(20):
        async with channel_and_peer(sockets()) as (channel, peer):
            await channel.send(REQUEST)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.closed)
                was_cancelled = await cancel_at(number, channel.aclose)
            assert channel.state is ChannelState.CLOSED
            await channel.aclose()
        if not was_cancelled:
            break
    else:
        raise AssertionError("it has no end")


async def test_a_closed_channel_has_no_half_to_end() -> None:
    async with channel_and_peer(memory_stream_pair()) as (channel, _):
        assert not channel.can_send_eof
        with pytest.raises(LocalProtocolError, match="cannot end one direction"):
            await channel.send_eof()
        channel.abort()
        with pytest.raises(trio.ClosedResourceError):
            await channel.send_eof()


async def test_a_peer_that_was_told_off_hears_it_although_it_goes_on_sending() -> None:
    ours, theirs = sockets()
    async with channel_and_peer((ours, theirs)) as (channel, peer), trio.open_nursery() as nursery:
        await peer.write(Frame(BINARY, b"\0"))

        wire = Frame(BINARY, bytes(60_000)).wire(MASK)

        async def go_on() -> None:
            for _ in range(64):
                await theirs.send_all(wire)
            await theirs.send_eof()

        nursery.start_soon(go_on)
        with pytest.raises(PeerProtocolError):
            await channel.receive()
        assert (await peer.closed(answer=False))[0] == 1003
        await channel.aclose()
        assert channel.state is ChannelState.FAILED


async def test_a_peer_that_is_told_off_for_ever_is_left_in_the_end(
    autojump_clock: MockClock,
) -> None:
    async with channel_and_peer(memory_stream_pair()) as (channel, peer):
        await peer.write(Frame(BINARY, b"\0"))
        with pytest.raises(PeerProtocolError):
            await channel.receive()
        await channel.aclose()
        assert trio.current_time() == pytest.approx(2.0)
        await peer.closed(answer=False)
        await peer.ended()


async def test_a_nursery_that_is_cancelled_takes_the_channel_with_it() -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        from trio_mcp_transport import ChannelContext
        from trio_mcp_transport.sansio.websocket import WebSocketMachine

        channel = WebSocketChannel(
            ours,
            WebSocketMachine("server"),
            nursery=nursery,
            context=ChannelContext(transport="test"),
        )
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert channel.state is ChannelState.CLOSED
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()
    assert await theirs.receive_some() == b""


class BrokenStream(trio.abc.Stream):
    """Raises something of its own."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("cannot send")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("cannot receive")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_whatever_a_stream_raises_becomes_the_cause() -> None:
    other, _ = memory_stream_pair()
    async with channel_and_peer((BrokenStream(), other)) as (channel, _peer):
        with pytest.raises(ConnectionLost, match="cannot receive") as failed:
            await channel.receive()
        assert failed.value.__cause__ is channel.failure
        assert channel.failure is not None
        assert isinstance(channel.failure.__cause__, RuntimeError)
