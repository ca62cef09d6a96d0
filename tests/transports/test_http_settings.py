"""Every option of an HTTP endpoint gets somewhere, and is refused where it has no use."""

from __future__ import annotations

import msgspec
import pytest

from trio_mcp_transport.compression_settings import CompressionSettings
from trio_mcp_transport.errors import ConfigurationError, FeatureUnavailable
from trio_mcp_transport.http_endpoints import (
    HttpEndpoint,
    HttpsEndpoint,
    SseEndpoint,
    SseTlsEndpoint,
)
from trio_mcp_transport.limits import (
    HTTP_BODY_TIMEOUT,
    HTTP_CLIENT_IDLE_TIMEOUT,
    HTTP_HEAD_TIMEOUT,
    HTTP_IDLE_TIMEOUT,
    ChannelOptions,
)
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import RequestHead
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.security.admission import AdmissionPolicy, Admitted, Answered
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.tls_settings import TlsSettings
from trio_mcp_transport.transports.http_client import client_options
from trio_mcp_transport.transports.http_connection import HttpConnectionOptions
from trio_mcp_transport.transports.http_settings import (
    admission_policy,
    check_connecting,
    check_listening,
    connection_options,
    make_doorkeeper,
    server_options,
    tcp_options,
    websocket_serving,
)

pytestmark = pytest.mark.endpoints

PLAIN = HttpEndpoint("127.0.0.1", 9000, "/mcp")

#: For each field a value that is not the default, with what else it needs.
SERVER_FIELDS: dict[str, dict[str, object]] = {
    "compression": {"compression": CompressionSettings(algorithms=("gzip",))},
    "response": {"response": "json"},
    "stateless": {"stateless": True},
    "resumable": {"resumable": True},
    "max_connections": {"max_connections": 7},
    "max_sessions": {"max_sessions": 7},
    "max_unsent_bytes": {"max_unsent_bytes": 7},
    "session_idle_timeout": {"session_idle_timeout": 7.0},
    "keep_alive_interval": {"keep_alive_interval": 7.0},
    "quiet_interval": {"quiet_interval": 7.0},
    "head_timeout": {"head_timeout": 7.0},
    "body_timeout": {"body_timeout": 7.0},
    "grace_timeout": {"grace_timeout": 7.0},
    "retry_interval": {"retry_interval": 7.0},
    "retry_after": {"retry_after": 7},
    "sse_path": {"sse_path": "/sse", "message_path": "/m"},
    "message_path": {"sse_path": "/sse", "message_path": "/n"},
    "allowed_hosts": {"allowed_hosts": ("a.example",)},
    "allowed_origins": {"allowed_origins": ("https://a.example",)},
    "check_host": {"check_host": False},
    "check_origin": {"check_origin": False},
    "trusted_proxies": {"trusted_proxies": ("::1",)},
    "proxy_header": {"proxy_header": "forwarded"},
    "cors": {"cors": "strict"},
    "security_headers": {"security_headers": "production"},
    "era": {"era": "modern"},
    "revision": {"revision": "2025-06-18"},
    "rpc_path": {"rpc_path": "/r", "notify_path": "/n"},
    "notify_path": {"rpc_path": "/r", "notify_path": "/o"},
    "max_exchanges": {"max_exchanges": 7},
    "idle_timeout": {"idle_timeout": 7.0},
    "websocket": {"websocket": False},
    "path": {"path": "/other"},
    "host": {"host": "localhost"},
    "port": {"port": 9001},
}


def everything(endpoint: HttpEndpoint) -> tuple[object, ...]:
    return (
        server_options(endpoint),
        connection_options(endpoint),
        tcp_options(endpoint),
        admission_policy(endpoint),
        websocket_serving(endpoint),
    )


def test_a_server_keeps_idle_connections_longer_than_a_client() -> None:
    assert connection_options(PLAIN).keep_alive_timeout == HTTP_IDLE_TIMEOUT == 60
    assert HTTP_CLIENT_IDLE_TIMEOUT < 5  # when uvicorn and Node.js close theirs
    endpoint = msgspec.structs.replace(PLAIN, idle_timeout=100.0)
    assert connection_options(endpoint).keep_alive_timeout == 100


def test_the_defaults_of_endpoints_are_those_of_whoever_uses_them() -> None:
    assert server_options(PLAIN) == HttpServerOptions(path="/mcp")
    assert admission_policy(PLAIN) == AdmissionPolicy()
    # These of every transport hold as well, and are shorter.
    shorter = msgspec.structs.replace(
        HttpConnectionOptions(),
        head_timeout=min(HTTP_HEAD_TIMEOUT, ChannelOptions().handshake_timeout),
        body_timeout=min(HTTP_BODY_TIMEOUT, ChannelOptions().handshake_timeout),
        keep_alive_timeout=min(HTTP_IDLE_TIMEOUT, ChannelOptions().idle_read_timeout),
    )
    assert connection_options(PLAIN) == shorter
    default = HttpConnectionOptions()
    constants = (HTTP_HEAD_TIMEOUT, HTTP_BODY_TIMEOUT, HTTP_IDLE_TIMEOUT)
    assert (default.head_timeout, default.body_timeout, default.keep_alive_timeout) == constants


