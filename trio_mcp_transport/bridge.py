"""Two channels joined: what one receives, the other sends.

Used by `trio-mcp connect`, `serve -- COMMAND` and `tap`, and by programs that put an MCP
server on another transport. It never looks into a message: where both ends are byte
streams, the payloads pass as they came, malformed ones included, so that the two
parties, who know what they speak, settle errors between themselves.

Theory of operation: one task for each direction, which receives only when what it
received before was queued on the other side, so a slow reader slows the writer behind
the bridge and memory stays bounded. An end is forwarded as an end; a failure ends both
directions at once. Whatever happens, both channels are closed when the bridge ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec
import trio

from .abc import ChannelState, MessageChannel
from .jsonrpc import ErrorResponse, Message, Request, RequestId, Response, encode_message
from .limits import DEFAULT_DRAIN_SECONDS

__all__ = ["BridgeEnd", "BridgeObserver", "BridgeSide", "SupportsFrames", "bridge_channels"]

BridgeSide: TypeAlias = Literal["client", "server"]
#: Told of what passes: the side it came from, and the payloads; none at that side's end.
BridgeObserver: TypeAlias = Callable[[BridgeSide, Sequence[bytes]], Awaitable[None]]
_Show: TypeAlias = Callable[[Sequence[bytes]], Awaitable[None]]
T = TypeVar("T")


class BridgeEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a bridge ended that nothing failed on.

    Attributes:
        first: The side that ended first; None if neither had, because another task closed
            a channel or the drain was over before.
        complete: Whether there was nothing to wait for any more; False when the drain's
            seconds passed before.
    """

    first: BridgeSide | None
    complete: bool


@runtime_checkable
class SupportsFrames(Protocol):
    """A channel whose payloads can be had and sent undecoded."""

    async def receive_frames(self, max_frames: int = 1000) -> list[bytes]:
        """Wait for the first payload; return those that are here."""

    async def send_frames(self, payloads: Sequence[bytes]) -> None:
        """Queue payloads as they are."""


