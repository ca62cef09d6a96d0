"""Certificates that change while clients come, talk and go."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
from serving import PATIENCE, serving

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles

from trio_mcp_transport import (
    ChannelEvent,
    MessageChannel,
    Notification,
    TlsSettings,
    open_channel,
    serve_channels,
)
from trio_mcp_transport.security import TlsClient, TlsServer

pytestmark = [pytest.mark.tls, pytest.mark.hardening]

CLIENTS = 3
ROTATIONS = 4


async def echo(channel: MessageChannel) -> None:
    async for message in channel:
        await channel.send(message)


async def ask(channel: MessageChannel, number: int) -> None:
    """Say something that must come back."""
    said = Notification(f"{number}")
    await channel.send(said)
    assert await channel.receive() == said


def serial(channel: MessageChannel) -> str:
    facts = channel.context.tls
    assert facts is not None
    assert facts.peer_certificate is not None
    return facts.peer_certificate.serial


async def test_no_connection_fails_while_certificates_are_rotated(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    events: list[ChannelEvent] = []
    paths = (tmp_path / "server.pem", tmp_path / "server.key")
    issued = tls_files.authority.issue_server("127.0.0.1")
    issued.write(*paths)
    tls = TlsServer(TlsSettings(cert_file=str(paths[0]), key_file=str(paths[1])))
    client = TlsClient(tls_files.client_settings)
    seen: set[str] = set()
    done = trio.Event()
    came = [0] * CLIENTS

    async def come_and_go(url: str, number: int) -> None:
        while not done.is_set():
            async with open_channel(url, tls=client) as channel:
                seen.add(serial(channel))
                for each in range(3):
                    await ask(channel, each)
            came[number] += 1

    with trio.fail_after(PATIENCE):
        serve = partial(serve_channels, echo, "tls://127.0.0.1:0", tls=tls, on_event=events.append)
        async with serving(serve) as url:
            async with open_channel(url, tls=client) as steady, trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(come_and_go, url, number)
                first = serial(steady)
                for rotation in range(ROTATIONS):
                    # One visit may have begun before the last rotation; the next has not.
                    goal = [count + 2 for count in came]
                    while any(count < wanted for count, wanted in zip(came, goal, strict=True)):
                        await ask(steady, rotation)
                    issued = tls_files.authority.issue_server("127.0.0.1")
                    issued.write(*paths)
                    tls.reload()
                done.set()
            assert serial(steady) == first
            assert len(seen) >= ROTATIONS  # the newest may have come too late
            async with open_channel(url, tls=client) as channel:
                assert serial(channel) == f"{issued.certificate.serial_number:x}"
    assert [event.name for event in events] == []
