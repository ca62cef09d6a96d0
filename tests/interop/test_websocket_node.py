"""JavaScript's WebSocket: Node's own and a browser's with our server, `ws` with our client."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from browsers import browser, page, run_in_page
from http_peers import NODE_MODULES, node
from serving import PATIENCE, serving

from trio_mcp_transport import (
    ChannelEvent,
    ClosedByPeer,
    Notification,
    Request,
    Response,
    open_channel,
    serve_peers,
)
from trio_mcp_transport.cli.builtin_server import BuiltinServer

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.websocket]

TESTS = Path(__file__).parents[1]
SCRIPT = (TESTS / "websocket_script.js").read_text()
FOUND = {
    "protocol": "mcp",
    "extensions": "",
    "name": "trio-mcp",
    "sum": {"sum": 3},
    "notified": ["notifications/progress", "notifications/progress"],
    "echoed": True,
    "closed": {"code": 4000, "clean": True},
}
COMPRESSED = (
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; "
    "client_max_window_bits=12"
)


def script_for(url: str) -> str:
    return SCRIPT.replace("URL_OF_SERVER", url)


async def run_in_node(url: str) -> object:
    """What the script finds in Node."""
    script = f"console.log(JSON.stringify(await {script_for(url)}))"
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [node(22), "--input-type=module", "-"],
            stdin=script.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout)


# -- our server -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "extensions"),
    [
        ("ws://127.0.0.1:0/mcp", ""),
        ("ws://127.0.0.1:0/mcp?permessage_deflate=true", COMPRESSED),
        ("http://127.0.0.1:0/mcp", ""),
    ],
)
async def test_nodes_own_websocket_holds_a_conversation(endpoint: str, extensions: str) -> None:
    node(22)
    async with serving(partial(serve_peers, BuiltinServer().router, endpoint)) as bound:
        found = await run_in_node(bound.replace("http:", "ws:"))
    assert found == {**FOUND, "extensions": extensions}


async def test_node_hears_that_its_message_was_too_large() -> None:
    node(22)
    url = "ws://127.0.0.1:0/mcp?max_message_bytes=10000"
    async with serving(partial(serve_peers, BuiltinServer().router, url)) as bound:
        found = await run_in_node(bound)
    closed = {"code": 1009, "clean": True}
    assert found == {"error": "Error: closed with 1009", "closed": closed}


async def test_a_page_of_an_allowed_origin_holds_a_conversation(tmp_path: Path) -> None:
    browser()
    async with page() as port:
        origin = f"http://127.0.0.1:{port}"
        url = f"ws://127.0.0.1:0/mcp?allowed_origins={origin}&permessage_deflate=true"
        async with serving(partial(serve_peers, BuiltinServer().router, url)) as bound:
            found = await run_in_page(tmp_path, origin, script_for(bound))
    assert found == {**FOUND, "extensions": COMPRESSED}


async def test_a_page_of_another_origin_gets_no_websocket(tmp_path: Path) -> None:
    browser()
    events: list[ChannelEvent] = []
    async with page() as port:
        # Browsers ask for WebSockets of any origin, without any preflight: it is the server
        # that must look. The same machine, but another name: another origin.
        url = f"ws://127.0.0.1:0/mcp?allowed_origins=http://127.0.0.1:{port}"
        serve = partial(serve_peers, BuiltinServer().router, url, on_event=events.append)
        async with serving(serve) as bound:
            other = f"http://localhost:{port}"
            found = await run_in_page(tmp_path, other, script_for(bound))
    assert found == {"error": "Error: no WebSocket", "closed": {"code": 1006, "clean": False}}
    assert {event.name for event in events} == {"request.refused"}


# -- our client -----------------------------------------------------------------------------


@contextmanager
def ws_server(*, compressed: bool) -> Generator[subprocess.Popen[str]]:
    """The server on npm's `ws`; skips where that is not installed."""
    package = NODE_MODULES / "ws"
    if not package.exists():
        pytest.skip("needs ws in $TRIO_MCP_NODE_MODULES")
    command = [node(20), str(TESTS / "ws_server.mjs"), str(package), str(compressed).lower()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("compressed", [False, True])
async def test_our_client_converses_with_the_ws_package(*, compressed: bool) -> None:
    with ws_server(compressed=compressed) as server, trio.fail_after(PATIENCE):
        assert server.stdout is not None
        url = f"ws://127.0.0.1:{int(server.stdout.readline())}/"
        async with open_channel(f"{url}?permessage_deflate={str(compressed).lower()}") as channel:
            pong = await channel.receive()
            assert isinstance(pong, Notification)
            expected = {"payload": "hello", "extensions": "permessage-deflate" * compressed}
            assert pong.params_as(dict[str, str]) == expected
            for number, text in enumerate(["x", "où ça? " * 50_000, "y" * 100]):
                await channel.send(Request(number, "echo", {"text": text}))
                answer = await channel.receive()
                assert isinstance(answer, Response)
                assert answer.result_as(dict[str, str]) == {"text": text}
        assert server.stdout.readline() == "1000\n"
        async with open_channel(url) as channel:
            await channel.receive()
            await channel.send(Notification("leave"))
            with pytest.raises(ClosedByPeer, match="as you wish") as caught:
                await channel.receive()
        assert caught.value.close_code == 4321
        assert server.stdout.readline() == "4321\n"
