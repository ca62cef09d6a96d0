"""Hostile, stuck and silent peers of a real ``trio-mcp serve``, over two FIFOs.

The test holds both FIFOs open for reading and writing, so that no end of file helps the
server: that it ends is its own doing.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from cli_process import Finished, Running, running

pytestmark = [
    pytest.mark.cli,
    pytest.mark.hardening,
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="FIFOs that are opened both ways"),
]

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
#: The least that Linux gives a pipe: it is full at once.
SMALL_PIPE = 4096


class Fifos:
    """The two FIFOs that are a server's stdin and stdout."""

    def __init__(self, directory: Path) -> None:
        self._descriptors: list[int] = []
        for name in ("in", "out"):
            os.mkfifo(directory / name)
            self._descriptors.append(os.open(directory / name, os.O_RDWR))
        self.stdin, self.stdout = self._descriptors
        #: The server's end of the first.
        self.readable = os.open(directory / "in", os.O_RDONLY)
        self._descriptors.append(self.readable)
        fcntl.fcntl(self.stdout, fcntl.F_SETPIPE_SZ, SMALL_PIPE)

    def write(self, data: bytes) -> None:
        assert os.write(self.stdin, data) == len(data)

    def close_stdin(self) -> None:
        """Nobody can write to it any more: the server's end of file."""
        self._descriptors.remove(self.stdin)
        os.close(self.stdin)

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    async def read(self, size: int = SMALL_PIPE) -> bytes:
        await trio.lowlevel.wait_readable(self.stdout)
        return os.read(self.stdout, size)

    async def read_answer(self) -> dict[str, object]:
        """One answer, in whichever framing it comes."""
        data = b""
        while not data.endswith(b"}\n") and not (data[:1] == b"C" and data.endswith(b"}")):
            data += await self.read()
        return msgspec.json.decode(data[data.index(b"{") :], type=dict[str, object])


@asynccontextmanager
async def serving(
    tmp_path: Path, stdiocfg: str = "", **variables: str
) -> AsyncGenerator[tuple[Running, Fifos], None]:
    fifos = Fifos(tmp_path)
    try:
        async with running(
            "serve",
            "--transport=stdio",
            f"--stdiocfg={stdiocfg}",
            variables=variables,
            stdin=fifos.readable,
            stdout=fifos.stdout,
        ) as server:
            yield server, fifos
    finally:
        fifos.close()


async def ending(server: Running) -> Finished:
    """Wait until the server has ended by itself; what it told."""
    await server.process.wait()
    assert server.process.stderr is not None
    told = b"".join([chunk async for chunk in server.process.stderr]).decode()
    return Finished(server.process.returncode or 0, b"", told)


async def expect_failure(server: Running, told: str) -> None:
    finished = await ending(server)
    assert told in finished.err
    assert finished.err.count("\n") == 1
    assert finished.status == 1


async def test_a_silent_client_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, "timeout_ms=30000;idle_read_timeout_ms=200") as (server, _):
        await expect_failure(server, "no byte arrived for 0.2 s")


async def test_a_full_queue_closes(tmp_path: Path) -> None:
    async with serving(tmp_path, "write_queue_max_bytes=4096", MCP_KEEPALIVE_MS="1") as (server, _):
        await expect_failure(server, "the outbox is full")


