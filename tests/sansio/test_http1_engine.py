"""The engines below the heads: each line is parsed once, and remembered within bounds."""

from __future__ import annotations

import importlib.util

import pytest
from http1_engines import INSTALLED

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio import http1_engine
from trio_mcp_transport.sansio.headers import HeaderField
from trio_mcp_transport.sansio.http1 import Http1Limits
from trio_mcp_transport.sansio.http1_engine import (
    ENGINES,
    MAX_REMEMBERED_LENGTH,
    MAX_REMEMBERED_LINES,
    FieldParser,
    choose_engine,
)
from trio_mcp_transport.sansio.http1_head import (
    MAX_REMEMBERED_HEAD,
    MAX_REMEMBERED_HEADS,
    HeadMemory,
    HeadScanner,
    parse_request,
)

pytestmark = pytest.mark.sansio


@pytest.fixture(params=INSTALLED)
def parsed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """What the engine was asked, which is each of those that are installed."""
    asked: list[list[bytes]] = []
    real = ENGINES[request.param]

    def spy(lines: list[bytes]) -> list[HeaderField]:
        asked.append(lines)
        return real(lines)

    monkeypatch.setattr(http1_engine, "_chosen", spy)
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


@pytest.mark.usefixtures("parsed")
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


@pytest.mark.usefixtures("parsed")
@pytest.mark.parametrize("line", [b"", b"X", b": a", b"X : a", b"X Y: a", b"\xe4: a"])
def test_what_is_no_field_is_refused_each_time_and_not_quoted(line: bytes) -> None:
    parser = FieldParser()
    parser.parse([b"A: b"])
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            parser.parse([b"A: b", line + b"hunter2"])
        assert str(caught.value) == "illegal header line"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@pytest.mark.usefixtures("parsed")
def test_what_stands_between_lines_is_no_line() -> None:
    for lines in ([b"A: b", b"", b"C: d"], [b"A: b\r\nC: d"], [b""]):
        with pytest.raises(RemoteProtocolError):
            FieldParser().parse(lines)


@pytest.mark.usefixtures("parsed")
def test_fields_that_mean_something_to_an_engine_are_fields_like_all_others() -> None:
    lines = [b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Expect: 100-continue"]
    for more in (b"Content-Length: 005 ", b"Transfer-Encoding: Chunked", b"Host: a", b"Upgrade:"):
        headers = FieldParser().parse([*lines, more])
        assert len(headers) == 4
        name, _, value = more.decode().partition(":")
        assert value.strip().lower() in headers.get_all(name)


@pytest.mark.parametrize("installed", [["httptools", "h11"], ["h11"]])
@pytest.mark.parametrize("wanted", ["", "h11", "httptools", "none such"])
def test_the_engine_that_is_wanted_is_chosen_if_it_is_there(
    monkeypatch: pytest.MonkeyPatch, wanted: str, installed: list[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    expected = wanted if wanted in installed else installed[0]
    assert choose_engine(wanted) is ENGINES[expected]


@pytest.mark.usefixtures("parsed")
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


def test_a_head_that_was_read_is_not_read_again() -> None:
    read: list[bytes] = []

    def parse(head: bytes, parser: FieldParser) -> int:
        read.append(head)
        return len(read)

    memory = HeadMemory(parse)
    assert [memory.read(head) for head in (b"a", b"b", b"a", b"b")] == [1, 2, 1, 2]
    assert read == [b"a", b"b"]


def test_a_head_that_was_refused_is_refused_again() -> None:
    memory = HeadMemory(parse_request)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            memory.read(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")


def test_the_heads_that_are_remembered_are_bounded() -> None:
    memory = HeadMemory(lambda head, parser: [head])
    for number in range(100):
        head = b"%d" % number
        assert memory.read(head) is memory.read(head)
        assert len(memory._known) <= MAX_REMEMBERED_HEADS
    long = b"x" * (MAX_REMEMBERED_HEAD + 1)
    assert memory.read(long) is not memory.read(long)
    assert memory.read(long[1:]) is memory.read(long[1:])


def test_the_head_before_is_found_again_only_where_a_head_begins() -> None:
    scanner = HeadScanner(Http1Limits(), "request")
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    longer = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"
    buffer = bytearray(head + head + longer + head[:-1])
    first = scanner.scan(buffer)
    assert first == head
    assert scanner.scan(buffer) is first
    assert scanner.scan(buffer) == longer
    assert scanner.scan(buffer) is None
    buffer += head[-1:] + longer
    assert scanner.scan(buffer) == head
    assert scanner.scan(buffer) == longer
    assert not buffer


def test_a_long_head_before_is_not_kept() -> None:
    scanner = HeadScanner(Http1Limits(), "request")
    long = b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * MAX_REMEMBERED_HEAD)
    buffer = bytearray(long + long)
    first = scanner.scan(buffer)
    assert first == long
    second = scanner.scan(buffer)
    assert second == long
    assert second is not first
