"""What two workers say to each other about a request of a session that one of them has.

Used by `session_routes`. One connection carries one request: a frame with all of it, then, the
other way, a frame for each thing that is written to its response. A connection that ends
before the response has is how either side tells that the request is over: the client
went away, or the response was broken off.

These are no requests of HTTP, so nothing that a client sends can look like them: what the
worker that accepted the connection has found out (addresses, TLS, the principal) stands in
fields of their own.
"""

from __future__ import annotations

import msgspec
import trio

from ..limits import READ_CHUNK_BYTES
from ..sansio.headers import Headers
from ..sansio.http1 import BodyData, EndOfBody, RequestHead, ResponseEvent, ResponseHead
from ..security.facts import ConnectionFacts

__all__ = ["FrameReader", "HandedOver", "decode_request", "decode_response", "encode_response"]

_LENGTH_BYTES = 4
_END = EndOfBody()
_encoder = msgspec.msgpack.Encoder()


class HandedOver(msgspec.Struct, frozen=True, array_like=True):
    """A request, and what was found out about it.

    Attributes:
        method: The method.
        target: The target.
        headers: The fields, as they came.
        http_version: Which HTTP it came by.
        mount: See `HttpRequestStream`.
        facts: Of the connection, as admission left them.
        principal: Whose it is, as admission found.
        body: All of it; None if it was not read, as that of a GET.
    """

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    http_version: str
    mount: str
    facts: ConnectionFacts
    principal: str | None
    body: bytes | None

    @property
    def head(self) -> RequestHead:
        """Its head."""
        return RequestHead(
            self.method,
            self.target,
            Headers.from_parser(self.headers),
            http_version=self.http_version,
        )

    def encode(self) -> bytes:
        """The frame of it."""
        return _frame(self)


class _Written(msgspec.Struct, frozen=True, array_like=True):
    """What was written to a response at once."""

    head: tuple[int, str, list[tuple[bytes, bytes]]] | None
    body: bytes
    ends: bool


_request_decoder = msgspec.msgpack.Decoder(HandedOver)
_written_decoder = msgspec.msgpack.Decoder(_Written)


def _frame(value: object) -> bytes:
    data = _encoder.encode(value)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def decode_request(data: bytes) -> HandedOver:
    """The request in a frame."""
    return _request_decoder.decode(data)


def encode_response(events: tuple[ResponseEvent, ...]) -> bytes:
    """The frame of what is written to a response at once."""
    head = events[0]
    return _frame(
        _Written(
            (head.status, head.reason, head.headers.raw) if type(head) is ResponseHead else None,
            b"".join([event.data for event in events if type(event) is BodyData]),
            type(events[-1]) is EndOfBody,
        )
    )


def decode_response(data: bytes) -> tuple[ResponseEvent, ...]:
    """What is to be written to the response at once; it may be nothing."""
    written = _written_decoder.decode(data)
    events: list[ResponseEvent] = []
    if written.head is not None:
        status, reason, headers = written.head
        events.append(ResponseHead(status, Headers.from_parser(headers), reason))
    if written.body:
        events.append(BodyData(written.body))
    if written.ends:
        events.append(_END)
    return tuple(events)


class FrameReader:
    """Takes frames from a stream; their sender is trusted, as it is another worker."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def receive(self) -> bytes | None:
        """The next frame without its length; None if there is no whole one before the end.

        A checkpoint, unless the frame is here already.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed it.
        """
        head = await self._take(_LENGTH_BYTES)
        return None if head is None else await self._take(int.from_bytes(head, "big"))

    async def _take(self, size: int) -> bytes | None:
        buffer = self._buffer
        while len(buffer) < size:
            chunk = await self._stream.receive_some(READ_CHUNK_BYTES)
            if not chunk:
                return None
            buffer += chunk
        data = bytes(buffer[:size])
        del buffer[:size]
        return data
