"""TLS streams that do what they should: Trio's contract, handshakes, data and ends."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_mcp_transport.abc import ChannelContext
from trio_mcp_transport.errors import LocalProtocolError
from trio_mcp_transport.jsonrpc import Notification, Request
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import (
    Session,
    machines,
    shake_streams,
    socket_pair,
    stream_pair,
    streams_over,
)

from trio_mcp_transport.transports.tls_stream import TlsStream

pytestmark = [pytest.mark.tls, pytest.mark.usefixtures("in_time")]

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive_some()
        assert piece
        data += piece
    return data


# -- Trio's contract ---------------------------------------------------------------------


async def test_it_keeps_the_contract_of_a_half_closeable_stream_over_sockets(
    tls_files: TlsFiles,
) -> None:
    async def make() -> tuple[TlsStream, TlsStream]:
        await trio.lowlevel.checkpoint()
        return stream_pair(tls_files)

    async def make_clogged() -> tuple[TlsStream, TlsStream]:
        # What sends waits until it is received. With the handshake done: else a receiver would
        # wait for its own part of it to be received.
        client, server = streams_over(*trio.testing.lockstep_stream_pair(), tls_files)
        await shake_streams(client, server)
        return client, server

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_it_keeps_the_contract_over_streams_that_can_only_wait(tls_files: TlsFiles) -> None:
    async def make() -> tuple[TlsStream, TlsStream]:
        await trio.lowlevel.checkpoint()
        return streams_over(*trio.testing.memory_stream_pair(), tls_files)

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, None)


async def test_it_keeps_the_contract_of_a_two_way_stream_with_tls_1_2(tls_files: TlsFiles) -> None:
    async def make() -> tuple[TlsStream, TlsStream]:
        await trio.lowlevel.checkpoint()
        return stream_pair(tls_files, "1.2")

    with trio.fail_after(60):
        await trio.testing.check_two_way_stream(make, None)


# -- the handshake -----------------------------------------------------------------------


@both_versions
async def test_the_handshake_gives_the_facts_of_the_session(
    tls_files: TlsFiles, version: str
) -> None:
    client, server = stream_pair(tls_files, version)
    async with client, server:
        assert client.facts is server.facts is None
        await shake_streams(client, server)
        for stream in (client, server):
            assert stream.facts is not None
            assert stream.facts.version == f"TLSv{version}"
            with trio.testing.assert_checkpoints():
                assert await stream.do_handshake() is stream.facts


async def test_whoever_comes_first_has_the_handshake_and_the_others_wait_for_it(
    tls_files: TlsFiles,
) -> None:
    left, right = socket_pair()
    client_machine, server_machine = machines(tls_files)
    session = Session(client_machine)
    client = TlsStream(left, session)
    async with client, TlsStream(right, Session(server_machine)) as server:
        received = []

        async def receive() -> None:
            received.append(await client.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(client.send_all, b"question")
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(client.do_handshake)
            assert await server.receive_some() == b"question"
            await server.send_all(b"answer")
        assert received == [b"answer"]
        assert session.finished == 1


async def test_the_session_is_told_once_when_the_first_data_has_come(tls_files: TlsFiles) -> None:
    left, right = socket_pair()
    client_machine, server_machine = machines(tls_files)
    session = Session(client_machine)
    client, server = TlsStream(left, session), TlsStream(right, Session(server_machine))
    async with client, server:
        await shake_streams(client, server)
        assert session.remembered == 0
        for _ in range(2):
            await server.send_all(b"data")
            await client.receive_some()
            assert session.remembered == 1


async def test_a_server_that_only_receives_never_makes_its_client_read(
    tls_files: TlsFiles, autojump_clock: trio.testing.MockClock
) -> None:
    # The session tickets of TLS 1.3 would wait in a stream whose other end never reads.
    left, right = trio.testing.lockstep_stream_pair()
    client, server = streams_over(left, right, tls_files)
    with trio.fail_after(10):
        async with client, server:
            await shake_streams(client, server)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, b"data")
                assert await server.receive_some() == b"data"


# -- data --------------------------------------------------------------------------------


@both_versions
async def test_large_data_goes_both_ways_at_once(
    tls_files: TlsFiles, version: str, autojump_clock: trio.testing.MockClock
) -> None:
    # Over a pair that takes nothing until it is read: whoever waits for the wrong thing, waits
    # for ever.
    client, server = streams_over(*trio.testing.lockstep_stream_pair(), tls_files, version)
    data = bytes(range(256)) * 1000
    with trio.fail_after(30):
        async with client, server, trio.open_nursery() as nursery:
            for stream in (client, server):
                nursery.start_soon(stream.send_all, data)

                async def receive(stream: TlsStream = stream) -> None:
                    assert await receive_exactly(stream, len(data)) == data

                nursery.start_soon(receive)


@pytest.mark.parametrize("most", [7, 16384, 100_000])
async def test_no_more_is_returned_than_was_asked_for(tls_files: TlsFiles, most: int) -> None:
    client, server = stream_pair(tls_files)
    data = bytes(range(256)) * 130
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(data)
        await client.send_eof()
        received = b""
        while piece := await server.receive_some(most):
            assert len(piece) <= most
            received += piece
        assert received == data


async def test_what_came_together_is_returned_together(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        for number in range(10):
            await client.send_all(b"%d" % number)
        assert await server.receive_some() == b"0123456789"


async def test_any_buffer_can_be_sent(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    data = b"0123456789abcdef" * 10
    async with client, server:
        await shake_streams(client, server)
        for buffer in (data, bytearray(data), memoryview(data), memoryview(data).cast("I")):
            await client.send_all(buffer)
            assert await receive_exactly(server, len(data)) == data
            assert client.send_nowait(buffer) == len(data)
            assert await receive_exactly(server, len(data)) == data


async def test_a_receive_that_has_something_already_is_a_checkpoint(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(b"12")
        assert await server.receive_some(1) == b"1"
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.receive_some()
        assert scope.cancelled_caught
        with trio.testing.assert_checkpoints():
            assert await server.receive_some() == b"2"


async def test_messages_go_through_a_channel_on_it(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with trio.open_nursery() as nursery:
        ours = StreamChannel(client, nursery=nursery, context=ChannelContext(transport="tls"))
        theirs = StreamChannel(server, nursery=nursery, context=ChannelContext(transport="tls"))
        with trio.fail_after(10):
            await ours.send(Request(1, "work", {"payload": "x" * 200_000}))
            request = await theirs.receive()
            assert isinstance(request, Request)
            await theirs.send(Notification("done"))
            assert await ours.receive() == Notification("done")
            assert ours.can_send_eof
            await ours.send_eof()
            with pytest.raises(trio.EndOfChannel):
                await theirs.receive()
            await theirs.send(Notification("still here"))
            assert await ours.receive() == Notification("still here")
            await ours.aclose()
            await theirs.aclose()


# -- the end -----------------------------------------------------------------------------


@both_versions
async def test_closing_is_a_clean_end_for_the_peer(tls_files: TlsFiles, version: str) -> None:
    client, server = stream_pair(tls_files, version)
    async with client, server:
        await shake_streams(client, server)
        await client.send_all(b"last words")
        await client.aclose()
        assert await server.receive_some() == b"last words"
        assert await server.receive_some() == b""
        assert await server.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()


async def test_closing_at_once_is_a_clean_end_as_well(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with server:
        await shake_streams(client, server)
        client.close()
        client.close()
        assert await server.receive_some() == b""
        await client.aclose()


async def test_closing_before_the_handshake_says_nothing(tls_files: TlsFiles) -> None:
    client, _ = machines(tls_files)
    left, right = socket_pair()
    async with right:
        TlsStream(left, Session(client)).close()
        assert await right.receive_some() == b""


async def test_a_stream_that_can_only_be_closed_by_waiting_is_closed_in_the_background(
    tls_files: TlsFiles,
) -> None:
    left, right = trio.testing.memory_stream_pair()
    client, server = streams_over(left, right, tls_files)
    await shake_streams(client, server)
    client.close()
    assert client.facts is not None
    with trio.fail_after(10):
        assert await right.receive_some() == b""
    await server.aclose()


async def test_one_direction_can_end_alone_with_tls_1_3(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with client, server:
        assert client.can_send_eof
        await shake_streams(client, server)
        await client.send_eof()
        await client.send_eof()
        assert client.can_send_eof
        assert await server.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError, match="sent EOF"):
            await client.send_all(b"more")
        with pytest.raises(trio.ClosedResourceError, match="sent EOF"):
            client.send_nowait(b"more")
        await server.send_all(b"answer")
        assert await client.receive_some() == b"answer"
        await server.aclose()
        assert await client.receive_some() == b""


async def test_tls_1_2_refuses_to_end_one_direction_alone(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files, "1.2")
    async with client, server, trio.open_nursery() as nursery:
        await shake_streams(client, server)
        channel = StreamChannel(server, nursery=nursery, context=ChannelContext(transport="tls"))
        assert not client.can_send_eof
        assert not channel.can_send_eof
        with pytest.raises(LocalProtocolError, match=r"TLS 1\.2"):
            await client.send_eof()
        with pytest.raises(LocalProtocolError):
            await channel.send_eof()
        await client.send_all(b'{"jsonrpc": "2.0", "method": "still here"}\n')
        assert await channel.receive() == Notification("still here")


async def test_closing_wakes_who_waits(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    async with server:
        await shake_streams(client, server)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await client.receive_some()

            async def send() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await client.send_all(b"x" * 10_000_000)

            nursery.start_soon(receive)
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            client.close()


async def test_its_description_tells_how_it_is(tls_files: TlsFiles) -> None:
    client, server = stream_pair(tls_files)
    assert repr(client).startswith("<TlsStream open over <SocketStream")
    client.close()
    assert repr(client).startswith("<TlsStream closed over")
    await server.aclose()
