"""A file that a reader can hold in mind: at most 600 lines, in the package and here."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.project

ROOT = Path(__file__).parents[1]
MAX_LINES = 600


def python_files() -> list[Path]:
    return [
        path
        for directory in ("trio_mcp_transport", "tests", "docs")
        for path in sorted((ROOT / directory).rglob("*.py"))
        if "_build" not in path.parts
    ]


def test_no_file_is_over_600_lines() -> None:
    sizes = {path: path.read_text().count("\n") for path in python_files()}
    assert len(sizes) > 20
    assert {str(path): lines for path, lines in sizes.items() if lines > MAX_LINES} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path) for path in python_files() if not path.read_text().lstrip().startswith('"""')
    ]
    assert silent == []
