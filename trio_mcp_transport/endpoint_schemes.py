"""One function per scheme, which makes an `Endpoint` of a target and parameters.

Called by `endpoint_parser` once any form was brought to that shape. The registry of
schemes lives here, so that a transport made elsewhere is parsed like one of this package;
how it connects and listens is registered in `registry`. Pure: the functions
that are registered here must not connect, resolve or read anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from .endpoint_reading import read_endpoint, split_host_port
from .endpoint_values import percent_decode
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
from .http_schemes import HTTP_ENDPOINTS, parse_http
from .shm_endpoints import parse_shm
from .tls_endpoints import TlsEndpoint, TlsUnixEndpoint
from .websocket_schemes import WEBSOCKET_ENDPOINTS, parse_websocket

__all__ = [
    "ParseFunction",
    "find_parser",
    "register_scheme",
    "transport_names",
    "unregister_scheme",
]

#: Makes an endpoint of a target and parameters. The target is the text between the colon
#: and the question mark, not decoded, and empty when there was no URL. A parameter is a
#: str when it was read from text; from a mapping it is whatever stood there.
ParseFunction: TypeAlias = Callable[[str, Mapping[str, object]], Endpoint]

# RFC 3986, section 3.1, in its canonical case.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
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


def _parse_tcp(
    struct: type[TcpEndpoint], target: str, parameters: Mapping[str, object]
) -> Endpoint:
    rest = dict(parameters)
    address = rest.pop("bind_address", None)
    if target:
        name = f"{struct.scheme}://HOST:PORT"
        if not target.startswith("//"):
            raise ConfigurationError(f"{name} needs its two slashes")
        if address is not None:
            raise ConfigurationError("bind_address: the address is given twice")
        address = percent_decode("the address", target[2:])
    else:
        name = "bind_address"
    if address is None:
        return read_endpoint(struct, rest)
    if not isinstance(address, str):
        raise ConfigurationError("bind_address must be a string HOST:PORT")
    for character, what in (("@", "a user"), ("/", "a path"), ("#", "a fragment")):
        if character in address:
            raise ConfigurationError(f"{name} cannot have {what}")
    host, port = split_host_port(name, address)
    return read_endpoint(struct, rest, host=host, port=port)


def _parse_unix(
    struct: type[UnixEndpoint], target: str, parameters: Mapping[str, object]
) -> Endpoint:
    if not target:
        return read_endpoint(struct, parameters)
    if target.startswith("//"):
        target = target[2:]
        if not target.startswith("/"):
            scheme = struct.scheme
            raise ConfigurationError(
                f"{scheme}: the path must follow {scheme}: or {scheme}://, without a host"
            )
    path = percent_decode("path", target, errors="surrogateescape")
    return read_endpoint(struct, parameters, path=path)


_BUILT_IN: Mapping[str, ParseFunction] = {
    **{scheme: partial(parse_http, struct) for scheme, struct in HTTP_ENDPOINTS.items()},
    **{scheme: partial(parse_websocket, struct) for scheme, struct in WEBSOCKET_ENDPOINTS.items()},
    "memory": _parse_memory,
    "shm": parse_shm,
    "stdio": _parse_stdio,
    "tcp": partial(_parse_tcp, TcpEndpoint),
    "tls": partial(_parse_tcp, TlsEndpoint),
    "tls+unix": partial(_parse_unix, TlsUnixEndpoint),
    "unix": partial(_parse_unix, UnixEndpoint),
}
_PARSERS: dict[str, ParseFunction] = dict(_BUILT_IN)
