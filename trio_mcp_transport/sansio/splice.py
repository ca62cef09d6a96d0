"""Single members of raw JSON objects: read, and replaced in place, byte for byte.

Called by bridges, which change an id and must not touch anything else of what passes. Pure.
Nothing is decoded but the way to the member; all other bytes, white space and order of
members come out as they went in. Cost is linear in the bytes, at the speed of memory for
all that is not on the way.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

__all__ = ["read_member", "replace_member"]

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_key = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_DECODE_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)

# Up to a member's value: what separates it from the one before, its key, the colon.
_KEY = re.compile(rb'[\s,{]*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)


def read_member(raw: Raw | bytes, *path: str) -> Raw | None:
    """The value at a path of keys, or None if there is none such.

    Args:
        raw: Any JSON value; what is no object has no members.
        *path: The keys, from the outside in.
    """
    for key in path:
        fields = _fields(raw)
        if fields is None or key not in fields:
            return None
        raw = fields[key]
    return raw if isinstance(raw, Raw) else Raw(raw)


def replace_member(raw: Raw | bytes, value: bytes, *path: str) -> Raw:
    """The same JSON with another value at a path.

    An object on the way that has a key twice is written anew without the doubles: readers
    differ in which of the two counts, so that it would not be certain what was replaced.

    Args:
        raw: An object; one that has no such member comes back as it is.
        value: What to put there, as JSON.
        *path: The keys, from the outside in; at least one.
    """
    fields = _fields(raw)
    if fields is None or path[0] not in fields:
        return raw if isinstance(raw, Raw) else Raw(raw)
    inner = value if len(path) == 1 else bytes(replace_member(fields[path[0]], value, *path[1:]))
    data = bytes(raw)
    span = _find(data, path[0], fields)
    if span is None:
        return Raw(_encode(fields | {path[0]: Raw(inner)}))
    return Raw(data[: span[0]] + inner + data[span[1] :])


def _fields(raw: Raw | bytes) -> dict[str, Raw] | None:
    try:
        return _decode_fields(raw)
    except _DECODE_FAULTS:
        return None


def _find(data: bytes, wanted: str, fields: dict[str, Raw]) -> tuple[int, int] | None:
    """From where to where a member's value goes; None if a key stands there twice.

    The members were found by a real decoder, so all that has to be done here is to step
    from one to the next; where its value is not what the decoder has kept, it is a double.
    """
    position = data.index(b"{") + 1
    found: tuple[int, int] | None = None
    for _ in range(len(fields)):
        match = _KEY.match(data, position)
        if match is None:
            return None
        key = _decode_key(match.group(1))
        end = match.end() + len(memoryview(fields[key]))
        if data[match.end() : end] != bytes(fields[key]):
            return None
        if key == wanted:
            found = match.end(), end
        position = end
    # A key more than the decoder has kept: one was there twice, with the same value.
    return found if _KEY.match(data, position) is None else None
