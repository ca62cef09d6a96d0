"""The one child that modern exchanges over HTTP share.

Part of `gateway`. It is started when it is first wanted. When it dies, everybody who waits
for it gets an error (listen streams just end), and it is started again, after a pause that
grows from time to time.

Theory of operation: the child is read by one task, which must not wait for any client. What
it says is sent at once if the exchange has room, and put into the exchange's queue if
not, which a task of that exchange empties; an exchange whose client does not keep up is
ended. A client that goes away cancels what it asked for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

import msgspec
import trio

from .abc import ChannelBroken, ChannelEvent, EventHandler, MessageChannel
from .errors import ConnectFailed, MessageTooLarge
from .jsonrpc import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    encode_message,
)
from .limits import DEFAULT_OUTBOX_BYTES
from .reporting import report
from .restart import RestartPolicy
from .sansio.mcp_http.bridge_ids import ChildTable
from .sansio.mcp_http.mirrored import HeaderSchema, InvalidHeaderSchema, read_header_schema
from .sansio.metadata import as_raw

__all__ = ["SharedChild", "error_answer"]

#: Tools whose headers are remembered; more than any server has.
_MAX_TOOLS = 10_000


def error_answer(request_id: RequestId, text: str) -> ErrorResponse:
    """An answer that the gateway gives itself."""
    return ErrorResponse(request_id, ErrorObject(ErrorCode.INTERNAL_ERROR, text))


class _Exchange:
    """A client's exchange, and what waits to be sent on it."""

    def __init__(self, channel: MessageChannel, scope: trio.CancelScope) -> None:
        self.channel = channel
        self.scope = scope
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._wake = trio.Event()

    def break_off(self) -> None:
        """End it without an answer, so that its client sees no end in good order."""
        self.channel.abort()
        self.scope.cancel()

    def put(self, message: Message) -> bool:
        """Send it, now or later; False if too much waits already."""
        try:
            if not self._waiting and self.channel.try_send(message):
                return True
        except MessageTooLarge as error:
            if isinstance(message, Response):
                return self.put(error_answer(message.id, str(error)))
            return True
        except (ChannelBroken, trio.ClosedResourceError):
            return True  # whoever reads the channel finds out as well
        self._waiting.append(message)
        self._bytes += len(encode_message(message))
        self._wake.set()
        return len(self._waiting) == 1 or self._bytes <= DEFAULT_OUTBOX_BYTES

    async def pump(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            await self._wake.wait()
            while self._waiting:
                message = self._waiting[0]
                try:
                    await self.channel.send(message)
                except MessageTooLarge as error:
                    if isinstance(message, Response):
                        await self.channel.send(error_answer(message.id, str(error)))
                except (ChannelBroken, trio.ClosedResourceError):
                    return  # whoever reads the channel finds out as well
                self._waiting.popleft()
                self._bytes -= len(encode_message(message))
            self._wake = trio.Event()


class SharedChild:
    """The child, and all exchanges that it works for.

    Args:
        open_child: Gives a new context manager for each start.
        policy: How long to wait before a restart.
        on_event: Told of its ends, and of clients that do not keep up.
    """

    def __init__(
        self,
        open_child: Callable[[], AbstractAsyncContextManager[MessageChannel]],
        policy: RestartPolicy,
        on_event: EventHandler | None,
    ) -> None:
        self._open_child = open_child
        self._policy = msgspec.structs.replace(policy, max_restarts=math.inf)
        self._on_event = on_event
        self._wanted = trio.Event()
        self._child: MessageChannel | None = None
        self._table: ChildTable[_Exchange] = ChildTable()
        #: Set, and replaced by a new one, whenever a start succeeded or failed.
        self._tried = trio.Event()
        self._schemas: dict[str, HeaderSchema] = {}
        self._scope = trio.CancelScope()
        self._stop = trio.Event()

    def header_schema(self, tool: str) -> HeaderSchema | None:
        """The headers of a tool that was in a list; None if it was in none."""
        return self._schemas.get(tool)

    # -- the child's life ---------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the child, as soon as it is wanted. Runs until `stop`."""
        task_status.started()
        restarts = 0
        while True:
            with self._until_stop():
                await self._wanted.wait()
            if self._stop.is_set():
                return
            # Before the start: whoever finds no child from now on wants the next one.
            self._wanted = trio.Event()
            begun = trio.current_time()
            reason, failure = await self._run_once()
            if self._stop.is_set():
                return
            if trio.current_time() - begun >= self._policy.steady_after:
                restarts = 0
            delay = self._policy.delay(restarts)
            assert delay is not None  # there is no limit
            restarts += 1
            name = "child.ended" if failure is None else "child.failed"
            message = f"the shared child {reason}; it is started again after {delay:g} s"
            report(self._on_event, ChannelEvent(name=name, message=message, error=failure))
            with self._until_stop():
                await trio.sleep(delay)

    def stop(self) -> None:
        """End the child in good order, and start no other."""
        self._stop.set()
        self._scope.cancel()

    def _until_stop(self) -> trio.CancelScope:
        """A scope for what has no meaning any more once it is to stop."""
        self._scope = trio.CancelScope()
        if self._stop.is_set():
            self._scope.cancel()
        return self._scope

    async def _run_once(self) -> tuple[str, ConnectFailed | None]:
        """One child from its start to its end; returns why it ended."""
        reason, failure = "has ended: it closed its output", None
        try:
            async with self._open_child() as child:
                self._child = child
                self._tell_tried()
                try:
                    with self._until_stop():
                        async for message in child:
                            self._from_child(child, message)
                except ChannelBroken as error:
                    reason = f"has ended: {error}"
                finally:
                    self._child = None
                    self._end_all()
        except ConnectFailed as error:
            reason, failure = f"could not be started: {error}", error
            self._tell_tried()
        except ChannelBroken as error:
            reason = f"has ended: {error}"
        return reason, failure

    def _tell_tried(self) -> None:
        tried, self._tried = self._tried, trio.Event()
        tried.set()

    def _end_all(self) -> None:
        """The child is gone: those who wait get an error, listen streams just end."""
        table, self._table = self._table, ChildTable()
        for passed in table.in_flight():
            if passed.method == "subscriptions/listen":
                passed.origin.break_off()
            else:
                passed.origin.put(error_answer(passed.request_id, "the server has ended"))

    async def _get(self) -> MessageChannel | None:
        """The child; waits for its start. None if that failed."""
        if self._child is None:
            self._wanted.set()
            await self._tried.wait()
        return self._child

    # -- what it says -------------------------------------------------------------------

    def _from_child(self, child: MessageChannel, message: Message) -> None:
        table = self._table
        if isinstance(message, Response | ErrorResponse):
            answer = table.route_answer(message)
            if answer is not None:
                passed, told = answer
                if passed.method == "tools/list" and isinstance(told, Response):
                    self._learn(told)
                self._put(passed.origin, told)
        elif isinstance(message, Notification):
            routed = table.route_notification(message)
            if routed is None:
                return
            if routed.passed is not None:
                self._put(routed.passed.origin, routed.message)
                return
            # To whom it belongs can only be told if there is but one: what is said of one
            # client's request is not for another's eyes.
            origins = {passed.origin for passed in table.candidates()}
            if len(origins) == 1:
                self._put(origins.pop(), routed.message)
            else:
                table.dropped += 1
        else:
            # 2026-07-28: servers send no requests; and which client would be meant?
            error = ErrorObject(ErrorCode.METHOD_NOT_FOUND, "no client can be asked from here")
            with suppress(ChannelBroken, trio.ClosedResourceError):
                child.send_control(ErrorResponse(message.id, error))

    def _put(self, exchange: _Exchange, message: Message) -> None:
        if not exchange.put(message):
            text = "a client does not take what its request says; the request was cancelled"
            context = exchange.channel.context
            report(
                self._on_event,
                ChannelEvent(name="exchange.overflow", message=text, context=context),
            )
            exchange.break_off()

    def _learn(self, answer: Response) -> None:
        """Remember the headers of the tools in a list."""
        try:
            listed = _decode_tools(as_raw(answer.result)).tools
        except msgspec.DecodeError:
            return
        for tool in listed:
            try:
                schema = read_header_schema(tool.input_schema)
            except InvalidHeaderSchema:
                self._schemas.pop(tool.name, None)  # clients leave such a tool out
            else:
                if tool.name in self._schemas or len(self._schemas) < _MAX_TOOLS:
                    self._schemas[tool.name] = schema

    # -- exchanges ----------------------------------------------------------------------

    async def serve(self, channel: MessageChannel, stop: trio.Event | None, drain: float) -> None:
        """Serve an exchange until all of it is answered, or its client is gone.

        Or until `drain` seconds after `stop`: whoever closes the channel then gives what is
        not answered an error.

        Raises:
            ChannelBroken: The client has gone away.
        """
        failure: ChannelBroken | None = None
        async with trio.open_nursery() as nursery:
            exchange = _Exchange(channel, nursery.cancel_scope)
            nursery.start_soon(exchange.pump)
            if stop is not None:
                nursery.start_soon(_cancel_after, stop, drain, nursery.cancel_scope)
            try:
                await self._feed(exchange)
            except ChannelBroken as error:
                failure = error
            except trio.ClosedResourceError:
                pass  # it was broken off
            finally:
                self._leave(exchange)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _feed(self, exchange: _Exchange) -> None:
        async for message in exchange.channel:
            if isinstance(message, Request):
                await self._pass_request(exchange, message)
            elif isinstance(message, Notification) and self._child is not None:
                passed = self._table.pass_notification(exchange, message)
                if passed is not None:
                    with suppress(ChannelBroken, trio.ClosedResourceError):
                        await self._child.send(passed)

    async def _pass_request(self, exchange: _Exchange, request: Request) -> None:
        child = await self._get()
        if child is None:
            await exchange.channel.send(error_answer(request.id, "the server could not be started"))
            return
        renamed = self._table.pass_request(exchange, request)
        try:
            await child.send(renamed)
        except MessageTooLarge as error:
            self._table.forget(exchange)
            await exchange.channel.send(error_answer(request.id, str(error)))
        except (ChannelBroken, trio.ClosedResourceError):
            pass  # `_end_all` answers

    def _leave(self, exchange: _Exchange) -> None:
        """Nobody is there any more: the child need not go on with it."""
        passed, _ = self._table.forget(exchange)
        for new_id in passed:
            if self._child is not None:
                cancelled = Notification("notifications/cancelled", {"requestId": new_id})
                with suppress(ChannelBroken, trio.ClosedResourceError):
                    self._child.send_control(cancelled)


async def _cancel_after(stop: trio.Event, drain: float, scope: trio.CancelScope) -> None:
    await stop.wait()
    await trio.sleep(drain)
    scope.cancel()


class _Tool(msgspec.Struct):
    name: str
    input_schema: msgspec.Raw = msgspec.field(name="inputSchema", default=msgspec.Raw(b"{}"))


class _ToolList(msgspec.Struct):
    tools: list[_Tool]


_decode_tools = msgspec.json.Decoder(_ToolList).decode
