"""HTTP+SSE (2024-11-05), seen by the client: one GET brings everything, POSTs go elsewhere.

Used by `HttpClientChannel` for ``sse+http://``, and by the Streamable HTTP wire for servers
that know nothing newer. The stream is the connection: when it ends, so does the channel.
"""

from __future__ import annotations

import trio

from ..abc import ConnectionLost
from ..errors import RequestIdInUse, TransportError
from ..jsonrpc import ErrorResponse, InvalidMessage, Message, Response, decode_message, relate
from ..sansio.headers import Headers
from ..sansio.machine import NEED_DATA, EndOfData
from ..sansio.mcp_http.redirects import is_redirect, redirect_target
from ..sansio.mcp_http.sse_client import SseClient
from ..sansio.sse import SseDecoder, SseEvent
from .http_client_line import Exchange
from .http_client_port import Port, Refused
from .http_client_wire import Wire
from .http_sender import HttpResponse
from .inbox import Sized

__all__ = ["SseWire"]

_GET = Headers([("Accept", "text/event-stream")])
_POST = Headers([
    ("Accept", "application/json, text/event-stream"),
    ("Content-Type", "application/json"),
])


class SseWire(Wire):
    """The wire of ``sse+http://``.

    Args:
        port: The channel's side.
        headers: Fields of every request.
    """

    def __init__(self, port: Port, headers: Headers) -> None:
        super().__init__(port)
        self._get_headers = headers.merged(_GET)
        self._post_headers = headers.merged(_POST)
        self._scope = trio.CancelScope()
        self._opened = trio.Event()
        self._client: SseClient | None = None
        self._failure: Exception | None = None

    async def open(self) -> None:
        """Open the stream and wait until the server has said where to POST to.

        Cancelled, call `abort`.

        Raises:
            HttpError: The server has no such stream.
            ConnectFailed: It cannot be reached; the same for all of `HttpSender.request`.
        """
        self._port.nursery.start_soon(self._run)
        try:
            await self._opened.wait()
        except trio.Cancelled:
            self.abort()
            raise
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """Close the stream."""
        self._scope.cancel()

    def stop_listening(self) -> None:
        """Close the stream: all answers have come."""
        self.abort()

    # -- the stream ------------------------------------------------------------------

    async def _run(self) -> None:
        """The task of the stream; it ends the channel when it ends."""
        cause: Exception = ConnectionLost("the server ended the stream")
        with self._scope:
            try:
                await self._read_get()
            except Exception as error:
                cause = error.cause if isinstance(error, Refused) else error
        if not self._opened.is_set():
            self._failure = cause
            if isinstance(cause, trio.BrokenResourceError) and not isinstance(
                cause, TransportError
            ):
                self._failure = ConnectionLost("the stream broke before it began")
                self._failure.__cause__ = cause
            self._opened.set()
        elif not self._scope.cancelled_caught:
            self._port.fail(cause)

    async def _read_get(self) -> None:
        port, url = self._port, self._port.settings.url
        headers = self._get_headers
        if port.settings.credentials is not None:
            headers = headers.merged(await port.settings.credentials())
        taken = 0
        while True:
            async with port.sender.request("GET", url, headers=headers) as response:
                if is_redirect(response.status):
                    location = response.headers.get("location")
                    url = redirect_target(url, response.status, location, taken=taken)
                    taken += 1
                    continue
                if not 200 <= response.status < 300:
                    raise await self._refused(response, in_session=False)
                self._check_stream(response)
                await self._read_all(response, SseClient(url))
                return

    async def _read_all(self, response: HttpResponse, client: SseClient) -> None:
        decoder = SseDecoder(self._port.options.max_message_bytes)
        while data := await response.receive_some():
            self._port.count_read(len(data))
            decoder.receive_data(data)
            found: list[Sized] = []
            while True:
                item = decoder.next_event()
                if item is NEED_DATA or isinstance(item, EndOfData):
                    break
                if type(item) is SseEvent:
                    payload = client.event(item)
                    if payload is not None:
                        found.extend(self._take(payload))
            if client.endpoint is not None and not self._opened.is_set():
                self._client = client
                self._opened.set()
            await self._put(found)

    def _take(self, payload: bytes) -> list[Sized]:
        try:
            message: Message = decode_message(payload)
        except InvalidMessage as error:
            self._port.malformed += 1
            self._port.report("message.malformed", f"an event is no message: {error}", error)
            request_id = error.request_id
            exchange = self._port.exchanges.get((type(request_id), request_id))
            if exchange is not None and not error.answerable:
                exchange.give_up(error)
            return []
        if isinstance(message, Response | ErrorResponse):
            exchange = self._port.exchanges.get((type(message.id), message.id))
            if exchange is not None:
                exchange.answered = True
                relate(message, message.id)
                if exchange.parked is not None:
                    exchange.parked.set()
                self._port.finish(exchange)
        return [(message, len(payload))]

    # -- messages out ----------------------------------------------------------------

    async def carry(self, exchange: Exchange) -> None:
        """POST one message; its answer comes on the stream."""
        assert self._client is not None
        assert self._client.endpoint is not None
        request_id = exchange.request_id
        if (
            request_id is not None
            and self._port.exchanges.get((type(request_id), request_id)) is not exchange
        ):
            # Sent before it was known that the server speaks this wire, with an id that a later
            # one has too: it is the later one that gets the answer.
            raise RequestIdInUse(f"a later request has the id {request_id!r} as well")
        try:
            await self._post(self._client.endpoint, exchange, self._post_headers)
        except Refused as refused:
            self._settle_refused(exchange, refused)
            return
        if exchange.is_request and not exchange.answered:
            exchange.parked = trio.Event()
            await exchange.parked.wait()  # until the stream has brought the answer

    async def _read(self, response: HttpResponse, exchange: Exchange, in_session: bool) -> None:
        # 2024-11-05 knows no bodies here; servers say 202 and "Accepted".
        if not 200 <= response.status < 300:
            raise await self._refused(response, in_session)
        await self._drain(response)
