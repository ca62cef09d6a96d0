"""Either side of a channel through shared memory is killed, at many moments.

The other side gets an error at once, and nothing is left in the system.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import trio
import trio.testing
from shared_memory import at, needs_linux

from trio_mcp_transport.abc import ChannelBroken, ChannelState, ConnectionLost, MessageChannel
from trio_mcp_transport.jsonrpc import Notification
from trio_mcp_transport.transports.shared_memory import connect, listen

pytestmark = [pytest.mark.shm, pytest.mark.integration, needs_linux]

Doing = Literal["busy", "idle", "deaf"]

#: Starts victims by forking, which takes no time once all is imported. A line such as
#: ``client busy`` gets the victim's process id as its answer.
VICTIMS = """
import itertools, math, os, sys
import trio
from trio_mcp_transport.jsonrpc import Notification
from trio_mcp_transport.shm_endpoints import ShmEndpoint
from trio_mcp_transport.transports.shared_memory import connect, listen

endpoint = ShmEndpoint(name="test", directory=sys.argv[1])

async def speak(channel):
    for size in itertools.cycle((10, 100_000, 150, 700_000)):
        await channel.send(Notification("x" * size))

async def hear(channel):
    async for message in channel:
        pass

async def main(side, doing):
    async with trio.open_nursery() as nursery:
        if side == "client":
            channel = await connect(nursery, endpoint, None)
        else:
            channel = await (await listen(endpoint, None)).accept(nursery)
        if doing == "busy":
            nursery.start_soon(speak, channel)
            nursery.start_soon(hear, channel)
        await trio.sleep(math.inf)

for line in sys.stdin:
    victim = os.fork()
    if not victim:
        try:
            trio.run(main, *line.split())
        finally:
            os._exit(3)
    print(victim, flush=True)
    os.waitpid(victim, 0)
"""


class Victims:
    """The processes that are killed, one at a time."""

    def __init__(self, starter: subprocess.Popen[str]) -> None:
        self._starter = starter
        self._victim = 0

    async def start(self, side: Literal["client", "creator"], doing: Doing) -> None:
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        self._starter.stdin.write(f"{side} {doing}\n")
        self._starter.stdin.flush()
        self._victim = int(await trio.to_thread.run_sync(self._starter.stdout.readline))

    def kill(self) -> None:
        if self._victim:
            os.kill(self._victim, signal.SIGKILL)
            self._victim = 0


@contextmanager
def victims(directory: Path) -> Generator[Victims]:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIMS, str(directory / "shm")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        found = Victims(starter)
        try:
            yield found
        finally:
            found.kill()


#: What the victim does, and how many messages of its this side takes before the kill.
MOMENTS: list[tuple[Doing, int]] = [
    ("idle", 0),
    ("deaf", 0),
    *(("busy", count) for count in (0, 1, 2, 3, 4, 7, 20)),
]


async def send_for_ever(channel: MessageChannel) -> None:
    while True:
        await channel.send(Notification("y" * 300_000))
        await channel.flush()


async def receive_for_ever(channel: MessageChannel) -> None:
    while True:
        await channel.receive()


async def lose(channel: MessageChannel, victims: Victims, doing: Doing, count: int) -> None:
    """Kill the peer while both directions are at work, and see both of them fail."""

    async def send() -> None:
        with pytest.raises(ChannelBroken):
            await send_for_ever(channel)

    async with trio.open_nursery() as nursery:
        if doing != "idle":
            nursery.start_soon(send)
        for _ in range(count):
            await channel.receive()
        if doing == "deaf":
            await trio.testing.wait_all_tasks_blocked()  # its memory is full
        victims.kill()
        with pytest.raises(ConnectionLost):
            await receive_for_ever(channel)
    assert channel.state is ChannelState.FAILED
    with pytest.raises(ConnectionLost):
        await channel.send(Notification("late"))


async def test_the_creator_hears_at_once_of_a_client_that_was_killed(tmp_path: Path) -> None:
    before = os.listdir("/dev/shm")
    with victims(tmp_path) as killed, trio.fail_after(60):
        async with await listen(at(tmp_path), None) as listener:
            for doing, count in MOMENTS:
                await killed.start("client", doing)
                async with trio.open_nursery() as nursery:
                    channel = await listener.accept(nursery)
                    await lose(channel, killed, doing, count)
            # The place is as good as before.
            await killed.start("client", "idle")
            async with trio.open_nursery() as nursery:
                channel = await listener.accept(nursery)
                channel.abort()
            killed.kill()
    assert os.listdir("/dev/shm") == before


async def test_a_client_hears_at_once_of_a_creator_that_was_killed(tmp_path: Path) -> None:
    before = os.listdir("/dev/shm")
    with victims(tmp_path) as killed, trio.fail_after(60):
        for doing, count in MOMENTS:
            # Each takes the place of the one that was killed before it.
            await killed.start("creator", doing)
            async with trio.open_nursery() as nursery:
                channel = await connect(nursery, at(tmp_path), None)
                await lose(channel, killed, doing, count)
    (left,) = (tmp_path / "shm").iterdir()
    left.unlink()  # the name of the last one, which the next would have taken
    assert os.listdir("/dev/shm") == before
