"""The `_meta` of requests and results: reading it, adding to it, completing results.

Pure. The Router reads the head of each request here and completes modern results; the
client side adds its protocol fields. Payloads are never decoded further than their top
level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..errors import RpcError
from ..jsonrpc import ErrorCode, RequestId

__all__ = [
    "CACHEABLE_METHODS",
    "CLIENT_CAPABILITIES_KEY",
    "CLIENT_INFO_KEY",
    "LOG_LEVELS",
    "LOG_LEVEL_KEY",
    "PROTOCOL_VERSION_KEY",
    "SERVER_INFO_KEY",
    "SUBSCRIPTION_ID_KEY",
    "CacheHint",
    "LogLevel",
    "RequestMeta",
    "as_raw",
    "complete_result",
    "read_meta",
    "read_subscription_id",
    "with_meta",
]

PROTOCOL_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO_KEY = "io.modelcontextprotocol/clientInfo"
CLIENT_CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL_KEY = "io.modelcontextprotocol/logLevel"
SERVER_INFO_KEY = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_ID_KEY = "io.modelcontextprotocol/subscriptionId"

#: 2026-07-28, server/utilities/caching: "Servers MUST include caching hints on results
#: with resultType: "complete" returned by the following operations".
CACHEABLE_METHODS = frozenset({
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
})

LogLevel = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
#: From the least to the most severe (RFC 5424, section 6.2.1).
LOG_LEVELS: tuple[LogLevel, ...] = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)

_encode = msgspec.json.Encoder().encode


class RequestMeta(msgspec.Struct, frozen=True):
    """What `_meta` of a request may say about the request itself; UNSET where silent."""

    protocol_version: str | UnsetType = msgspec.field(name=PROTOCOL_VERSION_KEY, default=UNSET)
    client_info: dict[str, object] | UnsetType = msgspec.field(name=CLIENT_INFO_KEY, default=UNSET)
    client_capabilities: dict[str, object] | UnsetType = msgspec.field(
        name=CLIENT_CAPABILITIES_KEY, default=UNSET
    )
    log_level: LogLevel | UnsetType = msgspec.field(name=LOG_LEVEL_KEY, default=UNSET)
    progress_token: RequestId | UnsetType = msgspec.field(name="progressToken", default=UNSET)


class CacheHint(msgspec.Struct, frozen=True):
    """How long and for whom a modern result may be cached.

    Attributes:
        ttl_ms: Milliseconds; 0 means that it is stale at once.
        scope: ``private`` to one authorization context, or ``public``.
    """

    ttl_ms: int = 0
    scope: Literal["private", "public"] = "private"

    def __post_init__(self) -> None:
        if self.ttl_ms < 0:
            raise ValueError(f"ttl_ms must be at least 0, not {self.ttl_ms}")


class _Head(msgspec.Struct):
    meta: RequestMeta | UnsetType = msgspec.field(name="_meta", default=UNSET)


class _SubscriptionMeta(msgspec.Struct):
    subscription_id: RequestId | UnsetType = msgspec.field(name=SUBSCRIPTION_ID_KEY, default=UNSET)


class _NotificationHead(msgspec.Struct):
    meta: _SubscriptionMeta | UnsetType = msgspec.field(name="_meta", default=UNSET)


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_notification_head = msgspec.json.Decoder(_NotificationHead).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_NO_META = RequestMeta()


def as_raw(value: object) -> Raw:
    """The value as raw JSON; raw JSON comes back as it is.

    Raises:
        TypeError: JSON cannot express it. Also ValueError and other errors of msgspec.
    """
    return value if isinstance(value, Raw) else Raw(_encode(value))


def read_meta(params: object) -> RequestMeta:
    """Read `_meta` of a request's params.

    Args:
        params: Raw JSON or UNSET. Positional params (an array) have no `_meta`.

    Raises:
        RpcError: A field of it has a wrong type (-32602).
    """
    if params is UNSET:
        return _NO_META
    raw = as_raw(params)
    if memoryview(raw)[0] != 0x7B:
        return _NO_META
    try:
        meta = _decode_head(raw).meta
    except msgspec.DecodeError as error:
        # Server/utilities/logging: "Invalid log level: -32602 (Invalid params)"; the same
        # goes for the other fields.
        raise RpcError(ErrorCode.INVALID_PARAMS, f"invalid _meta: {error}") from error
    return _NO_META if meta is UNSET else meta


def read_subscription_id(params: object) -> RequestId | None:
    """The id of the `subscriptions/listen` request that a notification belongs to."""
    if params is UNSET:
        return None
    raw = as_raw(params)
    if memoryview(raw)[0] != 0x7B:
        return None
    try:
        meta = _decode_notification_head(raw).meta
    except msgspec.DecodeError:
        return None
    if meta is UNSET or meta.subscription_id is UNSET:
        return None
    return meta.subscription_id


def with_meta(params: object, additions: Mapping[str, object]) -> object:
    """The params with keys added to their `_meta`; what was given is not changed.

    Args:
        params: A mapping, anything msgspec encodes as an object, raw JSON, UNSET or None.
        additions: Replaces keys of the same name.

    Raises:
        TypeError: The params are no object, so they cannot carry `_meta`.
    """
    if params is UNSET or params is None:
        return {"_meta": dict(additions)}
    if isinstance(params, dict):
        meta = params.get("_meta")
        if meta is None:
            return {**params, "_meta": dict(additions)}
        if isinstance(meta, dict):
            return {**params, "_meta": {**meta, **additions}}
    raw = as_raw(params)
    if memoryview(raw)[0] != 0x7B:
        raise TypeError("params must be an object to carry _meta")
    fields: dict[str, object] = dict(_decode_fields(raw))
    if "_meta" in fields:
        fields["_meta"] = {**_decode_fields(as_raw(fields["_meta"])), **additions}
    else:
        fields["_meta"] = dict(additions)
    # One piece of raw JSON again: a channel that passes messages by reference must not
    # deliver raw parts inside of decoded ones.
    return Raw(_encode(fields))


def complete_result(
    result: object, *, server_info: Mapping[str, object], cache: CacheHint | None
) -> object:
    """Add to a modern result what every one must have and the handler left out.

    Args:
        result: What the handler gave: an object as a mapping, as something that msgspec
            encodes, or raw.
        server_info: For `_meta`.
        cache: For results of the cacheable methods, else None.

    Raises:
        TypeError: It is no JSON object.
    """
    fields: dict[str, object]
    if isinstance(result, dict):
        fields = dict(result)
        meta = fields.get("_meta")
    else:
        raw = as_raw(result)
        if memoryview(raw)[0] != 0x7B:
            raise TypeError("a result must be a JSON object")
        fields = dict(_decode_fields(raw))
        meta = _decode_fields(as_raw(fields["_meta"])) if "_meta" in fields else None
    # Basic, Result Responses: "The result MUST include a resultType field".
    fields.setdefault("resultType", "complete")
    # Basic, Per-response protocol fields: "Servers SHOULD include the following [...]
    # field in every result's _meta".
    if meta is None:
        fields["_meta"] = {SERVER_INFO_KEY: server_info}
    elif isinstance(meta, dict) and SERVER_INFO_KEY not in meta:
        fields["_meta"] = {**meta, SERVER_INFO_KEY: server_info}
    # Server/utilities/caching: "Interim results with resultType: "input_required" [...] are
    # not cacheable and carry no caching hints."
    if cache is not None and msgspec.json.decode(as_raw(fields["resultType"])) == "complete":
        fields.setdefault("ttlMs", cache.ttl_ms)
        fields.setdefault("cacheScope", cache.scope)
    return fields if isinstance(result, dict) else Raw(_encode(fields))
