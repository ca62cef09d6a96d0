"""Stdio MCP servers behind HTTP: which child gets what, and who gets what it says.

Used by `trio-mcp serve -- COMMAND`, as the handler of ``serve_channels(..., http="session")``.
It translates no eras: a child is asked once which it speaks, and gets what is of that.

- A legacy session is one channel, and gets a child of its own, which ends with it.
- Modern requests, and legacy ones without a session, are an exchange each, and share one
  child: see `gateway_shared`.

Of each message only ids and progress tokens are changed, see `sansio.mcp_http.bridge_ids`.
What to start comes from whoever makes the gateway, never from a request.

Theory of operation: children live in the gateway's nursery, since they may take longer to
end than their sessions. One task of a session's handler reads the client, one the child;
each sends on what it has read before it reads on, so a slow reader slows the writer behind
the gateway. Whichever side ends takes the other with it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from operator import attrgetter
from typing import Protocol, TypeAlias, runtime_checkable

import trio

from .abc import ChannelBroken, ChannelEvent, EventHandler, MessageChannel
from .errors import ConfigurationError, ConnectFailed, LocalProtocolError, MessageTooLarge
from .gateway_shared import SharedChild, error_answer
from .jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    relate,
)
from .lifecycle import Negotiated, negotiate
from .limits import DEFAULT_DRAIN_SECONDS
from .peer import Peer
from .reporting import report
from .restart import RestartPolicy
from .sansio.mcp_http.bridge_ids import ChildTable
from .sansio.mcp_http.mirrored import HeaderSchema

__all__ = ["Gateway"]

#: Children at a time. Each is a whole interpreter or Node, some 50 MB.
DEFAULT_MAX_CHILDREN = 32
#: Seconds without a word after which a session may have to make room for another.
_SPARED_SECONDS = 10.0
#: Seconds that what a child asks of a client waits for a stream to travel on.
_HOLD_SECONDS = 30.0
#: The origin of all that a session's child works on: its one client.
_CLIENT = "client"

OpenChild: TypeAlias = Callable[[], AbstractAsyncContextManager[MessageChannel]]


@runtime_checkable
class _HasStandaloneStream(Protocol):
    """A session's channel that can tell whether its client has a GET open."""

    @property
    def standalone_open(self) -> bool: ...


@runtime_checkable
class _HasSession(Protocol):
    """A session's channel that can end its session before itself."""

    def forget_session(self) -> object: ...


