"""Endpoints of byte streams with TLS around them: ``tls://HOST:PORT``, ``tls+unix:/PATH``.

Built by `endpoint_schemes` from text, or by hand; read by `transports.tls`. Pure.
"""

from __future__ import annotations

from .endpoints import TcpEndpoint, UnixEndpoint
from .tls_settings import TlsSettings

__all__ = ["DEFAULT_UNIX_SERVER_NAME", "TlsEndpoint", "TlsUnixEndpoint"]

#: The name that a server's certificate must have where the address says none: whoever is at
#: a Unix socket is on this machine.
DEFAULT_UNIX_SERVER_NAME = "localhost"


class TlsEndpoint(TcpEndpoint, frozen=True):
    """TLS over TCP: ``tls://HOST:PORT``. Beside these it has the fields of `TcpEndpoint`.

    Attributes:
        tls: The certificates of both sides, and what is demanded of them.
    """

    scheme = "tls"
    secret_fields = TlsSettings.secrets

    tls: TlsSettings = TlsSettings()


class TlsUnixEndpoint(UnixEndpoint, frozen=True):
    """TLS over a Unix socket: ``tls+unix:/PATH``. It has the fields of `UnixEndpoint` as well.

    Attributes:
        tls: As for `TlsEndpoint`. The server's certificate must be for ``localhost`` unless
            `server_name` says what else.
    """

    scheme = "tls+unix"
    secret_fields = TlsSettings.secrets

    tls: TlsSettings = TlsSettings()
