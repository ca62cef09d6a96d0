"""Requests of sessions that another worker has: to it, and back with the answer.

Used by `HttpService` where several processes serve one endpoint (`worker_seat`). Whoever
accepts a connection gets its requests, but a legacy session is the state of one process. So
the id of a session begins with the number of its worker, and a worker hands requests of other
workers' sessions over to them.

Theory of operation:

* The number only routes. What makes an id unguessable is the random rest; whether there is
  such a session, and whose, is for the worker to say that would have it.
* Each worker listens for the others on a Unix socket in the supervisor's directory, which
  only their user may enter. What comes there was admitted by the worker that accepted the
  connection, and is not looked at again; that one also adds its headers to the answer, and
  compresses it. The body is read before the request is handed over, so whoever sends it
  slowly occupies one worker alone.
* Nothing is handed over twice, and what cannot be handed over, as its worker is gone, is
  treated as if its id were any unknown one: 404, after which clients begin a new session. As
  they throw the old one away then, only a missing socket, or one that refuses, says so;
  whatever else keeps this worker from connecting will pass: 503.
* The client's end, or a response that is broken off, travels as the end of the connection.
  What the client does not take is not read from the owner, which then holds it, within its
  bounds, and notices that it is not taken; only how long that may last is decided here, by
  whoever has the client.
* A worker that comes to its end lets the GETs end that it has handed over, so that their
  clients ask again, elsewhere, while the sessions go on. Those that have no answer yet get
  one from here: 503. All others are short, so they are handed over as ever, and waited for.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import secrets
from contextlib import suppress
from functools import partial
from typing import Protocol

import trio

from ..abc import ChannelBroken, ChannelEvent, EventHandler
from ..endpoints import UnixEndpoint
from ..errors import ConnectFailed, LocalProtocolError
from ..limits import MAX_HANDED_OVER, ChannelOptions
from ..reporting import lone_exception, report
from ..sansio.http1 import EndOfBody, ResponseEvent
from ..sansio.mcp_http.replies import Reply
from ..security.facts import ConnectionFacts
from .accept import AcceptLoop, SocketAcceptor
from .http_request import HttpRequestStream, write_reply
from .http_unsent import Unsent
from .outbox import Outbox
from .session_handover import (
    FrameReader,
    HandedOver,
    decode_request,
    decode_response,
    encode_response,
)
from .socket_file import bind_socket_file
from .socket_stream import SocketStream
from .unix import open_socket

__all__ = ["SessionRoutes", "TakesOver", "worker_of"]

_ID = re.compile(r"([1-9][0-9]{0,8})\.[-0-9A-Z_a-z]{1,128}")
_END = EndOfBody()
#: What connecting says of a worker that has ended, in good order or not.
_NO_WORKER_ERRNOS = frozenset({errno.ENOENT, errno.ECONNREFUSED})
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
#: A worker whose backlog is full for so long does not work.
_CONNECT_SECONDS = 5.0
#: The other worker knows how long a client may take nothing, and ends the connection then.
_OUTBOX = ChannelOptions(write_timeout=math.inf)


def worker_of(session_id: str) -> int | None:
    """The worker that made the id of a session; None if none can have."""
    found = _ID.fullmatch(session_id)
    return None if found is None else int(found[1])


class TakesOver(Protocol):
    """Who answers requests that were handed over: an `HttpService`.

    Attributes:
        nursery: Where what they need runs.
        unsent: To be told of what is not taken.
    """

    nursery: trio.Nursery
    unsent: Unsent

    async def take_over(self, request: HttpRequestStream, principal: str | None) -> None:
        """See to a request that another worker has admitted; returns when that is begun."""


class SessionRoutes:
    """The ways between the workers of one endpoint.

    Args:
        directory: Where the workers' sockets are.
        number: Of this worker.
        endpoint: What they serve; the same text in all of them.
        on_event: Told of faults that no caller sees.
    """

    def __init__(
        self, directory: str, number: int, endpoint: str, on_event: EventHandler | None
    ) -> None:
        self._directory = directory
        self._number = number
        self._endpoint = endpoint
        self._on_event = on_event
        self._name = hashlib.blake2b(endpoint.encode(), digest_size=8).hexdigest()
        self._acceptor: SocketAcceptor | None = None
        self._streams: set[_Relay] = set()
        self._stopping = False

    def new_id(self) -> str:
        """An id for a new session of this worker."""
        return f"{self._number}.{secrets.token_urlsafe()}"

    def elsewhere(self, session_id: str | None) -> int | None:
        """The other worker that may have a session; None if it can be only this one."""
        worker = None if session_id is None else worker_of(session_id)
        return None if worker == self._number else worker

    def stop(self) -> None:
        """This worker comes to its end: end the GETs that it has handed over."""
        self._stopping = True
        for relay in self._streams:
            relay.stop()

    def close(self) -> None:
        """Take nothing over any more. Idempotent."""
        if self._acceptor is not None:
            self._acceptor.close()

    def path(self, worker: int) -> str:
        """Where a worker takes over requests of this endpoint."""
        return os.path.join(self._directory, f"{worker}-{self._name}")

    # -- to other workers ---------------------------------------------------------------

    async def forward(
        self,
        worker: int,
        request: HttpRequestStream,
        facts: ConnectionFacts,
        principal: str | None,
        body: bytes | None,
        *,
        at_end: Reply | None,
        nursery: trio.Nursery,
    ) -> bool:
        """Hand a request over; what comes back is written to its response by another task.

        Args:
            worker: Who has its session.
            request: The request; its answers get their further headers from it.
            facts: About its connection, as admission left them.
            principal: Whose it is, as admission found.
            body: All of it; None if it was not read.
            at_end: For a response that may end at any time: what to answer if this worker comes
                to its end before there is an answer. None for one that is waited for.
            nursery: Where that task runs.

        Returns:
            False if there is no such worker (any more); then nothing was done.

        Raises:
            trio.TooSlowError: It takes no connections; nothing was done.
            ConnectFailed: This worker cannot connect to any, as it has no room; nothing was
                done.
        """
        try:
            with trio.fail_after(_CONNECT_SECONDS):
                sock = await open_socket(UnixEndpoint(path=self.path(worker)))
        except ConnectFailed as error:
            if error.errno in _NO_WORKER_ERRNOS:
                return False
            raise
        head = request.head
        handed = HandedOver(
            head.method,
            head.target,
            head.headers.raw,
            head.http_version,
            request.mount,
            facts,
            principal,
            body,
        )
        relay = _Relay(SocketStream(sock), request, at_end)
        if at_end is not None:
            self._streams.add(relay)
            if self._stopping:
                relay.stop()
        nursery.start_soon(self._relay, relay, handed, name="trio_mcp_transport forwarded")
        return True

    async def _relay(self, relay: _Relay, handed: HandedOver) -> None:
        try:
            await relay.run(handed)
        except Exception as error:
            message = f"a request that was handed over failed: {error!r}"
            _report_failed(self._on_event, message, error)
        finally:
            self._streams.discard(relay)
            relay.end()

    # -- from other workers -------------------------------------------------------------

    async def serve(
        self, service: TakesOver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take over what others hand over, until `close` is called or this is cancelled.

        Raises:
            OSError: The socket cannot be bound, or accepting failed for good.
        """
        sock, file = await bind_socket_file(self.path(self._number), 0o600, None, None)
        self._acceptor = SocketAcceptor([sock], partial(file.remove, self._on_event))
        try:
            task_status.started()
            failure = await _Loop(self._acceptor, service, self._on_event).run(service.nursery)
        finally:
            self._acceptor.close()
        if failure is not None:
            raise failure


