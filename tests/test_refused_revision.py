"""A server that served a revision a moment ago refuses it (-32022)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec import Raw

from trio_mcp_transport.errors import RpcError
from trio_mcp_transport.jsonrpc import ErrorObject, ErrorResponse, Message, Request, Response
from trio_mcp_transport.lifecycle import negotiate
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.transports.memory import memory_channel_pair

pytestmark = pytest.mark.peer

MODERN = "2026-07-28"
INFO = {"name": "client", "version": "0"}


class Script:
    """A server by hand: the answers to what comes, in order."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Message:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, ErrorObject):
            return ErrorResponse(request.id, answer)
        return Response(request.id, answer)


def refusal(*supported: str) -> ErrorObject:
    return ErrorObject(-32022, "no", {"supported": list(supported), "requested": MODERN})


DISCOVERED = {"supportedVersions": [MODERN], "capabilities": {}}


@asynccontextmanager
async def client_of(script: Script) -> AsyncGenerator[Peer]:
    ours, theirs = memory_channel_pair()

    async def serve() -> None:
        async for message in theirs:
            assert isinstance(message, Request)
            await theirs.send(script.answer(message))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)  # noqa: ASYNC113 (what is sent before waits in the channel)
        async with Peer(ours) as peer:
            yield peer
        nursery.cancel_scope.cancel()
    await theirs.aclose()


async def test_the_probe_is_sent_once_more_if_the_server_contradicts_itself() -> None:
    script = Script(refusal(MODERN), DISCOVERED)
    async with client_of(script) as peer:
        found = await negotiate(peer, client_info=INFO)
    assert found.revision == MODERN
    assert [request.method for request in script.requests] == ["server/discover"] * 2
    assert script.requests[0].id != script.requests[1].id


async def test_a_request_is_sent_again_with_a_revision_that_both_know() -> None:
    script = Script(DISCOVERED, refusal("2099-01-01", MODERN), {"ok": 1})
    async with client_of(script) as peer:
        await negotiate(peer, client_info=INFO)
        assert await peer.request("x", {"a": 1}, id="mine") == Raw(b'{"ok":1}')
    _, first, second = script.requests
    assert first.id == "mine"
    assert second.id != "mine"
    assert first.params == second.params


async def test_a_request_is_sent_again_once() -> None:
    script = Script(DISCOVERED, refusal(MODERN), refusal(MODERN))
    async with client_of(script) as peer:
        await negotiate(peer, client_info=INFO)
        with pytest.raises(RpcError) as caught:
            await peer.request("x")
    assert caught.value.code == -32022
    assert not script.answers


@pytest.mark.parametrize(
    "error", [refusal("2099-01-01"), refusal("2025-11-25"), ErrorObject(-32602, "no")]
)
async def test_with_nothing_in_common_the_error_is_raised(error: ErrorObject) -> None:
    script = Script(DISCOVERED, error)
    async with client_of(script) as peer:
        await negotiate(peer, client_info=INFO)
        with pytest.raises(RpcError):
            await peer.request("x")
    assert not script.answers
