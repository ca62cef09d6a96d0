"""One HTTP request and its response, as `HttpService` sees them, whoever speaks the HTTP.

Implemented by `http_connection` for connections of our own and by `interop.asgi` for an ASGI
server's. Theory of operation: the response is written, synchronously, by whichever task has
something to say; so the task that reads a connection is free to go on reading, which is
how a client that goes away is noticed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from ..errors import LocalProtocolError
from ..sansio.headers import NO_HEADERS, Headers
from ..sansio.http1 import BodyData, EndOfBody, RequestHead, ResponseEvent, ResponseHead
from ..sansio.mcp_http.replies import Reply
from ..security.facts import ConnectionFacts
from .http_unsent import Unsent

if TYPE_CHECKING:
    from ..abc import ChannelContext
    from ..sansio.mcp_http.server import ReadBody
    from ..security.admission import Admitted

__all__ = [
    "DecoratedStream",
    "HttpRequestStream",
    "KnownHead",
    "RequestTaker",
    "Switched",
    "write_reply",
]


_END = EndOfBody()


class Switched(NamedTuple):
    """A connection that speaks another protocol from here on.

    Attributes:
        stream: The bytes after those in `data`. It is closed when `RequestTaker.handle`
            returns, if it is not before.
        data: What had come behind the request's head already.
        eof: Whether the client's end follows it.
    """

    stream: trio.abc.Stream
    data: bytes
    eof: bool


class KnownHead:
    """What was found out about a head: the same for each request of a connection with it.

    A connection that gets the same head again, the same object, hands this on with it. What is
    put into it must depend on the head and the facts of the connection alone, never on who
    authenticated, the time, a session or a body.

    Args:
        head: The head.

    Attributes:
        head: As given.
        admitted: That it was admitted.
        extra: What each response carries beside its own headers.
        judged: That its body may be read.
        context: The context of a channel for it.
    """

    __slots__ = ("admitted", "context", "extra", "head", "judged")

    def __init__(self, head: RequestHead | None) -> None:
        self.head = head
        self.admitted: Admitted | None = None
        self.extra: Headers | None = None
        self.judged: ReadBody | None = None
        self.context: ChannelContext | None = None


class HttpRequestStream(ABC):
    """One HTTP request and the way back for its response.

    Attributes:
        head: The request line and the headers.
        facts: About the connection.
        mount: What the server's paths are mounted under, as the client sees them; ASGI's
            ``root_path``.
        may_wait: Whether `RequestTaker.handle` may take as long as the answer does. Whoever
            calls it then notices by itself that the client went away, and cancels it.
        on_gone: Called once, synchronously, when the client went away before the response
            was complete (its connection ended or failed, or took nothing for too long).
            Nothing that is written from then on goes anywhere.
        known: What was found out about this head before; None where nobody keeps that.
    """

    head: RequestHead
    facts: ConnectionFacts
    mount: str = ""
    may_wait: bool = False
    on_gone: Callable[[], object] | None = None
    known: KnownHead | None = None

    @abstractmethod
    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body. A checkpoint; is called at most once, and before any `write`.

        A request whose body is never read is still answered; its connection ends then.

        Raises:
            RemoteProtocolError: It is too large, malformed or took too long; the `status`
                of the exception says how to answer.
            trio.BrokenResourceError: The client went away.
        """

    @abstractmethod
    def write(self, *events: ResponseEvent) -> None:
        """Hand over parts of the response; never waits and never fails.

        What the other end does not take at once is held. Whoever writes a lot looks at
        `held` and waits in `flush`. After the client went away this does nothing.
        """

    def respond(self, head: ResponseHead, body: bytes) -> None:
        """Hand over a whole response, as `write` would."""
        self.write(head, BodyData(body), _END)

    @property
    @abstractmethod
    def held(self) -> int:
        """Bytes that were written and are not yet taken by the operating system."""

    @abstractmethod
    async def flush(self) -> None:
        """Wait until nothing is held, or the client is gone. Cancelling it loses nothing."""

    @abstractmethod
    def abort(self) -> None:
        """Break the response off, so that the client cannot take it for complete."""

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether the client went away before the response was complete."""

    async def switch_protocol(self, protocol: str, headers: Headers = NO_HEADERS) -> Switched:
        """Answer 101 and hand the connection over, both directions of it.

        Returns once the operating system has the 101. From then on nothing of this request
        may be used, and the connection lasts until `RequestTaker.handle` returns. If it is
        cancelled the connection is of no use any more.

        Args:
            protocol: One of those that the request offers (`RequestHead.upgrade`).
            headers: Further fields of the response.

        Raises:
            LocalProtocolError: The request does not offer it, has a body, or is answered
                already; or this is no connection of our own. Nothing was written.
            trio.BrokenResourceError: The client went away.
        """
        await trio.lowlevel.checkpoint()
        raise LocalProtocolError("this server does not let its connections change the protocol")


class RequestTaker(Protocol):
    """What a connection gives its requests to: an `HttpService`.

    Attributes:
        unsent: To be told of what clients do not take.
    """

    unsent: Unsent

    async def handle(self, request: HttpRequestStream) -> None:
        """See to a request; returns when that is begun, or done if it `may_wait`.

        Raises nothing but `Cancelled`.
        """

    def turn_away(self, request: HttpRequestStream) -> None:
        """Answer a request for which there is no room."""


class DecoratedStream(HttpRequestStream):
    """A request whose responses carry further headers.

    Args:
        request: The request itself.
        extra: What is added to the head of each response.
    """

    def __init__(self, request: HttpRequestStream, extra: Headers) -> None:
        self.head = request.head
        self.facts = request.facts
        self.mount = request.mount
        self.may_wait = request.may_wait
        self._request = request
        self._extra = extra

    @property
    def on_gone(self) -> Callable[[], object] | None:
        """See `HttpRequestStream.on_gone`."""
        return self._request.on_gone

    @on_gone.setter
    def on_gone(self, callback: Callable[[], object] | None) -> None:
        self._request.on_gone = callback

    async def read_body(self, max_bytes: int) -> bytes:
        """See `HttpRequestStream.read_body`."""
        return await self._request.read_body(max_bytes)

    def write(self, *events: ResponseEvent) -> None:
        """Write, a head with what is added to it. See `HttpRequestStream.write`."""
        head = events[0]
        if type(head) is ResponseHead:
            decorated = ResponseHead(head.status, head.headers.merged(self._extra), head.reason)
            self._request.write(decorated, *events[1:])
        else:
            self._request.write(*events)

    @property
    def held(self) -> int:
        """See `HttpRequestStream.held`."""
        return self._request.held

    async def flush(self) -> None:
        """See `HttpRequestStream.flush`."""
        await self._request.flush()

    def abort(self) -> None:
        """See `HttpRequestStream.abort`."""
        self._request.abort()

    @property
    def gone(self) -> bool:
        """See `HttpRequestStream.gone`."""
        return self._request.gone

    async def switch_protocol(self, protocol: str, headers: Headers = NO_HEADERS) -> Switched:
        """Answer 101, with what is added to it. See `HttpRequestStream.switch_protocol`."""
        return await self._request.switch_protocol(protocol, headers.merged(self._extra))


def write_reply(request: HttpRequestStream, reply: Reply) -> None:
    """Answer a request with a whole response."""
    if reply.body:
        request.respond(reply.head, reply.body)
    else:
        request.write(reply.head, _END)
