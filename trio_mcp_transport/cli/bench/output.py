"""What a run leaves behind: the table, and the files that were asked for."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from ..terminal import print_json, print_table, print_text
from .charts import draw
from .guard import Watched, encode_record, print_comparisons, tell_losses
from .results import Environment, Results, describe_number

__all__ = ["Output"]


class Output:
    """Prints and writes results.

    The files are opened at once: one that cannot be written shall not cost a whole run.

    Args:
        files: Closes them.
        json: Where to keep the results; ``-`` is stdout.
        svg: Where to draw them.
        record: Where to keep their ratios. Unlike the others it keeps what it has until there
            is something to take its place.
        judge: Whether to say which budgets were met.

    Raises:
        OSError: One cannot be written.
    """

    def __init__(
        self,
        files: ExitStack,
        *,
        json: str | None,
        svg: str | None,
        record: str | None,
        judge: bool,
    ) -> None:
        def opened(path: str | None, mode: Literal["wb", "ab"]) -> BinaryIO | None:
            if path is None:
                return None
            return files.enter_context(Path(path).open(mode))

        self._json_to_stdout = json == "-"
        self._json = None if self._json_to_stdout else opened(json, "wb")
        self._svg = opened(svg, "wb")
        self._record = opened(record, "ab")
        self._judge = judge

    def write(self, results: Results, watched: Watched | None, *, complete: bool) -> bool:
        """Print and write.

        Args:
            results: What was measured.
            watched: Of a run that was held against a record.
            complete: Whether everything could be measured; else no record is kept.

        Returns:
            Whether there is something in every file that was asked for.
        """
        kept = True
        document = msgspec.json.encode(results)
        if self._json is not None:
            self._json.write(msgspec.json.format(document, indent=2) + b"\n")
        if self._svg is not None:
            self._svg.write(draw(results).encode())
        if self._record is not None and complete:
            record = encode_record(results.rows, results.environment)
            kept = record is not None
            if record is not None:
                self._record.truncate(0)
                self._record.write(record)
        if self._json_to_stdout:
            print_json(document)
        elif watched is not None:
            print_comparisons(watched.comparisons)
        else:
            print_results(results, judge=self._judge)
        if watched is not None:
            tell_losses(watched.comparisons)
        return kept


def print_results(results: Results, *, judge: bool) -> None:
    """Print the table, and another of those that are neither floor nor SDK."""
    headers = ["work", "unit", "ours", "floor", "sdk", "ours/floor", "ours/sdk", "budget", "met"]
    rows = [
        [
            row.label,
            row.unit,
            describe_number(row.ours),
            describe_number(row.floor),
            describe_number(row.sdk),
            describe_number(row.ratio_to_floor),
            describe_number(row.ratio_to_sdk),
            row.budget,
            _verdict(row.met if judge else None),
        ]
        for row in results.rows
    ]
    print_table(_title(results.environment), headers, rows)
    beside = [
        (row.label, row.unit, describe_number(row.ours), name, describe_number(value), ratio)
        for row in results.rows
        for name, value in row.peers.items()
        for ratio in [describe_number(row.ours / value if row.ours and value else None)]
    ]
    if beside:
        # A table of its own: who they are differs from row to row.
        print_text("")
        headers = ["work", "unit", "ours", "beside", "theirs", "ours/theirs"]
        print_table("Side by side", headers, beside)


def _title(environment: Environment) -> str:
    return (
        f"{environment.implementation} {environment.python} on {environment.platform},"
        f" {environment.cpu_count} CPUs, HTTP by {environment.http_engine};"
        f" medians of {environment.rounds} rounds"
    )


def _verdict(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "NO"
