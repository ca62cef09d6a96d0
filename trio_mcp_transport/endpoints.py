"""Endpoints: where and how to connect or listen, as frozen plain data.

Built by `endpoint_parser.parse_endpoint` or by hand, read by the transports. Pure: an
endpoint opens nothing. Each field is checked when it is built, so a transport can trust
them; `str(endpoint)` is the canonical text, which parses back to an equal endpoint.

An endpoint never shows the value of an environment variable, neither in `str` nor in
`repr`: a printed child process reads ``environment_vars.TOKEN=***``, and the parser
refuses ``***``, so that the printed form cannot start a child with a wrong secret.
"""

from __future__ import annotations

import ipaddress
import math
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import msgspec

from .compression_settings import CompressionSettings
from .endpoint_values import (
    OCTAL,
    declared_types,
    nested_structs,
    percent_encode,
    struct_fields,
    write_value,
)
from .errors import ConfigurationError
from .limits import DEFAULT_MAX_CONNECTIONS, ChannelOptions

__all__ = [
    "Endpoint",
    "EnvironmentPolicy",
    "MemoryEndpoint",
    "ProcessEndpoint",
    "StderrPolicy",
    "StdioEndpoint",
    "TcpEndpoint",
    "UnixEndpoint",
    "check_host",
    "join_host_port",
]

EnvironmentPolicy = Literal["minimal", "inherit", "exact"]
StderrPolicy = Literal["inherit", "capture", "drop"]

#: What stands for the value of an environment variable wherever an endpoint is shown.
HIDDEN = "***"
#: Bytes of a socket's path, without its final NUL: sun_path has 108 bytes on Linux
#: (unix(7)) and 104 on the BSDs and macOS.
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Permissions = Annotated[int, msgspec.Meta(ge=0, le=0o777, extra=OCTAL)]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all endpoints, also of those for transports made elsewhere.

    A subclass names its `scheme`, the fields that its `target` writes, and its own
    fields; it gets checking, text form, equality and hash from here. Field types are
    limited to bool, int, float (seconds), str, literals of str, these or None, and
    ``tuple[str, ...]`` of texts without commas; other types must be part of the target. A
    field may also be a frozen struct of such fields, as `options` is: in text and in
    parameters its fields stand beside the endpoint's own, so no two may have one name.

    Attributes:
        options: Limits and timeouts of each channel made from this endpoint.
    """

    scheme: ClassVar[str]
    target_fields: ClassVar[tuple[str, ...]] = ()
    #: Parameters whose values are never shown, those of nested structs among them.
    secret_fields: ClassVar[tuple[str, ...]] = ()

    options: ChannelOptions = ChannelOptions()

    def __post_init__(self) -> None:
        """Check every field against its declared type.

        Raises:
            ConfigurationError: One does not match; the text starts with its name.
        """
        nested = nested_structs(type(self))
        for field in struct_fields(type(self)):
            value = getattr(self, field.name)
            if field.name in nested:
                wanted = nested[field.name]
                if not isinstance(value, wanted):
                    raise ConfigurationError(
                        f"{field.name} must be {wanted.__name__}, not {type(value).__name__}"
                    )
                continue
            try:
                # Also copies: a list becomes the declared tuple, a dict a dict of our own.
                checked = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigurationError(_complaint(field, value, error)) from None
            msgspec.structs.force_setattr(self, field.name, checked)

    def target(self) -> str:
        """What stands between ``scheme:`` and the options, percent-encoded."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its target is written")

    def parameters(self) -> dict[str, str]:
        """The options as text, by name, where they differ from the default."""
        nested = nested_structs(type(self))
        found = dict(_parameters(self, skip=(*nested, *self.target_fields)))
        for name in nested:
            found |= dict(_parameters(getattr(self, name)))
        return found | {name: HIDDEN for name in self.secret_fields if name in found}

    def query(self) -> str:
        """`parameters` as they stand in a URL, with the question mark; or nothing."""
        pairs = (f"{key}={percent_encode(value)}" for key, value in self.parameters().items())
        joined = "&".join(pairs)
        return f"?{joined}" if joined else ""

    @property
    def label(self) -> str:
        """What errors and logs call it: no options, and nothing that may be a secret."""
        return f"{self.scheme}:{self.target()}"

    def __str__(self) -> str:
        return f"{self.scheme}:{self.target()}{self.query()}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self)!r}>"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        # msgspec's own would show every field, environment values among them.
        return [("endpoint", str(self))]

    def __hash__(self) -> int:
        # By text, because a field may be a dict. Equal endpoints have equal text.
        return hash((type(self), str(self)))


class StdioEndpoint(Endpoint, frozen=True):
    """This process's own stdin and stdout: ``stdio:``."""

    scheme = "stdio"

    def target(self) -> str:
        """Nothing: there is only one."""
        return ""