async def test_a_client_that_takes_nothing_is_closed(tmp_path: Path) -> None:
    config = "write_timeout_ms=200;write_queue_max_bytes=10485760"
    async with serving(tmp_path, config, MCP_KEEPALIVE_MS="1") as (server, _):
        await expect_failure(server, "the peer took less than")


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"Content-Length: 9999999999\r\n\r\n", "over the limit"),
        (b"Content-Length: 16777217\r\n\r\n", "over the limit"),
        (b"Content-Length: -1\r\n\r\n{}", "no valid number"),
        (b"Content-Length: many\r\n\r\n{}", "no valid number"),
        (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "conflicting"),
        (b"Content-Type: application/json\r\n\r\n{}", "has no Content-Length"),
        (b"Content-Length: 2\r\nno field\r\n\r\n{}", "no header field"),
        (b"Content-Length: 2\r\nX: " + b"x" * 10_000 + b"\r\n\r\n{}", "over the limit of 8192"),
        # The length is short of the body, whose rest is taken for a header; then it is long.
        (b"Content-Length: 20\r\n\r\n%b\r\n\r\n" % PING, "no header field"),
        (
            b"Content-Length: 45\r\n\r\n%bContent-Length: 40\r\n\r\n%b" % (PING, PING),
            "has no Content-L",
        ),
    ],
)
async def test_unsound_frames_close(tmp_path: Path, sent: bytes, told: str) -> None:
    async with serving(tmp_path) as (server, fifos):
        fifos.write(sent)
        await server.wait_err(told)
        await server.process.wait()
        assert server.process.returncode == 1


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"Content-Length: 10\r\n", "ended inside a header"),
        (b"Content-Le", "ended inside a header"),
        (b"Content-Length: 10\r\n\r\n{", "ended inside a message: 1 of 10 bytes came"),
    ],
)
async def test_a_cut_off_frame_is_no_clean_end(tmp_path: Path, sent: bytes, told: str) -> None:
    async with serving(tmp_path) as (server, fifos):
        fifos.write(sent)
        fifos.close_stdin()
        finished = await ending(server)
        assert told in finished.err


@pytest.mark.parametrize(
    "sent",
    [b"garbage\n", b"\xff\x00\xfe\n", b"{}\n", b'{"jsonrpc":"2.0","id":1,"method":7}\n', b"[]\n"],
)
async def test_garbage_in_a_sound_frame_is_answered_and_the_conversation_goes_on(
    tmp_path: Path, sent: bytes
) -> None:
    async with serving(tmp_path) as (server, fifos):
        fifos.write(sent)
        assert "error" in await fifos.read_answer()
        fifos.write(PING + b"\n")
        assert (await fifos.read_answer())["id"] == 1
        fifos.close_stdin()
        assert (await ending(server)).status == 0


async def test_garbage_in_a_frame_with_a_length_is_answered_as_well(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, fifos):
        fifos.write(b"Content-Length: 7\r\n\r\ngarbage")
        assert "error" in await fifos.read_answer()
        fifos.write(b"Content-Length: %d\r\n\r\n%b" % (len(PING), PING))
        assert (await fifos.read_answer())["id"] == 1
        fifos.close_stdin()
        assert (await ending(server)).status == 0


async def test_a_slow_reader_gets_everything(tmp_path: Path) -> None:
    size = 300_000
    call = (
        b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"large",'
        b'"arguments":{"size":%d},"_meta":{"io.modelcontextprotocol/protocolVersion":'
        b'"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}\n' % size
    )
    async with serving(tmp_path, "write_queue_max_bytes=65536") as (server, fifos):
        fifos.write(call)
        data = b""
        while not data.endswith(b"\n"):
            data += await fifos.read(1000)
        assert data.count(b"x") >= size
        fifos.close_stdin()
        assert (await ending(server)).status == 0


async def test_the_configuration_comes_from_the_environment_too(tmp_path: Path) -> None:
    fifos = Fifos(tmp_path)
    try:
        async with running(
            "serve",
            variables={"MCP_STDIO_CONFIG": "idle_read_timeout_ms=100", "TRANSPORT": "stdio"},
            stdin=fifos.readable,
            stdout=fifos.stdout,
        ) as server:
            await expect_failure(server, "no byte arrived for 0.1 s")
    finally:
        fifos.close()


async def test_a_client_over_own_stdio_lists_the_tools_of_such_a_server(tmp_path: Path) -> None:
    fifos = Fifos(tmp_path)
    try:
        async with running(
            "serve", "--transport=stdio", stdin=fifos.readable, stdout=fifos.stdout
        ) as server:
            async with running(
                "call", "--transport=stdio", stdin=fifos.stdout, stdout=fifos.stdin
            ) as client:
                await client.wait_err(r'"tools":\[\{"name":"echo"')
                await client.process.wait()
                assert client.process.returncode == 0
            fifos.close_stdin()
            assert (await ending(server)).status == 0
    finally:
        fifos.close()
