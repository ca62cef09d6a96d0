"""Content codings at work: what HTTP servers and clients put between bodies and the wire.

`HttpService` wraps each request in a `CodedRequest` where its options name algorithms or the
request's body is coded; `http_client` puts a `CodingSender` between a channel and its sender.
What is decided, and all bounds, are those of `sansio.content_coding`. Everything else of a
request or a response passes through untouched.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import trio

from ..compression_settings import Algorithm, CompressionSettings, CompressionStatistics
from ..errors import MessageTooLarge, RemoteProtocolError
from ..sansio.compression_choice import CompressionCounter
from ..sansio.content_coding import (
    BodyDecoder,
    BodyEncoder,
    accept_encoding,
    decode_steps,
    encode_body,
    read_accept_encoding,
    read_content_encoding,
)
from ..sansio.headers import NO_HEADERS, Headers
from ..sansio.http1 import BodyData, EndOfBody, ResponseEvent, ResponseHead
from .compressed_stream import check_available
from .http_request import DecoratedStream, HttpRequestStream
from .http_sender import HttpResponse, HttpSender

__all__ = ["CodedRequest", "CodingSender", "ServerCoding"]

#: Hosts whose codings a sender remembers; a channel has one or two.
_MAX_HOSTS = 64


class ServerCoding:
    """How one server compresses, and what has come of it.

    Args:
        settings: What is wanted; without algorithms nothing is done.

    Attributes:
        settings: See above.
        sent: What compression has done for responses.

    Raises:
        FeatureUnavailable: An algorithm is not installed.
    """

    def __init__(self, settings: CompressionSettings) -> None:
        check_available(settings)
        self.settings = settings
        self.sent = CompressionCounter(time.perf_counter)
        # RFC 7694, section 3: in a response, Accept-Encoding tells what the content of
        # requests may be coded with. Caches must know that the response depends on it.
        self.told = Headers([
            ("accept-encoding", accept_encoding(settings)),
            ("vary", "accept-encoding"),
        ])

    def wrap(self, request: HttpRequestStream) -> HttpRequestStream:
        """The request as the service shall see it."""
        return CodedRequest(request, self) if self.settings.algorithms else request


class CodedRequest(DecoratedStream):
    """A request whose body is decompressed and whose response is compressed.

    Its head is that of a request which was never compressed. Where the coding is one that is
    not spoken here, it is left in the head, and whoever judges that refuses it.

    Args:
        request: The request itself.
        coding: How.
    """

    def __init__(self, request: HttpRequestStream, coding: ServerCoding) -> None:
        super().__init__(request, coding.told)
        headers = request.head.headers
        self._coding = coding
        self._accepted = read_accept_encoding(headers.get("accept-encoding"))
        self._encoder: BodyEncoder | None = None
        self._algorithm = _spoken(headers, coding.settings)
        if self._algorithm is not None:
            self.head = msgspec.structs.replace(
                self.head, headers=headers.without("content-encoding")
            )

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body, decompressed; `max_bytes` holds for that and for what was sent.

        Raises:
            RemoteProtocolError: As `HttpRequestStream.read_body`.
        """
        body = await super().read_body(max_bytes)
        if self._algorithm is None:
            return body
        parts: list[bytes] = []
        for part in decode_steps(self._algorithm, body, self._coding.settings, max_bytes):
            parts.append(part)
            await trio.lowlevel.checkpoint()
        return b"".join(parts)

    def write(self, *events: ResponseEvent) -> None:
        """Write, compressed where that is worth it. See `HttpRequestStream.write`."""
        head = events[0]
        if type(head) is not ResponseHead:
            super().write(*self._encoded(events))
        elif "content-encoding" in head.headers or self.head.method == "HEAD":
            super().write(*events)
        elif type(events[-1]) is EndOfBody:
            self._write_whole(head, events)
        else:
            self._begin_stream(head, events)

    def _write_whole(self, head: ResponseHead, events: tuple[ResponseEvent, ...]) -> None:
        body = b"".join([event.data for event in events if type(event) is BodyData])
        coding = self._coding
        coded, name = encode_body(coding.settings, body, self._accepted, coding.sent)
        if name is None:
            super().write(*events)
        else:
            super().write(_coded_head(head, name), BodyData(coded), events[-1])

    def _begin_stream(self, head: ResponseHead, events: tuple[ResponseEvent, ...]) -> None:
        settings = self._coding.settings
        usable = [name for name in settings.algorithms if name in self._accepted]
        if not usable:
            super().write(*events)
            return
        # Each event is flushed, and the later ones gain from those before: so also small ones.
        self._encoder = BodyEncoder(usable[0], settings, self._coding.sent)
        super().write(_coded_head(head, self._encoder.coding), *self._encoded(events[1:]))

    def _encoded(self, events: tuple[ResponseEvent, ...]) -> tuple[ResponseEvent, ...]:
        encoder = self._encoder
        if encoder is None:
            return events
        coded: list[ResponseEvent] = []
        for event in events:
            if type(event) is BodyData:
                if event.data:
                    coded.append(BodyData(encoder.encode(event.data)))
            else:
                coded += [BodyData(encoder.finish()), event]
        return tuple(coded)


