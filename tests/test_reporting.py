"""Reporting what no caller sees, and choosing what one does."""

from __future__ import annotations

import logging

import pytest

from trio_mcp_transport import reporting
from trio_mcp_transport.abc import ChannelEvent, ConnectionLost
from trio_mcp_transport.errors import ConnectFailed
from trio_mcp_transport.reporting import LogLimit, choose_failure, flatten, lone_exception, report

pytestmark = pytest.mark.connect

FIRST, SECOND = ValueError("first"), OSError("second")
INTERRUPT = KeyboardInterrupt()


@pytest.mark.parametrize(
    ("error", "chosen", "reported"),
    [
        (FIRST, FIRST, []),
        (INTERRUPT, INTERRUPT, []),
        (ExceptionGroup("", [FIRST]), FIRST, []),
        (ExceptionGroup("", [ExceptionGroup("", [FIRST]), SECOND]), FIRST, [SECOND]),
        (BaseExceptionGroup("", [FIRST, INTERRUPT, SECOND]), INTERRUPT, [FIRST, SECOND]),
    ],
)
def test_one_exception_stands_for_a_group_and_the_other_errors_are_reported(
    error: BaseException, chosen: BaseException, reported: list[BaseException]
) -> None:
    events: list[ChannelEvent] = []
    assert choose_failure(error, events.append) is chosen
    assert [(event.name, event.error) for event in events] == [
        ("task.failed", other) for other in reported
    ]


def test_a_failure_again_has_the_same_facts_and_is_chained_to_the_first() -> None:
    first = ConnectionLost("it died")
    first.exit_status = 3
    again = first.again()
    assert again is not first
    assert (str(again), again.exit_status) == ("it died", 3)
    assert again.__cause__ is first
    assert again.__suppress_context__


def test_groups_of_one_are_taken_off_and_larger_ones_stay() -> None:
    several = ExceptionGroup("", [FIRST, SECOND])
    assert lone_exception(FIRST) is FIRST
    assert lone_exception(ExceptionGroup("", [ExceptionGroup("", [FIRST])])) is FIRST
    assert lone_exception(BaseExceptionGroup("", [INTERRUPT])) is INTERRUPT
    assert lone_exception(ExceptionGroup("", [several])) is several


def test_a_group_is_flattened_in_order() -> None:
    nested = BaseExceptionGroup("", [FIRST, BaseExceptionGroup("", [INTERRUPT, SECOND])])
    assert list(flatten(nested)) == [FIRST, INTERRUPT, SECOND]


@pytest.mark.parametrize(
    ("error", "level", "traceback"),
    [
        (None, logging.WARNING, False),
        (ConnectFailed("refused"), logging.WARNING, False),
        (FIRST, logging.ERROR, True),
    ],
)
def test_an_event_without_a_handler_is_logged(
    error: BaseException | None,
    level: int,
    traceback: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    report(None, ChannelEvent(name="it.happened", message="here", error=error))
    (record,) = caplog.records
    assert record.getMessage() == "it.happened: here"
    assert record.levelno == level
    assert (record.exc_info is not None) == traceback


def test_an_event_with_a_handler_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    events: list[ChannelEvent] = []
    event = ChannelEvent(name="it.happened", message="here")
    report(events.append, event)
    assert events == [event]
    assert not caplog.records


def test_a_handler_of_events_that_fails_is_logged_and_so_is_the_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: ChannelEvent) -> None:
        raise FIRST

    report(fail, ChannelEvent(name="it.happened", message="here"))
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is FIRST


def test_of_a_flood_a_burst_is_logged_and_then_one_a_second() -> None:
    now = 0.0
    limit = LogLimit(lambda: now)
    assert [limit.admit("a") for _ in range(1000)] == [0] * 20 + [None] * 980
    assert limit.admit("b") == 0  # each name for itself
    now = 0.9
    assert limit.admit("a") is None
    now = 1.0
    assert [limit.admit("a") for _ in range(3)] == [981, None, None]
    now = 1000.0
    assert [limit.admit("a") for _ in range(22)] == [2] + [0] * 19 + [None] * 2


def test_the_log_tells_how_many_events_it_leaves_out_and_a_handler_gets_all(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(reporting, "_limit", LogLimit(lambda: now))
    event = ChannelEvent(name="it.happened", message="here")
    for _ in range(100):
        report(None, event)
    now = 1.0
    report(None, event)
    assert [record.getMessage() for record in caplog.records] == [
        *["it.happened: here"] * 20,
        "it.happened: here (and 80 more)",
    ]
    events: list[ChannelEvent] = []
    for _ in range(100):
        report(events.append, event)
    assert events == [event] * 100
