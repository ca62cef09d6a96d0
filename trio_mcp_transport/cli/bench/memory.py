"""What a server's memory does: with many idle connections, and over many messages.

Only the server differs; the client is the bare one, so that nothing but the server is
seen. Resident memory is read from outside (Linux).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from ...endpoint_parser import parse_endpoint
from ...shm_endpoints import ShmEndpoint
from ...transports.shared_memory import open_stream
from . import floor, http_floor, websocket_peers
from .cases import OVER_HTTP, WEBSOCKETS, Task
from .payloads import http_params_of_size, params_of_size
from .processes import resident_bytes, started_server

__all__ = ["bytes_per_idle_connection", "growth_in_bytes"]

#: Opened first, so that what the first connections bring with them is not counted.
_CONNECTIONS_BEFORE = 20
#: Messages before the first look: caches, arenas and buffers have their size by then.
_WARM_UP_SHARE = 5


async def bytes_per_idle_connection(task: Task) -> float:
    """What one more connection costs a server that already has some.

    Each connection had one round trip, so whatever it makes at first use is there. Over HTTP
    each has a stream of events that stays open.
    """
    async with started_server(task) as (address, process_id), AsyncExitStack() as stack:

        async def open_one() -> None:
            if task.transport in OVER_HTTP:
                idle = await http_floor.open_idle_stream(address, task.certificates)
                await stack.enter_async_context(idle)
                return
            stream = await _connect(task, address)
            await stack.enter_async_context(stream)
            await floor.round_trips(floor.Lines(stream), params_of_size(task.payload_bytes), 1)

        for _ in range(_CONNECTIONS_BEFORE):
            await open_one()
        before = resident_bytes(process_id)
        for _ in range(task.connections):
            await open_one()
        return (resident_bytes(process_id) - before) / task.connections


async def growth_in_bytes(task: Task) -> float:
    """What a server's memory grows by while so many messages pass, both ways."""
    if task.transport in OVER_HTTP:
        return await _growth_over_http(task)
    async with _server(task) as (stream, process_id):
        lines = floor.Lines(stream)
        params = params_of_size(task.payload_bytes)
        await floor.pipelined_round_trips(lines, params, task.messages // _WARM_UP_SHARE)
        before = resident_bytes(process_id)
        await floor.pipelined_round_trips(lines, params, task.messages)
        return resident_bytes(process_id) - before


async def _growth_over_http(task: Task) -> float:
    async with (
        started_server(task) as (address, process_id),
        await floor.connect(address, task.certificates) as stream,
    ):
        http = http_floor.HttpClient(stream, address)
        params = http_params_of_size(task.payload_bytes)
        await http_floor.round_trips(http, params, task.messages // _WARM_UP_SHARE)
        before = resident_bytes(process_id)
        await http_floor.round_trips(http, params, task.messages)
        return resident_bytes(process_id) - before


@asynccontextmanager
async def _server(task: Task) -> AsyncGenerator[tuple[trio.abc.Stream, int], None]:
    if task.transport != "stdio":
        async with (
            started_server(task) as (address, process_id),
            await _connect(task, address) as stream,
        ):
            yield stream, process_id
        return
    async with floor.server_child(task) as (stream, process_id):
        yield stream, process_id


async def _connect(task: Task, address: str) -> trio.abc.Stream:
    if task.transport in WEBSOCKETS:
        return await websocket_peers.connect_bare(address, task.certificates)
    if task.transport == "shm":
        endpoint = parse_endpoint(address)
        assert isinstance(endpoint, ShmEndpoint)
        stream, _, _ = await open_stream(endpoint)
        return stream
    return await floor.connect(address, task.certificates)
