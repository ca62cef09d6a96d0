"""Endpoints as the commands take them: from arguments, older flags, the environment.

Also says which of them may be listened at without anybody having to prove who they are.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence

import msgspec

from ..endpoint_parser import endpoint_from_environment, parse_endpoint
from ..endpoint_schemes import transport_names
from ..endpoints import (
    Endpoint,
    MemoryEndpoint,
    ProcessEndpoint,
    StdioEndpoint,
    TcpEndpoint,
    UnixEndpoint,
)
from ..errors import ConfigurationError
from ..registry import uses_tls
from ..shm_endpoints import DEFAULT_CHANNEL_NAME, ShmEndpoint
from ..web_endpoints import WebEndpoint
from .tls import demands_certificate

__all__ = [
    "add_drain",
    "add_header",
    "add_transport_flags",
    "check_authenticated",
    "chosen_by_flags",
    "detecting",
    "listening_endpoints",
    "read_endpoint_argument",
    "with_admission",
    "with_headers",
]

#: What has an address even if none is given, see `endpoint_from_environment`.
_TRANSPORTS_WITH_DEFAULTS = {"http", "stdio", "tcp", "tls", "unix", "websocket"}


def add_transport_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--transport``, ``--stdiocfg`` and ``--channel``, which `serve` and `call` both have."""
    parser.add_argument(
        "--transport",
        metavar="NAME",
        help="the transport: stdio, http, tcp, tls, unix, websocket or shm; also how a key=value"
        " list is read",
    )
    parser.add_argument(
        "--stdiocfg",
        metavar="LIST",
        help="options of own stdin and stdout: timeout_ms=30000;idle_read_timeout_ms=200;...",
    )
    parser.add_argument(
        "--channel",
        metavar="NAME",
        help=f"the channel of shared memory (default with --transport=shm: {DEFAULT_CHANNEL_NAME})",
    )


def add_header(parser: argparse.ArgumentParser) -> None:
    """Add ``--header``, which every command has that connects."""
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of each HTTP request, any number of times; @FILE reads some, a line each,"
        " so that no secret stands on the command line",
    )


def with_headers(endpoint: Endpoint, given: Sequence[str]) -> Endpoint:
    """The endpoint with the headers of ``--header``, which beat its own.

    Raises:
        ConfigurationError: One is malformed, or the endpoint is not of HTTP. Values are
            not shown.
    """
    if not given:
        return endpoint
    if not isinstance(endpoint, WebEndpoint):
        raise ConfigurationError(f"--header is for HTTP, not for {endpoint.label}")
    headers = {name.lower(): (name, value) for name, value in endpoint.headers.items()}
    for line in _header_lines(given):
        name, colon, value = line.partition(":")
        if not colon:
            raise ConfigurationError("--header must be written as 'NAME: VALUE' or @FILE")
        headers[name.strip().lower()] = (name.strip(), value.strip(" \t"))
    try:
        return msgspec.structs.replace(endpoint, headers=dict(headers.values()))
    except ConfigurationError as error:
        raise ConfigurationError(f"--header: {error}") from error


