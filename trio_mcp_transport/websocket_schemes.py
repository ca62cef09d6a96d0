"""From a target and parameters to a `WebSocketEndpoint`: URLs, lists, ``mcpServers``.

Called by `endpoint_schemes` for ``ws`` and ``wss``. Pure. As with HTTP, the query of a URL
holds our options, and that of the server's own is the option ``url_query``; in what MCP hosts
write (``{"type": "websocket", "url": "wss://a.example/mcp?key=1"}``) it is the server's.
"""

from __future__ import annotations

from collections.abc import Mapping

from .endpoint_reading import read_endpoint
from .errors import ConfigurationError
from .http_origins import DEFAULT_PORTS
from .web_schemes import WEB_ALIASES, rename, split_target, take_headers, take_port
from .websocket_endpoints import SecureWebSocketEndpoint, WebSocketEndpoint

__all__ = ["WEBSOCKET_ENDPOINTS", "WEBSOCKET_TYPES", "parse_websocket"]

#: The class of each scheme.
WEBSOCKET_ENDPOINTS: Mapping[str, type[WebSocketEndpoint]] = {
    struct.scheme: struct for struct in (WebSocketEndpoint, SecureWebSocketEndpoint)
}
#: What MCP hosts call a server's type, by the schemes its URL may then have, and what the
#: scheme becomes.
WEBSOCKET_TYPES: Mapping[str, Mapping[str, str]] = {
    name: {"ws": "ws", "wss": "wss"} for name in ("websocket", "ws")
}

_ALIASES = {
    **WEB_ALIASES,
    "max_frame_size": "max_frame_bytes",
    "compression_enabled": "permessage_deflate",
}


def parse_websocket(
    struct: type[WebSocketEndpoint], target: str, parameters: Mapping[str, object]
) -> WebSocketEndpoint:
    """Make an endpoint of what `endpoint_parser` brought to one shape.

    Args:
        struct: The class of its scheme.
        target: ``//HOST[:PORT][/PATH]``, or nothing if the parameters have it all.
        parameters: The fields by their names or by the older ones.

    Raises:
        ConfigurationError: Something is missing, unknown, given twice, or no such value.
    """
    given = rename(parameters, _ALIASES)
    headers = take_headers(given)
    path = given.pop("path", None)
    host: object
    port: object
    if target:
        if path is not None:
            raise ConfigurationError("path is given twice")
        host, port, path = split_target(struct.scheme, target)
    else:
        host, port = given.pop("host", None), take_port(given)
        if host is None:
            raise ConfigurationError(f"host is missing in a {struct.scheme} endpoint")
    if port is None:
        port = DEFAULT_PORTS["https" if struct is SecureWebSocketEndpoint else "http"]
    return read_endpoint(
        struct, given, host=host, port=port, path="/" if path is None else path, headers=headers
    )
