"""Random lives of two channels: each message has one outcome, and nothing stays behind."""

from __future__ import annotations

import gc
import itertools
import math
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelBroken,
    ChannelContext,
    ChannelOptions,
    ChannelState,
    ConnectionLost,
    MessageChannel,
    Request,
    StreamChannel,
    memory_channel_pair,
)
from trio_mcp_transport.testing import FaultyStream, cancel_at
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel
from trio_mcp_transport.transports.websocket_reader import WebSocketTiming
from trio_mcp_transport.transports.websocket_settings import WebSocketOptions, make_machine

pytestmark = [pytest.mark.properties, pytest.mark.channel]

#: A bounded outbox of some five messages.
OPTIONS = ChannelOptions(outbox_bytes=400, write_timeout=1000, close_timeout=1000)
ENDS = (trio.EndOfChannel, trio.ClosedResourceError, ChannelBroken)


# -- what can happen --------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One call of one actor.

    Attributes:
        call: What to do.
        count: How many messages, where that counts.
        cancel: Cancel the call when it waits for the so-manieth time; None lets it be.
    """

    call: str
    count: int
    cancel: int | None


def steps(*calls: str) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.builds(
            Step,
            call=st.sampled_from(calls),
            count=st.integers(1, 4),
            cancel=st.one_of(st.none(), st.none(), st.integers(0, 3)),
        ),
        max_size=8,
    )


senders = steps("send", "send", "send", "send_many", "flush")
receivers = steps("receive", "receive", "receive_many")
#: At most one of these in a life, after so many rounds of the scheduler.
endings = st.tuples(
    st.sampled_from(["none", "none", "aclose", "abort", "send_eof", "fail", "kill"]),
    st.integers(0, 30),
    st.one_of(st.none(), st.integers(0, 2)),
)


@dataclass
class Side:
    """One end of the pair and what is known of its messages.

    Attributes:
        channel: The channel.
        kill: Break the connection as the death of the process would.
        accepted: Ids that `send` returned for, by sender, in its order.
        refused: Ids whose send raised or was cancelled.
        received: Ids that arrived from the other side, in order.
    """

    channel: MessageChannel
    kill: Callable[[], Awaitable[None]]
    accepted: dict[int, list[int]] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)


async def run_sender(side: Side, sender: int, life: list[Step]) -> None:
    number = sender * 1000
    accepted = side.accepted.setdefault(sender, [])
    for step in life:
        if step.call == "flush":
            with suppress(*ENDS):
                await cancellable(step.cancel, side.channel.flush)
            continue
        count = 1 if step.call == "send" else step.count
        ids = list(range(number, number + count))
        number += count
        messages = [Request(number, "x" * 20) for number in ids]
        if step.call == "send":
            call = partial(side.channel.send, messages[0])
        else:
            call = partial(side.channel.send_many, messages)
        try:
            cancelled = await cancellable(step.cancel, call)
        except ENDS:
            cancelled = True
        (side.refused if cancelled else accepted).extend(ids)


async def run_receiver(side: Side, life: list[Step]) -> None:
    for step in life:

        async def receive(step: Step = step) -> None:
            if step.call == "receive":
                messages = [await side.channel.receive()]
            else:
                messages = await side.channel.receive_many(step.count)
            # No wait between the message and its record: it cannot be lost in between.
            side.received += [m.id for m in messages if isinstance(m, Request)]  # type: ignore[misc]

        with suppress(*ENDS):
            await cancellable(step.cancel, receive)


async def run_ending(side: Side, ending: str, rounds: int, cancel: int | None) -> None:
    for _ in range(rounds):
        await trio.lowlevel.checkpoint()
    if ending == "abort":
        side.channel.abort()
    elif ending == "fail":
        side.channel.abort(ConnectionLost("made up"))
    elif ending == "kill":
        await side.kill()
    elif ending == "aclose":
        await cancellable(cancel, side.channel.aclose)
    elif ending == "send_eof" and side.channel.can_send_eof:
        with suppress(*ENDS):
            await cancellable(cancel, side.channel.send_eof)


async def cancellable(cancel: int | None, call: Callable[[], Awaitable[object]]) -> bool:
    """Call, perhaps cancelled; whether it was."""
    if cancel is None:
        await call()
        return False
    return await cancel_at(cancel, call)


async def drain_when_free(side: Side) -> None:
    """Receive all that still comes; where an actor receives, it does so first."""
    with suppress(*ENDS):
        while True:
            try:
                message = await side.channel.receive()
            except trio.BusyResourceError:
                await trio.sleep(1)
                continue
            assert isinstance(message, Request)
            assert isinstance(message.id, int)
            side.received.append(message.id)


async def end_sending(side: Side) -> None:
    with suppress(*ENDS):
        if side.channel.can_send_eof:
            await side.channel.send_eof()
        else:
            # The end is that of both directions: so when all is there.
            await side.channel.flush()
            await wait_all_tasks_blocked()
            await side.channel.aclose()


# -- the pairs --------------------------------------------------------------------------


def memory_sides(_: trio.Nursery) -> tuple[Side, Side]:
    left, right = memory_channel_pair(OPTIONS, max_messages=5)

    def side(channel: MessageChannel) -> Side:
        async def kill() -> None:
            channel.abort(ConnectionLost("killed"))
            await trio.lowlevel.checkpoint()

        return Side(channel, kill)

    return side(left), side(right)


def stream_sides(nursery: trio.Nursery) -> tuple[Side, Side]:
    """Whoever writes waits until the other side has read; bytes come in small pieces."""

    def side(inner: trio.abc.Stream) -> Side:
        stream = FaultyStream(inner, read_size=37, write_size=41)
        context = ChannelContext(transport="test")
        return Side(
            StreamChannel(stream, nursery=nursery, context=context, options=OPTIONS),
            stream.kill,
        )

    left, right = lockstep_stream_pair()
    return side(left), side(right)


def buffered_sides(nursery: trio.Nursery) -> tuple[Side, Side]:
    left, right = memory_stream_pair()
    context = ChannelContext(transport="test")
    return (
        Side(StreamChannel(left, nursery=nursery, context=context), left.aclose),
        Side(StreamChannel(right, nursery=nursery, context=context), right.aclose),
    )


def websocket_sides(nursery: trio.Nursery) -> tuple[Side, Side]:
    """As `stream_sides`, with a WebSocket on the streams."""

    def side(inner: trio.abc.Stream, role: Literal["client", "server"]) -> Side:
        stream = FaultyStream(inner, read_size=37, write_size=41)
        channel = WebSocketChannel(
            stream,
            make_machine(role, WebSocketOptions(), OPTIONS, None),
            nursery=nursery,
            context=ChannelContext(transport="test"),
            options=OPTIONS,
            timing=WebSocketTiming(ping_interval=math.inf),
        )
        return Side(channel, stream.kill)

    left, right = lockstep_stream_pair()
    return side(left, "client"), side(right, "server")


# -- the properties ---------------------------------------------------------------------


async def live(
    make_sides: Callable[[trio.Nursery], tuple[Side, Side]],
    lives: list[tuple[list[Step], list[Step], list[Step]]],
    endings_: list[tuple[str, int, int | None]],
) -> None:
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as background:
        sides = make_sides(background)
        with trio.fail_after(100_000):
            async with trio.open_nursery() as actors:
                for side, (one, two, reads), ending in zip(sides, lives, endings_, strict=True):
                    actors.start_soon(run_sender, side, 1, one)
                    actors.start_soon(run_sender, side, 2, two)
                    actors.start_soon(run_receiver, side, reads)
                    actors.start_soon(run_ending, side, *ending)
                # What still waits now waits for messages or room: receive, and let them go.
                await wait_all_tasks_blocked()
                for side in sides:
                    actors.start_soon(drain_when_free, side)
                await wait_all_tasks_blocked()
                for side in sides:
                    actors.start_soon(end_sending, side)
            for side in sides:
                await side.channel.aclose()
    for side, other in (sides, sides[::-1]):
        check_outcomes(side, other)
        assert side.channel.state in {ChannelState.CLOSED, ChannelState.FAILED}
    undisturbed = all(ending[0] in {"none", "send_eof"} for ending in endings_)
    if undisturbed:
        for side, other in (sides, sides[::-1]):
            assert sorted(other.received) == sorted(itertools.chain(*side.accepted.values()))
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before


def check_outcomes(sender: Side, receiver: Side) -> None:
    accepted = set(itertools.chain(*sender.accepted.values()))
    assert accepted.isdisjoint(sender.refused)
    assert len(receiver.received) == len(set(receiver.received)), "arrived twice"
    assert set(receiver.received) <= accepted, "arrived although its send was refused"
    for ids in sender.accepted.values():
        arrived = [number for number in receiver.received if number in set(ids)]
        assert arrived == ids[: len(arrived)], "not in order, or with a hole"


three = st.tuples(senders, senders, receivers)


@pytest.mark.parametrize("make_sides", [memory_sides, stream_sides, websocket_sides])
@settings(max_examples=200, deadline=None)
@given(lives=st.tuples(three, three), endings_=st.tuples(endings, endings))
def test_each_message_has_exactly_one_outcome_and_nothing_stays_behind(
    make_sides: Callable[[trio.Nursery], tuple[Side, Side]],
    lives: tuple[tuple[list[Step], list[Step], list[Step]], ...],
    endings_: tuple[tuple[str, int, int | None], ...],
) -> None:
    clock = MockClock(autojump_threshold=0)
    trio.run(live, make_sides, list(lives), list(endings_), clock=clock)


async def converse(sides: tuple[Side, Side], messages: int) -> None:
    """Each side sends so many, singly and in batches."""
    left, right = (side.channel for side in sides)

    async def send(channel: MessageChannel) -> None:
        for number in range(0, messages, 10):
            for single in range(5):
                await channel.send(Request(number + single, "x"))
            await channel.send_many([Request(number + more, "x") for more in range(5, 10)])

    async def receive(channel: MessageChannel) -> None:
        count = 0
        while count < messages:
            count += len(await channel.receive_many())
        assert count == messages

    async with trio.open_nursery() as nursery:
        for channel in (left, right):
            nursery.start_soon(send, channel)
            nursery.start_soon(receive, channel)


@pytest.mark.parametrize("make_sides", [memory_sides, buffered_sides])
async def test_a_hundred_thousand_messages_leave_memory_flat(
    make_sides: Callable[[trio.Nursery], tuple[Side, Side]], nursery: trio.Nursery
) -> None:
    sides = make_sides(nursery)
    await converse(sides, 1000)
    gc.collect()
    before = sys.getallocatedblocks()
    await converse(sides, 50_000)  # each way
    gc.collect()
    # One object left behind by each message would be 100,000; a few thousand come and go
    # with the interpreter's own caches.
    assert sys.getallocatedblocks() - before < 10_000
    for side in sides:
        await side.channel.aclose()
