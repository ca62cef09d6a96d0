"""What is measured: one `Case` for each line of the table, with what it must reach.

Pure data. A case names a *work*, and every contestant does that same work:

* ``ours``: this package, through its public functions;
* ``floor``: the least that Trio and msgspec can do: the same bytes over a bare Trio
  stream, lines split, UTF-8 checked, decoded and encoded, no channel. For ``memory`` a
  pair of bare Trio memory channels, for ``import`` the import of Trio itself;
* ``sdk``: the official Python SDK's own transport streams, where it has that transport.

Over ``http`` the floor is bare h11 over a bare Trio stream, with the same bytes, and the SDK
is its `Client` against its own server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

from ...installation import features

__all__ = [
    "TRANSPORTS",
    "WORKS",
    "Budget",
    "Case",
    "Contestant",
    "Task",
    "Transport",
    "Unit",
    "Work",
    "higher_is_better",
    "plan",
]

Work: TypeAlias = Literal[
    "round-trip",
    "peer-round-trip",
    "one-way",
    "one-way-batched",
    "many-clients",
    "sse-stream",
    "memory-idle",
    "memory-growth",
    "import",
]
Transport: TypeAlias = Literal["stdio", "unix", "tcp", "http", "memory", "none"]
Contestant: TypeAlias = Literal["floor", "ours", "sdk"]
Unit: TypeAlias = Literal["us", "ms", "msg/s", "MB/s", "KiB"]

WORKS: tuple[Work, ...] = get_args(Work)
TRANSPORTS: tuple[Transport, ...] = ("stdio", "unix", "tcp", "http", "memory")

#: What one JSON-RPC request of a tool call weighs.
SMALL_BYTES = 150
LARGE_BYTES = 1_000_000
#: Messages in one `send_many`.
BATCH_MESSAGES = 100
IDLE_CONNECTIONS = 500
#: Streams of events on which nothing happens.
IDLE_STREAMS = 1_000
HTTP_CLIENTS = 16
GROWTH_MESSAGES = 100_000
#: Each is a whole exchange of HTTP, so fewer of them take as long.
GROWTH_EXCHANGES = 20_000
#: Under three bytes a message: nothing that is kept for each is that small.
FLAT_KIB = 256
#: Of resident memory, for a connection that had one round trip and is idle.
IDLE_KIB = 64
#: The same for a stream of events.
IDLE_STREAM_KIB = 128


class Budget(msgspec.Struct, frozen=True):
    """What a case must reach; the unit tells whether that is a ceiling or a floor.

    Attributes:
        to_floor: `ours` divided by `floor`.
        to_sdk: `ours` divided by `sdk`.
        absolute: `ours`, in the case's unit.
    """

    to_floor: float | None = None
    to_sdk: float | None = None
    absolute: float | None = None


class Case(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        work: What is done.
        transport: Over what.
        payload_bytes: Bytes of one request on the wire, without the line feed.
        connections: Connections that are open at a time.
        unit: Of the values. Microseconds, milliseconds and KiB are better when lower,
            messages and megabytes per second when higher.
        contestants: Who can do it.
        budget: What must be reached, if anything is promised.
        messages: How many pass, where they are counted and not timed.
    """

    work: Work
    transport: Transport
    payload_bytes: int
    connections: int
    unit: Unit
    contestants: tuple[Contestant, ...] = ("floor", "ours")
    budget: Budget = Budget()
    messages: int = 0

    @property
    def label(self) -> str:
        """The case in a few words."""
        size = " 1 MB" if self.payload_bytes == LARGE_BYTES else ""
        over = "" if self.transport == "none" else f" {self.transport}"
        return f"{self.work}{over}{size}"


