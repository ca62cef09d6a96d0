"""The manifest: each binding sentence of the specification with the tests that hold it.

All that MUST and SHOULD is in it, and of what MAY that which this package had to decide. One
TOML file per revision. `test_manifest.py` keeps it true: nothing here decides anything.
"""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

DIRECTORY = Path(__file__).parent
TESTS = DIRECTORY.parent
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")

#: Why a sentence has no test: the only reasons there are.
Reason = Literal[
    "application",  # binds what a program says, shows, decides or runs with this library
    "authorization",  # binds who implements the pages on authorization, which this is not
    "extension",  # binds who implements an extension or a feature above a transport
    "intermediary",  # binds a proxy between client and server
    "policy",  # leaves a choice to whoever deploys or configures: nothing to hold
    "specification",  # binds the specification itself, or whoever writes one
]


class Sentence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sentence, whom it binds and what holds it.

    Attributes:
        id: The page's name, the heading above the sentence and a number; unique in its
            revision, and never changed once it is here.
        page: Where it stands, such as ``basic/transports``.
        text: The sentence as it is written there.
        items: The list that it introduces, if it introduces one.
        binds: Whose behaviour it is about.
        tests: The tests that fail when it is broken, as pytest names them, without parameters.
        reason: Why there are none.
        same_as: The same words in another revision, held by the same tests.
        note: What a reader of the tests may wonder about.
    """

    id: str
    page: str
    text: str
    binds: Literal["client", "server", "both", "application"]
    items: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    reason: Reason | None = None
    same_as: str | None = None
    note: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one data file holds."""

    sentence: tuple[Sentence, ...]


@cache
def sentences(revision: str) -> tuple[Sentence, ...]:
    """Read the data file of a revision."""
    raw = tomllib.loads((DIRECTORY / f"{revision}.toml").read_text())
    return msgspec.convert(raw, Manifest).sentence


def everything() -> dict[str, Sentence]:
    """All revisions' sentences, by ``REVISION/ID``."""
    return {
        f"{revision}/{sentence.id}": sentence
        for revision in REVISIONS
        for sentence in sentences(revision)
    }


@cache
def existing_tests() -> frozenset[str]:
    """Each test of the suite, as pytest names it, without parameters."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        file = path.relative_to(TESTS.parent).as_posix()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found |= {f"{file}::{node.name}::{name}" for name in _functions(node.body)}
        found |= {f"{file}::{name}" for name in _functions(ast.parse(path.read_text()).body)}
    return frozenset(found)


def _functions(body: list[ast.stmt]) -> list[str]:
    return [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
