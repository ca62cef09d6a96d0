"""Streamable HTTP, seen by the client: both eras, by what each message is.

Used by `HttpClientChannel`. Modern messages are POSTs that stand for themselves. Legacy ones
live in the session that `initialize` began: its standalone stream is read beside them, a
broken stream of a request is taken up again, and a session that the server lost is begun
anew, once. A server that knows no Streamable HTTP at all is spoken to as HTTP+SSE.
"""

from __future__ import annotations

import contextlib
import math

import trio

from ..abc import ConnectionLost
from ..errors import (
    ConnectFailed,
    HttpError,
    InvalidHttpResponse,
    RequestTimeout,
    ServerBusy,
    SessionExpired,
    TransportError,
)
from ..jsonrpc import (
    ErrorCode,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
    encode_message,
)
from ..limits import LISTEN_HEAD_SECONDS
from ..sansio.eras import is_legacy_status
from ..sansio.headers import Headers
from ..sansio.mcp_http.answers import MODERN_ERRORS, refusal
from ..sansio.mcp_http.legacy_client import LegacyClient
from ..sansio.mcp_http.modern_client import MAX_LIST_PAGES, ModernClient
from ..sansio.mcp_http.reconnect import Reconnect
from .http_client_line import Exchange, Phase
from .http_client_port import Port, Refused
from .http_client_sse import SseWire
from .http_client_wire import Wire
from .http_sender import HttpResponse

__all__ = ["StreamableWire"]

#: What may only have happened on the way, so that another attempt makes sense.
_LOST = (ConnectFailed, RequestTimeout, trio.BrokenResourceError)


