"""The event store in memory: what it keeps, what it forgets, and that it says so."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.stores.events import EventRecord, Replay
from trio_mcp_transport.stores.memory_events import MemoryEventStore

pytestmark = pytest.mark.sansio


def records(*numbers: int, size: int = 1) -> list[EventRecord]:
    return [EventRecord(number, b"x" * size) for number in numbers]


async def numbers(store: MemoryEventStore, session: str, stream: str, after: int) -> object:
    replay = await store.replay(session, stream, after)
    return None if replay is None else [record.number for record in replay.events]


async def test_what_followed_an_event_is_replayed_in_order() -> None:
    store = MemoryEventStore()
    await store.append("s", "1", records(1, 2))
    await store.append("s", "1", records(3))
    assert await store.replay("s", "1", 1) == Replay(tuple(records(2, 3)), finished=False)
    assert await numbers(store, "s", "1", 0) == [1, 2, 3]
    assert await numbers(store, "s", "1", 3) == []
    assert (len(store), store.size > 0) == (3, True)


@pytest.mark.parametrize(
    ("session", "stream", "after"), [("t", "1", 1), ("s", "2", 1), ("s", "1", 3)]
)
async def test_what_is_not_known_is_not_replayed(session: str, stream: str, after: int) -> None:
    store = MemoryEventStore()
    await store.append("s", "1", records(1, 2))
    assert await store.replay(session, stream, after) is None


async def test_sessions_and_streams_are_kept_apart() -> None:
    store = MemoryEventStore()
    for session, stream in (("s", "1"), ("s", "2"), ("t", "1")):
        await store.append(session, stream, [EventRecord(1, (session + stream).encode())])
    replay = await store.replay("s", "2", 0)
    assert replay is not None
    assert [record.data for record in replay.events] == [b"s2"]


async def test_a_finished_stream_says_so() -> None:
    store = MemoryEventStore()
    await store.append("s", "1", records(1))
    await store.finish("s", "1")
    await store.finish("s", "2")
    await store.finish("t", "1")
    assert await store.replay("s", "1", 1) == Replay((), finished=True)


async def test_a_dropped_session_is_gone() -> None:
    store = MemoryEventStore()
    await store.append("s", "1", records(1, 2))
    await store.append("t", "1", records(1))
    await store.drop("s")
    await store.drop("s")
    assert await store.replay("s", "1", 1) is None
    assert await numbers(store, "t", "1", 0) == [1]
    assert len(store) == 1


@pytest.mark.parametrize("bound", [{"max_events": 3}, {"max_bytes": 3 * 1200}])
async def test_over_a_bound_the_oldest_events_go_and_a_gap_is_not_replayed_over(
    bound: dict[str, int],
) -> None:
    store = MemoryEventStore(**bound)
    await store.append("s", "1", records(1, 2, size=1000))
    await store.append("t", "1", records(1, 2, size=1000))
    assert (len(store), store.forgotten) == (3, 1)
    assert await store.replay("s", "1", 0) is None
    assert await numbers(store, "s", "1", 1) == [2]
    await store.append("t", "1", records(3, 4, size=1000))
    assert await store.replay("s", "1", 1) is None
    assert await numbers(store, "s", "1", 2) == []  # nothing came after it
    assert await numbers(store, "t", "1", 1) == [2, 3, 4]


async def test_a_finished_stream_of_which_nothing_is_left_is_forgotten() -> None:
    store = MemoryEventStore(max_events=1)
    await store.append("s", "1", records(1))
    await store.finish("s", "1")
    await store.append("s", "2", records(1))
    assert await store.replay("s", "1", 1) is None
    assert await numbers(store, "s", "2", 0) == [1]


async def test_one_event_over_the_bound_is_not_kept() -> None:
    store = MemoryEventStore(max_bytes=1000)
    await store.append("s", "1", records(1, size=5000))
    assert (len(store), store.size, store.forgotten) == (0, 0, 1)


async def test_events_of_a_dropped_session_are_not_counted_against_the_others() -> None:
    store = MemoryEventStore(max_events=5)
    await store.append("t", "1", records(1))
    await store.append("s", "1", records(1, 2, 3, 4))
    await store.drop("t")
    await store.append("s", "1", records(5))
    assert store.forgotten == 0
    await store.append("s", "1", records(6))
    assert (len(store), store.forgotten) == (5, 1)
    assert await numbers(store, "s", "1", 1) == [2, 3, 4, 5, 6]


async def test_over_the_cap_the_session_that_was_silent_longest_goes() -> None:
    store = MemoryEventStore(max_sessions=2)
    for session in ("s", "t", "s", "u"):
        await store.append(session, "1", records(1))
    assert await store.replay("t", "1", 0) is None
    assert store.forgotten == 1
    assert len(store) == 3


async def test_sessions_that_come_and_go_leave_nothing() -> None:
    store = MemoryEventStore()
    await store.append("stays", "1", records(1))
    for number in range(1000):
        await store.append(str(number), "1", records(1, 2, 3))
        await store.drop(str(number))
    assert (len(store), store.size) == (1, 201)
    assert len(store._order) < 10


@pytest.mark.parametrize("name", ["max_bytes", "max_events", "max_sessions"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_bound_must_be_a_whole_number(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        MemoryEventStore(**{name: value})  # type: ignore[arg-type]  # that is the point


@pytest.mark.properties
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "append", "finish", "drop"]),
            st.sampled_from("stu"),
            st.sampled_from("12"),
            st.integers(1, 3),
        ),
        max_size=40,
    ),
    st.integers(1, 12),
    st.integers(1, 3),
)
def test_a_replay_is_whole_or_none_whatever_happened(
    acts: list[tuple[str, str, str, int]], max_events: int, max_sessions: int
) -> None:
    store = MemoryEventStore(max_events=max_events, max_sessions=max_sessions)
    last: dict[tuple[str, str], int] = {}

    async def play() -> None:
        for act, session, stream, count in acts:
            key = (session, stream)
            if act == "append":
                first = last.get(key, 0) + 1
                last[key] = first + count - 1
                await store.append(session, stream, records(*range(first, first + count)))
            elif act == "finish":
                await store.finish(session, stream)
            else:
                await store.drop(session)
            for (of, name), newest in last.items():
                for after in range(newest + 1):
                    found = await numbers(store, of, name, after)
                    assert found is None or found == list(range(after + 1, newest + 1))
            assert len(store) <= max_events
            assert store.size == 201 * len(store)

    trio.run(play)
