"""Opening and serving peers: negotiation, settings, and what leaves the block."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
from echo_endpoints import TRANSPORTS, echo_endpoint
from trio.testing import (
    MockClock,
    wait_all_tasks_blocked,
)

from trio_mcp_transport.abc import (
    ChannelEvent,
    ChannelState,
    MessageChannel,
)
from trio_mcp_transport.connect import open_channel, open_peer
from trio_mcp_transport.errors import ConfigurationError, RequestTimeout
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.router import Router
from trio_mcp_transport.serve import serve_channels, serve_peers

pytestmark = [pytest.mark.connect, pytest.mark.peer]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def make_router() -> Router:
    router = Router("test", "1.0", capabilities={"tools": {}})

    @router.method("tools/list")
    async def tools(_: object) -> object:
        await trio.lowlevel.checkpoint()
        return {"tools": []}

    return router


@pytest.mark.parametrize("era", ["auto", "modern", "legacy"])
async def test_a_peer_negotiates_and_asks(era: str) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_peers, make_router(), "memory:server")
            async with open_peer("memory:server", era=era) as peer:  # type: ignore[arg-type]
                assert peer.negotiated is not None
                assert peer.negotiated.era == ("legacy" if era == "legacy" else "modern")
                result = await peer.request("tools/list", result_type=dict[str, object])
                assert result["tools"] == []
            assert peer.channel.state is ChannelState.CLOSED
            nursery.cancel_scope.cancel()


async def test_a_peer_of_no_era_negotiates_nothing() -> None:
    router = Router()

    @router.method("add")
    async def add(_: object) -> object:
        await trio.lowlevel.checkpoint()
        return 3

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_peers, router, "memory:server")
            async with open_peer("memory:server", era="none") as peer:
                assert peer.negotiated is None
                assert await peer.request("add", result_type=int) == 3
            nursery.cancel_scope.cancel()


async def test_a_peer_of_no_era_is_given_nothing_to_negotiate_with() -> None:
    with pytest.raises(ConfigurationError, match="era='none' negotiates nothing"):
        async with open_peer("memory:server", era="none", revision="2025-11-25"):
            pytest.fail("it cannot be open")


async def test_what_the_block_of_a_peer_raises_comes_out_as_the_same_object(
    transport: str, tmp_path: Path
) -> None:
    error = StopAsyncIteration("mine")
    peer: Peer | None = None

    async def block() -> None:
        nonlocal peer
        async with open_peer(endpoint, era="none") as peer:
            await peer.request("ping")
            raise error

    with trio.fail_after(30):
        async with echo_endpoint(transport, tmp_path) as endpoint:
            with pytest.raises(StopAsyncIteration) as caught:
                await block()
    assert caught.value is error
    assert peer is not None
    assert peer.channel.state is ChannelState.CLOSED


async def test_settings_of_a_peer_reach_it(autojump_clock: MockClock) -> None:
    async def silent(channel: MessageChannel) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_channels, silent, "memory:silent")
        start = trio.current_time()
        with pytest.raises(TimeoutError):
            async with open_peer("memory:silent", era="none", request_timeout=3) as peer:
                await peer.request("ping")
        assert trio.current_time() - start == 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"revision": "1999-01-01"}, "1999-01-01"),
        ({"log_level": "loud"}, "log_level"),
        ({"client_info": {"name": "x"}}, "client_info must have a version"),
        ({"era": "legacy", "revision": "2026-07-28"}, "none of the revisions is legacy"),
    ],
)
async def test_what_is_negotiated_with_is_checked(settings: dict[str, object], says: str) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_peers, make_router(), "memory:server")
            with pytest.raises(ConfigurationError, match=says):
                async with open_peer("memory:server", **settings):  # type: ignore[arg-type] # its point
                    pytest.fail("it cannot be open")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("stop", [None, trio.Event()])
async def test_a_connection_that_is_lost_is_reported(stop: trio.Event | None) -> None:
    events: list[ChannelEvent] = []
    serve = partial(serve_peers, stop=stop, on_event=events.append)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, Router(), "memory:server")
            async with open_channel("memory:server") as channel:
                await wait_all_tasks_blocked()
                channel.abort()
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert [event.name for event in events] == ["connection.lost"]


async def test_a_stop_closes_idle_peers_at_once_and_busy_ones_when_they_are_done(
    autojump_clock: MockClock,
) -> None:
    router = Router()
    stop = trio.Event()

    @router.method("slow")
    async def slow(_: object) -> object:
        await trio.sleep(4)
        return "done"

    async def call(answers: list[object]) -> None:
        async with open_peer("memory:server", era="none") as peer:
            answers.append(await peer.request("slow", result_type=str))

    answers: list[object] = []
    async with trio.open_nursery() as nursery:
        serving = partial(serve_peers, stop=stop, drain=10)
        await nursery.start(serving, router, "memory:server")
        async with open_peer("memory:server", era="none") as idle:
            nursery.start_soon(call, answers)
            await wait_all_tasks_blocked()
            start = trio.current_time()
            stop.set()
            await idle.wait_closed()
            assert trio.current_time() == start
    # The nursery is left when serving has ended: not at 10 s.
    assert trio.current_time() - start == 4
    assert answers == ["done"]


async def test_arguments_that_make_no_sense_are_refused_before_the_block_is_entered() -> None:
    await trio.lowlevel.checkpoint()
    with pytest.raises(ConfigurationError, match="era='none'"):
        open_peer("memory:server", era="none", revision="2025-11-25")


async def test_a_block_that_is_left_in_negotiation_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    ended: list[ChannelState] = []

    async def be_silent(channel: MessageChannel) -> None:
        async for _ in channel:
            pass
        ended.append(channel.state)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_channels, be_silent, "memory:server")
        with pytest.raises(RequestTimeout):
            async with open_peer("memory:server"):
                raise AssertionError("there is nobody to agree with")
        await wait_all_tasks_blocked()
        assert len(ended) == 1
        nursery.cancel_scope.cancel()
