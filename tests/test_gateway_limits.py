"""The gateway's bounds, over channels in memory: held too long, too large, not taken."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import pytest
import trio
import trio.testing

from trio_mcp_transport import (
    ChannelContext,
    ChannelEvent,
    ChannelOptions,
    ErrorResponse,
    MemoryChannel,
    MessageChannel,
    Notification,
    Request,
    Response,
    RestartPolicy,
    StreamChannel,
    memory_channel_pair,
)
from trio_mcp_transport.gateway import Gateway
from trio_mcp_transport.limits import DEFAULT_OUTBOX_BYTES

pytestmark = pytest.mark.peer


class Bed(NamedTuple):
    """One client's end, the ends of the children as they are started, and what was told."""

    client: MemoryChannel
    children: trio.MemoryReceiveChannel[StreamChannel]
    events: list[ChannelEvent]
    another: Callable[[], MemoryChannel]

    async def begin(self, id_: int) -> tuple[StreamChannel, Request]:
        """Send a request, the first; returns the child, and the request as that got it."""
        await self.client.send(Request(id_, "tools/call", {"name": "x"}))
        child = await self.children.receive()
        got = await child.receive()
        assert isinstance(got, Request)
        return child, got


@asynccontextmanager
async def serving(
    *,
    exchange: bool,
    child_limit: int = 2**24,
    max_children: int = 32,
    stop: trio.Event | None = None,
) -> AsyncGenerator[Bed]:
    """A gateway that serves one client."""
    events: list[ChannelEvent] = []
    started, children = trio.open_memory_channel[StreamChannel](10)
    context = ChannelContext(transport="memory")
    options = ChannelOptions(max_message_bytes=child_limit)

    @asynccontextmanager
    async def open_child() -> AsyncGenerator[MessageChannel]:
        streams = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            ours = StreamChannel(streams[0], nursery=nursery, context=context, options=options)
            theirs = StreamChannel(streams[1], nursery=nursery, context=context)
            started.send_nowait(theirs)
            async with ours:
                yield ours
            await theirs.aclose()

    gateway = Gateway(
        open_child,
        client_info={"name": "x", "version": "1"},
        restart=RestartPolicy(initial_delay=10.0),
        on_event=events.append,
        max_children=max_children,
    )
    clients: list[MemoryChannel] = []

    def another() -> MemoryChannel:
        client, served = memory_channel_pair(max_messages=2)
        served._context = msgspec.structs.replace(served.context, exchange=exchange)
        clients.append(client)
        nursery.start_soon(serve, served)
        return client

    async def serve(served: MemoryChannel) -> None:
        async with served:
            await gateway.serve(served, stop=stop, drain=3)

    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        try:
            yield Bed(another(), children, events, another)
        finally:
            for client in clients:
                await client.aclose()
            gateway.stop()


async def test_what_a_child_asks_is_answered_if_nobody_can_be_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(exchange=False) as bed:
        await bed.client.send(Notification("notifications/initialized"))
        child = await bed.children.receive()
        await child.receive()
        await child.send(Request("q", "roots/list"))
        asked = trio.current_time()
        refused = await child.receive()
        assert isinstance(refused, ErrorResponse)
        assert (refused.id, refused.error.message) == (
            "q",
            "the client has no stream open to be asked on",
        )
        assert trio.current_time() - asked == pytest.approx(30)


async def test_a_client_that_was_reached_in_time_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(exchange=False) as bed:
        await bed.client.send(Notification("notifications/initialized"))
        child = await bed.children.receive()
        await child.receive()
        await child.send(Request("q", "roots/list"))
        await trio.sleep(29)
        await bed.client.send(Response("q", {"roots": []}))
        assert isinstance(await child.receive(), Response)
        with trio.move_on_after(60) as waiting:
            await child.receive()
        assert waiting.cancelled_caught


