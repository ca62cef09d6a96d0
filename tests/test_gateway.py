"""Stdio servers behind HTTP: real HTTP on one side, children in the test's hands on the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import msgspec
import pytest
import trio

from trio_mcp_transport import (
    ChannelEvent,
    ConfigurationError,
    ConnectFailed,
    ErrorObject,
    ErrorResponse,
    MemoryChannel,
    Message,
    MessageChannel,
    Notification,
    Request,
    Response,
    RestartPolicy,
    memory_channel_pair,
    open_channel,
    serve_channels,
)
from trio_mcp_transport.gateway import Gateway

pytestmark = [pytest.mark.peer, pytest.mark.integration]

KEY = "io.modelcontextprotocol/"
META: dict[str, object] = {
    KEY + "protocolVersion": "2026-07-28",
    KEY + "clientInfo": {"name": "test", "version": "1"},
    KEY + "clientCapabilities": {},
}
INITIALIZE = Request(
    "init",
    "initialize",
    {
        "protocolVersion": "2025-11-25",
        "capabilities": {"roots": {}},
        "clientInfo": {"name": "test", "version": "1"},
    },
)
INITIALIZED = Notification("notifications/initialized")
AGREED = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "serverInfo": {"name": "child", "version": "1"},
}


def modern(id_: int | str, method: str, **meta: object) -> Request:
    params: dict[str, object] = {"_meta": META | meta}
    if method == "tools/call":
        params["name"] = "tool"
    return Request(id_, method, params)


def plain(message: Message) -> dict[str, object]:
    """A message as a client would read it."""
    return msgspec.json.decode(msgspec.json.encode(message), type=dict[str, object])


class WithMeta(msgspec.Struct):
    meta: dict[str, object] = msgspec.field(name="_meta")


def meta_of(request: Request) -> dict[str, object]:
    return request.params_as(WithMeta).meta


class Children:
    """Starts children that are the test itself: `started` gives the server's end of each."""

    def __init__(self) -> None:
        self._send, self.started = trio.open_memory_channel[MemoryChannel](100)
        self.count = 0
        self.failing = False

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[MessageChannel]:
        if self.failing:
            raise ConnectFailed("no such program")
        ours, theirs = memory_channel_pair()
        self.count += 1
        self._send.send_nowait(theirs)
        async with ours:
            yield ours

    async def next(self) -> MemoryChannel:
        with trio.fail_after(20):
            return await self.started.receive()


class Bed(NamedTuple):
    """A gateway that is served, and what it told."""

    url: str
    children: Children
    events: list[ChannelEvent]


@asynccontextmanager
async def serving(query: str = "", **options: object) -> AsyncGenerator[Bed]:
    children = Children()
    events: list[ChannelEvent] = []
    gateway = Gateway(
        children.open,
        client_info={"name": "gateway", "version": "1"},
        on_event=events.append,
        restart=RestartPolicy(initial_delay=0.01),
        **options,  # type: ignore[arg-type]
    )
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        async with trio.open_nursery() as serving_:
            (url,) = await serving_.start(
                partial(
                    serve_channels,
                    gateway.serve,
                    f"http://127.0.0.1:0/mcp{query}",
                    http="session",
                    header_schema=gateway.header_schema,
                    on_event=events.append,
                    stop=stop,
                )
            )
            nursery.cancel_scope.deadline = trio.current_time() + 30
            try:
                yield Bed(url, children, events)
            finally:
                stop.set()
        gateway.stop()
    assert not nursery.cancel_scope.cancelled_caught  # it ended by itself


async def begin(client: MessageChannel, children: Children) -> MemoryChannel:
    """Begin a legacy session; returns its child."""
    await client.send(INITIALIZE)
    child = await children.next()
    asked = await child.receive()
    assert isinstance(asked, Request)
    assert plain(asked)["params"] == INITIALIZE.params
    await child.send(Response(asked.id, AGREED))
    answer = await client.receive()
    assert plain(answer) == {"jsonrpc": "2.0", "id": "init", "result": AGREED}
    await client.send(INITIALIZED)
    assert await child.receive() == INITIALIZED
    return child


async def ask(client: MessageChannel, child: MessageChannel, request: Request) -> Request:
    """Send a request; returns it as the child got it."""
    await client.send(request)
    found = await child.receive()
    assert isinstance(found, Request)
    assert found.method == request.method
    return found


# -- legacy sessions -------------------------------------------------------------------


