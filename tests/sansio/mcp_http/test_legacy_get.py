"""GET of a legacy session: its standalone stream, and streams that are taken up again."""

from __future__ import annotations

import pytest
from http_endpoint import (
    Client,
    a,
    fault,
    heard,
    within,
)

from trio_mcp_transport.jsonrpc import Notification, Response
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import (
    OpenStream,
    ResumeStream,
)
from trio_mcp_transport.sansio.mcp_http.streams import Cursor, EventRecord, Replay

pytestmark = pytest.mark.sansio

SSE = {"Accept": "text/event-stream"}
OLDER = ["2025-06-18", "2025-03-26", "2024-11-05"]


@pytest.mark.parametrize("last_event_id", [None, "", "0-1", "garbage"])
def test_a_get_opens_the_standalone_stream(last_event_id: str | None) -> None:
    """Where nothing can be resumed, a Last-Event-ID is none of this server's."""
    client = Client()
    session = client.begin()
    fields = {**SSE, **within(session), "Last-Event-ID": last_event_id}
    verdict = a(OpenStream, client.head("GET", "/mcp", fields))
    assert (verdict.session, verdict.writer) == (session, session.standalone)


def test_a_get_with_an_event_id_takes_a_stream_up_again() -> None:
    client = Client(HttpServerOptions(resumable=True))
    session = client.begin()
    fields = {**SSE, **within(session)}
    verdict = a(ResumeStream, client.head("GET", "/mcp", {**fields, "Last-Event-ID": "3-14"}))
    assert verdict == ResumeStream(session, Cursor("3", 14))
    assert isinstance(client.head("GET", "/mcp", fields), OpenStream)


@pytest.mark.parametrize(
    "last_event_id", ["x", "3", "3-", "-3", "3-1-4", "3-1x", "\xb9-1", "9" * 20 + "-1"]
)
def test_an_event_id_that_this_server_never_gave_is_a_bad_request(last_event_id: str) -> None:
    client = Client(HttpServerOptions(resumable=True))
    session = client.begin()
    fields = {**SSE, **within(session), "Last-Event-ID": last_event_id}
    assert fault(client.head("GET", "/mcp", fields)) == (400, -32600, ...)


def test_a_stream_that_is_going_on_is_taken_over() -> None:
    client = Client(HttpServerOptions(resumable=True))
    session = client.begin()
    start = client.call(session)
    sent = start.writer.send(Notification("notifications/message", {"n": 1}))
    verdict = ResumeStream(session, Cursor(start.writer.name, 1))
    resumed = client.endpoint.resume(verdict, Replay(sent.records[1:]))
    assert not isinstance(resumed, Reply)
    assert resumed.writer is start.writer
    more = start.writer.send(Response(1, {}))
    answered = heard(*resumed.step.events, *more.events)
    assert answered.ids == ["1-2", "1-3"]
    assert [type(message) for message in answered.messages] == [Notification, Response]
    assert answered.complete
    assert more.finished


def test_a_stream_that_ended_is_replayed_whole() -> None:
    client = Client(HttpServerOptions(resumable=True))
    session = client.begin()
    start = client.call(session)
    client.end(start)
    verdict = ResumeStream(session, Cursor(start.writer.name, 1))
    record = EventRecord(2, b'{"jsonrpc":"2.0","id":1,"result":{}}')
    resumed = client.endpoint.resume(verdict, Replay((record,), finished=True))
    assert not isinstance(resumed, Reply)
    assert resumed.writer is None
    answered = heard(*resumed.step.events)
    assert (answered.ids, answered.complete) == (["1-2"], True)


def test_a_stream_of_which_all_arrived_ends_at_once() -> None:
    client = Client(HttpServerOptions(resumable=True))
    session = client.begin()
    resumed = client.endpoint.resume(ResumeStream(session, Cursor("9", 3)), Replay((), True))
    assert not isinstance(resumed, Reply)
    answered = heard(*resumed.step.events)
    assert (answered.status, answered.body, answered.complete) == (200, b"", True)


def test_the_standalone_stream_is_taken_up_again() -> None:
    client = Client(HttpServerOptions(resumable=True))
    session = client.begin()
    resumed = client.endpoint.resume(ResumeStream(session, Cursor("0", 0)), Replay())
    assert not isinstance(resumed, Reply)
    assert resumed.writer is session.standalone
    assert session.standalone.attached


@pytest.mark.parametrize("ended", [False, True])
def test_what_cannot_be_resumed_is_told_from_what_has_nothing_new(ended: bool) -> None:
    client = Client(HttpServerOptions(resumable=True))
    session = client.begin()
    replay = None
    if ended:
        client.endpoint.end_session(session)
        replay = Replay()
    gone = client.endpoint.resume(ResumeStream(session, Cursor("7", 1)), replay)
    assert fault(gone) == (410, -32600, ...)
    assert not session.standalone.attached
