"""HTTP/1.1: no cut, no order of calls and no garbage makes a difference that it should not."""

from __future__ import annotations

import contextlib
import itertools
import string

import h11
from http1_machines import Body, ReadResponses, ServedRequests
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import LocalProtocolError, RemoteProtocolError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import (
    BodyData,
    EndOfBody,
    InformationalResponse,
    RequestHead,
    ResponseEvent,
    ResponseHead,
)
from trio_mcp_transport.sansio.http1_client import Http1Client
from trio_mcp_transport.sansio.http1_server import Http1Server
from trio_mcp_transport.sansio.machine import NEED_DATA, PAUSED, EndOfData
from trio_mcp_transport.testing import drain, feed

TOKENS = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=8)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=12
).map(str.strip)
#: Those the machines decide by.
RESERVED = {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"}
headers = st.lists(
    st.tuples(TOKENS.filter(lambda name: name.lower() not in RESERVED), VALUES), max_size=4
)
bodies = st.binary(max_size=60)


@st.composite
def encoded_body(draw: st.DrawFn, body: bytes) -> tuple[bytes, bytes]:
    """The line that says how a body is framed, and the body in that framing."""
    if draw(st.booleans()):
        return b"Content-Length: %d\r\n" % len(body), body
    points = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=4))})
    wire = b""
    for start, end in itertools.pairwise(points):
        size = b"%x" % (end - start) if draw(st.booleans()) else b"%04X" % (end - start)
        extension = draw(st.sampled_from([b"", b";a", b' ; a="b"']))
        wire += b"%b%b\r\n%b\r\n" % (size, extension, body[start:end])
    return b"Transfer-Encoding: chunked\r\n", wire + b"0\r\n" + draw(
        st.sampled_from([b"", b"X: y\r\n"])
    ) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Headers, bytes, bytes]:
    """A request: its method, its own fields, its body, and all of it as bytes."""
    method = draw(st.sampled_from(["GET", "POST", "DELETE", "OPTIONS"]))
    fields = Headers(draw(headers))
    body = draw(bodies)
    framing, wire = draw(encoded_body(body))
    head = f"{method} /x HTTP/1.1\r\nHost: a\r\n".encode() + fields.wire + framing + b"\r\n"
    return method, fields, body, head + wire


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    points = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *points], [*points, len(data)], strict=True)]


def fed(machine: ServedRequests | ReadResponses, pieces: list[bytes]) -> list[object]:
    """The events; a fault as its text."""
    events: list[object] = []
    for piece in pieces:
        machine.receive_data(piece)
        events += drain(machine)
        if isinstance(events[-1:][0] if events else None, RemoteProtocolError):
            break
    else:
        machine.receive_eof()
        events += drain(machine)
    return [repr(event) for event in events]