async def bridge_channels(
    client: MessageChannel,
    server: MessageChannel,
    *,
    drain: float = DEFAULT_DRAIN_SECONDS,
    stop: trio.Event | None = None,
    observe: BridgeObserver | None = None,
    last_words: Callable[[BaseException | None], Sequence[Message]] | None = None,
) -> BridgeEnd:
    """Pass everything between two channels, both ways and in order, until they end.

    Between byte streams the payloads pass byte for byte (blank lines, which carry no
    message, and the framing itself are each side's own). If one of the two has no bytes,
    as in memory, messages pass instead, and a malformed one is answered by the channel
    that received it.

    An end of one side is forwarded with `send_eof` where the other can be told so, after
    everything that came before. Then the other direction has `drain` seconds to end too,
    so the answers to a client's last requests arrive. Where a client cannot be told that
    the server has ended, its channel is flushed and closed instead; where a server cannot be
    told that the client has, as over WebSocket, the bridge ends when the last of its requests is
    answered. A channel that another task closes ends the bridge as if both had ended.

    If cancelled, both channels are aborted.

    Args:
        client: The side that asks; owned from now on.
        server: The side that answers; owned from now on.
        drain: Seconds for the second direction after the first has ended, and for
            everything after `stop`; `math.inf` waits for it.
        stop: Once it is set, nothing more is read from the client, as if it had ended;
            what was read from it is still passed on.
        observe: Awaited with what a side sent, before it is passed on; then with nothing
            when that side ended. As long as it takes, nothing more is read from there.
        last_words: Called when nothing passes any more, with what failed: what it returns
            is still sent to the client, if it takes it within its `close_timeout`.

    Returns:
        How it ended.

    Raises:
        ChannelBroken: One side failed; the other was closed in order, so that all that
            came before the failure could still arrive.
        MessageTooLarge: A message is over the limit of the side it goes to.
        LocalProtocolError: A payload does not fit the other side's framing.
    """
    by_bytes = isinstance(client, SupportsFrames) and isinstance(server, SupportsFrames)
    unanswered: set[tuple[type, RequestId | None]] = set()  # counted where messages pass
    failures: list[Exception] = []
    ended: list[BridgeSide] = []
    over = False

    async def pump(side: BridgeSide, reading: _Reading) -> None:
        nonlocal over
        source, sink = (client, server) if side == "client" else (server, client)
        show = None if observe is None else partial(observe, side)
        try:
            if by_bytes:
                await _pass_frames(source, sink, show, reading)
            else:
                await _pass_messages(source, ask if sink is server else answer, show, reading)
            if show is not None:
                await show(())
            ended.append(side)
            if sink.can_send_eof:
                await sink.send_eof()
            elif sink is client or not (by_bytes or unanswered):
                over = True  # it has to be closed to be told; what it sends would be lost
        except trio.ClosedResourceError:
            over = True  # somebody closes it on purpose; there is nothing to wait for
        except Exception as error:
            failures.append(error)
            over = True
        if over or len(ended) == 2:
            over = True
            nursery.cancel_scope.cancel()
            return
        # Counted from here, so that a slow reader gets what is still on its way; one that
        # takes nothing at all runs into its channel's write timeout.
        begin_drain()
        # While it is read, a failure comes out of reading; from here on nobody does.
        await source.wait_state(ChannelState.FAILED)
        if source.failure is not None:
            failures.append(source.failure.again())
        over = True
        nursery.cancel_scope.cancel()

    async def ask(messages: Sequence[Message]) -> None:
        unanswered.update(
            (type(message.id), message.id) for message in messages if isinstance(message, Request)
        )
        await server.send_many(messages)

    async def answer(messages: Sequence[Message]) -> None:
        nonlocal over
        await client.send_many(messages)
        for message in messages:
            if isinstance(message, Response | ErrorResponse):
                unanswered.discard((type(message.id), message.id))
        if "client" in ended and not unanswered and not server.can_send_eof:
            over = True
            nursery.cancel_scope.cancel()

    def begin_drain() -> None:
        scope = nursery.cancel_scope
        scope.deadline = min(scope.deadline, trio.current_time() + drain)

    async def watch(stop: trio.Event, reading: _Reading) -> None:
        await stop.wait()
        reading.stop()
        begin_drain()  # here already: the server may take nothing of what was read

    try:
        async with trio.open_nursery() as nursery:
            from_client = _Reading()
            nursery.start_soon(pump, "client", from_client)
            nursery.start_soon(pump, "server", _Reading())
            if stop is not None:
                nursery.start_soon(watch, stop, from_client)
        if last_words is not None:
            await _tell(client, last_words(failures[0] if failures else None))
    finally:
        async with trio.open_nursery() as closing:
            closing.start_soon(_close, client)
            closing.start_soon(_close, server)
    if failures:
        raise failures[0]
    return BridgeEnd(first=ended[0] if ended else None, complete=over)


class _Reading:
    """Waiting for what one side sends; can be stopped, and nothing but the waiting with it."""

    def __init__(self) -> None:
        self._stopped = False
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """Make the `next` that waits, and each later one, the last."""
        self._stopped = True
        self._scope.cancel()

    async def next(self, receive: Callable[[], Awaitable[T]]) -> T | None:
        """What `receive` returns; None at the end, and once stopped."""
        if not self._stopped:
            with trio.CancelScope() as self._scope, suppress(trio.EndOfChannel):
                return await receive()
        return None


async def _pass_frames(
    source: MessageChannel, sink: MessageChannel, show: _Show | None, reading: _Reading
) -> None:
    assert isinstance(source, SupportsFrames)
    assert isinstance(sink, SupportsFrames)
    while (payloads := await reading.next(source.receive_frames)) is not None:
        if show is not None:
            await show(payloads)
        await sink.send_frames(payloads)


async def _pass_messages(
    source: MessageChannel,
    forward: Callable[[Sequence[Message]], Awaitable[None]],
    show: _Show | None,
    reading: _Reading,
) -> None:
    while (messages := await reading.next(source.receive_many)) is not None:
        if show is not None:
            await show([encode_message(message) for message in messages])
        await forward(messages)


async def _tell(client: MessageChannel, words: Sequence[Message]) -> None:
    # It may have ended or failed itself; it is about to be closed anyway.
    with (
        suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        trio.move_on_after(client.options.close_timeout),
    ):
        await client.send_many(words)


async def _close(channel: MessageChannel) -> None:
    # What ends here has been told already, or is not worth hiding what has.
    with suppress(trio.BrokenResourceError):
        await channel.aclose()
