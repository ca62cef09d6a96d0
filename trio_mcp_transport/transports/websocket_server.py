"""WebSockets on an HTTP server: which requests become one, and the handler that runs on it.

`HttpService` asks it about each request that was admitted; there is no way to it past the
admission. The channel lives inside of the call that began as the request's, so the connection
keeps its place among those of the listener, and whatever ends that ends the channel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ..abc import ChannelContext, EventHandler, MessageChannel
from ..jsonrpc import ErrorCode
from ..limits import ChannelOptions
from ..sansio.http1 import RequestHead
from ..sansio.mcp_http.replies import Reply, error_reply, unavailable
from ..sansio.websocket import judge_upgrade, upgrade_required, wants_websocket
from .http_request import HttpRequestStream, write_reply
from .websocket_channel import WebSocketChannel
from .websocket_settings import WebSocketServing, deflate_settings, make_machine

__all__ = ["WebSocketUpgrades"]


class WebSocketUpgrades:
    """The WebSockets of one service.

    Args:
        serving: Where and what.
        run_handler: Runs the handler of a channel; raises nothing but `Cancelled`.
        channel_options: Limits of the channels.
        on_event: Told of faults that no caller sees.
    """

    def __init__(
        self,
        serving: WebSocketServing,
        run_handler: Callable[[MessageChannel], Awaitable[object]],
        *,
        channel_options: ChannelOptions,
        on_event: EventHandler | None,
    ) -> None:
        self._serving = serving
        self._path = serving.path.rstrip("/")
        self._run_handler = run_handler
        self._options = channel_options
        self._on_event = on_event
        self._open: set[WebSocketChannel] = set()
        self._stopping = False

    def takes(self, head: RequestHead) -> bool:
        """Whether this request is to be given to `serve`, and to nobody else."""
        if self._serving.only:
            return True
        return head.upgrade is not None and wants_websocket(head) and self._is_here(head)

    def _is_here(self, head: RequestHead) -> bool:
        return head.path.rstrip("/") == self._path

    async def serve(
        self,
        request: HttpRequestStream,
        make_context: Callable[[str], ChannelContext],
    ) -> None:
        """Refuse a request, or let it become a WebSocket and run the handler until its end.

        Args:
            request: It was admitted, and `takes` said so.
            make_context: Makes the channel's context, given the transport's name.

        Raises:
            trio.BrokenResourceError: The client went away before it had its answer.
        """
        head, options = request.head, self._serving.options
        refusal = self._refusal(head)
        if refusal is not None:
            write_reply(request, refusal)
            return
        verdict = judge_upgrade(
            head,
            subprotocols=options.subprotocols,
            deflate=deflate_settings(options),
        )
        if isinstance(verdict, Reply):
            write_reply(request, verdict)
            return
        stream, data, eof = await request.switch_protocol("websocket", verdict.headers)
        machine = make_machine("server", options, self._options, verdict.agreement.deflate)
        machine.receive_data(data)
        if eof:
            machine.receive_eof()
        name = "wss" if request.facts.scheme == "https" else "ws"
        async with trio.open_nursery() as nursery:
            channel = WebSocketChannel(
                stream,
                machine,
                nursery=nursery,
                context=make_context(name),
                options=self._options,
                timing=options.timing(accepted=True),
                on_event=self._on_event,
            )
            if self._stopping:
                channel.go_away()
            self._open.add(channel)
            try:
                await self._run_handler(channel)
                await channel.aclose()
            finally:
                self._open.discard(channel)
                channel.abort()

    def _refusal(self, head: RequestHead) -> Reply | None:
        """Why there is no WebSocket for this request, as far as that is no matter of the RFC."""
        if not self._is_here(head):
            return error_reply(404, ErrorCode.INVALID_REQUEST, "no such path")
        if not wants_websocket(head):
            return upgrade_required()
        if self._stopping:
            return unavailable("the server is shutting down", self._serving.retry_after)
        return None

    def stop(self) -> None:
        """Begin nothing new; what is closed from now on says that the server goes away."""
        self._stopping = True
        for channel in self._open:
            channel.go_away()
