"""What is made of measured values: units, ratios, verdicts."""

from __future__ import annotations

import msgspec
import pytest

from trio_mcp_transport import Notification, Request, encode_message
from trio_mcp_transport.cli.bench import floor
from trio_mcp_transport.cli.bench.cases import (
    Budget,
    Case,
    Contestant,
    Unit,
    higher_is_better,
)
from trio_mcp_transport.cli.bench.payloads import FIRST_ID, METHOD, params_of_size
from trio_mcp_transport.cli.bench.results import (
    Environment,
    Results,
    Row,
    describe_budget,
    is_met,
    make_row,
    to_unit,
)

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


def test_a_figure_of_h11_in_the_same_run_can_lower_what_must_be_reached() -> None:
    budget = Budget(absolute=15_000, or_to_h11=3)
    contestants: tuple[Contestant, ...] = ("ours", "floor", "own h11")
    case = Case("many-clients", "http", 150, 16, "msg/s", contestants, budget)
    assert describe_budget(case) == ">= 15000 msg/s or 3 own h11"
    assert make_row(case, {"ours": [9_100], "own h11": [3_000]}).met is True
    assert make_row(case, {"ours": [8_900], "own h11": [3_000]}).met is False
    assert make_row(case, {"ours": [15_100], "own h11": [9_000]}).met is True
    assert make_row(case, {"ours": [14_900]}).met is False


def test_a_row_says_what_it_is_held_against_and_whether_that_is_enough() -> None:
    contestants: tuple[Contestant, ...] = ("ours", "own tcp", "trio.SSLStream")
    tls = Case("round-trip", "tls", 4096, 1, "us", contestants, Budget(to_own=2))
    row = make_row(tls, {"ours": [3], "own tcp": [1], "trio.SSLStream": [9]})
    assert (row.label, row.held_against, row.ratio) == ("round-trip tls 4 KiB", "own tcp", 3)
    assert (row.budget, row.met) == ("<= 2 own tcp", False)
    row = make_row(case_of("msg/s"), {"ours": [3], "floor": [2]})
    assert (row.held_against, row.ratio, row.budget, row.met) == ("floor", 1.5, "", None)
    alone = Case("memory-idle", "ws", 150, 20, "KiB", ("ours", "trio-websocket"))
    row = make_row(alone, {"ours": [3], "trio-websocket": [2]})
    assert (row.held_against, row.ratio) == (None, None)
    assert row.values() == {"ours": 3, "trio-websocket": 2}


@pytest.mark.parametrize(
    ("release", "kept"),
    [
        ("6.1.4-built-for-us", "Linux 6.1.4"),
        ("6.1.", "Linux 6.1"),
        ("10", "Linux 10"),
        ("2022Server", "Linux 2022"),
        ("ours", "Linux"),
        ("", "Linux"),
    ],
)
def test_of_a_release_of_the_system_its_number_is_kept(
    release: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.release", lambda: release)
    assert Environment.describe(rounds=1, seconds=1).platform == kept


def test_results_of_before_can_still_be_read() -> None:
    row = make_row(case_of("us"), {"ours": [5], "floor": [10]})
    results = Results(Environment.describe(rounds=1, seconds=0.1), [row])
    document = msgspec.to_builtins(results)
    for name in ("held_against", "ratio", "budget", "met"):
        del document["rows"][0][name]
    del document["environment"]["http_engine"]
    found = msgspec.convert(document, Results)
    assert found.rows[0].ours == 5
    assert found.rows[0].held_against is None


def test_nothing_measured_is_neither_met_nor_missed() -> None:
    case = case_of("us", Budget(to_floor=1))
    assert is_met(case, make_row(case, {"ours": [1], "floor": []})) is None


def test_results_can_be_read_back() -> None:
    row = make_row(case_of("us"), {"ours": [5], "floor": [10]})
    results = Results(Environment.describe(rounds=1, seconds=0.1), [row])
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results
    assert isinstance(results.rows[0], Row)
