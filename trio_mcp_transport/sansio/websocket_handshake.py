"""The opening handshake of WebSocket (RFC 6455, section 4): what goes into heads, and verdicts.

Pure functions around the heads of HTTP/1.1; the HTTP machines carry them. A client makes
`upgrade_headers` and checks the answer with `check_response`; a server judges with
`judge_upgrade`, after admission, and answers with the reply or by changing the protocol. It
never decides who may come in: that stands before it, as before every other request.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError
from .headers import Headers
from .http1 import RequestHead, ResponseHead
from .mcp_http.replies import Reply, error_reply, method_not_allowed
from .websocket_deflate import DeflateSettings, accept_offer, offer, read_accepted

__all__ = [
    "MCP_SUBPROTOCOL",
    "AcceptUpgrade",
    "UpgradeVerdict",
    "WebSocketAgreement",
    "check_response",
    "judge_upgrade",
    "make_key",
    "upgrade_headers",
    "upgrade_required",
    "wants_websocket",
]

#: The subprotocol that MCP implementations agree on, where they ask for one.
MCP_SUBPROTOCOL: Final = "mcp"

_VERSION: Final = "13"
# RFC 6455, section 4.1, point 10: the elements are tokens of HTTP.
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# RFC 6455, section 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocketAgreement(msgspec.Struct, frozen=True):
    """What client and server agreed on in the handshake.

    Attributes:
        subprotocol: The subprotocol, None where there is none.
        deflate: How messages are compressed, None where they are not. For the machine.
    """

    subprotocol: str | None = None
    deflate: DeflateSettings | None = None


class AcceptUpgrade(msgspec.Struct, frozen=True):
    """The request may become a WebSocket.

    Attributes:
        headers: Those of the 101, beside the ``Upgrade`` and ``Connection`` that
            `Http1Server.switch_protocol` adds.
        agreement: What is agreed on by it.
    """

    headers: Headers
    agreement: WebSocketAgreement


#: What `judge_upgrade` returns.
UpgradeVerdict: TypeAlias = AcceptUpgrade | Reply


# -- the client ---------------------------------------------------------------------


def make_key(entropy: bytes) -> str:
    """The value of `Sec-WebSocket-Key`.

    Args:
        entropy: 16 random bytes, fresh ones for each connection.

    Raises:
        LocalProtocolError: They are not 16.
    """
    if len(entropy) != 16:
        raise LocalProtocolError(f"a WebSocket key is made of 16 bytes, not {len(entropy)}")
    return base64.b64encode(entropy).decode("ascii")


def upgrade_headers(
    key: str,
    *,
    subprotocols: Sequence[str] = (MCP_SUBPROTOCOL,),
    deflate: DeflateSettings | None = None,
) -> Headers:
    """The header fields that ask for a WebSocket, for the head of a GET.

    `Host`, `Origin` and authentication are the caller's to add.

    Args:
        key: From `make_key`; `check_response` needs it again.
        subprotocols: What is offered, the most wanted first.
        deflate: How messages may be compressed; None to offer no compression.

    Raises:
        LocalProtocolError: A subprotocol is no token.
    """
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", _VERSION),
    ]
    for name in subprotocols:
        if not _TOKEN.fullmatch(name):
            raise LocalProtocolError(f"{name!r:.100} is no name of a subprotocol")
    if subprotocols:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    if deflate is not None:
        fields.append(("Sec-WebSocket-Extensions", offer(deflate)))
    return Headers(fields)


def check_response(
    head: ResponseHead,
    key: str,
    *,
    subprotocols: Sequence[str] = (MCP_SUBPROTOCOL,),
    deflate: DeflateSettings | None = None,
) -> WebSocketAgreement:
    """Check the server's 101, point by point as in RFC 6455, section 4.1.

    Any other status is an ordinary HTTP answer and is the caller's to explain.

    Args:
        head: The response.
        key: The key that was sent.
        subprotocols: What was offered. A server that names none of them is fine, as most
            that serve nothing but MCP name none.
        deflate: What was offered.

    Returns:
        What was agreed on.

    Raises:
        RemoteProtocolError: It does not accept what was asked for, or accepts something
            else. The connection is of no use.
    """
    headers = head.headers
    if head.status != 101:
        raise RemoteProtocolError(f"the server answered {head.status}, not 101")
    if headers.get("upgrade", "").lower() != "websocket":
        raise RemoteProtocolError("the server changed the protocol, but not to WebSocket")
    if "upgrade" not in _tokens(headers.get("connection", "").lower()):
        raise RemoteProtocolError("the 101 has no Connection header field with upgrade")
    if headers.get("sec-websocket-accept") != _accept(key):
        # Something that knows no WebSocket, such as a cache, answered.
        raise RemoteProtocolError("Sec-WebSocket-Accept does not match the key that was sent")
    subprotocol = headers.get("sec-websocket-protocol")
    if subprotocol is not None and subprotocol not in subprotocols:
        raise RemoteProtocolError(
            f"the server chose subprotocol {subprotocol!r:.100}, which was not offered"
        )
    accepted = headers.get("sec-websocket-extensions")
    if accepted is None:
        return WebSocketAgreement(subprotocol)
    if deflate is None:
        raise RemoteProtocolError("the server accepts an extension that was not offered")
    return WebSocketAgreement(subprotocol, read_accepted(accepted, deflate))


# -- the server ---------------------------------------------------------------------


def wants_websocket(head: RequestHead) -> bool:
    """Whether a request asks for a WebSocket, well or badly."""
    return head.upgrade is not None and "websocket" in _tokens(head.upgrade)


def upgrade_required(message: str = "this is a WebSocket endpoint") -> Reply:
    """426: what is here is to be had by a WebSocket of version 13 only.

    Args:
        message: Says what is wrong.
    """
    # RFC 9110, section 15.5.22: "The server MUST send an Upgrade header field in a 426
    # response"; RFC 6455, section 4.4, tells the versions in the same way.
    return error_reply(
        426,
        -32600,
        message,
        headers=[("upgrade", "websocket"), ("sec-websocket-version", _VERSION)],
    )


def judge_upgrade(
    head: RequestHead,
    *,
    subprotocols: Sequence[str] = (MCP_SUBPROTOCOL,),
    deflate: DeflateSettings | None = None,
) -> UpgradeVerdict:
    """Decide whether a request becomes a WebSocket, by RFC 6455, section 4.2.1, alone.

    Args:
        head: The request, which was admitted.
        subprotocols: What this server speaks, the most wanted first. A client that offers
            none of them is accepted without one: it knows best what it can do without.
        deflate: How messages may be compressed; None for not at all.

    Returns:
        `AcceptUpgrade`, or the reply that refuses: 426 to a request for anything but a
        WebSocket of version 13, 405 or 400 to a malformed one.
    """
    headers = head.headers
    if not wants_websocket(head):
        return upgrade_required()
    if head.method != "GET":
        return method_not_allowed("GET")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return _malformed("a request for a WebSocket has no body")
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        return _malformed("Sec-WebSocket-Key must be 16 bytes in base64")
    if headers.get("sec-websocket-version") != _VERSION:
        return upgrade_required(f"the only version of WebSocket here is {_VERSION}")
    fields = [("Sec-WebSocket-Accept", _accept(key))]
    offered = _tokens(headers.get("sec-websocket-protocol", ""))
    chosen = next((name for name in subprotocols if name in offered), None)
    if chosen is not None:
        fields.append(("Sec-WebSocket-Protocol", chosen))
    agreed = None
    extensions = headers.get("sec-websocket-extensions")
    if deflate is not None and extensions is not None:
        try:
            accepted = accept_offer(extensions, deflate)
        except RemoteProtocolError as error:
            return _malformed(str(error))
        if accepted is not None:
            value, agreed = accepted
            fields.append(("Sec-WebSocket-Extensions", value))
    return AcceptUpgrade(Headers(fields), WebSocketAgreement(chosen, agreed))


def _malformed(message: str) -> Reply:
    return error_reply(400, -32600, message)


def _is_key(key: str) -> bool:
    if len(key) != 24:
        return False
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def _accept(key: str) -> str:
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def _tokens(value: str) -> list[str]:
    return [part.strip(" \t") for part in value.split(",")]
