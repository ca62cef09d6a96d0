"""What becomes of legacy requests over HTTP, one at a time: sessions and their streams."""

from __future__ import annotations

import pytest
from http_endpoint import (
    LATEST,
    Client,
    a,
    call,
    fault,
    heard,
    initialized,
    note,
    result,
    same,
    within,
)

from trio_mcp_transport.errors import LocalProtocolError
from trio_mcp_transport.jsonrpc import ErrorObject, ErrorResponse, Notification, Request, Response
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import (
    Deliver,
    ServerEndpoint,
    StartExchange,
)

pytestmark = pytest.mark.sansio

SSE = {"Accept": "text/event-stream"}
OLDER = ["2025-06-18", "2025-03-26", "2024-11-05"]


# -- how sessions begin -----------------------------------------------------------------


@pytest.mark.parametrize("revision", [LATEST, *OLDER])
def test_a_good_initialize_opens_a_session_and_names_it_with_its_result(revision: str) -> None:
    client = Client()
    client.principal = "alice"
    start = client.initialize(revision)
    session = start.session
    assert session is not None
    assert (session.state, session.revision, session.principal) == ("pending", None, "alice")
    assert (start.era, start.revision) == ("legacy", None)
    answered = heard(*start.writer.send(initialized(revision)).events)
    assert answered.headers is not None
    assert (answered.status, answered.headers["mcp-session-id"]) == (200, session.id)
    assert (session.state, session.revision) == ("open", revision)
    client.end(start)
    assert client.call(session).session is session


@pytest.mark.parametrize(
    "answer",
    [
        ErrorResponse(1, ErrorObject(-32602, "no")),
        Response(1, {}),
        Response(1, {"protocolVersion": 5}),
        Response(1, {"protocolVersion": "2026-07-28"}),
        Response(1, []),
    ],
)
def test_a_failed_initialize_leaves_no_session(answer: Response | ErrorResponse) -> None:
    client = Client()
    start = client.initialize()
    assert start.session is not None
    answered = heard(*start.writer.send(answer).events)
    assert (answered.status, answered.complete) == (200, True)
    assert answered.headers is not None
    assert "mcp-session-id" not in answered.headers
    client.end(start)
    assert start.session.state == "ended"
    assert len(client.endpoint.sessions) == 0
    assert fault(client.post(call(), within(start.session)))[0] == 404


def test_an_initialize_whose_client_is_gone_leaves_no_session() -> None:
    client = Client()
    start = client.initialize()
    start.writer.detach()
    assert start.writer.send(initialized()).events == ()
    assert start.writer.ended
    client.end(start)
    assert len(client.endpoint.sessions) == 0


def test_an_initialize_without_an_answer_leaves_no_session() -> None:
    client = Client()
    start = client.initialize()
    answered = heard(*start.writer.finish().events)
    assert (answered.status, fault(Reply(200, answered.headers, answered.body))[1]) == (200, -32603)  # type: ignore[arg-type]
    client.end(start)
    assert len(client.endpoint.sessions) == 0


def test_an_initialize_must_not_name_a_session() -> None:
    client = Client()
    session = client.begin()
    verdict = client.post(call("initialize", {"protocolVersion": LATEST}, 7), within(session))
    assert fault(verdict) == (400, -32600, 7)


@pytest.mark.parametrize("response", ["json", "sse", "auto"])
def test_what_is_said_before_the_result_of_initialize_waits_for_it(response: str) -> None:
    client = Client(HttpServerOptions(response=response))  # type: ignore[arg-type]
    start = client.initialize()
    log = Notification("notifications/message", {})
    assert start.writer.send(log).events == ()
    assert start.writer.quiet().events == ()
    assert start.writer.keep_alive() == ()
    answered = heard(*start.writer.send(initialized()).events)
    assert answered.complete
    assert answered.headers is not None
    assert answered.headers["mcp-session-id"] == "session-1"
    assert answered.is_stream == (response != "json")
    if answered.is_stream:
        assert [type(message) for message in answered.messages] == [Notification, Response]
        assert answered.ids == [None, None]
    client.end(start)


def test_no_request_can_be_sent_before_the_result_of_initialize() -> None:
    assert not Client().initialize().writer.can_ask


def test_what_is_said_before_the_result_of_initialize_is_bounded() -> None:
    start = Client().initialize()
    for _ in range(1001):
        start.writer.send(Notification("notifications/message", {}))
    assert start.writer.dropped == 1


def test_initialize_is_never_cancelled() -> None:
    start = Client().initialize()
    assert start.writer.cancel(1).events == ()
    assert start.writer.waiting == {1: None}


