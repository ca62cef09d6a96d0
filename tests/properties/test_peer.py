"""Whatever happens in whatever order: each request ends in exactly one way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from trio_mcp_transport.abc import ChannelBroken
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import RequestTimeout, RpcError
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
)
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.router import Router
from trio_mcp_transport.transports.memory import memory_channel_pair

pytestmark = [pytest.mark.peer, pytest.mark.properties]

IDS: list[RequestId] = [1, "1", 2, "2", 3]


@dataclass(frozen=True)
class Act:
    """One thing that happens, to one request where it is about one."""

    what: str
    which: int = 0
    settle: bool = True


ACTS = st.lists(
    st.builds(
        Act,
        st.sampled_from([
            "ask", "ask", "ask", "answer", "answer", "error", "cancel", "time", "answer all",
            "stray", "progress",
        ]),
        st.integers(0, len(IDS) - 1),
        st.booleans(),
    ),
    max_size=30,
)  # fmt: skip
ENDINGS = st.sampled_from(["close ours", "close theirs", "eof", "abort", "answer the rest"])


class Ledger:
    """What became of each request that was made."""

    def __init__(self) -> None:
        self.open: dict[RequestId, trio.CancelScope] = {}
        self.outcomes: list[tuple[RequestId, str]] = []
        self.refused = 0
        self.started = 0

    async def ask(self, peer: Peer, request_id: RequestId) -> None:
        with trio.CancelScope() as scope:
            self.open[request_id] = scope
            self.started += 1
            try:
                await peer.request("m", id=request_id, timeout=10, max_timeout=20)
                outcome = "answer"
            except RpcError:
                outcome = "error"
            except RequestTimeout:
                outcome = "timeout"
            except (ChannelBroken, trio.ClosedResourceError):
                outcome = "lost"
            finally:
                del self.open[request_id]
        if scope.cancelled_caught:
            outcome = "cancelled"
        self.outcomes.append((request_id, outcome))


@given(acts=ACTS, ending=ENDINGS, room=st.integers(1, 40))
def test_each_request_that_was_sent_ends_in_exactly_one_way(
    acts: list[Act], ending: str, room: int
) -> None:
    async def main() -> None:
        ours, theirs = memory_channel_pair(max_messages=room)
        ledger = Ledger()
        seen: list[RequestId] = []
        cancelled: list[object] = []

        async def read() -> None:
            try:
                async for message in theirs:
                    if isinstance(message, Request):
                        seen.append(message.id)
                    elif isinstance(message, Notification):
                        cancelled.append(message.params_as(dict[str, object])["requestId"])
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                pass

        async def send(message: Message) -> None:
            with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                await theirs.send(message)

        async with theirs, trio.open_nursery() as outer:
            outer.start_soon(read)
            async with trio.open_nursery() as nursery, Peer(ours, on_event=_ignore) as peer:
                for act in acts:
                    request_id = IDS[act.which]
                    match act.what:
                        case "ask" if request_id not in ledger.open:
                            nursery.start_soon(_ask_if_free, ledger, peer, request_id)  # noqa: ASYNC111
                        case "answer":
                            await send(Response(request_id, Raw(b"{}")))
                        case "error":
                            await send(ErrorResponse(request_id, ErrorObject(1, "no")))
                        case "cancel" if request_id in ledger.open:
                            ledger.open[request_id].cancel()
                        case "time":
                            await trio.sleep(6)
                        case "answer all":
                            for one in list(seen):
                                await send(Response(one, Raw(b"{}")))
                        case "stray":
                            await send(Response("nobody", Raw(b"{}")))
                        case "progress":
                            params = {"progressToken": request_id, "progress": 1}
                            await send(Notification("notifications/progress", params))
                    if act.settle:
                        await trio.testing.wait_all_tasks_blocked()
                await trio.testing.wait_all_tasks_blocked()
                match ending:
                    case "close theirs":
                        await theirs.aclose()
                    case "eof":
                        await theirs.send_eof()
                    case "abort":
                        ours.abort(ChannelBroken("cut"))
                    case "answer the rest":
                        for one in list(ledger.open):
                            await send(Response(one, Raw(b"{}")))
                if ending != "close ours":
                    await trio.testing.wait_all_tasks_blocked()
                    # Ended by that alone: nothing waits for a timeout.
                    assert not ledger.open
                    assert peer.statistics().requests_pending == 0
            assert not ledger.open
            assert len(ledger.outcomes) == ledger.started - ledger.refused
            # The other side is told about those that were given up, and of no others.
            given_up = sum(what in {"cancelled", "timeout"} for _, what in ledger.outcomes)
            assert len(cancelled) <= given_up
            outer.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def _ask_if_free(ledger: Ledger, peer: Peer, request_id: RequestId) -> None:
    if request_id in ledger.open:
        return
    try:
        await ledger.ask(peer, request_id)
    except ValueError:  # given up before, and its answer may still come
        ledger.refused += 1


def _ignore(_: object) -> None:
    pass


@given(acts=ACTS, max_handlers=st.integers(1, 3), max_queued=st.integers(0, 3))
def test_each_request_that_came_is_answered_once_or_was_cancelled(
    acts: list[Act], max_handlers: int, max_queued: int
) -> None:
    async def main() -> None:
        ours, theirs = memory_channel_pair(max_messages=100)
        router = Router()
        gates: dict[int, Callable[[], object]] = {}
        number = 0

        @router.method("m")
        async def handle(ctx: Context) -> object:
            nonlocal number
            number += 1
            gate = trio.Event()
            gates[number] = gate.set
            await gate.wait()
            return {}

        sent: list[RequestId] = []
        cancels: list[RequestId] = []
        answers: list[RequestId | None] = []

        async def read() -> None:
            async for message in theirs:
                assert isinstance(message, Response | ErrorResponse)
                answers.append(message.id)

        async with trio.open_nursery() as nursery, theirs:
            nursery.start_soon(read)
            async with Peer(
                ours,
                router,
                max_handlers=max_handlers,
                max_queued=max_queued,
                drain=math.inf,
                on_event=_ignore,
            ) as peer:
                for act in acts:
                    request_id = IDS[act.which]
                    match act.what:
                        case "ask":
                            sent.append(request_id)
                            await theirs.send(Request(request_id, "m"))
                        case "cancel":
                            cancels.append(request_id)
                            params = {"requestId": request_id}
                            await theirs.send(Notification("notifications/cancelled", params))
                        case "answer" if gates:
                            gates.pop(min(gates))()
                        case "answer all":
                            while gates:
                                gates.pop(min(gates))()
                    if act.settle:
                        await trio.testing.wait_all_tasks_blocked()
                await theirs.send_eof()
                await trio.testing.wait_all_tasks_blocked()
                while gates:
                    gates.pop(min(gates))()
                    await trio.testing.wait_all_tasks_blocked()
                await peer.wait_closed()
                statistics = peer.statistics()
                assert statistics.requests_received == len(sent)
                assert (statistics.handlers_running, statistics.handlers_waiting) == (0, 0)
            await trio.testing.wait_all_tasks_blocked()
            effective = len(cancels) - statistics.cancels_ignored
            # Equal, but for requests that were cancelled when they had already finished.
            assert len(sent) - effective <= len(answers) <= len(sent)
            for request_id in IDS:
                of_it = sum(one is request_id or one == request_id for one in answers)
                asked = sum(one == request_id for one in sent)
                assert asked - cancels.count(request_id) <= of_it <= asked
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