async def test_each_session_has_a_child_of_its_own_that_ends_with_it() -> None:
    async with serving() as bed:
        async with open_channel(bed.url) as first, open_channel(bed.url) as second:
            child_1 = await begin(first, bed.children)
            child_2 = await begin(second, bed.children)
            got_1 = await ask(first, child_1, Request(1, "tools/list"))
            got_2 = await ask(second, child_2, Request(1, "tools/list"))
            await child_2.send(Response(got_2.id, {"of": 2}))
            await child_1.send(Response(got_1.id, {"of": 1}))
            assert plain(await first.receive()) == {"jsonrpc": "2.0", "id": 1, "result": {"of": 1}}
            assert plain(await second.receive()) == {"jsonrpc": "2.0", "id": 1, "result": {"of": 2}}
        for child in (child_1, child_2):
            with pytest.raises(trio.EndOfChannel):
                await child.receive()
        assert bed.children.count == 2
        assert bed.events == []


async def test_ids_and_tokens_come_back_as_they_were() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        child = await begin(client, bed.children)
        for id_ in (7, "7"):
            sent = Request(id_, "tools/call", {"name": "t", "_meta": {"progressToken": "T"}})
            got = await ask(client, child, sent)
            token = meta_of(got)["progressToken"]
            assert token != "T"
            progress = {"progressToken": token, "progress": 1}
            await child.send(Notification("notifications/progress", progress))
            await child.send(Response(got.id, {}))
            told = plain(await client.receive())
            assert told["params"] == {"progressToken": "T", "progress": 1}
            assert plain(await client.receive())["id"] == id_


async def test_what_belongs_to_no_request_travels_with_the_sole_one() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        child = await begin(client, bed.children)
        got = await ask(client, child, Request(5, "tools/call", {"name": "t"}))
        await child.send(Notification("notifications/message", {"level": "info", "data": "x"}))
        note = await client.receive()
        assert note.related_to == 5
        await child.send(Response(got.id, {}))
        assert plain(await client.receive())["id"] == 5


async def test_what_belongs_to_nothing_comes_on_the_stream_of_the_session() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        child = await begin(client, bed.children)
        await child.send(Notification("notifications/tools/list_changed"))
        note = await client.receive()
        assert isinstance(note, Notification)
        assert note.related_to is None


async def test_the_child_asks_its_client_and_is_answered() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        child = await begin(client, bed.children)
        got = await ask(client, child, Request(5, "tools/call", {"name": "t"}))
        await child.send(Request("q", "roots/list"))
        asked = await client.receive()
        assert isinstance(asked, Request)
        await client.send(Response(asked.id, {"roots": []}))
        assert plain(await child.receive()) == {
            "jsonrpc": "2.0",
            "id": "q",
            "result": {"roots": []},
        }
        await child.send(Response(got.id, {}))
        assert plain(await client.receive())["id"] == 5


async def test_the_child_is_answered_though_the_request_it_asked_on_is_over() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        child = await begin(client, bed.children)
        got = await ask(client, child, Request(5, "tools/call", {"name": "t"}))
        await child.send(Request("q", "roots/list"))
        asked = await client.receive()
        assert isinstance(asked, Request)
        await child.send(Response(got.id, {}))
        assert plain(await client.receive())["id"] == 5
        await client.send(Response(asked.id, {"roots": []}))
        assert plain(await child.receive())["id"] == "q"


async def test_a_cancel_reaches_the_child_with_the_id_it_knows() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        child = await begin(client, bed.children)
        got = await ask(client, child, Request("five", "tools/call", {"name": "t"}))
        cancelled = Notification("notifications/cancelled", {"requestId": "five", "reason": "r"})
        await client.send(cancelled)
        told = plain(await child.receive())
        assert told["params"] == {"requestId": got.id, "reason": "r"}
        # The session goes on, and a late answer is nobody's.
        await child.send(Response(got.id, {}))
        after = await ask(client, child, Request(6, "ping"))
        await child.send(Response(after.id, {}))
        # The client's own channel may say that the stream of the request ended without one.
        answer = await client.receive()
        if isinstance(answer, ErrorResponse) and answer.id == "five":
            answer = await client.receive()
        assert plain(answer) == {"jsonrpc": "2.0", "id": 6, "result": {}}


