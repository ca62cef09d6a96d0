"""What a server takes for a request, and what it refuses: whole, and cut at every byte."""

from __future__ import annotations

import pytest
from http1_corpus import CHUNKED, GET, POST, REFUSED, REFUSED_BODIES, with_line
from http1_machines import Body, ServedRequests, served, statuses

from trio_mcp_transport.errors import ConfigurationError, RemoteProtocolError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import Http1Limits, RequestHead
from trio_mcp_transport.sansio.http1_server import Http1Server
from trio_mcp_transport.sansio.machine import NEED_DATA, PAUSED, EndOfData
from trio_mcp_transport.testing import check_every_cut

pytestmark = [pytest.mark.sansio, pytest.mark.usefixtures("http1_engine")]

ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "no body": (GET, b""),
    "a body": (POST, b"hello"),
    "an empty body": (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"), b""),
    "a field without a value": (with_line(b"X:"), b""),
    "white space around values": (with_line(b"X: \t a \t "), b""),
    "names in any case": (with_line(b"CONTENT-LENGTH: 2") + b"hi", b"hi"),
    "leading zeros": (with_line(b"Content-Length: 002") + b"hi", b"hi"),
    "a query": (GET.replace(b"/", b"/?a=/", 1), b""),
    "every query character": (GET.replace(b"/", b"/a%20?[]|\\\"'{}<>^`", 1), b""),
    "asterisk-form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "absolute-form": (b"GET http://A/b?c HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "an IPv6 host": (b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", b""),
    "an empty port": (b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", b""),
    "one empty line before": (b"\r\n" + GET, b""),
    "a method with a hyphen": (b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "bytes beyond ASCII": (with_line(b"X: \xc3\xa9"), b""),
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", b""),
    "HTTP/1.0 with an expectation": (b"GET / HTTP/1.0\r\nExpect: x\r\n\r\n", b""),
    "no chunks": (CHUNKED + b"0\r\n\r\n", b""),
    "chunks": (
        CHUNKED + b"5\r\nhello\r\n1\r\n \r\n00A\r\n0123456789\r\n0\r\n\r\n",
        b"hello 0123456789",
    ),
    "chunk extensions": (CHUNKED + b'2;a=b;c="d"\r\nhi\r\n0 ; x\r\n\r\n', b"hi"),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nContent-Length: 3\r\nX:\r\n\r\n", b"hi"),
    "CHUNKED": (CHUNKED.replace(b"chunked", b"CHUNKED ") + b"2\r\nhi\r\n000\r\n\r\n", b"hi"),
    "CR LF in a chunk": (CHUNKED + b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_request_is_accepted(case: str) -> None:
    data, body = ACCEPTED[case]
    head, whole, *end = check_every_cut(ServedRequests, data)
    assert isinstance(head, RequestHead)
    assert whole == Body(body)
    assert end == ([] if "HTTP/1.0" in case else [EndOfData()])  # held when it must close


@pytest.mark.parametrize("case", [case for case in ACCEPTED if "HTTP/1.0" not in case])
def test_what_follows_a_request_is_the_next_one(case: str) -> None:
    data, body = ACCEPTED[case]
    events = check_every_cut(ServedRequests, data + POST)
    assert [event for event in events if isinstance(event, Body)] == [Body(body), Body(b"hello")]
    assert events[-1] == EndOfData()


@pytest.mark.parametrize("case", REFUSED)
def test_a_malformed_head_is_refused(case: str) -> None:
    data, status = REFUSED[case]
    events = check_every_cut(ServedRequests, data)
    assert len(events) == 1
    assert statuses(events) == [status]


@pytest.mark.parametrize("case", REFUSED)
def test_a_malformed_head_is_refused_after_a_good_request(case: str) -> None:
    data, status = REFUSED[case]
    events = served(POST + data)
    assert isinstance(events[0], RequestHead)
    assert events[1] == Body(b"hello")
    if case == "two empty lines before":
        data = data[2:]  # one of them belongs to nobody
    assert statuses(events) == [status]


@pytest.mark.parametrize("case", REFUSED_BODIES)
def test_a_malformed_body_is_refused_after_what_came_before(case: str) -> None:
    data, before, status = REFUSED_BODIES[case]
    limits = Http1Limits(max_header_bytes=100, max_headers=5)
    events = check_every_cut(
        lambda: ServedRequests(max_body_bytes=20, limits=limits), CHUNKED + data
    )
    assert isinstance(events[0], RequestHead)
    expected = [Body(before, complete=False)] if before else []
    assert events[1:-1] == expected
    assert statuses(events) == [status]


def test_a_declared_length_over_the_limit_is_refused_before_the_body() -> None:
    events = check_every_cut(lambda: ServedRequests(max_body_bytes=4), POST, eof=False)
    assert isinstance(events[0], RequestHead)
    assert statuses(events) == [413]
    assert len(events) == 2


def test_a_body_may_be_as_large_as_the_limit() -> None:
    for data in (POST, CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"):
        events = check_every_cut(lambda: ServedRequests(max_body_bytes=5), data)
        assert events[1:] == [Body(b"hello"), EndOfData()]


def test_the_end_in_the_middle_is_never_a_clean_one() -> None:
    for place in range(1, len(POST)):
        events = served(POST[:place])
        assert statuses(events) == [400]
        assert not any(isinstance(event, Body) and event.complete for event in events)


SMALL = Http1Limits(max_request_line=20, max_header_bytes=30, max_headers=3)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /5678901 HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 500, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: 012345678901234567\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"0" * 500, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\n\r\n", 431),
    ],
)
def test_a_head_over_a_limit_is_refused_however_it_is_cut(data: bytes, status: int) -> None:
    events = check_every_cut(lambda: ServedRequests(limits=SMALL), data)
    assert len(events) == 1
    assert statuses(events) == [status]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /567890 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789012345\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\n\r\n",
    ],
)
def test_a_head_may_be_as_large_as_each_limit(data: bytes) -> None:
    events = check_every_cut(lambda: ServedRequests(limits=SMALL), data)
    assert isinstance(events[0], RequestHead)
    assert events[-1] == EndOfData()


def test_a_large_head_is_refused_also_when_it_comes_in_one_read() -> None:
    for data in (
        with_line(b"A: " + b"a" * 200_000),
        with_line(b"\r\n".join([b"A: b"] * 10_000)),
        with_line(b"\r\n".join([b"A:"] * 101)),
    ):
        assert statuses(served(data)) == [431]
    assert statuses(served(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n")) == [414]


def test_a_head_byte_after_byte_costs_linear_time() -> None:
    # Searched anew from the start for each byte, this would be 800 million bytes to look at.
    machine = Http1Server()
    data = with_line(b"A: " + b"a" * 30_000)
    for i in range(len(data) - 1):
        machine.receive_data(data[i : i + 1])
        assert machine.next_event() is NEED_DATA
    machine.receive_data(data[-1:])
    assert isinstance(machine.next_event(), RequestHead)


@pytest.mark.parametrize("name", ["max_request_line", "max_header_bytes", "max_informational"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Http1Limits(**{name: 0})


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b", "/a/b", ""),
        ("/a?b=c?d", "/a", "b=c?d"),
        ("/?", "/", ""),
        ("/a://b", "/a://b", ""),
        ("*", "*", ""),
        ("http://host:80/a/b?c=d", "/a/b", "c=d"),
        ("http://host", "/", ""),
        ("http://host?a=/b", "/", "a=/b"),
        ("HTTPS://host/a", "/a", ""),
    ],
)
def test_path_and_query(target: str, path: str, query: str) -> None:
    head = RequestHead("GET", target)
    assert head.path == path
    assert head.query == query


def test_the_head_says_what_the_client_would_change_to() -> None:
    def upgrade(data: bytes) -> str | None:
        event = served(data)[0]
        assert isinstance(event, RequestHead)
        return event.upgrade

    assert upgrade(with_line(b"Upgrade: WebSocket, h2c\r\nConnection: x, Upgrade")) == (
        "websocket, h2c"
    )
    assert upgrade(with_line(b"Upgrade: websocket")) is None
    assert upgrade(with_line(b"Connection: upgrade")) is None
    assert upgrade(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n") is None


def test_a_fault_stays_and_later_bytes_are_dropped() -> None:
    machine = Http1Server()
    machine.receive_data(b"nonsense")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="no HTTP"):
            machine.next_event()
        machine.receive_data(GET)
        assert machine.buffered == 0


def test_a_secret_in_a_malformed_field_is_not_quoted() -> None:
    events = served(with_line(b"Authorization : Bearer hunter2"))
    assert statuses(events) == [400]
    assert "hunter2" not in str(events[0])


def test_what_was_refused_once_is_refused_when_its_lines_are_known() -> None:
    two_hosts = with_line(b"Host: a")
    events = served(GET + two_hosts)
    assert statuses(events) == [400]
    assert str(events[-1]) == "2 Host header fields"
    lengths = with_line(b"Content-Length: 0\r\nContent-Length: 0")
    assert statuses(served(with_line(b"Content-Length: 0") + lengths)) == [400]


def test_nothing_is_read_before_a_verdict() -> None:
    machine = Http1Server()
    machine.receive_data(POST + GET)
    assert isinstance(machine.next_event(), RequestHead)
    assert machine.next_event() is PAUSED
    assert machine.trailing_data == (b"hello" + GET, False)
    assert machine.buffered == len(GET) + 5


def test_a_head_is_shown_without_its_query_and_the_values_of_its_headers() -> None:
    head = RequestHead("GET", "/messages?session=s3cret", Headers([("Cookie", "s3cret")]))
    assert repr(head) == (
        "RequestHead(method='GET', target='/messages?...', headers=Headers(cookie))"
    )
    assert "target='/mcp'" in repr(RequestHead("GET", "/mcp"))
