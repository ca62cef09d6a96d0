"""Channels inside one process by name: ``memory:NAME``.

Called through `connect` and `listen`. The names belong to one `trio.run`: two runs, in two
threads or one after the other, never see each other's, and nothing outlives its run.
"""

from __future__ import annotations

import errno

import trio

from ..abc import ChannelContext, ConnectionLost, EventHandler, MessageChannel, MessageListener
from ..endpoints import MemoryEndpoint
from ..errors import ConnectFailed
from .memory_channel import MemoryChannel, make_pair, memory_channel_pair

__all__ = ["MemoryChannel", "MemoryListener", "connect", "listen", "memory_channel_pair"]

#: Connections that wait to be accepted; further ones wait to be connected.
BACKLOG = 128

_listeners: trio.lowlevel.RunVar[dict[str, MemoryListener]] = trio.lowlevel.RunVar(
    "trio_mcp_transport memory listeners"
)


def _names() -> dict[str, MemoryListener]:
    try:
        return _listeners.get()
    except LookupError:
        _listeners.set({})
        return _listeners.get()


async def connect(
    nursery: trio.Nursery, endpoint: MemoryEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    """Connect to whoever listens under the name in this `trio.run`.

    As with a socket, somebody must listen already, but need not have accepted yet: what is
    sent meanwhile waits. Where too many wait to be accepted, this waits too. If cancelled,
    nothing is left behind.

    Args:
        nursery: Not used, as nothing runs in the background.
        endpoint: The name, and how many messages may wait on their way to the server.
        on_event: Not used: whatever goes wrong here, a caller sees.

    Raises:
        ConnectFailed: Nobody listens there, or stopped while this waited.
    """
    listener = _names().get(endpoint.name)
    if listener is None:
        failed = ConnectFailed(f"cannot connect to {endpoint}: nobody listens there")
        failed.errno = errno.ECONNREFUSED
        raise failed
    return await listener._connect(endpoint)


async def listen(endpoint: MemoryEndpoint, on_event: EventHandler | None) -> MessageListener:
    """Listen under a name, until the listener is closed.

    Args:
        endpoint: The name, and how many messages may wait on their way to each client.
        on_event: Not used: whatever goes wrong here, a caller sees.

    Raises:
        ConnectFailed: Somebody listens there already.
    """
    await trio.lowlevel.checkpoint()
    names = _names()
    if endpoint.name in names:
        failed = ConnectFailed(f"cannot listen on {endpoint}: somebody listens there already")
        failed.errno = errno.EADDRINUSE
        raise failed
    names[endpoint.name] = listener = MemoryListener(endpoint)
    return listener


class MemoryListener(MessageListener):
    """Accepts channels under one name; made by `listen`."""

    def __init__(self, endpoint: MemoryEndpoint) -> None:
        self._endpoint = endpoint
        self._arrive, self._arrived = trio.open_memory_channel[MemoryChannel](BACKLOG)

    @property
    def endpoint(self) -> str:
        """``memory:NAME``."""
        return str(MemoryEndpoint(name=self._endpoint.name))

    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        """Wait for a connection. A checkpoint; if cancelled, nothing was accepted.

        Args:
            nursery: Not used, as nothing runs in the background.

        Raises:
            trio.ClosedResourceError: The listener was closed.
        """
        return await self._arrived.receive()

    async def aclose(self) -> None:
        """Give the name back and refuse who was not accepted yet. Idempotent."""
        names = _names()
        if names.get(self._endpoint.name) is self:
            del names[self._endpoint.name]
            while self._arrived.statistics().current_buffer_used:
                waiting = self._arrived.receive_nowait()
                waiting.abort(ConnectionLost("the listener was closed"))
            self._arrived.close()
            self._arrive.close()
        await trio.lowlevel.checkpoint()

    async def _connect(self, endpoint: MemoryEndpoint) -> MemoryChannel:
        own, options = self._endpoint, self._endpoint.options
        context = ChannelContext(transport="memory", peer_address=self.endpoint)
        served = ChannelContext(transport="memory", local_address=self.endpoint)
        client, server = make_pair(
            (context, endpoint.options, endpoint.max_messages),
            (served, options, own.max_messages),
        )
        try:
            await self._arrive.send(server)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectFailed(f"cannot connect to {endpoint}: the listener was closed") from error
        return client
