"""Connecting to an MCP server over HTTP: an endpoint to a channel.

`http` calls `connect` for its schemes; `connect.py` calls `connect_with` where the user
brings a client. Nothing is sent here, but for HTTP+SSE, whose
stream must be there before anything can be said.
"""

from __future__ import annotations

import math

import trio

from ..abc import ChannelContext, EventHandler, MessageChannel
from ..http_endpoints import HttpEndpoint
from ..sansio.headers import Headers
from ..sansio.mcp_http.client_options import HttpClientOptions
from ..security.tls_contexts import TlsClient
from .http_client_channel import HttpClientChannel
from .http_compression import CodingSender
from .http_diagnostics import DiagnosingSender, diagnosed_open_stream, make_tell
from .http_pool import DEFAULT_IDLE_EXPIRY, HttpPool
from .http_proxy import HttpProxy
from .http_sender import HttpSender
from .http_settings import check_connecting
from .web_stream import make_tls_client

__all__ = ["client_options", "connect", "connect_with"]

#: Connections beside those of the exchanges: the standalone stream, and what a session needs.
_MORE_CONNECTIONS = 4


def client_options(endpoint: HttpEndpoint) -> HttpClientOptions:
    """What of an endpoint is the client's business."""
    two_paths = endpoint.two_paths
    base = f"{endpoint.origin.scheme}://{endpoint.authority}"
    return HttpClientOptions(
        url=endpoint.url,
        headers=Headers(endpoint.request_headers()),
        sse_only=endpoint.sse_only,
        two_paths=None if two_paths is None else (base + two_paths[0], base + two_paths[1]),
        max_exchanges=endpoint.max_exchanges,
        read_timeout=math.inf if endpoint.read_timeout is None else endpoint.read_timeout,
    )


async def connect(
    nursery: trio.Nursery,
    endpoint: HttpEndpoint,
    on_event: EventHandler | None,
    tls: TlsClient | None = None,
) -> MessageChannel:
    """Make a channel to an endpoint, with connections of its own.

    Args:
        nursery: Where its background tasks run.
        endpoint: Where to connect.
        on_event: Told of faults that no caller sees.
        tls: In place of the endpoint's own TLS options.

    Raises:
        ConfigurationError: The endpoint is not one to connect to, or a file cannot be used.
        FeatureUnavailable: It needs what this installation does not have.
        HttpError: HTTP+SSE: the server has no such stream.
        ConnectFailed: HTTP+SSE: it cannot be reached.
    """
    check_connecting(endpoint)
    pool = HttpPool(
        open_stream=diagnosed_open_stream(on_event) if endpoint.diagnostics else None,
        tls=make_tls_client(endpoint, on_event) if tls is None else tls,
        proxy=None if endpoint.proxy is None else HttpProxy.parse(endpoint.proxy),
        tell=make_tell(on_event) if endpoint.diagnostics else None,
        max_connections=endpoint.max_exchanges + _MORE_CONNECTIONS,
        idle_expiry=(
            DEFAULT_IDLE_EXPIRY if endpoint.idle_timeout is None else endpoint.idle_timeout
        ),
        connect_timeout=endpoint.options.connect_timeout,
        on_event=on_event,
    )
    return await _open(nursery, endpoint, on_event, pool, owns_sender=True)


async def connect_with(
    nursery: trio.Nursery,
    endpoint: HttpEndpoint,
    on_event: EventHandler | None,
    sender: HttpSender,
) -> MessageChannel:
    """Make a channel whose requests go through what the caller brought and keeps.

    Raises:
        ConfigurationError: As for `connect`, as are the others.
    """
    check_connecting(endpoint, own_client=True)
    return await _open(nursery, endpoint, on_event, sender, owns_sender=False)


async def _open(
    nursery: trio.Nursery,
    endpoint: HttpEndpoint,
    on_event: EventHandler | None,
    sender: HttpSender,
    *,
    owns_sender: bool,
) -> MessageChannel:
    context = ChannelContext(transport=endpoint.scheme, peer_address=endpoint.authority)
    if endpoint.diagnostics:
        sender = DiagnosingSender(sender, on_event, context)
    if endpoint.compression.algorithms:
        sender = CodingSender(sender, endpoint.compression)
    channel = HttpClientChannel(
        sender,
        client_options(endpoint),
        nursery=nursery,
        context=context,
        options=endpoint.options,
        on_event=on_event,
        owns_sender=owns_sender,
    )
    try:
        await channel.open()
    except BaseException:
        channel.abort()
        raise
    return channel
