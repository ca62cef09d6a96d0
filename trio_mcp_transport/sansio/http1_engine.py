"""The engine that takes header fields apart, asked once for each line of a connection.

Called by `http1_head` alone, with the lines of one complete head whose size, line ends and
characters have been looked over, and whose framing fields and Host have been counted. An
engine says what is a header field and refuses what is none; it decides nothing else, so that
another engine can stand here and nobody notices. No type of any engine leaves this module.

There are two: h11, and httptools where it is installed (the extra ``speedups``). The variable
``TRIO_MCP_HTTP1_ENGINE`` of the environment names the one to use, ``h11`` or ``httptools``; a
name that is not there counts as none.

What a line means depends on the line alone, and both sides of a connection send most of their
lines again with each message; so a line that was read is not read again. What an engine costs
is paid for the lines that are new.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from typing import Final

import h11

from ..errors import RemoteProtocolError
from .headers import HeaderField, Headers, make_field

__all__ = ["ENGINES", "Engine", "FieldParser", "choose_engine"]

#: Lines of one connection that are remembered, and the longest of them: 16 KiB at most.
MAX_REMEMBERED_LINES = 64
MAX_REMEMBERED_LENGTH = 256

# HTTP/1.0, so that neither asks for a Host among lines that are new.
_REQUEST_LINE = b"GET / HTTP/1.0\r\n"

# The field whose value h11 gives in lower case, and so all do.
_LOWERED = b"transfer-encoding"
_LOWERED_LENGTH = len(_LOWERED)

#: Parses lines that are not empty in number; raises `RemoteProtocolError`.
Engine = Callable[[list[bytes]], list[HeaderField]]


class FieldParser:
    """Parses the header fields of one direction of one connection.

    Args:
        engine: What parses them; by default the one that was chosen for this process.
    """

    __slots__ = ("_engine", "_known")

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = _chosen if engine is None else engine
        self._known: dict[bytes, HeaderField] = {}

    def parse(self, lines: list[bytes]) -> Headers:
        """Parse the lines of a head, without the first one and without line ends.

        Raises:
            RemoteProtocolError: One is no header field.
        """
        known = self._known
        try:
            return Headers.from_fields([known[line] for line in lines])
        except KeyError:
            new = [line for line in lines if line not in known]
        parsed = dict(zip(new, self._engine(new), strict=True))
        headers = Headers.from_fields([known.get(line) or parsed[line] for line in lines])
        if len(known) + len(parsed) > MAX_REMEMBERED_LINES:
            known.clear()
        for line, field in list(parsed.items())[:MAX_REMEMBERED_LINES]:
            if len(line) <= MAX_REMEMBERED_LENGTH:
                known[line] = field
        return headers


def _parse_with_h11(lines: list[bytes]) -> list[HeaderField]:
    hosts = [place for place, line in enumerate(lines) if line[:5].lower() == b"host:"]
    if len(hosts) > 1:
        # More than a request may have, which h11 takes this for; in a response there may be any
        # number. So all of them but the first are read under another name.
        lines = lines.copy()
        for place in hosts[1:]:
            lines[place] = b"x" + lines[place]
        fields = _parse_with_h11(lines)
        for place in hosts[1:]:
            name, value, *_ = fields[place]
            fields[place] = make_field(name[1:], value)
        return fields
    # A connection per head: creating one costs a thirtieth of what parsing does, and it
    # never holds a byte of the next message.
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(_REQUEST_LINE + b"\r\n".join(lines) + b"\r\n\r\n")
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        # h11's text may quote the line, and with it a secret.
        raise _no_field() from None
    assert isinstance(event, h11.Request)
    return _made(event.headers.raw_items(), lines)


def _parse_with_httptools(lines: list[bytes]) -> list[HeaderField]:
    import httptools

    found = _Found()
    # What may stand behind a value is no part of it (RFC 9110, section 5.5), but to httptools
    # "chunked" is another coding with a tab behind it.
    bare = [line.rstrip(b" \t") for line in lines]
    try:
        httptools.HttpRequestParser(found).feed_data(
            _REQUEST_LINE + b"\r\n".join(bare) + b"\r\n\r\n"
        )
    except httptools.HttpParserUpgrade:
        pass  # the fields say so, and it is not the engine that decides about it
    except httptools.HttpParserError:
        raise _no_field() from None
    return _made(found.fields, lines)


class _Found:
    """What httptools tells what it found."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == _LOWERED_LENGTH and name.lower() == _LOWERED:
            value = value.lower()
        self.fields.append((name, value.strip(b" \t")))


def _made(found: Iterable[tuple[bytes, bytes]], lines: list[bytes]) -> list[HeaderField]:
    fields = [make_field(name, value) for name, value in found]
    if len(fields) != len(lines):
        raise _no_field()
    return fields


def _no_field() -> RemoteProtocolError:
    return RemoteProtocolError("illegal header line")


#: The engines that there may be, the preferred one first.
ENGINES: Final[dict[str, Engine]] = {"httptools": _parse_with_httptools, "h11": _parse_with_h11}


def choose_engine(wanted: str = "") -> Engine:
    """The engine of that name if it is installed, else the best that is."""
    installed = [name for name in ENGINES if importlib.util.find_spec(name) is not None]
    return ENGINES[wanted if wanted in installed else installed[0]]


_chosen = choose_engine(os.environ.get("TRIO_MCP_HTTP1_ENGINE", ""))
