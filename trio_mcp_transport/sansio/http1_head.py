"""Heads: where one ends, what it may measure, and what is refused in it.

Called by `Http1Server` and `Http1Client`. The order of checks is that of the bytes, so that
the verdict does not depend on how they are cut: line by line while the head comes in, and
the head as a whole when it is there. Nothing is repaired: RFC 9112, section 11.2, on request
smuggling, is why all framing that two programs could read differently is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Generic, Literal, TypeVar

from ..errors import RemoteProtocolError
from .headers import Headers
from .http1 import Http1Limits, RequestHead
from .http1_engine import FieldParser

__all__ = [
    "CHUNKED",
    "UNTIL_CLOSE",
    "Framing",
    "HeadMemory",
    "HeadScanner",
    "parse_request",
    "parse_response",
]

_T = TypeVar("_T")

#: Heads of one direction of a connection that are remembered, and the longest of them in
#: bytes: 8 KiB at most. A client has a few that it sends again and again.
MAX_REMEMBERED_HEADS = 4
MAX_REMEMBERED_HEAD = 2048

#: The body is in chunks.
CHUNKED: Final = "chunked"
#: The body ends with the connection.
UNTIL_CLOSE: Final = "until-close"
#: How a body is framed: its length in bytes, or one of the two words.
Framing = int | Literal["chunked", "until-close"]

# Methods are case-sensitive tokens (RFC 9110, section 9.1), and every one that is registered
# is of capitals, some with hyphens. The version is that of RFC 9112, section 2.3.
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z0-9_-]*) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(
    rb"HTTP/([0-9])\.([0-9]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n"
)
_CAPITALS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
# One length, nothing else: "5, 5", "+5" and "0x5" are read differently by others. 15 digits
# are a petabyte and keep int() cheap.
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n")
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_OBS_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")
# RFC 3986, section 3.2.2 and 3.2.3: a host that is not empty, and a port.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~!$&'()*+,;=%]+)(?::[0-9]{0,5})?")
# RFC 9112, section 3.2: origin-form, absolute-form, asterisk-form.
_ABSOLUTE_FORM = re.compile(r"https?://([^/?#]+)(?:[/?][^#]*)?", re.IGNORECASE)
_CONTROL_CHARACTERS = bytes({*range(0x20), 0x7F} - {*b"\t\r\n"})

_WHAT = {"request": "request line", "response": "status line"}
_LINE_STATUS = {"request": 414, "response": 400}


class HeadScanner:
    """Finds the end of a head, and holds it to its limits before it is there.

    Args:
        limits: What a head may measure.
        kind: What it is the head of.
    """

    __slots__ = ("_count", "_kind", "_last", "_limits", "_line_end", "_line_start", "_searched")

    def __init__(self, limits: Http1Limits, kind: Literal["request", "response"]) -> None:
        self._limits = limits
        self._kind = kind
        self._last: bytes | None = None  # the head before; it kept the limits
        self._reset()

    def _reset(self) -> None:
        self._line_start = 0
        self._searched = 0
        self._line_end = 0  # of the first line, line end included
        self._count = 0

    def scan(self, buffer: bytearray) -> bytes | None:
        """Take the head out of the buffer, as soon as it is complete.

        Args:
            buffer: Begins with the head, and is not empty.

        Returns:
            The head with its empty line; None when more bytes are needed.

        Raises:
            RemoteProtocolError: It is over a limit, or has a line without CR LF.
        """
        last = self._last
        if last is not None and not self._searched and buffer.startswith(last):
            # A head ends with its first empty line, so this is the whole of it.
            del buffer[: len(last)]
            return last
        length = self._quick(buffer) if self._searched == 0 else None
        if length is None:
            length = self._line_by_line(buffer)
            if length is None:
                return None
        head = bytes(buffer[:length])
        del buffer[:length]
        self._reset()
        self._last = head if length <= MAX_REMEMBERED_HEAD else None
        return head

    def _quick(self, buffer: bytearray) -> int | None:
        """The length of a head that is complete and keeps the limits; None for any other."""
        limits = self._limits
        length = buffer.find(b"\r\n\r\n") + 4
        line_end = buffer.find(b"\r\n")
        lines = buffer.count(b"\r\n", 0, length)
        if (
            length < 4
            or line_end > limits.max_request_line
            or length - line_end - 4 > limits.max_header_bytes
            or lines - 2 > limits.max_headers
            or buffer.count(b"\n", 0, length) != lines
        ):
            return None
        return length

    def _line_by_line(self, buffer: bytearray) -> int | None:
        limits = self._limits
        while True:
            found = buffer.find(b"\n", self._searched)
            end = len(buffer) if found < 0 else found + 1
            # What a line may measure, its line end included.
            if not self._line_end:
                if end > limits.max_request_line + 2:
                    raise RemoteProtocolError(
                        f"the {_WHAT[self._kind]} is longer than {limits.max_request_line} bytes",
                        status=_LINE_STATUS[self._kind],
                    )
            elif end - self._line_end > limits.max_header_bytes + 2:
                raise RemoteProtocolError(
                    f"the header is larger than {limits.max_header_bytes} bytes", status=431
                )
            self._searched = end
            if found < 0:
                return None
            if buffer[found - 1] != 0x0D or found == self._line_start:
                # RFC 9112, section 2.2, lets a recipient take a bare LF for a line end; what
                # stands between it and this program may not have.
                raise RemoteProtocolError("a line of the head does not end with CR LF")
            if not self._line_end:
                self._line_end = end
            elif found == self._line_start + 1:
                return end
            else:
                self._count += 1
                if self._count > limits.max_headers:
                    raise RemoteProtocolError(
                        f"there are more than {limits.max_headers} header fields", status=431
                    )
            self._line_start = end


class HeadMemory(Generic[_T]):
    """Parses the heads of one direction of one connection, each once.

    What a head means depends on its bytes alone, and most come again byte for byte; so one
    that was read is not read again. One that was refused is not remembered.

    Args:
        parse: `parse_request` or `parse_response`.
    """

    __slots__ = ("_known", "_parse", "_parser")

    def __init__(self, parse: Callable[[bytes, FieldParser], _T]) -> None:
        self._parse = parse
        self._parser = FieldParser()
        self._known: dict[bytes, _T] = {}

    def known(self, head: bytes) -> _T | None:
        """What a head says that was read before and is remembered."""
        return self._known.get(head)

    def read(self, head: bytes) -> _T:
        """What the head says; the same object for the same bytes, as far as it is remembered.

        Raises:
            RemoteProtocolError: As what parses it.
        """
        found = self._known.get(head)
        if found is None:
            found = self._parse(head, self._parser)
            if len(head) <= MAX_REMEMBERED_HEAD:
                if len(self._known) >= MAX_REMEMBERED_HEADS:
                    self._known.clear()
                self._known[head] = found
        return found


def check_first_bytes(buffer: bytearray, kind: Literal["request", "response"]) -> None:
    """Refuse at its first byte what cannot be HTTP, such as TLS at this port.

    Raises:
        RemoteProtocolError: It is no HTTP.
    """
    if kind == "request":
        if buffer[0] not in _CAPITALS:
            raise RemoteProtocolError("this is no HTTP/1.1 request")
    elif not b"HTTP/".startswith(buffer[:5]):
        raise RemoteProtocolError("this is no HTTP/1.1 response")


def parse_request(head: bytes, parser: FieldParser) -> tuple[RequestHead, Framing, bool]:
    """Check and parse a complete head.

    Returns:
        The head, how long its body is, and whether the connection may be used again.

    Raises:
        RemoteProtocolError: It is malformed, or cannot be served; `status` says how to answer.
    """
    match = _REQUEST_LINE.match(head)
    if match is None:
        raise RemoteProtocolError("malformed request line")
    if match[3] != b"1" or match[4] not in b"10":
        raise RemoteProtocolError("the HTTP version must be 1.1 or 1.0", status=505)
    lowered = _check_characters(head)
    if b"\r\n " in head or b"\r\n\t" in head:
        # RFC 9112, section 5.2: "A server that receives an obs-fold in a request message [...]
        # MUST either reject the message by sending a 400 (Bad Request) [...]".
        raise RemoteProtocolError("a header field is folded over several lines")
    is_old = match[4] == b"0"
    # RFC 9112, section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any
    # HTTP/1.1 request message that lacks a Host header field and to any request message that
    # contains more than one Host header field line or a Host header field with an invalid
    # field value."
    hosts = lowered.count(b"\r\nhost:")
    if hosts != 1 and not (is_old and not hosts):
        raise RemoteProtocolError(f"{hosts or 'no'} Host header fields")
    framing = _framing(lowered, is_old=is_old) or 0
    headers = parser.parse(_lines(head, match.end()))
    target = match[2].decode("ascii")
    method = match[1].decode("ascii")
    _check_target(method, target, headers.get("host"))
    connection = headers.get("connection")
    options = () if connection is None else _tokens(connection)
    expects_continue = False
    expectation = headers.get("expect")
    if expectation is not None and not is_old:
        if expectation.lower() != "100-continue":
            raise RemoteProtocolError("the only expectation is 100-continue", status=417)
        expects_continue = framing != 0
    upgrade = headers.get("upgrade") if "upgrade" in options and not is_old else None
    return (
        RequestHead(
            method,
            target,
            headers,
            expects_continue,
            None if upgrade is None else upgrade.lower(),
            "1.0" if is_old else "1.1",
        ),
        framing,
        not is_old and "close" not in options,
    )


def parse_response(
    head: bytes, parser: FieldParser
) -> tuple[int, str, Headers, Framing | None, bool]:
    """Check and parse a complete head.

    Returns:
        Status, reason, header fields, how long a body is if there is one (None when only
        the connection's end tells), and whether the connection may be used again.

    Raises:
        RemoteProtocolError: It is malformed.
    """
    match = _STATUS_LINE.match(head)
    if match is None:
        raise RemoteProtocolError("malformed status line")
    if match[1] != b"1" or match[2] not in b"10":
        raise RemoteProtocolError("the HTTP version must be 1.1 or 1.0")
    if head[match.end()] in b" \t":
        raise RemoteProtocolError("white space before the first header field")
    if b"\r\n " in head or b"\r\n\t" in head:
        # RFC 9112, section 5.2: "A user agent that receives an obs-fold in a response message
        # [...] MUST replace each received obs-fold with one or more SP octets".
        head = _OBS_FOLD.sub(b" ", head)
    lowered = _check_characters(head)
    is_old = match[2] == b"0"
    framing = _framing(lowered, is_old=is_old)
    headers = parser.parse(_lines(head, match.end()))
    connection = headers.get("connection")
    keep_alive = not is_old and (connection is None or "close" not in _tokens(connection))
    reason = (match[4] or b"").decode("latin-1")
    return int(match[3]), reason, headers, framing, keep_alive


def _lines(head: bytes, start: int) -> list[bytes]:
    """The lines of the header fields, which begin at `start`, without line ends."""
    fields = head[start:-4]
    return fields.split(b"\r\n") if fields else []


def _check_characters(head: bytes) -> bytes:
    """Refuse control characters and a CR alone; returns the head in lower case."""
    if head.count(b"\r") != head.count(b"\n") or len(
        head.translate(None, _CONTROL_CHARACTERS)
    ) != len(head):
        raise RemoteProtocolError("a control character in the head")
    return head.lower()


def _framing(lowered: bytes, *, is_old: bool) -> int | Literal["chunked"] | None:
    """How the body is framed; None when no header field says so."""
    lengths = lowered.count(b"\r\ncontent-length:")
    codings = lowered.count(b"\r\ntransfer-encoding:")
    if codings:
        if lengths:
            # RFC 9112, section 6.1: such a message "might indicate an attempt to perform
            # request smuggling or response splitting".
            raise RemoteProtocolError("Content-Length and Transfer-Encoding together")
        if is_old:
            # RFC 9112, section 6.1: "A server or client that receives an HTTP/1.0 message
            # containing a Transfer-Encoding header field MUST treat the message as if the
            # framing is faulty".
            raise RemoteProtocolError("Transfer-Encoding in a message of HTTP/1.0")
        if codings > 1:
            raise RemoteProtocolError("several Transfer-Encoding fields")
        if not _TRANSFER_ENCODING.search(lowered):
            # RFC 9112, section 6.1: "A server that receives a request message with a transfer
            # coding it does not understand SHOULD respond with 501 (Not Implemented)."
            raise RemoteProtocolError("the only transfer coding is chunked", status=501)
        return CHUNKED
    if not lengths:
        return None
    match = _CONTENT_LENGTH.search(lowered)
    if lengths > 1 or match is None:
        raise RemoteProtocolError("Content-Length must be given once, as one number")
    return int(match[1])


def _check_target(method: str, target: str, host: str | None) -> None:
    if host is not None and not _HOST.fullmatch(host):
        raise RemoteProtocolError("an invalid Host header field")
    if method == "CONNECT":
        raise RemoteProtocolError("this is no proxy", status=501)
    if target[0] == "/" and "#" not in target:
        return
    if target == "*" and method == "OPTIONS":
        return
    # RFC 9112, section 3.2.2: "a server MUST accept the absolute-form in requests". It names
    # the host once more: two that differ are an attempt to be judged by the other one.
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise RemoteProtocolError("a malformed request target")
    if host is not None and match[1].lower() != host.lower():
        raise RemoteProtocolError("the request target and the Host header field differ")


def _tokens(value: str) -> tuple[str, ...]:
    """The members of a list of tokens, in lower case."""
    return tuple(part.strip(" \t") for part in value.lower().split(","))
