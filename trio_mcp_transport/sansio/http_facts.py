"""What is known about the connection that an HTTP request came over.

Made by whoever accepted the connection; read by admission (`security`), by the endpoint
and, through `ChannelContext`, by handlers. Pure data.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["ConnectionFacts", "HttpScheme"]

HttpScheme = Literal["http", "https"]


class ConnectionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The two ends of one connection, as the operating system tells them.

    Attributes:
        local_address: IP address and port of the socket that accepted; None where there is
            none (a Unix socket) or it cannot be read. Decisions about trust stand on this
            one, never on what was asked to be bound.
        peer_address: IP address and port of the other end, likewise. Behind a proxy it is
            the proxy's.
        scheme: Whether the connection is encrypted up to this process.
    """

    local_address: tuple[str, int] | None = None
    peer_address: tuple[str, int] | None = None
    scheme: HttpScheme = "http"
