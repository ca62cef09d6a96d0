"""An MCP endpoint over HTTP, whoever speaks the HTTP: what requests become.

`HttpListener` feeds it from connections of our own, `interop.asgi` from an ASGI server. It
takes requests, lets the pure parts (`security.admission`, `sansio.mcp_http`) decide, and
does what they decided: answers, or makes channels and runs the handler for them. It reads
no socket and knows no framing.

Theory of operation: `HttpService.handle` is called once per request, by the task that
read its head. For a modern request whose connection can spare that task (`may_wait`), nearly
all there are, the handler runs right there, and `handle` returns when it is done. All other
handlers run in one nursery of the service: an exchange of a session outlives its connection,
and where an exchange is not run by its connection's task, it has a cancel scope instead.
`handle` then returns once it is dispatched. Either way the response is complete with its
`EndOfBody`, whoever writes it.

What was found out about a head is noted in its `KnownHead`, as the same one comes again and
again on a connection. A session is taken down in one place, `HttpSessions.tear_down`, whatever
ended it.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from ..abc import (
    ChannelContext,
    ChannelSession,
    EventHandler,
    MessageChannel,
)
from ..endpoints import join_host_port
from ..errors import ConnectFailed, LocalProtocolError, RemoteProtocolError
from ..limits import ChannelOptions
from ..sansio.mcp_http.options import HttpServerOptions
from ..sansio.mcp_http.replies import Reply, error_reply, method_not_allowed, unavailable
from ..sansio.mcp_http.server import (
    Deliver,
    EndSession,
    HeadVerdict,
    OpenSse,
    OpenStream,
    ReadBody,
    ResumeStream,
    ServerEndpoint,
    StartExchange,
)
from ..sansio.mcp_http.sessions import Delivery, SessionRecord
from ..security.admission import Admitted, Answered, Doorkeeper, Verdict
from ..security.facts import Address, ConnectionFacts
from ..stores.memory_events import MemoryEventStore
from .http_channel import HttpServerChannel
from .http_compression import ServerCoding
from .http_exchange import ExchangeChannel, NotificationChannel
from .http_merged import MergedChannel
from .http_request import DecoratedStream, HttpRequestStream, write_reply
from .http_runtime import HttpRuntime
from .http_serving import HttpServing
from .http_sessions import HttpSessions, session_of
from .http_unsent import Unsent

if TYPE_CHECKING:
    from .session_routes import SessionRoutes
    from .websocket_settings import WebSocketServing

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
        websocket: Where requests may become WebSockets; None for nowhere.
        routes: The ways to other processes that serve the same, and have other sessions.
        on_event: Gets ``handler.failed``, ``request.failed``, ``request.refused``,
            ``response.cut`` and ``store.failed``; they are logged without it.

    Attributes:
        endpoint: What decides; for those who want to look at its sessions.
        deadlines: The timers of everything here; connections put theirs there too.
        unsent: What all responses hold together.
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
        websocket: WebSocketServing | None = None,
        routes: SessionRoutes | None = None,
        on_event: EventHandler | None = None,
    ) -> None:
        doorkeeper = doorkeeper or Doorkeeper()
        if http.authenticate is not None:
            doorkeeper = Doorkeeper(doorkeeper.policy, authenticate=http.authenticate)
        if http.revisions is not None:
            both = tuple(rev for rev in options.revisions if rev in http.revisions)
            options = msgspec.structs.replace(options, revisions=both)
        if http.told_revisions:
            options = msgspec.structs.replace(options, told_revisions=http.told_revisions)
        store = http.event_store
        if store is not None and not options.stateless:
            options = msgspec.structs.replace(options, resumable=True)
        elif options.resumable:
            store = MemoryEventStore()
        self.options = options
        self._revisions = options.served_revisions
        self._routes = None if options.stateless else routes
        self.endpoint = ServerEndpoint(
            options,
            new_id=secrets.token_urlsafe if routes is None else routes.new_id,
            header_schema=http.header_schema,
        )
        self._runtime = HttpRuntime(options, handler, store, channel_options, on_event)
        self.deadlines = self._runtime.deadlines
        self.unsent = Unsent(options.max_unsent_bytes, self._cut_off)
        self._sessions = HttpSessions(self.endpoint, self._runtime)
        self._merge = http.mode == "session"
        self._doorkeeper = doorkeeper
        self._coding = ServerCoding(options.compression)
        self._transport = transport
        self._stopped = False
        self._ending = trio.Event()  # of sessions
        self._idle = trio.Event()
        self._websockets = None
        if websocket is not None:
            from .websocket_server import WebSocketUpgrades

            self._websockets = WebSocketUpgrades(
                websocket,
                self._runtime.run_handler,
                channel_options=channel_options,
                on_event=on_event,
            )

    # -- life ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what outlives requests, until `stop` was called and all is done.

        Cancelling it ends everything at once. However it ends, nothing is left behind.
        """
        try:
            async with trio.open_nursery() as background:
                background.start_soon(self.deadlines.run)
                async with trio.open_nursery() as nursery:
                    self._runtime.nursery = self.nursery = nursery
                    if self._routes is not None:
                        await nursery.start(self._routes.serve, self)
                    nursery.start_soon(self._end_sessions)
                    task_status.started()
                background.cancel_scope.cancel()
        finally:
            self._sessions.close()

    def stop(self) -> None:
        """Begin nothing new; what is being answered is finished, and `run` ends after it.

        New requests get 503. Idempotent.
        """
        self._stopped = True
        self.end_sessions()

    def end_sessions(self) -> None:
        """End sessions and WebSockets, once what is being answered is finished.

        Requests of sessions get 503 from now on, all others are answered as ever; `run` ends
        when the connections have that it was given. Idempotent.
        """
        self._ending.set()
        if self._websockets is not None:
            self._websockets.stop()
        if self._routes is not None:
            self._routes.stop()

    async def _end_sessions(self) -> None:
        await self._ending.wait()
        while self.endpoint.exchanges:
            self._idle = trio.Event()
            await self._idle.wait()
        self._sessions.end_all()
        if self._routes is not None:
            self._routes.close()

    # -- requests -----------------------------------------------------------------------

    async def handle(self, request: HttpRequestStream, *, handed: Admitted | None = None) -> None:
        """See to a request; returns when it is answered, or will be by another task.

        Raises nothing but `Cancelled`.

        To be called once for each request, before anything of its body is read.

        Args:
            request: The request.
            handed: As whom another worker has admitted it, which has handed it over. That one
                also sees to what goes around the answer: further headers, and compression.
        """
        if handed is None:
            request = self._coding.wrap(request)
        try:
            head, known = request.head, request.known
            admitted: Verdict | None = handed if known is None else known.admitted
            if admitted is None:
                admitted = await self._doorkeeper.admit(head, request.facts)
                if known is not None and type(admitted) is Admitted:
                    known.admitted = admitted if self._doorkeeper.is_constant else None
            # Answers go out by the carrier, which adds headers to them.
            carrier = self._decorated(request) if handed is None else request
            if isinstance(admitted, Answered):
                if admitted.reason:
                    self._runtime.report("request.refused", admitted.reason)
                write_reply(carrier, admitted.reply)
                return
            facts, principal, endpoint = admitted.facts, admitted.principal, self.endpoint
            if self._websockets is not None and self._websockets.takes(head):
                await self._websockets.serve(
                    carrier, lambda name: self._websocket_context(name, carrier, facts, principal)
                )
                return
            owner: int | None = None
            if self._routes is not None and handed is None:
                owner = self._routes.elsewhere(endpoint.named_session(head))
                if (
                    owner is not None
                    and head.method in {"GET", "DELETE"}
                    and await self._forward(owner, carrier, admitted, None)
                ):
                    return
            judged: HeadVerdict | None = None if known is None else known.judged
            if judged is None:
                judged = endpoint.judge_head(head, principal=principal, now=trio.current_time())
                if known is not None and judged is endpoint.read_body:
                    known.judged = endpoint.read_body
            if type(judged) is not ReadBody:
                await self._answer_head(request, carrier, judged, admitted)
                return
            try:
                body = await request.read_body(judged.limit)
            except RemoteProtocolError as error:
                write_reply(carrier, error_reply(error.status, error.code, str(error)))
                return
            if owner is not None and await self._forward(owner, carrier, admitted, body):
                return
            now = trio.current_time()
            verdict = endpoint.judge_body(head, body, principal=principal, now=now)
            if type(verdict) is StartExchange:
                channel = self._begin_exchange(carrier, verdict, len(body), admitted, now)
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
        except trio.BrokenResourceError:
            pass  # the client went away: an everyday event
        except Exception as error:
            self._runtime.report("request.failed", f"seeing to a request failed: {error!r}", error)
            with suppress(LocalProtocolError):  # something was written already
                carrier = self._decorated(request) if handed is None else request
                write_reply(carrier, error_reply(500, -32603, "Internal error"))
            request.abort()

    def turn_away(self, request: HttpRequestStream) -> None:
        """Answer a request for which there is no room: 503."""
        carrier = self._decorated(request)
        write_reply(carrier, unavailable("too many connections", self.options.retry_after))

    async def _answer_head(
        self,
        request: HttpRequestStream,
        carrier: HttpRequestStream,
        judged: HeadVerdict,
        admitted: Admitted,
    ) -> None:
        """Do what was decided about a request whose body is not needed."""
        if isinstance(judged, Reply):
            write_reply(carrier, judged)
        elif isinstance(judged, EndSession):
            # Also while stopping: it is out of the table, so nobody else would end it.
            self._sessions.tear_down(judged.session)
            write_reply(carrier, judged.reply)
        elif self._ending.is_set():
            if isinstance(judged, OpenSse):
                self.endpoint.end_session(judged.session)
            write_reply(carrier, self._stopping())
        elif isinstance(judged, OpenStream):
            own = session_of(judged.session).channel
            if own is None or not own.is_connected:
                # "or else return HTTP 405 Method Not Allowed, indicating that the server does
                # not offer an SSE stream at this endpoint."
                write_reply(carrier, method_not_allowed("POST", "DELETE"))
            else:
                own.carry(carrier, judged.writer.open)
        elif isinstance(judged, ResumeStream):
            await self._sessions.resume(carrier, judged)
        else:
            assert isinstance(judged, OpenSse)
            context = self._context(
                request, admitted.facts, admitted.principal, None, None, exchange=False
            )
            self._sessions.open_sse(carrier, judged, context)

    async def take_over(self, request: HttpRequestStream, principal: str | None) -> None:
        """See to a request that another worker has admitted, as `handle` does."""
        await self.handle(request, handed=Admitted(principal, request.facts))

    async def _forward(
        self, owner: int, carrier: HttpRequestStream, admitted: Admitted, body: bytes | None
    ) -> bool:
        """Hand a request over to the worker that has its session; False if there is none."""
        assert self._routes is not None
        try:
            return await self._routes.forward(
                owner,
                carrier,
                admitted.facts,
                admitted.principal,
                body,
                at_end=self._stopping() if carrier.head.method == "GET" else None,
                nursery=self.nursery,
            )
        except trio.TooSlowError:
            text = "the process that has the session is busy"
        except ConnectFailed as error:
            text = "the process that has the session cannot be reached"
            self._runtime.report("request.failed", f"{text}: {error}", error)
        write_reply(carrier, unavailable(text, self.options.retry_after))
        return True

    def _cut_off(self, size: int) -> None:
        self._runtime.report(
            "response.cut",
            f"a client that left {size} bytes waiting was cut off: all together hold too much",
        )

    def _decorated(self, request: HttpRequestStream) -> HttpRequestStream:
        known = request.known
        extra = None if known is None else known.extra
        if extra is None:
            extra = self._doorkeeper.response_headers(request.head, request.facts)
            if known is not None:
                known.extra = extra
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
        known = request.known
        if known is not None and exchange and session is None:
            found = known.context
            if (
                found is not None
                and found.protocol_version == revision
                and found.principal == principal
                and known.admitted is not None
            ):
                return found
        context = ChannelContext(
            transport=self._transport,
            local_address=_as_text(facts.local_address),
            peer_address=_as_text(facts.peer_address),
            client_address=facts.client_address,
            principal=principal,
            tls=facts.tls,
            headers=request.head.headers,
            session=session,
            protocol_version=revision,
            exchange=exchange,
            revisions=self._revisions,
        )
        if known is not None and exchange and session is None:
            known.context = context
        return context

    def _websocket_context(
        self, name: str, request: HttpRequestStream, facts: ConnectionFacts, principal: str | None
    ) -> ChannelContext:
        context = self._context(request, facts, principal, None, None, exchange=False)
        return msgspec.structs.replace(context, transport=name)

    # -- exchanges ----------------------------------------------------------------------

    def _begin_exchange(
        self,
        carrier: HttpRequestStream,
        start: StartExchange,
        size: int,
        admitted: Admitted,
        now: float,
    ) -> ExchangeChannel | None:
        """Make the channel of an exchange; None if nobody has to run its handler."""
        record, shared = start.session, None
        if self._stopped or (record is not None and self._ending.is_set()):
            self._end_exchange(start)
            write_reply(carrier, self._stopping())
            return None
        if record is not None:
            if record.state == "pending":
                self._sessions.expire()
            shared = self._sessions.shared(record)
        context = self._context(carrier, admitted.facts, admitted.principal, shared, start.revision)
        merged: MergedChannel | None = None
        if record is not None and self._merge:
            merged = self._sessions.merged(record, context)
            if not merged.has_inbox_room(size):
                self._end_exchange(start)
                write_reply(carrier, self._not_taken())
                return None
        opens = record if record is not None and record.state == "pending" else None
        channel = ExchangeChannel(
            start,
            self._runtime.outflow(start.writer, record, carrier),
            context,
            self._runtime.channel_options,
            server=self.options,
            deadlines=self.deadlines,
            on_opened=None if opens is None else partial(self._sessions.open, opens, context),
            on_event=self._runtime.on_event,
            now=now,
        )
        if not carrier.may_wait or start.era != "modern":
            channel.scope = trio.CancelScope()
        carrier.on_gone = channel.connection_lost
        if carrier.gone:
            channel.connection_lost()
        for delivery in start.deliveries:
            self._hand_over(delivery, 0, record, context)
        if merged is not None:
            merged.begin(channel, size, partial(self._end_exchange, start))
            return None
        return channel

    async def _run_exchange(self, channel: ExchangeChannel, start: StartExchange) -> None:
        try:
            if channel.scope is not None:
                with channel.scope:
                    await self._run_to_end(channel)
            else:
                await self._run_to_end(channel)
        finally:
            channel.abort()
            self._end_exchange(start)
            channel.let_go()

    async def _run_to_end(self, channel: ExchangeChannel) -> None:
        await self._runtime.run_handler(channel)
        if not channel.retire():
            await channel.aclose()

    def _end_exchange(self, start: StartExchange) -> None:
        if start.session is None:
            self.endpoint.end_exchange(start, now=0.0)  # which is for the session
        else:
            self.endpoint.end_exchange(start, now=trio.current_time())
            self._sessions.exchange_ended(start.session)
        if not self.endpoint.exchanges:
            self._idle.set()

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
            if self._merge and record is not None:
                own = session_of(record).channel
                if own is not None and not own.has_inbox_room(size):
                    return False
            return channel.deliver(message, size)
        if record is None:
            if self._stopped or not self.endpoint.begin_alone():
                return False
            lone = NotificationChannel(
                message,
                context,
                self._runtime.channel_options,
                self.nursery,
                self._runtime.on_event,
            )
            self.nursery.start_soon(self._run_alone, lone)
            return True
        own = session_of(record).channel
        return own is None or own.deliver(message, size) or not own.is_connected

    async def _run_alone(self, channel: HttpServerChannel) -> None:
        try:
            await self._runtime.run_handler(channel)
        finally:
            channel.abort()
            self.endpoint.end_alone()
            if not self.endpoint.exchanges:
                self._idle.set()


@functools.lru_cache(maxsize=1024)
def _as_text(address: Address) -> str | None:
    return join_host_port(*address) if isinstance(address, tuple) else address
