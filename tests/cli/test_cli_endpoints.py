"""Which endpoints the commands take from arguments, flags and the environment."""

from __future__ import annotations

import math
import socket

import pytest

from trio_mcp_transport import (
    ChannelOptions,
    ConfigurationError,
    Endpoint,
    ShmEndpoint,
    StdioEndpoint,
    TcpEndpoint,
    TlsEndpoint,
    UnixEndpoint,
    WebSocketEndpoint,
    parse_endpoint,
)
from trio_mcp_transport.cli.endpoints import (
    check_authenticated,
    chosen_by_flags,
    listening_endpoints,
    with_admission,
    with_headers,
)

pytestmark = pytest.mark.cli

DETECT = ChannelOptions(framing="detect")


@pytest.mark.parametrize(
    ("transport", "stdiocfg", "environ", "expected"),
    [
        (None, None, {}, StdioEndpoint()),
        ("stdio", None, {"TRANSPORT": "tcp"}, StdioEndpoint()),
        ("tcp", None, {}, TcpEndpoint(host="127.0.0.1", port=8080)),
        ("tls", None, {}, TlsEndpoint(host="127.0.0.1", port=8080)),
        ("websocket", None, {}, WebSocketEndpoint(host="127.0.0.1", port=8080, path="/mcp")),
        (None, None, {"TRANSPORT": "websocket"}, parse_endpoint("ws://127.0.0.1:8080/mcp")),
        ("unix", None, {}, UnixEndpoint(path="/tmp/mcp.sock")),
        (None, None, {"TRANSPORT": "unix"}, UnixEndpoint(path="/tmp/mcp.sock")),
        (
            None,
            "idle_read_timeout_ms=200",
            {"TRANSPORT": "tcp", "MCP_STDIO_CONFIG": "write_timeout_ms=1"},
            StdioEndpoint(options=ChannelOptions(idle_read_timeout=0.2)),
        ),
        (
            "stdio",
            "idle_read_timeout_ms=0",
            {"MCP_STDIOTRANSPORT_TIMEOUT_MS": "500"},
            StdioEndpoint(options=ChannelOptions(idle_read_timeout=math.inf, request_timeout=0.5)),
        ),
    ],
)
def test_flags_beat_the_environment_and_that_beats_the_default(
    transport: str | None, stdiocfg: str | None, environ: dict[str, str], expected: Endpoint
) -> None:
    assert chosen_by_flags(transport, stdiocfg, environ) == expected


@pytest.mark.parametrize(
    ("transport", "channel", "expected"),
    [
        ("shm", None, ShmEndpoint(name="mcp-shm")),
        ("shm", "a", ShmEndpoint(name="a")),
        (None, "a", ShmEndpoint(name="a")),
        (None, "a?maxSize=100", ShmEndpoint(name="a", max_size=100)),
    ],
)
def test_a_channel_of_shared_memory_is_named_by_a_flag(
    transport: str | None, channel: str | None, expected: Endpoint
) -> None:
    assert chosen_by_flags(transport, None, {"TRANSPORT": "tcp"}, channel) == expected
    (listening,) = listening_endpoints([], transport, None, {}, channel)
    assert listening.target() == expected.target()
    assert listening.options == DETECT


@pytest.mark.parametrize(
    ("transport", "stdiocfg", "channel", "says"),
    [
        ("tcp", None, "a", "--channel is for shared memory, not for --transport=tcp"),
        (None, "timeout_ms=1", "a", "--channel is for shared memory, not for --stdiocfg"),
        ("shm", "timeout_ms=1", None, "--stdiocfg says nothing about shm"),
        ("shm", None, "a/b", "--channel: .*"),
    ],
)
def test_a_channel_that_makes_no_sense_is_refused(
    transport: str, stdiocfg: str | None, channel: str | None, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        chosen_by_flags(transport, stdiocfg, {}, channel)


def test_a_channel_beside_listen_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--channel and --listen"):
        listening_endpoints(["shm://a"], None, None, {}, "b")


def test_one_channel_cannot_be_listened_at_twice() -> None:
    with pytest.raises(ConfigurationError, match="given twice"):
        listening_endpoints(["shm://a", "shm://a?maxSize=5"], None, None, {})
    assert len(listening_endpoints(["shm://a", "shm://a?directory=/x"], None, None, {})) == 2


def test_without_a_framing_the_clients_is_found_out() -> None:
    listen = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2?framing=length-prefix", "unix:/x"]
    assert listening_endpoints(listen, None, None, {"TRANSPORT": "tcp"}) == [
        TcpEndpoint(host="127.0.0.1", port=1, options=DETECT),
        TcpEndpoint(host="127.0.0.1", port=2, options=ChannelOptions(framing="length-prefix")),
        UnixEndpoint(path="/x", options=DETECT),
    ]
    assert listening_endpoints([], None, None, {}) == [StdioEndpoint(options=DETECT)]


def test_a_list_is_read_with_its_transport_named() -> None:
    (found,) = listening_endpoints(["bind_address=[::1]:5; nodelay=false"], "tcp", None, {})
    assert found == TcpEndpoint(host="::1", port=5, nodelay=False, options=DETECT)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_may_be_listened_at_by_anybody(host: str) -> None:
    check_authenticated([TcpEndpoint(host=host, port=1), StdioEndpoint(), UnixEndpoint(path="/x")])


def test_a_name_is_as_safe_as_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = ["127.0.0.1", "192.0.2.1"]

    def lookup(host: str, port: None, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    endpoint = TcpEndpoint(host="some.name", port=1)
    with pytest.raises(ConfigurationError, match="--allow-unauthenticated"):
        check_authenticated([endpoint])
    found.pop()
    check_authenticated([endpoint])


@pytest.mark.parametrize(
    ("text", "framing"),
    [("tls://h:1", "detect"), ("ws://h:1/", "newline"), ("wss://h:1/", "newline")],
)
def test_only_what_has_frames_of_ours_finds_them_out(text: str, framing: str) -> None:
    (found,) = listening_endpoints([text], None, None, {})
    assert found.options.framing == framing


@pytest.mark.parametrize("text", ["ws://127.0.0.1:1/a", "wss://127.0.0.1:1/a", "tls://127.0.0.1:1"])
def test_one_address_is_listened_at_once_whatever_is_spoken_there(text: str) -> None:
    with pytest.raises(ConfigurationError, match="it is given twice"):
        listening_endpoints(["tcp://127.0.0.1:1", text], None, None, {})


def test_headers_and_admission_are_for_websocket_as_well() -> None:
    endpoint = parse_endpoint("ws://h:1/")
    headed = with_headers(endpoint, ["X-Mine: 1"])
    assert isinstance(headed, WebSocketEndpoint)
    assert headed.headers == {"X-Mine": "1"}
    (admitting,) = with_admission([endpoint], ["https://app.example"], ["mcp.example"])
    assert isinstance(admitting, WebSocketEndpoint)
    assert admitting.allowed_origins == ("https://app.example",)
    assert admitting.allowed_hosts == ("mcp.example",)


@pytest.mark.parametrize("text", ["ws://0.0.0.0:1/", "wss://0.0.0.0:1/", "tls://0.0.0.0:1"])
def test_strangers_are_kept_out_of_every_transport(text: str) -> None:
    with pytest.raises(ConfigurationError, match="nobody has to prove who they are"):
        check_authenticated([parse_endpoint(text)])
