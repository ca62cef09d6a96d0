"""A bridge to a WebSocket, which cannot be told that its client has ended."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_transport import (
    BridgeEnd,
    Message,
    MessageChannel,
    Notification,
    Request,
    Response,
    bridge_channels,
    connect_channel,
    memory_channel_pair,
    serve_channels,
)

pytestmark = [pytest.mark.websocket, pytest.mark.channel]


async def bridged(
    sent: list[Message], *, release: trio.Event, drain: float
) -> tuple[list[Message], bool]:
    """A client sends all this, and then its end, to a server over ws.

    Returns:
        What it receives, and whether the bridge was complete.
    """

    async def handle(channel: MessageChannel) -> None:
        async for message in channel:
            if isinstance(message, Request):
                if message.method == "slow":
                    await release.wait()
                await channel.send(Response(message.id, {}))

    ends: list[BridgeEnd] = []
    received: list[Message] = []
    async with trio.open_nursery() as nursery:
        (bound,) = await nursery.start(partial(serve_channels, handle, "ws://127.0.0.1:0/mcp"))
        client, ours = memory_channel_pair()
        async with trio.open_nursery() as bridge:
            server = await connect_channel(bridge, bound)

            async def run() -> None:
                ends.append(await bridge_channels(ours, server, drain=drain))

            bridge.start_soon(run)
            await client.send_many(sent)
            await client.send_eof()
            received += [message async for message in client]
        nursery.cancel_scope.cancel()
    (end,) = ends
    assert end.first == "client"
    return received, end.complete


async def test_it_ends_with_the_last_answer() -> None:
    release = trio.Event()
    release.set()
    requests: list[Message] = [Request(1, "x"), Request("1", "slow"), Notification("y")]
    with trio.fail_after(20):
        received, complete = await bridged(requests, release=release, drain=1000)
    assert complete
    assert [message.id for message in received if isinstance(message, Response)] == [1, "1"]


async def test_it_ends_at_once_where_nothing_is_asked() -> None:
    with trio.fail_after(20):
        found = await bridged([Notification("y")], release=trio.Event(), drain=1000)
    assert found == ([], True)


async def test_what_is_never_answered_is_waited_for_no_longer_than_the_drain(
    autojump_clock: MockClock,
) -> None:
    found = await bridged([Request(1, "slow")], release=trio.Event(), drain=7.0)
    assert found == ([], False)
    assert trio.current_time() == pytest.approx(7.0, abs=0.5)
