"""Pictures in plain SVG: what they are made of, and how they look. Pure.

A picture is one or several `Figure`s below each other. It has a title and a description for
those who do not see it, and a background of its own, dark where the reader's system is.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import msgspec

from .results import Environment

__all__ = [
    "WIDTH",
    "Figure",
    "draw_figures",
    "kind_of",
    "legend",
    "line",
    "path",
    "rectangle",
    "short_number",
    "text",
]

WIDTH = 900
#: Kinds of contestants, each with a colour for light and one for dark, and what it is called.
_KINDS = {
    "ours": ("#2563eb", "#60a5fa", "this package"),
    "floor": ("#94a3b8", "#94a3b8", "floor: bare Trio (and h11)"),
    "sdk": ("#ea580c", "#fb923c", "official SDK"),
    "own": ("#7dd3fc", "#0369a1", "this package, what is below"),
    "trio-websocket": ("#0d9488", "#2dd4bf", "trio-websocket"),
    "websockets": ("#9333ea", "#c084fc", "websockets.trio"),
}
_KIND_OF = {
    "trio.SSLStream": "floor",
    "websockets.trio": "websockets",
}
_TITLE_HEIGHT = 56
_MARGIN = 12


class Figure(msgspec.Struct, frozen=True):
    """One drawing, without a document around it.

    Attributes:
        title: What it shows, in a few words.
        description: How to read it, in a sentence or two.
        height: Of the body, in pixels; it is `WIDTH` wide.
        body: Elements of SVG.
    """

    title: str
    description: str
    height: float
    body: Sequence[str]


def draw_figures(figures: Sequence[Figure], environment: Environment) -> str:
    """A document of some figures, one below the other."""
    body: list[str] = []
    top = 0.0
    for figure in figures:
        body += [
            f'<g transform="translate(0 {top:.0f})">',
            text(_MARGIN, 22, figure.title, "title"),
            text(_MARGIN, 40, figure.description, "small"),
            f'<g transform="translate(0 {_TITLE_HEIGHT})">',
            *figure.body,
            "</g></g>",
        ]
        top += _TITLE_HEIGHT + figure.height
    described = describe_environment(environment)
    body.append(text(_MARGIN, top + 14, described, "small"))
    height = round(top + 24)
    size = f'width="{WIDTH}" height="{height}"'
    title = "; ".join(figure.title for figure in figures) or "Nothing was measured"
    description = " ".join(figure.description for figure in figures)
    view = f'{size} viewBox="0 0 {WIDTH} {height}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view} role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(description)} {escape(described)}</desc>',
        f"<style>{_style()}</style>",
        f'<rect {size} class="paper"/>',
    ]
    return "\n".join([*head, *body, "</svg>", ""])


def describe_environment(environment: Environment) -> str:
    """Where it was measured, in a line."""
    return (
        f"{environment.implementation} {environment.python}, {environment.platform}"
        f" {environment.machine}, {environment.cpu_count} CPUs,"
        f" trio {environment.versions.get('trio', '?')}; medians of {environment.rounds} rounds"
    )


def kind_of(contestant: str) -> str:
    """What a contestant is drawn as."""
    if contestant.startswith("own "):
        return "own"
    found = _KIND_OF.get(contestant, contestant)
    return found if found in _KINDS else "own"


def legend(kinds: Sequence[str], left: float, top: float) -> list[str]:
    """A square and a name for each kind that is there."""
    lines: list[str] = []
    for kind, (*_, name) in _KINDS.items():
        if kind in kinds:
            lines += [
                rectangle(left, top, 10, 10, kind),
                text(left + 15, top + 9, name, "small"),
            ]
            left += 28 + 6 * len(name)
    return lines


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A bar."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        f' class="fill-{kind}"/>'
    )


def line(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A thin line of a scale."""
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        ' class="rule"/>'
    )


def path(points: Sequence[tuple[float, float]], kind: str) -> list[str]:
    """A line through points, and a dot on each."""
    through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" class="fill-{kind}"/>' for x, y in points]
    return [f'<polyline points="{through}" class="line-{kind}"/>', *dots]


def text(x: float, y: float, words: str, style: str = "", anchor: str = "") -> str:
    """Words, which begin at `x`, or end there (``end``), or have it in their ``middle``."""
    attributes = f' class="{style}"' if style else ""
    if anchor:
        attributes += f' text-anchor="{anchor}"'
    return f'<text x="{x:.0f}" y="{y:.0f}"{attributes}>{escape(words)}</text>'


def short_number(value: float) -> str:
    """A value in a few digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _style() -> str:
    def colours(which: int) -> str:
        return "".join(
            f".fill-{kind}{{fill:{found[which]}}}.line-{kind}{{stroke:{found[which]}}}"
            for kind, found in _KINDS.items()
        )

    return (
        "text{font:12px sans-serif;fill:#0f172a}.title{font-size:14px;font-weight:bold}"
        ".small{font-size:11px;fill:#475569}.paper{fill:#fff}.rule{stroke:#cbd5e1}"
        "polyline{fill:none;stroke-width:2}"
        f".line-own{{stroke-dasharray:4 3}}{colours(0)}"
        "@media(prefers-color-scheme:dark){text{fill:#f1f5f9}.small{fill:#cbd5e1}"
        f".paper{{fill:#0f172a}}.rule{{stroke:#475569}}{colours(1)}}}"
    )
