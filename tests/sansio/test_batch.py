"""Answers to a batch are held back until the last one, then sent as one array."""

from __future__ import annotations

import json

from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
    decode_batch,
)
from trio_mcp_transport.sansio.batch import BatchAnswers


def request(id_: int | str) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": id_, "method": "m"}


def add(answers: BatchAnswers, *items: object) -> tuple[list[Message], list[Message]]:
    return answers.add(decode_batch(json.dumps(items).encode()))


def ids(answers: list[Message] | None) -> list[object]:
    assert answers is not None
    return [answer.id for answer in answers if isinstance(answer, Response | ErrorResponse)]


def cancel(id_: object) -> Notification:
    return Notification("notifications/cancelled", {"requestId": id_})


def test_the_array_comes_with_the_last_answer() -> None:
    answers = BatchAnswers()
    assert not answers
    messages, payload = add(answers, request(1), {"jsonrpc": "2.0", "method": "n"}, request("1"))
    assert messages == [Request(1, "m"), Notification("n"), Request("1", "m")]
    assert payload == []
    assert answers
    assert answers.answer(Response("1", {"x": 1})) == []
    assert ids(answers.answer(ErrorResponse(1, ErrorObject(5, "no")))) == ["1", 1]
    assert not answers


def test_other_messages_pass() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    assert answers.answer(Response(2, {})) is None
    assert answers.answer(Request(1, "m")) is None
    assert answers.answer(ErrorResponse(None, ErrorObject(1, "m"))) is None


def test_broken_items_are_answered_in_the_array() -> None:
    answers = BatchAnswers()
    messages, payload = add(answers, 5, request(1), {"jsonrpc": "1.0", "id": 3, "result": 1})
    assert messages == [Request(1, "m")]
    assert payload == []
    assert ids(answers.answer(Response(1, {}))) == [None, 1]


def test_only_broken_items_are_answered_at_once() -> None:
    messages, payload = add(BatchAnswers(), 5, 6)
    assert messages == []
    assert ids(payload) == [None, None]


def test_a_batch_of_notifications_gets_no_answer() -> None:
    answers = BatchAnswers()
    messages, payload = add(answers, {"jsonrpc": "2.0", "method": "n"})
    assert (messages, payload) == ([Notification("n")], [])
    assert not answers


def test_an_id_in_flight_is_refused_and_the_first_untouched() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    messages, payload = add(answers, request(1))
    assert messages == []
    (refused,) = payload
    assert isinstance(refused, ErrorResponse)
    assert refused.error.message == "the id belongs to a request in flight"
    assert ids(answers.answer(Response(1, {}))) == [1]


def test_a_cancelled_request_is_not_waited_for() -> None:
    answers = BatchAnswers()
    add(answers, request(1), request(2))
    assert answers.answer(Response(2, {})) == []
    assert ids(answers.cancelled(cancel(1))) == [2]


def test_a_batch_that_was_cancelled_whole_gets_no_answer() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    assert answers.cancelled(cancel(1)) == []
    assert not answers


def test_a_cancel_of_something_else_changes_nothing() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    for odd in ("1", None, 1.5, [1]):
        assert answers.cancelled(cancel(odd)) == []
    assert answers.cancelled(Notification("notifications/cancelled", [1])) == []
    assert answers
