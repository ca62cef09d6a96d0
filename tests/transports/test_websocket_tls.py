"""WebSockets over TLS: who is there, who is refused, and the port they share with https."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

pytest.importorskip("OpenSSL")

from trio_mcp_transport import (
    CertificateError,
    HttpsEndpoint,
    MessageChannel,
    Request,
    Response,
    SecureWebSocketEndpoint,
    TlsError,
    TlsSettings,
    WebEndpoint,
    open_channel,
    serve_channels,
)
from trio_mcp_transport.http_origins import parse_authority

if TYPE_CHECKING:
    from tls_files import TlsFiles

pytestmark = [pytest.mark.websocket, pytest.mark.tls]


@asynccontextmanager
async def serving(endpoint: WebEndpoint, served: list[MessageChannel]) -> AsyncGenerator[int, None]:
    """Answers requests at the endpoint; yields the port."""

    async def handle(channel: MessageChannel) -> None:
        served.append(channel)
        async for message in channel:
            if isinstance(message, Request):
                await channel.send(Response(message.id, {}))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            start = partial(serve_channels, handle, endpoint, on_event=lambda _: None)
            (bound,) = await nursery.start(start)
            found = parse_authority(bound.partition("://")[2].partition("/")[0], 443)
            assert found is not None
            yield found[1]  # ruff: ignore[fallible-context-manager] (a failed test leaves no result)
            nursery.cancel_scope.cancel()


async def ask(endpoint: SecureWebSocketEndpoint) -> MessageChannel:
    async with open_channel(endpoint) as channel:
        await channel.send(Request(1, "ping"))
        assert isinstance(await channel.receive(), Response)
        return channel


def at(port: int, tls: TlsSettings, host: str = "127.0.0.1") -> SecureWebSocketEndpoint:
    return SecureWebSocketEndpoint(host, port, "/mcp", tls=tls)


async def test_a_client_is_known_by_its_certificate(tls_files: TlsFiles) -> None:
    served: list[MessageChannel] = []
    async with serving(at(0, tls_files.mutual_server_settings), served) as port:
        channel = await ask(at(port, tls_files.mutual_client_settings))
    context = served[0].context
    assert context.transport == channel.context.transport == "wss"
    assert context.principal is not None
    assert context.principal.startswith("cert:")
    for facts in (context.tls, channel.context.tls):
        assert facts is not None
        assert facts.version == "TLSv1.3"
        assert facts.peer_certificate is not None


async def test_an_https_listener_serves_websockets_too(tls_files: TlsFiles) -> None:
    served: list[MessageChannel] = []
    endpoint = HttpsEndpoint("127.0.0.1", 0, "/mcp", tls=tls_files.server_settings)
    async with serving(endpoint, served) as port:
        await ask(at(port, tls_files.client_settings))
    assert [channel.context.transport for channel in served] == ["wss"]


async def test_a_server_with_another_name_or_issuer_is_refused(tls_files: TlsFiles) -> None:
    served: list[MessageChannel] = []
    async with serving(at(0, tls_files.server_settings), served) as port:
        named = TlsSettings(ca_file=tls_files.client_settings.ca_file, server_name="other.example")
        with pytest.raises(CertificateError, match=r"other\.example"):
            await ask(at(port, named))
        with pytest.raises(CertificateError):
            await ask(at(port, TlsSettings()))
    assert served == []


async def test_a_client_without_a_certificate_is_refused(tls_files: TlsFiles) -> None:
    served: list[MessageChannel] = []
    async with serving(at(0, tls_files.mutual_server_settings), served) as port:
        with pytest.raises((TlsError, OSError, trio.BrokenResourceError)):
            await ask(at(port, tls_files.client_settings))
    assert served == []
