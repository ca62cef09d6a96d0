"""The built-in server, in both eras, without a wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

import msgspec
import pytest
import trio
from exchange_channel import PushedChannel, modern
from trio.testing import MockClock

from trio_mcp_transport import ConnectionLost, Notification, Peer, Response, RpcError, open_peer
from trio_mcp_transport.cli.builtin_server import BuiltinServer
from trio_mcp_transport.lifecycle import negotiate
from trio_mcp_transport.serve import serve_channels
from trio_mcp_transport.transports.memory_channel import memory_channel_pair

pytestmark = pytest.mark.cli

Era = Literal["modern", "legacy"]
ERAS: tuple[Era, ...] = ("modern", "legacy")


@asynccontextmanager
async def client(
    era: Era = "modern", *, server: BuiltinServer | None = None, stop: trio.Event | None = None
) -> AsyncGenerator[Peer, None]:
    ours, theirs = memory_channel_pair()
    async with trio.open_nursery() as nursery:
        answer = partial((server or BuiltinServer()).serve, theirs, stop=stop)
        async with Peer(ours) as peer:
            nursery.start_soon(answer)
            await negotiate(peer, client_info={"name": "test", "version": "1"}, era=era)
            yield peer


async def call(peer: Peer, name: str, **arguments: object) -> dict[str, object]:
    return await peer.request(
        "tools/call", {"name": name, "arguments": arguments}, result_type=dict[str, object]
    )


def text_of(result: dict[str, object]) -> str:
    ((text),) = [
        block["text"] for block in msgspec.convert(result["content"], list[dict[str, str]])
    ]
    return text


@pytest.mark.parametrize("era", ERAS)
async def test_the_tools_are_listed_with_schemas_of_what_they_take(era: Era) -> None:
    async with client(era) as peer:
        result = await peer.request("tools/list", result_type=dict[str, object])
    tools = {
        tool["name"]: tool for tool in msgspec.convert(result["tools"], list[dict[str, object]])
    }
    assert list(tools) == ["echo", "add", "slow", "large"]
    for tool in tools.values():
        schema = msgspec.convert(tool["inputSchema"], dict[str, object])
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False
        assert tool["description"]
    assert msgspec.convert(tools["add"]["inputSchema"], dict[str, object])["required"] == ["a", "b"]


@pytest.mark.parametrize("era", ERAS)
async def test_the_tools_do_what_they_say(era: Era) -> None:
    async with client(era) as peer:
        assert text_of(await call(peer, "echo", text="olé\n")) == "olé\n"
        added = await call(peer, "add", a=0.5, b=2)
        assert text_of(added) == "2.5"
        assert added["structuredContent"] == {"sum": 2.5}
        assert text_of(await call(peer, "large", size=100_000)) == "x" * 100_000


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("echo", {}),
        ("echo", {"text": 1}),
        ("echo", {"text": "a", "extra": 1}),
        ("add", {"a": "1", "b": 2}),
        ("add", {"a": 1e308, "b": 1e308}),
        ("slow", {"steps": 0}),
        ("slow", {"seconds": -1}),
        ("large", {"size": 10**9}),
    ],
)
async def test_wrong_arguments_are_an_error_that_a_model_can_read(
    name: str, arguments: dict[str, object]
) -> None:
    async with client() as peer:
        result = await call(peer, name, **arguments)
    assert result["isError"] is True
    assert text_of(result)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/call", {"name": "fly"}, -32602),
        ("tools/call", {}, -32602),
        ("prompts/get", {"name": "farewell"}, -32602),
        ("prompts/get", {"name": "greeting"}, -32602),
        ("resources/read", {"uri": "trio-mcp://secrets"}, -32602),
        ("teleport", {}, -32601),
    ],
)
async def test_what_is_not_there_is_an_error_answer(
    method: str, params: dict[str, object], code: int
) -> None:
    async with client() as peer:
        with pytest.raises(RpcError) as caught:
            await peer.request(method, params)
    assert caught.value.code == code


async def test_a_legacy_client_gets_the_legacy_code_for_a_missing_resource() -> None:
    async with client("legacy") as peer:
        with pytest.raises(RpcError) as caught:
            await peer.request("resources/read", {"uri": "trio-mcp://secrets"})
    assert caught.value.code == -32002
    assert caught.value.data == {"uri": "trio-mcp://secrets"}


@pytest.mark.parametrize("era", ERAS)
async def test_resource_and_prompt_can_be_listed_and_had(era: Era) -> None:
    async with client(era) as peer:
        for method in ("resources/list", "resources/templates/list", "prompts/list"):
            await peer.request(method)
        read = await peer.request(
            "resources/read", {"uri": "trio-mcp://status"}, result_type=dict[str, object]
        )
        assert '"slowRunning":0' in str(read["contents"])
        prompt = await peer.request(
            "prompts/get",
            {"name": "greeting", "arguments": {"name": "Ada"}},
            result_type=dict[str, object],
        )
        assert "Ada" in str(prompt["messages"])


async def test_the_slow_tool_takes_its_time_and_reports_progress(
    autojump_clock: MockClock,
) -> None:
    seen: list[float] = []
    async with client() as peer:
        begun = trio.current_time()
        await peer.request(
            "tools/call",
            {"name": "slow", "arguments": {"seconds": 10, "steps": 5}},
            on_progress=lambda progress: seen.append(progress.progress),
        )
        assert trio.current_time() - begun == pytest.approx(10)
    assert seen == [1, 2, 3, 4, 5]


async def test_a_cancelled_call_stops_and_is_counted() -> None:
    server = BuiltinServer()
    async with client(server=server) as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(call, peer, "slow", seconds=3600))
            await trio.testing.wait_all_tasks_blocked()
            assert server.running == 1
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert (server.running, server.cancelled) == (0, 1)


async def test_after_stop_what_is_in_work_finishes_first(autojump_clock: MockClock) -> None:
    stop = trio.Event()
    async with client(stop=stop) as peer, trio.open_nursery() as nursery:

        async def stop_soon() -> None:
            await trio.sleep(1)
            stop.set()

        nursery.start_soon(stop_soon)
        assert text_of(await call(peer, "slow", seconds=5)) == "Took 5 s in 10 steps."
        await peer.wait_closed()
        with pytest.raises(ConnectionLost):
            await peer.request("ping")


@pytest.mark.parametrize("seconds", [4, 3600])
async def test_exchanges_end_in_time_after_end_soon(
    seconds: float, autojump_clock: MockClock
) -> None:
    server = BuiltinServer(drain=5)
    request = modern(1, "tools/call", name="slow", arguments={"seconds": seconds, "steps": 1})
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, request)
        nursery.start_soon(server.serve, channel)
        await trio.testing.wait_all_tasks_blocked()
        server.end_soon()
        assert not channel.sent
    assert trio.current_time() == pytest.approx(min(seconds, 5))
    assert (server.running, server.cancelled) == (0, seconds > 5)


async def test_an_exchange_that_comes_after_end_soon_ends_in_time(
    autojump_clock: MockClock,
) -> None:
    server = BuiltinServer(drain=5)
    server.end_soon()
    request = modern(1, "tools/call", name="slow", arguments={"seconds": 3600})
    async with trio.open_nursery() as nursery:
        await server.serve(PushedChannel(nursery, request))
    assert trio.current_time() == pytest.approx(5)
    assert server.cancelled == 1


async def test_an_exchange_that_comes_after_end_soon_is_answered() -> None:
    server = BuiltinServer()
    server.end_soon()
    request = modern(1, "tools/call", name="echo", arguments={"text": "late"})
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, request)
        await server.serve(channel)
    (answer,) = channel.sent
    assert isinstance(answer, Response)


async def test_keepalives_come_unasked_and_are_announced(autojump_clock: MockClock) -> None:
    ours, theirs = memory_channel_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(BuiltinServer(keepalive=2.5).serve, theirs)
        for _ in range(3):
            begun = trio.current_time()
            message = await ours.receive()
            assert isinstance(message, Notification)
            assert message.method == "notifications/keepalive"
        assert trio.current_time() - begun == pytest.approx(2.5)
        async with Peer(ours) as peer:
            found = await negotiate(peer, client_info={"name": "test", "version": "1"})
    assert found.server_capabilities["experimental"] == {
        "keepalive": {"enabled": True, "intervalMs": 2500}
    }


async def test_every_client_is_served_and_a_lost_one_leaves_the_others() -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        server = BuiltinServer()
        (bound,) = await nursery.start(
            partial(serve_channels, server.serve, "memory:builtin", stop=stop)
        )
        async with open_peer(bound) as first:
            async with open_peer(bound) as second:
                second.channel.abort()
            assert text_of(await call(first, "echo", text="on")) == "on"
        stop.set()
