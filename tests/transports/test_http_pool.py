"""The connection pool: what is reused, who waits, and that nothing is left behind."""

from __future__ import annotations

from contextlib import suppress

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
    answer_all,
    answer_with,
    ask,
    pool_of,
    read_request,
)

from trio_mcp_transport.abc import ConnectionLost
from trio_mcp_transport.errors import (
    ConfigurationError,
    LocalProtocolError,
    MessageTooLarge,
)
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.transports.http_pool import HttpPool, PoolStatistics
from trio_mcp_transport.transports.socket_stream import SocketStream

pytestmark = pytest.mark.http

LARGE = b"x" * 4_000_000


async def test_a_request_is_sent_and_its_response_read() -> None:
    seen: list[bytes] = []

    async def handler(server: SocketStream) -> None:
        seen.append(await read_request(server))
        await server.send_all(b"HTTP/1.1 201 Created\r\nX: y\r\nContent-Length: 2\r\n\r\nhi")

    async with pool_of(handler) as (pool, servers):
        headers = Headers([("Accept", "text/plain")])
        async with pool.request("POST", URL, headers=headers, body=b"body") as response:
            assert response.status == 201
            assert response.headers["x"] == "y"
            assert await response.read(2) == b"hi"
            assert await response.read(2) == b""
            assert await response.receive_some() == b""
    assert servers.opened == [("example.com", 80)]
    expected = (
        b"POST /mcp?a=b HTTP/1.1\r\nHost: example.com\r\nAccept: text/plain\r\n"
        b"Content-Length: 4\r\n\r\nbody"
    )
    assert seen == [expected]


async def test_a_host_that_is_given_is_not_replaced() -> None:
    async with pool_of() as (pool, servers), trio.open_nursery() as nursery:

        async def post() -> None:
            async with pool.request("POST", URL, headers=Headers([("host", "other")])):
                pass

        nursery.start_soon(post)
        await trio.testing.wait_all_tasks_blocked()
        assert b"\r\nhost: other\r\n" in await read_request(servers.servers[0])
        await servers.servers[0].send_all(OK)


@pytest.mark.parametrize(
    ("url", "route", "line"),
    [
        ("http://a", ("a", 80), b"GET / HTTP/1.1\r\nHost: a\r\n"),
        ("HTTP://A:8080/", ("a", 8080), b"GET / HTTP/1.1\r\nHost: A:8080\r\n"),
        ("http://a?b=/c", ("a", 80), b"GET /?b=/c HTTP/1.1\r\nHost: a\r\n"),
        ("http://[::1]:1/x", ("::1", 1), b"GET /x HTTP/1.1\r\nHost: [::1]:1\r\n"),
    ],
)
async def test_a_url_says_where_and_what(url: str, route: tuple[str, int], line: bytes) -> None:
    async with pool_of() as (pool, servers), trio.open_nursery() as nursery:
        nursery.start_soon(ask, pool, url, "GET")
        await trio.testing.wait_all_tasks_blocked()
        assert servers.opened == [route]
        assert (await read_request(servers.servers[0])).startswith(line)
        await servers.servers[0].send_all(OK)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://a/",
        "http://",
        "http:///x",
        "http://a b/",
        "http://user:hunter2@a/",
        "http://a/#x",
        "http://a/\r\nX: y",
        "http://a/\xe9",
        "http://a:0/",
        "http://a:99999/",
        "http://::1/",
    ],
)
def test_a_wrong_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="a URL must be") as caught:
        HttpPool().request("GET", url)
    assert "hunter2" not in str(caught.value)


def test_a_pool_has_at_least_one_place() -> None:
    with pytest.raises(ConfigurationError, match="max_connections"):
        HttpPool(max_connections=0)


async def test_many_urls_do_not_pile_up() -> None:
    async with pool_of(answer_all) as (pool, _):
        for number in range(200):
            assert await ask(pool, f"http://a/{number}") == b"hi"
        assert len(pool._parsed_urls) <= 64


async def test_a_request_that_is_no_http_is_not_sent() -> None:
    async with pool_of(answer_all) as (pool, _):
        with pytest.raises(LocalProtocolError):
            await ask(pool, method="get")
        assert pool.statistics() == NONE
        assert await ask(pool) == b"hi"


