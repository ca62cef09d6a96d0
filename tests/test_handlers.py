"""What a peer does with requests and notifications that come in."""

from __future__ import annotations

import msgspec
import pytest
import trio
from msgspec import Raw
from served_peer import Gate, gated, served

from trio_mcp_transport.abc import ChannelContext, ChannelEvent
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import RpcError
from trio_mcp_transport.handlers import held_bytes
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.peer import Peer, PeerErrorCode
from trio_mcp_transport.router import Router
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = pytest.mark.peer


# -- answers ------------------------------------------------------------------------


async def test_an_unknown_method_is_answered_at_once_with_or_without_a_router() -> None:
    async with served(Router()) as other:
        assert await other.error("nothing") == (-32601, "Method not found: nothing")
    ours, theirs = memory_channel_pair()
    async with theirs, Peer(ours) as peer:
        await theirs.send(Request("a", "nothing"))
        answer = await theirs.receive()
        assert isinstance(answer, ErrorResponse)
        assert (answer.id, answer.error.code) == ("a", -32601)
        assert peer.statistics().requests_refused == 1


async def test_handlers_run_side_by_side_and_answer_when_they_are_done() -> None:
    router, gate = gated()
    async with served(router) as other:
        await other.send("wait", request_id="slow")
        answer = await other.ask("echo", {"a": 1}, "fast")
        assert answer == Response("fast", Raw(b'{"a":1}'))
        gate.open.set()
        assert await other.channel.receive() == Response("slow", {"id": "slow"})


