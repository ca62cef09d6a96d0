"""Tests of a server: without sockets, without waiting, without chance."""

import pytest
import trio
import trio.testing
from echo_server import echo

from trio_mcp_transport import (
    ChannelContext,
    ChannelOptions,
    ConnectionLost,
    IdleTimeout,
    Request,
    Response,
    StreamChannel,
    memory_channel_pair,
)
from trio_mcp_transport.testing import FaultyStream, fail_after


async def test_it_answers_with_the_params() -> None:
    client, server = memory_channel_pair()
    async with server, trio.open_nursery() as nursery:
        nursery.start_soon(echo, server)  # ends when the client is closed
        async with client:
            await client.send(Request(1, "anything", {"text": "hello"}))
            assert await client.receive() == Response(1, {"text": "hello"})


async def test_it_ends_when_the_line_is_cut(nursery: trio.Nursery) -> None:
    near, far = trio.testing.memory_stream_pair()
    wire = FaultyStream(far, reading=fail_after(10))  # breaks at the tenth byte
    server = StreamChannel(wire, nursery=nursery, context=ChannelContext(transport="test"))
    await near.send_all(b'{"jsonrpc": "2.0", "id": 1, "method": "x"}\n')
    with pytest.raises(ConnectionLost):
        await echo(server)
    await server.aclose()


async def test_it_waits_no_longer_than_it_is_told(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    _, far = trio.testing.memory_stream_pair()
    server = StreamChannel(
        far,
        nursery=nursery,
        context=ChannelContext(transport="test"),
        options=ChannelOptions(idle_read_timeout=3600),
    )
    with pytest.raises(IdleTimeout):
        await echo(server)  # an hour, at once
    await server.aclose()
