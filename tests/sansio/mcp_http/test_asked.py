"""Requests of the server to one client: renamed on the way out, known again on the way in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from trio_mcp_transport.jsonrpc import Notification, Request, RequestId, Response, encode_message
from trio_mcp_transport.sansio.mcp_http.asked import AskedRequests
from trio_mcp_transport.sansio.mcp_http.exchange import ExchangeWriter

pytestmark = pytest.mark.sansio


def exchange() -> ExchangeWriter:
    return ExchangeWriter([1], era="legacy", mode="auto")


def sent(asked: AskedRequests, message: Request, by: ExchangeWriter | None) -> dict[str, object]:
    data = asked.outgoing(message, encode_message(message), by)
    assert data is not None
    decoded: dict[str, object] = msgspec.json.decode(data)
    return decoded


IDS = st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=5))


@pytest.mark.properties
@given(st.lists(st.tuples(st.integers(0, 2), IDS), unique=True, max_size=20), st.randoms())
def test_every_answer_finds_who_asked_with_the_id_as_it_was(
    requests: list[tuple[int, RequestId]], random: object
) -> None:
    owners = [None, exchange(), exchange()]
    asked = AskedRequests()
    renamed = [
        (asked.rename(Request(own_id, "x"), owners[owner]).id, owner, own_id)
        for owner, own_id in requests
    ]
    assert len({new_id for new_id, _, _ in renamed}) == len(requests)
    random.shuffle(renamed)  # type: ignore[attr-defined]
    for new_id, owner, own_id in renamed:
        taken = asked.take_answer(Response(new_id, {}))
        assert taken is not None
        assert (taken[0].id, taken[1]) == (own_id, owners[owner])
        assert type(taken[0].id) is type(own_id)
        assert asked.take_answer(Response(new_id, {})) is None  # once
    assert len(asked) == 0


def test_nothing_but_the_id_and_the_token_is_changed() -> None:
    params = Raw(b'{"a": 1.50, "_meta": {"x": 1e3, "progressToken": "t"}, "b": [ ]}')
    data = AskedRequests().outgoing(Request("a", "m", params), b"", None)
    expected = b'{"a":1.50,"_meta":{"x":1e3,"progressToken":1},"b":[ ]}'
    assert data == b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % expected


@pytest.mark.parametrize("params", [{}, {"_meta": {}}, [1], {"_meta": {"progressToken": 1.5}}])
def test_params_without_a_good_token_go_out_as_they_are(params: object) -> None:
    assert sent(AskedRequests(), Request(1, "x", params), None)["params"] == params


def test_a_notification_goes_out_as_it_is() -> None:
    assert AskedRequests().outgoing(Notification("x"), b"its JSON", None) == b"its JSON"


def test_only_the_one_who_asked_can_take_it_back() -> None:
    asked = AskedRequests()
    mine, other = exchange(), exchange()
    asked.rename(Request(1, "x"), mine)
    cancel = Notification("notifications/cancelled", {"requestId": 1})
    assert asked.outgoing(cancel, b"", other) is None
    assert asked.outgoing(cancel, b"", None) is None
    assert asked.outgoing(cancel, b"", mine) is not None
    assert asked.take_answer(Response(1, {})) is None


@pytest.mark.parametrize("params", [{"requestId": None}, {"requestId": {}}, {}, [1]])
def test_a_cancellation_that_names_nothing_goes_nowhere(params: object) -> None:
    asked = AskedRequests()
    asked.rename(Request(1, "x"), None)
    cancel = Notification("notifications/cancelled", params)
    assert asked.outgoing(cancel, b"", None) is None
    assert asked.outgoing(Notification("notifications/cancelled"), b"", None) is None
    assert len(asked) == 1


def progress(token: object) -> Notification:
    return Notification("notifications/progress", {"progressToken": token, "progress": 1})


def test_a_token_is_good_until_the_answer() -> None:
    asked = AskedRequests()
    asked.rename(Request("a", "x", {"_meta": {"progressToken": 5}}), None)
    taken = asked.take_progress(progress(1))
    assert taken is not None
    assert taken[0].params_as(dict[str, object])["progressToken"] == 5
    asked.take_answer(Response(1, {}))
    assert asked.take_progress(progress(1)) is None


def test_the_token_of_a_task_outlives_the_answer() -> None:
    asked = AskedRequests()
    mine = exchange()
    params = {"_meta": {"progressToken": "t"}, "task": {"ttl": 1}}
    asked.rename(Request("a", "sampling/createMessage", params), mine)
    asked.take_answer(Response(1, {}))
    assert asked.take_progress(progress(1)) is not None
    asked.forget(mine)
    assert asked.take_progress(progress(1)) is None


def test_what_is_never_answered_is_forgotten_at_last() -> None:
    asked = AskedRequests()
    for number in range(1005):
        params = {"_meta": {"progressToken": "t"}, "task": {}}
        asked.rename(Request(number, "x", params), None)
    assert len(asked) == 1000
    assert asked.take_answer(Response(5, {})) is None
    assert asked.take_progress(progress(5)) is None
    assert asked.take_answer(Response(6, {})) is not None
    assert asked.take_progress(progress(6)) is not None


def test_an_exchange_that_is_over_is_forgotten_and_no_other() -> None:
    asked = AskedRequests()
    mine, other = exchange(), exchange()
    for owner in (mine, other, None):
        asked.rename(Request(1, "x", {"_meta": {"progressToken": 1}}), owner)
    asked.forget(mine)
    assert [asked.take_answer(Response(number, {})) is None for number in (1, 2, 3)] == [
        True,
        False,
        False,
    ]
