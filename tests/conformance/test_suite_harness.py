"""What is asked of the conformance suite's results: its own verdict is not enough."""

from __future__ import annotations

import pytest
from conformance_suite import Check, judge

pytestmark = [pytest.mark.conformance]

GOOD = [Check("a", "SUCCESS"), Check("b", "SUCCESS"), Check("c", "INFO"), Check("d", "SKIPPED")]


def test_as_many_checks_as_are_known_are_fine() -> None:
    assert judge({"one": GOOD}, {"one": 2}) == []


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({}, "one: 0 checks passed, of at least 2"),
        ({"one": []}, "one: 0 checks passed, of at least 2"),
        ({"one": GOOD[1:]}, "one: 1 checks passed, of at least 2"),
        ({"one": [*GOOD, Check("e", "FAILURE", "no")]}, "one: e: FAILURE: no"),
        ({"one": [*GOOD, Check("e", "WARNING", "hm")]}, "one: e: WARNING: hm"),
        ({"one": GOOD, "two": GOOD}, "two: nobody wrote down how many checks it makes"),
    ],
)
def test_anything_else_is_named(found: dict[str, list[Check]], wrong: str) -> None:
    assert judge(found, {"one": 2}) == [wrong]


def test_extensions_above_a_transport_are_left_out() -> None:
    broken = [Check("a", "FAILURE")]
    assert judge({"one": GOOD, "tasks-lifecycle": broken}, {"one": 2}) == []
