"""Finding out over HTTP which era a server is of, and remembering it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from scripted_server import Exchange, ScriptedServer, refused

from trio_mcp_transport import (
    AuthenticationRequired,
    ConfigurationError,
    ConnectFailed,
    EraCache,
    HttpStatusError,
    NegotiationFailed,
    RequestTimeout,
    open_channel,
    open_peer,
)

URL = "http://server.example/mcp"
DISCOVERY = {"supportedVersions": ["2026-07-28", "2025-11-25"], "capabilities": {}}
INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}

Script = Callable[[ScriptedServer], Awaitable[None]]


async def legacy(server: ScriptedServer) -> None:
    (await server.next("initialize")).answer(INITIALIZED)
    (await server.next("notifications/initialized")).respond(202)


async def negotiate(script: Script, **options: object) -> tuple[str, ScriptedServer]:
    """Negotiate with a scripted server; returns the era."""
    server = ScriptedServer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, server)
        options = {"era_cache": EraCache()} | options
        async with open_peer(URL, client=server, **options) as peer:  # type: ignore[arg-type] # any
            assert peer.negotiated is not None
            era = peer.negotiated.era
        nursery.cancel_scope.cancel()
    return era, server


async def test_a_server_that_discovers_itself_is_modern() -> None:
    async def script(server: ScriptedServer) -> None:
        (await server.next("server/discover")).answer(DISCOVERY)

    era, server = await negotiate(script)
    assert era == "modern"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "refuse",
    [
        lambda exchange: exchange.respond(400),
        lambda exchange: exchange.respond(404, b"<html>"),
        lambda exchange: exchange.respond(405),
        lambda exchange: exchange.error(400, -32600),
        lambda exchange: exchange.error(404, -32601),
        lambda exchange: exchange.error(200, -32601),
        lambda exchange: exchange.error(200, -32602),
        lambda exchange: exchange.error(400, -32001),  # what drafts called a header mismatch
        lambda exchange: exchange.error(400, -32004),  # and an unsupported version
        lambda exchange: exchange.answer({"tools": []}),
    ],
)
async def test_a_server_that_does_not_know_the_question_is_legacy(
    refuse: Callable[[Exchange], None],
) -> None:
    async def script(server: ScriptedServer) -> None:
        refuse(await server.next("server/discover"))
        await legacy(server)

    assert (await negotiate(script))[0] == "legacy"


async def test_a_modern_error_makes_a_server_modern() -> None:
    async def script(server: ScriptedServer) -> None:
        (await server.next("server/discover")).error(400, -32021)

    assert (await negotiate(script))[0] == "modern"


async def test_an_unsupported_version_leads_to_one_in_common() -> None:
    async def script(server: ScriptedServer) -> None:
        data = {"supported": ["2025-11-25"], "requested": "2026-07-28"}
        (await server.next("server/discover")).error(400, -32022, data=data)
        await legacy(server)

    assert (await negotiate(script))[0] == "legacy"


@pytest.mark.parametrize("status", [401, 403, 406, 415, 429, 500, 503])
async def test_no_other_status_says_anything_about_the_era(status: int) -> None:
    async def script(server: ScriptedServer) -> None:
        (await server.next("server/discover")).respond(status)

    with pytest.RaisesGroup(pytest.RaisesExc(Exception, check=lambda e: e.status == status)):  # type: ignore[attr-defined] # HttpError
        await negotiate(script)


async def test_neither_does_silence(autojump_clock: trio.testing.MockClock) -> None:
    async def script(server: ScriptedServer) -> None:
        await server.next("server/discover")

    with pytest.RaisesGroup(RequestTimeout):
        await negotiate(script, probe_timeout=1, request_timeout=20)
    assert trio.current_time() == pytest.approx(20)


async def test_nor_a_connection_that_cannot_be_made() -> None:
    async def script(server: ScriptedServer) -> None:
        server.refuse = refused()
        await trio.lowlevel.checkpoint()

    with pytest.RaisesGroup(ConnectFailed):
        await negotiate(script)


async def test_an_era_can_be_forced() -> None:
    era, server = await negotiate(legacy, era="legacy")
    assert era == "legacy"
    assert server.seen[0].rpc_method == "initialize"

    async def script(server: ScriptedServer) -> None:
        (await server.next("server/discover")).respond(404)

    with pytest.RaisesGroup(NegotiationFailed):
        await negotiate(script, era="modern")


async def test_what_was_found_out_is_remembered() -> None:
    cache = EraCache()

    async def unknown(server: ScriptedServer) -> None:
        (await server.next("server/discover")).respond(400)
        await legacy(server)

    await negotiate(unknown, era_cache=cache)
    _, server = await negotiate(legacy, era_cache=cache)
    assert server.seen[0].rpc_method == "initialize"


@pytest.mark.parametrize("how", ["status", "error"])
async def test_and_asked_again_once_when_it_proves_wrong(how: str) -> None:
    cache = EraCache()
    cache.learn(URL, "legacy")

    async def script(server: ScriptedServer) -> None:
        exchange = await server.next("initialize")
        if how == "status":
            exchange.respond(400)
            (await server.next_get()).respond(405)
        else:
            exchange.error(400, -32022)
        (await server.next("server/discover")).answer(DISCOVERY)

    assert (await negotiate(script, era_cache=cache))[0] == "modern"
    assert not cache.is_legacy(URL)


async def test_a_refusal_of_a_known_server_for_other_reasons_is_told() -> None:
    cache = EraCache()
    cache.learn(URL, "legacy")

    async def script(server: ScriptedServer) -> None:
        (await server.next("initialize")).respond(401)

    with pytest.RaisesGroup(AuthenticationRequired):
        await negotiate(script, era_cache=cache)
    assert cache.is_legacy(URL)


async def test_a_handshake_that_is_refused_is_told_as_it_was() -> None:
    async def script(server: ScriptedServer) -> None:
        (await server.next("initialize")).respond(405)
        (await server.next_get()).respond(405)

    with pytest.RaisesGroup(HttpStatusError):
        await negotiate(script, era="legacy")


def test_what_is_remembered_has_a_bound() -> None:
    cache = EraCache(max_servers=2)
    for server in ("a", "b", "c"):
        cache.learn(server, "legacy")
    assert [cache.is_legacy(server) for server in ("a", "b", "c")] == [False, True, True]
    cache.learn("b", "modern")
    assert not cache.is_legacy("b")


async def test_http_sse_is_legacy_whatever_is_asked_for() -> None:
    server = ScriptedServer()

    async def script() -> None:
        stream = (await server.next_get()).stream()
        stream.feed(b"event: endpoint\ndata: /post\n\n")
        exchange = await server.next("initialize")
        exchange.respond(202)
        stream.feed(b'data: {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2024-11-05"}}\n\n')
        (await server.next("notifications/initialized")).respond(202)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(script)
        async with open_peer("sse+http://server.example/sse", client=server) as peer:
            assert peer.negotiated is not None
            assert peer.negotiated.revision == "2024-11-05"


async def test_nothing_modern_is_spoken_over_http_sse() -> None:
    server = ScriptedServer()

    async def script() -> None:
        stream = (await server.next_get()).stream()
        stream.feed(b"event: endpoint\ndata: /post\n\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(script)
        with pytest.raises(ConfigurationError, match="legacy"):
            async with open_peer("sse+http://server.example/", client=server, era="modern"):
                pytest.fail("it cannot be open")


async def test_a_client_is_for_http_endpoints_only() -> None:
    with pytest.raises(ConfigurationError, match="client is for http"):
        async with open_channel("memory:x", client=ScriptedServer()):
            pytest.fail("it cannot be open")
    with pytest.raises(ConfigurationError, match=r"httpx\.AsyncClient"):
        async with open_channel(URL, client=object()):  # type: ignore[arg-type] # its point
            pytest.fail("it cannot be open")
