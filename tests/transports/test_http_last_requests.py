"""The end of an HTTP server, for clients that had only just connected."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio
from http_served import META, MODERN
from http_wire import Responses

from trio_mcp_transport import Router, serve_peers

pytestmark = [pytest.mark.http, pytest.mark.integration]

ENDPOINT = "http://127.0.0.1:0/mcp"


@asynccontextmanager
async def serving(stop: trio.Event) -> AsyncGenerator[tuple[str, int], None]:
    router = Router("test", "1", capabilities={"tools": {}})
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve_peers, router, ENDPOINT, stop=stop))
            parts = urlsplit(url)
            assert parts.hostname
            assert parts.port
            yield parts.hostname, parts.port  # ruff: ignore[fallible-context-manager] (the nursery ends)
            stop.set()


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
async def test_a_first_request_that_is_under_way_is_answered(cut: int) -> None:
    stop = trio.Event()
    async with serving(stop) as address, await trio.open_tcp_stream(*address) as stream:
        request = discover(address[1])
        await stream.send_all(request[:cut])
        stop.set()
        await refused(address)
        await stream.send_all(request[cut:])
        status, headers, _ = await Responses(stream).whole()
        assert (status, headers["connection"]) == (200, "close")
        assert await stream.receive_some() == b""


async def test_one_that_does_not_come_holds_nothing_up() -> None:
    stop = trio.Event()
    async with serving(stop) as address, await trio.open_tcp_stream(*address) as stream:
        stop.set()
        assert await stream.receive_some() == b""


async def test_idle_connections_that_had_a_request_end_at_once() -> None:
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
