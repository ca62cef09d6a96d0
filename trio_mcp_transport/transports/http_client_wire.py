"""What the wires of the HTTP client share: sending one POST, and reading what answers it.

Used by the wires (`http_client_streamable`, `http_client_sse`, `http_client_two_path`). A
wire carries one exchange at a time in each of the tasks that the channel starts; nothing
here starts a task or owns a connection.
"""

from __future__ import annotations

import contextlib
import functools
import math
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

import trio

from ..abc import ConnectionLost
from ..errors import InvalidHttpResponse, MessageTooLarge
from ..jsonrpc import (
    ErrorResponse,
    InvalidMessage,
    Message,
    Request,
    Response,
    relate,
)
from ..sansio.headers import Headers
from ..sansio.machine import NEED_DATA, EndOfData
from ..sansio.mcp_http.answers import (
    check_encoding,
    decode_payload,
    describe_type,
    kind_of_body,
    refusal,
)
from ..sansio.mcp_http.reconnect import Reconnect
from ..sansio.mcp_http.redirects import is_redirect, redirect_target
from ..sansio.mcp_http.statuses import error_of_status
from ..sansio.sse import SseComment, SseDecoder, SseEvent
from .http_client_line import Exchange
from .http_client_port import Port, Refused
from .http_sender import HttpResponse
from .inbox import Sized

__all__ = ["Wire"]

#: How much of the body of a refusal is read.
_REFUSAL_BYTES = 64 * 1024
#: Seconds that a stream has to end after its answer, so that its connection can be kept.
_TAIL_TIMEOUT = 1.0