@pytest.mark.parametrize("exchange", [False, True])
async def test_a_request_too_large_for_the_child_is_an_error_and_the_rest_goes_on(
    exchange: bool,
) -> None:
    async with serving(exchange=exchange, child_limit=500) as bed:
        await bed.client.send(Request(1, "tools/call", {"text": "x" * 600}))
        refused = await bed.client.receive()
        assert isinstance(refused, ErrorResponse)
        assert refused.id == 1
        assert "over the limit of 500 bytes" in refused.error.message
        child, got = await bed.begin(2)
        await child.send(Response(got.id, {}))
        assert isinstance(await bed.client.receive(), Response)


async def test_a_client_that_takes_nothing_is_given_up_and_its_request_cancelled() -> None:
    async with serving(exchange=True) as bed:
        child, got = await bed.begin(1)
        log = Notification("notifications/message", {"data": "x" * (DEFAULT_OUTBOX_BYTES // 4)})
        for _ in range(8):
            await child.send(log)
            await trio.testing.wait_all_tasks_blocked()
        told = await child.receive()
        assert isinstance(told, Notification)
        assert told.method == "notifications/cancelled"
        assert told.params_as(dict[str, int]) == {"requestId": got.id}
        assert [event.name for event in bed.events] == ["exchange.overflow"]


async def test_a_child_that_keeps_dying_is_started_less_and_less_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(exchange=True) as bed:
        waited = []
        for attempt in range(3):
            begun = trio.current_time()
            child, _ = await bed.begin(attempt)
            waited.append(trio.current_time() - begun)
            await child.aclose()
            assert isinstance(await bed.client.receive(), ErrorResponse)
        assert waited == [pytest.approx(0), pytest.approx(10), pytest.approx(20)]
        assert {event.name for event in bed.events} == {"child.ended"}


async def test_an_idle_session_makes_room_for_another_but_not_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(exchange=False, max_children=1) as bed:
        await bed.client.send(Notification("notifications/initialized"))
        first = await bed.children.receive()
        await first.receive()
        begun = trio.current_time()
        second_client = bed.another()
        await second_client.send(Request(1, "initialize"))
        second = await bed.children.receive()
        assert trio.current_time() - begun == pytest.approx(10)
        got = await second.receive()
        assert isinstance(got, Request)
        await second.send(Response(got.id, {}))
        assert isinstance(await second_client.receive(), Response)
        with pytest.raises(trio.EndOfChannel):
            await bed.client.receive()
        assert [event.name for event in bed.events] == ["session.ended"]


async def test_a_session_with_something_in_work_makes_no_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(exchange=False, max_children=1) as bed:
        child, got = await bed.begin(1)
        other = bed.another()
        await other.send(Request(1, "initialize"))
        with trio.move_on_after(3600) as waiting:
            await bed.children.receive()
        assert waiting.cancelled_caught
        # Once it is done it has ten seconds, as every idle one, until it is looked at again.
        await child.send(Response(got.id, {}))
        assert isinstance(await bed.client.receive(), Response)
        begun = trio.current_time()
        await bed.children.receive()
        assert 10 <= trio.current_time() - begun <= 20


@pytest.mark.parametrize("exchange", [True, False], ids=["an exchange", "a session"])
async def test_what_is_not_done_when_the_drain_is_over_is_cut_off(
    exchange: bool, autojump_clock: trio.testing.MockClock
) -> None:
    stop = trio.Event()
    async with serving(exchange=exchange, stop=stop) as bed:
        child, request = await bed.begin(7)
        stop.set()
        began = trio.current_time()
        told = await child.receive()
        assert trio.current_time() == began + 3
        assert isinstance(told, Notification)
        assert told.params_as(dict[str, object]) == {"requestId": request.id}
        if exchange:  # an HTTP channel answers for itself when it is closed
            with pytest.raises(trio.EndOfChannel):
                await bed.client.receive()
        else:
            answer = await bed.client.receive()
            assert isinstance(answer, ErrorResponse)
            assert answer.id == 7
