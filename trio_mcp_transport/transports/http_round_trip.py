"""One HTTP request and its response on a connection of the pool.

Made by `HttpPool.request`. It writes the request, reads the head of the response while it
writes, and hands the body out as it comes. At the end of the body the connection goes back to
the pool; a block that is left before, by whatever exception, closes it. Nothing in here waits
in order to let go.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import trio

from ..abc import ConnectionLost
from ..errors import MessageTooLarge, RemoteProtocolError, RequestTimeout
from ..reporting import choose_failure
from ..sansio.http1 import BodyData, Http1Limits, RequestHead, ResponseHead
from ..sansio.http1_client import Http1Client
from ..sansio.machine import NEED_DATA
from .http_sender import BegunRequest

__all__ = ["HttpConnection", "HttpStream", "RoundTrip", "Route"]

#: Methods that may be sent again although the server may have seen the request: "their
#: defined semantics are essentially read-only" (RFC 9110, section 9.2.1).
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Times that a request is sent again because a kept connection was dead.
MAX_REPEATS = 3

_ABANDONED = "this request was abandoned"

# RFC 2068, section 19.7.1.1; Node.js and Apache send it.
_KEEP_ALIVE = re.compile(r"\btimeout=([0-9]{1,9})\b")


class Route(NamedTuple):
    """Where a connection goes, and whether it is encrypted."""

    host: str
    port: int
    secure: bool = False


class HttpStream(Protocol):
    """What a connection needs of its stream.

    `SocketStream` has all of it, and what is used where a stream offers it: `send_nowait`
    and `receive_nowait`.
    """

    async def receive_some(self, max_bytes: int | None = None, /) -> bytes:
        """As `trio.abc.ReceiveStream.receive_some`."""

    async def send_all(self, data: bytes | memoryview, /) -> None:
        """As `trio.abc.SendStream.send_all`."""

    def close(self) -> None:
        """Close at once; tasks that wait get `trio.ClosedResourceError`. Idempotent."""


class HttpConnection:
    """A connection of the pool, in use or idle.

    Args:
        route: Where it goes.
        stream: What it is made of.
        limits: What the head of a response may measure.

    Attributes:
        reused: Whether it has served a request before.
        kept_for: Seconds that the server keeps it when it is idle, as far as it said so.
        idle_until: While it is idle: when it expires, by Trio's clock.
    """

    __slots__ = ("idle_until", "kept_for", "machine", "reused", "route", "send_nowait", "stream")

    def __init__(self, route: Route, stream: HttpStream, limits: Http1Limits) -> None:
        self.route = route
        self.stream = stream
        self.machine = Http1Client(limits)
        self.reused = False
        self.kept_for = math.inf
        self.idle_until = math.inf
        self.send_nowait: Callable[[bytes], int] | None = getattr(stream, "send_nowait", None)

    def is_dead(self) -> bool:
        """Whether the server closed it, or sent what nobody asked for, while it was idle."""
        receive_nowait: Callable[[], bytes | None] | None = getattr(
            self.stream, "receive_nowait", None
        )
        if receive_nowait is None:
            return False
        try:
            return receive_nowait() is not None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True


class ConnectionSource(Protocol):
    """The pool, as a round trip sees it."""

    def acquire_nowait(self, route: Route, /) -> HttpConnection | None:
        """A connection that is idle, if there is one."""

    async def acquire(self, route: Route, /) -> HttpConnection:
        """A connection, new or waited for."""

    def give_back(self, connection: HttpConnection, /) -> None:
        """Keep a connection for others. Never waits."""

    def discard(self, connection: HttpConnection, /) -> None:
        """Close a connection. Never waits."""


class RoundTrip(BegunRequest):
    """The async context manager that `HttpPool.request` returns, and its response."""

    __slots__ = (
        "_body",
        "_connection",
        "_deadline",
        "_eof",
        "_fault",
        "_head",
        "_head_timeout",
        "_left",
        "_on_written",
        "_peeked",
        "_pool",
        "_received",
        "_rest",
        "_route",
        "_tries",
        "_written",
        "has_head",
        "headers",
        "status",
    )

    def __init__(
        self,
        pool: ConnectionSource,
        route: Route,
        head: RequestHead,
        body: bytes,
        head_timeout: float,
        on_written: Callable[[], object] | None,
    ) -> None:
        self._pool = pool
        self._route = route
        self._head = head
        self._body = body
        self._head_timeout = head_timeout
        self._deadline: float | None = None
        self._on_written = on_written
        self._connection: HttpConnection | None = None
        self._tries = 0
        self.has_head = False
        self._rest: bytes | memoryview = b""  # of the request: what is not written
        self._written = 0  # bytes of the request, as far as that is known
        self._received = False  # whether a byte of the response came
        self._eof = False
        self._fault: ConnectionLost | RemoteProtocolError | None = None
        self._peeked = b""  # taken out of the machine by a look that did not suffice
        self._left = False

    async def __aenter__(self) -> Self:
        while not self.has_head:
            if self._connection is None:
                if self._tries == MAX_REPEATS:
                    raise ConnectionLost(
                        "the server closes connections as soon as they are used again"
                    )
                connection = self._pool.acquire_nowait(self._route)
                if connection is None:
                    connection = await self._pool.acquire(self._route)
                self._begin(connection)
            await self.wait_head()
        return self

    def begin(self) -> bool:
        """Write the request now, or as much of it as the operating system takes.

        Returns:
            False where no kept connection is free: nothing was done.
        """
        connection = self._pool.acquire_nowait(self._route)
        if connection is None:
            return False
        self._begin(connection)
        return True

    def _begin(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._tries += 1
        self._written, self._received, self._eof = 0, False, False
        try:
            data = connection.machine.send_request(self._head, self._body)
            if connection.send_nowait is not None:
                self._written = connection.send_nowait(data)
        except trio.BrokenResourceError:
            # There may be an answer that says why.
            connection.machine.send_failed()
            self._rest = b""
            return
        except BaseException:
            self._discard()
            raise
        if self._written == len(data):
            self._tell_written()
            self._rest = b""
        else:
            self._rest = memoryview(data)[self._written :]

    def abandon(self) -> None:
        """Close the connection; see `BegunRequest.abandon`."""
        self._left = True
        self._discard()

    async def wait_head(self) -> None:
        """Wait for the head of the response; see `BegunRequest.wait_head`."""
        connection = self._connection
        if connection is None:
            raise trio.ClosedResourceError(_ABANDONED)
        try:
            if self._head_timeout == math.inf:
                if self._rest:
                    await self._exchange(connection)
                else:
                    await self._read_head(connection)
            else:
                await self._exchange_in_time(connection)
        except ConnectionLost:
            self._discard()
            if not self._may_repeat(connection):
                raise
        except BaseException:
            self._discard()
            raise

    def _may_repeat(self, connection: HttpConnection) -> bool:
        return (
            connection.reused
            and not self._received
            and (not self._written or self._head.method in SAFE_METHODS)
        )

    async def _exchange_in_time(self, connection: HttpConnection) -> None:
        if self._deadline is None:
            self._deadline = trio.current_time() + self._head_timeout
        with trio.CancelScope(deadline=self._deadline):
            await self._exchange(connection)
            return
        raise RequestTimeout(f"no response within {self._head_timeout:g} s")

    async def _exchange(self, connection: HttpConnection) -> None:
        """Write what is left of the request and read the head of its response."""
        if not self._rest:
            await self._read_head(connection)
            return
        # A server may answer before it has read everything, and then stop reading: RFC 9112,
        # section 9.5, wants a client to watch for that while it sends.
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_rest, connection)
                await self._read_head(connection)
                if self._rest:
                    connection.machine.send_failed()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise choose_failure(group, None) from None

    async def _write_rest(self, connection: HttpConnection) -> None:
        try:
            await connection.stream.send_all(self._rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The reader finds out more: an answer that explains it, or the same error.
            connection.machine.send_failed()
        else:
            self._rest = b""
            self._tell_written()
        finally:
            self._written = max(self._written, 1)  # it may have been anything

    def _tell_written(self) -> None:
        on_written, self._on_written = self._on_written, None
        if on_written is not None:
            on_written()

    async def _read_head(self, connection: HttpConnection) -> None:
        machine, receive_some = connection.machine, connection.stream.receive_some
        while True:
            try:
                data = await receive_some()
            except trio.BrokenResourceError as error:
                raise _lost(error) from error
            if self._connection is not connection:  # while this task was about to run
                raise trio.ClosedResourceError(_ABANDONED)
            if not data:
                raise ConnectionLost("the server closed the connection before its response")
            self._received = True
            whole = None if self._rest else machine.receive_whole(data)
            if whole is not None:
                head, self._peeked = whole
                self._take_head(head, connection)
                self._let_go(connection)
                return
            machine.receive_data(data)
            event = machine.next_event()
            while event is not NEED_DATA:
                if isinstance(event, ResponseHead):
                    self._take_head(event, connection)
                    return
                event = machine.next_event()  # it was an informational one

    def _take_head(self, head: ResponseHead, connection: HttpConnection) -> None:
        self.has_head = True
        self.status = head.status
        self.headers = head.headers
        said = head.headers.get("keep-alive")
        if said is not None and (match := _KEEP_ALIVE.search(said.lower())):
            connection.kept_for = float(match[1])

    async def receive_some(self) -> bytes:
        """The next bytes of the body; ``b""`` is its end. As `HttpResponse.receive_some`."""
        self._check_not_left()
        await trio.lowlevel.checkpoint_if_cancelled()
        data = self._next_data()
        if data is None:
            return await self._wait_for_data()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    async def read(self, max_bytes: int) -> bytes:
        """The whole body, or what is left of it. As `HttpResponse.read`."""
        self._check_not_left()
        await trio.lowlevel.checkpoint_if_cancelled()
        pieces: list[bytes] = []
        size, waited = 0, False
        while True:
            data = self._next_data()
            if data is None:
                data = await self._wait_for_data()
                waited = True
            if not data:
                break
            size += len(data)
            if size > max_bytes:
                self._discard()
                self._left = True  # what is missing must not look like the end
                raise MessageTooLarge(size, max_bytes)
            pieces.append(data)
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return b"".join(pieces)

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """The whole body if all of it is here already. As `HttpResponse.read_nowait`."""
        if self._left or self._fault is not None:
            return None
        pieces: list[bytes] = []
        data: bytes | None = None
        try:
            while data := self._next_data():
                pieces.append(data)
        except (RemoteProtocolError, ConnectionLost):
            data = None  # it comes again
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if data is None or len(body) > max_bytes:
            self._peeked = body
            return None
        return body

    async def _wait_for_data(self) -> bytes:
        while True:
            connection = self._connection
            assert connection is not None
            try:
                data = await connection.stream.receive_some()
            except trio.BrokenResourceError as error:
                self._fault = _lost(error)
                self._discard()
                raise self._fault from error
            self._check_not_left()
            if data:
                connection.machine.receive_data(data)
            else:
                self._eof = True
                connection.machine.receive_eof()
            body = self._next_data()
            if body is not None:
                return body

    def _next_data(self) -> bytes | None:
        """What is here of the body, ``b""`` at its end, None when more must be received."""
        if self._peeked:
            data, self._peeked = self._peeked, b""
            return data
        if self._fault is not None:
            raise type(self._fault)(str(self._fault)) from self._fault
        connection = self._connection
        if connection is None:
            return b""
        try:
            event = connection.machine.next_event()
        except RemoteProtocolError as error:
            self._discard()
            self._fault = ConnectionLost(str(error)) if self._eof else error
            raise self._fault from error.__cause__
        if isinstance(event, BodyData):
            return event.data
        if event is NEED_DATA:
            return None
        self._let_go(connection)
        return b""

    def _let_go(self, connection: HttpConnection) -> None:
        """The response is read: keep the connection for others, where that is possible."""
        self._connection = None
        if connection.machine.reusable:
            connection.machine.start_next_cycle()
            self._pool.give_back(connection)
        else:
            self._pool.discard(connection)

    def _check_not_left(self) -> None:
        if self._left:
            raise trio.ClosedResourceError("the block of this response was left")

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.discard(connection)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the connection go. No checkpoint."""
        self._left = True
        try:
            while self._next_data():  # what is here already, so that the end is found
                pass
        except (RemoteProtocolError, ConnectionLost):
            return  # nobody reads on: it is closed, which is all that is wanted
        self._discard()


def _lost(error: trio.BrokenResourceError) -> ConnectionLost:
    return ConnectionLost(f"the connection to the server was lost: {error}")
