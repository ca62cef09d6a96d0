"""The certificates that `serve` is given, and reading them again on SIGHUP.

What stands in an endpoint's own options beats the flags. Endpoints whose options for TLS are
the same have one server side, which is what is read again.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import trio

from ..endpoints import Endpoint
from ..errors import ConfigurationError
from ..registry import uses_tls
from ..security.tls_contexts import TlsServer
from ..tls_endpoints import TlsEndpoint, TlsUnixEndpoint
from ..tls_settings import TlsSettings
from ..transports.web_stream import make_tls_server
from ..web_endpoints import WebEndpoint
from .terminal import tell

__all__ = [
    "TlsGroup",
    "add_tls_flags",
    "demands_certificate",
    "group_by_tls",
    "reload_on_hangup",
    "with_tls",
]

#: What has the options of TLS; those of the web have them for the sake of https and wss.
_Encrypted: TypeAlias = TlsEndpoint | TlsUnixEndpoint | WebEndpoint


class TlsGroup(NamedTuple):
    """Endpoints that are served alike.

    Attributes:
        endpoints: The endpoints; with a `server` they have no options of TLS any more.
        server: Their side of TLS, or None if they have none.
    """

    endpoints: list[Endpoint]
    server: TlsServer | None


def add_tls_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--tls-cert``, ``--tls-key`` and ``--client-ca``."""
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="the certificate of endpoints with TLS (tls://, tls+unix:, https://, wss://), PEM,"
        " with those above it; also an endpoint's own cert_file=",
    )
    parser.add_argument(
        "--tls-key",
        metavar="FILE",
        help="its private key (default: it is in the same file); also key_file=",
    )
    parser.add_argument(
        "--client-ca",
        metavar="FILE",
        help="clients must have a certificate of these authorities; also client_ca=",
    )


def with_tls(
    endpoints: Sequence[Endpoint], cert: str | None, key: str | None, client_ca: str | None
) -> list[Endpoint]:
    """The endpoints, those with TLS with what the flags say, unless they say it themselves.

    Raises:
        ConfigurationError: No endpoint has TLS, or a key has no certificate.
    """
    if cert is None and key is None and client_ca is None:
        return list(endpoints)
    if cert is None and key is not None:
        raise ConfigurationError("--tls-key: give its certificate, too: --tls-cert FILE")
    if not any(map(uses_tls, endpoints)):
        raise ConfigurationError(
            "--tls-cert, --tls-key and --client-ca are for endpoints with TLS:"
            " tls://, tls+unix:, https://, wss://"
        )
    return [_filled(endpoint, cert, key, client_ca) for endpoint in endpoints]


def _filled(
    endpoint: Endpoint, cert: str | None, key: str | None, client_ca: str | None
) -> Endpoint:
    if not uses_tls(endpoint):
        return endpoint
    assert isinstance(endpoint, _Encrypted)
    settings = endpoint.tls
    changes: dict[str, object] = {}
    if cert is not None and not settings.has_certificate:
        changes |= {"cert_file": cert, "key_file": key}
    if client_ca is not None and not (settings.ca_file or settings.ca_path or settings.ca_pem):
        changes["ca_file"] = client_ca
        if settings.client_auth == "none":
            changes["client_auth"] = "required"
    return _replaced(endpoint, msgspec.structs.replace(settings, **changes))


def _replaced(endpoint: _Encrypted, settings: TlsSettings) -> Endpoint:
    return msgspec.structs.replace(endpoint, tls=settings)


def demands_certificate(endpoint: Endpoint) -> bool:
    """Whether only clients with a certificate of a known authority come in."""
    if not uses_tls(endpoint):
        return False
    assert isinstance(endpoint, _Encrypted)
    return endpoint.tls.client_auth == "required"


def group_by_tls(endpoints: Sequence[Endpoint]) -> list[TlsGroup]:
    """Make the server side of TLS for those that have it, one for those that are alike.

    Raises:
        ConfigurationError: A certificate is missing or cannot be used.
        FeatureUnavailable: The extra ``tls`` is not installed.
    """
    plain = TlsGroup([], None)
    groups: dict[tuple[bool, TlsSettings], TlsGroup] = {}
    for endpoint in endpoints:
        if not uses_tls(endpoint):
            plain.endpoints.append(endpoint)
            continue
        assert isinstance(endpoint, _Encrypted)
        # What is for HTTP says so in the handshake.
        key = (isinstance(endpoint, WebEndpoint), endpoint.tls)
        if key not in groups:
            groups[key] = TlsGroup([], _make_server(endpoint))
        groups[key].endpoints.append(_replaced(endpoint, TlsSettings()))
    return [group for group in (plain, *groups.values()) if group.endpoints]


def _make_server(endpoint: _Encrypted) -> TlsServer | None:
    try:
        if isinstance(endpoint, WebEndpoint):
            return make_tls_server(endpoint, None)
        return TlsServer(endpoint.tls)
    except ConfigurationError as error:
        raise ConfigurationError(f"--listen {endpoint}: {error}") from error


async def reload_on_hangup(
    servers: Sequence[TlsServer],
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read all certificates again on each SIGHUP, until the scope is cancelled that it gives.

    What cannot be used is told, and the certificate before stays in use. Connections that
    are open keep theirs.
    """
    with trio.CancelScope() as scope, trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started(scope)
        async for _ in signals:
            for server in servers:
                try:
                    server.reload()
                except ConfigurationError as error:
                    tell(f"SIGHUP: the certificates before stay in use: {error}")
                else:
                    tell("SIGHUP: certificates are read again")
