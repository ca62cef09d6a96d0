"""The WebSocket machine inside a bare asyncio server, as the page on other event loops shows."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
from test_docs import EXAMPLES, programs, run, running
from websocket_wire import TEXT, Frame, close_frame, machine, to

from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http import RequestHead, ResponseHead
from trio_mcp_transport.sansio.http1_client import Http1Client
from trio_mcp_transport.sansio.machine import NEED_DATA
from trio_mcp_transport.sansio.websocket import (
    Close,
    CloseReceived,
    Ping,
    Pong,
    TextMessage,
    WebSocketMachine,
    check_response,
    make_key,
    upgrade_headers,
)

pytestmark = [pytest.mark.docs, pytest.mark.websocket]
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

KEY = make_key(bytes(16))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the example serves."""
    with running("asyncio_websocket.py", cwd=EXAMPLES) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())


def head(port: int, *fields: tuple[str, str]) -> Headers:
    host = Headers([("Host", f"127.0.0.1:{port}"), *fields])
    return host.merged(upgrade_headers(KEY, subprotocols=()))


def answer(client: socket.socket, http: Http1Client) -> ResponseHead:
    while not isinstance(event := http.next_event(), ResponseHead):
        data = client.recv(65536)
        assert data
        http.receive_data(data)
    return event


@contextmanager
def connected(
    port: int, first: bytes = b""
) -> Generator[tuple[socket.socket, WebSocketMachine], None, None]:
    """A client after its handshake, with bytes of its that came together with the head."""
    http, client = Http1Client(), machine("client")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(http.send_request(RequestHead("GET", "/", head(port))) + first)
        check_response(answer(sock, http), KEY, subprotocols=())
        client.receive_data(http.trailing_data[0])
        yield sock, client


def events(sock: socket.socket, client: WebSocketMachine, count: int) -> list[object]:
    found: list[object] = []
    while len(found) < count:
        event = client.next_event()
        if event is NEED_DATA:
            client.receive_data(sock.recv(65536))
        else:
            found.append(event)
    return found


def test_the_server_echoes_and_answers_pings_and_the_close(port: int) -> None:
    text = "où ça".encode()
    with connected(port, machine("client").send(TextMessage(text))) as (sock, client):
        sock.sendall(client.send(Ping(b"1")) + client.send(Close(1000)))
        assert events(sock, client, 3) == [TextMessage(text), Pong(b"1"), CloseReceived(1000)]
        assert sock.recv(1) == b""


def test_what_is_wrong_is_told_in_the_close(port: int) -> None:
    with connected(port) as (sock, client):
        sock.sendall(to("server", Frame(TEXT, b"\xff"), close_frame(1000)))
        [event] = events(sock, client, 1)
        assert isinstance(event, CloseReceived)
        assert event.code == 1007
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    ("fields", "status"),
    [([("Origin", "https://example.com")], 403), ([("Sec-WebSocket-Key", "short")], 400)],
)
def test_a_handshake_is_refused_with_a_status(
    port: int, fields: list[tuple[str, str]], status: int
) -> None:
    http = Http1Client()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        asked = head(port).merged(Headers(fields))
        sock.sendall(http.send_request(RequestHead("GET", "/", asked)))
        assert answer(sock, http).status == status


def test_the_test_among_the_examples_passes() -> None:
    assert "1 passed" in run("python -m pytest -q -p no:cacheprovider fuzz_websocket.py", EXAMPLES)
