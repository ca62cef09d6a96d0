"""The machines of HTTP: HTTP/1.1, server-sent events, and what MCP decides over them.

The face to import them from. Apart from that of `sansio`, because h11 is loaded with it.
"""

from __future__ import annotations

from ..public_paths import show_public_paths as _show_public_paths
from .headers import Headers
from .http1 import (
    BodyData,
    EndOfBody,
    Http1Limits,
    InformationalResponse,
    RequestHead,
    ResponseEvent,
    ResponseHead,
)
from .http1_client import ClientEvent, Http1Client
from .http1_server import Http1Server, ServerEvent
from .mcp_http.exchange import ExchangeWriter
from .mcp_http.mirrored import (
    HeaderParameter,
    HeaderSchema,
    InvalidHeaderSchema,
    read_header_schema,
)
from .mcp_http.options import HttpServerOptions
from .mcp_http.replies import Reply
from .mcp_http.server import (
    BodyVerdict,
    Deliver,
    EndSession,
    HeadVerdict,
    OpenSse,
    OpenStream,
    ReadBody,
    Resumed,
    ResumeStream,
    ServerEndpoint,
    StartExchange,
)
from .mcp_http.sessions import Delivery, SessionRecord
from .mcp_http.standalone import StandaloneWriter
from .mcp_http.streams import EventStream, Step
from .sse import (
    SseComment,
    SseDecoder,
    SseEvent,
    SseItem,
    encode_comment,
    encode_event,
)

__all__ = [
    "BodyData",
    "BodyVerdict",
    "ClientEvent",
    "Deliver",
    "Delivery",
    "EndOfBody",
    "EndSession",
    "EventStream",
    "ExchangeWriter",
    "HeadVerdict",
    "HeaderParameter",
    "HeaderSchema",
    "Headers",
    "Http1Client",
    "Http1Limits",
    "Http1Server",
    "HttpServerOptions",
    "InformationalResponse",
    "InvalidHeaderSchema",
    "OpenSse",
    "OpenStream",
    "ReadBody",
    "Reply",
    "RequestHead",
    "ResponseEvent",
    "ResponseHead",
    "ResumeStream",
    "Resumed",
    "ServerEndpoint",
    "ServerEvent",
    "SessionRecord",
    "SseComment",
    "SseDecoder",
    "SseEvent",
    "SseItem",
    "StandaloneWriter",
    "StartExchange",
    "Step",
    "encode_comment",
    "encode_event",
    "read_header_schema",
]

_show_public_paths(__name__)
