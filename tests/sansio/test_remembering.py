"""What header fields say is remembered, within bounds."""

from __future__ import annotations

import pytest

from trio_mcp_transport.sansio.remembering import remember_short

pytestmark = pytest.mark.sansio


def test_short_values_are_read_once_and_long_ones_each_time() -> None:
    asked: list[str | None] = []

    @remember_short
    def read(value: str | None) -> int:
        asked.append(value)
        return 0 if value is None else len(value)

    short, long = "x" * 256, "x" * 257
    for _ in range(2):
        assert [read(None), read(short), read(long)] == [0, 256, 257]
    assert asked == [None, short, long, long]
    assert read.__name__ == "read"
