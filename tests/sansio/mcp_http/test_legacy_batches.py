"""Batches, which only revision 2025-03-26 has."""

from __future__ import annotations

import msgspec
import pytest
from http_endpoint import LATEST, MODERN, Client, a, call, fault, heard, note, result, within

from trio_mcp_transport.jsonrpc import Notification, Response
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import Deliver, StartExchange

pytestmark = pytest.mark.sansio

BATCHES = "2025-03-26"
BROKEN = {"jsonrpc": "2.0", "id": "b", "method": 5}


def batch(client: Client, *items: object) -> StartExchange:
    return a(StartExchange, client.post(list(items), within(client.begin(BATCHES))))


def test_a_batch_of_requests_is_one_exchange_answered_by_one_array() -> None:
    client = Client()
    start = batch(client, call(request_id=1), call(request_id="1"), call(request_id=2))
    assert [message.id for message in start.messages] == [1, "1", 2]
    assert start.revision == BATCHES
    assert client.endpoint.exchanges == 1
    writer = start.writer
    assert writer.answer(Response("1", {})) is None
    assert writer.send(Response("1", {})).events == ()
    answered = heard(*writer.send_many([Response(2, {}), Response(1, {})]).events)
    assert answered.json == [result("1"), result(2), result(1)]
    assert writer.ended
    client.end(start)


def test_a_batch_of_one_is_answered_by_an_array_as_well() -> None:
    start = batch(Client(), call())
    assert start.writer.answer(Response(1, {})) is None
    assert heard(*start.writer.send(Response(1, {})).events).json == [result()]


def test_a_batch_whose_answer_became_a_stream_has_its_answers_one_by_one() -> None:
    writer = batch(Client(), call(request_id=1), call(request_id=2), call(request_id=3)).writer
    first = writer.send(Response(2, {}))
    second = writer.send(Notification("notifications/message", {}))
    third = writer.send(Response(1, {}))
    assert not writer.ended
    last = writer.send(Response(3, {}))
    answered = heard(*first.events, *second.events, *third.events, *last.events)
    kinds = [getattr(message, "id", None) for message in answered.messages]
    assert kinds == [2, None, 1, 3]
    assert answered.complete


def test_a_quiet_batch_sends_what_is_answered() -> None:
    writer = batch(Client(), call(request_id=1), call(request_id=2)).writer
    writer.send(Response(2, {}))
    answered = heard(*writer.quiet().events)
    assert len(answered.messages) == 1
    assert not answered.complete


def test_a_cancelled_request_does_not_hold_the_others_up() -> None:
    writer = batch(Client(), call(request_id=1), call(request_id=2)).writer
    writer.send(Response(2, {}))
    assert heard(*writer.cancel(1).events).json == [result(2)]


def test_the_request_that_is_cancelled_first_is_left_out() -> None:
    writer = batch(Client(), call(request_id=1), call(request_id=2)).writer
    assert writer.cancel(1).events == ()
    assert heard(*writer.send(Response(2, {})).events).json == [result(2)]


def test_a_batch_of_which_all_is_cancelled_has_no_answer() -> None:
    writer = batch(Client(), call(request_id=1), call(request_id=2)).writer
    writer.cancel(1)
    answered = heard(*writer.cancel(2).events)
    assert answered.is_stream
    assert (answered.body, answered.complete) == (b"", True)


def test_a_batch_that_is_cut_short_is_answered_as_far_as_it_is() -> None:
    writer = batch(Client(), call(request_id=1), call(request_id=2)).writer
    writer.send(Response(2, {}))
    assert heard(*writer.end().events).json == [result(2)]


def test_broken_items_get_their_errors_with_the_answers() -> None:
    start = batch(
        Client(), call(), BROKEN, 5, call(), {"jsonrpc": "2.0", "id": 1, "result": {}, "error": 1}
    )
    assert [message.id for message in start.messages] == [1]
    answers = heard(*start.writer.send(Response(1, {})).events).json
    assert isinstance(answers, list)
    found = [(item["id"], item.get("error", {}).get("code")) for item in answers]
    assert found == [("b", -32600), (None, -32600), (1, -32600), (1, None)]


def test_a_batch_of_broken_items_alone_is_refused_with_their_errors() -> None:
    client = Client()
    reply = a(Reply, client.post([BROKEN, 5], within(client.begin(BATCHES))))
    assert reply.status == 400
    assert [item["id"] for item in msgspec.json.decode(reply.body)] == ["b", None]


