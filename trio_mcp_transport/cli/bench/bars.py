"""The table as a picture: a bar for each value of a row, below each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Row
from .svg import Figure, kind_of, legend, rectangle, short_number, text

__all__ = ["draw_bars"]

_LABEL_WIDTH, _BAR_WIDTH = 230, 460
_BAR, _GAP, _TOP = 13, 12, 24
#: Others have their names beside their bars.
_IN_LEGEND = ("ours", "floor", "sdk")


def draw_bars(rows: Sequence[Row], title: str) -> Figure:
    """A figure of some rows. In each row the longest bar is the row's largest value."""
    body: list[str] = []
    kinds: set[str] = set()
    top = _TOP
    for row in rows:
        values = row.values()
        if not values:
            continue
        kinds |= {kind_of(name) for name in values}
        body += _draw_row(row, values, top)
        top += len(values) * _BAR + _GAP
    description = "Bars of one row have one scale, which other rows do not share."
    return Figure(title, description, top, [*legend([*kinds], _LABEL_WIDTH, 0), *body])


def _draw_row(row: Row, values: dict[str, float], top: int) -> list[str]:
    largest = max(max(values.values()), 0) or 1.0
    better = "higher" if row.unit.endswith("/s") else "lower"
    lines = [
        text(12, top + 10, row.label),
        text(12, top + 10 + _BAR, f"{row.unit}, {better} is better", "small"),
    ]
    for name, value in values.items():
        width = max(value / largest * _BAR_WIDTH, 1.0)
        caption = short_number(value) if name in _IN_LEGEND else f"{short_number(value)}  {name}"
        lines += [
            rectangle(_LABEL_WIDTH, top, width, _BAR - 2, kind_of(name)),
            text(_LABEL_WIDTH + width + 6, top + 10, caption, "small"),
        ]
        top += _BAR
    return lines
