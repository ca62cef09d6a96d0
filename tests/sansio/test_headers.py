"""Header fields: names without case, values as they are, nothing that cannot be written."""

from __future__ import annotations

import pytest

from trio_mcp_transport.errors import LocalProtocolError
from trio_mcp_transport.sansio.headers import NO_HEADERS, Headers

pytestmark = pytest.mark.sansio

HEADERS = Headers([
    ("Content-Type", "text/plain"),
    (b"Accept", b"a"),
    ("X-Other", ""),
    ("accept", "  b\t "),
])


def test_names_have_no_case() -> None:
    for name in ("Content-Type", "content-type", "CONTENT-TYPE"):
        assert HEADERS[name] == "text/plain"
        assert HEADERS.get(name) == "text/plain"
        assert HEADERS.get_all(name) == ["text/plain"]
        assert name in HEADERS


def test_several_values_are_joined_in_order() -> None:
    assert HEADERS["accept"] == HEADERS.get("Accept") == "a, b"
    assert HEADERS.get_all("ACCEPT") == ["a", "b"]


def test_an_empty_value_is_a_value() -> None:
    assert HEADERS["x-other"] == ""
    assert HEADERS.get("X-Other", "default") == ""
    assert Headers([("A", ""), ("a", "")])["a"] == ", "


def test_what_is_not_there() -> None:
    assert "nothing" not in HEADERS
    assert 5 not in HEADERS
    assert HEADERS.get("Nothing") is None
    assert HEADERS.get("Nothing", "default") == "default"
    assert HEADERS.get_all("nothing") == []
    with pytest.raises(KeyError):
        HEADERS["Nothing"]


def test_iteration_gives_lower_case_names_and_trimmed_values_in_order() -> None:
    assert list(HEADERS) == [
        ("content-type", "text/plain"),
        ("accept", "a"),
        ("x-other", ""),
        ("accept", "b"),
    ]
    assert len(HEADERS) == 4
    assert not NO_HEADERS


def test_the_wire_keeps_the_spelling_of_names() -> None:
    assert HEADERS.wire == b"Content-Type: text/plain\r\nAccept: a\r\nX-Other: \r\naccept: b\r\n"
    assert HEADERS.wire is HEADERS.wire
    assert HEADERS.raw[:2] == [(b"Content-Type", b"text/plain"), (b"Accept", b"a")]


def test_what_raw_gave_changes_nothing() -> None:
    HEADERS.raw.clear()
    assert len(HEADERS.raw) == 4


def test_with_replaces_every_value() -> None:
    changed = HEADERS.with_("Accept", "c")
    assert changed.get_all("accept") == ["c"]
    assert changed["content-type"] == "text/plain"
    assert HEADERS.get_all("accept") == ["a", "b"]


def test_without_drops_every_value() -> None:
    assert list(HEADERS.without("ACCEPT", "x-other", "é")) == [("content-type", "text/plain")]


def test_merged_prefers_the_others() -> None:
    merged = HEADERS.merged(Headers([("Accept", "c"), ("New", "1"), ("Accept", "d")]))
    assert list(merged) == [
        ("content-type", "text/plain"),
        ("x-other", ""),
        ("accept", "c"),
        ("new", "1"),
        ("accept", "d"),
    ]


def test_equality_is_that_of_the_fields() -> None:
    assert Headers([("A", "1")]) == Headers([(b"a", b" 1 ")])
    assert hash(Headers([("A", "1")])) == hash(Headers([("a", "1")]))
    assert Headers([("A", "1")]) != Headers([("A", "2")])
    assert Headers() != ()


def test_a_secret_is_not_shown() -> None:
    headers = Headers([("Authorization", "Bearer hunter2")])
    assert repr(headers) == "Headers(authorization)"


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", b"a\n", "ä", b"\xe4", "(", "a\0"])
def test_a_name_must_be_a_token(name: str | bytes) -> None:
    with pytest.raises(LocalProtocolError, match="no name of a header field"):
        Headers([(name, "value")])


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\n", b"a\r", "a\0", b"\x7f", "\x1b"])
def test_a_value_must_have_no_control_characters(value: str | bytes) -> None:
    with pytest.raises(LocalProtocolError, match="'Name' has a control character") as caught:
        Headers([("Name", value)])
    assert repr(value) not in str(caught.value)
    with pytest.raises(LocalProtocolError):
        NO_HEADERS.with_("Name", value)


def test_a_value_is_latin_1() -> None:
    assert Headers([("Name", "\xe9")]).wire == b"Name: \xe9\r\n"
    assert Headers([("Name", b"\xe9")])["name"] == "\xe9"
    with pytest.raises(LocalProtocolError, match="beyond Latin-1"):
        Headers([("Name", "\u20ac")])
