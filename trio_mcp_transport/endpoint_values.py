"""Options as text: how endpoint strings write a value, and read values and lists back.

Called by `endpoints` (writing) and `endpoint_parser` (reading), so that both directions
stay in one place. The declared type of a struct field decides how its text looks; nothing
here knows a field by its name. Strict: what is not wholly understood is refused. Texts of
values appear in an error only where the value is a number, a boolean or a choice.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import quote, unquote

import msgspec
from msgspec.inspect import (
    BoolType,
    FloatType,
    IntType,
    LiteralType,
    Metadata,
    NoneType,
    StrType,
    Type,
    UnionType,
    VarTupleType,
)

from .errors import ConfigurationError

__all__ = [
    "OCTAL",
    "declared_types",
    "is_duration",
    "is_octal",
    "nested_structs",
    "parse_key_values",
    "parse_query",
    "percent_decode",
    "percent_encode",
    "read_milliseconds",
    "read_value",
    "struct_fields",
    "write_value",
]

#: Marks an integer field as written in octal: ``Annotated[int, msgspec.Meta(extra=OCTAL)]``.
OCTAL = {"text": "octal"}

#: Structs whose fields are remembered: more than there are, with those made elsewhere.
_MAX_REMEMBERED = 64

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
# At most 18 digits: far beyond any sensible limit, and a long text of digits costs nothing.
_INTEGER = re.compile(r"[0-9]{1,18}")
# `repr` of a float has up to 22 decimals before it turns to an exponent.
_SECONDS = re.compile(r"[0-9]{1,18}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")
_OCTAL = re.compile(r"(0o)?[0-7]{1,8}")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _plain(declared: Type) -> tuple[Type, bool]:
    """Strip metadata and ``| None``: the type that text has to match, and whether octal."""
    octal = False
    while True:
        if isinstance(declared, Metadata):
            octal = octal or declared.extra == OCTAL
            declared = declared.type
        elif isinstance(declared, UnionType):
            some = [member for member in declared.types if not isinstance(member, NoneType)]
            if len(some) != 1:
                raise TypeError(f"an endpoint field cannot be the union {declared.types}")
            declared = some[0]
        else:
            return declared, octal


# Annotations are text until somebody resolves them, which takes a millisecond for a struct of
# many fields, and these are asked for each time an endpoint is made or printed.


@functools.lru_cache(maxsize=_MAX_REMEMBERED)
def struct_fields(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a struct, with their defaults and resolved types."""
    return msgspec.structs.fields(struct)


@functools.lru_cache(maxsize=_MAX_REMEMBERED)
def declared_types(struct: type[msgspec.Struct]) -> Mapping[str, Type]:
    """The declared type of each field of a struct, by its name as an option."""
    return {
        field.encode_name: msgspec.inspect.type_info(field.type) for field in struct_fields(struct)
    }


@functools.lru_cache(maxsize=_MAX_REMEMBERED)
def nested_structs(struct: type[msgspec.Struct]) -> Mapping[str, type[msgspec.Struct]]:
    """The fields of a struct that are structs themselves; as text they are one level."""
    return {
        field.name: field.type
        for field in struct_fields(struct)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
    }


def is_duration(declared: Type) -> bool:
    """Whether a field of this type holds seconds. Every float field of an endpoint does."""
    return isinstance(_plain(declared)[0], FloatType)


def is_octal(declared: Type) -> bool:
    """Whether a field of this type is written in octal."""
    return _plain(declared)[1]


