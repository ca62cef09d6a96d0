"""`bench --guard` and `bench --record`: whether anything became slower, against what it was.

Each ratio is measured once; what seems to be lost is measured a few times more, and then the
median of all counts. So a run of which nothing is lost is short, and one that fails was sure.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ..terminal import print_table, tell
from .cases import Case
from .record import MOST_LOST, Comparison, Record, can_be_recorded, compare, make_record
from .results import Environment, Row, describe_number

__all__ = ["Watched", "encode_record", "print_comparisons", "tell_losses", "watch"]

#: How often what seems to be lost is measured again.
MORE_ROUNDS = 6

#: Measures cases so many times; the rows are of all that was measured of a case so far.
Measure = Callable[[Sequence[Case], int], Awaitable[list[Row]]]


class Watched(msgspec.Struct, frozen=True):
    """What came of watching: the comparisons, and the rows that they were made of."""

    comparisons: list[Comparison]
    rows: list[Row]

    @property
    def is_well(self) -> bool:
        """Whether all was measured, and nothing lost."""
        return all(each.verdict in {"ok", "gained"} for each in self.comparisons)


async def watch(record: Record, cases: Sequence[Case], measure: Measure, *, rounds: int) -> Watched:
    """Measure what was recorded, and again what seems to be lost.

    Args:
        record: What was recorded.
        cases: Its cases, see `record.cases_to_watch`.
        measure: Measures.
        rounds: How often everything is measured.
    """
    rows = dict(zip(cases, await measure(cases, rounds), strict=True))
    recorded = {case: each.ratio for case, each in zip(cases, record.cases, strict=True)}

    def comparisons() -> list[Comparison]:
        return [compare(recorded[case], case, row) for case, row in rows.items()]

    suspects = [each.case for each in comparisons() if each.is_suspicious]
    if suspects:
        rows.update(zip(suspects, await measure(suspects, MORE_ROUNDS), strict=True))
    return Watched(comparisons(), list(rows.values()))


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Print what was and what is, as a table."""
    headers = ["work", "unit", "against", "recorded", "now", "speed", "verdict"]
    rows = [
        [
            each.case.label,
            each.case.unit,
            str(each.against),
            describe_number(each.recorded),
            describe_number(each.ratio),
            "" if each.change in {None, math.inf} else f"{each.change:.0%}",
            each.verdict,
        ]
        for each in comparisons
    ]
    print_table("Ratios, recorded and now; speed is that of the record's", headers, rows)


def tell_losses(comparisons: Sequence[Comparison]) -> None:
    """Say on stderr what was lost, and of what nobody knows."""
    for each in comparisons:
        if each.verdict == "not measured":
            tell(f"{each.case.label} was not measured: there is no ratio to {each.against}")
        if each.verdict == "lost":
            assert each.ratio is not None
            assert each.change is not None
            tell(
                f"{each.case.label} lost {1 - each.change:.0%} of its speed, where {MOST_LOST:.0%}"
                f" may be: {each.ratio:.3g} x {each.against}, recorded {each.recorded:.3g}"
            )


def encode_record(rows: Sequence[Row], environment: Environment) -> bytes | None:
    """The document to keep, None if there is nothing to keep; says what is left out."""
    for row in rows:
        if not can_be_recorded(row):
            tell(f"{row.label} is not recorded: there is no ratio to {row.held_against}")
    record = make_record(rows, environment)
    if not record.cases:
        tell("nothing was recorded: nothing that was measured has a ratio")
        return None
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
