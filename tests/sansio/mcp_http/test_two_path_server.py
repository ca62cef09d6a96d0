"""The wire with one path for requests and one for notifications."""

from __future__ import annotations

import pytest
from http_endpoint import Client, a, call, fault, heard, note, result

from trio_mcp_transport.jsonrpc import ErrorObject, ErrorResponse, Notification, Response
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import Deliver, StartExchange

pytestmark = pytest.mark.sansio

OPTIONS = HttpServerOptions(path=None, rpc_path="/mcp/rpc", notify_path="/mcp/notify")
RPC, NOTIFY = "/mcp/rpc", "/mcp/notify"
ONLY_JSON = {"Accept": "application/json"}


def test_a_request_is_answered_with_one_document() -> None:
    client = Client(OPTIONS)
    start = a(StartExchange, client.post(call(), ONLY_JSON, target=RPC))
    assert (start.era, start.revision, start.session) == ("legacy", None, None)
    assert not start.writer.can_ask
    assert start.writer.send(Notification("notifications/progress")).events == ()
    assert start.writer.quiet().events == ()
    assert heard(*start.writer.send(Response(1, {})).events).json == result()
    client.end(start)


def test_an_error_is_a_document_with_200_as_well() -> None:
    start = a(StartExchange, Client(OPTIONS).post(call(), target=RPC))
    answered = heard(*start.writer.send(ErrorResponse(1, ErrorObject(-32601, "no"))).events)
    assert answered.status == 200


@pytest.mark.parametrize("target", [RPC, NOTIFY, RPC + "?x=1", NOTIFY + "/"])
def test_a_notification_is_answered_with_an_empty_object(target: str) -> None:
    verdict = a(Deliver, Client(OPTIONS).post(note("x"), ONLY_JSON, target=target))
    assert (verdict.reply.status, verdict.reply.body) == (200, b"{}")
    assert verdict.reply.headers["content-type"] == "application/json"
    assert (verdict.session, len(verdict.deliveries)) == (None, 1)


@pytest.mark.parametrize("target", [RPC, NOTIFY])
@pytest.mark.parametrize(
    ("body", "code", "request_id"),
    [
        (b"{", -32700, None),
        ([], -32600, None),
        (result(), -32600, None),
        ({"id": 7, "method": "x"}, -32600, 7),
    ],
)
def test_what_is_no_message_is_refused(
    target: str, body: object, code: int, request_id: object
) -> None:
    assert fault(Client(OPTIONS).post(body, target=target)) == (400, code, request_id)


def test_a_request_to_the_path_for_notifications_is_refused_with_its_id() -> None:
    assert fault(Client(OPTIONS).post(call(request_id=7), target=NOTIFY)) == (400, -32600, 7)


@pytest.mark.parametrize("target", ["/mcp", "/", "/mcp/rpc/x"])
def test_another_path_is_not_found(target: str) -> None:
    assert a(Reply, Client(OPTIONS).head("POST", target)).status == 404
