"""Channels over TLS through real sockets: who is there, and handshakes that come to nothing."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from serving import PATIENCE, serving

from trio_mcp_transport import (
    CertificateError,
    ChannelEvent,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    MessageChannel,
    Notification,
    ServingListener,
    TcpEndpoint,
    TlsEndpoint,
    TlsHandshakeFailed,
    TlsSettings,
    TlsUnixEndpoint,
    open_channel,
    parse_endpoint,
    serve_channels,
    serve_listener,
)
from trio_mcp_transport.security import TlsClient, TlsServer
from trio_mcp_transport.testing import cancel_at
from trio_mcp_transport.transports.tls import connect, listen

if TYPE_CHECKING:
    from tls_files import TlsFiles

pytestmark = [pytest.mark.tls, pytest.mark.integration]

HELLO = Notification("hello")


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        await channel.send(message)


def tcp(settings: TlsSettings) -> TlsEndpoint:
    return TlsEndpoint(host="127.0.0.1", port=0, tls=settings)


class Server:
    """What listens, and what it was told."""

    def __init__(self) -> None:
        self.bound = ""
        self.channels: list[MessageChannel] = []
        self._tell, self._told = trio.open_memory_channel[ChannelEvent](math.inf)

    def on_event(self, event: ChannelEvent) -> None:
        self._tell.send_nowait(event)

    async def told(self) -> ChannelEvent:
        return await self._told.receive()

    @property
    def untold(self) -> int:
        return self._told.statistics().current_buffer_used

    async def handle(self, channel: MessageChannel) -> None:
        self.channels.append(channel)
        await echo(channel)

    def endpoint(self, settings: TlsSettings) -> TlsEndpoint | TlsUnixEndpoint:
        found = parse_endpoint(self.bound)
        assert isinstance(found, TlsEndpoint | TlsUnixEndpoint)
        return msgspec.structs.replace(found, tls=settings)

    def raw(self) -> socket.socket:
        found = parse_endpoint(self.bound)
        assert isinstance(found, TlsEndpoint)
        return socket.create_connection((found.host, found.port))


@asynccontextmanager
async def served(
    endpoint: TlsEndpoint | TlsUnixEndpoint, tls: TlsServer | None = None
) -> AsyncGenerator[Server]:
    server = Server()
    serve = partial(serve_channels, server.handle, endpoint, on_event=server.on_event, tls=tls)
    async with serving(serve) as server.bound:
        yield server


async def round_trip(channel: MessageChannel) -> None:
    await channel.send(HELLO)
    assert await channel.receive() == HELLO


# -- who is there -----------------------------------------------------------------------


async def test_both_sides_are_told_how_they_are_protected(tls_files: TlsFiles) -> None:
    async with (
        served(tcp(tls_files.server_settings)) as server,
        open_channel(server.endpoint(tls_files.client_settings)) as channel,
    ):
        await round_trip(channel)
        here, there = channel.context, server.channels[0].context
        assert (here.transport, there.transport) == ("tls", "tls")
        assert (here.peer_address, here.local_address) == (there.local_address, there.peer_address)
        assert here.tls is not None
        assert there.tls is not None
        assert here.tls.version == there.tls.version == "TLSv1.3"
        assert here.tls.peer_certificate is not None
        assert here.tls.peer_certificate == there.tls.own_certificate
        assert "server.example" in here.tls.peer_certificate.names
        # Nobody has said who the client is.
        assert there.tls.peer_certificate is None
        assert there.principal is None


async def test_a_client_is_who_its_certificate_says(tls_files: TlsFiles) -> None:
    async with (
        served(tcp(tls_files.mutual_server_settings)) as server,
        open_channel(server.endpoint(tls_files.mutual_client_settings)) as channel,
    ):
        await round_trip(channel)
        assert server.channels[0].context.principal == "cert:uri:spiffe://example.org/client"
        assert channel.context.principal is None


async def test_a_unix_peer_is_its_certificate_or_else_its_user(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    optional = msgspec.structs.replace(tls_files.mutual_server_settings, client_auth="optional")
    endpoint = TlsUnixEndpoint(path=str(tmp_path / "s"), tls=optional)
    async with served(endpoint) as server:
        for settings in (tls_files.mutual_client_settings, tls_files.client_settings):
            async with open_channel(server.endpoint(settings)) as channel:
                await round_trip(channel)
                assert channel.context.peer_address == str(tmp_path / "s")
        shown, other = (channel.context for channel in server.channels)
        assert shown.principal == "cert:uri:spiffe://example.org/client"
        assert shown.local_address == str(tmp_path / "s")
        assert other.peer_credentials is not None
        assert other.peer_credentials == shown.peer_credentials
        assert other.principal == f"uid:{other.peer_credentials.uid}"
    assert not (tmp_path / "s").exists()


async def test_the_server_at_a_unix_socket_is_localhost_unless_it_is_named(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    elsewhere = tls_files.authority.issue_server("elsewhere.example")
    cert, key = elsewhere.write(tmp_path / "e.pem", tmp_path / "e.key")
    settings = TlsSettings(cert_file=cert, key_file=key)
    async with served(TlsUnixEndpoint(path=str(tmp_path / "s"), tls=settings)) as server:
        with pytest.raises(CertificateError, match="localhost") as caught:
            async with open_channel(server.endpoint(tls_files.client_settings)):
                pytest.fail("it is somebody else")
        assert caught.value.check == "host-name"
        named = msgspec.structs.replace(tls_files.client_settings, server_name="elsewhere.example")
        async with open_channel(server.endpoint(named)) as channel:
            await round_trip(channel)


async def test_a_server_that_is_not_trusted_gets_no_channel(tls_files: TlsFiles) -> None:
    async with served(tcp(tls_files.server_settings)) as server:
        with pytest.raises(CertificateError) as caught:
            async with open_channel(server.endpoint(TlsSettings())):
                pytest.fail("nobody vouches for it")
        assert caught.value.check == "untrusted"
        assert isinstance(caught.value, ConnectFailed)
        event = await server.told()
        assert event.name == "handshake.failed"
        assert ": the client 127.0.0.1:" in event.message
        assert isinstance(event.error, TlsHandshakeFailed | CertificateError)
        # The listener goes on.
        async with open_channel(server.endpoint(tls_files.client_settings)) as channel:
            await round_trip(channel)


async def test_a_client_without_a_certificate_is_told_why(tls_files: TlsFiles) -> None:
    async with (
        served(tcp(tls_files.mutual_server_settings)) as server,
        # With TLS 1.3 its side of the handshake is complete before the server has looked.
        open_channel(server.endpoint(tls_files.client_settings)) as channel,
    ):
        with pytest.raises(ConnectionLost, match="certificate"):
            await channel.receive()
        event = await server.told()
        assert event.name == "handshake.failed"
        assert isinstance(event.error, CertificateError)
        assert server.channels == []


# -- handshakes that come to nothing ------------------------------------------------------


async def test_a_client_that_says_nothing_holds_up_nobody(tls_files: TlsFiles) -> None:
    async with served(tcp(tls_files.server_settings)) as server:
        with server.raw(), server.raw() as half:
            half.sendall(b"\x16\x03\x01")
            async with open_channel(server.endpoint(tls_files.client_settings)) as channel:
                await round_trip(channel)
        for _ in range(2):
            assert (await server.told()).name == "handshake.failed"


async def test_a_handshake_takes_a_place_until_its_time_is_over(tls_files: TlsFiles) -> None:
    settings = msgspec.structs.replace(tls_files.server_settings, tls_handshake_timeout=0.05)
    endpoint = msgspec.structs.replace(tcp(settings), max_connections=1)
    async with served(endpoint) as server:
        with server.raw():
            # There is no place until the one that says nothing is turned out.
            async with open_channel(server.endpoint(tls_files.client_settings)) as channel:
                await round_trip(channel)
                event = await server.told()
        assert "not complete within 0.05 s" in event.message
        assert server.bound in event.message


async def test_a_client_that_speaks_no_tls_is_an_event_that_says_so(tls_files: TlsFiles) -> None:
    async with served(tcp(tls_files.server_settings)) as server:
        with server.raw() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            event = await server.told()
        assert event.name == "handshake.failed"
        assert "HTTP" in event.message


async def test_a_server_that_speaks_no_tls_is_named(tls_files: TlsFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain, trio.fail_after(PATIENCE):
        port = plain.getsockname()[1]

        async def answer() -> None:
            accepted, _ = await trio.to_thread.run_sync(plain.accept)
            accepted.sendall(b'{"jsonrpc":"2.0","method":"hello"}\n')
            accepted.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(TlsHandshakeFailed):
                await connect(
                    nursery,
                    TlsEndpoint(host="127.0.0.1", port=port, tls=tls_files.client_settings),
                    None,
                )


async def test_nobody_there_is_the_same_error_as_over_tcp(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectFailed, match=r"^cannot connect to tls://127\.0\.0\.1:1: "):
            await connect(
                nursery, TlsEndpoint(host="127.0.0.1", port=1, tls=tls_files.client_settings), None
            )
        with pytest.raises(ConnectFailed, match=r"^cannot connect to tls\+unix:/"):
            await connect(nursery, TlsUnixEndpoint(path=str(tmp_path / "s")), None)


async def test_what_cannot_be_listened_with_is_told_before_anything_is_opened(
    tls_files: TlsFiles,
) -> None:
    for settings, says in (
        (TlsSettings(), "cert_file is missing"),
        (TlsSettings(cert_file="/nonexistent.pem"), "nonexistent.pem"),
        (msgspec.structs.replace(tls_files.server_settings, server_name="x"), "server_name"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            await listen(tcp(settings), None)
    with pytest.raises(ConfigurationError, match="client_auth"):
        async with open_channel(
            TlsEndpoint(host="h", port=1, tls=tls_files.mutual_server_settings)
        ):
            pytest.fail("it is a server's")


# -- the listener by itself -----------------------------------------------------------------


async def test_accept_waits_for_the_handshake(tls_files: TlsFiles) -> None:
    with trio.fail_after(PATIENCE):
        listener = await listen(tcp(tls_files.server_settings), None)
        found = parse_endpoint(listener.endpoint)
        assert isinstance(found, TlsEndpoint)
        async with listener, trio.open_nursery() as nursery:
            with socket.create_connection((found.host, found.port)) as client:
                client.sendall(b"garbage garbage")
                with pytest.raises(TlsHandshakeFailed):
                    await listener.accept(nursery)
            target = msgspec.structs.replace(found, tls=tls_files.client_settings)
            accepted: list[MessageChannel] = []

            async def accept() -> None:
                accepted.append(await listener.accept(nursery))

            nursery.start_soon(accept)
            async with open_channel(target) as channel:
                await channel.send(HELLO)
                await trio.testing.wait_all_tasks_blocked()
                assert await accepted[0].receive() == HELLO
            await accepted[0].aclose()


async def test_connections_are_counted_from_the_handshake_on(tls_files: TlsFiles) -> None:
    counts = []

    def note(_: object = None) -> None:
        counts.append(loop.open_connections)

    async def handle(channel: MessageChannel) -> None:
        note()
        await echo(channel)

    with trio.fail_after(PATIENCE):
        listener = await listen(tcp(tls_files.server_settings), None)
        found = parse_endpoint(listener.endpoint)
        assert isinstance(found, TlsEndpoint)
        async with trio.open_nursery() as nursery:
            loop = await nursery.start(partial(serve_listener, listener, handle, on_event=note))
            assert isinstance(loop, ServingListener)
            target = msgspec.structs.replace(found, tls=tls_files.client_settings)
            with socket.create_connection((found.host, found.port)):
                async with open_channel(target) as channel:
                    await round_trip(channel)
            nursery.cancel_scope.cancel()
    # Together with the one that says nothing.
    assert counts[0] == 2
    assert (loop.open_connections, loop.accepted) == (0, 2)


# -- what is kept ---------------------------------------------------------------------------


async def test_a_client_that_is_kept_resumes_its_sessions(tls_files: TlsFiles) -> None:
    client = TlsClient(tls_files.client_settings)
    async with served(tcp(tls_files.server_settings)) as server:
        resumed = []
        for _ in range(2):
            async with open_channel(server.bound, tls=client) as channel:
                await round_trip(channel)
                assert channel.context.tls is not None
                resumed.append(channel.context.tls.resumed)
        assert resumed == [False, True]


async def test_a_server_that_is_kept_has_its_certificate_replaced_under_load(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    cert, key = tls_files.server.write(tmp_path / "c.pem", tmp_path / "k.pem")
    kept = TlsServer(TlsSettings(cert_file=cert, key_file=key))
    async with served(tcp(TlsSettings()), kept) as server:
        target = server.endpoint(tls_files.client_settings)
        async with open_channel(target) as before:
            await round_trip(before)
            renewed = tls_files.authority.issue_server("127.0.0.1")
            renewed.write(tmp_path / "c2.pem", tmp_path / "k2.pem")
            (tmp_path / "k2.pem").replace(key)
            (tmp_path / "c2.pem").replace(cert)
            kept.reload()
            async with open_channel(target) as after:
                await round_trip(after)
                await round_trip(before)
                old, new = before.context.tls, after.context.tls
                assert old is not None
                assert new is not None
                assert old.peer_certificate != new.peer_certificate


async def test_tls_beside_an_endpoint_is_refused_where_it_has_no_use(tls_files: TlsFiles) -> None:
    client, server = TlsClient(tls_files.client_settings), TlsServer(tls_files.server_settings)
    with pytest.raises(ConfigurationError, match="tls is for endpoints with TLS, not for tcp:"):
        async with open_channel("tcp://127.0.0.1:1", tls=client):
            pytest.fail("it has no TLS")
    with pytest.raises(ConfigurationError, match="ca_file is a matter of the `tls=`"):
        async with open_channel("tls://127.0.0.1:1?ca_file=/ca.pem", tls=client):
            pytest.fail("it is said twice")
    plain = TcpEndpoint(host="127.0.0.1", port=0)
    with pytest.raises(ConfigurationError, match="none of these has it"):
        await serve_channels(echo, plain, tls=server)
    with pytest.raises(ConfigurationError, match="cert_file is a matter of the `tls=`"):
        await serve_channels(echo, tcp(tls_files.server_settings), tls=server)


async def test_one_server_is_for_every_endpoint_with_tls(tls_files: TlsFiles) -> None:
    kept = TlsServer(tls_files.server_settings)
    plain, tls = TcpEndpoint(host="127.0.0.1", port=0), tcp(TlsSettings())
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve_channels, echo, plain, tls, tls=kept))
            client = TlsClient(tls_files.client_settings)
            async with open_channel(bound[0]) as one, open_channel(bound[1], tls=client) as other:
                await round_trip(one)
                await round_trip(other)
            nursery.cancel_scope.cancel()


async def test_a_server_that_stops_does_not_wait_for_those_that_say_nothing(
    tls_files: TlsFiles,
) -> None:
    stop = trio.Event()
    server = Server()
    serve = partial(
        serve_channels,
        server.handle,
        tcp(tls_files.server_settings),
        on_event=server.on_event,
        stop=stop,
        drain=math.inf,
    )
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (server.bound,) = await nursery.start(serve)
            silent = server.raw()
            async with open_channel(server.endpoint(tls_files.client_settings)) as channel:
                await round_trip(channel)
            stop.set()
    with silent:
        silent.settimeout(PATIENCE)
        assert silent.recv(100) == b""
    assert server.untold == 0


# -- cancellation ---------------------------------------------------------------------------


@pytest.mark.parametrize("mutual", [False, True])
async def test_a_connect_that_is_cancelled_anywhere_leaves_nothing_behind(
    tls_files: TlsFiles, mutual: bool
) -> None:
    settings = tls_files.mutual_server_settings if mutual else tls_files.server_settings
    async with served(tcp(settings)) as server, trio.open_nursery() as nursery:
        target = server.endpoint(
            tls_files.mutual_client_settings if mutual else tls_files.client_settings
        )

        async def connect_and_close() -> None:
            channel = await connect(nursery, target, None)
            await channel.aclose()

        number = 0
        while await cancel_at(number, connect_and_close):
            number += 1
        assert number > 3


async def test_a_server_that_is_cancelled_in_a_handshake_leaves_nothing_behind(
    tls_files: TlsFiles,
) -> None:
    async with served(tcp(tls_files.server_settings)) as server:
        client = server.raw()
        client.sendall(b"\x16\x03\x01")
        await trio.testing.wait_all_tasks_blocked()
    with client:
        client.settimeout(PATIENCE)
        while client.recv(1000):
            pass
    assert server.untold == 0
