"""HTTP+SSE of 2024-11-05: the server's side."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from http_endpoint import LATEST, Client, a, call, fault, heard, note, result, same

from trio_mcp_transport.jsonrpc import Notification, Request, Response
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import Deliver, OpenSse
from trio_mcp_transport.sansio.mcp_http.streams import NOTHING
from trio_mcp_transport.sansio.sse import SseComment

pytestmark = pytest.mark.sansio

OPTIONS = HttpServerOptions(sse_path="/sse", message_path="/messages/", max_sessions=2)


def opened(client: Client) -> OpenSse:
    return a(OpenSse, client.head("GET", "/sse", {"Accept": "text/event-stream"}))


def test_the_first_event_names_the_address_for_messages() -> None:
    client = Client(OPTIONS)
    verdict = opened(client)
    answered = heard(*verdict.writer.open().events)
    assert answered.is_stream
    [event] = answered.events
    assert (event.event, event.data) == ("endpoint", b"/messages/?session_id=session-1")
    assert event.id is None
    assert not answered.complete
    address = urljoin("http://localhost/sse", (event.data or b"").decode())
    assert isinstance(client.post(call(), target=address), Deliver)


@pytest.mark.parametrize(
    ("prefix", "address"), [("/api", "/api/messages/?"), ("/a b/\xe9", "/a%20b/%C3%A9/messages/?")]
)
def test_the_address_has_what_the_server_is_mounted_under(prefix: str, address: str) -> None:
    [event] = heard(*opened(Client(OPTIONS)).writer.open(prefix).events).events
    assert (event.data or b"").decode().startswith(address)


@pytest.mark.parametrize("name", ["session_id", "sessionId"])
@pytest.mark.parametrize("body", [call(), note("x"), result()])
def test_a_message_gets_202_and_nothing_else(name: str, body: dict[str, object]) -> None:
    client = Client(OPTIONS)
    session = opened(client).session
    target = f"/messages?{name}={session.id}"
    verdict = a(Deliver, client.post(body, {"Accept": None}, target=target))
    assert verdict.reply == Reply(202)
    assert (verdict.session, verdict.era, verdict.revision) == (session, "legacy", None)
    [delivery] = verdict.deliveries
    assert same(delivery.message, body)
    assert delivery.exchange is None
    assert client.endpoint.exchanges == 0


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("?x=1", 400), ("?session_id=unknown", 404), ("?session_id=", 400)],
)
def test_a_message_needs_a_session(query: str, status: int) -> None:
    client = Client(OPTIONS)
    opened(client)
    assert fault(client.post(call(), target="/messages" + query))[0] == status


def test_somebody_elses_session_is_not_found() -> None:
    client = Client(OPTIONS)
    client.principal = "alice"
    session = opened(client).session
    client.principal = "mallory"
    assert fault(client.post(call(), target=f"/messages?session_id={session.id}"))[0] == 404


def test_sessions_of_the_two_transports_are_strangers_to_each_other() -> None:
    client = Client(OPTIONS)
    over_sse, streamable = opened(client).session, client.begin(LATEST)
    assert fault(client.post(call(), {"Mcp-Session-Id": over_sse.id}))[0] == 404
    assert fault(client.post(call(), target=f"/messages?session_id={streamable.id}"))[0] == 404


@pytest.mark.parametrize("body", [b"{", [call()], {"jsonrpc": "1.0", "id": 1, "method": "x"}])
def test_what_is_no_message_is_refused(body: object) -> None:
    client = Client(OPTIONS)
    session = opened(client).session
    refused = fault(client.post(body, target=f"/messages?session_id={session.id}"))
    assert (refused[0], refused[2]) == (400, 1 if isinstance(body, dict) else None)


def test_all_that_the_server_says_goes_out_as_message_events() -> None:
    writer = opened(Client(OPTIONS)).writer
    said = writer.send_many([Request(1, "ping"), Notification("x"), Response(1, {})])
    assert said is NOTHING
    assert writer.dropped == 3  # before the stream is open
    events = writer.open().events
    said = writer.send_many([Request(1, "ping"), Notification("x"), Response(1, {})])
    more = writer.send(Response(2, {}))
    assert len(said.events) == 1
    answered = heard(*events, *said.events, *writer.keep_alive(), *more.events)
    assert [event.event for event in answered.events] == ["endpoint"] + 4 * ["message"]
    assert isinstance(answered.items[-2], SseComment)
    assert b"event: message\n" in answered.body
    assert writer.send_many([]) is NOTHING


def test_an_ended_stream_says_no_more() -> None:
    writer = opened(Client(OPTIONS)).writer
    answered = heard(*writer.open().events, *writer.end().events)
    assert answered.complete
    assert writer.send(Notification("x")) is NOTHING


def test_the_session_lasts_as_long_as_the_stream() -> None:
    client = Client(OPTIONS)
    session = opened(client).session
    assert client.endpoint.next_expiry() is None
    assert client.endpoint.expire(1e9) == []
    client.endpoint.end_session(session)
    assert fault(client.post(call(), target=f"/messages?session_id={session.id}"))[0] == 404
    assert len(client.endpoint.sessions) == 0


def test_over_the_cap_no_stream_opens() -> None:
    client = Client(OPTIONS)
    opened(client)
    client.begin()
    refused = a(Reply, client.head("GET", "/sse"))
    assert refused.status == 503
    assert refused.headers["retry-after"] == "5"
