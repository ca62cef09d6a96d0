"""HTTP over TLS through real sockets, both sides ours: identities, handshakes, connections."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest
import trio
from serving import PATIENCE, serving

from trio_mcp_transport import (
    CertificateError,
    ChannelContext,
    ChannelEvent,
    ChannelOptions,
    ConfigurationError,
    ConnectionLost,
    Context,
    ErrorResponse,
    HttpEndpoint,
    HttpsEndpoint,
    MessageChannel,
    Peer,
    RemoteProtocolError,
    Request,
    Response,
    Router,
    SseTlsEndpoint,
    TlsHandshakeFailed,
    TlsSettings,
    open_channel,
    open_peer,
    parse_endpoint,
    serve_channels,
    serve_peers,
)
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.security import TlsClient, TlsServer
from trio_mcp_transport.testing import cancel_at
from trio_mcp_transport.transports.http_pool import HttpPool

if TYPE_CHECKING:
    from tls_files import TlsFiles

pytestmark = [pytest.mark.tls, pytest.mark.http, pytest.mark.integration]

CLIENT = "cert:uri:spiffe://example.org/client"
JSON = Headers([
    ("content-type", "application/json"),
    ("accept", "application/json, text/event-stream"),
])


class Server:
    """A server over https, and what it was told."""

    def __init__(self) -> None:
        self.bound = ""
        self.router = Router("server", "1", capabilities={"tools": {}})
        self._tell, self._told = trio.open_memory_channel[ChannelEvent](math.inf)

        @self.router.method("who")
        async def who(ctx: Context) -> object:
            await trio.lowlevel.checkpoint()
            return {"principal": ctx.principal}

    def on_event(self, event: ChannelEvent) -> None:
        self._tell.send_nowait(event)

    async def told(self) -> ChannelEvent:
        return await self._told.receive()

    @property
    def untold(self) -> int:
        return self._told.statistics().current_buffer_used

    def endpoint(self, settings: TlsSettings, **more: object) -> HttpEndpoint:
        found = parse_endpoint(self.bound)
        assert isinstance(found, HttpEndpoint)
        return msgspec.structs.replace(found, tls=settings, **more)

    def raw(self) -> socket.socket:
        found = parse_endpoint(self.bound)
        assert isinstance(found, HttpEndpoint)
        return socket.create_connection((found.host, found.port))


@asynccontextmanager
async def served(
    settings: TlsSettings,
    *,
    kind: type[HttpEndpoint] = HttpsEndpoint,
    tls: TlsServer | None = None,
    stop: trio.Event | None = None,
    options: Mapping[str, object] = {},
) -> AsyncGenerator[Server]:
    server = Server()
    endpoint = msgspec.structs.replace(kind("127.0.0.1", 0, "/mcp", tls=settings), **options)
    serve = partial(
        serve_peers, server.router, endpoint, on_event=server.on_event, tls=tls, stop=stop
    )
    async with serving(serve) as server.bound:
        yield server


async def who(peer: Peer) -> object:
    found = msgspec.json.decode(await peer.request("who"), type=dict[str, object])
    return found["principal"]


async def post(pool: HttpPool, url: str, body: Mapping[str, object]) -> int:
    async with pool.request("POST", url, headers=JSON, body=json.dumps(body).encode()) as response:
        await response.read(10_000)
        return response.status


# -- who is there -----------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_client_is_who_its_certificate_says(
    tls_files: TlsFiles, era: Literal["modern", "legacy"]
) -> None:
    async with (
        served(tls_files.mutual_server_settings) as server,
        open_peer(server.endpoint(tls_files.mutual_client_settings), era=era) as peer,
    ):
        assert await who(peer) == CLIENT


async def test_the_older_wire_is_served_over_tls_too(tls_files: TlsFiles) -> None:
    async with (
        served(tls_files.mutual_server_settings, kind=SseTlsEndpoint) as server,
        open_peer(server.endpoint(tls_files.mutual_client_settings)) as peer,
    ):
        assert server.bound.startswith("sse+https://")
        assert await who(peer) == CLIENT


async def test_a_token_says_more_than_a_certificate(tls_files: TlsFiles) -> None:
    token = {"auth": "bearer", "bearer_token": "t0"}
    async with (
        served(tls_files.mutual_server_settings, options=token) as server,
        open_peer(server.endpoint(tls_files.mutual_client_settings, **token)) as peer,
    ):
        assert await who(peer) == "bearer"


async def test_handlers_see_how_the_connection_is_protected(tls_files: TlsFiles) -> None:
    contexts: list[ChannelContext] = []

    async def handle(channel: MessageChannel) -> None:
        contexts.append(channel.context)
        request = await channel.receive()
        assert isinstance(request, Request)
        await channel.send(Response(request.id, msgspec.Raw(b"{}")))

    endpoint = HttpsEndpoint("127.0.0.1", 0, "/mcp", tls=tls_files.server_settings)
    async with serving(partial(serve_channels, handle, endpoint)) as bound:
        found = parse_endpoint(bound)
        assert isinstance(found, HttpsEndpoint)
        target = msgspec.structs.replace(found, tls=tls_files.client_settings, era="legacy")
        async with open_channel(target) as channel:
            await channel.send(Request(1, "initialize", msgspec.Raw(b"{}")))
            await channel.receive()
    (context,) = contexts
    assert context.tls is not None
    assert (context.tls.version, context.tls.alpn) == ("TLSv1.3", "http/1.1")
    assert context.principal is None


async def test_browsers_are_told_to_stay_with_tls_only_where_there_is_tls(
    tls_files: TlsFiles,
) -> None:
    async with (
        served(tls_files.server_settings, options={"security_headers": "production"}) as server,
        HttpPool(tls=TlsClient(tls_files.client_settings)) as pool,
        pool.request("GET", server.bound) as response,
    ):
        assert "strict-transport-security" in response.headers
    plain = HttpEndpoint("127.0.0.1", 0, "/mcp", security_headers="production")
    async with (
        serving(partial(serve_peers, Router("server", "1"), plain)) as bound,
        HttpPool(tls=TlsClient(tls_files.client_settings)) as pool,
        pool.request("GET", bound) as response,
    ):
        assert "x-content-type-options" in response.headers
        assert "strict-transport-security" not in response.headers


# -- certificates that are refused ----------------------------------------------------------


async def test_a_request_to_a_server_that_is_not_trusted_fails_with_the_reason(
    tls_files: TlsFiles,
) -> None:
    async with (
        served(tls_files.server_settings) as server,
        open_channel(server.endpoint(TlsSettings())) as channel,
    ):
        await channel.send(Request(1, "ping"))
        answer = await channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert isinstance(answer.cause, CertificateError)
        assert answer.cause.check == "untrusted"
        assert (await server.told()).name == "handshake.failed"


async def test_a_client_without_a_certificate_is_told_why(tls_files: TlsFiles) -> None:
    async with (
        served(tls_files.mutual_server_settings) as server,
        open_channel(server.endpoint(tls_files.client_settings)) as channel,
    ):
        await channel.send(Request(1, "ping"))
        answer = await channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert "certificate" in str(answer.cause)
        event = await server.told()
        assert event.name == "handshake.failed"
        assert isinstance(event.error, CertificateError)


async def test_plain_http_at_a_port_with_tls_and_the_other_way_round(tls_files: TlsFiles) -> None:
    async with served(tls_files.server_settings) as server, HttpPool() as pool:
        with pytest.raises((ConnectionLost, RemoteProtocolError)):
            await post(pool, server.bound.replace("https:", "http:"), {})
        event = await server.told()
        assert event.name == "handshake.failed"
        assert ": the client 127.0.0.1:" in event.message
        assert "HTTP" in event.message
    plain = HttpEndpoint("127.0.0.1", 0, "/mcp")
    async with (
        serving(partial(serve_peers, Router("server", "1"), plain)) as bound,
        HttpPool() as pool,
    ):
        with pytest.raises(TlsHandshakeFailed):
            await post(pool, bound.replace("http:", "https:"), {})


async def test_what_cannot_be_listened_with_is_told_before_anything_is_opened(
    tls_files: TlsFiles,
) -> None:
    with pytest.raises(ConfigurationError, match="cert_file is missing"):
        await serve_peers(Router("a", "1"), "https://127.0.0.1:0/mcp")
    endpoint = HttpsEndpoint("127.0.0.1", 0, tls=tls_files.server_settings)
    with pytest.raises(ConfigurationError, match="client_auth is for listening"):
        async with open_channel(
            msgspec.structs.replace(endpoint, tls=tls_files.mutual_server_settings)
        ):
            pytest.fail("it is a server's")


# -- connections ----------------------------------------------------------------------------


async def test_clients_that_say_nothing_hold_up_nobody_and_are_dropped_at_the_end(
    tls_files: TlsFiles,
) -> None:
    stop = trio.Event()
    with trio.fail_after(PATIENCE):
        async with served(tls_files.server_settings, stop=stop) as server:
            with server.raw() as silent, server.raw() as half:
                half.sendall(b"\x16\x03\x01")
                async with open_peer(server.endpoint(tls_files.client_settings)) as peer:
                    await peer.request("who")
                stop.set()
                for client in (silent, half):
                    client.settimeout(PATIENCE)
                    assert await trio.to_thread.run_sync(client.recv, 100) == b""
            assert server.untold == 0


async def test_one_connection_too_many_is_told_so_over_tls(tls_files: TlsFiles) -> None:
    async with (
        served(tls_files.server_settings, options={"max_connections": 1}) as server,
        HttpPool(tls=TlsClient(tls_files.client_settings)) as pool,
    ):
        with server.raw():  # it holds the one place, in its handshake
            assert await post(pool, server.bound, {}) == 503
        assert (await server.told()).name == "handshake.failed"
        while (status := await post(pool, server.bound, {})) == 503:
            pass  # what was turned away is still being closed
        assert status == 400


async def test_a_connection_is_used_again_and_the_next_one_resumes_its_session(
    tls_files: TlsFiles,
) -> None:
    stages: list[tuple[str, str]] = []
    async with (
        served(tls_files.server_settings) as server,
        HttpPool(
            tls=TlsClient(tls_files.client_settings),
            tell=lambda stage, text: stages.append((stage, text)),
        ) as pool,
    ):
        assert await post(pool, server.bound, {}) == 400
        assert await post(pool, server.bound, {}) == 400
        assert (len(stages), pool.statistics().connections) == (1, 1)
        async with pool.request("GET", server.bound):  # takes the one that is there
            assert await post(pool, server.bound, {}) == 400
        assert [stage for stage, _ in stages] == ["secured", "secured"]
        assert "(new)" in stages[0][1]
        assert "(resumed)" in stages[1][1]


async def test_a_connection_that_the_server_closed_meanwhile_is_noticed(
    tls_files: TlsFiles,
) -> None:
    async with (
        served(tls_files.server_settings, options={"idle_timeout": 0.01}) as server,
        HttpPool(tls=TlsClient(tls_files.client_settings)) as pool,
    ):
        assert await post(pool, server.bound, {}) == 400
        (connection,) = pool._idle
        while not connection.is_dead():
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert await post(pool, server.bound, {}) == 400


async def test_a_body_that_is_refused_ends_the_connection_in_order_with_each_version(
    tls_files: TlsFiles,
) -> None:
    old = msgspec.structs.replace(tls_files.server_settings, min_tls="1.2")
    small = ChannelOptions(max_message_bytes=10_000)
    async with served(old, options={"options": small}) as server:
        for version in ("1.2", "1.3"):
            client = TlsClient(msgspec.structs.replace(tls_files.client_settings, min_tls=version))
            async with HttpPool(tls=client) as pool:
                assert await post(pool, server.bound, {"x": "y" * 100_000}) == 413
        assert server.untold == 0


async def test_diagnostics_tell_of_tls(tls_files: TlsFiles) -> None:
    events: list[ChannelEvent] = []
    async with (
        served(tls_files.server_settings) as server,
        open_peer(
            server.endpoint(tls_files.client_settings, diagnostics=True), on_event=events.append
        ) as peer,
    ):
        await peer.request("who")
        names = [event.name for event in events]
        assert names[:4] == [
            "http.resolved",
            "http.connected",
            "http.secured",
            "http.wrote_request",
        ]
        assert "TLSv1.3" in events[2].message


async def test_a_kept_client_and_server_are_used(tls_files: TlsFiles) -> None:
    kept = TlsServer(tls_files.mutual_server_settings)
    client = TlsClient(tls_files.mutual_client_settings)
    async with (
        served(TlsSettings(), tls=kept) as server,
        open_peer(server.bound, tls=client) as peer,
    ):
        assert await who(peer) == CLIENT
    with pytest.raises(ConfigurationError, match="tls is a matter of the `client="):
        async with HttpPool() as pool, open_channel("https://h/", tls=client, client=pool):
            pytest.fail("that client has its own")
    with pytest.raises(ConfigurationError, match="tls is for endpoints with TLS, not for http:"):
        async with open_channel("http://h/", tls=client):
            pytest.fail("it has no TLS")


async def test_a_request_that_is_cancelled_anywhere_leaves_nothing_behind(
    tls_files: TlsFiles,
) -> None:
    async with served(tls_files.server_settings) as server:

        async def ask() -> None:
            async with HttpPool(tls=TlsClient(tls_files.client_settings)) as pool:
                assert await post(pool, server.bound, {}) == 400

        number = 0
        while await cancel_at(number, ask):
            number += 1
        assert number > 5
