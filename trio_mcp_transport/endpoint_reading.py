"""Parameters to endpoint structs, for every scheme: known keys, values of their types.

Called by the parse functions of `endpoint_schemes` and `http_schemes`, and by those of
transports made elsewhere. Pure, and strict: what is not wholly understood is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec.inspect import Type

from .endpoint_values import (
    declared_types,
    is_duration,
    is_octal,
    nested_structs,
    read_milliseconds,
    read_value,
    struct_fields,
)
from .endpoints import HIDDEN, Endpoint
from .errors import ConfigurationError

__all__ = ["read_endpoint", "split_host_port"]

E = TypeVar("E", bound=Endpoint)

#: Names that the lists of older configurations use for fields of `ChannelOptions`, and
#: what people and other programs call those of `TlsSettings`.
_ALIASES = {
    "timeout_ms": "request_timeout_ms",
    "write_queue_max_bytes": "outbox_bytes",
    "max_content_length": "max_message_bytes",
    "cert": "cert_file",
    "certFile": "cert_file",
    "key": "key_file",
    "keyFile": "key_file",
    "caFile": "ca_file",
    "caPath": "ca_path",
    "client_ca": "ca_file",
    "serverName": "server_name",
}
_PORT = re.compile(r"[0-9]{1,5}")
# How msgspec says which field of a struct is wrong.
_AT = re.compile(r"(.*) - at `\$(?:\.(?:options|tls|compression))?\.(\w+).*`")


def read_endpoint(struct: type[E], parameters: Mapping[str, object], **target_fields: object) -> E:
    """Make an endpoint struct of parameters. A help for every `ParseFunction`.

    Args:
        struct: The endpoint's class.
        parameters: Its fields and those of `ChannelOptions` and whatever else is nested in
            it, by name; durations also in milliseconds, with ``_ms`` behind the name. All
            of them must be known.
        target_fields: Fields that are known already, from the target.

    Raises:
        ConfigurationError: A parameter is unknown, doubled, missing or no such value.
    """
    nested = {name: declared_types(part) for name, part in nested_structs(struct).items()}
    own = {name: found for name, found in declared_types(struct).items() if name not in nested}
    declared = own | {key: part[key] for part in nested.values() for key in part}
    values = dict(target_fields)
    for key, value in parameters.items():
        field = _field_of(key, declared)
        if field is None:
            raise ConfigurationError(
                f"unknown option {key!r} of a {struct.scheme} endpoint"
                f" (known: {', '.join(declared)})"
            )
        if field in values:
            raise ConfigurationError(f"{field} is given twice")
        if value == HIDDEN and field in struct.secret_fields:
            raise ConfigurationError(f"{field}: {HIDDEN} only stands for a value that is not shown")
        values[field] = _read(key, value, declared[field], milliseconds=key not in declared)
    if "write_queue_max_bytes" in parameters:
        # A queue of that name fails when it is full; it never makes the sender wait.
        values.setdefault("when_full", "close")
    if "client_ca" in parameters:
        # Whoever names whose client certificates count wants to see one.
        values.setdefault("client_auth", "required")
    for required in struct_fields(struct):
        if required.required and required.name not in values:
            raise ConfigurationError(f"{required.name} is missing in a {struct.scheme} endpoint")
    for name, fields in nested.items():
        values[name] = {key: values.pop(key) for key in [*values] if key in fields}
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigurationError):
            raise error.__cause__ from None  # from __post_init__
        raise ConfigurationError(_AT.sub(r"\2: \1", str(error))) from None


def _field_of(key: str, declared: Mapping[str, Type]) -> str | None:
    name = _ALIASES.get(key, key)
    if name in declared:
        return name
    seconds = name.removesuffix("_ms")
    if seconds != name and seconds in declared and is_duration(declared[seconds]):
        return seconds
    return None


def _read(key: str, value: object, declared: Type, *, milliseconds: bool) -> object:
    """Read one parameter, which is text, or from a mapping a value of its own."""
    key_is_milliseconds = milliseconds and is_duration(declared)
    if isinstance(value, str):
        return (
            read_milliseconds(key, value)
            if key_is_milliseconds
            else read_value(key, value, declared)
        )
    if is_octal(declared):
        # JSON has no octal numbers, so 660 could be meant either way.
        raise ConfigurationError(f"{key} must be a string of octal digits such as '0660'")
    if key_is_milliseconds:
        if type(value) is not int:
            raise ConfigurationError(f"{key} must be whole milliseconds (0 for no limit)")
        return read_milliseconds(key, str(value))
    if is_duration(declared) and type(value) in {int, float} and value == 0:
        return math.inf
    return value


def split_host_port(name: str, text: str) -> tuple[str, int]:
    """Take ``HOST:PORT`` apart; an IPv6 address stands in brackets.

    Args:
        name: What the text is, for the error.
        text: As written, decoded.

    Raises:
        ConfigurationError: The port is missing or no number, or the brackets are wrong.
    """
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing or ":" not in host or "[" in host:
            raise ConfigurationError(f"{name}: brackets must enclose an IPv6 address")
        if rest and not rest.startswith(":"):
            raise ConfigurationError(f"{name}: only a port may follow the brackets")
        port = rest.removeprefix(":")
    else:
        host, _, port = text.rpartition(":") if ":" in text else (text, "", "")
        if "[" in text or "]" in text:
            raise ConfigurationError(f"{name}: brackets must enclose an IPv6 address")
        if ":" in host:
            raise ConfigurationError(f"{name}: an IPv6 address must stand in brackets")
    if not host:
        raise ConfigurationError(f"{name}: the host is missing")
    if not port:
        raise ConfigurationError(f"{name}: the port is missing")
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        raise ConfigurationError(f"{name}: the port must be a number from 0 to 65535")
    return host, int(port)
