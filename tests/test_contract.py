"""The channel contract, run on every transport."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import msgspec
import pytest
import trio

from trio_mcp_transport import (
    ChannelContext,
    ChannelOptions,
    ChannelState,
    Endpoint,
    MemoryEndpoint,
    MessageChannel,
    ProcessEndpoint,
    SecureWebSocketEndpoint,
    StdioEndpoint,
    TcpEndpoint,
    TlsEndpoint,
    TlsUnixEndpoint,
    UnixEndpoint,
    WebSocketEndpoint,
    memory_channel_pair,
    open_channel,
    parse_endpoint,
    serve_channels,
)
from trio_mcp_transport.compression_settings import CompressionSettings
from trio_mcp_transport.shm_endpoints import ShmEndpoint
from trio_mcp_transport.testing import (
    CONTRACT_CHECKS,
    Check,
    FaultyStream,
    MakePair,
    check_channel_contract,
)
from trio_mcp_transport.transports.fd_stream import FdReceiveStream, FdSendStream
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.stream_channel import StreamChannel
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel
from trio_mcp_transport.transports.websocket_settings import WebSocketOptions, make_machine

if TYPE_CHECKING:
    from tls_files import TlsFiles

pytestmark = [pytest.mark.channel, pytest.mark.integration]

CHECK_SECONDS = 60
CLIENT: Literal["client"] = "client"
SERVER: Literal["server"] = "server"
StreamPair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


@asynccontextmanager
async def both(
    nursery: trio.Nursery, left: MessageChannel, right: MessageChannel
) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
    """Close both channels at the end, and then cancel the nursery."""
    try:
        yield left, right
    except BaseException:
        left.abort()
        right.abort()
        raise
    else:
        await right.aclose()
        await left.aclose()
    finally:
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def bare_nursery() -> AsyncGenerator[trio.Nursery, None]:
    """A nursery that lets the block's exception out as it is."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as error:  # noqa: ASYNC103
            failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# -- over streams -----------------------------------------------------------------------


def over_streams(make_streams: StreamPair) -> MakePair:
    """Two `StreamChannel`s over whatever two streams."""

    @asynccontextmanager
    async def make_pair(
        options: ChannelOptions,
    ) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
        context = ChannelContext(transport="test")
        async with bare_nursery() as nursery:
            left, right = (
                StreamChannel(stream, nursery=nursery, context=context, options=options)
                for stream in make_streams()
            )
            async with both(nursery, left, right) as pair:
                yield pair

    return make_pair


def websockets_over_streams(make_streams: StreamPair) -> MakePair:
    """Two `WebSocketChannel`s over whatever two streams; left is the client."""

    @asynccontextmanager
    async def make_pair(
        options: ChannelOptions,
    ) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
        context = ChannelContext(transport="test")
        streams = make_streams()
        async with bare_nursery() as nursery:
            left, right = (
                WebSocketChannel(
                    stream,
                    make_machine(role, WebSocketOptions(), options, None),
                    nursery=nursery,
                    context=context,
                    options=options,
                )
                for stream, role in ((streams[0], CLIENT), (streams[1], SERVER))
            )
            async with both(nursery, left, right) as pair:
                yield pair

    return make_pair


def socket_streams() -> tuple[SocketStream, SocketStream]:
    """Streams that can write and close without waiting."""
    left, right = socket.socketpair()
    return SocketStream(left), SocketStream(right)


def plain_streams() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Streams that offer no more than Trio's interface."""
    left, right = socket.socketpair()
    return (
        trio.SocketStream(trio.socket.from_stdlib_socket(left)),
        trio.SocketStream(trio.socket.from_stdlib_socket(right)),
    )


