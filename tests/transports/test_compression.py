"""Endpoints with ``compression=``: over TCP, Unix sockets and TLS, from end to end."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from trio_mcp_transport import (
    Endpoint,
    MessageChannel,
    Request,
    Response,
    TcpEndpoint,
    TlsEndpoint,
    open_channel,
    serve_channels,
)
from trio_mcp_transport.compression_settings import CompressionSettings
from trio_mcp_transport.endpoint_parser import parse_endpoint
from trio_mcp_transport.errors import ConfigurationError, FeatureUnavailable
from trio_mcp_transport.sansio.compression import available_algorithms

if TYPE_CHECKING:
    from tls_files import TlsFiles

pytestmark = pytest.mark.tcp


async def answer(channel: MessageChannel) -> None:
    """Answer each request with what it says."""
    async for message in channel:
        if isinstance(message, Request):
            await channel.send(Response(message.id, message.params))


@asynccontextmanager
async def served(endpoint: str | Endpoint) -> AsyncGenerator[str, None]:
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve_channels, answer, endpoint))
        try:
            yield address
        finally:
            nursery.cancel_scope.cancel()


async def talk(address: str | Endpoint) -> int:
    """A small request and two large ones; how many bytes of messages came back."""
    with trio.fail_after(10):
        async with open_channel(address) as channel:
            for number, size in enumerate((1, 20_000, 20_000)):
                text = "tools " * size
                await channel.send(Request(number, "echo", {"text": text}))
                response = await channel.receive()
                assert isinstance(response, Response)
                assert response.result_as(dict[str, str]) == {"text": text}
            statistics = channel.statistics()
            if (counted := statistics.compression_sent) is not None:
                assert counted.bytes_before == statistics.bytes_sent
            return statistics.bytes_received


class CountingRelay:
    """Passes bytes on to a port, and counts them."""

    def __init__(self, target: TcpEndpoint) -> None:
        self.count = 0
        self._target = target

    async def serve(self, stream: trio.SocketStream) -> None:
        async with (
            await trio.open_tcp_stream(self._target.host, self._target.port) as other,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._pass, stream, other)
            nursery.start_soon(self._pass, other, stream)

    async def _pass(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        async for data in source:
            self.count += len(data)
            await target.send_all(data)
        await target.send_eof()


@pytest.mark.parametrize("algorithm", available_algorithms())
async def test_both_sides_compress_what_both_can(algorithm: str) -> None:
    async with (
        served(f"tcp://127.0.0.1:0?compression={algorithm}") as address,
        trio.open_nursery() as nursery,
    ):
        target = parse_endpoint(address)
        assert isinstance(target, TcpEndpoint)
        assert target.compression.algorithms == (algorithm,)
        relay = CountingRelay(target)
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay.serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        size = await talk(f"tcp://127.0.0.1:{port}?compression={algorithm}")
        assert size > 240_000
        assert relay.count < size / 10
        nursery.cancel_scope.cancel()


async def test_unix_sockets_can_be_compressed_as_well(tmp_path: Path) -> None:
    async with served(f"unix:{tmp_path}/s?compression=gzip") as address:
        assert address.endswith("?compression=gzip")
        await talk(address)


@pytest.mark.tls
async def test_tls_can_be_compressed_as_well(tls_files: TlsFiles) -> None:
    settings = CompressionSettings(algorithms=("gzip",))
    endpoint = TlsEndpoint(
        host="127.0.0.1", port=0, tls=tls_files.server_settings, compression=settings
    )
    async with served(endpoint) as address:
        target = msgspec.structs.replace(parse_endpoint(address), tls=tls_files.client_settings)
        assert "compression=gzip" in str(target)
        await talk(target)


async def test_a_client_that_knows_nothing_of_it_is_served() -> None:
    async with served("tcp://127.0.0.1:0?compression=gzip") as address:
        await talk(address.partition("?")[0])


async def test_a_server_that_knows_nothing_of_it_is_told_apart() -> None:
    async with served("tcp://127.0.0.1:0") as address:
        with trio.fail_after(10):
            async with open_channel(f"{address}?compression=gzip") as channel:
                await channel.send(Request(1, "ping"))
                with pytest.raises(trio.BrokenResourceError, match="compression"):
                    await channel.receive()


async def test_a_missing_library_is_told_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = "trio_mcp_transport.transports.compressed_stream.available_algorithms"
    monkeypatch.setattr(module, lambda: ("gzip",))
    for endpoint in ("tcp://127.0.0.1:0", f"unix:{tmp_path}/s"):
        with pytest.raises(FeatureUnavailable, match=r"\[compression\]"):
            await serve_channels(answer, f"{endpoint}?compression=zstd")
        with pytest.raises(FeatureUnavailable, match=r"\[compression\]"):
            async with open_channel(f"{endpoint}?compression=zstd"):
                pass
    assert os.listdir(tmp_path) == []


def test_the_options_are_read_and_written_as_text() -> None:
    text = "tcp://h:1?compression=gzip&compression_level=9&compression_min_size=1"
    endpoint = parse_endpoint(text)
    assert str(endpoint) == text
    assert isinstance(endpoint, TcpEndpoint)
    wanted = CompressionSettings(algorithms=("gzip",), level=9, min_size=1)
    assert endpoint.compression == wanted


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("compression=zip", "compression must be one of brotli, gzip, lz4, zstd, not 'zip'"),
        ("compression=gzip,gzip", "given twice"),
        ("compression_level=12", "compression_level must be .* at most 11, not 12"),
        ("compression_max_ratio=0", "compression_max_ratio must be"),
        ("compression_ratio=3", "unknown option 'compression_ratio'"),
    ],
)
def test_a_wrong_option_is_named(option: str, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        parse_endpoint(f"tcp://h:1?{option}")
