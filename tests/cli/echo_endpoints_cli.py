"""A transport made elsewhere, as ``--import`` finds it."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from trio_mcp_transport import (
    ConnectFailed,
    Endpoint,
    EventHandler,
    MessageChannel,
    register_transport,
)


class LoopbackEndpoint(Endpoint, frozen=True):
    """``loopback:NAME``."""

    scheme = "loopback"
    target_fields = ("name",)

    name: str

    def target(self) -> str:
        return self.name


def parse(target: str, parameters: Mapping[str, object]) -> LoopbackEndpoint:
    return LoopbackEndpoint(name=target)


async def connect(
    nursery: trio.Nursery, endpoint: LoopbackEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    await trio.lowlevel.checkpoint()
    raise ConnectFailed(f"the loopback was asked for {endpoint.name}")


register_transport("loopback", parse, connect, None)
