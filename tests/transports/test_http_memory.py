"""What clients left unread is freed at once, not by the next garbage collection."""

from __future__ import annotations

import gc
import socket
import struct
import sys
import tracemalloc
from collections.abc import Iterator

import pytest
import trio
from http_served import FACTS, Client, serving
from trio.testing import wait_all_tasks_blocked

from trio_mcp_transport import MessageChannel, Request, Response
from trio_mcp_transport.abc import ChannelBroken
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.transports.http_connection import HttpConnection, HttpConnectionOptions
from trio_mcp_transport.transports.outbox import Outbox
from trio_mcp_transport.transports.socket_stream import SocketStream

SIZE = 8_000_000


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def reset(sock: socket.socket) -> None:
    """Close so that the other end gets ECONNRESET."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("when", ["while it is written", "before it is written"])
async def test_an_outbox_whose_stream_broke_holds_nothing_of_what_it_was_to_write(
    when: str,
) -> None:
    ours, theirs = tcp_pair()
    data = b"x" * SIZE
    before = sys.getrefcount(data)
    failures: list[str] = []

    def failed(cause: ChannelBroken) -> None:
        failures.append(str(cause))
        outbox.close(lambda: trio.BrokenResourceError("over"))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            stream = SocketStream(ours)
            outbox = Outbox(stream, nursery=nursery, options=ChannelOptions(), on_failure=failed)
            if when == "before it is written":
                reset(theirs)
                await trio.lowlevel.wait_readable(ours)
                with pytest.raises(ChannelBroken):
                    outbox.put(data)
            else:
                outbox.put(data)
                await wait_all_tasks_blocked()
                reset(theirs)
        stream.close()
    assert len(failures) == 1
    assert sys.getrefcount(data) == before


@pytest.mark.usefixtures("no_gc")
async def test_answers_that_clients_did_not_take_are_freed_with_their_connections() -> None:
    async def big(channel: MessageChannel) -> None:
        async for request in channel:
            if isinstance(request, Request):
                await channel.send(Response(request.id, {"content": "x" * SIZE}))

    async with serving(big) as served:
        with trio.fail_after(60):
            tracemalloc.start()
            try:
                for _ in range(3):
                    ours, theirs = tcp_pair()
                    stream = SocketStream(ours)
                    connection = HttpConnection(
                        stream,
                        FACTS,
                        service=served.service,
                        deadlines=served.service.deadlines,
                        options=HttpConnectionOptions(),
                        on_event=served.events.append,
                    )
                    client_stream = SocketStream(theirs)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(connection.run)
                        client = Client(client_stream, None)  # type: ignore[arg-type]  # not used
                        await client.call()
                        await client_stream.receive_some(1)
                        held = tracemalloc.get_traced_memory()[0]
                        reset(theirs)
                    assert held > SIZE
                    del connection, client
                assert tracemalloc.get_traced_memory()[0] < SIZE
            finally:
                tracemalloc.stop()
