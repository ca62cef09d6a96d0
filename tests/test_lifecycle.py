"""A client finds out what its server speaks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

import msgspec
import pytest
import trio
from msgspec import Raw

from trio_mcp_transport.abc import ChannelContext, ConnectionLost
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import ConfigurationError, RequestTimeout, RpcError
from trio_mcp_transport.jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.lifecycle import InvalidResult, Negotiated, NegotiationFailed, negotiate
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.router import Router
from trio_mcp_transport.sansio.eras import LEGACY_REVISIONS, MODERN_REVISIONS, REVISIONS
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.memory_channel import MemoryChannel
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = pytest.mark.peer

KEY = "io.modelcontextprotocol/"
INFO = {"name": "client", "version": "0"}
MODERN = "2026-07-28"


async def talk(
    router: Router,
    *,
    era: Literal["auto", "modern", "legacy"] = "auto",
    revision: str | None = None,
    revisions: tuple[str, ...] = REVISIONS,
) -> Negotiated:
    ours, theirs = memory_channel_pair()
    async with Peer(theirs, router), Peer(ours) as client:
        found = await negotiate(
            client, client_info=INFO, era=era, revision=revision, revisions=revisions
        )
        assert client.negotiated is found
        # Whatever was agreed on, requests go through.
        await client.request("tools/list")
        return found


def make_server(revisions: tuple[str, ...] = REVISIONS) -> Router:
    router = Router(
        "server", "1", capabilities={"tools": {}}, instructions="hi", revisions=revisions
    )

    @router.method("tools/list")
    async def tools(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"tools": []}

    return router


SUBSETS: list[tuple[str, ...]] = [
    REVISIONS,
    MODERN_REVISIONS,
    LEGACY_REVISIONS,
    (MODERN, "2024-11-05"),
    ("2025-03-26",),
]


@pytest.mark.parametrize(("client", "server"), [*itertools.product(SUBSETS, SUBSETS)])
async def test_any_two_sides_agree_on_their_newest_common_revision_or_fail(
    client: tuple[str, ...], server: tuple[str, ...]
) -> None:
    common = [revision for revision in client if revision in server]
    if common:
        found = await talk(make_server(server), revisions=client)
        assert found.revision == common[0]
        assert found.era == ("modern" if common[0] == MODERN else "legacy")
        assert found.server_info == {"name": "server", "version": "1"}
        assert found.server_capabilities == {"tools": {}}
        assert found.instructions == "hi"
    else:
        with pytest.raises(NegotiationFailed):
            await talk(make_server(server), revisions=client)


async def test_an_era_or_a_revision_can_be_forced() -> None:
    server = make_server()
    assert (await talk(server, era="legacy")).revision == "2025-11-25"
    assert (await talk(server, era="modern")).revision == MODERN
    assert (await talk(server, revision="2024-11-05")).revision == "2024-11-05"
    with pytest.raises(NegotiationFailed):
        await talk(make_server(LEGACY_REVISIONS), era="modern")
    with pytest.raises(NegotiationFailed) as caught:
        await talk(make_server(MODERN_REVISIONS), era="legacy")
    assert caught.value.supported == (MODERN,)


async def test_arguments_that_make_no_sense_are_refused_before_anything_is_sent() -> None:
    ours, theirs = memory_channel_pair()
    async with theirs, Peer(ours) as peer:
        with pytest.raises(ConfigurationError, match="revisions"):
            await negotiate(peer, client_info=INFO, revision="1900-01-01")
        with pytest.raises(ConfigurationError, match="era"):
            await negotiate(peer, client_info=INFO, era="future")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="modern"):
            await negotiate(peer, client_info=INFO, era="modern", revision="2025-11-25")
        with pytest.raises(ConfigurationError, match="version"):
            await negotiate(peer, client_info={"name": "x"})
        with pytest.raises(ConfigurationError, match="log_level"):
            await negotiate(peer, client_info=INFO, log_level="loud")  # type: ignore[arg-type]
        assert peer.statistics().requests_sent == 0


# -- servers by hand ----------------------------------------------------------------


class Server:
    """A server by hand: answers by method, and remembers what came."""

    def __init__(self, channel: MemoryChannel, answers: Mapping[str, object]) -> None:
        self.channel = channel
        self.answers = answers
        self.seen: list[str] = []
        self.params: dict[str, object] = {}

    async def run(self) -> None:
        async for message in self.channel:
            if isinstance(message, Request | Notification):
                self.seen.append(message.method)
                self.params[message.method] = message.params_as(object)
            if isinstance(message, Request):
                answer = self.answers.get(message.method)
                if isinstance(answer, RpcError):
                    error = {"code": answer.code, "message": answer.message, "data": answer.data}
                    raw: Message = msgspec.convert(
                        {"id": message.id, "error": error}, ErrorResponse
                    )
                    await self.channel.send(raw)
                elif answer is not None:
                    await self.channel.send(Response(message.id, Raw(msgspec.json.encode(answer))))


async def negotiate_with(
    answers: Mapping[str, object], *, probe_timeout: float = 10
) -> tuple[Negotiated, Server]:
    ours, theirs = memory_channel_pair()
    server = Server(theirs, answers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        async with Peer(ours, on_event=lambda event: None) as client:
            found = await negotiate(
                client,
                client_info=INFO,
                client_capabilities={"roots": {}},
                probe_timeout=probe_timeout,
                log_level="info",
            )
            await trio.testing.wait_all_tasks_blocked()
        return found, server  # noqa: ASYNC121
    raise AssertionError


INITIALIZED = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "old"}}


@pytest.mark.parametrize("code", [-32601, -32602, -32600, -32603, -32000, -32001, 0])
async def test_any_error_that_is_not_a_modern_one_means_legacy(code: int) -> None:
    found, server = await negotiate_with({
        "server/discover": RpcError(code, "what?"),
        "initialize": INITIALIZED,
    })
    assert (found.era, found.revision) == ("legacy", "2025-06-18")
    assert found.server_info == {"name": "old"}
    assert server.seen == ["server/discover", "initialize", "notifications/initialized"]
    assert server.params["initialize"] == {
        "protocolVersion": "2025-11-25",
        "capabilities": {"roots": {}},
        "clientInfo": INFO,
    }
    assert server.params["server/discover"] == {
        "_meta": {
            KEY + "protocolVersion": MODERN,
            KEY + "clientInfo": INFO,
            KEY + "clientCapabilities": {"roots": {}},
            KEY + "logLevel": "info",
        }
    }


async def test_silence_means_legacy(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    found, server = await negotiate_with({"initialize": INITIALIZED}, probe_timeout=4)
    assert found.era == "legacy"
    assert trio.current_time() - start == pytest.approx(4)
    assert server.seen[:3] == ["server/discover", "notifications/cancelled", "initialize"]


async def test_the_probe_waits_no_longer_than_a_request_may(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_channel_pair()
    async with theirs, Peer(ours, request_timeout=2) as client:
        with pytest.raises(RequestTimeout):
            await negotiate(client, client_info=INFO)
        assert trio.current_time() < 5  # for the probe, and for `initialize`


async def test_a_result_that_is_no_discover_result_means_legacy() -> None:
    found, _ = await negotiate_with({"server/discover": {"ok": True}, "initialize": INITIALIZED})
    assert found.era == "legacy"


async def test_a_slow_modern_server_is_found_by_its_answer_to_initialize(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers: dict[str, object] = {
        "initialize": RpcError(-32022, "no", {"supported": [MODERN], "requested": "2025-11-25"})
    }
    ours, theirs = memory_channel_pair()
    server = Server(theirs, answers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        async with Peer(ours) as client:
            # The same answer over and over must not keep the client busy for ever.
            with pytest.raises(NegotiationFailed, match="circles"):
                await negotiate(client, client_info=INFO)


async def test_a_modern_server_that_was_not_there_for_the_probe_is_probed_once_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_channel_pair()
    async with trio.open_nursery() as nursery:

        async def start_slowly() -> None:
            for _ in ("the probe", "its cancellation"):
                await theirs.receive()
            await trio.sleep(15)
            await Peer(theirs, make_server((MODERN,))).run()

        nursery.start_soon(start_slowly)
        async with Peer(ours) as client:
            found = await negotiate(client, client_info=INFO)
            assert (found.era, found.revision) == ("modern", MODERN)


async def test_a_server_that_never_answers_is_a_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_channel_pair()
    async with theirs, Peer(ours) as client:
        with pytest.raises(RequestTimeout, match="initialize"):
            await negotiate(client, client_info=INFO)


async def test_a_server_that_goes_away_is_no_legacy_server() -> None:
    ours, theirs = memory_channel_pair()

    async def leave() -> None:
        await theirs.receive()
        await theirs.aclose()

    async with trio.open_nursery() as nursery, Peer(ours) as client:
        nursery.start_soon(leave)
        with pytest.raises(ConnectionLost):
            await negotiate(client, client_info=INFO)


@pytest.mark.parametrize(
    ("answer", "exception"),
    [
        ({"protocolVersion": "1900-01-01"}, NegotiationFailed),
        ({"protocolVersion": MODERN}, NegotiationFailed),
        ({"capabilities": {}}, InvalidResult),
        ([1], InvalidResult),
        (RpcError(-32603, "no"), NegotiationFailed),
    ],
)
async def test_an_answer_to_initialize_that_will_not_do(
    answer: object, exception: type[Exception]
) -> None:
    ours, theirs = memory_channel_pair()
    server = Server(theirs, {"server/discover": RpcError(-32601, "no"), "initialize": answer})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        async with Peer(ours) as client:
            with pytest.raises(exception):
                await negotiate(client, client_info=INFO)
            assert client.negotiated is None
    assert "notifications/initialized" not in server.seen


# -- afterwards ---------------------------------------------------------------------


@pytest.mark.parametrize(("revision", "accepts"), [("2025-03-26", True), ("2025-06-18", False)])
async def test_batches_are_accepted_on_both_sides_once_the_revision_has_them(
    revision: str,
    accepts: bool,
) -> None:
    left, right = trio.testing.memory_stream_pair()
    context = ChannelContext(transport="test")
    async with trio.open_nursery() as nursery:
        ours = StreamChannel(left, nursery=nursery, context=context)
        theirs = StreamChannel(right, nursery=nursery, context=context)
        async with Peer(theirs, make_server()), Peer(ours) as client:
            await negotiate(client, client_info=INFO, revision=revision)
            assert (ours.accept_batches, theirs.accept_batches) == (accepts, accepts)


async def test_a_modern_client_never_answers_requests_and_a_legacy_one_answers_pings() -> None:
    for era, router in itertools.product(("modern", "legacy"), (None, Router())):
        ours, theirs = memory_channel_pair()
        events: list[str] = []
        async with (
            Peer(theirs, make_server(), request_timeout=3) as server,
            Peer(ours, router, on_event=lambda event: events.append(event.name)) as client,  # ruff: ignore[function-uses-loop-variable]
        ):
            await negotiate(client, client_info=INFO, era=era)  # type: ignore[arg-type]
            if era == "legacy":
                assert await server.request("ping") == Raw(b"{}")
                with pytest.raises(RpcError) as caught:
                    await server.request("other")
                assert caught.value.code == -32601
            else:
                await server.channel.send(Request("x", "ping"))
                await trio.testing.wait_all_tasks_blocked()
                assert events == ["request.refused"]
                assert client.statistics().requests_refused == 1


async def test_requests_of_a_modern_client_carry_the_protocol_s_metadata() -> None:
    ours, theirs = memory_channel_pair()
    discovered = {"supportedVersions": [MODERN], "capabilities": {}}
    server = Server(theirs, {"server/discover": discovered, "tools/call": {}, "x": {}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        async with Peer(ours) as client:
            await negotiate(client, client_info=INFO)
            await client.request("tools/call", {"name": "t", "_meta": {"a": 1}}, meta={"b": 2})
            await client.request("x")
    common = {
        KEY + "protocolVersion": MODERN,
        KEY + "clientInfo": INFO,
        KEY + "clientCapabilities": {},
    }
    assert server.params["tools/call"] == {"name": "t", "_meta": {"a": 1, "b": 2, **common}}
    assert server.params["x"] == {"_meta": common}


async def test_a_modern_result_of_an_older_server_without_a_type_is_complete() -> None:
    ours, theirs = memory_channel_pair()
    discovered = {"supportedVersions": [MODERN], "capabilities": {}}
    server = Server(theirs, {"server/discover": discovered, "x": {"value": 1}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        async with Peer(ours) as client:
            await negotiate(client, client_info=INFO)
            assert await client.request("x", result_type=dict[str, int]) == {"value": 1}
