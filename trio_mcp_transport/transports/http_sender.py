"""What the HTTP client needs from whoever sends its requests: two abstract classes.

Implemented by the connection pool (`http_pool`) and by the adapter for a client that the
user brings. A sender knows HTTP alone; everything about MCP is above it. It follows no
redirect, keeps no cookies, and sends a request again only where a kept connection turned out
to be dead and either nothing of it was written or its method is safe (RFC 9110, 9.2.1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from ..errors import MessageTooLarge
from ..sansio.headers import NO_HEADERS, Headers

__all__ = ["AsyncHttpClient", "BegunRequest", "HttpResponse", "HttpSender"]


class AsyncHttpClient(Protocol):
    """An `httpx.AsyncClient` or an `httpx2.AsyncClient`, which are checked when given."""

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""

    async def aclose(self) -> None:
        """Close it."""


class HttpResponse(ABC):
    """A response whose head has come; its body is read as it comes.

    Good only inside the `async with` of `HttpSender.request`. One task reads at a time.

    Attributes:
        status: The status of the final response.
        headers: Its header fields.
    """

    __slots__ = ()

    status: int
    headers: Headers

    @abstractmethod
    async def receive_some(self) -> bytes:
        """The next bytes of the body, as they come; ``b""`` is its end, again and again.

        Cancelling loses nothing. A checkpoint.

        Raises:
            trio.BrokenResourceError: The connection ended in the middle of the body.
            trio.ClosedResourceError: The block was left.
            RemoteProtocolError: The server broke HTTP.
        """

    async def read(self, max_bytes: int) -> bytes:
        """The whole body, or what is left of it.

        Raises:
            MessageTooLarge: It is larger than `max_bytes`; what was read is dropped.
            trio.BrokenResourceError: As `receive_some`, as are the others.
        """
        pieces: list[bytes] = []
        size = 0
        while data := await self.receive_some():
            size += len(data)
            if size > max_bytes:
                raise MessageTooLarge(size, max_bytes)
            pieces.append(data)
        return b"".join(pieces)

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """The whole body if all of it is here already, as that of a short answer often is.

        Returns:
            The body; None when it takes `read` to get it, or to find out that it is too
            large. Nothing is lost then.
        """
        return None


class BegunRequest(HttpResponse, AbstractAsyncContextManager[HttpResponse]):
    """A request that is on its way; what `HttpSender.begin` returns.

    Await `wait_head`, then use it as what `HttpSender.request` returns; or `abandon` it.
    Status and headers are there when `has_head` is true.

    Attributes:
        has_head: Whether the head of the response is there.
    """

    __slots__ = ()

    has_head: bool

    @abstractmethod
    async def wait_head(self) -> None:
        """Wait for the head of the response.

        Without one, and without an exception, the request was not sent after all, and may
        be sent anew: entering the block does.

        Raises:
            trio.ClosedResourceError: It was abandoned.
            ConnectionLost: As `HttpSender.request`, as are the others.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Give it up from any task, as leaving the block does. Idempotent."""


class HttpSender(trio.abc.AsyncResource):
    """Sends HTTP requests, any number at a time."""

    @abstractmethod
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

        Leaving the block before the body's end closes the connection (that is how a
        request is given up), after it the connection is used again. Leaving never waits.
        Cancelled while it waits, nothing is left behind.

        Args:
            method: The method.
            url: ``http://HOST[:PORT]/PATH?QUERY``; user names and fragments are refused.
            headers: The fields. ``Content-Length`` is added, and ``Host`` if it is not
                among them.
            body: The whole body.
            head_timeout: Seconds from the first byte sent until the whole head of the final
                response is there. Connecting and waiting for a free connection have the
                sender's own limits.
            on_written: Called once the operating system has the whole request, before the
                head of the response is there; quick, and must not raise. Not called where
                the request failed before; never called twice.

        Raises:
            ConnectFailed: No connection; the server saw nothing of the request.
            RequestTimeout: The head did not come within `head_timeout`.
            ConnectionLost: The connection ended before the head had come: the server may
                have seen the request or not.
            RemoteProtocolError: What came is not HTTP, or over a limit.
            ConfigurationError: The URL is wrong.
            FeatureUnavailable: The scheme needs what is not installed.
        """

    def begin(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
        on_written: Callable[[], object] | None = None,
    ) -> BegunRequest | None:
        """Send a request at once, where nothing has to be waited for. No checkpoint.

        Arguments and exceptions are those of `request`.

        Returns:
            The request, which must be awaited or abandoned; None if it takes `request`, as
            always for a sender that does not know this. Nothing was done then.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Close all connections at once, as far as that needs no waiting. Idempotent.

        Requests that run get `trio.ClosedResourceError`.
        """

    async def aclose(self) -> None:
        """Close all connections, in a cancelled scope as well. Idempotent."""
        self.close()
        await trio.lowlevel.checkpoint()
