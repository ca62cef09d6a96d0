"""What passes through a tap, as lines: for people, or JSON. Pure but for the clock.

Each line tells when, which way, what kind of message, and for an answer how long it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..bridge import BridgeSide
from ..jsonrpc import (
    ErrorResponse,
    InvalidMessage,
    Notification,
    Request,
    RequestId,
    Response,
    decode_message,
)
from .terminal import printable

__all__ = ["Entry", "Kind", "Trace", "as_json_line", "as_pieces"]

Kind: TypeAlias = Literal["request", "notification", "result", "error", "batch", "malformed", "end"]

#: Requests whose answers are waited for, to tell how long they took.
_MAX_TIMED = 1000
#: Characters of a message that people are shown.
_SHORT = 200


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that passed; with ``--json`` this is the object on each line.

    Attributes:
        time: Seconds since the epoch.
        from_: The side that it came from.
        kind: What it is; ``end`` when that side has ended.
        bytes: Its size.
        id: Of a request or an answer.
        method: Of a request or a notification, or the one that is answered.
        elapsed_ms: From the request to its answer.
        message: The message itself.
        malformed: What is no message, as text, and why in `error`.
        error: Why it is none.
    """

    time: float
    from_: BridgeSide = msgspec.field(name="from")
    kind: Kind
    bytes: int = 0
    id: RequestId | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    elapsed_ms: float | UnsetType = UNSET
    message: Raw | UnsetType = UNSET
    malformed: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Trace:
    """Tells what payloads are, and which request an answer belongs to.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._asked: dict[tuple[str, RequestId], tuple[str, float]] = {}

    def end(self, side: BridgeSide) -> Entry:
        """The entry for the end of a side."""
        return Entry(time=self._clock(), from_=side, kind="end")

    def entry(self, side: BridgeSide, payload: bytes) -> Entry:
        """The entry for a payload that a side sent."""
        now, size = self._clock(), len(payload)
        try:
            message = decode_message(payload)
        except InvalidMessage as error:
            return _no_message(side, payload, now, error)
        raw = _one_line(payload)
        match message:
            case Request(id=id_, method=method):
                if len(self._asked) >= _MAX_TIMED:
                    del self._asked[next(iter(self._asked))]
                self._asked[side, id_] = method, now
                return Entry(
                    time=now,
                    from_=side,
                    kind="request",
                    bytes=size,
                    id=id_,
                    method=method,
                    message=raw,
                )
            case Notification(method=method):
                return Entry(
                    time=now,
                    from_=side,
                    kind="notification",
                    bytes=size,
                    method=method,
                    message=raw,
                )
            case Response() | ErrorResponse():
                return self._answer(side, message, now, size, raw)

    def _answer(
        self,
        side: BridgeSide,
        answer: Response | ErrorResponse,
        now: float,
        size: int,
        raw: Raw,
    ) -> Entry:
        other = "server" if side == "client" else "client"
        found = None if answer.id is None else self._asked.pop((other, answer.id), None)
        return Entry(
            time=now,
            from_=side,
            kind="result" if isinstance(answer, Response) else "error",
            bytes=size,
            id=answer.id,
            method=UNSET if found is None else found[0],
            elapsed_ms=UNSET if found is None else round((now - found[1]) * 1000, 3),
            message=raw,
        )


def _no_message(side: BridgeSide, payload: bytes, now: float, why: InvalidMessage) -> Entry:
    size = len(payload)
    if payload.lstrip()[:1] == b"[":  # only revision 2025-03-26 has batches
        with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
            raw = _one_line(payload)
            return Entry(time=now, from_=side, kind="batch", bytes=size, message=raw)
    return Entry(
        time=now,
        from_=side,
        kind="malformed",
        bytes=size,
        malformed=payload.decode(errors="backslashreplace"),
        error=str(why),
    )


def _one_line(payload: bytes) -> Raw:
    return Raw(msgspec.json.format(payload, indent=-1))


def as_json_line(entry: Entry) -> str:
    """The entry as JSON."""
    return msgspec.json.encode(entry).decode()


def as_pieces(entry: Entry, *, full: bool) -> list[tuple[str, str]]:
    """The entry for people: pieces of a line, each with its `rich` style."""
    clock = time.strftime("%H:%M:%S", time.localtime(entry.time))
    clock += f".{int(entry.time * 1000) % 1000:03d}"
    arrow, colour = ("-->", "cyan") if entry.from_ == "client" else ("<--", "magenta")
    pieces = [(clock, "dim"), (arrow, colour)]
    pieces.append((entry.kind, _STYLES[entry.kind]))
    if entry.id is not UNSET:
        pieces.append((f"#{entry.id}" if isinstance(entry.id, int) else f"#{entry.id!r}", "bold"))
    if entry.method is not UNSET:
        pieces.append((entry.method, "bold"))
    if entry.elapsed_ms is not UNSET:
        pieces.append((f"{entry.elapsed_ms:g} ms", "dim"))
    if entry.error is not UNSET:
        pieces.append((f"({entry.error})", "red"))
    text = ""
    if entry.message is not UNSET:
        text = bytes(entry.message).decode()
    elif entry.malformed is not UNSET:
        text = entry.malformed
    if not full and len(text) > _SHORT:
        text = f"{text[:_SHORT]}... ({entry.bytes} bytes)"
    if text:
        pieces.append((text, ""))
    # A message may hold what a terminal would obey.
    return [(printable(piece), style) for piece, style in pieces]


_STYLES: dict[Kind, str] = {
    "request": "green",
    "notification": "yellow",
    "result": "blue",
    "error": "bold red",
    "batch": "green",
    "malformed": "bold red",
    "end": "bold",
}
