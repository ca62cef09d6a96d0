"""An MCP endpoint over HTTP, whoever speaks the HTTP: what requests become.

`HttpListener` feeds it from connections of our own, `interop.asgi` from an ASGI server. It
takes whole requests, lets the pure parts (`security.admission`, `sansio.mcp_http`) decide,
and does what they decided: answers, or makes channels and runs the handler for them.
It reads no socket and knows no framing.

Theory of operation: `HttpService.handle` is called once per request, by the task that
read its head. It returns when the request has been dispatched, which is before it has been
answered: the response is written, synchronously, by whichever task has something to say
(`HttpRequestStream.write`), and is complete with its `EndOfBody`. So the task that reads a
connection is free to go on reading, which is how a client that goes away is noticed:
the stream then calls `on_gone`, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..security.facts import ConnectionFacts

if TYPE_CHECKING:
    from ..sansio.http1 import BodyData, EndOfBody, InformationalResponse, RequestHead, ResponseHead

__all__ = ["ConnectionFacts", "HttpRequestStream"]


class HttpRequestStream(ABC):
    """One HTTP request and the way back for its response.

    Attributes:
        head: The request line and the headers.
        facts: About the connection.
        on_gone: Called once, synchronously, when the client went away before the response
            was complete (its connection ended or failed, or took nothing for too long).
            Nothing that is written from then on goes anywhere.
    """

    head: RequestHead
    facts: ConnectionFacts
    on_gone: Callable[[], object] | None = None

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
    def write(self, *events: InformationalResponse | ResponseHead | BodyData | EndOfBody) -> None:
        """Hand over parts of the response; never waits and never fails.

        What the other end does not take at once is held. Whoever writes a lot looks at
        `held` and waits in `flush`. After the client went away this does nothing.
        """

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
