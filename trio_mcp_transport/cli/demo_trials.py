"""What `trio-mcp demo` tries: the rows of its table, and where each is served and reached."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from ..endpoint_parser import parse_endpoint
from ..endpoints import Endpoint, MemoryEndpoint, ProcessEndpoint, TcpEndpoint, UnixEndpoint
from ..http_endpoints import HttpEndpoint, HttpsEndpoint, SseEndpoint
from ..sansio.eras import Era
from ..shm_endpoints import ShmEndpoint
from ..tls_endpoints import TlsEndpoint, TlsUnixEndpoint
from ..tls_settings import TlsSettings
from ..web_endpoints import WebEndpoint
from ..websocket_endpoints import SecureWebSocketEndpoint, WebSocketEndpoint
from .cert import Files, make_certificates

__all__ = ["TRIALS", "Place", "Trial"]

_HOST = "127.0.0.1"


class Place:
    """A directory for sockets and certificates, which are made when they are first used.

    Args:
        directory: An empty one that nobody else can write to.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def path(self, name: str) -> str:
        """The path of a file."""
        return str(Path(self._directory, name))

    @cached_property
    def files(self) -> Files:
        """The certificates of an authority that was made for the occasion."""
        make_certificates(self._directory)
        return Files.within(self._directory)

    @property
    def server(self) -> TlsSettings:
        """A server that everybody may call."""
        return TlsSettings(cert_file=self.files.server_cert, key_file=self.files.server_key)

    @property
    def demanding_server(self) -> TlsSettings:
        """A server that wants to see a certificate."""
        return msgspec.structs.replace(self.server, client_auth="required", ca_file=self.files.ca)

    def client(self, *, has_certificate: bool) -> TlsSettings:
        """A client that trusts the server, with a certificate of its own or without."""
        settings = TlsSettings(ca_file=self.files.ca)
        if not has_certificate:
            return settings
        return msgspec.structs.replace(
            settings, cert_file=self.files.client_cert, key_file=self.files.client_key
        )


class Trial(NamedTuple):
    """What is tried.

    Attributes:
        transport: Its name among the transports that a machine has or has not.
        make_endpoint: Where the server listens, or the child that it is.
        eras: In which the conversation is held; the last is measured.
        tls: Whether it is encrypted, and whether both sides show certificates.
    """

    transport: str
    make_endpoint: Callable[[Place], Endpoint]
    eras: tuple[Era, ...] = ("legacy", "modern")
    tls: Literal["none", "server", "mutual"] = "none"

    @property
    def encrypted(self) -> bool:
        """Whether it needs the extra ``tls``."""
        return self.tls != "none"

    def reach(self, bound: str, place: Place) -> Endpoint:
        """The endpoint of a client, once the server listens."""
        endpoint = parse_endpoint(bound)
        if not self.encrypted:
            return endpoint
        assert isinstance(endpoint, TlsEndpoint | TlsUnixEndpoint | WebEndpoint)
        settings = place.client(has_certificate=self.tls == "mutual")
        return msgspec.structs.replace(endpoint, tls=settings)


def _child(_: Place) -> Endpoint:
    command = (sys.executable, "-m", __package__.partition(".")[0], "serve")
    return ProcessEndpoint(command=command, environment="inherit")


def _memory(_: Place) -> Endpoint:
    return MemoryEndpoint(name="trio-mcp-demo")


def _tcp(_: Place) -> Endpoint:
    return TcpEndpoint(host=_HOST, port=0)


def _tls(place: Place) -> Endpoint:
    return TlsEndpoint(host=_HOST, port=0, tls=place.server)


def _mutual_tls(place: Place) -> Endpoint:
    return TlsEndpoint(host=_HOST, port=0, tls=place.demanding_server)


def _unix(place: Place) -> Endpoint:
    return UnixEndpoint(path=place.path("demo.sock"))


def _shm(place: Place) -> Endpoint:
    return ShmEndpoint(name="demo", directory=place.path("shm"))


def _tls_unix(place: Place) -> Endpoint:
    return TlsUnixEndpoint(path=place.path("tls.sock"), tls=place.server)


def _http(_: Place) -> Endpoint:
    return HttpEndpoint(host=_HOST, port=0, path="/mcp")


def _https(place: Place) -> Endpoint:
    return HttpsEndpoint(host=_HOST, port=0, path="/mcp", tls=place.server)


def _sse(_: Place) -> Endpoint:
    return SseEndpoint(host=_HOST, port=0, path="/sse")


def _ws(_: Place) -> Endpoint:
    return WebSocketEndpoint(host=_HOST, port=0, path="/mcp")


def _wss(place: Place) -> Endpoint:
    return SecureWebSocketEndpoint(host=_HOST, port=0, path="/mcp", tls=place.server)


#: The rows, by their names, in the order of the table.
TRIALS = {
    "stdio": Trial("stdio", _child),
    "memory": Trial("memory", _memory),
    "tcp": Trial("tcp", _tcp),
    "tls": Trial("tcp", _tls, tls="server"),
    "tls-mutual": Trial("tcp", _mutual_tls, tls="mutual"),
    "unix": Trial("unix", _unix),
    "tls+unix": Trial("unix", _tls_unix, tls="server"),
    "shm": Trial("shm", _shm),
    "ws": Trial("websocket", _ws),
    "wss": Trial("websocket", _wss, tls="server"),
    "http": Trial("http", _http, ("modern",)),
    "http-legacy": Trial("http", _http, ("legacy",)),
    "https": Trial("http", _https, ("modern",), tls="server"),
    "sse+http": Trial("http", _sse, ("legacy",)),
}
