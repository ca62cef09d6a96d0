"""What an HTTP client does, stage by stage, for those who look for a fault.

Put between a channel and its sender by `http_client` where an endpoint says
``diagnostics=true``; costs nothing where it does not. The stages are events of these names;
no event holds a header, a query, a body or anything else that could be a secret.

======================= ================================================================
``http.resolved``       the host's name was looked up: its addresses
``http.connected``      a connection was made
``http.tunnelled``      the proxy has made one to the server
``http.secured``        TLS is spoken: its version, and the server's certificate (SHA-256)
``http.wrote_request``  the operating system has a request
``http.read_head``      the head of its response is here: its status
``http.read_response``  its whole body is here: how many bytes
``http.gave_up``        its response was left before its end, or none came
``http.closed``         the channel closed its connections
======================= ================================================================
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import trio

from ..abc import ChannelContext, ChannelEvent, EventHandler
from ..endpoints import TcpEndpoint, join_host_port
from ..reporting import diagnose
from ..sansio.headers import NO_HEADERS, Headers
from .http_round_trip import HttpStream
from .http_sender import HttpResponse, HttpSender
from .socket_stream import SocketStream
from .tcp import open_socket, set_options
from .web_stream import Tell

__all__ = ["DiagnosingSender", "diagnosed_open_stream", "make_tell"]


def make_tell(on_event: EventHandler | None, context: ChannelContext | None = None) -> Tell:
    """A function that turns a stage and what came of it into an event."""

    def tell(stage: str, message: str) -> None:
        event = ChannelEvent(name=f"http.{stage}", message=message, context=context)
        diagnose(on_event, event)

    return tell


def diagnosed_open_stream(
    on_event: EventHandler | None,
) -> Callable[[str, int], Awaitable[HttpStream]]:
    """An `open_stream` for `HttpPool` that tells of the name lookup and the connection."""
    tell = make_tell(on_event)

    async def open_stream(host: str, port: int) -> HttpStream:
        where = join_host_port(host, port)
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
        tell("resolved", f"{where} is at {addresses}")
        endpoint = TcpEndpoint(host=host, port=port)
        sock = await open_socket(endpoint, where, on_event)
        try:
            set_options(sock, endpoint)
            own, peer = sock.getsockname(), sock.getpeername()
        except OSError:  # it is gone already
            sock.close()
            raise
        tell("connected", f"{join_host_port(*own[:2])} to {join_host_port(*peer[:2])}")
        return SocketStream(sock)

    return open_stream


class DiagnosingSender(HttpSender):
    """A sender that tells what another one does.

    Args:
        sender: Does it.
        on_event: Is told; the log without it, at the level debug.
        context: Of the channel, for the events.
    """

    def __init__(
        self, sender: HttpSender, on_event: EventHandler | None, context: ChannelContext
    ) -> None:
        self._sender = sender
        self._tell = make_tell(on_event, context)
        self._count = 0
        self._running = 0

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
        """Send a request; see `HttpSender.request`."""
        self._count += 1
        parts = urlsplit(url)
        what = f"{self._count}: {method} {parts.netloc}{parts.path}"

        def written() -> None:
            self._tell("wrote_request", f"{what}, body of {len(body)} bytes")
            if on_written is not None:
                on_written()

        begin = partial(
            self._sender.request,
            method,
            url,
            headers=headers,
            body=body,
            head_timeout=head_timeout,
            on_written=written,
        )
        return self._observe(what, begin)

    @asynccontextmanager
    async def _observe(
        self, what: str, begin: Callable[[], AbstractAsyncContextManager[HttpResponse]]
    ) -> AsyncGenerator[HttpResponse]:
        observed: _Observed | None = None
        self._running += 1
        try:
            async with begin() as response:
                self._tell("read_head", f"{what}: status {response.status}")
                observed = _Observed(response, what, self._tell)
                yield observed
        except BaseException as error:
            if observed is None or not observed.complete:
                self._tell("gave_up", f"{what}: {type(error).__name__}")
            raise
        else:
            if not observed.complete:
                self._tell("gave_up", f"{what}: its response was left")
        finally:
            self._running -= 1

    def close(self) -> None:
        """Close all connections; see `HttpSender.close`."""
        self._tell("closed", f"{self._count} requests were sent, {self._running} are not over")
        self._sender.close()

    async def aclose(self) -> None:
        """Close all connections; see `HttpSender.aclose`."""
        self._tell("closed", f"{self._count} requests were sent, {self._running} are not over")
        await self._sender.aclose()


class _Observed(HttpResponse):
    """A response that counts its bytes."""

    def __init__(self, response: HttpResponse, what: str, tell: Tell) -> None:
        self.status = response.status
        self.headers = response.headers
        self.complete = False
        self._response = response
        self._what = what
        self._tell = tell
        self._bytes = 0

    async def receive_some(self) -> bytes:
        """The next bytes of the body; see `HttpResponse.receive_some`."""
        data = await self._response.receive_some()
        self._count(data)
        return data

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """The whole body if it is here; see `HttpResponse.read_nowait`."""
        data = self._response.read_nowait(max_bytes)
        if data is not None:
            self._bytes += len(data)
            self._count(b"")
        return data

    def _count(self, data: bytes) -> None:
        self._bytes += len(data)
        if not data and not self.complete:
            self.complete = True
            self._tell("read_response", f"{self._what}: {self._bytes} bytes")