@pytest.mark.parametrize("name", SERVER_FIELDS)
def test_every_option_of_a_server_makes_a_difference(name: str) -> None:
    values = SERVER_FIELDS[name]
    without = {key: value for key, value in values.items() if key != name}
    if without:  # those that go in pairs
        others = {"sse_path": "/x", "message_path": "/x", "rpc_path": "/x", "notify_path": "/x"}
        without[name] = others[name]
    changed = msgspec.structs.replace(PLAIN, **values)
    check_listening(changed)
    assert everything(changed) != everything(msgspec.structs.replace(PLAIN, **without))


def test_no_option_of_a_server_is_left_out() -> None:
    tokens = {"auth", "bearer_token"}
    assert SERVER_FIELDS.keys() | tokens | {"options", "tls"} == (
        {*HttpEndpoint.__struct_fields__} - {*HttpEndpoint.client_only}
    )


@pytest.mark.parametrize(
    "options",
    [
        ChannelOptions(max_message_bytes=7),
        ChannelOptions(write_timeout=7),
        ChannelOptions(handshake_timeout=7),
        ChannelOptions(idle_read_timeout=7),
    ],
)
def test_the_options_of_channels_hold_for_requests(options: ChannelOptions) -> None:
    found = everything(msgspec.structs.replace(PLAIN, options=options))
    assert found[:2] != everything(PLAIN)[:2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url_query", "a=b"),
        ("headers", {"X-A": "b"}),
        ("read_timeout", 7.0),
        ("max_exchanges", 7),
        ("rpc_path", "/r"),
        ("path", "/other"),
    ],
)
def test_every_option_of_a_client_makes_a_difference(name: str, value: object) -> None:
    more = {"notify_path": "/n"} if name == "rpc_path" else {}
    changed = msgspec.structs.replace(PLAIN, **{name: value}, **more)
    check_connecting(changed)
    assert client_options(changed) != client_options(PLAIN)


def test_the_older_wire_has_one_path_for_its_stream_and_one_for_messages() -> None:
    sse = SseEndpoint("h", 80, "/sse/")
    options = server_options(sse)
    assert (options.path, options.sse_path, options.message_path) == (
        None,
        "/sse/",
        "/sse/messages",
    )
    named = server_options(msgspec.structs.replace(sse, message_path="/post"))
    assert named.message_path == "/post"
    assert client_options(sse).sse_only


@pytest.mark.parametrize("endpoint", [HttpsEndpoint("h", 443), SseTlsEndpoint("h", 443)])
def test_a_client_of_the_callers_has_its_own_tls_and_proxy(endpoint: HttpEndpoint) -> None:
    check_connecting(endpoint, own_client=True)
    for name in ("server_name", "ca_file", "ca_path"):
        tls = msgspec.structs.replace(TlsSettings(), **{name: "x"})
        with pytest.raises(ConfigurationError, match=f"{name} is a matter of the `client=`"):
            check_connecting(msgspec.structs.replace(endpoint, tls=tls), own_client=True)
    proxied = msgspec.structs.replace(endpoint, proxy="http://proxy.example:3128")
    check_connecting(proxied)
    with pytest.raises(ConfigurationError, match="proxy is a matter of the `client=`"):
        check_connecting(proxied, own_client=True)


def test_oauth_is_named_as_what_is_missing_and_nothing_is_sent_without_credentials() -> None:
    endpoint = HttpEndpoint(
        "h", 80, auth="oauth2", oauth_token_url="https://t/", client_id="i", client_secret="s3cret"
    )
    with pytest.raises(FeatureUnavailable, match="auth=oauth2 needs a client for OAuth") as caught:
        check_connecting(endpoint, own_client=True)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="oauth_token_url is for connecting"):
        check_listening(endpoint)


def test_sides_are_told_apart() -> None:
    with pytest.raises(ConfigurationError, match="headers is for connecting"):
        check_listening(msgspec.structs.replace(PLAIN, headers={"A": "b"}))
    with pytest.raises(ConfigurationError, match="stateless is for listening"):
        check_connecting(msgspec.structs.replace(PLAIN, stateless=True))


async def test_a_token_is_demanded_where_an_endpoint_has_one() -> None:
    doorkeeper = make_doorkeeper(msgspec.structs.replace(PLAIN, auth="bearer", bearer_token="t0"))
    facts = ConnectionFacts(local_address=("127.0.0.1", 9000), peer_address=("127.0.0.1", 1))

    async def admit(*headers: tuple[str, str]) -> Admitted | Answered:
        head = RequestHead("POST", "/mcp", Headers([("host", "localhost:9000"), *headers]))
        return await doorkeeper.admit(head, facts)

    refused = await admit()
    assert isinstance(refused, Answered)
    assert refused.reply.status == 401
    admitted = await admit(("authorization", "Bearer t0"))
    assert isinstance(admitted, Admitted)
    assert admitted.principal == "bearer"


def test_permissive_cors_lets_every_origin_in() -> None:
    policy = admission_policy(msgspec.structs.replace(PLAIN, cors="permissive"))
    assert policy.allowed_origins == ("*",)
    assert not policy.cors.allow_credentials