async def test_a_child_that_dies_takes_its_session_and_no_other() -> None:
    async with serving() as bed:
        async with open_channel(bed.url) as first, open_channel(bed.url) as second:
            child_1 = await begin(first, bed.children)
            child_2 = await begin(second, bed.children)
            await ask(first, child_1, Request(1, "tools/list"))
            await child_1.aclose()
            failed = await first.receive()
            assert isinstance(failed, ErrorResponse)
            assert failed.id == 1
            got = await ask(second, child_2, Request(1, "tools/list"))
            await child_2.send(Response(got.id, {}))
            assert isinstance(await second.receive(), Response)
            # 404 for the session that is gone: the client begins another.
            await first.send(Request(2, "tools/list"))
            child_3 = await bed.children.next()
            again = await child_3.receive()
            assert isinstance(again, Request)
            assert again.method == "initialize"
            await child_3.send(Response(again.id, AGREED))
            assert await child_3.receive() == INITIALIZED
            # What got the 404 was not run, so it may be.
            retried = await child_3.receive()
            assert isinstance(retried, Request)
            assert retried.method == "tools/list"
            await child_3.send(Response(retried.id, {}))
            assert plain(await first.receive())["id"] == 2
        assert [event.name for event in bed.events if event.name.startswith("child")] == [
            "child.ended"
        ]


async def test_a_child_that_refuses_initialize_begins_no_session() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        await client.send(INITIALIZE)
        child = await bed.children.next()
        asked = await child.receive()
        assert isinstance(asked, Request)
        await child.send(ErrorResponse(asked.id, ErrorObject(-32602, "not you")))
        refused = await client.receive()
        assert isinstance(refused, ErrorResponse)
        assert (refused.id, refused.error.code) == ("init", -32602)
        with pytest.raises(trio.EndOfChannel):
            await child.receive()


async def test_a_command_that_cannot_be_started_is_an_error_for_the_client() -> None:
    async with serving() as bed:
        bed.children.failing = True
        async with open_channel(bed.url) as client:
            await client.send(INITIALIZE)
            refused = await client.receive()
            assert isinstance(refused, ErrorResponse)
            assert refused.error.message == "the server could not be started"
        assert "child.failed" in [event.name for event in bed.events]


async def test_sessions_wait_for_a_place() -> None:
    async with serving(max_children=1) as bed, open_channel(bed.url) as second:
        async with open_channel(bed.url) as first:
            await begin(first, bed.children)
            await second.send(INITIALIZE)
            await trio.testing.wait_all_tasks_blocked()
            assert bed.children.count == 1
        child = await bed.children.next()
        asked = await child.receive()
        assert isinstance(asked, Request)
        await child.send(Response(asked.id, AGREED))
        assert isinstance(await second.receive(), Response)


# -- modern exchanges ------------------------------------------------------------------


async def test_modern_clients_share_a_child_and_do_not_meet() -> None:
    async with serving() as bed:
        async with open_channel(bed.url) as first, open_channel(bed.url) as second:
            await first.send(modern(1, "tools/call", progressToken="T"))
            child = await bed.children.next()
            got_1 = await child.receive()
            assert isinstance(got_1, Request)
            got_2 = await ask(second, child, modern(1, "tools/call", progressToken="T"))
            assert got_1.id != got_2.id
            meta = meta_of(got_2)
            assert meta.keys() == {*META, "progressToken"}
            progress = {"progressToken": meta["progressToken"], "progress": 1}
            await child.send(Notification("notifications/progress", progress))
            told = plain(await second.receive())
            assert told["params"] == {"progressToken": "T", "progress": 1}
            await child.send(Response(got_1.id, {"of": 1}))
            await child.send(Response(got_2.id, {"of": 2}))
            assert plain(await first.receive())["result"] == {"of": 1}
            assert plain(await second.receive())["result"] == {"of": 2}
        assert bed.children.count == 1


async def test_what_says_not_whose_it_is_goes_to_nobody_where_there_are_two() -> None:
    async with (
        serving() as bed,
        open_channel(bed.url) as first,
        open_channel(bed.url) as second,
    ):
        await first.send(modern(1, "tools/call"))
        child = await bed.children.next()
        got_1 = await child.receive()
        log = Notification("notifications/message", {"level": "info", "data": "secret"})
        await child.send(log)
        assert isinstance(await first.receive(), Notification)
        got_2 = await ask(second, child, modern(1, "tools/call"))
        await child.send(log)
        for got, client in ((got_1, first), (got_2, second)):
            assert isinstance(got, Request)
            await child.send(Response(got.id, {}))
            assert isinstance(await client.receive(), Response)


async def test_a_modern_client_that_goes_away_cancels_what_it_asked_for() -> None:
    async with serving() as bed:
        async with open_channel(bed.url) as client:
            await client.send(modern(1, "tools/call"))
            child = await bed.children.next()
            got = await child.receive()
            assert isinstance(got, Request)
        told = plain(await child.receive())
        assert told["method"] == "notifications/cancelled"
        assert told["params"] == {"requestId": got.id}
        # What comes late belongs to nobody; the child goes on.
        await child.send(Response(got.id, {}))
        async with open_channel(bed.url) as client:
            after = await ask(client, child, modern(1, "tools/list"))
            await child.send(Response(after.id, {"tools": []}))
            assert isinstance(await client.receive(), Response)
        assert bed.children.count == 1


