"""WebSocket as others do it: trio-websocket and `websockets.trio`, and a bare client.

Each is made a stream of lines, so that everything above is that of the `floor`: a line is one
text message. They are imported only where they are installed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from . import certificates, floor
from .cases import ENCRYPTED, Task
from .clients import side_by_side
from .processes import started_server, until_stdin_ends

if TYPE_CHECKING:
    import trio_websocket
    import websockets.trio.connection

__all__ = ["client", "connect_bare", "serve"]

_PATH = "/mcp"
_READ_BYTES = 64 * 1024


class _Texts(trio.abc.Stream):
    """Lines as text messages."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for line in bytes(data).splitlines():
            await self._send(line.decode())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        text = await self._receive()
        return b"" if text is None else text.encode() + b"\n"

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def _send(self, text: str) -> None: ...

    @abstractmethod
    async def _receive(self) -> str | None: ...


class _TrioWebSocket(_Texts):
    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection

    async def _send(self, text: str) -> None:
        await self._connection.send_message(text)

    async def _receive(self) -> str | None:
        import trio_websocket

        try:
            return str(await self._connection.get_message())
        except trio_websocket.ConnectionClosed:
            return None

    async def aclose(self) -> None:
        await self._connection.aclose()


class _Websockets(_Texts):
    def __init__(self, connection: websockets.trio.connection.Connection) -> None:
        self._connection = connection

    async def _send(self, text: str) -> None:
        await self._connection.send(text)

    async def _receive(self) -> str | None:
        import websockets.exceptions

        try:
            return str(await self._connection.recv())
        except websockets.exceptions.ConnectionClosed:
            return None

    async def aclose(self) -> None:
        await self._connection.aclose()


class _Bare(_Texts):
    """wsproto over a bare stream, for looking at the memory of anybody's server."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        import wsproto

        self._stream = stream
        self._wsproto = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._texts: list[str] = []

    async def open(self, host: str) -> None:
        from wsproto.events import AcceptConnection, Request

        request = Request(host=host, target=_PATH, subprotocols=["mcp"])
        await self._stream.send_all(self._wsproto.send(request))
        while True:
            for event in self._wsproto.events():
                if not isinstance(event, AcceptConnection):
                    raise EOFError(f"no WebSocket, but {event}")
                return
            await self._more()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        from wsproto.events import TextMessage

        # All of them in one write.
        texts = bytes(data).decode().splitlines()
        await self._stream.send_all(b"".join(self._wsproto.send(TextMessage(t)) for t in texts))

    async def _send(self, text: str) -> None:
        await self.send_all(text.encode())

    async def _receive(self) -> str | None:
        from wsproto.events import CloseConnection, Message, Ping

        part = ""
        while True:
            for event in self._wsproto.events():
                if isinstance(event, Message):
                    part += str(event.data)
                    if event.message_finished:
                        self._texts.append(part)
                        part = ""
                elif isinstance(event, Ping):
                    await self._stream.send_all(self._wsproto.send(event.response()))
                elif isinstance(event, CloseConnection):
                    return None
            if self._texts and not part:
                # As many lines as came.
                found, self._texts = "\n".join(self._texts), []
                return found
            await self._more()

    async def _more(self) -> None:
        data = await self._stream.receive_some(_READ_BYTES)
        self._wsproto.receive_data(bytes(data) or None)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def connect_bare(address: str, directory: str) -> trio.abc.Stream:
    """Connect to any server; lines are text messages."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", floor.port_of(address))
    if address.startswith("wss:"):
        stream = trio.SSLStream(
            stream,
            certificates.client_context(directory),
            server_hostname="127.0.0.1",
            https_compatible=True,
        )
    bare = _Bare(stream)
    await bare.open(urlsplit(address).netloc)
    return bare


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times."""
    connected = _CLIENTS[task.contestant]
    async with started_server(task) as (address, _), AsyncExitStack() as stack:
        works = [
            floor.work_on(await stack.enter_async_context(connected(task, address)), task)
            for _ in range(task.connections)
        ]

        async def work(count: int) -> None:
            await side_by_side(works, count)

        yield work


@asynccontextmanager
async def _trio_websocket_client(task: Task, address: str) -> AsyncGenerator[_Texts, None]:
    import trio_websocket

    context = certificates.client_context(task.certificates) if _is_encrypted(task) else None
    async with trio_websocket.open_websocket_url(address, context) as connection:
        yield _TrioWebSocket(connection)


@asynccontextmanager
async def _websockets_client(task: Task, address: str) -> AsyncGenerator[_Texts, None]:
    import websockets.trio.client

    context = certificates.client_context(task.certificates) if _is_encrypted(task) else None
    # Nobody else compresses, unless told to.
    async with websockets.trio.client.connect(
        address, ssl=context, compression=None, proxy=None
    ) as connection:
        yield _Websockets(connection)


_CLIENTS = {
    "trio-websocket": _trio_websocket_client,
    "websockets.trio": _websockets_client,
}


def _is_encrypted(task: Task) -> bool:
    return task.transport in ENCRYPTED


async def serve(task: Task) -> None:
    """Serve until stdin ends: answer requests, take notifications."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    context = certificates.server_context(task.certificates) if _is_encrypted(task) else None
    async with trio.open_nursery() as nursery:
        if task.contestant == "trio-websocket":
            import trio_websocket

            async def accept(request: trio_websocket.WebSocketRequest) -> None:
                await floor.answer(_TrioWebSocket(await request.accept()))

            if context is None:
                server = trio_websocket.WebSocketServer(accept, listeners)
            else:
                encrypted = [
                    trio.SSLListener(each, context, https_compatible=True) for each in listeners
                ]
                server = trio_websocket.WebSocketServer(accept, encrypted)
            await nursery.start(server.run)
        else:
            import websockets.trio.server

            async def handle(connection: websockets.trio.connection.Connection) -> None:
                await floor.answer(_Websockets(connection))

            async def run(task_status: trio.TaskStatus[object]) -> None:
                await websockets.trio.server.serve(
                    handle,
                    listeners=listeners,
                    ssl=context,
                    compression=None,
                    task_status=task_status,
                )

            await nursery.start(run)
        scheme = "wss" if context else "ws"
        print(f"{scheme}://127.0.0.1:{port}{_PATH}", flush=True)  # ruff: ignore[print] (told to the measurer)
        await until_stdin_ends()
        nursery.cancel_scope.cancel()
