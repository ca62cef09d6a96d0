"""Tunnels through an HTTP proxy: what is asked for, what comes of it, and what is never told."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from http_servers import Servers
from serving import PATIENCE, serving

from trio_mcp_transport import (
    CertificateError,
    ConfigurationError,
    ConnectFailed,
    Context,
    ErrorResponse,
    HttpEndpoint,
    HttpsEndpoint,
    Request,
    Router,
    open_channel,
    open_peer,
    parse_endpoint,
    serve_peers,
)
from trio_mcp_transport.testing import cancel_at
from trio_mcp_transport.transports.http_pool import HttpPool
from trio_mcp_transport.transports.http_proxy import HttpProxy, open_tunnel
from trio_mcp_transport.transports.socket_stream import SocketStream

if TYPE_CHECKING:
    from tls_files import TlsFiles

pytestmark = [pytest.mark.http, pytest.mark.integration]

PROXY = HttpProxy("proxy.example", 3128)


# -- what a proxy is written as -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port", "user"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128, None),
        ("http://proxy.example/", "proxy.example", 80, None),
        ("http://[::1]:3128", "::1", 3128, None),
        ("HTTP://u:p@10.0.0.1:8080", "10.0.0.1", 8080, b"u:p"),
        ("http://u:p:q@h:1", "h", 1, b"u:p:q"),
        ("http://u@h:1", "h", 1, b"u:"),
        ("http://%C3%A9%40a:%2F@h:1", "h", 1, "é@a:/".encode()),
    ],
)
def test_a_proxy_is_a_place_and_who_asks(
    text: str, host: str, port: int, user: bytes | None
) -> None:
    found = HttpProxy.parse(text)
    credentials = None if user is None else f"Basic {b64encode(user).decode()}"
    assert found == HttpProxy(host, port, credentials)
    assert "Basic" not in repr(found)


@pytest.mark.parametrize("text", ["", "h:1", "https://h:1", "http://", "http://u:p@", "http://h:x"])
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="proxy must be"):
        HttpProxy.parse(text)


# -- the tunnel ---------------------------------------------------------------------------


@asynccontextmanager
async def proxied(
    *answer: bytes, close: bool = False
) -> AsyncGenerator[tuple[SocketStream, list[bytes]]]:
    """A stream to a proxy that answers so, and what it was asked."""
    asked: list[bytes] = []

    async def serve(server: SocketStream) -> None:
        asked.append(await server.receive_some())
        for piece in answer:
            await server.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        if close:
            server.close()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            servers = Servers(nursery, serve)
            stream = await servers.open("proxy.example", 3128)
            try:
                yield stream, asked
            finally:
                stream.close()
                for server in servers.servers:
                    server.close()


@pytest.mark.parametrize(
    "answer",
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n",),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",),
        (b"HTTP/1.1 102 P\r\n\r\n", b"HTTP/1.1 20", b"4 x\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_a_tunnel_is_there_when_the_proxy_says_so(answer: tuple[bytes, ...]) -> None:
    async with proxied(*answer) as (stream, asked):
        await open_tunnel(stream, PROXY, "server.example", 443)
        assert asked == [b"CONNECT server.example:443 HTTP/1.1\r\nHost: server.example:443\r\n\r\n"]


async def test_an_address_of_ipv6_stands_in_brackets_and_who_asks_is_told() -> None:
    proxy = HttpProxy("proxy.example", 3128, "Basic dTpw")
    async with proxied(b"HTTP/1.1 200 OK\r\n\r\n") as (stream, asked):
        await open_tunnel(stream, proxy, "::1", 443)
        head, *fields = asked[0].split(b"\r\n")
        assert head == b"CONNECT [::1]:443 HTTP/1.1"
        assert b"Proxy-Authorization: Basic dTpw" in fields


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "refused .*: 403 Forbidden$"),
        (b"HTTP/1.1 407 Who\r\n\r\n", r"407 Who \(it wants to know who asks: proxy=http://USER:"),
        (b"HTTP/1.1 302\r\nLocation: http://evil.example/\r\n\r\n", "refused .*: 302$"),
        (b"HTTP/1.1 101 x\r\nUpgrade: x\r\n\r\n", "gave no tunnel .*without being asked"),
        (b"SSH-2.0-OpenSSH\r\n", "gave no tunnel"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "sent what nobody asked for"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000, "gave no tunnel"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 1000, "gave no tunnel"),
    ],
)
async def test_what_a_proxy_answers_instead_is_told(answer: bytes, says: str) -> None:
    async with proxied(answer) as (stream, _):
        with pytest.raises(ConnectFailed, match=says) as caught:
            await open_tunnel(stream, PROXY, "server.example", 443)
        assert "the proxy proxy.example:3128" in str(caught.value)


@pytest.mark.parametrize("answer", [(), (b"HTTP/1.1 200 OK\r\n",)])
async def test_a_proxy_that_goes_away_gave_no_tunnel(answer: tuple[bytes, ...]) -> None:
    async with proxied(*answer, close=True) as (stream, _):
        with pytest.raises(ConnectFailed, match=r"gave no tunnel to server\.example:443"):
            await open_tunnel(stream, PROXY, "server.example", 443)


async def test_a_password_that_is_not_accepted_is_not_told() -> None:
    proxy = HttpProxy.parse("http://user:s3cret@proxy.example:3128")
    async with proxied(b"HTTP/1.1 407 No\r\n\r\n") as (stream, _):
        with pytest.raises(ConnectFailed, match="does not accept this user") as caught:
            await open_tunnel(stream, proxy, "server.example", 443)
        assert "s3cret" not in str(caught.value)
        assert proxy.credentials is not None
        assert proxy.credentials not in str(caught.value)


async def test_the_pool_closes_what_leads_nowhere() -> None:
    async def refuse(server: SocketStream) -> None:
        await server.receive_some()
        await server.send_all(b"HTTP/1.1 503 Busy\r\n\r\n")

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            servers = Servers(nursery, refuse)
            async with HttpPool(open_stream=servers.open, proxy=PROXY) as pool:
                with pytest.raises(ConnectFailed, match="503 Busy"):
                    async with pool.request("GET", "http://server.example/"):
                        pytest.fail("there is no tunnel")
                assert servers.opened == [("proxy.example", 3128)]
                assert servers.open_clients == 0
                assert pool.statistics().connections == 0
            servers.servers[0].close()


# -- from end to end ----------------------------------------------------------------------


class Proxy:
    """A real proxy on the loopback, which connects to where it is asked to."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://user:s3cret@127.0.0.1:{listener.socket.getsockname()[1]}"
        await trio.serve_listeners(self._serve, [listener], task_status=task_status)  # type: ignore[arg-type]  # the status has another value

    async def _serve(self, client: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += bytes(await client.receive_some())
        line, _, fields = head.decode().partition("\r\n")
        self.asked.append(line)
        assert f"Basic {b64encode(b'user:s3cret').decode()}" in fields
        host, _, port = line.split()[1].rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as server:
            await client.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pipe, client, server, nursery)
                nursery.start_soon(self._pipe, server, client, nursery)

    async def _pipe(
        self, source: trio.SocketStream, sink: trio.SocketStream, nursery: trio.Nursery
    ) -> None:
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()


