"""Everybody can do every work: client and server of each measurement, in one process.

In fresh processes it takes long, and a few do it there, see `test_bench`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_mcp_transport.cli.bench import (
    floor,
    http_floor,
    http_ours,
    memory,
    ours,
    websocket_peers,
    worker,
)
from trio_mcp_transport.cli.bench.available import takes_part
from trio_mcp_transport.cli.bench.cases import Case, Contestant, Task
from trio_mcp_transport.cli.bench.plan import plan
from trio_mcp_transport.cli.cert import make_certificates

pytestmark = pytest.mark.bench


def cells() -> Iterator[tuple[Case, Contestant]]:
    for case in [*plan(quick=True), *plan(connections=[3])]:
        if case.transport in {"stdio", "none"}:
            continue  # children, and an import: they are processes
        for name in case.contestants:
            # The server of the SDK's HTTP has a loop of its own.
            if name != "sdk" and not name.startswith("own ") and takes_part(name):
                yield case, name


CELLS = {f"{case.label}-{name}".replace(" ", "-"): (case, name) for case, name in cells()}


@pytest.fixture(scope="module")
def certificates() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        if any(case.transport == "tls" for case, _ in CELLS.values()):
            make_certificates(directory)
        yield directory


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve in a task beside the measurer, instead of in a process."""
    modules = (floor, http_floor, http_ours, memory, ours, websocket_peers)

    async def serve(
        task: Task, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        def tell(address: str, **_: object) -> None:
            task_status.started(address)

        for module in modules:
            monkeypatch.setattr(module, "print", tell, raising=False)
        await worker._side(task).serve(task)

    @asynccontextmanager
    async def started_server(task: Task) -> AsyncGenerator[tuple[str, int], None]:
        async with trio.open_nursery() as nursery:
            address: str = await nursery.start(serve, task)
            try:
                yield address, os.getpid()
            finally:
                nursery.cancel_scope.cancel()

    for module in modules:
        monkeypatch.setattr(module, "started_server", started_server, raising=False)
        monkeypatch.setattr(module, "until_stdin_ends", trio.sleep_forever, raising=False)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("cell", CELLS)
async def test_everybody_can_do_every_work(cell: str, certificates: str) -> None:
    case, name = CELLS[cell]
    with tempfile.TemporaryDirectory() as directory:
        task = Task(
            role="measure",
            contestant=name,
            work=case.work,
            transport=case.transport,
            payload_bytes=case.payload_bytes,
            seconds=0,
            warm_up=0,
            connections=min(case.connections, 4),
            messages=min(case.messages, 500),
            address=os.path.join(directory, "socket"),
            certificates=certificates,
        )
        with trio.fail_after(60):
            value = await worker._measure(task)
    if case.work.startswith("memory"):
        assert sys.platform == "linux"
    else:
        assert value > 0
