"""HTTP by hand, with nothing of this package: what an independent client sends and sees.

A client for one request at a time on a connection of its own, and events of streams. Used to
look at servers from outside.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import h11
import msgspec
import trio

MODERN = "2026-07-28"
KEY = "io.modelcontextprotocol/"
BOTH = "application/json, text/event-stream"
#: Methods whose requests name in `Mcp-Name` what they are about, and where that stands.
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class Event(NamedTuple):
    """One block of an event stream. `data` is None where it has none."""

    data: str | None
    id: str | None = None
    retry: str | None = None
    event: str | None = None

    @property
    def message(self) -> dict[str, object]:
        assert self.data
        found = msgspec.json.decode(self.data)
        assert isinstance(found, dict)
        return found


class Answer:
    """A response whose body is read as it comes."""

    def __init__(self, stream: trio.SocketStream, connection: h11.Connection) -> None:
        self._stream = stream
        self._connection = connection
        self._text = ""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.comments = 0
        #: Whether the body is over.
        self.ended = False

    async def _next(self) -> h11.Event:
        while not isinstance(event := self._connection.next_event(), h11.Event):
            self._connection.receive_data(await self._stream.receive_some(65536))
        return event

    async def read_head(self) -> None:
        while not isinstance(event := await self._next(), h11.Response):
            if isinstance(event, h11.ConnectionClosed):
                raise EOFError("the connection was closed without a response")
        self.status = event.status_code
        self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}

    async def _more(self) -> bytes:
        event = await self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self.ended = True
        return b""

    async def body(self) -> bytes:
        """All of it."""
        found = b""
        while not self.ended:
            found += await self._more()
        return found

    async def json(self) -> dict[str, object]:
        found = msgspec.json.decode(await self.body())
        assert isinstance(found, dict)
        return found

    async def event(self) -> Event | None:
        """The next event of a stream, past comments; None at its end."""
        while True:
            while "\n\n" not in self._text:
                if self.ended or not (part := await self._more()):
                    assert not self._text, self._text
                    return None
                self._text += part.decode()
            block, self._text = self._text.split("\n\n", 1)
            fields: dict[str, str] = {}
            data: list[str] = []
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                if not name:
                    self.comments += 1
                elif name == "data":
                    data.append(value.removeprefix(" "))
                else:
                    fields[name] = value.removeprefix(" ")
            if fields or data:
                return Event("\n".join(data) if data else None, **fields)

    async def message(self) -> dict[str, object]:
        """The next message of a stream, past events without one."""
        while event := await self.event():
            if event.data:
                return event.message
        raise EOFError("the stream ended without a message")

    async def messages(self) -> list[dict[str, object]]:
        """All messages until the stream's end."""
        found = []
        while event := await self.event():
            if event.data:
                found.append(event.message)
        return found

    async def outcome(self) -> dict[str, object]:
        """The one response, whether it came as JSON or at the end of a stream."""
        if self.headers["content-type"].startswith("application/json"):
            return await self.json()
        return (await self.messages())[-1]

    def unread(self) -> bytes:
        """What has come by now and was not given out."""
        found = self._text.encode() + self._connection.trailing_data[0]
        with (
            socket.socket(fileno=os.dup(self._stream.socket.fileno())) as sock,
            suppress(BlockingIOError),
        ):
            found += sock.recv(1 << 20, socket.MSG_PEEK)
        return found

    async def aclose(self) -> None:
        """Close the connection, whatever is still to come on it."""
        await trio.aclose_forcefully(self._stream)


@asynccontextmanager
async def requesting(
    url: str,
    method: str = "POST",
    headers: Mapping[str, str | None] | None = None,
    body: object = None,
    *,
    path: str | None = None,
) -> AsyncGenerator[Answer, None]:
    """Send one request; yields when the head of the answer came.

    Args:
        url: ``http://HOST:PORT/PATH``.
        method: Of HTTP.
        headers: Further headers, or others in place of the usual ones; None leaves one out.
        body: Bytes, or what becomes JSON.
        path: In place of the URL's.
    """
    authority, _, rest = url.removeprefix("http://").partition("/")
    host, _, port = authority.rpartition(":")
    data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    wanted: dict[str, str | None] = {"Host": authority, "Accept": BOTH}
    if method == "POST":
        wanted |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
    wanted |= headers or {}
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        connection = h11.Connection(h11.CLIENT)
        sent = connection.send(
            h11.Request(
                method=method,
                target=path if path is not None else f"/{rest}",
                headers=[
                    (name.encode(), value.encode("latin-1"))
                    for name, value in wanted.items()
                    if value is not None
                ],
            )
        )
        for event in [h11.Data(data=data)] * (method == "POST") + [h11.EndOfMessage()]:
            sent = (sent or b"") + (connection.send(event) or b"")
        await stream.send_all(sent or b"")
        answer = Answer(stream, connection)
        await answer.read_head()
        yield answer


