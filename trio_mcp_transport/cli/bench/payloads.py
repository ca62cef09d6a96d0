"""The messages that every contestant sends: the same content, the same bytes."""

from __future__ import annotations

__all__ = ["FIRST_ID", "METHOD", "params_of_size"]

METHOD = "tools/call"
#: Ids from here on have the same number of digits for as long as anybody measures.
FIRST_ID = 10_000_000
_FRAME = len('{"jsonrpc":"2.0","id":10000000,"method":"tools/call","params":}')
_PARAMS = len('{"name":"echo","arguments":{"text":""}}')


def params_of_size(payload_bytes: int) -> dict[str, object]:
    """Params that make a request of exactly so many bytes (if that is enough for any)."""
    text = "x" * max(0, payload_bytes - _FRAME - _PARAMS)
    return {"name": "echo", "arguments": {"text": text}}
