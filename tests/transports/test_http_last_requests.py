"""The end of an HTTP server, for clients whose requests come just then."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio
from http_served import INITIALIZE, META, MODERN, Application
from http_served import serving as served
from http_wire import Responses, Wire, echo, open_wire
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import Router, serve_peers
from trio_mcp_transport.sansio.http1 import BodyData, EndOfBody, ResponseHead
from trio_mcp_transport.transports import http_server
from trio_mcp_transport.transports.http_request import HttpRequestStream
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.worker_seat import WorkerSeat, take_seat

pytestmark = [pytest.mark.http, pytest.mark.integration]

ENDPOINT = "http://127.0.0.1:0/mcp"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are spared for a moment only."""
    monkeypatch.setattr(http_server, "_LAST_REQUEST_SECONDS", 0.01)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are spared for so long that a machine under load is no matter."""
    monkeypatch.setattr(http_server, "_LAST_REQUEST_SECONDS", 60.0)


@asynccontextmanager
async def serving(
    stop: trio.Event, endpoint: str = ENDPOINT
) -> AsyncGenerator[tuple[str, int], None]:
    router = Router("test", "1", capabilities={"tools": {}})
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve_peers, router, endpoint, stop=stop))
            parts = urlsplit(url)
            assert parts.hostname
            assert parts.port
            yield parts.hostname, parts.port  # ruff: ignore[fallible-context-manager] (the nursery ends)
            stop.set()


@asynccontextmanager
async def serving_as_a_worker(stop: trio.Event) -> AsyncGenerator[tuple[str, int], None]:
    with tempfile.TemporaryDirectory(prefix="w") as directory:
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        seat = WorkerSeat(1, directory, {("127.0.0.1", port): [sock]})
        with take_seat(seat):
            async with serving(stop, f"http://127.0.0.1:{port}/mcp") as address:
                yield address


def discover(port: int) -> bytes:
    message = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": META}}
    body = json.dumps(message)
    return (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {MODERN}\r\n"
        f"Mcp-Method: server/discover\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def refused(address: tuple[str, int]) -> None:
    """Wait until nobody listens any more."""
    while True:
        try:
            await (await trio.open_tcp_stream(*address)).aclose()
        except OSError:
            return


@pytest.mark.parametrize("cut", [0, 20])
async def test_a_first_request_that_is_under_way_is_answered(late: None, cut: int) -> None:
    stop = trio.Event()
    async with serving(stop) as address, await trio.open_tcp_stream(*address) as stream:
        request = discover(address[1])
        await stream.send_all(request[:cut])
        stop.set()
        await refused(address)
        await stream.send_all(request[cut:])
        status, headers, body = await Responses(stream).whole()
        assert (status, headers["connection"]) == (200, "close")
        assert "result" in json.loads(body)
        assert await stream.receive_some() == b""


async def test_one_that_does_not_come_holds_nothing_up(soon: None) -> None:
    stop = trio.Event()
    async with serving(stop) as address, await trio.open_tcp_stream(*address) as stream:
        stop.set()
        assert await stream.receive_some() == b""


async def test_idle_connections_that_had_a_request_end_at_once(late: None) -> None:
    stop = trio.Event()
    async with (
        serving(stop) as address,
        await trio.open_tcp_stream(*address) as fresh,
        await trio.open_tcp_stream(*address) as used,
    ):
        await used.send_all(discover(address[1]))
        assert (await Responses(used).whole())[0] == 200
        stop.set()
        assert await used.receive_some() == b""
        await fresh.send_all(discover(address[1]))
        assert (await Responses(fresh).whole())[0] == 200


async def test_that_connections_ended_before_changes_nothing_for_the_last_ones(late: None) -> None:
    stop = trio.Event()
    async with serving(stop) as address:
        async with await trio.open_tcp_stream(*address) as before:
            await before.send_all(discover(address[1]))
            await Responses(before).whole()
            await before.send_eof()
            assert await before.receive_some() == b""
        async with await trio.open_tcp_stream(*address) as fresh:
            stop.set()
            await refused(address)
            await fresh.send_all(discover(address[1]))
            assert (await Responses(fresh).whole())[0] == 200


async def test_a_request_that_comes_with_the_end_gets_an_answer() -> None:
    stop = trio.Event()
    async with serving(stop) as address:
        stream = SocketStream(socket.create_connection(address))
        responses = Responses(stream)
        request = discover(address[1])
        await stream.send_all(request)
        await responses.whole()
        assert stream.send_nowait(request) == len(request)
        stop.set()
        assert (await responses.whole())[0] in {200, 503}
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_a_worker_answers_one_more_request_on_each_connection(late: None) -> None:
    stop = trio.Event()
    async with (
        serving_as_a_worker(stop) as address,
        await trio.open_tcp_stream(*address) as stream,
    ):
        responses = Responses(stream)
        await stream.send_all(discover(address[1]))
        status, headers, _ = await responses.whole()
        assert (status, headers.get("connection")) == (200, None)
        stop.set()
        await refused(address)
        await stream.send_all(discover(address[1]))
        status, headers, _ = await responses.whole()
        assert (status, headers["connection"]) == (200, "close")
        assert await stream.receive_some() == b""


async def test_a_worker_does_not_wait_for_it_for_ever(soon: None) -> None:
    stop = trio.Event()
    async with (
        serving_as_a_worker(stop) as address,
        await trio.open_tcp_stream(*address) as stream,
    ):
        await stream.send_all(discover(address[1]))
        await Responses(stream).whole()
        stop.set()
        assert await stream.receive_some() == b""


# -- one connection ----------------------------------------------------------------------

POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"


def sockets() -> tuple[SocketStream, SocketStream]:
    client, server = socket.socketpair()
    return SocketStream(client), SocketStream(server)


async def used(wire: Wire) -> None:
    """Make it a connection that is idle after a request."""
    await wire.send(POST)
    assert (await wire.responses.whole())[0] == 200
    await wait_all_tasks_blocked()


async def assert_last(wire: Wire) -> None:
    status, headers, _ = await wire.responses.whole()
    assert (status, headers["connection"]) == (200, "close")
    assert await wire.responses.end() == b""


@pytest.mark.parametrize("how", ["drain", "close"])
async def test_what_has_come_to_an_idle_connection_is_answered_before_it_ends(how: str) -> None:
    client, server = sockets()
    async with open_wire(streams=(client, server)) as wire:
        await used(wire)
        assert client.send_nowait(POST) == len(POST)
        getattr(wire.connection, how)()
        await assert_last(wire)


@pytest.mark.parametrize("cut", [1, 20])
async def test_a_head_that_has_begun_to_come_is_waited_for(cut: int) -> None:
    async with open_wire(streams=sockets()) as wire:
        await used(wire)
        await wire.send(POST[:cut])
        await wait_all_tasks_blocked()
        wire.connection.drain()
        await wait_all_tasks_blocked()
        assert not wire.ended.is_set()
        await wire.send(POST[cut:])
        await assert_last(wire)


async def test_one_that_does_not_go_on_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with open_wire(streams=sockets()) as wire:
        await used(wire)
        await wire.send(POST[:20])
        await wait_all_tasks_blocked()
        wire.connection.drain()
        assert (await wire.responses.whole())[0] == 408
        assert await wire.responses.end() == b""


class DrainedAsItReads(SocketStream):
    """Whose connection is drained between a read and what is made of it."""

    wire: Wire | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        if self.wire is not None:
            self.wire.connection.drain()
        return data


async def test_what_was_read_as_the_end_was_decided_is_answered() -> None:
    client, server = socket.socketpair()
    stream = DrainedAsItReads(server)

    async def service(request: HttpRequestStream) -> None:
        await trio.lowlevel.checkpoint()  # where it could be cancelled
        await echo(request)

    async with open_wire(service, streams=(SocketStream(client), stream)) as wire:
        await used(wire)
        stream.wire = wire
        await wire.send(POST)
        await assert_last(wire)


async def test_a_client_that_has_reset_the_connection_is_no_failure() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    async with open_wire(streams=(SocketStream(client), SocketStream(server))) as wire:
        await used(wire)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        wire.connection.drain()
        await wire.ended.wait()
        assert wire.events == []


async def test_what_is_spared_answers_one_more(autojump_clock: MockClock) -> None:
    async with open_wire() as wire:
        await used(wire)
        assert wire.connection.drain(fresh=1, used=2)
        await trio.sleep(1.9)
        assert not wire.ended.is_set()
        await wire.send(POST)
        await assert_last(wire)


@pytest.mark.parametrize("begun", [True, False])
async def test_what_is_spared_ends_when_its_time_is_over(
    autojump_clock: MockClock, *, begun: bool
) -> None:
    async with open_wire() as wire:
        if begun:
            await wait_all_tasks_blocked()
        assert wire.connection.drain(fresh=1, used=2)
        assert await wire.responses.end() == b""
        assert trio.current_time() == pytest.approx(1)


async def test_a_head_that_began_to_come_to_what_is_spared_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with open_wire(streams=sockets()) as wire:
        await used(wire)
        wire.connection.drain(used=1)
        await wire.send(POST[:20])
        await trio.sleep(5)
        await wire.send(POST[20:])
        await assert_last(wire)


async def test_so_is_a_body(autojump_clock: MockClock) -> None:
    async with open_wire() as wire:
        await wire.send(POST[:-1])
        await trio.sleep(0.5)
        wire.connection.drain()
        await trio.sleep(5)
        await wire.send(POST[-1:])
        await assert_last(wire)


class Streaming:
    """Begins a response to the first request, and ends it when it is told to."""

    def __init__(self, *, stays: bool) -> None:
        self.stays = stays
        self.over = trio.Event()
        self.requests = 0

    async def __call__(self, request: HttpRequestStream) -> None:
        self.requests += 1
        if self.requests > 1:
            await echo(request)
            return
        await request.read_body(10)
        request.write(ResponseHead(200))
        if self.stays:
            await self.over.wait()
            request.write(BodyData(b"2"), EndOfBody())


@pytest.mark.parametrize("spared", [True, False])
@pytest.mark.parametrize("stays", [True, False])
async def test_a_response_that_had_begun_is_finished(
    autojump_clock: MockClock, *, stays: bool, spared: bool
) -> None:
    streaming = Streaming(stays=stays)
    async with open_wire(streaming) as wire:
        await wire.send(POST)
        assert "connection" not in (await wire.responses.head())[1]
        await trio.sleep(1)
        assert wire.connection.drain(used=float(spared)) is spared
        await trio.sleep(10)
        if stays:
            streaming.over.set()
        else:
            wire.service.requests[0].write(BodyData(b"2"), EndOfBody())
        assert [await wire.responses.chunk() for _ in range(2)] == [b"2", b""]
        if spared:  # the client was not told that this is the end
            await trio.sleep(0.9)
            await wire.send(POST)
            await assert_last(wire)
        else:
            assert await wire.responses.end() == b""
            assert trio.current_time() < 12


# -- the service -------------------------------------------------------------------------


async def test_sessions_end_when_all_is_answered_and_all_else_goes_on() -> None:
    application = Application()
    modern = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "notifications/x"}
    async with served(application) as here:
        held, client = here.connect(), here.connect()
        session = await held.initialize()
        await held.call("wait", session=session)
        await wait_all_tasks_blocked()
        here.service.end_sessions()

        await client.call()
        assert (await client.json())[0] == 200
        message = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": META}}
        await client.post(message, modern)
        assert (await client.responses.whole())[0] == 202
        await client.call(session=session)
        assert (await client.json())[0] == 503
        await client.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE})
        assert (await client.json())[0] == 503

        application.release.set()
        assert (await held.json())[0] == 200
        await wait_all_tasks_blocked()
        await client.call(session=session)
        assert (await client.json())[0] == 404
        await client.call()
        assert (await client.json())[0] == 200


async def test_a_service_that_was_stopped_begins_nothing() -> None:
    async with served(Application()) as here:
        client = here.connect()
        here.service.stop()
        await client.call()
        assert (await client.json())[0] == 503
