"""Requests that the other side turned into tasks (revision 2025-11-25).

Used by `Outgoing` alone. A task-augmented request is answered at once, with a task that
goes on; what began with the request outlives its answer: the progress token, and the way to
cancel it, which is `tasks/cancel` and needs the task's id. Pure bookkeeping, bounded.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .jsonrpc import ErrorResponse, Notification, RequestId, Response
from .limits import MAX_ABANDONED_IDS, MAX_TASKS
from .pending import Pending

__all__ = ["TaskRequests", "asks_for_task"]

#: 2025-11-25, Tasks: "Tasks with a completed, failed, or cancelled status are in a terminal
#: state and MUST NOT transition to any other status".
_TERMINAL = frozenset({"completed", "failed", "cancelled"})


class _Task(msgspec.Struct):
    taskId: str  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)
    status: str = ""


class _Created(msgspec.Struct):
    task: _Task


class _Params(msgspec.Struct):
    task: dict[str, object] | UnsetType = UNSET
    taskId: str | UnsetType = UNSET  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


def asks_for_task(params: object) -> bool:
    """Whether a request with these params is task-augmented."""
    if isinstance(params, Mapping):
        return "task" in params
    if isinstance(params, Raw) and b'"task"' in bytes(params):
        return _params(params).task is not UNSET
    return False


def _params(params: object) -> _Params:
    try:
        if isinstance(params, Raw):
            return msgspec.json.decode(params, type=_Params)
        return msgspec.convert(params, _Params)
    except msgspec.ValidationError:
        return _Params()


class TaskRequests:
    """The tasks of one peer's requests."""

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}
        self._given_up: dict[RequestId, None] = {}
        self._waited_for: dict[RequestId, str] = {}

    def wait_for(self, pending: Pending, params: object) -> None:
        """Note which task a `tasks/result` asks for: its answer is the task's end."""
        task_id = _params(params).taskId
        if task_id is not UNSET:
            self._waited_for[pending.id] = task_id

    def forget(self, request_id: RequestId) -> None:
        """The request was given up."""
        self._waited_for.pop(request_id, None)

    def began(self, pending: Pending, answer: Response | ErrorResponse) -> Pending | None:
        """The answer to a task-augmented request: from now on the task has its token.

        Returns:
            The request whose token is not needed any more: this one if there is no task
            that goes on, or the oldest if there are too many.
        """
        task = _created(answer)
        if pending.token is UNSET:
            return None
        if task is None or task.status in _TERMINAL:
            return pending
        self._pending[task.taskId] = pending
        if len(self._pending) > MAX_TASKS:
            return self._pending.pop(next(iter(self._pending)))
        return None

    def answered(self, pending: Pending, answer: Response | ErrorResponse) -> Pending | None:
        """Any answer about a task. Returns the request whose task has ended with it."""
        if pending.method == "tasks/result":
            return self._ended(self._waited_for.pop(pending.id, None))
        if pending.method in {"tasks/get", "tasks/cancel"} and type(answer) is Response:
            return self._look_at(answer.result)
        return None

    def notified(self, notification: Notification) -> Pending | None:
        """`notifications/tasks/status`. Returns the request whose task has ended."""
        return self._look_at(notification.params)

    def give_up(self, request_id: RequestId) -> None:
        """Nobody waits for the task any more, whose id is not known yet."""
        if len(self._given_up) >= MAX_ABANDONED_IDS:
            del self._given_up[next(iter(self._given_up))]
        self._given_up[request_id] = None

    def to_cancel(self, answer: Response | ErrorResponse) -> str | None:
        """The id of the task that came too late, and is to be cancelled."""
        if answer.id not in self._given_up:
            return None
        del self._given_up[answer.id]
        task = _created(answer)
        return None if task is None or task.status in _TERMINAL else task.taskId

    def _look_at(self, status: object) -> Pending | None:
        try:
            if not isinstance(status, Raw):
                status = Raw(msgspec.json.encode(status))
            task = msgspec.json.decode(status, type=_Task)
        except (msgspec.MsgspecError, TypeError):
            return None
        return self._ended(task.taskId) if task.status in _TERMINAL else None

    def _ended(self, task_id: str | None) -> Pending | None:
        return None if task_id is None else self._pending.pop(task_id, None)


def _created(answer: Response | ErrorResponse) -> _Task | None:
    if type(answer) is not Response:
        return None
    try:
        return answer.result_as(_Created).task
    except msgspec.ValidationError:
        return None
