"""What is decided before a body is read: paths, methods, content types."""

from __future__ import annotations

import pytest
from http_endpoint import BOTH, LATEST, MODERN, Client, a, call, fault, note

from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import Deliver, OpenSse, ReadBody, StartExchange

pytestmark = pytest.mark.sansio

JSON = {"Content-Type": "application/json", "Accept": BOTH}
EVERYTHING = HttpServerOptions(
    path="/mcp",
    sse_path="/sse",
    message_path="/messages",
    rpc_path="/rpc",
    notify_path="/notify",
    max_message_bytes=77,
)


@pytest.mark.parametrize(
    "target", ["/mcp", "/mcp/", "/mcp?x=1", "/mcp/?", "http://localhost:1/mcp", "http://h/mcp/?y"]
)
def test_the_path_is_served_with_and_without_a_slash_and_whatever_the_query(target: str) -> None:
    assert Client().head("POST", target, JSON) == ReadBody(HttpServerOptions().max_message_bytes)


@pytest.mark.parametrize("target", ["/", "/mc", "/mcp/x", "/MCP", "*", "http://h", "//mcp"])
def test_another_path_is_not_found(target: str) -> None:
    for method in ("POST", "GET", "DELETE", "PUT"):
        assert fault(Client().head(method, target, JSON)) == (404, -32600, ...)


@pytest.mark.parametrize("target", ["/", "http://localhost"])
def test_the_root_can_be_the_endpoint(target: str) -> None:
    client = Client(HttpServerOptions(path="/"))
    assert isinstance(client.head("POST", target, JSON), ReadBody)


@pytest.mark.parametrize("target", ["/mcp", "/messages", "/rpc", "/notify"])
def test_every_wire_limits_its_bodies(target: str) -> None:
    assert Client(EVERYTHING).head("POST", target, JSON) == ReadBody(77)


@pytest.mark.parametrize(
    ("options", "target", "method", "allowed"),
    [
        (HttpServerOptions(), "/mcp", "PUT", "POST, GET, DELETE"),
        (HttpServerOptions(), "/mcp", "HEAD", "POST, GET, DELETE"),
        (HttpServerOptions(), "/mcp", "OPTIONS", "POST, GET, DELETE"),
        (HttpServerOptions(stateless=True), "/mcp", "GET", "POST"),
        (HttpServerOptions(stateless=True), "/mcp", "DELETE", "POST"),
        (HttpServerOptions(stateless=True), "/mcp", "PATCH", "POST"),
        # "HTTP GET or DELETE to the MCP endpoint: respond with 405 Method Not Allowed."
        (HttpServerOptions(era="modern"), "/mcp", "GET", "POST"),
        (HttpServerOptions(era="modern"), "/mcp", "DELETE", "POST"),
        (EVERYTHING, "/sse", "POST", "GET"),
        (EVERYTHING, "/messages", "GET", "POST"),
        (EVERYTHING, "/rpc", "GET", "POST"),
        (EVERYTHING, "/notify", "DELETE", "POST"),
    ],
)
def test_another_method_is_not_allowed_and_the_answer_says_which_are(
    options: HttpServerOptions, target: str, method: str, allowed: str
) -> None:
    verdict = Client(options).head(method, target, {"Accept": "*/*"})
    assert fault(verdict)[0] == 405
    assert a(Reply, verdict).headers["allow"] == allowed


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_modern_requests_have_no_get_and_no_delete_on_a_server_of_both_eras(method: str) -> None:
    client = Client()
    session = client.begin()
    fields = {
        "MCP-Protocol-Version": MODERN,
        "Mcp-Session-Id": session.id,
        "Accept": "text/event-stream",
    }
    verdict = client.head(method, "/mcp", fields)
    assert fault(verdict)[0] == 405
    assert a(Reply, verdict).headers["allow"] == "POST"


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/json-rpc",
     "application/json; charset=latin-1", "text/json", "application"],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/mcp", "/messages", "/rpc", "/notify"])
