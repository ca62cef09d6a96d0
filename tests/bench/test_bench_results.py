"""What is made of measured values: the plan, units, ratios, verdicts, the picture."""

from __future__ import annotations

import sys
from dataclasses import replace
from xml.etree import ElementTree

import msgspec
import pytest

from trio_mcp_transport import Notification, Request, encode_message, features
from trio_mcp_transport.cli.bench import floor
from trio_mcp_transport.cli.bench.payloads import FIRST_ID, METHOD, params_of_size
from trio_mcp_transport.cli.bench.plan import (
    TRANSPORTS,
    WORKS,
    Budget,
    Case,
    Contestant,
    Unit,
    Work,
    higher_is_better,
    own_transport,
    plan,
    takes_part,
)
from trio_mcp_transport.cli.bench.results import (
    Environment,
    Results,
    Row,
    describe_budget,
    is_met,
    make_row,
    to_unit,
)
from trio_mcp_transport.cli.bench.svg import draw

pytestmark = pytest.mark.bench


def case_of(unit: Unit, budget: Budget | None = None) -> Case:
    return Case("one-way", "tcp", 150, 1, unit, ("floor", "ours", "sdk"), budget or Budget())


@pytest.mark.parametrize("size", [150, 1_000_000])
def test_everybody_sends_the_same_bytes(size: int) -> None:
    params = params_of_size(size)
    request = encode_message(Request(FIRST_ID, METHOD, params))
    assert len(request) == size
    assert floor.encode_request(FIRST_ID, params) == request + b"\n"
    notification = encode_message(Notification(METHOD, params))
    assert floor.encode_notification(params) == notification + b"\n"


def test_the_plan_has_every_work_and_transport() -> None:
    cases = plan()
    assert {case.work for case in cases} >= set(WORKS) - {"memory-idle", "memory-growth"}
    assert {case.transport for case in cases} >= {"stdio", "tcp", "memory", "none"}
    assert len(set(cases)) == len(cases)


def test_a_budget_is_on_every_wire_and_on_none_that_has_no_wire() -> None:
    for case in plan():
        # Large messages are what shared memory is for.
        promised = case.payload_bytes <= 150 or case.work == "stream-round-trip"
        assert bool(describe_budget(case)) == (promised and case.transport != "memory")


def test_works_and_transports_narrow_the_plan() -> None:
    def chosen(*only: str) -> set[tuple[Work, str]]:
        return {(case.work, case.transport) for case in plan(only)}

    assert chosen("one-way", "tcp") == {("one-way", "tcp")}
    assert chosen("one-way", "round-trip", "tcp", "memory") == {
        (work, transport) for work in ("one-way", "round-trip") for transport in ("tcp", "memory")
    }
    assert {work for work, _ in chosen("import")} == {"import"}
    assert {transport for _, transport in chosen("memory")} == {"memory"}
    assert chosen("import", "tcp") == set()
    assert len(plan(TRANSPORTS)) < len(plan())


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("us", 0.5, 500_000),
        ("ms", 0.5, 500),
        ("msg/s", 0.5, 2),
        ("MB/s", 0.5, 150 / 0.5 / 1e6),
        ("KiB", 2048, 2),
    ],
)
def test_values_come_in_the_units_of_their_case(unit: Unit, value: float, expected: float) -> None:
    assert to_unit(case_of(unit), value) == pytest.approx(expected)


def test_a_row_holds_medians_and_what_they_are_to_each_other() -> None:
    row = make_row(case_of("us"), {"ours": [3, 1, 2], "floor": [1, 1, 100], "sdk": [8, 8, 8, 8]})
    assert (row.ours, row.floor, row.sdk) == (2, 1, 8)
    assert (row.ratio_to_floor, row.ratio_to_sdk) == (2, 0.25)


def test_what_was_not_measured_is_none_and_zero_divides_nothing() -> None:
    row = make_row(case_of("us"), {"ours": [1.0], "floor": [0.0], "sdk": []})
    assert (row.floor, row.sdk) == (0, None)
    assert (row.ratio_to_floor, row.ratio_to_sdk) == (None, None)
    nothing = make_row(case_of("us"), {"ours": [], "floor": []})
    assert (nothing.ours, nothing.floor, nothing.ratio_to_floor) == (None, None, None)


