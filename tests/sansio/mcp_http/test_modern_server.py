"""What becomes of modern messages over HTTP."""

from __future__ import annotations

import pytest
from http_endpoint import MODERN, MODERN_META, Client, a, call, fault, heard, note, result, same

from trio_mcp_transport.jsonrpc import Notification, Response
from trio_mcp_transport.sansio.mcp_http.mirrored import read_header_schema
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import Deliver, StartExchange

pytestmark = pytest.mark.sansio

VERSION = {"MCP-Protocol-Version": MODERN}
SCHEMA = read_header_schema({
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
})


def test_a_request_becomes_an_exchange_of_its_own() -> None:
    client = Client()
    start = a(StartExchange, client.modern("tools/list", request_id="a"))
    assert len(start.messages) == 1
    assert same(start.messages[0], call("tools/list", {"_meta": MODERN_META}, "a"))
    assert (start.era, start.revision, start.session) == ("modern", MODERN, None)
    assert start.writer.waiting == {"a": None}
    assert not start.writer.can_ask
    assert client.endpoint.exchanges == 1
    client.end(start)
    assert client.endpoint.exchanges == 0


def test_session_ids_and_event_ids_are_ignored_and_never_given() -> None:
    client = Client(HttpServerOptions(resumable=True))
    fields = {"Mcp-Session-Id": "nobody's", "Last-Event-ID": "1-1"}
    start = a(StartExchange, client.modern(fields=fields))
    assert start.session is None
    answered = heard(
        *start.writer.send(Notification("notifications/progress", {})).events,
        *start.writer.send(Response(1, {})).events,
    )
    assert answered.headers is not None
    assert "mcp-session-id" not in answered.headers
    assert answered.ids == [None, None]


@pytest.mark.parametrize(
    ("fields", "method", "params"),
    [
        ({"Mcp-Method": None}, "tools/list", {}),
        ({"Mcp-Method": "tools/call"}, "tools/list", {}),
        ({"Mcp-Method": "Tools/List"}, "tools/list", {}),
        ({}, "tools/call", {"name": "x"}),
        ({"Mcp-Name": "y"}, "tools/call", {"name": "x"}),
        ({"Mcp-Name": "=?base64?SGVsbG8?="}, "tools/call", {"name": "Hello"}),
        ({"Mcp-Name": "x"}, "resources/read", {"uri": "y"}),
        ({"Mcp-Name": "weather"}, "tools/call", {"name": "weather", "arguments": {"region": "r"}}),
        (
            {"Mcp-Name": "weather", "Mcp-Param-Region": "s"},
            "tools/call",
            {"name": "weather", "arguments": {"region": "r"}},
        ),
    ],
)
def test_headers_that_contradict_the_body_are_a_mismatch(
    fields: dict[str, str | None], method: str, params: dict[str, object]
) -> None:
    client = Client(header_schema={"weather": SCHEMA}.get)
    assert fault(client.modern(method, params, fields, request_id=7)) == (400, -32020, 7)
    assert client.endpoint.exchanges == 0


def test_headers_that_agree_with_the_body_let_it_in() -> None:
    client = Client(header_schema={"weather": SCHEMA}.get)
    params = {"name": "weather", "arguments": {"region": "r"}}
    fields = {"mcp-NAME": "weather", "MCP-PARAM-REGION": "r"}
    assert isinstance(client.modern("tools/call", params, fields), StartExchange)


def test_an_unknown_tool_has_no_headers_to_be_checked() -> None:
    client = Client(header_schema={"weather": SCHEMA}.get)
    params = {"name": "other", "arguments": {"region": "r"}}
    assert isinstance(client.modern("tools/call", params, {"Mcp-Name": "other"}), StartExchange)


def test_a_notification_is_accepted_and_handed_over() -> None:
    verdict = a(Deliver, Client().post(note("notifications/x"), VERSION))
    assert verdict.reply == Reply(202)
    assert (verdict.session, verdict.era, verdict.revision) == (None, "modern", MODERN)
    [delivery] = verdict.deliveries
    assert same(delivery.message, note("notifications/x"))
    assert (delivery.exchange, delivery.cancels) == (None, None)


@pytest.mark.parametrize(
    "body", [result(), {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}]
)
def test_an_answer_is_refused_because_nothing_is_ever_asked(body: dict[str, object]) -> None:
    assert fault(Client().post(body, VERSION)) == (400, -32600, ...)


@pytest.mark.parametrize("body", [[], [call()], b"  \r\n [", b"["])
def test_an_array_is_no_message(body: object) -> None:
    assert fault(Client().post(body, VERSION)) == (400, -32600, ...)


@pytest.mark.parametrize(
    ("body", "code", "request_id"),
    [
        (b"", -32700, ...),
        (b"{", -32700, ...),
        (b"\xff", -32700, ...),
        (b"5", -32600, ...),
        ({"id": 7, "method": "x"}, -32600, 7),
        ({"jsonrpc": "2.0", "id": None, "method": "x"}, -32600, ...),
        ({"jsonrpc": "2.0", "id": 7, "method": "x", "result": {}}, -32600, 7),
    ],
)
def test_what_is_no_message_is_refused(body: object, code: int, request_id: object) -> None:
    assert fault(Client().post(body, VERSION)) == (400, code, request_id)


@pytest.mark.parametrize("accept", [None, "*/*", "text/event-stream, application/json;q=0.1"])
def test_a_plain_result_is_a_document(accept: str | None) -> None:
    start = a(StartExchange, Client().modern(fields={"Accept": accept}))
    assert heard(*start.writer.send(Response(1, {})).events).json == result()


def test_a_client_that_takes_no_document_gets_a_stream() -> None:
    start = a(StartExchange, Client().modern(fields={"Accept": "text/event-stream"}))
    assert start.writer.answer(Response(1, {})) is None
    assert heard(*start.writer.send(Response(1, {})).events).is_stream


def test_a_listen_request_is_answered_by_a_stream_even_where_documents_are_preferred() -> None:
    client = Client(HttpServerOptions(response="json"))
    start = a(StartExchange, client.modern("subscriptions/listen"))
    note_ = Notification("notifications/subscriptions/acknowledged", {})
    assert heard(*start.writer.send(note_).events).is_stream