def make_router() -> Router:
    router = Router("server", "1")

    @router.method("hello")
    async def hello(_: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {}

    return router


@asynccontextmanager
async def through_proxy(
    endpoint: HttpEndpoint, **for_client: object
) -> AsyncGenerator[tuple[Proxy, HttpEndpoint]]:
    """A server, a proxy, and how a client gets to the one through the other."""
    proxy = Proxy()

    async def run_both(*, task_status: trio.TaskStatus[list[str]]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            await serve_peers(make_router(), endpoint, task_status=task_status)

    async with serving(run_both) as bound:
        found = parse_endpoint(bound)
        assert isinstance(found, HttpEndpoint)
        yield proxy, msgspec.structs.replace(found, proxy=proxy.url, **for_client)


@pytest.mark.tls
async def test_a_conversation_over_https_goes_through_a_proxy(tls_files: TlsFiles) -> None:
    endpoint = HttpsEndpoint("127.0.0.1", 0, "/mcp", tls=tls_files.server_settings)
    async with through_proxy(endpoint, tls=tls_files.client_settings) as (proxy, target):
        async with open_peer(target) as peer:
            await peer.request("hello")
        assert set(proxy.asked) == {f"CONNECT 127.0.0.1:{target.port} HTTP/1.1"}
        assert "s3cret" not in f"{target} {target!r}"
        # Who the server is, is checked behind the proxy.
        stranger = msgspec.structs.replace(target, tls=type(target.tls)())
        async with open_channel(stranger) as channel:
            await channel.send(Request(1, "hello"))
            answer = await channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert isinstance(answer.cause, CertificateError)


async def test_plain_http_goes_through_a_tunnel_as_well() -> None:
    async with through_proxy(HttpEndpoint("127.0.0.1", 0, "/mcp"), diagnostics=True) as (_, target):
        names: list[str] = []
        async with open_peer(target, on_event=lambda event: names.append(event.name)) as peer:
            await peer.request("hello")
        assert names[:3] == ["http.resolved", "http.connected", "http.tunnelled"]


async def test_a_tunnel_that_is_cancelled_anywhere_leaves_nothing_behind() -> None:
    async with through_proxy(HttpEndpoint("127.0.0.1", 0, "/mcp")) as (_, target):
        assert target.proxy is not None
        proxy = HttpProxy.parse(target.proxy)

        async def ask() -> None:
            async with HttpPool(proxy=proxy) as pool, pool.request("GET", target.url) as response:
                assert response.status == 400

        number = 0
        while await cancel_at(number, ask):
            number += 1
        assert number > 3
