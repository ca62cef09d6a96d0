"""Ids and progress tokens between clients that do not know of each other and one child."""

from __future__ import annotations

import pytest
from msgspec import Raw

from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
    decode_message,
)
from trio_mcp_transport.limits import MAX_ABANDONED_IDS
from trio_mcp_transport.sansio.mcp_http.bridge_ids import ChildTable

pytestmark = pytest.mark.sansio

SUBSCRIPTION = '"io.modelcontextprotocol/subscriptionId"'


def message(text: str) -> Message:
    return decode_message(text.encode())


def request(text: str) -> Request:
    found = message('{"jsonrpc":"2.0",' + text + "}")
    assert isinstance(found, Request)
    return found


def notification(text: str) -> Notification:
    found = message('{"jsonrpc":"2.0",' + text + "}")
    assert isinstance(found, Notification)
    return found


def raw(value: object) -> str:
    assert isinstance(value, Raw)
    return bytes(value).decode()


def test_the_same_id_of_two_clients_is_two_for_the_child() -> None:
    table: ChildTable[str] = ChildTable()
    first = table.pass_request("a", request('"id":1,"method":"m"'))
    second = table.pass_request("b", request('"id":1,"method":"m"'))
    third = table.pass_request("b", request('"id":"1","method":"m"'))
    assert len({first.id, second.id, third.id}) == 3
    for renamed, origin, own in ((third, "b", "1"), (first, "a", 1), (second, "b", 1)):
        answer = table.route_answer(Response(renamed.id, Raw(b'{"x":1}')))
        assert answer is not None
        passed, told = answer
        assert (passed.origin, told.id, type(told.id)) == (origin, own, type(own))
    assert len(table) == 0


def test_params_pass_byte_for_byte_but_for_the_token() -> None:
    table: ChildTable[str] = ChildTable()
    odd = '{ "b" : 1e400 ,"a":"\\u00e9" }'
    assert (
        raw(table.pass_request("a", request(f'"id":1,"method":"m","params":{odd}')).params) == odd
    )
    renamed = table.pass_request(
        "a",
        request(
            '"id":"x","method":"m","params":{ "_meta" : {"k": 1, "progressToken":"T"} , "z":2}'
        ),
    )
    assert raw(renamed.params) == (
        f'{{ "_meta" : {{"k": 1, "progressToken":{renamed.id}}} , "z":2}}'
    )
    answer = table.route_answer(ErrorResponse(renamed.id, ErrorObject(1, "no")))
    assert answer is not None
    assert answer[1] == ErrorResponse("x", ErrorObject(1, "no"))


@pytest.mark.parametrize("token", ['"T"', "7", '"7"'])
def test_progress_finds_its_request_and_gets_its_token_back(token: str) -> None:
    table: ChildTable[str] = ChildTable()
    ids = [
        table.pass_request(
            origin, request(f'"id":1,"method":"m","params":{{"_meta":{{"progressToken":{token}}}}}')
        ).id
        for origin in ("a", "b")
    ]
    for new_id, origin in zip(ids, ("a", "b"), strict=True):
        told = f'"params":{{"progress": 1, "progressToken":{new_id}}}'
        routed = table.route_notification(notification(f'"method":"notifications/progress",{told}'))
        assert routed is not None
        assert routed.passed is not None
        assert routed.passed.origin == origin
        assert raw(routed.message.params) == f'{{"progress": 1, "progressToken":{token}}}'


@pytest.mark.parametrize("token", ["99", '"T"', '"1"', "null", "[1]"])
def test_progress_of_nobody_is_dropped_and_counted(token: str) -> None:
    table: ChildTable[str] = ChildTable()
    table.pass_request("a", request('"id":1,"method":"m","params":{"_meta":{}}'))
    told = notification(f'"method":"notifications/progress","params":{{"progressToken":{token}}}')
    assert table.route_notification(told) is None
    assert table.dropped == 1


