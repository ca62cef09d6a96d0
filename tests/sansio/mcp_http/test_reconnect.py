"""When a stream is taken up again: the server's word, else longer and longer, then never."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.sansio.mcp_http.reconnect import Reconnect

pytestmark = pytest.mark.sansio


def test_without_an_event_id_the_answer_to_a_post_cannot_be_taken_up() -> None:
    machine = Reconnect(needs_id=True)
    machine.event(None, None, is_new=True)
    assert machine.lost() is None


def test_a_standalone_stream_can_be_opened_anew_without_one() -> None:
    assert Reconnect(needs_id=False, first_delay=1).lost() == 1


def test_an_id_is_committed_even_without_data() -> None:
    machine = Reconnect(needs_id=True)
    machine.event("7", None, is_new=False)
    assert machine.last_event_id == "7"
    assert machine.lost() is not None


def test_an_empty_id_takes_it_back() -> None:
    machine = Reconnect(needs_id=True)
    machine.event("7", None, is_new=True)
    machine.event("", None, is_new=True)
    assert machine.last_event_id is None
    assert machine.lost() is None


def test_a_connection_that_says_no_id_leaves_the_old_one() -> None:
    machine = Reconnect(needs_id=True)
    machine.event("7", None, is_new=True)
    machine.lost()
    machine.event(None, None, is_new=True)
    assert machine.last_event_id == "7"
    assert machine.attempts == 1


def test_the_time_that_the_server_names_is_waited_exactly_each_time() -> None:
    machine = Reconnect(needs_id=False)
    machine.event(None, 1234, is_new=False)
    assert [machine.lost() for _ in range(3)] == [1.234] * 3
    machine.event(None, 0, is_new=False)
    assert machine.lost() == 0


def test_without_its_word_the_waits_grow_up_to_a_bound() -> None:
    machine = Reconnect(needs_id=False, max_attempts=7, first_delay=1, max_delay=10)
    assert [machine.lost() for _ in range(8)] == [1, 2, 4, 8, 10, 10, 10, None]


def test_only_a_new_event_begins_the_count_anew() -> None:
    machine = Reconnect(needs_id=True, max_attempts=2)
    machine.event("1", None, is_new=True)
    assert machine.lost() is not None
    machine.event("1", None, is_new=True)  # the same again
    machine.event(None, None, is_new=False)
    machine.event("1", 5, is_new=False)
    assert machine.lost() is not None
    assert machine.lost() is None
    machine.event("2", None, is_new=True)
    assert machine.attempts == 0
    assert machine.lost() is not None


def test_where_there_are_no_ids_data_is_what_is_new() -> None:
    machine = Reconnect(needs_id=False, max_attempts=1)
    assert machine.lost() is not None
    machine.event(None, None, is_new=False)
    assert machine.lost() is None
    machine.event(None, None, is_new=True)
    assert machine.lost() is not None


@given(
    st.lists(
        st.none() | st.tuples(st.none() | st.text(max_size=2), st.none() | st.integers(0, 10**6)),
        max_size=50,
    )
)
def test_it_never_waits_without_end_nor_tries_more_often_than_allowed(
    steps: list[tuple[str | None, int | None] | None],
) -> None:
    machine = Reconnect(needs_id=False, max_attempts=3, max_delay=30)
    for step in steps:
        if step is None:
            before = machine.attempts
            delay = machine.lost()
            assert (delay is None) == (before == 3)
        else:
            machine.event(step[0], step[1], is_new=False)
        assert 0 <= machine.attempts <= 3
