"""Ratios that were kept, and what later ones are to them. Pure, but for what is installed.

A machine's speed cancels out of what this package takes divided by what something else takes
in the same run, so a ratio of one machine can be held against one of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec

from ...errors import ConfigurationError
from .available import http_engine
from .cases import OVER_HTTP, Case, Contestant, Transport, Unit, Work, higher_is_better
from .plan import check_connections, check_payload, find_case
from .results import Environment, Row

__all__ = [
    "MOST_LOST",
    "Comparison",
    "Record",
    "RecordedCase",
    "can_be_recorded",
    "cases_to_record",
    "cases_to_watch",
    "compare",
    "make_record",
    "only_what_counts",
    "read_record",
]

#: More than so much of the recorded speed must not be lost.
MOST_LOST = 1 / 3
#: What this much is lost of is measured again before it is believed.
_SUSPICIOUS = 0.2
#: Faster than recorded by so much: time to record anew, or nobody notices that it is lost again.
_GAINED = 0.5

Verdict: TypeAlias = Literal["ok", "gained", "lost", "not measured"]

#: What is recorded where nothing else was asked for: something of each way that a message goes,
#: and little enough to be measured with every change.
_WATCHED: tuple[tuple[Work, Transport, int, int], ...] = (
    ("round-trip", "stdio", 150, 1),
    ("round-trip", "unix", 150, 1),
    ("round-trip", "tcp", 150, 1),
    ("round-trip", "tls", 150, 1),
    ("round-trip", "ws", 150, 1),
    ("round-trip", "http", 150, 1),
    ("round-trip", "tcp", 1_000_000, 1),
    ("peer-round-trip", "tcp", 150, 1),
    ("one-way", "stdio", 150, 1),
    ("one-way-batched", "tcp", 150, 1),
    ("one-way-batched", "ws", 150, 1),
    ("stream-round-trip", "shm", 1_000_000, 1),
    ("many-clients", "http", 150, 16),
    ("sse-stream", "http", 150, 1),
)


class RecordedCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One case as it was.

    Attributes:
        work: What was done.
        transport: Over what.
        payload_bytes: Bytes of one request, without the line feed.
        connections: Connections that were open at a time.
        against: What was measured in the same run.
        ratio: This package's value divided by that one's.
    """

    work: Work
    transport: Transport
    payload_bytes: int
    connections: int
    against: Contestant
    ratio: Annotated[float, msgspec.Meta(gt=0)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``--record`` keeps.

    Attributes:
        http_engine: What took HTTP apart; with another one the ratios are others.
        cases: The cases.
        environment: Where that was: nothing is made of it, but a reader may want to know.
    """

    http_engine: str
    cases: Annotated[list[RecordedCase], msgspec.Meta(min_length=1)]
    environment: dict[str, str] = {}


class Comparison(msgspec.Struct, frozen=True):
    """A case then and now.

    Attributes:
        case: The case.
        against: What it is held against.
        recorded: The ratio then.
        ratio: The ratio now; None if there is none: something could not be measured, or is
            nothing that can be divided by. 0 where this package takes nothing.
        change: The speed now divided by the speed then, in that measure: more than 1 is
            faster, whatever the unit; `math.inf` where this package takes nothing. None
            where there is no ratio.
    """

    case: Case
    against: Contestant
    recorded: float
    ratio: float | None
    change: float | None

    @property
    def verdict(self) -> Verdict:
        """What to say of it."""
        if self.change is None:
            return "not measured"
        if self.change < 1 - MOST_LOST:
            return "lost"
        return "gained" if self.change > 1 + _GAINED else "ok"

    @property
    def is_suspicious(self) -> bool:
        """Whether it shall be measured again: a machine that has other work makes outliers."""
        return self.change is not None and self.change < 1 - _SUSPICIOUS


def read_record(data: bytes, source: str) -> Record:
    """Read what ``--record`` kept.

    Args:
        data: The document.
        source: What to call it in errors.

    Raises:
        ConfigurationError: It is none, with the reason.
    """
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{source} is no record of benchmarks: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source} is not JSON: {error}") from error


def can_be_recorded(row: Row) -> bool:
    """Whether a later run can be held against a row: only what takes something has a ratio.

    Memory may be found not to grow, or even to shrink.
    """
    return row.ours is not None and row.ours > 0 and row.ratio is not None and row.ratio > 0


def make_record(rows: Sequence[Row], environment: Environment) -> Record:
    """What to keep of measured rows, without those that cannot be recorded."""
    return Record(
        http_engine=environment.http_engine,
        cases=[
            RecordedCase(
                row.work,
                row.transport,
                row.payload_bytes,
                row.connections,
                row.held_against,
                row.ratio,
            )
            for row in rows
            if row.held_against is not None and row.ratio is not None and can_be_recorded(row)
        ],
        environment={
            "python": f"{environment.implementation} {environment.python}",
            "platform": f"{environment.platform} {environment.machine}",
            **environment.versions,
        },
    )


def cases_to_record() -> list[Case]:
    """What is recorded where nothing else was asked for, as far as this machine can run it."""
    found = [find_case(*wanted) for wanted in _WATCHED]
    return [only_what_counts(case) for case in found if case is not None]


def cases_to_watch(record: Record, source: str) -> list[Case]:
    """The cases of a record, in its order, with those contestants only that count.

    Raises:
        ConfigurationError: This machine cannot run one of them as it was recorded.
    """
    engine = http_engine()
    cases = []
    for recorded in record.cases:
        if recorded.work != "import":  # that alone sends nothing
            check_payload(f"{source}: payload_bytes", recorded.payload_bytes)
            check_connections(f"{source}: connections", recorded.connections)
        case = find_case(
            recorded.work, recorded.transport, recorded.payload_bytes, recorded.connections
        )
        what = (
            f"{source} has {recorded.work} over {recorded.transport} with"
            f" {recorded.payload_bytes} bytes and connections={recorded.connections}"
        )
        if case is None:
            raise ConfigurationError(f"{what}, which cannot be measured here")
        if case.against != recorded.against:
            raise ConfigurationError(
                f"{what} against {recorded.against}, but it is held against"
                f" {case.against or 'nothing'}"
            )
        if case.transport in OVER_HTTP and record.http_engine != engine:
            raise ConfigurationError(
                f"{what}, recorded where {record.http_engine} took HTTP apart; here {engine} does"
            )
        watched = only_what_counts(case)
        if watched in cases:
            raise ConfigurationError(f"{what} twice")
        cases.append(watched)
    return cases


def only_what_counts(case: Case) -> Case:
    """A case with this package and what that is held against, and nobody else."""
    assert case.against is not None
    return msgspec.structs.replace(case, contestants=("ours", case.against))


def compare(recorded: float, case: Case, row: Row) -> Comparison:
    """Hold a row against the ratio that was recorded of its case."""
    assert case.against is not None
    ratio, change = row.ratio, None
    if row.ours is not None and row.ours <= 0 and not higher_is_better(case.unit):
        # Nothing is better than that, whatever the other one took.
        ratio, change = 0.0, math.inf
    elif ratio is not None and ratio > 0:
        change = _change(recorded, ratio, case.unit)
    else:
        ratio = None
    return Comparison(case, case.against, recorded, ratio, change)


def _change(recorded: float, ratio: float, unit: Unit) -> float:
    return ratio / recorded if higher_is_better(unit) else recorded / ratio
