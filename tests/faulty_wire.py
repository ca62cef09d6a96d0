"""A channel over a faulty stream whose other end is in the test's hands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    memory_stream_one_way_pair,
)

from trio_mcp_transport import (
    ChannelBroken,
    ChannelContext,
    ChannelEvent,
    ChannelOptions,
    ChannelState,
    Request,
    StreamChannel,
    encode_message,
)
from trio_mcp_transport.limits import Framing
from trio_mcp_transport.testing import Fault, FaultyStream

PING = Request(1, "ping")
PAYLOAD = encode_message(PING)
LINE = PAYLOAD + b"\n"
PING_AS_DATA = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
FRAMES: dict[Framing, bytes] = {
    "newline": LINE,
    "content-length": b"Content-Length: %d\r\n\r\n%b" % (len(PAYLOAD), PAYLOAD),
    "length-prefix": len(PAYLOAD).to_bytes(4, "big") + PAYLOAD,
}

Halves = tuple[MemorySendStream, MemoryReceiveStream]
Call = Callable[[], Awaitable[object]]


class ClosableStream(FaultyStream):
    """Closes without waiting as well, as a socket of ours does."""

    halves: Halves

    def close(self) -> None:
        self.closed = True
        self.heal()
        for half in self.halves:
            half.close()


class Wire:
    """A channel, the raw other end of its stream, and what was reported.

    Attributes:
        channel: Under test.
        stream: Below it.
        written: What the channel writes.
        to_channel: Where its peer writes.
        events: What `on_event` got.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        options: ChannelOptions | None = None,
        *,
        closable: bool = False,
        reading: Fault | None = None,
        writing: Fault | None = None,
        read_size: int | None = None,
        write_delay: float = 0.0,
    ) -> None:
        outgoing, self.written = memory_stream_one_way_pair()
        self.to_channel, incoming = memory_stream_one_way_pair()
        kind = ClosableStream if closable else FaultyStream
        self.stream = kind(
            trio.StapledStream(outgoing, incoming),
            reading=reading,
            writing=writing,
            read_size=read_size,
            write_delay=write_delay,
        )
        if isinstance(self.stream, ClosableStream):
            self.stream.halves = outgoing, incoming
        self.events: list[ChannelEvent] = []
        self.channel = StreamChannel(
            self.stream,
            nursery=nursery,
            context=ChannelContext(transport="test"),
            options=options,
            on_event=self.events.append,
        )

    async def answers(self, count: int) -> list[dict[str, object]]:
        """The next lines that the channel writes, decoded."""
        data = b""
        while data.count(b"\n") < count:
            data += await self.written.receive_some()
        return [msgspec.json.decode(line, type=dict[str, object]) for line in data.splitlines()]

    async def written_to_the_end(self) -> bytes:
        """What the channel writes until it closes its stream."""
        return b"".join([bytes(data) async for data in self.written])


class Caught:
    """What a call in a task of its own raised."""

    def __init__(self, nursery: trio.Nursery, call: Call) -> None:
        self.error: Exception | None = None
        nursery.start_soon(self._run, call)

    async def _run(self, call: Call) -> None:
        try:
            await call()
        except Exception as error:
            self.error = error


async def has_failed(channel: StreamChannel, kind: type[ChannelBroken]) -> None:
    """Each call raises the first cause's kind, a fresh exception every time, from the cause."""
    assert channel.state is ChannelState.FAILED
    cause = channel.failure
    assert type(cause) is kind
    calls: list[Call] = [
        channel.receive,
        channel.receive_many,
        lambda: channel.send(PING),
        lambda: channel.send_many([PING]),
        channel.flush,
        channel.send_eof,
    ]
    for call in calls:
        for _ in range(2):
            with pytest.raises(kind) as caught:
                await call()
            assert caught.value is not cause
            assert caught.value.__cause__ is cause
            assert str(caught.value) == str(cause)