class Task(msgspec.Struct, frozen=True):
    """What one fresh process is told to do, as JSON on its command line.

    Attributes:
        role: ``measure`` is the client, which starts its ``serve``.
        payload_bytes: Of one request.
        seconds: How long to measure.
        warm_up: How long to do the same work before that, unmeasured.
        connections: To open, for ``memory-idle`` and ``many-clients``.
        messages: To send, for ``memory-growth``.
        address: Where to listen: a path for ``unix``.
    """

    role: Literal["measure", "serve"]
    contestant: Contestant
    work: Work
    transport: Transport
    payload_bytes: int = SMALL_BYTES
    seconds: float = 0.5
    warm_up: float = 0.2
    connections: int = 1
    messages: int = 0
    address: str = ""


def higher_is_better(unit: Unit) -> bool:
    """Whether a larger value is a better one."""
    return unit.endswith("/s")


def plan(only: Sequence[str] = (), *, quick: bool = False) -> list[Case]:
    """The cases to run.

    Args:
        only: Names of works and of transports; none of a kind means all of it.
        quick: Fewer connections and messages: proves that it runs, measures nothing.
    """
    works = [name for name in only if name in WORKS]
    transports = [name for name in only if name in TRANSPORTS]
    return [
        case
        for case in _all_cases(quick)
        if (not works or case.work in works) and (not transports or case.transport in transports)
    ]


def _all_cases(quick: bool) -> list[Case]:
    idle = 20 if quick else IDLE_CONNECTIONS
    growth = 1_000 if quick else GROWTH_MESSAGES
    available = [name for name in TRANSPORTS if features().transports.get(name)]
    cases = [case for transport in available for case in _timed_cases(transport)]
    if sys.platform == "linux":  # the memory of another process is read from /proc
        for transport in available:
            if transport != "memory":
                messages = min(growth, GROWTH_EXCHANGES) if transport == "http" else growth
                case = Case("memory-growth", transport, SMALL_BYTES, 1, "KiB", messages=messages)
                cases.append(msgspec.structs.replace(case, budget=Budget(absolute=FLAT_KIB)))
            if transport in {"unix", "tcp"}:
                case = Case("memory-idle", transport, SMALL_BYTES, idle, "KiB")
                cases.append(msgspec.structs.replace(case, budget=Budget(absolute=IDLE_KIB)))
            if transport == "http":
                streams = 20 if quick else IDLE_STREAMS
                case = Case("memory-idle", transport, SMALL_BYTES, streams, "KiB")
                cases.append(msgspec.structs.replace(case, budget=Budget(absolute=IDLE_STREAM_KIB)))
    cases.append(Case("import", "none", 0, 0, "ms", budget=Budget(to_floor=1.5)))
    return sorted(cases, key=lambda case: (WORKS.index(case.work), case.payload_bytes))


def _timed_cases(transport: Transport) -> list[Case]:
    small, large = SMALL_BYTES, LARGE_BYTES
    if transport == "memory":
        # Messages pass by reference: a budget against next to nothing would say nothing.
        return [
            Case("round-trip", transport, small, 1, "us"),
            Case("peer-round-trip", transport, small, 1, "us"),
            Case("one-way", transport, small, 1, "msg/s"),
            Case("one-way-batched", transport, small, 1, "msg/s"),
        ]
    if transport == "http":
        return _http_cases()
    who: tuple[Contestant, ...] = ("floor", "ours")
    if transport == "stdio":
        who += ("sdk",)
    round_trip = Budget(to_floor=1.6)
    peer = Budget(to_floor=2.2, to_sdk=0.4)
    one_way = Budget(to_floor=0.4, to_sdk=25)
    batched = Budget(to_floor=0.35)
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
    who: tuple[Contestant, ...] = ("floor", "ours", "sdk")
    round_trip = Budget(to_floor=1.5, to_sdk=0.3)
    return [
        Case("round-trip", http, small, 1, "us", who, round_trip),
        Case("peer-round-trip", http, small, 1, "us", who, Budget(to_sdk=0.3)),
        Case("many-clients", http, small, HTTP_CLIENTS, "msg/s", who, Budget(to_floor=0.6)),
        Case("sse-stream", http, small, 1, "msg/s", who, Budget(absolute=100_000)),
        Case("round-trip", http, large, 1, "us", ("floor", "ours")),
    ]
