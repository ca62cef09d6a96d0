"""The HTTP listener: real sockets, caps, the end in two phases."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import pytest
import trio
from http_served import INITIALIZE, LEGACY, META, MODERN
from http_wire import Responses

from trio_mcp_transport import (
    ChannelEvent,
    ConfigurationError,
    ConnectFailed,
    Context,
    FeatureUnavailable,
    LocalProtocolError,
    MessageChannel,
    Request,
    Response,
    Router,
    parse_endpoint,
    serve_channels,
    serve_peers,
)
from trio_mcp_transport.http_endpoints import HttpEndpoint, HttpsEndpoint
from trio_mcp_transport.transports.http_server import listen

RESULT: dict[str, object] = {"content": []}


class Post:
    """A client that sends whole requests over one socket."""

    def __init__(self, stream: trio.SocketStream, port: int) -> None:
        self.stream = stream
        self.responses = Responses(stream)
        self.host = f"127.0.0.1:{port}"

    async def call(self, name: str = "tool", **headers: str) -> None:
        """A modern tools/call."""
        params = {"name": name, "arguments": {}, "_meta": META}
        await self._send(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
            {
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": "tools/call",
                "Mcp-Name": name,
                **headers,
            },
        )

    async def initialize(self) -> str:
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}
        await self._send(message, {})
        return (await self.responses.whole())[1]["mcp-session-id"]

    async def _send(self, message: object, headers: dict[str, str]) -> None:
        body = json.dumps(message).encode()
        fields = {
            "Host": self.host,
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await self.stream.send_all(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)


def make_router() -> tuple[Router, dict[str, trio.Event]]:
    router = Router("test", "1", capabilities={"tools": {}})
    events = {"started": trio.Event(), "release": trio.Event(), "cancelled": trio.Event()}

    @router.method("tools/call")
    async def call(ctx: Context) -> object:
        if ctx.params_as(dict[str, object])["name"] == "wait":
            events["started"].set()
            try:
                await events["release"].wait()
            except trio.Cancelled:
                events["cancelled"].set()
                raise
        return RESULT

    return router, events


class Serve(Protocol):
    """Something like `serve_peers`, all but its ``task_status`` given."""

    def __call__(self, *, task_status: trio.TaskStatus[list[str]]) -> Awaitable[object]:
        """Serve."""


@asynccontextmanager
async def served(
    serve: Serve,
) -> AsyncGenerator[Callable[[], Awaitable[Post]], None]:
    """Serve, and give what connects; what was opened is closed."""
    streams: list[trio.SocketStream] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (endpoint,) = await nursery.start(serve)
            port = int(endpoint.split("/")[2].rpartition(":")[2])

            async def connect() -> Post:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                streams.append(stream)
                return Post(stream, port)

            try:
                yield connect
            finally:
                for stream in streams:
                    await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


async def test_the_endpoint_has_the_real_port_and_answers_there() -> None:
    router, _ = make_router()
    async with served(partial(serve_peers, router, "http://127.0.0.1:0/mcp")) as connect:
        client = await connect()
        for _ in range(3):
            await client.call()
            assert (await client.responses.whole())[0] == 200


async def test_raw_handlers_get_exchanges_through_serve_channels() -> None:
    async def answer(channel: MessageChannel) -> None:
        async for message in channel:
            assert isinstance(message, Request)
            await channel.send(Response(message.id, RESULT))

    async with served(partial(serve_channels, answer, "http://127.0.0.1:0/mcp")) as connect:
        client = await connect()
        await client.call()
        status, _, body = await client.responses.whole()
        assert status == 200
        assert b'"content":[]' in body


async def test_raw_handlers_get_sessions_through_serve_channels() -> None:
    async def answer(channel: MessageChannel) -> None:
        async for message in channel:
            if isinstance(message, Request):
                assert not channel.context.exchange
                await channel.send(Response(message.id, {"protocolVersion": LEGACY}))

    serve = partial(serve_channels, answer, "http://127.0.0.1:0/mcp", http="session")
    async with served(serve) as connect:
        assert await (await connect()).initialize()


async def test_requests_for_another_host_are_refused_with_headers_and_reported() -> None:
    router, _ = make_router()
    events: list[ChannelEvent] = []
    serve = partial(serve_peers, router, "http://127.0.0.1:0/mcp", on_event=events.append)
    async with served(serve) as connect:
        client = await connect()
        await client.call(Host="evil.example")
        assert (await client.responses.whole())[0] in {403, 421}
        assert [event.name for event in events] == ["request.refused"]


async def test_over_the_cap_an_idle_connection_makes_room_and_a_busy_one_does_not() -> None:
    router, events = make_router()
    endpoint = HttpEndpoint(host="127.0.0.1", port=0, path="/mcp", max_connections=2)
    async with served(partial(serve_peers, router, endpoint)) as connect:
        busy, idle = await connect(), await connect()
        await busy.call("wait")
        await events["started"].wait()
        await idle.call()
        assert (await idle.responses.whole())[0] == 200
        third = await connect()
        await third.call("wait")
        assert await idle.responses.end() == b""  # closed for the third
        fourth = await connect()
        await fourth.call()
        status, headers, _ = await fourth.responses.whole()
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) > 0
        assert await fourth.responses.end() == b""
        events["release"].set()
        for client in (busy, third):
            assert (await client.responses.whole())[0] == 200
        fifth = await connect()
        await fifth.call()
        assert (await fifth.responses.whole())[0] == 200


async def test_a_stop_finishes_what_is_being_answered_and_closes_idle_connections() -> None:
    router, events = make_router()
    stop, done = trio.Event(), trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await serve_peers(router, "http://127.0.0.1:0/mcp", stop=stop, task_status=task_status)
        done.set()

    async with served(serve) as connect:
        busy, idle = await connect(), await connect()
        await idle.initialize()
        await busy.call("wait")
        await events["started"].wait()
        stop.set()
        assert await idle.responses.end() == b""
        with pytest.raises(OSError, match=r"."):
            await connect()
        assert not done.is_set()
        events["release"].set()
        status, headers, _ = await busy.responses.whole()
        assert (status, headers["connection"]) == (200, "close")
        assert await busy.responses.end() == b""
        await done.wait()


async def test_what_is_not_done_in_time_after_a_stop_is_cut_off() -> None:
    router, events = make_router()
    stop, done = trio.Event(), trio.Event()
    reported: list[ChannelEvent] = []

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await serve_peers(
            router,
            "http://127.0.0.1:0/mcp",
            stop=stop,
            drain=0.05,
            on_event=reported.append,
            task_status=task_status,
        )
        done.set()

    async with served(serve) as connect:
        client = await connect()
        await client.call("wait")
        await events["started"].wait()
        stop.set()
        await done.wait()
        assert events["cancelled"].is_set()
        assert "drain.expired" in [event.name for event in reported]


async def test_a_client_that_resets_its_connection_cancels_its_modern_request_alone() -> None:
    router, events = make_router()
    reported: list[ChannelEvent] = []
    serve = partial(serve_peers, router, "http://127.0.0.1:0/mcp", on_event=reported.append)
    async with served(serve) as connect:
        client, other = await connect(), await connect()
        await client.call("wait")
        await events["started"].wait()
        linger = b"\1\0\0\0\0\0\0\0"
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.stream.socket.close()
        await events["cancelled"].wait()
        await other.call()
        assert (await other.responses.whole())[0] == 200
        assert reported == []


async def test_a_body_over_the_cap_is_answered_though_the_client_is_still_sending() -> None:
    router, _ = make_router()
    endpoint = "http://127.0.0.1:0/mcp?max_message_bytes=100000"
    async with served(partial(serve_peers, router, endpoint)) as connect:
        client = await connect()
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        await client.stream.send_all(head.encode())
        for _ in range(40):  # 2.5 MB
            await client.stream.send_all(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert (await client.responses.whole())[0] == 413


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_it_listens_at_every_address_of_its_host(host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    listener = await listen(HttpEndpoint(host=host, port=0, path="/x/y"), None)
    found = parse_endpoint(listener.endpoint)
    assert isinstance(found, HttpEndpoint)
    # A name with one address is told as the address.
    assert found.host in {host, "127.0.0.1"}
    assert found.path == "/x/y"
    assert found.port > 0
    await listener.aclose()
    await listener.aclose()


async def test_a_listener_is_served_and_not_accepted_from() -> None:
    listener = await listen(HttpEndpoint(host="127.0.0.1", port=0), None)
    async with listener, trio.open_nursery() as nursery:
        with pytest.raises(LocalProtocolError):
            await listener.accept(nursery)


async def test_what_cannot_be_listened_at_is_told_before_anything_is_opened() -> None:
    async def nobody(channel: MessageChannel) -> None:
        await channel.aclose()

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with taken, pytest.raises(ConnectFailed):
        await serve_channels(nobody, f"http://127.0.0.1:{port}/mcp")
    with pytest.raises(ConfigurationError):
        await serve_channels(nobody, HttpEndpoint(host="127.0.0.1", port=0, read_timeout=3))
    with pytest.raises((ConfigurationError, FeatureUnavailable)):  # no certificate; no extra
        await serve_channels(nobody, HttpsEndpoint(host="127.0.0.1", port=0))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_clients_that_come_and_go_at_every_moment_leave_nothing_open() -> None:
    router, _ = make_router()
    async with served(partial(serve_peers, router, "http://127.0.0.1:0/mcp")) as connect:
        for number in range(60):
            client = await connect()
            if number % 4 == 1:
                await client.stream.send_all(b"POST /mcp HT")
            elif number % 4 == 2:
                await client.call()
            elif number % 4 == 3:
                await client.call("wait")
            await client.stream.aclose()
