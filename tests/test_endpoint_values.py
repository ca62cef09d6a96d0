"""Lists of options as text: quoting, separators, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.endpoint_values import parse_key_values, parse_query
from trio_mcp_transport.errors import ConfigurationError

pytestmark = pytest.mark.endpoints


@pytest.mark.parametrize(
    ("text", "whitespace", "expected"),
    [
        ("", False, {}),
        (" ; ;; ", False, {}),
        ("a=1", False, {"a": "1"}),
        ("a=1;b=2;", False, {"a": "1", "b": "2"}),
        ("scope=a b c ; b = 2 3 ", False, {"scope": "a b c", "b": "2 3"}),
        ("a=b=c", False, {"a": "b=c"}),
        ("a=;b=", False, {"a": "", "b": ""}),
        ("a='x;y z';b=2", False, {"a": "x;y z", "b": "2"}),
        (r'a="x;\"\\\n"; b=2', False, {"a": r'x;"\\n', "b": "2"}),
        ("a=''", False, {"a": ""}),
        ("a=it's", False, {"a": "it's"}),
        ("a=1\nb=2", False, {"a": "1\nb=2"}),
        ("a=1 b=2\tc=3\nd=4\r\n;e=5", True, {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}),
        ("a = 1 b= 2 c =3", True, {"a": "1", "b": "2", "c": "3"}),
        ("a='x y' b=\"z;\"", True, {"a": "x y", "b": "z;"}),
        ("a=\nb=2", True, {"a": "", "b": "2"}),
    ],
)
def test_a_list_is_taken_apart(text: str, whitespace: bool, expected: dict[str, str]) -> None:
    assert parse_key_values(text, whitespace=whitespace) == expected


@pytest.mark.parametrize("whitespace", [False, True])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("secret", "entry 1 of the list is not written as KEY=VALUE"),
        ("a=1; secret; b=2", "entry 2 of the list"),
        ("=1", "entry 1 of the list"),
        ("a=1;a=2", "a is given twice"),
        ("a='secret", "a: the quote is not closed"),
        ('a="secret\\"', "a: the quote is not closed"),
        ("a='1'secret", "a: text follows the closing quote"),
        ("a='1''2'", "a: text follows the closing quote"),
    ],
)
def test_a_list_that_is_none_is_refused(text: str, whitespace: bool, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_key_values(text, whitespace=whitespace)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_white_space_text_after_a_quote_is_refused_where_it_would_separate() -> None:
    with pytest.raises(ConfigurationError, match="a: text follows the closing quote"):
        parse_key_values("a='1' b=2")
    assert parse_key_values("a='1' b=2", whitespace=True) == {"a": "1", "b": "2"}


KEYS = st.text(st.characters(exclude_characters=";=\"'", exclude_categories=["Cs"]), min_size=1)


@given(
    st.dictionaries(KEYS.filter(lambda key: not any(map(str.isspace, key))), st.text()),
    st.booleans(),
    st.sampled_from([";", " ; ", ";\n;"]),
)
def test_a_list_of_quoted_values_gives_back_any_value(
    values: dict[str, str], whitespace: bool, separator: str
) -> None:
    def quoted(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    text = separator.join(f"{key} = {quoted(value)}" for key, value in values.items())
    assert parse_key_values(text, whitespace=whitespace) == values


@given(st.text(max_size=50), st.booleans())
def test_any_text_is_a_list_or_refused(text: str, whitespace: bool) -> None:
    try:
        found = parse_key_values(text, whitespace=whitespace)
    except ConfigurationError:
        return
    assert all(found)


def test_a_query_is_decoded_and_a_plus_sign_stays_one() -> None:
    assert parse_query("") == {}
    assert parse_query("a=1%262&b%3D=x+y=z&c=") == {"a": "1&2", "b=": "x+y=z", "c": ""}
