"""What a router answers to clients of either era, seen from the wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from msgspec import UNSET, Raw

from trio_mcp_transport.abc import ChannelEvent
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import ConfigurationError, LocalProtocolError
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.router import Router
from trio_mcp_transport.sansio.eras import MODERN_REVISIONS, REVISIONS
from trio_mcp_transport.sansio.metadata import CacheHint, LogLevel
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.memory_channel import MemoryChannel

pytestmark = pytest.mark.peer

KEY = "io.modelcontextprotocol/"
MODERN = "2026-07-28"
SERVER_META = {KEY + "serverInfo": {"name": "test", "version": "1"}}


class Client:
    """A client by hand."""

    def __init__(self, channel: MemoryChannel) -> None:
        self.channel = channel
        self.events: list[ChannelEvent] = []
        self.notifications: list[Notification] = []
        self._last_id = 0

    async def ask(self, method: str, params: Mapping[str, object] | None = None) -> Message:
        """Send a request; return its answer, and keep the notifications before it."""
        self._last_id += 1
        raw = UNSET if params is None else Raw(msgspec.json.encode(params))
        await self.channel.send(Request(self._last_id, method, raw))
        while True:
            message = await self.channel.receive()
            if not isinstance(message, Notification):
                assert isinstance(message, Response | ErrorResponse)
                assert message.id == self._last_id
                return message
            self.notifications.append(message)

    async def legacy(self, method: str, params: Mapping[str, object] | None = None) -> object:
        answer = await self.ask(method, params)
        assert isinstance(answer, Response), answer
        return decoded(answer.result)

    async def modern(
        self, method: str, params: Mapping[str, object] | None = None, **meta: object
    ) -> object:
        answer = await self.ask(method, modern(params, **meta))
        assert isinstance(answer, Response), answer
        return decoded(answer.result)

    async def error(self, method: str, params: Mapping[str, object] | None = None) -> ErrorObject:
        answer = await self.ask(method, params)
        assert isinstance(answer, ErrorResponse), answer
        return answer.error

    async def initialize(
        self, revision: str = "2025-11-25", capabilities: Mapping[str, object] | None = None
    ) -> object:
        return await self.legacy(
            "initialize",
            {
                "protocolVersion": revision,
                "capabilities": capabilities or {},
                "clientInfo": {"name": "client", "version": "0"},
            },
        )


def modern(params: Mapping[str, object] | None = None, **meta: object) -> dict[str, object]:
    keys = {
        KEY + "protocolVersion": MODERN,
        KEY + "clientCapabilities": meta.pop("capabilities", {}),
        **{(name if name == "progressToken" else KEY + name): meta[name] for name in meta},
    }
    return {**(params or {}), "_meta": keys}


def decoded(value: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(value))


@asynccontextmanager
async def client_of(router: Router) -> AsyncGenerator[Client]:
    ours, theirs = memory_channel_pair()
    client = Client(theirs)
    async with theirs, Peer(ours, router, on_event=client.events.append):
        yield client


def make_server(**settings: object) -> Router:
    capabilities = {"tools": {"listChanged": True}, "logging": {}}
    router = Router("test", "1", capabilities=capabilities, **settings)  # type: ignore[arg-type]

    @router.method("tools/list")
    async def list_tools(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"tools": []}

    @router.method("about")
    async def about(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {
            "era": ctx.era,
            "revision": ctx.revision,
            "info": ctx.client_info,
            "capabilities": ctx.client_capabilities,
            "session": ctx.session is not None,
            "principal": ctx.principal,
        }

    return router


# -- handshake and discovery --------------------------------------------------------


async def test_discover_tells_versions_capabilities_and_identity() -> None:
    async with client_of(make_server(instructions="be nice")) as client:
        assert await client.modern("server/discover") == {
            "resultType": "complete",
            "supportedVersions": list(REVISIONS),
            "capabilities": {"tools": {"listChanged": True}, "logging": {}},
            "instructions": "be nice",
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": SERVER_META,
        }


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("2024-11-05", "2024-11-05"), ("2025-06-18", "2025-06-18"), ("1900-01-01", "2025-11-25")],
)
async def test_initialize_agrees_on_a_revision(asked: str, answered: str) -> None:
    async with client_of(make_server(instructions="be nice")) as client:
        assert await client.initialize(asked) == {
            "protocolVersion": answered,
            "capabilities": {"tools": {"listChanged": True}, "logging": {}},
            "serverInfo": {"name": "test", "version": "1"},
            "instructions": "be nice",
        }
        about = await client.legacy("about")
        assert about == {
            "era": "legacy",
            "revision": answered,
            "info": {"name": "client", "version": "0"},
            "capabilities": {},
            "session": True,
            "principal": None,
        }


async def test_a_request_right_behind_initialize_is_of_that_session() -> None:
    async with client_of(make_server()) as client:
        params = Raw(b'{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{}}')
        await client.channel.send_many([
            Request(1, "initialize", params),
            Request(2, "about"),
            Request(3, "tools/list"),
        ])
        answers = [await client.channel.receive() for _ in range(3)]
        assert all(isinstance(answer, Response) for answer in answers)


async def test_initialize_is_for_once_and_must_make_sense() -> None:
    async with client_of(make_server()) as client:
        assert (await client.error("initialize", {"capabilities": {}})).code == -32602
        assert (await client.error("tools/list")).code == -32602  # still not initialized
        await client.initialize()
        assert (await client.error("initialize", {"protocolVersion": "2025-11-25"})).code == -32600


async def test_before_the_handshake_only_ping_is_answered() -> None:
    async with client_of(make_server()) as client:
        assert await client.legacy("ping") == {}
        error = await client.error("tools/list")
        assert error.code == -32602
        assert "initialize" in error.message
        await client.initialize()
        assert await client.legacy("ping") == {}


async def test_a_lenient_server_takes_requests_before_the_handshake() -> None:
    async with client_of(make_server(require_initialize=False)) as client:
        assert await client.legacy("tools/list") == {"tools": []}


async def test_a_modern_only_server_names_its_versions_to_initialize() -> None:
    async with client_of(make_server(revisions=MODERN_REVISIONS)) as client:
        error = await client.error("initialize", {"protocolVersion": "2025-11-25"})
        assert error.code == -32022
        assert decoded(error.data) == {"supported": [MODERN], "requested": "2025-11-25"}
        assert (await client.error("ping")).code == -32602


async def test_both_eras_live_side_by_side_on_one_connection() -> None:
    async with client_of(make_server()) as client:
        await client.initialize("2025-03-26")
        about = await client.modern("about", clientInfo={"name": "m"}, capabilities={"roots": {}})
        assert isinstance(about, dict)
        assert about["era"] == "modern"
        assert about["revision"] == MODERN
        assert about["info"] == {"name": "m"}
        assert about["capabilities"] == {"roots": {}}
        assert about["session"] is False
        assert await client.legacy("tools/list") == {"tools": []}


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "unknown"])
async def test_legacy_methods_do_not_exist_for_modern_requests(method: str) -> None:
    async with client_of(make_server()) as client:
        await client.initialize()
        assert (await client.error(method, modern())).code == -32601


async def test_a_version_that_is_not_served_is_refused_with_those_that_are() -> None:
    async with client_of(make_server(revisions=[MODERN, "2025-11-25"])) as client:
        params = modern()
        assert isinstance(params["_meta"], dict)
        params["_meta"][KEY + "protocolVersion"] = "2099-01-01"
        error = await client.error("tools/list", params)
        assert error.code == -32022
        assert decoded(error.data) == {
            "supported": [MODERN, "2025-11-25"],
            "requested": "2099-01-01",
        }


# -- results ------------------------------------------------------------------------


async def test_modern_results_are_completed_and_legacy_ones_are_not() -> None:
    cache = {"tools/list": CacheHint(5000, "public")}
    async with client_of(make_server(cache=cache)) as client:
        await client.initialize()
        assert await client.legacy("tools/list") == {"tools": []}
        assert await client.modern("tools/list") == {
            "tools": [],
            "resultType": "complete",
            "ttlMs": 5000,
            "cacheScope": "public",
            "_meta": SERVER_META,
        }
        about = await client.modern("about")
        assert isinstance(about, dict)
        assert "ttlMs" not in about


async def test_a_modern_result_that_is_no_object_is_an_internal_error() -> None:
    router = make_server()

    @router.method("list")
    async def give_list(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return [1]

    async with client_of(router) as client:
        assert (await client.error("list", modern())).code == -32603
        assert [event.name for event in client.events] == ["handler.failed"]
        await client.initialize()
        assert await client.legacy("list") == [1]


# -- registration -------------------------------------------------------------------


async def test_registrations_belong_to_an_era() -> None:
    router = make_server()

    @router.method("which", eras=["modern"])
    async def which_modern(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"which": "modern"}

    @router.method("which", eras=["legacy"])
    async def which_legacy(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"which": "legacy"}

    @router.method("only", eras=["legacy"])
    async def only(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {}

    async with client_of(router) as client:
        await client.initialize()
        assert await client.legacy("which") == {"which": "legacy"}
        answer = await client.modern("which")
        assert isinstance(answer, dict)
        assert answer["which"] == "modern"
        assert await client.legacy("only") == {}
        assert (await client.error("only", modern())).code == -32601


def test_a_registration_must_make_sense() -> None:
    router = Router()

    async def handler(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {}

    assert router.method("a")(handler) is handler
    with pytest.raises(ValueError, match="'a' has a handler"):
        router.method("a", eras=["legacy"])(handler)
    with pytest.raises(ValueError, match="timeout"):
        router.method("b", timeout=0)
    with pytest.raises(ValueError, match="eras"):
        router.method("b", eras=[])
    with pytest.raises(ValueError, match="eras"):
        router.method("b", eras=["future"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError):
        Router("name without version")
    with pytest.raises(ConfigurationError):
        Router(revisions=["1900-01-01"])


async def test_a_users_handler_replaces_a_built_in_one() -> None:
    router = make_server()

    @router.method("ping")
    async def ping(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"pong": True}

    async with client_of(router) as client:
        await client.initialize()
        assert await client.legacy("ping") == {"pong": True}


async def test_a_bare_router_knows_no_eras() -> None:
    router = Router()

    @router.method("about")
    async def about(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"era": ctx.era, "revision": ctx.revision}

    async with client_of(router) as client:
        assert await client.legacy("about") == {"era": None, "revision": None}
        assert await client.legacy("about", modern()) == {"era": None, "revision": None}
        for method in ("initialize", "server/discover", "ping"):
            assert (await client.error(method)).code == -32601


async def test_a_session_keeps_what_the_application_puts_there() -> None:
    router = make_server()

    @router.method("count", eras=["legacy"])
    async def count(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        assert ctx.session is not None
        number = ctx.session.get("count", 0)
        assert isinstance(number, int)
        ctx.session["count"] = number + 1
        return {"count": number}

    async with client_of(router) as one, client_of(router) as other:
        for client in (one, other):
            await client.initialize()
        assert await one.legacy("count") == {"count": 0}
        assert await one.legacy("count") == {"count": 1}
        assert await other.legacy("count") == {"count": 0}


async def test_a_notification_has_a_context_without_a_request() -> None:
    router = make_server()
    seen: list[object] = []

    @router.notification("notifications/roots/list_changed")
    async def changed(ctx: Context) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((ctx.era, ctx.revision, ctx.message.method))
        with pytest.raises(LocalProtocolError):
            _ = ctx.request

    async with client_of(router) as client:
        await client.initialize()
        await client.channel.send(Notification("notifications/initialized"))
        await client.channel.send(Notification("notifications/roots/list_changed"))
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [("legacy", "2025-11-25", "notifications/roots/list_changed")]
        assert client.events == []


# -- progress and log ---------------------------------------------------------------


def progress_server() -> Router:
    router = make_server()

    @router.method("work")
    async def work(ctx: Context) -> object:
        for value in (1, 1, 0.5, 2):
            await ctx.progress(value, total=4, message=f"at {value}")
        return {"wanted": ctx.wants_progress}

    @router.method("flood")
    async def flood(ctx: Context) -> object:
        for value in range(1, 1001):
            await ctx.progress(value)
        await trio.sleep(1)
        for value in range(1001, 2001):
            await ctx.progress(value)
        return {}

    return router


async def test_progress_goes_to_whoever_asked_and_rises() -> None:
    async with client_of(progress_server()) as client:
        await client.initialize()
        assert await client.legacy("work") == {"wanted": False}
        assert client.notifications == []
        await client.modern("work", progressToken="t")
        await client.legacy("work", {"_meta": {"progressToken": 7}})
        assert [decoded(note.params) for note in client.notifications] == [
            {"progressToken": token, "progress": value, "total": 4, "message": f"at {value}"}
            for token in ("t", 7)
            for value in (1, 2)
        ]


async def test_a_flood_of_progress_is_merged_and_the_last_one_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with client_of(progress_server()) as client:
        await client.modern("flood", progressToken="t")
        values = [note.params_as(dict[str, object])["progress"] for note in client.notifications]
        assert values[:20] == list(range(1, 21))
        assert values[20:40] == list(range(1001, 1021))
        assert values[40:] == [2000]


def log_server() -> Router:
    router = make_server()

    @router.method("chat")
    async def chat(ctx: Context) -> object:
        levels: tuple[LogLevel, ...] = ("debug", "info", "warning", "emergency")
        for level in levels:
            await ctx.log(level, {"x": 1}, logger="test" if level == "info" else None)
        return {}

    return router


def levels_of(client: Client) -> list[object]:
    found = [note.params_as(dict[str, object])["level"] for note in client.notifications]
    client.notifications.clear()
    return found


async def test_a_modern_request_gets_the_log_messages_it_asks_for() -> None:
    async with client_of(log_server()) as client:
        await client.modern("chat")
        assert levels_of(client) == []
        await client.modern("chat", logLevel="info")
        assert decoded(client.notifications[0].params) == {
            "level": "info",
            "data": {"x": 1},
            "logger": "test",
        }
        assert levels_of(client) == ["info", "warning", "emergency"]
        assert (await client.error("chat", modern(None, logLevel="loud"))).code == -32602


async def test_a_legacy_session_sets_its_level() -> None:
    async with client_of(log_server()) as client:
        await client.initialize()
        await client.legacy("chat")
        assert levels_of(client) == ["info", "warning", "emergency"]
        await client.legacy("logging/setLevel", {"level": "emergency"})
        await client.legacy("chat")
        assert levels_of(client) == ["emergency"]
        assert (await client.error("logging/setLevel", {"level": "loud"})).code == -32602


async def test_without_the_capability_nothing_is_logged() -> None:
    router = Router("test", "1")

    @router.method("chat")
    async def chat(ctx: Context) -> object:
        await ctx.log("emergency", 1)
        return {}

    async with client_of(router) as client:
        await client.modern("chat", logLevel="debug")
        await client.initialize()
        await client.legacy("chat")
        assert client.notifications == []
        assert (await client.error("logging/setLevel", {"level": "info"})).code == -32601


@pytest.mark.parametrize(
    ("needed", "declared", "missing"),
    [
        ("sampling", {"sampling": {}}, None),
        ("sampling", {}, {"sampling": {}}),
        ("elicitation.url", {"elicitation": {"url": {}}}, None),
        ("elicitation.url", {"elicitation": {}}, {"elicitation": {"url": {}}}),
    ],
)
async def test_a_capability_can_be_required(
    needed: str, declared: dict[str, object], missing: object
) -> None:
    router = make_server()

    @router.method("needs")
    async def needs(ctx: Context) -> object:
        ctx.require_capability(needed)
        await trio.lowlevel.checkpoint()
        return {}

    async with client_of(router) as client:
        await client.initialize(capabilities=declared)
        if missing is None:
            assert await client.legacy("needs") == {}
            await client.modern("needs", capabilities=declared)
        else:
            for params in (None, modern(None, capabilities=declared)):
                error = await client.error("needs", params)
                assert error.code == -32021
                assert decoded(error.data) == {"requiredCapabilities": missing}


def test_a_router_knows_which_arguments_are_repeated_in_headers() -> None:
    def schema(annotation: object) -> dict[str, object]:
        return {"properties": {"a": {"type": "string", "x-mcp-header": annotation}}}

    schemas: dict[str, object] = {
        "decoded": schema("A"),
        "raw": Raw(msgspec.json.encode(schema("A"))),
        "plain": {"type": "object"},
        "invalid": schema("not a token"),
    }
    router = Router("test", "1", tool_schema=schemas.get)
    for name in ("decoded", "raw"):
        found = router.header_schema(name)
        assert found is not None
        assert [parameter.header for parameter in found.parameters] == ["Mcp-Param-A"]
        assert router.header_schema(name) is found
    plain = router.header_schema("plain")
    assert plain is not None
    assert not plain.parameters
    assert router.header_schema("invalid") is None
    assert router.header_schema("unknown") is None
    assert Router("test", "1").header_schema("decoded") is None
    # A tool may change, or go.
    schemas["decoded"] = schema("B")
    changed = router.header_schema("decoded")
    assert changed is not None
    assert [parameter.header for parameter in changed.parameters] == ["Mcp-Param-B"]
    del schemas["decoded"]
    assert router.header_schema("decoded") is None
