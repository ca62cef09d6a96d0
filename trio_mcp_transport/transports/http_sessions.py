"""The legacy sessions of one service: how they begin, are resumed and end.

Called by `HttpService`. Who has which session, and when it expires, is decided by the pure
`SessionTable`; here are the channels, the tasks and the event store. A session is taken
down in one place, `HttpSessions.tear_down`, whatever ended it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import msgspec
import trio

from ..abc import ChannelContext, ChannelSession, ConnectionLost
from ..sansio.mcp_http.replies import Reply, error_reply
from ..sansio.mcp_http.server import OpenSse, ResumeStream, ServerEndpoint
from ..sansio.mcp_http.sessions import SessionRecord
from ..sansio.mcp_http.streams import NOTHING, EventStream, Step
from ..stores.events import EventStore
from .http_channel import HttpServerChannel
from .http_exchange import ExchangeChannel
from .http_merged import MergedChannel
from .http_outflow import Outflow
from .http_request import HttpRequestStream, write_reply
from .http_runtime import HttpRuntime
from .http_session import HttpSession, SessionChannel

__all__ = ["HttpSessions", "session_of"]


class HttpSessions:
    """What the adapter keeps for the sessions of one endpoint.

    Args:
        endpoint: Decides.
        runtime: What channels are made with.
    """

    def __init__(self, endpoint: ServerEndpoint, runtime: HttpRuntime) -> None:
        self._endpoint = endpoint
        self._runtime = runtime
        self._expiry = runtime.deadlines.timer(self.expire)

    def close(self) -> None:
        """Nothing expires any more: the service has ended."""
        self._expiry.close()

    def end_all(self) -> None:
        """End those that are no connections; these end as other transports' do."""
        for record in list(self._endpoint.sessions):
            if record.kind == "streamable":
                self.end(record)

    def shared(self, record: SessionRecord) -> ChannelSession:
        """What the contexts of a session's channels have in common; made with the first."""
        if record.owner is None:
            record.owner = HttpSession(record)
        return session_of(record).shared

    def exchange_ended(self, record: SessionRecord) -> None:
        """One of its exchanges is over: the session may have fallen idle, or never begun."""
        if record.state == "ended":
            self.tear_down(record)
        self._watch()

    def _watch(self) -> None:
        due = self._endpoint.next_expiry()
        self._expiry.set(math.inf if due is None else due)

    def open(self, record: SessionRecord, context: ChannelContext) -> None:
        """The answer to `initialize` went out; if it was a good one, the session begins."""
        runtime = self._runtime
        if record.state != "open":
            return
        session = session_of(record)
        if isinstance(session.channel, MergedChannel):
            session.channel.opened(record.revision)
            return
        channel = session.channel = SessionChannel(
            record.standalone,
            runtime.outflow(record.standalone, record, None),
            msgspec.structs.replace(context, protocol_version=record.revision, exchange=False),
            runtime.channel_options,
            keep_alive_interval=runtime.options.keep_alive_interval,
            deadlines=runtime.deadlines,
            on_lost=None,
            on_event=runtime.on_event,
        )
        runtime.nursery.start_soon(self._run_session, channel)

    def merged(self, record: SessionRecord, context: ChannelContext) -> MergedChannel:
        """The one channel of a session, which is begun with its first request."""
        runtime = self._runtime
        session = session_of(record)
        if session.channel is None:
            session.channel = MergedChannel(
                record.standalone,
                runtime.outflow(record.standalone, record, None),
                msgspec.structs.replace(context, exchange=False),
                runtime.channel_options,
                keep_alive_interval=runtime.options.keep_alive_interval,
                deadlines=runtime.deadlines,
                on_forget=partial(self._endpoint.end_session, record),
                on_event=runtime.on_event,
            )
            runtime.nursery.start_soon(self._run_session, session.channel, record)
        assert isinstance(session.channel, MergedChannel)
        return session.channel

    def open_sse(
        self, carrier: HttpRequestStream, verdict: OpenSse, context: ChannelContext
    ) -> None:
        """A client opened HTTP+SSE: its session lasts as long as its GET."""
        record, runtime = verdict.session, self._runtime
        self.expire()
        session = record.owner = HttpSession(record)
        channel = session.channel = SessionChannel(
            verdict.writer,
            runtime.outflow(verdict.writer, record, None),
            context,
            runtime.channel_options,
            keep_alive_interval=runtime.options.keep_alive_interval,
            deadlines=runtime.deadlines,
            on_lost=partial(self.end, record),
            on_event=runtime.on_event,
        )
        channel.carry(carrier, partial(verdict.writer.open, carrier.mount))
        runtime.nursery.start_soon(self._run_session, channel, record)

    async def _run_session(
        self, channel: SessionChannel, lasts: SessionRecord | None = None
    ) -> None:
        """Run the handler of a session's own channel; `lasts`: the session ends with it."""
        try:
            with channel.scope:
                await self._runtime.run_handler(channel)
                await channel.aclose()
        finally:
            channel.abort()
            if lasts is not None:
                self.end(lasts)

    async def resume(self, carrier: HttpRequestStream, verdict: ResumeStream) -> None:
        """A client came back for the rest of a stream."""
        record, name = verdict.session, verdict.cursor.stream
        stream: EventStream | None = record.exchanges.get(name)
        if stream is None and record.standalone.name == name:
            stream = record.standalone
        act = partial(self._replay, carrier, verdict)
        if stream is not None and isinstance(stream.owner, HttpServerChannel):
            # In its turn among what is said on the stream, so that nothing falls between.
            stream.owner.resume(act, carrier.abort)
        else:
            step = await act()
            if step.events:
                carrier.write(*step.events)

    async def _replay(self, carrier: HttpRequestStream, verdict: ResumeStream) -> Step:
        """Read the store and find out what to write, by whom."""
        runtime = self._runtime
        record, cursor = verdict.session, verdict.cursor
        replay = None
        if runtime.store is not None:
            try:
                with runtime.store_deadline():
                    replay = await runtime.store.replay(record.id, cursor.stream, cursor.number)
            except Exception as error:
                runtime.report("store.failed", f"a replay failed: {error!r}", error)
                write_reply(carrier, error_reply(500, -32603, "Internal error"))
                return NOTHING
        resumed = self._endpoint.resume(verdict, replay)
        if isinstance(resumed, Reply):
            write_reply(carrier, resumed)
            return NOTHING
        if resumed.writer is not None and isinstance(resumed.writer.owner, HttpServerChannel):
            resumed.writer.owner.take_over(carrier)
            return resumed.step
        carrier.write(*resumed.step.events)
        return NOTHING

    def expire(self) -> None:
        """Take down those that have expired, or made room for others."""
        for record in self._endpoint.expire(trio.current_time()):
            self.tear_down(record)
        self._watch()

    def end(self, record: SessionRecord) -> None:
        """End a session. Idempotent."""
        self._endpoint.end_session(record)
        self.tear_down(record)

    def tear_down(self, record: SessionRecord) -> None:
        """Take down what a session has here; it is out of the table. Idempotent."""
        runtime = self._runtime
        session, record.owner = record.owner, None
        if not isinstance(session, HttpSession):
            return
        for writer in list(record.exchanges.values()):
            if isinstance(writer.owner, ExchangeChannel):
                cause = ConnectionLost("the session has ended")
                self._end_member(writer.owner, partial(writer.owner.end, cause))
        if session.channel is not None:
            patience = runtime.channel_options.close_timeout
            self._end_member(session.channel, partial(session.channel.end, patience))
        if runtime.store is not None:
            outflows = list(session.outflows)
            runtime.nursery.start_soon(self._drop, runtime.store, record.id, outflows)

    def _end_member(
        self, channel: ExchangeChannel | SessionChannel, end: Callable[[], object]
    ) -> None:
        """End one channel of a session; if that fails, the others end all the same."""
        try:
            end()
        except Exception as error:
            self._runtime.report(
                "session.failed", f"ending a channel failed: {error!r}", error, channel.context
            )
            channel.abort()
            if channel.scope is not None:
                channel.scope.cancel()

    async def _drop(self, store: EventStore, session: str, outflows: list[Outflow]) -> None:
        try:
            for outflow in outflows:
                await outflow.settle()  # what is stored later would stay for ever
            with self._runtime.store_deadline():
                await store.drop(session)
        except Exception as error:
            self._runtime.report("store.failed", f"forgetting a session failed: {error!r}", error)


def session_of(record: SessionRecord) -> HttpSession:
    """What is kept beside a record."""
    session = record.owner
    assert isinstance(session, HttpSession)
    return session
