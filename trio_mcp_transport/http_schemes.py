"""From a target and parameters to an `HttpEndpoint`: URLs, older lists, ``mcpServers``.

Called by `endpoint_schemes` for each of the schemes here. Pure. Three kinds of text meet:

- ``http://HOST:PORT/PATH?era=modern``: the query holds our options. The query of the
  server's own, if its URL has one, is the option ``url_query``, percent-encoded.
- ``scheme=http; host=localhost; port=9443; rpcPath=/mcp/rpc; auth=bearer; token=...``: the
  list of older configurations, which means their wire of two paths unless it has a path.
- ``{"type": "http", "url": "https://a.example/mcp?key=1", "headers": {...}}``: what MCP
  hosts write. There the URL is the server's, query and all, and options stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from .endpoint_reading import read_endpoint
from .errors import ConfigurationError
from .http_endpoints import HttpEndpoint, HttpsEndpoint, SseEndpoint, SseTlsEndpoint
from .http_origins import DEFAULT_PORTS
from .web_schemes import WEB_ALIASES, rename, split_target, take_headers, take_port

__all__ = ["HTTP_ENDPOINTS", "HTTP_TYPES", "parse_http"]

#: The class of each scheme.
HTTP_ENDPOINTS: Mapping[str, type[HttpEndpoint]] = {
    struct.scheme: struct for struct in (HttpEndpoint, HttpsEndpoint, SseEndpoint, SseTlsEndpoint)
}
#: What MCP hosts call a server's type, by the schemes its URL may then have, and what the
#: scheme becomes.
HTTP_TYPES: Mapping[str, Mapping[str, str]] = {
    **{
        name: {"http": "http", "https": "https"}
        for name in ("http", "streamable-http", "streamableHttp", "streamable_http")
    },
    "sse": {
        "http": "sse+http",
        "https": "sse+https",
        "sse+http": "sse+http",
        "sse+https": "sse+https",
    },
}

_TWO_PATHS = {"rpc_path": "/mcp/rpc", "notify_path": "/mcp/notify"}
#: Where the wire of two paths is served if nobody says.
_TWO_PATHS_PORT = 9443

_ALIASES = {
    **WEB_ALIASES,
    "rpcPath": "rpc_path",
    "notifyPath": "notify_path",
    "readTimeoutMs": "read_timeout_ms",
    "heartbeat_interval": "keep_alive_interval",
    "heartbeat_interval_ms": "keep_alive_interval_ms",
}


def parse_http(
    struct: type[HttpEndpoint], target: str, parameters: Mapping[str, object]
) -> HttpEndpoint:
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
        if path is None and not struct.sse_only:
            # The older list: two paths, and defaults for all of it.
            host = "localhost" if host is None else host
            given = {**_TWO_PATHS, **given}
        elif host is None:
            raise ConfigurationError(f"host is missing in a {struct.scheme} endpoint")
    if given.keys() & _TWO_PATHS.keys():
        given = {**_TWO_PATHS, **given}
    if port is None:
        secure = struct in {HttpsEndpoint, SseTlsEndpoint}
        # Whoever writes `cert` and `key` like that has an older acceptor in mind.
        older = "rpc_path" in given or "cert" in parameters
        port = _TWO_PATHS_PORT if older else DEFAULT_PORTS["https" if secure else "http"]
    return read_endpoint(
        struct, given, host=host, port=port, path="/" if path is None else path, headers=headers
    )
