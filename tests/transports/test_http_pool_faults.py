"""The connection pool when servers fail it, when it is cancelled, and when it is closed."""

from __future__ import annotations

import itertools
import math
import socket
import struct

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
    answer_all,
    answer_with,
    ask,
    pool_of,
    read_request,
)

from trio_mcp_transport.abc import ConnectionLost
from trio_mcp_transport.errors import (
    ConnectFailed,
    ConnectTimeout,
    MessageTooLarge,
    RemoteProtocolError,
    RequestTimeout,
)
from trio_mcp_transport.testing import cancel_at
from trio_mcp_transport.transports.http_pool import HttpPool, PoolStatistics
from trio_mcp_transport.transports.http_sender import HttpResponse
from trio_mcp_transport.transports.socket_stream import SocketStream

pytestmark = pytest.mark.http

LARGE = b"x" * 4_000_000


# -- what goes wrong


async def test_a_connection_that_cannot_be_made_frees_its_place() -> None:
    async with pool_of(answer_all, max_connections=1) as (pool, servers):
        for failure in (OSError("no"), ConnectFailed("no"), ZeroDivisionError("no")):
            servers.failure = failure
            expected = ConnectFailed if isinstance(failure, OSError) else ZeroDivisionError
            with pytest.raises(expected, match="no"):
                await ask(pool)
            assert pool.statistics() == NONE
        servers.failure = None
        assert await ask(pool) == b"hi"


async def test_connecting_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(connect_timeout=5) as (pool, servers):
        servers.stall = True
        with pytest.raises(ConnectTimeout, match="within 5 s"):
            await ask(pool)
        assert trio.current_time() == 5
        assert pool.statistics() == NONE


async def test_the_head_has_a_total_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async def trickle(server: SocketStream) -> None:
        await read_request(server)
        for byte in itertools.chain(b"HTTP/1.1 200 OK\r\n", itertools.repeat(ord("a"))):
            await server.send_all(bytes([byte]))
            await trio.sleep(1)

    async with pool_of(trickle) as (pool, servers):
        with pytest.raises(RequestTimeout, match="within 10 s"):
            async with pool.request("POST", URL, head_timeout=10):
                pytest.fail("there is no head")
        assert trio.current_time() == 10
        assert servers.open_clients == 0


