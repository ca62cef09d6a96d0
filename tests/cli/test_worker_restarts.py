"""When a worker that has ended is replaced."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trio_mcp_transport import ConfigurationError, parse_endpoint
from trio_mcp_transport.cli.worker_process import worker_command
from trio_mcp_transport.cli.worker_restarts import Restarts
from trio_mcp_transport.cli.workers import check_workers
from trio_mcp_transport.restart import RestartPolicy

pytestmark = pytest.mark.cli

POLICY = RestartPolicy(
    max_restarts=float("inf"), initial_delay=1.0, max_delay=10.0, steady_after=60.0
)


def longest(low: float, high: float) -> float:
    assert low == high / 2
    return high


def test_delays_double_up_to_a_bound() -> None:
    restarts = Restarts(longest, POLICY)
    assert [restarts.ended(0.0) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert restarts.in_a_row == 6


def test_a_worker_that_has_lived_for_a_while_is_no_failure_of_those_before() -> None:
    restarts = Restarts(longest, POLICY)
    assert [restarts.ended(lived) for lived in (0, 59.9, 60.0, 1.0)] == [1, 2, 1, 2]


def test_those_that_died_together_do_not_come_back_together() -> None:
    ranges: list[tuple[float, float]] = []

    def first(low: float, high: float) -> float:
        ranges.append((low, high))
        return low

    Restarts(first, POLICY).ended(0)
    assert ranges == [(0.5, 1.0)]


@pytest.mark.parametrize(
    "text",
    [
        "tcp://127.0.0.1:0",
        "tls://127.0.0.1:0",
        "unix:/x",
        "tls+unix:/x",
        "http://127.0.0.1:0/mcp",
        "https://127.0.0.1:0/mcp",
        "ws://127.0.0.1:0/mcp",
        "wss://127.0.0.1:0/mcp",
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="refused there")
def test_what_listens_on_sockets_can_have_workers(text: str) -> None:
    check_workers(1, [parse_endpoint(text)])


@pytest.mark.parametrize("text", ["stdio:", "memory:x", "shm://x"])
@pytest.mark.skipif(sys.platform == "win32", reason="refused there for another reason")
def test_what_is_for_one_process_cannot(text: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be served by several processes"):
        check_workers(2, [parse_endpoint("tcp://127.0.0.1:0"), parse_endpoint(text)])


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_a_number_of_workers_that_makes_no_sense_is_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match="--workers must be 1 to 1000"):
        check_workers(count, [parse_endpoint("tcp://127.0.0.1:0")])


def test_a_worker_has_the_same_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("serve", "--workers", "2")
    line = worker_command(words, ("cat", "-u"))
    assert line[0] == sys.executable
    module = line.index("-m")
    assert line[module:] == ["-m", "trio_mcp_transport", *words, "--", "cat", "-u"]
    # Modules of a directory that is not searched now are not found then, either.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert "-P" in worker_command(words, None)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert "-P" not in worker_command(words, None)
    assert "--" not in worker_command(words, None)
