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
    ChannelSession,
    ChannelState,
    ChannelStatistics,
    ClosedByPeer,
    ConnectionLost,
    EventHandler,
    HandshakeTimeout,
    IdleTimeout,
    InboxStalled,
    MessageChannel,
    MessageListener,
    OutboxOverflow,
    PeerCredentials,
    PeerProtocolError,
    PongTimeout,
    WriteTimeout,
)
from .bridge import BridgeEnd, BridgeObserver, BridgeSide, bridge_channels
from .compression_settings import Algorithm, CompressionSettings, CompressionStatistics
from .connect import HttpClient, connect_channel, open_channel, open_peer
from .context import Context, Session
from .conversation import Call, Conversation, Dispatcher
from .endpoint_parser import EndpointSpec, endpoint_from_environment, parse_endpoint
from .endpoint_reading import read_endpoint, split_host_port
from .endpoint_schemes import ParseFunction, transport_names
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
    AuthenticationRequired,
    CertificateCheck,
    CertificateError,
    Challenge,
    ConfigurationError,
    ConnectFailed,
    ConnectTimeout,
    EndpointNotFound,
    FeatureUnavailable,
    Forbidden,
    HttpError,
    HttpStatusError,
    InvalidHttpResponse,
    LocalProtocolError,
    MessageTooLarge,
    MethodNotFound,
    ProtocolError,
    RemoteProtocolError,
    RequestIdInUse,
    RequestTimeout,
    RpcError,
    ServerBusy,
    SessionExpired,
    TlsError,
    TlsHandshakeFailed,
    TransportError,
    UnexpectedRedirect,
)
from .handlers import PeerErrorCode
from .http_endpoints import HttpEndpoint, HttpsEndpoint, SseEndpoint, SseTlsEndpoint
from .hub import Hub, ListKind, SubscriptionFilter
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
    relate,
)
from .lifecycle import EraChoice, InvalidResult, NegotiationFailed, negotiate
from .limits import ChannelOptions, Framing, WhenFull
from .mrtr import InputRequest, InputRequired, InputResponses
from .peer import Peer, PeerStatistics
from .pending import Progress
from .public_paths import show_public_paths as _show_public_paths
from .registry import (
    ChannelOverrides,
    ConnectFunction,
    ListenFunction,
    StderrHandler,
    TransportRegistration,
    register_transport,
)
from .restart import RestartPolicy, run_with_restarts
from .router import Router
from .sansio.eras import LEGACY_REVISIONS, MODERN_REVISIONS, REVISIONS, Era, EraCache, Negotiated
from .sansio.metadata import CacheHint, LogLevel
from .serve import serve_channels, serve_peers
from .shm_endpoints import ShmEndpoint
from .subscription import Subscription
from .tls_endpoints import TlsEndpoint, TlsUnixEndpoint
from .tls_facts import CertificateFacts, OcspStatus, PinStatus, TlsFacts, TransparencyStatus
from .tls_settings import (
    ClientAuthentication,
    OcspMode,
    PinMode,
    PinScope,
    TlsSettings,
    TlsVersion,
    TransparencyMode,
)
from .transports.accept import ChannelHandler, ServingListener, StreamListener, serve_listener
from .transports.http_sender import BegunRequest, HttpResponse, HttpSender
from .transports.http_serving import HttpServing
from .transports.memory import MemoryChannel, memory_channel_pair
from .transports.stream_channel import StreamChannel
from .web_endpoints import WebEndpoint
from .websocket_endpoints import SecureWebSocketEndpoint, WebSocketEndpoint

__version__ = "0.1.0"