def test_progress_after_the_answer_is_dropped_unless_it_is_a_task() -> None:
    table: ChildTable[str] = ChildTable()
    plain = table.pass_request(
        "a", request('"id":1,"method":"m","params":{"_meta":{"progressToken":5}}')
    )
    task = table.pass_request(
        "a", request('"id":2,"method":"m","params":{"task":{},"_meta":{"progressToken":"t"}}')
    )
    for renamed in (plain, task):
        assert table.route_answer(Response(renamed.id, Raw(b"{}"))) is not None
    for renamed, expected in ((plain, None), (task, '{"progressToken":"t"}')):
        routed = table.route_notification(
            notification(
                f'"method":"notifications/progress","params":{{"progressToken":{renamed.id}}}'
            )
        )
        assert (None if routed is None else raw(routed.message.params)) == expected


def test_a_cancel_names_the_request_as_the_child_knows_it() -> None:
    table: ChildTable[str] = ChildTable()
    mine = table.pass_request("a", request('"id":1,"method":"m"'))
    theirs = table.pass_request("b", request('"id":1,"method":"m"'))
    cancel = notification(
        '"method":"notifications/cancelled","params":{"reason":"x", "requestId": 1}'
    )
    passed = table.pass_notification("b", cancel)
    assert passed is not None
    assert raw(passed.params) == f'{{"reason":"x", "requestId": {theirs.id}}}'
    # A late answer is nobody's; the other client's request is untouched.
    assert table.route_answer(Response(theirs.id, Raw(b"{}"))) is None
    assert table.route_answer(Response(mine.id, Raw(b"{}"))) is not None
    assert table.pass_notification("b", cancel) is None


@pytest.mark.parametrize("wrong", ['"1"', "2", "null", "{}"])
def test_a_cancel_of_what_is_not_in_flight_is_not_passed_on(wrong: str) -> None:
    table: ChildTable[str] = ChildTable()
    table.pass_request("a", request('"id":1,"method":"m"'))
    cancel = notification(f'"method":"notifications/cancelled","params":{{"requestId":{wrong}}}')
    assert table.pass_notification("a", cancel) is None
    assert table.pass_notification("a", notification('"method":"notifications/cancelled"')) is None


def test_other_notifications_pass_as_they_are() -> None:
    table: ChildTable[str] = ChildTable()
    told = notification('"method":"notifications/roots/list_changed"')
    assert table.pass_notification("a", told) is told
    routed = table.route_notification(told)
    assert routed is not None
    assert routed.message is told
    assert routed.passed is None


def test_a_subscription_keeps_its_id_in_notifications_cancel_and_result() -> None:
    table: ChildTable[str] = ChildTable()
    listen = table.pass_request("a", request('"id":"L","method":"subscriptions/listen"'))
    meta = f'"_meta":{{{SUBSCRIPTION}:%s}}'
    routed = table.route_notification(
        notification(f'"method":"notifications/tools/list_changed","params":{{{meta % listen.id}}}')
    )
    assert routed is not None
    assert routed.passed is not None
    assert raw(routed.message.params) == "{" + meta % '"L"' + "}"
    routed = table.route_notification(
        notification(f'"method":"notifications/cancelled","params":{{"requestId":{listen.id}}}')
    )
    assert routed is not None
    assert raw(routed.message.params) == '{"requestId":"L"}'
    result = Raw(f'{{"resultType":"complete",{meta % listen.id}}}'.encode())
    answer = table.route_answer(Response(listen.id, result))
    assert answer is not None
    assert isinstance(answer[1], Response)
    assert raw(answer[1].result) == '{"resultType":"complete",' + meta % '"L"' + "}"
    after = notification(f'"method":"notifications/x","params":{{{meta % listen.id}}}')
    assert table.route_notification(after) is None


def test_only_what_the_child_has_asked_may_be_answered() -> None:
    table: ChildTable[str] = ChildTable()
    table.ask(request('"id":"q","method":"roots/list"'), "a")
    assert not table.accept_answer(Response("other", Raw(b"{}")))
    assert not table.accept_answer(ErrorResponse(None, ErrorObject(1, "x")))
    assert table.accept_answer(Response("q", Raw(b"{}")))
    assert not table.accept_answer(Response("q", Raw(b"{}")))
    assert table.dropped == 3


def test_the_child_may_take_back_what_it_has_asked() -> None:
    table: ChildTable[str] = ChildTable()
    table.ask(request('"id":5,"method":"roots/list"'), "a")
    cancel = notification('"method":"notifications/cancelled","params":{"requestId":5}')
    routed = table.route_notification(cancel)
    assert routed is not None
    assert routed.message is cancel
    assert not table.accept_answer(Response(5, Raw(b"{}")))
    assert not table.give_up_asking(5)