async def test_a_request_of_the_shared_child_is_refused_at_once() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        await client.send(modern(1, "tools/call"))
        child = await bed.children.next()
        got = await child.receive()
        assert isinstance(got, Request)
        await child.send(Request("q", "roots/list"))
        refused = await child.receive()
        assert isinstance(refused, ErrorResponse)
        assert (refused.id, refused.error.code) == ("q", -32601)
        await child.send(Response(got.id, {}))
        assert isinstance(await client.receive(), Response)


async def test_the_shared_child_is_started_again_after_its_death() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        for attempt in range(3):
            await client.send(modern(attempt, "tools/call"))
            child = await bed.children.next()
            assert isinstance(await child.receive(), Request)
            await child.aclose()
            failed = await client.receive()
            assert isinstance(failed, ErrorResponse)
            assert (failed.id, failed.error.message) == (attempt, "the server has ended")
        ended = [event for event in bed.events if event.name == "child.ended"]
        assert len(ended) >= 2
        assert "started again after" in ended[0].message


async def test_a_shared_child_that_cannot_be_started_is_an_error_for_each_request() -> None:
    async with serving() as bed, open_channel(bed.url) as client:
        bed.children.failing = True
        for attempt in range(2):
            await client.send(modern(attempt, "tools/call"))
            failed = await client.receive()
            assert isinstance(failed, ErrorResponse)
            assert failed.error.message == "the server could not be started"
        bed.children.failing = False
        await client.send(modern(9, "tools/call"))
        child = await bed.children.next()
        got = await child.receive()
        assert isinstance(got, Request)
        await child.send(Response(got.id, {}))
        assert isinstance(await client.receive(), Response)


async def test_a_subscription_has_its_own_id_to_the_end_and_just_ends_with_the_child() -> None:
    subscription = KEY + "subscriptionId"
    async with serving() as bed, open_channel(bed.url) as client:
        listen = Request(
            "L",
            "subscriptions/listen",
            {"_meta": META, "notifications": {"toolsListChanged": True}},
        )
        await client.send(listen)
        child = await bed.children.next()
        got = await child.receive()
        assert isinstance(got, Request)
        method = "notifications/subscriptions/acknowledged"
        await child.send(Notification(method, {"_meta": {subscription: got.id}}))
        told = plain(await client.receive())
        assert (told["method"], told["params"]) == (method, {"_meta": {subscription: "L"}})
        # A log message of another's call is not for it.
        await child.send(Notification("notifications/message", {"level": "info", "data": "x"}))
        changed = Notification(
            "notifications/tools/list_changed", {"_meta": {subscription: got.id}}
        )
        await child.send(changed)
        assert plain(await client.receive())["method"] == "notifications/tools/list_changed"
        await child.aclose()
        ended = await client.receive()
        assert isinstance(ended, ErrorResponse)
        assert ended.id == "L"
        assert ended.cause is not None  # no answer came: the stream broke off


async def test_headers_of_tools_that_were_listed_are_checked() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "x-mcp-header": "City"}},
    }
    tool = {"name": "tool", "inputSchema": schema}
    async with serving() as bed, open_channel(bed.url) as client:
        await client.send(modern(1, "tools/list"))
        child = await bed.children.next()
        got = await child.receive()
        assert isinstance(got, Request)
        result = {"resultType": "complete", "tools": [tool], "ttlMs": 0, "cacheScope": "private"}
        await child.send(Response(got.id, result))
        listed = await client.receive()
        assert isinstance(listed, Response)
        # Our client has learnt it as well, and sends the header.
        call = Request(2, "tools/call", {"_meta": META, "name": "tool", "arguments": {"city": "x"}})
        got = await ask(client, child, call)
        await child.send(Response(got.id, {}))
        assert isinstance(await client.receive(), Response)
        # Another has not, and is refused before the child hears of it.
        async with open_channel(bed.url) as other:
            await other.send(call)
            got = await child.receive()  # it listed the tools, as it was told to, and tried again
            assert isinstance(got, Request)
            assert got.method == "tools/list"


async def test_it_must_have_at_least_one_place() -> None:
    await trio.lowlevel.checkpoint()
    with pytest.raises(ConfigurationError, match="max_children must be at least 1"):
        Gateway(Children().open, client_info={"name": "x", "version": "1"}, max_children=0)
