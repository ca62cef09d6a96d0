"""How an exchange ends: for its handler, and in memory."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import trio
from http_served import serving
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_mcp_transport import MessageChannel, Notification, Request, Response
from trio_mcp_transport.transports.http_channel import HttpServerChannel

RESULT: dict[str, object] = {"content": []}


async def answer_all(channel: MessageChannel) -> None:
    async for message in channel:
        assert isinstance(message, Request)
        await channel.send(Response(message.id, RESULT))


async def test_an_exchange_that_is_over_does_not_wait_for_the_garbage_collector() -> None:
    channels: list[weakref.ref[MessageChannel]] = []

    async def answer(channel: MessageChannel) -> None:
        channels.append(weakref.ref(channel))
        await answer_all(channel)

    async with serving(answer) as served:
        client = served.connect()
        gc.disable()
        try:
            for number in range(3):
                await client.call(id=number)
                assert (await client.json())[0] == 200
            await wait_all_tasks_blocked()
            assert [channel() for channel in channels] == [None] * 3
        finally:
            gc.enable()


async def test_messages_behind_the_first_are_received_with_a_checkpoint() -> None:
    received = 0

    async def answer(channel: MessageChannel) -> None:
        nonlocal received
        assert isinstance(channel, HttpServerChannel)
        request = await channel.receive()
        assert isinstance(request, Request)
        for name in ("one", "two"):
            channel.deliver(Notification(name), 0)
        for name in ("one", "two"):
            with assert_checkpoints():
                message = await channel.receive()
            assert message == Notification(name)
            received += 1
        await channel.send(Response(request.id, RESULT))

    async with serving(answer) as served:
        client = served.connect()
        await client.call()
        assert (await client.json())[0] == 200
        assert received == 2


async def test_a_message_that_the_first_call_did_not_take_is_received_with_a_checkpoint() -> None:
    async def answer(channel: MessageChannel) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.receive()
        assert scope.cancelled_caught
        with assert_checkpoints():
            request = await channel.receive()
        assert isinstance(request, Request)
        await channel.send(Response(request.id, RESULT))

    async with serving(answer) as served:
        client = served.connect()
        await client.call()
        assert (await client.json())[0] == 200


async def test_the_end_of_an_exchange_is_a_checkpoint_from_the_second_time_on() -> None:
    ends = 0

    async def answer(channel: MessageChannel) -> None:
        nonlocal ends
        request = await channel.receive()
        assert isinstance(request, Request)
        await channel.send(Response(request.id, RESULT))
        for _ in range(3):
            checking = assert_checkpoints() if ends else contextlib.nullcontext()
            with checking, pytest.raises(trio.EndOfChannel):
                await channel.receive()
            ends += 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.receive()
        assert scope.cancelled_caught

    async with serving(answer) as served:
        await served.connect().call()
        await wait_all_tasks_blocked()
        assert ends == 3