def write_value(value: object, declared: Type) -> str:
    """The text of one value, such that `read_value` gives it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isinf(value):
            return "0"
        return str(int(value)) if value.is_integer() and value < 1e15 else repr(value)
    if isinstance(value, int) and is_octal(declared):
        return f"0{value:o}"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def read_value(name: str, text: str, declared: Type) -> object:
    """Read one value; `name` is only for the error.

    Raises:
        ConfigurationError: The text is not wholly a value of that type.
    """
    plain, octal = _plain(declared)
    if isinstance(plain, BoolType):
        return _read_bool(name, text)
    if isinstance(plain, IntType):
        if octal:
            return _read_octal(name, text)
        if _INTEGER.fullmatch(text) is None:
            _refuse(name, "a whole number without sign or unit", text)
        return int(text)
    if isinstance(plain, FloatType):
        return _read_seconds(name, text)
    if isinstance(plain, LiteralType):
        if text not in plain.values:
            _refuse(name, "one of " + ", ".join(map(str, plain.values)), text)
        return text
    if isinstance(plain, StrType):
        return text
    if isinstance(plain, VarTupleType) and isinstance(plain.item_type, StrType | LiteralType):
        items = [item for part in text.split(",") if (item := part.strip())]
        if not items:
            # Often a variable that is not set: to go on as if nothing was demanded would be
            # to let in everybody where the list says whom to let in.
            raise ConfigurationError(f"{name} is empty: leave it out, or say at least one")
        return [read_value(name, item, plain.item_type) for item in items]
    raise ConfigurationError(f"{name} cannot be written as text")


def read_milliseconds(name: str, text: str) -> float:
    """Seconds from whole milliseconds; 0 means no limit."""
    if _INTEGER.fullmatch(text) is None:
        _refuse(name, "whole milliseconds (0 for no limit)", text)
    return int(text) / 1000 or math.inf


def percent_encode(text: str, safe: str = "/:@,*") -> str:
    """Encode what has a meaning in a URL; undecodable bytes of a path survive."""
    return quote(text, safe=safe, errors="surrogateescape")


def percent_decode(name: str, text: str, errors: str = "strict") -> str:
    """Decode percent escapes as UTF-8; `+` is a plus sign.

    Args:
        name: What the text is, for the error.
        text: As written.
        errors: ``surrogateescape`` for paths, which need not be UTF-8.

    Raises:
        ConfigurationError: A percent sign without two hexadecimal digits, or no UTF-8.
    """
    if _BAD_PERCENT.search(text) is not None:
        raise ConfigurationError(f"{name} has a percent sign without two hexadecimal digits")
    try:
        return unquote(text, errors=errors)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name} is not UTF-8 when its escapes are decoded") from error


def _read_bool(name: str, text: str) -> bool:
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered not in _FALSE:
        _refuse(name, f"one of {', '.join(_TRUE + _FALSE)}", text)
    return False


def _read_octal(name: str, text: str) -> int:
    if _OCTAL.fullmatch(text) is None:
        _refuse(name, "octal digits such as 0660", text)
    return int(text.removeprefix("0o"), 8)


def _read_seconds(name: str, text: str) -> float:
    if _SECONDS.fullmatch(text) is None:
        _refuse(name, "seconds (0 for no limit)", text)
    seconds = float(text)
    if math.isinf(seconds):
        _refuse(name, "seconds (0 for no limit)", text)
    return seconds or math.inf


def _refuse(name: str, wanted: str, text: str) -> NoReturn:
    shown = text if len(text) <= 40 else text[:40] + "..."
    raise ConfigurationError(f"{name} must be {wanted}, not {shown!r}")


def parse_query(text: str) -> dict[str, str]:
    """Take ``a=1&b=2`` apart and decode it; `+` is a plus sign, not a space.

    Raises:
        ConfigurationError: A part has no ``=`` or no key, or a key stands there twice.
    """
    found: dict[str, str] = {}
    for number, part in enumerate(text.split("&") if text else (), 1):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ConfigurationError(f"option {number} is not written as KEY=VALUE")
        key = percent_decode(f"the key of option {number}", key)
        # Values may be paths, which need not be UTF-8.
        _add(found, key, percent_decode(key, value, errors="surrogateescape"))
    return found


# A list. A key may not hold what ends it; what an unquoted value may hold, and what may
# follow a value, depends on whether white space separates.
_GAP = re.compile(r"[;\s]*")
_KEY = re.compile(r"[^\s;=\"']+")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_QUOTED = re.compile(r"""  "((?:[^"\\]|\\.)*)"  |  '([^']*)'  """, re.DOTALL | re.VERBOSE)
_ESCAPED = re.compile(r'\\(["\\])')
_UNQUOTED = {True: re.compile(r"[^;\s]*"), False: re.compile(r"[^;]*")}
_STOP = {True: re.compile(r"[;\s]|\Z"), False: re.compile(r"\s*(;|\Z)")}


def parse_key_values(text: str, *, whitespace: bool = False) -> dict[str, str]:
    """Take a list such as ``timeout_ms=30000; framing=content-length`` apart.

    Entries are separated by semicolons. Blanks around ``=`` and around an entry do not
    count, and empty entries are skipped. A value that holds a separator is quoted:
    ``"..."``, in which a backslash takes away the meaning of ``"`` and of another
    backslash, or ``'...'``, in which nothing has a meaning. Quotes inside an unquoted
    value are ordinary characters.

    Args:
        text: The list; the empty text is an empty list.
        whitespace: Whether any white space separates entries as well. If not, an
            unquoted value may have blanks inside.

    Raises:
        ConfigurationError: An entry has no ``=`` or no key, a quote is not closed, or a
            key stands there twice. Values are not shown.
    """
    found: dict[str, str] = {}
    position = _end(_GAP, text, 0)
    while position < len(text):
        key = _KEY.match(text, position)
        equals = _EQUALS.match(text, key.end()) if key else None
        if key is None or equals is None:
            raise ConfigurationError(
                f"entry {len(found) + 1} of the list is not written as KEY=VALUE"
                " (quote a value that holds a separator)"
            )
        name, position = key.group(), equals.end()
        if (quoted := _QUOTED.match(text, position)) is not None:
            double, single = quoted.groups()
            value = single if double is None else _ESCAPED.sub(r"\1", double)
            position = quoted.end()
        elif text.startswith(('"', "'"), position):
            raise ConfigurationError(f"{name}: the quote is not closed")
        else:
            start, position = position, _end(_UNQUOTED[whitespace], text, position)
            value = text[start:position].strip()
        if _STOP[whitespace].match(text, position) is None:
            raise ConfigurationError(f"{name}: text follows the closing quote")
        _add(found, name, value)
        position = _end(_GAP, text, position)
    return found


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Where the pattern stops matching, which is `position` if it does not match."""
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _add(found: dict[str, str], key: str, value: str) -> None:
    if key in found:
        raise ConfigurationError(f"{key} is given twice")
    found[key] = value
