"""One run: every case, every contestant, several rounds, each value by a fresh process.

The rounds are interleaved: a machine that slows down in the middle slows all contestants
down. Within a round the contestants of a case follow each other at once, and every other
round goes through them backwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

from ..cert import make_certificates
from .available import takes_part
from .cases import ENCRYPTED, Case, Contestant, Task, own_transport
from .processes import MeasurementFailed, measure
from .results import Row, make_row, to_unit

__all__ = ["Run"]

_QUICK_SECONDS = 0.02
_SECONDS = 0.5
_WARM_UP_SECONDS = 0.25
#: Until a processor that slept runs at its full speed.
_PROCESSOR_WARM_UP_SECONDS = 1.0

#: Told before each measurement: how many are done, of how many, and what comes.
OnProgress = Callable[[int, int, str], object]


class Run:
    """Measures, and keeps what was measured.

    Args:
        quick: Measure for no longer than it takes to see that it works.
        compile_anew: Whether modules are compiled for this run alone, so that what is
            compiled elsewhere is the same for all, namely nothing. Takes a few seconds more,
            and matters to an import alone.
        on_progress: Told of the progress.

    Attributes:
        failures: What could not be measured, and why.
        seconds: How long one measurement takes, beside its start and its warm-up.
    """

    def __init__(self, *, quick: bool, compile_anew: bool, on_progress: OnProgress) -> None:
        self.failures: list[str] = []
        self.seconds = _QUICK_SECONDS if quick else _SECONDS
        self._quick = quick
        self._compile_anew = compile_anew
        self._on_progress = on_progress
        self._samples: dict[Case, dict[Contestant, list[float]]] = {}

    async def measure(self, cases: Sequence[Case], rounds: int) -> list[Row]:
        """Measure each case so many times, or so many times more.

        What fails is noted in `failures`.

        Returns:
            A row for each case, of all that was measured of it in this run.
        """
        for case in cases:
            self._samples.setdefault(case, {name: [] for name in _contestants(case)})
        if not self._quick:
            _warm_up_processor()
        order = list(_order(cases, rounds))
        with tempfile.TemporaryDirectory(prefix="trio-mcp-bench-") as directory:
            if any(case.transport in ENCRYPTED for case in cases):
                make_certificates(directory)
            for done, (case, name) in enumerate(order):
                self._on_progress(done, len(order), f"{case.label}, {name}")
                try:
                    task = self._task(case, name, directory)
                    value = await measure(task, directory, compile_anew=self._compile_anew)
                except MeasurementFailed as error:
                    self.failures.append(str(error))
                else:
                    self._samples[case][name].append(to_unit(case, value))
        return [make_row(case, self._samples[case]) for case in cases]

    def _task(self, case: Case, contestant: Contestant, certificates: str) -> Task:
        transport = own_transport(contestant)
        return Task(
            role="measure",
            contestant="ours" if contestant.startswith("own ") else contestant,
            work=case.work,
            transport=transport or case.transport,
            payload_bytes=case.payload_bytes,
            seconds=self.seconds,
            warm_up=0 if self._quick else _WARM_UP_SECONDS,
            connections=case.connections,
            messages=case.messages,
            http_engine="h11" if contestant == "own h11" else "",
            certificates=certificates,
        )


def _contestants(case: Case) -> list[Contestant]:
    return [name for name in case.contestants if takes_part(name)]


def _order(cases: Sequence[Case], rounds: int) -> Iterator[tuple[Case, Contestant]]:
    for round_number in range(rounds):
        for case in cases:
            names = _contestants(case)
            for name in reversed(names) if round_number % 2 else names:
                yield case, name


def _warm_up_processor() -> None:
    end = perf_counter() + _PROCESSOR_WARM_UP_SECONDS
    while perf_counter() < end:
        pass
