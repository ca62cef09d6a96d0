"""The connection pool: HTTP requests over streams of Trio, plain or with TLS.

Used by the HTTP client. Connections are kept for the next request to the same host, at most
so many at a time in all, and those that wait for one are served in the order of their coming.

Theory of operation. All decisions are taken without waiting: `_count` is the number of places
taken, by connections in use, idle ones and those being opened. A place that becomes free goes
to the first that waits, with the connection if it fits or to open another; so where anybody
waits, nothing is idle. No task runs in the background: connections that were idle for too long
are closed when the pool is used next, and all of them by `aclose`.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import outcome
import trio

from ..abc import EventHandler
from ..endpoints import join_host_port
from ..errors import ConfigurationError, ConnectFailed, ConnectTimeout
from ..http_origins import DEFAULT_PORTS, parse_authority
from ..limits import HTTP_CLIENT_IDLE_TIMEOUT
from ..sansio.headers import NO_HEADERS, Headers
from ..sansio.http1 import Http1Limits, RequestHead
from ..security.tls_contexts import TlsClient
from ..tls_settings import TlsSettings
from .http_proxy import HttpProxy
from .http_round_trip import HttpConnection, HttpStream, RoundTrip, Route
from .http_sender import BegunRequest, HttpResponse, HttpSender
from .web_stream import HTTP_ALPN, OpenStream, Tell, open_tcp_stream, open_web_stream

__all__ = ["DEFAULT_IDLE_EXPIRY", "HttpPool", "PoolStatistics"]

#: Seconds that an idle connection is kept.
DEFAULT_IDLE_EXPIRY = HTTP_CLIENT_IDLE_TIMEOUT
#: Seconds before the end that a server announced for an idle connection (``Keep-Alive:
#: timeout=5``) at which it counts as expired: the closing may be on its way.
KEEP_ALIVE_MARGIN = 1.0
#: Connections at a time; httpx has as many.
DEFAULT_MAX_POOL_CONNECTIONS = 100
#: URLs whose parts are remembered. MCP has one or two per server.
_MAX_PARSED_URLS = 64
#: Heads that are remembered. MCP has one per tool that is called.
_MAX_HEADS = 64

_URL = re.compile(r"(?i:(https?)://)([^/?#@]*)([/?][\x21\x22\x24-\x7e]*)?")


class PoolStatistics(msgspec.Struct, frozen=True):
    """What a pool holds now.

    Attributes:
        connections: Connections, idle ones and those being opened among them.
        idle: Connections that nobody uses.
        waiting: Requests that wait for a connection.
    """

    connections: int
    idle: int
    waiting: int


class HttpPool(HttpSender):
    """Sends HTTP requests over connections of its own.

    Good in any task of one Trio run; close it when done.

    Args:
        open_stream: Connects to a host and port; TCP by default. Whatever it raises comes
            out of the request; an `OSError` as `ConnectFailed`.
        max_connections: Connections at a time. More requests wait, first come first served.
        idle_expiry: Seconds that an idle connection is kept; less if the server says so.
        connect_timeout: Seconds until a connection is made, name lookup included.
        limits: What the head of a response may measure.
        tls: For https: whom to trust, and who this is; sessions that it holds are resumed.
            By default the system's authorities, and nobody.
        proxy: Go through this to every host.
        on_event: Told of faults that no caller sees.
        tell: Told what comes after a connection: ``tunnelled``, ``secured``.
    """

    def __init__(
        self,
        *,
        open_stream: OpenStream | None = None,
        max_connections: int = DEFAULT_MAX_POOL_CONNECTIONS,
        idle_expiry: float = DEFAULT_IDLE_EXPIRY,
        connect_timeout: float = 30.0,
        limits: Http1Limits | None = None,
        tls: TlsClient | None = None,
        proxy: HttpProxy | None = None,
        on_event: EventHandler | None = None,
        tell: Tell | None = None,
    ) -> None:
        if max_connections < 1:
            raise ConfigurationError(f"max_connections must be at least 1, not {max_connections}")
        self._open_stream = self._open_tcp_stream if open_stream is None else open_stream
        self._max_connections = max_connections
        self._idle_expiry = idle_expiry
        self._connect_timeout = connect_timeout
        self._limits = Http1Limits() if limits is None else limits
        self._tls = tls
        self._proxy = proxy
        self._on_event = on_event
        self._tell = tell
        self._is_closed = False
        self._count = 0
        self._connections: set[HttpConnection] = set()  # in use and idle
        self._idle: deque[HttpConnection] = deque()  # the one given back last is on the right
        self._waiters: deque[tuple[trio.lowlevel.Task, Route]] = deque()
        self._opening: set[trio.CancelScope] = set()
        self._parsed_urls: dict[str, tuple[Route, str, str]] = {}
        # By the identity of the headers, which are kept as long as that.
        self._heads: dict[tuple[str, str, int], tuple[Headers, Route, RequestHead]] = {}

    def __repr__(self) -> str:
        numbers = self.statistics()
        return f"<HttpPool: {numbers.connections} connections, {numbers.idle} idle>"

    def statistics(self) -> PoolStatistics:
        """What the pool holds now."""
        return PoolStatistics(self._count, len(self._idle), len(self._waiters))

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
        head_timeout: float = math.inf,
        on_written: Callable[[], object] | None = None,
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """Send a request; the block begins when the head of its response is there.

        As `HttpSender.request`. A request that is not valid HTTP is a `LocalProtocolError`.
        """
        route, head = self._head(method, url, headers)
        return RoundTrip(self, route, head, body, head_timeout, on_written)

    def begin(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
        on_written: Callable[[], object] | None = None,
    ) -> BegunRequest | None:
        """Send a request at once, on a connection that is idle. As `HttpSender.begin`."""
        route, head = self._head(method, url, headers)
        begun = RoundTrip(self, route, head, body, math.inf, on_written)
        return begun if begun.begin() else None

    def _head(self, method: str, url: str, headers: Headers) -> tuple[Route, RequestHead]:
        """Where a request goes, and its head: the same object for the same headers."""
        key = (method, url, id(headers))
        found = self._heads.get(key)
        if found is None:
            found = self._make_head(method, url, headers)
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[key] = found
        return found[1], found[2]

    def _make_head(
        self, method: str, url: str, headers: Headers
    ) -> tuple[Headers, Route, RequestHead]:
        route, target, authority = self._parse(url)
        own = headers
        if "host" not in headers:
            own = Headers.from_parser([(b"Host", authority.encode()), *headers.raw])
        return headers, route, RequestHead(method, target, own)

    def _parse(self, url: str) -> tuple[Route, str, str]:
        """Where a URL leads, what to ask for there, and the value of Host."""
        parsed = self._parsed_urls.get(url)
        if parsed is None:
            parsed = _parse_url(url)
            if len(self._parsed_urls) >= _MAX_PARSED_URLS:
                self._parsed_urls.clear()
            self._parsed_urls[url] = parsed
        return parsed

    def acquire_nowait(self, route: Route) -> HttpConnection | None:
        """An idle connection for one request, if there is one.

        Called by `RoundTrip`, which gives it back or discards it.

        Raises:
            trio.ClosedResourceError: The pool is closed.
        """
        self._check_open()
        idle = self._idle
        if not idle:
            return None
        now = trio.current_time()
        if idle[0].idle_until <= now:
            self._close_expired(now)
        # The connection that was used last is the least likely to be dead.
        for connection in reversed(idle.copy()):
            if connection.route == route:
                idle.remove(connection)
                if connection.idle_until > now and not connection.is_dead():
                    return connection
                self._close(connection)
                self._count -= 1
        return None

    async def acquire(self, route: Route) -> HttpConnection:
        """A connection for one request: a new one, or one that is waited for.

        Called by `RoundTrip` where `acquire_nowait` gave none. Cancelled, nothing is taken.

        Raises:
            ConnectFailed: None could be made.
            trio.ClosedResourceError: The pool is closed, now or before.
        """
        if self._count < self._max_connections:
            self._count += 1
        elif self._idle:
            # One that leads elsewhere makes room.
            self._close(self._idle.popleft())
        else:
            connection = await self._wait_for_place(route)
            if connection is not None:
                return connection
        return await self._open(route)

    async def _wait_for_place(self, route: Route) -> HttpConnection | None:
        """Wait for a place; with it may come a connection."""
        waiter = (trio.lowlevel.current_task(), route)
        self._waiters.append(waiter)

        def give_up(_: object) -> trio.lowlevel.Abort:
            # Not later, when the task runs: until then it might be given a place.
            self._waiters.remove(waiter)
            return trio.lowlevel.Abort.SUCCEEDED

        connection: HttpConnection | None = await trio.lowlevel.wait_task_rescheduled(give_up)
        if connection is not None and connection.is_dead():
            self._close(connection)
            return None
        return connection

    async def _open(self, route: Route) -> HttpConnection:
        """Open a connection for a place that is taken; without one the place is free again."""
        stream: HttpStream | None = None
        try:
            self._check_open()  # again: who waited may have been served just before
            with trio.move_on_after(self._connect_timeout) as scope:
                self._opening.add(scope)
                try:
                    stream = await self._connect(route)
                finally:
                    self._opening.discard(scope)
        except OSError as error:
            self._free_place()
            if isinstance(error, ConnectFailed):
                raise
            raise ConnectFailed(f"cannot connect to {_where(route)}: {error}") from error
        except BaseException:
            self._free_place()
            raise
        if stream is None or self._is_closed:
            if stream is not None:
                stream.close()
            self._free_place()
            self._check_open()
            raise ConnectTimeout(
                f"no connection to {_where(route)} within {self._connect_timeout:g} s"
            )
        connection = HttpConnection(route, stream, self._limits)
        self._connections.add(connection)
        return connection

    async def _connect(self, route: Route) -> HttpStream:
        if route.secure and self._tls is None:
            self._tls = TlsClient(TlsSettings(alpn=(HTTP_ALPN,)), on_event=self._on_event)
        return await open_web_stream(
            route.host,
            route.port,
            tls=self._tls if route.secure else None,
            proxy=self._proxy,
            open_stream=self._open_stream,
            tell=self._tell,
        )

    async def _open_tcp_stream(self, host: str, port: int) -> HttpStream:
        return await open_tcp_stream(host, port, self._on_event)

    def give_back(self, connection: HttpConnection) -> None:
        """Take a connection that can serve another request. Called by `RoundTrip`."""
        connection.reused = True
        kept_for = min(self._idle_expiry, connection.kept_for - KEEP_ALIVE_MARGIN)
        connection.idle_until = trio.current_time() + kept_for
        if self._is_closed or (self._waiters and self._waiters[0][1] != connection.route):
            self.discard(connection)
        elif self._waiters:
            self._serve(connection)
        else:
            self._idle.append(connection)

    def discard(self, connection: HttpConnection) -> None:
        """Close a connection that is in use. Called by `RoundTrip`."""
        self._close(connection)
        self._free_place()

    def _free_place(self) -> None:
        if self._waiters:
            self._serve(None)
        else:
            self._count -= 1

    def _serve(self, connection: HttpConnection | None) -> None:
        """Pass a place on to the first that waits."""
        task, _ = self._waiters.popleft()
        trio.lowlevel.reschedule(task, outcome.Value(connection))

    def _close_expired(self, now: float) -> None:
        # Where somebody waits nothing is idle, so no place is to be passed on here.
        while self._idle and self._idle[0].idle_until <= now:
            self._close(self._idle.popleft())
            self._count -= 1

    def _close(self, connection: HttpConnection) -> None:
        self._connections.discard(connection)
        connection.stream.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise _closed()

    def close(self) -> None:
        """Close all connections. Requests that run get `trio.ClosedResourceError`.

        Idempotent.
        """
        self._is_closed = True
        for scope in self._opening:
            scope.cancel()
        waiters, self._waiters = self._waiters, deque()
        for task, _ in waiters:
            trio.lowlevel.reschedule(task, outcome.Error(_closed()))
        self._count -= len(self._idle)
        self._idle.clear()
        for connection in list(self._connections):
            self._close(connection)


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this pool was closed")


def _where(route: Route) -> str:
    return join_host_port(route.host, route.port)


def _parse_url(url: str) -> tuple[Route, str, str]:
    found = _URL.fullmatch(url)
    scheme = "" if found is None else found[1].lower()
    address = None if found is None else parse_authority(found[2], DEFAULT_PORTS[scheme])
    if found is None or address is None:
        # It may hold a password.
        raise ConfigurationError("a URL must be http[s]://HOST[:PORT][/PATH][?QUERY]")
    target = found[3] or "/"
    route = Route(*address, scheme == "https")
    return route, target if target.startswith("/") else "/" + target, found[2]
