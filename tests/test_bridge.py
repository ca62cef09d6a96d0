"""Two channels joined: bytes, order, ends, failures, and how much waits in between."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from trio_mcp_transport import (
    ChannelContext,
    ChannelOptions,
    ChannelState,
    ConnectionLost,
    Notification,
    PeerProtocolError,
    Request,
)
from trio_mcp_transport.bridge import BridgeEnd, BridgeSide, bridge_channels
from trio_mcp_transport.transports.memory_channel import memory_channel_pair
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = pytest.mark.channel

CONTEXT = ChannelContext(transport="test")


class OneWayEnd(trio.abc.Stream):
    """A stream that cannot be half-closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Joined:
    """A bridge that runs, and the far ends of its two channels."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        options: ChannelOptions | None = None,
        server_options: ChannelOptions | None = None,
        lockstep: bool = False,
        half_close: bool = True,
    ) -> None:
        pair = lockstep_stream_pair if lockstep else memory_stream_pair
        near_client: trio.abc.Stream
        near_server: trio.abc.Stream
        self.client: trio.abc.HalfCloseableStream
        self.server: trio.abc.HalfCloseableStream
        self.client, near_client = pair()
        self.server, near_server = pair()
        self.client_channel = self._channel(nursery, near_client, options, half_close)
        self.server_channel = self._channel(
            nursery, near_server, server_options or options, half_close
        )
        self.end: BridgeEnd | None = None
        self.error: Exception | None = None
        self.done = trio.Event()

    @staticmethod
    def _channel(
        nursery: trio.Nursery,
        stream: trio.abc.Stream,
        options: ChannelOptions | None,
        half_close: bool,
    ) -> StreamChannel:
        return StreamChannel(
            stream if half_close else OneWayEnd(stream),
            nursery=nursery,
            context=CONTEXT,
            options=options,
        )

    async def run(
        self,
        drain: float = 5.0,
        stop: trio.Event | None = None,
        observe: object = None,
    ) -> None:
        try:
            self.end = await bridge_channels(
                self.client_channel,
                self.server_channel,
                drain=drain,
                stop=stop,
                observe=observe,  # type: ignore[arg-type]  # each test passes a fitting one
            )
        except Exception as error:
            self.error = error
        self.done.set()


@asynccontextmanager
async def joined(
    *,
    drain: float = 5.0,
    stop: trio.Event | None = None,
    observe: object = None,
    options: ChannelOptions | None = None,
    server_options: ChannelOptions | None = None,
    lockstep: bool = False,
    half_close: bool = True,
) -> AsyncGenerator[Joined, None]:
    async with trio.open_nursery() as nursery:
        bridge = Joined(
            nursery,
            options=options,
            server_options=server_options,
            lockstep=lockstep,
            half_close=half_close,
        )
        nursery.start_soon(bridge.run, drain, stop, observe)
        yield bridge  # ruff: ignore[fallible-context-manager] (a failed test needs no more)
        await bridge.client.aclose()
        await bridge.server.aclose()
        with trio.fail_after(60):
            await bridge.done.wait()
        assert bridge.client_channel.state in {ChannelState.CLOSED, ChannelState.FAILED}
        assert bridge.server_channel.state in {ChannelState.CLOSED, ChannelState.FAILED}
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = bytearray()
    async for chunk in stream:
        data += chunk
    return bytes(data)


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        assert chunk, f"the stream ended after {bytes(data)!r}"
        data += chunk
    return bytes(data)


STRANGE = (
    b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    b'  {"id" : 2 , "jsonrpc":"2.0", "method":"x", "extra":  1e400 }\r\n'
    b"this is no JSON\n"
    b"\xff\xfe\x00 nor is this UTF-8\n"
    b'[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"a"}]\n'
    b'{"jsonrpc":"2.0","id":1,"id":2,"result":{}}\n'
)


@pytest.mark.parametrize("cut", [1, 7, len(STRANGE)])
async def test_everything_passes_byte_for_byte_in_both_directions(cut: int) -> None:
    async with joined() as bridge:
        for start in range(0, len(STRANGE), cut):
            await bridge.client.send_all(STRANGE[start : start + cut])
            await bridge.server.send_all(STRANGE[start : start + cut])
        assert await read_exactly(bridge.server, len(STRANGE)) == STRANGE
        assert await read_exactly(bridge.client, len(STRANGE)) == STRANGE


async def test_a_clients_end_is_forwarded_after_all_it_sent_and_the_answers_still_come() -> None:
    async with joined() as bridge:
        await bridge.client.send_all(b"1\n2\n")
        await bridge.client.send_eof()
        assert await read_all(bridge.server) == b"1\n2\n"
        await bridge.server.send_all(b"3\n4\n")
        await bridge.server.send_eof()
        assert await read_all(bridge.client) == b"3\n4\n"
        await bridge.done.wait()
        assert bridge.end == BridgeEnd(first="client", complete=True)


async def test_a_last_line_without_a_line_feed_passes() -> None:
    async with joined() as bridge:
        await bridge.client.send_all(b'{"jsonrpc":"2.0","method":"bye"}')
        await bridge.client.send_eof()
        assert await read_all(bridge.server) == b'{"jsonrpc":"2.0","method":"bye"}\n'


async def test_a_servers_end_is_forwarded_and_the_client_may_finish() -> None:
    async with joined() as bridge:
        await bridge.server.send_eof()
        assert await read_all(bridge.client) == b""
        await bridge.client.send_all(b"still here\n")
        assert await read_exactly(bridge.server, 11) == b"still here\n"
        await bridge.client.send_eof()
        await bridge.done.wait()
        assert bridge.end == BridgeEnd(first="server", complete=True)


async def test_a_server_that_never_ends_is_left_when_the_drain_is_over(
    autojump_clock: MockClock,
) -> None:
    async with joined(drain=7.0) as bridge:
        await bridge.client.send_eof()
        begun = trio.current_time()
        await bridge.done.wait()
        assert trio.current_time() - begun == pytest.approx(7.0)
        assert bridge.end == BridgeEnd(first="client", complete=False)


async def test_answers_still_come_from_a_server_that_cannot_be_told_of_the_end(
    autojump_clock: MockClock,
) -> None:
    async with joined(drain=7.0, half_close=False) as bridge:
        await bridge.client.send_all(b"question\n")
        await bridge.client.send_eof()
        assert await read_exactly(bridge.server, 9) == b"question\n"
        await trio.sleep(6)
        await bridge.server.send_all(b"answer\n")
        assert await read_all(bridge.client) == b"answer\n"
        await bridge.done.wait()
        assert bridge.end == BridgeEnd(first="client", complete=False)


async def test_a_client_that_cannot_be_told_of_the_servers_end_is_closed_at_once(
    autojump_clock: MockClock,
) -> None:
    async with joined(drain=7.0, half_close=False) as bridge:
        await bridge.server.send_all(b"last words\n")
        await bridge.server.send_eof()
        begun = trio.current_time()
        assert await read_all(bridge.client) == b"last words\n"
        await bridge.done.wait()
        assert trio.current_time() == begun
        assert bridge.end == BridgeEnd(first="server", complete=True)


async def test_a_failure_ends_both_sides_at_once_and_what_came_before_arrives() -> None:
    options = ChannelOptions(framing="content-length")
    async with joined(server_options=options) as bridge:
        await bridge.server.send_all(b"Content-Length: 4\r\n\r\nfineContent-Length: x\r\n\r\n")
        assert await read_all(bridge.client) == b"fine\n"
        await bridge.done.wait()
        assert isinstance(bridge.error, PeerProtocolError)
        assert bridge.error.__cause__ is bridge.server_channel.failure


async def test_a_broken_stream_is_the_error() -> None:
    async with joined() as bridge:
        await bridge.client.aclose()
        await bridge.server.send_all(b"nobody will read this\n")
        await bridge.done.wait()
        assert isinstance(bridge.error, ConnectionLost)


async def test_framings_are_each_sides_own() -> None:
    async with joined(server_options=ChannelOptions(framing="content-length")) as bridge:
        await bridge.client.send_all(b'{"a": 1}\n')
        assert await read_exactly(bridge.server, 29) == b'Content-Length: 8\r\n\r\n{"a": 1}'
        await bridge.server.send_all(b'Content-Length: 9\r\n\r\n{"b":\n 1}')
        assert await read_exactly(bridge.client, 8) == b'{"b":1}\n'


async def test_what_is_not_read_holds_the_writer_up_and_little_waits_in_between() -> None:
    line = b"x" * 99 + b"\n"
    taken = 0

    async with joined(options=ChannelOptions(outbox_bytes=1000), lockstep=True) as bridge:

        async def write() -> None:
            nonlocal taken
            while True:
                await bridge.client.send_all(line)
                taken += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            # The outbox, what was read and waits for room in it, and what was written.
            assert 10 <= taken <= 13
            for _ in range(20):
                assert await read_exactly(bridge.server, 100) == line
            await trio.testing.wait_all_tasks_blocked()
            assert 30 <= taken <= 33
            nursery.cancel_scope.cancel()


async def test_after_stop_nothing_is_read_from_the_client_and_its_answers_still_come() -> None:
    stop = trio.Event()
    async with joined(stop=stop) as bridge:
        await bridge.client.send_all(b"question\n")
        assert await read_exactly(bridge.server, 9) == b"question\n"
        stop.set()
        assert await read_all(bridge.server) == b""
        await bridge.client.send_all(b"too late\n")
        await bridge.server.send_all(b"answer\n")
        await bridge.server.send_eof()
        assert await read_all(bridge.client) == b"answer\n"
        await bridge.done.wait()
        assert bridge.end == BridgeEnd(first="client", complete=True)


async def test_what_was_read_before_stop_is_passed_on_although_the_server_was_slow() -> None:
    stop = trio.Event()
    options = ChannelOptions(outbox_bytes=10)
    # Lockstep: nothing is taken from the bridge before the far server reads it.
    async with joined(stop=stop, server_options=options, lockstep=True) as bridge:
        await bridge.client.send_all(b"request 1\n")
        await bridge.client.send_all(b"request 2\nrequest 3\n")
        await trio.testing.wait_all_tasks_blocked()
        assert bridge.client_channel.statistics().bytes_received == 30
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await read_all(bridge.server) == b"request 1\nrequest 2\nrequest 3\n"
        await bridge.server.send_eof()
        await bridge.done.wait()
        assert bridge.end == BridgeEnd(first="client", complete=True)


async def test_what_the_observer_is_still_looking_at_when_stop_is_set_is_passed_on() -> None:
    stop = trio.Event()
    looked = trio.Event()

    async def observe(side: BridgeSide, payloads: Sequence[bytes]) -> None:
        await looked.wait()

    async with joined(stop=stop, observe=observe) as bridge:
        await bridge.client.send_all(b"1\n2\n3\n")
        await trio.testing.wait_all_tasks_blocked()
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        looked.set()
        assert await read_all(bridge.server) == b"1\n2\n3\n"


async def test_messages_that_were_read_before_stop_are_passed_on() -> None:
    stop = trio.Event()
    client, near_client = memory_channel_pair()
    near_server, server = memory_channel_pair(max_messages=1)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await bridge_channels(near_client, near_server, stop=stop)

        nursery.start_soon(run)
        sent = [Notification(f"n{number}") for number in range(2)]
        for message in sent:
            await client.send(message)
            await trio.testing.wait_all_tasks_blocked()
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [await server.receive() for _ in sent] == sent
        await server.aclose()
        await client.aclose()


async def test_after_stop_a_server_that_takes_nothing_is_left_when_the_drain_is_over(
    autojump_clock: MockClock,
) -> None:
    stop = trio.Event()
    options = ChannelOptions(outbox_bytes=10, close_timeout=1.0)
    async with joined(drain=7.0, stop=stop, server_options=options, lockstep=True) as bridge:
        await bridge.client.send_all(b"request 1\n")
        await bridge.client.send_all(b"request 2\nrequest 3\n")
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        stop.set()
        await bridge.done.wait()
        assert trio.current_time() - begun <= 8.0
        assert bridge.end == BridgeEnd(first=None, complete=False)


async def test_cancelling_closes_both_sides() -> None:
    async with trio.open_nursery() as nursery:
        bridge = Joined(nursery)
        with trio.CancelScope() as scope:
            scope.cancel()
            await bridge_channels(bridge.client_channel, bridge.server_channel)
        assert scope.cancelled_caught
        assert bridge.client_channel.state is ChannelState.CLOSED
        assert bridge.server_channel.state is ChannelState.CLOSED
        nursery.cancel_scope.cancel()


async def test_a_channel_that_another_task_closes_ends_the_bridge() -> None:
    async with joined() as bridge:
        await bridge.server_channel.aclose()
        await bridge.done.wait()
        assert bridge.end == BridgeEnd(first=None, complete=True)


async def test_the_observer_is_told_of_all_and_of_the_ends_in_order() -> None:
    seen: list[tuple[BridgeSide, list[bytes]]] = []

    async def observe(side: BridgeSide, payloads: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((side, list(payloads)))

    async with joined(observe=observe) as bridge:
        await bridge.client.send_all(b"1\n")
        assert await read_exactly(bridge.server, 2) == b"1\n"
        await bridge.server.send_all(b"2\r\n3\n")
        assert await read_exactly(bridge.client, 5) == b"2\r\n3\n"
        await bridge.client.send_eof()
        assert await read_all(bridge.server) == b""
        await bridge.server.send_eof()
        await bridge.done.wait()
    assert seen == [
        ("client", [b"1"]),
        ("server", [b"2\r", b"3"]),
        ("client", []),
        ("server", []),
    ]


async def test_an_observer_that_fails_ends_the_bridge_with_its_own_error() -> None:
    failure = ValueError("no")

    async def observe(side: BridgeSide, payloads: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        raise failure

    async with joined(observe=observe) as bridge:
        await bridge.client.send_all(b"1\n")
        await bridge.done.wait()
        assert bridge.error is failure


async def test_without_bytes_on_one_side_messages_pass_and_malformed_ones_are_answered() -> None:
    seen: list[tuple[BridgeSide, list[bytes]]] = []

    async def observe(side: BridgeSide, payloads: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((side, list(payloads)))

    async with trio.open_nursery() as nursery:
        far_client, near_client = memory_stream_pair()
        client = StreamChannel(
            near_client, nursery=nursery, context=CONTEXT, on_event=lambda _: None
        )
        server, far_server = memory_channel_pair()

        async def run() -> None:
            await bridge_channels(client, server, observe=observe)

        nursery.start_soon(run)
        await far_client.send_all(b'{"jsonrpc":"2.0","id":"a","method":"m"}\n')
        assert await far_server.receive() == Request("a", "m")
        await far_server.send(Notification("n"))
        answer = b'{"jsonrpc":"2.0","method":"n"}\n'
        assert await read_exactly(far_client, len(answer)) == answer
        await far_client.send_all(b"nonsense\n")
        refused = await far_client.receive_some()
        assert b"-32700" in refused
        await far_client.send_eof()
        with pytest.raises(trio.EndOfChannel):
            await far_server.receive()
        await far_server.aclose()
    assert seen == [
        ("client", [b'{"jsonrpc":"2.0","id":"a","method":"m"}']),
        ("server", [b'{"jsonrpc":"2.0","method":"n"}']),
        ("client", []),
        ("server", []),
    ]
