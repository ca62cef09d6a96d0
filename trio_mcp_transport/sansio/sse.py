"""Server-sent events, as the WHATWG HTML standard has them (section 9.2)."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..limits import DEFAULT_MAX_MESSAGE_BYTES
from .machine import EndOfData, NeedData

__all__ = ["SseComment", "SseDecoder", "SseEvent", "SseItem", "encode_comment", "encode_event"]


class SseEvent(msgspec.Struct, frozen=True):
    """One event.

    Attributes:
        data: What its ``data`` lines carry, joined with line feeds; None when it has no
            ``data`` line at all, so that it only sets an id or a retry time (the standard
            dispatches nothing then). Empty data is no message either in MCP.
        event: Its type.
        id: The last event id as of this event: None as long as the stream has set none.
        retry: Milliseconds to wait before reconnecting, if this event says so.
    """

    data: bytes | None
    event: str = "message"
    id: str | None = None
    retry: int | None = None


class SseComment(msgspec.Struct, frozen=True):
    """A comment line, such as keeps an idle stream open.

    Attributes:
        text: What follows the colon.
    """

    text: bytes = b""


SseItem: TypeAlias = SseEvent | SseComment


def encode_event(
    data: bytes | str | None,
    *,
    event: str | None = None,
    id: str | None = None,  # noqa: A002
    retry: int | None = None,
) -> bytes:
    """The bytes of one event.

    Args:
        data: Its data, empty for a ``data:`` line without any, None for no such line.
        event: Its type; without one it is ``message``.
        id: Its id; no line break and no NUL.
        retry: Milliseconds, at least 0.

    Raises:
        LocalProtocolError: An id or type that cannot be written.
    """
    raise NotImplementedError


def encode_comment(text: str = "") -> bytes:
    """The bytes of a comment, such as keeps an idle stream open."""
    raise NotImplementedError


class SseDecoder:
    """Bytes of a stream to events. Linear in the bytes, however they are cut.

    Args:
        max_event_bytes: Most bytes of one event's data, and of one line.
    """

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None: ...

    @property
    def last_event_id(self) -> str | None:
        """The id to resume from, or None."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes in."""

    def receive_eof(self) -> None:
        """Tell the end: an event that no blank line ended is dropped."""

    def next_event(self) -> SseItem | EndOfData | NeedData:
        """The next event or comment, `EndOfData`, or `NEED_DATA`.

        Raises:
            RemoteProtocolError: A line or event is over the limit. Final.
        """
