"""What of a modern request's body stands in its headers as well: written and checked.

The client asks `mirrored_headers` what to send, the server asks `header_fault` whether what
came agrees, so both read one table and one encoding (2026-07-28, Streamable HTTP, Request
Metadata). `MCP-Protocol-Version` is not among them: it decides what a request is, and is
judged where that is decided. Pure, and nothing here ever follows a `$ref`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Literal, cast

import msgspec
from msgspec import UNSET, Raw

from ...jsonrpc import Notification, Request
from ..headers import Headers
from ..metadata import as_raw
from ..remembering import remember_short

__all__ = [
    "NAME_SOURCES",
    "NO_HEADER_SCHEMA",
    "HeaderParameter",
    "HeaderSchema",
    "InvalidHeaderSchema",
    "decode_value",
    "encode_value",
    "header_fault",
    "mirrored_headers",
    "read_header_schema",
]

#: Where the value of `Mcp-Name` stands in the params of a method. "Mcp-Name | params.name
#: or params.uri | tools/call, resources/read, prompts/get requests"; `tasks/get` is an
#: extension's. Give a table of your own to `mirrored_headers` and `header_fault` for others.
NAME_SOURCES: Mapping[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
}

_ANNOTATION = "x-mcp-header"
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# Visible ASCII and spaces, the latter not at the ends. A tab could stand there by RFC 9110,
# but it is trimmed and replaced on the way.
_PLAIN = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")
# What a header's value may be made of when it comes: RFC 9110, section 5.5, without
# obs-text, as "HTTP header field values must consist of visible ASCII characters".
_FIELD = re.compile(r"[\t\x20-\x7e]*")
_PREFIX, _SUFFIX = "=?base64?", "?="
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?")
#: "Integer values MUST be within the safe range for JavaScript".
_MAX_SAFE_INTEGER = 2**53 - 1

# Keywords whose value is data, not a schema; an annotation cannot be in there.
_DATA_KEYWORDS = frozenset({"const", "default", "enum", "example", "examples", _ANNOTATION})
# Keywords whose value is a table of schemas, whose keys are names.
_TABLE_KEYWORDS = frozenset({
    "$defs",
    "definitions",
    "dependencies",
    "dependentSchemas",
    "patternProperties",
})

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, object]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class InvalidHeaderSchema(ValueError):
    """A tool's `inputSchema` annotates headers in a way that makes the tool invalid."""


class HeaderParameter(msgspec.Struct, frozen=True):
    """One annotated parameter.

    Attributes:
        header: The whole name of its header, as the schema spells it.
        path: The names of the properties that lead to it.
        type: As the schema declares it.
    """

    header: str
    path: tuple[str, ...]
    type: Literal["string", "integer", "boolean"]


class HeaderSchema(msgspec.Struct, frozen=True):
    """What of a tool's arguments goes into headers, in the order of the schema."""

    parameters: tuple[HeaderParameter, ...] = ()


#: That of a tool without annotations.
NO_HEADER_SCHEMA = HeaderSchema()


# -- Schemas -------------------------------------------------------------------------


