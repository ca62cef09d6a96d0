"""Trio-native transports for the Model Context Protocol.

The public face: every name that a program needs, each defined in the module that the
imports below tell. Machines without I/O are in `trio_mcp_transport.sansio`, tools for
tests in `trio_mcp_transport.testing`, other people's worlds in
`trio_mcp_transport.interop`.
"""

from __future__ import annotations

from .abc import (
    ChannelBroken,
    ChannelCapabilities,
    ChannelContext,
    ChannelEvent,
    ChannelState,
    ChannelStatistics,
    ConnectionLost,
    EventHandler,
    IdleTimeout,
    MessageChannel,
    MessageListener,
    OutboxOverflow,
    PeerCredentials,
    PeerProtocolError,
    WriteTimeout,
)
from .endpoints import (
    Endpoint,
    EnvironmentPolicy,
    MemoryEndpoint,
    ProcessEndpoint,
    StderrPolicy,
    StdioEndpoint,
    TcpEndpoint,
    UnixEndpoint,
)
from .errors import (
    ConfigurationError,
    ConnectFailed,
    ConnectTimeout,
    FeatureUnavailable,
    LocalProtocolError,
    MessageTooLarge,
    ProtocolError,
    RemoteProtocolError,
    RequestIdInUse,
    RequestTimeout,
    RpcError,
    TransportError,
)
from .installation import Features, features
from .jsonrpc import (
    Batch,
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    InvalidMessage,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    compact,
    decode_batch,
    decode_message,
    encode_batch,
    encode_message,
    invalid_message_answer,
)
from .limits import ChannelOptions, Framing, WhenFull
from .public_paths import show_public_paths as _show_public_paths

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "ChannelBroken",
    "ChannelCapabilities",
    "ChannelContext",
    "ChannelEvent",
    "ChannelOptions",
    "ChannelState",
    "ChannelStatistics",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectTimeout",
    "ConnectionLost",
    "Endpoint",
    "EnvironmentPolicy",
    "ErrorCode",
    "ErrorObject",
    "ErrorResponse",
    "EventHandler",
    "FeatureUnavailable",
    "Features",
    "Framing",
    "IdleTimeout",
    "InvalidMessage",
    "LocalProtocolError",
    "MemoryEndpoint",
    "Message",
    "MessageChannel",
    "MessageListener",
    "MessageTooLarge",
    "Notification",
    "OutboxOverflow",
    "PeerCredentials",
    "PeerProtocolError",
    "ProcessEndpoint",
    "ProtocolError",
    "RemoteProtocolError",
    "Request",
    "RequestId",
    "RequestIdInUse",
    "RequestTimeout",
    "Response",
    "RpcError",
    "StderrPolicy",
    "StdioEndpoint",
    "TcpEndpoint",
    "TransportError",
    "UnixEndpoint",
    "WhenFull",
    "WriteTimeout",
    "__version__",
    "compact",
    "decode_batch",
    "decode_message",
    "encode_batch",
    "encode_message",
    "features",
    "invalid_message_answer",
]

_show_public_paths(__name__)  # ruff: ignore[non-empty-init-module]
