"""What belongs to the stream channel alone; the contract holds the rest."""

from __future__ import annotations

import sys

import msgspec
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport.abc import (
    ChannelContext,
    ChannelEvent,
    ChannelState,
    HandshakeTimeout,
    PeerProtocolError,
)
from trio_mcp_transport.endpoints import ProcessEndpoint
from trio_mcp_transport.errors import MessageTooLarge
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.testing import FaultyStream, stall_after
from trio_mcp_transport.transports.process import connect_process
from trio_mcp_transport.transports.stream_channel import StreamChannel


async def test_a_connecting_channel_is_connected_by_the_first_byte(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = memory_stream_pair()
    channel = StreamChannel(
        ours, nursery=nursery, context=ChannelContext(transport="test"), connecting=True
    )
    assert channel.state is ChannelState.CONNECTING
    assert channel.is_connected
    await channel.send(Notification("n"))
    reached: list[ChannelState] = []

    async def wait() -> None:
        reached.append(await channel.wait_state(ChannelState.CONNECTED))

    nursery.start_soon(wait)
    nursery.start_soon(channel.receive)
    await wait_all_tasks_blocked()
    assert not reached
    await theirs.send_all(b'{"jsonrpc"')
    await wait_all_tasks_blocked()
    assert reached == [ChannelState.CONNECTED]
    await theirs.send_all(b':"2.0","method":"n"}\n')
    await wait_all_tasks_blocked()
    await channel.aclose()
    assert not channel.is_connected


async def test_a_child_is_connecting_until_it_writes(nursery: trio.Nursery) -> None:
    program = "import sys; print(sys.stdin.readline(), end='', flush=True); sys.stdin.read()"
    endpoint = ProcessEndpoint(command=(sys.executable, "-c", program))
    with trio.fail_after(60):
        channel = await connect_process(nursery, endpoint)
        states = [channel.state]
        await channel.send(Notification("n"))
        assert await channel.receive() == Notification("n")
        states.append(channel.state)
        await channel.aclose()
        states.append(channel.state)
    assert states == [ChannelState.CONNECTING, ChannelState.CONNECTED, ChannelState.CLOSED]


BATCH = b'[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"method":"b"}]\n'


async def batch_channel(
    nursery: trio.Nursery, options: ChannelOptions
) -> tuple[StreamChannel, trio.abc.Stream]:
    """A channel that has received a batch of two requests, and what it writes."""
    ours, theirs = memory_stream_pair()
    channel = StreamChannel(
        ours, nursery=nursery, context=ChannelContext(transport="test"), options=options
    )
    channel.accept_batches = True
    await theirs.send_all(BATCH)
    assert await channel.receive_many() == [Request(1, "a"), Request(2, "b")]
    return channel, theirs


async def test_the_answers_to_a_batch_are_one_array(nursery: trio.Nursery) -> None:
    channel, wire = await batch_channel(nursery, ChannelOptions())
    assert not channel.try_send(Response(2, {}))
    await channel.send(Response(2, {}))
    await channel.send(Notification("n"))
    await channel.send_many([Response(1, {})])
    await channel.flush()
    note, array = (await wire.receive_some()).splitlines()
    assert msgspec.json.decode(note)["method"] == "n"
    assert [answer["id"] for answer in msgspec.json.decode(array)] == [2, 1]
    await channel.aclose()


async def test_answers_that_are_too_large_together_go_out_singly(nursery: trio.Nursery) -> None:
    channel, wire = await batch_channel(nursery, ChannelOptions(max_message_bytes=100))
    with pytest.raises(MessageTooLarge):
        await channel.send(Response(1, "x" * 100))
    await channel.send(Response(2, "x" * 50))
    await channel.send(ErrorResponse(1, ErrorObject(-32603, "too large")))
    await channel.flush()
    first, second = (await wire.receive_some()).splitlines()
    assert [msgspec.json.decode(line)["id"] for line in (first, second)] == [2, 1]
    await channel.aclose()


async def test_a_cancelled_sender_takes_nobody_s_answer_along(nursery: trio.Nursery) -> None:
    ours, theirs = memory_stream_pair()
    stalled = FaultyStream(ours, writing=stall_after(0))
    channel = StreamChannel(
        stalled,
        nursery=nursery,
        context=ChannelContext(transport="test"),
        options=ChannelOptions(outbox_bytes=1),
    )
    channel.accept_batches = True
    await theirs.send_all(BATCH)
    await channel.receive_many()
    await channel.send(Response(1, {}))
    await channel.send(Notification("fills the outbox"))
    with trio.move_on_after(0):
        await channel.send(Response(2, {}))
    await channel.send(Response(2, {}))  # does not wait for room
    stalled.heal()
    await channel.flush()
    lines = (await theirs.receive_some()).splitlines()
    assert [answer["id"] for answer in msgspec.json.decode(lines[1])] == [1, 2]
    await channel.aclose()


async def test_large_answers_to_several_batches_fail_no_healthy_channel(
    nursery: trio.Nursery,
) -> None:
    channel, wire = await batch_channel(nursery, ChannelOptions(outbox_bytes=1))
    for _ in range(3):
        await channel.send(Response(1, "x" * 300_000))
        await channel.send(Response(2, {}))
        await wire.send_all(BATCH)
        await channel.receive_many()
    assert channel.is_connected
    assert channel.statistics().messages_sent == 6
    channel.abort()


async def accepted_channel(
    nursery: trio.Nursery, events: list[ChannelEvent] | None = None
) -> tuple[StreamChannel, trio.abc.Stream]:
    ours, theirs = memory_stream_pair()
    await trio.lowlevel.checkpoint()
    channel = StreamChannel(
        ours,
        nursery=nursery,
        context=ChannelContext(transport="test"),
        options=ChannelOptions(handshake_timeout=10, close_timeout=3),
        on_event=None if events is None else events.append,
        accepted=True,
    )
    return channel, theirs


@pytest.mark.parametrize("trickle", [b"", b" ", b"[]\n"])
async def test_an_accepted_connection_must_deliver_a_message_in_time(
    trickle: bytes, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    events: list[ChannelEvent] = []
    channel, theirs = await accepted_channel(nursery, events)

    async def dawdle() -> None:
        while trickle:
            await trio.sleep(3)
            await theirs.send_all(trickle)

    nursery.start_soon(dawdle)
    with pytest.raises(HandshakeTimeout, match="no message arrived within 10 s"):
        await channel.receive()
    assert trio.current_time() == pytest.approx(10)
    assert isinstance(channel.failure, HandshakeTimeout)
    nursery.cancel_scope.cancel()


async def test_after_its_first_message_an_accepted_connection_may_be_silent(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    channel, theirs = await accepted_channel(nursery)
    await theirs.send_all(b'{"jsonrpc":"2.0","method":"n"}\n')
    await channel.receive()
    with trio.move_on_after(1000) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    await channel.aclose()


async def test_bytes_that_come_while_it_closes_do_not_open_a_channel_again(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = memory_stream_pair()
    stalled = FaultyStream(ours, writing=stall_after(0))
    channel = StreamChannel(
        stalled, nursery=nursery, context=ChannelContext(transport="test"), connecting=True
    )
    await channel.send(Notification("n"))

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    nursery.start_soon(channel.aclose)
    await wait_all_tasks_blocked()
    await theirs.send_all(b'{"jsonrpc"')
    await wait_all_tasks_blocked()
    assert channel.state is ChannelState.CLOSING
    assert not channel.is_connected
    stalled.heal()


async def test_closing_tells_what_was_not_written(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    events: list[ChannelEvent] = []
    channel, _ = await accepted_channel(nursery, events)
    channel.stream.send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]
    await channel.send(Notification("n"))
    await channel.aclose()
    assert [event.name for event in events] == ["close.incomplete"]
    assert "31 bytes" in events[0].message


async def test_a_stream_that_is_closing_in_the_background_is_waited_for(
    nursery: trio.Nursery,
) -> None:
    class Slow(trio.abc.Stream):
        closes = 0
        closed = trio.Event()

        async def send_all(self, data: object) -> None:
            raise AssertionError

        async def wait_send_all_might_not_block(self) -> None:
            raise AssertionError

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise AssertionError

        async def aclose(self) -> None:
            self.closes += 1
            if self.closes == 1:
                with trio.CancelScope(shield=True):
                    await self.closed.wait()

    stream = Slow()
    channel = StreamChannel(stream, nursery=nursery, context=ChannelContext(transport="test"))
    channel.abort()
    with trio.move_on_after(0):
        await channel.aclose()
    done = trio.Event()

    async def close() -> None:
        await channel.aclose()
        done.set()

    nursery.start_soon(close)
    await wait_all_tasks_blocked()
    assert not done.is_set()
    stream.closed.set()
    await done.wait()
    assert stream.closes == 1


@pytest.mark.parametrize("frames", [False, True])
async def test_http_at_the_door_is_sent_away_and_nothing_of_it_heeded(
    frames: bool, nursery: trio.Nursery
) -> None:
    channel, theirs = await accepted_channel(nursery)
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}\n'
    await theirs.send_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + body)
    receive = channel.receive_frames if frames else channel.receive_many
    with pytest.raises(PeerProtocolError, match="another protocol is spoken"):
        await receive()
    with pytest.raises(PeerProtocolError):
        await receive()


async def test_a_mark_and_blanks_may_come_before_the_first_message(
    nursery: trio.Nursery,
) -> None:
    channel, theirs = await accepted_channel(nursery)
    for piece in (b"\xef\xbb\xbf", b" \n", b'{"jsonrpc":"2.0","method":"n"}\njunk\n'):
        nursery.start_soon(theirs.send_all, piece)
        await wait_all_tasks_blocked()
    assert await channel.receive() == Notification("n")
    await channel.aclose()


async def test_a_client_does_not_answer_what_is_malformed_but_tells_who_waits(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = memory_stream_pair()
    channel = StreamChannel(
        ours,
        nursery=nursery,
        context=ChannelContext(transport="test"),
        answer_malformed=False,
        on_event=lambda _: None,
    )
    broken: list[tuple[object, str]] = []
    channel.on_broken_answer = lambda id_, error: broken.append((id_, str(error)))
    await theirs.send_all(b'log\n{"jsonrpc":"2.0","id":7,"error":"no"}\n')
    await theirs.send_all(b'{"jsonrpc":"2.0","method":"n"}\n')
    assert await channel.receive() == Notification("n")
    assert [id_ for id_, _ in broken] == [7]
    assert "error object is malformed" in broken[0][1]
    assert channel.statistics().messages_sent == 0
    assert channel.statistics().malformed_received == 2
    await channel.aclose()
