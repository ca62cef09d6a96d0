"""TLS streams without waiting: what fits, what is left over, and what is there already."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from trio_mcp_transport.abc import ChannelContext
from trio_mcp_transport.errors import LocalProtocolError, TlsHandshakeFailed
from trio_mcp_transport.jsonrpc import Notification
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import shake_streams, socket_pair, stream_pair, streams_over

from trio_mcp_transport.transports.tls_stream import TlsStream

pytestmark = [pytest.mark.tls, pytest.mark.usefixtures("in_time")]


class NarrowStream(SocketStream):
    """Takes only so many bytes without waiting."""

    room = 10**9

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        size = min(self.room, len(data))
        self.room -= size
        return super().send_nowait(data[:size]) if size else 0


class Dribble(SocketStream):
    """Gives one byte at a time without waiting, and notes how often it is asked."""

    reads = 0
    is_broken = False

    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        self.reads += 1
        return super().receive_nowait(1)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_broken:
            raise trio.BrokenResourceError("nobody there")
        await super().send_all(data)


async def narrow_pair(files: TlsFiles) -> tuple[NarrowStream, TlsStream, TlsStream]:
    left, right = socket_pair()
    narrow = NarrowStream(left.socket)
    client, server = streams_over(narrow, right, files)
    await shake_streams(client, server)
    return narrow, client, server


# -- sending -----------------------------------------------------------------------------


async def test_nothing_is_written_before_the_handshake(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        assert client.send_nowait(b"early") == 0
        await shake_streams(client, server)
        assert client.send_nowait(b"") == 0
        assert client.send_nowait(b"in time") == 7
        assert await server.receive_some() == b"in time"


async def test_nothing_is_written_where_the_stream_below_can_only_wait(
    tls_files: TlsFiles,
) -> None:
    client, server = streams_over(*trio.testing.memory_stream_pair(), tls_files)
    async with client, server:
        await shake_streams(client, server)
        assert client.send_nowait(b"x") == 0
        await client.send_all(b"anything else")
        assert await server.receive_some() == b"anything else"


@pytest.mark.parametrize("room", [0, 1, 30, 65_000, 70_000, 131_000])
@pytest.mark.parametrize("rest", ["send_all", "send_nowait", "in pieces"])
async def test_what_was_not_counted_is_sent_once(tls_files: TlsFiles, room: int, rest: str) -> None:
    narrow, client, server = await narrow_pair(tls_files)
    data = random.Random(room).randbytes(150_000)
    async with client, server:
        received = b""

        async def receive() -> None:
            nonlocal received
            while len(received) < len(data):
                received += await server.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            narrow.room = room
            sent = client.send_nowait(data)
            # Whole pieces of 64 KiB; of one that did not fit, nothing.
            assert sent == room // 65_624 * 65_536
            assert client.send_nowait(data[sent:]) == 0
            narrow.room = 10**9
            if rest == "send_nowait":
                while sent < len(data):
                    await trio.lowlevel.checkpoint()
                    sent += client.send_nowait(memoryview(data)[sent:])
            elif rest == "in pieces":
                for at in range(sent, len(data), 40_000):
                    await client.send_all(data[at : min(at + 40_000, len(data))])
            else:
                await client.send_all(data[sent:])
        assert received == data


async def test_a_small_record_that_did_not_fit_is_sent_once_with_what_follows(
    tls_files: TlsFiles,
) -> None:
    narrow, client, server = await narrow_pair(tls_files)
    async with client, server:
        narrow.room = 7
        assert client.send_nowait(b"first") == 0
        await client.send_all(b"first, and second")
        received = b""
        while len(received) < 17:
            received += await server.receive_some()
        assert received == b"first, and second"


async def test_what_was_not_counted_may_not_be_forgotten(tls_files: TlsFiles) -> None:
    narrow, client, server = await narrow_pair(tls_files)
    async with client, server:
        narrow.room = 7
        assert client.send_nowait(b"first") == 0
        narrow.room = 10**9
        for _ in range(2):
            with pytest.raises(LocalProtocolError, match="must be sent next"):
                await client.send_all(b"other")
            with pytest.raises(LocalProtocolError, match="must be sent next"):
                client.send_nowait(b"other")
        await client.send_all(b"first")
        assert await server.receive_some() == b"first"


async def test_closing_writes_the_rest_of_a_record_before_the_goodbye(tls_files: TlsFiles) -> None:
    narrow, client, server = await narrow_pair(tls_files)
    async with client, server:
        narrow.room = 7
        assert client.send_nowait(b"first") == 0
        await client.aclose()
        assert await server.receive_some() == b"first"
        assert await server.receive_some() == b""


async def test_who_sends_has_the_stream_for_itself(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server, trio.open_nursery() as nursery:
        await shake_streams(client, server)
        nursery.start_soon(client.send_all, b"x" * 10_000_000)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            client.send_nowait(b"x")
        nursery.cancel_scope.cancel()


async def test_nothing_is_written_or_read_beside_a_record_that_is_being_written(
    tls_files: TlsFiles,
) -> None:
    # The stream's own words, such as the refusal of a renegotiation, take the wire as well.
    client, server = stream_pair(tls_files)
    async with client, server, trio.open_nursery() as nursery:
        await shake_streams(client, server)
        wire = client._wire
        nursery.start_soon(wire.write, wire.machine.send_data(bytes(10_000_000)))
        await trio.testing.wait_all_tasks_blocked()
        await server.send_all(b"data")
        assert client.send_nowait(b"x") == 0
        assert client.receive_nowait() is None
        received = 0
        while received < 10_000_000:
            received += len(await server.receive_some())
        await trio.testing.wait_all_tasks_blocked()
        assert client.send_nowait(b"x") == 1
        assert client.receive_nowait() == b"data"


async def test_a_channel_writes_everything_in_order_through_a_narrow_stream(
    tls_files: TlsFiles,
) -> None:
    narrow, client, server = await narrow_pair(tls_files)
    names = [f"{number}-" + "x" * (number * 37 % 3000) for number in range(300)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            context = ChannelContext(transport="tls")
            ours = StreamChannel(client, nursery=nursery, context=context)
            theirs = StreamChannel(server, nursery=nursery, context=context)

            async def send() -> None:
                for number, name in enumerate(names):
                    narrow.room = number * 13 % 500
                    await ours.send(Notification(name))
                await ours.flush()

            nursery.start_soon(send)
            for name in names:
                assert await theirs.receive() == Notification(name)
            await ours.aclose()
            await theirs.aclose()


# -- receiving ---------------------------------------------------------------------------


async def test_what_is_there_is_received(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        assert server.receive_nowait() is None
        await shake_streams(client, server)
        assert server.receive_nowait() is None
        await client.send_all(b"12")
        await client.send_all(b"34")
        assert server.receive_nowait(3) == b"123"
        assert server.receive_nowait() == b"4"
        assert server.receive_nowait() is None
        await client.aclose()
        assert server.receive_nowait() == b""
        assert server.receive_nowait() == b""


async def test_session_tickets_are_nothing_to_receive(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        await server.send_all(b"x")
        assert client.receive_nowait() == b"x"
        assert client.receive_nowait() is None


async def test_a_part_of_a_record_is_nothing_to_receive(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        ciphertext = client._wire.machine.send_data(b"data")
        await client.transport_stream.send_all(ciphertext[:-1])
        assert server.receive_nowait() is None
        await client.transport_stream.send_all(ciphertext[-1:])
        assert server.receive_nowait() == b"data"


async def test_nothing_is_received_where_the_stream_below_can_only_wait(
    tls_files: TlsFiles,
) -> None:
    client, server = streams_over(*trio.testing.memory_stream_pair(), tls_files)
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(b"x")
        assert server.receive_nowait() is None
        assert await server.receive_some() == b"x"


async def test_garbage_is_found_and_answered(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises(trio.BrokenResourceError, match="broke TLS"):
            server.receive_nowait()
        with pytest.raises(trio.BrokenResourceError, match="bad_record_mac"):
            client.receive_nowait()
        with pytest.raises(trio.BrokenResourceError, match="bad_record_mac"):
            client.send_nowait(b"x")


async def test_nothing_is_received_beside_another_receiver(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server, trio.open_nursery() as nursery:
        await shake_streams(client, server)
        nursery.start_soon(server.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            server.receive_nowait()
        nursery.cancel_scope.cancel()


async def test_nothing_is_received_from_a_closed_stream(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    await shake_streams(client, server)
    client.close()
    with pytest.raises(trio.ClosedResourceError):
        client.receive_nowait()
    server.close()


# -- records without data ----------------------------------------------------------------


async def test_what_holds_no_data_is_read_a_few_times_and_then_later(tls_files: TlsFiles) -> None:
    # As from a peer that floods an idle connection with new keys or tickets.
    left, right = socket_pair()
    dribble = Dribble(left.socket)
    client, server = streams_over(dribble, right, tls_files)
    await shake_streams(client, server)
    async with client, server:
        await server.send_all(b"x" * 1000)
        dribble.reads = 0
        assert client.receive_nowait() is None
        assert dribble.reads == 4
        calls = 1
        while (data := client.receive_nowait()) is None:
            calls += 1
        assert data == b"x" * 1000
        assert calls > 250


async def test_a_reason_is_looked_for_only_so_far(tls_files: TlsFiles) -> None:
    left, right = socket_pair()
    dribble = Dribble(left.socket)
    client, server = streams_over(dribble, right, tls_files)
    await shake_streams(client, server)
    async with client, server:
        await server.send_all(b"x" * 1000)
        dribble.reads, dribble.is_broken = 0, True
        with pytest.raises(trio.BrokenResourceError, match="nobody there"):
            await client.send_all(b"y")
        assert dribble.reads == 4
        dribble.is_broken = False


async def test_a_reason_why_a_handshake_broke_is_looked_for_only_so_far(
    tls_files: TlsFiles,
) -> None:
    left, right = socket_pair()
    dribble = Dribble(left.socket)
    dribble.is_broken = True
    client, _ = streams_over(dribble, right, tls_files)
    async with right:
        await right.send_all(b"\x16\x03\x03\x10\x00" + b"x" * 1000)
        with pytest.raises(TlsHandshakeFailed, match="nobody there"):
            await client.do_handshake()
    assert dribble.reads == 4
    await client.aclose()
