"""Input that a handler asks its client for, in both eras."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
import pytest
import trio
from msgspec import UNSET, Raw

from trio_mcp_transport.abc import ChannelEvent
from trio_mcp_transport.context import Context
from trio_mcp_transport.errors import RpcError
from trio_mcp_transport.jsonrpc import Request
from trio_mcp_transport.lifecycle import InvalidResult, negotiate
from trio_mcp_transport.limits import MAX_INPUT_ROUNDS
from trio_mcp_transport.mrtr import (
    InputRequest,
    InputRequired,
    InputResponses,
    Round,
    StateSealer,
    gather,
    missing_capability,
)
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.pending import Progress
from trio_mcp_transport.router import Router
from trio_mcp_transport.transports.memory import memory_channel_pair

pytestmark = pytest.mark.peer

ELICIT = InputRequest("elicitation/create", {"message": "who?", "requestedSchema": {}})
SAMPLE = InputRequest("sampling/createMessage", {"messages": [], "maxTokens": 1})
ROOTS = InputRequest("roots/list")
ALL: dict[str, object] = {"elicitation": {}, "sampling": {}, "roots": {}}


class Pair:
    """A client and a server that talk to each other."""

    def __init__(self, client: Peer, server: Peer) -> None:
        self.client = client
        self.server = server
        self.events: list[ChannelEvent] = []

    async def call(self, **arguments: object) -> object:
        params = {"name": "tool", "arguments": arguments}
        return await self.client.request("tools/call", params, result_type=dict[str, object])


@asynccontextmanager
async def talking(
    server: Router,
    era: Literal["modern", "legacy"],
    client: Router | None = None,
    capabilities: dict[str, object] | None = None,
) -> AsyncGenerator[Pair]:
    ours, theirs = memory_channel_pair()
    client_peer = Peer(ours, make_client() if client is None else client)
    pair = Pair(client_peer, Peer(theirs, server, on_event=lambda event: pair.events.append(event)))
    async with pair.server, client_peer:
        await negotiate(
            client_peer,
            client_info={"name": "client", "version": "0"},
            client_capabilities=ALL if capabilities is None else capabilities,
            era=era,
        )
        yield pair


def make_client() -> Router:
    router = Router()

    @router.method("elicitation/create")
    async def elicit(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"action": "accept", "content": {"name": "Ada"}}

    @router.method("sampling/createMessage")
    async def sample(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"role": "assistant", "content": {"type": "text", "text": "Paris"}}

    @router.method("roots/list")
    async def roots(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"roots": []}

    return router


Tool = Callable[[Context], object]


def server_with(tool: Callable[[Context], object], **settings: object) -> Router:
    router = Router("server", "1", capabilities={"tools": {}}, **settings)  # type: ignore[arg-type]
    router.method("tools/call")(tool)  # type: ignore[arg-type]
    return router


def content(result: object) -> object:
    assert isinstance(result, dict)
    return result["content"]


# -- asking -------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_handler_asks_and_goes_on_with_the_answers(
    era: Literal["modern", "legacy"],
) -> None:
    runs = 0

    async def tool(ctx: Context) -> object:
        nonlocal runs
        runs += 1
        answers = await ctx.ask({"who": ELICIT, "roots": ROOTS})
        first = answers.decode("who", dict[str, object])["content"]
        more = await ctx.ask({"what": SAMPLE})
        return {"content": [first, msgspec.json.decode(more["what"])["content"], sorted(more)]}

    async with talking(server_with(tool), era) as pair:
        assert content(await pair.call()) == [
            {"name": "Ada"},
            {"type": "text", "text": "Paris"},
            ["roots", "what", "who"],
        ]
        assert runs == (3 if era == "modern" else 1)
        assert pair.events == []
        # A modern server sends no requests at all.
        assert pair.server.statistics().requests_sent == (0 if era == "modern" else 3)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_handler_keeps_state_of_its_own_over_the_rounds(
    era: Literal["modern", "legacy"],
) -> None:
    async def tool(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        step = 0 if ctx.request_state is None else msgspec.json.decode(ctx.request_state)["step"]
        if step == 0:
            raise InputRequired({"who": ELICIT}, {"step": 1})
        if step == 1:
            raise InputRequired({}, {"step": 2})
        return {"content": [step, sorted(ctx.input_responses)]}

    async with talking(server_with(tool), era) as pair:
        assert content(await pair.call()) == [2, ["who"]]


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_handler_may_ask_out_of_a_nursery(era: Literal["modern", "legacy"]) -> None:
    async def tool(ctx: Context) -> object:
        found: list[str] = []

        async def ask() -> None:
            found.extend(await ctx.ask({"who": ELICIT}))

        async with trio.open_nursery() as nursery:  # noqa: ASYNC112
            nursery.start_soon(ask)
        return {"content": found}

    async with talking(server_with(tool), era) as pair:
        assert content(await pair.call()) == ["who"]


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_an_endless_asker_is_stopped(era: Literal["modern", "legacy"]) -> None:
    runs = 0

    async def tool(ctx: Context) -> object:
        nonlocal runs
        runs += 1
        await trio.lowlevel.checkpoint()
        raise InputRequired({f"q{runs}": ELICIT})

    async with talking(server_with(tool), era) as pair:
        with pytest.raises(RpcError, match="to no end"):
            await pair.call()
        assert runs == MAX_INPUT_ROUNDS + 1


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_only_what_the_client_declared_is_asked_for(
    era: Literal["modern", "legacy"],
) -> None:
    async def tool(ctx: Context) -> object:
        await ctx.ask({"who": ELICIT, "what": SAMPLE, "roots": ROOTS})
        return {}

    async with talking(server_with(tool), era, capabilities={"roots": {}}) as pair:
        with pytest.raises(RpcError) as caught:
            await pair.call()
        assert caught.value.code == -32021
        assert caught.value.data == {
            "requiredCapabilities": {"elicitation": {"form": {}}, "sampling": {}}
        }
        assert pair.server.statistics().requests_sent == 0


async def test_other_methods_cannot_ask_a_modern_client() -> None:
    router = Router("server", "1")

    @router.method("completion/complete")
    async def complete(ctx: Context) -> object:
        return await ctx.ask({"who": ELICIT})

    events: list[ChannelEvent] = []
    async with talking(router, "modern") as pair:
        with pytest.raises(RpcError) as caught:
            await pair.client.request("completion/complete")
        assert caught.value.code == -32603
        events = pair.events
    assert [event.name for event in events] == ["handler.failed"]


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_client_s_refusal_reaches_its_own_caller_or_the_server(
    era: Literal["modern", "legacy"],
) -> None:
    client = Router()

    @client.method("elicitation/create")
    async def elicit(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        raise RpcError(-1, "the user said no")

    async def tool(ctx: Context) -> object:
        try:
            await ctx.ask({"who": ELICIT, "again": ELICIT})
        except RpcError as error:
            return {"content": [str(error)]}
        return {}

    async with talking(server_with(tool), era, client) as pair:
        if era == "legacy":
            assert content(await pair.call()) == ["the user said no (-1)"]
        else:
            with pytest.raises(RpcError, match="the user said no"):
                await pair.call()


class Sent(msgspec.Struct):
    name: str
    meta: dict[str, object] = msgspec.field(name="_meta")
    requestState: str | None = None  # ruff: ignore[mixed-case-variable-in-class-scope]
    inputResponses: dict[str, object] = {}  # ruff: ignore[mixed-case-variable-in-class-scope]


async def test_each_retry_has_a_new_id_and_a_new_token_and_the_exact_state() -> None:
    ours, theirs = memory_channel_pair()
    seen: list[Request] = []
    states = ["ä/+=", None, "last"]

    async def serve(ctx: Context, message: object) -> object:
        await trio.lowlevel.checkpoint()
        assert isinstance(message, Request)
        if message.method == "server/discover":
            return {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        seen.append(message)
        if len(seen) > len(states):
            return {"resultType": "complete"}
        result: dict[str, object] = {"resultType": "input_required", "inputRequests": {"q": ELICIT}}
        if states[len(seen) - 1] is not None:
            result["requestState"] = states[len(seen) - 1]
        return result

    async with Peer(theirs, Router(dispatch=serve)), Peer(ours, make_client()) as client:
        await negotiate(client, client_info={"name": "c", "version": "0"}, client_capabilities=ALL)
        progress: list[Progress] = []
        await client.request(
            "tools/call",
            {"name": "x", "requestState": "mine"},
            on_progress=progress.append,
            id="first",
        )
    assert len({request.id for request in seen}) == 4
    assert seen[0].id == "first"
    params = [request.params_as(Sent) for request in seen]
    assert len({repr(one.meta["progressToken"]) for one in params}) == 4
    assert [one.requestState for one in params] == ["mine", "ä/+=", None, "last"]
    assert [list(one.inputResponses) for one in params] == [[], ["q"], ["q"], ["q"]]
    assert all(one.name == "x" for one in params)


@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "surprise"},
        {"resultType": 7},
        {"resultType": "input_required"},
        {"resultType": "input_required", "inputRequests": {"q": {"method": "tools/call"}}},
        {"resultType": "input_required", "inputRequests": {"q": {"method": "roots/list"}}},
        {"resultType": "input_required", "inputRequests": {"q": 1}},
        {"resultType": "input_required", "inputRequests": {}, "requestState": 1},
        [1],
    ],
)
async def test_a_result_that_breaks_the_protocol_is_invalid(result: object) -> None:
    async def tool(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return result

    server = Router(dispatch=lambda ctx, message: serve(ctx, message))

    async def serve(ctx: Context, message: object) -> object:
        if isinstance(message, Request) and message.method == "server/discover":
            return {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        return await tool(ctx)

    async with talking(server, "modern", capabilities={"elicitation": {}}) as pair:
        with pytest.raises(InvalidResult):
            await pair.call()


async def test_a_client_gives_up_on_a_server_that_never_has_enough() -> None:
    count = 0

    async def serve(ctx: Context, message: object) -> object:
        nonlocal count
        await trio.lowlevel.checkpoint()
        assert isinstance(message, Request)
        if message.method == "server/discover":
            return {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        count += 1
        return {"resultType": "input_required", "requestState": "again"}

    async with talking(Router(dispatch=serve), "modern") as pair:
        with pytest.raises(InvalidResult, match="more than"):
            await pair.call()
        assert count == MAX_INPUT_ROUNDS + 1
        with pytest.raises(InvalidResult, match="must not ask"):
            await pair.client.request("tools/list")


async def test_a_client_without_a_router_cannot_be_asked() -> None:
    async def tool(ctx: Context) -> object:
        await ctx.ask({"who": ELICIT})
        return {}

    ours, theirs = memory_channel_pair()
    async with Peer(theirs, server_with(tool)), Peer(ours) as client:
        await negotiate(client, client_info={"name": "c", "version": "0"}, client_capabilities=ALL)
        with pytest.raises(InvalidResult, match="no router"):
            await client.request("tools/call", {"name": "x"})


# -- the sealed state ---------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


PARAMS = Raw(b'{"name":"x","arguments":{"a":1,"b":2},"_meta":{"p":1}}')


def sealed_params(
    sealer: StateSealer,
    needed: InputRequired | None = None,
    *,
    round_: Round | None = None,
    principal: str | None = "uid:1",
    method: str = "tools/call",
    params: Raw = PARAMS,
    responses: dict[str, object] | None = None,
    change: Callable[[str], str] = str,
) -> Raw:
    """The params of a retry."""
    result = sealer.result(
        needed or InputRequired({"q": ELICIT}, {"k": 1}),
        round_ or Round(),
        method=method,
        params=params,
        principal=principal,
    )
    state = result["requestState"]
    assert isinstance(state, str)
    return Raw(
        msgspec.json.encode({
            "arguments": {"b": 2, "a": 1},  # the order of keys is nobody's business
            "name": "x",
            "requestState": change(state),
            "inputResponses": {"q": 5, "unasked": 6} if responses is None else responses,
        })
    )


def test_state_comes_back_with_the_answers_that_were_asked_for() -> None:
    sealer = StateSealer(b"k" * 32, Clock())
    found = sealer.read_round("tools/call", sealed_params(sealer), "uid:1")
    assert found.number == 1
    assert dict(found.responses) == {"q": Raw(b"5")}
    assert found.state == Raw(b'{"k":1}')
    again = sealed_params(sealer, InputRequired({"r": ELICIT}), round_=found, responses={"r": 7})
    found = sealer.read_round("tools/call", again, "uid:1")
    assert found.number == 2
    assert dict(found.responses) == {"q": Raw(b"5"), "r": Raw(b"7")}
    assert found.state is UNSET


def test_answers_without_state_are_taken_as_they_are() -> None:
    sealer = StateSealer(b"k" * 32, Clock())
    found = sealer.read_round("tools/call", Raw(b'{"inputResponses":{"q":1}}'), None)
    assert (found.number, dict(found.responses)) == (0, {"q": Raw(b"1")})
    assert sealer.read_round("tools/call", Raw(b"{}"), None).number == 0


def flip(state: str) -> str:
    raw = bytearray(base64.urlsafe_b64decode(state))
    raw[40] ^= 1
    return base64.urlsafe_b64encode(raw).decode()


@pytest.mark.parametrize(
    "change",
    [
        flip,
        lambda state: "",
        lambda state: state[:20],
        lambda state: "ä" + state,
        lambda state: state + "!",
        lambda state: state + 70_000 * "A",
        lambda state: state.replace(state[0], "_" if state[0] != "_" else "-", 1),
    ],
)
def test_a_changed_state_is_refused(change: Callable[[str], str]) -> None:
    sealer = StateSealer(b"k" * 32, Clock())
    with pytest.raises(RpcError, match="not valid") as caught:
        sealer.read_round("tools/call", sealed_params(sealer, change=change), "uid:1")
    assert caught.value.code == -32602


def test_a_state_is_good_only_for_its_principal_method_params_time_and_key() -> None:
    clock = Clock()
    sealer = StateSealer(b"k" * 32, clock, lifetime=60)
    good = sealed_params(sealer)
    sealer.read_round("tools/call", good, "uid:1")
    other = msgspec.json.decode(good)
    other["arguments"]["a"] = 2
    cases: list[tuple[StateSealer, str, Raw, str | None]] = [
        (sealer, "tools/call", good, "uid:2"),
        (sealer, "tools/call", good, None),
        (sealer, "prompts/get", good, "uid:1"),
        (sealer, "tools/call", Raw(msgspec.json.encode(other)), "uid:1"),
        (StateSealer(b"x" * 32, clock), "tools/call", good, "uid:1"),
    ]
    for opener, method, params, principal in cases:
        with pytest.raises(RpcError, match="not valid"):
            opener.read_round(method, params, principal)
    clock.now += 59
    sealer.read_round("tools/call", good, "uid:1")
    clock.now += 2
    with pytest.raises(RpcError, match="not valid"):
        sealer.read_round("tools/call", good, "uid:1")


def test_retry_fields_of_a_wrong_type_are_invalid_params() -> None:
    sealer = StateSealer(b"k" * 32, Clock())
    for wrong in (b'{"requestState":1}', b'{"inputResponses":[]}', b"[]"):
        with pytest.raises(RpcError) as caught:
            sealer.read_round("tools/call", Raw(wrong), None)
        assert caught.value.code == -32602


def test_a_state_has_a_largest_size() -> None:
    sealer = StateSealer(b"k" * 32, Clock())
    with pytest.raises(RpcError, match="over the limit"):
        sealed_params(sealer, InputRequired({}, "x" * 64 * 1024))
    with pytest.raises(ValueError, match="32 bytes"):
        StateSealer(b"short", Clock())


async def test_a_tampered_state_is_refused_on_the_wire() -> None:
    async def tool(ctx: Context) -> object:
        await ctx.ask({"who": ELICIT})
        return {}

    async with talking(server_with(tool), "modern") as pair:
        with pytest.raises(RpcError) as caught:
            await pair.client.request("tools/call", {"name": "x", "requestState": "forged"})
        assert caught.value.code == -32602


# -- parts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "capabilities", "missing"),
    [
        (ROOTS, {"roots": {}}, None),
        (ROOTS, {}, {"roots": {}}),
        (SAMPLE, {"sampling": {}}, None),
        (
            InputRequest("sampling/createMessage", {"tools": []}),
            {"sampling": {}},
            {"sampling": {"tools": {}}},
        ),
        (InputRequest("sampling/createMessage", {"tools": []}), {"sampling": {"tools": {}}}, None),
        (ELICIT, {"elicitation": {}}, None),
        (ELICIT, {"elicitation": {"form": {}}}, None),
        (ELICIT, {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        (
            InputRequest("elicitation/create", {"mode": "url"}),
            {"elicitation": {}},
            {"elicitation": {"url": {}}},
        ),
        (InputRequest("elicitation/create", {"mode": "url"}), {"elicitation": {"url": {}}}, None),
    ],
)
def test_what_a_client_must_have_declared(
    request_: InputRequest, capabilities: dict[str, object], missing: object
) -> None:
    assert missing_capability(request_, capabilities) == missing


def test_clients_can_be_asked_for_three_things_only() -> None:
    with pytest.raises(ValueError, match="tools/call"):
        missing_capability(InputRequest("tools/call"), ALL)
    with pytest.raises(ValueError, match="inputs or a state"):
        InputRequired({})


def test_an_answer_of_another_type_is_the_client_s_fault() -> None:
    answers = InputResponses({"a": Raw(b"1")})
    assert answers.decode("a", int) == 1
    with pytest.raises(RpcError) as caught:
        answers.decode("a", str)
    assert caught.value.code == -32602
    with pytest.raises(KeyError):
        answers.decode("b", int)
    assert "Raw" not in repr(answers)


async def test_gathering_keeps_order_and_raises_the_first_failure_bare(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def wait(seconds: float) -> Raw:
        await trio.sleep(seconds)
        return Raw(str(seconds).encode())

    async def fail() -> Raw:
        await trio.sleep(1)
        raise RpcError(1, "first")

    found = await gather({"b": lambda: wait(3), "a": lambda: wait(1)})
    assert list(found.items()) == [("b", Raw(b"3")), ("a", Raw(b"1"))]
    start = trio.current_time()
    with pytest.raises(RpcError, match="first"):
        await gather({"a": lambda: wait(100), "b": fail})
    assert trio.current_time() - start == pytest.approx(1)
