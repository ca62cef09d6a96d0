"""How a peer's conversation ends, whoever ends it."""

from __future__ import annotations

import pytest
import trio
from peer_wire import ask, progress_of, token_of, wired

from trio_mcp_transport.abc import (
    ChannelBroken,
    ChannelContext,
    ChannelState,
    ConnectionLost,
    MessageChannel,
)
from trio_mcp_transport.errors import (
    LocalProtocolError,
)
from trio_mcp_transport.jsonrpc import (
    Notification,
    Request,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = pytest.mark.peer


async def test_the_other_side_s_end_fails_what_is_in_flight_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = [ask(nursery, wire.peer) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        await wire.channel.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == start
        errors = [one.outcome for one in asked]
        assert all(isinstance(error, ConnectionLost) for error in errors)
        assert len(set(map(id, errors))) == 3  # each waiter has its own
        with pytest.raises(ConnectionLost):
            await wire.peer.request("m")


async def test_a_failed_channel_fails_requests_with_its_cause() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer)
        await wire.receive_request()
        cause = ChannelBroken("cable cut")
        wire.peer.channel.abort(cause)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(asked.outcome, ChannelBroken)
        chain: BaseException | None = asked.outcome
        while chain is not None and chain is not cause:
            chain = chain.__cause__
        assert chain is cause


async def test_closing_the_peer_fails_requests_of_other_tasks() -> None:
    ours, theirs = memory_channel_pair()
    async with theirs, trio.open_nursery() as nursery:
        async with Peer(ours) as peer:
            asked = ask(nursery, peer)
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(asked.outcome, trio.ClosedResourceError)
        with pytest.raises(trio.ClosedResourceError):
            await peer.request("m")
        assert ours.state is ChannelState.CLOSED
        await peer.wait_closed()


async def test_a_peer_that_does_not_run_refuses_requests() -> None:
    ours, theirs = memory_channel_pair()
    async with ours, theirs:
        peer = Peer(ours)
        with pytest.raises(LocalProtocolError):
            await peer.request("m")
        async with peer:
            pass
        with pytest.raises(LocalProtocolError):
            async with peer:
                pass


async def test_the_block_s_own_exception_comes_out_bare() -> None:
    ours, theirs = memory_channel_pair()
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with theirs, Peer(ours):
            raise mine
    assert caught.value is mine


async def test_a_keyboard_interrupt_of_a_callback_comes_out_bare() -> None:
    interrupt = KeyboardInterrupt()

    def fail(_: object) -> None:
        raise interrupt

    async def provoke() -> None:
        ours, theirs = memory_channel_pair()
        async with theirs, Peer(ours) as peer, trio.open_nursery() as nursery:
            ask(nursery, peer, on_progress=fail)
            request = await theirs.receive()
            assert isinstance(request, Request)
            await theirs.send(progress_of(token_of(request), 1))
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt) as caught:
        await provoke()
    assert caught.value is interrupt


async def test_cancelling_around_a_peer_leaves_it_cleanly() -> None:
    ours, theirs = memory_channel_pair()
    async with theirs:
        with trio.CancelScope() as scope:
            async with Peer(ours) as peer:
                await trio.lowlevel.checkpoint()
                scope.cancel()
                await peer.request("m")
        assert scope.cancelled_caught
        assert ours.state in {ChannelState.CLOSED, ChannelState.FAILED}


async def test_run_returns_at_the_end_and_raises_a_failure() -> None:
    ours, theirs = memory_channel_pair()
    await theirs.aclose()
    await Peer(ours).run()
    assert ours.state is ChannelState.CLOSED
    ours, theirs = memory_channel_pair()
    cause = ChannelBroken("cable cut")
    async with theirs, trio.open_nursery() as nursery:

        async def cut() -> None:
            await trio.testing.wait_all_tasks_blocked()
            ours.abort(cause)

        nursery.start_soon(cut)
        with pytest.raises(ChannelBroken, match="cable cut"):
            await Peer(ours).run()


@pytest.mark.parametrize("kind", ["memory", "stream"])
async def test_try_send_queues_when_there_is_room_and_says_so(kind: str) -> None:
    async with trio.open_nursery() as nursery:
        if kind == "memory":
            ours, theirs = memory_channel_pair(max_messages=1)
            channels: tuple[MessageChannel, MessageChannel] = (ours, theirs)
        else:
            context, options = ChannelContext(transport="test"), ChannelOptions(outbox_bytes=10)
            left, right = trio.testing.lockstep_stream_pair()
            channels = (
                StreamChannel(left, nursery=nursery, context=context, options=options),
                StreamChannel(right, nursery=nursery, context=context, options=options),
            )
        async with channels[0] as near, channels[1] as far:
            assert near.try_send(Notification("first"))
            assert not near.try_send(Notification("second"))
            assert near.statistics().messages_sent == 1
            assert await far.receive() == Notification("first")
            await near.aclose()
            with pytest.raises(trio.ClosedResourceError):
                near.try_send(Notification("third"))
