"""The HTTP client channel is closed by several tasks, or while somebody waits there."""

from __future__ import annotations

import pytest
import trio
from scripted_server import ScriptedServer, make_channel
from trio.testing import wait_all_tasks_blocked

from trio_mcp_transport import ChannelState, Notification

pytestmark = pytest.mark.channel


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


async def test_who_closes_again_waits_for_the_first_close(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Notification("n"))
    sent = await server.next("n")
    closed = 0

    async def close() -> None:
        nonlocal closed
        await channel.aclose()
        closed += 1

    nursery.start_soon(close)
    await wait_all_tasks_blocked()
    nursery.start_soon(close)
    await wait_all_tasks_blocked()
    assert closed == 0
    assert not sent.left.is_set()  # it is still delivered
    sent.respond(202)
    await wait_all_tasks_blocked()
    assert closed == 2
    assert channel.state is ChannelState.CLOSED


async def test_aborting_while_somebody_closes_raises_nothing_there(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Notification("n"))
    await server.next("n")
    async with trio.open_nursery() as closing:
        closing.start_soon(channel.aclose)
        await wait_all_tasks_blocked()
        channel.abort()
    assert channel.state is ChannelState.CLOSED


async def test_who_receives_is_told_of_the_closing_before_the_session_ends(
    nursery: trio.Nursery, server: ScriptedServer
) -> None:
    channel = make_channel(nursery, server)
    await channel.send(Notification("n"))
    sent = await server.next("n")
    told = trio.Event()

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()
        told.set()

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    nursery.start_soon(channel.aclose)
    await wait_all_tasks_blocked()
    assert told.is_set()
    assert not sent.left.is_set()
    sent.respond(202)
