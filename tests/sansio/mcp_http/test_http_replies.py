"""Whole answers, and the reading of `Accept`."""

from __future__ import annotations

import math

import pytest
from http_endpoint import heard

from trio_mcp_transport.errors import ConfigurationError, LocalProtocolError
from trio_mcp_transport.sansio.eras import REVISIONS
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.mcp_http.media_types import Accepted, is_json, read_accept
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply, error_body, error_reply
from trio_mcp_transport.sansio.mcp_http.streams import EventStream

pytestmark = pytest.mark.sansio


@pytest.mark.parametrize(
    ("value", "json", "sse"),
    [
        (None, True, True),
        ("", True, True),
        ("*/*", True, True),
        ("application/*", True, False),
        ("text/*", False, True),
        ("application/json, text/event-stream", True, True),
        ("APPLICATION/JSON ,Text/Event-Stream", True, True),
        ("application/json;q=0.5, text/event-stream;q=0.1", True, True),
        ("application/json;q=0, */*", False, True),
        ("*/*;q=0, application/json", True, False),
        ("text/*;q=0, text/event-stream", False, True),
        ("text/event-stream;q=0, text/*", False, False),
        ("text/event-stream; charset=utf-8; q=0.0", False, False),
        ("text/event-stream;q=nonsense", False, True),
        ("text/event-stream;version=1", False, True),
        ("application/*;q=0, application/json", True, False),
        ("text/html, application/xhtml+xml", False, False),
        (",,;q=1,", False, False),
    ],
)
def test_the_most_specific_range_of_accept_decides(
    value: str | None, json: bool, sse: bool
) -> None:
    assert read_accept(value) == Accepted(json=json, sse=sse)


def test_a_media_type_without_parameters_or_with_others_is_json() -> None:
    assert is_json("application/json")
    assert is_json("application/json;;x")
    assert not is_json(None)


def test_a_reply_comes_as_events_with_its_length() -> None:
    answered = heard(*Reply(404, Headers([("X", "y")]), b"body").events())
    assert answered.headers == Headers([("X", "y"), ("Content-Length", "4")])
    assert (answered.status, answered.body, answered.complete) == (404, b"body", True)
    empty = heard(*Reply(202).events())
    assert empty.headers == Headers([("Content-Length", "0")])
    assert (empty.body, empty.complete) == (b"", True)
    assert heard(*Reply(204).events()).headers == Headers()


def test_an_error_has_an_id_only_where_one_is_known_or_asked_for() -> None:
    assert error_body(1, "x") == b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"}}'
    assert b'"id":null' in error_body(1, "x", null_id=True)
    assert b'"id":0' in error_body(1, "x", request_id=0, null_id=True)
    assert b'"data":[1]' in error_body(1, "x", data=[1])


def test_an_error_can_have_more_header_fields() -> None:
    reply = error_reply(405, 1, "x", headers=[("Allow", "GET")])
    assert reply.headers == Headers([("content-type", "application/json"), ("Allow", "GET")])


# -- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"era": "stone"}, "era"),
        ({"response": "xml"}, "response"),
        ({"revisions": ()}, "revisions"),
        ({"revisions": ("1900-01-01",)}, "1900-01-01"),
        ({"era": "modern", "revisions": ("2025-11-25",)}, "era"),
        ({"path": "mcp"}, "path"),
        ({"path": "/m?x"}, "path"),
        ({"path": "/m x"}, "path"),
        ({"path": None}, "path"),
        ({"sse_path": "/sse"}, "message_path"),
        ({"message_path": "/m"}, "sse_path"),
        ({"rpc_path": "/rpc"}, "notify_path"),
        ({"rpc_path": "/mcp/", "notify_path": "/n"}, "same"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"max_batch_messages": 1.5}, "max_batch_messages"),
        ({"max_sessions": True}, "max_sessions"),
        ({"max_exchanges": -1}, "max_exchanges"),
        ({"retry_after": -1}, "retry_after"),
        ({"retry_after": 0.5}, "retry_after"),
        ({"session_idle_timeout": 0}, "session_idle_timeout"),
        ({"keep_alive_interval": -1.0}, "keep_alive_interval"),
        ({"quiet_interval": 4.9}, "quiet_interval"),
        ({"quiet_interval": math.nan}, "quiet_interval"),
        ({"grace_timeout": "1"}, "grace_timeout"),
        ({"retry_interval": 0.0}, "retry_interval"),
    ],
)
def test_a_wrong_option_is_refused_by_name(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        HttpServerOptions(**given)  # type: ignore[arg-type]  # that is the point


def test_the_era_narrows_the_revisions() -> None:
    assert HttpServerOptions().served_revisions == REVISIONS
    assert HttpServerOptions(era="modern").served_revisions == ("2026-07-28",)
    options = HttpServerOptions(era="legacy", revisions=("2025-06-18", "2025-11-25", "2026-07-28"))
    assert options.served_revisions == ("2025-11-25", "2025-06-18")


def test_no_limit_is_a_limit_too() -> None:
    assert HttpServerOptions(session_idle_timeout=math.inf, quiet_interval=math.inf)


def test_other_wires_need_no_revisions() -> None:
    options = HttpServerOptions(
        path=None, era="modern", revisions=("2025-11-25",), sse_path="/s", message_path="/m"
    )
    assert options.served_revisions == ()


def test_a_bare_stream_says_nothing_before_it_is_attached() -> None:
    stream = EventStream("1", numbered=True, primed=True)
    assert stream.close_connection(1).events == ()
    assert stream.end().events == ()
    with pytest.raises(LocalProtocolError):
        EventStream("1", numbered=True, primed=False).close_connection(1)
