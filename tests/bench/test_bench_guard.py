"""Ratios that were kept: what counts as a loss, what is measured again, what is no record."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec.structs import replace

from trio_mcp_transport import ConfigurationError, features
from trio_mcp_transport.cli import main
from trio_mcp_transport.cli.bench import available
from trio_mcp_transport.cli.bench.available import http_engine
from trio_mcp_transport.cli.bench.cases import Case
from trio_mcp_transport.cli.bench.guard import (
    MORE_ROUNDS,
    print_comparisons,
    tell_losses,
    watch,
)
from trio_mcp_transport.cli.bench.plan import find_case, plan
from trio_mcp_transport.cli.bench.record import (
    Record,
    RecordedCase,
    cases_to_record,
    cases_to_watch,
    compare,
    make_record,
    only_what_counts,
    read_record,
)
from trio_mcp_transport.cli.bench.results import Environment, Row, make_row
from trio_mcp_transport.cli.bench.runner import Run

pytestmark = pytest.mark.bench

TRIP = RecordedCase("round-trip", "tcp", 150, 1, "floor", 1.2)
RATE = RecordedCase("one-way", "tcp", 150, 1, "floor", 0.9)
GROWTH = Case("memory-growth", "tcp", 150, 1, "KiB")
KEPT = Path(__file__).parents[2] / ".ci" / "speed.json"


def record_of(*cases: RecordedCase, engine: str = "") -> Record:
    return Record(engine or http_engine(), list(cases))


def case_of(recorded: RecordedCase) -> Case:
    (case,) = cases_to_watch(record_of(recorded), "it")
    return case


def row_of(case: Case, ratio: float) -> Row:
    return make_row(case, {"ours": [ratio], "floor": [1.0]})


# -- What counts as a loss -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "ratio", "verdict", "again"),
    [
        (TRIP, 1.2, "ok", False),
        (TRIP, 1.45, "ok", False),
        (TRIP, 1.7, "ok", True),
        (TRIP, 1.79, "ok", True),
        (TRIP, 1.81, "lost", True),
        (TRIP, 0.9, "ok", False),
        (TRIP, 0.7, "gained", False),
        (RATE, 0.9, "ok", False),
        (RATE, 0.7, "ok", True),
        (RATE, 0.61, "ok", True),
        (RATE, 0.59, "lost", True),
        (RATE, 1.8, "gained", False),
    ],
)
def test_a_third_of_the_speed_is_the_most_that_may_be_lost(
    recorded: RecordedCase, ratio: float, verdict: str, again: bool
) -> None:
    case = case_of(recorded)
    found = compare(recorded.ratio, case, row_of(case, ratio))
    assert (found.verdict, found.is_suspicious) == (verdict, again)


def test_what_could_not_be_measured_is_neither_lost_nor_well() -> None:
    case = case_of(TRIP)
    found = compare(1.2, case, make_row(case, {"ours": [], "floor": [1.0]}))
    assert (found.verdict, found.is_suspicious) == ("not measured", False)


@pytest.mark.parametrize(("ours", "floor"), [(0.0, 8.0), (0.0, 0.0), (-4.0, 8.0), (-4.0, -8.0)])
def test_memory_that_does_not_grow_is_as_good_as_can_be(
    ours: float, floor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(1.0, GROWTH, make_row(GROWTH, {"ours": [ours], "floor": [floor]}))
    assert (found.verdict, found.is_suspicious, found.ratio) == ("gained", False, 0)
    print_comparisons([found])
    tell_losses([found])
    captured = capsys.readouterr()
    assert "gained" in captured.out
    assert not captured.err


@pytest.mark.parametrize("floor", [0.0, -8.0])
def test_what_has_no_ratio_is_not_measured_and_told(
    floor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(1.0, GROWTH, make_row(GROWTH, {"ours": [4.0], "floor": [floor]}))
    assert (found.verdict, found.ratio) == ("not measured", None)
    tell_losses([found])
    told = "memory-growth tcp was not measured: there is no ratio to floor"
    assert told in capsys.readouterr().err


class Machine:
    """Gives the ratios that it was made with, one after the other."""

    def __init__(self, *ratios: float | None) -> None:
        self.ratios = list(ratios)
        self.calls: list[tuple[list[str], int]] = []

    async def measure(self, cases: Sequence[Case], rounds: int) -> list[Row]:
        self.calls.append(([case.label for case in cases], rounds))
        found = [self.ratios.pop(0) for _ in cases]
        return [
            make_row(case, {} if ratio is None else {"ours": [ratio], "floor": [1.0]})
            for case, ratio in zip(cases, found, strict=True)
        ]


async def test_what_is_well_is_measured_once() -> None:
    machine, record = Machine(1.2, 0.9), record_of(TRIP, RATE)
    found = await watch(record, cases_to_watch(record, "it"), machine.measure, rounds=1)
    assert machine.calls == [(["round-trip tcp", "one-way tcp"], 1)]
    assert found.is_well


@pytest.mark.parametrize(("later", "well"), [(1.3, True), (2.0, False)])
async def test_what_seems_to_be_lost_is_measured_again_before_it_is_believed(
    later: float, well: bool
) -> None:
    machine, record = Machine(9.0, 0.9, later), record_of(TRIP, RATE)
    found = await watch(record, cases_to_watch(record, "it"), machine.measure, rounds=2)
    assert machine.calls[1:] == [(["round-trip tcp"], MORE_ROUNDS)]
    assert found.is_well == well
    assert [each.ratio for each in found.comparisons] == [later, 0.9]
    assert [row.ratio for row in found.rows] == [later, 0.9]


async def test_nothing_is_well_that_could_not_be_measured() -> None:
    machine, record = Machine(None), record_of(TRIP)
    found = await watch(record, cases_to_watch(record, "it"), machine.measure, rounds=1)
    assert len(machine.calls) == 1
    assert not found.is_well


# -- What is recorded --------------------------------------------------------------------------


def test_of_each_case_only_those_are_measured_that_count() -> None:
    for case in cases_to_record():
        assert case.contestants == ("ours", case.against)
    assert 10 <= len(cases_to_record()) <= 15
    clients = find_case("many-clients", "http", 150, 16)
    assert clients is not None
    assert only_what_counts(clients).contestants == ("ours", "floor")


def test_what_was_recorded_is_what_is_watched() -> None:
    cases = cases_to_record()
    rows = [
        make_row(case, {name: [2.0 if name == "ours" else 1.0] for name in case.contestants})
        for case in cases
    ]
    kept = msgspec.json.encode(make_record(rows, Environment.describe(rounds=1, seconds=1)))
    record = read_record(kept, "it")
    assert cases_to_watch(record, "it") == cases
    assert {each.ratio for each in record.cases} == {2.0}


def test_a_row_without_a_ratio_is_not_kept() -> None:
    environment = Environment.describe(rounds=1, seconds=1)
    case = case_of(TRIP)
    rows = [row_of(case, 2), make_row(case, {"ours": [1.0]}), row_of(case, 0)]
    rows += [
        make_row(GROWTH, {"ours": [ours], "floor": [floor]})
        for ours, floor in [(-4.0, 8.0), (4.0, -8.0), (-4.0, -8.0), (0.0, 0.0)]
    ]
    assert len(make_record(rows, environment).cases) == 1


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "is not JSON"),
        (b"speed", "is not JSON"),
        (b'{"http_engine": "\xff"}', "is not JSON"),
        (b"[]", "is no record of benchmarks"),
        (b"{}", "missing required field `http_engine`"),
        (b'{"http_engine": "h11", "cases": []}', r"length >= 1 - at `\$.cases`"),
        (b'{"http_engine": "h11", "cases": [{}]}', r"missing required field `work`"),
    ],
)
def test_a_document_that_is_no_record_is_told_so(document: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^kept.json .*{reason}"):
        read_record(document, "kept.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"work": "telepathy"}, "Invalid enum value 'telepathy'"),
        ({"transport": "pigeon"}, "Invalid enum value 'pigeon'"),
        ({"ratio": 0}, "> 0"),
        ({"ratio": "fast"}, "Expected `float`"),
        ({"speed": 1}, "unknown field `speed`"),
    ],
)
def test_an_unknown_case_is_no_case(change: dict[str, object], reason: str) -> None:
    case = {**msgspec.to_builtins(TRIP), **change}
    document = json.dumps({"http_engine": "h11", "cases": [case]}).encode()
    with pytest.raises(ConfigurationError, match=reason):
        read_record(document, "it")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"connections": 7}, "connections=7, which cannot be measured here"),
        ({"work": "sse-stream"}, "sse-stream over tcp .* cannot be measured here"),
        ({"against": "own unix"}, "against own unix, but it is held against floor"),
    ],
)
def test_a_case_that_nobody_can_measure_is_named(change: dict[str, object], reason: str) -> None:
    recorded = msgspec.convert({**msgspec.to_builtins(TRIP), **change}, RecordedCase)
    with pytest.raises(ConfigurationError, match=f"^kept.json has .*{reason}"):
        cases_to_watch(record_of(recorded), "kept.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payload_bytes": -5}, "payload_bytes must be from 102 to 1000000 bytes, not -5"),
        ({"payload_bytes": 101}, "payload_bytes must be from 102 to 1000000 bytes, not 101"),
        ({"payload_bytes": 10**12}, f"payload_bytes must be from .* not {10**12}"),
        ({"connections": 0}, "connections must be from 1 to 10000, not 0"),
        ({"connections": 20_000_000}, "connections must be from 1 to 10000, not 20000000"),
    ],
)
def test_sizes_of_a_record_are_held_to_what_may_be_asked_for(
    change: dict[str, object], reason: str
) -> None:
    many = RecordedCase("many-clients", "tcp", 150, 16, "floor", 1.2)
    for one in (TRIP, many):
        recorded = msgspec.convert({**msgspec.to_builtins(one), **change}, RecordedCase)
        with pytest.raises(ConfigurationError, match=f"^kept.json: {reason}$"):
            cases_to_watch(record_of(recorded), "kept.json")


def test_what_has_neither_size_nor_connections_can_be_watched() -> None:
    case = case_of(RecordedCase("import", "none", 0, 0, "floor", 1.2))
    assert case.work == "import"


def test_a_case_that_this_machine_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(features(), extras={**features().extras, "tls": False})
    monkeypatch.setattr(available, "features", lambda: here)
    recorded = RecordedCase("round-trip", "tls", 150, 1, "own tcp", 1.5)
    with pytest.raises(ConfigurationError, match=r"round-trip over tls .* cannot be measured here"):
        cases_to_watch(record_of(recorded), "it")


def test_a_case_is_recorded_once() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        cases_to_watch(record_of(TRIP, TRIP), "it")


def test_another_engine_of_http_has_other_ratios() -> None:
    recorded = RecordedCase("round-trip", "http", 150, 1, "floor", 1.1)
    with pytest.raises(ConfigurationError, match="where another took HTTP apart; here "):
        cases_to_watch(record_of(recorded, engine="another"), "it")
    assert len(cases_to_watch(record_of(TRIP, engine="another"), "it")) == 1


def test_the_record_in_this_tree_is_of_what_is_recorded() -> None:
    if not (KEPT.exists() and all(features().extras.values())):
        pytest.skip("an extra is not installed")
    record = read_record(KEPT.read_bytes(), str(KEPT))
    assert record.http_engine == "httptools"
    assert cases_to_watch(record, str(KEPT)) == cases_to_record()


# -- From end to end -------------------------------------------------------------------------


def keep(path: Path, **ratios: float) -> str:
    """A record of the round trip and the rate over a Unix socket, with these ratios."""
    cases = [
        RecordedCase("round-trip", "unix", 150, 1, "floor", ratios["trip"]),
        RecordedCase("one-way", "unix", 150, 1, "floor", ratios["rate"]),
    ]
    path.write_bytes(msgspec.json.encode(record_of(*cases)))
    return str(path)


def test_a_record_is_made_and_nothing_of_it_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "speed.json"
    path.write_text("what was here before")
    only = ["--only", "unix", "--only", "round-trip", "--payload", "150"]
    assert main(["bench", "--quick", *only, "--record", str(path)]) == 0
    record = read_record(path.read_bytes(), "it")
    assert [each.work for each in record.cases] == ["round-trip"]
    assert "round-trip unix" in capsys.readouterr().out
    # It could never be so slow.
    lenient = keep(path, trip=1000, rate=0.0001)
    rows = tmp_path / "rows.json"
    assert main(["bench", "--quick", "--guard", lenient, "--json", str(rows)]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("gained") == 2
    assert captured.err == ""
    assert rows.read_bytes().count(b'"held_against": "floor"') == 2


def test_what_was_lost_is_told_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_mcp_transport.cli.bench.guard.MORE_ROUNDS", 1)
    # It could never be so fast.
    strict = keep(tmp_path / "speed.json", trip=0.0001, rate=0.0001)
    assert main(["bench", "--quick", "--guard", strict]) == 1
    captured = capsys.readouterr()
    assert "lost" in captured.out
    assert "round-trip unix lost 100% of its speed, where 33% may be" in captured.err
    assert "one-way" not in captured.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--only", "tcp"),
        ("--grid", ""),
        ("--payload", "4096"),
        ("--connections", "16"),
        ("--record", os.devnull),
    ],
)
def test_the_guard_measures_what_its_file_has_and_nothing_else(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = keep(tmp_path / "speed.json", trip=1, rate=1)
    assert main(["bench", "--guard", path, option, *([value] if value else [])]) == 2
    assert f"--guard measures what its file has: {option}" in capsys.readouterr().err


def test_a_record_that_is_not_there_or_none_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--guard", str(tmp_path / "missing.json")]) == 1
    assert "missing.json" in capsys.readouterr().err
    (tmp_path / "empty.json").touch()
    assert main(["bench", "--guard", str(tmp_path / "empty.json")]) == 2
    assert "empty.json is not JSON" in capsys.readouterr().err


def test_a_run_that_failed_leaves_the_record_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "speed.json"
    before = Path(keep(path, trip=1, rate=1)).read_bytes()
    monkeypatch.setattr("sys.executable", "/bin/false")
    only = ["--only", "unix", "--only", "round-trip", "--payload", "150"]
    assert main(["bench", "--quick", *only, "--record", str(path)]) == 1
    assert path.read_bytes() == before


def without_ratios(monkeypatch: pytest.MonkeyPatch, *works: str) -> None:
    """What these works take is nothing; of all others it is twice what the floor takes."""

    async def measure(self: Run, cases: Sequence[Case], rounds: int) -> list[Row]:
        await trio.lowlevel.checkpoint()
        return [row_of(case, 0 if case.work in works else 2) for case in cases]

    monkeypatch.setattr(Run, "measure", measure)


def test_a_record_of_nothing_takes_the_place_of_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ratios(monkeypatch, "round-trip")
    path = tmp_path / "speed.json"
    before = Path(keep(path, trip=1, rate=1)).read_bytes()
    only = ["--only", "unix", "--only", "round-trip", "--payload", "150"]
    assert main(["bench", "--quick", *only, "--record", str(path)]) == 1
    assert path.read_bytes() == before
    told = capsys.readouterr().err
    assert "round-trip unix is not recorded: there is no ratio to floor" in told
    assert "nothing was recorded" in told


def test_what_a_record_leaves_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ratios(monkeypatch, "one-way")
    path = tmp_path / "speed.json"
    only = ["--only", "unix", "--payload", "150"]
    assert main(["bench", "--quick", *only, "--record", str(path)]) == 0
    record = read_record(path.read_bytes(), "it")
    assert [each.work for each in record.cases] == ["round-trip"]
    told = capsys.readouterr().err
    assert "one-way unix is not recorded: there is no ratio to floor" in told
    assert "round-trip" not in told


def test_what_is_held_against_nothing_is_not_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [case for case in plan() if case.against is None]
    assert {case.work for case in alone} <= {"memory-idle", "memory-growth"}
    words = ["bench", "--only", "memory-idle", "--only", "ws", "--record", str(tmp_path / "a")]
    assert main(words) == 2
    assert "nothing to measure is memory-idle and ws and --record" in capsys.readouterr().err
