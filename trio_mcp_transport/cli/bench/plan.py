"""Which cases a run has: those that something is promised of, or others that were asked for.

Pure, but for what is installed. Without anything asked for these are the cases of the table in
the documentation, each with its budget. Sizes and numbers of connections that are asked for make
cases of the same works with those; `GRID_PAYLOADS` times `GRID_CONNECTIONS` is the whole grid.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from ...errors import ConfigurationError
from .available import http_engine, is_available
from .cases import (
    BATCH_MESSAGES,
    ENCRYPTED,
    LARGE_BYTES,
    OVER_HTTP,
    SMALL_BYTES,
    TRANSPORTS,
    WORKS,
    Budget,
    Case,
    Contestant,
    Transport,
    Unit,
    Work,
)
from .payloads import SMALLEST_BYTES

__all__ = [
    "GRID_CONNECTIONS",
    "GRID_PAYLOADS",
    "check_connections",
    "check_payload",
    "find_case",
    "plan",
]

#: Bytes of a request: a small call, a page of memory, a file, what a picture weighs.
GRID_PAYLOADS = (SMALL_BYTES, 4_096, 65_536, LARGE_BYTES)
GRID_CONNECTIONS = (1, 16, 256)
#: What the grid is made of, where no work was named.
_GRID_WORKS: tuple[Work, ...] = ("round-trip", "one-way", "many-clients")
#: Of requests that the connections of a cell of the grid have under way. With 256 connections
#: 1 MB each would measure how a machine does without memory.
_GRID_BYTES_UNDER_WAY = 64_000_000
#: A client that opens more has no port left for each.
_MOST_CONNECTIONS = 10_000
#: A batch is queued as a whole, so it must fit the outbox of a channel, which has 2 MiB.
_BATCH_BYTES = 2_000_000
#: From this size on it is the bytes that count, and no longer the messages.
_BYTES_COUNT_FROM = 4_096

#: To start more of the SDK's takes it longer than everything else together.
_SDK_CLIENTS = 16
_IDLE_CONNECTIONS = 500
#: Each takes four descriptors, and 1,024 is what many systems allow a process.
_IDLE_SHARED_CONNECTIONS = 100
#: Streams of events on which nothing happens.
_IDLE_STREAMS = 1_000
_HTTP_CLIENTS = 16
_GROWTH_MESSAGES = 100_000
#: Each is a whole exchange of HTTP, so fewer of them take as long.
_GROWTH_EXCHANGES = 20_000
#: Messages pass by reference; and what an idle client of HTTP+SSE has is the stream of events
#: that is measured over ``http``.
_WITHOUT_MEMORY_CASES: frozenset[Transport] = frozenset({"memory", "sse+http"})
#: Under three bytes a message: nothing that is kept for each is that small.
_FLAT_KIB = 256
#: Of resident memory, for a connection that had one round trip and is idle.
_IDLE_KIB = 64
#: The same for a stream of events, and for an encrypted connection.
_IDLE_STREAM_KIB = 128
_IDLE_ENCRYPTED_KIB = 128

#: Who does the same work where there is no floor.
_PEERS: dict[Transport, tuple[Contestant, ...]] = {
    "tls": ("trio.SSLStream",),
    "ws": ("trio-websocket", "websockets.trio"),
    "wss": ("trio-websocket", "websockets.trio"),
    "https": ("trio.SSLStream",),
}
#: What each is held against.
_OWN: dict[Transport, Contestant] = {
    "shm": "own unix",
    "tls": "own tcp",
    "ws": "own tcp",
    "wss": "own ws",
    "https": "own http",
    "sse+http": "own http",
}


def plan(
    only: Sequence[str] = (),
    *,
    payloads: Sequence[int] = (),
    connections: Sequence[int] = (),
    grid: bool = False,
    quick: bool = False,
) -> list[Case]:
    """The cases to run.

    Args:
        only: Names of works and of transports; none of a kind means all of it.
        payloads: Sizes of a request in bytes to make cases of, instead of the usual ones.
        connections: The same with numbers of connections.
        grid: Take the grid's sizes and numbers where none were given.
        quick: Fewer connections and messages: proves that it runs, measures nothing.
    """
    works = [name for name in WORKS if name in only]
    transports = [name for name in TRANSPORTS if name in only]
    if grid or payloads or connections:
        all_cases = _sized_cases(
            works or _GRID_WORKS,
            payloads or (GRID_PAYLOADS if grid else (SMALL_BYTES,)),
            connections or (GRID_CONNECTIONS if grid else (1,)),
        )
        if not (payloads and connections):
            all_cases = [case for case in all_cases if _is_bearable(case)]
    else:
        all_cases = _promised_cases(quick)
    return [
        case
        for case in all_cases
        if (not works or case.work in works) and (not transports or case.transport in transports)
    ]


def check_payload(name: str, payload_bytes: int) -> None:
    """Refuse a size that nobody can be asked to measure, by the name that it was given under.

    Raises:
        ConfigurationError: No request is so small, or not everybody takes one that is so large
            as they are configured by default.
    """
    if not SMALLEST_BYTES <= payload_bytes <= LARGE_BYTES:
        raise ConfigurationError(
            f"{name} must be from {SMALLEST_BYTES} to {LARGE_BYTES} bytes, not {payload_bytes}"
        )


def check_connections(name: str, connections: int) -> None:
    """Refuse a number of connections likewise.

    Raises:
        ConfigurationError: There are none, or too many for the ports of a machine.
    """
    if not 1 <= connections <= _MOST_CONNECTIONS:
        raise ConfigurationError(f"{name} must be from 1 to {_MOST_CONNECTIONS}, not {connections}")


def find_case(
    work: Work, transport: Transport, payload_bytes: int, connections: int
) -> Case | None:
    """The one case with these properties; None if there is none, or not on this machine."""
    sized = _sized_cases([work], [payload_bytes], [connections])
    for case in [*_promised_cases(quick=False), *sized]:
        if (case.work, case.transport) == (work, transport) and (
            (case.payload_bytes, case.connections) == (payload_bytes, connections)
        ):
            return case
    return None


def _is_bearable(case: Case) -> bool:
    return case.payload_bytes * case.connections <= _GRID_BYTES_UNDER_WAY


def _available() -> list[Transport]:
    return [name for name in TRANSPORTS if is_available(name)]


def _sorted(cases: list[Case]) -> list[Case]:
    return sorted(
        cases, key=lambda case: (WORKS.index(case.work), case.payload_bytes, case.connections)
    )


def _contestants(transport: Transport) -> tuple[Contestant, ...]:
    """Who does the works of a transport."""
    if transport in {"stdio", "http"}:
        return ("floor", "ours", "sdk")
    if transport in _OWN:
        return ("ours", _OWN[transport], *_PEERS.get(transport, ()))
    return ("floor", "ours")


# -- What is promised --------------------------------------------------------------------


def _promised_cases(quick: bool) -> list[Case]:
    available = _available()
    cases = [case for transport in available for case in _timed_cases(transport)]
    if sys.platform == "linux":  # the memory of another process is read from /proc
        cases += [case for transport in available for case in _memory_cases(transport, quick)]
    cases.append(Case("import", "none", 0, 0, "ms", budget=Budget(to_floor=1.5)))
    return _sorted(cases)


def _memory_contestants(transport: Transport) -> tuple[Contestant, ...]:
    if transport == "shm":
        return ("ours", "own unix")
    return ("ours", *_PEERS.get(transport, ("floor",)))


def _memory_cases(transport: Transport, quick: bool) -> list[Case]:
    if transport in _WITHOUT_MEMORY_CASES:
        return []
    growth = 1_000 if quick else _GROWTH_MESSAGES
    if transport in OVER_HTTP and not quick:
        growth = _GROWTH_EXCHANGES
    who = _memory_contestants(transport)
    flat = Budget(absolute=_FLAT_KIB)
    cases = [
        Case("memory-growth", transport, SMALL_BYTES, 1, "KiB", who, flat, messages=growth),
    ]
    if transport != "stdio":
        connections = _IDLE_STREAMS if transport in OVER_HTTP else _IDLE_CONNECTIONS
        if transport == "shm":
            connections = _IDLE_SHARED_CONNECTIONS
        cases.append(_idle_case(transport, 20 if quick else connections))
    return cases


def _idle_case(transport: Transport, connections: int) -> Case:
    most = _IDLE_KIB
    if transport in OVER_HTTP:
        most = _IDLE_STREAM_KIB
    elif transport in ENCRYPTED:
        most = _IDLE_ENCRYPTED_KIB
    who = _memory_contestants(transport)
    idle = Budget(absolute=most)
    return Case("memory-idle", transport, SMALL_BYTES, connections, "KiB", who, idle)


def _timed_cases(transport: Transport) -> list[Case]:
    if transport == "memory":
        # Messages pass by reference: a budget against next to nothing would say nothing.
        return [
            Case("round-trip", transport, SMALL_BYTES, 1, "us"),
            Case("peer-round-trip", transport, SMALL_BYTES, 1, "us"),
            Case("one-way", transport, SMALL_BYTES, 1, "msg/s"),
            Case("one-way-batched", transport, SMALL_BYTES, 1, "msg/s"),
        ]
    if transport == "http":
        return _http_cases()
    if transport in {"https", "sse+http"}:
        return _over_http_cases(transport)
    if transport == "shm":
        return _shared_memory_cases()
    if transport in _OWN:
        return _layered_cases(transport)
    return _stream_cases(
        transport,
        round_trip=Budget(to_floor=1.6),
        peer=Budget(to_floor=2.2, to_sdk=0.4),
        one_way=Budget(to_floor=0.4, to_sdk=25),
        batched=Budget(to_floor=0.35),
    )


def _layered_cases(transport: Transport) -> list[Case]:
    """What lies over another transport of ours, and what that costs."""
    slower = Budget(to_own=2)
    rate = Budget(to_own=0.4)
    if transport == "ws":
        rate = Budget(absolute=40_000)
    return _stream_cases(transport, round_trip=slower, peer=slower, one_way=rate, batched=rate)


def _shared_memory_cases() -> list[Case]:
    shm: Transport = "shm"
    who = _contestants(shm)
    # Small messages take the same way as over a Unix socket; a twentieth is what two runs
    # of the same thing differ by.
    no_slower, no_fewer = Budget(to_own=1.05), Budget(to_own=0.95)
    return [
        *_stream_cases(
            shm, round_trip=no_slower, peer=no_slower, one_way=no_fewer, batched=no_fewer
        ),
        Case("stream-round-trip", shm, SMALL_BYTES, 1, "us", who, no_slower),
        Case("stream-round-trip", shm, LARGE_BYTES, 1, "us", who, Budget(to_own=0.66)),
    ]


def _stream_cases(
    transport: Transport, *, round_trip: Budget, peer: Budget, one_way: Budget, batched: Budget
) -> list[Case]:
    small, large = SMALL_BYTES, LARGE_BYTES
    who = _contestants(transport)
    return [
        Case("round-trip", transport, small, 1, "us", who, round_trip),
        Case("peer-round-trip", transport, small, 1, "us", who, peer),
        Case("one-way", transport, small, 1, "msg/s", who, one_way),
        Case("one-way-batched", transport, small, 1, "msg/s", who, batched),
        Case("round-trip", transport, large, 1, "us", who),
        Case("one-way", transport, large, 1, "MB/s", who),
    ]


def _http_cases() -> list[Case]:
    small, large = SMALL_BYTES, LARGE_BYTES
    http: Transport = "http"
    who = _contestants(http)
    round_trip = Budget(to_floor=1.5, to_sdk=0.3)
    # With h11 for an engine ours cannot do much more than the floor, which is bare h11.
    clients = Budget(to_floor=0.6)
    if http_engine() != "h11":
        clients = Budget(to_floor=1.5, to_sdk=8, absolute=15_000, or_to_h11=3)
    everybody = (*who, "own h11")
    return [
        Case("round-trip", http, small, 1, "us", who, round_trip),
        Case("peer-round-trip", http, small, 1, "us", who, Budget(to_sdk=0.3)),
        Case("many-clients", http, small, _HTTP_CLIENTS, "msg/s", everybody, clients),
        Case("sse-stream", http, small, 1, "msg/s", who, Budget(absolute=100_000)),
        Case("round-trip", http, large, 1, "us", who),
    ]


def _over_http_cases(transport: Transport) -> list[Case]:
    """What costs more than plain HTTP: encryption, or a second stream for the answers."""
    small, large = SMALL_BYTES, LARGE_BYTES
    who = _contestants(transport)
    slower = Budget(to_own=2)
    return [
        Case("round-trip", transport, small, 1, "us", who, slower),
        Case("peer-round-trip", transport, small, 1, "us", who, slower),
        Case("many-clients", transport, small, _HTTP_CLIENTS, "msg/s", who, Budget(to_own=0.4)),
        Case("round-trip", transport, large, 1, "us", who),
    ]


# -- What was asked for --------------------------------------------------------------------


def _sized_cases(
    works: Sequence[Work], payloads: Sequence[int], connections: Sequence[int]
) -> list[Case]:
    """Each work over each transport, with each size and number that make sense of it."""
    promised = {_key(case): case for case in _promised_cases(quick=False)}
    found = {
        _key(case): promised.get(_key(case), case)
        for transport in _available()
        for work in works
        for payload in payloads
        for number in connections
        for case in _sized(work, transport, payload, number)
    }
    return _sorted(list(found.values()))


def _key(case: Case) -> tuple[Work, Transport, int, int]:
    return case.work, case.transport, case.payload_bytes, case.connections


def _sized(work: Work, transport: Transport, payload: int, connections: int) -> Iterator[Case]:
    who = _contestants(transport)
    if transport == "http" and connections > _SDK_CLIENTS:
        who = ("floor", "ours")
    if transport == "memory":
        return  # passes messages by reference, whatever their size
    if connections > 1:
        if transport == "stdio":
            return  # has one connection by nature
        if work == "many-clients":
            yield Case(work, transport, payload, connections, "msg/s", who)
        elif (
            work == "memory-idle"
            and sys.platform == "linux"
            and transport not in _WITHOUT_MEMORY_CASES
        ):
            yield _idle_case(transport, connections)
        return
    rate: Unit = "MB/s" if payload >= _BYTES_COUNT_FROM else "msg/s"
    fits = payload * BATCH_MESSAGES <= _BATCH_BYTES
    match work:
        case "round-trip" | "peer-round-trip":
            yield Case(work, transport, payload, 1, "us", who)
        case "stream-round-trip" if transport == "shm":
            yield Case(work, transport, payload, 1, "us", who)
        case "one-way" if transport not in OVER_HTTP:
            yield Case(work, transport, payload, 1, rate, who)
        case "one-way-batched" if transport not in OVER_HTTP and fits:
            yield Case(work, transport, payload, 1, rate, who)
