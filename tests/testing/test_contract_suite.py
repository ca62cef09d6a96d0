"""The contract finds channels that break it: each check fails for some broken channel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from trio_mcp_transport import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelOptions,
    ChannelState,
    ChannelStatistics,
    Message,
    MessageChannel,
    memory_channel_pair,
)
from trio_mcp_transport.testing import CONTRACT_CHECKS, MakePair, check_channel_contract

pytestmark = pytest.mark.testing

#: A message that got lost is waited for in vain.
HANGS_AFTER_SECONDS = 1.0

CHECKS = {check.__name__: check for check in CONTRACT_CHECKS}


class Wrapped(MessageChannel):
    """A channel around a channel, to break one thing at a time."""

    def __init__(self, inner: MessageChannel) -> None:
        self.inner = inner

    @property
    def context(self) -> ChannelContext:
        return self.inner.context

    @property
    def options(self) -> ChannelOptions:
        return self.inner.options

    @property
    def session_id(self) -> str:
        return self.inner.session_id

    @property
    def state(self) -> ChannelState:
        return self.inner.state

    @property
    def failure(self) -> ChannelBroken | None:
        return self.inner.failure

    @property
    def capabilities(self) -> ChannelCapabilities:
        return self.inner.capabilities

    @property
    def can_send_eof(self) -> bool:
        return self.inner.can_send_eof

    async def wait_state(self, *states: ChannelState) -> ChannelState:
        return await self.inner.wait_state(*states)

    async def send(self, value: Message) -> None:
        await self.inner.send(value)

    async def send_many(self, values: Sequence[Message]) -> None:
        await self.inner.send_many(values)

    def send_control(self, value: Message) -> None:
        self.inner.send_control(value)

    async def receive(self) -> Message:
        return await self.inner.receive()

    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        return await self.inner.receive_many(max_messages)

    async def flush(self) -> None:
        await self.inner.flush()

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()

    def abort(self, cause: ChannelBroken | None = None) -> None:
        self.inner.abort(cause)

    def statistics(self) -> ChannelStatistics:
        return self.inner.statistics()


class SendsAndThenIsCancelled(Wrapped):
    async def send(self, value: Message) -> None:
        await self.inner.send(value)
        await trio.lowlevel.checkpoint()


class SendsSingly(Wrapped):
    async def send_many(self, values: Sequence[Message]) -> None:
        for value in values:
            await self.inner.send(value)


class NeverWaits(Wrapped):
    async def flush(self) -> None:
        """Nothing, without a checkpoint."""


class ReceivesAndThenIsCancelled(Wrapped):
    async def receive(self) -> Message:
        message = await self.inner.receive()
        await trio.lowlevel.checkpoint()
        return message


class ReceivesBackwards(Wrapped):
    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        return (await self.inner.receive_many(max_messages))[::-1]


class RaisesItsCauseItself(Wrapped):
    async def receive(self) -> Message:
        try:
            return await self.inner.receive()
        except ChannelBroken as error:
            raise (self.failure or error) from None


class ClosesWithoutBeingCancelled(Wrapped):
    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self.inner.aclose()


class ClosesOnce(Wrapped):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        self.closed = True
        await self.inner.aclose()


class BoastsOfHalfClose(Wrapped):
    @property
    def can_send_eof(self) -> bool:
        return False


class CountsNothing(Wrapped):
    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(
            messages_sent=0,
            messages_received=0,
            bytes_sent=0,
            bytes_received=0,
            malformed_received=0,
            outbox_bytes=0,
            inbox_messages=0,
        )


def pairs_of(broken: Callable[[MessageChannel], MessageChannel]) -> MakePair:
    @asynccontextmanager
    async def make_pair(
        options: ChannelOptions,
    ) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
        left, right = memory_channel_pair(options)
        try:
            yield broken(left), broken(right)
        finally:
            left.abort()
            right.abort()

    return make_pair


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (SendsAndThenIsCancelled, "a_cancelled_send_has_queued_nothing"),
        (SendsSingly, "a_cancelled_send_many_has_queued_nothing"),
        (NeverWaits, "every_operation_is_a_checkpoint"),
        (ReceivesAndThenIsCancelled, "a_cancelled_receive_loses_nothing"),
        (ReceivesBackwards, "receive_many_returns_what_is_here"),
        (RaisesItsCauseItself, "failing_wakes_whoever_waits_with_the_first_cause"),
        (ClosesWithoutBeingCancelled, "closing_in_a_cancelled_scope_does_not_flush"),
        (ClosesOnce, "a_closed_channel_refuses_everything_but_closing"),
        (BoastsOfHalfClose, "a_channel_says_what_it_is"),
        (CountsNothing, "statistics_count_messages_both_ways"),
    ],
)
async def test_a_broken_channel_is_found(
    broken: Callable[[MessageChannel], MessageChannel], name: str
) -> None:
    await CHECKS[name](pairs_of(Wrapped))  # it is not the wrapping that breaks it
    found = False
    try:
        with trio.fail_after(HANGS_AFTER_SECONDS):
            await CHECKS[name](pairs_of(broken))
    except* (AssertionError, trio.ClosedResourceError, trio.TooSlowError):
        found = True
    assert found


async def test_a_failed_check_is_named() -> None:
    with pytest.raises(AssertionError) as caught:
        await check_channel_contract(pairs_of(SendsSingly))
    assert caught.value.__notes__ == ["while checking: a_cancelled_send_many_has_queued_nothing"]


def test_every_check_has_a_name_and_a_sentence() -> None:
    assert len(CHECKS) == len(CONTRACT_CHECKS) > 40
    for check in CONTRACT_CHECKS:
        assert check.__doc__
