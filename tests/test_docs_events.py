"""The page on events names those that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trio_mcp_transport

pytestmark = pytest.mark.docs

PACKAGE = Path(trio_mcp_transport.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "events.rst"
NAME = re.compile(r"[a-z]+\.[a-z]+")


def reported(tree: ast.AST) -> Iterator[str]:
    """The names in the calls that report, as far as they are written there."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called.endswith("ChannelEvent"):
            values = [word.value for word in node.keywords if word.arg == "name"]
        elif called.rpartition(".")[2].lstrip("_") in {"report", "diagnose"}:
            values = node.args[:1]
        else:
            continue
        for value in values:
            if isinstance(value, ast.Constant) and NAME.fullmatch(str(value.value)):
                yield str(value.value)


def test_every_event_is_on_the_page() -> None:
    found = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in reported(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert {"session.lost", "answer.late", "connection.failed"} <= found
    page = PAGE.read_text(encoding="utf-8")
    told = set(re.findall(r"^``([a-z.]+)``", page, re.MULTILINE))
    assert {name for name in found if not name.startswith("http.")} <= told
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert {name for name in told if f'"{name}"' not in source} == set()