def _header_lines(given: Sequence[str]) -> list[str]:
    found: list[str] = []
    for text in given:
        if not text.startswith("@"):
            found.append(text)
            continue
        try:
            with open(text[1:], encoding="utf-8") as file:
                found += [line for line in file.read().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--header {text}: {error}") from error
    return found


def add_drain(parser: argparse.ArgumentParser, default: float) -> None:
    """Add ``--drain``."""
    parser.add_argument(
        "--drain",
        type=_seconds,
        default=default,
        metavar="SECONDS",
        help="how long the other direction may go on after one has ended, and work after"
        " SIGINT or SIGTERM (default: %(default)g)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def read_endpoint_argument(name: str, text: str, transport: str | None = None) -> Endpoint:
    """Parse an endpoint that was given as the argument `name`.

    Raises:
        ConfigurationError: It is none; the text starts with the argument's name.
    """
    try:
        return parse_endpoint(text, transport=transport)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def chosen_by_flags(
    transport: str | None,
    stdiocfg: str | None,
    environ: Mapping[str, str],
    channel: str | None = None,
) -> Endpoint:
    """The endpoint that these flags name, or else the environment.

    Args:
        transport: Of ``--transport``.
        stdiocfg: Of ``--stdiocfg``.
        environ: The environment.
        channel: Of ``--channel``.

    Raises:
        ConfigurationError: A flag or a variable is wrong; the text names it.
    """
    if transport is not None and transport not in {"websocket", *transport_names()}:
        known = ", ".join(transport_names())
        raise ConfigurationError(f"--transport: there is no {transport!r}, only: {known}")
    if channel is not None and (stdiocfg is not None or transport not in {None, "shm"}):
        other = "--stdiocfg" if stdiocfg is not None else f"--transport={transport}"
        raise ConfigurationError(f"--channel is for shared memory, not for {other}")
    if channel is not None or (transport == "shm" and stdiocfg is None):
        return read_endpoint_argument("--channel", channel or DEFAULT_CHANNEL_NAME, "shm")
    if stdiocfg is not None:
        if transport not in {None, "stdio"}:
            raise ConfigurationError(f"--stdiocfg says nothing about {transport}")
        try:
            return endpoint_from_environment(environ, stdiocfg, transport="stdio")
        except ConfigurationError as error:
            raise ConfigurationError(f"--stdiocfg: {error}") from error
    if transport is not None:
        if transport not in _TRANSPORTS_WITH_DEFAULTS:
            raise ConfigurationError(f"--transport={transport}: an endpoint must be given, too")
        environ = {**environ, "TRANSPORT": transport}
    return endpoint_from_environment(environ)


def listening_endpoints(
    listen: Sequence[str],
    transport: str | None,
    stdiocfg: str | None,
    environ: Mapping[str, str],
    channel: str | None = None,
) -> list[Endpoint]:
    """Where `serve` listens. Without any flag that is own stdin and stdout.

    A client's framing is found out by its first bytes, unless the endpoint names one.

    Raises:
        ConfigurationError: One is wrong or given twice, or nobody could ever connect to it.
    """
    if listen and stdiocfg is not None:
        raise ConfigurationError("--stdiocfg and --listen: give stdio's options in --listen")
    if listen and channel is not None:
        raise ConfigurationError("--channel and --listen: give it in --listen shm://NAME")
    if listen:
        found = [read_endpoint_argument("--listen", text, transport) for text in listen]
    else:
        found = [chosen_by_flags(transport, stdiocfg, environ, channel)]
    for endpoint in found:
        if isinstance(endpoint, ProcessEndpoint):
            raise ConfigurationError(
                f"--listen {endpoint}: a command is served with `-- COMMAND`, at `stdio:` alone"
                " or at other endpoints"
            )
        if isinstance(endpoint, MemoryEndpoint):
            raise ConfigurationError(
                f"--listen {endpoint}: no other process could ever connect to it"
            )
    places = [_place(endpoint) for endpoint in found]
    for index, (endpoint, place) in enumerate(zip(found, places, strict=True)):
        if place is not None and place in places[:index]:
            raise ConfigurationError(f"--listen {endpoint}: it is given twice")
    return [detecting(endpoint) for endpoint in found]


def with_admission(
    endpoints: Sequence[Endpoint], origins: Sequence[str], hosts: Sequence[str]
) -> list[Endpoint]:
    """The endpoints, those of HTTP with further origins and hosts that may call.

    Raises:
        ConfigurationError: One is malformed, or there is no HTTP endpoint.
    """
    if not origins and not hosts:
        return list(endpoints)
    found: list[Endpoint] = []
    for endpoint in endpoints:
        if isinstance(endpoint, WebEndpoint):
            endpoint = msgspec.structs.replace(
                endpoint,
                allowed_origins=(*endpoint.allowed_origins, *origins),
                allowed_hosts=(*endpoint.allowed_hosts, *hosts),
            )
        found.append(endpoint)
    if not any(isinstance(endpoint, WebEndpoint) for endpoint in found):
        raise ConfigurationError("--allow-origin and --allow-host are for HTTP endpoints")
    return found


def _place(endpoint: Endpoint) -> object:
    """What only one can listen at, whatever its options; None if any number can."""
    match endpoint:
        case StdioEndpoint():
            return "stdio"
        case TcpEndpoint(host=host, port=port) | WebEndpoint(host=host, port=port) if port:
            return host, port
        case ShmEndpoint(name=name, directory=directory):
            return directory, name
        case UnixEndpoint(path=path):
            return path if path.startswith("@") else os.path.abspath(path)
    return None


def detecting(endpoint: Endpoint) -> Endpoint:
    """The endpoint with its client's framing found out, unless it names another one."""
    options = endpoint.options
    if options.framing != "newline" or isinstance(endpoint, WebEndpoint):
        return endpoint
    return msgspec.structs.replace(
        endpoint, options=msgspec.structs.replace(options, framing="detect")
    )


def check_authenticated(endpoints: Sequence[Endpoint]) -> None:
    """Refuse to listen where strangers could connect.

    Own streams and Unix sockets have the operating system's permissions, HTTP and WebSocket
    can ask for a token, and TLS for a certificate.

    Raises:
        ConfigurationError: One is a TCP address that is not known to be loopback, and
            wants neither.
    """
    for endpoint in endpoints:
        if isinstance(endpoint, WebEndpoint) and endpoint.bearer_token is not None:
            continue
        if demands_certificate(endpoint):
            continue
        if isinstance(endpoint, TcpEndpoint | WebEndpoint) and not _is_loopback(endpoint):
            hint = "auth=bearer asks for a token, " * isinstance(endpoint, WebEndpoint)
            hint += "--client-ca for a certificate, " * uses_tls(endpoint)
            raise ConfigurationError(
                f"--listen {endpoint}: everybody who reaches this address could connect, as"
                f" nobody has to prove who they are; {hint}--allow-unauthenticated permits that"
            )


def _is_loopback(endpoint: TcpEndpoint | WebEndpoint) -> bool:
    """Whether all that `listen` would bind is loopback; it asks the system just as that does."""
    try:
        endpoint.host.encode("ascii")  # else it depends on who encodes the name
        found = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        addresses = [str(address[0]).partition("%")[0] for *_, address in found]
        return all(ipaddress.ip_address(address).is_loopback for address in addresses)
    except (OSError, ValueError):
        return False  # whatever it is, it is not known to be safe
