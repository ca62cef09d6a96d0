"""Control-C while a TLS stream receives."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.testing

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import shake_streams, socket_pair, stream_pair, streams_over

from trio_mcp_transport.transports.socket_stream import SocketStream

pytestmark = pytest.mark.tls


def test_an_interrupt_of_who_receives_loses_nothing(tls_files: TlsFiles) -> None:
    received = []

    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        client, server = stream_pair(tls_files)
        async with client, server:
            await shake_streams(client, server)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(interrupt)
                    await server.receive_some()
            except* KeyboardInterrupt:
                await client.send_all(b"after")
                received.append(await server.receive_some())

    trio.run(main)
    assert received == [b"after"]


class Watching(SocketStream):
    """Notes of each call whether an interrupt could come in its middle."""

    def __init__(self, stream: SocketStream) -> None:
        super().__init__(stream.socket)
        self.protected: dict[str, bool] = {}

    def note(self, name: str) -> None:
        self.protected[name] = trio.lowlevel.currently_ki_protected()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.note("send_all")
        await super().send_all(data)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        self.note("send_nowait")
        return super().send_nowait(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.note("receive_some")
        return await super().receive_some(max_bytes)

    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        self.note("receive_nowait")
        return super().receive_nowait(max_bytes)

    def close(self) -> None:
        self.note("close")
        super().close()

    async def aclose(self) -> None:
        self.note("aclose")
        await super().aclose()


def test_no_interrupt_strikes_between_a_record_and_its_number(tls_files: TlsFiles) -> None:
    async def main() -> None:
        left, right = socket_pair()
        below = Watching(left)
        client, server = streams_over(below, right, tls_files)

        def seen() -> dict[str, bool]:
            found = dict(below.protected)
            below.protected.clear()
            return found

        assert not trio.lowlevel.currently_ki_protected()
        async with server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.do_handshake)
                await client.do_handshake()
            assert seen() == {"send_all": True, "receive_some": True}
            await client.send_all(b"x")
            assert seen() == {"send_all": True}
            assert client.send_nowait(b"x") == 1
            assert seen() == {"send_nowait": True}
            await server.send_all(b"x")
            assert await client.receive_some() == b"x"
            assert seen() == {"receive_some": True}
            assert client.receive_nowait() is None
            assert seen() == {"receive_nowait": True}
            await client.send_eof()
            assert seen() == {"send_all": True}
            await client.aclose()
            assert seen() == {"aclose": True, "close": True}
            client.close()
            assert seen() == {"close": True}

    trio.run(main)
