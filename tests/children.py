"""Child processes for tests: tiny servers in shell and Python, and looking at processes."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from trio_mcp_transport import (
    Notification,
    ProcessEndpoint,
)
from trio_mcp_transport.transports.process import (
    ProcessStream,
    connect_process,
)
from trio_mcp_transport.transports.stream_channel import StreamChannel

SHELL = "/bin/sh"
#: A server in shell: answers each line with the same message.
MESSAGE = '{"jsonrpc":"2.0","method":"said"}'


def shell(script: str, **fields: object) -> ProcessEndpoint:
    return ProcessEndpoint(command=(SHELL, "-c", script), **fields)  # type: ignore[arg-type]


def python(script: str, **fields: object) -> ProcessEndpoint:
    command = (sys.executable, "-I", "-S", "-c", script)
    return ProcessEndpoint(command=command, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def opened(endpoint: ProcessEndpoint) -> AsyncGenerator[StreamChannel, None]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            channel = await connect_process(nursery, endpoint)
            async with channel:
                yield channel


def stream_of(channel: StreamChannel) -> ProcessStream:
    stream = channel.stream
    assert isinstance(stream, ProcessStream)
    return stream


async def tell(channel: StreamChannel) -> str:
    """The text of the next message that a child tells."""
    message = await channel.receive()
    assert isinstance(message, Notification)
    told: dict[str, str] = message.params_as(dict[str, str])
    return told["text"]


#: For the start of a Python child.
TELL = """
import json, os, signal, subprocess, sys, time
def tell(text):
    message = {"jsonrpc": "2.0", "method": "tell", "params": {"text": text}}
    print(json.dumps(message), flush=True)
"""


def is_running(pid: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


async def until_gone(*pids: int) -> None:
    """Wait for processes that are not our children: only a pidfd tells of their end."""
    with trio.fail_after(30):
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
