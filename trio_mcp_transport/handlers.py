"""Requests and notifications that came in, and the tasks that work on them.

Used by `Peer` alone. Each request runs in a task of its own, inside of a cancel scope that
also holds the sending of its answer: a cancelled request is answered not at all, any other
exactly once. Notifications run one after another, in order of arrival. Nothing here ever
blocks the reader, and no exception of a handler gets out.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import trio
from msgspec import UNSET, Raw

from .abc import ChannelBroken, MessageChannel
from .conversation import Call
from .errors import MessageTooLarge, MethodNotFound, RpcError
from .jsonrpc import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    Notification,
    Request,
    RequestId,
    Response,
)
from .lent_nursery import Tasks
from .reporting import lone_exception

__all__ = [
    "ENCODE_FAULTS",
    "GONE",
    "INTERNAL_ERROR",
    "Handlers",
    "PeerErrorCode",
    "Reporter",
    "error_answer",
    "held_bytes",
]

#: Called with a stable name, a text and the exception.
Reporter = Callable[[str, str, BaseException | None], object]

INTERNAL_ERROR = ErrorObject(int(ErrorCode.INTERNAL_ERROR), "Internal error")
#: What encoding something that is not JSON may raise.
ENCODE_FAULTS = (TypeError, ValueError, RecursionError, msgspec.MsgspecError)
#: What a channel raises that is no more.
GONE = (ChannelBroken, trio.ClosedResourceError)


class PeerErrorCode(enum.IntEnum):
    """Error codes of this package's own.

    MCP basic, Error Codes: new codes "SHOULD be allocated outside the JSON-RPC reserved
    range". These are the numbers of their cousins in HTTP.
    """

    #: As many requests as are allowed are being handled, and as many are waiting; or what
    #: they hold is as much as is allowed.
    TOO_MANY_REQUESTS = 429
    #: This side is about to end and finishes only what it has begun.
    SHUTTING_DOWN = 503
    #: The handler did not finish within the timeout that its method has.
    HANDLER_TIMEOUT = 504


class _Incoming:
    """A request that is being handled or waits for it."""

    __slots__ = ("call", "id", "method", "scope", "size")

    def __init__(self, request: Request, call: Call, size: int) -> None:
        self.id = request.id
        self.method = request.method
        self.call = call
        self.size = size
        self.scope = trio.CancelScope()


class Handlers:
    """Everything that one peer is working on for the other side.

    Args:
        channel: Where the answers go.
        max_handlers: Requests that are handled at a time.
        max_queued: Requests that wait for a handler.
        max_notifications: Notifications that wait for their handlers.
        max_bytes: What all of them may hold.
        expose_errors: Whether the text of a handler's exception goes out.
        reporter: Where faults go.

    Attributes:
        running: Requests that are being handled.
        held: Bytes of what is being handled or waits for it.
        ending: Whether the conversation is over: handlers may fail to send.
    """

    def __init__(
        self,
        channel: MessageChannel,
        *,
        max_handlers: int,
        max_queued: int,
        max_notifications: int,
        max_bytes: int,
        expose_errors: bool,
        reporter: Reporter,
    ) -> None:
        self._channel = channel
        self._max_handlers = max_handlers
        self._max_queued = max_queued
        self._max_notifications = max_notifications
        self._max_bytes = max_bytes
        self._expose_errors = expose_errors
        self._report = reporter
        self._tasks: Tasks | None = None
        self._by_id: dict[RequestId, _Incoming] = {}
        self._waiting: deque[_Incoming] = deque()
        self._notifications: deque[tuple[Callable[[], Awaitable[object]], int]] = deque()
        self._notifying = False
        self._idle: trio.Event | None = None
        self.running = self.held = 0
        self.ending = False

    @property
    def waiting(self) -> int:
        """Requests that wait for a handler."""
        return len(self._waiting)

    def has_room(self, size: int) -> bool:
        """Whether one more request may come in; by its bytes, one always may."""
        if self.running >= self._max_handlers and len(self._waiting) >= self._max_queued:
            return False
        return not self.held or self.held + size <= self._max_bytes

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._by_id

    def begin(self, tasks: Tasks, *, keep_first: bool = False) -> _Incoming | None:
        """Say where the tasks run; what has come already begins.

        Args:
            tasks: The place.
            keep_first: Whether the caller itself will `handle` the first request.

        Returns:
            That request, if there is one.
        """
        self._tasks = tasks
        first = None
        waiting = self._waiting
        if keep_first and waiting:
            first = waiting.popleft()
            self.running += 1
        while waiting and self.running < self._max_handlers:
            self._start(waiting.popleft())
        if self._notifications:
            self._notifying = True
            tasks.start_soon(self._run_notifications)
        return first

    # -- from the reader; nothing here waits -----------------------------------------

    def add(self, request: Request, call: Call, size: int) -> None:
        """Handle a request, now or when there is a free handler."""
        incoming = self._by_id[request.id] = _Incoming(request, call, size)
        self.held += size
        if self._tasks is None or self.running >= self._max_handlers:
            self._waiting.append(incoming)
        else:
            self._start(incoming)

    def cancel(self, request_id: RequestId) -> bool:
        """Cancel a request at the other side's wish; False if that cannot be."""
        incoming = self._by_id.get(request_id)
        # 2025-11-25, cancellation: "The initialize request MUST NOT be cancelled".
        if incoming is None or incoming.method == "initialize":
            return False
        incoming.scope.cancel()
        if incoming in self._waiting:
            self._waiting.remove(incoming)
            self._forget(incoming)
        return True

    def add_notification(self, work: Callable[[], Awaitable[object]], size: int) -> bool:
        """Run this after the notifications that came before; False when there is no room."""
        if len(self._notifications) >= self._max_notifications:
            return False
        if self.held and self.held + size > self._max_bytes:
            return False
        self._notifications.append((work, size))
        self.held += size
        if not self._notifying and self._tasks is not None:
            self._notifying = True
            self._tasks.start_soon(self._run_notifications)
        return True

    def cancel_all(self) -> None:
        """Stop everything; nothing is answered any more."""
        self._waiting.clear()
        self._notifications.clear()
        for incoming in self._by_id.values():
            incoming.scope.cancel()

    async def wait_idle(self) -> None:
        """Wait until nothing is left to do; no checkpoint if nothing is."""
        if self.running or self._notifying:
            if self._idle is None or self._idle.is_set():  # else somebody waits for it as well
                self._idle = trio.Event()
            await self._idle.wait()

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is left to do, at most so long; report what is left then."""
        if self.running or self._notifying:
            with trio.move_on_after(seconds) as patience:
                await self.wait_idle()
            if patience.cancelled_caught:
                count = len(self._by_id) + self._notifying + len(self._notifications)
                message = f"{count} handlers were not done within {seconds:g} s and are cut off"
                self._report("drain.expired", message, None)

    async def guard(self, work: Callable[[], Awaitable[object]], what: str) -> None:
        """Run something whose exceptions are reported, not raised."""
        try:
            await work()
        except* GONE:
            pass  # the reader sees that the channel is gone, and says so
        except* Exception as group:
            error = lone_exception(group)
            self._report("handler.failed", f"{what} failed: {error!r}", error)

    # -- the tasks ------------------------------------------------------------------

    async def _run_notifications(self) -> None:
        """Run notification handlers, one after the other; ends when none is left."""
        try:
            while self._notifications:
                work, size = self._notifications.popleft()
                await self.guard(work, "a notification's handler")
                self.held -= size
        finally:
            self._notifying = False
            self._note_idle()

    def _start(self, incoming: _Incoming) -> None:
        assert self._tasks is not None
        self.running += 1
        # Trio would put a name together for each task.
        self._tasks.start_soon(self.handle, incoming, name="trio_mcp_transport handler")

    async def handle(self, incoming: _Incoming) -> None:
        """Run one request's handler and send its answer."""
        try:
            with incoming.scope:
                await self._send_answer(incoming, await self._answer(incoming))
        except* Exception as group:
            # What a nursery of a cancelled handler raised along with `Cancelled`, which
            # the scope took out of the group. Nobody waits for an answer any more.
            error = lone_exception(group)
            self._report("handler.failed", f"{incoming.method!r}, cancelled, failed", error)
        finally:
            self._forget(incoming)
            self.running -= 1
            if self._waiting:
                self._start(self._waiting.popleft())
            elif not self.running:
                self._note_idle()

    def _forget(self, incoming: _Incoming) -> None:
        del self._by_id[incoming.id]
        self.held -= incoming.size

    def _note_idle(self) -> None:
        if self._idle is not None and not self.running and not self._notifying:
            self._idle.set()

    async def _answer(self, incoming: _Incoming) -> Response | ErrorResponse:
        call = incoming.call
        try:
            if call.timeout == math.inf:
                result = await call.run()
            else:
                with trio.move_on_after(call.timeout) as scope:
                    result = await call.run()
                if scope.cancelled_caught:
                    text = f"{incoming.method} did not finish within {call.timeout:g} s"
                    error_ = ErrorObject(int(PeerErrorCode.HANDLER_TIMEOUT), text)
                    return ErrorResponse(incoming.id, error_)
        except RpcError as error:
            return error_answer(incoming.id, error)
        except msgspec.ValidationError as error:
            text = f"Invalid params: {error}"
            return ErrorResponse(incoming.id, ErrorObject(int(ErrorCode.INVALID_PARAMS), text))
        except Exception as error:
            return self._failed(incoming, error)
        if isinstance(result, Response):  # a foreign dispatcher's: the id is ours
            result = result.result
        elif isinstance(result, ErrorResponse):
            return ErrorResponse(incoming.id, result.error).with_cause(result.cause)
        if result is None:
            text = "The handler gave no result"
            self._report("handler.failed", f"{text}: {incoming.method!r}", None)
            return ErrorResponse(incoming.id, ErrorObject(int(ErrorCode.INTERNAL_ERROR), text))
        if type(result) is Raw and not _is_json(result):
            self._report("handler.failed", f"the result of {incoming.method!r} is no JSON", None)
            return ErrorResponse(incoming.id, INTERNAL_ERROR)
        return Response(incoming.id, result)

    def _failed(self, incoming: _Incoming, error: Exception) -> ErrorResponse:
        lone = lone_exception(error)
        if isinstance(lone, RpcError):  # out of a nursery of the handler's
            return error_answer(incoming.id, lone)
        if not (self.ending and isinstance(lone, GONE)):  # an ordinary thing at the end
            self._report("handler.failed", f"the handler of {incoming.method!r} failed", error)
        if self._expose_errors:
            text = type(lone).__name__
            with suppress(Exception):  # its own __str__ may fail
                text += f": {lone}"
            return ErrorResponse(incoming.id, ErrorObject(int(ErrorCode.INTERNAL_ERROR), text))
        return ErrorResponse(incoming.id, INTERNAL_ERROR)

    async def _send_answer(self, incoming: _Incoming, answer: Response | ErrorResponse) -> None:
        # A request that was cancelled meanwhile is not answered.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            if not self._channel.try_send(answer):
                await self._channel.send(answer)
        except GONE:
            pass  # a side that goes away before its answer is an ordinary thing
        except MessageTooLarge as error:
            self._report("handler.failed", f"the answer to {incoming.method!r}: {error}", error)
            text = f"The result is too large: {error}"
            await self._send_error(incoming, ErrorObject(int(ErrorCode.INTERNAL_ERROR), text))
        except ENCODE_FAULTS as error:
            self._report("handler.failed", f"the result of {incoming.method!r} is no JSON", error)
            await self._send_error(incoming, INTERNAL_ERROR)

    async def _send_error(self, incoming: _Incoming, error: ErrorObject) -> None:
        try:
            await self._channel.send(ErrorResponse(incoming.id, error))
        except (*GONE, MessageTooLarge):
            pass  # not even a text as short as this one is allowed


def _is_json(raw: Raw) -> bool:
    """Whether raw JSON that a handler made is whole: it goes out as it is."""
    try:
        msgspec.json.decode(raw, type=Raw)
        bytes(raw).decode()
    except ENCODE_FAULTS:
        return False
    return True


def held_bytes(message: Request | Notification) -> int:
    """About how many bytes a message holds on to until its handler is done."""
    params = message.params
    size = memoryview(params).nbytes if type(params) is Raw else 0
    if type(message) is Request and type(message.id) is str:
        size += len(message.id)
    return size + len(message.method)


def error_answer(request_id: RequestId, error: RpcError) -> ErrorResponse:
    """The answer that carries an `RpcError`."""
    data = UNSET if error.data is None else error.data
    answer = ErrorResponse(request_id, ErrorObject(int(error.code), error.message, data))
    # A transport that has a status for "no such method" must not guess from the code.
    return answer.with_cause(error) if isinstance(error, MethodNotFound) else answer
