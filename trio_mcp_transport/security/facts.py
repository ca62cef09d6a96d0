"""What is known of the connection that an HTTP request came on.

Made by whoever speaks HTTP (the Trio server, the ASGI application), read by `admission`
and the other policies. Plain data: nothing here asks a socket.
"""

from __future__ import annotations

import msgspec

from ..tls_facts import TlsFacts

__all__ = ["Address", "ConnectionFacts"]

#: A host without brackets and a port; the path of a Unix socket; or None, not known.
Address = tuple[str, int] | str | None


class ConnectionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted connection, as its socket tells, or as a trusted proxy does.

    Attributes:
        local_address: The accepted socket's own end (not what the listener was bound to):
            host and port, the path of a Unix socket, or None if it cannot be read, which
            is taken for the worst case.
        peer_address: The other end of the same socket.
        scheme: ``http`` or ``https``: what the client used, as far as is known.
        client_address: Where the client really is: the peer, or what `proxies` found.
            Text without a port; None if it is not known.
        tls: How the connection itself is protected, and the certificate of whoever made it,
            which may be a proxy; None without TLS, or where whoever speaks it does not tell.
    """

    local_address: Address = None
    peer_address: Address = None
    scheme: str = "http"
    client_address: str | None = None
    tls: TlsFacts | None = None
