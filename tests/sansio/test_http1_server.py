"""The server's machine: verdicts, responses, and what is legal when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trio_mcp_transport.errors import LocalProtocolError, RemoteProtocolError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import (
    BodyData,
    EndOfBody,
    InformationalResponse,
    RequestHead,
    ResponseHead,
)
from trio_mcp_transport.sansio.http1_server import Http1Server
from trio_mcp_transport.sansio.machine import NEED_DATA, PAUSED, EndOfData

pytestmark = [pytest.mark.sansio, pytest.mark.usefixtures("http1_engine")]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
OLD = b"GET / HTTP/1.0\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
EXPECTING = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-Continue\r\n\r\n")
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PLAIN = Headers([("Content-Type", "text/plain")])


def given(data: bytes) -> Http1Server:
    """A server that has given the head of a request out."""
    machine = Http1Server()
    machine.receive_data(data)
    assert isinstance(machine.next_event(), RequestHead)
    return machine


def read(data: bytes) -> Http1Server:
    """A server that has read a request to its end."""
    machine = given(data)
    machine.accept_body(1000)
    while not isinstance(machine.next_event(), EndOfBody):
        pass
    return machine


def flags(machine: Http1Server) -> set[str]:
    names = ("keep_alive", "must_close", "response_started", "response_complete")
    return {name for name in names if getattr(machine, name)}


def test_a_body_that_is_all_here_is_taken_at_once() -> None:
    machine = given(POST + b"hello" + GET)
    assert machine.accept_whole_body(5) == b"hello"
    assert machine.next_event() is PAUSED
    sent = machine.send_response(ResponseHead(200, PLAIN), b"hi")
    assert b"Connection" not in sent
    machine.start_next_cycle()
    assert isinstance(machine.next_event(), RequestHead)
    assert machine.accept_whole_body(0) == b""
    assert machine.next_event() is PAUSED


def test_input_is_what_is_not_consumed_yet_and_the_end() -> None:
    machine = Http1Server()
    seen = [machine.has_input]
    machine.receive_data(GET)
    seen.append(machine.has_input)
    machine.next_event()
    seen.append(machine.has_input)
    machine.receive_eof()
    seen.append(machine.has_input)
    assert seen == [False, True, False, True]


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (POST + b"hell", 5),
        (POST + b"hello", 4),
        (EXPECTING + b"hello", 5),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 5),
    ],
    ids=["incomplete", "too large", "expects 100", "chunked"],
)
def test_any_other_body_is_left_to_events(data: bytes, limit: int) -> None:
    machine = given(data)
    assert machine.accept_whole_body(limit) is None
    assert machine.next_event() is PAUSED
    machine.accept_body(limit)
    assert machine.bytes_to_send() == (CONTINUE if data.startswith(EXPECTING) else b"")
    if limit == 4:
        with pytest.raises(RemoteProtocolError) as caught:
            machine.next_event()
        assert caught.value.status == 413
    else:
        event = machine.next_event()
        assert isinstance(event, BodyData)
        assert b"hello".startswith(event.data)


@pytest.mark.parametrize("closes", [False, True])
def test_a_response_that_names_another_protocol_says_so_in_connection_too(*, closes: bool) -> None:
    headers = Headers([("Upgrade", "websocket"), *[("Connection", "close")] * closes])
    sent = read(GET).send_response(ResponseHead(426, headers))
    assert sent.count(b"Connection: Upgrade\r\n") == 1
    assert sent.count(b"Connection: close\r\n") == closes


def test_one_request_after_another() -> None:
    machine = Http1Server()
    machine.receive_data(POST + b"hello" + GET)
    head = machine.next_event()
    assert isinstance(head, RequestHead)
    assert (head.method, head.target, head.http_version) == ("POST", "/", "1.1")
    assert machine.next_event() is PAUSED
    machine.accept_body(5)
    assert machine.bytes_to_send() == b""
    assert machine.next_event() == BodyData(b"hello")
    assert machine.next_event() == EndOfBody()
    assert machine.next_event() is PAUSED
    assert flags(machine) == {"keep_alive"}
    sent = machine.send_response(ResponseHead(200, PLAIN), b"hi")
    assert sent == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
    assert flags(machine) == {"keep_alive", "response_started", "response_complete"}
    assert machine.next_event() is PAUSED
    machine.start_next_cycle()
    assert flags(machine) == {"keep_alive"}
    head = machine.next_event()
    assert isinstance(head, RequestHead)
    assert head.method == "GET"
    machine.accept_body(0)
    assert machine.next_event() == EndOfBody()
    machine.send_response(ResponseHead(200))
    machine.start_next_cycle()
    assert machine.next_event() is NEED_DATA
    machine.receive_eof()
    for _ in range(2):
        assert machine.next_event() == EndOfData()
    assert machine.must_close
    assert machine.trailing_data == (b"", True)
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"x")


def test_an_end_while_a_response_is_made_comes_after_it() -> None:
    machine = read(GET)
    machine.receive_eof()
    assert machine.next_event() is PAUSED
    assert machine.trailing_data == (b"", True)
    machine.send_response(ResponseHead(200))
    machine.start_next_cycle()
    assert machine.next_event() == EndOfData()


def test_a_response_in_parts_is_chunked() -> None:
    machine = read(GET)
    assert machine.send(ResponseHead(200, PLAIN)) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert machine.response_started
    assert machine.send(BodyData(b"")) == b""
    assert machine.send(BodyData(b"0123456789abcdef")) == b"10\r\n0123456789abcdef\r\n"
    assert flags(machine) == {"keep_alive", "response_started"}
    assert machine.send(EndOfBody()) == b"0\r\n\r\n"
    assert flags(machine) == {"keep_alive", "response_started", "response_complete"}
    machine.start_next_cycle()


def test_a_response_in_parts_of_a_known_length() -> None:
    machine = read(GET)
    assert machine.send(ResponseHead(200, Headers([("Content-Length", "3")]))) == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    )
    assert machine.send(BodyData(b"ab")) == b"ab"
    with pytest.raises(LocalProtocolError, match="longer"):
        machine.send(BodyData(b"cd"))
    with pytest.raises(LocalProtocolError, match="shorter"):
        machine.send(EndOfBody())
    assert machine.send(BodyData(b"c")) == b"c"
    assert machine.send(EndOfBody()) == b""
    machine.start_next_cycle()


def test_a_response_to_an_old_client_ends_with_the_connection() -> None:
    machine = read(OLD)
    assert not machine.keep_alive
    assert machine.send(InformationalResponse(103)) == b""
    assert machine.send(ResponseHead(200)) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert machine.send(BodyData(b"ab")) == b"ab"
    assert machine.send(EndOfBody()) == b""
    assert machine.must_close
    with pytest.raises(LocalProtocolError):
        machine.start_next_cycle()


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(status: int) -> None:
    machine = read(GET)
    sent = machine.send_response(ResponseHead(status))
    assert b"Content-Length" not in sent
    assert sent.endswith(b"\r\n\r\n")
    machine.start_next_cycle()

    machine = read(GET)
    with pytest.raises(LocalProtocolError, match="no body"):
        machine.send_response(ResponseHead(status), b"x")
    sent = machine.send(ResponseHead(status))
    assert b"Transfer-Encoding" not in sent
    assert machine.send(BodyData(b"")) == b""
    with pytest.raises(LocalProtocolError, match="no body"):
        machine.send(BodyData(b"x"))
    assert machine.send(EndOfBody()) == b""
    machine.start_next_cycle()


def test_a_response_to_head_has_the_head_of_one_to_get() -> None:
    assert (
        read(HEAD).send_response(ResponseHead(200), b"abc")
        == (read(GET).send_response(ResponseHead(200), b"abc")[:-3])
    )
    machine = read(HEAD)
    assert machine.send(ResponseHead(200)) == read(GET).send(ResponseHead(200))
    assert machine.send(BodyData(b"abc")) == b""
    assert machine.send(EndOfBody()) == b""
    machine.start_next_cycle()
    told = Headers([("Content-Length", "1000")])
    assert b"Content-Length: 1000\r\n" in read(HEAD).send_response(ResponseHead(200, told))


def test_the_length_of_a_whole_response_may_be_given_if_it_is_right() -> None:
    sent = read(GET).send_response(ResponseHead(200, Headers([("content-length", "2")])), b"ab")
    assert sent == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab"
    with pytest.raises(LocalProtocolError, match="not that of the body"):
        read(GET).send_response(ResponseHead(200, Headers([("content-length", "3")])), b"ab")


def test_reason_phrases() -> None:
    assert read(GET).send_response(ResponseHead(404)).startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert read(GET).send_response(ResponseHead(299)).startswith(b"HTTP/1.1 299 \r\n")
    sent = read(GET).send_response(ResponseHead(200, reason="F\xefne"))
    assert sent.startswith(b"HTTP/1.1 200 F\xefne\r\n")
    for reason in ("a\r\nb", "\u20ac"):
        with pytest.raises(LocalProtocolError, match="reason"):
            read(GET).send_response(ResponseHead(200, reason=reason))


def test_informational_responses_come_before_the_final_one() -> None:
    machine = read(GET)
    hints = InformationalResponse(103, Headers([("Link", "</a>")]))
    assert machine.send(hints) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert not machine.response_started
    for status in (101, 200, 99):
        with pytest.raises(LocalProtocolError, match="informational"):
            machine.send(InformationalResponse(status))
    machine.send_response(ResponseHead(200))
    with pytest.raises(LocalProtocolError):
        machine.send(hints)


def test_a_client_that_waits_is_told_to_continue_when_its_body_is_accepted() -> None:
    machine = given(EXPECTING)
    assert machine.next_event() is PAUSED
    assert machine.bytes_to_send() == b""
    machine.accept_body(5)
    assert machine.bytes_to_send() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert machine.bytes_to_send() == b""
    assert machine.next_event() is NEED_DATA
    machine.receive_data(b"hello")
    assert machine.next_event() == BodyData(b"hello")
    chunked = EXPECTING.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    machine = given(chunked)
    machine.accept_body(0)
    assert machine.bytes_to_send()


def test_a_client_that_waits_in_vain_is_not_told_to_continue() -> None:
    machine = given(EXPECTING)
    machine.accept_body(4)
    assert machine.bytes_to_send() == b""
    with pytest.raises(RemoteProtocolError) as caught:
        machine.next_event()
    assert caught.value.status == 413
    # RFC 9110, section 10.1.1: not without a body.
    machine = given(EXPECTING.replace(b": 5", b": 0"))
    machine.accept_body(4)
    assert machine.bytes_to_send() == b""
    # A final response has said already what becomes of it.
    machine = given(EXPECTING)
    machine.send(ResponseHead(200))
    machine.accept_body(5)
    assert machine.bytes_to_send() == b""


@pytest.mark.parametrize("data", [POST, POST + b"he", POST + b"hello", EXPECTING])
def test_a_body_that_was_not_accepted_is_never_read(data: bytes) -> None:
    machine = given(data)
    sent = machine.send_response(ResponseHead(403))
    assert b"\r\nConnection: close\r\n" in sent
    assert machine.must_close
    assert machine.next_event() is PAUSED
    with pytest.raises(LocalProtocolError):
        machine.start_next_cycle()


def test_a_request_without_body_needs_no_verdict_to_be_answered() -> None:
    machine = given(GET + GET)
    assert b"Connection" not in machine.send_response(ResponseHead(404))
    machine.start_next_cycle()
    assert isinstance(machine.next_event(), RequestHead)


def test_a_response_that_begins_before_the_body_is_complete_is_the_last_one() -> None:
    machine = given(POST + b"he")
    machine.accept_body(5)
    assert machine.next_event() == BodyData(b"he")
    assert b"Connection: close\r\n" in machine.send(ResponseHead(200))
    machine.receive_data(b"llo")
    assert machine.next_event() == BodyData(b"llo")
    assert machine.next_event() == EndOfBody()
    machine.send(EndOfBody())
    assert machine.must_close


def test_a_body_that_is_complete_but_for_the_event_is_complete() -> None:
    machine = given(POST + b"hello")
    machine.accept_body(5)
    assert machine.next_event() == BodyData(b"hello")
    assert b"Connection" not in machine.send_response(ResponseHead(200))
    machine.start_next_cycle()
    assert machine.next_event() is NEED_DATA


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, close"])
def test_a_client_that_closes_gets_a_response_that_says_so(value: bytes) -> None:
    machine = read(GET.replace(b"\r\n\r\n", b"\r\nConnection: " + value + b"\r\n\r\n"))
    assert not machine.keep_alive
    assert b"Connection: close\r\n" in machine.send_response(ResponseHead(200))
    assert machine.must_close


def test_this_side_may_close_as_well() -> None:
    machine = read(GET)
    sent = machine.send_response(ResponseHead(200, Headers([("connection", "Close")])))
    assert sent.lower().count(b"connection: close") == 1
    assert not machine.keep_alive
    assert machine.must_close


@pytest.mark.parametrize("data", [b"nonsense", OLD[:-4] + b"\0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_after_a_fault_exactly_one_response_is_legal(data: bytes) -> None:
    machine = Http1Server()
    machine.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        machine.next_event()
    sent = machine.send_response(ResponseHead(400), b"no")
    assert sent == (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    assert machine.must_close
    with pytest.raises(LocalProtocolError):
        machine.send_response(ResponseHead(400))
    with pytest.raises(LocalProtocolError):
        machine.start_next_cycle()
    with pytest.raises(RemoteProtocolError):
        machine.next_event()


def test_after_a_fault_a_response_in_parts_ends_with_the_connection() -> None:
    machine = Http1Server()
    machine.receive_data(b"nonsense")
    with pytest.raises(RemoteProtocolError):
        machine.next_event()
    assert machine.send(InformationalResponse(103)) == b""
    assert machine.send(ResponseHead(400)) == (
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    )
    assert machine.send(BodyData(b"no")) == b"no"
    assert machine.send(EndOfBody()) == b""


def test_a_response_in_progress_can_be_ended_after_a_fault_in_the_body() -> None:
    machine = given(POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"x")
    machine.accept_body(5)
    machine.send(ResponseHead(200))
    machine.receive_data(b"\r\n")
    with pytest.raises(RemoteProtocolError):
        machine.next_event()
    assert machine.send(EndOfBody()) == b"0\r\n\r\n"
    assert machine.must_close


def test_after_a_write_that_failed_only_closing_is_left() -> None:
    machine = read(GET)
    machine.send_response(ResponseHead(200))
    machine.send_failed()
    assert machine.must_close
    assert not machine.response_complete
    with pytest.raises(LocalProtocolError):
        machine.start_next_cycle()
    machine = read(GET)
    machine.send_failed()
    with pytest.raises(LocalProtocolError, match="not written"):
        machine.send_response(ResponseHead(200))


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: h2c, WebSocket\r\n\r\n"
)


def test_bytes_behind_the_head_of_an_upgrade_are_handed_over() -> None:
    for place in range(len(UPGRADE), len(UPGRADE) + 4):
        data = UPGRADE + b"\x81\x00\r\n"
        machine = given(data[:place])
        sent = machine.switch_protocol("websocket", Headers([("Sec-WebSocket-Accept", "x")]))
        assert sent == (
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        assert machine.next_event() is PAUSED
        machine.receive_data(data[place:])
        machine.receive_eof()
        assert machine.next_event() is PAUSED
        assert machine.trailing_data == (b"\x81\x00\r\n", True)
        assert machine.response_started
        with pytest.raises(LocalProtocolError):
            machine.send_response(ResponseHead(200))
        with pytest.raises(LocalProtocolError):
            machine.start_next_cycle()


def test_an_upgrade_can_be_ignored() -> None:
    machine = read(UPGRADE)
    machine.send_response(ResponseHead(200))
    machine.start_next_cycle()


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (GET, "websocket"),
        (UPGRADE, "other"),
        (UPGRADE, ""),
        (UPGRADE[:-2] + b"Content-Length: 5\r\n\r\n", "websocket"),
    ],
)
def test_what_was_not_offered_or_has_a_body_cannot_be_upgraded(data: bytes, protocol: str) -> None:
    machine = given(data)
    with pytest.raises(LocalProtocolError):
        machine.switch_protocol(protocol)
    machine.send_response(ResponseHead(400))


ILLEGAL: dict[str, tuple[Callable[[], Http1Server], Callable[[Http1Server], object]]] = {
    "a response to nothing": (Http1Server, lambda m: m.send_response(ResponseHead(200))),
    "a head to nothing": (Http1Server, lambda m: m.send(ResponseHead(200))),
    "data to nothing": (Http1Server, lambda m: m.send(BodyData(b"x"))),
    "an end to nothing": (Http1Server, lambda m: m.send(EndOfBody())),
    "an upgrade of nothing": (Http1Server, lambda m: m.switch_protocol("websocket")),
    "accepting nothing": (Http1Server, lambda m: m.accept_body(1)),
    "accepting twice": (lambda: read(GET), lambda m: m.accept_body(1)),
    "taking the whole of nothing": (Http1Server, lambda m: m.accept_whole_body(1)),
    "taking the whole twice": (lambda: read(POST + b"hello"), lambda m: m.accept_whole_body(9)),
    "a next cycle of nothing": (Http1Server, lambda m: m.start_next_cycle()),
    "a next cycle without response": (lambda: read(GET), lambda m: m.start_next_cycle()),
    "data without head": (lambda: read(GET), lambda m: m.send(BodyData(b"x"))),
    "an end without head": (lambda: read(GET), lambda m: m.send(EndOfBody())),
    "an informational final status": (
        lambda: read(GET),
        lambda m: m.send_response(ResponseHead(199)),
    ),
    "an impossible status": (lambda: read(GET), lambda m: m.send(ResponseHead(600))),
    "Transfer-Encoding": (
        lambda: read(GET),
        lambda m: m.send_response(ResponseHead(200, Headers([("transfer-encoding", "chunked")]))),
    ),
    "Connection": (
        lambda: read(GET),
        lambda m: m.send_response(ResponseHead(200, Headers([("connection", "keep-alive")]))),
    ),
    "Content-Length without a number": (
        lambda: read(GET),
        lambda m: m.send(ResponseHead(200, Headers([("content-length", "1, 1")]))),
    ),
    "Content-Length with 204": (
        lambda: read(GET),
        lambda m: m.send_response(ResponseHead(204, Headers([("content-length", "0")]))),
    ),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_misuse_is_told_and_changes_nothing(case: str) -> None:
    make, misuse = ILLEGAL[case]
    machine = make()
    before = (machine.must_close, machine.response_started, machine.keep_alive)
    with pytest.raises(LocalProtocolError):
        misuse(machine)
    assert (machine.must_close, machine.response_started, machine.keep_alive) == before
    if case.endswith("nothing"):
        machine.receive_data(GET)
        assert isinstance(machine.next_event(), RequestHead)
    assert machine.send_response(ResponseHead(200))
    machine.start_next_cycle()


def next_request(machine: Http1Server, data: bytes, *, accept: bool = True) -> None:
    machine.start_next_cycle()
    machine.receive_data(data)
    assert isinstance(machine.next_event(), RequestHead)
    if accept:
        machine.accept_body(1000)
        while not isinstance(machine.next_event(), EndOfBody):
            pass


def test_a_head_that_is_sent_again_has_the_length_of_its_own_body() -> None:
    head = ResponseHead(200, PLAIN)
    machine = read(GET)
    start = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "
    assert machine.send_response(head, b"one") == start + b"3\r\n\r\none"
    next_request(machine, GET)
    assert machine.send_response(head, b"three") == start + b"5\r\n\r\nthree"
    with pytest.raises(LocalProtocolError):
        machine.send_response(head, b"again")
    next_request(machine, HEAD)
    assert machine.send_response(head, b"three") == start + b"5\r\n\r\n"
    next_request(machine, GET)
    assert machine.send_response(ResponseHead(204)) == b"HTTP/1.1 204 No Content\r\n\r\n"
    next_request(machine, GET.replace(b"Host", b"Connection: close\r\nHost"))
    assert machine.send_response(head) == start + b"0\r\nConnection: close\r\n\r\n"
    assert machine.must_close


def test_a_head_that_is_sent_again_closes_a_connection_whose_body_was_not_read() -> None:
    head = ResponseHead(200, PLAIN)
    machine = read(GET)
    machine.send_response(head, b"one")
    next_request(machine, POST, accept=False)
    assert b"Connection: close\r\n" in machine.send_response(head, b"one")
    assert machine.must_close


@pytest.mark.parametrize("field", ["Connection", "Upgrade", "Content-Length"])
def test_a_head_that_says_more_than_its_fields_says_so_each_time(field: str) -> None:
    value = {"Content-Length": "2", "Connection": "close"}.get(field, "websocket")
    head = ResponseHead(200, Headers([(field, value)]))
    machine = read(GET)
    first = machine.send_response(head, b"hi")
    assert first.count(b"Content-Length: 2\r\n") == 1
    if field == "Connection":
        assert machine.must_close
        return
    for _ in range(2):
        next_request(machine, GET)
        assert machine.send_response(head, b"hi") == first
