"""Sending on a WebSocket whose end has been seen, but not been recorded yet."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from websocket_peer import channel_and_peer
from websocket_wire import TEXT, Frame, close_frame, to

from trio_mcp_transport import ChannelOptions, ConnectionLost, PeerProtocolError, Request
from trio_mcp_transport.jsonrpc import encode_message
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel

pytestmark = [pytest.mark.websocket, pytest.mark.channel]

REQUEST = Request(id=1, method="ping")


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (Frame(3), PeerProtocolError),
        (close_frame(1000), ConnectionLost),
        (close_frame(4000), ConnectionLost),
    ],
)
async def test_a_send_tells_of_the_end_that_waits_for_what_came_before_it(
    last: Frame, error: type[Exception]
) -> None:
    message = Frame(TEXT, encode_message(REQUEST))
    options = ChannelOptions(inbox_bytes=len(message.payload) * 3 - 1)
    async with channel_and_peer(memory_stream_pair(), options=options) as (channel, peer):
        await peer.write(message, message)
        await wait_all_tasks_blocked()
        # There is no room for this one, so what is behind it cannot have its effect yet.
        await peer.stream.send_all(to("server", message, last))
        await wait_all_tasks_blocked()
        assert not channel.is_connected
        with pytest.raises(error):
            await channel.send(REQUEST)
        with pytest.raises(error):
            await channel.send_many([REQUEST, REQUEST])
        assert [await channel.receive() for _ in range(3)] == [REQUEST] * 3
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
            await channel.receive()


async def test_a_sender_in_line_does_not_wait_for_a_peer_that_closed_and_vanished(
    autojump_clock: MockClock,
) -> None:
    options = ChannelOptions(outbox_bytes=100, close_timeout=1000, write_timeout=1000)
    ended = trio.Event()

    async def send_on(channel: WebSocketChannel) -> None:
        while channel.try_send(REQUEST):
            pass
        with pytest.raises(ConnectionLost):
            await channel.send(REQUEST)
        ended.set()

    streams = lockstep_stream_pair()  # what is written waits for whoever reads
    with trio.fail_after(100):
        async with (
            channel_and_peer(streams, options=options) as (channel, peer),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(send_on, channel)
            await wait_all_tasks_blocked()
            await peer.write(close_frame(1000))
            await wait_all_tasks_blocked()
            assert not ended.is_set()
            await trio.aclose_forcefully(peer.stream)
            await ended.wait()
