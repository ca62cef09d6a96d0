"""The page on speed shows what its kept runs give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.docs

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "discussion" / "speed"


@pytest.fixture(scope="module")
def speed_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_tables", DOCS / "speed_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_and_pictures_are_those_of_the_runs(
    speed_tables: ModuleType, tmp_path: Path
) -> None:
    speed_tables.main(KEPT / "run.json", KEPT / "grid.json", tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in KEPT.iterdir() if path.suffix != ".json"}
    assert made.keys() == kept.keys()
    for name, text in made.items():
        assert kept[name] == text, f"{name}: run docs/speed_tables.py"


def test_the_page_shows_all_of_them() -> None:
    page = (DOCS / "discussion" / "speed.rst").read_text()
    for path in KEPT.iterdir():
        assert f"speed/{path.name}" in page, path.name


def test_the_tables_say_whether_what_is_promised_was_met() -> None:
    streams = (KEPT / "streams.csv").read_text().splitlines()
    assert streams[0].endswith(",promised,met")
    assert any("<= 1.6 floor" in line for line in streams)
