"""One HTTP/1.1 connection on any Trio stream: requests in, responses out.

`HttpListener` runs one per accepted connection; what requests mean is the business of
`HttpService`. Nothing leaves `HttpConnection.run` but `Cancelled` and the like: whatever a
client does to its connection, it does to that one alone.

Theory of operation:

* A connection is read also while a request is being answered: that is how a client that
  goes away is noticed. What is read then is at most one further head's worth; the machine
  holds it until its turn. Where the service runs the handler inside of `handle`, this
  connection's task is in there, so another one reads; but only for answers that take
  longer than an instant, as most do not and a task costs more than they do.
* Responses are written by whichever task has something to say, synchronously, through an
  `Outbox`: its writer task exists only while the client does not take what there is. When a
  response is complete the machine is made ready for the next request right there, so
  the reading task, which waits for bytes all the while, need not be woken.
* Waits for a client have total deadlines, not one per read: a trickle is no progress. The
  wait for the first byte of a request, which each request ends, is timed by a
  `Timer`; the rare waits for the rest of a head or body have a scope of their own.
* A connection that is to end (`drain`) says so in the next head that it sends. Where the
  head of the present answer has left already, or there is none, it waits for one more
  request, for as long as it was told.
* A connection that ends while it is idle looks once more at what is there: a request that
  came just then is answered, with ``Connection: close``. So none is lost that arrived before
  the end was sent, and all that had an answer which said so know better than to send one.
* A connection that ends before its client has sent all it wanted to (a refused body, a
  broken request) is closed for writing first and read for a while, since the operating
  system answers unread bytes with a reset, which may destroy the response on its way.
* Another protocol (101) runs inside of the service's `handle`, on the same stream: this
  connection neither reads nor writes any more, and closes the stream at the end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from ..abc import ChannelBroken, ChannelEvent, EventHandler
from ..errors import RemoteProtocolError
from ..limits import (
    HTTP_BODY_TIMEOUT,
    HTTP_HEAD_TIMEOUT,
    HTTP_IDLE_TIMEOUT,
    READ_CHUNK_BYTES,
    ChannelOptions,
)
from ..reporting import lone_exception, report
from ..sansio.headers import Headers
from ..sansio.http1 import (
    BodyData,
    EndOfBody,
    Http1Limits,
    RequestHead,
    ResponseEvent,
    ResponseHead,
)
from ..sansio.http1_server import Http1Server
from ..sansio.machine import NEED_DATA, EndOfData
from ..security.facts import ConnectionFacts
from .channel_state import half_closeable
from .http_connection_request import ConnectionRequest
from .http_dates import dated
from .http_request import KnownHead, RequestTaker, Switched
from .outbox import Outbox
from .stream_channel import SupportsClose

if TYPE_CHECKING:
    from .deadlines import Deadlines

__all__ = ["HttpConnection", "HttpConnectionOptions"]

#: An answer that takes longer than this is read past, to notice a client that goes away.
_INSTANT_SECONDS = 0.02
#: How long, and how much, a client may go on sending after the last response to it.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1024 * 1024
#: In which a request must have its head here that came as its connection was to make room.
_LAST_HEAD_SECONDS = 1.0
#: Of answers that the client has not taken, beyond which its next request is not looked at.
_MAX_OWED_BYTES = ChannelOptions().outbox_bytes
_PLAIN_TEXT = Headers([("content-type", "text/plain; charset=utf-8")])


class HttpConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The limits and timeouts of one connection. Durations are seconds, `math.inf` is none.

    Attributes:
        limits: Of the head.
        head_timeout: In which a connection's first request, or the rest of one that has
            begun, must have its whole head here.
        body_timeout: In which the whole body must be here.
        keep_alive_timeout: For which a connection may be idle between two requests.
        write_timeout: In which a slice of 64 KiB must leave.
    """

    limits: Http1Limits = Http1Limits()
    head_timeout: float = HTTP_HEAD_TIMEOUT
    body_timeout: float = HTTP_BODY_TIMEOUT
    keep_alive_timeout: float = HTTP_IDLE_TIMEOUT
    write_timeout: float = ChannelOptions().write_timeout


