"""Control-C while a TLS stream receives."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.testing

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import shake_streams, stream_pair

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