def test_over_the_cap_no_session_begins_and_the_client_is_told_when_to_come_back() -> None:
    client = Client(HttpServerOptions(max_sessions=2, retry_after=9))
    client.begin()
    pending = client.initialize()
    refused = client.post(call("initialize", {"protocolVersion": LATEST}, "x"))
    assert fault(refused) == (503, -32603, "x")
    assert a(Reply, refused).headers["retry-after"] == "9"
    assert client.endpoint.sessions.refused == 1
    client.end(pending)
    client.begin()


def test_ten_thousand_initialize_requests_fill_nothing_but_the_table() -> None:
    client = Client(HttpServerOptions(max_sessions=100))
    for _ in range(10_000):
        verdict = client.post(call("initialize", {"protocolVersion": LATEST}))
        if isinstance(verdict, StartExchange):
            verdict.writer.send(initialized())
            client.end(verdict)
    assert len(client.endpoint.sessions) == 100
    assert client.endpoint.exchanges == 0


@pytest.mark.parametrize("session_id", ["", "two words", "caf\xe9", "line\n", "\x7f"])
def test_a_session_id_consists_of_visible_ascii(session_id: str) -> None:
    endpoint = ServerEndpoint(HttpServerOptions(), new_id=lambda: session_id)
    with pytest.raises(LocalProtocolError, match="visible ASCII"):
        endpoint.sessions.create(session_id, None, kind="streamable", now=0)


@pytest.mark.parametrize("opened", [True, False])
def test_no_two_sessions_have_one_id(opened: bool) -> None:
    client = Client()
    start = client.initialize()
    if opened:
        start.writer.send(initialized())
    with pytest.raises(LocalProtocolError, match="unique"):
        client.endpoint.sessions.create("session-1", None, kind="streamable", now=0)


# -- whose they are ---------------------------------------------------------------------


@pytest.mark.parametrize("body", [call(request_id=7), note("notifications/x"), result()])
def test_a_post_without_a_session_is_a_bad_request(body: dict[str, object]) -> None:
    assert fault(Client().post(body))[:2] == (400, -32600)


@pytest.mark.parametrize("body", [call(request_id=7), note("notifications/x"), result()])
@pytest.mark.parametrize("session_id", ["unknown", "session-1, session-1", ""])
def test_an_unknown_session_is_not_found(body: dict[str, object], session_id: str) -> None:
    client = Client()
    client.begin()
    assert fault(client.post(body, {"Mcp-Session-Id": session_id}))[:2] == (404, -32600)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(("session_id", "status"), [(None, 400), ("unknown", 404)])
def test_get_and_delete_need_a_session_as_well(
    method: str, session_id: str | None, status: int
) -> None:
    fields = {**SSE, "Mcp-Session-Id": session_id}
    assert fault(Client().head(method, "/mcp", fields)) == (status, -32600, None)


@pytest.mark.parametrize("stranger", ["mallory", None])
def test_somebody_elses_session_is_answered_like_an_unknown_one(stranger: str | None) -> None:
    client = Client()
    client.principal = "alice"
    session = client.begin()
    client.principal = stranger
    unknown = {"Mcp-Session-Id": "unknown"}
    for method in ("GET", "DELETE"):
        foreign = client.head(method, "/mcp", {**SSE, **within(session)})
        assert foreign == client.head(method, "/mcp", {**SSE, **unknown})
        assert fault(foreign)[0] == 404
    for body in (call(), note("notifications/initialized"), result()):
        assert client.post(body, within(session)) == client.post(body, unknown)
    client.principal = "alice"
    assert client.call(session).session is session  # it came to no harm
    assert session.principal == "alice"


def test_the_error_without_an_id_is_written_as_the_revision_has_it() -> None:
    for revision, request_id in ((None, None), ("2025-06-18", None), (LATEST, ...)):
        fields = {"MCP-Protocol-Version": revision}
        assert fault(Client().post(note("x"), fields)) == (400, -32600, request_id)
        assert fault(Client().post(b"{", fields)) == (400, -32700, request_id)


# -- the version header -----------------------------------------------------------------


@pytest.mark.parametrize("negotiated", [LATEST, *OLDER])
@pytest.mark.parametrize("header", [None, LATEST, *OLDER])
def test_the_revision_of_a_session_is_what_was_negotiated(
    negotiated: str, header: str | None
) -> None:
    client = Client()
    session = client.begin(negotiated)
    fields = {**within(session), "MCP-Protocol-Version": header}
    assert a(StartExchange, client.post(call(), fields)).revision == negotiated
    assert a(Deliver, client.post(note("notifications/x"), fields)).revision == negotiated


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_version_is_a_bad_request_of_get_and_delete_too(method: str) -> None:
    client = Client()
    session = client.begin()
    fields = {**SSE, **within(session), "MCP-Protocol-Version": "1900-01-01"}
    assert fault(client.head(method, "/mcp", fields))[0] == 400


