"""trio-websocket as the peer of our WebSockets, and its connections as our channels."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from trio_mcp_transport import (
    ChannelOptions,
    ChannelState,
    ClosedByPeer,
    ConnectionLost,
    Context,
    EndpointNotFound,
    Forbidden,
    HandshakeTimeout,
    LocalProtocolError,
    MessageChannel,
    Notification,
    Peer,
    PeerProtocolError,
    Request,
    Response,
    Router,
    SecureWebSocketEndpoint,
    WebSocketEndpoint,
    open_channel,
    open_peer,
    serve_channels,
    serve_peers,
)

trio_websocket = pytest.importorskip("trio_websocket")
# It imports trio_websocket itself.
from trio_mcp_transport.interop.trio_websocket import channel_from  # noqa: E402

if TYPE_CHECKING:
    from trio_websocket import WebSocketConnection, WebSocketRequest

pytestmark = [pytest.mark.websocket, pytest.mark.interop]

SECONDS = 30
Handle = Callable[["WebSocketConnection"], Awaitable[object]]


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        if isinstance(message, Request):
            await channel.send(Response(message.id, {"method": message.method}))


async def call(channel: MessageChannel, method: str = "ping") -> object:
    await channel.send(Request(1, method))
    answer = await channel.receive()
    assert isinstance(answer, Response)
    return answer.result_as(dict[str, str])["method"]


@asynccontextmanager
async def our_server(
    handler: Callable[[MessageChannel], Awaitable[object]] = echo,
) -> AsyncGenerator[str, None]:
    """Serves the handler; yields the URL."""
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            endpoint = WebSocketEndpoint("127.0.0.1", 0, "/mcp")
            (bound,) = await nursery.start(partial(serve_channels, handler, endpoint))
            yield bound  # ruff: ignore[fallible-context-manager] (a failed test leaves no result)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def their_server(handle: Handle) -> AsyncGenerator[str, None]:
    """Serves connections of trio-websocket; yields the URL."""

    async def accept(request: WebSocketRequest) -> None:
        if request.path != "/mcp":
            await request.reject(404)
        elif dict(request.headers).get(b"x-mine") == b"no":
            await request.reject(403, body=b"not you")
        else:
            assert request.proposed_subprotocols == ("mcp",)
            await handle(await request.accept(subprotocol="mcp"))

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(trio_websocket.serve_websocket, accept, "127.0.0.1", 0, None)
            )
            yield f"ws://127.0.0.1:{server.port}/mcp"  # ruff: ignore[fallible-context-manager]
            nursery.cancel_scope.cancel()


async def echo_texts(connection: WebSocketConnection) -> None:
    while True:
        try:
            request = json.loads(await connection.get_message())
        except trio_websocket.ConnectionClosed:
            return
        result = {"jsonrpc": "2.0", "id": request["id"], "result": {"method": request["method"]}}
        await connection.send_message(json.dumps(result, indent=2))


# -- as a peer --------------------------------------------------------------------------


async def test_our_client_talks_to_its_server() -> None:
    ends: list[object] = []

    async def handle(connection: WebSocketConnection) -> None:
        await echo_texts(connection)
        ends.append(connection.closed)

    async with their_server(handle) as url:
        async with open_channel(url) as channel:
            assert await call(channel) == "ping"
            assert await call(channel, "x" * 100_000) == "x" * 100_000
        await trio.testing.wait_all_tasks_blocked()
        assert [getattr(end, "code", None) for end in ends] == [1000]


async def test_its_client_talks_to_our_server() -> None:
    async with our_server() as url:
        async with trio_websocket.open_websocket_url(url, subprotocols=["mcp"]) as connection:
            assert connection.subprotocol == "mcp"
            for method in ("ping", "x" * 100_000):
                request = {"jsonrpc": "2.0", "id": 1, "method": method}
                await connection.send_message(json.dumps(request, indent=1))
                answer = json.loads(await connection.get_message())
                assert answer["result"]["method"] == method
            await connection.ping(b"payload")
        assert connection.closed.code == 1000


async def test_refusals_of_its_server_are_typed() -> None:
    async with their_server(echo_texts) as url:
        with pytest.raises(EndpointNotFound):
            async with open_channel(url + "/other"):
                pass
        with pytest.raises(Forbidden) as refused:
            async with open_channel(url + "?header.X-Mine=no"):
                pass
        assert refused.value.text == "not you"


@pytest.mark.parametrize("code", [1000, 1011])
async def test_how_its_server_closes_is_told(code: int) -> None:
    async def handle(connection: WebSocketConnection) -> None:
        await connection.send_message('{"jsonrpc":"2.0","method":"last"}')
        await connection.aclose(code, "enough")

    async with their_server(handle) as url, open_channel(url) as channel:
        assert await channel.receive() == Notification("last")
        if code == 1000:
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
        else:
            with pytest.raises(ClosedByPeer, match="1011 'enough'"):
                await channel.receive()


async def test_our_malformed_input_is_told_to_its_client_and_it_goes_on() -> None:
    async with our_server() as url, trio_websocket.open_websocket_url(url) as connection:
        await connection.send_message("{oops")
        assert json.loads(await connection.get_message())["error"]["code"] == -32700
        await connection.send_message(b"\0binary")
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await connection.get_message()
        assert closed.value.reason.code == 1003
        await connection._stream.aclose()  # it leaves its socket open if the other side closed


async def test_it_may_keep_our_server_alive_with_pings_both_ways() -> None:
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            endpoint = WebSocketEndpoint("127.0.0.1", 0, ping_interval=0.01, pong_timeout=5.0)
            (bound,) = await nursery.start(partial(serve_channels, echo, endpoint))
            async with trio_websocket.open_websocket_url(bound) as connection:
                for _ in range(5):
                    await connection.ping()
                    await connection.send_message('{"jsonrpc":"2.0","id":1,"method":"x"}')
                    await connection.get_message()
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


# -- as a channel -----------------------------------------------------------------------


async def test_its_client_connection_is_a_channel() -> None:
    async with our_server() as url:
        async with (
            trio_websocket.open_websocket_url(url) as connection,
            trio.open_nursery() as nursery,
        ):
            options = ChannelOptions(request_timeout=12.0)
            channel = channel_from(connection, nursery, options=options)
            assert channel.context.transport == "ws"
            assert url.startswith(f"ws://{channel.context.peer_address}/")
            assert channel.options == options
            assert channel.capabilities.framing is None
            assert not channel.can_send_eof
            with pytest.raises(LocalProtocolError):
                await channel.send_eof()
            assert await call(channel) == "ping"
            await channel.send_many([Request(1, "a" * 100_000), Request(2, "b")])
            answers = [await channel.receive() for _ in range(2)]
            assert [answer.id for answer in answers if isinstance(answer, Response)] == [1, 2]
            await channel.aclose()
            assert channel.state is ChannelState.CLOSED
        assert connection.closed.code == 1000


async def test_its_server_connection_is_a_channel() -> None:
    async def handle(connection: WebSocketConnection) -> None:
        async with trio.open_nursery() as nursery:
            channel = channel_from(connection, nursery, headers=[(b"X-Mine", b"yes")])
            assert channel.context.headers is not None
            assert channel.context.headers["x-mine"] == "yes"
            await echo(channel)
            await channel.aclose()

    async with their_server(handle) as url, open_channel(url + "?header.X-Mine=yes") as channel:
        assert await call(channel) == "ping"


async def test_peers_talk_over_both_kinds() -> None:
    router = Router("test", "1", capabilities={})

    @router.method("about")
    async def about(context: Context) -> dict[str, bool]:
        await trio.lowlevel.checkpoint()
        return {"fine": True}

    async def handle(connection: WebSocketConnection) -> None:
        async with trio.open_nursery() as nursery:
            await Peer(channel_from(connection, nursery), router=router).run()

    async with their_server(handle) as url, open_peer(url) as peer:
        assert json.loads(bytes(await peer.request("about")))["fine"] is True


@pytest.mark.parametrize(
    ("code", "error"), [(1000, trio.EndOfChannel), (1001, trio.EndOfChannel), (1011, ClosedByPeer)]
)
async def test_how_the_peer_closes_is_told_by_the_channel(
    code: int, error: type[Exception]
) -> None:
    finished = trio.Event()

    async def handle(connection: WebSocketConnection) -> None:
        async with trio.open_nursery() as nursery:
            channel = channel_from(connection, nursery)
            assert await channel.receive() == Notification("last")
            with pytest.raises(error):
                await channel.receive()
            finished.set()

    async with (
        their_server(handle) as url,
        trio_websocket.open_websocket_url(url, subprotocols=["mcp"]) as connection,
    ):
        await connection.send_message('{"jsonrpc":"2.0","method":"last"}')
        await connection.aclose(code)
        await finished.wait()


async def test_a_binary_message_ends_the_channel() -> None:
    async def handle(connection: WebSocketConnection) -> None:
        async with trio.open_nursery() as nursery:
            channel = channel_from(connection, nursery)
            with pytest.raises(PeerProtocolError, match="binary"):
                await channel.receive()

    async with (
        their_server(handle) as url,
        trio_websocket.open_websocket_url(url, subprotocols=["mcp"]) as connection,
    ):
        await connection.send_message(b"\0")
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await connection.get_message()
        assert closed.value.reason.code == 1003
        await connection._stream.aclose()  # it leaves its socket open if the other side closed


async def test_a_channel_whose_connection_breaks_is_lost_and_can_send_no_more() -> None:
    async def handle(connection: WebSocketConnection) -> None:
        async with trio.open_nursery() as nursery:
            channel = channel_from(connection, nursery)
            with pytest.raises(ConnectionLost):
                await channel.receive()
            with pytest.raises(ConnectionLost):
                await channel.send(Notification("x"))
            done.set()

    done = trio.Event()
    async with their_server(handle) as url, open_channel(url) as channel:
        channel._stream.close()  # type: ignore[attr-defined]
        await done.wait()


async def test_an_accepted_connection_must_say_something_in_time() -> None:
    async def handle(connection: WebSocketConnection) -> None:
        async with trio.open_nursery() as nursery:
            options = ChannelOptions(handshake_timeout=0.01)
            channel = channel_from(connection, nursery, options=options)
            with pytest.raises(HandshakeTimeout):
                await channel.receive()

    async with their_server(handle) as url, open_channel(url) as channel:
        with pytest.raises((trio.EndOfChannel, ConnectionLost)):
            await channel.receive()


async def test_peers_are_served_to_its_client() -> None:
    router = Router(name="test", version="1", capabilities={})
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            (bound,) = await nursery.start(partial(serve_peers, router, "ws://127.0.0.1:0/mcp"))
            async with trio_websocket.open_websocket_url(bound) as connection:
                await connection.send_message('{"jsonrpc":"2.0","id":7,"method":"ping"}')
                assert json.loads(await connection.get_message()) == {
                    "jsonrpc": "2.0",
                    "id": 7,
                    "result": {},
                }
            nursery.cancel_scope.cancel()


def test_the_secure_kind_is_of_the_same_family() -> None:
    assert issubclass(SecureWebSocketEndpoint, WebSocketEndpoint)
