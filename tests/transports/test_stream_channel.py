"""What belongs to the stream channel alone; the contract holds the rest."""

from __future__ import annotations

import sys

import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport.abc import ChannelContext, ChannelState
from trio_mcp_transport.endpoints import ProcessEndpoint
from trio_mcp_transport.jsonrpc import Notification
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
