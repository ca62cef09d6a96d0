"""Servers for the connection pool, over socket pairs: both ends are in the test's hands."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio
import trio.testing

from trio_mcp_transport.transports.http_pool import HttpPool, PoolStatistics
from trio_mcp_transport.transports.socket_stream import SocketStream

URL = "http://example.com/mcp?a=b"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NONE = PoolStatistics(0, 0, 0)
IDLE = PoolStatistics(1, 1, 0)
BUSY = PoolStatistics(1, 0, 0)

Handler = Callable[[SocketStream], Awaitable[object]]


class Servers:
    """Both ends of each connection that a pool opens, over socket pairs."""

    def __init__(self, nursery: trio.Nursery, handler: Handler | None) -> None:
        self._nursery = nursery
        self._handler = handler
        self.opened: list[tuple[str, int]] = []
        self.clients: list[SocketStream] = []
        self.servers: list[SocketStream] = []
        self.failure: Exception | None = None
        self.stall = False

    async def open(self, host: str, port: int) -> SocketStream:
        self.opened.append((host, port))
        await trio.lowlevel.checkpoint()
        if self.stall:
            await trio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        client, server = map(SocketStream, socket.socketpair())
        self.clients.append(client)
        self.servers.append(server)
        if self._handler is not None:
            self._nursery.start_soon(self._serve, server, self._handler)
        return client

    async def _serve(self, server: SocketStream, handler: Handler) -> None:
        # The client may go away, and the test be over.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await handler(server)

    @property
    def open_clients(self) -> int:
        return sum(client.socket.fileno() != -1 for client in self.clients)


@asynccontextmanager
async def pool_of(
    handler: Handler | None = None, **options: float
) -> AsyncGenerator[tuple[HttpPool, Servers], None]:
    """A pool with servers of one's own; in the end nothing of it may be open."""
    async with trio.open_nursery() as nursery:
        servers = Servers(nursery, handler)
        pool = HttpPool(open_stream=servers.open, **options)  # type: ignore[arg-type]
        try:
            async with pool:
                yield pool, servers
        finally:
            for server in servers.servers:
                server.close()
        assert pool.statistics() == NONE
        assert servers.open_clients == 0
        nursery.cancel_scope.cancel()


async def read_request(server: SocketStream) -> bytes:
    """The head of a request, and what of its body came with it; empty at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await server.receive_some()
        if not piece:
            return b""
        data += piece
    return data


async def answer_all(server: SocketStream) -> None:
    while await read_request(server):
        await server.send_all(OK)


def answer_with(*pieces: bytes, close: bool = False) -> Handler:
    async def handler(server: SocketStream) -> None:
        while await read_request(server):
            for piece in pieces:
                await server.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            if close:
                server.close()
                return

    return handler


async def ask(pool: HttpPool, url: str = URL, method: str = "POST") -> bytes:
    async with pool.request(method, url) as response:
        assert response.status == 200
        return await response.read(100)
