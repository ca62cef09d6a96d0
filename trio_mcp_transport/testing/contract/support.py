"""What the checks of the channel contract have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from ...abc import ChannelBroken, MessageChannel
from ...jsonrpc import Message, Notification, Request, encode_message
from ...limits import ChannelOptions

__all__ = [
    "CHECK_SECONDS",
    "Check",
    "MakePair",
    "Outcome",
    "encoded",
    "end_of",
    "expect",
    "flooded",
    "numbered",
    "numbers",
    "outcome_of",
    "receive_numbers",
    "settle",
]

#: Makes two channels that are connected to each other, as a context manager that closes
#: both. Called with the options that both shall have.
MakePair: TypeAlias = Callable[
    [ChannelOptions], AbstractAsyncContextManager[tuple[MessageChannel, MessageChannel]]
]
#: One named check.
Check: TypeAlias = Callable[[MakePair], Awaitable[None]]

#: No check takes longer unless something hangs.
CHECK_SECONDS = 60.0
#: More than the buffers of an operating system and of a channel hold together. Linux lets
#: both ends of a TCP connection grow to some 10 MB (tcp_wmem, tcp_rmem).
FLOOD_MESSAGES = 512
FLOOD_BYTES = 64 * 1024
#: Real time for bytes on their way through the operating system to arrive.
SETTLE_SECONDS = 0.02
#: The same where a reader has just stopped: Linux waits up to 40 ms with an acknowledgement,
#: and only with that learns a sender how much room there still is.
FLOOD_SETTLE_SECONDS = 0.06


def numbered(number: int, size: int = 0) -> Request:
    """A request that can be told from others, of about so many bytes."""
    return Request(id=number, method="contract/numbered", params={"filling": "x" * size})


def numbers(messages: Sequence[Message]) -> list[int]:
    """Which numbered requests these are."""
    found: list[int] = []
    for message in messages:
        assert isinstance(message, Request), f"not a request: {message!r}"
        assert isinstance(message.id, int)
        found.append(message.id)
    return found


def encoded(message: Message) -> object:
    """A message as plain data: the same for what was sent and for what arrived."""
    return msgspec.json.decode(encode_message(message))


async def receive_numbers(channel: MessageChannel, count: int) -> list[int]:
    """Receive so many numbered requests."""
    return [number for _ in range(count) for number in numbers([await channel.receive()])]


class Outcome:
    """What became of a call in a task of its own.

    Attributes:
        done: Set when the call has ended.
        error: What it raised, if anything.
        value: What it returned.
    """

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: BaseException | None = None
        self.value: object = None

    async def run(self, async_fn: Callable[[], Awaitable[object]]) -> None:
        """Call and record; only what ends the whole run passes."""
        try:
            self.value = await async_fn()
        except Exception as error:
            self.error = error
        finally:
            self.done.set()


def outcome_of(nursery: trio.Nursery, async_fn: Callable[[], Awaitable[object]]) -> Outcome:
    """Start a call in a task of its own."""
    outcome = Outcome()
    nursery.start_soon(outcome.run, async_fn)
    return outcome


async def settle() -> None:
    """Wait until nothing moves any more, bytes inside the operating system included."""
    await wait_all_tasks_blocked(SETTLE_SECONDS)


@asynccontextmanager
async def flooded(channel: MessageChannel) -> AsyncGenerator[tuple[trio.Nursery, list[int]], None]:
    """Send more than all buffers hold; inside the block a sender waits for room.

    Yields:
        A nursery for more tasks, which is cancelled at the end, and the numbers of the
        messages that were queued, which grows when the peer receives.
    """
    queued: list[int] = []

    async def flood() -> None:
        try:
            for number in range(FLOOD_MESSAGES):
                await channel.send(numbered(number, FLOOD_BYTES))
                queued.append(number)
        except (ChannelBroken, trio.ClosedResourceError):
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await wait_all_tasks_blocked(FLOOD_SETTLE_SECONDS)
        assert len(queued) < FLOOD_MESSAGES, "a peer that does not read must hold senders up"
        try:
            yield nursery, queued
        finally:
            nursery.cancel_scope.cancel()


async def end_of(channel: MessageChannel) -> Exception:
    """Receive until there is no more; return what said so."""
    while True:
        try:
            await channel.receive()
        except (trio.EndOfChannel, ChannelBroken, trio.ClosedResourceError) as error:
            return error


async def expect(error: type[Exception], async_fn: Callable[[], Awaitable[object]]) -> Exception:
    """Call, and return the exception of exactly this kind (or a subclass) it must raise."""
    try:
        value = await async_fn()
    except error as raised:
        return raised
    raise AssertionError(f"returned {value!r} where {error.__name__} was expected")


def cancelled() -> Notification:
    """A small control message."""
    return Notification("notifications/cancelled", {"requestId": 1})
