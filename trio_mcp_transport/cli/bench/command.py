"""The command: its arguments, its table, its files."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...errors import ConfigurationError
from ..running import ExitStatus, Shutdown
from ..running import run as run_command
from ..terminal import print_json, print_table, print_text, tell
from .plan import TRANSPORTS, WORKS, Case, plan
from .progress import Progress
from .results import Environment, Results, Row, describe_budget, is_met
from .runner import Run
from .svg import draw

__all__ = ["add_arguments", "run"]

DEFAULT_ROUNDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command understands."""
    parser.add_argument(
        "--quick", action="store_true", help="one short round: shows that it works, not how fast"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"how often each value is measured (default: {DEFAULT_ROUNDS})",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[*WORKS, *TRANSPORTS],
        metavar="NAME",
        help="measure this work or transport only; may be given several times: "
        + ", ".join([*WORKS, *TRANSPORTS]),
    )
    parser.add_argument("--json", metavar="FILE", help="keep the results as JSON; - is stdout")
    parser.add_argument("--svg", metavar="FILE", help="draw the results")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table; returns the exit status, 1 if something could not run."""
    rounds: int | None = arguments.rounds
    if rounds is None:
        rounds = 1 if arguments.quick else DEFAULT_ROUNDS
    if rounds < 1:
        raise ConfigurationError(f"--rounds must be at least 1, not {rounds}")
    cases = plan(arguments.only, quick=arguments.quick)
    if not cases:
        raise ConfigurationError(f"nothing to measure is {' and '.join(arguments.only)}")
    with ExitStack() as files:
        # Opened first: a file that cannot be written shall not cost a whole run.
        json_file = svg_file = None
        if arguments.json is not None and arguments.json != "-":
            json_file = files.enter_context(Path(arguments.json).open("wb"))
        if arguments.svg is not None:
            svg_file = files.enter_context(Path(arguments.svg).open("wb"))

        async def measure(shutdown: Shutdown) -> int:
            with Progress() as progress, shutdown.cancelling():
                work = Run(cases, rounds=rounds, quick=arguments.quick, on_progress=progress.update)
                progress.total = work.total
                rows = await work.measure()
            if shutdown.signal is not None:
                return ExitStatus.FAILED
            environment = Environment.describe(rounds=rounds, seconds=work.seconds)
            results = Results(environment, rows)
            _write(results, json_file, svg_file)
            if arguments.json == "-":
                print_json(msgspec.json.encode(results))
            else:
                _print(cases, results, judge=not arguments.quick)
            for failure in work.failures:
                tell(failure)
            return ExitStatus.FAILED if work.failures else ExitStatus.OK

        return run_command(measure)


def _write(results: Results, json_file: BinaryIO | None, svg_file: BinaryIO | None) -> None:
    if json_file is not None:
        json_file.write(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    if svg_file is not None:
        svg_file.write(draw(results).encode())


def _print(cases: list[Case], results: Results, *, judge: bool) -> None:
    environment = results.environment
    title = (
        f"{environment.implementation} {environment.python} on {environment.platform},"
        f" {environment.cpu_count} CPUs; medians of {environment.rounds} rounds"
    )
    headers = ["work", "unit", "ours", "floor", "sdk", "ours/floor", "ours/sdk", "budget", "met"]
    rows = [_cells(case, row, judge) for case, row in zip(cases, results.rows, strict=True)]
    print_table(title, headers, rows)
    if any(row.peers for row in results.rows):
        print_text("")
        _print_peers(cases, results)


def _print_peers(cases: list[Case], results: Results) -> None:
    """A table of its own: who they are differs from row to row."""
    found = [
        (case.label, row.unit, _number(row.ours), name, _number(value), _number(ratio))
        for case, row in zip(cases, results.rows, strict=True)
        for name, value in row.peers.items()
        for ratio in [None if row.ours is None or not value else row.ours / value]
    ]
    headers = ["work", "unit", "ours", "beside", "theirs", "ours/theirs"]
    print_table("Side by side", headers, found)


def _cells(case: Case, row: Row, judge: bool) -> list[str]:
    met = is_met(case, row) if judge else None
    return [
        case.label,
        row.unit,
        _number(row.ours),
        _number(row.floor),
        _number(row.sdk),
        _number(row.ratio_to_floor),
        _number(row.ratio_to_sdk),
        describe_budget(case),
        "" if met is None else "yes" if met else "NO",
    ]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
