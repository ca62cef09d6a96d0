"""The messages that every contestant sends: the same content, the same bytes."""

from __future__ import annotations

import msgspec

__all__ = [
    "FIRST_ID",
    "METHOD",
    "SMALLEST_BYTES",
    "http_headers",
    "http_params_of_size",
    "listen_request",
    "params_of_size",
]

METHOD = "tools/call"
#: Ids from here on have the same number of digits for as long as anybody measures.
FIRST_ID = 10_000_000
_FRAME = len('{"jsonrpc":"2.0","id":10000000,"method":"tools/call","params":}')
_PARAMS = len('{"name":"echo","arguments":{"text":""}}')
#: What a request weighs whose text is empty: none can be made smaller.
SMALLEST_BYTES = _FRAME + _PARAMS
_REVISION = "2026-07-28"
#: What a request of that revision says of its sender, beside its own bytes.
_META = {
    "io.modelcontextprotocol/protocolVersion": _REVISION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def params_of_size(payload_bytes: int) -> dict[str, object]:
    """Params that make a request of exactly so many bytes (if that is enough for any)."""
    text = "x" * max(0, payload_bytes - _FRAME - _PARAMS)
    return {"name": "echo", "arguments": {"text": text}}


def http_params_of_size(payload_bytes: int, *, count: int = 0) -> dict[str, object]:
    """The same with the metadata that each request over HTTP carries.

    Args:
        payload_bytes: Of the request without its metadata.
        count: How many notifications the answer shall bring, where it brings any.
    """
    params = params_of_size(payload_bytes)
    if count:
        params["arguments"] = {"count": count}
    return {**params, "_meta": _META}


def http_headers(host: str) -> list[tuple[str, str]]:
    """The headers of a request but for its length."""
    return [
        ("host", host),
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
        ("mcp-protocol-version", _REVISION),
        ("mcp-method", METHOD),
        ("mcp-name", "echo"),
    ]


def listen_request(host: str, path: str) -> bytes:
    """A whole request whose answer is a stream of events that stays open."""
    method = "subscriptions/listen"
    body = msgspec.json.encode({
        "jsonrpc": "2.0",
        "id": FIRST_ID,
        "method": method,
        "params": {"notifications": {"toolsListChanged": True}, "_meta": _META},
    })
    headers = [
        *((name, value) for name, value in http_headers(host) if not name.startswith("mcp-")),
        ("mcp-protocol-version", _REVISION),
        ("mcp-method", method),
        ("content-length", str(len(body))),
    ]
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode() + body
