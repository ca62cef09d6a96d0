"""What becomes of handlers at the end, and of broken dispatchers."""

from __future__ import annotations

import functools
from typing import NoReturn

import pytest
import trio
from msgspec import Raw
from served_peer import Gate, gated, served

from trio_mcp_transport.abc import ChannelContext, ChannelEvent, ChannelState
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import RpcError
from trio_mcp_transport.hub import Hub
from trio_mcp_transport.jsonrpc import (
    ErrorResponse,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.peer import Peer, PeerErrorCode
from trio_mcp_transport.router import Router
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = pytest.mark.peer


async def test_at_the_end_of_input_running_handlers_still_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    router = Router()

    @router.method("slow")
    async def slow(ctx: Context) -> object:
        await trio.sleep(3)
        return {}

    async with served(router, max_handlers=1) as other:
        await other.send("slow", request_id="running")
        await other.send("slow", request_id="waiting")
        await other.channel.send_eof()
        assert await other.channel.receive() == Response("running", {})
        assert await other.channel.receive() == Response("waiting", {})
        with pytest.raises(trio.EndOfChannel):
            await other.channel.receive()
        await other.peer.wait_closed()


async def test_draining_ends_in_time_and_closes(autojump_clock: trio.testing.MockClock) -> None:
    router, gate = gated()
    start = trio.current_time()
    async with served(router, drain=7) as other:
        await other.send("wait")
        await other.channel.send_eof()
        await other.peer.wait_closed()
        assert trio.current_time() - start == pytest.approx(7)
        assert gate.cancelled == [1]
        assert other.peer.channel.state is ChannelState.CLOSED


async def test_a_handler_that_waits_for_the_side_that_left_is_told_at_once() -> None:
    router = Router()
    seen: list[object] = []

    @router.method("asks")
    async def asks(ctx: Context) -> object:
        try:
            return await ctx.peer.request("back")
        except trio.BrokenResourceError as error:
            seen.append(error)
            raise

    async with served(router) as other:
        await other.send("asks")
        await trio.testing.wait_all_tasks_blocked()
        await other.channel.send_eof()
        await other.peer.wait_closed()
        assert len(seen) == 1
        assert other.event_names == []  # that is no fault of the handler's


async def test_leaving_the_block_cancels_handlers_without_answering() -> None:
    router, gate = gated()
    ours, theirs = memory_channel_pair()
    async with theirs:
        async with Peer(ours, router):
            await theirs.send(Request(1, "wait"))
            await trio.testing.wait_all_tasks_blocked()
        assert gate.cancelled == [1]
        with pytest.raises(trio.EndOfChannel):
            await theirs.receive()


async def test_background_work_of_a_peer_is_guarded_and_ends_with_it() -> None:
    router = Router()
    async with served(router) as other:

        async def fail() -> None:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("work")

        other.peer.start_soon(fail, "some work")
        other.peer.start_soon(trio.sleep_forever, "endless work")
        await trio.testing.wait_all_tasks_blocked()
        assert other.event_names == ["handler.failed"]
        assert "some work" in other.events[0].message
    with pytest.raises(trio.ClosedResourceError):
        other.peer.start_soon(functools.partial(trio.sleep, 0), "late work")


async def test_params_that_are_no_json_are_refused_on_a_channel_that_passes_references() -> None:
    router, _ = gated()
    async with served(router) as other:
        await other.channel.send(Request(1, "echo", {"x": object()}))
        answer = await other.channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert answer.error.code == -32602
        await other.channel.send(Notification("note", {"x": object()}))
        await trio.testing.wait_all_tasks_blocked()
        assert other.event_names == ["handler.failed"]
        assert await other.ask("echo", {}) == Response(1, Raw(b"{}"))


@pytest.mark.parametrize(
    "method",
    ["note", "notifications/message", "notifications/cancelled", "notifications/progress"],
)
async def test_a_notification_that_is_no_json_does_not_end_the_reader(method: str) -> None:
    router, _ = gated()
    async with served(router) as other, trio.open_nursery() as nursery:
        # Somebody listens, so that the params are looked into.
        nursery.start_soon(
            functools.partial(other.peer.request, "ask", on_notification=lambda _: None)
        )
        question = await other.channel.receive()
        assert isinstance(question, Request)
        await other.channel.send(Notification(method, {"requestId": object()}))
        await trio.testing.wait_all_tasks_blocked()
        assert other.event_names == ["handler.failed"]
        await other.channel.send(Response(question.id, Raw(b"{}")))
        assert await other.ask("echo", {}) == Response(1, Raw(b"{}"))


async def test_what_comes_while_the_channel_is_being_closed_starts_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = Hub()
    router = Router("server", "1", capabilities={"tools": {"listChanged": True}}, hub=hub)
    gate = Gate()
    router.method("wait")(gate)
    context = ChannelContext(transport="test")
    left, right = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        ours = StreamChannel(left, nursery=nursery, context=context)
        theirs = StreamChannel(right, nursery=nursery, context=context)

        async def send_late() -> None:
            await trio.testing.wait_all_tasks_blocked()
            assert ours.state is ChannelState.CLOSING
            await theirs.send(Notification("notifications/initialized"))
            await theirs.send(Request(2, "wait"))

        async with theirs:
            async with Peer(ours, router) as peer:
                await theirs.send(Request(1, "initialize", {"protocolVersion": "2025-11-25"}))
                await theirs.receive()
                await peer.notify("not read by the other side, so that closing takes its time")
                nursery.start_soon(send_late)
            assert gate.started == []
            assert hub.subscribers == 0


class Broken:
    """A dispatcher with faults of its own."""

    def join(self, peer: Peer) -> Broken:
        return self

    def receive_request(self, request: Request) -> NoReturn:
        if request.method == "data":
            raise RpcError(1, "no", object())
        raise KeyError(request.method)

    def receive_notification(self, notification: Notification) -> NoReturn:
        raise KeyError(notification.method)

    def end(self) -> None:
        pass


async def test_a_broken_dispatcher_does_not_end_the_conversation() -> None:
    context = ChannelContext(transport="test")
    events: list[ChannelEvent] = []
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        ours = StreamChannel(left, nursery=nursery, context=context)
        theirs = StreamChannel(right, nursery=nursery, context=context)
        async with theirs, Peer(ours, Broken(), on_event=events.append):
            await theirs.send(Notification("x"))
            await theirs.send(Request(1, "data"))
            await theirs.send(Request(2, "x"))
            answer = await theirs.receive()
            assert isinstance(answer, ErrorResponse)
            assert (answer.id, answer.error.code) == (2, -32603)
    assert [event.name for event in events] == [
        "handler.failed",
        "answer.dropped",
        "handler.failed",
    ]


async def test_a_peer_that_is_about_to_stop_waits_for_its_handlers() -> None:
    router, gate = gated()
    async with served(router) as other, trio.open_nursery() as nursery:
        await other.send("wait")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(other.peer.drain)
        nursery.start_soon(other.peer.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        gate.open.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 0
        assert await other.channel.receive() == Response(1, {"id": 1})


async def test_a_peer_that_stops_refuses_new_requests_and_ends_though_its_client_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    router, gate = gated()
    ours, theirs = memory_channel_pair()
    stop = trio.Event()
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(Peer(ours, router).run, stop)
        await theirs.send(Request(1, "wait"))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        for method in ("wait", "nothing", "subscriptions/listen"):
            await theirs.send(Request(2, method))
            answer = await theirs.receive()
            assert isinstance(answer, ErrorResponse)
            assert (answer.id, answer.error.code) == (2, PeerErrorCode.SHUTTING_DOWN)
        gate.open.set()
        assert await theirs.receive() == Response(1, {"id": 1})
        with pytest.raises(trio.EndOfChannel):
            await theirs.receive()
    assert trio.current_time() == start


@pytest.mark.parametrize("who", ["this side", "the other side"])
async def test_handlers_that_are_cut_off_after_the_drain_are_reported(
    autojump_clock: trio.testing.MockClock, who: str
) -> None:
    router, gate = gated()
    ours, theirs = memory_channel_pair()
    stop = trio.Event()
    events: list[ChannelEvent] = []
    async with theirs, trio.open_nursery() as nursery:
        peer = Peer(ours, router, max_handlers=1, drain=3, on_event=events.append)
        nursery.start_soon(peer.run, stop)
        await theirs.send(Request(1, "wait"))
        await theirs.send(Request(2, "wait"))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        if who == "this side":
            stop.set()
        else:
            await theirs.send_eof()
        await peer.wait_closed()
        assert trio.current_time() - start == 3
        assert gate.cancelled == [1]
    assert [event.name for event in events] == ["drain.expired"]
    assert "2 handlers were not done within 3 s" in events[0].message


def test_a_peer_has_at_least_one_handler() -> None:
    ours, _ = memory_channel_pair()
    with pytest.raises(ValueError, match="max_handlers"):
        Peer(ours, max_handlers=0)


@pytest.mark.parametrize("raw", [b"{bad", b"", b"1}\n{", b'"\xff"'])
async def test_raw_json_that_is_none_is_an_internal_error(raw: bytes) -> None:
    router = Router()

    @router.method("raw")
    async def answer(ctx: Context) -> Raw:
        await trio.lowlevel.checkpoint()
        return Raw(raw)

    async with served(router) as side:
        assert (await side.error("raw"))[0] == -32603


@pytest.mark.parametrize("code", ["abc", None, 1.5])
async def test_an_rpc_error_that_cannot_be_sent_is_an_internal_error(code: int) -> None:
    router = Router()

    @router.method("odd")
    async def answer(ctx: Context) -> Raw:
        await trio.lowlevel.checkpoint()
        raise RpcError(code, "m")

    async with served(router) as side:
        assert (await side.error("odd"))[0] == -32603


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


async def test_an_exception_without_words_is_still_answered() -> None:
    router = Router()

    @router.method("odd")
    async def answer(ctx: Context) -> Raw:
        await trio.lowlevel.checkpoint()
        raise Unspeakable

    async with served(router, expose_errors=True) as side:
        assert await side.error("odd") == (-32603, "Unspeakable")
