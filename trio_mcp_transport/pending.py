"""Requests that were sent and wait for their answer.

Used by `Peer` alone. A `PendingTable` matches answers and progress to requests; it never
sends and never blocks. Each request that is entered leaves it exactly once: answered,
failed with the connection, or given up.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import trio
from msgspec import UNSET, UnsetType

from .errors import RequestIdInUse
from .jsonrpc import ErrorResponse, Notification, RequestId, Response
from .lent_nursery import Tasks
from .limits import MAX_ABANDONED_IDS
from .sansio.metadata import read_subscription_id

__all__ = ["Pending", "PendingTable", "Progress", "ProgressParams"]


class Progress(msgspec.Struct, frozen=True):
    """How far a request has come.

    Attributes:
        progress: Rises with each notification.
        total: What it will reach, when the other side knows.
        message: For a person.
    """

    progress: float
    total: float | None = None
    message: str | None = None


class ProgressParams(msgspec.Struct, frozen=True):
    """Params of `notifications/progress`."""

    progressToken: RequestId  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)
    progress: float
    total: float | None = None
    message: str | None = None


class Pending:
    """One request in flight: where its waiter is parked, and what became of it.

    Attributes:
        outcome: The answer, or the cause that the connection ended with; None while open.
        deadline: When its time is up; progress moves it, at most to `latest`.
        is_task: Whether it is task-augmented: its token outlives its answer.
    """

    __slots__ = (
        "_task",
        "deadline",
        "id",
        "is_task",
        "last_progress",
        "latest",
        "method",
        "on_notification",
        "on_progress",
        "outcome",
        "timeout",
        "token",
    )

    def __init__(self, request_id: RequestId, method: str) -> None:
        self.id = request_id
        self.method = method
        self.is_task = False
        self.outcome: Response | ErrorResponse | Exception | None = None
        self.deadline = math.inf
        self.timeout = math.inf
        self.latest = math.inf
        self.token: RequestId | UnsetType = UNSET
        self.last_progress = -math.inf
        self.on_progress: Callable[[Progress], object] | None = None
        self.on_notification: Callable[[Notification], object] | None = None
        self._task: trio.lowlevel.Task | None = None

    def set_timeout(self, timeout: float, max_timeout: float) -> None:
        """Count from now: `timeout` seconds without progress, `max_timeout` in all."""
        now = trio.current_time()
        self.timeout, self.latest = timeout, now + max_timeout
        self.deadline = now + min(timeout, max_timeout)

    async def wait(self) -> None:
        """Park until `finish` or `wake`; cancelling just leaves."""
        if self.outcome is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def finish(self, outcome: Response | ErrorResponse | Exception) -> None:
        """Say what became of it and wake the waiter."""
        self.outcome = outcome
        self.wake()

    def wake(self) -> None:
        """Wake the waiter, for whom nothing has come if there is no outcome."""
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)


class PendingTable:
    """All requests of one peer that wait for an answer, by id and by progress token.

    Ids are compared with their type: 1 is not "1".
    """

    __slots__ = (
        "_abandoned",
        "_by_id",
        "_by_token",
        "_last_id",
        "_last_token",
        "_listening",
        "_timer",
    )

    def __init__(self) -> None:
        self._by_id: dict[RequestId, Pending] = {}
        self._by_token: dict[RequestId, Pending] = {}
        self._abandoned: dict[RequestId, None] = {}
        self._last_id = 0
        self._last_token = 0
        self._listening = 0
        self._timer: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def enter(self, request_id: RequestId | None, method: str) -> Pending:
        """Reserve an id, the next free one if none is given.

        Raises:
            RequestIdInUse: It was not answered yet.
            TypeError: It is neither a string nor an integer.
        """
        by_id = self._by_id
        if request_id is None:
            request_id = self._last_id + 1
            while request_id in by_id or request_id in self._abandoned:
                request_id += 1
            self._last_id = request_id
        # MCP basic: "The request ID MUST NOT match the ID of any other request the sender
        # has issued and not yet received a response for." That includes the given up ones.
        elif request_id in by_id or request_id in self._abandoned:
            raise RequestIdInUse(f"request id {request_id!r} has not been answered yet")
        elif type(request_id) is not int and type(request_id) is not str:
            raise TypeError(f"a request id is a string or an integer, not {request_id!r}")
        pending = by_id[request_id] = Pending(request_id, method)
        return pending

    def watch(
        self,
        pending: Pending,
        on_progress: Callable[[Progress], object] | None,
        on_notification: Callable[[Notification], object] | None,
    ) -> None:
        """Note who wants to hear of it; for progress it gets a token."""
        pending.on_progress, pending.on_notification = on_progress, on_notification
        if on_notification is not None:
            self._listening += 1
        if on_progress is not None:
            # MCP patterns/progress: tokens "MUST be unique across all active requests". The
            # id is, unless another one's token is just that.
            token = pending.id
            while token in self._by_token:
                self._last_token += 1
                token = f"progress-{self._last_token}"
            pending.token = token
            self._by_token[token] = pending

    def get(self, request_id: RequestId) -> Pending | None:
        """The open request with this id."""
        return self._by_id.get(request_id)

    def take(self, request_id: RequestId) -> Pending | None:
        """Remove and return the open request with this id: its answer has come."""
        pending = self._by_id.pop(request_id, None)
        if pending is not None:
            # 2025-11-25, Progress: of a task "the progressToken provided in the original
            # request MUST continue to be used for progress notifications throughout the
            # task's lifetime".
            if not pending.is_task:
                self.drop_token(pending)
            if pending.on_notification is not None:
                self._listening -= 1
        return pending

    def drop_token(self, pending: Pending) -> None:
        """No progress is wanted any more."""
        if pending.token is not UNSET:
            self._by_token.pop(pending.token, None)

    def give_up(self, pending: Pending, *, was_sent: bool) -> None:
        """Forget a request whose waiter left; once sent, its answer may still come."""
        self.take(pending.id)
        self.drop_token(pending)
        if was_sent:
            if len(self._abandoned) >= MAX_ABANDONED_IDS:
                del self._abandoned[next(iter(self._abandoned))]
            self._abandoned[pending.id] = None

    def is_late(self, request_id: RequestId | None) -> bool:
        """Whether an answer belongs to a request that was given up; asked once for each."""
        if request_id in self._abandoned:
            del self._abandoned[request_id]
            return True
        return False

    def progress(self, params: ProgressParams) -> Pending | None:
        """The request that a progress notification is for, if it may be delivered.

        It extends the request's deadline, never past its maximum.
        """
        pending = self._by_token.get(params.progressToken)
        # MCP patterns/progress: "The progress value MUST increase with each notification".
        if pending is None or not params.progress > pending.last_progress:
            return None
        pending.last_progress = params.progress
        pending.deadline = min(trio.current_time() + pending.timeout, pending.latest)
        return pending

    def watch_deadline(self, pending: Pending, tasks: Tasks) -> None:
        """See to it that a request is woken when its time is up.

        One task does that for all of them, as a cancel scope for each would cost about
        as much as the rest of a request.
        """
        deadline = pending.deadline
        if deadline == math.inf:
            return
        if self._timer is None:
            self._timer = trio.CancelScope(deadline=deadline)
            tasks.start_soon(self._expire)
        elif deadline < self._timer.deadline:
            self._timer.deadline = deadline

    async def _expire(self) -> None:
        while self._timer is not None:
            with self._timer:
                await trio.sleep_forever()
            now, earliest = trio.current_time(), math.inf
            for pending in self._by_id.values():
                if pending.deadline <= now:
                    pending.wake()
                else:
                    earliest = min(earliest, pending.deadline)
            self._timer = None if earliest == math.inf else trio.CancelScope(deadline=earliest)

    def related(self, notification: Notification) -> Pending | None:
        """The request that a notification belongs to, if that one listens."""
        if not self._listening:
            return None
        pending = None
        if notification.method == "notifications/message":
            # Nothing in it says whose it is, so only a lone request may have it.
            if len(self._by_id) == 1:
                (pending,) = self._by_id.values()
        else:
            subscription_id = read_subscription_id(notification.params)
            if subscription_id is not None:
                pending = self._by_id.get(subscription_id)
        return None if pending is None or pending.on_notification is None else pending

    def fail_all(self, cause: Exception) -> None:
        """End every open request with the same cause."""
        open_requests = list(self._by_id.values())
        self._by_id.clear()
        self._by_token.clear()
        self._listening = 0
        for pending in open_requests:
            pending.finish(cause)
