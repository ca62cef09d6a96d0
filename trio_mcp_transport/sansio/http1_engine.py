"""The engine that takes header fields apart: h11, asked once for each line of a connection.

Called by `http1_head` alone, with the lines of one complete head whose size, line ends and
characters have been looked over, and whose framing fields and Host have been counted. An
engine says what is a header field and refuses what is none; it decides nothing else, so that
another engine can stand here and nobody notices. No type of h11 leaves this module.

What a line means depends on the line alone, and both sides of a connection send most of their
lines again with each message; so a line that h11 has read is not read again.
"""

from __future__ import annotations

import h11

from ..errors import RemoteProtocolError
from .headers import HeaderField, Headers, make_field

__all__ = ["FieldParser"]

#: Lines of one connection that are remembered, and the longest of them: 16 KiB at most.
MAX_REMEMBERED_LINES = 64
MAX_REMEMBERED_LENGTH = 256

# HTTP/1.0, so that h11 asks for no Host among lines that are new.
_REQUEST_LINE = b"GET / HTTP/1.0\r\n"


class FieldParser:
    """Parses the header fields of one direction of one connection."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
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
        parsed = dict(zip(new, _parse_with_h11(new), strict=True))
        headers = Headers.from_fields([known.get(line) or parsed[line] for line in lines])
        if len(known) + len(parsed) > MAX_REMEMBERED_LINES:
            known.clear()
        for line, field in list(parsed.items())[:MAX_REMEMBERED_LINES]:
            if len(line) <= MAX_REMEMBERED_LENGTH:
                known[line] = field
        return headers


def _parse_with_h11(lines: list[bytes]) -> list[HeaderField]:
    # A connection per head: creating one costs a thirtieth of what parsing does, and it
    # never holds a byte of the next message.
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(_REQUEST_LINE + b"\r\n".join(lines) + b"\r\n\r\n")
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        # h11's text may quote the line, and with it a secret.
        text = str(error).partition(":")[0]
        raise RemoteProtocolError(text, status=error.error_status_hint) from None
    assert isinstance(event, h11.Request)
    return [make_field(name, value) for name, value in event.headers.raw_items()]
