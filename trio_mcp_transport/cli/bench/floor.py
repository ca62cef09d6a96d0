"""The floor: the same work over a bare Trio stream, with nothing around it.

Lines are split, UTF-8 is checked, envelopes are decoded and encoded by msgspec; there are
no limits, no bounds, no errors. A protocol cannot be faster on Trio in Python. Over ``tls`` the
stream is a `trio.SSLStream`, and the contestant has that name.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import trio
from msgspec import UNSET, Raw, UnsetType

from .cases import BATCH_MESSAGES, Task
from .certificates import client_context, server_context
from .clients import side_by_side
from .payloads import FIRST_ID, METHOD, params_of_size
from .processes import server_command, started_server, until_stdin_ends

__all__ = [
    "Lines",
    "answer",
    "client",
    "connect",
    "encode_notification",
    "encode_request",
    "pipelined_round_trips",
    "port_of",
    "round_trips",
    "serve",
    "server_child",
    "work_on",
]

_READ_BYTES = 64 * 1024
#: Clients that come at once: where it is full, a Unix socket refuses instead of waiting.
_BACKLOG = 1024


class _Out(msgspec.Struct, omit_defaults=True):
    jsonrpc: str
    id: int | str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: object = UNSET
    result: object = UNSET


class _In(msgspec.Struct):
    jsonrpc: str
    id: int | str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_In).decode


def encode_request(number: int, params: object) -> bytes:
    """A request as a line."""
    return _encode(_Out("2.0", number, METHOD, params)) + b"\n"


def encode_notification(params: object) -> bytes:
    """A notification as a line."""
    return _encode(_Out("2.0", UNSET, METHOD, params)) + b"\n"


class Lines:
    """A stream's lines, decoded."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._partial: list[bytes] = []

    async def receive(self) -> list[_In]:
        """What the next reads complete; empty at the end."""
        while True:
            chunk = await self.stream.receive_some(_READ_BYTES)
            if not chunk:
                return []
            lines = bytes(chunk).split(b"\n")
            if len(lines) > 1:
                break
            self._partial.append(lines[0])
        if self._partial:
            lines[0] = b"".join([*self._partial, lines[0]])
            self._partial = []
        if rest := lines.pop():
            self._partial.append(rest)
        decoded = []
        for line in lines:
            if not line.isascii():
                line.decode()
            decoded.append(_decode(line))
        return decoded

    async def receive_some(self) -> list[_In]:
        """As `receive`, where the end must not come."""
        messages = await self.receive()
        if not messages:
            raise EOFError("the server closed the connection")
        return messages

    async def receive_until_answer(self) -> None:
        """Read until an answer came."""
        while True:
            messages = await self.receive_some()
            if messages[-1].result is not UNSET:
                return


@asynccontextmanager
async def client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """Start the server and connect; gives what does the task's work so many times."""
    if task.transport == "memory":
        async with _memory_client(task) as work:
            yield work
        return
    if task.transport == "stdio":
        async with server_child(task) as (stream, _):
            yield work_on(stream, task)
        return
    async with started_server(task) as (address, _), AsyncExitStack() as stack:
        works = []
        for _ in range(task.connections):
            connected = await connect(address, task.certificates)
            works.append(work_on(await stack.enter_async_context(connected), task))

        async def work(count: int) -> None:
            await side_by_side(works, count)

        yield work


def work_on(stream: trio.abc.Stream, task: Task) -> Callable[[int], Awaitable[None]]:
    """What does the task's work so many times, on a stream of lines."""
    lines = Lines(stream)
    params = params_of_size(task.payload_bytes)
    works = {
        "round-trip": round_trips,
        "peer-round-trip": round_trips,
        "many-clients": round_trips,
        "one-way": _one_way,
        "one-way-batched": _one_way_batched,
    }
    do_work = works[task.work]

    async def work(count: int) -> None:
        await do_work(lines, params, count)

    return work


async def round_trips(lines: Lines, params: object, count: int) -> None:
    """Send a request, read its answer, and so on."""
    stream = lines.stream
    for number in range(FIRST_ID, FIRST_ID + count):
        await stream.send_all(encode_request(number, params))
        await lines.receive_until_answer()


async def pipelined_round_trips(lines: Lines, params: object, count: int) -> None:
    """Send requests in batches, and read all answers of a batch before the next."""
    for start in range(FIRST_ID, FIRST_ID + count, BATCH_MESSAGES):
        numbers = range(start, start + BATCH_MESSAGES)
        batch = [encode_request(number, params) for number in numbers]
        await lines.stream.send_all(b"".join(batch))
        missing = BATCH_MESSAGES
        while missing:
            missing -= len(await lines.receive_some())


