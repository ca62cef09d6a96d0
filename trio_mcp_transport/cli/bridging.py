"""Two endpoints joined for one command: `connect` and `tap` are this.

The server is connected first: as long as there is none, nothing is read from the client,
and own stdin and stdout are left alone.
"""

from __future__ import annotations

import msgspec

from ..abc import ChannelBroken, MessageChannel
from ..bridge import BridgeEnd, BridgeObserver, bridge_channels
from ..connect import open_channel
from ..endpoints import Endpoint, ProcessEndpoint, StdioEndpoint
from ..errors import TransportError
from ..installation import features
from .running import ExitStatus, Shutdown
from .terminal import StdoutClosed, tell

__all__ = ["is_broken_pipe", "join_endpoints", "supervised", "which_failed"]


def supervised(endpoint: Endpoint) -> Endpoint:
    """The endpoint as a bridge uses it: its child must not outlive the bridge."""
    if isinstance(endpoint, ProcessEndpoint) and features().supervision:
        return msgspec.structs.replace(endpoint, supervise=True)
    return endpoint


async def join_endpoints(
    client: Endpoint,
    server: Endpoint,
    shutdown: Shutdown,
    *,
    drain: float,
    observe: BridgeObserver | None = None,
) -> int:
    """Connect to both endpoints and pass everything between them.

    Returns:
        The exit status.

    Raises:
        ConnectFailed: One of them cannot be connected to.
        TransportError: One of them failed; the text starts with its name.
        StdoutClosed: The client is own stdin and stdout, and nobody reads it.
    """
    end: BridgeEnd | None = None
    with shutdown.cancelling() as connecting:
        async with (
            open_channel(supervised(server)) as server_channel,
            open_channel(supervised(client)) as client_channel,
        ):
            shutdown.spare(connecting)
            try:
                end = await bridge_channels(
                    client_channel,
                    server_channel,
                    drain=drain,
                    stop=shutdown.requested,
                    observe=observe,
                )
            except ChannelBroken as error:
                failed = which_failed(error, client_channel)
                if failed and isinstance(client, StdioEndpoint) and is_broken_pipe(error):
                    raise StdoutClosed from error
                raise TransportError(f"{client if failed else server}: {error}") from error
    if end is None or shutdown.requested.is_set():
        return ExitStatus.OK
    if end.first == "server":
        tell(f"{server} ended the conversation")
        return ExitStatus.FAILED
    if not end.complete:
        tell(f"{server} had not ended {drain:g} s after the client; closed it")
    return ExitStatus.OK


def which_failed(error: ChannelBroken, channel: MessageChannel) -> bool:
    """Whether it is this channel's own failure."""
    return channel.failure is not None and channel.failure in {error, error.__cause__}


def is_broken_pipe(error: BaseException | None) -> bool:
    """Whether somebody stopped reading, as opposed to something having gone wrong."""
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        error = error.__cause__ or error.__context__
    return False
