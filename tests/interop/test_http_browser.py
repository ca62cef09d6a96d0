"""A web page in a real browser calls our server: from where it may, and from where it may not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
from browsers import browser, page, run_in_page
from serving import serving

from trio_mcp_transport import ChannelEvent, serve_peers
from trio_mcp_transport.cli.builtin_server import BuiltinServer

pytestmark = [pytest.mark.interop, pytest.mark.integration]

TESTS = Path(__file__).parents[1]
SCRIPT = (TESTS / "browser_script.js").read_text()
LEGACY = {
    "session": True,
    "name": "trio-mcp",
    "told": 202,
    "methods": ["notifications/progress", "notifications/progress", "result"],
    "ended": 204,
}


async def say(directory: Path, page_url: str, server_url: str, rules: str = "") -> object:
    """What a page at one URL finds at the other."""
    script = SCRIPT.replace("URL_OF_SERVER", server_url)
    return await run_in_page(directory, page_url, script, rules)


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