async def test_the_deadline_of_the_head_is_none_of_the_body(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def slow(server: SocketStream) -> None:
        await read_request(server)
        await server.send_all(OK[:-2])
        await trio.sleep(100)
        await server.send_all(OK[-2:])

    async with (
        pool_of(slow) as (pool, _),
        pool.request("POST", URL, head_timeout=10) as response,
    ):
        assert await response.read(2) == b"hi"


async def test_a_server_that_does_not_read_is_bounded_by_the_deadline_as_well(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pool_of() as (pool, _):
        with pytest.raises(RequestTimeout):
            async with pool.request("POST", URL, body=LARGE, head_timeout=10):
                pytest.fail("there is no head")


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1", OK[:-4]])
async def test_a_server_that_goes_away_before_the_head_is_told(data: bytes) -> None:
    async with pool_of(answer_with(data, close=True)) as (pool, _):
        with pytest.raises(ConnectionLost):
            await ask(pool)
        assert pool.statistics() == NONE


async def test_a_connection_that_is_reset_is_told() -> None:
    async def reset(server: SocketStream) -> None:
        await server.receive_some(1)  # the rest unread, a Unix socket resets
        server.close()

    async with pool_of(reset) as (pool, _):
        with pytest.raises(ConnectionLost):
            await ask(pool)


@pytest.mark.parametrize("data", [OK[:-1], CHUNKED + b"5\r\nab", CHUNKED + b"1\r\na\r\n"])
async def test_a_server_that_goes_away_in_the_body_is_told(data: bytes) -> None:
    async with pool_of(answer_with(data, close=True)) as (pool, servers):
        async with pool.request("GET", URL) as response:
            for _ in range(2):
                with pytest.raises(ConnectionLost):
                    await response.read(100)
            assert servers.open_clients == 0
        async with pool.request("GET", URL) as response:
            assert await response.receive_some()
            with pytest.raises(ConnectionLost):
                await response.receive_some()


async def test_a_connection_that_is_reset_in_the_body_is_told() -> None:
    async def reset(server: SocketStream) -> None:
        await server.receive_some(1)
        await server.send_all(OK[:-1])
        await trio.testing.wait_all_tasks_blocked()
        server.close()

    async with pool_of(reset) as (pool, servers), pool.request("GET", URL) as response:
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await response.read(2)
        assert servers.open_clients == 0


@pytest.mark.parametrize("data", [b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n"])
async def test_what_is_no_http_is_told(data: bytes) -> None:
    async with pool_of(answer_with(data)) as (pool, servers):
        with pytest.raises(RemoteProtocolError):
            await ask(pool)
        assert servers.open_clients == 0


async def test_a_malformed_body_is_told_after_what_came_before() -> None:
    async with pool_of(answer_with(CHUNKED + b"1\r\na\r\nx\r\n")) as (pool, servers):
        async with pool.request("GET", URL) as response:
            assert await response.receive_some() == b"a"
            for _ in range(2):
                with pytest.raises(RemoteProtocolError):
                    await response.receive_some()
                assert response.read_nowait(10) is None
            assert servers.open_clients == 0
        async with pool.request("GET", URL) as response:
            assert response.read_nowait(10) is None
            assert await response.receive_some() == b"a"
            with pytest.raises(RemoteProtocolError):
                await response.read(10)
        async with pool.request("GET", URL):
            pass  # what nobody reads is nobody's fault


def one_then(*, close: bool) -> tuple[Handler, list[bytes]]:
    """A server that answers one request, reads the next one and goes away."""
    seen: list[bytes] = []

    async def handler(server: SocketStream) -> None:
        seen.append((await read_request(server))[:4])
        await server.send_all(OK)
        if len(seen) == 1:
            seen.append((await read_request(server))[:4])
            server.close()
        else:
            await answer_all(server)

    return handler, seen


async def test_a_safe_request_is_sent_again_if_a_kept_connection_dies_without_a_word() -> None:
    handler, seen = one_then(close=True)
    async with pool_of(handler) as (pool, servers):
        assert await ask(pool, method="GET") == b"hi"
        async with pool.request("GET", URL, head_timeout=1000) as response:
            assert await response.read(2) == b"hi"
        assert seen == [b"GET ", b"GET ", b"GET "]
        assert len(servers.opened) == 2


async def test_a_request_that_may_have_run_is_never_sent_again() -> None:
    handler, seen = one_then(close=True)
    async with pool_of(handler) as (pool, servers):
        assert await ask(pool) == b"hi"
        with pytest.raises(ConnectionLost):
            await ask(pool)
        assert seen == [b"POST", b"POST"]
        assert len(servers.opened) == 1


async def test_a_request_on_a_new_connection_is_never_sent_again() -> None:
    async with pool_of(answer_with(b"", close=True)) as (pool, servers):
        with pytest.raises(ConnectionLost):
            await ask(pool, method="GET")
        assert len(servers.opened) == 1


async def test_after_the_first_byte_of_a_response_nothing_is_sent_again() -> None:
    async def handler(server: SocketStream) -> None:
        await read_request(server)
        await server.send_all(OK)
        await read_request(server)
        await server.send_all(b"H")
        server.close()

    async with pool_of(handler) as (pool, servers):
        await ask(pool, method="GET")
        with pytest.raises(ConnectionLost):
            await ask(pool, method="GET")
        assert len(servers.opened) == 1


class Unsent(SocketStream):
    """Dies in the moment that something is written, and not before."""

    broken = False

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        if self.broken:
            self.socket.shutdown(socket.SHUT_RDWR)
            raise trio.BrokenResourceError("EPIPE")
        return super().send_nowait(data)


async def test_a_request_of_which_nothing_was_written_is_sent_again_whatever_it_is() -> None:
    streams: list[Unsent] = []

    async with pool_of(answer_all) as (_, servers):

        async def open_stream(host: str, port: int) -> SocketStream:
            stream = Unsent((await servers.open(host, port)).socket)
            streams.append(stream)
            return stream

        async with HttpPool(open_stream=open_stream) as pool:
            assert await ask(pool) == b"hi"
            streams[0].broken = True
            assert await ask(pool) == b"hi"
            assert len(streams) == 2


async def test_a_server_that_closes_whatever_is_reused_is_given_up() -> None:
    async with pool_of(answer_all) as (_, servers):

        async def open_stream(host: str, port: int) -> SocketStream:
            return Unsent((await servers.open(host, port)).socket)

        async with HttpPool(open_stream=open_stream) as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(ask, pool)
            assert pool.statistics().idle == 5
            Unsent.broken = True
            try:
                with pytest.raises(ConnectionLost, match="as soon as"):
                    await ask(pool)
            finally:
                Unsent.broken = False
            assert pool.statistics() == PoolStatistics(2, 2, 0)


# -- cancellation and the end


async def check_usable(pool: HttpPool) -> None:
    """All places are free, or become free, and can be used."""
    numbers = pool.statistics()
    assert numbers.connections == numbers.idle
    assert numbers.waiting == 0
    assert await ask(pool) == b"hi"


@pytest.mark.parametrize("body", [b"", LARGE])
@pytest.mark.parametrize("seconds", [math.inf, 1000.0])
async def test_cancelled_anywhere_nothing_is_left(body: bytes, seconds: float) -> None:
    async def slow_answer(server: SocketStream) -> None:
        while head := await read_request(server):
            missing = 0
            if b"Content-Length: 4000000" in head:
                missing = len(LARGE) - len(head.partition(b"\r\n\r\n")[2])
            while missing > 0:
                missing -= len(await server.receive_some())
            for piece in (OK[:5], OK[5:-1], OK[-1:]):
                await server.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()

    async with pool_of(slow_answer, max_connections=1) as (pool, servers):

        async def request() -> None:
            async with pool.request("POST", URL, body=body, head_timeout=seconds) as response:
                assert await response.read(2) == b"hi"

        number = 0
        while await cancel_at(number, request):
            assert servers.open_clients == pool.statistics().connections
            await check_usable(pool)
            number += 1
            # Every other time on a new connection.
            if number % 2 and pool.statistics().idle:
                servers.servers[-1].close()
        assert number >= 4


async def test_closing_ends_whatever_runs() -> None:
    async with pool_of(max_connections=2) as (pool, servers), trio.open_nursery() as nursery:
        ended: list[str] = []

        async def expect_closed(name: str, body: bytes = b"") -> None:
            with pytest.raises(trio.ClosedResourceError):
                async with pool.request("POST", URL, body=body) as response:
                    await response.read(2)
            ended.append(name)

        nursery.start_soon(expect_closed, "in the head")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(expect_closed, "writing", LARGE)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(expect_closed, "waiting")
        await trio.testing.wait_all_tasks_blocked()
        await pool.aclose()
        await pool.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(ended) == ["in the head", "waiting", "writing"]
        assert servers.open_clients == 0
        with pytest.raises(trio.ClosedResourceError):
            await ask(pool)


async def test_closing_ends_connecting() -> None:
    async with pool_of() as (pool, servers), trio.open_nursery() as nursery:
        servers.stall = True

        async def expect_closed() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ask(pool)

        nursery.start_soon(expect_closed)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == BUSY
        await pool.aclose()


async def test_a_connection_made_after_closing_is_closed() -> None:
    async with pool_of() as (_, servers):

        async def open_stream(host: str, port: int) -> SocketStream:
            stream = await servers.open(host, port)
            with trio.CancelScope(shield=True):
                await late.aclose()
            return stream

        late = HttpPool(open_stream=open_stream)
        with pytest.raises(trio.ClosedResourceError):
            await ask(late)
        assert late.statistics() == NONE


async def test_a_response_in_progress_ends_with_the_pool_and_gives_nothing_back() -> None:
    async with pool_of(answer_with(CHUNKED + b"1\r\na\r\n")) as (pool, servers):
        async with pool.request("GET", URL) as response:
            assert await response.receive_some() == b"a"
            await pool.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await response.receive_some()
        assert pool.statistics() == NONE
        assert servers.open_clients == 0


async def test_a_response_that_is_complete_in_a_closed_pool_gives_nothing_back() -> None:
    async with pool_of(answer_all) as (pool, _):
        async with pool.request("GET", URL) as response:
            await pool.aclose()
            assert await response.read(2) == b"hi"
        assert pool.statistics() == NONE


async def test_closing_a_pool_in_a_cancelled_scope_closes_it() -> None:
    async with pool_of(answer_all) as (pool, servers):
        await ask(pool)
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.aclose()
        assert scope.cancelled_caught
        assert servers.open_clients == 0


async def test_who_was_served_just_before_the_end_opens_nothing() -> None:
    async with pool_of(max_connections=1) as (pool, servers), trio.open_nursery() as nursery:

        async def first() -> None:
            async with pool.request("POST", URL) as response:
                assert response.read_nowait(2) == b"hi"
                await pool.aclose()  # in the same step as the second is served

        async def second() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ask(pool)

        for async_fn in (first, second):
            nursery.start_soon(async_fn)
            await trio.testing.wait_all_tasks_blocked()
        await read_request(servers.servers[0])
        await servers.servers[0].send_all(OK)
        await trio.testing.wait_all_tasks_blocked()
        assert len(servers.opened) == 1


# -- streams with less


class PlainStream:
    """What a connection needs, and nothing else."""

    def __init__(self, stream: SocketStream) -> None:
        self.receive_some = stream.receive_some
        self.send_all = stream.send_all
        self.close = stream.close


async def test_a_stream_needs_three_methods() -> None:
    async with pool_of(answer_all) as (_, servers):

        async def open_stream(host: str, port: int) -> PlainStream:
            return PlainStream(await servers.open(host, port))

        async with HttpPool(open_stream=open_stream) as pool:
            assert await ask(pool, method="GET") == b"hi"
            assert await ask(pool, method="GET") == b"hi"
            assert len(servers.opened) == 1
            # That a kept one is dead comes out when it is used.
            servers.servers[0].close()
            assert await ask(pool, method="GET") == b"hi"
            servers.servers[1].close()
            with pytest.raises(ConnectionLost):
                await ask(pool)
            assert pool.statistics() == NONE


class Response(HttpResponse):
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""


async def test_other_senders_need_to_receive_only() -> None:
    assert await Response(b"ab", b"c").read(3) == b"abc"
    assert Response(b"ab").read_nowait(3) is None
    with pytest.raises(MessageTooLarge, match="3 bytes is over the limit of 2"):
        await Response(b"ab", b"c").read(2)


# -- over TCP


async def test_it_speaks_tcp() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]

        async def serve(stream: trio.SocketStream) -> None:
            async with stream:
                while await stream.receive_some():
                    await stream.send_all(OK)

        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with trio.fail_after(30):
            async with HttpPool() as pool:
                for _ in range(3):
                    assert await ask(pool, f"http://127.0.0.1:{port}/") == b"hi"
                assert pool.statistics() == IDLE
        nursery.cancel_scope.cancel()


async def test_a_kept_connection_that_was_reset_is_noticed_before_it_is_used() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        accepted: list[trio.SocketStream] = []
        closed = trio.Event()

        async def serve(stream: trio.SocketStream) -> None:
            accepted.append(stream)
            async with stream:
                await stream.receive_some()
                await stream.send_all(OK)
                if len(accepted) == 1:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    await trio.testing.wait_all_tasks_blocked(0.01)
                else:
                    await stream.receive_some()
            closed.set()

        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with trio.fail_after(30):
            async with HttpPool(idle_expiry=math.inf) as pool:
                assert await ask(pool, f"http://127.0.0.1:{port}/") == b"hi"
                await closed.wait()
                assert await ask(pool, f"http://127.0.0.1:{port}/") == b"hi"
        assert len(accepted) == 2
        nursery.cancel_scope.cancel()


async def test_nobody_there_is_told() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with HttpPool() as pool:
            with trio.fail_after(30), pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}"):
                await ask(pool, f"http://127.0.0.1:{port}/")
            assert pool.statistics() == NONE
