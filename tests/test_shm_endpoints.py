"""Endpoints of shared memory, as text and as objects."""

from __future__ import annotations

import pytest

from trio_mcp_transport.endpoint_parser import parse_endpoint
from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.limits import (
    DEFAULT_SHARED_MESSAGE_BYTES,
    DEFAULT_SHARED_MESSAGES,
    MAX_RING_BYTES,
    ChannelOptions,
)
from trio_mcp_transport.shm_endpoints import ShmEndpoint

pytestmark = [pytest.mark.endpoints, pytest.mark.shm]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shm://a.b_C-9", ShmEndpoint(name="a.b_C-9")),
        ("shm:a", ShmEndpoint(name="a")),
        ("SHM://a", ShmEndpoint(name="a")),
        ("shm://", ShmEndpoint(name="mcp-shm")),
        ("shm:", ShmEndpoint()),
        (
            "shm://a?create=true&maxSize=65536&maxCount=64",
            ShmEndpoint(name="a", create=True, max_size=65536, max_count=64),
        ),
        ("shm://a?create=false", ShmEndpoint(name="a", create=False)),
        (
            "shm://a?open_timeout_ms=200&directory=/run/x&max_connections=3",
            ShmEndpoint(name="a", open_timeout=0.2, directory="/run/x", max_connections=3),
        ),
        (
            "shm://a?write_timeout=3",
            ShmEndpoint(name="a", options=ChannelOptions(write_timeout=3)),
        ),
    ],
)
def test_urls_are_read(text: str, expected: ShmEndpoint) -> None:
    assert parse_endpoint(text) == expected
    assert parse_endpoint(str(expected)) == expected


@pytest.mark.parametrize("yes", ["1", "true", "yes", "on", "TRUE", "Yes"])
def test_create_has_many_words_for_yes(yes: str) -> None:
    assert parse_endpoint(f"shm://a?create={yes}") == ShmEndpoint(name="a", create=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ShmEndpoint(name="a")),
        ("", ShmEndpoint()),
        (
            "a?create=1&maxSize=100&maxCount=2",
            ShmEndpoint(name="a", create=True, max_size=100, max_count=2),
        ),
        ("?create=1", ShmEndpoint(create=True)),
        ("name=a; create=on", ShmEndpoint(name="a", create=True)),
        ("create=on; maxCount=3", ShmEndpoint(create=True, max_count=3)),
        ("shm://a", ShmEndpoint(name="a")),
    ],
)
def test_with_the_transport_named_beside_it_a_name_is_enough(
    text: str, expected: ShmEndpoint
) -> None:
    assert parse_endpoint(text, transport="shm") == expected


@pytest.mark.parametrize(
    "mapping",
    [
        {"type": "shm", "name": "a", "maxSize": 100},
        {"url": "shm://a", "max_size": 100},
        {"url": "shm://a?maxSize=100"},
    ],
)
def test_mappings_are_read(mapping: dict[str, object]) -> None:
    assert parse_endpoint(mapping) == ShmEndpoint(name="a", max_size=100)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shm://a/b", "name must be 1 to 64 letters"),
        ("shm:///a", "name must be"),
        ("shm://.", "name must be"),
        ("shm://..", "name must be"),
        ("shm://a%20b", "name must be"),
        ("shm://" + "a" * 65, "name must be"),
        ("shm://a?maxsize=3", "unknown option 'maxsize' of a shm endpoint"),
        ("shm://a?maxSize=0", "max_size: Expected `int` >= 1"),
        ("shm://a?maxSize=1k", "maxSize|max_size"),
        ("shm://a?maxCount=-1", "max_count must be a whole number"),
        ("shm://a?maxSize=3&max_size=3", "max_size is given twice"),
        ("shm://a?create=maybe", "create must be one of"),
        ("shm://a?directory=here", "directory must be an absolute path"),
        ("shm://a?open_timeout=-1", "open_timeout must be seconds"),
        ("shm://a?maxSize=1073741824&maxCount=2", "max_size times max_count is 2147483648"),
    ],
)
def test_what_is_wrong_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        parse_endpoint(text)


def test_a_name_beside_a_url_is_given_twice() -> None:
    with pytest.raises(ConfigurationError, match="name is given twice"):
        parse_endpoint({"url": "shm://a", "name": "b"})


def test_without_sizes_a_connection_fits_any_container() -> None:
    endpoint = ShmEndpoint()
    assert endpoint.message_bytes == DEFAULT_SHARED_MESSAGE_BYTES
    assert endpoint.ring_bytes == DEFAULT_SHARED_MESSAGE_BYTES * DEFAULT_SHARED_MESSAGES
    assert 2 * endpoint.ring_bytes <= 64 * 1024 * 1024 // 2


@pytest.mark.parametrize(
    ("max_size", "max_message_bytes", "expected"),
    [(100, 50, 50), (100, 200, 100), (None, 200, 200), (None, 64 << 20, 64 << 20)],
)
def test_the_largest_message_is_the_smaller_of_what_was_set(
    max_size: int | None, max_message_bytes: int, expected: int
) -> None:
    options = ChannelOptions(max_message_bytes=max_message_bytes)
    endpoint = ShmEndpoint(max_size=max_size, max_count=2, options=options)
    assert endpoint.message_bytes == expected
    assert endpoint.ring_bytes == 2 * (max_size or max_message_bytes)


def test_a_client_may_have_any_limit_of_its_own() -> None:
    options = ChannelOptions(max_message_bytes=MAX_RING_BYTES)
    endpoint = ShmEndpoint(options=options)
    with pytest.raises(ConfigurationError, match="max_size times max_count"):
        _ = endpoint.ring_bytes
