"""Whatever clients send: a verdict, never an exception; and nothing is left of what is over."""

from __future__ import annotations

import msgspec
import pytest
from http_endpoint import MODERN_META, Client, heard, initialized
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.jsonrpc import Notification, Request, Response
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import RequestHead
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import (
    BodyVerdict,
    Deliver,
    HeadVerdict,
    OpenSse,
    OpenStream,
    ReadBody,
    ResumeStream,
    StartExchange,
)
from trio_mcp_transport.sansio.mcp_http.streams import Replay

pytestmark = [pytest.mark.sansio, pytest.mark.properties]

VERSIONS = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05", "2099-01-01", ""]
#: Ids that the client of these tests gives out, and some that it does not.
SESSIONS = ["session-1", "session-2", "session-3", "unknown"]
IDS: list[object] = [1, "1", 2, None, 1.5, True, {}]

heads = st.builds(
    RequestHead,
    st.sampled_from(["POST", "POST", "POST", "GET", "DELETE", "PUT"]),
    st.sampled_from([
        "/mcp", "/mcp/", "/sse", "/rpc", "/notify", "/other", "*",
        *(f"/messages?session_id={name}" for name in SESSIONS),
    ]),
    st.fixed_dictionaries(
        {},
        optional={
            "content-type": st.sampled_from(["application/json", "application/json", "text/plain"]),
            "accept": st.sampled_from(["*/*", "text/event-stream", "application/json", ""]),
            "mcp-protocol-version": st.sampled_from(VERSIONS),
            "mcp-session-id": st.sampled_from(SESSIONS),
            "mcp-method": st.sampled_from(["initialize", "tools/call", "ping"]),
            "mcp-name": st.sampled_from(["x", "=?base64?eA==?=", "=?base64?!?="]),
            "last-event-id": st.sampled_from(["0-0", "0-1", "1-1", "x", ""]),
        },
    ).map(lambda fields: Headers(fields.items())),
)  # fmt: skip
metas: st.SearchStrategy[object] = st.sampled_from([
    {"_meta": MODERN_META}, {"_meta": {**MODERN_META, "x": 1}}, {"_meta": 5}, {}, [], None,
    {"requestId": 1}, {"progressToken": 1}, {"name": "x", "_meta": MODERN_META},
])  # fmt: skip
methods = st.sampled_from([
    "initialize", "tools/call", "ping", "notifications/cancelled", "notifications/progress",
    "notifications/initialized", "subscriptions/listen",
])  # fmt: skip
messages = st.one_of(
    st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "method": methods},
        optional={"id": st.sampled_from(IDS), "params": metas},
    ),
    st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "id": st.sampled_from(IDS)},
        optional={"result": st.just({}), "error": st.just({"code": 1, "message": "x"})},
    ),
)
bodies = st.one_of(
    st.one_of(messages, st.lists(messages, max_size=4)).map(msgspec.json.encode),
    st.binary(max_size=20),
)
options = st.builds(
    HttpServerOptions,
    era=st.sampled_from(["modern", "legacy", "auto"]),
    response=st.sampled_from(["json", "sse", "auto"]),
    stateless=st.booleans(),
    resumable=st.booleans(),
    sse_path=st.just("/sse"),
    message_path=st.just("/messages"),
    rpc_path=st.just("/rpc"),
    notify_path=st.just("/notify"),
    max_sessions=st.integers(1, 4),
    max_exchanges=st.integers(1, 4),
    session_idle_timeout=st.just(100),
)


def judge(client: Client, head: RequestHead, body: bytes) -> HeadVerdict | BodyVerdict:
    """What an HTTP server asks, in its order."""
    endpoint, now = client.endpoint, client.now
    verdict = endpoint.judge_head(head, principal=client.principal, now=now)
    if isinstance(verdict, ReadBody):
        return endpoint.judge_body(head, body, principal=client.principal, now=now)
    return verdict


def check_reply(reply: Reply) -> None:
    """A refusal says why, as a JSON-RPC error."""
    assert 400 <= reply.status < 600
    found = msgspec.json.decode(reply.body)
    for error in found if isinstance(found, list) else [found]:
        assert error["error"]["message"]
        assert isinstance(error["error"]["code"], int)


def answer(start: StartExchange, how: int) -> None:
    """Be a handler: well or ill."""
    writer = start.writer
    steps = [writer.quiet()] if how % 2 else []
    if how % 3 == 0:
        steps.append(writer.send(Notification("notifications/message", {})))
    if how % 5 == 0 and writer.can_ask:
        steps.append(writer.send(Request(1, "ping")))
    for request in start.messages[how % 2 :]:
        result = initialized().result if request.method == "initialize" else {}
        steps.append(writer.send(Response(request.id, result)))
    steps.append(writer.finish())
    assert heard(*[event for step in steps for event in step.events]).complete
    assert writer.ended


@given(
    options=options,
    requests=st.lists(st.tuples(heads, bodies, st.integers(0, 30)), max_size=25),
)
def test_every_request_gets_a_verdict_and_nothing_is_left_of_what_is_over(
    options: HttpServerOptions, requests: list[tuple[RequestHead, bytes, int]]
) -> None:
    client = Client(options)
    running: list[StartExchange] = []
    for head, body, how in requests:
        client.principal = "mallory" if how == 30 else "alice"
        client.now += how
        verdict = judge(client, head, body)
        if isinstance(verdict, Reply):
            check_reply(verdict)
        elif isinstance(verdict, StartExchange):
            assert len(running) < options.max_exchanges
            running.append(verdict)
        elif isinstance(verdict, OpenStream | OpenSse):
            assert heard(*verdict.writer.open().events).status == 200
        elif isinstance(verdict, ResumeStream):
            client.endpoint.resume(verdict, Replay() if how % 2 else None)
        else:
            reply = verdict.reply  # type: ignore[union-attr]  # ReadBody never comes out
            assert reply.body in {b"", b"{}"}
            if isinstance(verdict, Deliver) and verdict.session is not None:
                assert verdict.session.principal == client.principal
        if running and how % 2:
            start = running.pop(0)
            answer(start, how)
            client.end(start)
        assert client.endpoint.exchanges == len(running)
        assert len(client.endpoint.sessions) <= options.max_sessions
    for start in running:
        client.end(start)
    for session in list(client.endpoint.sessions):
        assert session.exchanges == {}
        if session.kind == "sse":
            client.endpoint.end_session(session)
    client.now += 1000
    client.endpoint.expire(client.now)
    assert (len(client.endpoint.sessions), client.endpoint.exchanges) == (0, 0)
    assert client.endpoint.next_expiry() is None
