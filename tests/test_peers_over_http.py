"""Peers and a router over HTTP, both sides ours: what handlers and clients can count on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from trio_mcp_transport.connect import open_peer
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import RpcError
from trio_mcp_transport.hub import Hub
from trio_mcp_transport.jsonrpc import Notification
from trio_mcp_transport.lifecycle import EraChoice
from trio_mcp_transport.mrtr import InputRequest
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.pending import Progress
from trio_mcp_transport.router import Router
from trio_mcp_transport.serve import serve_peers
from trio_mcp_transport.subscription import Subscription

pytestmark = [pytest.mark.peer, pytest.mark.http, pytest.mark.integration]

CAPABILITIES = {
    "tools": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "logging": {},
}


class Server:
    """A server, and what its handlers have seen."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.router = Router("server", "1", capabilities=CAPABILITIES, hub=self.hub)
        self.seen: list[Context] = []
        self.cancelled: list[object] = []
        self.go_on = trio.Event()
        self.stop = trio.Event()
        self.url = ""

        @self.router.method("look")
        async def look(ctx: Context) -> object:
            await trio.lowlevel.checkpoint()
            self.seen.append(ctx)
            return {}

        @self.router.method("work")
        async def work(ctx: Context) -> object:
            for done in range(3):
                await ctx.progress(done, total=2)
            await ctx.log("warning", "done")
            return {}

        @self.router.method("tools/call")
        async def ask(ctx: Context) -> object:
            answers = await ctx.ask({"roots": InputRequest("roots/list")})
            return answers.decode("roots", dict[str, object])

        @self.router.method("wait")
        async def wait(ctx: Context) -> object:
            await ctx.progress(1)
            try:
                await self.go_on.wait()
            except trio.Cancelled:
                self.cancelled.append(ctx.request.id)
                raise
            return {}


@asynccontextmanager
async def serving(options: str = "") -> AsyncGenerator[Server]:
    server = Server()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_peers, server.router, f"http://127.0.0.1:0/mcp{options}", stop=server.stop
            )
            (url,) = await nursery.start(serve)
            server.url = url.partition("?")[0]
            try:
                yield server
            finally:
                server.stop.set()


def make_client() -> Router:
    router = Router()

    @router.method("roots/list")
    async def roots(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"roots": [{"uri": "file:///"}]}

    return router


@asynccontextmanager
async def client_of(server: Server, era: EraChoice) -> AsyncGenerator[Peer]:
    async with open_peer(
        server.url,
        make_client(),
        era=era,
        client_capabilities={"roots": {}},
        log_level="info" if era == "modern" else None,
    ) as peer:
        yield peer


ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])


@ERAS
async def test_a_handler_knows_its_request(era: EraChoice) -> None:
    async with serving() as server, client_of(server, era) as client:
        await client.request("look")
        await client.request("look")
        first, second = server.seen
        assert first.era == era
        assert first.revision == ("2026-07-28" if era == "modern" else "2025-11-25")
        assert first.client_capabilities == {"roots": {}}
        assert first.headers is not None
        assert first.headers["content-type"] == "application/json"
        assert first.headers.get("mcp-method") == ("look" if era == "modern" else None)
        assert (first.session is None) == (era == "modern")
        assert second.session is first.session
        assert second.peer is not first.peer


@ERAS
async def test_progress_and_log_messages_come_before_the_result(era: EraChoice) -> None:
    seen: list[float] = []
    logged: list[str] = []

    def note_progress(progress: Progress) -> None:
        seen.append(progress.progress)

    def note(notification: Notification) -> None:
        logged.append(notification.method)

    async with serving() as server, client_of(server, era) as client:
        await client.request("work", on_progress=note_progress, on_notification=note)
    assert seen == [0, 1, 2]
    assert logged == ["notifications/progress"] * 3 + ["notifications/message"]


@ERAS
@pytest.mark.parametrize("options", ["", "?response=sse"])
async def test_a_client_is_asked_while_it_waits(era: EraChoice, options: str) -> None:
    async with serving(options) as server, client_of(server, era) as client:
        found = await client.request("tools/call", {"name": "x"}, result_type=dict[str, object])
    assert found["roots"] == [{"uri": "file:///"}]


@ERAS
async def test_a_request_that_the_client_gives_up_is_cancelled(era: EraChoice) -> None:
    async with serving() as server, client_of(server, era) as client:
        with trio.CancelScope() as scope:
            await client.request("wait", on_progress=lambda _: scope.cancel())
        assert scope.cancelled_caught
        while not server.cancelled:
            await client.request("look")
        assert len(server.cancelled) == 1


async def test_only_an_unknown_method_is_not_found() -> None:
    async with serving() as server, client_of(server, "modern") as client:
        with pytest.raises(RpcError) as caught:
            await client.request("unknown")
        assert caught.value.code == -32601


async def test_a_change_reaches_every_subscriber_once() -> None:
    async with serving() as server:
        told: list[str] = []
        everything = trio.Event()
        router = make_client()

        @router.notification("notifications/tools/list_changed")
        async def tools(ctx: Context) -> object:
            await trio.lowlevel.checkpoint()
            told.append("tools")
            return None

        @router.notification("notifications/resources/updated", params=dict[str, object])
        async def resource(ctx: Context, params: dict[str, object]) -> object:
            await trio.lowlevel.checkpoint()
            told.append(str(params["uri"]))
            everything.set()
            return None

        async with (
            open_peer(server.url, router, era="legacy") as legacy,
            client_of(server, "modern") as modern,
            Subscription(modern, tools=True, resources=["file:///a"]) as changes,
        ):
            await legacy.request("resources/subscribe", {"uri": "file:///a"})
            assert server.hub.subscribers == 2
            server.hub.changed("tools")
            server.hub.resource_updated("file:///b")
            server.hub.resource_updated("file:///a")
            heard = [await anext(changes), await anext(changes)]
            await everything.wait()
        assert [notification.method for notification in heard] == [
            "notifications/tools/list_changed",
            "notifications/resources/updated",
        ]
        assert told == ["tools", "file:///a"]
        while server.hub.subscribers:
            async with client_of(server, "modern") as other:  # the server hears of the ends
                await other.request("look")


@ERAS
async def test_a_server_that_stops_finishes_what_has_begun(era: EraChoice) -> None:
    async with serving() as server, client_of(server, era) as client:
        begun = trio.Event()
        results: list[object] = []

        async def ask() -> None:
            results.append(await client.request("wait", on_progress=lambda _: begun.set()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await begun.wait()
            server.stop.set()
            await trio.testing.wait_all_tasks_blocked()
            server.go_on.set()
        assert len(results) == 1


async def test_a_server_that_stops_ends_subscriptions() -> None:
    async with (
        serving() as server,
        client_of(server, "modern") as client,
        Subscription(client, tools=True) as changes,
    ):
        server.stop.set()
        assert [change async for change in changes] == []
