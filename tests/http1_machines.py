"""The HTTP/1.1 machines with the part of their adapter played: for tests of cuts and orders."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import (
    BodyData,
    EndOfBody,
    Http1Limits,
    InformationalResponse,
    RequestHead,
    ResponseHead,
)
from trio_mcp_transport.sansio.http1_client import ClientEvent, Http1Client
from trio_mcp_transport.sansio.http1_server import Http1Server, ServerEvent
from trio_mcp_transport.sansio.machine import EndOfData, NeedData, Paused
from trio_mcp_transport.testing import feed


class Body(msgspec.Struct, frozen=True):
    """All of a body, or what came of it before a fault."""

    data: bytes
    complete: bool = True


Event = RequestHead | ResponseHead | InformationalResponse | Body


class Joining:
    """Joins the pieces of a body, whose number depends on the cut."""

    def __init__(self, machine: Http1Server | Http1Client) -> None:
        self.machine = machine
        self._pieces: list[bytes] = []
        self._fault: RemoteProtocolError | None = None

    def receive_data(self, data: bytes, /) -> None:
        self.machine.receive_data(data)

    def receive_eof(self) -> None:
        self.machine.receive_eof()

    def next_event(self) -> Event | EndOfData | NeedData:
        if self._fault is not None:
            raise self._fault
        while True:
            try:
                event = self.machine.next_event()
            except RemoteProtocolError as error:
                self._fault = error
                if not self._pieces:
                    raise
                return Body(b"".join(self._pieces), complete=False)
            if isinstance(event, BodyData):
                assert event.data
                self._pieces.append(event.data)
            elif isinstance(event, EndOfBody):
                body = Body(b"".join(self._pieces))
                self._pieces = []
                self.end_of_body()
                return body
            elif isinstance(event, NeedData | EndOfData):
                return event
            elif isinstance(event, Paused):
                return NeedData.NEED_DATA
            else:
                self.head(event)
                return event

    def head(self, event: ServerEvent | ClientEvent) -> None:
        """A head has come."""

    def end_of_body(self) -> None:
        """A body has ended."""


class ServedRequests(Joining):
    """A server that accepts every body and answers every request with 204."""

    def __init__(self, *, max_body_bytes: int = 1000, limits: Http1Limits | None = None) -> None:
        self.server = Http1Server(limits)
        super().__init__(self.server)
        self.max_body_bytes = max_body_bytes
        self.sent = b""

    def head(self, event: ServerEvent | ClientEvent) -> None:
        self.server.accept_body(self.max_body_bytes)
        self.sent += self.server.bytes_to_send()

    def end_of_body(self) -> None:
        self.sent += self.server.send_response(ResponseHead(204))
        if not self.server.must_close:
            self.server.start_next_cycle()


class ReadResponses(Joining):
    """A client that asked once."""

    def __init__(
        self,
        *,
        method: str = "GET",
        headers: Headers | None = None,
        max_body_bytes: int | None = None,
        limits: Http1Limits | None = None,
    ) -> None:
        self.client = Http1Client(limits)
        super().__init__(self.client)
        if headers is None:
            headers = Headers([("Host", "example.com")])
        self.client.send_request(RequestHead(method, "/", headers), max_body_bytes=max_body_bytes)


def statuses(events: Sequence[object]) -> list[int]:
    """The status that each fault asks for."""
    return [event.status for event in events if isinstance(event, RemoteProtocolError)]


def served(data: bytes) -> Sequence[object]:
    """What comes out of a server that is given these bytes and the end."""
    return feed(ServedRequests(), data, eof=True)
