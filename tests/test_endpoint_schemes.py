"""Schemes of transports that were made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from trio_mcp_transport.endpoint_parser import parse_endpoint
from trio_mcp_transport.endpoint_reading import read_endpoint
from trio_mcp_transport.endpoint_schemes import (
    register_scheme,
    transport_names,
    unregister_scheme,
)
from trio_mcp_transport.endpoints import Endpoint
from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.limits import ChannelOptions

pytestmark = pytest.mark.endpoints


class PigeonEndpoint(Endpoint, frozen=True):
    scheme = "pigeon+post"
    target_fields = ("loft",)

    loft: str
    birds: int = 1
    colour: str | None = None

    def target(self) -> str:
        return self.loft


def parse_pigeon(target: str, parameters: Mapping[str, object]) -> Endpoint:
    if target:
        return read_endpoint(PigeonEndpoint, parameters, loft=target)
    return read_endpoint(PigeonEndpoint, parameters)


def test_a_registered_scheme_is_read_in_every_form() -> None:
    register_scheme("pigeon+post", parse_pigeon)
    try:
        assert "pigeon+post" in transport_names()
        expected = PigeonEndpoint("roof", birds=3, options=ChannelOptions(connect_timeout=9.0))
        url = "pigeon+post:roof?birds=3&connect_timeout=9"
        assert str(expected) == url
        assert parse_endpoint(url) == expected
        assert (
            parse_endpoint({"url": "Pigeon+Post:roof", "birds": 3, "connect_timeout": 9})
            == expected
        )
        listed = "loft=roof; birds=3; connect_timeout_ms=9000"
        assert parse_endpoint(listed, transport="pigeon+post") == expected
        with pytest.raises(ConfigurationError, match="unknown option 'cats' of a pigeon"):
            parse_endpoint("pigeon+post:roof?cats=1")
        with pytest.raises(ConfigurationError, match="already"):
            register_scheme("pigeon+post", parse_pigeon)
    finally:
        unregister_scheme("pigeon+post")
    assert "pigeon+post" not in transport_names()
    with pytest.raises(ConfigurationError, match=r"no transport is called 'pigeon.post'"):
        parse_endpoint("pigeon+post:roof")


@pytest.mark.parametrize("scheme", ["", "Pigeon", "1a", "a b", "a:", "a_b", "\u00e9"])
def test_what_cannot_be_a_scheme_is_refused(scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a scheme"):
        register_scheme(scheme, parse_pigeon)


@pytest.mark.parametrize("scheme", ["stdio", "memory", "tcp", "unix"])
def test_a_scheme_of_this_package_can_be_neither_taken_nor_removed(scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="already"):
        register_scheme(scheme, parse_pigeon)
    with pytest.raises(ConfigurationError, match="registered"):
        unregister_scheme(scheme)


def test_a_scheme_that_was_never_registered_cannot_be_removed() -> None:
    with pytest.raises(ConfigurationError, match="no transport called 'pigeon' was registered"):
        unregister_scheme("pigeon")


def test_a_parser_that_makes_endpoints_of_another_scheme_is_a_bug_that_shows() -> None:
    register_scheme("other", parse_pigeon)
    try:
        with pytest.raises(TypeError, match="'other'"):
            parse_endpoint("other:roof")
    finally:
        unregister_scheme("other")
