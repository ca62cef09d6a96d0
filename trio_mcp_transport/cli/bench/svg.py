"""The table as a picture: three bars for each row, in plain SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from .results import Environment, Results, Row

__all__ = ["draw"]

_WIDTH, _LABEL_WIDTH, _BAR_WIDTH = 900, 230, 460
_BAR, _GAP, _TOP = 13, 12, 74
_COLOURS = {"ours": "#2563eb", "floor": "#94a3b8", "sdk": "#f97316", "others": "#0d9488"}
_NAMES = {
    "ours": "this package",
    "floor": "floor (bare Trio and msgspec)",
    "sdk": "official SDK",
    "others": "others, by name",
}


def draw(results: Results) -> str:
    """An SVG document. In each row the longest bar is the row's largest value."""
    body: list[str] = []
    top = _TOP
    for row in results.rows:
        values = _values(row)
        if not values:
            continue
        body += _draw_row(row, values, top)
        top += len(values) * _BAR + _GAP
    size = f'width="{_WIDTH}" height="{top}"'
    style = "text{font:12px sans-serif;fill:#0f172a}.small{font-size:11px;fill:#475569}"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {top}" role="img">',
        f"<style>{style}</style>",
        f'<rect {size} fill="#ffffff"/>',
        _text(12, 22, "trio-mcp bench"),
        _text(12, 40, _environment(results.environment), "small"),
        *_legend(),
    ]
    return "\n".join([*head, *body, "</svg>", ""])


def _values(row: Row) -> dict[str, float]:
    found = {"floor": row.floor, "ours": row.ours, "sdk": row.sdk, **row.peers}
    return {name: value for name, value in found.items() if value is not None}


def _draw_row(row: Row, values: dict[str, float], top: int) -> list[str]:
    largest = max(max(values.values()), 0) or 1.0
    size = " 1 MB" if row.payload_bytes >= 1_000_000 else ""
    over = "" if row.transport == "none" else f" {row.transport}"
    better = "higher" if row.unit.endswith("/s") else "lower"
    lines = [
        _text(12, top + 10, f"{row.work}{over}{size}"),
        _text(12, top + 10 + _BAR, f"{row.unit}, {better} is better", "small"),
    ]
    for name, value in values.items():
        width = max(value / largest * _BAR_WIDTH, 1.0)
        lines += [
            _rectangle(_LABEL_WIDTH, top, width, _BAR - 2, name),
            _text(_LABEL_WIDTH + width + 6, top + 10, _caption(name, value), "small"),
        ]
        top += _BAR
    return lines


def _legend() -> list[str]:
    lines: list[str] = []
    left = _LABEL_WIDTH
    for name, text in _NAMES.items():
        lines += [
            _rectangle(left, 50, 10, 10, name),
            _text(left + 15, 59, text, "small"),
        ]
        left += 25 + 7 * len(text)
    return lines


def _environment(environment: Environment) -> str:
    versions: Sequence[str] = [
        f"{name} {version}" for name, version in environment.versions.items()
    ]
    return (
        f"{environment.implementation} {environment.python}, {environment.platform}"
        f" {environment.machine}, {environment.cpu_count} CPUs, {', '.join(versions)};"
        f" medians of {environment.rounds} rounds"
    )


def _rectangle(x: float, y: float, width: float, height: float, name: str) -> str:
    colour = _COLOURS.get(name, _COLOURS["others"])
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    attribute = f' class="{style}"' if style else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{attribute}>{escape(text)}</text>'


def _caption(name: str, value: float) -> str:
    return _number(value) if name in _COLOURS else f"{_number(value)}  {name}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
