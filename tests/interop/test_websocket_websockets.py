"""The `websockets` library on Trio as the peer, both ways: an implementation without wsproto."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus

import msgspec
import pytest
import trio

pytest.importorskip("websockets.trio", reason="websockets is not installed")

from serving import PATIENCE, serving
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.http11 import Request as HandshakeRequest
from websockets.http11 import Response as HandshakeResponse
from websockets.trio.client import connect
from websockets.trio.server import Server, ServerConnection, serve
from websockets.typing import Origin, Subprotocol

from trio_mcp_transport import (
    AuthenticationRequired,
    ClosedByPeer,
    ConnectionLost,
    MessageChannel,
    Notification,
    PeerProtocolError,
    Request,
    Response,
    open_channel,
    serve_channels,
    serve_peers,
)
from trio_mcp_transport.cli.builtin_server import BuiltinServer

pytestmark = [pytest.mark.interop, pytest.mark.websocket]

MCP = Subprotocol("mcp")
BOTH_WAYS = pytest.mark.parametrize("compressed", [False, True])
#: More than one frame of ours, more than one read, and more than ASCII.
LONG = "où ça? " * 30_000

Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def their_server(handler: Handler, **options: object) -> AsyncGenerator[str]:
    """A server of theirs; its URL."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            options = {"host": "127.0.0.1", "subprotocols": [MCP], "close_timeout": 5, **options}
            start = partial(serve, handler, 0, **options)  # type: ignore[arg-type]
            server: Server = await nursery.start(start)
            port = server.listeners[0].socket.getsockname()[1]
            try:
                yield f"ws://127.0.0.1:{port}/mcp"
            finally:
                await server.aclose()
                nursery.cancel_scope.cancel()


async def answer(connection: ServerConnection) -> None:
    """Answer each request with its own params."""
    async for text in connection:
        request = msgspec.json.decode(text)
        result = {"jsonrpc": "2.0", "id": request["id"], "result": request["params"]}
        await connection.send(msgspec.json.encode(result).decode())


async def echo(channel: MessageChannel) -> None:
    """The same on our side."""
    async for message in channel:
        assert isinstance(message, Request)
        await channel.send(Response(message.id, message.params))


async def ask(channel: MessageChannel, number: int, text: str) -> None:
    await channel.send(Request(number, "echo", {"text": text}))
    answer = await channel.receive()
    assert isinstance(answer, Response)
    assert answer.id == number
    assert answer.result_as(dict[str, str]) == {"text": text}


# -- their server, our client ---------------------------------------------------------------


@BOTH_WAYS
async def test_our_client_converses_with_their_server(*, compressed: bool) -> None:
    seen: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        seen.append(connection)
        await answer(connection)

    query = f"?permessage_deflate={str(compressed).lower()}"
    async with their_server(handler) as url:
        async with open_channel(url + query) as channel:
            for number, text in enumerate(["", "x", LONG, "x" * 100_000, "é"]):
                await ask(channel, number, text)
            assert seen[0].subprotocol == "mcp"
            assert [type(one).__name__ for one in seen[0].protocol.extensions] == (
                ["PerMessageDeflate"] if compressed else []
            )
        await seen[0].wait_closed()
        assert seen[0].close_code == 1000


async def test_our_client_answers_their_pings() -> None:
    async def handler(connection: ServerConnection) -> None:
        for payload in (b"", b"one", b"x" * 125):
            await (await connection.ping(payload)).wait()
        await connection.send('{"jsonrpc":"2.0","method":"pinged"}')

    async with their_server(handler, ping_interval=None) as url, open_channel(url) as channel:
        assert await channel.receive() == Notification("pinged")


@pytest.mark.parametrize("code", [1000, 1001])
async def test_what_their_server_said_before_it_closed_is_received(code: int) -> None:
    async def handler(connection: ServerConnection) -> None:
        for number in range(100):
            await connection.send(f'{{"jsonrpc":"2.0","id":{number},"method":"x"}}')
        await connection.aclose(code)

    async with their_server(handler) as url, open_channel(url) as channel:
        assert [message.id async for message in channel if isinstance(message, Request)] == [
            *range(100)
        ]


async def test_why_their_server_closed_is_in_the_error() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.aclose(4321, "no more of this")

    async with their_server(handler) as url:
        with pytest.raises(ClosedByPeer, match="no more of this") as caught:
            async with open_channel(url) as channel:
                await channel.receive()
    assert caught.value.close_code == 4321


async def test_their_server_that_vanishes_is_a_lost_connection() -> None:
    async def handler(connection: ServerConnection) -> None:
        await trio.aclose_forcefully(connection.stream)

    async with their_server(handler) as url:
        with pytest.raises(ConnectionLost):
            async with open_channel(url) as channel:
                await channel.receive()


async def test_a_message_over_our_limit_is_refused_with_1009() -> None:
    codes: list[int | None] = []
    closed = trio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.send("x" * 10_000)
        await connection.wait_closed()
        codes.append(connection.close_code)
        closed.set()

    async with their_server(handler) as url:
        with pytest.raises(PeerProtocolError, match="5000"):
            async with open_channel(f"{url}?max_message_bytes=5000") as channel:
                await channel.receive()
        await closed.wait()
    assert codes == [1009]