class ProcessEndpoint(Endpoint, frozen=True):
    """A child process spoken to over its stdin and stdout: ``stdio:COMMAND ARGUMENTS``.

    A channel to it never hides an end; `run_with_restarts` starts it again.

    Options stand before the command, as everything behind it belongs to it:
    ``stdio:?stderr=drop&working_directory=/srv python server.py``.

    Attributes:
        command: The program and its arguments. No shell is involved.
        working_directory: Where the child starts; None for the parent's.
        environment_vars: Variables that are set for the child.
        environment: What those are added to: ``minimal`` (what a program needs to start,
            such as PATH and HOME), ``inherit`` (the whole environment of the parent), or
            ``exact`` (nothing).
        stderr: ``inherit`` the parent's, ``capture`` it line by line, or ``drop`` it.
        startup_timeout: Seconds from the first byte written to the child until it must
            have written one itself. No limit by default: a server may be fetched from
            the network first.
        shutdown_timeout: Seconds for each step of ending the child (close its stdin,
            SIGTERM, SIGKILL).
        supervise: A helper process kills the child's process group even when this
            process is killed by SIGKILL. POSIX only.
    """

    scheme = "stdio"
    target_fields = ("command", "environment_vars")

    command: tuple[str, ...]
    working_directory: str | None = None
    environment_vars: dict[str, str] = {}
    environment: EnvironmentPolicy = "minimal"
    stderr: StderrPolicy = "inherit"
    startup_timeout: _Seconds = math.inf
    shutdown_timeout: _Seconds = 5.0
    supervise: bool = False

    def __post_init__(self) -> None:
        """Check the command and the environment.

        Raises:
            ConfigurationError: As for every endpoint; values of variables are not shown.
        """
        super().__post_init__()
        if not self.command or not self.command[0]:
            raise ConfigurationError("command must not be empty")
        _refuse_nul("command", *self.command)
        if self.working_directory is not None:
            if not self.working_directory:
                raise ConfigurationError("working_directory must not be empty")
            _refuse_nul("working_directory", self.working_directory)
        for name, value in self.environment_vars.items():
            if not name or "=" in name or "\0" in name:
                raise ConfigurationError(
                    f"environment_vars: {name!r} cannot be the name of a variable"
                )
            _refuse_nul(f"environment_vars.{name}", value)

    def target(self) -> str:
        """The command line, quoted as a POSIX shell would."""
        return shlex.join(self.command)

    def parameters(self) -> dict[str, str]:
        """The options as text, with the values of variables hidden."""
        hidden = {f"environment_vars.{name}": HIDDEN for name in sorted(self.environment_vars)}
        return super().parameters() | hidden

    @property
    def label(self) -> str:
        """The program alone, as its arguments may be secrets."""
        return f"stdio:{shlex.quote(self.command[0])}{' ...' if self.command[1:] else ''}"

    def __str__(self) -> str:
        query, target = self.query(), self.target()
        if query:
            return f"stdio:{query} {target}"
        # A command that starts with a question mark would read as options.
        return f"stdio:{' ' if target.startswith('?') else ''}{target}"


class MemoryEndpoint(Endpoint, frozen=True):
    """A name inside this process: ``memory:NAME``.

    Attributes:
        name: Any text but the empty one.
        max_messages: Messages that may wait in each direction.
    """

    scheme = "memory"
    target_fields = ("name",)

    name: str
    max_messages: _Positive = 64

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ConfigurationError: As for every endpoint.
        """
        super().__post_init__()
        if not self.name:
            raise ConfigurationError("name must not be empty")

    def target(self) -> str:
        """The name, percent-encoded."""
        return percent_encode(self.name, safe="")


class TcpEndpoint(Endpoint, frozen=True):
    """A TCP address: ``tcp://HOST:PORT``, with an IPv6 address in brackets.

    Attributes:
        host: Name or address, IPv6 without brackets. To listen on every interface, say
            ``0.0.0.0`` or ``::``.
        port: 0 lets the system choose when listening.
        nodelay: Send small messages at once (TCP_NODELAY).
        keep_alive: Seconds of silence before the kernel probes whether the peer is still
            there; `math.inf` switches that off.
        buffer_size: Bytes of the kernel's send and receive buffers; None leaves them alone.
        max_connections: Connections served at a time; more wait in the kernel's queue.
        compression: What goes over the wire may be compressed, if the peer can as well.
    """

    scheme = "tcp"
    target_fields = ("host", "port")

    host: str
    port: _Port
    nodelay: bool = True
    keep_alive: _Seconds = 60.0
    buffer_size: _Positive | None = None
    max_connections: _Positive = DEFAULT_MAX_CONNECTIONS
    compression: CompressionSettings = CompressionSettings()

    def __post_init__(self) -> None:
        """Check the host.

        Raises:
            ConfigurationError: As for every endpoint.
        """
        super().__post_init__()
        check_host(self.host)

    @property
    def bind_address(self) -> str:
        """``HOST:PORT``, with brackets around an IPv6 address."""
        return join_host_port(self.host, self.port)

    def target(self) -> str:
        """``//HOST:PORT``; the percent sign of an IPv6 zone is encoded (RFC 6874)."""
        host = percent_encode(self.host, safe=":")
        return "//" + join_host_port(host, self.port)


