"""Endpoint objects: what they refuse, what they show, and that their text gives them back."""

from __future__ import annotations

import math
import pickle

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_mcp_transport.endpoint_parser import parse_endpoint
from trio_mcp_transport.endpoint_reading import split_host_port
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


def build(struct: type[Endpoint], *args: object, **fields: object) -> Endpoint:
    """Call a constructor with what its types forbid."""
    make: object = struct
    assert callable(make)
    endpoint = make(*args, **fields)
    assert isinstance(endpoint, Endpoint)
    return endpoint


@pytest.mark.parametrize(
    ("struct", "fields", "says"),
    [
        (TcpEndpoint, {"host": "", "port": 1}, "host must not be empty"),
        (TcpEndpoint, {"host": "h", "port": 70000}, "port: Expected `int` <= 65535, not 70000"),
        (TcpEndpoint, {"host": "h", "port": "1"}, "port: Expected `int`, got `str`"),
        (TcpEndpoint, {"host": "h", "port": 1, "keep_alive": 0}, "keep_alive: Expected `float` >"),
        (TcpEndpoint, {"host": "h", "port": 1, "keep_alive": math.nan}, "keep_alive: "),
        (TcpEndpoint, {"host": "h", "port": 1, "options": {}}, "options must be ChannelOptions"),
        (UnixEndpoint, {"path": "/s", "permissions": 660}, "not 660 (octal 1224)"),
        (UnixEndpoint, {"path": "/s", "permissions": "660"}, "permissions: Expected `int`"),
        (ProcessEndpoint, {"command": []}, "command must not be empty"),
        (ProcessEndpoint, {"command": "a b"}, "command: Expected `array`, got `str`"),
        (ProcessEndpoint, {"command": ["a"], "stderr": "x"}, "stderr must be one of"),
        (
            ProcessEndpoint,
            {"command": ["a"], "environment_vars": {"A=": ""}},
            "environment_vars: 'A=' cannot be the name of a variable",
        ),
        (
            ProcessEndpoint,
            {"command": ["a"], "environment_vars": {"A": "secret\0"}},
            "environment_vars.A must not contain a NUL",
        ),
        (MemoryEndpoint, {"name": ""}, "name must not be empty"),
    ],
)
def test_an_object_that_cannot_be_is_refused_and_the_field_named(
    struct: type[Endpoint], fields: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(struct, **fields)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_replacing_a_field_checks_it_as_well() -> None:
    with pytest.raises(ConfigurationError, match="port"):
        msgspec.structs.replace(TcpEndpoint("h", 1), port=-1)


def test_a_path_may_have_as_many_bytes_as_the_system_takes() -> None:
    longest = "/" + "é" * ((MAX_SOCKET_PATH_BYTES - 1) // 2)
    UnixEndpoint(longest.ljust(MAX_SOCKET_PATH_BYTES - longest.count("é"), "x"))
    with pytest.raises(ConfigurationError, match="over the"):
        UnixEndpoint(longest + "é")
    # The "@" stands for a byte of its own, and no final NUL is needed.
    UnixEndpoint("@" + "x" * MAX_SOCKET_PATH_BYTES)
    with pytest.raises(ConfigurationError, match="over the"):
        UnixEndpoint("@" + "x" * (MAX_SOCKET_PATH_BYTES + 1))


def test_lists_and_dicts_are_copied_into_the_object() -> None:
    command, variables = ["a"], {"A": "1"}
    endpoint = build(ProcessEndpoint, command, environment_vars=variables)
    command.append("b")
    variables["B"] = "2"
    assert endpoint == ProcessEndpoint(("a",), environment_vars={"A": "1"})


def test_equal_endpoints_have_one_hash_and_survive_pickling() -> None:
    one = ProcessEndpoint(("a",), environment_vars={"A": "1", "B": "2"})
    two = ProcessEndpoint(("a",), environment_vars={"B": "2", "A": "1"})
    assert {one: "found"}[two] == "found"
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != ProcessEndpoint(("a",), environment_vars={"A": "other", "B": "2"})
    assert TcpEndpoint("h", 1) != TcpEndpoint("h", 2)


def test_values_of_environment_variables_are_shown_nowhere() -> None:
    endpoint = ProcessEndpoint(("a",), environment_vars={"TOKEN": "secret"})
    for shown in (str(endpoint), repr(endpoint), f"{endpoint}", str(endpoint.__rich_repr__())):
        assert "secret" not in shown
        assert "environment_vars.TOKEN=***" in shown
    with pytest.raises(ConfigurationError, match="TOKEN"):
        parse_endpoint(str(endpoint))


def test_a_bind_address_has_brackets_around_ipv6() -> None:
    assert TcpEndpoint("::1", 80).bind_address == "[::1]:80"
    assert TcpEndpoint("h", 80).bind_address == "h:80"
    assert split_host_port("x", "[::1]:80") == ("::1", 80)


# -- Round trips -----------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
SECONDS = st.floats(min_value=0, exclude_min=True, allow_nan=False)
COUNTS = st.integers(1, 10**17)
OPTION_OBJECTS = st.builds(
    ChannelOptions,
    framing=st.sampled_from(["newline", "content-length", "length-prefix", "detect"]),
    max_message_bytes=COUNTS,
    outbox_bytes=COUNTS,
    when_full=st.sampled_from(["block", "close"]),
    connect_timeout=SECONDS,
    idle_read_timeout=SECONDS,
    write_timeout=SECONDS,
    close_timeout=SECONDS,
    request_timeout=SECONDS,
)
PATHS = TEXT.filter(
    lambda text: text != "@" and len(text.encode(errors="surrogateescape")) <= MAX_SOCKET_PATH_BYTES
)
ENDPOINTS: st.SearchStrategy[Endpoint] = st.one_of(
    st.builds(StdioEndpoint, options=OPTION_OBJECTS),
    st.builds(
        ProcessEndpoint,
        command=st.lists(TEXT, min_size=1).map(tuple),
        working_directory=st.none() | TEXT,
        environment=st.sampled_from(["minimal", "inherit", "exact"]),
        stderr=st.sampled_from(["inherit", "capture", "drop"]),
        startup_timeout=SECONDS,
        shutdown_timeout=SECONDS,
        supervise=st.booleans(),
        options=OPTION_OBJECTS | st.just(ChannelOptions()),
    ),
    st.builds(MemoryEndpoint, name=TEXT, max_messages=COUNTS, options=OPTION_OBJECTS),
    st.builds(
        TcpEndpoint,
        host=st.ip_addresses().map(str) | st.from_regex(r"[a-z0-9.\u00e9-]{1,20}", fullmatch=True),
        port=st.integers(0, 65535),
        nodelay=st.booleans(),
        keep_alive=SECONDS,
        buffer_size=st.none() | COUNTS,
        max_connections=COUNTS,
        options=OPTION_OBJECTS,
    ),
    st.builds(
        UnixEndpoint,
        path=PATHS,
        permissions=st.integers(0, 0o777),
        owner=st.none() | TEXT,
        group=st.none() | TEXT,
        cleanup_on_drop=st.booleans(),
        check_peer=st.booleans(),
        options=OPTION_OBJECTS,
    ),
)


@example(TcpEndpoint("h", 1, keep_alive=0.0001522999256076077))  # repr with 19 decimals
@example(TcpEndpoint("h", 1, keep_alive=5e-324))
@example(TcpEndpoint("h", 1, keep_alive=1.7976931348623157e308))
@given(ENDPOINTS)
def test_every_endpoint_is_read_back_from_its_text(endpoint: Endpoint) -> None:
    text = str(endpoint)
    assert parse_endpoint(text) == endpoint
    assert str(parse_endpoint(text)) == text
    assert text.isprintable() or isinstance(endpoint, ProcessEndpoint)


@given(st.text(max_size=60), st.sampled_from(["", "stdio:", "tcp://", "unix:", "memory:", "{"]))
def test_any_text_is_an_endpoint_or_a_configuration_error(text: str, start: str) -> None:
    try:
        endpoint = parse_endpoint(start + text)
    except ConfigurationError:
        return
    if "environment_vars" not in str(endpoint):
        assert parse_endpoint(str(endpoint)) == endpoint
