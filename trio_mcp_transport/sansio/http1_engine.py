"""The engine that takes heads apart: h11.

Called by `http1_head` alone, with one complete head at a time whose size, line ends and first
line have been looked over. An engine finds the header fields and refuses what is none; it
decides nothing else, so that another engine can stand here and nobody notices. No type of
h11 leaves this module.
"""

from __future__ import annotations

import h11

from ..errors import RemoteProtocolError
from .headers import Headers

__all__ = ["parse_request_fields", "parse_response_fields"]

# h11 reads a response only after a request. One that asks to upgrade allows every status;
# whether ours did is decided above.
_ANY_REQUEST = h11.Request(
    method="GET",
    target="/",
    headers=[("Host", "any"), ("Connection", "upgrade"), ("Upgrade", "any")],
)


def parse_request_fields(head: bytes) -> Headers:
    """The header fields of a complete request head, its empty line included.

    Raises:
        RemoteProtocolError: One is no header field, or the framing fields are unsound.
    """
    # A connection per head: creating one costs a thirtieth of what parsing does, and it
    # never holds a byte of the next message.
    return _parse(h11.Connection(h11.SERVER), head)


def parse_response_fields(head: bytes) -> Headers:
    """The header fields of a complete response head, its empty line included.

    Raises:
        RemoteProtocolError: One is no header field, or the framing fields are unsound.
    """
    connection = h11.Connection(h11.CLIENT)
    connection.send(_ANY_REQUEST)
    return _parse(connection, head)


def _parse(connection: h11.Connection, head: bytes) -> Headers:
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        # h11's text may quote the line, and with it a secret.
        text = str(error).partition(":")[0]
        raise RemoteProtocolError(text, status=error.error_status_hint) from None
    assert isinstance(event, h11.Request | h11.InformationalResponse | h11.Response)
    return Headers.from_parser(event.headers.raw_items())
