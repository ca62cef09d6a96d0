"""From many measured values to one row for each case: medians, ratios, verdicts. Pure."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec

from .available import http_engine
from .cases import Budget, Case, Contestant, Transport, Unit, Work, describe, higher_is_better

__all__ = [
    "Environment",
    "Results",
    "Row",
    "describe_budget",
    "describe_number",
    "is_met",
    "make_row",
    "to_unit",
]

#: Those whose version matters to the values.
_PACKAGES = (
    "trio-mcp-transport",
    "trio",
    "msgspec",
    "mcp",
    "pyopenssl",
    "h11",
    "httptools",
    "wsproto",
    "trio-websocket",
    "websockets",
)
#: Values of each contestant of a case, in the case's unit, one for each round.
Samples = Mapping[Contestant, Sequence[float]]


class Row(msgspec.Struct, frozen=True):
    """One case, measured.

    Attributes:
        work: What was done.
        transport: Over what.
        payload_bytes: Bytes of one request, without the line feed.
        connections: Connections that were open at a time.
        unit: Of the values. Better is lower, except where it ends in ``/s``.
        ours: This package; the median of all rounds, as all values are.
        floor: The bare stream.
        sdk: The official Python SDK; None where it was not installed or cannot do it.
        peers: Others on the same work, by name; among them this package over another
            transport (``own tcp``), where the row is held against that.
        ratio_to_floor: `ours` divided by `floor`: for times and sizes better when lower,
            for rates better when higher. None where the floor is zero.
        ratio_to_sdk: `ours` divided by `sdk`, likewise.
        held_against: What the row is held against: the floor or, where there is none, one
            of `peers`, which is this package over another transport. None where it is
            against nothing.
        ratio: `ours` divided by that, likewise.
        budget: What is promised of the case, such as ``<= 1.6 floor``; empty for nothing.
        met: Whether that was reached; None for nothing promised, or not measured.
    """

    work: Work
    transport: Transport
    payload_bytes: int
    connections: int
    unit: Unit
    ours: float | None
    floor: float | None
    sdk: float | None
    peers: dict[str, float]
    ratio_to_floor: float | None
    ratio_to_sdk: float | None
    held_against: Contestant | None = None
    ratio: float | None = None
    budget: str = ""
    met: bool | None = None

    @property
    def label(self) -> str:
        """The case in a few words."""
        return describe(self.work, self.transport, self.payload_bytes, self.connections)

    def values(self) -> dict[str, float]:
        """What was measured, by contestant."""
        found = {"floor": self.floor, "ours": self.ours, "sdk": self.sdk, **self.peers}
        return {name: value for name, value in found.items() if value is not None}


class Environment(msgspec.Struct, frozen=True):
    """Where and how it was measured.

    Attributes:
        python: Version of the language.
        implementation: Of the language.
        platform: The operating system and its release.
        machine: Its architecture.
        cpu_count: Processors that this process may use.
        versions: Of packages that matter, those that are installed.
        rounds: How often each value was measured.
        seconds: How long each time.
        http_engine: What took HTTP apart in this package: ``httptools`` or ``h11``.
    """

    python: str
    implementation: str
    platform: str
    machine: str
    cpu_count: int | None
    versions: dict[str, str]
    rounds: int
    seconds: float
    http_engine: str = ""

    @classmethod
    def describe(cls, *, rounds: int, seconds: float) -> Environment:
        """This machine, and what is installed on it."""
        return cls(
            python=platform.python_version(),
            implementation=platform.python_implementation(),
            platform=f"{platform.system()} {_system_release()}".rstrip(),
            machine=platform.machine(),
            cpu_count=_usable_cpus(),
            versions=_versions(),
            rounds=rounds,
            seconds=seconds,
            http_engine=http_engine(),
        )


class Results(msgspec.Struct, frozen=True):
    """What ``--json`` keeps."""

    environment: Environment
    rows: list[Row]


def _system_release() -> str:
    """The number of the operating system's release, without what a builder called it."""
    found = re.match(r"\d+(?:\.\d+)*", platform.release())
    return "" if found is None else found[0]


def _usable_cpus() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def to_unit(case: Case, value: float) -> float:
    """What a process measured, seconds an operation or bytes, in the case's unit."""
    match case.unit:
        case "us":
            return value * 1e6
        case "ms":
            return value * 1e3
        case "msg/s":
            return 1 / value
        case "MB/s":
            return case.payload_bytes / value / 1e6
        case "KiB":
            return value / 1024


def make_row(case: Case, samples: Samples) -> Row:
    """The medians of a case, and what they are to each other."""
    medians = {name: statistics.median(values) for name, values in samples.items() if values}
    ours, floor, sdk = medians.get("ours"), medians.get("floor"), medians.get("sdk")
    against = case.against
    row = Row(
        work=case.work,
        transport=case.transport,
        payload_bytes=case.payload_bytes,
        connections=case.connections,
        unit=case.unit,
        ours=_rounded(ours),
        floor=_rounded(floor),
        sdk=_rounded(sdk),
        peers={
            name: float(f"{value:.5g}")
            for name, value in medians.items()
            if name not in {"ours", "floor", "sdk"}
        },
        ratio_to_floor=_ratio(ours, floor),
        ratio_to_sdk=_ratio(ours, sdk),
        held_against=against,
        ratio=None if against is None else _ratio(ours, medians.get(against)),
        budget=describe_budget(case),
    )
    return msgspec.structs.replace(row, met=is_met(case, row))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _ratio(ours: float | None, other: float | None) -> float | None:
    return None if ours is None or not other else _rounded(ours / other)


def is_met(case: Case, row: Row) -> bool | None:
    """Whether the case reached what it must; None when nothing of that was measured."""
    own = None if case.own is None else row.peers.get(case.own)
    checks = [
        (case.budget.to_floor, row.ratio_to_floor),
        (case.budget.to_own, _ratio(row.ours, own)),
        (case.budget.to_sdk, row.ratio_to_sdk),
        (_absolute(case.budget, row), row.ours),
    ]
    better = higher_is_better(case.unit)
    verdicts = [
        found >= wanted if better else found <= wanted
        for wanted, found in checks
        if wanted is not None and found is not None
    ]
    return all(verdicts) if verdicts else None


def _absolute(budget: Budget, row: Row) -> float | None:
    """The value that must be reached."""
    h11 = row.peers.get("own h11")
    if budget.absolute is None or budget.or_to_h11 is None or h11 is None:
        return budget.absolute
    return min(budget.absolute, budget.or_to_h11 * h11)


def describe_budget(case: Case) -> str:
    """The budget in a few signs, such as ``<= 1.6 floor``."""
    sign = ">=" if higher_is_better(case.unit) else "<="
    budget = case.budget
    parts = []
    if budget.to_floor is not None:
        parts.append(f"{sign} {budget.to_floor:g} floor")
    if budget.to_sdk is not None and "sdk" in case.contestants:
        parts.append(f"{sign} {budget.to_sdk:g} sdk")
    if budget.to_own is not None and case.own is not None:
        parts.append(f"{sign} {budget.to_own:g} {case.own}")
    if budget.absolute is not None:
        parts.append(f"{sign} {budget.absolute:g} {case.unit}")
        if budget.or_to_h11 is not None:
            parts[-1] += f" or {budget.or_to_h11:g} own h11"
    return ", ".join(parts)


def describe_number(value: float | None) -> str:
    """A value in a few digits; empty where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