__all__ = [
    "LEGACY_REVISIONS",
    "MODERN_REVISIONS",
    "REVISIONS",
    "Algorithm",
    "AuthenticationRequired",
    "Batch",
    "BegunRequest",
    "BridgeEnd",
    "BridgeObserver",
    "BridgeSide",
    "CacheHint",
    "Call",
    "CertificateCheck",
    "CertificateError",
    "CertificateFacts",
    "Challenge",
    "ChannelBroken",
    "ChannelCapabilities",
    "ChannelContext",
    "ChannelEvent",
    "ChannelHandler",
    "ChannelOptions",
    "ChannelOverrides",
    "ChannelSession",
    "ChannelState",
    "ChannelStatistics",
    "ClientAuthentication",
    "ClosedByPeer",
    "CompressionSettings",
    "CompressionStatistics",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectFunction",
    "ConnectTimeout",
    "ConnectionLost",
    "Context",
    "Conversation",
    "Dispatcher",
    "Endpoint",
    "EndpointNotFound",
    "EndpointSpec",
    "EnvironmentPolicy",
    "Era",
    "EraCache",
    "EraChoice",
    "ErrorCode",
    "ErrorObject",
    "ErrorResponse",
    "EventHandler",
    "FeatureUnavailable",
    "Features",
    "Forbidden",
    "Framing",
    "HandshakeTimeout",
    "HttpClient",
    "HttpEndpoint",
    "HttpError",
    "HttpResponse",
    "HttpSender",
    "HttpServing",
    "HttpStatusError",
    "HttpsEndpoint",
    "Hub",
    "IdleTimeout",
    "InboxStalled",
    "InputRequest",
    "InputRequired",
    "InputResponses",
    "InvalidHttpResponse",
    "InvalidMessage",
    "InvalidResult",
    "ListKind",
    "ListenFunction",
    "LocalProtocolError",
    "LogLevel",
    "MemoryChannel",
    "MemoryEndpoint",
    "Message",
    "MessageChannel",
    "MessageListener",
    "MessageTooLarge",
    "MethodNotFound",
    "Negotiated",
    "NegotiationFailed",
    "Notification",
    "OcspMode",
    "OcspStatus",
    "OutboxOverflow",
    "ParseFunction",
    "Peer",
    "PeerCredentials",
    "PeerErrorCode",
    "PeerProtocolError",
    "PeerStatistics",
    "PinMode",
    "PinScope",
    "PinStatus",
    "PongTimeout",
    "ProcessEndpoint",
    "Progress",
    "ProtocolError",
    "RemoteProtocolError",
    "Request",
    "RequestId",
    "RequestIdInUse",
    "RequestTimeout",
    "Response",
    "RestartPolicy",
    "Router",
    "RpcError",
    "SecureWebSocketEndpoint",
    "ServerBusy",
    "ServingListener",
    "Session",
    "SessionExpired",
    "ShmEndpoint",
    "SseEndpoint",
    "SseTlsEndpoint",
    "StderrHandler",
    "StderrPolicy",
    "StdioEndpoint",
    "StreamChannel",
    "StreamListener",
    "Subscription",
    "SubscriptionFilter",
    "TcpEndpoint",
    "TlsEndpoint",
    "TlsError",
    "TlsFacts",
    "TlsHandshakeFailed",
    "TlsSettings",
    "TlsUnixEndpoint",
    "TlsVersion",
    "TransparencyMode",
    "TransparencyStatus",
    "TransportError",
    "TransportRegistration",
    "UnexpectedRedirect",
    "UnixEndpoint",
    "WebEndpoint",
    "WebSocketEndpoint",
    "WhenFull",
    "WriteTimeout",
    "__version__",
    "bridge_channels",
    "compact",
    "connect_channel",
    "decode_batch",
    "decode_message",
    "encode_batch",
    "encode_message",
    "endpoint_from_environment",
    "features",
    "invalid_message_answer",
    "memory_channel_pair",
    "negotiate",
    "open_channel",
    "open_peer",
    "parse_endpoint",
    "read_endpoint",
    "register_transport",
    "relate",
    "run_with_restarts",
    "serve_channels",
    "serve_listener",
    "serve_peers",
    "split_host_port",
    "transport_names",
]

_show_public_paths(__name__)  # ruff: ignore[non-empty-init-module]
