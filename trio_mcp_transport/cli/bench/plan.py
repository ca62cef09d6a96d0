"""What is measured: one `Case` for each line of the table, with what it must reach.

Pure data. A case names a *work*, and every contestant does that same work:

* ``ours``: this package, through its public functions;
* ``floor``: the least that Trio and msgspec can do: the same bytes over a bare Trio
  stream, lines split, UTF-8 checked, decoded and encoded, no channel. For ``memory`` a
  pair of bare Trio memory channels, for ``import`` the import of Trio itself;
* ``sdk``: the official Python SDK's own transport streams, where it has that transport.

Over ``http`` the floor is bare h11 over a bare Trio stream, with the same bytes, and the SDK
is its `Client` against its own server.

What is encrypted, and WebSocket, is held against this package without that, in the same run,
and stands beside what others make of the same work (`PEERS`). Shared memory is held against
our Unix socket, as a channel and, in ``stream-round-trip``, as the bare stream under one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

from ...installation import features

__all__ = [
    "ENCRYPTED",
    "OVER_HTTP",
    "TRANSPORTS",
    "WEBSOCKETS",
    "WORKS",
    "Budget",
    "Case",
    "Contestant",
    "Task",
    "Transport",
    "Unit",
    "Work",
    "higher_is_better",
    "own_transport",
    "plan",
    "takes_part",
]

Work: TypeAlias = Literal[
    "round-trip",
    "peer-round-trip",
    "one-way",
    "one-way-batched",
    "stream-round-trip",
    "many-clients",
    "sse-stream",
    "memory-idle",
    "memory-growth",
    "import",
]
Transport: TypeAlias = Literal[
    "stdio", "unix", "shm", "tcp", "tls", "ws", "wss", "http", "https", "memory", "none"
]
#: ``own NAME`` is this package over another transport.
Contestant: TypeAlias = Literal[
    "floor",
    "ours",
    "sdk",
    "own unix",
    "own tcp",
    "own ws",
    "own http",
    "trio.SSLStream",
    "trio-websocket",
    "websockets.trio",
]
Unit: TypeAlias = Literal["us", "ms", "msg/s", "MB/s", "KiB"]

WORKS: tuple[Work, ...] = get_args(Work)
TRANSPORTS: tuple[Transport, ...] = tuple(name for name in get_args(Transport) if name != "none")
#: Whose module must be there for a contestant to take part.
_MODULES: dict[Contestant, str] = {
    "sdk": "mcp",
    "trio-websocket": "trio_websocket",
    "websockets.trio": "websockets.trio",
}
#: Transports that encrypt: their servers need a certificate.
ENCRYPTED: frozenset[Transport] = frozenset({"tls", "wss", "https"})
#: Transports on which messages are in the frames of WebSocket.
WEBSOCKETS: frozenset[Transport] = frozenset({"ws", "wss"})
#: What a transport of the bench is to `Features.transports`, where that has another name.
_UNDER = {"tls": "tcp", "ws": "websocket", "wss": "websocket", "https": "http"}
#: What goes over HTTP/1.1, one exchange for each request.
OVER_HTTP: frozenset[Transport] = frozenset({"http", "https"})

#: What one JSON-RPC request of a tool call weighs.
SMALL_BYTES = 150
LARGE_BYTES = 1_000_000
#: Messages in one `send_many`.
BATCH_MESSAGES = 100
IDLE_CONNECTIONS = 500
#: Each takes four descriptors, and 1,024 is what many systems allow a process.
IDLE_SHARED_CONNECTIONS = 100
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
#: The same for a stream of events, and for an encrypted connection.
IDLE_STREAM_KIB = 128
IDLE_ENCRYPTED_KIB = 128


class Budget(msgspec.Struct, frozen=True):
    """What a case must reach; the unit tells whether that is a ceiling or a floor.

    Attributes:
        to_floor: `ours` divided by `floor`.
        to_sdk: `ours` divided by `sdk`.
        to_own: `ours` divided by this package over the transport that the case is held
            against, see `Case.own`.
        absolute: `ours`, in the case's unit.
    """

    to_floor: float | None = None
    to_sdk: float | None = None
    to_own: float | None = None
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
    def own(self) -> Contestant | None:
        """This package over the transport that the case is held against, if over any."""
        return next((name for name in self.contestants if own_transport(name)), None)

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
        address: Where to listen: a path for ``unix``, beside which ``shm`` meets.
        certificates: The directory of the certificates, for what is encrypted.
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
    certificates: str = ""


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


def own_transport(contestant: Contestant) -> Transport | None:
    """What ``own NAME`` is over; None for everybody else."""
    for name in TRANSPORTS:
        if contestant == f"own {name}":
            return name
    return None


def takes_part(contestant: Contestant) -> bool:
    """Whether what a contestant needs is installed."""
    module = _MODULES.get(contestant)
    if module is None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is part of
        return False


def _is_available(transport: Transport) -> bool:
    here = features()
    if transport in ENCRYPTED and not here.extras["tls"]:
        return False
    return here.transports[_UNDER.get(transport, transport)]


def _all_cases(quick: bool) -> list[Case]:
    available = [name for name in TRANSPORTS if _is_available(name)]
    cases = [case for transport in available for case in _timed_cases(transport)]
    if sys.platform == "linux":  # the memory of another process is read from /proc
        cases += [case for transport in available for case in _memory_cases(transport, quick)]
    cases.append(Case("import", "none", 0, 0, "ms", budget=Budget(to_floor=1.5)))
    return sorted(cases, key=lambda case: (WORKS.index(case.work), case.payload_bytes))


def _memory_cases(transport: Transport, quick: bool) -> list[Case]:
    if transport == "memory":
        return []
    growth = GROWTH_EXCHANGES if transport in OVER_HTTP else GROWTH_MESSAGES
    who: tuple[Contestant, ...] = ("ours", *_PEERS.get(transport, ("floor",)))
    flat = Budget(absolute=FLAT_KIB)
    cases = [
        Case(
            "memory-growth",
            transport,
            SMALL_BYTES,
            1,
            "KiB",
            who,
            flat,
            messages=1_000 if quick else growth,
        )
    ]
    if transport == "stdio":
        return cases
    connections, most = IDLE_CONNECTIONS, IDLE_KIB
    if transport in OVER_HTTP:
        connections, most = IDLE_STREAMS, IDLE_STREAM_KIB
    elif transport == "shm":
        connections = IDLE_SHARED_CONNECTIONS
    elif transport in ENCRYPTED:
        most = IDLE_ENCRYPTED_KIB
    if quick:
        connections = 20
    idle = Budget(absolute=most)
    cases.append(Case("memory-idle", transport, SMALL_BYTES, connections, "KiB", who, idle))
    return cases


#: Who does the same work where there is no floor.
_PEERS: dict[Transport, tuple[Contestant, ...]] = {
    "shm": ("own unix",),
    "tls": ("trio.SSLStream",),
    "ws": ("trio-websocket", "websockets.trio"),
    "wss": ("trio-websocket", "websockets.trio"),
    "https": ("trio.SSLStream",),
}
#: What each is held against.
_OWN: dict[Transport, Contestant] = {
    "tls": "own tcp",
    "ws": "own tcp",
    "wss": "own ws",
    "https": "own http",
}


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
    if transport == "https":
        return _https_cases()
    if transport == "shm":
        return _shared_memory_cases()
    if transport in _OWN:
        return _layered_cases(transport)
    who: tuple[Contestant, ...] = ("floor", "ours")
    if transport == "stdio":
        who += ("sdk",)
    return _stream_cases(
        transport,
        who,
        round_trip=Budget(to_floor=1.6),
        peer=Budget(to_floor=2.2, to_sdk=0.4),
        one_way=Budget(to_floor=0.4, to_sdk=25),
        batched=Budget(to_floor=0.35),
    )


def _layered_cases(transport: Transport) -> list[Case]:
    """What lies over another transport of ours, and what that costs."""
    who = ("ours", _OWN[transport], *_PEERS[transport])
    slower = Budget(to_own=2)
    rate = Budget(to_own=0.4)
    if transport == "ws":
        rate = Budget(absolute=40_000)
    return _stream_cases(transport, who, round_trip=slower, peer=slower, one_way=rate, batched=rate)


def _shared_memory_cases() -> list[Case]:
    shm: Transport = "shm"
    who: tuple[Contestant, ...] = ("ours", "own unix")
    # Small messages take the same way as over a Unix socket; a twentieth is what two runs
    # of the same thing differ by.
    no_slower, no_fewer = Budget(to_own=1.05), Budget(to_own=0.95)
    return [
        *_stream_cases(
            shm, who, round_trip=no_slower, peer=no_slower, one_way=no_fewer, batched=no_fewer
        ),
        Case("stream-round-trip", shm, SMALL_BYTES, 1, "us", who, no_slower),
        Case("stream-round-trip", shm, LARGE_BYTES, 1, "us", who, Budget(to_own=0.66)),
    ]


def _stream_cases(
    transport: Transport,
    who: tuple[Contestant, ...],
    *,
    round_trip: Budget,
    peer: Budget,
    one_way: Budget,
    batched: Budget,
) -> list[Case]:
    small, large = SMALL_BYTES, LARGE_BYTES
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


def _https_cases() -> list[Case]:
    small, large = SMALL_BYTES, LARGE_BYTES
    https: Transport = "https"
    who: tuple[Contestant, ...] = ("ours", _OWN[https], *_PEERS[https])
    slower = Budget(to_own=2)
    return [
        Case("round-trip", https, small, 1, "us", who, slower),
        Case("peer-round-trip", https, small, 1, "us", who, slower),
        Case("many-clients", https, small, HTTP_CLIENTS, "msg/s", who, Budget(to_own=0.4)),
        Case("round-trip", https, large, 1, "us", who),
    ]
