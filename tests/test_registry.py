"""Transports made elsewhere: registering, and what one does not offer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
import trio
from echo_endpoints import echo
from fake_transport import Fake, FakeEndpoint, parse_fake

from trio_mcp_transport.abc import EventHandler, MessageChannel, MessageListener
from trio_mcp_transport.connect import open_channel
from trio_mcp_transport.endpoint_reading import read_endpoint
from trio_mcp_transport.endpoint_schemes import transport_names
from trio_mcp_transport.endpoints import Endpoint, ProcessEndpoint, TcpEndpoint
from trio_mcp_transport.errors import ConfigurationError, ConnectFailed
from trio_mcp_transport.registry import register_transport
from trio_mcp_transport.serve import serve_channels

pytestmark = pytest.mark.connect


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    with register_transport("fake", parse_fake, fake.run, None):
        yield fake


async def test_a_transport_that_only_listens_or_only_connects_says_so(fake: Fake) -> None:
    with pytest.raises(ConfigurationError, match="no transport can listen at fake:x"):
        await serve_channels(echo, "fake:x")

    async def listen(endpoint: FakeEndpoint, on_event: EventHandler | None) -> MessageListener:
        await trio.lowlevel.checkpoint()
        raise ConnectFailed("in use")

    def parse(target: str, parameters: Mapping[str, object]) -> FakeEndpoint:
        return parse_fake(target, parameters)

    class DeafEndpoint(FakeEndpoint, frozen=True):
        scheme = "deaf"

    def parse_deaf(target: str, parameters: Mapping[str, object]) -> DeafEndpoint:
        return read_endpoint(DeafEndpoint, parameters, name=target)

    with register_transport("deaf", parse_deaf, None, listen):
        with pytest.raises(ConfigurationError, match="no transport can connect to deaf:x"):
            async with open_channel("deaf:x"):
                pytest.fail("it cannot be open")
        with pytest.raises(ConnectFailed, match="in use"):
            await serve_channels(echo, "deaf:x")


async def test_an_endpoint_derived_from_another_transports_goes_to_its_own() -> None:
    class TunnelEndpoint(TcpEndpoint, frozen=True):
        scheme = "tunnel"

    class RemoteEndpoint(ProcessEndpoint, frozen=True):
        scheme = "remote"

    async def connect(
        nursery: trio.Nursery, endpoint: Endpoint, on_event: EventHandler | None
    ) -> MessageChannel:
        await trio.lowlevel.checkpoint()
        raise ConnectFailed(f"{endpoint.scheme} connects itself")

    def parse(target: str, parameters: Mapping[str, object]) -> Endpoint:
        raise AssertionError("the endpoints are objects")

    with (
        register_transport("tunnel", parse, connect, None),
        register_transport("remote", parse, connect, None),
    ):
        for endpoint in (TunnelEndpoint(host="h", port=1), RemoteEndpoint(command=("true",))):
            with pytest.raises(ConnectFailed, match=f"{endpoint.scheme} connects itself"):
                async with open_channel(endpoint):
                    pytest.fail("it cannot be open")
            with pytest.raises(ConfigurationError, match="no transport can listen"):
                await serve_channels(echo, endpoint)


def test_a_registration_ends_with_its_block_and_can_be_ended_twice(fake: Fake) -> None:
    with pytest.raises(ConfigurationError, match="already"):
        register_transport("fake", parse_fake, fake.run, None)
    registration = register_transport("fake2", parse_fake, fake.run, None)
    assert registration.scheme == "fake2"
    with registration:
        assert "fake2" in transport_names()
    assert "fake2" not in transport_names()
    registration.unregister()
    with register_transport("fake2", parse_fake, fake.run, None):
        registration.unregister()
        assert "fake2" in transport_names()


async def test_an_object_of_a_transport_that_is_gone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no transport can connect to fake:x"):
        async with open_channel(FakeEndpoint("x")):
            pytest.fail("it cannot be open")


def test_transports_are_imported_when_they_are_used() -> None:
    program = (
        "import sys, trio_mcp_transport.connect, trio_mcp_transport.serve\n"
        "print([name for name in ('process', 'stdio', 'tcp', 'unix')"
        " if f'trio_mcp_transport.transports.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