async def test_the_body_comes_as_it_is_sent() -> None:
    handler = answer_with(CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n1\r\nc\r\n", b"0\r\n\r\n")
    async with pool_of(handler) as (pool, _), pool.request("GET", URL) as response:
        pieces = []
        while data := await response.receive_some():
            pieces.append(data)
            assert pool.statistics() == BUSY
        assert pieces == [b"a", b"bc"]
        # The end gives the connection back, not only the block's.
        assert pool.statistics() == IDLE


async def test_a_body_that_is_here_can_be_had_without_waiting() -> None:
    async with pool_of(answer_all) as (pool, _), pool.request("GET", URL) as response:
        assert response.read_nowait(2) == b"hi"
        assert response.read_nowait(2) == b""
        assert pool.statistics() == IDLE


async def test_a_body_that_is_not_here_is_not_lost_by_asking() -> None:
    handler = answer_with(CHUNKED + b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n")
    async with pool_of(handler) as (pool, _), pool.request("GET", URL) as response:
        assert response.read_nowait(100) is None
        assert await response.receive_some() == b"a"
        assert response.read_nowait(100) is None
        assert await response.read(100) == b"b"
    async with pool_of(answer_all) as (pool, _), pool.request("GET", URL) as response:
        assert response.read_nowait(1) is None
        with pytest.raises(MessageTooLarge):
            await response.read(1)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345",),
        (CHUNKED, b"3\r\n123\r\n", b"2\r\n45\r\n", b"0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"123", b"45"),
    ],
)
async def test_a_response_is_bounded(pieces: tuple[bytes, ...]) -> None:
    async with pool_of(answer_with(*pieces, close=True)) as (pool, servers):
        async with pool.request("GET", URL) as response:
            assert await response.read(5) == b"12345"
        async with pool.request("GET", URL) as response:
            with pytest.raises(MessageTooLarge):
                await response.read(4)
            assert servers.open_clients == 0
            with pytest.raises(trio.ClosedResourceError):
                await response.receive_some()


async def test_reading_after_the_block_is_told() -> None:
    async with pool_of(answer_all) as (pool, _):
        async with pool.request("GET", URL) as response:
            pass
        with pytest.raises(trio.ClosedResourceError):
            await response.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await response.read(1)
        assert response.read_nowait(1) is None


async def test_reading_checkpoints_also_when_the_body_is_here() -> None:
    async with pool_of(answer_all) as (pool, _):
        async with pool.request("GET", URL) as response:
            with trio.testing.assert_checkpoints():
                assert await response.receive_some() == b"hi"
            with trio.testing.assert_checkpoints():
                assert await response.receive_some() == b""
        async with pool.request("GET", URL) as response:
            with trio.testing.assert_checkpoints():
                assert await response.read(5) == b"hi"


async def test_who_asks_is_told_when_the_request_is_written() -> None:
    async with pool_of() as (pool, servers), trio.open_nursery() as nursery:
        told: list[str] = []

        async def post() -> None:
            async with pool.request("POST", URL, on_written=lambda: told.append("written")):
                told.append("answered")

        nursery.start_soon(post)
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["written"]
        await servers.servers[0].send_all(OK)
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["written", "answered"]


async def test_a_request_that_does_not_fit_is_written_while_the_server_reads() -> None:
    async with pool_of() as (pool, servers), trio.open_nursery() as nursery:
        told: list[str] = []

        async def post() -> None:
            async with pool.request(
                "POST", URL, body=LARGE, on_written=lambda: told.append("written")
            ) as response:
                assert await response.read(2) == b"hi"

        nursery.start_soon(post)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        received = 0
        while not told:
            received += len(await servers.servers[0].receive_some())
        await servers.servers[0].send_all(OK)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == IDLE


@pytest.mark.parametrize("close", [False, True])
async def test_a_server_may_answer_before_it_has_read_everything(*, close: bool) -> None:
    refusal = OK.replace(b"200 OK", b"413 Content Too Large")
    async with pool_of(answer_with(refusal, close=close)) as (pool, _):
        async with pool.request("POST", URL, body=LARGE) as response:
            assert response.status == 413
            assert await response.read(2) == b"hi"
        assert pool.statistics() == NONE  # half a request is no place for the next one


async def test_informational_responses_are_passed_over() -> None:
    async with pool_of(answer_with(b"HTTP/1.1 103 x\r\n\r\n", OK)) as (pool, _):
        assert await ask(pool) == b"hi"


# -- connections


async def test_a_connection_serves_many_requests() -> None:
    async with pool_of(answer_all) as (pool, servers):
        for _ in range(5):
            assert await ask(pool) == b"hi"
            assert pool.statistics() == IDLE
        assert len(servers.opened) == 1
        assert "1 connections, 1 idle" in repr(pool)


async def test_a_block_that_ends_early_closes_its_connection() -> None:
    handler = answer_with(CHUNKED + b"1\r\na\r\n")
    async with pool_of(handler) as (pool, servers):
        async with pool.request("GET", URL):
            pass
        assert servers.open_clients == 0
        with suppress(ZeroDivisionError):
            async with pool.request("GET", URL) as response:
                await response.receive_some()
                raise ZeroDivisionError
        assert pool.statistics() == NONE


async def test_a_body_that_nobody_read_but_is_here_keeps_its_connection() -> None:
    async with pool_of(answer_all) as (pool, _):
        async with pool.request("GET", URL):
            assert pool.statistics() == BUSY
        assert pool.statistics() == IDLE


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        OK.replace(b"1.1", b"1.0"),
        OK + b"more",
    ],
)
async def test_a_connection_that_cannot_go_on_is_closed(answer: bytes) -> None:
    async with pool_of(answer_with(answer)) as (pool, _):
        assert await ask(pool) == b"hi"
        assert pool.statistics() == NONE