class HttpConnection:
    """One connection.

    Args:
        stream: Owned from now on.
        facts: Where it comes from.
        service: Gets the requests.
        deadlines: Keeps the time of idle waits.
        options: Limits and timeouts.
        on_event: Gets ``connection.failed``: a fault of this program, not of a client.
        turned_away: Whether there is no room for it: its one request is answered 503.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        facts: ConnectionFacts,
        *,
        service: RequestTaker,
        deadlines: Deadlines,
        options: HttpConnectionOptions,
        on_event: EventHandler | None,
        turned_away: bool = False,
    ) -> None:
        self.facts = facts
        self.machine = Http1Server(options.limits)
        self._stream = stream
        self._service, self._options, self._on_event = service, options, on_event
        self._scope = trio.CancelScope()  # around all reading; cancelled to end it
        self._pause: trio.CancelScope | None = None  # around reading on past a held request
        self._timer = deadlines.timer(self._timed)
        self._request: ConnectionRequest | None = None
        self._known = KnownHead(None)
        self._outbox: Outbox
        self._nursery: trio.Nursery
        # Whether this connection's task is in the service, and one waits for what follows.
        self._handling = self._reading_on = False
        self._ahead: trio.Event | None = None  # set when the other task has read on
        self._ahead_scope = trio.CancelScope()
        self._turned_away = turned_away
        # Once it is to end, for how many seconds it waits for one more request.
        self._grace: float | None = None
        self._head_timeout = options.head_timeout
        self._fresh = True  # until its first head is here
        self._linger = self._switched = self._closed = False

    # -- life ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until its end, which is closed then."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._outbox = Outbox(
                    self._stream,
                    nursery=self._nursery,
                    options=_outbox_options(self._options.write_timeout),
                    on_failure=self._fail,
                )
                try:
                    with self._scope:
                        patience = self._head_timeout
                        if self._grace is not None:  # it was drained before it began
                            patience = self._grace
                        await self._serve(trio.current_time() + patience)
                    await self._stop_reading_ahead()
                    if self._look_once_more():
                        with trio.CancelScope() as self._scope:
                            await self._serve(trio.current_time() + self._head_timeout)
                    await self._finish()
                finally:
                    self._end()
                    await trio.aclose_forcefully(self._stream)
        except* Exception as group:
            error = lone_exception(group)
            event = ChannelEvent(
                name="connection.failed",
                message=f"serving an HTTP connection failed: {error!r}",
                error=error,
            )
            report(self._on_event, event)

    def drain(self, *, fresh: float = 0.0, used: float = 0.0) -> bool:
        """Come to an end: with the next answer, which says so, or while it is idle.

        What has begun to come is answered, whatever time it takes within the usual limits. So
        is one more request that comes within the time that is given here, counted from now or
        from the end of an answer that was under way, as that could not say that it is the last.

        Args:
            fresh: Seconds to wait for a first request, if none came yet.
            used: Seconds to wait for one more, if some came before.

        Returns:
            Whether there is such a time.
        """
        if self._closed:
            return False
        self._grace = fresh if self._fresh else used
        if self.is_idle:
            if self._grace <= 0:
                self._scope.cancel()
            else:
                due = trio.current_time() + self._grace
                self._timer.set(min(self._timer.due, due))
        return self._grace > 0

    @property
    def _idle_seconds(self) -> float:
        """For which it may be idle from now on."""
        return self._options.keep_alive_timeout if self._grace is None else self._grace

    @property
    def is_idle(self) -> bool:
        """Whether it waits for the first byte of a request."""
        return self._request is None and not self._handling and not self._closed

    @property
    def has_ended(self) -> bool:
        """Whether nothing is at work for it any more; its stream may still be closing."""
        return self._closed and not self._handling

    @property
    def tasks_beside(self) -> int:
        """Tasks that it has beside its own: one that writes, or one that reads."""
        return len(self._nursery.child_tasks)

    def close(self) -> None:
        """End now; a handler that runs in this connection's task may finish what it does.

        An idle one first answers the request that has come meanwhile, if one has.
        """
        if not self._handling:
            self._head_timeout = min(self._head_timeout, _LAST_HEAD_SECONDS)
            self._scope.cancel()
            return
        self._end()
        if isinstance(self._stream, SupportsClose):
            self._stream.close()

    def _timed(self) -> None:
        """What takes long: the next request to come, or the answer to the present one."""
        if self._request is None:
            if not self._handling:
                self._scope.cancel()
        elif self._handling:
            self._ahead = trio.Event()
            self._ahead_scope = trio.CancelScope()
            self._nursery.start_soon(self._read_ahead, self._request, self._ahead)

    def _fail(self, _: ChannelBroken) -> None:
        """The stream broke, or took nothing for too long."""
        self._end()
        self._scope.cancel()

    def _end(self) -> None:
        """Nothing can be sent any more; tell whoever is at work on a response."""
        if self._closed:
            return
        self._closed = True
        self._timer.close()
        self._outbox.close(_ended)
        self._service.unsent.forget(self)
        request, self._request = self._request, None
        if request is not None:
            request.lose()

    async def _stop_reading_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._ahead_scope.cancel()
            await ahead.wait()

    def _look_once_more(self) -> bool:
        """Whether there is something of a request, though the connection was to end idle."""
        machine = self.machine
        if self._closed or self._switched or self._request is not None or machine.must_close:
            return False
        if not machine.buffered:
            receive_nowait: Callable[[], bytes | None] | None = getattr(
                self._stream, "receive_nowait", None
            )
            if receive_nowait is None:
                return False
            try:
                data = receive_nowait()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            if not data:
                return False
            machine.receive_data(data)
        if self._grace is None:
            self._grace = 0.0
        return True

    async def _finish(self) -> None:
        """Let the client take what there is for it, then the end."""
        if self._closed or self._request is not None:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._outbox.flush()  # bounded by the write timeout
            if not self._linger:
                return
            stream = half_closeable(self._stream)
            if stream is not None:
                await stream.send_eof()
            left = _LINGER_BYTES
            with trio.move_on_after(_LINGER_SECONDS):
                while left > 0 and (data := await self._stream.receive_some(READ_CHUNK_BYTES)):
                    left -= len(data)

    # -- reading ------------------------------------------------------------------------

    async def _serve(self, due: float) -> None:
        """Answer requests; `due` is when the first byte of the first one must be here."""
        machine = self.machine
        while True:
            head = await self._receive_head(due)
            if head is None:
                return
            self._fresh = False
            request = self._request = ConnectionRequest(self, head)
            if head is not self._known.head:
                self._known = KnownHead(head)
            request.known = self._known
            if self._turned_away:
                self._service.turn_away(request)
                return
            self._handling = True
            try:
                await self._service.handle(request)
            finally:
                self._handling = False
            if self._closed or self._switched or (request.complete and machine.must_close):
                return
            if self._ahead is not None:
                if request.complete:
                    self._timer.set(trio.current_time() + self._idle_seconds)
                await self._ahead.wait()
                self._ahead = None
            elif not request.complete and not await self._read_on(request):
                return
            if self._outbox.size > _MAX_OWED_BYTES:
                await self.flush()
            if self._closed or machine.must_close:
                return
            due = trio.current_time() + self._idle_seconds

    async def _receive_head(self, due: float) -> RequestHead | None:
        """The next request's head; None at the end. `due` is when the first byte must come."""
        machine = self.machine
        try:
            event = machine.next_event() if machine.has_input else NEED_DATA
            if event is NEED_DATA and not machine.buffered:
                self._timer.set(due)  # an idle connection
                if not await self._read():
                    return None
                if self._scope.cancel_called:
                    return None  # it came just as the end was decided: `run` sees to it
                event = machine.next_event()
            self._timer.due = math.inf  # that of the request before may have run until here
            if event is NEED_DATA:
                if not self._fresh:
                    due = trio.current_time() + self._head_timeout
                with trio.move_on_at(due):
                    while (event := machine.next_event()) is NEED_DATA:
                        await self._read()
                if event is NEED_DATA:
                    machine.receive_eof()
                    with suppress(RemoteProtocolError):
                        machine.next_event()  # so that it knows there will be no more
                    self._refuse(408, "the head of the request did not come in time")
                    return None
        except RemoteProtocolError as error:
            self._refuse(error.status or 400, str(error))
            return None
        if isinstance(event, EndOfData):
            return None
        assert isinstance(event, RequestHead)
        return event

    async def read_body(self, max_bytes: int) -> bytes:
        """The body of the present request. See `HttpRequestStream.read_body`."""
        machine = self.machine
        body = machine.accept_whole_body(max_bytes)
        if body is not None:
            self._timer.set(trio.current_time() + _INSTANT_SECONDS)
            return body
        machine.accept_body(max_bytes)
        self.put(machine.bytes_to_send())
        event = machine.next_event()
        parts = []
        with trio.move_on_after(self._options.body_timeout):
            while type(event) is not EndOfBody:
                if type(event) is BodyData:
                    parts.append(event.data)
                elif not await self._read():
                    machine.next_event()  # raises: the body was cut off
                    raise trio.BrokenResourceError("the client went away")
                event = machine.next_event()
            self._timer.set(trio.current_time() + _INSTANT_SECONDS)
            return b"".join(parts)
        raise _timed_out("the body of the request did not come in time")

    async def switch_protocol(self, protocol: str, headers: Headers) -> Switched:
        """Hand the stream over. See `HttpRequestStream.switch_protocol`."""
        data = self.machine.switch_protocol(protocol, headers)
        self._switched = True
        self._timer.close()
        self.put(data)
        await self.flush()
        if self._closed:
            raise trio.BrokenResourceError("the client went away before it had its 101")
        return Switched(self._stream, *self.machine.trailing_data)

    async def _read(self) -> bool:
        """Give the machine what comes next; False at the end, however it came."""
        try:
            data = bytes(await self._stream.receive_some(READ_CHUNK_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
            self._end()
        if data:
            self.machine.receive_data(data)
            return True
        self.machine.receive_eof()
        return False

    async def _read_ahead(self, request: ConnectionRequest, done: trio.Event) -> None:
        """Read on, while the connection's own task is in the service."""
        try:
            with self._ahead_scope:
                if not await self._read_on(request):
                    self._end()
                    self._scope.cancel()
        finally:
            done.set()

    async def _read_on(self, request: ConnectionRequest) -> bool:
        """Read until the response is complete; False if the client goes away before."""
        machine = self.machine
        while not request.complete:
            if not machine.buffered:
                # The usual case. If the response is complete meanwhile, this goes on to
                # wait, for the next request: its first bytes are then received here.
                self._reading_on = True
                try:
                    if not await self._read():
                        return request.complete
                    self._timer.due = math.inf
                finally:
                    self._reading_on = False
                continue
            # The next request is here already, so the end of this one must wake this task.
            with trio.CancelScope() as self._pause:
                if machine.buffered < self._options.limits.max_header_bytes:
                    if not await self._read():
                        return False
                else:
                    await trio.sleep_forever()
            self._pause = None
        return True

    # -- writing ------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Write now or queue; after the end this does nothing."""
        if data and not self._closed:
            try:  # ruff: ignore[suppressible-exception] (here a context manager costs)
                self._outbox.put_owed(data)
            except ChannelBroken:
                pass  # `_fail` has been told
            if self._outbox.size:
                self._service.unsent.note(self)

    @property
    def held(self) -> int:
        """Bytes that the operating system has not taken."""
        return self._outbox.size

    @property
    def taken(self) -> int:
        """Bytes that it has taken, ever."""
        return self._outbox.bytes_written

    def cut(self) -> None:
        """End at once, whatever is still to be written: it would wait for too long."""
        self._end()
        self._scope.cancel()

    async def flush(self) -> None:
        """Wait until it has, or the connection has ended."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._outbox.flush()

    def write(self, events: tuple[ResponseEvent, ...]) -> None:
        """Write parts of the response to the present request."""
        machine = self.machine
        head = events[0]
        if type(head) is ResponseHead:
            if type(events[-1]) is EndOfBody:
                body = b"".join([part.data for part in events if type(part) is BodyData])
                self.respond(head, body)
                return
            data = machine.send(self._own_head(head))
            events = events[1:]
            if not events:
                self.put(data)
                return
            data += b"".join([machine.send(event) for event in events])
        elif len(events) == 1:
            data = machine.send(head)
        else:
            data = b"".join([machine.send(event) for event in events])
        self.put(data)
        if type(events[-1]) is EndOfBody:
            self._complete()

    def respond(self, head: ResponseHead, body: bytes) -> None:
        """Write the whole response to the present request."""
        self.put(self.machine.send_response(self._own_head(head), body))
        self._complete()

    def _own_head(self, head: ResponseHead) -> ResponseHead:
        """The head with what this connection has to say."""
        head = dated(head)
        if self._grace is not None or self._turned_away:
            head = ResponseHead(head.status, head.headers.with_("connection", "close"), head.reason)
        return head

    def _complete(self) -> None:
        """The response is whole: on to the next request, or to the end."""
        request, self._request = self._request, None
        if request is None:
            return  # the connection broke with these very bytes
        request.complete = True
        machine = self.machine
        if machine.must_close:
            self._linger = not request.body_complete
        else:
            machine.start_next_cycle()
        if machine.must_close:
            if not self._handling:
                if self._outbox.is_idle:
                    self._scope.cancel()
                else:
                    self._nursery.start_soon(self._cancel_when_flushed)
            return
        if self._pause is not None:
            # The next request is here: this is no idle connection, though until its task has
            # woken up it looks like one.
            self._timer.due = math.inf
            self._pause.cancel()
        elif self._reading_on and not self._handling:
            self._timer.set(trio.current_time() + self._idle_seconds)

    async def _cancel_when_flushed(self) -> None:
        await self.flush()
        self._scope.cancel()

    def _refuse(self, status: int, text: str) -> None:
        """Answer a request whose head cannot be read; the connection ends after it."""
        body = f"{text}\n".encode()
        head = ResponseHead(status, _PLAIN_TEXT)
        self._linger = True
        self.put(self.machine.send_response(head, body))


def _timed_out(text: str) -> RemoteProtocolError:
    # RFC 9110, section 15.5.9: the server "did not receive a complete request message
    # within the time that it was prepared to wait".
    return RemoteProtocolError(text, status=408)


@functools.lru_cache(maxsize=16)
def _outbox_options(write_timeout: float) -> ChannelOptions:
    return ChannelOptions(write_timeout=write_timeout)


def _ended() -> BaseException:
    return trio.ClosedResourceError("the connection has ended")