def cut_streams() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Streams that give and take a few bytes at a time."""
    left, right = socket_streams()
    return (
        FaultyStream(left, read_size=4099, write_size=8191),
        FaultyStream(right, read_size=4099, write_size=8191),
    )


# -- over endpoints ---------------------------------------------------------------------


def over_endpoint(
    make_endpoint: Callable[[ChannelOptions], Endpoint], **for_client: object
) -> MakePair:
    """A client and a server at an endpoint; left is the client, which may need more fields."""

    @asynccontextmanager
    async def make_pair(
        options: ChannelOptions,
    ) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
        endpoint = make_endpoint(options)
        accepted: list[MessageChannel] = []
        arrived, over = trio.Event(), trio.Event()

        async def handle(channel: MessageChannel) -> None:
            accepted.append(channel)
            arrived.set()
            await over.wait()

        async with bare_nursery() as nursery:
            (bound,) = await nursery.start(partial(serve_channels, handle, endpoint))
            target = msgspec.structs.replace(parse_endpoint(bound), options=options, **for_client)
            async with open_channel(target) as client:
                await arrived.wait()
                async with both(nursery, client, accepted[0]) as pair:
                    yield pair

    return make_pair


def tcp(_: Path) -> MakePair:
    return over_endpoint(lambda options: TcpEndpoint(host="127.0.0.1", port=0, options=options))


def unix(directory: Path) -> MakePair:
    names = itertools.count()
    return over_endpoint(
        lambda options: UnixEndpoint(path=str(directory / f"s{next(names)}"), options=options)
    )


def shm(directory: Path) -> MakePair:
    names = itertools.count()
    return over_endpoint(
        lambda options: ShmEndpoint(
            name=f"m{next(names)}",
            directory=str(directory / "shm"),
            options=options,
            max_size=options.max_message_bytes,
            max_count=1,
        )
    )


def compressed_tcp(_: Path) -> MakePair:
    settings = CompressionSettings(algorithms=("gzip",), min_size=64)
    return over_endpoint(
        lambda options: TcpEndpoint(
            host="127.0.0.1", port=0, compression=settings, options=options
        ),
        compression=settings,
    )


def memory(_: Path) -> MakePair:
    names = itertools.count()
    return over_endpoint(lambda options: MemoryEndpoint(name=f"n{next(names)}", options=options))


@asynccontextmanager
async def bare_memory_pair(
    options: ChannelOptions,
) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
    async with bare_nursery() as nursery, both(nursery, *memory_channel_pair(options)) as pair:
        yield pair


def ws(_: Path) -> MakePair:
    return over_endpoint(
        lambda options: WebSocketEndpoint(host="127.0.0.1", port=0, path="/mcp", options=options)
    )


def wss(_: Path, files: TlsFiles) -> MakePair:
    return over_endpoint(
        lambda options: SecureWebSocketEndpoint(
            host="127.0.0.1", port=0, path="/mcp", tls=files.server_settings, options=options
        ),
        tls=files.client_settings,
    )


def tls(_: Path, files: TlsFiles) -> MakePair:
    return over_endpoint(
        lambda options: TlsEndpoint(
            host="127.0.0.1", port=0, tls=files.server_settings, options=options
        ),
        tls=files.client_settings,
    )


def tls_unix(directory: Path, files: TlsFiles) -> MakePair:
    names = itertools.count()
    return over_endpoint(
        lambda options: TlsUnixEndpoint(
            path=str(directory / f"s{next(names)}"),
            tls=files.mutual_server_settings,
            options=options,
        ),
        tls=files.mutual_client_settings,
    )


# -- over a child process and over own stdio ----------------------------------------------

#: Joins its stdin and stdout to a port of ours, ends included.
RELAY = """
import os, socket, sys, threading
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def outward():
    try:
        while data := sock.recv(65536):
            while data:
                data = data[os.write(1, data):]
    except OSError:
        pass
    os.close(1)
