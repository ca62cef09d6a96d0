"""Requests that become WebSockets, and those that do not, at an HTTP server on memory streams."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
import pytest
import trio
from http_served import SERVING, Application, Client, serving
from trio.testing import wait_all_tasks_blocked
from websocket_peer import Peer
from websocket_wire import MASK, TEXT, Frame, close_frame

from trio_mcp_transport import (
    ChannelState,
    ConnectionLost,
    HttpEndpoint,
    MessageChannel,
    Request,
    Response,
    ServerBusy,
    open_channel,
    serve_channels,
)
from trio_mcp_transport.sansio.http1 import RequestHead
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.websocket import CloseReceived
from trio_mcp_transport.security.admission import AdmissionPolicy, Doorkeeper
from trio_mcp_transport.security.authentication import unauthorized
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.transports.websocket_settings import WebSocketOptions, WebSocketServing

pytestmark = [pytest.mark.websocket, pytest.mark.http]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE: dict[str, str] = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
BESIDE = WebSocketServing(path="/mcp")
ONLY = WebSocketServing(path="/mcp", only=True)
REQUEST = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


class Echo:
    """A handler that answers requests, and remembers what it was called with."""

    def __init__(self) -> None:
        self.channels: list[MessageChannel] = []
        self.ended = 0

    async def __call__(self, channel: MessageChannel) -> None:
        self.channels.append(channel)
        async for message in channel:
            if isinstance(message, Request):
                await channel.send(Response(message.id, {"method": message.method}))
        self.ended += 1


async def upgrade(client: Client, headers: Mapping[str, str] = UPGRADE, path: str = "/mcp") -> Peer:
    """Ask for a WebSocket; the peer that speaks it."""
    await client.send("GET", headers, path=path)
    status, answer = await client.responses.head()
    assert status == 101
    # RFC 6455, section 1.3, has this key and its answer.
    assert answer["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer["upgrade"] == "websocket"
    peer = Peer(client.stream, "client")
    peer.machine.receive_data(client.responses.data)
    return peer


async def refused(client: Client, headers: Mapping[str, str], path: str = "/mcp") -> int:
    await client.send("GET", headers, path=path)
    status, _, _ = await client.responses.whole()
    return status


async def call(peer: Peer, method: str = "ping") -> object:
    await peer.say(Request(1, method))
    return json.loads(await peer.text())["result"]["method"]


@pytest.mark.parametrize("websocket", [BESIDE, ONLY])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp?key=1"])
async def test_a_request_becomes_a_websocket(websocket: WebSocketServing, path: str) -> None:
    echo = Echo()
    async with serving(echo, websocket=websocket) as served:
        peer = await upgrade(served.connect(), {**UPGRADE, "X-Mine": "yes"}, path)
        assert await call(peer) == "ping"
        (channel,) = echo.channels
        context = channel.context
        assert context.transport == "ws"
        assert (context.local_address, context.peer_address) == (
            "127.0.0.1:80",
            "127.0.0.1:50000",
        )
        assert context.headers is not None
        assert context.headers["x-mine"] == "yes"
        assert not context.exchange
        assert context.session is None
        assert channel.session_id.startswith("ws-")
        await peer.write(close_frame(1000))
        assert await peer.closed() == (1000, "")
        await peer.ended()
        await wait_all_tasks_blocked()
        assert channel.state is ChannelState.CLOSED
        assert (echo.ended, served.names) == (1, [])


async def test_http_goes_on_beside_websockets() -> None:
    app = Application()
    async with serving(app, websocket=BESIDE) as served:
        peer = await upgrade(served.connect())
        client = served.connect()
        await client.call("tool")
        assert (await client.json())[0] == 200
        await peer.write(close_frame(1000))
        await peer.closed()


@pytest.mark.parametrize("offered", ["mcp", "graphql, mcp"])
async def test_the_subprotocol_is_chosen_where_it_is_offered(offered: str) -> None:
    async with serving(Echo(), websocket=BESIDE) as served:
        client = served.connect()
        await client.send("GET", {**UPGRADE, "Sec-WebSocket-Protocol": offered})
        status, headers = await client.responses.head()
        assert (status, headers["sec-websocket-protocol"]) == (101, "mcp")


async def test_who_offers_another_subprotocol_gets_none() -> None:
    async with serving(Echo(), websocket=BESIDE) as served:
        client = served.connect()
        await client.send("GET", {**UPGRADE, "Sec-WebSocket-Protocol": "graphql"})
        status, headers = await client.responses.head()
        assert (status, "sec-websocket-protocol" in headers) == (101, False)


async def test_bytes_behind_the_head_are_the_first_of_the_websocket() -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    wire = f"GET /mcp HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode()
    start = len(wire)
    wire += Frame(TEXT, REQUEST).wire(MASK)
    for cut in [*range(start - 4, start + 10), len(wire) - 1, len(wire)]:
        echo = Echo()
        async with serving(echo, websocket=BESIDE) as served:
            client = served.connect()
            await client.stream.send_all(wire[:cut])
            await wait_all_tasks_blocked()
            if wire[cut:]:
                await client.stream.send_all(wire[cut:])
            assert (await client.responses.head())[0] == 101
            peer = Peer(client.stream, "client")
            peer.machine.receive_data(client.responses.data)
            assert json.loads(await peer.text())["id"] == 1
            await peer.write(close_frame(1000))
            assert await peer.closed() == (1000, "")
            await peer.ended()
        assert (echo.ended, served.names) == (1, [])


async def test_a_close_right_behind_a_request_is_answered_and_the_request_is_not() -> None:
    echo = Echo()
    async with serving(echo, websocket=BESIDE) as served:
        peer = await upgrade(served.connect())
        await peer.write(Frame(TEXT, REQUEST), close_frame(1000))
        assert await peer.event() == CloseReceived(1000, "")
        await peer.ended()
        await wait_all_tasks_blocked()
        assert served.names == []
        assert isinstance(echo.channels[0].failure, ConnectionLost)


async def test_a_byte_of_nonsense_behind_the_head_hurts_nobody_else() -> None:
    echo = Echo()
    async with serving(echo, websocket=BESIDE) as served:
        other = await upgrade(served.connect())
        client = served.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        wire = f"GET /mcp HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode()
        await client.stream.send_all(wire + b"\xff\xff")
        assert (await client.responses.head())[0] == 101
        peer = Peer(client.stream, "client")
        peer.machine.receive_data(client.responses.data)
        assert (await peer.closed())[0] == 1002
        assert await call(other) == "ping"
        await other.write(close_frame(1000))
        await other.closed()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "rebound.example"},
        {"Host": "localhost:9999"},
    ],
)
async def test_strange_origins_and_hosts_are_refused_before_the_101(
    headers: Mapping[str, str],
) -> None:
    echo = Echo()
    for websocket in (BESIDE, ONLY):
        async with serving(echo, websocket=websocket) as served:
            assert await refused(served.connect(), {**UPGRADE, **headers}) == 403
            assert served.names == ["request.refused"]
    assert echo.channels == []


async def test_an_allowed_origin_may_open_one() -> None:
    doorkeeper = Doorkeeper(AdmissionPolicy(allowed_origins=("https://app.example",)))
    async with serving(Echo(), websocket=BESIDE, doorkeeper=doorkeeper) as served:
        headers = {**UPGRADE, "Origin": "https://app.example"}
        assert await call(await upgrade(served.connect(), headers)) == "ping"


async def test_who_has_to_say_who_they_are_says_it_before_the_101() -> None:
    async def authenticate(head: RequestHead, facts: ConnectionFacts) -> str | Reply:
        await trio.lowlevel.checkpoint()
        return "ann" if head.headers.get("authorization") == "Bearer good" else unauthorized()

    echo = Echo()
    http = msgspec.structs.replace(SERVING, authenticate=authenticate)
    async with serving(echo, websocket=ONLY, http=http) as served:
        assert await refused(served.connect(), UPGRADE) == 401
        peer = await upgrade(served.connect(), {**UPGRADE, "Authorization": "Bearer good"})
        assert await call(peer) == "ping"
        assert [channel.context.principal for channel in echo.channels] == ["ann"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/mcp", {}, 426),
        ("POST", "/mcp", {}, 426),
        ("GET", "/other", UPGRADE, 404),
        ("GET", "/", {}, 404),
        ("GET", "/mcp", {**UPGRADE, "Upgrade": "h2c"}, 426),
        ("GET", "/mcp", {**UPGRADE, "Sec-WebSocket-Version": "8"}, 426),
        ("GET", "/mcp", {**UPGRADE, "Sec-WebSocket-Key": "short"}, 400),
        ("GET", "/mcp", {**UPGRADE, "Content-Length": "5"}, 400),
        ("POST", "/mcp", UPGRADE, 405),
    ],
)
async def test_where_only_websockets_are_served_other_requests_are_told_so(
    method: str, path: str, headers: Mapping[str, str], status: int
) -> None:
    echo = Echo()
    async with serving(echo, websocket=ONLY) as served:
        client = served.connect()
        await client.send(method, headers, path=path)
        got, answer, body = await client.responses.whole()
        assert got == status
        assert json.loads(body)["error"]["code"] == -32600
        if status == 426:
            assert answer["upgrade"] == "websocket"
            assert answer["sec-websocket-version"] == "13"
    assert echo.channels == []


async def test_where_websockets_are_switched_off_the_wish_is_ignored() -> None:
    async with serving(Application(), websocket=None) as served:
        assert await refused(served.connect(), UPGRADE) in {400, 405, 406}


async def test_what_the_handler_raises_is_reported_and_ends_the_connection() -> None:
    async def handle(channel: MessageChannel) -> None:
        await channel.receive()
        raise ValueError("boom")

    async with serving(handle, websocket=ONLY) as served:
        peer = await upgrade(served.connect())
        await peer.say(Request(1, "x"))
        assert (await peer.closed())[0] == 1000
        assert served.names == ["handler.failed"]
        assert isinstance(served.events[0].error, ValueError)


async def test_a_client_that_goes_away_is_an_everyday_event() -> None:
    echo = Echo()
    async with serving(echo, websocket=ONLY) as served:
        client = served.connect()
        peer = await upgrade(client)
        await peer.say(Request(1, "x"))
        await peer.text()
        await client.aclose()
        await wait_all_tasks_blocked()
        assert served.connections == 0
        assert served.names == []
        assert echo.channels[0].state is ChannelState.FAILED


async def test_a_client_that_is_gone_when_it_is_answered_is_an_everyday_event() -> None:
    async def handle(channel: MessageChannel) -> None:
        message = await channel.receive()
        assert isinstance(message, Request)
        while channel.is_connected:  # noqa: ASYNC110 (it has no event)
            await trio.lowlevel.checkpoint()
        failures.append(channel.failure)
        await channel.send(Response(message.id, {}))

    failures: list[object] = []
    async with serving(handle, websocket=ONLY) as served:
        client = served.connect()
        peer = await upgrade(client)
        await peer.say(Request(1, "x"))
        await client.aclose()
        await wait_all_tasks_blocked()
        # Whether the handler or the reader is first is chance.
        assert len(failures) == 1
        assert served.names == []


async def test_a_server_that_stops_lets_handlers_finish_and_says_that_it_goes_away() -> None:
    finish = trio.Event()

    async def handle(channel: MessageChannel) -> None:
        request = await channel.receive()
        assert isinstance(request, Request)
        await finish.wait()
        await channel.send(Response(request.id, {"method": "late"}))

    async with serving(handle, websocket=ONLY) as served:
        peer = await upgrade(served.connect())
        other = served.connect()
        await peer.say(Request(1, "x"))
        await wait_all_tasks_blocked()
        served.service.stop()
        await other.send("GET", UPGRADE)
        status, headers, _ = await other.responses.whole()
        assert (status, headers["retry-after"]) == (503, "5")
        finish.set()
        assert json.loads(await peer.text())["result"] == {"method": "late"}
        assert await peer.closed() == (1001, "")


async def test_messages_may_be_compressed_where_both_agree() -> None:
    websocket = WebSocketServing(path="/mcp", options=WebSocketOptions(permessage_deflate=True))
    async with serving(Echo(), websocket=websocket) as served:
        client = served.connect()
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
        await client.send("GET", {**UPGRADE, **offer})
        _, headers = await client.responses.head()
        assert headers["sec-websocket-extensions"].startswith("permessage-deflate")
        plain = served.connect()
        await upgrade(plain)


# -- over sockets -----------------------------------------------------------------------


async def serve_one(
    served: list[MessageChannel], endpoint: HttpEndpoint, nursery: trio.Nursery
) -> str:
    async def handle(channel: MessageChannel) -> None:
        served.append(channel)
        async for message in channel:
            if isinstance(message, Request):
                await channel.send(Response(message.id, {}))

    started: list[str] = await nursery.start(serve_channels, handle, endpoint)
    return started[0]


async def test_an_http_endpoint_serves_websockets_on_its_port_and_path() -> None:
    served: list[MessageChannel] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            bound = await serve_one(served, HttpEndpoint("127.0.0.1", 0, "/mcp"), nursery)
            async with open_channel(bound.replace("http://", "ws://")) as channel:
                await channel.send(Request(1, "ping"))
                assert isinstance(await channel.receive(), Response)
            nursery.cancel_scope.cancel()
    assert [channel.context.transport for channel in served] == ["ws"]


async def test_an_open_websocket_keeps_its_place_among_the_connections() -> None:
    served: list[MessageChannel] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            endpoint = HttpEndpoint("127.0.0.1", 0, "/mcp", max_connections=1)
            bound = await serve_one(served, endpoint, nursery)
            target = bound.replace("http://", "ws://")
            async with open_channel(target) as channel:
                await channel.send(Request(1, "ping"))
                await channel.receive()
                with pytest.raises(ServerBusy, match="503"):
                    async with open_channel(target):
                        pass
            async with open_channel(target) as channel:
                await channel.send(Request(1, "ping"))
                await channel.receive()
            nursery.cancel_scope.cancel()


async def test_cancelled_handlers_say_goodbye() -> None:
    served: list[MessageChannel] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, trio.open_nursery() as server:
            bound = await serve_one(served, HttpEndpoint("127.0.0.1", 0, "/mcp"), server)
            async with open_channel(bound.replace("http://", "ws://")) as channel:
                await channel.send(Request(1, "ping"))
                await channel.receive()
                server.cancel_scope.cancel()
                with pytest.raises(trio.EndOfChannel):
                    await channel.receive()
            nursery.cancel_scope.cancel()