@pytest.mark.parametrize("late", [b"", OK])
async def test_a_dead_connection_is_noticed_before_it_is_used(late: bytes) -> None:
    async with pool_of(answer_all) as (pool, servers):
        await ask(pool)
        # It closes, or says something out of turn.
        if late:
            await servers.servers[0].send_all(late)
        else:
            servers.servers[0].close()
        assert await ask(pool) == b"hi"
        assert len(servers.opened) == 2
        assert servers.open_clients == 1


async def test_an_idle_connection_expires(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(answer_all, idle_expiry=4) as (pool, servers):
        await ask(pool)
        await trio.sleep(3.9)
        await ask(pool)
        await trio.sleep(3.9)
        await ask(pool)
        assert len(servers.opened) == 1
        await trio.sleep(4)
        await ask(pool)
        assert len(servers.opened) == 2
        assert servers.open_clients == 1


@pytest.mark.parametrize("value", ["timeout=5", "Timeout=5, max=100", "max=100; timeout=5"])
async def test_a_server_may_keep_connections_for_less(
    autojump_clock: trio.testing.MockClock, value: str
) -> None:
    field = f"OK\r\nKeep-Alive: {value}\r\n".encode()
    async with pool_of(answer_with(OK.replace(b"OK\r\n", field)), idle_expiry=60) as (
        pool,
        servers,
    ):
        await ask(pool)
        await trio.sleep(3.9)
        await ask(pool)
        assert len(servers.opened) == 1
        await trio.sleep(4)
        await ask(pool)
        assert len(servers.opened) == 2
        assert servers.open_clients == 1


async def test_a_server_that_says_nothing_useful_of_it_is_as_one_that_says_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answer = OK.replace(b"OK\r\n", b"OK\r\nKeep-Alive: timeout=soon, nottimeout=1\r\n")
    async with pool_of(answer_with(answer), idle_expiry=60) as (pool, servers):
        await ask(pool)
        await trio.sleep(59)
        await ask(pool)
        assert len(servers.opened) == 1


async def test_a_connection_that_expires_behind_a_younger_one_is_not_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(server: SocketStream) -> None:
        head = await read_request(server)
        short = b"Host: b" in head
        await server.send_all(
            OK.replace(b"OK\r\n", b"OK\r\nKeep-Alive: timeout=2\r\n") if short else OK
        )
        await server.receive_some()

    async with pool_of(handler, idle_expiry=60) as (pool, servers):
        await ask(pool, "http://a/")
        await ask(pool, "http://b/")
        await trio.sleep(2)
        await ask(pool, "http://b/")
        assert servers.opened == [("a", 80), ("b", 80), ("b", 80)]
        assert servers.open_clients == 2


async def test_other_hosts_get_other_connections() -> None:
    async with pool_of(answer_all) as (pool, servers):
        for url in ("http://a/", "http://b/", "http://a:81/", "http://a/x", "http://A:80/y"):
            assert await ask(pool, url) == b"hi"
        assert servers.opened == [("a", 80), ("b", 80), ("a", 81)]
        assert pool.statistics() == PoolStatistics(3, 3, 0)


async def test_an_idle_connection_to_another_host_makes_room() -> None:
    async with pool_of(answer_all, max_connections=2) as (pool, servers):
        for url in ("http://a/", "http://b/", "http://c/"):
            await ask(pool, url)
            assert servers.open_clients <= 2
        assert servers.clients[0].socket.fileno() == -1
        assert pool.statistics() == PoolStatistics(2, 2, 0)


async def test_who_waits_is_served_in_the_order_of_coming() -> None:
    async with pool_of(max_connections=1) as (pool, servers), trio.open_nursery() as nursery:
        order: list[str] = []

        async def post(name: str, url: str) -> None:
            await ask(pool, url)
            order.append(name)

        for number, host in enumerate("aabaa"):
            nursery.start_soon(post, f"{host}{number}", f"http://{host}/")
            await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == PoolStatistics(1, 0, 4)
        while len(order) < 5:
            await read_request(servers.servers[-1])
            await servers.servers[-1].send_all(OK)
            await trio.testing.wait_all_tasks_blocked()
            assert servers.open_clients == 1
        assert order == ["a0", "a1", "b2", "a3", "a4"]
        assert servers.opened == [("a", 80), ("b", 80), ("a", 80)]


async def test_a_place_that_becomes_free_by_a_failure_is_passed_on() -> None:
    async with pool_of(max_connections=1) as (pool, servers), trio.open_nursery() as nursery:
        failed: list[str] = []

        async def fail() -> None:
            with pytest.raises(ConnectionLost):
                await ask(pool)
            failed.append("lost")

        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, pool)
        await trio.testing.wait_all_tasks_blocked()
        servers.servers[0].close()
        await trio.testing.wait_all_tasks_blocked()
        assert failed == ["lost"]
        await read_request(servers.servers[1])
        await servers.servers[1].send_all(OK)