# -- requests, notifications, answers ---------------------------------------------------


def test_a_request_becomes_an_exchange_of_its_session() -> None:
    client = Client()
    session = client.begin()
    start = client.call(session, request_id="a")
    assert [message.id for message in start.messages] == ["a"]
    assert (start.era, start.session) == ("legacy", session)
    assert list(session.exchanges.values()) == [start.writer]
    client.end(start)
    assert session.exchanges == {}


def test_two_exchanges_of_a_session_may_use_the_same_id() -> None:
    client = Client()
    session = client.begin()
    first, second = client.call(session), client.call(session)
    assert first.writer.name != second.writer.name
    assert heard(*second.writer.send(Response(1, {"n": 2})).events).json == result(1, {"n": 2})
    client.end(second)
    assert heard(*first.writer.send(Response(1, {"n": 1})).events).json == result(1, {"n": 1})
    client.end(first)


def test_a_notification_goes_to_the_sessions_channel_and_gets_202_without_a_body() -> None:
    client = Client()
    session = client.begin()
    verdict = client.say(session, note("notifications/initialized"))
    assert verdict.reply == Reply(202)
    assert verdict.session is session
    [delivery] = verdict.deliveries
    assert (delivery.exchange, delivery.cancels) == (None, None)
    assert same(delivery.message, note("notifications/initialized"))


def test_a_late_or_unknown_answer_is_accepted_and_counted() -> None:
    client = Client()
    session = client.begin()
    for body in (
        result(),
        result("x"),
        {"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": ""}},
    ):
        verdict = client.say(session, body)
        assert (verdict.deliveries, verdict.reply.status) == ((), 202)
    assert session.ignored["answer"] == 3


def test_the_answers_to_colliding_requests_find_their_exchanges() -> None:
    client = Client()
    session = client.begin()
    exchanges = [client.call(session, request_id=number) for number in (1, 2)]
    asked = [
        a(Request, heard(*start.writer.send(Request(1, "roots/list")).events).messages[0])
        for start in exchanges
    ]
    session.standalone.send(Request(1, "ping"))
    assert asked[0].id != asked[1].id
    for request, start in reversed(list(zip(asked, exchanges, strict=True))):
        [delivery] = client.say(session, result(request.id)).deliveries
        assert same(delivery.message, result(1))
        assert delivery.exchange is start.writer


def test_an_error_answer_finds_its_exchange_too() -> None:
    client = Client()
    session = client.begin()
    start = client.call(session)
    start.writer.send(Request("q", "roots/list"))
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no"}}
    [delivery] = client.say(session, error).deliveries
    assert same(delivery.message, {**error, "id": "q"})


def test_the_answer_to_what_an_ended_exchange_asked_goes_nowhere() -> None:
    client = Client()
    session = client.begin()
    start = client.call(session)
    start.writer.send(Request(1, "roots/list"))
    start.writer.send(Response(1, {}))
    client.end(start)
    assert client.say(session, result()).deliveries == ()
    assert len(session.asked) == 0


def test_answers_can_go_to_the_sessions_channel_in_place_of_the_exchanges() -> None:
    client = Client()
    session = client.begin()
    start = client.call(session)
    start.writer.answers_to_session = True
    start.writer.send(Request(1, "roots/list"))
    [delivery] = client.say(session, result()).deliveries
    assert delivery.exchange is None


def test_a_cancellation_finds_the_exchange_by_its_request() -> None:
    client = Client()
    session = client.begin()
    client.call(session, request_id=1)
    start = client.call(session, request_id="1")
    body = note("notifications/cancelled", {"requestId": "1"})
    [delivery] = client.say(session, body).deliveries
    assert (delivery.exchange, delivery.cancels) == (start.writer, "1")
    assert same(delivery.message, body)


@pytest.mark.parametrize(
    "params", [None, {}, {"requestId": None}, {"requestId": 1.5}, {"requestId": 2}, []]
)
def test_a_cancellation_of_nothing_is_ignored_and_counted(params: object) -> None:
    client = Client()
    session = client.begin()
    client.call(session)
    body = {**note("notifications/cancelled"), "params": params}
    if params is None:
        del body["params"]
    assert client.say(session, body).deliveries == ()
    assert session.ignored["cancelled"] == 1


