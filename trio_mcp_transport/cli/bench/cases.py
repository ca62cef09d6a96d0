"""What a measurement is: one `Case` for each line of the table, with what it must reach.

Pure data, which everything else here speaks of; `plan` has the cases. A case names a *work*, and
every contestant does that same work:

* ``ours``: this package, through its public functions;
* ``floor``: the least that Trio and msgspec can do: the same bytes over a bare Trio
  stream, lines split, UTF-8 checked, decoded and encoded, no channel. For ``memory`` a
  pair of bare Trio memory channels, for ``import`` the import of Trio itself;
* ``sdk``: the official Python SDK's own transport streams, where it has that transport.

Over ``http`` the floor is bare h11 over a bare Trio stream, with the same bytes, and the SDK
is its `Client` against its own server. ``sse+http`` is the older HTTP+SSE, whose answers come by
one stream of events; it is held against this package over ``http``.

What is encrypted, and WebSocket, is held against this package without that, in the same run,
and stands beside what others make of the same work (`plan` names them). Shared memory is held
against our Unix socket, as a channel and, in ``stream-round-trip``, as the bare stream under one.
``own h11`` is this package with h11 for an HTTP engine, where it has a faster one.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec

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
    "describe",
    "describe_size",
    "higher_is_better",
    "own_transport",
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
    "stdio",
    "unix",
    "shm",
    "tcp",
    "tls",
    "ws",
    "wss",
    "http",
    "https",
    "sse+http",
    "memory",
    "none",
]
#: ``own NAME`` is this package over another transport, or with another engine.
Contestant: TypeAlias = Literal[
    "floor",
    "ours",
    "sdk",
    "own unix",
    "own tcp",
    "own ws",
    "own http",
    "own h11",
    "trio.SSLStream",
    "trio-websocket",
    "websockets.trio",
]
Unit: TypeAlias = Literal["us", "ms", "msg/s", "MB/s", "KiB"]

WORKS: tuple[Work, ...] = get_args(Work)
TRANSPORTS: tuple[Transport, ...] = tuple(name for name in get_args(Transport) if name != "none")
#: Transports that encrypt: their servers need a certificate.
ENCRYPTED: frozenset[Transport] = frozenset({"tls", "wss", "https"})
#: Transports on which messages are in the frames of WebSocket.
WEBSOCKETS: frozenset[Transport] = frozenset({"ws", "wss"})
#: What goes over HTTP/1.1, one exchange for each request.
OVER_HTTP: frozenset[Transport] = frozenset({"http", "https", "sse+http"})

#: What one JSON-RPC request of a tool call weighs.
SMALL_BYTES = 150
LARGE_BYTES = 1_000_000
#: Messages in one `send_many`.
BATCH_MESSAGES = 100


class Budget(msgspec.Struct, frozen=True):
    """What a case must reach; the unit tells whether that is a ceiling or a floor.

    Attributes:
        to_floor: `ours` divided by `floor`.
        to_sdk: `ours` divided by `sdk`.
        to_own: `ours` divided by this package over the transport that the case is held
            against, see `Case.own`.
        absolute: `ours`, in the case's unit.
        or_to_h11: Reaching so many times ``own h11`` will do where `absolute` is not reached.
    """

    to_floor: float | None = None
    to_sdk: float | None = None
    to_own: float | None = None
    absolute: float | None = None
    or_to_h11: float | None = None


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
    def against(self) -> Contestant | None:
        """Whom the case is held against in the same run: the floor, or `own`."""
        return "floor" if "floor" in self.contestants else self.own

    @property
    def label(self) -> str:
        """The case in a few words, different for every case of a plan."""
        return describe(self.work, self.transport, self.payload_bytes, self.connections)


class Task(msgspec.Struct, frozen=True):
    """What one fresh process is told to do, as JSON on its command line.

    Attributes:
        role: ``measure`` is the client, which starts its ``serve``.
        payload_bytes: Of one request.
        seconds: How long to measure.
        warm_up: How long to do the same work before that, unmeasured.
        connections: To open, for ``memory-idle`` and ``many-clients``.
        messages: To send, for ``memory-growth``.
        http_engine: Of this package; empty for the one that it takes by itself.
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
    http_engine: str = ""
    address: str = ""
    certificates: str = ""


def higher_is_better(unit: Unit) -> bool:
    """Whether a larger value is a better one."""
    return unit.endswith("/s")


def own_transport(contestant: Contestant) -> Transport | None:
    """What ``own NAME`` is over; None for everybody else."""
    for name in TRANSPORTS:
        if contestant == f"own {name}":
            return name
    return None


def describe(work: Work, transport: Transport, payload_bytes: int, connections: int) -> str:
    """What a case is in a few words; what goes without saying is left out."""
    words: list[str] = [work]
    if transport != "none":
        words.append(transport)
    if payload_bytes not in {0, SMALL_BYTES}:
        words.append(describe_size(payload_bytes))
    if connections > 1:
        words.append(f"x{connections:,}")
    return " ".join(words)


def describe_size(payload_bytes: int) -> str:
    """So many bytes in a few signs: ``150 B``, ``4 KiB``, ``1 MB``."""
    if payload_bytes % 1_000_000 == 0:
        return f"{payload_bytes // 1_000_000} MB"
    if payload_bytes % 1024 == 0:
        return f"{payload_bytes // 1024} KiB"
    return f"{payload_bytes:,} B"
