"""A request as it lasts on an `HttpConnection`, which makes one for each head that it reads.

It stands between the connection, which goes on to other requests, and whoever answers this
one, maybe much later: once the response is complete or the connection has ended, nothing
that is done here reaches the connection any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..errors import LocalProtocolError
from ..sansio.headers import NO_HEADERS, Headers
from ..sansio.http1 import RequestHead, ResponseEvent, ResponseHead
from .http_request import HttpRequestStream, Switched

if TYPE_CHECKING:
    from .http_connection import HttpConnection

__all__ = ["ConnectionRequest"]


class ConnectionRequest(HttpRequestStream):
    """One request.

    Args:
        connection: Whose; it takes what is written here.
        head: Its head.

    Attributes:
        complete: Whether the response is whole; set by the connection.
        body_complete: Whether the body was read to its end.
    """

    def __init__(self, connection: HttpConnection, head: RequestHead) -> None:
        self._connection = connection
        self.head = head
        self.facts = connection.facts
        self.on_gone = None
        self.may_wait = True
        self.complete = False
        self.body_complete = False
        self._gone = False

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body. See `HttpRequestStream.read_body`."""
        body = await self._connection.read_body(max_bytes)
        self.body_complete = True
        return body

    def write(self, *events: ResponseEvent) -> None:
        """Hand over parts of the response. See `HttpRequestStream.write`."""
        if not self._gone:
            if self.complete:
                raise LocalProtocolError("the response is complete")
            self._connection.write(events)

    def respond(self, head: ResponseHead, body: bytes) -> None:
        """Hand over a whole response. See `HttpRequestStream.respond`."""
        if not self._gone:
            if self.complete:
                raise LocalProtocolError("the response is complete")
            self._connection.respond(head, body)

    @property
    def held(self) -> int:
        """Bytes that are not yet taken by the operating system."""
        return 0 if self._gone else self._connection.held

    async def flush(self) -> None:
        """Wait until nothing is held, or the client is gone."""
        if self._gone:
            await trio.lowlevel.checkpoint()
        else:
            await self._connection.flush()

    async def switch_protocol(self, protocol: str, headers: Headers = NO_HEADERS) -> Switched:
        """Hand the connection over. See `HttpRequestStream.switch_protocol`."""
        if self._gone:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("the client went away")
        return await self._connection.switch_protocol(protocol, headers)

    def abort(self) -> None:
        """Break the response off."""
        if not self.complete:
            self._connection.close()

    @property
    def gone(self) -> bool:
        """Whether the client went away before the response was complete."""
        return self._gone

    def lose(self) -> None:
        """The connection ended in the middle; called by it."""
        self._gone = True
        if self.on_gone is not None:
            self.on_gone()