@pytest.mark.parametrize(
    "items",
    [
        [note("notifications/x"), note("notifications/y")],
        [result(5), result(6)],
        [note("notifications/x"), result(5)],
        [{"jsonrpc": "2.0", "id": 1, "result": {}, "error": 1}],  # of which nobody may be told
    ],
)
def test_a_batch_without_requests_gets_no_answer(items: list[object]) -> None:
    client = Client()
    verdict = a(Deliver, client.post(items, within(client.begin(BATCHES))))
    assert verdict.reply == Reply(202)
    notes = sum("method" in item for item in items)  # type: ignore[operator]
    assert len(verdict.deliveries) == notes


def test_requests_and_answers_do_not_mix() -> None:
    client = Client()
    session = client.begin(BATCHES)
    assert fault(client.post([call(), result()], within(session))) == (400, -32600, None)
    assert session.exchanges == {}


def test_notifications_beside_requests_are_handed_over_with_them() -> None:
    client = Client()
    session = client.begin(BATCHES)
    other = client.call(session, request_id=9)
    items = [
        note("notifications/cancelled", {"requestId": 9}),
        call(request_id=1),
        call(request_id=2),
        note("notifications/cancelled", {"requestId": 2}),
        note("notifications/roots/list_changed"),
        note("notifications/cancelled", {"requestId": 77}),
    ]
    start = a(StartExchange, client.post(items, within(session)))
    found = [(delivery.exchange, delivery.cancels) for delivery in start.deliveries]
    assert found == [(other.writer, 9), (start.writer, 2), (None, None)]


@pytest.mark.parametrize("body", [[], [call("initialize", {})], b"[", b"[,]"])
def test_what_is_no_batch_is_refused(body: object) -> None:
    client = Client()
    reply = a(Reply, client.post(body, within(client.begin(BATCHES))))
    assert reply.status == 400


def test_an_empty_batch_is_an_invalid_request() -> None:
    client = Client()
    verdict = client.post([], within(client.begin(BATCHES)))
    assert fault(verdict) == (400, -32600, None)


def test_initialize_in_a_batch_is_an_invalid_request() -> None:
    client = Client()
    session = client.begin(BATCHES)
    reply = a(Reply, client.post([call("initialize", {}, 7)], within(session)))
    [answer] = msgspec.json.decode(reply.body)
    assert (answer["id"], answer["error"]["code"]) == (7, -32600)


def test_a_batch_of_too_many_messages_is_refused() -> None:
    client = Client(HttpServerOptions(max_batch_messages=2))
    session = client.begin(BATCHES)
    assert isinstance(client.post([note("x")] * 2, within(session)), Deliver)
    assert fault(client.post([note("x")] * 3, within(session)))[0] == 400


@pytest.mark.parametrize("revision", ["2025-06-18", LATEST, "2024-11-05"])
def test_other_revisions_have_no_batches(revision: str) -> None:
    client = Client()
    session = client.begin(revision)
    fields = within(session, **{"MCP-Protocol-Version": BATCHES})  # what was agreed counts
    request_id = ... if revision == LATEST else None
    assert fault(client.post([call()], fields)) == (400, -32600, request_id)


def test_a_batch_needs_a_session() -> None:
    client = Client()
    assert fault(client.post([call()]))[0] == 400
    assert fault(client.post([call()], {"Mcp-Session-Id": "unknown"}))[0] == 404


@pytest.mark.parametrize(
    ("header", "taken"), [(None, True), (BATCHES, True), ("2025-06-18", False), (LATEST, False)]
)
def test_without_sessions_the_header_tells_whether_there_are_batches(
    header: str | None, taken: bool
) -> None:
    client = Client(HttpServerOptions(stateless=True))
    verdict = client.post([call()], {"MCP-Protocol-Version": header})
    if taken:
        assert a(StartExchange, verdict).session is None
    else:
        assert fault(verdict)[0] == 400
    assert fault(client.post([call()], {"MCP-Protocol-Version": MODERN}))[0] == 400


def test_a_stateless_batch_of_notifications_is_handed_over_alone() -> None:
    client = Client(HttpServerOptions(stateless=True))
    verdict = a(Deliver, client.post([note("x"), result()]))
    assert [delivery.exchange for delivery in verdict.deliveries] == [None]


def test_where_streams_are_preferred_the_answers_come_one_by_one() -> None:
    writer = batch(Client(HttpServerOptions(response="sse")), call(request_id=1), BROKEN).writer
    answered = heard(*writer.send(Response(1, {})).events)
    assert answered.is_stream
    assert len(answered.messages) == 2