def test_a_cancellation_that_could_mean_either_of_two_is_ignored_and_counted() -> None:
    client = Client()
    session = client.begin()
    first, second = client.call(session), client.call(session)
    body = note("notifications/cancelled", {"requestId": 1})
    assert client.say(session, body).deliveries == ()
    assert session.ignored["ambiguous cancelled"] == 1
    first.writer.send(Response(1, {}))
    [delivery] = client.say(session, body).deliveries
    assert delivery.exchange is second.writer


def test_a_cancelled_request_ends_its_stream_without_an_answer() -> None:
    client = Client()
    session = client.begin()
    start = client.call(session)
    answered = heard(*start.writer.cancel(1).events)
    assert (answered.status, answered.messages, answered.complete) == (200, [], True)
    assert answered.is_stream
    assert start.writer.send(Response(1, {})).events == ()


def test_the_end_of_one_of_two_exchanges_with_one_id_leaves_the_other() -> None:
    client = Client()
    session = client.begin()
    first, second = client.call(session), client.call(session)
    client.end(first)
    body = note("notifications/cancelled", {"requestId": 1})
    [delivery] = client.say(session, body).deliveries
    assert delivery.exchange is second.writer


def test_progress_finds_the_exchange_by_its_token_with_the_token_as_it_was() -> None:
    client = Client()
    session = client.begin()
    start = client.call(session)
    other = client.call(session)
    params = {"_meta": {"progressToken": "t"}, "x": 1}
    tokens = []
    for exchange in (start, other):
        answered = heard(*exchange.writer.send(Request(1, "sampling/createMessage", params)).events)
        sent = a(Request, answered.messages[0]).params_as(dict[str, object])
        assert sent["x"] == 1
        tokens.append(sent["_meta"]["progressToken"])  # type: ignore[index]
    assert tokens[0] != tokens[1]
    progress = note("notifications/progress", {"progressToken": tokens[1], "progress": 1})
    [delivery] = client.say(session, progress).deliveries
    assert delivery.exchange is other.writer
    expected = note("notifications/progress", {"progressToken": "t", "progress": 1})
    assert same(delivery.message, expected)


@pytest.mark.parametrize("params", [{}, {"progressToken": "t"}, {"progressToken": 5}])
def test_progress_of_nothing_is_ignored_and_counted(params: dict[str, object]) -> None:
    client = Client()
    session = client.begin()
    assert client.say(session, note("notifications/progress", params)).deliveries == ()
    assert session.ignored["progress"] == 1


# -- without sessions -------------------------------------------------------------------


class TestStateless:
    """A server whose legacy clients get no session."""

    OPTIONS = HttpServerOptions(stateless=True)

    def test_initialize_opens_no_session_and_names_none(self) -> None:
        client = Client(self.OPTIONS)
        start = client.initialize()
        assert start.session is None
        answered = heard(*start.writer.send(initialized()).events)
        assert answered.headers is not None
        assert "mcp-session-id" not in answered.headers
        client.end(start)
        assert len(client.endpoint.sessions) == 0

    def test_its_answer_to_initialize_is_no_stream_before_the_result_either(self) -> None:
        start = Client(self.OPTIONS).initialize()
        assert start.writer.quiet().events == ()

    @pytest.mark.parametrize("session_id", [None, "whatever"])
    @pytest.mark.parametrize("method", ["initialize", "tools/list"])
    def test_no_request_needs_a_session(self, session_id: str | None, method: str) -> None:
        fields = {"Mcp-Session-Id": session_id}
        start = a(StartExchange, Client(self.OPTIONS).post(call(method, {}), fields))
        assert start.session is None

    @pytest.mark.parametrize(("header", "revision"), [(None, "2025-03-26"), (LATEST, LATEST)])
    def test_the_revision_is_that_of_the_header(self, header: str | None, revision: str) -> None:
        fields = {"MCP-Protocol-Version": header}
        start = a(StartExchange, Client(self.OPTIONS).post(call(), fields))
        assert start.revision == revision

    def test_nothing_can_be_asked(self) -> None:
        assert not a(StartExchange, Client(self.OPTIONS).post(call())).writer.can_ask

    def test_a_notification_is_handed_over_alone(self) -> None:
        verdict = a(Deliver, Client(self.OPTIONS).post(note("notifications/initialized")))
        assert (verdict.reply.status, verdict.session) == (202, None)
        assert len(verdict.deliveries) == 1

    def test_an_answer_is_accepted_and_goes_nowhere(self) -> None:
        verdict = a(Deliver, Client(self.OPTIONS).post(result()))
        assert (verdict.reply.status, verdict.deliveries) == (202, ())