@given(st.lists(requests(), min_size=1, max_size=3), st.data())
def test_requests_arrive_as_they_were_made_however_they_are_cut(
    made: list[tuple[str, Headers, bytes, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(whole for _, _, _, whole in made)
    machine = ServedRequests()
    events: list[object] = []
    for piece in data.draw(cut(wire)):
        machine.receive_data(piece)
        events += drain(machine)
    assert len(events) == 2 * len(made)
    for (method, fields, body, _), head, whole in zip(made, events[::2], events[1::2], strict=True):
        assert isinstance(head, RequestHead)
        assert head.method == method
        assert list(head.headers)[1:-1] == list(fields)
        assert whole == Body(body)


MUTATIONS = st.tuples(
    st.integers(0, 200),
    st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b":", b"\0", b"0", b"x"]),
)


@given(requests(), st.lists(MUTATIONS, min_size=1, max_size=3), st.data())
def test_damaged_requests_fail_alike_however_they_are_cut(
    request: tuple[str, Headers, bytes, bytes],
    mutations: list[tuple[int, bytes]],
    data: st.DataObject,
) -> None:
    wire = request[3]
    for place, replacement in mutations:
        wire = wire[:place] + replacement + wire[place + 1 :]
    whole = fed(ServedRequests(), [wire])
    assert fed(ServedRequests(), data.draw(cut(wire))) == whole
    assert fed(ServedRequests(), [bytes([byte]) for byte in wire]) == whole


def with_h11(wire: bytes) -> list[tuple[bytes, bytes]] | None:
    """Target and body of each request, as h11 alone reads them; None if it refuses one."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(wire)
    connection.receive_data(b"")
    read: list[tuple[bytes, bytes]] = []
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                read.append((event.target, b""))
                body = b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                read[-1] = (read[-1][0], body)
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return read
                connection.start_next_cycle()
            else:
                return read
    except h11.RemoteProtocolError as error:
        # The empty line that a server should ignore, and h11 does not.
        return read if read and str(error) == "no request line received" else None


@given(requests(), st.lists(MUTATIONS, max_size=2))
def test_what_is_accepted_is_what_h11_reads(
    request: tuple[str, Headers, bytes, bytes], mutations: list[tuple[int, bytes]]
) -> None:
    wire = request[3]
    for place, replacement in mutations:
        wire = wire[:place] + replacement + wire[place + 1 :]
    # h11 takes no empty line before a request.
    events = feed(ServedRequests(), wire.removeprefix(b"\r\n"), eof=True)
    if any(isinstance(event, RemoteProtocolError) for event in events):
        return  # stricter than h11 is what it is meant to be
    # h11 takes no white space before the ";" of a chunk's extension, as RFC 9112, 7.1.1, wants.
    wire = wire.replace(b" ;", b";")
    heads = [event for event in events if isinstance(event, RequestHead)]
    whole = [event for event in events if isinstance(event, Body)]
    assert with_h11(wire.removeprefix(b"\r\n")) == [
        (head.target.encode(), body.data) for head, body in zip(heads, whole, strict=True)
    ]


@given(st.binary(max_size=200), st.data())
def test_garbage_is_a_fault_or_waits_and_nothing_else(garbage: bytes, data: st.DataObject) -> None:
    for make in (ServedRequests, ReadResponses):
        machine = make()
        for piece in data.draw(cut(garbage)):
            machine.receive_data(piece)
            events = drain(machine)
            if events and isinstance(events[-1], RemoteProtocolError):
                break


@given(
    st.sampled_from([200, 204, 304, 404]),
    headers,
    st.lists(bodies, max_size=4),
    st.sampled_from(["parts", "length", "whole"]),
    st.sampled_from(["GET", "HEAD", "POST"]),
    st.data(),
)
def test_responses_arrive_as_they_were_made_however_they_are_cut(
    status: int,
    fields: list[tuple[str, str]],
    parts: list[bytes],
    way: str,
    method: str,
    data: st.DataObject,
) -> None:
    """A client and a server joined: the request as well."""
    client, server = Http1Client(), ServedServer()
    body = b"" if status in {204, 304} else b"".join(parts)
    request = RequestHead(method, "/x?y", Headers([("Host", "a")]))
    for _ in range(2):
        for piece in data.draw(cut(client.send_request(request, b"body"))):
            server.receive(piece)
        assert server.seen == [(method, "/x?y", b"body")]
        wire = server.respond(status, Headers(fields), body, parts if body else [], way)
        joined = b""
        got: list[object] = []
        for piece in data.draw(cut(wire)):
            client.receive_data(piece)
            while (event := client.next_event()) not in {NEED_DATA, PAUSED}:
                if isinstance(event, BodyData):
                    joined += event.data
                else:
                    got.append(event)
        head, end = got
        assert isinstance(head, ResponseHead)
        assert head.status == status
        assert list(head.headers)[: len(fields)] == list(Headers(fields))
        assert end == EndOfBody()
        assert joined == (b"" if method == "HEAD" else body)
        client.start_next_cycle()


class ServedServer:
    """A server that keeps what it was asked, and answers in one of three ways."""

    def __init__(self) -> None:
        self.machine = Http1Server()
        self.seen: list[tuple[str, str, bytes]] = []

    def receive(self, data: bytes) -> None:
        self.machine.receive_data(data)
        while (event := self.machine.next_event()) not in {NEED_DATA, PAUSED}:
            if isinstance(event, RequestHead):
                self.seen = [(event.method, event.target, b"")]
                self.machine.accept_body(1000)
            elif isinstance(event, BodyData):
                method, target, body = self.seen[0]
                self.seen = [(method, target, body + event.data)]

    def respond(
        self, status: int, fields: Headers, body: bytes, parts: list[bytes], way: str
    ) -> bytes:
        if way == "whole":
            wire = self.machine.send_response(ResponseHead(status, fields), body)
        else:
            if way == "length" and status != 204:
                fields = fields.with_("Content-Length", str(len(body)))
            events: list[ResponseEvent] = [ResponseHead(status, fields)]
            events += [BodyData(part) for part in parts]
            wire = b"".join([self.machine.send(event) for event in [*events, EndOfBody()]])
        self.machine.start_next_cycle()
        return wire


ACTIONS = [
    "receive",
    "garbage",
    "next",
    "accept",
    "informational",
    "head",
    "data",
    "end",
    "whole",
    "cycle",
    "failed",
    "eof",
    "switch",
]


@given(st.lists(st.sampled_from(ACTIONS), max_size=30))
def test_no_order_of_calls_confuses_a_server(actions: list[str]) -> None:
    """Only the documented errors come out, and never two responses to one request."""
    machine = Http1Server()
    heads = responses = 0
    for action in actions:
        with contextlib.suppress(LocalProtocolError, RemoteProtocolError):
            match action:
                case "receive":
                    machine.receive_data(
                        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
                    )
                case "garbage":
                    machine.receive_data(b"\0")
                case "next":
                    event = machine.next_event()
                    heads += isinstance(event, RequestHead)
                    assert event in {NEED_DATA, PAUSED, EndOfData(), EndOfBody()} or isinstance(
                        event, RequestHead | BodyData
                    )
                case "accept":
                    machine.accept_body(1)
                    machine.bytes_to_send()
                case "informational":
                    machine.send(InformationalResponse(103))
                case "head":
                    machine.send(ResponseHead(200))
                    responses += 1
                case "data":
                    machine.send(BodyData(b"x"))
                case "end":
                    machine.send(EndOfBody())
                case "whole":
                    machine.send_response(ResponseHead(200), b"x")
                    responses += 1
                case "cycle":
                    machine.start_next_cycle()
                    assert not machine.must_close
                case "failed":
                    machine.send_failed()
                case "eof":
                    machine.receive_eof()
                case "switch":
                    machine.switch_protocol("x")
        # One more may answer the fault that ended it all.
        assert responses <= heads + 1
        assert not (machine.must_close and machine.keep_alive)


@given(st.lists(st.sampled_from(["ask", "answer", "garbage", "next", "cycle", "eof"]), max_size=30))
def test_no_order_of_calls_confuses_a_client(actions: list[str]) -> None:
    """A response comes out only for a request that went in before."""
    machine = Http1Client()
    asked = answered = 0
    for action in actions:
        with contextlib.suppress(LocalProtocolError, RemoteProtocolError):
            match action:
                case "ask":
                    machine.send_request(RequestHead("GET", "/", Headers([("Host", "a")])))
                    asked += 1
                case "answer":
                    machine.receive_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                case "garbage":
                    machine.receive_data(b"\0")
                case "next":
                    answered += isinstance(machine.next_event(), ResponseHead)
                case "cycle":
                    machine.start_next_cycle()
                case "eof":
                    machine.receive_eof()
        assert answered <= asked