async def test_their_refusal_of_the_handshake_is_the_error_of_its_status() -> None:
    def refuse(connection: ServerConnection, request: HandshakeRequest) -> HandshakeResponse:
        assert request.headers["X-Key"] == "k"
        return connection.respond(HTTPStatus.UNAUTHORIZED, "who are you?")

    async with their_server(answer, process_request=refuse) as url:
        with pytest.raises(AuthenticationRequired):
            async with open_channel(f"{url}?header.X-Key=k"):
                pass


async def test_a_server_that_names_no_subprotocol_is_fine() -> None:
    async with their_server(answer, subprotocols=None) as url, open_channel(url) as channel:
        await ask(channel, 1, "x")


# -- our server, their client ---------------------------------------------------------------


@BOTH_WAYS
async def test_their_client_converses_with_our_server(*, compressed: bool) -> None:
    url = f"ws://127.0.0.1:0/mcp?permessage_deflate={str(compressed).lower()}"
    async with serving(partial(serve_channels, echo, url)) as bound:
        async with connect(bound, subprotocols=[MCP], max_size=None) as connection:
            assert connection.subprotocol == "mcp"
            assert len(connection.protocol.extensions) == compressed
            for text in ("", "x", LONG, "x" * 100_000):
                request = {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"t": text}}
                await connection.send(msgspec.json.encode(request).decode())
                answer = msgspec.json.decode(await connection.recv())
                assert answer == {"jsonrpc": "2.0", "id": 1, "result": {"t": text}}
        assert connection.close_code == 1000


async def test_their_client_speaks_mcp_in_fragments() -> None:
    serve_mcp = partial(serve_peers, BuiltinServer().router, "ws://127.0.0.1:0/mcp")
    async with serving(serve_mcp) as bound, connect(bound, compression=None) as connection:

        async def call(method: str, params: object, request_id: int) -> dict[str, object]:
            request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
            text = msgspec.json.encode(request).decode()
            await connection.send([text[:3], text[3:10], "", text[10:]])
            answer = msgspec.json.decode(await connection.recv())
            assert answer["id"] == request_id
            result: dict[str, object] = answer["result"]
            return result

        client = {"name": "client", "version": "1"}
        opening = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        result = await call("initialize", opening, 1)
        assert result["protocolVersion"] == "2025-11-25"
        await connection.send('{"jsonrpc":"2.0","method":"notifications/initialized"}')
        result = await call("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}}, 2)
        assert result["structuredContent"] == {"sum": 3}


async def test_their_client_has_its_pings_answered_while_our_handler_does_nothing() -> None:
    async def idle(channel: MessageChannel) -> None:
        await trio.sleep_forever()

    async with (
        serving(partial(serve_channels, idle, "ws://127.0.0.1:0/mcp")) as bound,
        connect(bound, ping_interval=None) as connection,
    ):
        for _ in range(5):
            await (await connection.ping()).wait()


async def test_text_that_is_no_message_is_answered_and_binary_is_not_taken() -> None:
    async with serving(partial(serve_channels, echo, "ws://127.0.0.1:0/mcp")) as bound:
        async with connect(bound) as connection:
            await connection.send("{")
            answer = msgspec.json.decode(await connection.recv())
            assert answer["error"]["code"] == -32700
            await connection.send(b"{}")
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1003


async def test_the_end_of_our_handler_closes_with_1000() -> None:
    async def leave(channel: MessageChannel) -> None:
        await channel.receive()

    async with (
        serving(partial(serve_channels, leave, "ws://127.0.0.1:0/mcp")) as bound,
        connect(bound) as connection,
    ):
        await connection.send('{"jsonrpc":"2.0","method":"x"}')
        with pytest.raises(ConnectionClosedOK):
            await connection.recv()
        assert connection.close_code == 1000


@pytest.mark.parametrize("what", ["origin", "host"])
async def test_a_page_of_elsewhere_gets_no_websocket(what: str) -> None:
    """Neither as itself, nor by a name that was made to mean this machine."""
    async with serving(partial(serve_channels, echo, "ws://127.0.0.1:0/mcp")) as bound:
        port = int(bound.rpartition(":")[2].partition("/")[0])
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        if what == "origin":
            connecting = connect(bound, stream=stream, origin=Origin("https://example.com"))
        else:
            connecting = connect(f"ws://rebound.example:{port}/mcp", stream=stream)
        with pytest.raises(InvalidStatus) as caught:
            await connecting.__aenter__()
    assert caught.value.response.status_code == 403


async def test_websockets_are_served_on_the_port_and_path_of_http() -> None:
    async with serving(partial(serve_channels, echo, "http://127.0.0.1:0/mcp")) as bound:
        url = bound.replace("http://", "ws://")
        async with connect(url) as connection:
            await connection.send('{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1}}')
            assert msgspec.json.decode(await connection.recv())["result"] == {"a": 1}
        async with open_channel(url) as channel:
            await ask(channel, 1, "x")
