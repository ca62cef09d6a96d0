"""Endpoints of MCP over WebSocket: ``ws://`` and ``wss://``.

Built by `websocket_schemes` from text, or by hand; read by the WebSocket transport. What
WebSocket has in common with HTTP is in `web_endpoints`. Pure.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from .errors import ConfigurationError
from .limits import (
    DEFAULT_MAX_FRAGMENTS,
    DEFAULT_MAX_MESSAGE_BYTES,
    WEBSOCKET_PING_INTERVAL,
    WEBSOCKET_PONG_TIMEOUT,
)
from .web_endpoints import WebEndpoint

__all__ = ["SecureWebSocketEndpoint", "WebSocketEndpoint"]

_Positive = Annotated[int, msgspec.Meta(ge=1)]
#: A control frame holds 125 bytes, and no frame may be refused that must be there.
_FrameBytes = Annotated[int, msgspec.Meta(ge=125)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]

# RFC 6455, section 4.1: the elements of Sec-WebSocket-Protocol are tokens.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class WebSocketEndpoint(WebEndpoint, frozen=True):
    """MCP over WebSocket: ``ws://HOST:PORT/PATH``.

    Beside these it has the fields of `WebEndpoint`.

    Attributes:
        subprotocol: What is asked for, or chosen where a client offers it. A peer that
            names none is fine; empty neither asks nor chooses.
        ping_interval: Seconds between pings, by which connections that are dead are found,
            and those through proxies kept; `math.inf` sends none.
        pong_timeout: Seconds in which each must be answered, whatever else the peer sends.
            On a slow link what was sent before it has to arrive first, so it must leave the
            time for that.
        max_frame_bytes: Bytes of one frame, either way: larger messages are sent in
            fragments of this size.
        max_fragments: Frames that one message may come in.
        permessage_deflate: Whether messages may be compressed (RFC 7692), if the peer wants
            it as well. Each that is sent by itself: no memory is kept between two.
    """

    scheme = "ws"
    server_only = (*WebEndpoint.server_only, "idle_timeout")
    own_headers = WebEndpoint.own_headers | {
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
    }

    subprotocol: str = "mcp"
    ping_interval: _Seconds = WEBSOCKET_PING_INTERVAL
    pong_timeout: _Seconds = WEBSOCKET_PONG_TIMEOUT
    max_frame_bytes: _FrameBytes = DEFAULT_MAX_MESSAGE_BYTES
    max_fragments: _Positive = DEFAULT_MAX_FRAGMENTS
    permessage_deflate: bool = False

    def __post_init__(self) -> None:
        """Check every field, and what they say together.

        Raises:
            ConfigurationError: Something is wrong; the text starts with the name of the
                field and repeats no secret.
        """
        super().__post_init__()
        if self.subprotocol and _TOKEN.fullmatch(self.subprotocol) is None:
            raise ConfigurationError(
                f"subprotocol: {self.subprotocol[:100]!r} has a character that no name has"
            )

    @property
    def url_scheme(self) -> str:
        """How its URL begins, as clients write it."""
        return self.scheme

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """`subprotocol`, if there is one."""
        return (self.subprotocol,) if self.subprotocol else ()


class SecureWebSocketEndpoint(WebSocketEndpoint, frozen=True):
    """MCP over WebSocket over TLS: ``wss://HOST:PORT/PATH``."""

    scheme = "wss"

    @property
    def uses_tls(self) -> bool:
        """Yes."""
        return True
