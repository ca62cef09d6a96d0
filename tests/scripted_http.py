"""An HTTP server whose answers a test writes by hand, with nothing of this package.

It remembers every request as it came. Used to look at clients from outside.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import h11
import msgspec
import trio
from plain_http import KEY, MODERN


class Seen:
    """A request as it came, and the way to answer it."""

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        stream: trio.SocketStream,
        connection: h11.Connection,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self._stream = stream
        self._connection = connection

    @property
    def message(self) -> dict[str, object]:
        """The one JSON-RPC message of the body."""
        found = msgspec.json.decode(self.body)
        assert isinstance(found, dict), found
        return found

    @property
    def rpc_method(self) -> object:
        return self.message.get("method") if self.body else None

    @property
    def params(self) -> dict[str, object]:
        found = self.message.get("params", {})
        assert isinstance(found, dict)
        return found

    async def send(self, *events: h11.Event) -> None:
        data = [self._connection.send(event) or b"" for event in events]
        await self._stream.send_all(b"".join(data))

    async def reply(
        self, status: int, body: object = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer with a whole body: bytes, or what becomes JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        wanted = {"Content-Length": str(len(data)), **(headers or {})}
        if not isinstance(body, bytes):
            wanted.setdefault("Content-Type", "application/json")
        head = h11.Response(status_code=status, headers=[*wanted.items()])
        await self.send(head, h11.Data(data=data), h11.EndOfMessage())

    async def result(self, result: object, headers: Mapping[str, str] | None = None) -> None:
        """Answer the request with a result, as JSON."""
        message = {"jsonrpc": "2.0", "id": self.message["id"], "result": result}
        await self.reply(200, message, headers)

    async def error(self, status: int, code: int, data: object = None) -> None:
        """Answer the request with an error."""
        error: dict[str, object] = {"code": code, "message": "no"}
        if data is not None:
            error["data"] = data
        await self.reply(status, {"jsonrpc": "2.0", "id": self.message.get("id"), "error": error})

    async def begin_stream(self, headers: Mapping[str, str] | None = None) -> None:
        """Answer with an event stream; `event` and `end` follow."""
        wanted = {"Content-Type": "text/event-stream", **(headers or {})}
        await self.send(h11.Response(status_code=200, headers=[*wanted.items()]))

    async def event(self, data: object = None, **fields: str) -> None:
        lines = [f"{name}: {value}" for name, value in fields.items()]
        if data is not None:
            text = data if isinstance(data, str) else msgspec.json.encode(data).decode()
            lines.append(f"data: {text}")
        await self.send(h11.Data(data=("\n".join(lines) + "\n\n").encode()))

    async def end(self) -> None:
        await self.send(h11.EndOfMessage())

    async def until_gone(self) -> None:
        """Wait until the client closed the connection."""
        while await self._stream.receive_some(65536):
            pass


class Script:
    """What came, in order, and where."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Seen] = []

    @property
    def methods(self) -> list[object]:
        """What was asked for: JSON-RPC methods of POSTs, HTTP methods of others."""
        return [each.rpc_method if each.method == "POST" else each.method for each in self.seen]

    def of(self, method: str) -> Seen:
        """The last request with a method of JSON-RPC or of HTTP."""
        places = [number for number, found in enumerate(self.methods) if found == method]
        return self.seen[places[-1]]


Answerer = Callable[[Seen], Awaitable[None]]


@asynccontextmanager
async def scripted(answer: Answerer, path: str = "/mcp") -> AsyncGenerator[Script, None]:
    """Serve what `answer` answers; a connection ends where it raises."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    script = Script(f"http://127.0.0.1:{port}{path}")
    async with trio.open_nursery() as nursery:
        serve = partial(_serve, script, answer)
        await nursery.start(partial(trio.serve_listeners, serve, listeners))
        with trio.fail_after(60):  # noqa: ASYNC100 (the block waits)
            yield script
        nursery.cancel_scope.cancel()


async def _serve(script: Script, answer: Answerer, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    body = b""
    head: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive_some(65536))
            except trio.BrokenResourceError:
                return
        elif isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            method, target = head.method.decode(), head.target.decode()
            seen = Seen(method, target, headers, body, stream, connection)
            script.seen.append(seen)
            try:
                await answer(seen)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if connection.our_state is not h11.DONE:
                return  # answered by hanging up
            connection.start_next_cycle()
        else:
            return


def discovered(versions: tuple[str, ...] = (MODERN,)) -> dict[str, object]:
    """The result of `server/discover`."""
    return {
        "resultType": "complete",
        "supportedVersions": list(versions),
        "capabilities": {"tools": {}},
        "_meta": {KEY + "serverInfo": {"name": "scripted", "version": "1"}},
    }


def initialized(version: str = "2025-11-25") -> dict[str, object]:
    """The result of `initialize`."""
    return {
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "scripted", "version": "1"},
    }


def legacy(
    answer: Answerer, version: str = "2025-11-25", session_id: str | None = "session-1"
) -> Answerer:
    """A legacy server: the handshake, 405 for GET, 200 for DELETE; the rest is `answer`'s."""

    async def serve(seen: Seen) -> None:
        if seen.method == "DELETE":
            await seen.reply(200)
        elif seen.rpc_method == "server/discover":
            await seen.reply(400, b"Bad Request: No valid session ID provided")
        elif seen.rpc_method == "initialize":
            headers = {} if session_id is None else {"Mcp-Session-Id": session_id}
            await seen.result(initialized(version), headers)
        elif seen.rpc_method == "notifications/initialized":
            await seen.reply(202)
        else:
            await answer(seen)

    return serve


def modern_server(answer: Answerer) -> Answerer:
    """A modern server: `server/discover`; the rest is `answer`'s."""

    async def serve(seen: Seen) -> None:
        if seen.rpc_method == "server/discover":
            await seen.result(discovered())
        else:
            await answer(seen)

    return serve
