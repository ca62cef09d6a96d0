"""What belongs to the stream channel alone; the contract holds the rest."""

from __future__ import annotations

import sys

import msgspec
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport.abc import ChannelContext, ChannelState
from trio_mcp_transport.endpoints import ProcessEndpoint
from trio_mcp_transport.errors import MessageTooLarge
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.testing import FaultyStream, stall_after
from trio_mcp_transport.transports import process
from trio_mcp_transport.transports.stream_channel import StreamChannel


async def test_a_connecting_channel_is_connected_by_the_first_byte(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = memory_stream_pair()
    channel = StreamChannel(
        ours, nursery=nursery, context=ChannelContext(transport="test"), connecting=True
    )
    assert channel.state is ChannelState.CONNECTING
    assert channel.is_connected
    await channel.send(Notification("n"))
    reached: list[ChannelState] = []

    async def wait() -> None:
        reached.append(await channel.wait_state(ChannelState.CONNECTED))

    nursery.start_soon(wait)
    nursery.start_soon(channel.receive)
    await wait_all_tasks_blocked()
    assert not reached
    await theirs.send_all(b'{"jsonrpc"')
    await wait_all_tasks_blocked()
    assert reached == [ChannelState.CONNECTED]
    await theirs.send_all(b':"2.0","method":"n"}\n')
    await wait_all_tasks_blocked()
    await channel.aclose()
    assert not channel.is_connected


async def test_a_child_is_connecting_until_it_writes(nursery: trio.Nursery) -> None:
    program = "import sys; print(sys.stdin.readline(), end='', flush=True); sys.stdin.read()"
    endpoint = ProcessEndpoint(command=(sys.executable, "-c", program))
    with trio.fail_after(60):
        channel = await process.connect(nursery, endpoint)
        states = [channel.state]
        await channel.send(Notification("n"))
        assert await channel.receive() == Notification("n")
        states.append(channel.state)
        await channel.aclose()
        states.append(channel.state)
    assert states == [ChannelState.CONNECTING, ChannelState.CONNECTED, ChannelState.CLOSED]


BATCH = b'[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"method":"b"}]\n'


async def batch_channel(
    nursery: trio.Nursery, options: ChannelOptions
) -> tuple[StreamChannel, trio.abc.Stream]:
    """A channel that has received a batch of two requests, and what it writes."""
    ours, theirs = memory_stream_pair()
    channel = StreamChannel(
        ours, nursery=nursery, context=ChannelContext(transport="test"), options=options
    )
    channel.accept_batches = True
    await theirs.send_all(BATCH)
    assert await channel.receive_many() == [Request(1, "a"), Request(2, "b")]
    return channel, theirs


async def test_the_answers_to_a_batch_are_one_array(nursery: trio.Nursery) -> None:
    channel, wire = await batch_channel(nursery, ChannelOptions())
    assert not channel.try_send(Response(2, {}))
    await channel.send(Response(2, {}))
    await channel.send(Notification("n"))
    await channel.send_many([Response(1, {})])
    await channel.flush()
    note, array = (await wire.receive_some()).splitlines()
    assert msgspec.json.decode(note)["method"] == "n"
    assert [answer["id"] for answer in msgspec.json.decode(array)] == [2, 1]
    await channel.aclose()


async def test_answers_that_are_too_large_together_go_out_singly(nursery: trio.Nursery) -> None:
    channel, wire = await batch_channel(nursery, ChannelOptions(max_message_bytes=100))
    with pytest.raises(MessageTooLarge):
        await channel.send(Response(1, "x" * 100))
    await channel.send(Response(2, "x" * 50))
    await channel.send(ErrorResponse(1, ErrorObject(-32603, "too large")))
    await channel.flush()
    first, second = (await wire.receive_some()).splitlines()
    assert [msgspec.json.decode(line)["id"] for line in (first, second)] == [2, 1]
    await channel.aclose()


async def test_a_cancelled_sender_takes_nobody_s_answer_along(nursery: trio.Nursery) -> None:
    ours, theirs = memory_stream_pair()
    stalled = FaultyStream(ours, writing=stall_after(0))
    channel = StreamChannel(
        stalled,
        nursery=nursery,
        context=ChannelContext(transport="test"),
        options=ChannelOptions(outbox_bytes=1),
    )
    channel.accept_batches = True
    await theirs.send_all(BATCH)
    await channel.receive_many()
    await channel.send(Response(1, {}))
    await channel.send(Notification("fills the outbox"))
    with trio.move_on_after(0):
        await channel.send(Response(2, {}))
    await channel.send(Response(2, {}))  # does not wait for room
    stalled.heal()
    await channel.flush()
    lines = (await theirs.receive_some()).splitlines()
    assert [answer["id"] for answer in msgspec.json.decode(lines[1])] == [1, 2]
    await channel.aclose()
