"""Sentences about the conversation itself, whatever carries it.

Each test is named in the manifest; those that other files hold are not repeated here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack

import msgspec
import pytest
import trio
from msgspec import Raw
from peer_wire import ask, token_of, wired
from served_peer import Served, served

from trio_mcp_transport import (
    Context,
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    Hub,
    InputRequest,
    InputRequired,
    Message,
    Notification,
    Peer,
    PeerErrorCode,
    Request,
    Response,
    Router,
    RpcError,
    decode_message,
    encode_message,
    memory_channel_pair,
    negotiate,
)

pytestmark = pytest.mark.conformance

KEY = "io.modelcontextprotocol/"
MODERN = "2026-07-28"
INFO = {"name": "client", "version": "0"}
ELICIT = InputRequest("elicitation/create", {"message": "who?", "requestedSchema": {}})
ALICE: Mapping[str, object] = {"action": "accept", "content": {"name": "Alice"}}


def modern(params: Mapping[str, object], **meta: object) -> dict[str, object]:
    keys: dict[str, object] = {
        KEY + "protocolVersion": MODERN,
        KEY + "clientCapabilities": {"elicitation": {}},
    }
    return {**params, "_meta": {**keys, **meta}}


async def result_of(client: Served, method: str, params: object, request_id: int = 1) -> Message:
    """The answer, past whatever notifications come before it."""
    await client.send(method, params, request_id)
    while isinstance(message := await client.channel.receive(), Notification):
        pass
    return message


def plain(message: Message) -> dict[str, object]:
    found = msgspec.json.decode(encode_message(message))
    assert isinstance(found, dict)
    return found


async def quiet(channel: trio.abc.ReceiveChannel[Message]) -> bool:
    """Whether nothing more comes."""
    await trio.testing.wait_all_tasks_blocked()
    with trio.move_on_after(0) as scope:
        await channel.receive()
    return scope.cancelled_caught


# -- Requests and their ids --------------------------------------------------------------


async def test_no_id_is_used_twice_on_a_connection() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        ids = []
        for number in range(20):
            asked = ask(nursery, wire.peer)
            request = await wire.receive_request()
            ids.append(request.id)
            if number % 2:
                await wire.send(Response(request.id, {}))
            else:
                asked.scope.cancel()
                await wire.cancelled_id()
        assert len(set(ids)) == len(ids)


def test_messages_are_utf_8() -> None:
    message = Request(1, "m", {"text": "Grüße ☃ \u2028 😀"})
    data = encode_message(message)
    assert "Grüße ☃ \u2028 😀".encode() in data
    assert decode_message(data) == Request(1, "m", Raw(data[data.index(b'{"text') : -1]))
    with pytest.raises(Exception, match="UTF-8"):
        decode_message(data.replace("ü".encode(), "ü".encode("latin-1")))


# -- The handshake -----------------------------------------------------------------------


async def test_a_client_initializes_before_all_else_and_says_who_it_is() -> None:
    ours, theirs = memory_channel_pair()

    async def connect(peer: Peer) -> None:
        await negotiate(peer, client_info=INFO, client_capabilities={"roots": {}}, era="legacy")
        await peer.request("tools/list")

    async with theirs, Peer(ours) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(connect, peer)
        initialize = await theirs.receive()
        assert isinstance(initialize, Request)
        assert (initialize.method, initialize.params_as(dict[str, object])) == (
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}, "clientInfo": INFO},
        )
        assert await quiet(theirs)
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": INFO}
        await theirs.send(Response(initialize.id, result))
        initialized, request = await theirs.receive(), await theirs.receive()
        assert isinstance(initialized, Notification)
        assert initialized.method == "notifications/initialized"
        assert isinstance(request, Request)
        assert request.method == "tools/list"
        await theirs.send(Response(request.id, {"tools": []}))


async def test_a_server_asks_nothing_of_its_own_accord() -> None:
    hub = Hub()
    router = Router("s", "1", capabilities={"tools": {"listChanged": True}}, hub=hub)
    async with served(router) as client:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": INFO}
        assert isinstance(await client.ask("initialize", params), Response)
        hub.changed("tools")
        await client.send("ping", request_id=2)
        assert isinstance(await client.channel.receive(), Response)
        await client.channel.send(Notification("notifications/initialized"))
        hub.changed("tools")
        while not await quiet(client.channel):
            assert client.peer.statistics().requests_sent == 0
        assert client.peer.statistics().requests_sent == 0


@pytest.mark.parametrize("name", ["tools/call", "prompts/get"])
async def test_what_a_side_says_of_itself_changes_nothing(name: str) -> None:
    answers = []
    for info in (INFO, {"name": "Claude", "version": "99"}, None):
        router = Router("server", "1", capabilities={"tools": {}})

        @router.method(name)
        async def answer(ctx: Context) -> object:
            await trio.lowlevel.checkpoint()
            return {"content": []}

        meta = {} if info is None else {KEY + "clientInfo": info}
        async with served(router) as client:
            answers.append(plain(await client.ask(name, modern({"name": "x"}, **meta))))
    assert answers[0] == answers[1] == answers[2]


async def test_requests_of_unlike_clients_and_versions_may_come_over_one_connection() -> None:
    router = Router("server", "1")

    @router.method("about")
    async def about(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"capabilities": ctx.client_capabilities, "info": ctx.client_info}

    async with served(router) as client:
        first = plain(await client.ask("about", modern({}, **{KEY + "clientInfo": INFO})))
        bare = {"_meta": {KEY + "protocolVersion": MODERN, KEY + "clientCapabilities": {}}}
        second = plain(await client.ask("about", bare))
    assert first["result"] != second["result"]
    result = second["result"]
    assert isinstance(result, dict)
    assert (result["capabilities"], result["info"]) == ({}, {})


# -- Errors ------------------------------------------------------------------------------


def test_codes_of_the_reserved_range_are_those_of_the_specification() -> None:
    reserved = {code.value for code in ErrorCode if -32099 <= code <= -32000}
    assert reserved == {-32002, -32020, -32021, -32022}
    assert all(not -32768 <= code <= -32000 for code in PeerErrorCode)


async def test_the_older_code_of_a_missing_resource_is_understood() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer, "resources/read")
        request = await wire.receive_request()
        error = ErrorResponse(request.id, ErrorObject(-32002, "no such resource"))
        await wire.send(error)
        assert isinstance(asked.outcome, RpcError)
        assert asked.outcome.code == ErrorCode.RESOURCE_NOT_FOUND


# -- Cancellation and progress -----------------------------------------------------------


async def test_why_a_request_was_cancelled_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    router = Router()

    @router.method("wait")
    async def wait(ctx: Context) -> None:
        await trio.sleep_forever()

    caplog.set_level(logging.DEBUG, "trio_mcp_transport")
    async with served(router) as client:
        await client.send("wait")
        params = {"requestId": 1, "reason": "the user\nlost patience"}
        await client.channel.send(Notification("notifications/cancelled", params))
        assert await quiet(client.channel)
    (record,) = [each for each in caplog.records if "cancelled" in each.getMessage()]
    assert "the user\\nlost patience" in record.getMessage()


@pytest.mark.parametrize("token", [1.5, None, [], {}, True])
async def test_a_progress_token_is_a_string_or_an_integer(token: object) -> None:
    router = Router()

    @router.method("work")
    async def work(ctx: Context) -> object:
        await ctx.progress(1)
        return {}

    async with served(router) as client:
        answer = await client.ask("work", {"_meta": {"progressToken": token}})
        # Nothing but the answer: no progress is reported to such a token.
        assert isinstance(answer, Response | ErrorResponse)
        assert await quiet(client.channel)
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer, on_progress=lambda _: None)
        request = await wire.receive_request()
        assert isinstance(token_of(request), int)
        asked.scope.cancel()


async def test_progress_stops_with_the_answer() -> None:
    router = Router()
    later = trio.Event()

    @router.method("work")
    async def work(ctx: Context) -> object:
        await ctx.progress(1)

        async def go_on() -> None:
            await later.wait()
            await ctx.progress(2)

        ctx.peer.start_soon(go_on, "work")
        return {}

    async with served(router) as client:
        await client.send("work", {"_meta": {"progressToken": "t"}})
        assert isinstance(await client.channel.receive(), Notification)
        assert isinstance(await client.channel.receive(), Response)
        later.set()
        assert await quiet(client.channel)


# -- Input -------------------------------------------------------------------------------


def make_asker() -> Router:
    router = Router("server", "1", capabilities={"tools": {}})

    @router.method("tools/call")
    async def call(ctx: Context) -> object:
        answers = await ctx.ask({"who": ELICIT, "why": ELICIT})
        return {"content": [], "got": sorted(answers)}

    return router


async def ask_round(
    client: Served, request_id: int, **params: object
) -> tuple[dict[str, object], dict[str, object]]:
    answer = plain(
        await result_of(client, "tools/call", modern({"name": "t", **params}), request_id)
    )
    result = answer["result"]
    assert isinstance(result, dict)
    retry = {"requestState": result["requestState"]} if "requestState" in result else {}
    return result, retry


async def test_answers_that_nobody_asked_for_are_ignored() -> None:
    async with served(make_asker()) as client:
        _, retry = await ask_round(client, 1)
        responses = {"who": ALICE, "why": ALICE, "extra": {"any": "thing"}}
        result, _ = await ask_round(client, 2, inputResponses=responses, **retry)
        assert result["resultType"] == "complete"
        assert result["got"] == ["who", "why"]


async def test_answers_that_are_missing_are_asked_for_again() -> None:
    async with served(make_asker()) as client:
        _, retry = await ask_round(client, 1)
        result, retry = await ask_round(client, 2, inputResponses={"who": ALICE}, **retry)
        assert result["resultType"] == "input_required"
        requests = result["inputRequests"]
        assert isinstance(requests, dict)
        assert list(requests) == ["why"]
        result, _ = await ask_round(client, 3, inputResponses={"why": ALICE}, **retry)
        assert result["got"] == ["who", "why"]


def test_what_is_asked_has_inputs_or_a_state() -> None:
    with pytest.raises(ValueError, match="inputs or a state"):
        InputRequired({})
    assert InputRequired({}, state=0).state == 0


async def test_calls_side_by_side_keep_their_states_apart() -> None:
    ours, theirs = memory_channel_pair()
    seen: dict[str, list[object]] = {"a": [], "b": []}
    both = trio.Event()

    async def serve(ctx: Context, message: object) -> object:
        assert isinstance(message, Request)
        params = message.params_as(dict[str, object])
        if message.method == "server/discover":
            return {"supportedVersions": [MODERN], "capabilities": {}}
        name = params["name"]
        assert isinstance(name, str)
        seen[name].append(params.get("requestState"))
        if len(seen["a"]) and len(seen["b"]):
            both.set()
        await both.wait()
        if len(seen[name]) == 1:
            return {"resultType": "input_required", "requestState": f"state of {name}"}
        return {"resultType": "complete"}

    async with Peer(theirs, Router(dispatch=serve)), Peer(ours, Router()) as client:
        await negotiate(client, client_info=INFO)
        async with trio.open_nursery() as nursery:
            for name in seen:
                nursery.start_soon(client.request, "tools/call", {"name": name})
    assert seen == {"a": [None, "state of a"], "b": [None, "state of b"]}


# -- Subscriptions -----------------------------------------------------------------------


async def test_only_what_was_asked_for_is_told_and_only_that_cancelled() -> None:
    hub = Hub()
    capabilities: dict[str, object] = {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
    }
    router = Router("server", "1", capabilities=capabilities, hub=hub)

    @router.method("wait")
    async def wait(ctx: Context) -> None:
        await trio.sleep_forever()

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(served(router))
        await client.send("wait", modern({}), 1)
        wanted = {"notifications": {"toolsListChanged": True}}
        await client.send("subscriptions/listen", modern(wanted), 2)
        acknowledged = await client.channel.receive()
        assert isinstance(acknowledged, Notification)
        hub.changed("prompts")
        hub.changed("tools")
        changed = await client.channel.receive()
        assert isinstance(changed, Notification)
        assert changed.method == "notifications/tools/list_changed"
        # The client gives up a request of its own: nothing comes for it, a cancel least of all.
        await client.cancel(1)
        assert await quiet(client.channel)
        hub.close()
        ended = plain(await client.channel.receive())
        assert ended["method"] == "notifications/cancelled"
        assert ended["params"] == {"requestId": 2}
        assert plain(await client.channel.receive())["id"] == 2
        assert await quiet(client.channel)
