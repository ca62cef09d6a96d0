"""HTTP/1.1: the events, the limits, and the rules that server and client share.

Read by `http1_server` and `http1_client`. The events know nothing of any engine: what parses
a head is behind `http1_engine`, and everything that decides (limits, smuggling, framing,
keep-alive) is policy of these modules and the same whatever the engine.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TypeAlias

import msgspec

from ..errors import ConfigurationError, LocalProtocolError
from .headers import NO_HEADERS, Headers

__all__ = [
    "BodyData",
    "EndOfBody",
    "Http1Limits",
    "InformationalResponse",
    "RequestHead",
    "ResponseEvent",
    "ResponseHead",
    "status_line",
]


class Http1Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a head may measure. The same whatever way its bytes are cut.

    Attributes:
        max_request_line: Bytes of a request or status line. RFC 9112, section 3, recommends
            at least 8000.
        max_header_bytes: Bytes of all header fields of one head. Node.js takes 16 KiB,
            nginx 32 KiB.
        max_headers: Header fields of one head; Apache takes 100.
        max_informational: Responses of status 1xx before the final one.
    """

    max_request_line: int = 8 * 1024
    max_header_bytes: int = 32 * 1024
    max_headers: int = 100
    max_informational: int = 16

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value!r}")


class RequestHead(msgspec.Struct, frozen=True):
    """The head of a request.

    Attributes:
        method: The method, in upper case as it is case-sensitive.
        target: The request target as it came: a path with its query, an absolute URL, or
            ``*``.
        headers: The header fields.
        expects_continue: Whether the client waits for 100 Continue before it sends the
            body. Set by the machine.
        upgrade: The protocols that the client would change to (the value of ``Upgrade``,
            in lower case), or None. Set by the machine.
        http_version: ``1.1`` or ``1.0``. Set by the machine.
    """

    method: str
    target: str
    headers: Headers = NO_HEADERS
    expects_continue: bool = False
    upgrade: str | None = None
    http_version: str = "1.1"

    def __repr__(self) -> str:
        # A query may hold secrets, as the id of a session.
        path, mark, _ = self.target.partition("?")
        shown = path + "?..." if mark else path
        return f"RequestHead(method={self.method!r}, target={shown!r}, headers={self.headers!r})"

    @property
    def path(self) -> str:
        """The path of the target, not decoded; ``*`` for that target."""
        path = self.target.partition("?")[0]
        if not path.startswith("/") and "://" in path:
            path = "/" + path.partition("://")[2].partition("/")[2]
        return path

    @property
    def query(self) -> str:
        """What follows the first ``?`` of the target, not decoded; empty if there is none."""
        return self.target.partition("?")[2]


class InformationalResponse(msgspec.Struct, frozen=True):
    """A response of status 1xx that another one follows.

    Attributes:
        status: 100 to 199, but not 101.
        headers: Its header fields.
    """

    status: int
    headers: Headers = NO_HEADERS


class ResponseHead(msgspec.Struct, frozen=True):
    """The head of a final response; a client gets 101 as one as well.

    Attributes:
        status: 200 to 599; 101 from a server that changes the protocol.
        headers: The header fields. A server gives no framing but, where it knows it,
            ``Content-Length``; without it the body is chunked.
        reason: The reason phrase; empty for the usual one.
    """

    status: int
    headers: Headers = NO_HEADERS
    reason: str = ""


class BodyData(msgspec.Struct, frozen=True):
    """Some bytes of a body, never none when received.

    Attributes:
        data: The bytes.
    """

    data: bytes


class EndOfBody(msgspec.Struct, frozen=True):
    """The body, and with it the message, is complete."""


#: What a server sends and a client receives.
ResponseEvent: TypeAlias = InformationalResponse | ResponseHead | BodyData | EndOfBody

_REASON = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def status_line(status: int, reason: str) -> bytes:
    """The status line of a response, its CR LF included.

    Args:
        status: The status.
        reason: The reason phrase; empty for the usual one.

    Raises:
        LocalProtocolError: The reason has a character that cannot be written.
    """
    line = _STATUS_LINES.get(status)
    if line is not None and not reason:
        return line
    if not _REASON.fullmatch(reason):
        raise LocalProtocolError("a reason phrase has a character that cannot be written")
    return f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1")
