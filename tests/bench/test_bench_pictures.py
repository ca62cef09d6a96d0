"""What is drawn of results: it is SVG, has a bar or a dot for each value, and tells of itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from trio_mcp_transport.cli.bench.cases import Budget, Case, Contestant, Unit
from trio_mcp_transport.cli.bench.charts import draw, grid_figures
from trio_mcp_transport.cli.bench.plan import plan
from trio_mcp_transport.cli.bench.results import Environment, Results, Row, make_row
from trio_mcp_transport.cli.bench.svg import draw_figures, kind_of

pytestmark = pytest.mark.bench

SPACE = "{http://www.w3.org/2000/svg}"


def case_of(unit: Unit) -> Case:
    return Case("one-way", "tcp", 150, 1, unit, ("floor", "ours", "sdk"), Budget())


def picture_of(rows: list[Row]) -> ElementTree.Element:
    results = Results(Environment.describe(rounds=3, seconds=0.5), rows)
    return ElementTree.fromstring(draw(results))


def texts(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SPACE}text")]


def filled(picture: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """The bars and dots of some kind, without those of the legend."""
    return [
        each
        for each in picture.iter()
        if each.get("class") == f"fill-{name}" and each.get("height") != "10.0"
    ]


def test_a_table_has_a_bar_for_each_value() -> None:
    rows = [
        make_row(case_of("msg/s"), {"ours": [5], "floor": [10], "sdk": [1]}),
        make_row(case_of("us"), {"ours": [5], "floor": [0]}),
        make_row(case_of("us"), {"ours": [5], "trio-websocket": [10]}),
        make_row(case_of("us"), {}),
    ]
    picture = picture_of(rows)
    (first, second, third) = filled(picture, "ours")
    widths = [float(bar.attrib["width"]) for bar in (first, second, third)]
    # In the proportion of the values of a row; next to nothing can still be seen.
    floors = [float(bar.attrib["width"]) for bar in filled(picture, "floor")]
    (sdk,) = filled(picture, "sdk")
    (other,) = filled(picture, "trio-websocket")
    assert floors[0] == pytest.approx(2 * widths[0])
    assert floors[0] == pytest.approx(10 * float(sdk.attrib["width"]))
    assert floors[1] == 1
    assert float(other.attrib["width"]) == pytest.approx(2 * widths[2])
    words = texts(picture)
    assert words.count("one-way tcp") == 3
    assert "10  trio-websocket" in words
    assert any("medians of 3 rounds" in text for text in words)


def test_a_picture_tells_what_it_is_to_those_who_do_not_see_it_and_to_those_in_the_dark() -> None:
    picture = picture_of([make_row(case_of("us"), {"ours": [5], "floor": [10]})])
    title, description = picture.find(f"{SPACE}title"), picture.find(f"{SPACE}desc")
    style = picture.find(f"{SPACE}style")
    assert picture.get("role") == "img"
    assert title is not None
    assert description is not None
    assert picture.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "trio-mcp bench"
    assert "scale" in (description.text or "")
    assert style is not None
    assert "prefers-color-scheme:dark" in (style.text or "")


def test_what_was_not_measured_is_drawn_as_nothing() -> None:
    assert filled(picture_of([]), "ours") == []


@pytest.mark.parametrize(
    ("contestant", "kind"),
    [
        ("ours", "ours"),
        ("sdk", "sdk"),
        ("floor", "floor"),
        ("trio.SSLStream", "floor"),
        ("own tcp", "own"),
        ("own h11", "own"),
        ("trio-websocket", "trio-websocket"),
        ("websockets.trio", "websockets"),
    ],
)
def test_everybody_has_a_colour(contestant: Contestant, kind: str) -> None:
    assert kind_of(contestant) == kind


# -- A grid --------------------------------------------------------------------------------


def grid_rows(only: Sequence[str]) -> list[Row]:
    chance = random.Random(0)
    return [
        make_row(case, {name: [chance.uniform(20, 20_000)] for name in case.contestants})
        for case in plan(only, grid=True)
    ]


def test_a_grid_has_a_dot_for_each_size_and_a_bar_for_each_number() -> None:
    rows = grid_rows(["stdio", "tcp", "http"])
    figures = grid_figures(Results(Environment.describe(rounds=1, seconds=1), rows))
    assert list(figures) == ["round-trips", "throughput", "clients"]
    picture = picture_of(rows)
    dots = [each for each in filled(picture, "ours") if each.tag == f"{SPACE}circle"]
    bars = [each for each in filled(picture, "ours") if each.tag == f"{SPACE}rect"]
    # Round trips over three transports, one way over the two that are streams.
    assert len(dots) == 4 * (3 + 2)
    # Of one, 16 and 256 clients, over the two that can have more than one.
    assert len(bars) == 3 * 2
    words = texts(picture)
    assert words.count("stdio") == 2
    assert words.count("tcp") == words.count("64 KiB") - 2 == 3
    assert words.count("256") == 2
    assert "official SDK" in words


def test_all_panels_have_one_scale() -> None:
    cases = plan(["tcp", "unix", "round-trip"], grid=True)
    rows = [
        make_row(case, {"ours": [2.0 if case.transport == "tcp" else 2000.0]}) for case in cases
    ]
    dots = filled(picture_of(rows), "ours")
    heights = {dot.attrib["cy"] for dot in dots}
    assert len(dots) == 8
    assert len(heights) == 2


def test_what_is_no_grid_is_drawn_as_bars_of_everything() -> None:
    cases = plan(["tcp"], payloads=[150], connections=[1, 16, 256])
    picture = picture_of([make_row(case, {"ours": [5]}) for case in cases])
    assert len(filled(picture, "ours")) == len(cases) == 4
    assert {"one-way tcp", "many-clients tcp x256"} <= {*texts(picture)}


def test_rates_of_messages_and_of_bytes_share_a_line() -> None:
    cases = plan(["tcp", "one-way"], grid=True)
    assert {case.unit for case in cases} == {"msg/s", "MB/s"}
    # Ten megabytes a second, whatever their size.
    rows = [
        make_row(case, {"ours": [10.0 if case.unit == "MB/s" else 10e6 / 150]}) for case in cases
    ]
    dots = filled(picture_of(rows), "ours")
    assert len({dot.attrib["cy"] for dot in dots}) == 1


def test_a_bar_is_as_high_as_its_rate() -> None:
    cases = plan(["tcp"], payloads=[150], connections=[1, 16, 256])
    values = {"round-trip": 100.0, "many-clients": 20_000.0}
    rows = [make_row(case, {"ours": [values[case.work]]}) for case in cases if case.work in values]
    environment = Environment.describe(rounds=1, seconds=1)
    figure = grid_figures(Results(environment, rows))["clients"]
    picture = ElementTree.fromstring(draw_figures([figure], environment))
    bars = filled(picture, "ours")
    one, few, many = (float(bar.attrib["height"]) for bar in bars)
    assert few == many == pytest.approx(2 * one, rel=1e-2)


def test_two_sizes_are_no_line() -> None:
    rows = [make_row(case, {"ours": [5]}) for case in plan(["tcp", "round-trip"])]
    assert len(rows) == 2
    assert grid_figures(Results(Environment.describe(rounds=1, seconds=1), rows)) == {}
