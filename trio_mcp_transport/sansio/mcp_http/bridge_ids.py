"""What a child process behind an HTTP bridge is working on, and for whom.

Pure; used by `gateway`. Clients do not know of each other, so their ids and progress tokens
may be the same: each request gets an id of its own on its way to the child, and what comes
back gets the old one again, in its own JSON type. Nothing else of a message is changed:

=====================================  =====================================================
to the child                           ``id``; ``params._meta.progressToken``;
                                       ``params.requestId`` of `notifications/cancelled`
from the child                         ``id``; ``params.progressToken``; ``params.requestId``
                                       of `notifications/cancelled`; the ``subscriptionId``
                                       in ``_meta`` of notifications and results
=====================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw

from ...jsonrpc import ErrorResponse, Notification, Request, RequestId, Response
from ...limits import MAX_ABANDONED_IDS
from ..metadata import SUBSCRIPTION_ID_KEY, as_raw
from ..splice import read_member, replace_member

__all__ = ["ChildTable", "Origin", "Passed", "Routed"]

#: Whose request it is: whatever the adapter can send to.
Origin = TypeVar("Origin", bound=Hashable)

_CANCELLED = "notifications/cancelled"
_LISTEN = "subscriptions/listen"
#: What nothing may travel with that does not belong to it.
_BY_THEMSELVES = frozenset({"initialize", _LISTEN})

_decode_id: Callable[[Raw], RequestId] = msgspec.json.Decoder(int | str).decode
_encode = msgspec.json.Encoder().encode
_DECODE_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, ValueError)


class Passed(msgspec.Struct, Generic[Origin]):
    """A request that was passed on to the child.

    Attributes:
        origin: Who is to get the answer.
        request_id: Its id there.
        method: Its method.
        token: Its progress token there, as raw JSON; None without one.
        is_task: Whether it asked to become a task, whose progress goes on after the answer.
    """

    origin: Origin
    request_id: RequestId
    method: str
    token: Raw | None
    is_task: bool


class Routed(msgspec.Struct, Generic[Origin]):
    """A message of the child and where it goes.

    Attributes:
        message: As its receiver is to see it.
        passed: The request that it belongs to; None if it belongs to none in particular.
    """

    message: Notification
    passed: Passed[Origin] | None


class ChildTable(Generic[Origin]):
    """The requests that one child has to answer, and those that it has asked.

    Attributes:
        dropped: Messages of the child that belonged to nobody any more, and answers of
            clients to what it had not asked.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._last = 0
        self._requests: dict[int, Passed[Origin]] = {}
        #: Those of tasks, whose progress tokens outlive the answer.
        self._tasks: dict[int, Passed[Origin]] = {}
        self._asked: dict[RequestId, object] = {}

    def __len__(self) -> int:
        """Requests that are not answered yet."""
        return len(self._requests)

    # -- to the child -------------------------------------------------------------------

    def pass_request(self, origin: Origin, request: Request) -> Request:
        """The request as the child gets it."""
        self._last += 1
        new_id = self._last
        params, token, is_task = request.params, None, False
        if params is not UNSET:
            raw = as_raw(params)
            token = read_member(raw, "_meta", "progressToken")
            if token is not None:
                params = replace_member(raw, b"%d" % new_id, "_meta", "progressToken")
                is_task = read_member(raw, "task") is not None
        self._requests[new_id] = Passed(origin, request.id, request.method, token, is_task)
        return Request(new_id, request.method, params)

    def pass_notification(self, origin: Origin, notification: Notification) -> Notification | None:
        """The notification as the child gets it; None: it cancels what is not in flight."""
        if notification.method != _CANCELLED:
            return notification
        wanted = _id_in(notification, "requestId")
        for new_id, passed in self._requests.items():
            if passed.origin == origin and passed.request_id == wanted:
                # There may never be an answer; if there is, it is nobody's.
                del self._requests[new_id]
                return _with_param(notification, b"%d" % new_id, "requestId")
        return None

    def accept_answer(self, answer: Response | ErrorResponse) -> bool:
        """Whether a client's answer is to a request that the child has in flight.

        To another it would be an invention of the client's.
        """
        if answer.id is None or answer.id not in self._asked:
            self.dropped += 1
            return False
        del self._asked[answer.id]
        return True

    def give_up_asking(self, request_id: RequestId) -> bool:
        """Nobody will answer what the child has asked; False if somebody has."""
        return self._asked.pop(request_id, self) is not self

    def forget(self, origin: Origin) -> tuple[list[int], list[RequestId]]:
        """A client is gone: nobody waits for its answers, and nobody answers on its behalf.

        Returns:
            The ids of its requests, as the child knows them, which may be cancelled; and
            those of what the child has asked it, which need an error for an answer.
        """
        passed = [new_id for new_id, entry in self._requests.items() if entry.origin == origin]
        asked = [id_ for id_, asked_of in self._asked.items() if asked_of == origin]
        for new_id in passed:
            del self._requests[new_id]
        for id_ in asked:
            del self._asked[id_]
        for new_id in [new_id for new_id, entry in self._tasks.items() if entry.origin == origin]:
            del self._tasks[new_id]
        return passed, asked

    # -- from the child -----------------------------------------------------------------

    def route_answer(
        self, answer: Response | ErrorResponse
    ) -> tuple[Passed[Origin], Response | ErrorResponse] | None:
        """Whose answer it is, and how it reads there; None if nobody waits for it."""
        passed = self._requests.pop(answer.id, None) if type(answer.id) is int else None
        if passed is None:
            self.dropped += 1
            return None
        if isinstance(answer, ErrorResponse):
            return passed, ErrorResponse(passed.request_id, answer.error)
        if passed.is_task and type(answer.id) is int:
            # 2025-11-25, Tasks: the progress token "remains valid throughout the task's
            # lifetime", which may be long after this.
            self._tasks[answer.id] = passed
            if len(self._tasks) > MAX_ABANDONED_IDS:
                del self._tasks[next(iter(self._tasks))]
        result = answer.result
        if passed.method == _LISTEN:
            original = _encode(passed.request_id)
            result = replace_member(as_raw(result), original, "_meta", SUBSCRIPTION_ID_KEY)
        return passed, Response(passed.request_id, result)

    def route_notification(self, notification: Notification) -> Routed[Origin] | None:
        """Where it goes; None if what it belongs to is over.

        What does not say where it belongs (`Routed.passed` is None) is the adapter's to
        place, see `candidates`.
        """
        if notification.params is UNSET:
            return Routed(notification, None)
        if notification.method == _CANCELLED:
            path: tuple[str, ...] = ("requestId",)
            own = _id_in(notification, *path)
            if own is not None and self.give_up_asking(own):
                return Routed(notification, None)
        elif _member_in(notification, "progressToken") is not None:
            path = ("progressToken",)
        elif _member_in(notification, "_meta", SUBSCRIPTION_ID_KEY) is not None:
            path = ("_meta", SUBSCRIPTION_ID_KEY)
        else:
            return Routed(notification, None)
        named = _id_in(notification, *path)
        passed = None
        if type(named) is int:
            passed = self._requests.get(named)
            if passed is None and path == ("progressToken",):
                passed = self._tasks.get(named)
        if passed is None:
            self.dropped += 1
            return None
        original = _encode(passed.request_id)
        if path == ("progressToken",):
            if passed.token is None:
                self.dropped += 1
                return None
            original = bytes(passed.token)
        return Routed(_with_param(notification, original, *path), passed)

    def ask(self, request: Request, origin: Origin | None) -> bool:
        """The child asks something of a client; None for nobody in particular.

        Returns:
            False if too much of what it has asked is not answered yet: ask nobody.
        """
        if len(self._asked) >= MAX_ABANDONED_IDS and request.id not in self._asked:
            return False
        self._asked[request.id] = origin
        return True

    def in_flight(self) -> list[Passed[Origin]]:
        """The requests that are not answered yet, the oldest first."""
        return list(self._requests.values())

    def candidates(self) -> list[Passed[Origin]]:
        """The requests that something of the child's may travel with that says not where to.

        The oldest first.
        """
        return [p for p in self._requests.values() if p.method not in _BY_THEMSELVES]


def _member_in(notification: Notification, *path: str) -> Raw | None:
    return read_member(as_raw(notification.params), *path)


def _id_in(notification: Notification, *path: str) -> RequestId | None:
    raw = None if notification.params is UNSET else _member_in(notification, *path)
    if raw is None:
        return None
    try:
        return _decode_id(raw)
    except _DECODE_FAULTS:
        return None


def _with_param(notification: Notification, value: bytes, *path: str) -> Notification:
    params = replace_member(as_raw(notification.params), value, *path)
    return Notification(notification.method, params)
