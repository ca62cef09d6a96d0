"""The client's side of one HTTP/1.1 connection."""

from __future__ import annotations

from typing import TypeAlias

from .http1 import BodyData, EndOfBody, Http1Limits, InformationalResponse, RequestHead
from .http1 import ResponseHead as ResponseHead
from .machine import EndOfData, NeedData, Paused

__all__ = ["ClientEvent", "Http1Client"]

ClientEvent: TypeAlias = InformationalResponse | ResponseHead | BodyData | EndOfBody | EndOfData


class Http1Client:
    """One connection of a client: one request at a time.

    Args:
        limits: What a head may measure.
    """

    def __init__(self, limits: Http1Limits | None = None) -> None: ...

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: all was read and nobody wants to close."""

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """What was received and not consumed, and whether the end follows it."""

    def send_request(
        self, head: RequestHead, body: bytes = b"", *, max_body_bytes: int | None = None
    ) -> bytes:
        """A whole request as one buffer; ``Content-Length`` is set where there is a body."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes in. Faults come out of `next_event`, in order."""

    def receive_eof(self) -> None:
        """Tell that the peer will send no more. Idempotent."""

    def next_event(self) -> ClientEvent | NeedData | Paused:
        """The next event, `NEED_DATA`, or `PAUSED` after `EndOfBody` and after 101."""

    def start_next_cycle(self) -> None:
        """Allow the next request."""

    def send_failed(self) -> None:
        """Tell that the request was not written, or not all of it."""