async def _one_way(lines: Lines, params: object, count: int) -> None:
    stream = lines.stream
    for _ in range(count):
        await stream.send_all(encode_notification(params))
    await stream.send_all(encode_request(FIRST_ID, params))
    await lines.receive_until_answer()


async def _one_way_batched(lines: Lines, params: object, count: int) -> None:
    stream = lines.stream
    for start in range(0, count, BATCH_MESSAGES):
        # Not by `encode_notification`: a call is not what this is the floor of.
        batch = [
            _encode(_Out("2.0", UNSET, METHOD, params)) + b"\n"
            for _ in range(min(BATCH_MESSAGES, count - start))
        ]
        await stream.send_all(b"".join(batch))
    await stream.send_all(encode_request(FIRST_ID, params))
    await lines.receive_until_answer()


@asynccontextmanager
async def server_child(task: Task) -> AsyncGenerator[tuple[trio.abc.Stream, int], None]:
    """A server of any contestant as a child on two pipes, and its process id."""
    process = await trio.lowlevel.open_process(
        server_command(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with trio.StapledStream(process.stdin, process.stdout) as stream:
        yield stream, process.pid
    await process.wait()


def port_of(address: str) -> int:
    """The port of a URL that a server printed."""
    port = urlsplit(address).port
    assert port is not None
    return port


async def connect(address: str, certificates: str) -> trio.abc.Stream:
    """Connect to the endpoint that a server printed, encrypted if its scheme says so."""
    if address.startswith("unix:"):
        return await trio.open_unix_socket(address.removeprefix("unix:"))
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(address))
    if not address.startswith(("tls:", "https:")):
        return stream
    encrypted = trio.SSLStream(
        stream,
        client_context(certificates),
        server_hostname="127.0.0.1",
        https_compatible=address.startswith("https:"),
    )
    await encrypted.do_handshake()
    return encrypted


async def serve(task: Task) -> None:
    """Serve the floor's connections: answer requests, take notifications."""
    if task.transport == "stdio":
        stream = trio.StapledStream(
            trio.lowlevel.FdStream(os.dup(1)), trio.lowlevel.FdStream(os.dup(0))
        )
        async with stream:
            await answer(stream)
        return
    if task.transport == "unix":
        listener_socket = trio.socket.socket(trio.socket.AF_UNIX)
        await listener_socket.bind(task.address)
        address = f"unix:{task.address}"
    else:
        listener_socket = trio.socket.socket()
        await listener_socket.bind(("127.0.0.1", 0))
        address = f"{task.transport}://127.0.0.1:{listener_socket.getsockname()[1]}"
    listener_socket.listen(_BACKLOG)
    listener: trio.abc.Listener[trio.abc.Stream] = trio.SocketListener(listener_socket)
    if task.transport == "tls":
        listener = trio.SSLListener(listener, server_context(task.certificates))
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, answer, [listener])
        print(address, flush=True)  # ruff: ignore[print] (told to the measurer)
        await until_stdin_ends()
        nursery.cancel_scope.cancel()


async def answer(stream: trio.abc.Stream) -> None:
    """Answer a connection's requests, take its notifications."""
    lines = Lines(stream)
    while messages := await lines.receive():
        for message in messages:
            if message.id is not UNSET:
                result = _Out("2.0", message.id, result=message.params)
                await stream.send_all(_encode(result) + b"\n")


@asynccontextmanager
async def _memory_client(task: Task) -> AsyncGenerator[Callable[[int], Awaitable[None]], None]:
    """A pair of Trio's own memory channels, which pass messages by reference."""
    to_server, from_client = trio.open_memory_channel[_Out](64)
    to_client, from_server = trio.open_memory_channel[_Out](64)
    params = params_of_size(task.payload_bytes)

    async def respond() -> None:
        async for message in from_client:
            if message.id is not UNSET:
                await to_client.send(_Out("2.0", message.id, result=message.params))

    async def work(count: int) -> None:
        if task.work.endswith("round-trip"):
            for number in range(FIRST_ID, FIRST_ID + count):
                await to_server.send(_Out("2.0", number, METHOD, params))
                await from_server.receive()
            return
        for _ in range(count):
            await to_server.send(_Out("2.0", UNSET, METHOD, params))
        await to_server.send(_Out("2.0", FIRST_ID, METHOD, params))
        await from_server.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(respond)
        with to_server:
            yield work
