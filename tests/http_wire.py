"""A connection of the HTTP server on a memory stream, and a service that tests script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import memory_stream_pair

from trio_mcp_transport.abc import ChannelEvent
from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.mcp_http.replies import JSON_HEADERS, Reply
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.transports.deadlines import Deadlines
from trio_mcp_transport.transports.http_connection import HttpConnection, HttpConnectionOptions
from trio_mcp_transport.transports.http_request import HttpRequestStream, write_reply
from trio_mcp_transport.transports.http_unsent import Unsent

DEFAULTS = HttpConnectionOptions()


def post(body: bytes = b"{}", *headers: str, target: str = "/mcp") -> bytes:
    """A POST with a Content-Length."""
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


class Responses:
    """Reads the client's end of a stream, response by response."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self.data = b""
        self.left: int | None = None  # of a body with a length that is read as chunks are

    async def _more(self) -> bool:
        data = await self._stream.receive_some(65536)
        self.data += data
        return bool(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next response."""
        while b"\r\n\r\n" not in self.data:
            assert await self._more(), f"the connection ended: {self.data!r}"
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self.left = int(headers["content-length"]) if "content-length" in headers else None
        return int(status.split()[1]), headers

    async def whole(self) -> tuple[int, dict[str, str], bytes]:
        """The next response, whose body has a length or chunks."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while chunk := await self.chunk():
                body += chunk
            return status, headers, body
        length = int(headers.get("content-length", 0))
        while len(self.data) < length:
            assert await self._more()
        body, self.data = self.data[:length], self.data[length:]
        return status, headers, body

    async def chunk(self) -> bytes:
        """The next chunk; empty for the last. What is left of a body with a length is one."""
        if self.left is not None:
            while len(self.data) < self.left:
                assert await self._more(), "the connection ended in a body"
            body, self.data = self.data[: self.left], self.data[self.left :]
            self.left = 0
            return body
        while b"\r\n" not in self.data:
            assert await self._more(), "the connection ended in a chunked body"
        size_line, rest = self.data.split(b"\r\n", 1)
        size = int(size_line, 16)
        self.data = rest
        while len(self.data) < size + 2:
            assert await self._more(), "the connection ended in a chunk"
        chunk, self.data = self.data[:size], self.data[size + 2 :]
        return chunk

    async def end(self) -> bytes:
        """All that comes until the connection ends."""
        while await self._more():
            pass
        return self.data


class ScriptedService:
    """Gives each request to a function; keeps all of them."""

    def __init__(self, script: Callable[[HttpRequestStream], Awaitable[object]]) -> None:
        self.script = script
        self.requests: list[HttpRequestStream] = []

    async def handle(self, request: HttpRequestStream) -> None:
        self.requests.append(request)
        await self.script(request)

    unsent = Unsent(2**30, print)

    def turn_away(self, request: HttpRequestStream) -> None:
        self.requests.append(request)
        write_reply(request, Reply(503, JSON_HEADERS, b"{}"))


async def echo(request: HttpRequestStream) -> None:
    """Answer with the body; as the service does, refuse one that does not come whole."""
    try:
        body = await request.read_body(1000)
    except RemoteProtocolError as error:
        write_reply(request, Reply(error.status, JSON_HEADERS, str(error).encode()))
    except trio.BrokenResourceError:
        pass
    else:
        write_reply(request, Reply(200, JSON_HEADERS, body))


class Wire:
    """A connection under test."""

    def __init__(
        self,
        client: trio.abc.Stream,
        connection: HttpConnection,
        deadlines: Deadlines,
        service: ScriptedService,
        events: list[ChannelEvent],
    ) -> None:
        self.client = client
        self.connection = connection
        self.deadlines = deadlines
        self.service = service
        self.events = events
        self.responses = Responses(client)
        self.ended = trio.Event()

    async def send(self, data: bytes) -> None:
        await self.client.send_all(data)


@asynccontextmanager
async def open_wire(
    script: Callable[[HttpRequestStream], Awaitable[object]] = echo,
    *,
    options: HttpConnectionOptions = DEFAULTS,
    turned_away: bool = False,
    streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> AsyncGenerator[Wire, None]:
    """A connection on a memory stream, whose service is the script; nothing is left of it."""
    client, server = streams or memory_stream_pair()
    deadlines = Deadlines()
    service = ScriptedService(script)
    events: list[ChannelEvent] = []
    connection = HttpConnection(
        server,
        ConnectionFacts(),
        service=service,
        deadlines=deadlines,
        options=options,
        on_event=events.append,
        turned_away=turned_away,
    )
    wire = Wire(client, connection, deadlines, service, events)

    async def run() -> None:
        await connection.run()
        wire.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        nursery.start_soon(run)
        yield wire  # ruff: ignore[fallible-context-manager] (a failed test leaves no result)
        await client.aclose()
        with trio.fail_after(1000):
            await wire.ended.wait()
        assert len(deadlines) == 0
        nursery.cancel_scope.cancel()
