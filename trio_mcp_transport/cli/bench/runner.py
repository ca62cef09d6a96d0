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
from .plan import ENCRYPTED, Case, Contestant, Task, own_transport, takes_part
from .processes import MeasurementFailed, measure
from .results import Row, make_row, to_unit

__all__ = ["Run"]

_QUICK_SECONDS = 0.02
_SECONDS = 0.5
_WARM_UP_SECONDS = 0.25
#: Until a processor that slept runs at its full speed.
_PROCESSOR_WARM_UP_SECONDS = 1.0


class Run:
    """What is to be measured, and what was.

    Args:
        cases: The cases.
        rounds: How often each value is measured.
        quick: Measure for no longer than it takes to see that it works.
        on_progress: Told before each measurement: how many are done, and what comes.

    Attributes:
        failures: What could not be measured, and why.
        seconds: How long one measurement takes, beside its start and its warm-up.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        rounds: int,
        quick: bool,
        on_progress: Callable[[int, str], object],
    ) -> None:
        self.cases = cases
        self.rounds = rounds
        self.failures: list[str] = []
        self.seconds = _QUICK_SECONDS if quick else _SECONDS
        self._quick = quick
        self._on_progress = on_progress
        self._contestants = {
            case: [name for name in case.contestants if takes_part(name)] for case in cases
        }

    @property
    def total(self) -> int:
        """How many values will be measured."""
        return self.rounds * sum(map(len, self._contestants.values()))

    async def measure(self) -> list[Row]:
        """Measure all; a row for each case. What fails is noted in `failures`."""
        samples: dict[Case, dict[Contestant, list[float]]] = {
            case: {name: [] for name in names} for case, names in self._contestants.items()
        }
        if not self._quick:
            _warm_up_processor()
        with tempfile.TemporaryDirectory(prefix="trio-mcp-bench-") as directory:
            if any(case.transport in ENCRYPTED for case in self.cases):
                make_certificates(directory)
            for done, (case, name) in enumerate(self._order()):
                self._on_progress(done, f"{case.label}, {name}")
                try:
                    task = self._task(case, name, directory)
                    value = await measure(task, directory, compile_anew=not self._quick)
                except MeasurementFailed as error:
                    self.failures.append(str(error))
                else:
                    samples[case][name].append(to_unit(case, value))
        return [make_row(case, samples[case]) for case in self.cases]

    def _order(self) -> Iterator[tuple[Case, Contestant]]:
        for round_number in range(self.rounds):
            for case, names in self._contestants.items():
                for name in reversed(names) if round_number % 2 else names:
                    yield case, name

    def _task(self, case: Case, contestant: Contestant, certificates: str) -> Task:
        transport = own_transport(contestant)
        return Task(
            role="measure",
            contestant=contestant if transport is None else "ours",
            work=case.work,
            transport=transport or case.transport,
            payload_bytes=case.payload_bytes,
            seconds=self.seconds,
            warm_up=0 if self._quick else _WARM_UP_SECONDS,
            connections=case.connections,
            messages=case.messages,
            certificates=certificates,
        )


def _warm_up_processor() -> None:
    end = perf_counter() + _PROCESSOR_WARM_UP_SECONDS
    while perf_counter() < end:
        pass
