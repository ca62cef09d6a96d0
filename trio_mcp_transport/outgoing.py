"""Requests that go out, and what comes back for them.

Used by `Peer` alone. The caller's task sends its request and parks; the reader's task
delivers answers, progress and what else belongs to a request. Delivering never blocks, and
no exception of a callback gets out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio
from msgspec import UNSET, Raw

from .abc import ChannelBroken, MessageChannel
from .errors import HttpError, MessageTooLarge, RequestTimeout, RpcError, TransportError
from .handlers import GONE, Reporter
from .jsonrpc import ErrorResponse, InvalidMessage, Notification, Request, RequestId, Response
from .lent_nursery import Tasks
from .pending import Pending, PendingTable, Progress, ProgressParams
from .sansio.metadata import as_raw, with_meta
from .task_requests import TaskRequests, asks_for_task

__all__ = ["Outgoing", "fresh"]

T = TypeVar("T")


class Outgoing:
    """Everything that one peer has asked the other side for.

    Args:
        channel: Where the requests go.
        reporter: Where faults go.
        diagnoser: Where that goes which is none.

    Attributes:
        sent: Requests that were handed to the channel.
        late: Answers to requests that had been given up.
        unknown: Answers to nothing that was asked.
        progress_dropped: Progress that did not rise, or was nobody's.
    """

    def __init__(
        self,
        channel: MessageChannel,
        reporter: Reporter,
        diagnoser: Callable[[str, str], object],
    ) -> None:
        self._channel = channel
        self._report = reporter
        self._diagnose = diagnoser
        self._table = PendingTable()
        self._tasks = TaskRequests()
        self._unwaited: set[RequestId] = set()
        self.sent = self.late = self.unknown = self.progress_dropped = 0

    def __len__(self) -> int:
        return len(self._table)

    async def exchange(
        self,
        tasks: Tasks,
        method: str,
        params: object,
        timeout: float,  # ruff: ignore[async-function-with-timeout]
        max_timeout: float,
        on_progress: Callable[[Progress], object] | None,
        on_notification: Callable[[Notification], object] | None,
        request_id: RequestId | None,
    ) -> Raw:
        """Send one request and wait for its answer; everything is as for `Peer.request`.

        The task that watches over deadlines runs in `tasks`.
        """
        pending = self._table.enter(request_id, method)
        sent = False
        try:
            if on_progress is not None or on_notification is not None:
                self._table.watch(pending, on_progress, on_notification)
                if pending.token is not UNSET:
                    params = with_meta(params, {"progressToken": pending.token})
            pending.is_task = asks_for_task(params)
            if method == "tasks/result":
                self._tasks.wait_for(pending, params)
            message = Request(pending.id, method, UNSET if params is None else params)
            pending.set_timeout(timeout, max_timeout)
            await trio.lowlevel.checkpoint_if_cancelled()
            sent = self._channel.try_send(message)  # parking is the checkpoint then
            if not sent:
                with trio.CancelScope(deadline=pending.deadline):
                    await self._channel.send(message)
                    sent = True
            if sent:
                self.sent += 1
                self._table.watch_deadline(pending, tasks)
                await pending.wait()
        finally:
            if pending.outcome is None:
                self._table.give_up(pending, was_sent=sent)
                self._tasks.forget(pending.id)
                if sent:
                    self._tell_cancelled(pending)
        outcome = pending.outcome
        if type(outcome) is Response:
            return as_raw(outcome.result)
        if type(outcome) is ErrorResponse:
            cause = outcome.cause
            if isinstance(cause, TransportError) and not isinstance(cause, RpcError):
                # Nobody but the channel made this answer.
                raise cause.again() if isinstance(cause, ChannelBroken | HttpError) else cause
            raise outcome.as_exception()
        if outcome is None:
            # MCP patterns/cancellation: "the sender SHOULD cancel the request and stop
            # waiting for a response".
            raise RequestTimeout(f"no answer to {method} within {timeout:g} s")
        assert isinstance(outcome, Exception)
        raise fresh(outcome) from outcome

    def _tell_cancelled(self, pending: Pending) -> None:
        # 2025-11-25, cancellation: "The initialize request MUST NOT be cancelled by clients".
        if pending.method == "initialize":
            return
        if pending.is_task:
            # "For task-augmented requests, the tasks/cancel request MUST be used instead of
            # the notifications/cancelled notification." It needs the task's id, which the
            # answer brings.
            self._tasks.give_up(pending.id)
            return
        self._send_control(Notification("notifications/cancelled", {"requestId": pending.id}))

    def _send_control(self, message: Request | Notification) -> bool:
        try:
            self._channel.send_control(message)
        except (*GONE, MessageTooLarge):
            return False  # nobody is there to be told
        return True

    def _cancel_task(self, task_id: str) -> None:
        """Have a task stopped that nobody waits for."""
        cancel = self._table.enter(None, "tasks/cancel")
        self._table.give_up(cancel, was_sent=True)
        if self._send_control(Request(cancel.id, "tasks/cancel", {"taskId": task_id})):
            self._unwaited.add(cancel.id)

    def fail_all(self, cause: Exception) -> None:
        """End every open request with the same cause."""
        self._table.fail_all(cause)

    # -- from the reader; nothing here waits -----------------------------------------

    def deliver_answer(self, answer: Response | ErrorResponse) -> None:
        """Wake whoever waits for this answer."""
        request_id = answer.id
        pending = None if request_id is None else self._table.take(request_id)
        if pending is not None:
            self._note_task(pending, answer)
            pending.finish(answer)
        elif self._table.is_late(request_id):
            task_id = self._tasks.to_cancel(answer)
            if task_id is not None:
                self._cancel_task(task_id)
                return
            if request_id in self._unwaited:
                self._unwaited.discard(request_id)
                return
            self.late += 1
            # It was on its way when the request was given up: an ordinary race.
            self._diagnose("answer.late", f"the answer to request {request_id!r} came too late")
        else:
            self.unknown += 1
            self._report(
                "answer.unknown", f"an answer to {request_id!r:.100}, which was not asked", None
            )

    def _note_task(self, pending: Pending, answer: Response | ErrorResponse) -> None:
        if pending.is_task:
            ended = self._tasks.began(pending, answer)
        elif pending.method.startswith("tasks/"):
            ended = self._tasks.answered(pending, answer)
        else:
            return
        if ended is not None:
            self._table.drop_token(ended)

    def deliver_task_status(self, notification: Notification) -> None:
        """A task goes on, or has ended."""
        ended = self._tasks.notified(notification)
        if ended is not None:
            self._table.drop_token(ended)

    def deliver_broken(self, request_id: RequestId, error: InvalidMessage) -> None:
        """Fail whoever waits for an answer that came malformed."""
        pending = self._table.take(request_id)
        if pending is not None:
            pending.finish(error)

    def deliver_related(self, notification: Notification) -> bool:
        """Hand over a notification that belongs to a request; False if it does not."""
        pending = self._table.related(notification)
        if pending is None:
            return False
        self._call_back(pending.on_notification, notification)
        return True

    def deliver_to(self, request_id: RequestId, notification: Notification) -> bool:
        """Hand over a notification about this request; False if nobody listens there."""
        pending = self._table.get(request_id)
        if pending is None or pending.on_notification is None:
            return False
        self._call_back(pending.on_notification, notification)
        return True

    def deliver_progress(self, notification: Notification) -> None:
        """Tell whoever asked for this progress."""
        try:
            params = notification.params_as(ProgressParams)
            pending = self._table.progress(params)
        except msgspec.DecodeError:
            pending = None
        if pending is None:
            self.progress_dropped += 1
            return
        progress = Progress(params.progress, params.total, params.message)
        self._call_back(pending.on_progress, progress)
        self._call_back(pending.on_notification, notification)

    def _call_back(self, callback: Callable[[T], object] | None, value: T) -> None:
        if callback is None:
            return
        try:
            callback(value)
        except Exception as error:
            self._report("callback.failed", f"{callback!r} failed: {error!r}", error)


def fresh(cause: Exception) -> Exception:
    """An exception of the waiter's own, to be raised `from` the one cause."""
    if isinstance(cause, InvalidMessage):
        return InvalidMessage(f"the answer is malformed: {cause}", code=cause.code)
    if isinstance(cause, ChannelBroken | HttpError):
        return cause.again()
    return type(cause)(*cause.args)