def test_a_body_that_is_not_said_to_be_json_is_refused_unread(
    content_type: str | None, target: str
) -> None:
    verdict = Client(EVERYTHING).head("POST", target, {**JSON, "Content-Type": content_type})
    assert fault(verdict) == (415, -32600, ...)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json; charset=utf-8",
     'application/json;charset="UTF-8"', "application/json; odata=verbose"],
)  # fmt: skip
def test_json_is_understood_however_it_is_written(content_type: str) -> None:
    fields = {**JSON, "Content-Type": content_type}
    assert isinstance(Client().head("POST", "/mcp", fields), ReadBody)


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (None, True),
        ("", True),
        ("*/*", True),
        ("application/json, text/event-stream", True),
        ("text/event-stream", True),
        ("TEXT/*;q=0.1", True),
        ("application/json", False),
        ("application/json, text/event-stream;q=0", False),
        ("*/*, text/event-stream;q=0", False),
        ("text/html", False),
    ],
)
def test_a_post_is_acceptable_if_the_client_takes_event_streams(
    accept: str | None, taken: bool
) -> None:
    verdict = Client().head("POST", "/mcp", {**JSON, "Accept": accept})
    if taken:
        assert isinstance(verdict, ReadBody)
    else:
        assert fault(verdict)[0] == 406


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_a_get_of_a_client_that_takes_no_event_stream_is_not_acceptable(accept: str) -> None:
    client = Client(EVERYTHING)
    session = client.begin()
    fields = {"Accept": accept, "Mcp-Session-Id": session.id}
    assert fault(client.head("GET", "/mcp", fields))[0] == 406
    assert fault(client.head("GET", "/sse", fields))[0] == 406


def test_each_wire_answers_on_its_own_path() -> None:
    client = Client(EVERYTHING)
    assert isinstance(client.post(call("initialize", {})), StartExchange)
    assert isinstance(client.head("GET", "/sse"), OpenSse)
    assert isinstance(client.post(call("x"), target="/rpc"), StartExchange)
    assert isinstance(client.post(note("x"), target="/notify"), Deliver)


def test_an_endpoint_need_not_serve_streamable_http() -> None:
    client = Client(HttpServerOptions(path=None, rpc_path="/rpc", notify_path="/notify"))
    assert fault(client.head("POST", "/mcp", JSON))[0] == 404
    assert isinstance(client.post(call(), target="/rpc/"), StartExchange)


def test_over_the_cap_a_request_is_told_to_come_back() -> None:
    client = Client(HttpServerOptions(max_exchanges=2, retry_after=7))
    session = client.begin()
    first, second = client.call(session), client.call(session)
    refused = client.modern(request_id="x")
    assert fault(refused) == (503, -32603, "x")
    assert a(Reply, refused).headers["retry-after"] == "7"
    # Of the refused ones nothing is left.
    assert fault(client.post(call(), {"Mcp-Session-Id": session.id}))[0] == 503
    assert len(session.exchanges) == 2
    assert fault(client.post(call("initialize", {"protocolVersion": LATEST})))[0] == 503
    assert len(client.endpoint.sessions) == 1
    # Notifications pass: there may be a cancellation among them.
    assert isinstance(client.say(session, note("notifications/x")), Deliver)
    client.end(first)
    client.end(second)
    assert isinstance(client.modern(), StartExchange)
    assert client.endpoint.exchanges == 1


def test_a_refused_batch_has_no_single_id() -> None:
    client = Client(HttpServerOptions(max_exchanges=1))
    session = client.begin("2025-03-26")
    client.call(session)
    refused = client.post([call(), call(request_id=2)], {"Mcp-Session-Id": session.id})
    assert fault(refused) == (503, -32603, ...)


@pytest.mark.parametrize("target", ["/mcp", "/messages", "/rpc", "/notify"])
def test_an_encoded_body_is_refused_before_it_is_read(target: str) -> None:
    for encoding in ("gzip", "identity, br", "x-own"):
        verdict = a(
            Reply, Client(EVERYTHING).head("POST", target, {**JSON, "Content-Encoding": encoding})
        )
        assert fault(verdict) == (415, -32600, ...)
        assert verdict.headers["accept-encoding"] == "identity"
    for encoding in ("identity", "Identity", ""):
        assert isinstance(
            Client(EVERYTHING).head("POST", target, {**JSON, "Content-Encoding": encoding}),
            ReadBody,
        )
