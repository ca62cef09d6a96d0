"""The official SDK over HTTP: its clients at our server, our client at its server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import trio

pytest.importorskip("mcp.server.mcpserver", reason="the official MCP SDK is not installed")

from cli_process import run_cli
from http_peers import sdk_server_origin
from mcp import Client
from sdk_conversations import holds_a_conversation, we_hold_a_conversation
from sdk_server import server as sdk_server
from serving import PATIENCE, Serve, serving

from trio_mcp_transport import Context, Notification, Router, open_peer, serve_peers
from trio_mcp_transport.cli.builtin_server import BuiltinServer
from trio_mcp_transport.interop.mcp_sdk import sdk_transport, serve_sdk

pytestmark = [pytest.mark.interop, pytest.mark.integration]
__all__ = ["sdk_server_origin"]  # a fixture

Era = Literal["legacy", "modern", "auto"]
MODES = ["legacy", "auto", "2026-07-28"]
AGREED = ["2025-11-25", "2026-07-28", "2026-07-28"]
CLIENT = str(Path(__file__).parents[1] / "sdk_http_client.py")
URL = "http://127.0.0.1:0/mcp"
#: Where the SDK's server is, on its own transports, and whether it has room for progress.
PATHS = {"sse-responses": True, "json-responses": False, "stateless": True, "resumable": True}


async def talk(*jobs: str) -> list[list[str]]:
    """Let the SDK's client, in one process, talk to servers; the revisions agreed upon."""
    done = await run_cli(program=[sys.executable, CLIENT, *jobs])
    assert done.status == 0, done.err
    return [line.split() for line in done.out.decode().splitlines()]


def builtin(endpoint: str) -> Serve:
    return partial(serve_peers, BuiltinServer().router, endpoint)


def sdk(endpoint: str) -> Serve:
    return partial(serve_sdk, sdk_server, endpoint)


async def talk_in_every_mode(serve: Callable[[str], Serve], served: str) -> None:
    options = ["", "?response=json", "?response=sse", "?stateless=true", "?resumable=true"]
    async with AsyncExitStack() as stack:
        jobs: list[str] = []
        for each in options:
            bound = await stack.enter_async_context(serving(serve(URL + each)))
            progress = "silent" if each == "?response=json" else "progress"
            jobs.append(" ".join([bound, "http", served, progress, *MODES]))
        assert await talk(*jobs) == [AGREED] * len(options)


async def talk_on_the_older_wire(serve: Callable[[str], Serve], served: str) -> None:
    async with serving(serve("sse+http://127.0.0.1:0/sse")) as bound:
        job = f"{bound.removeprefix('sse+')} sse {served} progress legacy"
        assert await talk(job) == [["2025-11-25"]]


# -- the SDK's client, on its own transports -------------------------------------------------


async def test_an_sdk_client_talks_to_our_server_whatever_its_options() -> None:
    await talk_in_every_mode(builtin, "builtin")


async def test_an_sdk_client_talks_to_an_sdk_server_behind_our_listener() -> None:
    await talk_in_every_mode(sdk, "sdk")


async def test_an_sdk_client_of_the_older_wire_talks_to_our_server() -> None:
    await talk_on_the_older_wire(builtin, "builtin")


async def test_an_sdk_client_of_the_older_wire_talks_to_an_sdk_server_behind_our_listener() -> None:
    await talk_on_the_older_wire(sdk, "sdk")


# -- the SDK's server, on its own transports ------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("era", ["legacy", "modern", "auto"])
async def test_our_peer_talks_to_an_sdk_server(sdk_server_origin: str, path: str, era: Era) -> None:
    with trio.fail_after(PATIENCE):
        async with open_peer(f"{sdk_server_origin}/{path}", era=era) as peer:
            assert peer.negotiated is not None
            assert peer.negotiated.era == ("legacy" if era == "legacy" else "modern")
            await we_hold_a_conversation(peer, progress=PATHS[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
async def test_an_sdk_client_on_our_channel_talks_to_an_sdk_server(
    sdk_server_origin: str, path: str, mode: str
) -> None:
    with trio.fail_after(PATIENCE):
        async with Client(sdk_transport(f"{sdk_server_origin}/{path}"), mode=mode) as client:
            await holds_a_conversation(client, progress=PATHS[path])


@pytest.mark.parametrize("scheme", ["http", "sse+http"])
async def test_our_peer_talks_to_an_sdk_server_of_the_older_wire(
    sdk_server_origin: str, scheme: str
) -> None:
    # By http:// it finds out by itself: POST is refused there.
    url = f"{sdk_server_origin}/old".replace("http", scheme, 1)
    with trio.fail_after(PATIENCE):
        async with open_peer(url) as peer:
            await we_hold_a_conversation(peer)


async def test_an_sdk_server_asks_our_client(sdk_server_origin: str) -> None:
    router = Router()

    @router.method("elicitation/create")
    async def answer(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"action": "accept", "content": {"name": "me"}}

    call = {"name": "ask", "arguments": {}}
    url = f"{sdk_server_origin}/more"
    capabilities: dict[str, object] = {"elicitation": {"form": {}}}
    with trio.fail_after(PATIENCE):
        async with open_peer(url, router, era="legacy", client_capabilities=capabilities) as peer:
            result = await peer.request("tools/call", call, result_type=dict[str, object])
    assert result["structuredContent"] == {"result": "me"}


async def test_our_client_comes_back_for_the_rest_of_a_stream(sdk_server_origin: str) -> None:
    seen: list[float] = []
    with trio.fail_after(PATIENCE):
        async with open_peer(f"{sdk_server_origin}/more", era="legacy") as peer:
            result = await peer.request(
                "tools/call",
                {"name": "leave", "arguments": {}},
                on_progress=lambda found: seen.append(found.progress),
                result_type=dict[str, object],
            )
    assert result["structuredContent"] == {"result": "back"}
    assert seen == [1, 2]


async def test_our_client_hears_what_changes_on_an_sdk_server(sdk_server_origin: str) -> None:
    heard: dict[str, trio.Event] = {"legacy": trio.Event(), "modern": trio.Event()}
    router = Router()

    @router.notification("notifications/tools/list_changed")
    async def note(ctx: Context) -> None:
        await trio.lowlevel.checkpoint()
        heard["legacy"].set()

    call = {"name": "change", "arguments": {}}
    url = f"{sdk_server_origin}/more"
    with trio.fail_after(PATIENCE):
        async with open_peer(url, router, era="legacy") as peer:
            # The stream for what belongs to no request is opened beside the requests: until
            # it is, the SDK throws away what it is for.
            while not heard["legacy"].is_set():
                await peer.request("tools/call", call)
                with trio.move_on_after(0.1):
                    await heard["legacy"].wait()
        async with open_peer(url, era="modern") as peer, trio.open_nursery() as nursery:

            def hear(message: Notification) -> None:
                if message.method == "notifications/subscriptions/acknowledged":
                    nursery.start_soon(peer.request, "tools/call", call)
                if message.method == "notifications/tools/list_changed":
                    heard["modern"].set()

            async def listen() -> None:
                wanted = {"notifications": {"toolsListChanged": True}}
                await peer.request(
                    "subscriptions/listen", wanted, timeout=float("inf"), on_notification=hear
                )

            nursery.start_soon(listen)
            await heard["modern"].wait()
            nursery.cancel_scope.cancel()
