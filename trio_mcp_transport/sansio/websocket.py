"""WebSocket without I/O: the machine, its events, the handshake, compression.

The face to import them from. Apart from that of `sansio`, because wsproto is loaded with it.
"""

from __future__ import annotations

from ..public_paths import show_public_paths as _show_public_paths
from .websocket_deflate import DeflateSettings
from .websocket_events import (
    BinaryMessage,
    Close,
    CloseCode,
    CloseReceived,
    Ping,
    Pong,
    TextMessage,
    WebSocketEvent,
    WebSocketItem,
    WebSocketLimits,
)
from .websocket_handshake import (
    MCP_SUBPROTOCOL,
    AcceptUpgrade,
    UpgradeVerdict,
    WebSocketAgreement,
    check_response,
    judge_upgrade,
    make_key,
    upgrade_headers,
    upgrade_required,
    wants_websocket,
)
from .websocket_machine import WebSocketMachine

__all__ = [
    "MCP_SUBPROTOCOL",
    "AcceptUpgrade",
    "BinaryMessage",
    "Close",
    "CloseCode",
    "CloseReceived",
    "DeflateSettings",
    "Ping",
    "Pong",
    "TextMessage",
    "UpgradeVerdict",
    "WebSocketAgreement",
    "WebSocketEvent",
    "WebSocketItem",
    "WebSocketLimits",
    "WebSocketMachine",
    "check_response",
    "judge_upgrade",
    "make_key",
    "upgrade_headers",
    "upgrade_required",
    "wants_websocket",
]

_show_public_paths(__name__)
