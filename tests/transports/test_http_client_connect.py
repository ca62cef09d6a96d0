"""From an endpoint to an HTTP client channel, with connections of its own."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport import (
    ConfigurationError,
    ConnectFailed,
    ErrorResponse,
    Request,
    Response,
    open_channel,
    parse_endpoint,
)
from trio_mcp_transport.http_endpoints import HttpEndpoint, SseEndpoint
from trio_mcp_transport.transports.http_client import client_options
from trio_mcp_transport.transports.http_pool import HttpPool

pytestmark = pytest.mark.channel


def test_every_field_that_is_the_clients_gets_to_it() -> None:
    endpoint = HttpEndpoint(
        host="h",
        port=8080,
        path="/mcp",
        url_query="key=1",
        headers={"X-Key": "k"},
        auth="bearer",
        bearer_token="t",
        rpc_path="/rpc",
        notify_path="/notify",
        max_exchanges=7,
        read_timeout=3,
    )
    options = client_options(endpoint)
    assert options.url == "http://h:8080/mcp?key=1"
    assert dict(options.headers) == {"x-key": "k", "authorization": "Bearer t"}
    assert options.two_paths == ("http://h:8080/rpc", "http://h:8080/notify")
    assert (options.max_exchanges, options.read_timeout, options.sse_only) == (7, 3, False)
    plain = client_options(SseEndpoint(host="::1", port=80))
    assert (plain.url, plain.authority, plain.sse_only) == ("http://[::1]/", "[::1]", True)
    assert plain.read_timeout == math.inf
    assert plain.two_paths is None


async def test_an_endpoint_that_is_not_for_connecting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stateless"):
        async with open_channel("http://127.0.0.1:1/mcp?stateless=true"):
            pytest.fail("it cannot be open")
    with pytest.raises(ConfigurationError, match="ct_log_file"):
        async with open_channel("https://127.0.0.1:1/mcp?ct=require"):
            pytest.fail("it cannot be open")


async def test_a_channel_connects_when_it_sends() -> None:
    with trio.fail_after(30):
        async with open_channel("http://127.0.0.1:1/mcp") as channel:
            assert channel.context.transport == "http"
            assert channel.context.peer_address == "127.0.0.1:1"
            await channel.send(Request(1, "ping"))
            answer = await channel.receive()
            assert isinstance(answer, ErrorResponse)
            assert isinstance(answer.cause, ConnectFailed)


async def test_http_sse_connects_at_once() -> None:
    with trio.fail_after(30):
        with pytest.raises(ConnectFailed):
            async with open_channel("sse+http://127.0.0.1:1/"):
                pytest.fail("nobody is there")


async def test_connections_are_kept_and_closed_with_the_channel(nursery: trio.Nursery) -> None:
    connections = 0
    gone = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        body = b'{"jsonrpc":"2.0","id":1,"result":{}}'
        async with stream:
            while await stream.receive_some():
                await stream.send_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )
        gone.set()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handle, [listener])
    port = listener.socket.getsockname()[1]
    endpoint = parse_endpoint(f"http://127.0.0.1:{port}/mcp")
    with trio.fail_after(30):
        with pytest.raises(ZeroDivisionError):  # ruff: ignore[pytest-raises-with-multiple-statements]
            async with open_channel(endpoint) as channel:
                for _ in range(3):
                    await channel.send(Request(1, "m"))
                    assert isinstance(await channel.receive(), Response)
                    await wait_all_tasks_blocked()
                raise ZeroDivisionError
        await gone.wait()
    assert connections == 1


@pytest.mark.parametrize(
    ("option", "pause", "expected"),
    [("", 3.9, 1), ("", 4.1, 2), ("?idle_timeout=1", 1.1, 2), ("?idle_timeout=60", 59, 1)],
)
async def test_idle_connections_are_given_up_before_common_servers_close_them(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    pause: float,
    expected: int,
) -> None:
    opened = 0

    async def open_stream(pool: HttpPool, host: str, port: int) -> trio.abc.Stream:
        nonlocal opened
        opened += 1
        ours, theirs = memory_stream_pair()
        nursery.start_soon(serve, theirs)
        await trio.lowlevel.checkpoint()
        ours.close = ours.send_stream.close  # type: ignore[attr-defined]
        return ours

    async def serve(stream: trio.abc.Stream) -> None:
        body = b'{"jsonrpc":"2.0","id":1,"result":{}}'
        while await stream.receive_some():
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )

    monkeypatch.setattr(HttpPool, "_open_tcp_stream", open_stream)
    async with trio.open_nursery() as nursery:
        async with open_channel(f"http://127.0.0.1:1/mcp{option}") as channel:
            for _ in range(2):
                await channel.send(Request(1, "m"))
                assert isinstance(await channel.receive(), Response)
                await trio.sleep(pause)
        nursery.cancel_scope.cancel()
    assert opened == expected
