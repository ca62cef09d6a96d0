"""Single members of raw JSON, read and replaced without touching another byte."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from trio_mcp_transport.sansio.splice import read_member, replace_member

pytestmark = pytest.mark.sansio


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        (b'{"a":1}', ("a",), b'{"a":"new"}'),
        (b'{ "x" :[1] ,\n"a" :\t1 , "z":{} }', ("a",), b'{ "x" :[1] ,\n"a" :\t"new" , "z":{} }'),
        (b'{"_meta":{"b":2,"t":{}},"a":1}', ("_meta", "t"), b'{"_meta":{"b":2,"t":"new"},"a":1}'),
        (b'{"a":"}\\"a\\":{","b":0}', ("b",), b'{"a":"}\\"a\\":{","b":"new"}'),
        (b'{"x":{"a":1},"a":1}', ("a",), b'{"x":{"a":1},"a":"new"}'),
        (b'{"\\u0061":1}', ("a",), b'{"\\u0061":"new"}'),
        (b'{"k/\xc3\xa9":1,"a":"\xc3\xa9"}', ("a",), b'{"k/\xc3\xa9":1,"a":"new"}'),
        (b'{"a":1e400,"b":12345678901234567890123}', ("b",), b'{"a":1e400,"b":"new"}'),
        (b'{"b":1}', ("a",), b'{"b":1}'),
        (b'{"b":1}', ("b", "c"), b'{"b":1}'),
        (b"[1]", ("a",), b"[1]"),
        (b"{}", ("a",), b"{}"),
    ],
)  # fmt: skip
def test_one_member_is_replaced_and_every_other_byte_stays(
    before: bytes, path: tuple[str, ...], after: bytes
) -> None:
    assert bytes(replace_member(Raw(before), b'"new"', *path)) == after
    assert bytes(replace_member(before, b'"new"', *path)) == after


@pytest.mark.parametrize(
    "doubled",
    [
        b'{"a":1,"b":2,"a":3}',
        b'{"a":1,"a":1}',
        b'{"a":3,"b":2,"\\u0061":3}',
        b'{"b":1,"a":3,"b":1}',
        b'{"b":{"x":1},"a":3,"b":2}',
        b'{"a":12,"a":1,"b":0}',
    ],
)
def test_readers_cannot_differ_on_what_was_replaced(doubled: bytes) -> None:
    found = bytes(replace_member(doubled, b'"new"', "a"))
    pairs = json.loads(found, object_pairs_hook=list)
    assert [value for key, value in pairs if key == "a"] == ["new"]
    assert len({key for key, _ in pairs}) == len(pairs)


def test_a_member_is_read_at_the_end_of_its_path() -> None:
    raw = Raw(b'{"_meta":{"t": "x" },"a":[1]}')
    assert bytes(read_member(raw, "_meta", "t") or b"") == b'"x"'
    assert bytes(read_member(raw, "a") or b"") == b"[1]"
    for path in (("b",), ("_meta", "u"), ("a", "t"), ("_meta", "t", "x")):
        assert read_member(raw, *path) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(
    fields=st.dictionaries(st.text(), JSON_VALUES, min_size=1),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    data=st.data(),
)
def test_whatever_the_object_only_the_member_changes(
    fields: dict[str, object], indent: int | None, ascii_only: bool, data: st.DataObject
) -> None:
    text = json.dumps(fields, indent=indent, ensure_ascii=ascii_only)
    before = text.encode(errors="surrogatepass")
    key = data.draw(st.sampled_from(sorted(fields)))
    try:
        before.decode()
        msgspec.json.decode(before)
    except (UnicodeDecodeError, msgspec.DecodeError):
        return  # lone surrogates: no message has them
    after = bytes(replace_member(before, b'{"new":1}', key))
    assert msgspec.json.decode(after) == fields | {key: {"new": 1}}
    # As long as before but for the value, so nothing else was written anew.
    old = read_member(before, key)
    assert old is not None
    assert len(after) == len(before) - len(bytes(old)) + len(b'{"new":1}')