class _Relay:
    """One request that is with another worker.

    Args:
        stream: The connection to that worker, owned from now on.
        request: The request.
        at_end: See `SessionRoutes.forward`.
    """

    def __init__(
        self, stream: SocketStream, request: HttpRequestStream, at_end: Reply | None
    ) -> None:
        self._stream = stream
        self._request = request
        self._at_end = at_end
        self._scope = trio.CancelScope()
        self._stopped = self._has_begun = self._complete = False
        request.on_gone = self._scope.cancel
        if request.gone:
            self._scope.cancel()

    def stop(self) -> None:
        """End a response that may end at any time, or answer in its place."""
        self._stopped = True
        self._scope.cancel()

    async def run(self, handed: HandedOver) -> None:
        """Send the request, then write the response as it comes, until its end."""
        with self._scope, suppress(*_GONE):
            await self._stream.send_all(handed.encode())
            reader, request = FrameReader(self._stream), self._request
            while not self._complete and (frame := await reader.receive()) is not None:
                events = decode_response(frame)
                if not events:
                    continue
                self._has_begun = True
                if type(events[-1]) is EndOfBody:
                    self._complete = True
                    request.on_gone = None  # its connection goes on to the next one
                request.write(*events)
                if not self._complete and request.held:
                    await request.flush()

    def end(self) -> None:
        """Leave nothing open: neither the connection nor the response."""
        self._stream.close()
        request = self._request
        if self._complete or request.gone:
            return
        request.on_gone = None
        if not self._stopped or self._at_end is None:
            request.abort()
        elif self._has_begun:
            request.write(_END)  # its client asks again
        else:
            write_reply(request, self._at_end)


