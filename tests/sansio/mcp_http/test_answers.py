"""What answers a POST, read by the client; and the older wires' few decisions."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from trio_mcp_transport import (
    ConfigurationError,
    ErrorObject,
    ErrorResponse,
    HttpStatusError,
    InvalidHttpResponse,
    InvalidMessage,
    LocalProtocolError,
    Message,
    Notification,
    Request,
    Response,
    ServerBusy,
    UnexpectedRedirect,
)
from trio_mcp_transport.sansio.headers import NO_HEADERS, Headers
from trio_mcp_transport.sansio.mcp_http.answers import (
    decode_payload,
    failed_answer,
    kind_of_body,
    modern_revision,
    refusal,
)
from trio_mcp_transport.sansio.mcp_http.client_options import HttpClientOptions
from trio_mcp_transport.sansio.mcp_http.sse_client import SseClient
from trio_mcp_transport.sansio.mcp_http.two_path_client import TwoPathClient
from trio_mcp_transport.sansio.sse import SseEvent

pytestmark = pytest.mark.sansio

KEY = "io.modelcontextprotocol/protocolVersion"


def raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("message", "revision"),
    [
        (Request(1, "m"), None),
        (Response(1, {"_meta": {KEY: "x"}}), None),
        (Request(1, "m", {"_meta": {KEY: "x"}}), "x"),
        (Notification("m", {"_meta": {KEY: "x"}}), "x"),
        (Request(1, "m", raw({"_meta": {KEY: "x"}})), "x"),
        (Request(1, "m", {"_meta": raw({KEY: "x"})}), "x"),
        (Request(1, "m", {"_meta": {KEY: 7}}), None),
        (Request(1, "m", raw({"_meta": {KEY: 7}})), None),
        (Request(1, "m", raw({"_meta": None})), None),
        (Request(1, "m", raw({"_meta": {}})), None),
        (Request(1, "m", {"a": 1}), None),
        (Request(1, "m", {"_meta": "text"}), None),
        (Request(1, "m", raw(["_meta"])), None),
        (Request(1, "m", ["_meta"]), None),
    ],
)
def test_the_revision_in_meta_makes_a_message_modern(
    message: Message, revision: str | None
) -> None:
    assert modern_revision(message) == revision


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", "json"),
        ("Application/JSON; charset=utf-8", "json"),
        ("text/event-stream;x=y", "sse"),
        ("text/html", "other"),
        (None, "other"),
    ],
)
def test_the_content_type_says_what_a_body_is(content_type: str | None, kind: str) -> None:
    headers = NO_HEADERS if content_type is None else Headers([("Content-Type", content_type)])
    assert kind_of_body(headers) == kind


ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}'


def test_an_array_of_messages_is_for_one_revision_only() -> None:
    assert len(decode_payload(b" [%b,%b]" % (ANSWER, ANSWER), batches=True)) == 2
    with pytest.raises(InvalidMessage, match="array"):
        decode_payload(b"[%b]" % ANSWER, batches=False)
    with pytest.raises(InvalidMessage):
        decode_payload(b"[%b, 7]" % ANSWER, batches=True)


@pytest.mark.parametrize("request_id", ["null", '"server-error"', "2"])
def test_an_error_in_a_refusal_is_the_requests_whatever_its_id(request_id: str) -> None:
    body = b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32600,"message":"no"}}'
    cause = HttpStatusError("x", status=400)
    answer = refusal(body % request_id.encode(), 1, cause)
    assert answer == ErrorResponse(1, answer.error)
    assert answer.error.code == -32600
    assert answer.cause is None


def test_with_a_status_that_mcp_does_not_refuse_with_the_typed_error_counts() -> None:
    body = b'{"jsonrpc":"2.0","error":{"code":-32603,"message":"no"}}'
    cause = ServerBusy("x", status=503)
    answer = refusal(body, 1, cause)
    assert answer.error.message == "no"
    assert answer.cause is cause


@pytest.mark.parametrize("body", [b"", b"<html>", ANSWER])
def test_without_an_error_in_it_a_refusal_is_the_typed_error(body: bytes) -> None:
    cause = HttpStatusError("the server answered 400", status=400)
    answer = refusal(body, "a", cause)
    assert answer == ErrorResponse("a", ErrorObject(-32603, "the server answered 400"))
    assert answer.cause is cause


def test_whatever_fails_an_exchange_its_cause_is_of_this_package() -> None:
    answer = failed_answer(1, ValueError("odd"))
    assert isinstance(answer.cause, InvalidHttpResponse)
    assert isinstance(answer.cause.__cause__, ValueError)


# -- HTTP+SSE ------------------------------------------------------------------------


def test_the_endpoint_is_resolved_against_the_stream() -> None:
    client = SseClient("http://h:1/a/sse?x=1")
    assert client.event(SseEvent(b"messages?session=7", "endpoint")) is None
    assert client.endpoint == "http://h:1/a/messages?session=7"
    client.event(SseEvent(b"/elsewhere", "endpoint"))
    assert client.endpoint == "http://h:1/a/messages?session=7"


@pytest.mark.parametrize(
    "data",
    [b"http://evil/messages", b"//evil/messages", b"https://h:1/messages", b"", None, b"\xff://"],
)
def test_an_endpoint_at_another_origin_is_refused(data: bytes | None) -> None:
    client = SseClient("http://h:1/sse")
    with pytest.raises(UnexpectedRedirect, match="origin") as caught:
        client.event(SseEvent(data, "endpoint"))
    assert client.endpoint is None
    assert caught.value.status == 200


def test_only_messages_with_data_are_messages() -> None:
    client = SseClient("http://h/sse")
    assert client.event(SseEvent(b"{}", "message")) == b"{}"
    assert client.event(SseEvent(b"", "message")) is None
    assert client.event(SseEvent(None, "message")) is None
    assert client.event(SseEvent(b"{}", "ping")) is None


# -- Two paths -----------------------------------------------------------------------


def test_each_kind_of_message_has_its_path() -> None:
    client = TwoPathClient("http://h/rpc", "http://h/notify", Headers([("X-Own", "1")]))
    assert client.url_for(Request(1, "m")) == "http://h/rpc"
    assert client.url_for(Notification("m")) == "http://h/notify"
    assert dict(client.headers) == {
        "x-own": "1",
        "accept": "application/json",
        "content-type": "application/json",
    }
    with pytest.raises(LocalProtocolError, match="no answers"):
        client.url_for(Response(1, {}))


# -- Options -------------------------------------------------------------------------


def test_options_are_checked_and_show_no_secret() -> None:
    options = HttpClientOptions(
        url="http://h:8/mcp?key=secret", headers=Headers([("X-Key", "secret")])
    )
    assert options.authority == "h:8"
    assert "secret" not in repr(options)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"url": "/mcp"}, "url"),
        ({"url": "ftp://h/"}, "url"),
        ({"two_paths": ("http://h/a", "b")}, "two_paths"),
        ({"two_paths": ("http://h/a", "http://h/b"), "sse_only": True}, "exclude"),
        ({"max_exchanges": 0}, "max_exchanges"),
        ({"max_reconnects": 0}, "max_reconnects"),
        ({"read_timeout": 0}, "read_timeout"),
        ({"delivery_timeout": -1}, "delivery_timeout"),
    ],
)
def test_wrong_options_are_refused(fields: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        HttpClientOptions(**({"url": "http://h/"} | fields))  # type: ignore[arg-type] # its point