def modern_params(
    params: Mapping[str, object] | None = None, meta: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Params with the metadata of a modern request; `meta` adds to it."""
    assert "_meta" not in (params or {}), "give it as `meta`"
    own: dict[str, object] = {KEY + "protocolVersion": MODERN, KEY + "clientCapabilities": {}}
    return {**(params or {}), "_meta": {**own, **(meta or {})}}


def modern_headers(method: str, params: Mapping[str, object]) -> dict[str, str | None]:
    """The headers that go with it."""
    found: dict[str, str | None] = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    if method in NAMED:
        found["Mcp-Name"] = str(params[NAMED[method]])
    return found


@asynccontextmanager
async def modern(
    url: str,
    method: str,
    params: Mapping[str, object] | None = None,
    *,
    request_id: object = 1,
    headers: Mapping[str, str | None] | None = None,
    meta: Mapping[str, object] | None = None,
) -> AsyncGenerator[Answer, None]:
    """Send a modern request; `meta` adds to its metadata."""
    whole = modern_params(params, meta)
    body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": whole}
    sent = {**modern_headers(method, whole), **(headers or {})}
    async with requesting(url, headers=sent, body=body) as answer:
        yield answer


class LegacyClient:
    """A client with a session."""

    def __init__(self, url: str, revision: str = "2025-11-25") -> None:
        self.url = url
        self.revision = revision
        self.session_id: str | None = None
        self.headers: dict[str, str | None] = {}

    async def initialize(self, capabilities: Mapping[str, object] | None = None) -> None:
        """Open the session and say that it is."""
        async with requesting(self.url, body=initialize(self.revision, capabilities)) as answer:
            assert answer.status == 200, await answer.body()
            assert "result" in await answer.outcome()
            self.session_id = answer.headers.get("mcp-session-id")
        if self.session_id is not None:
            self.headers["Mcp-Session-Id"] = self.session_id
        if self.revision >= "2025-06-18":
            self.headers["MCP-Protocol-Version"] = self.revision
        assert await self.notify("notifications/initialized") == 202

    @asynccontextmanager
    async def request(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        request_id: object = 1,
        headers: Mapping[str, str | None] | None = None,
    ) -> AsyncGenerator[Answer, None]:
        body: dict[str, object] = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if params is not None:
            body["params"] = params
        async with self.post(body, headers) as answer:
            yield answer

    @asynccontextmanager
    async def post(
        self, body: object, headers: Mapping[str, str | None] | None = None
    ) -> AsyncGenerator[Answer, None]:
        sent = {**self.headers, **(headers or {})}
        async with requesting(self.url, headers=sent, body=body) as answer:
            yield answer

    async def notify(self, method: str, params: Mapping[str, object] | None = None) -> int:
        body: dict[str, object] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            body["params"] = params
        async with self.post(body) as answer:
            assert await answer.body() == b"" or answer.status >= 400
            return answer.status

    @asynccontextmanager
    async def get(self, last_event_id: str | None = None) -> AsyncGenerator[Answer, None]:
        headers = {**self.headers, "Accept": "text/event-stream", "Last-Event-ID": last_event_id}
        async with requesting(self.url, "GET", headers) as answer:
            yield answer

    async def delete(self) -> int:
        async with requesting(self.url, "DELETE", self.headers) as answer:
            await answer.body()
            return answer.status


def initialize(
    revision: str = "2025-11-25", capabilities: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The message that begins a session."""
    params = {
        "protocolVersion": revision,
        "capabilities": capabilities or {},
        "clientInfo": {"name": "plain", "version": "0"},
    }
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def error_of(answer: Mapping[str, object]) -> dict[str, object]:
    """The error of a JSON-RPC message."""
    error = answer["error"]
    assert isinstance(error, dict)
    return error
