"""The answer to one POST: document or stream, which status, and when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from http_endpoint import LATEST, heard, result, same
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import LocalProtocolError, MethodNotFound
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
    encode_message,
)
from trio_mcp_transport.sansio.eras import Era
from trio_mcp_transport.sansio.http1 import ResponseEvent
from trio_mcp_transport.sansio.mcp_http.exchange import ExchangeWriter, status_of
from trio_mcp_transport.sansio.mcp_http.options import ResponseMode
from trio_mcp_transport.sansio.mcp_http.sessions import SessionRecord
from trio_mcp_transport.sansio.mcp_http.streams import NOTHING, EventRecord, Replay, Step
from trio_mcp_transport.sansio.sse import SseComment

pytestmark = pytest.mark.sansio

PROGRESS = Notification("notifications/progress", {"progress": 1})
DONE = Response(1, {})


def modern(mode: ResponseMode = "auto", *, accepts_json: bool = True) -> ExchangeWriter:
    return ExchangeWriter([1], era="modern", mode=mode, accepts_json=accepts_json)


def legacy(
    mode: ResponseMode = "auto",
    *,
    revision: str = LATEST,
    resumable: bool = True,
    kind: Literal["streamable", "sse"] = "streamable",
) -> ExchangeWriter:
    session = SessionRecord("id", None, kind=kind, resumable=resumable)
    session.open(revision)
    writer = ExchangeWriter([1], era="legacy", mode=mode, session=session)
    session.begin(writer)
    return writer


def error(code: int, cause: BaseException | None = None) -> ErrorResponse:
    return ErrorResponse(1, ErrorObject(code, "no")).with_cause(cause)


# -- documents --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "json"])
@pytest.mark.parametrize("with_data", [True, False])
def test_a_result_alone_is_a_document_in_one_piece(mode: ResponseMode, with_data: bool) -> None:
    writer = modern(mode)
    whole = writer.answer(DONE, encode_message(DONE) if with_data else None)
    assert whole is not None
    head, body = whole
    assert (head.status, head.headers["content-type"]) == (200, "application/json")
    assert body == encode_message(DONE)
    assert (writer.ended, writer.lost) == (True, True)
    assert writer.answer(DONE) is None
    assert writer.send(DONE) is NOTHING
    assert writer.dropped == 1


def test_the_same_document_comes_as_events() -> None:
    answered = heard(*modern().send(DONE).events)
    assert (answered.status, answered.json, answered.complete) == (200, result(), True)


def test_heads_of_documents_are_the_same_object_each_time() -> None:
    heads = {id(whole[0]) for _ in range(3) if (whole := modern().answer(DONE))}
    assert len(heads) == 1


@pytest.mark.parametrize(
    "message",
    [
        PROGRESS,
        Request(1, "ping"),
        Response(2, {}),
        Response("1", {}),
        ErrorResponse(None, ErrorObject(1, "x")),
    ],
)
def test_what_is_no_answer_makes_no_document(message: Message) -> None:
    writer = legacy()
    assert writer.answer(message) is None
    assert writer.waiting == {1: None}


@pytest.mark.parametrize(
    "message", [Response(2, {}), Response("1", {}), ErrorResponse(None, ErrorObject(1, "x"))]
)
def test_an_answer_to_another_request_is_dropped_and_counted(message: Message) -> None:
    writer = modern()
    assert writer.send(message) is NOTHING
    assert (writer.dropped, writer.ended) == (1, False)


# -- the status -------------------------------------------------------------------------

STATUSES: list[tuple[Era, ErrorResponse, int]] = [
    ("modern", error(-32601, MethodNotFound("x")), 404),
    ("modern", error(-32601), 200),
    ("modern", error(-32601, ValueError()), 200),
    ("modern", error(-32602), 200),
    ("modern", error(-32603), 200),
    ("modern", error(5), 200),
    ("modern", error(-32020), 400),
    ("modern", error(-32021), 400),
    ("modern", error(-32022), 400),
    ("legacy", error(-32601, MethodNotFound("x")), 200),
    ("legacy", error(-32022), 200),
]


@pytest.mark.parametrize(("era", "answer", "status"), STATUSES)
@pytest.mark.parametrize("mode", ["auto", "json"])
def test_an_errors_status_follows_from_its_cause(
    era: Era, answer: ErrorResponse, status: int, mode: ResponseMode
) -> None:
    assert status_of(answer, era) == status
    whole = ExchangeWriter([1], era=era, mode=mode).answer(answer)
    assert whole is not None
    assert whole[0].status == status
    answered = heard(*ExchangeWriter([1], era=era, mode=mode).send(answer).events)
    assert (answered.status, answered.body) == (status, whole[1])


@pytest.mark.parametrize("mode", ["sse", "auto"])
def test_an_error_with_a_status_is_a_document_even_where_streams_are_wanted(
    mode: ResponseMode,
) -> None:
    writer = modern(mode, accepts_json=False)
    assert heard(*writer.send(error(-32021)).events).status == 400
    whole = modern(mode, accepts_json=False).answer(error(-32601, MethodNotFound("x")))
    assert whole is not None
    assert whole[0].status == 404


def test_once_a_stream_has_begun_the_status_is_200() -> None:
    writer = modern()
    answered = heard(*writer.send(PROGRESS).events, *writer.send(error(-32021)).events)
    assert (answered.status, answered.complete) == (200, True)
    assert same(
        answered.messages[1],
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32021, "message": "no"}},
    )


# -- streams ----------------------------------------------------------------------------


def test_the_first_notification_makes_a_stream_that_the_result_ends() -> None:
    writer = modern()
    first = writer.send(PROGRESS)
    assert writer.streaming
    assert writer.answer(DONE) is None
    answered = heard(*first.events, *writer.send(DONE).events)
    assert [type(message) for message in answered.messages] == [Notification, Response]
    assert answered.complete
    assert answered.headers is not None
    assert answered.headers["x-accel-buffering"] == "no"
    assert "no-cache" in answered.headers["cache-control"]
    assert answered.ids == [None, None]


def test_several_messages_are_written_as_one() -> None:
    writer = modern()
    step = writer.send_many([PROGRESS, PROGRESS, DONE, PROGRESS])
    assert [type(event).__name__ for event in step.events] == [
        "ResponseHead",
        "BodyData",
        "EndOfBody",
    ]
    assert len(heard(*step.events).messages) == 3
    assert writer.dropped == 1  # what came after the result


def test_a_result_before_a_notification_is_still_a_document() -> None:
    writer = modern()
    assert heard(*writer.send_many([DONE, PROGRESS]).events).json == result()
    assert writer.dropped == 1


def test_where_streams_are_wanted_a_result_is_one() -> None:
    writer = modern("sse")
    assert writer.answer(DONE) is None
    answered = heard(*writer.send(DONE).events)
    assert answered.is_stream
    assert answered.complete


def test_where_documents_are_wanted_notifications_are_dropped_and_counted() -> None:
    writer = legacy("json")
    assert writer.send(PROGRESS) is NOTHING
    assert writer.quiet() is NOTHING
    assert (writer.dropped, writer.streaming, writer.can_ask) == (1, False, False)
    assert writer.answer(DONE) is not None


@pytest.mark.parametrize("mode", ["auto", "sse"])
def test_a_quiet_exchange_becomes_a_stream_once(mode: ResponseMode) -> None:
    writer = modern(mode)
    assert writer.keep_alive() == ()
    first = writer.quiet()
    assert writer.quiet() is NOTHING
    comment = writer.keep_alive()
    last = writer.send(DONE)
    assert writer.quiet() is NOTHING
    assert writer.keep_alive() == ()
    answered = heard(*first.events, *comment, *last.events)
    assert isinstance(answered.items[0], SseComment)
    assert (len(answered.messages), answered.complete) == (1, True)


def test_text_that_some_clients_take_for_line_ends_is_escaped() -> None:
    writer = modern()
    answered = heard(*writer.send(Notification("x", {"t": "\u2028\u2029\x85"})).events)
    assert b"\\u2028\\u2029\\u0085" in answered.body
    assert same(
        answered.messages[0], {"jsonrpc": "2.0", "method": "x", "params": {"t": "\u2028\u2029\x85"}}
    )


# -- the end ----------------------------------------------------------------------------


def test_what_the_handler_left_unanswered_is_an_internal_error() -> None:
    answered = heard(*modern().finish().events)
    assert answered.status == 200
    assert same_code(answered.json, -32603)


def same_code(body: object, code: int) -> bool:
    assert isinstance(body, dict)
    return (body["id"], body["error"]["code"]) == (1, code)


def test_a_stream_is_finished_with_the_error_too() -> None:
    writer = modern()
    answered = heard(*writer.send(PROGRESS).events, *writer.finish().events)
    assert answered.complete
    assert isinstance(answered.messages[-1], ErrorResponse)
    assert writer.finish() is NOTHING


def test_an_exchange_can_be_ended_without_an_answer() -> None:
    writer = modern()
    answered = heard(*writer.send(PROGRESS).events, *writer.end().events)
    assert (len(answered.messages), answered.complete) == (1, True)
    assert writer.end() is NOTHING
    assert writer.waiting == {}


def test_a_cancellation_of_another_request_does_nothing() -> None:
    writer = legacy()
    assert writer.cancel(2) is NOTHING
    assert writer.cancel("1") is NOTHING
    assert not writer.ended


def test_a_cancelled_stream_ends_and_is_marked_so_that_a_resumption_ends_too() -> None:
    writer = legacy()
    first = writer.send(PROGRESS)
    step = writer.cancel(1)
    assert step.finished
    assert heard(*first.events, *step.events).complete
    assert writer.send(DONE) is NOTHING


# -- requests of the server -------------------------------------------------------------


@pytest.mark.parametrize("answers_before", [False, True])
def test_a_request_goes_out_on_a_legacy_stream(answers_before: bool) -> None:
    writer = legacy()
    if answers_before:
        writer.send(PROGRESS)
    assert writer.can_ask
    assert writer.send(Request("x", "roots/list")).events


def test_a_modern_client_is_never_asked() -> None:
    writer = modern()
    with pytest.raises(LocalProtocolError):
        writer.send_many([PROGRESS, Request(1, "roots/list")])
    assert not writer.streaming  # nothing was done


def test_nobody_can_be_asked_once_the_answer_is_out_or_the_client_is_gone() -> None:
    answered, gone = legacy(), legacy(resumable=False)
    answered.send(DONE)
    gone.detach()
    for writer in (answered, gone):
        assert not writer.can_ask
        with pytest.raises(LocalProtocolError):
            writer.send(Request(1, "roots/list"))


def test_the_servers_own_cancellation_names_the_id_that_went_out() -> None:
    writer = legacy()
    writer.send(Request("first", "roots/list"))
    asked = heard(*writer.send(Request("mine", "roots/list")).events).messages[0]
    cancel = Notification("notifications/cancelled", {"requestId": "mine", "reason": "r"})
    sent = heard(*writer.send(cancel).events).messages[0]
    assert isinstance(asked, Request)
    expected = {"requestId": asked.id, "reason": "r"}
    assert same(sent, {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": expected})
    assert writer.send(cancel) is NOTHING  # it is no longer asked
    assert writer.dropped == 1


# -- connections that are lost or closed ------------------------------------------------


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("mode", ["auto", "sse", "json"])
def test_an_exchange_whose_client_went_away_before_anything_came_is_lost(
    resumable: bool, mode: ResponseMode
) -> None:
    writer = legacy(mode, resumable=resumable)
    writer.detach()
    assert writer.lost
    assert writer.quiet() is NOTHING
    assert writer.send(PROGRESS) is NOTHING
    assert writer.close_connection(1) is NOTHING if writer.can_close_connection else True
    assert writer.answer(DONE) is None
    assert writer.send(DONE) is NOTHING  # and nothing is stored that nobody can ask for
    assert (writer.ended, writer.dropped) == (True, 2)


def test_a_stream_that_cannot_be_resumed_is_lost_with_its_connection() -> None:
    writer = legacy(resumable=False)
    writer.send(PROGRESS)
    writer.detach()
    assert writer.lost
    assert writer.send_many([PROGRESS, DONE]) is NOTHING
    assert (writer.ended, writer.dropped) == (True, 2)


def test_a_lost_stream_can_be_ended() -> None:
    writer = legacy(resumable=False)
    writer.send(PROGRESS)
    writer.detach()
    assert writer.cancel(1) is NOTHING
    assert writer.ended


def test_a_stream_that_can_be_resumed_goes_on_without_a_connection() -> None:
    writer = legacy()
    first = writer.send(PROGRESS)
    assert first.records == (EventRecord(1, b""), EventRecord(2, encode_message(PROGRESS)))
    writer.detach()
    assert (writer.attached, writer.lost, writer.can_ask) == (False, False, True)
    assert writer.keep_alive() == ()
    step = writer.send(PROGRESS)
    assert (len(step.records), step.events, step.finished) == (1, (), False)
    last = writer.send(DONE)
    assert (len(last.records), last.events, last.finished) == (1, (), True)
    resumed = writer.attach(Replay((*step.records, *last.records), finished=True))
    answered = heard(*resumed.events)
    assert (len(answered.messages), answered.complete) == (2, True)


def test_the_client_is_primed_before_anything_is_said() -> None:
    writer = legacy()
    answered = heard(*writer.quiet().events)
    assert [(event.id, event.data) for event in answered.events] == [("1-1", b"")]


@pytest.mark.parametrize("revision", ["2025-06-18", "2025-03-26"])
def test_older_clients_are_not_primed_but_their_events_have_ids(revision: str) -> None:
    writer = legacy(revision=revision)
    answered = heard(*writer.quiet().events, *writer.send(PROGRESS).events)
    assert answered.ids == ["1-1"]
    assert not writer.can_close_connection
    with pytest.raises(LocalProtocolError):
        writer.close_connection(1)


def test_a_closed_connection_ends_with_how_long_to_wait_but_the_stream_goes_on() -> None:
    writer = legacy("json")
    step = writer.close_connection(0.25)
    answered = heard(*step.events)
    assert answered.complete
    assert [(event.id, event.data) for event in answered.events] == [("1-1", b""), ("1-1", None)]
    assert answered.events[1].retry == 250
    assert (writer.ended, writer.attached, writer.streaming) == (False, False, True)
    assert writer.close_connection(1) is NOTHING
    stored = writer.send(DONE)
    assert stored.records == (EventRecord(2, encode_message(DONE)),)
    assert heard(*writer.attach(Replay(stored.records, finished=True)).events).ids == ["1-2"]


def test_a_stream_that_is_open_already_is_closed_without_priming_again() -> None:
    writer = legacy()
    first = writer.send(PROGRESS)
    answered = heard(*first.events, *writer.close_connection(1).events)
    assert answered.ids == ["1-1", "1-2", "1-2"]
    assert writer.streaming


def test_a_modern_stream_cannot_be_closed_and_come_back() -> None:
    with pytest.raises(LocalProtocolError):
        modern().close_connection(1)


def test_a_client_that_comes_back_takes_the_stream_from_its_half_open_connection() -> None:
    writer = legacy()
    writer.send(PROGRESS)
    resumed = writer.attach(Replay((EventRecord(2, encode_message(PROGRESS)),)))
    answered = heard(*resumed.events, *writer.send(DONE).events)
    assert (answered.ids, answered.complete) == (["1-2", "1-3"], True)


# -- whatever happens -------------------------------------------------------------------

ACTS = [
    "note", "ask", "answer", "late", "quiet", "alive",
    "close", "detach", "attach", "cancel", "finish", "end",
]  # fmt: skip


class Scene:
    """A writer, an event store and a client that may go away and come back."""

    def __init__(self, writer: ExchangeWriter) -> None:
        self.writer = writer
        self.stored: list[EventRecord] = []
        self.finished = False
        self.connections: list[list[ResponseEvent]] = [[]]

    @property
    def seen(self) -> list[int]:
        """Numbers of the events that the client saw, over all its connections."""
        answers = [heard(*events) for events in self.connections]
        events = [event for answered in answers if answered.is_stream for event in answered.events]
        return [
            int(event.id.split("-")[1]) for event in events if event.id and event.data is not None
        ]

    def act(self, name: str) -> Step | None:
        """Do one thing, if it is possible at the moment."""
        writer = self.writer
        if name == "detach":
            writer.detach()
        elif name == "alive":
            self.connections[-1] += writer.keep_alive()
        elif name == "attach" and self.seen:
            missed = [record for record in self.stored if record.number > self.seen[-1]]
            step = writer.attach(Replay(tuple(missed), self.finished))
            self.connections.append([])
            return step
        elif name == "ask" and writer.can_ask:
            return writer.send(Request(1, "ping"))
        elif name == "close" and writer.can_close_connection:
            return writer.close_connection(1)
        elif name in {"note", "answer", "late"}:
            says: dict[str, Message] = {"note": PROGRESS, "answer": DONE, "late": Response(9, {})}
            return writer.send(says[name])
        elif name in {"quiet", "finish", "end"}:
            step_of: Callable[[], Step] = getattr(writer, name)
            return step_of()
        elif name == "cancel":
            return writer.cancel(1)
        return None


@pytest.mark.properties
@given(
    acts=st.lists(st.sampled_from(ACTS), max_size=14),
    mode=st.sampled_from(["auto", "sse", "json"]),
    revision=st.sampled_from([None, LATEST, "2025-06-18"]),
    resumable=st.booleans(),
    accepts_json=st.booleans(),
)
def test_each_connection_gets_one_legal_response_and_no_event_is_lost_or_doubled(
    acts: list[str],
    mode: ResponseMode,
    revision: str | None,
    resumable: bool,
    accepts_json: bool,
) -> None:
    """Whatever an adapter does, in whatever order."""
    if revision is None:
        writer = modern(mode, accepts_json=accepts_json)
    else:
        writer = legacy(mode, revision=revision, resumable=resumable)
    scene = Scene(writer)
    for name in acts:
        attached = writer.attached
        step = scene.act(name)
        if step is not None:
            assert attached or name == "attach" or not step.events
            assert not scene.finished or not (step.records or step.finished)
            scene.stored += step.records
            scene.finished = scene.finished or step.finished
            scene.connections[-1] += step.events
    numbers = [record.number for record in scene.stored]
    assert numbers == list(range(1, len(numbers) + 1))
    seen = scene.seen
    assert seen == numbers[: len(seen)]
    if writer.attached:
        assert seen == numbers
        assert heard(*scene.connections[-1]).complete == writer.ended
    if writer.ended:
        assert writer.waiting == {}
        assert scene.finished == (writer.numbered and bool(numbers)) or not numbers
    assert not scene.finished or writer.ended
