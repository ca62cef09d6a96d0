"""`CompressedStream` around streams: agreement, bounds, ends, cancellation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    assert_checkpoints,
    check_half_closeable_stream,
    check_two_way_stream,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from trio_mcp_transport.compression_settings import CompressionSettings
from trio_mcp_transport.errors import (
    FeatureUnavailable,
    LocalProtocolError,
    RemoteProtocolError,
)
from trio_mcp_transport.sansio.compressed_records import hello
from trio_mcp_transport.sansio.compression import available_algorithms
from trio_mcp_transport.transports.compressed_stream import CompressedStream

pytestmark = pytest.mark.channel

SETTINGS = CompressionSettings(algorithms=available_algorithms(), min_size=20)
GZIP = CompressionSettings(algorithms=("gzip",), min_size=20)
TEXT = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}\n' * 50


class Closable(trio.abc.HalfCloseableStream):
    """A memory stream that can be closed synchronously, as sockets can."""

    def __init__(self, send_stream: MemorySendStream, receive_stream: MemoryReceiveStream) -> None:
        self.send_stream = send_stream
        self.receive_stream = receive_stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.send_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.send_stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.send_stream.aclose()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.receive_stream.receive_some(max_bytes))

    def close(self) -> None:
        self.send_stream.close()
        self.receive_stream.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


def raw_pair() -> tuple[Closable, Closable]:
    one, other = memory_stream_pair()
    return (
        Closable(one.send_stream, one.receive_stream),
        Closable(other.send_stream, other.receive_stream),
    )


def pair(
    client: CompressionSettings = GZIP, server: CompressionSettings = GZIP
) -> tuple[CompressedStream, CompressedStream]:
    one, other = raw_pair()
    return (
        CompressedStream(one, client, accepted=False),
        CompressedStream(other, server, accepted=True),
    )


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.receive_some()
        assert part
        data += part
    return data


async def greeted_pair() -> tuple[CompressedStream, CompressedStream]:
    """Both sides know each other already, so that either may speak first."""
    one, other = pair(SETTINGS, SETTINGS)
    await one.send_all(b"x")
    assert await other.receive_some() == b"x"
    await other.send_all(b"y")
    assert await one.receive_some() == b"y"
    return one, other


async def test_it_is_a_stream_by_trios_own_rules() -> None:
    await check_two_way_stream(greeted_pair, None)
    await check_half_closeable_stream(greeted_pair, None)


async def test_both_directions_are_compressed_once_each_knows_the_other() -> None:
    client, server = pair()
    with trio.fail_after(5):
        await client.send_all(TEXT)
        assert await read_exactly(server, len(TEXT)) == TEXT
        assert client.compression_statistics()[0].pieces == 0  # it did not know yet
        await server.send_all(TEXT)
        assert await read_exactly(client, len(TEXT)) == TEXT
        await client.send_all(TEXT)
        assert await read_exactly(server, len(TEXT)) == TEXT
    assert (
        client.compression_statistics()[0].pieces == server.compression_statistics()[0].pieces == 1
    )
    assert client.compression_statistics()[1].bytes_before == len(TEXT)
    assert server.compression_statistics()[0].ratio > 10


async def test_the_client_waits_for_nobody() -> None:
    client, _ = pair()
    await client.send_all(b"at once")


async def test_a_client_without_compression_is_served_without() -> None:
    plain, other = raw_pair()
    server = CompressedStream(other, GZIP, accepted=True)
    await plain.send_all(TEXT)
    assert await read_exactly(server, len(TEXT)) == TEXT
    await server.send_all(TEXT)
    assert await read_exactly(plain, len(TEXT)) == TEXT


async def test_a_server_without_compression_is_an_error_that_says_so() -> None:
    one, plain = raw_pair()
    client = CompressedStream(one, GZIP, accepted=False)
    await plain.send_all(b"{}\n")
    with pytest.raises(trio.BrokenResourceError, match="does not speak this compression"):
        await client.receive_some()
    for call in (client.send_all(b"x"), client.receive_some()):
        with pytest.raises(trio.BrokenResourceError, match=r"is broken: .* compression") as caught:
            await call
        assert isinstance(caught.value.__cause__, RemoteProtocolError)


async def test_sides_that_have_nothing_in_common_speak_plainly() -> None:
    if "zstd" not in available_algorithms():
        pytest.skip("zstandard is not installed")
    client, server = pair(GZIP, CompressionSettings(algorithms=("zstd",), min_size=20))
    for source, target in ((client, server), (server, client), (client, server)):
        await source.send_all(TEXT)
        assert await read_exactly(target, len(TEXT)) == TEXT
        assert source.compression_statistics()[0].pieces == 0


async def test_a_server_that_speaks_first_waits_until_it_knows_how() -> None:
    client, server = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, TEXT)
        await wait_all_tasks_blocked()
        await client.send_all(b"hello")
        assert await read_exactly(client, len(TEXT)) == TEXT
    assert await server.receive_some() == b"hello"


async def test_a_server_that_speaks_first_while_it_reads_leaves_the_reading_to_the_reader() -> None:
    client, server = pair()
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await server.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        nursery.start_soon(server.send_all, TEXT)
        await wait_all_tasks_blocked()
        await client.send_all(b"hello")
        assert await read_exactly(client, len(TEXT)) == TEXT
    assert received == [b"hello"]


async def test_a_reader_goes_on_when_a_sender_has_read_for_it() -> None:
    client, server = pair()
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await server.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"x")
        await wait_all_tasks_blocked()
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await client.send_all(b"hello")
    assert received == [b"hello"]


async def test_a_server_whose_peer_says_nothing_and_goes_cannot_send() -> None:
    client, server = pair()
    await client.send_eof()
    with pytest.raises(trio.BrokenResourceError, match="said nothing"):
        await server.send_all(b"x")


async def test_a_server_whose_peer_begins_badly_cannot_send() -> None:
    raw, other = raw_pair()
    server = CompressedStream(other, GZIP, accepted=True)
    await raw.send_all(b"\x8fMCX!!")
    with pytest.raises(trio.BrokenResourceError, match="does not speak") as caught:
        await server.send_all(b"x")
    assert isinstance(caught.value.__cause__, RemoteProtocolError)


async def test_the_end_is_told_from_being_cut_off() -> None:
    raw, other = raw_pair()
    server = CompressedStream(other, GZIP, accepted=True)
    await raw.send_all(hello(("gzip",)) + b"\0\0\0\0\1x\0\0\0")
    await raw.send_eof()
    assert await server.receive_some() == b"x"
    with pytest.raises(trio.BrokenResourceError, match="in the middle of a record"):
        await server.receive_some()


async def test_the_end_is_the_end_again_and_again() -> None:
    client, server = pair()
    await client.send_all(b"x")
    await client.send_eof()
    assert [await server.receive_some() for _ in range(3)] == [b"x", b"", b""]
    with assert_checkpoints():
        await server.receive_some()


async def test_what_is_read_in_small_parts_loses_nothing() -> None:
    client, server = pair()
    await client.send_all(TEXT)
    assert await server.receive_some(7) == TEXT[:7]
    assert await server.receive_some(1) == TEXT[7:8]
    assert await server.receive_some() == TEXT[8:]
    with pytest.raises(ValueError, match="at least 1"):
        await server.receive_some(0)


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    client, server = pair()
    with trio.move_on_after(0) as scope:
        await server.receive_some()
    assert scope.cancelled_caught
    await client.send_all(TEXT)
    assert await read_exactly(server, len(TEXT)) == TEXT


async def test_a_read_that_is_cancelled_with_something_there_loses_nothing() -> None:
    client, server = pair()
    for data in (b"one", b"two", b"three"):
        await client.send_all(data)
    assert await server.receive_some() == b"one"
    with trio.move_on_after(0) as scope:
        await server.receive_some()
    assert scope.cancelled_caught
    assert await server.receive_some() == b"two"
    assert await server.receive_some() == b"three"


async def test_a_write_that_is_cancelled_breaks_the_stream() -> None:
    one, other = raw_pair()
    gate = trio.Event()
    one.send_stream.send_all_hook = gate.wait
    client = CompressedStream(one, GZIP, accepted=False)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, TEXT)
            await wait_all_tasks_blocked()
            scope.cancel()
    one.send_stream.send_all_hook = None
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="was cancelled"):
        await client.send_all(b"x")
    await trio.aclose_forcefully(other)


async def test_a_write_that_fails_breaks_the_stream() -> None:
    one, other = raw_pair()
    client = CompressedStream(one, GZIP, accepted=False)
    other.close()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(TEXT)
    one.send_stream = memory_stream_pair()[0].send_stream  # it would take everything
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="is broken: "):
        await client.send_all(TEXT)


@pytest.mark.parametrize("call", ["send", "receive"])
async def test_two_tasks_cannot_do_the_same(call: str) -> None:
    client, server = pair()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "send": lambda: server.send_all(b"x"),
        "receive": server.receive_some,
    }

    async def first() -> None:
        await calls[call]()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await calls[call]()
        await client.send_all(b"x")


async def test_closing_wakes_who_waits() -> None:
    _, server = pair()

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await server.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        server.close()
    await server.aclose()


async def test_a_stream_that_cannot_be_half_closed_says_so() -> None:
    class OneWay(trio.abc.Stream):
        close = staticmethod(lambda: None)

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise NotImplementedError

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise NotImplementedError

        async def wait_send_all_might_not_block(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise NotImplementedError

    stream = CompressedStream(OneWay(), GZIP, accepted=False)
    assert not stream.can_send_eof
    with pytest.raises(LocalProtocolError, match="half-closed"):
        await stream.send_eof()


def test_a_stream_that_cannot_be_closed_at_once_is_refused() -> None:
    one, _ = memory_stream_pair()
    with pytest.raises(TypeError, match="close"):
        CompressedStream(one, GZIP, accepted=False)


def test_an_algorithm_that_is_not_installed_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, _ = raw_pair()
    monkeypatch.setattr(
        "trio_mcp_transport.transports.compressed_stream.available_algorithms", lambda: ("gzip",)
    )
    with pytest.raises(FeatureUnavailable, match=r"zstd and lz4 .*\[compression\]"):
        CompressedStream(
            one, CompressionSettings(algorithms=("zstd", "gzip", "lz4")), accepted=False
        )


def test_it_says_what_it_is_around() -> None:
    client, _ = pair()
    assert "CompressedStream over" in repr(client)
