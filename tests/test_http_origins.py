"""Hosts and origins as text: one spelling for each, and nothing that browsers read otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.http_origins import (
    HostPattern,
    Origin,
    normalise_host,
    parse_authority,
    parse_host_pattern,
    parse_origin,
)

pytestmark = pytest.mark.endpoints


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.example", ("a.example", 80)),
        ("A.Example.:8080", ("a.example", 8080)),
        ("my_container", ("my_container", 80)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]", ("::1", 80)),
        ("[0:0:0::1]:65535", ("::1", 65535)),
        ("[::ffff:127.0.0.1]", ("127.0.0.1", 80)),
        ("[::FFFF:7f00:1]", ("127.0.0.1", 80)),
    ],
)
def test_a_host_has_one_spelling(text: str, found: tuple[str, int]) -> None:
    assert parse_authority(text, 80) == found


@pytest.mark.parametrize(
    "text",
    [
        "", ":80", "a:", "a:b", "a:0", "a:65536", "a:123456", "a b", "a/b", "a?b", "u@a", "a,b",
        "[::1", "::1", "[a]", "[127.0.0.1]", "[::1]x", "-a", "a..b", ".a", "ä.example", "a\tb",
        # What browsers take for an IPv4 address in another spelling (WHATWG URL, 3.5).
        "127.1", "0", "2130706433", "0x7f.1", "0x7f000001", "a.0x7f", "1.2.3.4.5", "0177.0.0.01",
    ],
)  # fmt: skip
def test_what_is_no_host_is_none(text: str) -> None:
    assert parse_authority(text, 80) is None


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://A.example", Origin("https", "a.example", 443)),
        ("HTTP://a.example:443", Origin("http", "a.example", 443)),
        ("http://[::1]:8080", Origin("http", "::1", 8080)),
        ("moz-extension://1b2c", Origin("moz-extension", "1b2c", 0)),
    ],
)
def test_an_origin_is_scheme_host_and_port(text: str, origin: Origin) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["null", "", "a.example", "https:a.example", "https://", "https://a/", "https://a#", "file://"],
)
def test_what_is_no_origin_is_none(text: str) -> None:
    assert parse_origin(text) is None


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("https", "a.example", 443), "https://a.example"),
        (Origin("http", "a.example", 443), "http://a.example:443"),
        (Origin("http", "::1", 80), "http://[::1]"),
        (Origin("moz-extension", "1b2c", 0), "moz-extension://1b2c"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(origin: Origin, text: str) -> None:
    assert str(origin) == text
    assert parse_origin(text) == origin


@given(st.text())
def test_whatever_comes_nothing_is_raised_and_what_is_found_is_normal(text: str) -> None:
    for found in (parse_authority(text, 80), parse_authority(f"{text}:80", 80)):
        if found is not None:
            assert normalise_host(found[0]) == found[0]
            assert 0 < found[1] < 65536
    origin = parse_origin(text)
    if origin is not None:
        assert parse_origin(str(origin)) == origin


def test_a_pattern_is_for_a_host_or_all_below_it() -> None:
    assert parse_host_pattern("x", "[::1]") == HostPattern("::1")
    assert parse_host_pattern("x", "[::1]:8080") == HostPattern("::1", 8080)
    assert parse_host_pattern("x", "*.A.example:1") == HostPattern("a.example", 1, True)
    for wrong in ("", "*", "*.", "a.*", "https://a.example", "*.[::1]", "0.0.0.0", "[::]:1"):
        with pytest.raises(ConfigurationError, match=r"^x: "):
            parse_host_pattern("x", wrong)
