"""How WebSocket channels are made: a `WebSocketEndpoint` taken apart, and what both sides need.

Called by `websocket`, `websocket_client`, `websocket_server` and, for WebSockets on the port
of HTTP, by `http_settings`. Opens nothing.
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from ..limits import (
    DEFAULT_MAX_FRAGMENTS,
    DEFAULT_MAX_MESSAGE_BYTES,
    HTTP_RETRY_AFTER,
    WEBSOCKET_PING_INTERVAL,
    WEBSOCKET_PONG_TIMEOUT,
    ChannelOptions,
)
from ..sansio.websocket import (
    MCP_SUBPROTOCOL,
    DeflateSettings,
    WebSocketLimits,
    WebSocketMachine,
)
from ..websocket_endpoints import WebSocketEndpoint
from .websocket_reader import WebSocketTiming

__all__ = [
    "MaskKeys",
    "WebSocketOptions",
    "WebSocketServing",
    "deflate_settings",
    "make_machine",
    "websocket_options",
]

#: Mask keys that are asked of the operating system at a time.
_KEYS_AT_ONCE = 1024


class WebSocketOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the WebSockets of one endpoint are like.

    Attributes:
        subprotocols: What is asked for or chosen.
        ping_interval: See `WebSocketEndpoint`, as for the others.
        pong_timeout: See there.
        max_frame_bytes: See there.
        max_fragments: See there.
        permessage_deflate: See there.
    """

    subprotocols: tuple[str, ...] = (MCP_SUBPROTOCOL,)
    ping_interval: float = WEBSOCKET_PING_INTERVAL
    pong_timeout: float = WEBSOCKET_PONG_TIMEOUT
    max_frame_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_fragments: int = DEFAULT_MAX_FRAGMENTS
    permessage_deflate: bool = False

    def timing(self, *, accepted: bool) -> WebSocketTiming:
        """When its connections are looked after."""
        return WebSocketTiming(
            ping_interval=self.ping_interval, pong_timeout=self.pong_timeout, accepted=accepted
        )

    def limits(self, channel: ChannelOptions) -> WebSocketLimits:
        """What a peer may send."""
        return WebSocketLimits(
            max_message_bytes=channel.max_message_bytes,
            max_frame_bytes=self.max_frame_bytes,
            max_fragments=self.max_fragments,
        )


class WebSocketServing(msgspec.Struct, frozen=True, kw_only=True):
    """Where WebSockets are served.

    Attributes:
        path: On this path, with and without a slash at its end.
        only: Whether nothing else is served: other requests get 426 there, 404 elsewhere.
        options: What they are like.
        retry_after: Seconds that a client is told to wait while the server shuts down.
    """

    path: str
    only: bool = False
    options: WebSocketOptions = WebSocketOptions()
    retry_after: int = HTTP_RETRY_AFTER


def websocket_options(endpoint: WebSocketEndpoint) -> WebSocketOptions:
    """What an endpoint says about them."""
    return WebSocketOptions(
        subprotocols=endpoint.subprotocols,
        ping_interval=endpoint.ping_interval,
        pong_timeout=endpoint.pong_timeout,
        max_frame_bytes=endpoint.max_frame_bytes,
        max_fragments=endpoint.max_fragments,
        permessage_deflate=endpoint.permessage_deflate,
    )


def deflate_settings(options: WebSocketOptions) -> DeflateSettings | None:
    """How messages would be compressed, if they are at all."""
    return DeflateSettings() if options.permessage_deflate else None


def make_machine(
    role: Literal["client", "server"],
    options: WebSocketOptions,
    channel: ChannelOptions,
    agreed: DeflateSettings | None,
) -> WebSocketMachine:
    """The machine of one connection.

    Args:
        role: Of this side.
        options: The endpoint's.
        channel: The channel's.
        agreed: What the handshake agreed on.
    """
    limits = options.limits(channel)
    if role == "server":
        return WebSocketMachine("server", limits=limits, deflate=agreed)
    return WebSocketMachine("client", limits=limits, deflate=agreed, mask_key=MaskKeys())


class MaskKeys:
    """Four unpredictable bytes a call, cut from larger pieces: asking the system is slow."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def __call__(self) -> bytes:
        """The next key. RFC 6455, section 5.3: it "needs to be unpredictable"."""
        start = self._at
        if start == len(self._pool):
            # The first are few: many connections send little.
            size = _KEYS_AT_ONCE if start else 16
            self._pool, start = os.urandom(4 * size), 0
        self._at = start + 4
        return self._pool[start : start + 4]
