"""A WebSocket channel on one end of a stream, and on the other whoever a test plays."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import trio
from websocket_wire import Frame, Role, machine, other, to

from trio_mcp_transport import ChannelContext, ChannelEvent, ChannelOptions, Request, RequestId
from trio_mcp_transport.jsonrpc import Message, encode_message
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData
from trio_mcp_transport.sansio.websocket import (
    CloseReceived,
    DeflateSettings,
    TextMessage,
    WebSocketEvent,
    WebSocketItem,
)
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.websocket_channel import WebSocketChannel
from trio_mcp_transport.transports.websocket_reader import WebSocketTiming
from trio_mcp_transport.transports.websocket_settings import WebSocketOptions, make_machine

REQUEST = Request(id=1, method="ping")
WIRE = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
ROLES: tuple[Role, ...] = ("server", "client")
QUIET = WebSocketTiming(ping_interval=float("inf"))
PLAIN = WebSocketOptions()


class Peer:
    """The other side of a channel: bytes, frames, or what a machine of its role says.

    Attributes:
        stream: Its end.
        machine: Reads what the channel writes, and answers pings when it does.
    """

    def __init__(
        self, stream: trio.abc.Stream, role: Role, deflate: DeflateSettings | None = None
    ) -> None:
        self.stream = stream
        self.machine = machine(role, deflate=deflate)
        self._channel_role = other(role)

    async def write(self, *frames: Frame) -> None:
        """Send frames, legal or not."""
        await self.stream.send_all(to(self._channel_role, *frames))

    async def say(self, *messages: Message) -> None:
        """Send messages."""
        for message in messages:
            await self.send(TextMessage(encode_message(message)))

    async def send(self, item: WebSocketItem) -> None:
        """Send what the machine makes of it."""
        await self.stream.send_all(self.machine.send(item))

    async def event(self, *, answer: bool = True) -> WebSocketEvent | EndOfData:
        """What comes next; pings and closes are answered, unless they shall not be."""
        while True:
            event = self.machine.next_event()
            own_words = self.machine.bytes_to_send()
            if own_words and answer:
                with suppress(trio.BrokenResourceError):  # who has closed need not hear it
                    await self.stream.send_all(own_words)
            if event is not NEED_DATA:
                return event
            data = bytes(await self.stream.receive_some(65536))
            if data:
                self.machine.receive_data(data)
            else:
                self.machine.receive_eof()

    async def text(self) -> bytes:
        """The next event, which is a text."""
        event = await self.event()
        assert isinstance(event, TextMessage), event
        return event.data

    async def closed(self, *, answer: bool = True) -> tuple[int, str]:
        """Code and reason of the Close that comes, whatever comes before it."""
        while True:
            event = await self.event(answer=answer)
            if isinstance(event, CloseReceived):
                return event.code, event.reason
            assert not isinstance(event, EndOfData), "no Close came"

    async def ended(self) -> None:
        """Wait for the end of the stream."""
        while await self.stream.receive_some(65536):
            pass


@asynccontextmanager
async def channel_and_peer(
    streams: tuple[trio.abc.Stream, trio.abc.Stream],
    role: Role = "server",
    *,
    options: ChannelOptions | None = None,
    timing: WebSocketTiming = QUIET,
    websocket: WebSocketOptions = PLAIN,
    deflate: DeflateSettings | None = None,
    events: list[ChannelEvent] | None = None,
) -> AsyncGenerator[tuple[WebSocketChannel, Peer], None]:
    """A channel of the role and its peer; both are gone at the end."""
    options = options or ChannelOptions()
    seen: list[ChannelEvent] = [] if events is None else events
    async with trio.open_nursery() as nursery:
        channel = WebSocketChannel(
            streams[0],
            make_machine(role, websocket, options, deflate),
            nursery=nursery,
            context=ChannelContext(transport="test"),
            options=options,
            timing=timing,
            on_event=seen.append,
        )
        try:
            yield channel, Peer(streams[1], other(role), deflate)
        finally:
            channel.abort()
            await trio.aclose_forcefully(streams[1])


def sockets() -> tuple[SocketStream, SocketStream]:
    left, right = socket.socketpair()
    return SocketStream(left), SocketStream(right)


def numbered(number: int, size: int = 0) -> Request:
    return Request(id=number, method="x", params={"filling": "x" * size})


async def receive_ids(channel: WebSocketChannel, count: int) -> list[RequestId]:
    messages = [await channel.receive() for _ in range(count)]
    return [message.id for message in messages if isinstance(message, Request)]
