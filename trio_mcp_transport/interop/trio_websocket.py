"""A connection of trio-websocket as a channel, on either side of it.

For programs that have such connections already: a server that serves more than MCP, or a
client with a handshake of its own. `trio_websocket` speaks the protocol, answers pings and
shakes hands on the end; here its messages become ours. Whoever opened the connection keeps it:
``open_websocket`` and ``serve_websocket`` end it when their block or handler ends.

The channel has no task of its own. A message is a frame of the ``length-prefix`` framing on
the way, which nobody sees; it is how a `StreamChannel` and messages that are whole already
come together without a copy of either's rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec
import trio

from ..abc import (
    ChannelCapabilities,
    ChannelContext,
    ClosedByPeer,
    ConnectionLost,
    EventHandler,
    MessageChannel,
    PeerProtocolError,
)
from ..endpoints import join_host_port
from ..errors import FeatureUnavailable, RemoteProtocolError
from ..limits import ChannelOptions
from ..sansio.headers import Headers
from ..sansio.websocket import CloseCode
from ..transports.stream_channel import StreamChannel

try:
    import trio_websocket
except ImportError as error:
    raise FeatureUnavailable(
        "trio-websocket is not installed: pip install trio-websocket"
    ) from error

__all__ = ["channel_from"]

_PREFIX_BYTES = 4
#: Close codes that tell of an end and not of a fault.
_CLEAN = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS})


def channel_from(
    connection: trio_websocket.WebSocketConnection,
    nursery: trio.Nursery,
    *,
    headers: Iterable[tuple[bytes, bytes]] | None = None,
    options: ChannelOptions | None = None,
    on_event: EventHandler | None = None,
) -> MessageChannel:
    """Make a channel of a connection whose handshake is done, a client's or a server's.

    Each text message is one JSON-RPC message. The end is as with any WebSocket channel: after
    the codes 1000, 1001 and none `trio.EndOfChannel`, after others `ClosedByPeer`, and
    `ConnectionLost` where the connection ended without a word. A binary message is answered
    with 1003, and the channel fails.

    What trio-websocket does stays as it is: a queue of one message that nobody receives
    stops its pongs as well, and messages over its own ``max_message_size`` (1 MiB) end the
    connection.

    Args:
        connection: Nobody else may send or receive on it. `aclose` closes it.
        nursery: Where the channel's writer runs while bytes wait.
        headers: Of the request that the connection began with (``request.headers``), for the
            channel's context; a server has them.
        options: Limits and timeouts. `idle_read_timeout` counts messages only.
        on_event: Told of faults that no caller sees.
    """
    options = options or ChannelOptions()
    return _Channel(
        _Messages(connection, options.close_timeout),
        options,
        nursery=nursery,
        context=_context(connection, headers),
        on_event=on_event,
        is_server=connection.is_server,
    )


class _Channel(StreamChannel):
    """A stream channel that does not tell how it is framed underneath."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        options: ChannelOptions,
        *,
        nursery: trio.Nursery,
        context: ChannelContext,
        on_event: EventHandler | None,
        is_server: bool,
    ) -> None:
        super().__init__(
            stream,
            nursery=nursery,
            context=context,
            options=msgspec.structs.replace(options, framing="length-prefix"),
            on_event=on_event,
            accepted=is_server,
            answer_malformed=is_server,
        )
        self._given_options = options

    @property
    def options(self) -> ChannelOptions:
        """The limits and timeouts that this channel was built with."""
        return self._given_options

    @property
    def capabilities(self) -> ChannelCapabilities:
        """What this channel can do."""
        return msgspec.structs.replace(super().capabilities, framing=None)


class _Messages(trio.abc.Stream):
    """The messages of a connection as a stream: each with its length before it."""

    def __init__(
        self, connection: trio_websocket.WebSocketConnection, close_timeout: float
    ) -> None:
        self._connection = connection
        self._close_timeout = close_timeout
        self._unsent = bytearray()
        self._received = b""
        self._closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next message, or a part of it."""
        if not self._received:
            self._received = await self._next_frame()
        most = len(self._received) if max_bytes is None else max_bytes
        data, self._received = self._received[:most], self._received[most:]
        return data

    async def _next_frame(self) -> bytes:
        try:
            message = await self._connection.get_message()
        except trio_websocket.ConnectionClosed as closed:
            if self._closed:
                raise trio.ClosedResourceError("this side closed the connection") from None
            return _end(closed.reason)
        if isinstance(message, bytes):
            await self._close(CloseCode.UNSUPPORTED_DATA)
            cause = PeerProtocolError("a binary message: each message is one text")
            cause.error = RemoteProtocolError(str(cause), close_code=CloseCode.UNSUPPORTED_DATA)
            raise cause
        payload = message.encode()
        return len(payload).to_bytes(_PREFIX_BYTES, "big") + payload

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send the messages that are complete with this."""
        unsent = self._unsent
        unsent += data
        while len(unsent) >= _PREFIX_BYTES:
            end = _PREFIX_BYTES + int.from_bytes(unsent[:_PREFIX_BYTES], "big")
            if len(unsent) < end:
                break
            text = unsent[_PREFIX_BYTES:end].decode()
            del unsent[:end]
            try:
                await self._connection.send_message(text)
            except trio_websocket.ConnectionClosed as closed:
                raise trio.BrokenResourceError(f"the connection is closed: {closed}") from closed
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """A checkpoint: trio-websocket cannot tell."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the connection; the peer has so long to answer."""
        await self._close(CloseCode.NORMAL)

    async def _close(self, code: int) -> None:
        self._closed = True
        with trio.move_on_after(self._close_timeout):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._connection.aclose(code)
        await trio.lowlevel.checkpoint()


def _end(reason: trio_websocket.CloseReason | None) -> bytes:
    """The end of the stream, if that is what the reason tells of.

    Raises:
        ConnectionLost: It tells of a fault.
    """
    if reason is not None and reason.code in _CLEAN:
        return b""
    if reason is None or reason.code == CloseCode.ABNORMAL:
        raise ConnectionLost("the connection ended without a Close")
    said = f" {reason.reason!r}" if reason.reason else ""
    closed = ClosedByPeer(f"the peer closed the connection: {reason.code}{said}")
    closed.close_code, closed.close_reason = reason.code, reason.reason or ""
    raise closed


def _context(
    connection: trio_websocket.WebSocketConnection,
    headers: Iterable[tuple[bytes, bytes]] | None,
) -> ChannelContext:
    local, remote = connection.local, connection.remote
    secure = isinstance(local, trio_websocket.Endpoint) and local.is_ssl
    return ChannelContext(
        transport="wss" if secure else "ws",
        local_address=_address(local),
        peer_address=_address(remote),
        headers=None if headers is None else Headers(headers),
    )


def _address(end: trio_websocket.Endpoint | str) -> str:
    return end if isinstance(end, str) else join_host_port(str(end.address), end.port)
