"""A server made with the official SDK behind our HTTP listener, as its clients see it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import msgspec
import pytest
import trio

pytest.importorskip("mcp.server.mcpserver", reason="the official MCP SDK is not installed")

from mcp import Client
from mcp.client import ClientRequestContext
from mcp.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import NoBackChannelError
from mcp.types import ElicitRequestParams, ElicitResult
from plain_http import LegacyClient, modern, requesting
from pydantic import BaseModel, Field
from serving import serving

from trio_mcp_transport import ChannelContext
from trio_mcp_transport.interop.mcp_sdk import sdk_transport, serve_sdk
from trio_mcp_transport.interop.mcp_sdk_serving import header_schema

pytestmark = [pytest.mark.interop, pytest.mark.integration]

URL = "http://127.0.0.1:0/mcp"
PROGRESS = {"progressToken": "t"}


class Name(BaseModel):  # type: ignore[explicit-any]  # pydantic's own
    name: str


class Served:
    """A server with tools that use what HTTP has."""

    def __init__(self) -> None:
        self.server = server = MCPServer("over-http", version="1")
        self.release = trio.Event()
        self.contexts: list[object] = []
        self.cancelled = trio.Event()
        for tool in (self.ask, self.look, self.leave, self.wait, self.add_tool):
            server.add_tool(tool)
        server.add_tool(self.region)

    async def ask(self, ctx: Context[object, object]) -> str:
        try:
            found = await ctx.elicit("who?", Name)
        except NoBackChannelError:
            return "nobody"
        return found.data.name if found.action == "accept" else found.action

    async def look(self, ctx: Context[object, object]) -> str:
        await trio.lowlevel.checkpoint()
        self.contexts.append(ctx.request_context.request)
        headers = ctx.headers
        return "none" if headers is None else str(headers.get("x-mine"))

    async def leave(self, ctx: Context[object, object]) -> str:
        await ctx.report_progress(1)
        await ctx.close_sse_stream()
        await self.release.wait()
        await ctx.report_progress(2)
        return "back"

    async def wait(self, ctx: Context[object, object]) -> None:
        await ctx.report_progress(1)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def add_tool(self, ctx: Context[object, object]) -> None:
        self.server.add_tool(lambda: None, name="new")
        await ctx.session.send_tool_list_changed()

    def region(
        self, region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]
    ) -> str:
        return region


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


def text_of(answer: Mapping[str, object]) -> str:
    result = msgspec.convert(answer["result"], dict[str, object])
    (content,) = msgspec.convert(result["content"], list[dict[str, object]])
    return str(content["text"])


async def answer_elicitation(
    context: ClientRequestContext, params: ElicitRequestParams
) -> ElicitResult:
    await trio.lowlevel.checkpoint()
    return ElicitResult(action="accept", content={"name": "me"})


async def test_a_tool_asks_its_client_on_the_stream_of_its_call() -> None:
    served = Served()
    async with serving(partial(serve_sdk, served.server, URL)) as bound:
        client = LegacyClient(bound)
        await client.initialize({"elicitation": {}})
        async with client.request("tools/call", call("ask"), request_id="a") as answer:
            asked = await answer.message()
            assert asked["method"] == "elicitation/create"
            content = {"action": "accept", "content": {"name": "you"}}
            reply = {"jsonrpc": "2.0", "id": asked["id"], "result": content}
            async with client.post(reply) as accepted:
                assert accepted.status == 202
            assert text_of(await answer.message()) == "you"


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_an_sdk_client_on_our_channel_is_asked(mode: str) -> None:
    served = Served()
    async with (
        serving(partial(serve_sdk, served.server, URL)) as bound,
        Client(sdk_transport(bound), mode=mode, elicitation_callback=answer_elicitation) as client,
    ):
        result = await client.call_tool("ask")
        expected = {"result": "me" if mode == "legacy" else "nobody"}
        assert result.structured_content == expected


@pytest.mark.parametrize("options", ["?stateless=true", "?response=json"])
async def test_a_tool_is_told_that_it_cannot_ask(options: str) -> None:
    served = Served()
    async with serving(partial(serve_sdk, served.server, URL + options)) as bound:
        client = LegacyClient(bound)
        await client.initialize({"elicitation": {}})
        async with client.request("tools/call", call("ask")) as answer:
            assert text_of(await answer.outcome()) == "nobody"


async def test_each_request_has_the_context_of_its_own_exchange() -> None:
    served = Served()
    async with serving(partial(serve_sdk, served.server, URL)) as bound:
        client = LegacyClient(bound)
        await client.initialize()
        for value in ("one", "two"):
            headers = {"X-Mine": value}
            async with client.request("tools/call", call("look"), headers=headers) as answer:
                assert text_of(await answer.outcome()) == value
        async with modern(bound, "tools/call", call("look"), headers={"X-Mine": "3"}) as answer:
            assert text_of(await answer.outcome()) == "3"
    for context, revision in zip(
        served.contexts, ["2025-11-25", "2025-11-25", "2026-07-28"], strict=True
    ):
        assert isinstance(context, ChannelContext)
        assert context.protocol_version == revision
        assert context.exchange


async def test_a_stream_that_the_tool_closes_is_resumed() -> None:
    served = Served()
    url = f"{URL}?resumable=true"
    async with serving(partial(serve_sdk, served.server, url)) as bound:
        client = LegacyClient(bound)
        await client.initialize()
        params = {**call("leave"), "_meta": PROGRESS}
        async with client.request("tools/call", params) as answer:
            events = []
            while event := await answer.event():
                events.append(event)
        assert [event.message["method"] for event in events if event.data] == [
            "notifications/progress"
        ]
        served.release.set()
        async with client.get(next(event.id for event in reversed(events) if event.id)) as answer:
            progress, result = await answer.messages()
        assert progress["method"] == "notifications/progress"
        assert text_of(result) == "back"


async def test_closing_a_stream_that_nobody_can_resume_does_nothing() -> None:
    served = Served()
    served.release.set()
    async with serving(partial(serve_sdk, served.server, URL)) as bound:
        client = LegacyClient(bound)
        await client.initialize()
        async with client.request("tools/call", call("leave")) as answer:
            assert text_of(await answer.outcome()) == "back"


async def test_what_belongs_to_no_request_goes_to_the_sessions_own_stream() -> None:
    served = Served()
    async with serving(partial(serve_sdk, served.server, URL)) as bound:
        client = LegacyClient(bound)
        await client.initialize()
        async with client.get() as stream:
            async with client.request("tools/call", call("add_tool")) as answer:
                assert "result" in await answer.outcome()
            told = await stream.message()
            assert told["method"] == "notifications/tools/list_changed"


async def test_equal_ids_of_two_exchanges_are_both_served() -> None:
    served = Served()
    async with serving(partial(serve_sdk, served.server, URL)) as bound:
        client = LegacyClient(bound)
        await client.initialize()
        params = {**call("leave"), "_meta": PROGRESS}
        async with client.request("tools/call", params, request_id=1) as first:
            assert (await first.message())["method"] == "notifications/progress"
            async with client.request("tools/list", request_id=1) as second:
                assert "result" in await second.outcome()
            served.release.set()
            messages = await first.messages()
            assert messages[-1]["id"] == 1


async def test_cancelling_is_told_to_the_tool_in_both_eras() -> None:
    served = Served()
    async with serving(partial(serve_sdk, served.server, URL)) as bound:
        client = LegacyClient(bound)
        await client.initialize()
        params = {**call("wait"), "_meta": PROGRESS}
        async with client.request("tools/call", params, request_id=7) as answer:
            await answer.message()
            assert await client.notify("notifications/cancelled", {"requestId": 7}) == 202
            await served.cancelled.wait()
            assert await answer.messages() == []
        served.cancelled = trio.Event()
        async with modern(bound, "tools/call", call("wait"), meta=PROGRESS) as answer:
            await answer.message()
            await answer.aclose()
        await served.cancelled.wait()


async def test_the_end_of_a_session_ends_its_tools() -> None:
    served = Served()
    url = f"{URL}?close_timeout=0.1"  # what a session that ends has for its tools
    async with serving(partial(serve_sdk, served.server, url)) as bound:
        client = LegacyClient(bound)
        await client.initialize()
        params = {**call("wait"), "_meta": PROGRESS}
        async with client.request("tools/call", params) as answer:
            await answer.message()
            assert await client.delete() == 204
            await served.cancelled.wait()
            assert await answer.messages() == []
        async with client.request("tools/list") as answer:
            assert answer.status == 404


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "no/such/method"])
async def test_a_method_that_the_modern_era_does_not_have_is_404(method: str) -> None:
    served = Served()
    async with (
        serving(partial(serve_sdk, served.server, URL)) as bound,
        modern(bound, method, {"level": "info"}) as answer,
    ):
        assert answer.status == 404
        error = msgspec.convert((await answer.json())["error"], dict[str, object])
        assert error["code"] == -32601


@pytest.mark.parametrize(
    ("tool", "argument", "headers", "status"),
    [
        ("region", "region", {"Mcp-Param-Region": "eu"}, 200),
        ("region", "region", {"Mcp-Param-Region": "us"}, 400),
        ("region", "region", {}, 400),
        ("nothing", "one", {}, 200),
    ],
)
async def test_headers_of_arguments_are_held_against_the_schema(
    tool: str, argument: str, headers: dict[str, str | None], status: int
) -> None:
    params = call(tool, **{argument: "eu"})
    async with (
        serving(partial(serve_sdk, Served().server, URL)) as bound,
        modern(bound, "tools/call", params, headers=headers) as answer,
    ):
        assert answer.status == status, await answer.body()


def test_a_schema_with_broken_annotations_is_checked_against_nothing() -> None:
    def find(name: str) -> Mapping[str, object] | None:
        schema = {"properties": {"one": {"type": "string", "x-mcp-header": "a b"}}}
        return schema if name == "broken" else None

    schema_of = header_schema(Server("low", get_tool_input_schema=find))
    assert schema_of("broken") is None
    assert schema_of("nothing") is None
    assert header_schema(Server("low"))("broken") is None


async def test_discovery_names_what_the_endpoint_serves() -> None:
    served = Served()
    for options, revisions in (
        ("", ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"]),
        ("?era=modern", ["2026-07-28"]),
    ):
        async with serving(partial(serve_sdk, served.server, URL + options)) as bound:
            async with modern(bound, "server/discover") as answer:
                result = msgspec.convert((await answer.json())["result"], dict[str, object])
            supported = msgspec.convert(result["supportedVersions"], list[str])
            assert supported[: len(revisions)] == revisions


async def test_who_may_come_in_is_decided_before_the_sdk() -> None:
    served = Served()
    url = f"{URL}?auth=bearer&bearer_token=secret"
    async with serving(partial(serve_sdk, served.server, url)) as bound:
        async with requesting(bound, body={}) as answer:
            assert answer.status == 401
        headers = {"Authorization": "Bearer secret"}
        async with modern(bound, "tools/list", headers=headers) as answer:
            assert answer.status == 200
