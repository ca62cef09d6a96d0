"""MCP over HTTP as one transport: what `registry` imports for its schemes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .http_server import listen, listen_with_tls

if TYPE_CHECKING:
    import trio

    from ..abc import EventHandler, MessageChannel
    from ..http_endpoints import HttpEndpoint
    from ..security.tls_contexts import TlsClient

__all__ = ["connect", "connect_with_tls", "listen", "listen_with_tls"]


async def connect(
    nursery: trio.Nursery, endpoint: HttpEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    """Make a channel to an endpoint; see `http_client.connect`."""
    from . import http_client

    return await http_client.connect(nursery, endpoint, on_event)


async def connect_with_tls(
    nursery: trio.Nursery,
    endpoint: HttpEndpoint,
    on_event: EventHandler | None,
    tls: TlsClient,
) -> MessageChannel:
    """Make a channel with a TLS client that the caller keeps; see `http_client.connect`."""
    from . import http_client

    return await http_client.connect(nursery, endpoint, on_event, tls)