class StreamableWire(Wire):
    """The wire of `http://`.

    Args:
        port: The channel's side.
        headers: Fields of every request.
    """

    def __init__(self, port: Port, headers: Headers) -> None:
        super().__init__(port)
        self._headers = headers
        self._url = port.settings.url
        self._modern = ModernClient(headers, name_sources=port.settings.name_sources)
        self._legacy = LegacyClient(headers)
        #: The revision of the last modern request.
        self._spoken: str | None = None
        #: While a lost session is begun anew: set when that is over.
        self._renewed: trio.Event | None = None
        self._renewing = trio.CancelScope()
        self._listening: trio.CancelScope | None = None
        #: Set once it is known whether the standalone stream is there.
        self._heard = trio.Event()

    @property
    def is_modern_only(self) -> bool:
        """Whether nothing legacy was ever agreed on."""
        return self._legacy.initialize is None

    async def carry(self, exchange: Exchange) -> None:
        """Send one message; see `Wire.carry`."""
        revision = exchange.revision
        if revision is not None:
            self._spoken = revision
        elif self.is_modern_only and isinstance(exchange.message, Notification):
            # It has no `_meta`, but "Every POST request to the MCP endpoint MUST include an
            # MCP-Protocol-Version header".
            revision = self._spoken
        if revision is not None:
            await self._carry_modern(exchange, revision)
        else:
            await self._carry_legacy(exchange)

    def _headers_at_once(self, exchange: Exchange) -> Headers | None:
        message = exchange.message
        if type(message) is not Request:
            return None
        if exchange.revision is not None:
            self._spoken = exchange.revision
            return self._modern.headers(message, exchange.revision)
        if self._renewed is not None or exchange.is_initialize:
            return None
        exchange.generation = self._legacy.generation
        return self._legacy.post_headers

    async def close(self) -> None:
        """End the session."""
        self.abort()
        # "Clients that no longer need a particular session SHOULD send an HTTP DELETE to
        # the MCP endpoint with the MCP-Session-Id header"; a server that answers 405 just
        # keeps it.
        if self._legacy.session_id is None:
            await trio.lowlevel.checkpoint()
            return
        headers = self._legacy.delete_headers
        self._legacy.forget()
        try:
            headers = await self._with_credentials(headers)
            async with self._port.sender.request(
                "DELETE", self._url, headers=headers, head_timeout=self._own_timeout
            ):
                pass
        except (TransportError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it ends by itself
        except Exception as error:  # the user's credentials
            self._port.report("session.kept", f"the session could not be ended: {error}", error)

    def abort(self) -> None:
        """Stop listening, and beginning the session anew."""
        self._renewing.cancel()
        self.stop_listening()

    def stop_listening(self) -> None:
        """Close the standalone stream."""
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None

    @property
    def _own_timeout(self) -> float:
        """Time for what the channel itself asks."""
        settings = self._port.settings
        return min(settings.read_timeout, settings.delivery_timeout)

    async def _with_credentials(self, headers: Headers) -> Headers:
        credentials = self._port.settings.credentials
        return headers if credentials is None else headers.merged(await credentials())

    # -- modern ----------------------------------------------------------------------

    async def _carry_modern(self, exchange: Exchange, revision: str) -> None:
        message = exchange.message
        assert isinstance(message, Request | Notification)
        while True:
            headers = exchange.sent_headers or self._modern.headers(message, revision)
            exchange.sent_headers = None
            if exchange.held is None:  # else it was sent and answered at once
                try:
                    await self._post(self._url, exchange, headers)
                except Refused as refused:
                    self._settle_refused(exchange, refused)
            held = exchange.held
            if held is None:
                return
            # "the client SHOULD call tools/list to check for changes to the tool's
            # inputSchema, then retry the original request with the appropriate headers."
            assert isinstance(message, Request)
            exchange.retried, exchange.held, exchange.answered = True, None, False
            with contextlib.suppress(Refused, TransportError, trio.BrokenResourceError):
                await self._list_tools(message, revision)
            if self._modern.headers(message, revision) == headers:
                self._answer(held, exchange)
                return

    async def _list_tools(self, call: Request, revision: str) -> None:
        """Ask for the tools again, for the sake of their annotations."""
        cursor: str | None = None
        for page in range(MAX_LIST_PAGES):
            request = self._modern.list_request(call, f"tools-of-{call.id}-{page}", cursor)
            answer = await self._ask(request, self._modern.headers(request, revision))
            if not isinstance(answer, Response):
                return
            self._learn(answer)
            cursor = self._modern.next_cursor(answer.result)
            if cursor is None:
                return

    def _learn(self, answer: Response) -> Response:
        result, rejected = self._modern.learn(answer.result)
        for tool in rejected:
            # "Clients SHOULD log a warning when rejecting a tool definition, including the
            # tool name and the reason for rejection."
            self._port.report(
                "tool.rejected", f"tool {tool.name!r} was left out: {tool.reason}", None
            )
        return answer if result is answer.result else Response(answer.id, result)

    def _finish_answer(
        self,
        answer: Response | ErrorResponse,
        exchange: Exchange,
        headers: Headers | None,
    ) -> Response | ErrorResponse | None:
        message = exchange.message
        assert isinstance(message, Request)
        if exchange.revision is not None:
            if isinstance(answer, Response):
                return self._learn(answer) if message.method == "tools/list" else answer
            if (
                answer.error.code == ErrorCode.HEADER_MISMATCH
                and message.method == "tools/call"
                and not exchange.retried
            ):
                exchange.held = answer
                return None
        elif isinstance(answer, Response):
            if exchange.is_initialize and headers is not None:
                self._legacy.adopt(message, headers, answer)
            else:
                self._legacy.worked()
        return answer

    def _answer(self, answer: Response | ErrorResponse, exchange: Exchange) -> None:
        """Deliver an answer that was kept back."""
        exchange.answered = False
        found = self._accept(answer, exchange, response_headers=None)
        if found is not None:
            self._port.inbox.put_owed(found)
        self._port.finish(exchange)

    # -- what the channel itself asks --------------------------------------------------

    async def _ask(self, message: Message, headers: Headers) -> Response | ErrorResponse | None:
        """Send a message of the channel's own; returns the answer of a request.

        Raises:
            Refused: The status is no success.
            TransportError: It failed.
        """
        exchange = Exchange(message, encode_message(message))
        exchange.is_internal = True
        exchange.phase = Phase.DONE  # it stands in no line
        timeout = self._own_timeout
        with trio.move_on_after(timeout) as scope:
            await self._post(self._url, exchange, headers)
        if scope.cancelled_caught:
            raise RequestTimeout(f"no answer within {timeout:g} s")
        if exchange.cause is not None:
            raise exchange.cause
        self._last_head = exchange.reply_headers
        return exchange.reply

    # -- legacy ----------------------------------------------------------------------

    async def _carry_legacy(self, exchange: Exchange) -> None:
        legacy = self._legacy
        exchange.opens_stream = _is_initialized(exchange)
        while True:
            if exchange.begun is None:  # else it was sent at once
                if self._renewed is not None and not exchange.is_initialize:
                    await self._renewed.wait()  # the session is lost, or was never told it began
                exchange.generation = legacy.generation
            headers = legacy.post_headers
            if exchange.is_initialize:
                headers = legacy.initialize_headers
            try:
                await self._post(self._url, exchange, headers)
            except Refused as refused:
                if exchange.is_initialize and await self._fall_back(exchange, refused):
                    return
                if (
                    isinstance(refused.cause, SessionExpired)
                    and not exchange.retried
                    and not exchange.opens_stream
                ):
                    exchange.retried = True
                    if await self._renew(exchange.generation):
                        if exchange.is_cancelled:
                            exchange.silence()
                            return
                        continue
                self._settle_refused(exchange, refused)
                return
            if not exchange.is_request:
                if exchange.opens_stream:
                    self._listen()
                    # What a server says beside all requests before the stream is there it
                    # may drop, and what comes next may be a request that makes it ask
                    # something. Some send the head only with the first event.
                    with trio.move_on_after(LISTEN_HEAD_SECONDS):
                        await self._heard.wait()
                else:
                    legacy.worked()
            return

    async def _read_answer_stream(self, response: HttpResponse, exchange: Exchange) -> None:
        if exchange.revision is not None:
            # "Resumable SSE streams via Last-Event-ID are not supported."
            await super()._read_answer_stream(response, exchange)
            return
        reconnect = Reconnect(needs_id=True, max_attempts=self._port.settings.max_reconnects)
        cause = await self._read_until_lost(response, exchange, reconnect)
        # The connection is done with before the wait, and free for others.
        exchange.resume = None if exchange.answered else (reconnect, cause)

    async def _post(self, url: str, exchange: Exchange, headers: Headers) -> None:
        await super()._post(url, exchange, headers)
        if exchange.resume is not None:
            reconnect, cause = exchange.resume
            exchange.resume = None
            await self._resume(exchange, reconnect, cause)

    async def _read_until_lost(
        self, response: HttpResponse, exchange: Exchange | None, reconnect: Reconnect
    ) -> Exception:
        """Read a stream to its end; returns what it ended with."""
        try:
            await self._read_stream(response, exchange, reconnect)
        except trio.BrokenResourceError as error:
            return error
        return ConnectionLost("the stream ended without an answer")

    async def _resume(self, exchange: Exchange, reconnect: Reconnect, cause: Exception) -> None:
        """Take up the stream of a request until its answer has come."""
        while not exchange.answered:
            delay = reconnect.lost()
            if delay is None:
                lost = ConnectionLost("the stream of the request was lost before its answer")
                raise lost from cause
            await trio.sleep(delay)
            try:
                found = await self._get(exchange, reconnect)
            except _LOST as error:
                cause = error
                continue
            except Refused as refused:
                cause = refused.cause
                if isinstance(cause, ServerBusy):
                    continue
                raise cause from None
            cause = found

    async def _get(self, exchange: Exchange | None, reconnect: Reconnect) -> Exception:
        """Open a stream by GET and read it to its end; returns what it ended with.

        Raises:
            Refused: The server does not open one.
        """
        headers = await self._with_credentials(self._legacy.get_headers(reconnect.last_event_id))
        # What a session says beside all requests may come at any time, and the head with it.
        timeout = math.inf if exchange is None else self._own_timeout
        async with self._port.sender.request(
            "GET", self._url, headers=headers, head_timeout=timeout
        ) as response:
            if exchange is None:
                self._heard.set()
            if not 200 <= response.status < 300:
                raise await self._refused(response, "mcp-session-id" in headers)
            self._check_stream(response)
            return await self._read_until_lost(response, exchange, reconnect)

    # -- the standalone stream -------------------------------------------------------

    def _listen(self) -> None:
        """Open the stream that brings what belongs to no request."""
        if self._legacy.session_id is None or not self._port.settings.listen:
            self._heard.set()
            return
        self.stop_listening()
        self._heard = trio.Event()
        self._listening = scope = trio.CancelScope()
        self._port.nursery.start_soon(self._run_standalone, scope)

    async def _run_standalone(self, scope: trio.CancelScope) -> None:
        """The task of the standalone stream. Whatever ends it, POSTs go on."""
        reconnect = Reconnect(needs_id=False, max_attempts=self._port.settings.max_reconnects)
        with scope:
            try:
                await self._keep_listening(reconnect)
            except Exception as error:
                if scope.cancel_called or isinstance(error, trio.ClosedResourceError):
                    return  # this side closes: no fault
                self._port.report(
                    "stream.lost", f"nothing is heard beside requests any more: {error}", error
                )
            finally:
                self._heard.set()

    async def _keep_listening(self, reconnect: Reconnect) -> None:
        while True:
            try:
                cause = await self._get(None, reconnect)
            except _LOST as error:
                self._heard.set()
                cause = error
            except Refused as refused:
                # "or else return HTTP 405 Method Not Allowed, indicating that the server
                # does not offer an SSE stream": final, and no fault.
                if refused.cause.status == 405:
                    return
                if not isinstance(refused.cause, ServerBusy):
                    raise refused.cause from None
                cause = refused.cause
            delay = reconnect.lost()
            if delay is None:
                raise ConnectionLost("the standalone stream was lost") from cause
            await trio.sleep(delay)

    # -- a session that was lost -----------------------------------------------------

    async def _renew(self, generation: int) -> bool:
        """Begin the session anew, unless another exchange has done so meanwhile.

        Returns:
            Whether the caller may try again.
        """
        legacy = self._legacy
        if self._renewed is None and legacy.generation == generation:
            if not legacy.may_renew():
                return False
            # A task of its own: whoever waits for it may be cancelled.
            self._renewed, self._renewing = trio.Event(), trio.CancelScope()
            self._port.nursery.start_soon(self._run_renewal, generation, self._renewed)
        if self._renewed is not None:
            await self._renewed.wait()
        return legacy.generation != generation and legacy.session_id is not None

    async def _run_renewal(self, generation: int, over: trio.Event) -> None:
        """The task that begins the session anew."""
        legacy = self._legacy
        assert legacy.initialize is not None
        try:
            self.stop_listening()
            expired = SessionExpired("the server has lost the session", status=404)
            for other in list(self._port.exchanges.values()):
                # What has a stream was begun in the session that is gone. What has no head
                # yet gets its own 404, or its answer.
                if (
                    other.revision is None
                    and other.generation == generation
                    and other.phase == Phase.TAKEN
                    and not other.retried
                    and not other.answered
                ):
                    other.give_up(expired)
            with self._renewing:
                await self._begin_again(legacy.initialize)
                self._port.report("session.renewed", "the server had lost the session", None)
                self._listen()
        except Exception as error:
            cause = error.cause if isinstance(error, Refused) else error
            if not self._renewing.cancel_called:
                self._port.report(
                    "session.lost", f"the session could not be begun anew: {cause}", cause
                )
        finally:
            self._renewed = None
            over.set()

    async def _begin_again(self, initialize: Request) -> None:
        """Shake hands again; if that fails, the old session is still the one that is lost."""
        legacy = self._legacy
        lost = legacy.present
        answer = await self._ask(initialize, legacy.initialize_headers)
        if not isinstance(answer, Response) or self._last_head is None:
            raise InvalidHttpResponse("the server refused to initialize again", status=200)
        revision = legacy.revision
        legacy.adopt(initialize, self._last_head, answer)
        try:
            if legacy.revision != revision:
                raise InvalidHttpResponse("the server speaks another revision now", status=200)
            await self._ask(Notification("notifications/initialized"), legacy.post_headers)
        except BaseException:
            legacy.go_back(lost)
            raise

    # -- HTTP+SSE --------------------------------------------------------------------

    async def _fall_back(self, exchange: Exchange, refused: Refused) -> bool:
        """Try HTTP+SSE after a refused `initialize`; False if the server has none.

        "If it fails with HTTP status code 400 Bad Request, 404 Not Found, or 405 Method Not
        Allowed and the response body is not a recognized modern JSON-RPC error: Issue a GET
        request to the server URL, expecting that this will open an SSE stream".
        """
        assert exchange.request_id is not None
        answer = refusal(refused.body, exchange.request_id, refused.cause)
        if not is_legacy_status(refused.cause.status) or answer.error.code in MODERN_ERRORS:
            return False
        wire = SseWire(self._port, self._headers)
        try:
            with trio.move_on_after(self._port.options.connect_timeout) as timeout:
                await wire.open()
            if timeout.cancelled_caught:
                wire.abort()
                return False
        except (HttpError, *_LOST):
            return False
        self._port.use(wire)
        await wire.carry(exchange)
        return True


def _is_initialized(exchange: Exchange) -> bool:
    message = exchange.message
    return isinstance(message, Notification) and message.method == "notifications/initialized"
