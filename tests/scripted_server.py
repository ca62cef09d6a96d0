"""An HTTP server that tests write by hand, behind the interface of an `HttpSender`.

What the client sends waits in `requests` until the test answers it, in any order; no byte
goes over any wire.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import msgspec
import trio

from trio_mcp_transport import (
    ChannelEvent,
    ChannelOptions,
    ConnectFailed,
    HttpResponse,
    HttpSender,
    Message,
    RequestTimeout,
    decode_message,
    encode_message,
)
from trio_mcp_transport.sansio.headers import NO_HEADERS, Headers
from trio_mcp_transport.sansio.mcp_http.client_options import HttpClientOptions
from trio_mcp_transport.transports.http_client_channel import HttpClientChannel
from trio_mcp_transport.transports.http_sender import BegunRequest

URL = "http://server.example/mcp"
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}


class FakeResponse(HttpResponse):
    """A response that the test feeds.

    Attributes:
        is_whole: Whether its body comes with its head, if the test gives it that early.
    """

    is_whole = False

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = Headers(headers.items())
        self._send, self._receive = trio.open_memory_channel[bytes](math.inf)
        self._peeked = b""

    async def receive_some(self) -> bytes:
        if self._peeked:
            data, self._peeked = self._peeked, b""
            return data
        try:
            data = await self._receive.receive()
        except trio.EndOfChannel:
            return b""
        if data == b"BROKEN":
            raise trio.BrokenResourceError("the connection broke")
        return data

    def read_nowait(self, max_bytes: int) -> bytes | None:
        if not self.is_whole or self._receive.statistics().open_send_channels:
            return None
        with suppress(trio.EndOfChannel):
            while True:
                self._peeked += self._receive.receive_nowait()
        if len(self._peeked) > max_bytes:
            return None
        return self._peeked

    def feed(self, data: bytes) -> None:
        self._send.send_nowait(data)

    def end(self) -> None:
        self._send.close()


class Exchange:
    """One HTTP request that the client has sent, and what the test makes of it.

    Attributes:
        left: Set when the client has left it.
    """

    def __init__(
        self, method: str, url: str, headers: Headers, body: bytes, timeout: float
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.head_timeout = timeout
        self.left = trio.Event()
        self._outcome: FakeResponse | Exception | None = None
        self._decided = trio.Event()
        self.response: FakeResponse | None = None

    @property
    def message(self) -> Message:
        """What was POSTed."""
        return decode_message(self.body)

    @property
    def rpc_method(self) -> str:
        """The method of the request or notification."""
        method = getattr(self.message, "method")  # noqa: B009 (answers have none)
        assert isinstance(method, str)
        return method

    def is_call_of(self, rpc_method: str) -> bool:
        """Whether it POSTs a message of this method."""
        return self.method == "POST" and getattr(self.message, "method", None) == rpc_method

    async def outcome(self) -> FakeResponse:
        await self._decided.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def fail(self, error: Exception) -> None:
        """End it without a response."""
        self._outcome = error
        self._decided.set()

    def respond(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Answer with a whole response."""
        response = self.begin(status, headers or {})
        if body:
            response.feed(body)
        response.end()

    def begin(self, status: int, headers: dict[str, str]) -> FakeResponse:
        """Answer with a head; the body follows by `FakeResponse.feed` and `end`."""
        self._outcome = self.response = response = FakeResponse(status, headers)
        self._decided.set()
        return response

    def answer(self, result: object = None, headers: dict[str, str] | None = None) -> None:
        """Answer the JSON-RPC request with a result, as JSON."""
        request_id = getattr(self.message, "id")  # noqa: B009 (notifications have none)
        document = {"jsonrpc": "2.0", "id": request_id, "result": result or {}}
        self.respond(200, msgspec.json.encode(document), JSON | (headers or {}))

    def error(self, status: int, code: int, message: str = "no", data: object = None) -> None:
        """Answer with a JSON-RPC error."""
        request_id = getattr(self.message, "id", None)
        error = {"code": code, "message": message, "data": data}
        document = {"jsonrpc": "2.0", "id": request_id, "error": error}
        self.respond(status, msgspec.json.encode(document), JSON)

    def stream(self) -> FakeResponse:
        """Answer with a stream of events."""
        return self.begin(200, SSE)


def event(message: Message | bytes | None, *, id: str = "", retry: int | None = None) -> bytes:  # ruff: ignore[builtin-argument-shadowing]
    """The bytes of one event."""
    lines = []
    if id:
        lines.append(b"id: " + id.encode())
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    if message is not None:
        data = message if isinstance(message, bytes) else encode_message(message)
        lines.append(b"data: " + data)
    return b"\n".join(lines) + b"\n\n"


