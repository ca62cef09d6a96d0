"""The floor over HTTP: the same bytes with bare h11 over a bare Trio stream.

Requests and answers are parsed by h11, bodies decoded and encoded by msgspec; there are no
limits, no timeouts, no errors, no sessions, no validation. It also has the bare client that
looks at the memory of any contestant's server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import h11
import msgspec
import trio
from msgspec import UNSET, Raw, UnsetType

from . import floor
from .cases import BATCH_MESSAGES, Task
from .certificates import server_context
from .clients import side_by_side
from .payloads import FIRST_ID, METHOD, http_headers, http_params_of_size, listen_request
from .processes import started_server, until_stdin_ends

__all__ = ["HttpClient", "client", "open_idle_stream", "round_trips", "serve"]

_READ_BYTES = 64 * 1024


class _Arguments(msgspec.Struct):
    count: int = 0


class _Params(msgspec.Struct):
    arguments: _Arguments = msgspec.field(default_factory=_Arguments)


class _In(msgspec.Struct):
    method: str = ""
    id: int | str | UnsetType = UNSET
    params: Raw = msgspec.field(default_factory=Raw)
    result: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_In).decode
_decode_params = msgspec.json.Decoder(_Params).decode
_encode = msgspec.json.Encoder().encode


class _Answer(msgspec.Struct):
    jsonrpc: str
    id: int | str
    result: object


class HttpClient:
    """One connection that is kept alive."""

    def __init__(self, stream: trio.abc.Stream, address: str) -> None:
        self.stream = stream
        self._connection = h11.Connection(h11.CLIENT)
        self._target = address.rpartition("/")[2]
        self._headers = http_headers(address.split("/")[2])

    async def post(self, body: bytes) -> None:
        """Send a request; what comes back is read with `body_parts`."""
        connection = self._connection
        length = ("content-length", str(len(body)))
        head = connection.send(
            h11.Request(method="POST", target=f"/{self._target}", headers=[*self._headers, length])
        )
        data = connection.send(h11.Data(data=body))
        end = connection.send(h11.EndOfMessage())
        await self.stream.send_all(b"".join([head or b"", data or b"", end or b""]))

    async def _next_event(self) -> h11.Event:
        connection = self._connection
        while not isinstance(event := connection.next_event(), h11.Event):
            connection.receive_data(bytes(await self.stream.receive_some(_READ_BYTES)))
        return event

    async def body_parts(self) -> AsyncGenerator[bytes, None]:
        """The body of the answer as it comes; afterwards the connection may be used again."""
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif not isinstance(event, h11.Response):
                raise EOFError("the server closed the connection")
        self._connection.start_next_cycle()

    async def round_trip(self, body: bytes) -> Raw:
        """Post a request; its result."""
        await self.post(body)
        answer = b"".join([part async for part in self.body_parts()])
        result = _decode(answer).result
        assert result is not UNSET
        return result


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times."""
    async with started_server(task) as (address, _), AsyncExitStack() as stack:
        clients = []
        for _ in range(task.connections):
            connected = await floor.connect(address, task.certificates)
            stream = await stack.enter_async_context(connected)
            clients.append(HttpClient(stream, address))
        params = http_params_of_size(task.payload_bytes)
        if task.work == "sse-stream":

            async def stream_events(count: int) -> None:
                await _sse_stream(clients[0], count)

            yield stream_events
            return

        async def work(count: int) -> None:
            await side_by_side([partial(round_trips, http, params) for http in clients], count)

        yield work


async def round_trips(http: HttpClient, params: object, count: int) -> None:
    """Post a request, read its answer, and so on."""
    for number in range(FIRST_ID, FIRST_ID + count):
        await http.round_trip(encode_request(number, params))


def encode_request(number: int, params: object) -> bytes:
    """A request as a body."""
    return floor.encode_request(number, params)[:-1]


