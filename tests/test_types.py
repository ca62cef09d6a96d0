"""What a type checker makes of the public API. mypy checks this file; running it is little."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import assert_type

import msgspec
import pytest
import trio
from msgspec import Raw

from trio_mcp_transport import (
    ChannelStatistics,
    ConnectionLost,
    Context,
    Endpoint,
    ErrorResponse,
    Features,
    Message,
    MessageChannel,
    Notification,
    Peer,
    Request,
    Response,
    Router,
    TcpEndpoint,
    decode_message,
    encode_message,
    features,
    memory_channel_pair,
    open_channel,
    open_peer,
    parse_endpoint,
)
from trio_mcp_transport.sansio import (
    EndOfData,
    Frame,
    MessageEvent,
    MessageMachine,
    NeedData,
    NewlineFramer,
)

pytestmark = pytest.mark.project


class Sum(msgspec.Struct):
    total: int


async def channels(endpoint: str) -> None:
    async with open_channel(endpoint, write_timeout=5.0) as channel:
        assert_type(channel, MessageChannel)
        assert_type(await channel.receive(), Message)
        assert_type(await channel.receive_many(), list[Message])
        assert_type(channel.statistics(), ChannelStatistics)
        async for message in channel:
            assert_type(message, Request | Notification | Response | ErrorResponse)
            if isinstance(message, Request):
                assert_type(message.params_as(Sum), Sum)
                assert_type(message.params_as(dict[str, int]), dict[str, int])


async def peers(endpoint: str) -> None:
    async with open_peer(endpoint) as peer:
        assert_type(peer, Peer)
        assert_type(await peer.request("add"), Raw)
        assert_type(await peer.request("add", result_type=Sum), Sum)


async def mistakes(endpoint: str) -> None:
    # mypy reports an ignore that is not needed, so each of these is a mistake it finds.
    async with open_channel(endpoint, write_timout=5.0) as channel:  # type: ignore[call-arg]
        await channel.send({"method": "x"})  # type: ignore[arg-type]
    Request(method="x")  # type: ignore[call-arg]


def routers() -> None:
    router = Router()

    @router.method("add", params=Sum)
    async def add(ctx: Context, params: Sum) -> object:
        await trio.lowlevel.checkpoint()
        return params

    @router.method("plain")
    async def plain(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {}

    assert_type(add, Callable[[Context, Sum], Awaitable[object]])
    assert_type(plain, Callable[[Context], Awaitable[object]])


def machines() -> None:
    machine = MessageMachine(NewlineFramer())
    assert_type(machine.next_event(), MessageEvent | EndOfData | NeedData)
    assert_type(NewlineFramer().next_event(), Frame | EndOfData | NeedData)


def test_plain_values_are_what_they_are_declared_as() -> None:
    assert_type(features(), Features)
    assert_type(decode_message(b'{"jsonrpc":"2.0","method":"x"}'), Message)
    assert_type(encode_message(Notification("x")), bytes)
    assert_type(parse_endpoint("tcp://127.0.0.1:9000"), Endpoint)
    assert_type(TcpEndpoint(host="127.0.0.1", port=9000).port, int)
    assert_type(ConnectionLost("x").exit_status, int | None)
    routers()
    machines()


async def test_what_is_declared_as_a_channel_is_one() -> None:
    left, right = memory_channel_pair()
    async with left, right:
        assert isinstance(left, MessageChannel)
        await left.send(Request(1, "x", {"total": 1}))
        received = await right.receive()
        assert isinstance(received, Request)
        assert received.params_as(Sum) == Sum(1)