def test_a_child_may_not_ask_without_end() -> None:
    table: ChildTable[str] = ChildTable()
    for number in range(MAX_ABANDONED_IDS):
        assert table.ask(request(f'"id":{number},"method":"roots/list"'), "a")
    one_more = request('"id":"q","method":"roots/list"')
    assert not table.ask(one_more, "a")
    assert not table.accept_answer(Response("q", Raw(b"{}")))
    assert table.accept_answer(Response(0, Raw(b"{}")))
    assert table.ask(one_more, "a")


def test_a_client_that_is_gone_leaves_nothing() -> None:
    table: ChildTable[str] = ChildTable()
    mine = table.pass_request("a", request('"id":1,"method":"m"'))
    theirs = table.pass_request("b", request('"id":1,"method":"m"'))
    table.ask(request('"id":"q","method":"roots/list"'), "a")
    assert table.forget("a") == ([mine.id], ["q"])
    assert table.forget("a") == ([], [])
    assert table.route_answer(Response(mine.id, Raw(b"{}"))) is None
    assert [passed.origin for passed in table.in_flight()] == ["b"]
    assert table.route_answer(Response(theirs.id, Raw(b"{}"))) is not None


def test_nothing_strange_travels_with_initialize_or_a_subscription() -> None:
    table: ChildTable[str] = ChildTable()
    for number, method in enumerate(("initialize", "subscriptions/listen", "a", "b")):
        table.pass_request("c", request(f'"id":{number},"method":"{method}"'))
    assert [passed.method for passed in table.candidates()] == ["a", "b"]
    assert len(table.in_flight()) == 4


@pytest.mark.parametrize("answer_id", ["1", 99, None])
def test_an_answer_to_nothing_is_dropped(answer_id: int | str | None) -> None:
    table: ChildTable[str] = ChildTable()
    table.pass_request("a", request('"id":1,"method":"m"'))
    assert table.route_answer(ErrorResponse(answer_id, ErrorObject(1, "x"))) is None
    assert table.dropped == 1
    assert len(table) == 1


def test_what_was_asked_of_a_client_that_left_needs_an_answer_of_the_bridge() -> None:
    table: ChildTable[str] = ChildTable()
    assert table.ask(request('"id":"q","method":"roots/list"'), "a")
    assert table.ask(request('"id":"r","method":"roots/list"'), "b")
    assert table.forget("a") == ([], ["q"])
    assert table.forget("a") == ([], [])
    assert not table.accept_answer(Response("q", Raw(b"{}")))
    assert table.accept_answer(Response("r", Raw(b"{}")))


def test_progress_that_nobody_asked_for_is_dropped() -> None:
    table: ChildTable[str] = ChildTable()
    passed = table.pass_request("a", request('"id":1,"method":"m"'))
    found = notification(
        f'"method":"notifications/progress","params":{{"progressToken":{passed.id},"progress":1}}'
    )
    assert table.route_notification(found) is None
    assert table.dropped == 1


def test_of_tasks_without_end_the_oldest_is_forgotten() -> None:
    table: ChildTable[str] = ChildTable()
    first = 0
    for number in range(MAX_ABANDONED_IDS + 1):
        passed = table.pass_request(
            "a",
            request(
                f'"id":{number},"method":"m",'
                '"params":{"task":{},"_meta":{"progressToken":"t"}}'
            ),
        )
        assert type(passed.id) is int
        first = first or passed.id
        table.route_answer(Response(passed.id, Raw(b"{}")))
    late = '"method":"notifications/progress","params":{"progressToken":%d,"progress":1}'
    assert table.route_notification(notification(late % first)) is None
    assert table.route_notification(notification(late % passed.id)) is not None


def test_the_tasks_of_a_client_that_left_are_forgotten() -> None:
    table: ChildTable[str] = ChildTable()
    text = '"id":1,"method":"m","params":{"task":{},"_meta":{"progressToken":"t"}}'
    passed = table.pass_request("a", request(text))
    table.route_answer(Response(passed.id, Raw(b"{}")))
    table.forget("a")
    late = '"method":"notifications/progress","params":{"progressToken":%s,"progress":1}'
    assert table.route_notification(notification(late % passed.id)) is None