class Begun(BegunRequest):
    """What the client sent at once."""

    has_head = False

    def __init__(self, server: ScriptedServer, exchange: Exchange) -> None:
        self._server = server
        self._exchange = exchange
        self._scope = trio.CancelScope()
        self._response: FakeResponse | None = None

    async def wait_head(self) -> None:
        try:
            with self._scope:
                response = await self._exchange.outcome()
        except BaseException:
            self._leave()
            raise
        if self._scope.cancelled_caught:
            raise trio.ClosedResourceError
        self._response = response
        self.status, self.headers, self.has_head = response.status, response.headers, True
        response.is_whole = True

    def abandon(self) -> None:
        self._scope.cancel()
        self._leave()

    def _leave(self) -> None:
        if not self._exchange.left.is_set():
            self._server.open -= 1
            self._exchange.left.set()

    def read_nowait(self, max_bytes: int) -> bytes | None:
        assert self._response is not None
        body = self._response.read_nowait(max_bytes)
        if body is not None:
            self._leave()
        return body

    async def receive_some(self) -> bytes:
        assert self._response is not None
        return await self._response.receive_some()

    async def __aenter__(self) -> HttpResponse:
        if not self.has_head:
            await self.wait_head()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()


class ScriptedServer(HttpSender):
    """Hands what the client sends to the test.

    Attributes:
        at_once: Whether it takes requests that are sent at once, as a pool with a free
            connection does.
        on_request: Called with each body, in the task that sends it.
    """

    at_once = False

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Exchange](math.inf)
        self._aside: list[Exchange] = []
        self.seen: list[Exchange] = []
        self.open = 0
        self.closed = False
        self.unwritten = False
        self.refuse: Exception | None = None
        self.on_request: Callable[[bytes], object] = bool

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
        self.on_request(body)
        return self._request(method, url, headers, body, head_timeout, on_written)

    def begin(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
        on_written: Callable[[], object] | None = None,
    ) -> BegunRequest | None:
        if not self.at_once:
            return None
        if self.refuse is not None:
            raise self.refuse
        self.on_request(body)
        exchange = Exchange(method, url, headers, body, math.inf)
        self.seen.append(exchange)
        self.open += 1
        if on_written is not None and not self.unwritten:
            on_written()
        self._send.send_nowait(exchange)
        return Begun(self, exchange)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        head_timeout: float,
        on_written: Callable[[], object] | None,
    ) -> AsyncGenerator[HttpResponse, None]:
        await trio.lowlevel.checkpoint()
        if self.refuse is not None:
            raise self.refuse
        exchange = Exchange(method, url, headers, body, head_timeout)
        self.seen.append(exchange)
        self.open += 1
        try:
            if on_written is not None and not self.unwritten:
                on_written()
            self._send.send_nowait(exchange)
            response = None
            with trio.move_on_after(head_timeout):
                response = await exchange.outcome()
            if response is None:
                raise RequestTimeout("no response")
            yield response
        finally:
            self.open -= 1
            exchange.left.set()

    def close(self) -> None:
        self.closed = True

    async def next(self, rpc_method: str | None = None) -> Exchange:
        """What the client sends next, or the next message of this method.

        Trio starts tasks in no order, so what is sent beside each other comes as it likes.
        """
        return await self._next(lambda found: rpc_method is None or found.is_call_of(rpc_method))

    async def next_get(self) -> Exchange:
        """The next GET."""
        return await self._next(lambda found: found.method == "GET")

    async def _next(self, is_it: Callable[[Exchange], bool]) -> Exchange:
        while True:
            for exchange in self._aside:
                if is_it(exchange):
                    self._aside.remove(exchange)
                    return exchange
            with trio.fail_after(1000):
                self._aside.append(await self._receive.receive())

    @property
    def is_idle(self) -> bool:
        """Whether the client has sent nothing that the test has not taken."""
        return not self._aside and self._receive.statistics().current_buffer_used == 0

    async def initialize(
        self, session_id: str | None = "s1", revision: str = "2025-11-25", *, listen: bool = True
    ) -> Exchange | None:
        """Serve the handshake; returns the standalone stream's GET."""
        exchange = await self.next("initialize")
        headers = {} if session_id is None else {"mcp-session-id": session_id}
        result = {"protocolVersion": revision, "capabilities": {}, "serverInfo": {}}
        exchange.answer(result, headers)
        (await self.next("notifications/initialized")).respond(202)
        if session_id is None or not listen:
            return None
        return await self.next_get()


def make_channel(
    nursery: trio.Nursery,
    server: ScriptedServer,
    events: list[ChannelEvent] | None = None,
    options: ChannelOptions | None = None,
    **fields: object,
) -> HttpClientChannel:
    """A channel to the scripted server."""
    settings = HttpClientOptions(**({"url": URL} | fields))  # type: ignore[arg-type] # by name
    return HttpClientChannel(
        server,
        settings,
        nursery=nursery,
        options=options,
        on_event=None if events is None else events.append,
    )


def refused() -> ConnectFailed:
    """What a sender raises when nobody listens."""
    return ConnectFailed("cannot connect")
