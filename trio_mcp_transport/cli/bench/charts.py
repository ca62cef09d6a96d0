"""What is drawn of results: bars of a table, or of a grid its lines and its clients. Pure.

Over a grid there is a panel for each transport, all on one scale, so that panels can be
compared with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from .bars import draw_bars
from .cases import SMALL_BYTES, TRANSPORTS, Work, describe_size
from .results import Results, Row
from .svg import Figure, draw_figures, kind_of, legend, line, path, rectangle, short_number, text

__all__ = ["draw", "grid_figures"]

_COLUMNS = 3
_PANEL_WIDTH, _PANEL_HEIGHT = 298, 190
#: Around what is drawn in a panel.
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 22, 26
_PLOT_WIDTH = _PANEL_WIDTH - _LEFT - _RIGHT
_PLOT_HEIGHT = _PANEL_HEIGHT - _TOP - _BOTTOM
_LEGEND_HEIGHT = 22
_SCALES = "Both scales are logarithmic, and all panels have the same."
#: Fewer sizes are not a line.
_FEWEST_SIZES = 3

#: By contestant, the values by size or by number of connections.
_Series = dict[str, dict[int, float]]


def draw(results: Results) -> str:
    """An SVG document of all of it: the figures of a grid, or else a bar for each value."""
    figures = grid_figures(results)
    if not {"round-trips", "throughput"} & figures.keys():
        # Too few sizes for a grid, of which the figures would not show everything.
        figures = {"bars": draw_bars(results.rows, "trio-mcp bench")}
    return draw_figures(list(figures.values()), results.environment)


def grid_figures(results: Results) -> dict[str, Figure]:
    """The figures that results are enough for, by name.

    Returns:
        ``round-trips`` and ``throughput`` over the size of a request where there are some
        sizes, ``clients`` where there are some numbers of connections.
    """
    found: dict[str, Figure] = {}
    times = _over_size(results.rows, "round-trip")
    if times:
        found["round-trips"] = _lines(
            times,
            "Round trip over the size of a request",
            f"Microseconds, lower is better. {_SCALES}",
        )
    rates = _over_size(results.rows, "one-way")
    if rates:
        found["throughput"] = _lines(
            rates,
            "One way, one message at a time, over the size of a message",
            f"Megabytes a second, higher is better. {_SCALES}",
        )
    clients = _over_connections(results.rows)
    if clients:
        found["clients"] = _clients(clients)
    return found


# -- What is drawn --------------------------------------------------------------------------


class _Panel(msgspec.Struct, frozen=True):
    transport: str
    series: _Series

    def values(self) -> Iterable[float]:
        return (value for each in self.series.values() for value in each.values())

    def places(self) -> Iterable[int]:
        return (place for each in self.series.values() for place in each)


def _over_size(rows: Sequence[Row], work: Work) -> list[_Panel]:
    """A panel for each transport that was measured with some sizes."""
    panels = []
    for transport in TRANSPORTS:
        series: _Series = {}
        for row in rows:
            if (row.work, row.transport, row.connections) != (work, transport, 1):
                continue
            for name, value in row.values().items():
                found = value
                if row.unit == "msg/s":
                    found = value * row.payload_bytes / 1e6
                series.setdefault(name, {})[row.payload_bytes] = found
        if len(series.get("ours", ())) >= _FEWEST_SIZES:
            panels.append(_Panel(transport, series))
    return panels


def _over_connections(rows: Sequence[Row]) -> list[_Panel]:
    """A panel for each transport that was measured with some numbers of connections."""
    panels = []
    for transport in TRANSPORTS:
        series: _Series = {}
        for row in rows:
            if row.transport != transport or row.payload_bytes != SMALL_BYTES:
                continue
            for name, value in row.values().items():
                if row.work == "many-clients":
                    series.setdefault(name, {})[row.connections] = value
                elif row.work == "round-trip":
                    series.setdefault(name, {})[1] = 1e6 / value
        if len(series.get("ours", ())) > 1:
            panels.append(_Panel(transport, series))
    return panels


# -- How it is drawn --------------------------------------------------------------------------


def _figure(
    panels: Sequence[_Panel], title: str, description: str, bodies: Sequence[list[str]]
) -> Figure:
    kinds = {kind_of(name) for panel in panels for name in panel.series}
    body = legend([*kinds], 12, 0)
    for number, (panel, drawn) in enumerate(zip(panels, bodies, strict=True)):
        row, column = divmod(number, _COLUMNS)
        left, top = column * _PANEL_WIDTH, _LEGEND_HEIGHT + row * _PANEL_HEIGHT
        body += [
            f'<g transform="translate({left} {top})">',
            text(_LEFT, 14, panel.transport),
            *drawn,
            "</g>",
        ]
    rows = math.ceil(len(panels) / _COLUMNS)
    return Figure(title, description, _LEGEND_HEIGHT + rows * _PANEL_HEIGHT, body)


def _decades(values: Iterable[float]) -> list[float]:
    """The powers of ten around some values, at least two of them."""
    found = list(values)
    first = math.floor(math.log10(min(found)))
    last = max(math.ceil(math.log10(max(found))), first + 1)
    return [10.0**power for power in range(first, last + 1)]


def _lines(panels: Sequence[_Panel], title: str, description: str) -> Figure:
    decades = _decades(value for panel in panels for value in panel.values())
    sizes = sorted({size for panel in panels for size in panel.places()})

    def x(size: int) -> float:
        share = math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])
        return _LEFT + share * _PLOT_WIDTH

    def y(value: float) -> float:
        share = math.log(value / decades[0]) / math.log(decades[-1] / decades[0])
        return _TOP + (1 - share) * _PLOT_HEIGHT

    def body(panel: _Panel) -> list[str]:
        lines: list[str] = []
        for decade in decades:
            lines += [
                line((_LEFT, y(decade)), (_LEFT + _PLOT_WIDTH, y(decade))),
                text(_LEFT - 5, y(decade) + 4, short_number(decade), "small", "end"),
            ]
        for size in sizes:
            label = describe_size(size)
            lines.append(text(x(size), _PANEL_HEIGHT - 10, label, "small", "middle"))
        # Ours is on top of the others.
        for name in sorted(panel.series, key=lambda name: name == "ours"):
            points = [(x(size), y(value)) for size, value in sorted(panel.series[name].items())]
            lines += path(points, kind_of(name))
        return lines

    return _figure(panels, title, description, [body(panel) for panel in panels])


def _clients(panels: Sequence[_Panel]) -> Figure:
    ticks = _ticks(max(value for panel in panels for value in panel.values()))
    numbers = sorted({number for panel in panels for number in panel.places()})
    group_width = _PLOT_WIDTH / len(numbers)

    def body(panel: _Panel) -> list[str]:
        lines: list[str] = []
        for tick in ticks:
            height = tick / ticks[-1] * _PLOT_HEIGHT
            y = _TOP + _PLOT_HEIGHT - height
            lines += [
                line((_LEFT, y), (_LEFT + _PLOT_WIDTH, y)),
                text(_LEFT - 5, y + 4, short_number(tick), "small", "end"),
            ]
        bar = group_width * 0.85 / len(panel.series)
        for place, number in enumerate(numbers):
            left = _LEFT + place * group_width
            middle = left + group_width / 2
            lines.append(text(middle, _PANEL_HEIGHT - 10, f"{number}", "small", "middle"))
            for offset, values in enumerate(panel.series.items()):
                name, by_number = values
                height = by_number.get(number, 0) / ticks[-1] * _PLOT_HEIGHT
                top = _TOP + _PLOT_HEIGHT - height
                at = left + group_width * 0.075 + offset * bar
                lines.append(rectangle(at, top, bar * 0.9, height, kind_of(name)))
        return lines

    return _figure(
        panels,
        "Round trips a second with many clients at a time",
        "Requests of 150 bytes, all clients in one process and the server in another; below the"
        " bars, how many. Higher is better.",
        [body(panel) for panel in panels],
    )


def _ticks(largest: float) -> list[float]:
    """Four or five round steps from zero to at least a value."""
    power = 10 ** math.floor(math.log10(largest))
    step = next(
        step
        for step in (0.2 * power, 0.25 * power, 0.5 * power, power, 2.5 * power)
        if step * 5 >= largest
    )
    return [step * number for number in range(math.ceil(largest / step) + 1)]
