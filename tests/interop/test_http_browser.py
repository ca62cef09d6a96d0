"""A web page in a real browser calls our server: from where it may, and from where it may not."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from http_peers import NODE_MODULES, node
from serving import PATIENCE, serving

from trio_mcp_transport import ChannelEvent, serve_peers
from trio_mcp_transport.cli.builtin_server import BuiltinServer

pytestmark = [pytest.mark.interop, pytest.mark.integration]

TESTS = Path(__file__).parents[1]
SCRIPT = (TESTS / "browser_script.js").read_text()
PAGE = b"<!doctype html><meta charset=utf-8><title>a page</title>"
LEGACY = {
    "session": True,
    "name": "trio-mcp",
    "told": 202,
    "methods": ["notifications/progress", "notifications/progress", "result"],
    "ended": 204,
}


def browser() -> list[str]:
    """What drives Chromium; skips where something of it is not installed."""
    playwright = NODE_MODULES / "playwright-core"
    chromium = shutil.which("chromium")
    if not playwright.exists() or chromium is None:
        pytest.skip("needs chromium, and playwright-core in $TRIO_MCP_NODE_MODULES")
    return [node(20), str(TESTS / "browser_page.mjs"), str(playwright), chromium]


@asynccontextmanager
async def page() -> AsyncGenerator[int]:
    """A web server with an empty page, on a port of 127.0.0.1."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
            await stream.send_all(head + b"Content-Length: %d\r\n\r\n" % len(PAGE) + PAGE)

    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        (listener,) = await nursery.start(listen)
        try:
            yield listener.socket.getsockname()[1]
        finally:
            nursery.cancel_scope.cancel()


async def say(directory: Path, page_url: str, server_url: str, rules: str = "") -> object:
    """What a page at one URL finds at the other."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [*browser(), str(directory / "browser"), rules, page_url],
            stdin=SCRIPT.replace("URL_OF_SERVER", server_url).encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout)


def refused(found: object) -> bool:
    """Whether the browser kept everything from the page."""
    failures = msgspec.convert(found, dict[str, str])
    return all("Failed to fetch" in text for text in failures.values()) and len(failures) == 2


async def test_a_page_of_an_allowed_origin_speaks_both_eras(tmp_path: Path) -> None:
    browser()
    async with page() as port:
        origin = f"http://127.0.0.1:{port}"
        url = f"http://127.0.0.1:0/mcp?allowed_origins={origin}"
        async with serving(partial(serve_peers, BuiltinServer().router, url)) as bound:
            found = await say(tmp_path, origin, bound)
    assert found == {"legacy": LEGACY, "modern": {"sum": 3}}


async def test_a_page_of_another_origin_gets_nothing(tmp_path: Path) -> None:
    browser()
    events: list[ChannelEvent] = []
    async with page() as port:
        # The same machine, but another name: another origin.
        url = f"http://127.0.0.1:0/mcp?allowed_origins=http://127.0.0.1:{port}"
        serve = partial(serve_peers, BuiltinServer().router, url, on_event=events.append)
        async with serving(serve) as bound:
            found = await say(tmp_path, f"http://localhost:{port}", bound)
    assert refused(found)
    assert {event.name for event in events} == {"request.refused"}
    assert "localhost" in events[0].message


async def test_a_page_whose_name_was_rebound_to_this_machine_gets_nothing(tmp_path: Path) -> None:
    browser()
    events: list[ChannelEvent] = []
    serve = partial(
        serve_peers,
        BuiltinServer().router,
        "http://127.0.0.1:0/mcp?allowed_origins=http://rebound.example",
        on_event=events.append,
    )
    async with page() as port, serving(serve) as bound:
        server_port = bound.rpartition(":")[2].partition("/")[0]
        rebound = f"http://rebound.example:{server_port}/mcp"
        # To the browser the page and the server are of the same name.
        rules = "MAP rebound.example 127.0.0.1"
        found = await say(tmp_path, f"http://rebound.example:{port}", rebound, rules)
    assert refused(found)
    assert {event.name for event in events} == {"request.refused"}
    assert all("Host" in event.message for event in events)
