"""The transports: how an endpoint is connected to, and how one listens at it.

Called by `connect` and `serve`, and by whoever adds a transport. Those of this package
are imported when they are first used, so that importing the package costs little more
than importing Trio; how endpoints are parsed is registered one row further down, in
`endpoint_schemes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import NamedTuple, Self, TypeAlias, TypedDict, TypeGuard, TypeVar, cast

import msgspec
import trio

from . import security
from .abc import EventHandler, MessageChannel, MessageListener
from .endpoint_parser import EndpointSpec, parse_endpoint
from .endpoint_schemes import register_scheme, unregister_scheme
from .endpoints import Endpoint, ProcessEndpoint
from .errors import ConfigurationError
from .limits import Framing, WhenFull
from .tls_endpoints import TlsEndpoint, TlsUnixEndpoint
from .web_endpoints import WebEndpoint

__all__ = [
    "ChannelOverrides",
    "ConnectFunction",
    "ListenFunction",
    "StderrHandler",
    "TransportRegistration",
    "connect_endpoint",
    "listen_endpoint",
    "register_transport",
    "resolve_endpoint",
    "uses_tls",
]

E = TypeVar("E", bound=Endpoint)

#: Makes a channel; its background tasks run in the nursery.
ConnectFunction: TypeAlias = Callable[
    [trio.Nursery, E, EventHandler | None], Awaitable[MessageChannel]
]
#: Gets each line that a child process writes to stderr.
StderrHandler: TypeAlias = Callable[[str], object]
#: Begins to listen.
ListenFunction: TypeAlias = Callable[[E, EventHandler | None], Awaitable[MessageListener]]


_ConnectWithTls: TypeAlias = Callable[
    [trio.Nursery, Endpoint, EventHandler | None, "security.TlsClient"], Awaitable[MessageChannel]
]
_ListenWithTls: TypeAlias = Callable[
    [Endpoint, EventHandler | None, "security.TlsServer"], Awaitable[MessageListener]
]


class ChannelOverrides(TypedDict, total=False):
    """The fields of `ChannelOptions`, as keywords: each beats what the endpoint says."""

    framing: Framing
    max_message_bytes: int
    outbox_bytes: int
    inbox_bytes: int
    when_full: WhenFull
    connect_timeout: float
    handshake_timeout: float
    idle_read_timeout: float
    inbox_stall_timeout: float
    write_timeout: float
    close_timeout: float
    request_timeout: float


class _Transport(NamedTuple):
    connect: ConnectFunction[Endpoint] | None
    listen: ListenFunction[Endpoint] | None
    connect_with_tls: _ConnectWithTls | None = None
    listen_with_tls: _ListenWithTls | None = None


#: By scheme. Those of this package are the names of modules, imported when they are used.
_transports: dict[str, _Transport | str] = {
    "http": ".transports.http",
    "https": ".transports.http",
    "memory": ".transports.memory",
    "shm": ".transports.shared_memory",
    "stdio": ".transports.stdio",
    "tcp": ".transports.tcp",
    "tls": ".transports.tls",
    "tls+unix": ".transports.tls",
    "sse+http": ".transports.http",
    "sse+https": ".transports.http",
    "unix": ".transports.unix",
    "ws": ".transports.websocket",
    "wss": ".transports.websocket",
}


def _find(scheme: str) -> _Transport:
    found = _transports.get(scheme, _Transport(None, None))
    if isinstance(found, str):
        module = import_module(found, __package__)
        return _Transport(
            module.connect,
            module.listen,
            getattr(module, "connect_with_tls", None),
            getattr(module, "listen_with_tls", None),
        )
    return found


def uses_tls(endpoint: Endpoint) -> bool:
    """Whether connections of this endpoint are encrypted by TLS."""
    if isinstance(endpoint, WebEndpoint):
        return endpoint.uses_tls
    return isinstance(endpoint, TlsEndpoint | TlsUnixEndpoint)


def _check_tls(endpoint: Endpoint) -> None:
    """Refuse a TLS client or server beside an endpoint that has no use for it."""
    if not uses_tls(endpoint):
        raise ConfigurationError(f"tls is for endpoints with TLS, not for {endpoint.label}")
    assert isinstance(endpoint, TlsEndpoint | TlsUnixEndpoint | WebEndpoint)
    for field in msgspec.structs.fields(endpoint.tls):
        if getattr(endpoint.tls, field.name) != field.default:
            raise ConfigurationError(
                f"{endpoint.label}: {field.name} is a matter of the `tls=` given beside it"
            )


def _is_child(endpoint: Endpoint) -> TypeGuard[ProcessEndpoint]:
    # It shares the scheme with this process's own stdio, is only connected to, and has a
    # parameter of its own. Another transport's endpoint may derive from its.
    return isinstance(endpoint, ProcessEndpoint) and endpoint.scheme == "stdio"


class TransportRegistration:
    """A transport that was registered; also a context manager that takes it back.

    Attributes:
        scheme: Its name.
    """

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self._active = True

    def unregister(self) -> None:
        """Forget the transport. Idempotent; channels that are open go on."""
        if self._active:
            self._active = False
            unregister_scheme(self.scheme)
            del _transports[self.scheme]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unregister()


def register_transport(
    scheme: str,
    parse: Callable[[str, Mapping[str, object]], E],
    connect: ConnectFunction[E] | None,
    listen: ListenFunction[E] | None,
) -> TransportRegistration:
    """Add a transport, which then works in every function and command, by its scheme.

    Args:
        scheme: Its name and that of its URLs: lower-case letters, digits, ``+.-``.
        parse: ``parse(target, parameters)`` makes an endpoint, of a subclass of
            `Endpoint` whose `scheme` is this one. The target is the text between the
            colon and the question mark, undecoded; the parameters are a mapping of
            options, str where they come from text. `read_endpoint` does most of it.
        connect: ``await connect(nursery, endpoint, on_event)`` returns a channel. It must
            leave nothing behind when it is cancelled and raise `ConnectFailed` for
            errors of the operating system; the connect timeout is not its business.
            None if the transport cannot connect.
        listen: ``await listen(endpoint, on_event)`` returns a listener, or None if the
            transport cannot listen.

    Returns:
        The registration, to take it back; usable as a context manager.

    Raises:
        ConfigurationError: The scheme is malformed or taken.
    """
    register_scheme(scheme, parse)
    # Only endpoints of that scheme come here, and `parse` made them.
    _transports[scheme] = _Transport(
        cast("ConnectFunction[Endpoint] | None", connect),
        cast("ListenFunction[Endpoint] | None", listen),
    )
    return TransportRegistration(scheme)


async def connect_endpoint(
    nursery: trio.Nursery,
    endpoint: Endpoint,
    on_event: EventHandler | None,
    on_stderr: StderrHandler | None = None,
    tls: security.TlsClient | None = None,
) -> MessageChannel:
    """Connect with the endpoint's transport, however long that takes.

    Raises:
        ConfigurationError: Its transport cannot connect, or has no use for `on_stderr` or
            `tls`.
        ConnectFailed: There is no connection.
    """
    if tls is not None:
        _check_tls(endpoint)
    if _is_child(endpoint):
        from .transports.process import connect_process

        return await connect_process(nursery, endpoint, on_event=on_event, on_stderr=on_stderr)
    if on_stderr is not None:
        raise ConfigurationError(f"on_stderr is for child processes, not for {endpoint.label}")
    transport = _find(endpoint.scheme)
    connect = transport.connect
    if tls is not None and transport.connect_with_tls is not None:
        return await transport.connect_with_tls(nursery, endpoint, on_event, tls)
    if connect is None or tls is not None:
        raise ConfigurationError(f"no transport can connect to {endpoint.label}")
    return await connect(nursery, endpoint, on_event)


async def listen_endpoint(
    endpoint: Endpoint, on_event: EventHandler | None, tls: security.TlsServer | None = None
) -> MessageListener:
    """Begin to listen with the endpoint's transport.

    Raises:
        ConfigurationError: Its transport cannot listen, or has no use for `tls`.
        ConnectFailed: The endpoint cannot be listened at.
    """
    if _is_child(endpoint):
        raise ConfigurationError(
            f"{endpoint.label}: a child process is connected to; to be served over stdio,"
            " listen on 'stdio:' inside of it"
        )
    if tls is not None:
        _check_tls(endpoint)
    transport = _find(endpoint.scheme)
    listen = transport.listen
    if tls is not None and transport.listen_with_tls is not None:
        return await transport.listen_with_tls(endpoint, on_event, tls)
    if listen is None or tls is not None:
        raise ConfigurationError(f"no transport can listen at {endpoint.label}")
    return await listen(endpoint, on_event)


def resolve_endpoint(spec: EndpointSpec, overrides: ChannelOverrides) -> Endpoint:
    """Parse an endpoint and set the fields of its options that are given beside it.

    Raises:
        ConfigurationError: The endpoint or an override is wrong.
    """
    endpoint = parse_endpoint(spec)
    if not overrides:
        return endpoint
    options = msgspec.structs.replace(endpoint.options, **overrides)
    return msgspec.structs.replace(endpoint, options=options)
