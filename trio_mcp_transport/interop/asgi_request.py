"""One ASGI ``http`` request as `HttpService` sees it, and the loop that answers it.

Made by `asgi` for each request. Theory of operation: as everywhere, the response is written
synchronously by whoever has something to say. Here it is queued, and a task sends it as ASGI
messages; beside it, once the body was read, a task waits in ``receive`` for the client to go
away. Both end with the response.

A body that was refused is read on for a while, and forgotten, before the response ends: a
server that ends the connection while the client still sends makes the operating system answer
with a reset, which may destroy the response on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import TypeAlias, cast
from urllib.parse import quote

import trio

from ..errors import RemoteProtocolError
from ..limits import READ_CHUNK_BYTES
from ..sansio.headers import Headers
from ..sansio.http1 import BodyData, EndOfBody, RequestHead, ResponseEvent, ResponseHead
from ..security.facts import Address, ConnectionFacts
from ..transports.http_request import HttpRequestStream, RequestTaker
from ..transports.http_unsent import Unsent

__all__ = ["AsgiRequest", "Message", "Receive", "Send"]

Message: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, object]]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

#: Characters of a path that stand for themselves; a server that gives no ``raw_path`` has
#: decoded the others.
_PATH_CHARACTERS = "/!$&'()*+,;=:@~"
#: How long, and how much, a client may go on sending after its body was refused.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1024 * 1024
#: What a server may raise from ``send`` or ``receive`` once the client has gone: "servers
#: must raise a server-specific subclass of OSError"; those on Trio may raise its own.
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class AsgiRequest(HttpRequestStream):
    """A request of an ASGI server.

    Args:
        scope: Its connection scope.
        receive: Gives the body and tells of the end.
        send: Takes the response.
        body_timeout: Seconds in which the body must be here.
        write_timeout: Seconds in which the server must take 64 KiB.

    Raises:
        LocalProtocolError: A header cannot be one of HTTP's.
    """

    def __init__(
        self,
        scope: Mapping[str, object],
        receive: Receive,
        send: Send,
        *,
        body_timeout: float,
        write_timeout: float,
    ) -> None:
        self.mount = cast("str", scope.get("root_path") or "").rstrip("/")
        headers = cast("Iterable[tuple[bytes, bytes]]", scope["headers"])
        self.head = RequestHead(
            cast("str", scope["method"]),
            _target(scope, self.mount),
            Headers((bytes(name), bytes(value)) for name, value in headers),
            http_version=cast("str", scope.get("http_version", "1.1")),
        )
        self.facts = ConnectionFacts(
            local_address=_address(scope.get("server")),
            peer_address=_address(scope.get("client")),
            scheme="https" if scope.get("scheme") == "https" else "http",
        )
        self.on_gone = None
        self._receive = receive
        self._send = send
        self._body_timeout = body_timeout
        self._write_timeout = write_timeout
        self._queue: deque[ResponseEvent] = deque()
        self._held = self._taken = 0
        self._unsent: Unsent | None = None
        self._sending: trio.CancelScope | None = None
        self._something = trio.Event()
        self._nothing_held = trio.Event()
        self._may_watch = trio.Event()
        self._body_over = trio.Event()
        if not {"content-length", "transfer-encoding"} & {name for name, _ in self.head.headers}:
            self._body_over.set()
        self._complete = False
        self._gone = False
        self._aborted = False

    # -- what the service uses ----------------------------------------------------------

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body. See `HttpRequestStream.read_body`."""
        declared = self.head.headers.get("content-length")
        if declared is not None and declared.isdecimal() and int(declared) > max_bytes:
            raise _too_large(max_bytes)
        parts: list[bytes] = []
        size, more = 0, True
        with trio.move_on_after(self._body_timeout):
            while more:
                message = await self._next()
                data = cast("bytes", message.get("body", b""))
                size += len(data)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(data)
                more = bool(message.get("more_body", False))
            self._body_over.set()
            self._may_watch.set()
            return b"".join(parts)
        raise RemoteProtocolError("the body of the request did not come in time", status=408)

    async def _next(self) -> Mapping[str, object]:
        try:
            message = await self._receive()
        except _GONE:
            message = {"type": "http.disconnect"}
        if message["type"] == "http.disconnect":
            self.lose()
            raise trio.BrokenResourceError("the client went away")
        return message

    def write(self, *events: ResponseEvent) -> None:
        """Queue parts of the response. See `HttpRequestStream.write`."""
        if self._gone or self._aborted or self._complete:
            return
        head = events[0]
        if type(head) is ResponseHead and type(events[-1]) is EndOfBody:
            # All of it is here: it needs no chunks.
            length = sum(len(part.data) for part in events if type(part) is BodyData)
            if head.status not in {204, 304} and "content-length" not in head.headers:
                head = ResponseHead(
                    head.status, head.headers.with_("content-length", str(length)), head.reason
                )
                events = (head, *events[1:])
        for event in events:
            if type(event) is BodyData:
                self._held += len(event.data)
        self._queue.extend(events)
        self._complete = type(events[-1]) is EndOfBody
        self._something.set()
        if self._held and self._unsent is not None:
            self._unsent.note(self)

    @property
    def held(self) -> int:
        """Bytes of bodies that the server has not taken."""
        return self._held

    @property
    def taken(self) -> int:
        """Bytes of bodies that it has taken."""
        return self._taken

    def cut(self) -> None:
        """End at once, whatever is still to be sent: it would wait for too long."""
        self.lose()
        if self._sending is not None:
            self._sending.cancel()

    async def flush(self) -> None:
        """Wait until the server has taken all. See `HttpRequestStream.flush`."""
        await trio.lowlevel.checkpoint()
        while self._held and not self._gone and not self._aborted:
            if self._nothing_held.is_set():  # else others wait for it, who must be woken too
                self._nothing_held = trio.Event()
            await self._nothing_held.wait()

    def abort(self) -> None:
        """Break the response off. See `HttpRequestStream.abort`."""
        if not self._complete:
            self._aborted = True
            self._wake_all()

    @property
    def gone(self) -> bool:
        """Whether the client went away before the response was complete."""
        return self._gone

    def lose(self) -> None:
        """The client is gone, or nothing can be sent to it any more. Idempotent."""
        if self._gone:
            return
        self._gone = True
        self._wake_all()
        if self._unsent is not None:
            self._unsent.forget(self)
        if self.on_gone is not None and not self._complete:
            self.on_gone()

    def _wake_all(self) -> None:
        self._queue.clear()
        self._held = 0
        self._something.set()
        self._nothing_held.set()
        self._may_watch.set()
        self._body_over.set()

    # -- what runs it -------------------------------------------------------------------

    async def answer(self, service: RequestTaker) -> None:
        """Let the service see to it, and send what comes of it.

        Returns when the response was sent, or the client is gone, or when it was broken off:
        a server that finds the response incomplete ends the connection. Cancelling it
        means that the client is gone.
        """
        self._unsent = service.unsent
        try:
            async with trio.open_nursery() as nursery:
                self._sending = nursery.cancel_scope
                nursery.start_soon(self._watch)
                nursery.start_soon(self._send_all, nursery.cancel_scope)
                await service.handle(self)
                self._may_watch.set()
        finally:
            self.lose()

    async def _watch(self) -> None:
        await self._may_watch.wait()
        left = _LINGER_BYTES
        while not self._gone:
            try:
                message = await self._next()
            except trio.BrokenResourceError:
                return
            left -= len(cast("bytes", message.get("body", b"")))
            if left < 0 or not message.get("more_body", False):
                self._body_over.set()

    async def _send_all(self, scope: trio.CancelScope) -> None:
        try:
            while not (self._gone or self._aborted):
                if not self._queue:
                    if self._complete:
                        break
                    self._something = trio.Event()
                    await self._something.wait()
                    continue
                await self._send_next(self._queue.popleft())
        except _GONE:
            self.lose()
        scope.cancel()

    async def _send_next(self, event: ResponseEvent) -> None:
        if type(event) is BodyData:
            data = memoryview(event.data)
            for start in range(0, len(data), READ_CHUNK_BYTES):
                chunk = bytes(data[start : start + READ_CHUNK_BYTES])
                last = start + len(chunk) == len(data) and self._ends_next()
                await self._take({
                    "type": "http.response.body",
                    "body": chunk,
                    "more_body": not last,
                })
                self._held -= len(chunk)
                self._taken += len(chunk)
            if self._held <= 0:
                self._nothing_held.set()
        elif type(event) is ResponseHead:
            await self._take({
                "type": "http.response.start",
                "status": event.status,
                "headers": [(name.lower(), value) for name, value in event.headers.raw],
            })
        elif type(event) is EndOfBody:
            with trio.move_on_after(_LINGER_SECONDS):
                await self._body_over.wait()
            await self._take({"type": "http.response.body", "body": b"", "more_body": False})

    def _ends_next(self) -> bool:
        """Whether nothing but the end follows, which then needs no message of its own."""
        if self._queue and type(self._queue[0]) is EndOfBody and self._body_over.is_set():
            self._queue.popleft()
            return True
        return False

    async def _take(self, message: Message) -> None:
        with trio.move_on_after(self._write_timeout) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client took nothing for too long")


def _target(scope: Mapping[str, object], mount: str) -> str:
    raw = scope.get("raw_path")
    if isinstance(raw, bytes):
        # Some servers leave the query in it.
        path = raw.partition(b"?")[0].decode("latin-1")
    else:
        path = quote(cast("str", scope["path"]), safe=_PATH_CHARACTERS)
    if mount and (path == mount or path.startswith(f"{mount}/")):
        path = path[len(mount) :] or "/"
    query = cast("bytes", scope.get("query_string") or b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def _address(value: object) -> Address:
    """What ASGI says: host and port, or the path of a Unix socket and None, or None."""
    if not isinstance(value, tuple | list) or len(value) != 2 or not value[0]:
        return None
    host, port = value
    if not isinstance(host, str):
        return None
    if port is None:
        return host
    return host.strip("[]"), int(port)


def _too_large(max_bytes: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"the body is larger than {max_bytes} bytes", status=413)
