"""Peers over WebSocket: both eras, and a server that is told to stop."""

from __future__ import annotations

from functools import partial
from typing import Literal

import pytest
import trio

from trio_mcp_transport import (
    Context,
    MessageChannel,
    Progress,
    Request,
    RequestTimeout,
    Response,
    Router,
    connect_channel,
    open_channel,
    open_peer,
    serve_channels,
    serve_peers,
)
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel

pytestmark = [pytest.mark.websocket, pytest.mark.peer]


def make_router(cancelled: list[str]) -> Router:
    router = Router("test", "1.0", capabilities={"tools": {}})

    @router.method("tools/list")
    async def tools(context: Context) -> object:
        await context.progress(1, total=2)
        return {"tools": []}

    @router.method("slow")
    async def slow(context: Context) -> object:
        try:
            await trio.Event().wait()
        finally:
            cancelled.append("slow")
        return None

    return router


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_peers_negotiate_ask_tell_of_progress_and_cancel(
    era: Literal["modern", "legacy"],
) -> None:
    cancelled: list[str] = []
    seen: list[Progress] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            router = make_router(cancelled)
            (bound,) = await nursery.start(partial(serve_peers, router, "ws://127.0.0.1:0/mcp"))
            async with open_peer(bound, era=era) as peer:
                assert peer.negotiated is not None
                assert peer.negotiated.era == era
                result = await peer.request(
                    "tools/list", on_progress=seen.append, result_type=dict[str, object]
                )
                assert result["tools"] == []
                with pytest.raises(RequestTimeout):
                    await peer.request("slow", timeout=0.01)
                while not cancelled:
                    await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert [progress.progress for progress in seen] == [1]


async def test_peers_that_are_done_are_closed_with_1001_when_the_server_stops() -> None:
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            start = partial(serve_peers, make_router([]), "ws://127.0.0.1:0/mcp", stop=stop)
            (bound,) = await nursery.start(start)
            async with open_channel(bound) as channel:
                await channel.send(Request(1, "ping"))
                await channel.receive()
                stop.set()
                with pytest.raises(trio.EndOfChannel):
                    await channel.receive()
                assert isinstance(channel, WebSocketChannel)
                closed = channel._reader.close_received
                assert closed is not None
                assert closed.code == 1001


async def test_a_server_that_stops_does_not_wait_long_for_a_silent_peer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as nursery:
            start = partial(serve_peers, make_router([]), "ws://127.0.0.1:0/mcp", stop=stop)
            (bound,) = await nursery.start(start)
            channel = await connect_channel(clients, bound, inbox_bytes=1)
            # The answers fill the inbox, so that nobody reads the Close.
            await channel.send_many([Request(number, "ping") for number in range(3)])
            await trio.testing.wait_all_tasks_blocked()
            stopped = trio.current_time()
            stop.set()
        assert 2 <= trio.current_time() - stopped < 4
        channel.abort()


async def test_handlers_get_the_drain_and_are_cut_off_after_it() -> None:
    stop = trio.Event()

    async def handle(channel: MessageChannel) -> None:
        async for message in channel:
            assert isinstance(message, Request)
            await channel.send(Response(message.id, {}))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            start = partial(
                serve_channels,
                handle,
                "ws://127.0.0.1:0/mcp",
                stop=stop,
                drain=0.05,
                on_event=lambda _: None,
            )
            (bound,) = await nursery.start(start)
            async with open_channel(bound) as channel:
                for number in range(2):
                    await channel.send(Request(number, "ping"))
                    await channel.receive()
                    stop.set()
                with pytest.raises(trio.EndOfChannel):
                    await channel.receive()