async def test_an_exception_is_an_internal_error_without_its_text_and_is_reported() -> None:
    router = Router()
    secret = RuntimeError("password is hunter2")

    @router.method("fail")
    async def fail(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        raise secret

    async with served(router) as other:
        assert await other.error("fail") == (-32603, "Internal error")
        assert other.event_names == ["handler.failed"]
        assert other.events[0].error is secret
    async with served(router, expose_errors=True) as other:
        assert await other.error("fail") == (-32603, "RuntimeError: password is hunter2")


async def test_an_rpc_error_carries_code_message_and_data_also_out_of_a_nursery() -> None:
    router = Router()

    async def refuse() -> object:
        await trio.lowlevel.checkpoint()
        raise RpcError(7, "no", {"why": "x"})

    @router.method("plain")
    async def plain(ctx: Context) -> object:
        return await refuse()

    @router.method("nursery")
    async def nursery(ctx: Context) -> object:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112
            nursery.start_soon(refuse)
        return {}

    async with served(router) as other:
        for method in ("plain", "nursery"):
            answer = await other.ask(method)
            assert isinstance(answer, ErrorResponse)
            error = answer.error
            assert (error.code, error.message, error.data) == (7, "no", {"why": "x"})
        assert other.events == []


async def test_no_result_is_an_internal_error() -> None:
    router = Router()

    @router.method("none")
    async def none(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return None

    async with served(router) as other:
        assert (await other.error("none"))[0] == -32603
        assert other.event_names == ["handler.failed"]


async def test_params_of_another_shape_are_invalid_params() -> None:
    class Params(msgspec.Struct):
        count: int

    router = Router()

    @router.method("typed", params=Params)
    async def typed(ctx: Context, params: Params) -> object:
        await trio.lowlevel.checkpoint()
        return params.count

    @router.method("asks")
    async def asks(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return ctx.params_as(Params).count

    async with served(router) as other:
        for method in ("typed", "asks"):
            assert await other.ask(method, {"count": 3}) == Response(1, 3)
            for params in ({"count": "x"}, {}, None, [1]):
                code, text = await other.error(method, params)
                assert code == -32602
                assert "Invalid params" in text
        assert other.events == []


async def test_a_method_s_timeout_cancels_the_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    router, gate = Router(), Gate()
    router.method("wait", timeout=5)(gate)
    async with served(router) as other:
        start = trio.current_time()
        code, text = await other.error("wait")
        assert code == PeerErrorCode.HANDLER_TIMEOUT
        assert "5 s" in text
        assert trio.current_time() - start == pytest.approx(5)
        assert gate.cancelled == [1]


async def test_a_foreign_dispatcher_gets_whole_messages_and_the_id_stays_ours() -> None:
    seen: list[Request | Notification] = []

    async def dispatch(ctx: Context, message: Request | Notification) -> object:
        await trio.lowlevel.checkpoint()
        seen.append(message)
        if message.method == "answer":
            return Response("another id", Raw(b"1"))
        if message.method == "refuse":
            return ErrorResponse("another id", ErrorObject(5, "no"))
        return Raw(b"2")

    async with served(Router(dispatch=dispatch)) as other:
        assert await other.ask("answer") == Response(1, Raw(b"1"))
        assert await other.ask("plain") == Response(1, Raw(b"2"))
        assert await other.error("refuse") == (5, "no")
        await other.channel.send(Notification("note", {"a": 1}))
        await trio.testing.wait_all_tasks_blocked()
        assert [message.method for message in seen] == ["answer", "plain", "refuse", "note"]
        assert seen[-1].params == Raw(b'{"a":1}')


async def test_a_result_that_is_no_json_or_too_large_is_an_error_and_the_peer_lives() -> None:
    router = Router()

    @router.method("bad")
    async def bad(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"x": object()}

    @router.method("surrogate")
    async def surrogate(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return "\ud800"

    @router.method("large")
    async def large(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return "x" * 1000

    @router.method("fine")
    async def fine(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {}

    events: list[ChannelEvent] = []
    options = ChannelOptions(max_message_bytes=500)
    context = ChannelContext(transport="test")
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        ours = StreamChannel(left, nursery=nursery, context=context, options=options)
        theirs = StreamChannel(right, nursery=nursery, context=context, options=options)
        async with theirs, Peer(ours, router, on_event=events.append):
            for method in ("bad", "surrogate", "large"):
                await theirs.send(Request(method, method))
                answer = await theirs.receive()
                assert isinstance(answer, ErrorResponse)
                assert (answer.id, answer.error.code) == (method, -32603)
            assert [event.name for event in events] == ["handler.failed"] * 3
            await theirs.send(Request(1, "fine"))
            assert await theirs.receive() == Response(1, Raw(b"{}"))


# -- cancelling ---------------------------------------------------------------------


async def test_a_cancelled_request_is_stopped_and_not_answered() -> None:
    router, gate = gated()
    async with served(router) as other:
        await other.send("wait", request_id=1)
        await other.send("wait", request_id="1")
        await trio.testing.wait_all_tasks_blocked()
        await other.cancel("1")
        assert gate.cancelled == ["1"]
        gate.open.set()
        assert await other.channel.receive() == Response(1, {"id": 1})
        assert await other.ask("echo", {}, 2) == Response(2, Raw(b"{}"))  # and nothing between


async def test_a_request_is_cancelled_even_while_its_answer_waits_for_room() -> None:
    router, _ = gated()
    ours, theirs = memory_channel_pair(max_messages=1)
    async with theirs, Peer(ours, router) as peer:
        await peer.notify("fills the channel")
        await theirs.send(Request(1, "echo", Raw(b"{}")))
        await trio.testing.wait_all_tasks_blocked()
        assert peer.statistics().handlers_running == 1
        await theirs.send(Notification("notifications/cancelled", {"requestId": 1}))
        await trio.testing.wait_all_tasks_blocked()
        assert peer.statistics().handlers_running == 0
        assert await theirs.receive() == Notification("fills the channel")
        await theirs.send(Request(2, "echo", Raw(b"{}")))
        assert await theirs.receive() == Response(2, Raw(b"{}"))


async def test_a_handler_that_swallows_its_cancellation_is_not_answered_either() -> None:
    router = Router()

    @router.method("stubborn")
    async def stubborn(ctx: Context) -> object:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103
            return {}  # noqa: ASYNC104

    async with served(router) as other:
        await other.send("stubborn")
        await trio.testing.wait_all_tasks_blocked()
        await other.cancel(1)
        assert other.peer.statistics().handlers_running == 0
        assert other.channel.statistics().inbox_messages == 0


async def test_a_handler_whose_task_fails_on_being_cancelled_is_reported_and_the_peer_lives() -> (
    None
):
    router, _ = gated()
    fault = ValueError("while cleaning up")

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise fault

    async def untidy(ctx: Context) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)
        return {}

    router.method("untidy")(untidy)
    async with served(router) as other:
        await other.send("untidy")
        await trio.testing.wait_all_tasks_blocked()
        await other.cancel(1)
        assert [event.error for event in other.events] == [fault]
        assert other.peer.statistics().handlers_running == 0
        assert await other.ask("echo", {}) == Response(1, Raw(b"{}"))  # and nothing before


async def test_background_work_whose_task_fails_on_being_cancelled_is_reported_at_the_end() -> None:
    fault = ValueError("while cleaning up")

    async def untidy() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise fault

    async with served(Router()) as other:
        other.peer.start_soon(untidy, "some work")
        await trio.testing.wait_all_tasks_blocked()
    assert [event.error for event in other.events] == [fault]


async def test_initialize_cannot_be_cancelled() -> None:
    router, gate = gated()
    async with served(router) as other:
        await other.send("initialize")
        await trio.testing.wait_all_tasks_blocked()
        await other.cancel(1)
        assert gate.cancelled == []
        assert other.peer.statistics().cancels_ignored == 1
        gate.open.set()
        assert await other.channel.receive() == Response(1, {"id": 1})


async def test_senseless_cancellations_are_ignored_and_counted() -> None:
    router, _ = gated()
    async with served(router) as other:
        senseless: list[object] = [1, "x", None, 1.5, True, {}]
        for request_id in senseless:
            await other.cancel(request_id)
        await other.channel.send(Notification("notifications/cancelled"))
        await trio.testing.wait_all_tasks_blocked()
        assert other.peer.statistics().cancels_ignored == 7
        assert other.event_names == []


async def test_a_second_request_with_an_id_in_work_is_refused_and_the_first_goes_on() -> None:
    router, gate = gated()
    async with served(router) as other:
        await other.send("wait")
        code, _ = await other.error("echo")
        assert code == -32600
        assert gate.cancelled == []
        gate.open.set()
        assert await other.channel.receive() == Response(1, {"id": 1})
        assert await other.ask("echo", {}) == Response(1, Raw(b"{}"))  # free again


# -- bounds -------------------------------------------------------------------------


async def test_requests_wait_for_a_handler_and_beyond_the_queue_are_refused_at_once() -> None:
    router, gate = gated()
    async with served(router, max_handlers=2, max_queued=2) as other:
        for request_id in range(5):
            await other.send("wait", request_id=request_id)
        answer = await other.channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert (answer.id, answer.error.code) == (4, PeerErrorCode.TOO_MANY_REQUESTS)
        assert set(gate.started) == {0, 1}
        statistics = other.peer.statistics()
        assert (statistics.handlers_running, statistics.handlers_waiting) == (2, 2)
        gate.open.set()
        answers = [await other.channel.receive() for _ in range(4)]
        assert {answer.id for answer in answers if isinstance(answer, Response)} == {0, 1, 2, 3}


async def test_requests_that_would_hold_too_many_bytes_are_refused_but_one_always_comes_in() -> (
    None
):
    router, gate = gated()
    async with served(router, max_handlers=1, max_held_bytes=1000) as other:
        await other.send("wait", "x" * 5000, request_id="huge")
        await trio.testing.wait_all_tasks_blocked()
        answer = await other.ask("wait", None, request_id="small")
        assert isinstance(answer, ErrorResponse)
        assert answer.error.code == PeerErrorCode.TOO_MANY_REQUESTS
        await other.cancel("huge")
        assert other.peer.statistics().handlers_bytes == 0
        for request_id in range(4):  # one runs and two wait
            await other.send("wait", "x" * 300, request_id=request_id)
        answer = await other.channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert answer.id == 3
        assert other.peer.statistics().handlers_bytes == pytest.approx(920, abs=20)
        await other.cancel(2)  # it waits
        await other.send("wait", "x" * 300, request_id=4)
        gate.open.set()
        answers = [await other.channel.receive() for _ in range(3)]
        assert [answer.id for answer in answers if isinstance(answer, Response)] == [0, 1, 4]
        assert other.peer.statistics().handlers_bytes == 0


async def test_answers_and_cancellations_pass_when_all_handlers_are_busy() -> None:
    router, gate = gated()

    @router.method("asks")
    async def asks(ctx: Context) -> object:
        return await ctx.peer.request("back")

    async with served(router, max_handlers=1, max_queued=2) as other:
        await other.send("asks", request_id="a")
        back = await other.channel.receive()
        assert isinstance(back, Request)
        await other.send("wait", request_id="b")
        await other.send("wait", request_id="c")
        await other.cancel("c")  # waiting: goes without ever having run
        await other.channel.send(Response(back.id, Raw(b"1")))
        assert await other.channel.receive() == Response("a", Raw(b"1"))
        gate.open.set()
        assert await other.channel.receive() == Response("b", {"id": "b"})
        assert gate.started == ["b"]
        await other.send("wait", request_id="c")
        assert await other.channel.receive() == Response("c", {"id": "c"})


async def test_a_flood_of_refused_requests_costs_nothing_when_the_answers_are_read() -> None:
    async with served(Router()) as other, trio.open_nursery() as nursery:

        async def read() -> None:
            for _ in range(3000):
                await other.channel.receive()

        nursery.start_soon(read)
        for request_id in range(3000):
            await other.send("nothing", request_id=request_id)
        await trio.testing.wait_all_tasks_blocked()
        assert other.peer.statistics().requests_refused == 3000


# -- notifications ------------------------------------------------------------------


async def test_notifications_are_handled_one_by_one_in_order() -> None:
    router = Router()
    seen: list[object] = []

    @router.notification("note", params=dict[str, int])
    async def note(ctx: Context, params: dict[str, int]) -> None:
        seen.append(("begin", params["n"]))
        for _ in range(3 - params["n"]):
            await trio.lowlevel.checkpoint()
        seen.append(("end", params["n"]))

    async with served(router) as other:
        for number in range(3):
            await other.channel.send(Notification("note", {"n": number}))
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [(what, n) for n in range(3) for what in ("begin", "end")]


async def test_a_notification_is_never_answered_and_its_failure_is_reported() -> None:
    router = Router()

    @router.notification("note", params=dict[str, int])
    async def note(ctx: Context, params: dict[str, int]) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("note")

    router.method("echo")(Gate())
    async with served(router) as other:
        await other.channel.send(Notification("unknown", {"n": 1}))
        await other.channel.send(Notification("note", {"n": "x"}))
        await other.channel.send(Notification("note", {"n": 1}))
        await trio.testing.wait_all_tasks_blocked()
        assert other.event_names == ["handler.failed", "handler.failed"]
        assert other.channel.statistics().inbox_messages == 0


async def test_a_notification_that_finds_the_queue_full_is_counted_and_reported() -> None:
    router = Router()
    gate = trio.Event()

    @router.notification("note")
    async def note(ctx: Context) -> None:
        await gate.wait()

    async with served(router) as other:
        for _ in range(1003):
            await other.channel.send(Notification("note"))
        await trio.testing.wait_all_tasks_blocked()
        assert other.peer.statistics().notifications_dropped in {2, 3}
        assert set(other.event_names) == {"notification.dropped"}
        gate.set()


async def test_notifications_that_would_hold_too_many_bytes_are_dropped_and_counted() -> None:
    router = Router()
    gate = trio.Event()
    seen: list[object] = []

    @router.notification("note")
    async def note(ctx: Context) -> None:
        await gate.wait()
        seen.append(ctx.message.params)

    async with served(router, max_held_bytes=1000) as other:
        for size in (2000, 10, 10):
            await other.channel.send(Notification("note", ["x" * size]))
        await trio.testing.wait_all_tasks_blocked()
        assert other.peer.statistics().notifications_dropped == 2
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert other.peer.statistics().handlers_bytes == 0
        for size in (800, 10):
            await other.channel.send(Notification("note", ["x" * size]))
        await trio.testing.wait_all_tasks_blocked()
        assert len(seen) == 3


def test_ids_and_method_names_are_held_as_well() -> None:
    assert held_bytes(Request("i" * 100, "m" * 50, Raw(b"{}"))) == 152
    assert held_bytes(Request(7, "m")) == 1
    assert held_bytes(Notification("m", Raw(b"[1]"))) == 4
