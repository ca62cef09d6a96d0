"""What reading the URLs and lists of HTTP and of WebSocket has in common.

Called by `http_schemes` and `websocket_schemes`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from .endpoint_reading import split_host_port
from .endpoint_values import percent_decode
from .endpoints import HIDDEN
from .errors import ConfigurationError

__all__ = ["WEB_ALIASES", "rename", "split_target", "take_headers", "take_port"]

_HEADER = "header."

#: Names that older configurations and other programs use for fields of `WebEndpoint` and of
#: `ChannelOptions`; `endpoint_reading` knows those of every scheme.
WEB_ALIASES: Mapping[str, str] = {
    "endpoint": "path",
    "connectTimeoutMs": "connect_timeout_ms",
    "bearerToken": "bearer_token",
    "token": "bearer_token",
    "oauthUrl": "oauth_token_url",
    "oauthTokenUrl": "oauth_token_url",
    "clientId": "client_id",
    "clientSecret": "client_secret",
    "tokenRefreshSkewSeconds": "token_refresh_skew",
    "tokenSkew": "token_refresh_skew",
    "max_message_size": "max_message_bytes",
}


def rename(parameters: Mapping[str, object], aliases: Mapping[str, str]) -> dict[str, object]:
    """The parameters by the names of their fields.

    Raises:
        ConfigurationError: One is given twice, by two names, or is what stands for a secret
            that is not shown.
    """
    found: dict[str, object] = {}
    for key, value in parameters.items():
        name = aliases.get(key, key)
        if name in found:
            raise ConfigurationError(f"{name} is given twice")
        if value == HIDDEN:
            raise ConfigurationError(f"{name}: {HIDDEN} only stands for a value that is not shown")
        found[name] = value
    return found


def take_headers(given: dict[str, object]) -> object:
    """Take the headers out: ``headers``, or one ``header.NAME`` each.

    Raises:
        ConfigurationError: They are given in both ways.
    """
    single = {key: given.pop(key) for key in [*given] if key.startswith(_HEADER)}
    if not single:
        return given.pop("headers", {})
    if "headers" in given:
        raise ConfigurationError("headers is given twice")
    return {key.removeprefix(_HEADER): value for key, value in single.items()}


def take_port(given: dict[str, object]) -> object:
    """Take the port out; None if there is none.

    Raises:
        ConfigurationError: It is text, but no number of a port.
    """
    port = given.pop("port", None)
    if not isinstance(port, str):
        return port
    return split_host_port("port", f"_:{port}")[1]


def split_target(scheme: str, target: str) -> tuple[str, int | None, str]:
    """Take ``//HOST[:PORT][/PATH]`` apart: host, port (None if there is none) and path.

    Raises:
        ConfigurationError: It is none. What may be a password is not shown.
    """
    if "#" in target:
        raise ConfigurationError(f"{scheme}://HOST:PORT/PATH cannot have a fragment")
    authority, slash, rest = target[2:].partition("/")
    name = f"{scheme}://HOST:PORT/PATH"
    authority = percent_decode("the address", authority)
    if "@" in authority:
        raise ConfigurationError(f"{name} cannot have a user; see auth and headers")
    path = slash + rest or "/"
    if not _has_port(authority):
        # Any port will do to have the rest checked.
        return split_host_port(name, f"{authority}:1")[0], None, path
    return *split_host_port(name, authority), path


def _has_port(authority: str) -> bool:
    return ":" in authority.rpartition("]")[2]
