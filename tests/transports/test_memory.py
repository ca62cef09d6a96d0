"""Names in memory: who finds whom, and who is told when the listener goes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_mcp_transport.abc import (
    ChannelContext,
    ChannelState,
    ConnectionLost,
    OutboxOverflow,
)
from trio_mcp_transport.endpoints import MemoryEndpoint
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.jsonrpc import (
    Notification,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.transports.memory import connect, listen


def note(number: int) -> Notification:
    return Notification(f"note/{number}")


NAME = MemoryEndpoint(name="server")


async def test_a_client_finds_whoever_listens_under_the_name() -> None:
    async with trio.open_nursery() as nursery, await listen(NAME, None) as listener:
        assert listener.endpoint == "memory:server"
        client = await connect(nursery, NAME, None)
        await client.send(note(1))  # not accepted yet, and yet not lost
        server = await listener.accept(nursery)
        assert await server.receive() == note(1)
        await server.send(note(2))
        assert await client.receive() == note(2)
        assert client.context == ChannelContext(transport="memory", peer_address="memory:server")
        assert server.context == ChannelContext(transport="memory", local_address="memory:server")


async def test_each_client_has_a_channel_of_its_own() -> None:
    async with trio.open_nursery() as nursery, await listen(NAME, None) as listener:
        clients = [await connect(nursery, NAME, None) for _ in range(3)]
        servers = [await listener.accept(nursery) for _ in range(3)]
        for number, server in enumerate(servers):
            await server.send(note(number))
        for number, client in enumerate(clients):
            assert await client.receive() == note(number)


async def test_each_side_has_its_own_options() -> None:
    served = MemoryEndpoint(name="x", max_messages=1, options=ChannelOptions(when_full="close"))
    called = MemoryEndpoint(name="x", max_messages=3)
    async with trio.open_nursery() as nursery, await listen(served, None) as listener:
        client = await connect(nursery, called, None)
        server = await listener.accept(nursery)
        assert (client.options, server.options) == (called.options, served.options)
        for number in range(3):
            await client.send(note(number))
        await server.send(note(0))
        with pytest.raises(OutboxOverflow):
            await server.send(note(1))


async def test_nobody_listening_is_a_failed_connect() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectFailed, match="cannot connect to memory:server: nobody"):
            await connect(nursery, NAME, None)


async def test_a_name_is_listened_on_once_and_given_back() -> None:
    async with await listen(NAME, None) as listener:
        with pytest.raises(ConnectFailed, match="somebody listens there already"):
            await listen(NAME, None)
        async with await listen(MemoryEndpoint(name="another"), None):
            pass
    await listener.aclose()
    async with await listen(NAME, None) as again:
        await listener.aclose()  # must not take the name from its new owner
        async with trio.open_nursery() as nursery:
            await connect(nursery, NAME, None)
            await again.accept(nursery)


async def test_closing_the_listener_refuses_those_who_wait() -> None:
    async with trio.open_nursery() as nursery:
        listener = await listen(NAME, None)
        client = await connect(nursery, NAME, None)

        async def accept_all() -> None:
            await listener.accept(nursery)
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept(nursery)

        nursery.start_soon(accept_all)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
        assert client.state is ChannelState.CONNECTED  # was accepted

        another = await listen(NAME, None)
        waiting = await connect(nursery, NAME, None)
        await another.aclose()
        assert isinstance(waiting.failure, ConnectionLost)


async def test_a_full_backlog_holds_the_client_and_cancelling_it_leaves_nothing() -> None:
    async with trio.open_nursery() as nursery, await listen(NAME, None) as listener:
        for _ in range(128):
            await connect(nursery, NAME, None)
        connected: list[object] = []

        async def connect_one_more() -> None:
            connected.append(await connect(nursery, NAME, None))

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(connect_one_more)
                await trio.testing.wait_all_tasks_blocked()
                assert not connected
                scope.cancel()
        nursery.start_soon(connect_one_more)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(129):
            await listener.accept(nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert len(connected) == 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await listener.accept(nursery)
        assert scope.cancelled_caught


def test_names_do_not_outlive_their_run() -> None:
    async def listen_and_forget() -> None:
        await listen(NAME, None)

    trio.run(listen_and_forget)
    trio.run(listen_and_forget)
