"""A WebSocket channel whose peer writes anything: it gives what the machine does, then the end."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair
from websocket_peer import channel_and_peer
from websocket_wire import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Role,
    close_frame,
    machine,
    to,
)

from trio_mcp_transport import (
    ChannelBroken,
    ChannelOptions,
    ClosedByPeer,
    ConnectionLost,
    InvalidMessage,
    PeerProtocolError,
)
from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.jsonrpc import Message, decode_message
from trio_mcp_transport.sansio.websocket import (
    BinaryMessage,
    CloseReceived,
    TextMessage,
    WebSocketLimits,
)
from trio_mcp_transport.testing import feed
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel

pytestmark = [pytest.mark.properties, pytest.mark.websocket]

OPTIONS = ChannelOptions(max_message_bytes=2000)
LIMITS = WebSocketLimits(max_message_bytes=2000)

messages = st.integers(0, 999).map(
    lambda number: Frame(TEXT, b'{"jsonrpc":"2.0","method":"m%d"}' % number)
)
frames = st.one_of(
    messages,
    messages,
    messages.map(lambda frame: Frame(TEXT, frame.payload + b" " * 2000)),
    st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=5)).map(lambda args: Frame(*args)),
    st.tuples(st.sampled_from([TEXT, BINARY, CONTINUATION, 5]), st.binary(max_size=5)).map(
        lambda args: Frame(*args)
    ),
    st.sampled_from([close_frame(code) for code in (None, 1000, 1001, 1011, 4000, 1005)]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["client", "server"]),
    st.lists(frames, max_size=12),
    st.lists(st.integers(0, 2**16), max_size=8),
)
def test_what_came_before_the_end_is_received_and_then_the_end(
    role: Role, sent: list[Frame], cuts: list[int]
) -> None:
    wire = to(role, *sent)
    trio.run(live, role, wire, cuts, clock=MockClock(autojump_threshold=0))


async def live(role: Role, wire: bytes, cuts: list[int]) -> None:
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    points = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    pieces = [wire[start:end] for start, end in itertools.pairwise(points)]
    streams = memory_stream_pair()
    with trio.fail_after(1000):
        async with (
            channel_and_peer(streams, role, options=OPTIONS) as (channel, peer),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(write, peer.stream, pieces)
            received, ending = await receive_all(channel)
            nursery.cancel_scope.cancel()
    assert (received, ending) == expected(role, wire)
    event(ending.__name__)
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before


async def write(stream: trio.abc.Stream, pieces: list[bytes]) -> None:
    """Write all of it, and end; what is answered waits in the stream, which has no bound."""
    assert isinstance(stream, trio.abc.HalfCloseableStream)
    with suppress(trio.BrokenResourceError):  # the channel may be done before
        for piece in pieces:
            await stream.send_all(piece)
        await stream.send_eof()


async def receive_all(channel: WebSocketChannel) -> tuple[list[Message], type[Exception]]:
    received: list[Message] = []
    while True:
        try:
            received.append(await channel.receive())
        except (trio.EndOfChannel, ChannelBroken) as error:
            return received, type(error)


def expected(role: Role, wire: bytes) -> tuple[list[Message], type[Exception]]:
    """The messages that the machine reads, and what becomes of how it ends."""
    found: list[Message] = []
    for one in feed(machine(role, limits=LIMITS), wire, eof=True):
        match one:
            case TextMessage(data):
                with suppress(InvalidMessage):
                    found.append(decode_message(data))
            case BinaryMessage():
                return found, PeerProtocolError
            case CloseReceived(code):
                return found, trio.EndOfChannel if code in {1000, 1001, 1005} else ClosedByPeer
            case RemoteProtocolError():
                return found, ConnectionLost if one.close_code == 1006 else PeerProtocolError
    raise AssertionError("it does not end")
