"""How legacy sessions end: by DELETE, by being idle; and that nothing is left of them."""

from __future__ import annotations

import math

import pytest
from http_endpoint import (
    Client,
    a,
    call,
    fault,
    note,
    result,
    within,
)

from trio_mcp_transport.jsonrpc import Request
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import (
    EndSession,
    OpenStream,
)

pytestmark = pytest.mark.sansio

SSE = {"Accept": "text/event-stream"}
OLDER = ["2025-06-18", "2025-03-26", "2024-11-05"]


def test_a_delete_ends_the_session_with_204() -> None:
    client = Client()
    session = client.begin()
    start = client.call(session)
    verdict = a(EndSession, client.head("DELETE", "/mcp", within(session)))
    assert verdict.session is session
    assert verdict.reply == Reply(204)
    assert session.state == "ended"
    assert session.exchanges == {start.writer.name: start.writer}  # to be cancelled
    assert fault(client.post(call(), within(session)))[0] == 404
    client.end(start)
    assert len(client.endpoint.sessions) == 0
    assert client.endpoint.exchanges == 0


def test_a_session_ends_when_it_was_idle_for_too_long() -> None:
    client = Client(HttpServerOptions(session_idle_timeout=100))
    first = client.begin()
    client.now = 60
    second = client.begin()
    assert client.endpoint.next_expiry() == 100
    assert client.endpoint.expire(99) == []
    assert client.endpoint.expire(100) == [first]
    assert first.state == "ended"
    assert client.endpoint.next_expiry() == 160
    assert list(client.endpoint.sessions) == [second]


def test_an_expired_session_is_not_found_even_before_anybody_looked() -> None:
    client = Client(HttpServerOptions(session_idle_timeout=100))
    session = client.begin()
    client.now = 100
    assert fault(client.post(call(), within(session)))[0] == 404
    assert client.endpoint.expire(100) == [session]  # still to be torn down, once
    assert client.endpoint.expire(100) == []


@pytest.mark.parametrize("body", [note("notifications/x"), result()])
def test_a_message_keeps_a_session_alive(body: dict[str, object]) -> None:
    client = Client(HttpServerOptions(session_idle_timeout=100))
    session = client.begin()
    client.now = 99
    client.say(session, body)
    assert client.endpoint.next_expiry() == 199


def test_a_request_in_flight_keeps_a_session_alive_however_long_it_takes() -> None:
    client = Client(HttpServerOptions(session_idle_timeout=100))
    session = client.begin()
    first, second = client.call(session), client.call(session)
    assert client.endpoint.next_expiry() is None
    client.now = 1_000_000
    client.say(session, note("notifications/x"))
    client.end(first)
    assert client.endpoint.expire(2_000_000) == []
    client.end(second)
    assert client.endpoint.next_expiry() == 1_000_100


def test_an_open_get_is_no_activity() -> None:
    client = Client(HttpServerOptions(session_idle_timeout=100))
    session = client.begin()
    client.now = 99
    a(OpenStream, client.head("GET", "/mcp", {**SSE, **within(session)})).writer.open()
    assert client.endpoint.expire(100) == [session]


def test_sessions_may_live_for_ever() -> None:
    client = Client(HttpServerOptions(session_idle_timeout=math.inf))
    client.begin()
    assert client.endpoint.expire(1e12) == []
    assert client.endpoint.next_expiry() == math.inf


def test_ending_a_session_twice_does_nothing_more() -> None:
    client = Client()
    session = client.begin()
    client.endpoint.end_session(session)
    client.endpoint.end_session(session)
    assert len(client.endpoint.sessions) == 0


def test_a_session_shows_neither_its_id_nor_its_principal() -> None:
    client = Client()
    client.principal = "alice"
    session = client.begin()
    assert session.id not in repr(session)
    assert "alice" not in repr(session)


def test_a_thousand_sessions_that_were_opened_and_dropped_leave_nothing() -> None:
    client = Client(HttpServerOptions(session_idle_timeout=100))
    for number in range(1000):
        session = client.begin()
        start = client.call(session)
        start.writer.send(Request(1, "ping"))
        if number % 2:
            client.head("DELETE", "/mcp", within(session))
        client.end(start)
    client.now = 1000
    assert len(client.endpoint.expire(1000)) == 500
    assert len(client.endpoint.sessions) == 0
    assert client.endpoint.next_expiry() is None
    assert client.endpoint.exchanges == 0
