"""What becomes of legacy sessions when there are as many as there may be."""

from __future__ import annotations

import math

import pytest
from http_endpoint import Client, a, call, fault, note, within

from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.server import OpenStream
from trio_mcp_transport.sansio.mcp_http.sessions import SessionRecord

pytestmark = pytest.mark.sansio

INITIALIZE = call("initialize", {"protocolVersion": "2025-11-25"})
NOW = 1000.0
SSE = {"Accept": "text/event-stream"}


def full(*idle: float, silent: bool = False) -> tuple[Client, list[SessionRecord]]:
    """An endpoint whose places are all taken by sessions that are idle for so long."""
    client = Client(HttpServerOptions(max_sessions=len(idle)))
    sessions = []
    for seconds in sorted(idle, reverse=True):
        client.now = NOW - seconds
        session = client.begin()
        if not silent:
            client.say(session, note("notifications/initialized"))
        sessions.append(session)
    client.now = NOW
    return client, sessions


def test_the_session_that_is_idle_for_longest_makes_room() -> None:
    client, sessions = full(400, 300, 70)
    new = client.begin()
    assert list(client.endpoint.sessions) == [*sessions[1:], new]
    assert sessions[0].state == "ended"
    assert fault(client.post(call(), within(sessions[0])))[0] == 404
    # Whoever keeps something for it is told at once, and once.
    assert client.endpoint.next_expiry() == -math.inf
    assert client.endpoint.expire(NOW) == [sessions[0]]
    assert client.endpoint.expire(NOW) == []
    assert client.endpoint.next_expiry() == NOW - 300 + HttpServerOptions().session_idle_timeout


def test_a_session_that_was_used_within_a_minute_makes_no_room() -> None:
    client, sessions = full(59, 30, 0)
    assert fault(client.post(INITIALIZE))[0] == 503
    assert list(client.endpoint.sessions) == sessions
    assert client.endpoint.sessions.refused == 1


def test_a_session_with_a_stream_open_or_a_request_in_flight_makes_no_room() -> None:
    client, sessions = full(500, 400)
    a(OpenStream, client.head("GET", "/mcp", {**SSE, **within(sessions[0])})).writer.open()
    running = client.call(sessions[1])
    assert fault(client.post(INITIALIZE))[0] == 503
    client.end(running)
    sessions[0].standalone.detach()
    client.begin()
    assert sessions[0].state == "ended"


def test_sessions_in_which_nothing_was_said_make_room_first_and_soon() -> None:
    client, (silent,) = full(4, silent=True)
    assert fault(client.post(INITIALIZE))[0] == 503
    client.now += 1
    client.begin()
    assert silent.state == "ended"

    client = Client(HttpServerOptions(max_sessions=2))
    used = client.begin()
    client.end(client.call(used))
    client.now = 500
    silent = client.begin()
    client.now = 510
    client.begin()
    assert (used.state, silent.state) == ("open", "ended")