class Gateway:
    """Serves HTTP channels with children that speak stdio. Start `run` before `serve`.

    Args:
        open_child: Gives a new context manager for each child, such as ``open_channel``
            with the endpoint of a command.
        max_children: How many sessions may have one at a time; further ones wait until one
            ends, or was idle for ten seconds without a stream open and is ended for it.
        restart: How long to wait until the shared child is started again; its number of
            restarts counts for nothing, as there will always be another request.
        client_info: What a child is told when it is asked for its era.
        on_event: Told ``child.ended`` when one ended unasked for, ``child.failed`` when one
            could not be started, ``session.ended`` when one made room for another, and
            ``exchange.overflow``.

    Raises:
        ConfigurationError: `max_children` is less than 1.
    """

    def __init__(
        self,
        open_child: OpenChild,
        *,
        client_info: dict[str, object],
        max_children: int = DEFAULT_MAX_CHILDREN,
        restart: RestartPolicy | None = None,
        on_event: EventHandler | None = None,
    ) -> None:
        if max_children < 1:
            raise ConfigurationError(f"max_children must be at least 1, not {max_children}")
        self._open_child = open_child
        self._client_info = client_info
        self._places = trio.Semaphore(max_children)
        self._sessions: set[_Session] = set()
        self._on_event = on_event
        self._probed: Negotiated | None = None
        self._shared = SharedChild(open_child, restart or RestartPolicy(), on_event)

    async def probe(self) -> Negotiated:
        """Start a child, ask which era and revisions it speaks, and end it.

        Raises:
            ConnectFailed: It could not be started.
            TransportError: It speaks no revision that is known here.
            ChannelBroken: It ended.
        """
        async with self._open_child() as channel, Peer(channel) as peer:
            self._probed = await negotiate(peer, client_info=self._client_info)
            return self._probed

    @property
    def told_revisions(self) -> tuple[str, ...]:
        """What modern clients are told that a legacy child speaks; for `serve_channels`.

        Empty for a modern child, and as long as it was not asked, see `probe`.
        """
        if self._probed is None or self._probed.era == "modern":
            return ()
        return self._probed.supported_versions

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the children. Runs until `stop` was called and they have ended.

        Cancelling it kills them.
        """
        async with trio.open_nursery() as self._children:
            await self._children.start(self._shared.run)
            task_status.started()

    def stop(self) -> None:
        """End what is left of the children in good order, once nothing is served any more."""
        self._shared.stop()

    def header_schema(self, tool: str) -> HeaderSchema | None:
        """What ``Mcp-Param-*`` headers a tool has, as the tools' lists that passed say.

        None for a tool that was in no list: then there is nothing to check.
        """
        return self._shared.header_schema(tool)

    async def serve(
        self,
        channel: MessageChannel,
        *,
        stop: trio.Event | None = None,
        drain: float = DEFAULT_DRAIN_SECONDS,
    ) -> None:
        """The handler: serve one channel of an HTTP server until it or its child ends.

        Args:
            channel: Closed by whoever called.
            stop: Once it is set, what is in work may finish.
            drain: Seconds for that. Then it gets an error, and this ends.

        Raises:
            ChannelBroken: The client's channel failed.
        """
        if channel.context.exchange:
            await self._shared.serve(channel, stop, drain)
        else:
            await self._serve_session(channel, stop, drain)

    async def _serve_session(
        self, channel: MessageChannel, stop: trio.Event | None, drain: float
    ) -> None:
        over = trio.Event()
        try:
            await self._take_place()
            child = await self._children.start(self._keep_child, over)
            session = _Session(channel, child, self._on_event)
            self._sessions.add(session)
            try:
                await session.run(stop, drain)
            finally:
                self._sessions.discard(session)
        except ConnectFailed as error:
            message = f"a child could not be started: {error}"
            report(self._on_event, ChannelEvent(name="child.failed", message=message, error=error))
            await _refuse(channel, "the server could not be started")
        finally:
            over.set()

    async def _take_place(self) -> None:
        """Wait until there may be one more child; the caller then starts `_keep_child`.

        Sessions are cheap to begin and are held for half an hour when nobody uses them, so
        where all places are taken the session that was idle for longest makes room: its
        client is told by 404, and begins another if it is still there.
        """
        with suppress(trio.WouldBlock):
            self._places.acquire_nowait()
            return
        while True:
            now = trio.current_time()
            idle = [session for session in self._sessions if session.is_idle]
            oldest = min(idle, key=attrgetter("active_at"), default=None)
            if oldest is not None and now >= oldest.active_at + _SPARED_SECONDS:
                oldest.make_room()
                await self._places.acquire()
                return
            # Then it is looked again, as those at work may have become idle meanwhile.
            spared_until = (now if oldest is None else oldest.active_at) + _SPARED_SECONDS
            with trio.move_on_at(spared_until):
                await self._places.acquire()
                return

    async def _keep_child(
        self,
        over: trio.Event,
        *,
        task_status: trio.TaskStatus[MessageChannel] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        # Not in the handler: the session is over when that returns, and a process may take
        # seconds to end.
        try:
            async with self._open_child() as child:
                task_status.started(child)
                await over.wait()
        finally:
            self._places.release()


async def _refuse(channel: MessageChannel, text: str) -> None:
    first = await channel.receive()
    if isinstance(first, Request):
        await channel.send(error_answer(first.id, text))


class _Session:
    """A legacy session and its child.

    Attributes:
        active_at: When its client or its child last said something, by Trio's clock.
    """

    def __init__(
        self, client: MessageChannel, child: MessageChannel, on_event: EventHandler | None
    ) -> None:
        self._client = client
        self._child = child
        self._on_event = on_event
        self._table: ChildTable[str] = ChildTable()
        self._failure: ChannelBroken | None = None
        self._scope = trio.CancelScope()
        self.active_at = trio.current_time()

    async def run(self, stop: trio.Event | None, drain: float) -> None:
        """Pass on what both say, until one of them has ended, or `drain` seconds after `stop`.

        Raises:
            ChannelBroken: The client's channel failed.
        """
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                if stop is not None:
                    self._nursery.start_soon(self._end_after, stop, drain)
                self._nursery.start_soon(self._from_client)
                self._nursery.start_soon(self._from_child)
        if self._failure is not None:
            raise self._failure.again()

    async def _end_after(self, stop: trio.Event, drain: float) -> None:
        await stop.wait()
        await trio.sleep(drain)
        with suppress(ChannelBroken, trio.ClosedResourceError):
            await self._fail_in_flight("the server is shutting down")
            for new_id in self._table.forget(_CLIENT)[0]:
                cancelled = Notification("notifications/cancelled", {"requestId": new_id})
                await self._child.send(cancelled)  # a child may not end before its work does
        self._scope.cancel()

    async def _fail_in_flight(self, text: str) -> None:
        for passed in self._table.in_flight():
            await self._client.send(error_answer(passed.request_id, text))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in work, and its client has no stream open to hear more."""
        return not (self._scope.cancel_called or len(self._table) or self._standalone_open())

    def make_room(self) -> None:
        """End, for the sake of another session."""
        seconds = trio.current_time() - self.active_at
        message = f"a session that was idle for {seconds:.0f} s made room for another"
        event = ChannelEvent(name="session.ended", message=message, context=self._client.context)
        report(self._on_event, event)
        self._scope.cancel()

    # -- to the child -------------------------------------------------------------------

    async def _from_client(self) -> None:
        try:
            async for message in self._client:
                self.active_at = trio.current_time()
                passed = self._to_child(message)
                if passed is None:
                    continue
                try:
                    await self._child.send(passed)
                except MessageTooLarge as error:
                    if isinstance(passed, Request):  # as if the child had answered
                        await self._to_client(error_answer(passed.id, str(error)))
        except ChannelBroken as error:
            if not self._is_of_child(error):
                self._failure = error
            else:
                return  # whoever reads it finds out as well
        except trio.ClosedResourceError:
            pass
        self._scope.cancel()

    def _is_of_child(self, error: ChannelBroken) -> bool:
        return self._child.failure is not None and self._child.failure in {error, error.__cause__}

    def _to_child(self, message: Message) -> Message | None:
        if isinstance(message, Request):
            return self._table.pass_request(_CLIENT, message)
        if isinstance(message, Notification):
            return self._table.pass_notification(_CLIENT, message)
        return message if self._table.accept_answer(message) else None

    # -- from the child -----------------------------------------------------------------

    async def _from_child(self) -> None:
        reason = "it closed its output"
        try:
            async for message in self._child:
                self.active_at = trio.current_time()
                await self._to_client(message)
        except ChannelBroken as error:
            if not self._is_of_child(error):
                self._failure = error
                self._scope.cancel()
                return
            reason = str(error)
        except trio.ClosedResourceError:
            return
        message_ = f"the child of a session has ended: {reason}"
        report(
            self._on_event,
            ChannelEvent(name="child.ended", message=message_, context=self._client.context),
        )
        # The session is unknown before its client hears of it: what it asks next gets a 404, and
        # with that a session of its own. What is in flight will not be answered.
        if isinstance(self._client, _HasSession):
            self._client.forget_session()
        await self._fail_in_flight("the server has ended")
        self._scope.cancel()

    async def _to_client(self, message: Message) -> None:
        if isinstance(message, Response | ErrorResponse):
            answer = self._table.route_answer(message)
            if answer is None:
                return
            try:
                await self._client.send(answer[1])
            except MessageTooLarge as error:
                await self._client.send(error_answer(answer[0].request_id, str(error)))
        elif isinstance(message, Notification):
            routed = self._table.route_notification(message)
            if routed is not None:
                related = self._unrelated() if routed.passed is None else routed.passed.request_id
                await self._client.send(relate(routed.message, related))
        else:
            await self._ask_client(message)

    async def _ask_client(self, request: Request) -> None:
        if not self._table.ask(request, _CLIENT):
            await self._child.send(error_answer(request.id, "too many requests are not answered"))
            return
        related = self._unrelated()
        try:
            await self._client.send(relate(request, related))
        except LocalProtocolError:
            # That exchange cannot carry a request; the session's own stream can.
            related = None
            await self._client.send(relate(request, None))
        if related is None and not self._standalone_open():
            self._nursery.start_soon(self._expect_stream, request.id)

    async def _expect_stream(self, request_id: RequestId) -> None:
        """Tell the child if its client has no stream for what it asked."""
        await trio.sleep(_HOLD_SECONDS)
        if not self._standalone_open() and self._table.give_up_asking(request_id):
            answer = error_answer(request_id, "the client has no stream open to be asked on")
            await self._child.send(answer)

    def _unrelated(self) -> RequestId | None:
        """What something goes with that does not say where it belongs; None: the GET stream.

        The sole request in flight, else the GET stream if it is open, else the newest
        request, else the GET stream when there will be one.
        """
        candidates = self._table.candidates()
        if len(candidates) == 1 or (candidates and not self._standalone_open()):
            return candidates[-1].request_id
        return None

    def _standalone_open(self) -> bool:
        return isinstance(self._client, _HasStandaloneStream) and self._client.standalone_open
