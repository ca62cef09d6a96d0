"""The server's side of one HTTP/1.1 connection."""

from __future__ import annotations

from typing import TypeAlias

from .headers import NO_HEADERS, Headers
from .http1 import BodyData, EndOfBody, Http1Limits, RequestHead, ResponseEvent, ResponseHead
from .machine import EndOfData, NeedData, Paused

__all__ = ["Http1Server", "ServerEvent"]

ServerEvent: TypeAlias = RequestHead | BodyData | EndOfBody | EndOfData


class Http1Server:
    """One connection of a server.

    `next_event` gives, for each request, a `RequestHead`, then `PAUSED` until `accept_body`
    or a response; after `accept_body` the body as `BodyData` and `EndOfBody`; then `PAUSED`
    until `start_next_cycle`. `EndOfData` is the end of the connection between requests.

    Args:
        limits: What a head may measure.
    """

    def __init__(self, limits: Http1Limits | None = None) -> None: ...

    @property
    def keep_alive(self) -> bool:
        """Whether the request that is served allows another one after it."""

    @property
    def must_close(self) -> bool:
        """Whether nothing more can be read or written: close the connection."""

    @property
    def response_complete(self) -> bool:
        """Whether the response to this request was made in full."""

    @property
    def buffered(self) -> int:
        """Bytes received and not yet consumed: what an adapter that reads on looks at."""

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """What was received and not consumed, and whether the end follows it."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes in. Faults come out of `next_event`, in order."""

    def receive_eof(self) -> None:
        """Tell that the peer will send no more. Idempotent."""

    def next_event(self) -> ServerEvent | NeedData | Paused:
        """The next event, `NEED_DATA` or `PAUSED`.

        Raises:
            RemoteProtocolError: The peer broke HTTP or a limit; `status` says how to answer.
                Final: one response is still legal, and closes.
        """

    def accept_body(self, max_body_bytes: int) -> None:
        """Let the body of this request come, at most so many bytes of it.

        Queues 100 Continue for `bytes_to_send` if the client waits for it.
        """

    def bytes_to_send(self) -> bytes:
        """What the machine writes on its own (100 Continue); drain it after `accept_body`."""

    def send(self, event: ResponseEvent) -> bytes:
        """The bytes to write for a part of a response."""

    def send_response(self, head: ResponseHead, body: bytes = b"") -> bytes:
        """A whole response as one buffer; ``Content-Length`` is set."""

    def send_failed(self) -> None:
        """Tell that what was made was not written, or not all of it."""

    def switch_protocol(self, protocol: str, headers: Headers = NO_HEADERS) -> bytes:
        """The bytes of 101 Switching Protocols; the rest is in `trailing_data`."""

    def start_next_cycle(self) -> None:
        """Go on to the next request, which may be in the buffer already."""