threading.Thread(target=outward).start()
try:
    while data := os.read(0, 65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
except OSError:
    pass
"""


@asynccontextmanager
async def child_pair(
    options: ChannelOptions,
) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
    """Left is the channel to a child process, right is what that child is joined to."""
    context = ChannelContext(transport="test")
    async with bare_nursery() as nursery:
        with socket.create_server(("127.0.0.1", 0)) as server:
            command = (sys.executable, "-I", "-S", "-c", RELAY, str(server.getsockname()[1]))
            # The child does not exit while right is open, so it must be told more loudly.
            endpoint = ProcessEndpoint(command=command, shutdown_timeout=0.1, options=options)
            async with open_channel(endpoint) as left:
                connection, _ = await trio.to_thread.run_sync(server.accept)
                right = StreamChannel(
                    SocketStream(connection), nursery=nursery, context=context, options=options
                )
                async with both(nursery, left, right) as pair:
                    yield pair


class PipeStream(trio.abc.Stream):
    """The other ends of this process's stdin and stdout."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)
        self._reader = FdReceiveStream(read_fd)
        self._writer = FdSendStream(write_fd)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._reader.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._writer.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._writer.wait_send_all_might_not_block()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class PipesAsStdio:
    """Inside the block, fds 0 and 1 are pipes.

    Attributes:
        other_ends: What whoever started this process would hold.
    """

    def __enter__(self) -> Self:
        self._saved = [os.dup(0), os.dup(1)]
        stdin, to_stdin = os.pipe()
        from_stdout, stdout = os.pipe()
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.close(stdin)
        os.close(stdout)
        self.other_ends = PipeStream(from_stdout, to_stdin)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for fd, original in enumerate(self._saved):
            os.dup2(original, fd)
            os.close(original)
        self._saved = []

    def exit_process(self) -> None:
        """Let go of the pipes, as the operating system does for a process that has ended."""
        if self._saved:
            for fd, original in enumerate(self._saved):
                os.dup2(original, fd)


@asynccontextmanager
async def stdio_pair(
    options: ChannelOptions,
) -> AsyncGenerator[tuple[MessageChannel, MessageChannel], None]:
    """Left is own stdio, right whoever started this process."""
    context = ChannelContext(transport="test")

    async def exit_when_closed(channel: MessageChannel, stdio: PipesAsStdio) -> None:
        await channel.wait_state(ChannelState.CLOSED, ChannelState.FAILED)
        stdio.exit_process()

    async with bare_nursery() as nursery:
        with PipesAsStdio() as stdio:
            right = StreamChannel(
                stdio.other_ends, nursery=nursery, context=context, options=options
            )
            endpoint = StdioEndpoint(options=options)
            async with (
                open_channel(endpoint, on_event=lambda _: None) as left,
                both(nursery, left, right) as pair,
            ):
                nursery.start_soon(exit_when_closed, left, stdio)
                yield pair


# -- the tests --------------------------------------------------------------------------

TRANSPORTS: dict[str, Callable[[Path], MakePair]] = {
    "socket-streams": lambda _: over_streams(socket_streams),
    "plain-streams": lambda _: over_streams(plain_streams),
    "cut-streams": lambda _: over_streams(cut_streams),
    "memory-pair": lambda _: bare_memory_pair,
    "memory": memory,
    "tcp": tcp,
    "compressed-tcp": compressed_tcp,
    "unix": unix,
    "shm": shm,
    "ws": ws,
    "ws-plain-streams": lambda _: websockets_over_streams(plain_streams),
    "process": lambda _: child_pair,
    "stdio": lambda _: stdio_pair,
}
#: Those that need certificates.
TLS_TRANSPORTS: dict[str, Callable[[Path, TlsFiles], MakePair]] = {
    "tls": tls,
    "tls+unix": tls_unix,
    "wss": wss,
}
#: A process has one stdin and one stdout.
ONE_PAIR_AT_A_TIME = {"stdio"}
NEEDS_TWO_PAIRS = {"a_channel_says_what_it_is"}


@pytest.mark.parametrize("check", CONTRACT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_contract(transport: str, check: Check, tmp_path: Path) -> None:
    if transport in ONE_PAIR_AT_A_TIME and check.__name__ in NEEDS_TWO_PAIRS:
        pytest.skip("a process has one stdin and one stdout")
    with trio.fail_after(CHECK_SECONDS):
        await check(TRANSPORTS[transport](tmp_path))


@pytest.mark.tls
@pytest.mark.parametrize("check", CONTRACT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("transport", TLS_TRANSPORTS)
async def test_contract_over_tls(
    transport: str, check: Check, tmp_path: Path, tls_files: TlsFiles
) -> None:
    with trio.fail_after(CHECK_SECONDS):
        await check(TLS_TRANSPORTS[transport](tmp_path, tls_files))


async def test_all_checks_can_be_run_without_a_test_runner() -> None:
    await check_channel_contract(bare_memory_pair)
