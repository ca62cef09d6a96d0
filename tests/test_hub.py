"""Changes of a server reach each subscriber exactly once and wait for none."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from msgspec import Raw

from trio_mcp_transport.abc import ChannelEvent, ConnectionLost
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import LocalProtocolError, RequestTimeout, RpcError
from trio_mcp_transport.hub import Hub, LegacySubscriber, SubscriptionFilter
from trio_mcp_transport.jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
)
from trio_mcp_transport.lifecycle import negotiate
from trio_mcp_transport.limits import MAX_SUBSCRIBED_URIS, MAX_SUBSCRIPTIONS
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.router import Router
from trio_mcp_transport.subscription import Subscription
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.memory_channel import MemoryChannel

pytestmark = pytest.mark.peer

KEY = "io.modelcontextprotocol/"
META = {KEY + "protocolVersion": "2026-07-28", KEY + "clientCapabilities": {}}
INFO = {"name": "client", "version": "0"}
CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": False},
    "resources": {"listChanged": True, "subscribe": True},
}


class Client:
    """A client by hand."""

    def __init__(self, channel: MemoryChannel) -> None:
        self.channel = channel

    async def request(self, request_id: RequestId, method: str, params: object) -> None:
        await self.channel.send(Request(request_id, method, Raw(msgspec.json.encode(params))))

    async def listen(self, request_id: RequestId, **wanted: object) -> None:
        await self.request(
            request_id, "subscriptions/listen", {"_meta": META, "notifications": wanted}
        )

    async def ask(self, method: str, params: object) -> Message:
        await self.request("ask", method, params)
        return await self.channel.receive()

    async def initialize(self) -> None:
        await self.ask("initialize", {"protocolVersion": "2025-11-25"})
        await self.channel.send(Notification("notifications/initialized"))

    async def here(self) -> list[tuple[str, object]]:
        """All that has come, as method and params, or result."""
        await trio.testing.wait_all_tasks_blocked()
        found: list[tuple[str, object]] = []
        while self.channel.statistics().inbox_messages:
            message = await self.channel.receive()
            if isinstance(message, Notification):
                found.append((message.method, msgspec.to_builtins(message.params_as(object))))
            else:
                assert isinstance(message, Response), message
                found.append(("result", message.result_as(object)))
            await trio.testing.wait_all_tasks_blocked()
        return found


def make_router(hub: Hub, capabilities: dict[str, dict[str, bool]] | None = None) -> Router:
    return Router("server", "1", capabilities=capabilities or CAPABILITIES, hub=hub)


@asynccontextmanager
async def client_of(router: Router, *, max_messages: int = 64) -> AsyncGenerator[Client]:
    ours, theirs = memory_channel_pair(max_messages=max_messages)
    async with theirs, Peer(ours, router):
        yield Client(theirs)


def tagged(request_id: RequestId, **params: object) -> dict[str, object]:
    return {**params, "_meta": {KEY + "subscriptionId": request_id}}


# -- modern -------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [7, "7"])
async def test_a_subscription_is_acknowledged_first_and_tagged_with_the_id_in_its_type(
    request_id: RequestId,
) -> None:
    hub = Hub()
    async with client_of(make_router(hub)) as client:
        await client.listen(request_id, toolsListChanged=True, resourceSubscriptions=["a:1"])
        assert await client.here() == [
            (
                "notifications/subscriptions/acknowledged",
                tagged(
                    request_id,
                    notifications={"toolsListChanged": True, "resourceSubscriptions": ["a:1"]},
                ),
            )
        ]
        hub.changed("tools")
        hub.changed("resources")  # not asked for
        hub.resource_updated("a:1")
        hub.resource_updated("a:2")
        assert await client.here() == [
            ("notifications/tools/list_changed", tagged(request_id)),
            ("notifications/resources/updated", tagged(request_id, uri="a:1")),
        ]


async def test_only_what_the_server_can_do_is_granted() -> None:
    hub = Hub()
    async with client_of(make_router(hub)) as client:
        await client.listen(
            1, toolsListChanged=True, promptsListChanged=True, resourcesListChanged=True
        )
        ((_, params),) = await client.here()
        assert isinstance(params, dict)
        assert params["notifications"] == {"toolsListChanged": True, "resourcesListChanged": True}
        hub.changed("prompts")
        assert await client.here() == []
    nothing: dict[str, dict[str, bool]] = {"resources": {}}
    async with client_of(make_router(hub, nothing)) as client:
        await client.listen(1, toolsListChanged=True, resourceSubscriptions=["a:1"])
        ((_, params),) = await client.here()
        assert isinstance(params, dict)
        assert params["notifications"] == {}


async def test_subscriptions_of_one_connection_are_told_apart() -> None:
    hub = Hub()
    async with client_of(make_router(hub)) as client:
        await client.listen(1, toolsListChanged=True)
        await client.listen("1", toolsListChanged=True)
        await client.here()
        hub.changed("tools")
        found = await client.here()
        assert len(found) == 2
        assert ("notifications/tools/list_changed", tagged(1)) in found
        assert ("notifications/tools/list_changed", tagged("1")) in found
        await client.channel.send(Notification("notifications/cancelled", {"requestId": 1}))
        assert await client.here() == []  # a cancelled request is not answered
        assert hub.subscribers == 1
        hub.changed("tools")
        assert await client.here() == [("notifications/tools/list_changed", tagged("1"))]
    assert hub.subscribers == 0


async def test_the_server_ends_a_subscription_with_a_cancellation_and_then_the_result() -> None:
    hub = Hub()
    async with client_of(make_router(hub)) as client:
        await client.listen(5, toolsListChanged=True)
        await client.here()
        hub.changed("tools")
        hub.close()
        found = await client.here()
        assert found == [
            ("notifications/tools/list_changed", tagged(5)),
            ("notifications/cancelled", {"requestId": 5}),
            (
                "result",
                {
                    "resultType": "complete",
                    "_meta": {
                        KEY + "subscriptionId": 5,
                        KEY + "serverInfo": {"name": "server", "version": "1"},
                    },
                },
            ),
        ]
        assert hub.subscribers == 0


async def test_the_client_s_end_of_input_ends_its_subscriptions_gracefully(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = Hub()
    async with client_of(make_router(hub)) as client:
        await client.listen(5, toolsListChanged=True)
        await client.here()
        start = trio.current_time()
        await client.channel.send_eof()
        assert [what for what, _ in await client.here()] == ["notifications/cancelled", "result"]
        assert trio.current_time() == start  # draining does not wait for it
        assert hub.subscribers == 0


async def test_a_slow_subscriber_blocks_nobody_and_misses_no_topic() -> None:
    hub = Hub()
    router = make_router(hub)
    async with client_of(router, max_messages=1) as slow, client_of(router) as quick:
        for client in (slow, quick):
            await client.listen(1, toolsListChanged=True, resourceSubscriptions=["a:1", "a:2"])
        await trio.testing.wait_all_tasks_blocked()
        await quick.here()
        for _ in range(1000):
            hub.changed("tools")
            hub.resource_updated("a:1")
            await trio.testing.wait_all_tasks_blocked()
        counted = 0
        while quick.channel.statistics().inbox_messages:
            await quick.here()
            counted += 1
        hub.resource_updated("a:2")
        # The slow one is told each topic, at most twice: what was on its way, and the rest.
        found = [str(params) for _, params in (await slow.here())[1:]]
        assert all(found.count(text) <= 2 for text in found)
        assert len(set(found)) == 3
        assert len(await quick.here()) == 1


async def test_a_connection_has_so_many_subscriptions_and_a_subscription_so_many_uris() -> None:
    hub = Hub()
    async with client_of(make_router(hub), max_messages=200) as client:
        too_many = [f"a:{n}" for n in range(MAX_SUBSCRIBED_URIS + 1)]
        await client.listen("big", resourceSubscriptions=too_many)
        answer = await client.channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert answer.error.code == -32602
        for number in range(MAX_SUBSCRIPTIONS):
            await client.listen(number, toolsListChanged=True)
        assert len(await client.here()) == MAX_SUBSCRIPTIONS
        await client.listen("one more", toolsListChanged=True)
        answer = await client.channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert (answer.id, answer.error.code) == ("one more", -32602)


async def test_without_a_hub_there_are_no_subscriptions() -> None:
    async with client_of(Router("server", "1", capabilities=CAPABILITIES)) as client:
        await client.listen(1, toolsListChanged=True)
        answer = await client.channel.receive()
        assert isinstance(answer, ErrorResponse)
        assert answer.error.code == -32601


# -- legacy -------------------------------------------------------------------------


async def test_a_legacy_connection_hears_of_lists_and_of_what_it_subscribed_to() -> None:
    hub = Hub()
    async with client_of(make_router(hub)) as client:
        hub.changed("tools")
        await client.initialize()
        await trio.testing.wait_all_tasks_blocked()
        for kind in ("tools", "prompts", "resources"):
            hub.changed(kind)
        assert await client.here() == [
            ("notifications/tools/list_changed", {}),
            ("notifications/resources/list_changed", {}),
        ]
        assert await client.ask("resources/subscribe", {"uri": "a:1"}) == Response("ask", {})
        hub.resource_updated("a:1")
        hub.resource_updated("a:2")
        assert await client.here() == [("notifications/resources/updated", {"uri": "a:1"})]
        for _ in range(2):
            await client.ask("resources/unsubscribe", {"uri": "a:1"})
        hub.resource_updated("a:1")
        assert await client.here() == []
        answer = await client.ask("resources/subscribe", {})
        assert isinstance(answer, ErrorResponse)
        assert answer.error.code == -32602
        assert hub.subscribers == 1
    assert hub.subscribers == 0


async def test_one_change_reaches_every_kind_of_subscriber_once() -> None:
    hub = Hub()
    router = make_router(hub)
    async with client_of(router) as old, client_of(router) as new, client_of(router) as other:
        await old.initialize()
        await new.listen(1, toolsListChanged=True)
        await other.listen(1, resourceSubscriptions=["a:1"])
        for client in (old, new, other):
            await client.here()
        hub.changed("tools")
        assert len(await old.here()) == 1
        assert len(await new.here()) == 1
        assert await other.here() == []


async def test_a_legacy_connection_has_so_many_subscriptions() -> None:
    hub = Hub()
    async with client_of(make_router(hub)) as client:
        await client.initialize()
        for number in range(MAX_SUBSCRIBED_URIS + 5):
            answer = await client.ask("resources/subscribe", {"uri": f"a:{number}"})
        assert isinstance(answer, ErrorResponse)
        assert answer.error.code == -32602


async def test_nothing_is_subscribed_to_once_a_subscriber_has_ended() -> None:
    hub = Hub()
    ours, theirs = memory_channel_pair()
    async with ours, theirs:
        subscriber = LegacySubscriber(hub, Peer(ours), ["tools"])
        assert hub.subscribers == 1
        subscriber.end()
        subscriber.add("a:1")
        assert hub.subscribers == 0
        hub.resource_updated("a:1")
        assert subscriber.topics == set()


async def test_a_stopping_peer_ends_subscriptions_that_waited_for_a_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub, gate = Hub(), trio.Event()
    router = make_router(hub)

    @router.method("wait")
    async def wait(ctx: Context) -> object:
        await gate.wait()
        return {}

    ours, theirs = memory_channel_pair()
    async with theirs, Peer(ours, router, max_handlers=1) as peer, trio.open_nursery() as nursery:
        client = Client(theirs)
        await client.request(1, "wait", {"_meta": META})
        await client.listen(2, toolsListChanged=True)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        nursery.start_soon(peer.drain)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        assert [what for what, _ in await client.here()] == [
            "result",
            "notifications/subscriptions/acknowledged",
            "notifications/cancelled",
            "result",
        ]
        assert trio.current_time() == start
        assert hub.subscribers == 0


def test_there_are_three_lists() -> None:
    with pytest.raises(ValueError, match="kind"):
        Hub().changed("roots")  # type: ignore[arg-type]


# -- the client's side --------------------------------------------------------------


@asynccontextmanager
async def subscriber(
    hub: Hub, events: list[ChannelEvent] | None = None
) -> AsyncGenerator[tuple[Peer, Peer]]:
    ours, theirs = memory_channel_pair()
    client = Peer(ours, on_event=(events if events is not None else []).append)
    async with Peer(theirs, make_router(hub)) as server, client:
        await negotiate(client, client_info=INFO)
        yield client, server


async def test_a_client_iterates_over_the_changes() -> None:
    hub = Hub()
    events: list[ChannelEvent] = []
    async with subscriber(hub, events) as (client, _):
        async with Subscription(client, tools=True, prompts=True, resources=["a:1"]) as changes:
            assert changes.granted == SubscriptionFilter(
                toolsListChanged=True, resourceSubscriptions=["a:1"]
            )
            hub.changed("tools")
            assert (await anext(changes)).method == "notifications/tools/list_changed"
            for _ in range(3):
                hub.resource_updated("a:1")
                await trio.testing.wait_all_tasks_blocked()
            assert (await anext(changes)).params_as(dict[str, object])["uri"] == "a:1"
            hub.changed("tools")
            hub.close()
            assert [change.method async for change in changes] == [
                "notifications/tools/list_changed"
            ]
        await trio.testing.wait_all_tasks_blocked()
        assert hub.subscribers == 0
    assert events == []


async def test_leaving_the_block_cancels_the_subscription() -> None:
    hub = Hub()
    async with subscriber(hub) as (client, _):
        async with Subscription(client, tools=True):
            assert hub.subscribers == 1
        await trio.testing.wait_all_tasks_blocked()
        assert hub.subscribers == 0
        assert client.statistics().requests_pending == 0


async def test_the_iteration_ends_also_when_the_server_leaves_the_result_out() -> None:
    router = Router("server", "1")

    @router.method("subscriptions/listen")
    async def listen(ctx: Context) -> object:
        request_id = ctx.request.id
        await ctx.peer.notify(
            "notifications/subscriptions/acknowledged", tagged(request_id, notifications={})
        )
        await ctx.peer.notify("notifications/cancelled", {"requestId": request_id})
        await trio.sleep_forever()

    ours, theirs = memory_channel_pair()
    async with Peer(theirs, router), Peer(ours) as client:
        await negotiate(client, client_info=INFO)
        async with Subscription(client, tools=True) as changes:
            assert [change async for change in changes] == []


async def test_a_lost_connection_ends_the_iteration_with_its_cause() -> None:
    async with (
        subscriber(Hub()) as (client, server),
        Subscription(client, tools=True) as changes,
    ):
        await server.channel.aclose()
        with pytest.raises(ConnectionLost):
            await anext(changes)


async def test_a_client_takes_what_was_agreed_on_and_counts_and_drops_the_rest() -> None:
    router = Router("server", "1")
    flood = MAX_SUBSCRIBED_URIS + 50

    @router.method("subscriptions/listen")
    async def listen(ctx: Context) -> object:
        tag = functools.partial(tagged, ctx.request.id)
        # More than was asked for, and less.
        granted = {"toolsListChanged": True, "resourceSubscriptions": ["a:1", "a:2"]}
        acknowledged = "notifications/subscriptions/acknowledged"
        await ctx.peer.notify(acknowledged, tag(notifications=granted))
        updated = "notifications/resources/updated"
        for params in (tag(uri="a:1"), tag(uri="a:1/part"), tag(uri="a:11"), tag(uri="a:2"), tag()):
            await ctx.peer.notify(updated, params)
        for name in ("tools", "prompts", "weather"):
            await ctx.peer.notify(f"notifications/{name}/list_changed", tag(uri="x"))
        for number in range(flood):
            await ctx.peer.notify(updated, tag(uri=f"a:1/{number}"))
            await ctx.peer.notify(f"notifications/{number}", tag())
        return {}

    ours, theirs = memory_channel_pair()
    async with Peer(theirs, router), Peer(ours) as client:
        await negotiate(client, client_info=INFO)
        wanted = Subscription(client, tools=True, prompts=True, resources=["a:1"])
        async with wanted as changes:
            await trio.testing.wait_all_tasks_blocked()
            found = [change async for change in changes]
    uris = [change.params_as(dict[str, object]).get("uri") for change in found]
    assert uris[:3] == ["a:1", "a:1/part", "x"]
    assert len(found) == MAX_SUBSCRIBED_URIS
    assert changes.dropped == 5 + (3 + flood - MAX_SUBSCRIBED_URIS) + flood


async def test_a_subscription_that_is_refused_or_not_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_channel_pair()
    async with Peer(theirs, Router("server", "1")), Peer(ours) as client:
        with pytest.raises(LocalProtocolError):
            await Subscription(client, tools=True).__aenter__()
        await negotiate(client, client_info=INFO)
        opened = Subscription(client, tools=True)
        with pytest.raises(LocalProtocolError):
            _ = opened.granted
        with pytest.raises(RpcError):
            await opened.__aenter__()
    router = Router("server", "1")

    @router.method("subscriptions/listen")
    async def listen(ctx: object) -> object:
        await trio.sleep_forever()

    ours, theirs = memory_channel_pair()
    async with Peer(theirs, router) as server, Peer(ours) as client:
        await negotiate(client, client_info=INFO)
        with pytest.raises(RequestTimeout):
            await Subscription(client, tools=True).__aenter__()
        await trio.testing.wait_all_tasks_blocked()
        assert server.statistics().handlers_running == 0
