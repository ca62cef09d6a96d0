"""An HTTP service and connections to it on memory streams, with the requests of both eras."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import trio
from http_wire import Responses
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from trio_mcp_transport import (
    ChannelOptions,
    Message,
    MessageChannel,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.abc import ChannelEvent
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.security.admission import Doorkeeper
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.transports.http_connection import HttpConnection, HttpConnectionOptions
from trio_mcp_transport.transports.http_service import HttpService, HttpServing
from trio_mcp_transport.transports.session_routes import SessionRoutes
from trio_mcp_transport.transports.websocket_settings import WebSocketServing

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
_PREFIX = "io.modelcontextprotocol/"
META: dict[str, object] = {
    f"{_PREFIX}protocolVersion": MODERN,
    f"{_PREFIX}clientInfo": {"name": "test", "version": "1"},
    f"{_PREFIX}clientCapabilities": {},
}
INITIALIZE: dict[str, object] = {
    "protocolVersion": LEGACY,
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
FACTS = ConnectionFacts(local_address=("127.0.0.1", 80), peer_address=("127.0.0.1", 50000))
OPTIONS = HttpServerOptions()
CHANNEL_OPTIONS = ChannelOptions()
SERVING = HttpServing()
CONNECTION = HttpConnectionOptions()

RESULT: dict[str, object] = {"content": []}
RESUMABLE = HttpServerOptions(resumable=True)

Handler = Callable[[MessageChannel], Awaitable[object]]


class Client:
    """One client connection."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        server: trio.StapledStream[MemorySendStream, MemoryReceiveStream],
    ) -> None:
        self.stream = stream
        self.server = server
        self.responses = Responses(stream)

    async def send(
        self,
        method: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        path: str = "/mcp",
    ) -> None:
        """Send a request; None as a header's value leaves it out."""
        fields = {
            "Host": "localhost",
            "Accept": "application/json, text/event-stream",
            **({} if body is None else {"Content-Type": "application/json"}),
            **(headers or {}),
        }
        if body is not None:
            fields["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await self.stream.send_all(
            f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + (body or b"")
        )

    async def post(
        self, message: object, headers: Mapping[str, str] | None = None, path: str = "/mcp"
    ) -> None:
        await self.send("POST", headers, json.dumps(message).encode(), path)

    async def call(
        self,
        name: str = "tool",
        *,
        id: object = 1,  # ruff: ignore[builtin-argument-shadowing]
        session: str | None = None,
        meta: Mapping[str, object] | None = None,
        **arguments: object,
    ) -> None:
        """A tools/call, modern unless there is a session."""
        params: dict[str, object] = {"name": name, "arguments": arguments}
        if session is None:
            headers = {
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": "tools/call",
                "Mcp-Name": name,
            }
            params["_meta"] = {**META, **(meta or {})}
        else:
            headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
            if meta is not None:
                params["_meta"] = meta
        message = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
        await self.post(message, headers)

    async def json(self) -> tuple[int, dict[str, object]]:
        """Status and document of the next response."""
        status, _, body = await self.responses.whole()
        return status, json.loads(body) if body else {}

    async def initialize(self) -> str:
        """Open a session; its id."""
        await self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE})
        status, headers, _ = await self.responses.whole()
        assert status == 200
        session = headers["mcp-session-id"]
        await self.notify("notifications/initialized", session)
        return session

    async def notify(
        self, method: str, session: str, params: Mapping[str, object] | None = None
    ) -> int:
        """POST a notification; the status."""
        message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        await self.post(message, {"Mcp-Session-Id": session})
        status, _, _ = await self.responses.whole()
        return status

    async def get(self, session: str, last_event_id: str | None = None) -> int:
        """Open a stream; the status."""
        headers = {"Mcp-Session-Id": session, "Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        await self.send("GET", headers)
        return await self.stream_head()

    async def stream_head(self) -> int:
        status, headers = await self.responses.head()
        if status == 200:
            assert headers["content-type"] == "text/event-stream"
        return status

    async def event(self) -> dict[str, str]:
        """The fields of the next event or comment (under the empty name)."""
        while True:
            text, found, rest = self.text.partition("\n\n")
            if found:
                self.text = rest
                fields = dict(line.split(":", 1) for line in text.split("\n"))
                return {name: value.strip() for name, value in fields.items()}
            chunk = await self.responses.chunk()
            assert chunk, "the stream ended"
            self.text += chunk.decode()

    text = ""

    async def message(self) -> dict[str, object]:
        """The next event's message."""
        found: dict[str, object] = json.loads((await self.event())["data"])
        return found

    async def stream_end(self) -> None:
        """The stream ends properly, and nothing comes before that."""
        assert not self.text
        assert await self.responses.chunk() == b""
        self.responses.data = self.responses.data.removeprefix(b"\r\n")

    async def aclose(self) -> None:
        await self.stream.aclose()


class Served:
    """A service under test."""

    def __init__(self, service: HttpService, nursery: trio.Nursery) -> None:
        self.service = service
        self.events: list[ChannelEvent] = []
        self._nursery = nursery
        self.clients: list[Client] = []
        self.connections = 0

    def connect(self, options: HttpConnectionOptions = CONNECTION) -> Client:
        """A new connection."""
        stream, server = memory_stream_pair()
        connection = HttpConnection(
            server,
            FACTS,
            service=self.service,
            deadlines=self.service.deadlines,
            options=options,
            on_event=self.events.append,
        )
        self.connections += 1
        self._nursery.start_soon(self._run, connection)
        client = Client(stream, server)
        self.clients.append(client)
        return client

    async def _run(self, connection: HttpConnection) -> None:
        await connection.run()
        self.connections -= 1

    @property
    def names(self) -> list[str]:
        """What was reported."""
        return [event.name for event in self.events]


@asynccontextmanager
async def serving(
    handler: Handler,
    options: HttpServerOptions = OPTIONS,
    *,
    http: HttpServing = SERVING,
    channel_options: ChannelOptions = CHANNEL_OPTIONS,
    websocket: WebSocketServing | None = None,
    doorkeeper: Doorkeeper | None = None,
    routes: SessionRoutes | None = None,
) -> AsyncGenerator[Served, None]:
    """Run a service; at the end all clients leave, and nothing must be left but sessions."""
    events: list[ChannelEvent] = []
    service = HttpService(
        options,
        handler,
        http=http,
        doorkeeper=doorkeeper,
        channel_options=channel_options,
        websocket=websocket,
        routes=routes,
        on_event=events.append,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        served = Served(service, nursery)
        served.events = events
        yield served  # ruff: ignore[fallible-context-manager] (a failed test leaves no result)
        for client in served.clients:
            await client.aclose()
        service.stop()
        nursery.cancel_scope.deadline = trio.current_time() + 1000
    assert not nursery.cancel_scope.cancelled_caught
    assert served.connections == 0
    assert service.endpoint.exchanges == 0
    assert len(service.endpoint.sessions) == 0
    assert len(service.deadlines) == 0


class Application:
    """A handler of exchanges and sessions that does what each request's name says."""

    def __init__(self) -> None:
        self.sessions: list[MessageChannel] = []
        self.received: list[Message] = []
        self.ended = 0
        self.cancelled = 0
        self.was_cancelled = trio.Event()
        self.begun = trio.Event()
        self.release = trio.Event()

    async def __call__(self, channel: MessageChannel) -> None:
        if channel.context.exchange:
            async for request in channel:
                if isinstance(request, Request):
                    await self.answer(channel, request)
            return
        self.sessions.append(channel)
        async for message in channel:
            self.received.append(message)
        self.ended += 1

    async def answer(self, channel: MessageChannel, request: Request) -> None:
        if request.method == "initialize":
            await channel.send(Response(request.id, {"protocolVersion": LEGACY}))
            return
        name = request.params_as(dict[str, object])["name"]
        try:
            if name == "steps":
                for number in range(5):
                    await channel.send(Notification("notifications/message", {"n": number}))
                    await trio.sleep(1)
            elif name == "wait":
                self.begun.set()
                await self.release.wait()
        except trio.Cancelled:
            self.cancelled += 1
            self.was_cancelled.set()
            raise
        await channel.send(Response(request.id, RESULT))
