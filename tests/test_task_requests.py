"""Requests that became tasks (2025-11-25): their progress, and how they are cancelled."""

from __future__ import annotations

import msgspec
import pytest
import trio
from msgspec import UNSET, Raw
from peer_wire import Asked, Wire, progress_of, token_of, wired

from trio_mcp_transport.jsonrpc import Notification, Response
from trio_mcp_transport.limits import MAX_TASKS
from trio_mcp_transport.pending import Pending, Progress
from trio_mcp_transport.task_requests import TaskRequests, asks_for_task

pytestmark = pytest.mark.peer

CALL: dict[str, object] = {"name": "slow", "task": {"ttl": 60000}}


def created(status: str = "working", task_id: str = "t") -> dict[str, object]:
    return {"task": {"taskId": task_id, "status": status}}


def status_of(status: str, task_id: str = "t") -> Notification:
    return Notification("notifications/tasks/status", {"taskId": task_id, "status": status})


async def begin(wire: Wire, nursery: trio.Nursery, seen: list[float] | None = None) -> Asked:
    """Call something as a task, with progress if somebody wants to see it."""
    asked = Asked()

    def see(progress: Progress) -> None:
        assert seen is not None
        seen.append(progress.progress)

    on_progress = None if seen is None else see
    nursery.start_soon(
        asked.run, lambda: wire.peer.request("tools/call", CALL, on_progress=on_progress)
    )
    await trio.testing.wait_all_tasks_blocked()
    return asked


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (None, False),
        ({}, False),
        (CALL, True),
        (Raw(msgspec.json.encode(CALL)), True),
        (Raw(b'{"name":"task"}'), False),
        (Raw(b'{"arguments":{"task":{}}}'), False),
        (Raw(b'["task"]'), False),
    ],
)
def test_a_task_is_asked_for_by_a_member_of_the_params(params: object, expected: bool) -> None:
    assert asks_for_task(params) is expected


@pytest.mark.parametrize(
    "end",
    [
        status_of("completed"),
        status_of("failed"),
        status_of("cancelled"),
    ],
)
async def test_progress_goes_on_after_the_answer_until_the_task_ends(end: Notification) -> None:
    seen: list[float] = []
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = await begin(wire, nursery, seen)
        request = await wire.receive_request()
        # One after the other, without a moment for whoever waits.
        await wire.channel.send_many([
            Response(request.id, created()),
            progress_of(token_of(request), 1),
        ])
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(asked.outcome, Raw)
        await wire.send(status_of("working"), progress_of(token_of(request), 2))
        await wire.send(end, progress_of(token_of(request), 3))
        assert seen == [1, 2]
        assert wire.peer.statistics().progress_dropped == 1


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("tasks/get", {"taskId": "t", "status": "completed"}),
        ("tasks/cancel", {"taskId": "t", "status": "cancelled"}),
        ("tasks/result", {"content": []}),
    ],
)
async def test_an_answer_about_a_task_may_tell_of_its_end(method: str, result: object) -> None:
    seen: list[float] = []
    async with wired() as wire, trio.open_nursery() as nursery:
        await begin(wire, nursery, seen)
        request = await wire.receive_request()
        await wire.send(Response(request.id, created()))
        about = Asked()
        nursery.start_soon(about.run, lambda: wire.peer.request(method, {"taskId": "t"}))
        asked_about = await wire.receive_request()
        await wire.send(progress_of(token_of(request), 1))
        await wire.send(Response(asked_about.id, result), progress_of(token_of(request), 2))
        assert seen == [1]


async def test_a_request_that_became_no_task_has_no_progress_after_its_answer() -> None:
    seen: list[float] = []
    async with wired() as wire, trio.open_nursery() as nursery:
        await begin(wire, nursery, seen)
        request = await wire.receive_request()
        await wire.send(Response(request.id, {"content": []}), progress_of(token_of(request), 1))
        assert seen == []


async def test_a_task_nobody_waits_for_is_cancelled_once_its_id_is_known() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = await begin(wire, nursery)
        request = await wire.receive_request()
        asked.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert asked.outcome == "cancelled"
        # notifications/cancelled MUST NOT be used.
        with trio.move_on_after(0):
            message = await wire.channel.receive()
            raise AssertionError(message)
        await wire.send(Response(request.id, created()))
        cancel = await wire.receive_request()
        assert cancel.method == "tasks/cancel"
        assert cancel.params == {"taskId": "t"}
        assert cancel.id != request.id
        await wire.send(Response(cancel.id, {"taskId": "t", "status": "cancelled"}))
        assert wire.events == []


@pytest.mark.parametrize("result", [created("completed"), {"content": []}])
async def test_what_has_ended_or_is_no_task_is_not_cancelled(result: object) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = await begin(wire, nursery)
        request = await wire.receive_request()
        asked.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await wire.send(Response(request.id, result))
        assert [event.name for event in wire.events] == ["answer.late"]
        with trio.move_on_after(0):
            message = await wire.channel.receive()
            raise AssertionError(message)


def test_the_oldest_task_loses_its_progress_when_there_are_too_many() -> None:
    tasks = TaskRequests()
    pending = []
    for i in range(MAX_TASKS + 1):
        pending.append(Pending(i, "tools/call"))
        pending[-1].token = i
        dropped = tasks.began(pending[-1], Response(i, created(task_id=str(i))))
        assert dropped is (pending[0] if i == MAX_TASKS else None)


def test_malformed_news_of_tasks_is_ignored() -> None:
    tasks = TaskRequests()
    assert tasks.notified(Notification("notifications/tasks/status", Raw(b"[]"))) is None
    assert tasks.notified(Notification("notifications/tasks/status")) is None
    assert tasks.answered(Pending(1, "tasks/get"), Response(1, Raw(b'{"taskId":1}'))) is None
    pending = Pending(1, "tools/call")
    assert tasks.began(pending, Response(1, Raw(b"{}"))) is None
    assert pending.token is UNSET
    tasks.wait_for(Pending(1, "tasks/result"), [1])
