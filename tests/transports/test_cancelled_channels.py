"""A channel whose tasks were cancelled together with its user's: the user gets `Cancelled`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from websocket_wire import machine

from trio_mcp_transport import ChannelContext, ConnectionLost, MessageChannel, Request
from trio_mcp_transport.transports.stream_channel import StreamChannel
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel

pytestmark = pytest.mark.channel

REQUEST = Request(id=1, method="ping")
CONTEXT = ChannelContext(transport="test")


def stream_channel(stream: trio.abc.Stream, nursery: trio.Nursery) -> MessageChannel:
    return StreamChannel(stream, nursery=nursery, context=CONTEXT)


def websocket_channel(stream: trio.abc.Stream, nursery: trio.Nursery) -> MessageChannel:
    return WebSocketChannel(stream, machine("client"), nursery=nursery, context=CONTEXT)


MakeChannel = Callable[[trio.abc.Stream, trio.Nursery], MessageChannel]
both = pytest.mark.parametrize("make", [stream_channel, websocket_channel])


@both
@pytest.mark.parametrize("cause", [None, ConnectionLost("the task that writes was cancelled")])
async def test_a_receiver_that_the_ending_woke_is_cancelled(
    make: MakeChannel, cause: ConnectionLost | None, nursery: trio.Nursery
) -> None:
    channel = make(memory_stream_pair()[0], nursery)
    with trio.CancelScope() as scope:

        @nursery.start_soon
        async def end_it() -> None:
            await wait_all_tasks_blocked()
            channel.abort(cause)  # as a cancelled task of the channel does
            scope.cancel()  # too late to be delivered: the receiver has been woken

        await channel.receive()
    assert scope.cancelled_caught


@both
@pytest.mark.parametrize("name", ["receive", "receive_many", "send", "flush", "send_eof"])
async def test_a_cancelled_caller_of_an_ended_channel_is_cancelled(
    make: MakeChannel, name: str, nursery: trio.Nursery
) -> None:
    channel = make(memory_stream_pair()[0], nursery)
    channel.abort(ConnectionLost("the task that writes was cancelled"))
    call: Callable[[], Awaitable[object]] = getattr(channel, name)
    if name == "send":
        call = partial(channel.send, REQUEST)
    with pytest.raises(ConnectionLost):
        await call()
    with trio.CancelScope() as scope:
        scope.cancel()
        await call()
    assert scope.cancelled_caught
