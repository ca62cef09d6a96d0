"""An ASGI server in a few lines, without HTTP: calls an application as one would."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

import msgspec
from plain_http import BOTH, MODERN, modern_params

Application = Callable[
    [
        Mapping[str, object],
        Callable[[], Awaitable[Mapping[str, object]]],
        Callable[[MutableMapping[str, object]], Awaitable[None]],
    ],
    Awaitable[None],
]


def modern_call(name: str, **arguments: object) -> bytes:
    """The body of a modern call of a tool."""
    params = modern_params({"name": name, "arguments": arguments}, {"progressToken": "t"})
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return msgspec.json.encode(body)


def scope_of(
    name: str, more_headers: Mapping[str, str] | None = None, **changes: object
) -> dict[str, object]:
    """The scope that goes with it. What it says is changed by `changes`."""
    headers = {
        "host": "127.0.0.1:80",
        "accept": BOTH,
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": name,
        **(more_headers or {}),
    }
    scope: dict[str, object] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/mcp",
        "raw_path": b"/mcp",
        "query_string": b"",
        "root_path": "",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    scope.update(changes)
    return scope


@dataclass
class Exchange:
    """What was sent for one request. Works on any event loop: `wait` is that of its own.

    Attributes:
        body: What the client says, in parts; then it waits for `gone`.
        wait: Waits until the client goes away.
        sent: The messages of the application.
    """

    body: list[bytes]
    wait: Callable[[], Awaitable[object]]
    sent: list[MutableMapping[str, object]] = field(default_factory=list)
    received: int = 0

    async def receive(self) -> dict[str, object]:
        if self.received < len(self.body):
            part = self.body[self.received]
            self.received += 1
            more = self.received < len(self.body)
            return {"type": "http.request", "body": part, "more_body": more}
        await self.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, object]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> object:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        pairs = msgspec.convert(self.sent[0]["headers"], list[tuple[bytes, bytes]])
        return {name.decode(): value.decode() for name, value in pairs}

    @property
    def complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body", False) is False

    @property
    def content(self) -> bytes:
        parts = [message["body"] for message in self.sent[1:]]
        return b"".join(msgspec.convert(parts, list[bytes]))