def read_header_schema(input_schema: object) -> HeaderSchema:
    """Find the annotations of a tool's `inputSchema`.

    Args:
        input_schema: Raw JSON, or what JSON decodes to.

    Raises:
        InvalidHeaderSchema: It breaks a rule for them; the text says which.
    """
    if isinstance(input_schema, Raw):
        data = bytes(input_schema)
        # Nearly every schema; a name can be hidden only by an escape.
        if _ANNOTATION.encode() not in data and b"\\" not in data:
            return NO_HEADER_SCHEMA
        try:
            input_schema = _decode_any(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise InvalidHeaderSchema(f"the schema cannot be read: {error}") from error
    found: dict[str, HeaderParameter] = {}
    for path, schema in _schemas(input_schema, ()):
        if _ANNOTATION not in schema:
            continue
        parameter = _parameter(path, schema)
        key = parameter.header.lower()
        # "MUST be case-insensitively unique among all x-mcp-header values".
        if key in found:
            raise InvalidHeaderSchema(f"{parameter.header} is annotated twice")
        found[key] = parameter
    return HeaderSchema(tuple(found.values())) if found else NO_HEADER_SCHEMA


def _schemas(
    node: object, path: tuple[str, ...] | None
) -> Iterator[tuple[tuple[str, ...] | None, dict[str, object]]]:
    """Every place of a schema, with the chain of `properties` to it, or None off the chain."""
    stack: list[tuple[tuple[str, ...] | None, object]] = [(path, node)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, list):
            stack.extend((None, item) for item in reversed(node))
            continue
        if not isinstance(node, dict):
            continue
        schema = cast(dict[str, object], node)
        yield path, schema
        below: list[tuple[tuple[str, ...] | None, object]] = []
        for keyword, value in schema.items():
            if keyword in _DATA_KEYWORDS:
                continue
            if keyword == "properties" and isinstance(value, dict):
                below.extend(
                    (None if path is None else (*path, name), item) for name, item in value.items()
                )
            elif keyword in _TABLE_KEYWORDS and isinstance(value, dict):
                below.extend((None, item) for item in value.values())
            else:
                below.append((None, value))
        stack.extend(reversed(below))


def _parameter(path: tuple[str, ...] | None, schema: dict[str, object]) -> HeaderParameter:
    # "MUST only be applied to properties that are statically reachable from the schema
    # root: reachable via a chain consisting solely of properties keys."
    if not path:
        raise InvalidHeaderSchema(f"{_ANNOTATION} stands where no chain of properties leads")
    where = ".".join(path)[:100]
    name, type_ = schema[_ANNOTATION], schema.get("type")
    # "MUST NOT be empty", "MUST match HTTP field-name token syntax".
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise InvalidHeaderSchema(f"{_ANNOTATION} of {where} is no name of a header field")
    # "MUST only be applied to parameters with primitive types (integer, string, boolean)."
    if type_ not in ("string", "integer", "boolean"):
        raise InvalidHeaderSchema(f"{where} is annotated and no string, integer or boolean")
    return HeaderParameter(f"Mcp-Param-{name}", path, type_)


# -- Values --------------------------------------------------------------------------


def encode_value(text: str) -> str:
    """A text as the value of a header: as it is where that is safe, else in Base64."""
    # "clients MUST also Base64-encode any plain-ASCII value that matches the sentinel".
    if _PLAIN.fullmatch(text) and not (text.startswith(_PREFIX) and text.endswith(_SUFFIX)):
        return text
    return f"{_PREFIX}{base64.b64encode(text.encode()).decode()}{_SUFFIX}"


def decode_value(value: str) -> str:
    """The text that a header's value stands for.

    Raises:
        ValueError: It has characters that it must not have, or its Base64 is broken.
    """
    if not _FIELD.fullmatch(value):
        raise ValueError("it has invalid characters")
    payload = value[len(_PREFIX) : -len(_SUFFIX)]
    if (
        not value.startswith(_PREFIX)
        or not value.endswith(_SUFFIX)
        or len(value) < len(_PREFIX) + len(_SUFFIX)
    ):
        return value
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
        # Two spellings of one value are two values to whoever compares the headers.
        if base64.b64encode(data).decode() != payload:
            raise ValueError("not in canonical form")
        return data.decode()
    except (binascii.Error, ValueError) as error:
        raise ValueError("its Base64 is broken") from error


@remember_short
def _text_and_json(value: str | None) -> tuple[str | None, bytes | None]:
    """The text that a header's value stands for, and as most write it in JSON."""
    try:
        text = None if value is None else decode_value(value)
    except ValueError:
        text = None
    return text, None if text is None else _encode(text)


def _as_text(value: object) -> str | None:
    """A value of the body as its header carries it; None where none can."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        value = int(value) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) else None


def _agree(text: str, value: object) -> bool:
    """Whether a header's text means the same as the value in the body."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text == _as_text(value)
    # "servers SHOULD compare the header value and the body value numerically".
    if not _NUMBER.fullmatch(text) or abs(value) > _MAX_SAFE_INTEGER:
        return False
    return Decimal(text) == Decimal(repr(value))


def _argument(arguments: Mapping[str, object], path: tuple[str, ...]) -> object:
    """The value at a path, None where there is none."""
    # "Header extraction is defined as reading the instance value at the exact property path".
    node: object = arguments
    for name in path:
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node


# -- The two directions --------------------------------------------------------------


class _Params:
    """The params of a message, decoded as far as headers need them."""

    def __init__(self, params: object) -> None:
        self._fields: Mapping[str, object] = {}
        if isinstance(params, dict):
            self._fields = params
        elif params is not UNSET and params is not None:
            raw = as_raw(params)
            if memoryview(raw)[0] == 0x7B:
                self._fields = _decode_fields(raw)

    def has(self, key: str, data: bytes | None) -> bool:
        """Whether a value is this JSON, byte for byte."""
        value = self._fields.get(key)
        return data is not None and isinstance(value, Raw) and bytes(value) == data

    def name(self, key: str) -> str | None:
        value = self._fields.get(key)
        if isinstance(value, Raw):
            value = _decode_any(value)
        return value if isinstance(value, str) else None

    def arguments(self) -> dict[str, object]:
        raw = as_raw(self._fields.get("arguments"))
        if memoryview(raw)[0] != 0x7B:
            return {}
        return _decode_object(raw)


def mirrored_headers(
    message: Request | Notification,
    schema_of: Callable[[str], HeaderSchema | None] | None = None,
    *,
    name_sources: Mapping[str, str] = NAME_SOURCES,
) -> list[tuple[str, str]]:
    """What the headers of a modern message must repeat of its body.

    Args:
        message: A request, or a notification, which has `Mcp-Method` alone.
        schema_of: What is known of a tool by its name.
        name_sources: Where the value of `Mcp-Name` comes from, by method.

    Raises:
        ValueError: The params are no JSON that could be read (also msgspec's errors).
    """
    method = message.method
    # "Case Sensitivity": values are case-sensitive, and sent as they are. A method that is
    # no header value is refused by any server that knows its methods.
    found = [("Mcp-Method", encode_value(method))]
    source = name_sources.get(method)
    if source is None or type(message) is Notification:
        return found
    params = _Params(message.params)
    name = params.name(source)
    if name is None:
        return found
    found.append(("Mcp-Name", encode_value(name)))
    schema = schema_of(name) if schema_of is not None and method == "tools/call" else None
    if schema is None or not schema.parameters:
        return found
    arguments = params.arguments()
    for parameter in schema.parameters:
        text = _as_text(_argument(arguments, parameter.path))
        if text is not None:
            found.append((parameter.header, encode_value(text)))
    return found


def header_fault(
    headers: Headers,
    request: Request,
    schema_of: Callable[[str], HeaderSchema | None] | None = None,
    *,
    name_sources: Mapping[str, str] = NAME_SOURCES,
) -> str | None:
    """What is wrong with the headers of a modern request, seen from its body.

    Args:
        headers: Those that it came with.
        request: Its body.
        schema_of: The annotations of a tool by its name; None for an unknown tool, which
            is then not checked.
        name_sources: Where the value of `Mcp-Name` comes from, by method.

    Returns:
        What the server says with -32020 and status 400, or None. It repeats no value.
    """
    method = headers.get("mcp-method")
    if method is None:
        return "Header mismatch: Mcp-Method is missing"
    if method != request.method:
        return "Header mismatch: Mcp-Method is not the method of the body"
    source = name_sources.get(request.method)
    if source is None:
        # "Mcp-Name" of any other method has no counterpart in the body.
        return None
    given = headers.get("mcp-name")
    try:
        params = _Params(request.params)
        fault: str | None = None
        name, data = _text_and_json(given)
        if not params.has(source, data):
            name = params.name(source)
            fault = _compare("Mcp-Name", given, name, f"params.{source}")
    except (msgspec.DecodeError, ValueError, RecursionError):
        return f"Header mismatch: params.{source} cannot be read"
    if fault is not None or name is None or request.method != "tools/call":
        return fault
    schema = schema_of(name) if schema_of is not None else None
    if schema is None or not schema.parameters:
        return None
    try:
        arguments = params.arguments()
    except (msgspec.DecodeError, ValueError, RecursionError):
        return "Header mismatch: params.arguments cannot be read"
    for parameter in schema.parameters:
        where = f"argument {'.'.join(parameter.path)}"
        value = _argument(arguments, parameter.path)
        fault = _compare(parameter.header, headers.get(parameter.header), value, where)
        if fault is not None:
            return fault
    return None


def _compare(name: str, value: str | None, expected: object, where: str) -> str | None:
    """One header against its counterpart in the body."""
    if value is None:
        # "Client omits header but value is in body: Server MUST reject the request"; what
        # no header can carry is not expected to have one.
        if _as_text(expected) is None:
            return None
        return f"Header mismatch: {name} is missing, but the body has {where}"
    try:
        text = decode_value(value)
    except ValueError as error:
        return f"Header mismatch: {name} cannot be read: {error}"
    # Where the body has nothing, somebody on the way may have relied on what the header says.
    if not _agree(text, expected):
        return f"Header mismatch: {name} is not the same as {where} of the body"
    return None