async def test_a_connection_that_dies_on_its_way_to_who_waits_is_replaced() -> None:
    async with pool_of(max_connections=1) as (pool, servers), trio.open_nursery() as nursery:
        nursery.start_soon(ask, pool)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, pool)
        await trio.testing.wait_all_tasks_blocked()
        await read_request(servers.servers[0])
        await servers.servers[0].send_all(OK)
        servers.servers[0].close()
        await trio.testing.wait_all_tasks_blocked()
        assert len(servers.servers) == 2
        assert servers.open_clients == 1
        await read_request(servers.servers[1])
        await servers.servers[1].send_all(OK)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == IDLE


async def test_a_waiter_that_is_cancelled_loses_its_turn_and_nothing_else() -> None:
    async with pool_of(max_connections=1) as (pool, servers), trio.open_nursery() as nursery:
        nursery.start_soon(ask, pool)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_idle, scope)  # noqa: ASYNC111 (it cancels, no more)
            await ask(pool)
        assert scope.cancelled_caught
        assert pool.statistics() == BUSY
        await read_request(servers.servers[0])
        await servers.servers[0].send_all(OK)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == IDLE


async def cancel_when_idle(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize("answer", [OK, OK.replace(b"1.1", b"1.0")])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_waiter_that_is_cancelled_when_served_passes_it_on(
    when: str, answer: bytes
) -> None:
    async with pool_of(max_connections=1) as (pool, servers), trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        done: list[str] = []

        async def first() -> None:
            # Leaving the block serves the waiter, which in the same step is cancelled.
            async with pool.request("POST", URL) as response:
                assert await response.receive_some() == b"hi"
                if when == "before":
                    scope.cancel()
                assert pool.statistics().waiting == (1 if when == "before" else 2)
            assert pool.statistics().waiting < 2
            scope.cancel()

        async def second() -> None:
            with scope:
                await ask(pool)
                done.append("second")

        async def third() -> None:
            await ask(pool)
            done.append("third")

        for async_fn in (first, second, third):
            nursery.start_soon(async_fn)
            await trio.testing.wait_all_tasks_blocked()
        await read_request(servers.servers[0])
        for piece in (answer[:-2], answer[-2:]):
            await servers.servers[0].send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert pool.statistics() == BUSY
        await read_request(servers.servers[-1])
        await servers.servers[-1].send_all(OK)
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["third"]
        assert pool.statistics() == IDLE


async def test_the_same_headers_go_to_each_url_with_its_own_host() -> None:
    seen: list[bytes] = []

    async def handler(server: SocketStream) -> None:
        while request := await read_request(server):
            seen.append(request.partition(b"\r\n\r\n")[0])
            await server.send_all(OK)

    headers = Headers([("A", "b")])
    async with pool_of(handler) as (pool, _):
        for method, url in 2 * [
            ("GET", "http://one.example/x"),
            ("GET", "http://two.example/x"),
            ("DELETE", "http://two.example/x"),
            ("DELETE", "http://two.example/y"),
        ]:
            async with pool.request(method, url, headers=headers) as response:
                await response.read(100)
    expected = [
        b"GET /x HTTP/1.1\r\nHost: one.example\r\nA: b",
        b"GET /x HTTP/1.1\r\nHost: two.example\r\nA: b",
        b"DELETE /x HTTP/1.1\r\nHost: two.example\r\nA: b",
        b"DELETE /y HTTP/1.1\r\nHost: two.example\r\nA: b",
    ]
    assert seen == 2 * expected


def test_many_different_headers_do_not_pile_up() -> None:
    pool = HttpPool()
    for number in range(1000):
        pool.request("GET", URL, headers=Headers([("A", str(number))]))
    assert len(pool._heads) <= 64
    pool.close()
