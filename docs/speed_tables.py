"""Makes the tables and pictures of the page on speed, from two kept runs of the benchmarks.

    trio-mcp bench --json docs/discussion/speed/run.json
    trio-mcp bench --grid --json docs/discussion/speed/grid.json
    python docs/speed_tables.py

What it writes stands beside the runs and is part of the tree; a test says when it is not what
the runs give. It measures nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from trio_mcp_transport.cli.bench.bars import draw_bars
from trio_mcp_transport.cli.bench.cases import SMALL_BYTES, describe_size
from trio_mcp_transport.cli.bench.charts import grid_figures
from trio_mcp_transport.cli.bench.results import Environment, Results, Row, describe_number
from trio_mcp_transport.cli.bench.svg import draw_figures

HERE = Path(__file__).parent / "discussion" / "speed"

WORKS = {
    "round-trip": "channel round trip",
    "peer-round-trip": "peer round trip",
    "one-way": "one way, one at a time",
    "one-way-batched": "one way, batched",
    "stream-round-trip": "round trip of the bytes alone",
    "many-clients": "{connections} clients side by side",
    "sse-stream": "notifications on one stream",
    "memory-idle": "memory of an idle connection, of {connections}",
    "memory-growth": "growth of memory",
    "import": "import",
}


class Table(NamedTuple):
    """Which rows a table has, and which contestants beside ours.

    Attributes:
        transports: Over what; with one alone there is no column for it.
        beside: Names of contestants, each with the head of its column. ``own`` is this package
            over whatever a row is held against.
        ratios: Those to which ours is shown as a ratio.
    """

    transports: tuple[str, ...]
    beside: Mapping[str, str]
    ratios: tuple[str, ...]


TABLES = {
    "streams": Table(
        ("stdio", "unix", "tcp", "memory", "none"),
        {"floor": "floor", "sdk": "SDK"},
        ("floor", "sdk"),
    ),
    "shared-memory": Table(("shm",), {"own": "Unix socket"}, ("own",)),
    "http": Table(
        ("http",), {"floor": "floor", "own h11": "ours, h11", "sdk": "SDK"}, ("floor", "sdk")
    ),
    "sse": Table(("sse+http",), {"own": "``http``"}, ("own",)),
    "tls": Table(
        ("tls", "https"),
        {"own": "without TLS", "trio.SSLStream": "``trio.SSLStream``"},
        ("own",),
    ),
    "websocket": Table(
        ("ws", "wss"),
        {
            "own": "TCP, ``ws``",
            "trio-websocket": "trio-websocket",
            "websockets.trio": "``websockets.trio``",
        },
        ("own",),
    ),
}


def main(run_file: Path, grid_file: Path, directory: Path) -> None:
    """Read the runs, write tables (CSV), pictures (SVG) and what was measured where."""
    run = msgspec.json.decode(run_file.read_bytes(), type=Results)
    grid = msgspec.json.decode(grid_file.read_bytes(), type=Results)
    for name, table in TABLES.items():
        (directory / f"{name}.csv").write_text(_as_csv(_lines(table, run.rows)))
    for name, figure in grid_figures(grid).items():
        (directory / f"{name}.svg").write_text(draw_figures([figure], grid.environment))
    idle = [row for row in run.rows if row.work == "memory-idle"]
    memory = draw_bars(idle, "Memory of a server for each idle connection")
    (directory / "memory.svg").write_text(draw_figures([memory], run.environment))
    for name, environment in {"run": run.environment, "grid": grid.environment}.items():
        (directory / f"{name}.txt").write_text(_described(environment))


def _lines(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    over = ["over"] if len(table.transports) > 1 else []
    ratios = [f"ours / {table.beside[name]}" for name in table.ratios]
    head = ["work", *over, "unit", "ours", *table.beside.values(), *ratios, "promised", "met"]
    return [head, *(_cells(table, row) for row in rows if row.transport in table.transports)]


def _cells(table: Table, row: Row) -> list[str]:
    values: dict[str, float] = row.values()
    if row.held_against is not None and row.held_against.startswith("own "):
        values["own"] = values.get(row.held_against, 0)
    over = "" if row.transport == "none" else row.transport
    ours = values.get("ours")
    return [
        _work(row),
        *([over] if len(table.transports) > 1 else []),
        row.unit,
        describe_number(ours),
        *(describe_number(values.get(name)) for name in table.beside),
        *(_ratio(ours, values.get(name)) for name in table.ratios),
        row.budget,
        "" if row.met is None else "yes" if row.met else "**no**",
    ]


def _work(row: Row) -> str:
    name = WORKS[row.work].format(connections=f"{row.connections:,}")
    if row.payload_bytes in {0, SMALL_BYTES}:
        return name
    return f"{name}, {describe_size(row.payload_bytes)}"


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else ""


def _as_csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _described(environment: Environment) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    rounds = "one round" if environment.rounds == 1 else f"medians of {environment.rounds} rounds"
    return (
        f"{environment.implementation} {environment.python} on {environment.platform}"
        f" {environment.machine}, {environment.cpu_count} CPUs; {versions}; HTTP taken apart by"
        f" {environment.http_engine}; {rounds}.\n"
    )


if __name__ == "__main__":
    main(HERE / "run.json", HERE / "grid.json", HERE)
