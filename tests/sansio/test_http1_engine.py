"""The engine below the heads: each line is parsed once, and remembered within bounds."""

from __future__ import annotations

import pytest

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio import http1_engine
from trio_mcp_transport.sansio.http1_engine import (
    MAX_REMEMBERED_LENGTH,
    MAX_REMEMBERED_LINES,
    FieldParser,
)

pytestmark = pytest.mark.sansio


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """What h11 was asked."""
    asked: list[list[bytes]] = []
    real = http1_engine._parse_with_h11

    def spy(lines: list[bytes]) -> list[tuple[bytes, bytes, str, str]]:
        asked.append(lines)
        return real(lines)

    monkeypatch.setattr(http1_engine, "_parse_with_h11", spy)
    return asked


def test_a_line_that_was_read_is_not_read_again(parsed: list[list[bytes]]) -> None:
    parser = FieldParser()
    assert list(parser.parse([b"Host: a", b"X: 1"])) == [("host", "a"), ("x", "1")]
    assert list(parser.parse([b"X: 1", b"Host: a"])) == [("x", "1"), ("host", "a")]
    assert list(parser.parse([b"X: 2", b"Host: a", b"X:\t1 "])) == [
        ("x", "2"),
        ("host", "a"),
        ("x", "1"),
    ]
    assert parsed == [[b"Host: a", b"X: 1"], [b"X: 2", b"X:\t1 "]]


def test_a_line_that_comes_twice_counts_twice() -> None:
    parser = FieldParser()
    for _ in range(2):
        assert parser.parse([b"X: 1", b"X: 1"]).get_all("x") == ["1", "1"]


def test_no_lines_are_no_fields(parsed: list[list[bytes]]) -> None:
    assert list(FieldParser().parse([])) == []
    assert parsed == []


def test_connections_share_nothing(parsed: list[list[bytes]]) -> None:
    FieldParser().parse([b"Authorization: Bearer hunter2"])
    FieldParser().parse([b"Authorization: Bearer hunter2"])
    assert len(parsed) == 2


@pytest.mark.parametrize("line", [b"", b"X", b": a", b"X : a", b"X Y: a", b"\xe4: a"])
def test_what_is_no_field_is_refused_each_time_and_not_quoted(line: bytes) -> None:
    parser = FieldParser()
    parser.parse([b"A: b"])
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            parser.parse([b"A: b", line + b"hunter2"])
        assert "hunter2" not in str(caught.value)


def test_what_is_remembered_is_bounded() -> None:
    parser = FieldParser()
    for number in range(1000):
        assert parser.parse([b"X: %d" % number, b"Y: z"])["x"] == str(number)
        assert len(parser._known) <= MAX_REMEMBERED_LINES
    many = [b"X: %d" % number for number in range(1000)]
    assert parser.parse(many).get_all("x") == [str(number) for number in range(1000)]
    assert len(parser._known) <= MAX_REMEMBERED_LINES
    long = b"Long: " + b"x" * MAX_REMEMBERED_LENGTH
    assert len(parser.parse([long])["long"]) == MAX_REMEMBERED_LENGTH
    assert long not in parser._known
