"""A real browser, and a web page of ours in it."""

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
from serving import PATIENCE

__all__ = ["browser", "page", "run_in_page"]

TESTS = Path(__file__).parent
PAGE = b"<!doctype html><meta charset=utf-8><title>a page</title>"


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


async def run_in_page(directory: Path, page_url: str, script: str, rules: str = "") -> object:
    """What a script finds in the page at a URL.

    Args:
        directory: For the browser's own files.
        page_url: Which page it opens.
        script: Its value, or that of the promise that it is, is returned.
        rules: Which names mean which addresses, in Chromium's words.
    """
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [*browser(), str(directory / "browser"), rules, page_url],
            stdin=script.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout)
