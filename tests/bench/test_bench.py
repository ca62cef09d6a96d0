"""`trio-mcp bench` runs and tells what it should; no test looks at how fast anything was."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import trio

from trio_mcp_transport.cli import main
from trio_mcp_transport.cli.bench import processes
from trio_mcp_transport.cli.bench.cases import Task
from trio_mcp_transport.cli.bench.processes import MeasurementFailed, measure
from trio_mcp_transport.cli.bench.progress import Progress
from trio_mcp_transport.cli.bench.timing import seconds_per_operation

pytestmark = pytest.mark.bench

ROW_KEYS = {
    "work",
    "transport",
    "payload_bytes",
    "connections",
    "unit",
    "ours",
    "floor",
    "sdk",
    "peers",
    "ratio_to_floor",
    "ratio_to_sdk",
    "held_against",
    "ratio",
    "budget",
    "met",
}


class Document(msgspec.Struct):
    environment: dict[str, object]
    rows: list[dict[str, object]]


def bench(*words: str) -> int:
    return main(["bench", "--quick", *words])


def test_a_quick_run_measures_in_fresh_processes_tells_and_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, drawn = tmp_path / "bench.json", tmp_path / "bench.svg"
    works = ["round-trip"] + ["memory-idle"] * (sys.platform == "linux")
    only = [word for work in works for word in ("--only", work)]
    assert bench("--only", "unix", *only, "--json", str(kept), "--svg", str(drawn)) == 0
    document = msgspec.json.decode(kept.read_bytes(), type=Document)
    assert {"python", "platform", "cpu_count", "versions"} <= document.environment.keys()
    assert {row["work"] for row in document.rows} == set(works)
    for row in document.rows:
        assert row.keys() == ROW_KEYS
        assert row["transport"] == "unix"
        assert isinstance(row["ours"], float | int)
        assert isinstance(row["floor"], float | int)
        assert row["sdk"] is None
        assert row["peers"] == {}
        if row["floor"]:
            assert row["ratio_to_floor"] == pytest.approx(row["ours"] / row["floor"], rel=1e-3)
    table = capsys.readouterr().out
    assert all(work in table for work in works)
    assert "<= 1.6 floor" in table
    assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")


def test_children_are_measured_beside_the_official_sdk(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--only", "stdio", "--only", "peer-round-trip", "--json", "-") == 0
    (row,) = msgspec.json.decode(capsys.readouterr().out, type=Document).rows
    assert (row["work"], row["transport"]) == ("peer-round-trip", "stdio")
    assert isinstance(row["ours"], float | int)
    has_sdk = importlib.util.find_spec("mcp") is not None
    assert (row["sdk"] is not None) == (row["ratio_to_sdk"] is not None) == has_sdk


def test_what_is_encrypted_is_shown_beside_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("OpenSSL", reason="the extra `tls` is not installed")
    assert bench("--only", "tls", "--only", "peer-round-trip", "--json", "-") == 0
    (row,) = msgspec.json.decode(capsys.readouterr().out, type=Document).rows
    assert row["floor"] is None
    assert isinstance(row["ours"], float | int)
    assert msgspec.convert(row["peers"], dict[str, float]).keys() == {"own tcp", "trio.SSLStream"}


def test_the_import_is_measured_against_that_of_trio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_IMPORTS", 1)
    assert bench("--only", "import", "--rounds", "2", "--json", "-") == 0
    document = msgspec.json.decode(capsys.readouterr().out, type=Document)
    (row,) = document.rows
    assert (row["work"], row["unit"]) == ("import", "ms")
    assert isinstance(row["floor"], float)
    assert row["floor"] > 0
    assert document.environment["rounds"] == 2


def test_many_clients_of_a_size_are_measured_side_by_side(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--only", "unix", "--payload", "300", "--connections", "3"]
    assert bench(*words, "--json", "-") == 0
    (row,) = msgspec.json.decode(capsys.readouterr().out, type=Document).rows
    assert (row["work"], row["payload_bytes"], row["connections"]) == ("many-clients", 300, 3)
    assert isinstance(row["ours"], float | int)
    assert isinstance(row["ratio"], float | int)


def test_h11_is_measured_beside_the_engine_of_http_that_is_faster(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("httptools", reason="the extra `speedups` is not installed")
    assert bench("--only", "http", "--only", "many-clients", "--json", "-") == 0
    document = msgspec.json.decode(capsys.readouterr().out, type=Document)
    assert document.environment["http_engine"] == "httptools"
    (row,) = document.rows
    assert "own h11" in msgspec.convert(row["peers"], dict[str, float])


@pytest.mark.skipif(sys.platform != "linux", reason="where a limit holds can be set from outside")
def test_connections_that_the_system_does_not_allow_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = [sys.executable, "-m", "trio_mcp_transport", "bench", "--quick", "--only", "unix"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 100 && exec "$@"', "sh", *command, "--connections", "60"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "60 connections need 124 open files, and this system allows a process 100" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--only", "import", "--only", "tcp"], "nothing to measure"),
        (["--only", "telepathy"], "invalid choice"),
        (["--payload", "101"], "--payload must be from 102 to 1000000 bytes, not 101"),
        (["--payload", "1000001"], "--payload must be from 102 to 1000000 bytes, not 1000001"),
        (["--payload", "much"], "invalid int value: 'much'"),
        (["--connections", "0"], "--connections must be from 1 to 10000, not 0"),
        (["--connections", "10001"], "--connections must be from 1 to 10000, not 10001"),
        (
            ["--only", "stdio", "--connections", "16", "--payload", "300"],
            "nothing to measure is stdio and --payload 300 and --connections 16",
        ),
        (["--only", "memory", "--grid"], "nothing to measure is memory and --grid"),
        (["--record", "-"], "--record needs a file: only --json can go to stdout"),
        (["--svg", "-"], "--svg needs a file: only --json can go to stdout"),
    ],
)
def test_what_cannot_be_measured_is_a_matter_of_usage(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*words) == 2
    assert reason in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_noticed_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--json", str(tmp_path / "missing" / "bench.json")) == 1
    captured = capsys.readouterr()
    assert "missing" in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("program", "reason"), [("false", "exit status 1"), ("true", "could not convert")]
)
async def test_a_process_without_a_result_says_why(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} on this machine")
    monkeypatch.setattr(sys, "executable", found)
    task = Task(role="measure", contestant="floor", work="round-trip", transport="tcp")
    with trio.fail_after(60), pytest.raises(MeasurementFailed, match=reason):
        await measure(task, str(tmp_path))


def test_what_could_not_be_measured_is_told_and_the_rest_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = shutil.which("false")
    if found is None:
        pytest.skip("no false on this machine")
    monkeypatch.setattr(sys, "executable", found)
    assert bench("--only", "import", "--json", "-") == 1
    captured = capsys.readouterr()
    assert "ours import none: exit status 1" in captured.err
    (row,) = msgspec.json.decode(captured.out, type=Document).rows
    assert (row["ours"], row["ratio_to_floor"]) == (None, None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("colours", [False, True])
def test_a_terminal_shows_how_far_a_run_is(colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "" if colours else "1")
    with Progress() as progress:
        progress.update(1, 3, "round-trip tcp, ours")
    assert "1/3" in terminal.getvalue()


def test_a_pipe_is_not_shown_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with Progress() as progress:
        progress.update(1, 3, "round-trip tcp, ours")
    assert not pipe.getvalue()


async def test_work_that_takes_long_is_still_measured_once() -> None:
    counts: list[int] = []

    async def work(count: int) -> None:
        await trio.lowlevel.checkpoint()
        counts.append(count)

    assert await seconds_per_operation(work, seconds=0, warm_up=0) > 0
    assert counts == [1, 1, 1]