class UnixEndpoint(Endpoint, frozen=True):
    """A Unix socket: ``unix:/PATH``, or ``unix:@NAME`` for Linux's abstract names.

    Attributes:
        path: The socket's path, or ``@`` and an abstract name. A relative path that
            starts with ``@`` is written ``./@...``.
        permissions: Mode of the socket file, whatever the umask is; octal in text.
        owner: User that the socket file is given to, by name or number; None leaves it. The
            directory may be theirs too.
        group: Likewise its group, which may then write to the directory too.
        cleanup_on_drop: Remove the socket file when listening ends.
        check_peer: Refuse a peer that runs neither as this user nor as root.
        buffer_size: Bytes of the kernel's send and receive buffers; None leaves them alone.
        max_connections: Connections served at a time; more wait in the kernel's queue.
        compression: What goes over the wire may be compressed, if the peer can as well.
    """

    scheme = "unix"
    target_fields = ("path",)

    path: str
    permissions: _Permissions = 0o600
    owner: str | None = None
    group: str | None = None
    cleanup_on_drop: bool = True
    check_peer: bool = False
    buffer_size: _Positive | None = None
    max_connections: _Positive = DEFAULT_MAX_CONNECTIONS
    compression: CompressionSettings = CompressionSettings()

    def __post_init__(self) -> None:
        """Check the path and its length in bytes.

        Raises:
            ConfigurationError: As for every endpoint.
        """
        super().__post_init__()
        if self.path in {"", "@"}:
            raise ConfigurationError("path must not be empty")
        _refuse_nul("path", self.path)
        # An abstract name has no final NUL but a leading one, which "@" stands for.
        limit = MAX_SOCKET_PATH_BYTES + self.is_abstract
        size = len(os.fsencode(self.path))
        if size > limit:
            raise ConfigurationError(
                f"path of {size} bytes is over the {limit} bytes that a Unix socket can have"
            )
        for name in ("owner", "group"):
            if getattr(self, name) == "":
                raise ConfigurationError(f"{name} must not be empty")

    @property
    def is_abstract(self) -> bool:
        """Whether it is one of Linux's names outside the file system."""
        return self.path.startswith("@")

    def target(self) -> str:
        """The path, percent-encoded."""
        path = percent_encode(self.path)
        # "//tmp" alone would read as the host "tmp".
        return f"//{path}" if path.startswith("//") else path


def join_host_port(host: str, port: int) -> str:
    """``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parameters(struct: msgspec.Struct, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    declared = declared_types(type(struct))
    for field in struct_fields(type(struct)):
        value = getattr(struct, field.name)
        if field.name not in skip and value != field.default:
            name = field.encode_name
            yield name, write_value(value, declared[name])


def _complaint(
    field: msgspec.structs.FieldInfo, value: object, error: msgspec.ValidationError
) -> str:
    declared = msgspec.inspect.type_info(field.type)
    if isinstance(declared, msgspec.inspect.LiteralType):
        return f"{field.name} must be one of {', '.join(map(str, declared.values))}, not {value!r}"
    if isinstance(declared, msgspec.inspect.Metadata) and declared.extra == OCTAL:
        shown = f"{value} (octal {value:o})" if type(value) is int else type(value).__name__
        return f"{field.name}: {error}, not {shown}"
    # Only plain numbers are repeated: other values may be secrets or very long.
    shown = f", not {value}" if isinstance(value, int | float) else ""
    return f"{field.name}: {error}{shown}"


def _refuse_nul(name: str, *texts: str) -> None:
    if any("\0" in text for text in texts):
        raise ConfigurationError(f"{name} must not contain a NUL character")


def check_host(host: str) -> None:
    """Refuse what cannot be a host.

    Raises:
        ConfigurationError: It is neither a name nor an address.
    """
    if not host:
        raise ConfigurationError("host must not be empty")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigurationError("host has colons but is not an IPv6 address") from None
    elif any(character in "/\\@?#[]%" or character <= " " for character in host):
        # Not shown, because what stands before an "@" may be a password.
        raise ConfigurationError("host has a character that no host name has")
