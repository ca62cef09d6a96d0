"""Endpoints of HTTP: every way to write them, what is refused, and what is never shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import msgspec
import pytest

from trio_mcp_transport.endpoint_parser import endpoint_from_environment, parse_endpoint
from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.http_endpoints import (
    HttpEndpoint,
    HttpsEndpoint,
    SseEndpoint,
    SseTlsEndpoint,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.tls_settings import TlsSettings

pytestmark = pytest.mark.endpoints

H = HttpEndpoint

WRITTEN: list[tuple[str | Mapping[str, object], HttpEndpoint, str]] = [
    # What is written, what it means, and how that is written canonically.
    (
        "http://127.0.0.1:8080/mcp",
        H(host="127.0.0.1", port=8080, path="/mcp"),
        "http://127.0.0.1:8080/mcp",
    ),
    ("HTTP://h", H(host="h", port=80), "http://h:80/"),
    ("http://[::1]/mcp/", H(host="::1", port=80, path="/mcp/"), "http://[::1]:80/mcp/"),
    ("https://h/a%20b", HttpsEndpoint(host="h", port=443, path="/a%20b"), "https://h:443/a%20b"),
    ("sse+http://h:1/sse", SseEndpoint(host="h", port=1, path="/sse"), "sse+http://h:1/sse"),
    ("sse+https://h/", SseTlsEndpoint(host="h", port=443), "sse+https://h:443/"),
    (
        "http://h/?era=modern&revision=2026-07-28&response=json&stateless=yes&keep_alive_interval_ms=500",
        H(
            host="h",
            port=80,
            era="modern",
            revision="2026-07-28",
            response="json",
            stateless=True,
            keep_alive_interval=0.5,
        ),
        "http://h:80/?era=modern&revision=2026-07-28&response=json&stateless=true&keep_alive_interval=0.5",
    ),
    (
        (
            "http://h/?allowed_hosts=a.example,*.b.example:81&allowed_origins=https://c.example"
            "&trusted_proxies=10.0.0.0/8,::1&cors=strict&security_headers=production&check_host=no"
        ),
        H(
            host="h",
            port=80,
            allowed_hosts=("a.example", "*.b.example:81"),
            allowed_origins=("https://c.example",),
            trusted_proxies=("10.0.0.0/8", "::1"),
            cors="strict",
            security_headers="production",
            check_host=False,
        ),
        (
            "http://h:80/?allowed_hosts=a.example,*.b.example:81&allowed_origins=https://c.example"
            "&check_host=false&trusted_proxies=10.0.0.0/8,::1&cors=strict&security_headers=production"
        ),
    ),
    # Older names.
    (
        "http://h/?heartbeat_interval=30&max_message_size=1048576",
        H(
            host="h",
            port=80,
            keep_alive_interval=30.0,
            options=ChannelOptions(max_message_bytes=2**20),
        ),
        "http://h:80/?keep_alive_interval=30&max_message_bytes=1048576",
    ),
    (
        "https://h?cert=/c.pem&key=/k.pem",
        HttpsEndpoint(host="h", port=9443, tls=TlsSettings(cert_file="/c.pem", key_file="/k.pem")),
        "https://h:9443/?cert_file=/c.pem&key_file=/k.pem",
    ),
    (
        "scheme=http; host=localhost; port=9000",
        H(host="localhost", port=9000, rpc_path="/mcp/rpc", notify_path="/mcp/notify"),
        "http://localhost:9000/?rpc_path=/mcp/rpc&notify_path=/mcp/notify",
    ),
    (
        (
            "scheme=https; serverName=s.example; caFile=/ca.pem; caPath=/cas;"
            " connectTimeoutMs=500; readTimeoutMs=1500; rpcPath=/r"
        ),
        HttpsEndpoint(
            host="localhost",
            port=9443,
            rpc_path="/r",
            notify_path="/mcp/notify",
            read_timeout=1.5,
            tls=TlsSettings(server_name="s.example", ca_file="/ca.pem", ca_path="/cas"),
            options=ChannelOptions(connect_timeout=0.5),
        ),
        (
            "https://localhost:9443/?rpc_path=/r&notify_path=/mcp/notify&read_timeout=1.5"
            "&ca_file=/ca.pem&ca_path=/cas&server_name=s.example&connect_timeout=0.5"
        ),
    ),
    (
        "scheme=http; host=h; endpoint=/api/mcp; readTimeoutMs=0",
        H(host="h", port=80, path="/api/mcp", read_timeout=math.inf),
        "http://h:80/api/mcp?read_timeout=0",
    ),
    # What MCP hosts write.
    ({"url": "http://h:1/mcp"}, H(host="h", port=1, path="/mcp"), "http://h:1/mcp"),
    (
        {"type": "http", "url": "https://h/mcp"},
        HttpsEndpoint(host="h", port=443, path="/mcp"),
        "https://h:443/mcp",
    ),
    (
        {"type": "streamable-http", "url": "http://h/mcp"},
        H(host="h", port=80, path="/mcp"),
        "http://h:80/mcp",
    ),
    (
        {"type": "streamableHttp", "url": "http://h/mcp"},
        H(host="h", port=80, path="/mcp"),
        "http://h:80/mcp",
    ),
    (
        {"type": "sse", "url": "http://h/sse"},
        SseEndpoint(host="h", port=80, path="/sse"),
        "sse+http://h:80/sse",
    ),
    (
        {"type": "sse", "url": "https://h/sse"},
        SseTlsEndpoint(host="h", port=443, path="/sse"),
        "sse+https://h:443/sse",
    ),
    (
        {"type": "sse", "url": "sse+http://h/sse"},
        SseEndpoint(host="h", port=80, path="/sse"),
        "sse+http://h:80/sse",
    ),
    (
        {"mcpServers": {"a": {"type": "http", "url": "http://h/mcp", "era": "legacy"}}},
        H(host="h", port=80, path="/mcp", era="legacy"),
        "http://h:80/mcp?era=legacy",
    ),
    (
        {"type": "http", "host": "h", "port": 80, "path": "/mcp", "allowed_hosts": ["a.example"]},
        H(host="h", port=80, path="/mcp", allowed_hosts=("a.example",)),
        "http://h:80/mcp?allowed_hosts=a.example",
    ),
    (
        {"type": "sse", "host": "h", "path": "/sse"},
        SseEndpoint(host="h", port=80, path="/sse"),
        "sse+http://h:80/sse",
    ),
]


@pytest.mark.parametrize(("spec", "endpoint", "text"), WRITTEN)
def test_what_is_written_is_what_is_meant(
    spec: str | Mapping[str, object], endpoint: HttpEndpoint, text: str
) -> None:
    found = parse_endpoint(spec)
    assert type(found) is type(endpoint)
    assert found == endpoint
    assert str(found) == text
    assert parse_endpoint(text) == endpoint
    if not isinstance(spec, str):
        assert parse_endpoint(json.dumps(spec)) == endpoint


REFUSED: list[tuple[str | Mapping[str, object], str]] = [
    ("http:h", "http://HOST:PORT/PATH needs its two slashes"),
    ("http:", "http://HOST:PORT/PATH needs its two slashes"),
    ({"url": "http:?a=1"}, "http://HOST:PORT/PATH needs its two slashes"),
    ("http://", "http://HOST:PORT/PATH: the host is missing"),
    ("http://h:/", "http://HOST:PORT/PATH: the port is missing"),
    ("http://h:99999/", "the port must be a number from 0 to 65535"),
    ("http://[::1/", "brackets must enclose an IPv6 address"),
    ("http://[::1]80/", "only a port may follow the brackets"),
    ("http://h/#a", "cannot have a fragment"),
    ("http://h/a b", "path must be the path of a URL"),
    ("http://h//a", "path must be the path of a URL"),
    ("http://h/%zz", "path must be the path of a URL"),
    ("http://h/?unheard=1", "unknown option 'unheard' of a http endpoint"),
    ("http://h/?path=/a", "path is given twice"),
    ("http://h/?era=old", "era must be one of auto, legacy, modern, not 'old'"),
    ("http://h/?max_sessions=0", "max_sessions"),
    ("http://h/?heartbeat_interval=1&keep_alive_interval=1", "keep_alive_interval is given twice"),
    ("http://h/?framing=content-length", "framing is for byte streams"),
    ("http://h/?sse_path=/sse", "sse_path and message_path are given together"),
    ("http://h/sse?sse_path=/sse&message_path=/m", "must all differ"),
    ("http://h/mcp/?rpc_path=/mcp", "must all differ"),
    ("sse+http://h/sse?rpc_path=/r", "sse+http has no sse_path and no rpc_path"),
    ("http://h/?ca_file=/ca", "ca_file is for TLS: write https://"),
    ("http://h/?cert=/c&key=/k", "cert_file is for TLS: write https://"),
    ("https://h/?ct=require", "ct=require needs ct_log_file"),
    ("http://h/?proxy=h:1", "proxy must be http://HOST:PORT"),
    ("http://h/?proxy=https://h:1", "proxy must be http://HOST:PORT"),
    ("http://h/?proxy=http://u@h@h:1", "proxy must be http://HOST:PORT"),
    ("http://h/?proxy=http://h:1/p", "proxy must be http://HOST:PORT"),
    ("http://h/?proxy=http://%25zz@h:1", "proxy: its user has a percent sign without"),
    ("https://h/?tls=x", "unknown option 'tls'"),
    ("http://h/?allowed_hosts=*", "allowed_hosts: to allow any Host, say check_host=false"),
    ("http://h/?allowed_hosts=0.0.0.0", "allowed_hosts: 0.0.0.0 is no address that anybody"),
    ("http://h/?allowed_hosts=[::]:80", "allowed_hosts: :: is no address that anybody"),
    ("http://h/?allowed_hosts=a.example/x", "allowed_hosts: 'a.example/x' is no host"),
    ("http://h/?allowed_hosts=*.127.0.0.1", "is no host"),
    ("http://h/?allowed_origins=https://a.example,a.example", "allowed_origins: 'a.example' is no"),
    ("http://h/?allowed_origins=https://a.example/", "allowed_origins: 'https://a.example/' is no"),
    ("http://h/?allowed_origins=null", "allowed_origins: 'null' is no origin"),
    ("http://h/?allowed_origins=*", "allowed_origins: * is every web page there is"),
    ("http://h/?cors=permissive&allowed_origins=https://a.example", "cors=permissive lets every"),
    ("http://h/?trusted_proxies=10.0.0.1/8", "trusted_proxies: 10.0.0.1/8 has host bits set"),
    ("http://h/?auth=basic", "auth must be one of bearer, none, oauth2, not 'basic'"),
    ("http://h/?auth=bearer", "auth=bearer needs a bearer_token"),
    ("http://h/?token=x", "bearer_token needs auth=bearer"),
    ("http://h/?auth=bearer&token=x&bearerToken=y", "bearer_token is given twice"),
    ("http://h/?auth=oauth2", "auth=oauth2 needs oauth_token_url"),
    ("http://h/?auth=oauth2&oauthUrl=https://t/", "auth=oauth2 needs client_id"),
    ("http://h/?auth=oauth2&oauthUrl=https://t/&clientId=i", "auth=oauth2 needs client_secret"),
    ("http://h/?scope=a", "scope needs auth=oauth2"),
    ("http://h/?header.Host=x", "headers: Host is set by the transport itself"),
    ("http://h/?header.mcp-session-id=x", "headers: mcp-session-id is set by the transport"),
    ("http://h/?header.Mcp-Param-A=x", "headers: Mcp-Param-A is set by the transport"),
    ("http://h/?header.a=1&header.A=2", "headers: A is given twice"),
    ("http://h/?header.a%20b=1", "headers: 'a b' cannot be the name of a header"),
    ("http://h/?auth=bearer&token=t&header.Authorization=x", "Authorization is given twice"),
    ("scheme=ftp; host=h", "scheme must be one of http, https, sse+http, sse+https"),
    ("scheme=sse+http; port=1", "host is missing in a sse+http endpoint"),
    ("scheme=http; port=http", "port: the port must be a number"),
    ({"type": "http", "url": "ftp://h/"}, "no transport is called 'ftp'"),
    ({"type": "stdio", "url": "http://h/"}, "the endpoint is of http, but stdio was asked for"),
    ({"type": "https", "url": "http://h/"}, "the endpoint is of http, but https was asked for"),
    ({"url": "http://h/?a=1", "url_query": "b=1"}, "url_query is given twice"),
    ({"url": "http://h/?a=^"}, "url_query has a character that must be percent-encoded"),
    ({"url": "http://h/", "headers": {"A": 1}}, "headers"),
    ({"url": "http://h/", "headers": {"A": "1"}, "header.B": "2"}, "headers is given twice"),
    ({"url": "http://h/", "path": "/x"}, "path is given twice"),
    ({"type": "sse", "host": "h", "path": "/a", "rpc_path": "/r"}, "no sse_path and no rpc_path"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "says"), REFUSED)
def test_what_is_wrong_is_refused_and_named(spec: str | Mapping[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(spec)
    assert says in str(caught.value)


def test_the_list_agrees_with_the_transport_named_beside_it() -> None:
    assert parse_endpoint("scheme=https; host=h", transport="http").scheme == "https"
    assert parse_endpoint("host=h; path=/m", transport="sse+http").scheme == "sse+http"
    assert parse_endpoint("https://h/", transport="http").scheme == "https"
    with pytest.raises(ConfigurationError, match="is of http, but https was asked for"):
        parse_endpoint("scheme=http; host=h", transport="https")
    with pytest.raises(ConfigurationError, match="is of http, but tcp was asked for"):
        parse_endpoint("http://h/", transport="tcp")


def test_the_environment_can_ask_for_http() -> None:
    found = endpoint_from_environment({"TRANSPORT": "http"})
    assert found == HttpEndpoint(host="127.0.0.1", port=8080, path="/mcp")


SECRETS: list[str | Mapping[str, object]] = [
    "http://h/?auth=bearer&token=s3cret",
    "scheme=http; host=h; auth=bearer; bearerToken=s3cret",
    "http://h/?header.X-Api-Key=s3cret",
    {"url": "http://h/mcp?key=s3cret"},
    "https://h/?proxy=http://user:s3cret@proxy.example:3128",
    "https://h/?cert=/c.pem&key_password=s3cret",
    {"url": "https://h/", "cert_file": "/c.pem", "key_pem": "s3cret"},
    {"url": "http://h/mcp", "headers": {"Authorization": "Bearer s3cret"}},
    "scheme=http; host=h; auth=oauth2; oauthUrl=https://t/; clientId=i; clientSecret=s3cret",
]
#: Wrong, so that the error is what could show it.
WRONG_SECRETS: list[str | Mapping[str, object]] = [
    "http://h/?auth=bearer&token=s3cret%20x",
    "http://h/?header.X-Api-Key=s3cret%0d",
    {"url": "http://h/mcp?s3cret=^"},
    "http://u:s3cret@h/mcp",
    "https://h/?proxy=http://user:s3cret@proxy.example:port",
    "https://h/?min_tls=1.1&key_password=s3cret",
    {"url": "http://h/mcp", "headers": {"X": ["s3cret"]}},
]


@pytest.mark.parametrize("spec", SECRETS)
def test_a_secret_is_never_shown(spec: str | Mapping[str, object]) -> None:
    found = parse_endpoint(spec)
    shown = f"{found} {found!r} {found.label} {found.__rich_repr__()}"
    assert "s3cret" not in shown
    assert "***" in shown
    # What was printed cannot be used by mistake, with a wrong secret.
    with pytest.raises(ConfigurationError, match=r"\*\*\* only stands for"):
        parse_endpoint(str(found))


@pytest.mark.parametrize("spec", WRONG_SECRETS)
def test_a_wrong_secret_is_never_shown(spec: str | Mapping[str, object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(spec)
    assert "s3cret" not in str(caught.value)


def test_a_client_is_told_url_host_and_headers() -> None:
    found = parse_endpoint({
        "url": "https://h/mcp?key=1",
        "headers": {"X-A": "1"},
        "auth": "bearer",
        "token": "t0",
    })
    assert isinstance(found, HttpsEndpoint)
    assert found.url == "https://h/mcp?key=1"
    assert found.request_target == "/mcp?key=1"
    assert found.authority == "h"
    assert str(found.origin) == "https://h"
    assert found.request_headers() == (("X-A", "1"), ("authorization", "Bearer t0"))
    other = parse_endpoint("sse+http://[::1]:8080/sse")
    assert isinstance(other, SseEndpoint)
    assert (other.url, other.authority) == ("http://[::1]:8080/sse", "[::1]:8080")
    assert other.sse_only
    assert not found.sse_only
    assert (found.two_paths, other.request_headers()) == (None, ())
    older = parse_endpoint("scheme=http")
    assert isinstance(older, HttpEndpoint)
    assert older.two_paths == ("/mcp/rpc", "/mcp/notify")


@pytest.mark.parametrize("name", ["headers", "url_query", "read_timeout", "server_name"])
def test_listening_refuses_what_only_a_client_can_use(name: str) -> None:
    values: dict[str, object] = {"headers": {"A": "1"}, "read_timeout": 1.0}
    value = values.get(name, "x")
    changed = {"tls": TlsSettings(server_name="x")} if name == "server_name" else {name: value}
    endpoint = msgspec.structs.replace(HttpsEndpoint(host="h", port=1), **changed)
    endpoint.refuse_options_of("server")
    with pytest.raises(ConfigurationError, match=f"^{name} is for connecting"):
        endpoint.refuse_options_of("client")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response", "json"),
        ("stateless", True),
        ("allowed_hosts", ("a.example",)),
        ("check_host", False),
        ("cors", "disabled"),
        ("retry_after", 0),
        ("trusted_proxies", ("::1",)),
    ],
)
def test_connecting_refuses_what_only_a_server_can_use(name: str, value: object) -> None:
    endpoint = msgspec.structs.replace(HttpEndpoint(host="h", port=1), **{name: value})
    endpoint.refuse_options_of("client")
    with pytest.raises(ConfigurationError, match=f"^{name} is for listening"):
        endpoint.refuse_options_of("server")


def test_every_field_belongs_to_a_side_or_to_both() -> None:
    both = {"host", "port", "path", "era", "revision", "rpc_path", "notify_path", "auth", "options"}
    both |= {"max_exchanges", "idle_timeout", "bearer_token", "tls", "compression"}
    one = {*HttpEndpoint.client_only, *HttpEndpoint.server_only}
    assert both | one == {*HttpEndpoint.__struct_fields__}
    assert not both & one
    assert len(one) == len(HttpEndpoint.client_only) + len(HttpEndpoint.server_only)