class Wire(ABC):
    """One way to bring messages to a server and back.

    Args:
        port: The channel's side.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._line = port.line
        settings = port.settings
        self._may_begin = settings.credentials is None and settings.read_timeout == math.inf
        self._plain: Headers | None = None

    @abstractmethod
    async def carry(self, exchange: Exchange) -> None:
        """Send one message, deliver what answers it, and return when it is over.

        Raises:
            TransportError: Why it failed; also what trio raises for broken streams.
        """

    def _headers_at_once(self, exchange: Exchange) -> Headers | None:
        """The fields of a request that needs nothing but to be sent; None for all others."""
        return None

    async def carry_at_once(self, exchange: Exchange) -> bool:
        """Do what `carry` does where everything is as it mostly is.

        A connection is free, and the whole answer comes in one piece. Then there is nothing
        to wait for but that answer, and to give up the exchange is to close its connection:
        it takes no cancel scope, and none of the layers that waiting elsewhere needs. They
        cost a third of all that a request costs.

        Returns:
            Whether that was all; if not, `carry` takes it up where this left it.

        Raises:
            TransportError: As `carry`, as are the others.
        """
        port = self._port
        headers = self._headers_at_once(exchange) if self._may_begin else None
        if headers is None:
            return False
        line = self._line
        begun = port.sender.begin(
            "POST",
            port.settings.url,
            headers=headers,
            body=exchange.data,
            on_written=functools.partial(line.written, exchange),
        )
        if begun is None:
            return False
        exchange.begun, exchange.sent_headers = begun, headers
        exchange.stop = begun.abandon
        await begun.wait_head()
        if not begun.has_head or begun.status != 200 or not self._is_plain(begun.headers):
            return False
        body = begun.read_nowait(port.options.max_message_bytes)
        if body is None:
            return False
        exchange.begun = None
        port.bytes_sent += len(exchange.data)
        line.taken(exchange)
        port.count_read(len(body))
        found = self._read_document(body, exchange, begun.headers)
        if not found or port.inbox.try_put(found):
            port.received += len(found)
        else:
            with trio.CancelScope() as scope:
                exchange.stop = scope.cancel
                await self._put(found)
        if exchange.held is not None:
            return False
        if exchange.answered:
            port.finish(exchange)
        return True

    def _is_plain(self, headers: Headers) -> bool:
        """Whether a body is JSON and not packed. The same fields come again and again."""
        if headers is not self._plain:
            if kind_of_body(headers) != "json" or "content-encoding" in headers:
                return False
            self._plain = headers
        return True

    async def close(self) -> None:
        """Say goodbye, where the wire has a word for it; the caller has a time limit."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    def abort(self) -> None:
        """Stop what runs beside the exchanges."""

    @property
    def is_modern_only(self) -> bool:
        """Whether nothing legacy was ever agreed on, so that answers have nowhere to go."""
        return False

    @abstractmethod
    def stop_listening(self) -> None:
        """The application sends no more and has all its answers: nothing more is read."""

    # -- one POST --------------------------------------------------------------------

    async def _post(self, url: str, exchange: Exchange, headers: Headers) -> None:
        """POST an exchange, following redirects, and read its response.

        Raises:
            Refused: The status is no success.
            UnexpectedRedirect: A redirect that is not followed.
        """
        port, settings = self._port, self._port.settings
        if settings.credentials is not None:
            headers = headers.merged(await settings.credentials())
        timeout = settings.read_timeout
        if not exchange.is_request or exchange.is_internal:
            timeout = min(timeout, settings.delivery_timeout)
        taken = 0
        while True:
            request: AbstractAsyncContextManager[HttpResponse] | None = exchange.begun
            if request is None:
                request = port.sender.request(
                    "POST",
                    url,
                    headers=headers,
                    body=exchange.data,
                    head_timeout=timeout,
                    on_written=functools.partial(self._line.written, exchange),
                )
            exchange.begun = None
            async with request as response:
                if not is_redirect(response.status):
                    port.bytes_sent += len(exchange.data)
                    if not exchange.opens_stream:
                        self._line.taken(exchange)
                    await self._read(response, exchange, "mcp-session-id" in headers)
                    return
                location = response.headers.get("location")
                url = redirect_target(url, response.status, location, taken=taken)
                taken += 1

    async def _read(self, response: HttpResponse, exchange: Exchange, in_session: bool) -> None:
        status = response.status
        if not 200 <= status < 300:
            raise await self._refused(response, in_session)
        if not exchange.is_request:
            # "If the server accepts the input, the server MUST return HTTP status code 202
            # Accepted with no body." Some say 200 and give one: it is read to keep the
            # connection.
            await self._drain(response)
            return
        check_encoding(response.headers, status)
        kind = kind_of_body(response.headers)
        if kind == "json":
            limit = self._port.options.max_message_bytes
            # Mostly it came with the head, and this task has only just waited for that.
            body = None if exchange.given_up else response.read_nowait(limit)
            if body is None:
                body = await response.read(limit)
            self._port.count_read(len(body))
            await self._take_document(body, exchange, response.headers)
        elif kind == "sse":
            await self._read_answer_stream(response, exchange)
        elif status == 202:
            raise InvalidHttpResponse(
                "the server took the request and does not answer it", status=status
            )
        else:
            raise InvalidHttpResponse(
                "the response is neither JSON nor a stream of events:"
                f" {describe_type(response.headers)}",
                status=status,
            )

    def _check_stream(self, response: HttpResponse) -> None:
        """See that the answer to a GET is a stream of events."""
        check_encoding(response.headers, response.status)
        if kind_of_body(response.headers) != "sse":
            raise InvalidHttpResponse(
                f"the answer to GET is no stream of events: {describe_type(response.headers)}",
                status=response.status,
            )

    async def _refused(self, response: HttpResponse, in_session: bool) -> Refused:
        try:
            body = await response.read(_REFUSAL_BYTES)
        except (MessageTooLarge, trio.BrokenResourceError):
            body = b""
        cause = error_of_status(response.status, response.headers, body, in_session=in_session)
        return Refused(cause, body)

    async def _drain(self, response: HttpResponse) -> None:
        """Read the rest of a body that nobody needs, if it is short."""
        with contextlib.suppress(MessageTooLarge, trio.BrokenResourceError):
            await response.read(_REFUSAL_BYTES)

    def _settle_refused(self, exchange: Exchange, refused: Refused) -> None:
        """End a refused exchange for good."""
        if exchange.request_id is None:
            raise refused.cause
        answer = refusal(refused.body, exchange.request_id, refused.cause)
        found = self._accept(answer, exchange, response_headers=None)
        if found is not None:
            self._port.inbox.put_owed(found)
            self._port.finish(exchange)

    # -- reading ---------------------------------------------------------------------

    async def _take_document(self, body: bytes, exchange: Exchange, headers: Headers) -> None:
        """Deliver what stands in a JSON response."""
        await self._deliver(self._read_document(body, exchange, headers), exchange)

    def _read_document(self, body: bytes, exchange: Exchange, headers: Headers) -> list[Sized]:
        """What the application gets of a JSON response."""
        try:
            messages = decode_payload(body, batches=self._port.accept_batches)
        except InvalidMessage as error:
            self._port.malformed += 1
            raise InvalidHttpResponse(f"the response is no message: {error}", status=200) from error
        found: list[Sized] = []
        for message in messages:
            if type(message) is ErrorResponse and message.id != exchange.request_id:
                # It can be about nothing else.
                message = ErrorResponse(exchange.request_id, message.error)
            accepted = self._accept(message, exchange, response_headers=headers)
            if accepted is not None:
                found.append((accepted, len(body)))
        return found

    async def _read_answer_stream(self, response: HttpResponse, exchange: Exchange) -> None:
        """Read the stream that answers a request, to its end or to the answer."""
        await self._read_stream(response, exchange, None)
        if not exchange.answered:
            raise ConnectionLost("the stream of the request ended without an answer")

    async def _read_stream(
        self, response: HttpResponse, exchange: Exchange | None, reconnect: Reconnect | None
    ) -> None:
        """Deliver what a stream brings; returns when it has ended.

        After the answer of its request it has a moment to end, so that its connection can
        be used again.
        """
        port = self._port
        decoder = SseDecoder(port.options.max_message_bytes)
        with trio.CancelScope() as tail:
            while True:
                data = await response.receive_some()
                if not data:
                    return
                port.count_read(len(data))
                decoder.receive_data(data)
                found: list[Sized] = []
                while True:
                    item = decoder.next_event()
                    if item is NEED_DATA or isinstance(item, EndOfData):
                        break
                    if type(item) is SseEvent:
                        self._take_event(item, exchange, reconnect, response.headers, found)
                    else:
                        assert type(item) is SseComment
                if exchange is None:
                    await self._put(found)
                elif not exchange.answered or found:
                    await self._deliver(found, exchange)
                    if exchange.answered and tail.deadline == math.inf:
                        # "After the JSON-RPC response has been sent, the server SHOULD
                        # terminate the SSE stream."
                        tail.deadline = trio.current_time() + _TAIL_TIMEOUT

    def _take_event(
        self,
        event: SseEvent,
        exchange: Exchange | None,
        reconnect: Reconnect | None,
        headers: Headers,
        found: list[Sized],
    ) -> None:
        if reconnect is not None:
            reconnect.event(event.id, event.retry, is_new=bool(event.data))
        # An event with empty data primes the client to reconnect and brings no message.
        if not event.data or event.event != "message":
            return
        data = event.data
        try:
            messages = decode_payload(data, batches=self._port.accept_batches)
        except InvalidMessage as error:
            self._port.malformed += 1
            self._port.report("message.malformed", f"an event is no message: {error}", error)
            if exchange is not None and error.request_id == exchange.request_id:
                exchange.give_up(error)
            return
        for message in messages:
            accepted = self._accept(message, exchange, response_headers=headers)
            if accepted is not None:
                found.append((accepted, len(data)))

    def _accept(
        self, message: Message, exchange: Exchange | None, response_headers: Headers | None
    ) -> Message | None:
        """Take one message that came for an exchange, or for none.

        Returns:
            What the application gets, if anything.
        """
        kind = type(message)
        if kind is Response or kind is ErrorResponse:
            return self._accept_answer(message, exchange, response_headers)  # type: ignore[arg-type]
        if exchange is not None and (exchange.answered or exchange.is_internal):
            return None
        if kind is Request and exchange is not None and exchange.revision is not None:
            # 2026-07-28: "The server MUST NOT send independent JSON-RPC requests on this
            # stream." There is no way to answer one either.
            self._port.drop("a request on the stream of a modern one")
            return None
        return relate(message, None if exchange is None else exchange.request_id)

    def _accept_answer(
        self,
        answer: Response | ErrorResponse,
        exchange: Exchange | None,
        headers: Headers | None,
    ) -> Message | None:
        if exchange is None:
            # "The server MUST NOT send a JSON-RPC response on the stream unless resuming a
            # stream associated with a previous client request."
            self._port.drop("an answer on a stream that is no request's")
            return None
        request_id = exchange.request_id
        assert request_id is not None
        if answer.id is None and type(answer) is ErrorResponse:
            answer = ErrorResponse(request_id, answer.error)
        if answer.id != request_id or type(answer.id) is not type(request_id):
            self._port.drop("the answer to another request than the stream's")
            return None
        if exchange.answered:
            self._port.drop("a second answer to one request")
            return None
        if exchange.is_internal:
            exchange.answered = True
            exchange.reply = answer
            exchange.reply_headers = headers
            return None
        final = self._finish_answer(answer, exchange, headers)
        exchange.answered = True  # not before: it may be none that can be accepted
        return None if final is None else relate(final, request_id)

    def _finish_answer(
        self,
        answer: Response | ErrorResponse,
        exchange: Exchange,
        headers: Headers | None,
    ) -> Response | ErrorResponse | None:
        """Look at an answer before it is delivered; None keeps it back."""
        return answer

    async def _deliver(self, found: list[Sized], exchange: Exchange) -> None:
        await self._put(found)
        if exchange.answered and exchange.held is None:
            self._port.finish(exchange)

    async def _put(self, found: list[Sized]) -> None:
        if found:
            self._port.received += len(found)
            await self._port.inbox.put(found)
