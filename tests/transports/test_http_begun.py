"""Requests that the connection pool sends at once: awaited, abandoned, and sent anew."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from http_servers import (
    BUSY,
    CHUNKED,
    IDLE,
    NONE,
    OK,
    URL,
    Handler,
    Servers,
    answer_all,
    ask,
    pool_of,
    read_request,
)

from trio_mcp_transport import (
    ChannelOptions,
    ErrorResponse,
    Notification,
    Request,
    Response,
    decode_message,
    encode_message,
)
from trio_mcp_transport.abc import ConnectionLost
from trio_mcp_transport.errors import LocalProtocolError, MessageTooLarge
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.mcp_http.client_options import HttpClientOptions
from trio_mcp_transport.transports.http_client_channel import HttpClientChannel
from trio_mcp_transport.transports.http_pool import HttpPool
from trio_mcp_transport.transports.http_sender import BegunRequest
from trio_mcp_transport.transports.socket_stream import SocketStream

pytestmark = pytest.mark.http

LARGE = b"x" * 4_000_000


def begin(
    pool: HttpPool, body: bytes = b"", on_written: Callable[[], object] | None = None
) -> BegunRequest:
    """Send a request, where a connection is free."""
    begun = pool.begin("POST", URL, body=body, on_written=on_written)
    assert begun is not None
    return begun


async def answer_one(server: SocketStream) -> None:
    """Answer the first request, read the next one and say no more."""
    await read_request(server)
    await server.send_all(OK)
    await read_request(server)
    await trio.sleep_forever()


async def test_without_a_free_connection_nothing_is_begun() -> None:
    async with pool_of(answer_all) as (pool, _):
        assert pool.begin("POST", URL) is None
        assert pool.statistics() == NONE
        await ask(pool)
        begin(pool).abandon()
        assert pool.begin("POST", URL) is None
        assert pool.statistics() == NONE
    with pytest.raises(trio.ClosedResourceError):
        pool.begin("POST", URL)


async def test_what_is_begun_is_written_at_once_and_answered() -> None:
    async with pool_of(answer_all) as (pool, servers):
        await ask(pool)
        written: list[bool] = []
        for _ in range(3):
            written.clear()
            begun = begin(pool, on_written=lambda: written.append(True))
            assert (written, pool.statistics(), begun.has_head) == ([True], BUSY, False)
            await begun.wait_head()
            assert (begun.has_head, begun.status) == (True, 200)
            assert begun.headers["content-length"] == "2"
            # All of it came, so that the connection serves others while this one is read.
            assert pool.statistics() == IDLE
            assert begun.read_nowait(2) == b"hi"
            async with begun as response:
                assert await response.read(2) == b""
        assert len(servers.opened) == 1
        assert written == [True]


async def test_a_begun_request_can_be_used_as_a_response() -> None:
    async with pool_of(answer_all) as (pool, _):
        await ask(pool)
        async with begin(pool) as response:
            assert await response.read(2) == b"hi"
        assert pool.statistics() == IDLE


async def test_a_body_that_comes_later_is_read_as_ever() -> None:
    async def handler(server: SocketStream) -> None:
        for pieces in ([OK], [OK[:-1], OK[-1:]], [CHUNKED, b"2\r\nhi\r\n", b"0\r\n\r\n"]):
            await read_request(server)
            for piece in pieces:
                await server.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()

    async with pool_of(handler) as (pool, servers):
        await ask(pool)
        for _ in range(2):
            begun = begin(pool)
            await begun.wait_head()
            assert begun.read_nowait(2) is None
            assert pool.statistics() == BUSY
            async with begun as response:
                assert await response.read(2) == b"hi"
            assert pool.statistics() == IDLE
        assert len(servers.opened) == 1


async def test_a_whole_body_over_the_limit_is_told_as_ever() -> None:
    async with pool_of(answer_all) as (pool, _):
        await ask(pool)
        begun = begin(pool)
        await begun.wait_head()
        assert begun.read_nowait(1) is None
        async with begun as response:
            with pytest.raises(MessageTooLarge):
                await response.read(1)
            with pytest.raises(trio.ClosedResourceError):
                await response.read(1)


async def test_abandoning_closes_the_connection_and_ends_the_wait() -> None:
    async with pool_of(answer_one) as (pool, servers):
        await ask(pool)
        begun = begin(pool)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await begun.wait_head()

            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics() == BUSY
            begun.abandon()
            assert (pool.statistics(), servers.open_clients) == (NONE, 0)
        begun.abandon()
        assert pool.statistics() == NONE


async def test_an_answer_that_nobody_has_seen_is_none_after_abandoning() -> None:
    async with pool_of(answer_one) as (pool, servers):
        await ask(pool)
        begun = begin(pool)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await begun.wait_head()

            await trio.testing.wait_all_tasks_blocked()
            servers.servers[0].send_nowait(OK)
            begun.abandon()
        assert pool.statistics() == NONE


async def test_what_was_abandoned_before_the_wait_says_so() -> None:
    async with pool_of(answer_one) as (pool, _):
        await ask(pool)
        begun = begin(pool)
        begun.abandon()
        with pytest.raises(trio.ClosedResourceError, match="abandoned"):
            await begun.wait_head()


class InHand(SocketStream):
    """Can have in hand what it read, for some steps before it returns it."""

    def __init__(self, stream: SocketStream) -> None:
        super().__init__(stream.socket)
        self.has_it = trio.Event()
        self.give_it = trio.Event()
        self.give_it.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        self.has_it.set()
        with trio.CancelScope(shield=True):
            await self.give_it.wait()
        return data

    def hold(self) -> None:
        """Do so with what comes next."""
        self.has_it, self.give_it = trio.Event(), trio.Event()


@asynccontextmanager
async def pool_in_hand(handler: Handler) -> AsyncGenerator[tuple[HttpPool, list[InHand]], None]:
    streams: list[InHand] = []

    async with pool_of(handler) as (_, servers):

        async def open_stream(host: str, port: int) -> SocketStream:
            streams.append(InHand(await servers.open(host, port)))
            return streams[-1]

        async with HttpPool(open_stream=open_stream) as pool:
            yield pool, streams


@pytest.mark.parametrize("answer", [OK, CHUNKED])
async def test_abandoned_with_the_answer_in_hand_it_gives_no_connection_back(
    answer: bytes,
) -> None:
    async def handler(server: SocketStream) -> None:
        for piece in (OK, answer):
            await read_request(server)
            await server.send_all(piece)
        await trio.sleep_forever()

    async with pool_in_hand(handler) as (pool, streams):
        await ask(pool)
        streams[0].hold()
        begun = begin(pool)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError, match="abandoned"):
                await begun.wait_head()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await streams[0].has_it.wait()
            begun.abandon()
            streams[0].give_it.set()
        assert not begun.has_head
        assert pool.statistics() == NONE


async def test_leaving_while_a_task_has_the_rest_in_hand_is_no_end_of_the_body() -> None:
    async def handler(server: SocketStream) -> None:
        await read_request(server)
        await server.send_all(CHUNKED + b"2\r\nhi\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await server.send_all(b"2\r\nhi\r\n")
        await trio.sleep_forever()

    async with pool_in_hand(handler) as (pool, streams), trio.open_nursery() as nursery:
        async with pool.request("POST", URL) as response:
            assert await response.receive_some() == b"hi"
            streams[0].hold()

            @nursery.start_soon
            async def read_on() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await response.receive_some()

            await streams[0].has_it.wait()
        streams[0].give_it.set()


async def test_abandoning_after_the_end_takes_nothing_from_others() -> None:
    async with pool_of(answer_all) as (pool, _):
        await ask(pool)
        begun = begin(pool)
        await begun.wait_head()
        other = begin(pool)
        begun.abandon()
        await other.wait_head()
        assert other.read_nowait(2) == b"hi"
        assert pool.statistics() == IDLE


async def test_what_cannot_be_written_at_once_is_written_while_it_waits() -> None:
    async def handler(server: SocketStream) -> None:
        await read_request(server)
        await server.send_all(OK)
        got = len((await read_request(server)).partition(b"\r\n\r\n")[2])
        while got < len(LARGE):
            got += len(await server.receive_some())
        await server.send_all(OK)

    async with pool_of(handler) as (pool, _):
        await ask(pool)
        written: list[bool] = []
        begun = begin(pool, LARGE, lambda: written.append(True))
        assert not written
        await begun.wait_head()
        assert written == [True]
        assert begun.read_nowait(2) == b"hi"
        assert pool.statistics() == IDLE


async def test_who_is_answered_before_all_is_written_does_not_keep_the_connection() -> None:
    async def handler(server: SocketStream) -> None:
        for _ in range(2):
            await read_request(server)
            await server.send_all(OK)
        await trio.sleep_forever()

    async with pool_of(handler) as (pool, _):
        await ask(pool)
        begun = begin(pool, LARGE)
        await begun.wait_head()
        assert pool.statistics() == BUSY
        async with begun as response:
            assert await response.read(2) == b"hi"
        assert pool.statistics() == NONE


async def test_abandoning_ends_the_writing() -> None:
    async with pool_of(answer_one) as (pool, _):
        await ask(pool)
        begun = begin(pool, LARGE)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await begun.wait_head()

            await trio.testing.wait_all_tasks_blocked()
            begun.abandon()
        assert pool.statistics() == NONE


@pytest.mark.parametrize("body", [b"", LARGE])
@pytest.mark.parametrize("early", [True, False])
async def test_cancelled_anywhere_a_begun_request_leaves_nothing(body: bytes, early: bool) -> None:
    async with pool_of(answer_one) as (pool, _):
        await ask(pool)
        begun = begin(pool, body)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begun.wait_head)
            if not early:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert pool.statistics() == NONE


async def test_a_connection_that_dies_while_it_waits_is_told() -> None:
    async def handler(server: SocketStream) -> None:
        await read_request(server)
        await server.send_all(OK)
        await read_request(server)
        server.close()

    async with pool_of(handler) as (pool, _):
        await ask(pool)
        with pytest.raises(ConnectionLost):
            await begin(pool).wait_head()
        assert pool.statistics() == NONE


class Unsent(SocketStream):
    """Dies in the moment that something is written, once it is told to."""

    broken = False

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        if self.broken:
            self.socket.shutdown(socket.SHUT_RDWR)
            raise trio.BrokenResourceError("EPIPE")
        return super().send_nowait(data)


async def test_what_was_not_sent_is_sent_anew_by_entering_the_block() -> None:
    streams: list[Unsent] = []

    async with pool_of(answer_all) as (_, servers):

        async def open_stream(host: str, port: int) -> SocketStream:
            stream = Unsent((await servers.open(host, port)).socket)
            streams.append(stream)
            return stream

        async with HttpPool(open_stream=open_stream) as pool:
            await ask(pool)
            streams[0].broken = True
            begun = begin(pool)
            await begun.wait_head()
            assert (begun.has_head, pool.statistics()) == (False, NONE)
            async with begun as response:
                assert await response.read(2) == b"hi"
            assert len(streams) == 2


async def test_a_head_that_cannot_be_sent_is_told_and_leaves_nothing() -> None:
    async with pool_of(answer_all) as (pool, _):
        await ask(pool)
        with pytest.raises(LocalProtocolError):
            pool.begin("POST", URL, headers=Headers([("Content-Length", "1")]))
        assert pool.statistics() == NONE
        assert await ask(pool) == b"hi"


# -- a channel over it


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def answer_to(request: bytes) -> bytes:
    """A whole response to what was POSTed."""
    message = decode_message(request.partition(b"\r\n\r\n")[2])
    assert isinstance(message, Request)
    body = encode_message(Response(message.id, {}))
    return JSON_HEAD % len(body) + body


def modern(request_id: int) -> Request:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    return Request(request_id, "m", {"_meta": meta})


@asynccontextmanager
async def channel_to(
    handler: Handler, **limits: float
) -> AsyncGenerator[tuple[HttpClientChannel, HttpPool, Servers], None]:
    async with pool_of(handler) as (pool, servers), trio.open_nursery() as nursery:
        channel = HttpClientChannel(
            pool,
            HttpClientOptions(url="http://example.com/mcp"),
            nursery=nursery,
            options=ChannelOptions(**limits),  # type: ignore[arg-type] # by name
        )
        try:
            yield channel, pool, servers
        finally:
            channel.abort()


@pytest.mark.parametrize("keeps_tasks", [True, False])
async def test_one_task_carries_quick_requests_where_it_may_be_kept(keeps_tasks: bool) -> None:
    async def handler(server: SocketStream) -> None:
        while request := await read_request(server):
            await server.send_all(answer_to(request))

    async with pool_of(handler) as (pool, _), trio.open_nursery() as nursery:
        channel = HttpClientChannel(
            pool, HttpClientOptions(url="http://example.com/mcp"), nursery=nursery
        )
        channel.keeps_tasks = keeps_tasks
        tasks: set[trio.lowlevel.Task] = set()
        for number in range(4):
            await channel.send(modern(number))
            assert isinstance(await channel.receive(), Response)
            await trio.testing.wait_all_tasks_blocked()
            if number:  # the first one had a connection to open
                tasks |= nursery.child_tasks
        assert len(tasks) == keeps_tasks
        await channel.aclose()


async def test_a_modern_request_that_is_cancelled_closes_its_kept_connection() -> None:
    async def handler(server: SocketStream) -> None:
        await server.send_all(answer_to(await read_request(server)))
        await read_request(server)
        assert await server.receive_some() == b""
        ended.set()

    ended = trio.Event()
    async with channel_to(handler) as (channel, pool, servers):
        await channel.send(modern(1))
        assert isinstance(await channel.receive(), Response)
        assert pool.statistics() == IDLE
        await channel.send(modern(2))
        await trio.testing.wait_all_tasks_blocked()
        await channel.send(Notification("notifications/cancelled", {"requestId": 2}))
        await ended.wait()
        await channel.send_eof()
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        assert (pool.statistics(), len(servers.opened)) == (NONE, 1)


async def test_aborting_a_channel_ends_what_it_sent_at_once() -> None:
    async with channel_to(answer_one_message) as (channel, pool, _):
        await channel.send(modern(1))
        await channel.receive()
        await channel.send(modern(2))
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == BUSY
        channel.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == NONE


async def answer_one_message(server: SocketStream) -> None:
    await server.send_all(answer_to(await read_request(server)))
    await read_request(server)
    await trio.sleep_forever()


async def test_a_kept_connection_that_was_reset_fails_its_request_alone() -> None:
    async def handler(server: SocketStream) -> None:
        await server.send_all(answer_to(await read_request(server)))
        await read_request(server)
        server.close()

    async with channel_to(handler) as (channel, _, servers):
        await channel.send(modern(1))
        assert isinstance(await channel.receive(), Response)
        await channel.send(modern(2))
        lost = await channel.receive()
        assert isinstance(lost, ErrorResponse)
        assert isinstance(lost.cause, ConnectionLost)
        await channel.send(modern(3))
        assert isinstance(await channel.receive(), Response)
        assert len(servers.opened) == 2


async def test_answers_wait_for_room_in_the_inbox_and_are_let_go_there() -> None:
    async def handler(server: SocketStream) -> None:
        while request := await read_request(server):
            await server.send_all(answer_to(request))

    async with channel_to(handler, inbox_bytes=50) as (channel, pool, _):
        for number in range(4):
            await channel.send(modern(number))
            await trio.testing.wait_all_tasks_blocked()
        # The others wait in line; their connections do not.
        assert channel.statistics().inbox_messages == 1
        assert pool.statistics().idle == pool.statistics().connections
        channel.send_control(Notification("notifications/cancelled", {"requestId": 2}))
        found = [await channel.receive() for _ in range(3)]
        assert [getattr(message, "id", None) for message in found] == [0, 1, 3]
