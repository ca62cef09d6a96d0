"""TLS streams and the standard library's TLS, which has an OpenSSL of its own, both ways."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import Session, client_context, client_of, server_context, server_of, socket_pair

from trio_mcp_transport.errors import TlsHandshakeFailed
from trio_mcp_transport.transports.tls_stream import TlsStream

pytestmark = [pytest.mark.tls, pytest.mark.interop]

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
DATA = bytes(range(256)) * 1000


def their_client(files: TlsFiles, version: str, stream: trio.abc.Stream) -> trio.abc.Stream:
    context = ssl.create_default_context(cafile=files.ca_file)
    context.maximum_version = VERSIONS[version]
    return trio.SSLStream(stream, context, server_hostname="localhost")


def their_server(files: TlsFiles, version: str, stream: trio.abc.Stream) -> trio.abc.Stream:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.server_cert, files.server_key)
    context.maximum_version = VERSIONS[version]
    return trio.SSLStream(stream, context, server_side=True)


def our_client(files: TlsFiles, version: str, stream: trio.abc.Stream) -> trio.abc.Stream:
    return TlsStream(stream, Session(client_of(client_context(files, version))))


def our_server(files: TlsFiles, version: str, stream: trio.abc.Stream) -> trio.abc.Stream:
    return TlsStream(stream, Session(server_of(server_context(files, version))))


Side = Callable[[TlsFiles, str, trio.abc.Stream], trio.abc.Stream]
both_ways = pytest.mark.parametrize(
    ("client_side", "server_side"), [(our_client, their_server), (their_client, our_server)]
)


async def all_at_once(*async_fns: Callable[[], Awaitable[None]]) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for async_fn in async_fns:
                nursery.start_soon(async_fn)


@both_ways
@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_data_and_the_end_go_both_ways(
    tls_files: TlsFiles, client_side: Side, server_side: Side, version: str
) -> None:
    left, right = socket_pair()
    async with (
        client_side(tls_files, version, left) as client,
        server_side(tls_files, version, right) as server,
    ):

        async def ask() -> None:
            await client.send_all(DATA)
            received = b""
            while len(received) < len(DATA):
                received += await client.receive_some()
            assert received == DATA
            await client.aclose()

        async def answer() -> None:
            received = b""
            while len(received) < len(DATA):
                received += await server.receive_some()
            await server.send_all(received)
            assert await server.receive_some() == b""

        await all_at_once(ask, answer)


@both_ways
async def test_what_is_cut_off_is_no_end(
    tls_files: TlsFiles, client_side: Side, server_side: Side
) -> None:
    left, right = socket_pair()
    async with client_side(tls_files, "1.3", left) as client:
        server = server_side(tls_files, "1.3", right)

        async def cut() -> None:
            await server.send_all(b"data")
            right.close()

        async def notice() -> None:
            assert await client.receive_some() == b"data"
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()

        await all_at_once(cut, notice)


async def test_a_client_that_refuses_our_certificate_without_a_word_fails_the_handshake(
    tls_files: TlsFiles,
) -> None:
    left, right = socket_pair()
    context = ssl.create_default_context()  # which does not know our authority
    client = trio.SSLStream(left, context, server_hostname="localhost")
    server = TlsStream(right, Session(server_of(server_context(tls_files))))

    async def refuse() -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        await client.aclose()  # with the alert that it has ready still unwritten

    async def be_refused() -> None:
        with pytest.raises(TlsHandshakeFailed, match="ended the connection during"):
            await server.do_handshake()
        await server.aclose()

    await all_at_once(refuse, be_refused)


async def test_our_alert_tells_them_why(tls_files: TlsFiles) -> None:
    left, right = socket_pair()
    client = TlsStream(left, Session(client_of(client_context(tls_files, trusting=False))))
    server = their_server(tls_files, "1.3", right)

    async def refuse() -> None:
        with pytest.raises(TlsHandshakeFailed, match="certificate verify failed"):
            await client.do_handshake()
        await client.aclose()

    async def be_refused() -> None:
        assert isinstance(server, trio.SSLStream)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.do_handshake()
        assert "ALERT_UNKNOWN_CA" in str(caught.value.__cause__).upper().replace(" ", "_")
        await server.aclose()

    await all_at_once(refuse, be_refused)
