"""The standalone stream of a legacy session, with and without a GET that carries it."""

from __future__ import annotations

import pytest
from http_endpoint import LATEST, heard

from trio_mcp_transport.errors import LocalProtocolError
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    Message,
    Notification,
    Request,
    Response,
    encode_message,
)
from trio_mcp_transport.sansio.mcp_http.sessions import SessionRecord
from trio_mcp_transport.sansio.mcp_http.standalone import StandaloneWriter
from trio_mcp_transport.sansio.mcp_http.streams import NOTHING, EventRecord, Replay

pytestmark = pytest.mark.sansio

CHANGED = Notification("notifications/tools/list_changed", {})


def standalone(*, resumable: bool = True, revision: str = LATEST) -> StandaloneWriter:
    session = SessionRecord("id", None, kind="streamable", resumable=resumable)
    session.open(revision)
    return session.standalone


def test_a_get_opens_a_stream_that_stays_open() -> None:
    writer = standalone(resumable=False)
    opened = writer.open()
    assert opened.records == ()
    said = writer.send_many([CHANGED, Request(1, "ping")])
    answered = heard(*opened.events, *writer.keep_alive(), *said.events)
    assert answered.is_stream
    assert [type(message) for message in answered.messages] == [Notification, Request]
    assert answered.ids == [None, None]
    assert not answered.complete


def test_a_stream_that_can_be_resumed_primes_its_client_each_time() -> None:
    writer = standalone()
    answered = heard(*writer.open().events, *writer.send(CHANGED).events)
    assert answered.ids == ["0-1", "0-2"]
    assert heard(*writer.open().events).ids == ["0-3"]


@pytest.mark.parametrize("message", [Response(1, {}), ErrorResponse(1, ErrorObject(1, "x"))])
@pytest.mark.parametrize("opened", [True, False])
def test_no_answer_goes_out_on_it(message: Message, opened: bool) -> None:
    writer = standalone()
    if opened:
        writer.open()
    with pytest.raises(LocalProtocolError):
        writer.send_many([CHANGED, message])
    assert writer.send(CHANGED).records[:1] == (
        (EventRecord(2, encode_message(CHANGED)),) if opened else ()
    )


def test_what_is_said_while_no_get_is_open_waits_for_one() -> None:
    writer = standalone()
    assert writer.send(CHANGED) is NOTHING
    assert writer.keep_alive() == ()
    opened = writer.open()
    assert [record.number for record in opened.records] == [1, 2]
    assert len(heard(*opened.events).messages) == 1
    assert heard(*writer.open().events).messages == []  # once


def test_a_client_that_comes_back_gets_what_it_missed_then_what_waited() -> None:
    writer = standalone()
    writer.open()
    missed = writer.send(CHANGED)  # into a connection that is dead
    writer.detach()
    writer.send(Notification("notifications/later"))
    resumed = writer.attach(Replay(missed.records))
    assert [record.number for record in resumed.records] == [3]
    answered = heard(*resumed.events, *writer.send(CHANGED).events)
    assert answered.ids == ["0-2", "0-3", "0-4"]


def test_a_client_that_missed_nothing_comes_back_to_an_open_stream() -> None:
    writer = standalone()
    answered = heard(*writer.attach(Replay()).events)
    assert (answered.body, answered.complete) == (b"", False)
    assert writer.attached


def test_a_newer_get_takes_the_stream_over() -> None:
    writer = standalone()
    writer.open()
    newer = heard(*writer.open().events, *writer.send(CHANGED).events)
    assert len(newer.messages) == 1


@pytest.mark.parametrize("size", [10, 100_000])
def test_what_waits_is_bounded_in_number_and_bytes_and_the_oldest_goes(size: int) -> None:
    writer = standalone(resumable=False)
    count = 1003 if size == 10 else 4
    for number in range(count):
        writer.send(Notification("x", {"n": number, "text": "x" * size}))
    kept = heard(*writer.open().events).messages
    assert writer.dropped == count - len(kept) == (3 if size == 10 else 2)
    assert isinstance(kept[-1], Notification)
    assert kept[-1].params_as(dict[str, object])["n"] == count - 1


def test_the_connection_can_be_closed_with_how_long_to_wait() -> None:
    writer = standalone()
    answered = heard(*writer.open().events, *writer.close_connection(2).events)
    assert answered.complete
    assert answered.events[-1].retry == 2000
    assert not writer.attached
    assert writer.send(CHANGED) is NOTHING


def test_the_end_of_the_session_ends_the_stream() -> None:
    writer = standalone()
    answered = heard(*writer.open().events, *writer.end().events)
    assert answered.complete
    assert writer.end() is NOTHING
    assert writer.send(CHANGED) is NOTHING
    assert writer.dropped == 1
    assert writer.open() is NOTHING
    assert heard(*writer.attach(Replay()).events).complete


def test_a_cancellation_names_the_id_that_went_out_or_goes_nowhere() -> None:
    writer = standalone(resumable=False)
    writer.open()
    cancel = Notification("notifications/cancelled", {"requestId": "a"})
    assert writer.send(cancel) is NOTHING
    assert writer.dropped == 1
    writer.send(Request("a", "ping"))
    [sent] = heard(*writer.send(cancel).events).messages
    assert isinstance(sent, Notification)
    assert sent.params_as(dict[str, object]) == {"requestId": 1}
