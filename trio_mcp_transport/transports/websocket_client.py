"""Connecting to a WebSocket: an endpoint to a channel.

Called through `websocket`. It opens the stream, asks for the WebSocket as an HTTP client does
(RFC 6455, section 4.1), and hands both on to a `WebSocketChannel`, with whatever came behind
the server's 101 already. A server that answers anything else gets the errors of HTTP.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

import trio

from ..abc import ChannelContext, EventHandler, MessageChannel
from ..errors import ConnectFailed, RemoteProtocolError, UnexpectedRedirect
from ..limits import READ_CHUNK_BYTES
from ..sansio.headers import Headers
from ..sansio.http1 import BodyData, EndOfBody, RequestHead, ResponseHead
from ..sansio.http1_client import Http1Client
from ..sansio.machine import NEED_DATA
from ..sansio.mcp_http.statuses import error_of_status
from ..sansio.websocket import WebSocketAgreement, check_response, make_key, upgrade_headers
from ..security.tls_contexts import TlsClient
from ..websocket_endpoints import WebSocketEndpoint
from .http_proxy import HttpProxy
from .socket_stream import SocketStream
from .tls_stream import TlsStream
from .web_stream import open_web_stream
from .websocket_channel import WebSocketChannel
from .websocket_settings import (
    WebSocketOptions,
    deflate_settings,
    make_machine,
    websocket_options,
)

__all__ = ["Upgraded", "open_websocket", "upgrade"]

#: How much of the body of a refusal is read, for its text.
_REFUSAL_BYTES = 16 * 1024
#: A whole response may be waited for, but not for a refusal's body to trickle in.
_REFUSAL_SECONDS = 2.0


class Upgraded(NamedTuple):
    """A stream that speaks WebSocket from here on.

    Attributes:
        agreement: What the server agreed to.
        data: What came behind the 101 already.
        eof: Whether the server's end follows it.
    """

    agreement: WebSocketAgreement
    data: bytes
    eof: bool


async def open_websocket(
    nursery: trio.Nursery,
    endpoint: WebSocketEndpoint,
    on_event: EventHandler | None,
    tls: TlsClient | None = None,
) -> MessageChannel:
    """Connect, ask for a WebSocket, and make a channel of it.

    If cancelled, nothing is left behind.

    Args:
        nursery: Where the channel's tasks run.
        endpoint: Where to connect. It was checked.
        on_event: Told of faults that no caller sees.
        tls: For ``wss``: shakes hands.

    Raises:
        ConnectFailed: The server cannot be reached, or speaks no WebSocket.
        TlsError: There is no agreement, or the server's certificate is refused.
        HttpError: The server answers, and refuses.
    """
    options = websocket_options(endpoint)
    stream = await open_web_stream(
        endpoint.host,
        endpoint.port,
        tls=tls,
        proxy=None if endpoint.proxy is None else HttpProxy.parse(endpoint.proxy),
        on_event=on_event,
    )
    try:
        assert isinstance(stream, SocketStream | TlsStream)
        upgraded = await upgrade(stream, endpoint, options)
        machine = make_machine("client", options, endpoint.options, upgraded.agreement.deflate)
        machine.receive_data(upgraded.data)
        if upgraded.eof:
            machine.receive_eof()
        return WebSocketChannel(
            stream,
            machine,
            nursery=nursery,
            context=ChannelContext(
                transport=endpoint.scheme,
                peer_address=endpoint.authority,
                tls=stream.facts if isinstance(stream, TlsStream) else None,
            ),
            options=endpoint.options,
            timing=options.timing(accepted=False),
            on_event=on_event,
        )
    except BaseException:
        stream.close()
        raise


async def upgrade(
    stream: trio.abc.Stream, endpoint: WebSocketEndpoint, options: WebSocketOptions
) -> Upgraded:
    """The opening handshake, on any stream; the caller closes it if this raises.

    Raises:
        ConnectFailed: The connection broke, or what is there speaks no WebSocket.
        HttpError: The server answers, and refuses.
    """
    key = make_key(os.urandom(16))
    deflate = deflate_settings(options)
    headers = Headers([("Host", endpoint.authority)]).merged(
        upgrade_headers(key, subprotocols=options.subprotocols, deflate=deflate)
    )
    headers = headers.merged(Headers(endpoint.request_headers()))
    machine = Http1Client()
    request = machine.send_request(RequestHead("GET", endpoint.request_target, headers))
    what = f"cannot connect to {endpoint.label}"
    try:
        with suppress(trio.BrokenResourceError):  # there may be an answer that says why
            await stream.send_all(request)
        head = await _read_head(stream, machine)
        if head.status == 101:
            agreement = check_response(
                head, key, subprotocols=options.subprotocols, deflate=deflate
            )
            return Upgraded(agreement, *machine.trailing_data)
        body = await _read_refusal(stream, machine)
    except trio.BrokenResourceError as error:
        raise ConnectFailed(f"{what}: the connection broke: {error}".rstrip(": ")) from error
    except RemoteProtocolError as error:
        raise ConnectFailed(f"{what}: {error}") from error
    if 300 <= head.status < 400:
        # Headers of this request may be secrets of one server, and were meant for that.
        raise UnexpectedRedirect(
            f"the server answered {head.status}: a WebSocket follows no redirect",
            status=head.status,
            text=body.decode("utf-8", "replace"),
            location=head.headers.get("location", ""),
        )
    raise error_of_status(head.status, head.headers, body)


async def _read_head(stream: trio.abc.Stream, machine: Http1Client) -> ResponseHead:
    while True:
        event = machine.next_event()
        if event is NEED_DATA:
            await _read(stream, machine)
        elif isinstance(event, ResponseHead):
            return event


async def _read(stream: trio.abc.Stream, machine: Http1Client) -> None:
    data = bytes(await stream.receive_some(READ_CHUNK_BYTES))
    if data:
        machine.receive_data(data)
    else:
        machine.receive_eof()


async def _read_refusal(stream: trio.abc.Stream, machine: Http1Client) -> bytes:
    """How the body of a refusal begins; whatever is wrong with it counts for nothing."""
    found = b""
    with trio.move_on_after(_REFUSAL_SECONDS):
        with suppress(RemoteProtocolError, trio.BrokenResourceError):
            while len(found) < _REFUSAL_BYTES:
                event = machine.next_event()
                if event is NEED_DATA:
                    await _read(stream, machine)
                elif isinstance(event, BodyData):
                    found += event.data
                elif isinstance(event, EndOfBody):
                    break
    return found[:_REFUSAL_BYTES]
