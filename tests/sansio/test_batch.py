"""Answers to a batch are held back until the last one, then sent as one array."""

from __future__ import annotations

import json

from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Notification,
    Request,
    Response,
    decode_batch,
)
from trio_mcp_transport.sansio.batch import BatchAnswers


def request(id_: int | str) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": id_, "method": "m"}


def add(answers: BatchAnswers, *items: object) -> tuple[list[object], bytes | None]:
    messages, payload = answers.add(decode_batch(json.dumps(items).encode()))
    return list(messages), payload


def cancel(id_: object) -> Notification:
    return Notification("notifications/cancelled", {"requestId": id_})


def test_the_array_comes_with_the_last_answer() -> None:
    answers = BatchAnswers()
    assert not answers
    messages, payload = add(answers, request(1), {"jsonrpc": "2.0", "method": "n"}, request("1"))
    assert messages == [Request(1, "m"), Notification("n"), Request("1", "m")]
    assert payload is None
    assert answers
    assert answers.answer(Response("1", {"x": 1})) is None
    done = answers.answer(ErrorResponse(1, ErrorObject(5, "no")))
    assert isinstance(done, bytes)
    assert [item["id"] for item in json.loads(done)] == ["1", 1]
    assert not answers


def test_other_messages_pass() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    assert answers.answer(Response(2, {})) is False
    assert answers.answer(Request(1, "m")) is False
    assert answers.answer(ErrorResponse(None, ErrorObject(1, "m"))) is False


def test_broken_items_are_answered_in_the_array() -> None:
    answers = BatchAnswers()
    messages, payload = add(answers, 5, request(1), {"jsonrpc": "1.0", "id": 3, "result": 1})
    assert messages == [Request(1, "m")]
    assert payload is None
    done = answers.answer(Response(1, {}))
    assert isinstance(done, bytes)
    assert [item["id"] for item in json.loads(done)] == [None, 1]


def test_only_broken_items_are_answered_at_once() -> None:
    messages, payload = add(BatchAnswers(), 5, 6)
    assert messages == []
    assert payload is not None
    assert len(json.loads(payload)) == 2


def test_a_batch_of_notifications_gets_no_answer() -> None:
    answers = BatchAnswers()
    messages, payload = add(answers, {"jsonrpc": "2.0", "method": "n"})
    assert (messages, payload) == ([Notification("n")], None)
    assert not answers


def test_an_id_in_flight_is_refused_and_the_first_untouched() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    messages, payload = add(answers, request(1))
    assert messages == []
    assert payload is not None
    assert json.loads(payload)[0]["error"]["message"] == "the id belongs to a request in flight"
    assert isinstance(answers.answer(Response(1, {})), bytes)


def test_a_cancelled_request_is_not_waited_for() -> None:
    answers = BatchAnswers()
    add(answers, request(1), request(2))
    assert answers.answer(Response(2, {})) is None
    done = answers.cancelled(cancel(1))
    assert done is not None
    assert [item["id"] for item in json.loads(done)] == [2]


def test_a_batch_that_was_cancelled_whole_gets_no_answer() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    assert answers.cancelled(cancel(1)) is None
    assert not answers


def test_a_cancel_of_something_else_changes_nothing() -> None:
    answers = BatchAnswers()
    add(answers, request(1))
    for odd in ("1", None, 1.5, [1]):
        assert answers.cancelled(cancel(odd)) is None
    assert answers.cancelled(Notification("notifications/cancelled", [1])) is None
    assert answers
