"""Lines: they are cut as `bytes.split` cuts them, however long, and counted as it counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.sansio.lines import are_lines, split_lines

#: What is around the length from which on a line is searched and not looked at.
LINES = st.lists(
    st.one_of(st.binary(max_size=3), st.integers(1020, 1030).map(lambda size: b"x" * size)),
    max_size=6,
)


@given(LINES)
def test_lines_are_what_splitting_gives(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    assert split_lines(data) == data.split(b"\n")


@pytest.mark.parametrize("size", [0, 1, 1024, 1025, 100_000])
def test_a_line_is_found_whole_at_any_size(size: int) -> None:
    line = b"x" * size
    assert split_lines(line) == [line]
    assert split_lines(line + b"\n") == [line, b""]
    assert split_lines(line + b"\n\n" + line) == [line, b"", line]


@given(LINES, st.integers(0, 8))
def test_so_many_lines_are_there_if_that_many_line_feeds_are(
    lines: list[bytes], count: int
) -> None:
    data = b"".join([line + b"\n" for line in lines])
    assert are_lines(data, count) == (data.count(b"\n") == count)


@pytest.mark.parametrize("size", [2, 5000])
def test_lines_without_an_end_or_with_too_many_are_not_so_many(size: int) -> None:
    line = b"x" * size
    assert are_lines(line + b"\n" + line + b"\n", 2)
    assert not are_lines(line, 1)
    assert not are_lines(line + b"\n", 2)
    assert not are_lines(b"x\nx" + line + b"\n", 1)
    assert not are_lines(line + b"\n\n" + line + b"\n", 2)
