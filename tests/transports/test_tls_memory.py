"""What an idle TLS connection costs, once large messages have passed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tls_files import TlsFiles

pytestmark = [
    pytest.mark.tls,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/statm"),
]

PROGRAM = """
import gc, os, sys
import trio
from tls_files import TlsFiles
from tls_sides import shake_streams, streams_over, socket_pair, TlsStream
from trio_mcp_transport import TlsSettings
from trio_mcp_transport.security import TlsClient, TlsServer

ca_file, cert_file, key_file = sys.argv[1:]
client_side = TlsClient(TlsSettings(ca_file=ca_file))
server_side = TlsServer(TlsSettings(cert_file=cert_file, key_file=key_file))

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

async def main():
    kept = []

    async def open_some(count):
        for _ in range(count):
            left, right = socket_pair()
            client = TlsStream(left, client_side.begin("localhost"))
            server = TlsStream(right, server_side.begin())
            await shake_streams(client, server)
            for here, there in ((client, server), (server, client)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(here.send_all, bytes(300_000))
                    received = 0
                    while received < 300_000:
                        received += len(await there.receive_some())
            kept.append((client, server))

    await open_some(10)
    before = resident()
    await open_some(50)
    print((resident() - before) // 100)
    for client, server in kept:
        client.close()
        server.close()

trio.run(main)
"""


def test_an_idle_connection_takes_at_most_128_kib(
    tls_files: TlsFiles, pytestconfig: pytest.Config
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            tls_files.ca_file,
            tls_files.server_cert,
            tls_files.server_key,
        ],
        cwd=pytestconfig.rootpath / "tests",
        env={"PYTHONPATH": str(pytestconfig.rootpath), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) <= 128 * 1024
