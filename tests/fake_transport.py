"""A transport made elsewhere, ``fake:NAME``, that does what a test tells it. Used by tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio
from trio.testing import (
    memory_stream_pair,
)

from trio_mcp_transport.abc import (
    ChannelContext,
    EventHandler,
    MessageChannel,
)
from trio_mcp_transport.endpoint_reading import read_endpoint
from trio_mcp_transport.endpoints import Endpoint
from trio_mcp_transport.transports.stream_channel import StreamChannel


class FakeEndpoint(Endpoint, frozen=True):
    scheme = "fake"
    target_fields = ("name",)

    name: str

    def target(self) -> str:
        return self.name


def parse_fake(target: str, parameters: Mapping[str, object]) -> FakeEndpoint:
    return read_endpoint(FakeEndpoint, parameters, name=target)


def make_channel(
    nursery: trio.Nursery, endpoint: Endpoint, stream: trio.abc.Stream | None = None
) -> MessageChannel:
    return StreamChannel(
        memory_stream_pair()[0] if stream is None else stream,
        nursery=nursery,
        context=ChannelContext(transport="fake"),
        options=endpoint.options,
    )


ConnectFake = Callable[[trio.Nursery, FakeEndpoint, EventHandler | None], Awaitable[MessageChannel]]


class Fake:
    """What the fake transport does; each test sets it."""

    connect: ConnectFake

    def __init__(self) -> None:
        async def connect(
            nursery: trio.Nursery, endpoint: FakeEndpoint, on_event: EventHandler | None
        ) -> MessageChannel:
            await trio.lowlevel.checkpoint()
            return make_channel(nursery, endpoint)

        self.connect = connect

    async def run(
        self, nursery: trio.Nursery, endpoint: FakeEndpoint, on_event: EventHandler | None
    ) -> MessageChannel:
        return await self.connect(nursery, endpoint, on_event)
