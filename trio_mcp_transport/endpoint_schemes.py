"""One function per scheme, which makes an `Endpoint` of a target and parameters.

Called by `endpoint_parser` once any form was brought to that shape. The registry of
schemes lives here, so that a transport made elsewhere is parsed like one of this package;
how it connects and listens is registered in `registry`. Pure: the functions
that are registered here must not connect, resolve or read anything.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import msgspec
from msgspec.inspect import Type

from .endpoint_values import (
    declared_types,
    is_duration,
    is_octal,
    percent_decode,
    read_milliseconds,
    read_value,
)
from .endpoints import (
    HIDDEN,
    Endpoint,
    MemoryEndpoint,
    ProcessEndpoint,
    StdioEndpoint,
    TcpEndpoint,
    UnixEndpoint,
)
from .errors import ConfigurationError
from .limits import ChannelOptions

__all__ = [
    "ParseFunction",
    "find_parser",
    "read_endpoint",
    "register_scheme",
    "split_host_port",
    "transport_names",
    "unregister_scheme",
]

E = TypeVar("E", bound=Endpoint)

#: Makes an endpoint of a target and parameters. The target is the text between the colon
#: and the question mark, not decoded, and empty when there was no URL. A parameter is a
#: str when it was read from text; from a mapping it is whatever stood there.
ParseFunction: TypeAlias = Callable[[str, Mapping[str, object]], Endpoint]

#: Names that the lists of older configurations use for fields of `ChannelOptions`.
_ALIASES = {
    "timeout_ms": "request_timeout_ms",
    "write_queue_max_bytes": "outbox_bytes",
    "max_content_length": "max_message_bytes",
}
# RFC 3986, section 3.1, in its canonical case.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_PORT = re.compile(r"[0-9]{1,5}")
# How msgspec says which field of a struct is wrong.
_AT = re.compile(r"(.*) - at `\$(?:\.options)?\.(\w+).*`")
_VARIABLE = "environment_vars."


# -- The registry ----------------------------------------------------------------------


def register_scheme(scheme: str, parse: ParseFunction) -> None:
    """Make `parse_endpoint` know a scheme. `registry.register_transport` calls this.

    Raises:
        ConfigurationError: It is no scheme (RFC 3986, section 3.1, in lower case), or
            it is taken.
    """
    if _SCHEME.fullmatch(scheme) is None:
        raise ConfigurationError(
            f"{scheme!r} cannot be a scheme: lower-case letters, digits, '+', '.' and '-',"
            " a letter first"
        )
    if scheme in _PARSERS:
        raise ConfigurationError(f"there is a transport called {scheme!r} already")
    _PARSERS[scheme] = parse


def unregister_scheme(scheme: str) -> None:
    """Forget a scheme that `register_scheme` added.

    Raises:
        ConfigurationError: There is none, or it is one of this package.
    """
    if scheme in _BUILT_IN or scheme not in _PARSERS:
        raise ConfigurationError(f"no transport called {scheme!r} was registered")
    del _PARSERS[scheme]


def transport_names() -> tuple[str, ...]:
    """The schemes of all transports that there are, sorted."""
    return tuple(sorted(_PARSERS))


def find_parser(scheme: str) -> ParseFunction:
    """The function for a scheme.

    Raises:
        ConfigurationError: No transport has it; the text says which there are.
    """
    if scheme not in _PARSERS:
        raise ConfigurationError(
            f"no transport is called {scheme!r} (there are: {', '.join(transport_names())})"
        )
    return _PARSERS[scheme]


# -- For every scheme ------------------------------------------------------------------


def read_endpoint(struct: type[E], parameters: Mapping[str, object], **target_fields: object) -> E:
    """Make an endpoint struct of parameters. A help for every `ParseFunction`.

    Args:
        struct: The endpoint's class.
        parameters: Its fields and those of `ChannelOptions`, by name; durations also in
            milliseconds, with ``_ms`` behind the name. All of them must be known.
        target_fields: Fields that are known already, from the target.

    Raises:
        ConfigurationError: A parameter is unknown, doubled, missing or no such value.
    """
    own = declared_types(struct)
    del own["options"]
    declared = declared_types(ChannelOptions) | own
    values = dict(target_fields)
    for key, value in parameters.items():
        field = _field_of(key, declared)
        if field is None:
            raise ConfigurationError(
                f"unknown option {key!r} of a {struct.scheme} endpoint"
                f" (known: {', '.join([*own, *declared_types(ChannelOptions)])})"
            )
        if field in values:
            raise ConfigurationError(f"{field} is given twice")
        values[field] = _read(key, value, declared[field], milliseconds=key not in declared)
    if "write_queue_max_bytes" in parameters:
        # A queue of that name fails when it is full; it never makes the sender wait.
        values.setdefault("when_full", "close")
    for required in msgspec.structs.fields(struct):
        if required.required and required.name not in values:
            raise ConfigurationError(f"{required.name} is missing in a {struct.scheme} endpoint")
    values["options"] = {name: values.pop(name) for name in [*values] if name not in own}
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


# -- The schemes of this package -------------------------------------------------------


def _parse_stdio(target: str, parameters: Mapping[str, object]) -> Endpoint:
    rest = dict(parameters)
    line = rest.pop("command", None)
    if target.strip():
        if line is not None:
            raise ConfigurationError("command is given twice")
        line = target
    if line is None:
        for name in (*ProcessEndpoint.__struct_fields__, "environment_vars"):
            if name != "options" and any(key.partition(".")[0] == name for key in rest):
                raise ConfigurationError(f"{name} needs a command")
        return read_endpoint(StdioEndpoint, rest)
    command = _split_command(line) if isinstance(line, str) else line
    variables = rest.pop("environment_vars", {})
    if any(key.startswith(_VARIABLE) for key in rest):
        if variables:
            raise ConfigurationError("environment_vars is given twice")
        variables = {
            key.removeprefix(_VARIABLE): rest.pop(key)
            for key in parameters
            if key.startswith(_VARIABLE)
        }
        for name, value in variables.items():
            if value == HIDDEN:
                raise ConfigurationError(
                    f"{_VARIABLE}{name}: {HIDDEN} only stands for a value that is not shown"
                )
    return read_endpoint(ProcessEndpoint, rest, command=command, environment_vars=variables)


def _split_command(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigurationError(f"command: {str(error).lower()}") from None


def _parse_memory(target: str, parameters: Mapping[str, object]) -> Endpoint:
    if target.startswith("//"):
        raise ConfigurationError("memory:NAME is written without slashes")
    if not target:
        return read_endpoint(MemoryEndpoint, parameters)
    return read_endpoint(MemoryEndpoint, parameters, name=percent_decode("name", target))


def _parse_tcp(target: str, parameters: Mapping[str, object]) -> Endpoint:
    rest = dict(parameters)
    address = rest.pop("bind_address", None)
    if target:
        if not target.startswith("//"):
            raise ConfigurationError("tcp://HOST:PORT needs its two slashes")
        if address is not None:
            raise ConfigurationError("bind_address: the address is given twice")
        name, address = "tcp://HOST:PORT", percent_decode("the address", target[2:])
    else:
        name = "bind_address"
    if address is None:
        return read_endpoint(TcpEndpoint, rest)
    if not isinstance(address, str):
        raise ConfigurationError("bind_address must be a string HOST:PORT")
    for character, what in (("@", "a user"), ("/", "a path"), ("#", "a fragment")):
        if character in address:
            raise ConfigurationError(f"{name} cannot have {what}")
    host, port = split_host_port(name, address)
    return read_endpoint(TcpEndpoint, rest, host=host, port=port)


def _parse_unix(target: str, parameters: Mapping[str, object]) -> Endpoint:
    if not target:
        return read_endpoint(UnixEndpoint, parameters)
    if target.startswith("//"):
        target = target[2:]
        if not target.startswith("/"):
            raise ConfigurationError("unix: the path must follow unix: or unix://, without a host")
    path = percent_decode("path", target, errors="surrogateescape")
    return read_endpoint(UnixEndpoint, parameters, path=path)


_BUILT_IN: Mapping[str, ParseFunction] = {
    "memory": _parse_memory,
    "stdio": _parse_stdio,
    "tcp": _parse_tcp,
    "unix": _parse_unix,
}
_PARSERS: dict[str, ParseFunction] = dict(_BUILT_IN)
