"""What the tests of Unix sockets share: endpoints, listeners, and a server's remains."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
import trio

from trio_mcp_transport.abc import MessageChannel
from trio_mcp_transport.endpoints import UnixEndpoint
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.transports.accept import StreamListener
from trio_mcp_transport.transports.unix import connect, listen

#: A user who is neither this one nor root.
STRANGER = 4711

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this")


def at(path: Path, **options: object) -> UnixEndpoint:
    return UnixEndpoint(path=str(path), **options)  # type: ignore[arg-type]


async def open_listener(endpoint: UnixEndpoint) -> StreamListener:
    listener = await listen(endpoint, None)
    assert isinstance(listener, StreamListener)
    return listener


async def connect_alone(endpoint: UnixEndpoint) -> MessageChannel:
    failed: ConnectFailed
    async with trio.open_nursery() as nursery:
        try:
            return await connect(nursery, endpoint, None)  # noqa: ASYNC121
        except ConnectFailed as error:
            failed = error
    raise failed


def leave_stale_socket(path: Path) -> os.stat_result:
    """What a server leaves behind that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
    return path.lstat()