class _Loop(AcceptLoop):
    """Accepts what other workers hand over."""

    def __init__(
        self, acceptor: SocketAcceptor, service: TakesOver, on_event: EventHandler | None
    ) -> None:
        super().__init__("workers", MAX_HANDED_OVER, on_event)
        self._acceptor = acceptor
        self._service = service

    async def accept_one(self, nursery: trio.Nursery) -> Exception | None:
        """Accept one request; see `AcceptLoop.accept_one`."""
        try:
            stream = SocketStream(await self._acceptor.accept())
        except (OSError, trio.ClosedResourceError) as error:
            self._places.release()
            return error
        except BaseException:
            self._places.release()
            raise
        nursery.start_soon(self._take, stream, name="trio_mcp_transport handed over")
        return None

    async def _take(self, stream: SocketStream) -> None:
        try:
            reader = FrameReader(stream)
            with suppress(*_GONE):
                frame = await reader.receive()
                if frame is not None:
                    await self._answer(stream, decode_request(frame))
        except Exception as group:
            error = lone_exception(group)
            message = f"a request that was taken over failed: {error!r}"
            _report_failed(self._on_event, message, error)
        finally:
            stream.close()
            self._places.release()

    async def _answer(self, stream: SocketStream, handed: HandedOver) -> None:
        async with trio.open_nursery() as nursery:
            request = _HandedRequest(handed, stream, nursery, self._service.unsent)
            nursery.start_soon(request.watch)
            try:
                await self._service.take_over(request, handed.principal)
                await request.settle()
            finally:
                request.close()
            nursery.cancel_scope.cancel()


class _HandedRequest(HttpRequestStream):
    """A request that another worker has handed over."""

    def __init__(
        self, handed: HandedOver, stream: SocketStream, nursery: trio.Nursery, unsent: Unsent
    ) -> None:
        self.head = handed.head
        self.facts = handed.facts
        self.mount = handed.mount
        self.on_gone = None
        self._body = handed.body
        self._stream = stream
        self._unsent = unsent
        self._outbox = Outbox(
            stream, nursery=nursery, options=_OUTBOX, on_failure=lambda _: self.cut()
        )
        self._over = trio.Event()
        self._complete = self._gone = False

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body, which is here. See `HttpRequestStream.read_body`."""
        await trio.lowlevel.checkpoint()
        return self._body or b""

    def write(self, *events: ResponseEvent) -> None:
        """Send parts of the response. See `HttpRequestStream.write`."""
        if self._gone:
            return
        if self._complete:
            raise LocalProtocolError("the response is complete")
        self._complete = type(events[-1]) is EndOfBody
        with suppress(ChannelBroken):  # `cut` was called
            self._outbox.put_owed(encode_response(events))
        if self._outbox.size:
            self._unsent.note(self)
        if self._complete:
            self._over.set()

    @property
    def held(self) -> int:
        """Bytes that the other worker has not taken."""
        return self._outbox.size

    @property
    def taken(self) -> int:
        """Bytes that it has taken."""
        return self._outbox.bytes_written

    async def flush(self) -> None:
        """Wait until it has, or is gone."""
        with suppress(*_GONE):
            await self._outbox.flush()

    def abort(self) -> None:
        """Break the response off."""
        if not self._complete:
            self.cut()

    @property
    def gone(self) -> bool:
        """Whether the client went away before the response was complete."""
        return self._gone

    def cut(self) -> None:
        """The client is gone, or is to be treated so. Idempotent."""
        if self._gone:
            return
        self._gone = True
        self._over.set()
        self._outbox.close(_ended)
        self._unsent.forget(self)
        if not self._complete and self.on_gone is not None:
            self.on_gone()

    async def watch(self) -> None:
        """Wait for the other worker to end the connection."""
        with suppress(*_GONE):
            while await self._stream.receive_some():
                pass
        self.cut()

    async def settle(self) -> None:
        """Wait until the response is sent, or broken off, or the client is gone."""
        await self._over.wait()
        await self.flush()

    def close(self) -> None:
        """Nothing more can be sent."""
        self.cut()


def _report_failed(on_event: EventHandler | None, message: str, error: Exception) -> None:
    report(on_event, ChannelEvent(name="request.failed", message=message, error=error))


def _ended() -> BaseException:
    return trio.ClosedResourceError("the connection to the other worker has ended")
