"""Every way to write an endpoint, what is refused, and how the refusal names the fault."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest

from trio_mcp_transport.endpoint_parser import endpoint_from_environment, parse_endpoint
from trio_mcp_transport.endpoints import (
    MAX_SOCKET_PATH_BYTES,
    Endpoint,
    MemoryEndpoint,
    ProcessEndpoint,
    StdioEndpoint,
    TcpEndpoint,
    UnixEndpoint,
)
from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.limits import ChannelOptions

pytestmark = pytest.mark.endpoints

URLS: list[tuple[str, Endpoint, str]] = [
    # What is written, what it means, and how that is written canonically.
    ("stdio:", StdioEndpoint(), "stdio:"),
    (" stdio: ", StdioEndpoint(), "stdio:"),
    (
        "stdio:?framing=content-length",
        StdioEndpoint(options=ChannelOptions(framing="content-length")),
        "stdio:?framing=content-length",
    ),
    ("stdio:python server.py", ProcessEndpoint(("python", "server.py")), "stdio:python server.py"),
    (
        "stdio: npx 'a b' \"c;d\" https://x/?y=1&z",
        ProcessEndpoint(("npx", "a b", "c;d", "https://x/?y=1&z")),
        "stdio:npx 'a b' 'c;d' 'https://x/?y=1&z'",
    ),
    ("stdio: ?odd", ProcessEndpoint(("?odd",)), "stdio:'?odd'"),
    (
        "stdio:?stderr=drop&working_directory=/srv/a%20b&supervise=yes prog",
        ProcessEndpoint(("prog",), stderr="drop", working_directory="/srv/a b", supervise=True),
        "stdio:?working_directory=/srv/a%20b&stderr=drop&supervise=true prog",
    ),
    (
        "stdio:?startup_timeout=2.5&shutdown_timeout_ms=1 prog",
        ProcessEndpoint(("prog",), startup_timeout=2.5, shutdown_timeout=0.001),
        "stdio:?startup_timeout=2.5&shutdown_timeout=0.001 prog",
    ),
    (
        "stdio:?shutdown_timeout=0 prog",
        ProcessEndpoint(("prog",), shutdown_timeout=math.inf),
        "stdio:?shutdown_timeout=0 prog",
    ),
    ("memory:hub", MemoryEndpoint("hub"), "memory:hub"),
    ("memory:a%2Fb%3F", MemoryEndpoint("a/b?"), "memory:a%2Fb%3F"),
    ("memory:h?max_messages=7", MemoryEndpoint("h", max_messages=7), "memory:h?max_messages=7"),
    ("tcp://127.0.0.1:9000", TcpEndpoint("127.0.0.1", 9000), "tcp://127.0.0.1:9000"),
    ("TCP://Example.org:1", TcpEndpoint("Example.org", 1), "tcp://Example.org:1"),
    ("tcp://[::1]:0", TcpEndpoint("::1", 0), "tcp://[::1]:0"),
    ("tcp://[fe80::1%25eth0]:1", TcpEndpoint("fe80::1%eth0", 1), "tcp://[fe80::1%25eth0]:1"),
    (
        "tcp://h:1?nodelay=off&keep_alive=0&buffer_size=65536&max_connections=2",
        TcpEndpoint(
            "h", 1, nodelay=False, keep_alive=math.inf, buffer_size=65536, max_connections=2
        ),
        "tcp://h:1?nodelay=false&keep_alive=0&buffer_size=65536&max_connections=2",
    ),
    (
        "tcp://h:1?keep_alive_ms=1500",
        TcpEndpoint("h", 1, keep_alive=1.5),
        "tcp://h:1?keep_alive=1.5",
    ),
    ("unix:/run/mcp.sock", UnixEndpoint("/run/mcp.sock"), "unix:/run/mcp.sock"),
    ("unix:///run/mcp.sock", UnixEndpoint("/run/mcp.sock"), "unix:/run/mcp.sock"),
    ("unix:////odd", UnixEndpoint("//odd"), "unix:////odd"),
    ("unix:relative/a%20b", UnixEndpoint("relative/a b"), "unix:relative/a%20b"),
    ("unix:@name", UnixEndpoint("@name"), "unix:@name"),
    ("unix:./@name", UnixEndpoint("./@name"), "unix:./@name"),
    ("unix:/a%3Fb+c%FF", UnixEndpoint("/a?b+c\udcff"), "unix:/a%3Fb%2Bc%FF"),
    (
        "unix:/s?permissions=0660&owner=me&group=12&cleanup_on_drop=no&check_peer=1",
        UnixEndpoint(
            "/s",
            permissions=0o660,
            owner="me",
            group="12",
            cleanup_on_drop=False,
            check_peer=True,
        ),
        "unix:/s?permissions=0660&owner=me&group=12&cleanup_on_drop=false&check_peer=true",
    ),
]


@pytest.mark.parametrize(("text", "endpoint", "canonical"), URLS)
def test_a_url_is_read_and_written_canonically(
    text: str, endpoint: Endpoint, canonical: str
) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == canonical
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize("written", ["660", "0660", "0o660"])
def test_permissions_are_octal_however_they_are_written(written: str) -> None:
    assert parse_endpoint(f"unix:/s?permissions={written}") == UnixEndpoint("/s", permissions=0o660)


@pytest.mark.parametrize("written", ["1", "true", "yes", "on", "TRUE", "On"])
def test_a_boolean_that_is_true(written: str) -> None:
    assert parse_endpoint(f"unix:/s?check_peer={written}") == UnixEndpoint("/s", check_peer=True)


@pytest.mark.parametrize("written", ["0", "false", "no", "off", "False"])
def test_a_boolean_that_is_false(written: str) -> None:
    assert parse_endpoint(f"tcp://h:1?nodelay={written}") == TcpEndpoint("h", 1, nodelay=False)


OPTIONS: dict[str, tuple[str, object]] = {
    "framing": ("length-prefix", "length-prefix"),
    "max_message_bytes": ("1000", 1000),
    "outbox_bytes": ("2000", 2000),
    "inbox_bytes": ("3000", 3000),
    "when_full": ("close", "close"),
    "connect_timeout": ("1.5", 1.5),
    "handshake_timeout": ("30", 30.0),
    "idle_read_timeout": ("60", 60.0),
    "inbox_stall_timeout": ("5", 5.0),
    "write_timeout": ("0", math.inf),
    "close_timeout": ("1e-3", 0.001),
    "request_timeout": ("0.0", math.inf),
}


@pytest.mark.parametrize("start", ["stdio:", "memory:m", "tcp://h:1", "unix:/s"])
def test_every_channel_option_can_stand_in_a_url_of_every_transport(start: str) -> None:
    assert set(OPTIONS) == set(ChannelOptions.__struct_fields__)
    query = "&".join(f"{name}={text}" for name, (text, _) in OPTIONS.items())
    endpoint = parse_endpoint(f"{start}?{query}")
    assert {name: getattr(endpoint.options, name) for name in OPTIONS} == {
        name: value for name, (_, value) in OPTIONS.items()
    }
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "transport", "expected"),
    [
        ("", "stdio", StdioEndpoint()),
        (
            (
                "timeout_ms=30000; idle_read_timeout_ms=200; write_timeout_ms=150;"
                " write_queue_max_bytes=4096; max_content_length=1024; framing=content-length"
            ),
            "stdio",
            StdioEndpoint(
                options=ChannelOptions(
                    framing="content-length",
                    max_message_bytes=1024,
                    outbox_bytes=4096,
                    when_full="close",
                    idle_read_timeout=0.2,
                    write_timeout=0.15,
                    request_timeout=30.0,
                )
            ),
        ),
        (
            "write_queue_max_bytes=4096; when_full=block",
            "stdio",
            StdioEndpoint(options=ChannelOptions(outbox_bytes=4096)),
        ),
        (
            "timeout_ms = 0\tidle_read_timeout_ms =0\nwrite_timeout_ms= 0",
            "stdio",
            StdioEndpoint(
                options=ChannelOptions(
                    request_timeout=math.inf, idle_read_timeout=math.inf, write_timeout=math.inf
                )
            ),
        ),
        (
            (
                "command=\"python 'my server.py' -v\" working_directory=/srv"
                " environment_vars.DEBUG=true environment=exact"
            ),
            "stdio",
            ProcessEndpoint(
                ("python", "my server.py", "-v"),
                working_directory="/srv",
                environment_vars={"DEBUG": "true"},
                environment="exact",
            ),
        ),
        (
            "bind_address=127.0.0.1:8080; nodelay=true; keep_alive=60; buffer_size=65536",
            "tcp",
            TcpEndpoint("127.0.0.1", 8080, nodelay=True, keep_alive=60.0, buffer_size=65536),
        ),
        ("bind_address = [::1]:80 ;", "tcp", TcpEndpoint("::1", 80)),
        ("host=h; port=80", "tcp", TcpEndpoint("h", 80)),
        (
            "path=/tmp/my mcp.sock; permissions=0o660; cleanup_on_drop=true",
            "unix",
            UnixEndpoint("/tmp/my mcp.sock", permissions=0o660),
        ),
        ("name=hub; max_messages=1", "memory", MemoryEndpoint("hub", max_messages=1)),
        ("tcp://h:1", "tcp", TcpEndpoint("h", 1)),
    ],
)
def test_a_list_is_read_with_its_transport_named(
    text: str, transport: str, expected: Endpoint
) -> None:
    assert parse_endpoint(text, transport=transport) == expected


SERVER = {
    "command": "/usr/bin/my server",
    "args": ["-y", "--flag=a b"],
    "env": {"TOKEN": "secret"},
    "cwd": "/srv",
}
SERVER_ENDPOINT = ProcessEndpoint(
    ("/usr/bin/my server", "-y", "--flag=a b"),
    environment_vars={"TOKEN": "secret"},
    working_directory="/srv",
)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (SERVER, SERVER_ENDPOINT),
        (SERVER | {"type": "stdio"}, SERVER_ENDPOINT),
        ({"mcpServers": {"one": SERVER}, "theme": "dark"}, SERVER_ENDPOINT),
        ({"command": "npx"}, ProcessEndpoint(("npx",))),
        (
            {"command": ["npx", "-y"], "stderr": "drop"},
            ProcessEndpoint(("npx", "-y"), stderr="drop"),
        ),
        (
            {"type": "stdio", "request_timeout": 5},
            StdioEndpoint(options=ChannelOptions(request_timeout=5.0)),
        ),
        (
            {"type": "tcp", "host": "h", "port": 5, "keep_alive": 0, "connect_timeout_ms": 100},
            TcpEndpoint("h", 5, keep_alive=math.inf, options=ChannelOptions(connect_timeout=0.1)),
        ),
        (
            {"url": "tcp://h:5?nodelay=0", "keep_alive": 2.5, "buffer_size": None},
            TcpEndpoint("h", 5, nodelay=False, keep_alive=2.5),
        ),
        ({"url": "unix:/s", "permissions": "0660"}, UnixEndpoint("/s", permissions=0o660)),
        (
            {"type": "unix", "path": "/s", "write_timeout_ms": 0},
            UnixEndpoint("/s", options=ChannelOptions(write_timeout=math.inf)),
        ),
    ],
)
def test_a_mapping_is_read_and_so_is_the_same_as_json(
    mapping: Mapping[str, object], expected: Endpoint
) -> None:
    assert parse_endpoint(mapping) == expected
    assert parse_endpoint(f"\n {json.dumps(mapping)}") == expected


def test_a_mapping_can_have_its_transport_named_beside_it() -> None:
    assert parse_endpoint({"name": "hub"}, transport="memory") == MemoryEndpoint("hub")


def test_one_of_several_servers_is_picked_by_name() -> None:
    text = json.dumps({"mcpServers": {"a": SERVER, "b": {"url": "tcp://h:5"}}})
    assert parse_endpoint(text, name="b") == TcpEndpoint("h", 5)
    assert parse_endpoint(text, name="a", transport="stdio") == SERVER_ENDPOINT


def test_an_endpoint_is_returned_as_it_is() -> None:
    endpoint = TcpEndpoint("h", 1)
    assert parse_endpoint(endpoint) is endpoint
    assert parse_endpoint(endpoint, transport="tcp") is endpoint


BAD: list[tuple[object, str | None, str]] = [
    # What is written, with which transport named, and what the error says.
    ("", None, "an endpoint starts with its scheme (http, https, memory, shm, sse+http, "),
    ("localhost", None, "a key=value list needs its transport named"),
    ("127.0.0.1:80", None, "an endpoint starts with its scheme"),
    (5, None, "not int"),
    ("post://h", None, "no transport is called 'post' (there are: http, https, memory, shm, "),
    ("a=1", "post", "no transport is called 'post' (there are: http, https, memory, "),
    ("tcp://h:1", "unix", "the endpoint is of tcp, but unix was asked for"),
    (TcpEndpoint("h", 1), "unix", "the endpoint is of tcp, but unix was asked for"),
    # stdio and child processes
    ("stdio:'a", None, "command: no closing quotation"),
    ("stdio:''", None, "command must not be empty"),
    ("stdio:a\0b", None, "command must not contain a NUL"),
    ("stdio:?stderr=drop", None, "stderr needs a command"),
    ("environment_vars.A=1", "stdio", "environment_vars needs a command"),
    ("stdio:?stderr=loud a", None, "stderr must be one of capture, drop, inherit, not 'loud'"),
    ("stdio:?environment=some a", None, "environment must be one of"),
    ("stdio:?restart=3 a", None, "unknown option 'restart'"),
    ("stdio:?command=b a", None, "command is given twice"),
    ("stdio:?working_directory= a", None, "working_directory must not be empty"),
    ("stdio:?environment_vars.A=*** a", None, "environment_vars.A: *** only stands for a value"),
    ("stdio:?environment_vars.=1 a", None, "environment_vars: '' cannot be the name"),
    ("stdio:?environment_vars=1 a", None, "environment_vars"),
    # memory
    ("memory:", None, "name is missing in a memory endpoint"),
    ("memory://hub", None, "memory:NAME is written without slashes"),
    ("memory:h?max_messages=0", None, "max_messages: Expected `int` >= 1"),
    ("memory:%ff", None, "name is not UTF-8"),
    ("memory:%f", None, "name has a percent sign without two hexadecimal digits"),
    # tcp
    ("tcp:h:1", None, "tcp://HOST:PORT needs its two slashes"),
    ("tcp:", None, "host is missing in a tcp endpoint"),
    ("tcp://", None, "the host is missing"),
    ("tcp://h", None, "the port is missing"),
    ("tcp://h:", None, "the port is missing"),
    ("tcp://:1", None, "the host is missing"),
    ("tcp://h:1x", None, "the port must be a number from 0 to 65535"),
    ("tcp://h:65536", None, "the port must be a number from 0 to 65535"),
    ("tcp://h:-1", None, "the port must be a number from 0 to 65535"),
    ("tcp://h:\u0661", None, "the port must be a number from 0 to 65535"),
    ("tcp://[::1:1", None, "brackets must enclose an IPv6 address"),
    ("tcp://::1]:1", None, "brackets must enclose an IPv6 address"),
    ("tcp://[h]:1", None, "brackets must enclose an IPv6 address"),
    ("tcp://[[::1]]:1", None, "brackets must enclose an IPv6 address"),
    ("tcp://[::1]", None, "the port is missing"),
    ("tcp://[::1]1", None, "only a port may follow the brackets"),
    ("tcp://[::x]:1", None, "host has colons but is not an IPv6 address"),
    ("tcp://::1:1", None, "an IPv6 address must stand in brackets"),
    ("tcp://user:secret@h:1", None, "tcp://HOST:PORT cannot have a user"),
    ("tcp://h:1/", None, "tcp://HOST:PORT cannot have a path"),
    ("tcp://h:1#x", None, "tcp://HOST:PORT cannot have a fragment"),
    ("tcp://a%20b:1", None, "host has a character that no host name has"),
    ("tcp://h:1?bind_address=h:1", None, "bind_address: the address is given twice"),
    ("tcp://h:1?host=h", None, "host is given twice"),
    ("bind_address=8080", "tcp", "bind_address: the port is missing"),
    ("host=h", "tcp", "port is missing in a tcp endpoint"),
    ("tcp://h:1?keep_alive=true", None, "keep_alive must be seconds (0 for no limit), not 'true'"),
    ("tcp://h:1?max_connections=0", None, "max_connections: Expected `int` >= 1"),
    ("tcp://h:1?buffer_size=64k", None, "buffer_size must be a whole number"),
    ("tcp://h:1?nodelay=maybe", None, "nodelay must be one of 1, true, yes, on, 0, false"),
    # unix
    ("unix:", None, "path is missing in a unix endpoint"),
    ("path=", "unix", "path must not be empty"),
    ("unix:@", None, "path must not be empty"),
    ("unix://host/path", None, "unix: the path must follow unix: or unix://, without a host"),
    ("unix:/a%00", None, "path must not contain a NUL"),
    ("unix:/s?permissions=680", None, "permissions must be octal digits such as 0660, not '680'"),
    ("unix:/s?permissions=1777", None, "permissions: Expected `int` <= 511"),
    ("unix:/s?owner=", None, "owner must not be empty"),
    ("unix:/" + "a" * MAX_SOCKET_PATH_BYTES, None, f"path of {MAX_SOCKET_PATH_BYTES + 1} bytes"),
    # options of every transport
    ("tcp://h:1?speed=9", None, "unknown option 'speed' of a tcp endpoint (known: host, port,"),
    ("tcp://h:1?framing_ms=9", None, "unknown option 'framing_ms'"),
    ("tcp://h:1?nodelay", None, "option 1 is not written as KEY=VALUE"),
    ("tcp://h:1?nodelay=1&&", None, "option 2 is not written as KEY=VALUE"),
    ("tcp://h:1?nodelay=1&nodelay=1", None, "nodelay is given twice"),
    ("tcp://h:1?request_timeout=1&timeout_ms=1", None, "request_timeout is given twice"),
    ("tcp://h:1?keep_alive=%", None, "keep_alive has a percent sign without"),
    ("tcp://h:1?request_timeout=12abc", None, "request_timeout must be seconds"),
    ("tcp://h:1?request_timeout=-1", None, "request_timeout must be seconds"),
    ("tcp://h:1?request_timeout=", None, "request_timeout must be seconds"),
    ("tcp://h:1?request_timeout=inf", None, "request_timeout must be seconds"),
    ("tcp://h:1?request_timeout=1e999", None, "request_timeout must be seconds"),
    ("tcp://h:1?timeout_ms=1.5", None, "timeout_ms must be whole milliseconds"),
    ("tcp://h:1?max_message_bytes=0", None, "max_message_bytes must be at least 1"),
    ("tcp://h:1?max_message_bytes=1_000", None, "max_message_bytes must be a whole number"),
    ("tcp://h:1?max_message_bytes=" + "9" * 5000, None, "max_message_bytes must be a whole"),
    ("tcp://h:1?framing=lines", None, "framing must be one of"),
    # lists
    ("timeout_ms=12abc", "stdio", "timeout_ms must be whole milliseconds (0 for no limit)"),
    ("timeout_ms=-1", "stdio", "timeout_ms must be whole milliseconds"),
    ("timeout_ms 5", "stdio", "entry 1 of the list is not written as KEY=VALUE"),
    ("timeout_ms=5 x", "stdio", "entry 2 of the list is not written as KEY=VALUE"),
    ("timeout_ms=5 timeout_ms=5", "stdio", "timeout_ms is given twice"),
    ("timeout=5", "stdio", "unknown option 'timeout' of a stdio endpoint"),
    # mappings and JSON
    ("{", None, "the endpoint starts as JSON, but: "),
    ("{}", None, "the mapping names no transport: give type, url or command"),
    ("{} {}", None, "the endpoint starts as JSON, but: "),
    ('{"a": NaN}', None, "NaN is not JSON"),
    ('{"command": "a", "command": "b"}', None, "command is given twice"),
    ("{" * 100_000, None, "the endpoint starts as JSON, but: "),
    ({1: 2}, None, "the keys of the mapping must be strings"),
    ({"type": 5}, None, "type must be a string"),
    ({"type": "post"}, None, "no transport is called 'post'"),
    ({"type": "tcp", "command": "a"}, None, "unknown option 'command' of a tcp endpoint"),
    ({"type": "stdio", "url": "tcp://h:1"}, None, "the endpoint is of tcp, but stdio was asked"),
    ({"url": "post://h"}, None, "no transport is called 'post' (there are: http, https, memory"),
    ({"type": "http", "url": "tcp://h:1"}, None, "the endpoint is of tcp, but http was asked"),
    ({"url": "tcp://h:1"}, "unix", "the endpoint is of tcp, but unix was asked for"),
    ({"url": "h"}, None, "url must start with its scheme and a colon"),
    ({"url": "tcp://h:1?nodelay=1", "nodelay": True}, None, "nodelay is given twice"),
    ({"command": 5}, None, "command must be a string or a list of strings"),
    ({"command": "a", "args": "b"}, None, "args must be a list of strings"),
    ({"command": "a", "args": [1]}, None, "args must be a list of strings"),
    ({"type": "stdio", "args": ["a"]}, None, "args needs a command"),
    ({"command": "a", "env": {}, "environment_vars": {}}, None, "given twice, once as env"),
    ({"command": "a", "env": {"A": 5}}, None, "environment_vars: Expected `str`, got `int`"),
    ({"command": "a", "disabled": True}, None, "unknown option 'disabled' of a stdio endpoint"),
    ({"type": "tcp", "host": "h", "port": "5x"}, None, "port must be a whole number"),
    ({"type": "tcp", "host": "h", "port": True}, None, "port: Expected `int`, got `bool`"),
    ({"type": "tcp", "host": "h", "port": 5, "nodelay": 1}, None, "nodelay: Expected `bool`"),
    ({"type": "tcp", "host": "h", "port": 5, "timeout_ms": 1.5}, None, "timeout_ms must be whole"),
    ({"type": "tcp", "host": "h", "port": 5, "timeout_ms": -1}, None, "timeout_ms must be whole"),
    ({"type": "tcp", "host": "h", "port": 5, "connect_timeout": -1}, None, "connect_timeout must"),
    ({"type": "tcp", "host": "h", "port": 5, "outbox_bytes": 1.5}, None, "outbox_bytes: Expected"),
    ({"type": "tcp", "bind_address": 80}, None, "bind_address must be a string HOST:PORT"),
    ({"type": "unix", "path": "/s", "permissions": 660}, None, "permissions must be a string of"),
    ({"mcpServers": {}}, None, "mcpServers must be an object with at least one entry"),
    ({"mcpServers": {"a": {}, "b": {}}}, None, "mcpServers has several entries, name one of: a, b"),
    ({"mcpServers": {"a": 5}}, None, "the entry 'a' of mcpServers must be"),
    ({"mcpServers": {"a": {"mcpServers": {}}}}, None, "the entry 'a' of mcpServers must be"),
]


@pytest.mark.parametrize(("spec", "transport", "says"), BAD)
def test_what_is_wrong_is_refused_and_named(
    spec: str | Mapping[str, object], transport: str | None, says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(spec, transport=transport)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "name", "says"),
    [
        ({"mcpServers": {"a": SERVER}}, "b", "mcpServers has no entry 'b', only: a"),
        (SERVER, "a", "name is only for mcpServers"),
        ("tcp://h:1", "a", "name is only for mcpServers"),
        (TcpEndpoint("h", 1), "a", "name is only for mcpServers"),
    ],
)
def test_a_name_that_names_nothing_is_refused(
    spec: str | Mapping[str, object] | Endpoint, name: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_endpoint(spec, name=name)


# -- The environment -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, StdioEndpoint()),
        ({"TRANSPORT": ""}, StdioEndpoint()),
        ({"TRANSPORT": "stdio"}, StdioEndpoint()),
        ({"TRANSPORT": "tcp"}, TcpEndpoint("127.0.0.1", 8080)),
        ({"TRANSPORT": "unix"}, UnixEndpoint("/tmp/mcp.sock")),
        (
            {"MCP_STDIO_CONFIG": "timeout_ms=500 framing=detect"},
            StdioEndpoint(options=ChannelOptions(request_timeout=0.5, framing="detect")),
        ),
        (
            {"MCP_STDIOTRANSPORT_TIMEOUT_MS": "1500"},
            StdioEndpoint(options=ChannelOptions(request_timeout=1.5)),
        ),
        (
            {"MCP_STDIOTRANSPORT_TIMEOUT_MS": "0", "MCP_STDIO_CONFIG": "framing=detect"},
            StdioEndpoint(options=ChannelOptions(request_timeout=math.inf, framing="detect")),
        ),
        (
            {"MCP_STDIOTRANSPORT_TIMEOUT_MS": "1", "MCP_STDIO_CONFIG": "timeout_ms=2000"},
            StdioEndpoint(options=ChannelOptions(request_timeout=2.0)),
        ),
        ({"MCP_STDIOTRANSPORT_TIMEOUT_MS": "", "MCP_STDIO_CONFIG": ""}, StdioEndpoint()),
        (
            {"TRANSPORT": "tcp", "MCP_STDIOTRANSPORT_TIMEOUT_MS": "x", "MCP_STDIO_CONFIG": "x"},
            TcpEndpoint("127.0.0.1", 8080),
        ),
    ],
)
def test_the_environment_chooses_the_endpoint(environ: dict[str, str], expected: Endpoint) -> None:
    assert endpoint_from_environment(environ) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("tcp://h:1", TcpEndpoint("h", 1)),
        ("stdio:", StdioEndpoint(options=ChannelOptions(request_timeout=7.0))),
        ("stdio:a", ProcessEndpoint(("a",), options=ChannelOptions(request_timeout=7.0))),
        (
            {"command": "a", "request_timeout": 3},
            ProcessEndpoint(("a",), options=ChannelOptions(request_timeout=3.0)),
        ),
        ("stdio:?request_timeout_ms=30000", StdioEndpoint()),
        (StdioEndpoint(), StdioEndpoint()),
    ],
)
def test_what_is_explicit_beats_the_environment(
    spec: str | Mapping[str, object] | Endpoint, expected: Endpoint
) -> None:
    environ = {
        "TRANSPORT": "unix",
        "MCP_STDIO_CONFIG": "framing=detect",
        "MCP_STDIOTRANSPORT_TIMEOUT_MS": "7000",
    }
    assert endpoint_from_environment(environ, spec) == expected


def test_an_explicit_list_beats_the_environment_too() -> None:
    environ = {"MCP_STDIOTRANSPORT_TIMEOUT_MS": "7000"}
    found = endpoint_from_environment(environ, "framing=detect", transport="stdio")
    assert found.options == ChannelOptions(request_timeout=7.0, framing="detect")


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"TRANSPORT": "pigeon"}, "TRANSPORT must be one of stdio, http, tcp, tls, unix"),
        ({"MCP_STDIO_CONFIG": "x=1"}, "MCP_STDIO_CONFIG: unknown option 'x'"),
        ({"MCP_STDIO_CONFIG": "tcp://h:1"}, "MCP_STDIO_CONFIG: the endpoint is of tcp"),
        ({"MCP_STDIOTRANSPORT_TIMEOUT_MS": "12abc"}, "MCP_STDIOTRANSPORT_TIMEOUT_MS must be whole"),
        ({"MCP_STDIOTRANSPORT_TIMEOUT_MS": "-1"}, "MCP_STDIOTRANSPORT_TIMEOUT_MS must be whole"),
    ],
)
def test_a_variable_that_is_wrong_is_named(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoint_from_environment(environ)
    assert str(caught.value).startswith(says)
