"""Tunnels through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6).

Used by `web_stream` where an endpoint says ``proxy=``. What goes through a tunnel is the
client's own TLS or HTTP; the proxy sees where to, and who asks. The password is never shown.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Self

import msgspec
import trio

from ..endpoint_values import percent_decode
from ..endpoints import join_host_port
from ..errors import ConfigurationError, ConnectFailed, RemoteProtocolError
from ..http_origins import parse_authority
from ..sansio.headers import Headers
from ..sansio.http1 import RequestHead, ResponseHead
from ..sansio.http1_client import Http1Client
from ..sansio.machine import NEED_DATA
from .http_round_trip import HttpStream

__all__ = ["HttpProxy", "open_tunnel"]

_DEFAULT_PORT = 80


class HttpProxy(msgspec.Struct, frozen=True):
    """Where a proxy is, and who asks it.

    Attributes:
        host: Name or address, IPv6 without brackets.
        port: Its port.
        credentials: The value of Proxy-Authorization; None for none. Never shown.
    """

    host: str
    port: int
    credentials: str | None = None

    def __repr__(self) -> str:
        return f"<HttpProxy {join_host_port(self.host, self.port)}>"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``http://[USER:PASSWORD@]HOST[:PORT]``, percent-encoded; the port is 80 else.

        Raises:
            ConfigurationError: It is no such thing. The text is not repeated.
        """
        scheme, _, rest = text.partition("://")
        user, _, authority = rest.rpartition("@")
        found = parse_authority(authority.removesuffix("/"), _DEFAULT_PORT)
        if scheme.lower() != "http" or found is None:
            raise ConfigurationError("proxy must be http://HOST:PORT")
        credentials = None
        if user:
            # RFC 7617, section 2: a colon parts the two, so that a user cannot have one.
            name, _, password = user.partition(":")
            pair = f"{percent_decode('proxy', name)}:{percent_decode('proxy', password)}"
            credentials = f"Basic {b64encode(pair.encode()).decode()}"
        return cls(*found, credentials)


async def open_tunnel(stream: HttpStream, proxy: HttpProxy, host: str, port: int) -> None:
    """Have the proxy at the other end connect to a host; the stream then is one to that host.

    The stream is to be closed by the caller if this raises, also if it is cancelled.

    Args:
        stream: Connected to the proxy, fresh.
        proxy: Who asks.
        host: Where to, as a name that the proxy looks up, or an address.
        port: Its port.

    Raises:
        ConnectFailed: The proxy refused, with its status in the text; or is no proxy.
    """
    authority = join_host_port(host, port)
    headers = [("Host", authority)]
    if proxy.credentials is not None:
        headers.append(("Proxy-Authorization", proxy.credentials))
    where = f"the proxy {join_host_port(proxy.host, proxy.port)}"
    machine = Http1Client()
    request = machine.send_request(RequestHead("CONNECT", authority, Headers(headers)))
    try:
        await stream.send_all(request)
        head = await _read_head(stream, machine)
    except (trio.BrokenResourceError, RemoteProtocolError) as error:
        raise ConnectFailed(f"{where} gave no tunnel to {authority}: {error}") from error
    if not 200 <= head.status < 300:
        raise ConnectFailed(
            f"{where} refused a tunnel to {authority}: {head.status} {head.reason}".rstrip()
            + _advice(head.status, proxy)
        )
    if machine.trailing_data != (b"", False):
        # Nobody there speaks first, neither with TLS nor with HTTP.
        raise ConnectFailed(f"{where} sent what nobody asked for, or closed the tunnel at once")


async def _read_head(stream: HttpStream, machine: Http1Client) -> ResponseHead:
    """The head of the final response, as big as the machine allows."""
    while not isinstance(event := machine.next_event(), ResponseHead):
        if event is NEED_DATA:
            data = await stream.receive_some()
            if data:
                machine.receive_data(data)
            else:
                machine.receive_eof()
    return event


def _advice(status: int, proxy: HttpProxy) -> str:
    if status != 407:
        return ""
    if proxy.credentials is None:
        return " (it wants to know who asks: proxy=http://USER:PASSWORD@HOST:PORT)"
    return " (it does not accept this user and password)"