@pytest.mark.parametrize(
    ("unit", "budget", "ours", "met"),
    [
        ("us", Budget(to_floor=1.6), 1.6, True),
        ("us", Budget(to_floor=1.6), 1.7, False),
        ("msg/s", Budget(to_floor=0.4), 0.4, True),
        ("msg/s", Budget(to_floor=0.4), 0.3, False),
        ("us", Budget(to_floor=9, to_sdk=0.4), 0.9, False),
        ("us", Budget(to_floor=9, to_sdk=0.4), 0.8, True),
        ("KiB", Budget(absolute=64), 64, True),
        ("KiB", Budget(absolute=64), 65, False),
        ("us", Budget(), 1, None),
    ],
)
def test_a_budget_is_a_ceiling_for_times_and_a_floor_for_rates(
    unit: Unit, budget: Budget, ours: float, met: bool | None
) -> None:
    case = case_of(unit, budget)
    row = make_row(case, {"ours": [ours], "floor": [1], "sdk": [2]})
    assert is_met(case, row) is met
    assert higher_is_better(unit) == (unit == "msg/s")


@pytest.mark.parametrize(
    ("unit", "wanted", "ours", "met"),
    [
        ("us", 2, 4, True),
        ("us", 2, 4.1, False),
        ("msg/s", 0.4, 0.8, True),
        ("msg/s", 0.4, 0.7, False),
    ],
)
def test_a_budget_can_be_held_against_our_own_other_transports(
    unit: Unit, wanted: float, ours: float, met: bool
) -> None:
    contestants: tuple[Contestant, ...] = ("ours", "own tcp", "trio.SSLStream")
    case = Case("one-way", "tls", 150, 1, unit, contestants, Budget(to_own=wanted))
    row = make_row(case, {"ours": [ours], "own tcp": [2], "trio.SSLStream": [9]})
    assert (row.peers, row.floor) == ({"own tcp": 2, "trio.SSLStream": 9}, None)
    assert is_met(case, row) is met
    assert describe_budget(case).endswith(f"{wanted:g} own tcp")
    assert is_met(case, make_row(case, {"ours": [ours], "own tcp": []})) is None


def test_what_lies_over_another_transport_is_held_against_that_and_shown_beside_others() -> None:
    found = {case.transport: case for case in plan(["round-trip"])}
    if features().extras["tls"]:
        assert found["tls"].own == found["ws"].own == "own tcp"
        assert (found["wss"].own, found["https"].own) == ("own ws", "own http")
        assert "trio.SSLStream" in found["tls"].contestants
    assert {"trio-websocket", "websockets.trio"} <= set(found["ws"].contestants)
    assert own_transport("own ws") == "ws"
    assert own_transport("ours") is own_transport("own nothing") is None  # type: ignore[arg-type]


def test_who_is_not_installed_does_not_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    monkeypatch.setitem(sys.modules, "websockets", None)
    monkeypatch.setitem(sys.modules, "websockets.trio", None)
    assert not takes_part("trio-websocket")
    assert not takes_part("websockets.trio")
    assert takes_part("ours")
    assert takes_part("trio.SSLStream")


def test_without_the_extra_nothing_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(features(), extras={"tls": False})
    monkeypatch.setattr("trio_mcp_transport.cli.bench.plan.features", lambda: here)
    assert not {case.transport for case in plan()} & {"tls", "wss", "https"}


def test_nothing_measured_is_neither_met_nor_missed() -> None:
    case = case_of("us", Budget(to_floor=1))
    assert is_met(case, make_row(case, {"ours": [1], "floor": []})) is None


def test_the_picture_has_a_bar_for_each_value() -> None:
    rows = [
        make_row(case_of("msg/s"), {"ours": [5], "floor": [10], "sdk": [1]}),
        make_row(case_of("us"), {"ours": [5], "floor": [0]}),
        make_row(case_of("us"), {"ours": [5], "trio.SSLStream": [10]}),
        make_row(case_of("us"), {}),
    ]
    environment = Environment.describe(rounds=3, seconds=0.5)
    picture = ElementTree.fromstring(draw(Results(environment, rows)))
    space = "{http://www.w3.org/2000/svg}"
    legend_and_background = 5
    bars = picture.findall(f"{space}rect")[legend_and_background:]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert len(widths) == 7
    # floor, ours, sdk: in the proportion of the values
    assert widths[0] == pytest.approx(2 * widths[1])
    assert widths[0] == pytest.approx(10 * widths[2])
    assert widths[6] == pytest.approx(2 * widths[5])
    texts = [text.text for text in picture.findall(f"{space}text")]
    assert texts.count("one-way tcp") == 3
    assert "10  trio.SSLStream" in texts
    assert any("medians of 3 rounds" in (text or "") for text in texts)


def test_results_can_be_read_back() -> None:
    row = make_row(case_of("us"), {"ours": [5], "floor": [10]})
    results = Results(Environment.describe(rounds=1, seconds=0.1), [row])
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results
    assert isinstance(results.rows[0], Row)