async def _sse_stream(http: HttpClient, count: int) -> None:
    """One request whose answer is a stream of so many notifications."""
    params = http_params_of_size(0, count=count)
    await http.post(encode_request(FIRST_ID, params))
    partial = b""
    seen = 0
    async for part in http.body_parts():
        *events, partial = (partial + part).split(b"\n\n")
        for event in events:
            _decode(event[event.index(b"{") :])
        seen += len(events)
    assert seen == count + 1


async def open_idle_stream(address: str, certificates: str) -> trio.abc.Stream:
    """Open an event stream that stays; returns when its first event came."""
    stream = await floor.connect(address, certificates)
    host = address.split("/")[2]
    await stream.send_all(listen_request(host, "/" + address.rpartition("/")[2]))
    received = bytearray()
    while b"\n\n" not in received:
        part = await stream.receive_some(_READ_BYTES)
        if not part:
            raise EOFError(f"no stream, but {bytes(received)!r}")
        received += part
    if b"text/event-stream" not in received:
        raise EOFError(f"no stream, but {bytes(received)!r}")
    return stream


# -- The server --------------------------------------------------------------------------


async def serve(task: Task) -> None:
    """Serve the floor's connections."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    handler = _stream if task.work in {"sse-stream", "memory-idle"} else _answer

    async def connection(stream: trio.abc.Stream) -> None:
        await _serve_connection(stream, handler)

    listener: trio.abc.Listener[trio.abc.Stream] = listeners[0]
    if task.transport == "https":
        context = server_context(task.certificates)
        listener = trio.SSLListener(listener, context, https_compatible=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, connection, [listener])
        print(f"{task.transport}://127.0.0.1:{port}/mcp", flush=True)  # ruff: ignore[print] (told to the measurer)
        await until_stdin_ends()
        nursery.cancel_scope.cancel()


_Handler = Callable[[trio.abc.Stream, h11.Connection, bytes], Awaitable[None]]


async def _serve_connection(stream: trio.abc.Stream, handler: _Handler) -> None:
    connection = h11.Connection(h11.SERVER)
    body: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            await handler(stream, connection, b"".join(body))
            body.clear()
            connection.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed):
            return


async def _answer(stream: trio.abc.Stream, connection: h11.Connection, body: bytes) -> None:
    request = _decode(body)
    assert request.id is not UNSET
    answer = _encode(_Answer("2.0", request.id, request.params))
    headers = [("content-type", "application/json"), ("content-length", str(len(answer)))]
    parts = [
        connection.send(h11.Response(status_code=200, headers=headers)),
        connection.send(h11.Data(data=answer)),
        connection.send(h11.EndOfMessage()),
    ]
    await stream.send_all(b"".join(part or b"" for part in parts))


async def _stream(stream: trio.abc.Stream, connection: h11.Connection, body: bytes) -> None:
    """Answer with events; for ever where it was not told how many."""
    request = _decode(body)
    assert request.id is not UNSET
    headers = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
    ]
    head = connection.send(h11.Response(status_code=200, headers=headers)) or b""
    count = _decode_params(request.params).arguments.count
    params = http_params_of_size(150)
    if request.method != METHOD:
        data = connection.send(h11.Data(data=_event(floor.encode_notification(params))))
        await stream.send_all(head + (data or b""))
        await trio.sleep_forever()
    await stream.send_all(head)
    for start in range(0, count, BATCH_MESSAGES):
        events = [
            _event(floor.encode_notification(params))
            for _ in range(min(BATCH_MESSAGES, count - start))
        ]
        await stream.send_all(connection.send(h11.Data(data=b"".join(events))) or b"")
    answer = _encode(_Answer("2.0", request.id, {}))
    last = connection.send(h11.Data(data=_event(answer + b"\n"))) or b""
    await stream.send_all(last + (connection.send(h11.EndOfMessage()) or b""))


def _event(line: bytes) -> bytes:
    return b"event: message\ndata: " + line + b"\n"
