"""An MCP endpoint over HTTP, whoever speaks the HTTP: what requests become.

`HttpListener` feeds it from connections of our own, `interop.asgi` from an ASGI server. It
takes requests, lets the pure parts (`security.admission`, `sansio.mcp_http`) decide, and
does what they decided: answers, or makes channels and runs the handler for them. It reads
no socket and knows no framing.

Theory of operation: `HttpService.handle` is called once per request, by the task that
read its head. It returns when the request has been dispatched, which is before it has been
answered: the response is complete with its `EndOfBody`.

All handlers run in one nursery of the service, since an exchange of a session outlives its
connection; those whose connection is their life have a cancel scope for it. A session is
taken down in one place, `_tear_down`, whatever ended it.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from ..abc import (
    ChannelContext,
    ChannelEvent,
    ChannelSession,
    ConnectionLost,
    EventHandler,
    MessageChannel,
)
from ..endpoints import join_host_port
from ..errors import LocalProtocolError, RemoteProtocolError
from ..limits import ChannelOptions
from ..reporting import lone_exception, report
from ..sansio.mcp_http.options import HttpServerOptions
from ..sansio.mcp_http.replies import Reply, error_reply, unavailable
from ..sansio.mcp_http.server import (
    Deliver,
    EndSession,
    OpenSse,
    OpenStream,
    ReadBody,
    ResumeStream,
    ServerEndpoint,
    StartExchange,
)
from ..sansio.mcp_http.sessions import Delivery, SessionRecord
from ..sansio.mcp_http.streams import NOTHING, EventStream, Step
from ..security.admission import Answered, Doorkeeper
from ..security.facts import Address, ConnectionFacts
from ..stores.memory_events import MemoryEventStore
from .deadlines import Deadlines
from .http_channel import HttpServerChannel
from .http_exchange import ExchangeChannel, NotificationChannel
from .http_merged import MergedChannel
from .http_outflow import Outflow, StoreStep
from .http_request import DecoratedStream, HttpRequestStream, write_reply
from .http_serving import HttpServing
from .http_session import HttpSession, SessionChannel

if TYPE_CHECKING:
    from ..stores.events import EventStore

__all__ = ["ConnectionFacts", "HttpRequestStream", "HttpService", "HttpServing"]


class HttpService:
    """An MCP endpoint at work: sessions, exchanges, and the handlers that run for them.

    Start it with ``await nursery.start(service.run)``; then call `handle` for each request.

    Args:
        options: The endpoint.
        handler: Called with each channel, which is closed after it. Its exceptions are
            reported.
        http: What is no plain data.
        doorkeeper: Decides who may come in.
        channel_options: Limits of the channels.
        transport: What the channels' contexts call it.
        on_event: Gets ``handler.failed``, ``request.failed``, ``request.refused`` and
            ``store.failed``; they are logged without it.

    Attributes:
        endpoint: What decides; for those who want to look at its sessions.
        deadlines: The timers of everything here; connections put theirs there too.
        nursery: Where everything runs, while `run` does.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        options: HttpServerOptions,
        handler: Callable[[MessageChannel], Awaitable[object]],
        *,
        http: HttpServing = HttpServing(),  # ruff: ignore[function-call-in-default-argument] (frozen)
        doorkeeper: Doorkeeper | None = None,
        channel_options: ChannelOptions = ChannelOptions(),  # ruff: ignore[function-call-in-default-argument] (frozen)
        transport: str = "http",
        on_event: EventHandler | None = None,
    ) -> None:
        doorkeeper = doorkeeper or Doorkeeper()
        if http.authenticate is not None:
            doorkeeper = Doorkeeper(doorkeeper.policy, authenticate=http.authenticate)
        if http.revisions is not None:
            both = tuple(rev for rev in options.revisions if rev in http.revisions)
            options = msgspec.structs.replace(options, revisions=both)
        store = http.event_store
        if store is not None and not options.stateless:
            options = msgspec.structs.replace(options, resumable=True)
        elif options.resumable:
            store = MemoryEventStore()
        self.options = options
        self._revisions = options.served_revisions
        self.endpoint = ServerEndpoint(
            options, new_id=secrets.token_urlsafe, header_schema=http.header_schema
        )
        self.deadlines = Deadlines()
        self._handler = handler
        self._merge = http.mode == "session"
        self._store = store
        self._doorkeeper = doorkeeper
        self._channel_options = channel_options
        self._transport = transport
        self._on_event = on_event
        self._expiry = self.deadlines.timer(self._expire)
        self._stop = trio.Event()
        self._idle = trio.Event()

    # -- life ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what outlives requests, until `stop` was called and all is done.

        Cancelling it ends everything at once. However it ends, nothing is left behind.
        """
        try:
            async with trio.open_nursery() as background:
                background.start_soon(self.deadlines.run)
                async with trio.open_nursery() as self.nursery:
                    self.nursery.start_soon(self._end_sessions)
                    task_status.started()
                background.cancel_scope.cancel()
        finally:
            self._expiry.close()

    def stop(self) -> None:
        """Begin nothing new; what is being answered is finished, and `run` ends after it.

        New requests get 503. Idempotent.
        """
        self._stop.set()

    async def _end_sessions(self) -> None:
        await self._stop.wait()
        while self.endpoint.exchanges:
            self._idle = trio.Event()
            await self._idle.wait()
        for record in list(self.endpoint.sessions):
            self._end_session(record)

    # -- requests -----------------------------------------------------------------------

    async def handle(self, request: HttpRequestStream) -> None:
        """See to a request; returns when that is begun. Raises nothing but `Cancelled`.

        To be called once for each request, before anything of its body is read.
        """
        try:
            await self._handle(request)
        except trio.BrokenResourceError:
            pass  # the client went away: an everyday event
        except Exception as error:
            self._report("request.failed", f"seeing to a request failed: {error!r}", error)
            with suppress(LocalProtocolError):  # something was written already
                write_reply(request, error_reply(500, -32603, "Internal error"))
            request.abort()

    def turn_away(self, request: HttpRequestStream) -> None:
        """Answer a request for which there is no room: 503."""
        carrier = self._decorated(request)
        write_reply(carrier, unavailable("too many connections", self.options.retry_after))

    async def _handle(self, request: HttpRequestStream) -> None:
        head = request.head
        admitted = await self._doorkeeper.admit(head, request.facts)
        carrier = self._decorated(request)
        if isinstance(admitted, Answered):
            if admitted.reason:
                self._report("request.refused", admitted.reason)
            write_reply(carrier, admitted.reply)
            return
        facts, principal, endpoint = admitted.facts, admitted.principal, self.endpoint
        judged = endpoint.judge_head(head, principal=principal, now=trio.current_time())
        if type(judged) is ReadBody:
            try:
                body = await request.read_body(judged.limit)
            except RemoteProtocolError as error:
                write_reply(carrier, error_reply(error.status, error.code, str(error)))
                return
            now = trio.current_time()
            verdict = endpoint.judge_body(head, body, principal=principal, now=now)
            if type(verdict) is StartExchange:
                channel = self._begin_exchange(carrier, verdict, len(body), facts, principal)
                if channel is None:
                    pass
                elif request.may_wait and verdict.era == "modern":
                    # Its life is that of the connection, so it needs no task of its own.
                    await self._run_exchange(channel, verdict)
                else:
                    self.nursery.start_soon(
                        self._run_exchange, channel, verdict, name="trio_mcp_transport exchange"
                    )
            elif type(verdict) is Deliver:
                context = self._context(request, facts, principal, None, verdict.revision)
                self._deliver(carrier, verdict, len(body), context)
            else:
                assert isinstance(verdict, Reply)
                write_reply(carrier, verdict)
        elif isinstance(judged, Reply):
            write_reply(carrier, judged)
        elif self._stop.is_set():
            write_reply(carrier, self._stopping())
        elif isinstance(judged, OpenStream):
            own = _session_of(judged.session).channel
            assert own is not None  # the session is open
            own.carry(carrier, judged.writer.open)
        elif isinstance(judged, ResumeStream):
            await self._resume(carrier, judged)
        elif isinstance(judged, EndSession):
            self._tear_down(judged.session)
            write_reply(carrier, judged.reply)
        else:
            assert isinstance(judged, OpenSse)
            context = self._context(request, facts, principal, None, None, exchange=False)
            self._open_sse(carrier, judged, context)

    def _decorated(self, request: HttpRequestStream) -> HttpRequestStream:
        extra = self._doorkeeper.response_headers(request.head, request.facts)
        return DecoratedStream(request, extra) if len(extra) else request

    def _stopping(self) -> Reply:
        return unavailable("the server is shutting down", self.options.retry_after)

    def _context(
        self,
        request: HttpRequestStream,
        facts: ConnectionFacts,
        principal: str | None,
        session: ChannelSession | None,
        revision: str | None,
        *,
        exchange: bool = True,
    ) -> ChannelContext:
        return ChannelContext(
            transport=self._transport,
            local_address=_as_text(facts.local_address),
            peer_address=_as_text(facts.peer_address),
            client_address=facts.client_address,
            principal=principal,
            headers=request.head.headers,
            session=session,
            protocol_version=revision,
            exchange=exchange,
            revisions=self._revisions,
        )

    # -- exchanges ----------------------------------------------------------------------

    def _begin_exchange(
        self,
        carrier: HttpRequestStream,
        start: StartExchange,
        size: int,
        facts: ConnectionFacts,
        principal: str | None,
    ) -> ExchangeChannel | None:
        """Make the channel of an exchange; None if nobody has to run its handler."""
        record, shared = start.session, None
        if self._stop.is_set():
            self._end_exchange(start)
            write_reply(carrier, self._stopping())
            return None
        if record is not None:
            session = record.owner
            if session is None:
                session = record.owner = HttpSession(record)
            assert isinstance(session, HttpSession)
            shared = session.shared
        context = self._context(carrier, facts, principal, shared, start.revision)
        merged: MergedChannel | None = None
        if record is not None and self._merge:
            merged = self._merged_channel(record, context)
            if not merged.has_inbox_room(size):
                self._end_exchange(start)
                write_reply(carrier, self._not_taken())
                return None
        opens = record if record is not None and record.state == "pending" else None
        channel = ExchangeChannel(
            start,
            self._outflow(start.writer, record, carrier),
            context,
            self._channel_options,
            server=self.options,
            deadlines=self.deadlines,
            on_opened=None if opens is None else partial(self._open_session, opens, context),
            on_event=self._on_event,
        )
        if not carrier.may_wait or start.era != "modern":
            channel.scope = trio.CancelScope()
        carrier.on_gone = channel.connection_lost
        if carrier.gone:
            channel.connection_lost()
        for delivery in start.deliveries:
            self._hand_over(delivery, 0, record, context)
        if merged is not None:
            merged.begin(channel, partial(self._end_exchange, start))
            return None
        return channel

    async def _run_exchange(self, channel: ExchangeChannel, start: StartExchange) -> None:
        try:
            with channel.scope or nullcontext():
                await self._run_handler(channel)
                if not channel.retire():
                    await channel.aclose()
        finally:
            channel.abort()
            self._end_exchange(start)

    async def _run_handler(self, channel: MessageChannel) -> None:
        """Run the handler; nothing leaves it but `Cancelled` and the like."""
        try:
            # The peer has said its last word: a handler that lets this out is done.
            with suppress(trio.EndOfChannel):
                await self._handler(channel)
        except* Exception as group:
            error = lone_exception(group)
            # A client that goes away in the middle is an everyday event.
            if channel.failure is None or not isinstance(error, trio.BrokenResourceError):
                self._report(
                    "handler.failed",
                    f"the handler of an exchange raised {type(error).__name__}",
                    error,
                    channel.context,
                )

    def _end_exchange(self, start: StartExchange) -> None:
        self.endpoint.end_exchange(start, now=trio.current_time())
        if start.session is not None:
            if start.session.state == "ended":
                self._tear_down(start.session)  # `initialize` failed
            self._expiry.set(self.endpoint.next_expiry() or float("inf"))
        if not self.endpoint.exchanges:
            self._idle.set()

    def _outflow(
        self, stream: EventStream, record: SessionRecord | None, carrier: HttpRequestStream | None
    ) -> Outflow:
        store: StoreStep | None = None
        if stream.numbered and record is not None and self._store is not None:
            store = partial(self._keep, self._store, record.id, stream.name)
        return Outflow(
            nursery=self.nursery,
            limit=self._channel_options.outbox_bytes,
            carrier=carrier,
            store=store,
        )

    @staticmethod
    async def _keep(store: EventStore, session: str, stream: str, step: Step) -> None:
        if step.records:
            await store.append(session, stream, step.records)
        if step.finished:
            await store.finish(session, stream)

    # -- what goes to exchanges and sessions that are there -----------------------------

    def _deliver(
        self, carrier: HttpRequestStream, verdict: Deliver, size: int, context: ChannelContext
    ) -> None:
        taken = [
            self._hand_over(delivery, size, verdict.session, context)
            for delivery in verdict.deliveries
        ]
        if all(taken):
            write_reply(carrier, verdict.reply)
        else:
            write_reply(carrier, self._not_taken())

    def _not_taken(self) -> Reply:
        text = "what was sent before has not been taken in yet"
        return unavailable(text, self.options.retry_after)

    def _hand_over(
        self, delivery: Delivery, size: int, record: SessionRecord | None, context: ChannelContext
    ) -> bool:
        """Give a message to its channel; False if that has no room for it."""
        message, exchange = delivery.message, delivery.exchange
        if exchange is not None:
            channel = exchange.owner
            assert isinstance(channel, ExchangeChannel)
            if delivery.cancels is not None:
                channel.cancelled(message, size, delivery.cancels)
                return True
            return channel.deliver(message, size)
        if record is None:
            if self._stop.is_set():
                return False
            lone = NotificationChannel(
                message, context, self._channel_options, self.nursery, self._on_event
            )
            self.nursery.start_soon(self._run_alone, lone)
            return True
        own = _session_of(record).channel
        return own is None or own.deliver(message, size) or not own.is_connected

    async def _run_alone(self, channel: HttpServerChannel) -> None:
        try:
            await self._run_handler(channel)
        finally:
            channel.abort()

    # -- sessions -----------------------------------------------------------------------

    def _open_session(self, record: SessionRecord, context: ChannelContext) -> None:
        """The answer to `initialize` went out; if it was a good one, the session begins."""
        if record.state != "open":
            return
        session = _session_of(record)
        if isinstance(session.channel, MergedChannel):
            session.channel.opened(record.revision)
            return
        channel = session.channel = SessionChannel(
            record.standalone,
            self._outflow(record.standalone, record, None),
            msgspec.structs.replace(context, protocol_version=record.revision, exchange=False),
            self._channel_options,
            keep_alive_interval=self.options.keep_alive_interval,
            deadlines=self.deadlines,
            on_lost=None,
            on_event=self._on_event,
        )
        self.nursery.start_soon(self._run_session, channel)

    def _merged_channel(self, record: SessionRecord, context: ChannelContext) -> MergedChannel:
        """The one channel of a session, which is begun with its first request."""
        session = _session_of(record)
        if session.channel is None:
            session.channel = MergedChannel(
                record.standalone,
                self._outflow(record.standalone, record, None),
                msgspec.structs.replace(context, exchange=False),
                self._channel_options,
                keep_alive_interval=self.options.keep_alive_interval,
                deadlines=self.deadlines,
                on_event=self._on_event,
            )
            self.nursery.start_soon(self._run_session, session.channel, record)
        assert isinstance(session.channel, MergedChannel)
        return session.channel

    def _open_sse(
        self, carrier: HttpRequestStream, verdict: OpenSse, context: ChannelContext
    ) -> None:
        record = verdict.session
        session = record.owner = HttpSession(record)
        channel = session.channel = SessionChannel(
            verdict.writer,
            self._outflow(verdict.writer, record, None),
            context,
            self._channel_options,
            keep_alive_interval=self.options.keep_alive_interval,
            deadlines=self.deadlines,
            on_lost=partial(self._end_session, record),
            on_event=self._on_event,
        )
        channel.carry(carrier, partial(verdict.writer.open, carrier.mount))
        self.nursery.start_soon(self._run_session, channel, record)

    async def _run_session(
        self, channel: SessionChannel, lasts: SessionRecord | None = None
    ) -> None:
        """Run the handler of a session's own channel; `lasts`: the session ends with it."""
        try:
            with channel.scope:
                await self._run_handler(channel)
                await channel.aclose()
        finally:
            channel.abort()
            if lasts is not None:
                self._end_session(lasts)

    async def _resume(self, carrier: HttpRequestStream, verdict: ResumeStream) -> None:
        record, name = verdict.session, verdict.cursor.stream
        stream: EventStream | None = record.exchanges.get(name)
        if stream is None and record.standalone.name == name:
            stream = record.standalone
        act = partial(self._replay, carrier, verdict)
        if stream is not None and isinstance(stream.owner, HttpServerChannel):
            # In its turn among what is said on the stream, so that nothing falls between.
            stream.owner.resume(act)
        else:
            step = await act()
            if step.events:
                carrier.write(*step.events)

    async def _replay(self, carrier: HttpRequestStream, verdict: ResumeStream) -> Step:
        """Read the store and find out what to write, by whom."""
        record, cursor = verdict.session, verdict.cursor
        replay = None
        if self._store is not None:
            replay = await self._store.replay(record.id, cursor.stream, cursor.number)
        resumed = self.endpoint.resume(verdict, replay)
        if isinstance(resumed, Reply):
            write_reply(carrier, resumed)
            return NOTHING
        if resumed.writer is not None and isinstance(resumed.writer.owner, HttpServerChannel):
            resumed.writer.owner.take_over(carrier)
            return resumed.step
        carrier.write(*resumed.step.events)
        return NOTHING

    def _expire(self) -> None:
        for record in self.endpoint.expire(trio.current_time()):
            self._tear_down(record)
        self._expiry.set(self.endpoint.next_expiry() or float("inf"))

    def _end_session(self, record: SessionRecord) -> None:
        self.endpoint.end_session(record)
        self._tear_down(record)

    def _tear_down(self, record: SessionRecord) -> None:
        """Take down what a session has here; it is out of the table. Idempotent."""
        session, record.owner = record.owner, None
        if not isinstance(session, HttpSession):
            return
        for writer in list(record.exchanges.values()):
            if isinstance(writer.owner, ExchangeChannel):
                writer.owner.end(ConnectionLost("the session has ended"))
        if session.channel is not None:
            session.channel.end(self._channel_options.close_timeout)
        if self._store is not None:
            self.nursery.start_soon(self._drop, self._store, record.id)

    async def _drop(self, store: EventStore, session: str) -> None:
        try:
            await store.drop(session)
        except Exception as error:
            self._report("store.failed", f"forgetting a session failed: {error!r}", error)

    def _report(
        self,
        name: str,
        message: str,
        error: BaseException | None = None,
        context: ChannelContext | None = None,
    ) -> None:
        report(
            self._on_event,
            ChannelEvent(name=name, message=message, error=error, context=context),
        )


def _session_of(record: SessionRecord) -> HttpSession:
    session = record.owner
    assert isinstance(session, HttpSession)
    return session


@functools.lru_cache(maxsize=1024)
def _as_text(address: Address) -> str | None:
    return join_host_port(*address) if isinstance(address, tuple) else address
