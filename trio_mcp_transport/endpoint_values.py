"""One option value as text: how endpoint strings write it and read it back.

Called by `endpoints` (writing) and `endpoint_parser` (reading), so that both directions
stay in one place. The declared type of a struct field decides how its text looks; nothing
here knows a field by its name. Strict: a value that is not wholly understood is refused.
"""

from __future__ import annotations

import math
import re
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
)

from .errors import ConfigurationError

__all__ = [
    "OCTAL",
    "declared_types",
    "is_duration",
    "percent_decode",
    "percent_encode",
    "read_milliseconds",
    "read_value",
    "write_value",
]

#: Marks an integer field as written in octal: ``Annotated[int, msgspec.Meta(extra=OCTAL)]``.
OCTAL = {"text": "octal"}

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
# At most 18 digits: far beyond any sensible limit, and a long text of digits costs nothing.
_INTEGER = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?")
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


def declared_types(struct: type[msgspec.Struct]) -> dict[str, Type]:
    """The declared type of each field of a struct."""
    return {
        field.name: msgspec.inspect.type_info(field.type)
        for field in msgspec.structs.fields(struct)
    }


def is_duration(declared: Type) -> bool:
    """Whether a field of this type holds seconds. Every float field of an endpoint does."""
    return isinstance(_plain(declared)[0], FloatType)


def write_value(value: object, declared: Type) -> str:
    """The text of one value, such that `read_value` gives it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isinf(value):
            return "0"
        return str(int(value)) if value.is_integer() and value < 1e15 else repr(value)
    if isinstance(value, int) and _plain(declared)[1]:
        return f"0{value:o}"
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