def _spoken(headers: Headers, settings: CompressionSettings) -> Algorithm | None:
    """What a body is coded with, if it is anything that is spoken here."""
    try:
        return read_content_encoding(headers.get("content-encoding"), settings.algorithms)
    except RemoteProtocolError:
        return None


def _coded_head(head: ResponseHead, coding: str) -> ResponseHead:
    headers = head.headers.without("content-length").with_("content-encoding", coding)
    return ResponseHead(head.status, headers, head.reason)


class CodingSender(HttpSender):
    """A sender whose requests and responses may be compressed.

    A request is compressed once a response of its host has told (RFC 7694) that it may be.

    Args:
        sender: Does the rest. Owned from now on.
        settings: What is wanted.

    Raises:
        FeatureUnavailable: An algorithm is not installed.
    """

    def __init__(self, sender: HttpSender, settings: CompressionSettings) -> None:
        check_available(settings)
        self._sent = CompressionCounter(time.perf_counter)
        self._received = CompressionCounter(time.perf_counter)
        self._sender = sender
        self._settings = settings
        self._accept = accept_encoding(settings)
        self._taken: dict[str, frozenset[Algorithm]] = {}

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        head_timeout: float,
        on_written: Callable[[], object] | None,
    ) -> AsyncGenerator[HttpResponse]:
        host = urlsplit(url).netloc
        headers = headers.with_("accept-encoding", self._accept)
        if body:
            taken = self._taken.get(host, frozenset())
            body, coding = encode_body(self._settings, body, taken, self._sent)
            if coding is not None:
                headers = headers.with_("content-encoding", coding)
        async with self._sender.request(
            method,
            url,
            headers=headers,
            body=body,
            head_timeout=head_timeout,
            on_written=on_written,
        ) as response:
            if len(self._taken) >= _MAX_HOSTS:
                self._taken.clear()
            self._taken[host] = read_accept_encoding(response.headers.get("accept-encoding"))
            algorithm = _spoken(response.headers, self._settings)
            if algorithm is None:
                yield response
            else:
                yield _DecodedResponse(response, algorithm, self._settings, self._received)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
        head_timeout: float = math.inf,
        on_written: Callable[[], object] | None = None,
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """Send a request; see `HttpSender.request`.

        A response whose coding was not asked for is given as it is.
        """
        return self._request(method, url, headers, body, head_timeout, on_written)

    def compression_statistics(self) -> tuple[CompressionStatistics, CompressionStatistics]:
        """What compression has done so far, for requests and for responses."""
        return self._sent.statistics(), self._received.statistics()

    def close(self) -> None:
        """Close all connections; see `HttpSender.close`."""
        self._sender.close()

    async def aclose(self) -> None:
        """Close all connections; see `HttpSender.aclose`."""
        await self._sender.aclose()


class _DecodedResponse(HttpResponse):
    """A response whose body is decompressed as it comes."""

    __slots__ = ("_counter", "_decoder", "_ended", "_response", "headers", "status")

    def __init__(
        self,
        response: HttpResponse,
        algorithm: Algorithm,
        settings: CompressionSettings,
        counter: CompressionCounter,
    ) -> None:
        self.status = response.status
        self.headers = response.headers.without("content-encoding")
        self._response = response
        self._decoder = BodyDecoder(algorithm, settings)
        self._counter = counter
        self._ended = False

    async def receive_some(self) -> bytes:
        """The next bytes of the body; see `HttpResponse.receive_some`."""
        decoder = self._decoder
        if not decoder.needs_input and (data := self._decode(b"")):
            await trio.lowlevel.checkpoint()
            return data
        while True:
            raw = await self._response.receive_some()
            if not raw:
                if not self._ended:
                    self._ended = True
                    decoder.finish()
                return b""
            data = self._decode(raw)
            while not data and not decoder.needs_input:
                data = self._decode(b"")
            if data:
                return data

    def _decode(self, raw: bytes) -> bytes:
        self._counter.start()
        data = self._decoder.decode(raw)
        self._counter.done(len(data), len(raw), compressed=True)
        return data

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """The whole body if it is here; see `HttpResponse.read_nowait`."""
        decoder = self._decoder
        if not decoder.needs_input:
            return None
        raw = self._response.read_nowait(max_bytes)
        if raw is None:
            return None
        parts: list[bytes] = []
        size = 0
        data = self._decode(raw)
        while data or not decoder.needs_input:
            size += len(data)
            if size > max_bytes:
                raise MessageTooLarge(size, max_bytes)
            parts.append(data)
            data = b"" if decoder.needs_input else self._decode(b"")
        self._ended = True
        decoder.finish()
        return b"".join(parts)
