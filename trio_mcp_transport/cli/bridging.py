"""Two endpoints joined for one command: `connect` and `tap` are this.

The server is connected first: as long as there is none, nothing is read from the client,
and own stdin and stdout are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from ..abc import ChannelBroken, MessageChannel
from ..bridge import BridgeEnd, BridgeObserver, BridgeSide, bridge_channels
from ..connect import open_channel
from ..endpoints import Endpoint, ProcessEndpoint, StdioEndpoint
from ..errors import TransportError
from ..http_endpoints import HttpEndpoint
from ..installation import features
from ..jsonrpc import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    InvalidMessage,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    decode_message,
)
from .running import ExitStatus, Shutdown
from .terminal import StdoutClosed, tell

__all__ = ["InFlight", "is_broken_pipe", "join_endpoints", "supervised", "which_failed"]


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

    Requests that a server on HTTP has not answered at the end get an error: there each is a
    matter of its own, and no end of a connection tells the client of it.

    Returns:
        The exit status.

    Raises:
        ConnectFailed: One of them cannot be connected to.
        TransportError: One of them failed; the text starts with its name.
        StdoutClosed: The client is own stdin and stdout, and nobody reads it.
    """
    in_flight = InFlight(observe) if isinstance(server, HttpEndpoint) else None
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
                    observe=observe if in_flight is None else in_flight.observe,
                    last_words=None if in_flight is None else in_flight.give_up,
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


class _CancelledParams(msgspec.Struct):
    request_id: RequestId = msgspec.field(name="requestId")


class InFlight:
    """The client's requests that are not answered yet.

    Args:
        observe: Told of everything as well.
    """

    def __init__(self, observe: BridgeObserver | None = None) -> None:
        self._observe = observe
        # Some clients use one id for several requests at a time.
        self._ids: Counter[RequestId] = Counter()

    async def observe(self, side: BridgeSide, payloads: Sequence[bytes]) -> None:
        """See what passes: a `BridgeObserver`."""
        for payload in payloads:
            try:
                message = decode_message(payload)
            except InvalidMessage:
                continue
            if side == "client":
                self._count_asked(message)
            elif isinstance(message, Response | ErrorResponse) and message.id is not None:
                self._forget(message.id)
        if self._observe is not None:
            await self._observe(side, payloads)

    def give_up(self, cause: BaseException | None) -> list[Message]:
        """The errors for all that were not answered; they are in flight no more."""
        text = "the bridge was closed before the answer" if cause is None else str(cause)
        error = ErrorObject(int(ErrorCode.INTERNAL_ERROR), text or type(cause).__name__)
        answers: list[Message] = [ErrorResponse(id_, error) for id_ in self._ids.elements()]
        self._ids.clear()
        return answers

    def _count_asked(self, message: Message) -> None:
        if isinstance(message, Request):
            self._ids[message.id] += 1
        elif isinstance(message, Notification) and message.method == "notifications/cancelled":
            try:
                self._forget(message.params_as(_CancelledParams).request_id)
            except msgspec.DecodeError:
                return

    def _forget(self, request_id: RequestId) -> None:
        if self._ids[request_id] > 1:
            self._ids[request_id] -= 1
        else:
            del self._ids[request_id]


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
