"""A client's side of `ServerEndpoint`, without a wire: for tests of what it decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from trio_mcp_transport.jsonrpc import Message, Response, decode_message, encode_message
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import (
    BodyData,
    EndOfBody,
    RequestHead,
    ResponseEvent,
    ResponseHead,
)
from trio_mcp_transport.sansio.machine import EndOfData, NeedData
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import (
    BodyVerdict,
    Deliver,
    HeadVerdict,
    ReadBody,
    ServerEndpoint,
    StartExchange,
)
from trio_mcp_transport.sansio.mcp_http.sessions import SessionRecord
from trio_mcp_transport.sansio.sse import SseComment, SseDecoder, SseEvent, SseItem

T = TypeVar("T")

MODERN = "2026-07-28"
LATEST = "2025-11-25"
BOTH = "application/json, text/event-stream"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
MODERN_META: dict[str, object] = {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}

#: Header fields by name; None leaves one out.
Fields = Mapping[str, str | None]


def a(type_: type[T], value: object) -> T:
    """The value, which is of that type."""
    assert isinstance(value, type_), value
    return value


class Client:
    """Asks an endpoint about requests, as an HTTP server would.

    Attributes:
        endpoint: Its session ids are ``session-1``, ``session-2``...
        now: The time.
        principal: Who sends the requests.
    """

    def __init__(
        self,
        options: HttpServerOptions | None = None,
        *,
        header_schema: Callable[[str], object] | None = None,
    ) -> None:
        ids = itertools.count(1)
        self.endpoint = ServerEndpoint(
            options or HttpServerOptions(),
            new_id=lambda: f"session-{next(ids)}",
            header_schema=header_schema,  # type: ignore[arg-type]  # tests give what fits
        )
        self.now = 0.0
        self.principal: str | None = None

    # -- requests -----------------------------------------------------------------------

    def head(self, method: str, target: str = "/mcp", fields: Fields | None = None) -> HeadVerdict:
        """Decide about a head."""
        given = {name: value for name, value in (fields or {}).items() if value is not None}
        head = RequestHead(method, target, Headers(given.items()))
        return self.endpoint.judge_head(head, principal=self.principal, now=self.now)

    def post(
        self, body: object, fields: Fields | None = None, *, target: str = "/mcp"
    ) -> BodyVerdict:
        """Decide about a POST whose head is in order."""
        all_fields = {"Content-Type": "application/json", "Accept": BOTH, **(fields or {})}
        given = {name: value for name, value in all_fields.items() if value is not None}
        head = RequestHead("POST", target, Headers(given.items()))
        verdict = self.endpoint.judge_head(head, principal=self.principal, now=self.now)
        assert isinstance(verdict, ReadBody), verdict
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self.endpoint.judge_body(head, data, principal=self.principal, now=self.now)

    def modern(
        self,
        method: str = "tools/list",
        params: Mapping[str, object] | None = None,
        fields: Fields | None = None,
        request_id: object = 1,
    ) -> BodyVerdict:
        """POST a modern request with all that belongs to it."""
        body = call(method, {"_meta": MODERN_META, **(params or {})}, request_id)
        return self.post(
            body, {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **(fields or {})}
        )

    def begin(self, revision: str = LATEST) -> SessionRecord:
        """A legacy session, open and idle."""
        start = self.initialize(revision)
        start.writer.send(initialized(revision))
        self.end(start)
        session = a(SessionRecord, start.session)
        assert session.state == "open"
        return session

    def initialize(self, revision: str = LATEST, fields: Fields | None = None) -> StartExchange:
        """The exchange of an `initialize` that was let in."""
        params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {}}
        return a(StartExchange, self.post(call("initialize", params), fields))

    def call(
        self, session: SessionRecord, method: str = "tools/call", request_id: object = 1
    ) -> StartExchange:
        """The exchange of a request in a session."""
        return a(StartExchange, self.post(call(method, request_id=request_id), within(session)))

    def say(self, session: SessionRecord, body: object) -> Deliver:
        """POST a notification or an answer in a session."""
        return a(Deliver, self.post(body, within(session)))

    def end(self, start: StartExchange) -> None:
        """An exchange is over."""
        self.endpoint.end_exchange(start, now=self.now)


# -- bodies and header fields -----------------------------------------------------------


def call(
    method: str = "tools/call", params: Mapping[str, object] | None = None, request_id: object = 1
) -> dict[str, object]:
    """The body of a request."""
    body: dict[str, object] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return body if params is None else {**body, "params": params}


def note(method: str, params: Mapping[str, object] | None = None) -> dict[str, object]:
    """The body of a notification."""
    body: dict[str, object] = {"jsonrpc": "2.0", "method": method}
    return body if params is None else {**body, "params": params}


def result(request_id: object = 1, value: object = None) -> dict[str, object]:
    """The body of an answer."""
    return {"jsonrpc": "2.0", "id": request_id, "result": value or {}}


def initialized(revision: str = LATEST, request_id: int = 1) -> Response:
    """A good answer to `initialize`."""
    return Response(request_id, {"protocolVersion": revision, "capabilities": {}})


def within(session: SessionRecord, **fields: str) -> dict[str, str]:
    """The header field that names a session, and others."""
    return {"Mcp-Session-Id": session.id, **fields}


# -- what comes out ---------------------------------------------------------------------


class Answered(msgspec.Struct):
    """A response, or what there is of it.

    Attributes:
        status: 0 if there is no head.
        headers: None if there is no head.
        body: What came of it.
        complete: Whether that is all.
    """

    status: int = 0
    headers: Headers | None = None
    body: bytes = b""
    complete: bool = False

    @property
    def items(self) -> list[SseItem]:
        """The events and comments in the body."""
        decoder = SseDecoder()
        decoder.receive_data(self.body)
        found: list[SseItem] = []
        while not isinstance(item := decoder.next_event(), NeedData | EndOfData):
            found.append(item)
        return found

    @property
    def events(self) -> list[SseEvent]:
        """The events in the body."""
        return [item for item in self.items if not isinstance(item, SseComment)]

    @property
    def ids(self) -> list[str | None]:
        """The ids of the events."""
        return [event.id for event in self.events]

    @property
    def messages(self) -> list[Message]:
        """The messages in the events; empty data is none."""
        return [decode_message(event.data) for event in self.events if event.data]

    @property
    def is_stream(self) -> bool:
        """Whether the head says that this is an event stream."""
        return self.headers is not None and self.headers["content-type"] == "text/event-stream"

    @property
    def json(self) -> object:
        """The body as JSON."""
        return msgspec.json.decode(self.body)


def heard(*events: ResponseEvent) -> Answered:
    """Put the events of a response together; they must come in a legal order."""
    answered = Answered()
    for event in events:
        assert not answered.complete, event
        if isinstance(event, ResponseHead):
            assert answered.headers is None
            answered.status, answered.headers = event.status, event.headers
        elif isinstance(event, BodyData):
            assert event.data
            answered.body += event.data
        else:
            assert isinstance(event, EndOfBody)
            answered.complete = True
    return answered


def fault(verdict: object) -> tuple[int, int, object]:
    """Status, code and id of a refusal; the id is ``...`` where there is no such member."""
    reply = a(Reply, verdict)
    assert reply.headers["content-type"] == "application/json"
    body = msgspec.json.decode(reply.body)
    assert body["jsonrpc"] == "2.0"
    assert body["error"]["message"]
    return reply.status, body["error"]["code"], body.get("id", ...)


def same(message: Message, body: object) -> bool:
    """Whether a message says what a body says."""
    decoded: object = msgspec.json.decode(encode_message(message))
    return decoded == body
