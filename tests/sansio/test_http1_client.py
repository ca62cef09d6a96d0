"""The client's machine: what it asks, what it takes for an answer, and when it asks again."""

from __future__ import annotations

import pytest
from http1_machines import Body, ReadResponses, statuses

from trio_mcp_transport.errors import LocalProtocolError, RemoteProtocolError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import (
    BodyData,
    EndOfBody,
    Http1Limits,
    InformationalResponse,
    RequestHead,
    ResponseHead,
)
from trio_mcp_transport.sansio.http1_client import Http1Client
from trio_mcp_transport.sansio.machine import NEED_DATA, PAUSED, EndOfData
from trio_mcp_transport.testing import check_every_cut

pytestmark = [pytest.mark.sansio, pytest.mark.usefixtures("http1_engine")]

HOST = Headers([("Host", "a")])
GET = RequestHead("GET", "/", HOST)
UPGRADE = Headers([("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "websocket")])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def answered(data: bytes, *, request: RequestHead = GET) -> tuple[Http1Client, list[object]]:
    """A client that asked once and was answered, with all its events."""
    machine = Http1Client()
    machine.send_request(request)
    machine.receive_data(data)
    events: list[object] = []
    while (event := machine.next_event()) not in {NEED_DATA, PAUSED}:
        events.append(event)
    return machine, events


def test_one_request_after_another() -> None:
    machine = Http1Client()
    assert (machine.reusable, machine.next_event()) == (True, NEED_DATA)
    for _ in range(2):
        sent = machine.send_request(RequestHead("POST", "/mcp?a", HOST), b"body")
        assert sent == b"POST /mcp?a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
        assert (machine.reusable, machine.next_event()) == (False, NEED_DATA)
        machine.receive_data(OK[:-1])
        head = machine.next_event()
        assert head == ResponseHead(200, Headers([("Content-Length", "2")]), "OK")
        assert machine.next_event() == BodyData(b"h")
        assert (machine.reusable, machine.next_event()) == (False, NEED_DATA)
        machine.receive_data(OK[-1:])
        assert machine.next_event() == BodyData(b"i")
        assert machine.next_event() == EndOfBody()
        assert (machine.reusable, machine.next_event()) == (True, PAUSED)
        machine.start_next_cycle()
    machine.receive_eof()
    assert not machine.reusable
    for _ in range(2):
        assert machine.next_event() == EndOfData()
    with pytest.raises(LocalProtocolError):
        machine.send_request(GET)
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"x")


@pytest.mark.parametrize(
    ("method", "body", "line"),
    [
        ("GET", b"", b""),
        ("DELETE", b"", b""),
        ("POST", b"", b"Content-Length: 0\r\n"),
        ("GET", b"x", b"Content-Length: 1\r\n"),
    ],
)
def test_the_length_of_a_body_is_told_where_one_may_be(
    method: str, body: bytes, line: bytes
) -> None:
    sent = Http1Client().send_request(RequestHead(method, "/", HOST), body)
    assert sent == method.encode() + b" / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n" + body


BODIES: dict[str, tuple[bytes, bytes]] = {
    "a length": (OK, b"hi"),
    "no body": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304 with a length": (b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", b""),
    "chunks": (CHUNKED + b"2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n", b"hi!"),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\nhi\r\n\r\n", b"hi\r\n\r\n"),
    "nothing until the end": (b"HTTP/1.0 200\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "an empty reason": (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "a reason in Latin-1": (b"HTTP/1.1 200 \xe9\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "an old server": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "obs-fold": (b"HTTP/1.1 200 OK\r\nA: b \r\n \t c\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_response_is_read_however_it_is_cut(case: str) -> None:
    data, body = BODIES[case]
    head, whole = check_every_cut(ReadResponses, data)
    assert isinstance(head, ResponseHead)
    assert whole == Body(body)


def test_a_folded_field_is_unfolded() -> None:
    _, events = answered(b"HTTP/1.1 204 x\r\nA: b \r\n \t c\r\n\r\n")
    assert isinstance(events[0], ResponseHead)
    assert events[0].headers["a"] == "b c"


def test_the_head_of_a_response_to_head_has_no_body() -> None:
    machine, events = answered(OK[:-2], request=RequestHead("HEAD", "/", HOST))
    assert events[1:] == [EndOfBody()]
    machine.start_next_cycle()


def test_informational_responses_come_first() -> None:
    machine, events = answered(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: a\r\n\r\n" + OK
    )
    assert events[:2] == [
        InformationalResponse(100),
        InformationalResponse(103, Headers([("Link", "a")])),
    ]
    assert machine.reusable


REFUSED: dict[str, tuple[bytes, int]] = {
    "a request": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "SSH": (b"SSH-2.0-x\r\n", 400),
    "almost": (b"HTTPS/1.1 200 OK\r\n\r\n", 400),
    "HTTP/2": (b"HTTP/2.0 200 OK\r\n\r\n", 400),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\n\r\n", 400),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", 400),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", 400),
    "status 0": (b"HTTP/1.1 000 OK\r\n\r\n", 400),
    "status 600": (b"HTTP/1.1 600 OK\r\n\r\n", 400),
    "no space": (b"HTTP/1.1 200OK\r\n\r\n", 400),
    "a status line of 20 KB": (b"HTTP/1.1 200 " + b"a" * 20_000 + b"\r\n\r\n", 400),
    "a header of 200 KB": (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000 + b"\r\n\r\n", 431),
    "101 fields": (b"HTTP/1.1 200 OK\r\n" + b"A:\r\n" * 101 + b"\r\n", 431),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", 400),
    "a control character": (b"HTTP/1.1 200 OK\r\nA: \x01\r\n\r\n", 400),
    "obs-fold before the first field": (b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", 400),
    "no name": (b"HTTP/1.1 200 OK\r\n: a\r\n\r\n", 400),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
    "length and chunks": (CHUNKED[:-2] + b"Content-Length: 0\r\n\r\n", 400),
    "another coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "chunks of an old server": (CHUNKED.replace(b"1.1", b"1.0"), 400),
    "an upgrade": (b"HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 400),
    "17 informational ones": (b"HTTP/1.1 100 x\r\n\r\n" * 17, 400),
    "an end before": (b"", 400),
    "an end in the head": (b"HTTP/1.1 200 OK\r\n", 400),
    "an end after an informational one": (b"HTTP/1.1 100 x\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_response_is_refused(case: str) -> None:
    data, status = REFUSED[case]
    if len(data) > 10_000:
        machine = ReadResponses()
        machine.receive_data(data)
        with pytest.raises(RemoteProtocolError) as caught:
            machine.next_event()
        assert caught.value.status == status
        return
    events = check_every_cut(ReadResponses, data)
    assert statuses(events) == [status]
    assert not any(isinstance(event, ResponseHead) for event in events)


def test_what_is_no_http_is_refused_at_its_first_bytes() -> None:
    machine = ReadResponses()
    machine.receive_data(b"SS")
    with pytest.raises(RemoteProtocolError, match="no HTTP"):
        machine.next_event()


@pytest.mark.parametrize(
    ("data", "before"),
    [
        (OK[:-1], b"h"),
        (OK[:-2], b""),
        (CHUNKED + b"2\r\nhi\r\n", b"hi"),
        (CHUNKED + b"2\r\nhi\r\nx\r\n", b"hi"),
    ],
)
def test_a_body_that_is_cut_off_never_looks_complete(data: bytes, before: bytes) -> None:
    events = check_every_cut(ReadResponses, data)
    assert events[1:-1] == ([Body(before, complete=False)] if before else [])
    assert isinstance(events[-1], RemoteProtocolError)


@pytest.mark.parametrize(
    ("data", "before"),
    [
        (OK.replace(b": 2", b": 6") + b"1234", b""),
        (CHUNKED + b"3\r\nabc\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\n\r\n123456", b"12345"),
    ],
)
def test_a_body_over_the_limit_is_refused(data: bytes, before: bytes) -> None:
    events = check_every_cut(lambda: ReadResponses(max_body_bytes=5), data)
    assert isinstance(events[0], ResponseHead)
    assert events[1:-1] == ([Body(before, complete=False)] if before else [])
    assert statuses(events) == [413]


def test_a_body_may_be_as_large_as_the_limit() -> None:
    for data in (OK, b"HTTP/1.1 200 OK\r\n\r\nhi", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"):
        events = check_every_cut(lambda: ReadResponses(max_body_bytes=2), data)
        assert events[1] == Body(b"hi")


@pytest.mark.parametrize(
    "data",
    [
        OK.replace(b"1.1", b"1.0"),
        OK.replace(b"OK\r\n", b"OK\r\nConnection: Close\r\n"),
        OK.replace(b"OK\r\n", b"OK\r\nConnection: x, close\r\n"),
        OK + b"HTTP",
    ],
)
def test_a_connection_is_not_reused(data: bytes) -> None:
    machine, events = answered(data)
    assert events[-1] == EndOfBody()
    assert not machine.reusable
    with pytest.raises(LocalProtocolError):
        machine.start_next_cycle()


def test_a_connection_that_was_asked_to_close_is_not_reused() -> None:
    closing = RequestHead("GET", "/", HOST.with_("Connection", "close"))
    machine, events = answered(OK, request=closing)
    assert events[-1] == EndOfBody()
    assert not machine.reusable


def test_a_connection_that_ended_is_not_reused() -> None:
    machine, _ = answered(OK)
    machine.receive_eof()
    assert not machine.reusable


def test_an_answer_to_a_request_that_was_not_sent_is_a_fault() -> None:
    machine = Http1Client()
    machine.receive_data(OK)
    assert not machine.reusable
    with pytest.raises(LocalProtocolError):
        machine.send_request(GET)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="nobody asked"):
            machine.next_event()
    machine.receive_data(OK)
    assert machine.trailing_data == (b"", False)

    machine, _ = answered(OK)
    machine.start_next_cycle()
    machine.receive_data(b"\r\n")
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        machine.next_event()


def test_a_server_may_answer_a_request_that_was_not_written_in_full() -> None:
    machine = Http1Client()
    machine.send_request(GET)
    machine.send_failed()
    machine.receive_data(OK)
    assert isinstance(machine.next_event(), ResponseHead)
    assert machine.next_event() == BodyData(b"hi")
    assert machine.next_event() == EndOfBody()
    assert not machine.reusable


def test_bytes_behind_an_upgrade_are_handed_over() -> None:
    machine, events = answered(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00",
        request=RequestHead("GET", "/", UPGRADE),
    )
    assert isinstance(events[0], ResponseHead)
    assert events[0].status == 101
    assert machine.trailing_data == (b"\x81\x00", False)
    assert machine.next_event() is PAUSED
    with pytest.raises(LocalProtocolError):
        machine.start_next_cycle()


def test_an_upgrade_may_be_refused() -> None:
    machine, events = answered(OK, request=RequestHead("GET", "/", UPGRADE))
    assert events[-1] == EndOfBody()
    assert machine.reusable


@pytest.mark.parametrize(
    "head",
    [
        RequestHead("GET", "/"),
        RequestHead("GET", "/", Headers([("Host", "a"), ("host", "a")])),
        RequestHead("get", "/", HOST),
        RequestHead("G T", "/", HOST),
        RequestHead("GET /\r\n", "/", HOST),
        RequestHead("GET", "", HOST),
        RequestHead("GET", "/ x", HOST),
        RequestHead("GET", "/\r\n", HOST),
        RequestHead("GET", "/#a", HOST),
        RequestHead("GET", "/\xe9", HOST),
        RequestHead("GET", "/", HOST.with_("Content-Length", "0")),
        RequestHead("GET", "/", HOST.with_("Transfer-Encoding", "chunked")),
        RequestHead("GET", "/", HOST.with_("Expect", "100-continue")),
    ],
)
def test_a_request_that_is_not_valid_is_not_made(head: RequestHead) -> None:
    machine = Http1Client()
    with pytest.raises(LocalProtocolError):
        machine.send_request(head)
    machine.send_request(GET)
    with pytest.raises(LocalProtocolError, match="waiting for a response"):
        machine.send_request(GET)
    with pytest.raises(LocalProtocolError):
        machine.start_next_cycle()


def test_the_number_of_informational_responses_is_counted_per_request() -> None:
    machine = Http1Client(Http1Limits(max_informational=1))
    for _ in range(3):
        machine.send_request(GET)
        machine.receive_data(b"HTTP/1.1 100 x\r\n\r\n" + OK)
        while machine.next_event() != EndOfBody():
            pass
        machine.start_next_cycle()


TUNNEL = RequestHead("CONNECT", "h:443", Headers([("Host", "h:443")]))


@pytest.mark.parametrize("more", [b"", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_what_follows_the_head_of_a_tunnel_belongs_to_who_is_behind_it(more: bytes) -> None:
    machine, events = answered(b"HTTP/1.1 200 OK\r\n" + more + b"\r\n\x16\x03", request=TUNNEL)
    assert [type(event) for event in events] == [ResponseHead]
    assert machine.trailing_data == (b"\x16\x03", False)
    assert machine.next_event() is PAUSED
    assert not machine.reusable


def test_a_tunnel_that_is_refused_has_a_response_like_any_other() -> None:
    machine, events = answered(b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nhi", request=TUNNEL)
    assert events[1:] == [BodyData(b"hi"), EndOfBody()]
    assert machine.reusable


def test_a_request_for_a_tunnel_has_no_body() -> None:
    machine = Http1Client()
    with pytest.raises(LocalProtocolError, match="no method that can be sent like that"):
        machine.send_request(TUNNEL, b"x")
    sent = machine.send_request(TUNNEL)
    assert sent == b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"


def ask_again(machine: Http1Client, head: RequestHead, body: bytes = b"") -> bytes:
    """Ask, and be answered, on a connection that goes on."""
    sent = machine.send_request(head, body)
    machine.receive_data(OK if head.method != "HEAD" else OK[:-2])
    while machine.next_event() is not PAUSED:
        pass
    machine.start_next_cycle()
    return sent


def test_a_head_that_is_sent_again_has_the_length_of_its_own_body() -> None:
    machine = Http1Client()
    post = RequestHead("POST", "/a", HOST)
    start = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: "
    assert ask_again(machine, post, b"one") == start + b"3\r\n\r\none"
    assert ask_again(machine, post, b"three") == start + b"5\r\n\r\nthree"
    assert ask_again(machine, post) == start + b"0\r\n\r\n"
    assert ask_again(machine, GET) == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert ask_again(machine, GET, b"x") == (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
    )
    assert ask_again(machine, GET) == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    head = RequestHead("HEAD", "/", HOST)
    for _ in range(2):
        assert ask_again(machine, head) == b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert ask_again(machine, post, b"one") == start + b"3\r\n\r\none"


def test_a_head_that_cannot_be_sent_is_refused_between_those_that_can() -> None:
    machine = Http1Client()
    ask_again(machine, GET)
    for wrong in (RequestHead("GET", "/ ", HOST), RequestHead("GET", "/", Headers())):
        for _ in range(2):
            with pytest.raises(LocalProtocolError):
                machine.send_request(wrong)
    assert ask_again(machine, GET) == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_head_that_closes_the_connection_closes_it_after_others() -> None:
    machine = Http1Client()
    ask_again(machine, GET)
    machine.send_request(RequestHead("GET", "/", HOST.with_("Connection", "close")))
    machine.receive_data(OK)
    while machine.next_event() is not PAUSED:
        pass
    assert not machine.reusable


# -- a whole response in one piece


def events_of(machine: Http1Client, data: bytes) -> list[object]:
    """All that a machine says of an answer; its fault as the status of that."""
    machine.receive_data(data)
    events: list[object] = []
    try:
        while (event := machine.next_event()) not in {NEED_DATA, PAUSED}:
            events.append(event)
    except RemoteProtocolError as error:
        events.append(error.status)
    return [*events, machine.reusable, machine.trailing_data]


def after_one(answer: bytes, *, asks: RequestHead = GET) -> Http1Client | None:
    """A client that was answered like that once, and asks again; None if it cannot."""
    machine = Http1Client()
    machine.send_request(GET)
    events_of(machine, answer)
    if not machine.reusable:
        return None
    machine.start_next_cycle()
    machine.send_request(asks)
    return machine


WHOLE = {
    **{name: data for name, (data, _) in BODIES.items()},
    **{name: data for name, (data, _) in REFUSED.items() if len(data) < 10_000},
    "two": OK + OK,
    "a byte too many": OK + b"x",
    "a byte too few": OK[:-1],
    "a head alone": OK[:-2],
    "half a head": OK[:-8],
    "an informational one before": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "an informational one": b"HTTP/1.1 100 Continue\r\n\r\n",
    "another head": OK.replace(b"OK", b"KO"),
    "204 with a body": b"HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\nhi",
    "304 with a body": b"HTTP/1.1 304 x\r\nContent-Length: 2\r\n\r\nhi",
    "the last one": OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
}
CLOSING = RequestHead("GET", "/", HOST.with_("Connection", "close"))
ASKING = [
    GET,
    RequestHead("HEAD", "/", HOST),
    RequestHead("CONNECT", "a:443", HOST),
    CLOSING,
]


@pytest.mark.parametrize("asks", ASKING, ids=lambda head: head.method)
@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_whole_response_means_the_same_in_one_step(
    case: str, asks: RequestHead, kind: type[bytes | bytearray]
) -> None:
    data = WHOLE[case]
    taken = 0
    for before in (OK, data, b"HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\n"):
        quick, slow = after_one(before, asks=asks), after_one(before, asks=asks)
        if quick is None or slow is None:
            continue
        expected = events_of(slow, data)
        whole = quick.receive_whole(kind(data))
        if whole is None:
            assert events_of(quick, data) == expected
            continue
        taken += 1
        head, body = whole
        assert type(body) is bytes
        events = [head, *([BodyData(body)] if body else []), EndOfBody()]
        assert [*events, quick.reusable, quick.trailing_data] == expected
        assert quick.next_event() is PAUSED
    if case == "a length" and asks.method == "GET":
        assert taken


def test_only_a_response_of_its_own_is_taken_in_one_step() -> None:
    machine = Http1Client()
    assert machine.receive_whole(OK) is None  # nobody asked
    machine.send_request(GET)
    assert machine.receive_whole(OK) is None  # nothing is known of this head
    events_of(machine, OK)
    machine.start_next_cycle()
    machine.send_request(GET)
    machine.receive_data(OK[:4])
    assert machine.receive_whole(OK) is None  # something came before
    machine.receive_data(OK[4:])
    while machine.next_event() is not PAUSED:
        pass
    machine.start_next_cycle()
    machine.send_request(GET, max_body_bytes=1)
    assert machine.receive_whole(OK) is None  # it is too large
    assert events_of(machine, OK)[1] == 413


def test_nothing_is_taken_after_the_end() -> None:
    machine = after_one(OK)
    assert machine is not None
    machine.receive_eof()
    assert machine.receive_whole(OK) is None


def test_a_whole_answer_to_a_request_that_was_not_written_ends_its_connection() -> None:
    machine = after_one(OK)
    assert machine is not None
    machine.send_failed()
    assert machine.receive_whole(OK) is not None
    assert not machine.reusable
