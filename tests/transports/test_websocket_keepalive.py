"""When a WebSocket peer is pinged, and when it counts as gone: the decisions alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from trio_mcp_transport.transports.websocket_keepalive import GONE, Arrivals, KeepAlive

pytestmark = pytest.mark.websocket

NOTHING = Arrivals(0, 0, False)
SLICE = 64 * 1024


def counting() -> Callable[[int], bytes]:
    made = iter(range(1000))
    return lambda size: next(made).to_bytes(size, "big")


def make(interval: float = 30.0, timeout: float = 20.0) -> KeepAlive:
    return KeepAlive(interval, timeout, 0.0, counting())


def halfway(total: int, messages: int = 0) -> Arrivals:
    return Arrivals(total, messages, True)


def test_nothing_is_to_be_done_before_it_is_due() -> None:
    alive = make()
    assert alive.due == pytest.approx(30.0)
    assert alive.look(29.9, NOTHING) == b""
    assert alive.look(30.0, NOTHING) == b"\0\0\0\0"
    assert alive.due == pytest.approx(50.0)
    assert alive.look(49.9, NOTHING) == b""


def test_the_next_ping_comes_at_its_time_whenever_the_pong_came() -> None:
    alive = make()
    for number in range(3):
        payload = alive.look(30.0 * (number + 1), NOTHING)
        assert isinstance(payload, bytes)
        assert alive.pong(payload)
        assert alive.due == pytest.approx(30.0 * (number + 2))


def test_only_the_pong_to_the_last_ping_counts() -> None:
    alive = make()
    assert not alive.pong(b"\0\0\0\0")
    first = alive.look(30.0, NOTHING)
    assert isinstance(first, bytes)
    assert not alive.pong(b"")
    assert not alive.pong(first + b"x")
    assert alive.pong(first)
    assert not alive.pong(first)
    alive.look(60.0, NOTHING)
    assert not alive.pong(first)
    assert alive.look(80.0, NOTHING) is GONE
    assert alive.due == math.inf


def test_whole_messages_are_no_answer_however_many() -> None:
    alive = make()
    alive.look(30.0, NOTHING)
    assert alive.look(50.0, Arrivals(10**9, 10**6, False)) is GONE


def test_one_message_that_moves_on_may_be_finished_and_no_other() -> None:
    alive = make()
    alive.look(30.0, halfway(0))
    assert alive.look(50.0, halfway(SLICE)) == b""
    assert alive.due == pytest.approx(70.0)
    assert alive.look(70.0, halfway(2 * SLICE)) == b""
    assert alive.look(90.0, halfway(9 * SLICE, messages=1)) is GONE


def test_a_message_that_trickles_does_not_count() -> None:
    alive = make()
    alive.look(30.0, halfway(0))
    assert alive.look(50.0, halfway(SLICE - 1)) is GONE


def test_the_next_ping_may_be_delayed_by_a_message_again() -> None:
    alive = make()
    first = alive.look(30.0, halfway(0))
    assert alive.look(50.0, halfway(SLICE)) == b""
    assert isinstance(first, bytes)
    assert alive.pong(first)
    assert alive.look(60.0, Arrivals(SLICE, 1, False)) not in {b"", GONE}
    assert alive.look(80.0, halfway(2 * SLICE, messages=2)) == b""


def test_a_ping_that_has_not_left_is_not_waited_for() -> None:
    alive = make()
    alive.look(30.0, NOTHING)
    assert alive.look(50.0, NOTHING, ping_taken=False) == b""
    assert alive.due == pytest.approx(70.0)
    assert alive.look(70.0, NOTHING) is GONE


def test_the_time_in_which_nobody_read_does_not_count() -> None:
    alive = make()
    payload = alive.look(30.0, NOTHING)
    alive.paused(100.0)
    assert alive.look(149.0, NOTHING) == b""
    assert isinstance(payload, bytes)
    assert alive.pong(payload)


def test_infinity_switches_off() -> None:
    assert make(interval=math.inf).due == math.inf
    alive = make(timeout=math.inf)
    assert alive.look(30.0, NOTHING)
    assert alive.due == math.inf
