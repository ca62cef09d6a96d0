"""Endpoints of WebSocket: from text and mappings, and back."""

from __future__ import annotations

import math

import pytest

from trio_mcp_transport import (
    ConfigurationError,
    SecureWebSocketEndpoint,
    WebSocketEndpoint,
    parse_endpoint,
)
from trio_mcp_transport.endpoint_parser import endpoint_from_environment
from trio_mcp_transport.tls_settings import TlsSettings
from trio_mcp_transport.transports.websocket import listener_options
from trio_mcp_transport.transports.websocket_settings import websocket_options

pytestmark = [pytest.mark.websocket, pytest.mark.endpoints]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("ws://a.example", WebSocketEndpoint("a.example", 80, "/")),
        ("wss://a.example/mcp", SecureWebSocketEndpoint("a.example", 443, "/mcp")),
        ("WS://[::1]:9000/a%20b", WebSocketEndpoint("::1", 9000, "/a%20b")),
        (
            "ws://h:1/mcp?ping_interval=0&pong_timeout=2.5&subprotocol=x&permessage_deflate=true",
            WebSocketEndpoint(
                "h",
                1,
                "/mcp",
                ping_interval=math.inf,
                pong_timeout=2.5,
                subprotocol="x",
                permessage_deflate=True,
            ),
        ),
        (
            "ws://h:1?ping_interval_ms=500&max_frame_size=1000&compression_enabled=true",
            WebSocketEndpoint(
                "h", 1, ping_interval=0.5, max_frame_bytes=1000, permessage_deflate=True
            ),
        ),
        (
            "wss://h:1?min_tls=1.2&caFile=ca.pem&header.X-Key=1&auth=bearer&token=t",
            SecureWebSocketEndpoint(
                "h",
                1,
                tls=TlsSettings(min_tls="1.2", ca_file="ca.pem"),
                headers={"X-Key": "1"},
                auth="bearer",
                bearer_token="t",
            ),
        ),
    ],
)
def test_a_url_names_it(text: str, endpoint: WebSocketEndpoint) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "mapping",
    [
        {"type": "websocket", "url": "wss://a.example/mcp?key=1", "headers": {"X-Key": "1"}},
        {"type": "ws", "url": "wss://a.example/mcp?key=1", "headers": {"X-Key": "1"}},
        {"url": "wss://a.example/mcp?key=1", "headers": {"X-Key": "1"}},
        {"mcpServers": {"a": {"url": "wss://a.example/mcp?key=1", "header.X-Key": "1"}}},
    ],
)
def test_what_mcp_hosts_write_names_it_and_the_query_is_the_servers(
    mapping: dict[str, object],
) -> None:
    expected = SecureWebSocketEndpoint(
        "a.example", 443, "/mcp", url_query="key=1", headers={"X-Key": "1"}
    )
    assert parse_endpoint(mapping) == expected
    assert expected.request_target == "/mcp?key=1"


def test_a_mapping_without_a_url_names_it_too() -> None:
    mapping = {"type": "websocket", "host": "h", "port": 1, "path": "/mcp", "ping_interval": 5}
    assert parse_endpoint(mapping) == WebSocketEndpoint("h", 1, "/mcp", ping_interval=5.0)
    assert parse_endpoint({"type": "wss", "host": "h"}) == SecureWebSocketEndpoint("h", 443)


def test_a_list_names_it_where_the_transport_stands_beside() -> None:
    text = "host=h; port=1; path=/mcp"
    assert parse_endpoint(text, transport="websocket") == WebSocketEndpoint("h", 1, "/mcp")
    assert parse_endpoint(text, transport="wss") == SecureWebSocketEndpoint("h", 1, "/mcp")


@pytest.mark.parametrize("transport", ["websocket", "ws"])
def test_the_family_stands_for_both_schemes(transport: str) -> None:
    for url in ("ws://h:1/mcp", "wss://h:1/mcp"):
        assert parse_endpoint(url, transport=transport) == parse_endpoint(url)
    endpoint = SecureWebSocketEndpoint("h", 1)
    assert parse_endpoint(endpoint, transport="websocket") is endpoint


def test_the_environment_may_choose_it() -> None:
    found = endpoint_from_environment({"TRANSPORT": "websocket"})
    assert str(found) == "ws://127.0.0.1:8080/mcp"


