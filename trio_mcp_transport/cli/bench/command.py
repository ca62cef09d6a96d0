"""The command: its arguments, and what they make it do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ...errors import ConfigurationError
from ..running import ExitStatus, Shutdown
from ..running import run as run_command
from ..terminal import tell
from .cases import TRANSPORTS, WORKS, Case
from .guard import Watched, watch
from .output import Output
from .plan import GRID_CONNECTIONS, GRID_PAYLOADS, check_connections, check_payload, plan
from .progress import Progress
from .record import Record, cases_to_record, cases_to_watch, only_what_counts, read_record
from .results import Environment, Results
from .runner import Run

__all__ = ["add_arguments", "run"]

DEFAULT_ROUNDS = 5
#: As each is measured again if it seems to be lost.
DEFAULT_GUARD_ROUNDS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command understands."""
    parser.add_argument(
        "--quick", action="store_true", help="one short round: shows that it works, not how fast"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"how often each value is measured (default: {DEFAULT_ROUNDS}, and"
        f" {DEFAULT_GUARD_ROUNDS} with --guard)",
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
    parser.add_argument(
        "--grid",
        action="store_true",
        help=f"requests of {_listed(GRID_PAYLOADS)} bytes, {_listed(GRID_CONNECTIONS)} connections",
    )
    parser.add_argument(
        "--payload",
        type=int,
        action="append",
        default=[],
        metavar="BYTES",
        help="measure with requests of that size; may be given several times",
    )
    parser.add_argument(
        "--connections",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="measure with so many connections; may be given several times",
    )
    parser.add_argument(
        "--guard",
        metavar="FILE",
        help="measure what FILE has, and fail if more than a third of a speed was lost",
    )
    parser.add_argument(
        "--record", metavar="FILE", help="keep the ratios to compare with for --guard"
    )
    parser.add_argument("--json", metavar="FILE", help="keep the results as JSON; - is stdout")
    parser.add_argument("--svg", metavar="FILE", help="draw the results")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table; returns the exit status, 1 if something failed or was lost."""
    rounds = _rounds(arguments)
    _check_sizes(arguments)
    _check_files(arguments)
    record: Record | None = None
    if arguments.guard is not None:
        record = _read_guarded(arguments)
        cases = cases_to_watch(record, arguments.guard)
    else:
        cases = _chosen_cases(arguments)
    with ExitStack() as files:
        output = Output(
            files,
            json=arguments.json,
            svg=arguments.svg,
            record=arguments.record,
            judge=not arguments.quick,
        )

        async def measure(shutdown: Shutdown) -> int:
            watched: Watched | None = None
            with Progress() as progress, shutdown.cancelling():
                work = Run(
                    quick=arguments.quick,
                    compile_anew=not (arguments.quick or arguments.guard or arguments.record),
                    on_progress=progress.update,
                )
                if record is None:
                    rows = await work.measure(cases, rounds)
                else:
                    watched = await watch(record, cases, work.measure, rounds=rounds)
                    rows = watched.rows
            if shutdown.signal is not None:
                return ExitStatus.FAILED
            environment = Environment.describe(rounds=rounds, seconds=work.seconds)
            results = Results(environment, rows)
            kept = output.write(results, watched, complete=not work.failures)
            for failure in work.failures:
                tell(failure)
            well = kept and (watched is None or watched.is_well)
            return ExitStatus.OK if well and not work.failures else ExitStatus.FAILED

        return run_command(measure)


def _rounds(arguments: argparse.Namespace) -> int:
    rounds: int | None = arguments.rounds
    if rounds is None:
        if arguments.guard is not None:
            return DEFAULT_GUARD_ROUNDS
        return 1 if arguments.quick else DEFAULT_ROUNDS
    if rounds < 1:
        raise ConfigurationError(f"--rounds must be at least 1, not {rounds}")
    return rounds


def _check_sizes(arguments: argparse.Namespace) -> None:
    for payload in arguments.payload:
        check_payload("--payload", payload)
    for number in arguments.connections:
        check_connections("--connections", number)


def _check_files(arguments: argparse.Namespace) -> None:
    for option, path in {"--record": arguments.record, "--svg": arguments.svg}.items():
        if path == "-":
            raise ConfigurationError(f"{option} needs a file: only --json can go to stdout")


def _read_guarded(arguments: argparse.Namespace) -> Record:
    chosen = {
        "--record": arguments.record is not None,
        "--only": arguments.only,
        "--grid": arguments.grid,
        "--payload": arguments.payload,
        "--connections": arguments.connections,
    }
    for option, given in chosen.items():
        if given:
            raise ConfigurationError(f"--guard measures what its file has: {option} is for others")
    path = Path(arguments.guard)
    return read_record(path.read_bytes(), str(path))


def _chosen_cases(arguments: argparse.Namespace) -> list[Case]:
    sizes_chosen = arguments.grid or arguments.payload or arguments.connections
    if arguments.record is not None and not arguments.only and not sizes_chosen:
        return cases_to_record()
    cases = plan(
        arguments.only,
        payloads=arguments.payload,
        connections=arguments.connections,
        grid=arguments.grid,
        quick=arguments.quick,
    )
    if arguments.record is not None:
        cases = [only_what_counts(case) for case in cases if case.against is not None]
    if not cases:
        raise ConfigurationError(f"nothing to measure is {_described(arguments)}")
    return cases


def _described(arguments: argparse.Namespace) -> str:
    """What was asked for, in the words of the command line."""
    words = [
        *arguments.only,
        *(["--grid"] if arguments.grid else []),
        *(f"--payload {payload}" for payload in arguments.payload),
        *(f"--connections {number}" for number in arguments.connections),
        *(["--record"] if arguments.record is not None else []),
    ]
    return " and ".join(words)


def _listed(numbers: Sequence[int]) -> str:
    *most, last = [f"{number:,}" for number in numbers]
    return f"{', '.join(most)} and {last}"