@pytest.mark.parametrize(
    ("text", "transport", "says"),
    [
        ("wss://h:1", "http", "the endpoint is of wss, but http was asked for"),
        ("http://h:1", "websocket", "the endpoint is of http, but ws was asked for"),
        ("ws:h", None, "needs its two slashes"),
        ("ws://h:1/#x", None, "fragment"),
        ("ws://user:pw@h:1", None, "cannot have a user"),
        ("ws://h:1?era=modern", None, "unknown option 'era'"),
        ("ws://h:1?websocket=true", None, "unknown option 'websocket'"),
        ("ws://h:1?max_frame_bytes=100", None, "max_frame_bytes"),
        ("ws://h:1?max_fragments=0", None, "max_fragments"),
        ("ws://h:1?subprotocol=a%20b", None, "subprotocol: 'a b' has a character"),
        ("ws://h:1?ca_file=x", None, "ca_file is for TLS: write wss:// instead of ws://"),
        ("ws://h:1?header.Sec-WebSocket-Key=x", None, "set by the transport itself"),
        ("ws://h:1?header.Upgrade=x", None, "set by the transport itself"),
        ("ws://h:1?path=/x", None, "path is given twice"),
        ("ws://h:1?bearer_token=***&auth=bearer", None, "only stands for"),
        ("ws://h:1?framing=content-length", None, "framing is for byte streams"),
    ],
)
def test_what_is_wrong_is_named(text: str, transport: str | None, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says.replace("*", r"\*")):
        parse_endpoint(text, transport=transport)


def test_types_and_schemes_must_agree() -> None:
    with pytest.raises(ConfigurationError, match="but websocket was asked for"):
        parse_endpoint({"type": "websocket", "url": "http://h:1"})
    with pytest.raises(ConfigurationError, match="but http was asked for"):
        parse_endpoint({"type": "http", "url": "ws://h:1"})
    with pytest.raises(ConfigurationError, match="host is missing"):
        parse_endpoint({"type": "ws", "path": "/mcp"})


def test_the_text_reads_back_and_shows_no_secret() -> None:
    endpoint = WebSocketEndpoint(
        "h", 1, "/mcp", ping_interval=5.0, max_fragments=7, subprotocol="", max_connections=3
    )
    assert parse_endpoint(str(endpoint)) == endpoint
    secret = WebSocketEndpoint(
        "h", 1, headers={"X-Key": "hush"}, auth="bearer", bearer_token="hush", url_query="hush"
    )
    assert "hush" not in str(secret) + repr(secret) + secret.label


def test_it_knows_its_url_and_origin() -> None:
    endpoint = SecureWebSocketEndpoint("a.example", 443, "/mcp", url_query="a=b")
    assert endpoint.url == "wss://a.example/mcp?a=b"
    assert str(endpoint.origin) == "https://a.example"
    assert endpoint.uses_tls
    assert WebSocketEndpoint("a.example", 8080).authority == "a.example:8080"
    assert WebSocketEndpoint("h", 1, subprotocol="").subprotocols == ()


def test_every_option_of_websockets_gets_somewhere() -> None:
    default = WebSocketEndpoint("h", 1)
    changed: list[WebSocketEndpoint] = [
        WebSocketEndpoint("h", 1, subprotocol="x"),
        WebSocketEndpoint("h", 1, ping_interval=1.0),
        WebSocketEndpoint("h", 1, pong_timeout=1.0),
        WebSocketEndpoint("h", 1, max_frame_bytes=1000),
        WebSocketEndpoint("h", 1, max_fragments=5),
        WebSocketEndpoint("h", 1, permessage_deflate=True),
    ]
    options = [websocket_options(endpoint) for endpoint in [default, *changed]]
    assert len({*options}) == len(options)
    listening: list[WebSocketEndpoint] = [
        WebSocketEndpoint("h", 1, "/x"),
        WebSocketEndpoint("h", 1, max_connections=7),
        WebSocketEndpoint("h", 1, head_timeout=1.0),
        WebSocketEndpoint("h", 1, idle_timeout=1.0),
        WebSocketEndpoint("h", 1, retry_after=1),
    ]
    found = [listener_options(endpoint) for endpoint in [default, *changed, *listening]]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])
