"""What a server takes for a request, and what it refuses: whole, and cut at every byte."""

from __future__ import annotations

import pytest
from http1_machines import Body, ServedRequests, served, statuses

from trio_mcp_transport.errors import ConfigurationError, RemoteProtocolError
from trio_mcp_transport.sansio.http1 import Http1Limits, RequestHead
from trio_mcp_transport.sansio.http1_body import MAX_CHUNK_LINE
from trio_mcp_transport.sansio.http1_server import Http1Server
from trio_mcp_transport.sansio.machine import NEED_DATA, PAUSED, EndOfData
from trio_mcp_transport.testing import check_every_cut

pytestmark = pytest.mark.sansio

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /mcp?a=b HTTP/1.1\r\nHost: example.com:80\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def with_line(line: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"


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


REFUSED: dict[str, tuple[bytes, int]] = {
    # What is no HTTP/1.1 at all.
    "TLS": (b"\x16\x03\x01\x02\x00\x01", 400),
    "a JSON line": (b'{"jsonrpc":"2.0"}\n', 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.2": (GET.replace(b"1.1", b"1.2"), 505),
    "HTTP/3.0": (GET.replace(b"1.1", b"3.0"), 505),
    "HTTP/1.10": (GET.replace(b"1.1", b"1.10"), 400),
    "http/1.1": (GET.replace(b"HTTP", b"http"), 400),
    "a method in lower case": (GET.replace(b"GET", b"get"), 400),
    "a method in mixed case": (GET.replace(b"GET", b"Get"), 400),
    "a method that is no token": (GET.replace(b"GET", b"G(T"), 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    "two empty lines before": (b"\r\n\r\n" + GET, 400),
    "a CR before": (b"\r" + GET, 400),
    "a LF before": (b"\n" + GET, 400),
    "a space before": (b" " + GET, 400),
    # Lines.
    "two spaces": (GET.replace(b"GET ", b"GET  "), 400),
    "a space behind": (GET.replace(b"1.1\r\n", b"1.1 \r\n"), 400),
    "bare LF after the request line": (GET.replace(b"1.1\r\n", b"1.1\n"), 400),
    "bare LF after a field": (with_line(b"A: b\nC: d"), 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare LF alone": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare CR in a value": (with_line(b"A: b\rC: d"), 400),
    "bare CR in the request line": (GET.replace(b"/", b"/\r", 1), 400),
    "obs-fold": (with_line(b"A: b\r\n c"), 400),
    "obs-fold with a tab": (with_line(b"A: b\r\n\tc"), 400),
    "white space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a space before the colon": (with_line(b"A : b"), 400),
    "no colon": (with_line(b"A"), 400),
    "no name": (with_line(b": a"), 400),
    "NUL": (with_line(b"A: \0"), 400),
    "a control character": (with_line(b"A: \x01"), 400),
    "DEL": (with_line(b"A: \x7f"), 400),
    # Targets and hosts.
    "a relative target": (GET.replace(b"/", b"a", 1), 400),
    "a fragment": (GET.replace(b"/", b"/#a", 1), 400),
    "asterisk for GET": (GET.replace(b"/", b"*", 1), 400),
    "another scheme": (GET.replace(b"/", b"file:///a", 1), 400),
    "another host in absolute-form": (GET.replace(b"/", b"http://b/", 1), 400),
    "a byte beyond ASCII in the target": (GET.replace(b"/", b"/\xe9", 1), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (with_line(b"Host: a"), 400),
    "two Hosts in HTTP/1.0": (with_line(b"Host: a").replace(b"1.1", b"1.0"), 400),
    "an empty Host": (GET.replace(b" a", b""), 400),
    "a Host with a path": (GET.replace(b" a", b" a/b"), 400),
    "a Host with a user": (GET.replace(b" a", b" b@a"), 400),
    "a Host with spaces": (GET.replace(b" a", b" a b"), 400),
    "two hosts in one Host": (GET.replace(b" a", b" a, b@c"), 400),
    "an IPv6 Host without brackets": (GET.replace(b" a", b" ::1"), 400),
    # Lengths.
    "two Content-Lengths": (with_line(b"Content-Length: 0\r\nContent-Length: 0"), 400),
    "two that differ": (with_line(b"Content-Length: 0\r\ncontent-length: 1"), 400),
    "two in one": (with_line(b"Content-Length: 5, 5"), 400),
    "a sign": (with_line(b"Content-Length: +5"), 400),
    "a negative length": (with_line(b"Content-Length: -5"), 400),
    "a hexadecimal length": (with_line(b"Content-Length: 0x5"), 400),
    "an underscore": (with_line(b"Content-Length: 1_0"), 400),
    "an empty length": (with_line(b"Content-Length:"), 400),
    "a length of 5000 digits": (with_line(b"Content-Length: " + b"1" * 5000), 400),
    "length and chunks": (with_line(b"Content-Length: 5\r\nTransfer-Encoding: chunked"), 400),
    "chunks and length": (with_line(b"Transfer-Encoding: chunked\r\nContent-Length: 5"), 400),
    "two codings": (with_line(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
    "gzip": (with_line(b"Transfer-Encoding: gzip, chunked"), 501),
    "identity": (with_line(b"Transfer-Encoding: identity"), 501),
    "chunked with a parameter": (with_line(b"Transfer-Encoding: chunked;a=b"), 501),
    "chunked twice": (with_line(b"Transfer-Encoding: chunked, chunked"), 501),
    "chunked with a control character": (with_line(b"Transfer-Encoding: \x0bchunked"), 400),
    "no coding": (with_line(b"Transfer-Encoding:"), 501),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0"), 400),
    "another expectation": (with_line(b"Expect: miracles"), 417),
}


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


REFUSED_BODIES: dict[str, tuple[bytes, bytes, int]] = {
    "no size": (b"\r\nhi\r\n0\r\n\r\n", b"", 400),
    "no number": (b"x\r\nhi\r\n", b"", 400),
    "a negative size": (b"-1\r\n", b"", 400),
    "a plus sign": (b"+2\r\nhi\r\n", b"", 400),
    "0x": (b"0x2\r\nhi\r\n", b"", 400),
    "an underscore": (b"1_0\r\n", b"", 400),
    "a space before the size": (b" 2\r\nhi\r\n", b"", 400),
    "a space behind the size": (b"2 \r\nhi\r\n", b"", 400),
    "a size of 16 digits": (b"0000000000000002\r\nhi\r\n", b"", 400),
    "a size ended by bare LF": (b"2\nhi\r\n", b"", 400),
    "an extension ended by bare LF": (b"2;a\nhi\r\n0\r\n\r\n", b"", 400),
    "bare CR in an extension": (b"2;a\rb\r\nhi\r\n0\r\n\r\n", b"", 400),
    "a long extension": (b"2;" + b"a" * MAX_CHUNK_LINE + b"\r\nhi\r\n", b"", 400),
    "a long extension without end": (b"2;" + b"a" * MAX_CHUNK_LINE, b"", 400),
    "two wrong bytes after a chunk": (b"2\r\nhiXX0\r\n\r\n", b"hi", 400),
    "a wrong second byte after a chunk": (b"2\r\nhi\rX0\r\n\r\n", b"hi", 400),
    "LF LF after a chunk": (b"2\r\nhi\n\n0\r\n\r\n", b"hi", 400),
    "a chunk that is longer than it says": (b"2\r\nhi!\r\n0\r\n\r\n", b"hi", 400),
    "a fault in the second chunk": (b"2\r\nhi\r\nx\r\n", b"hi", 400),
    "no colon in a trailer": (b"0\r\na\r\n\r\n", b"", 400),
    "obs-fold in a trailer": (b"0\r\na: b\r\n c\r\n\r\n", b"", 400),
    "bare LF in a trailer": (b"0\r\na: b\n\r\n", b"", 400),
    "bare LF at the end": (b"0\r\n\n", b"", 400),
    "a trailer that is too long": (b"0\r\na: " + b"b" * 200 + b"\r\n\r\n", b"", 400),
    "trailers that are too large": (b"0\r\n" + b"a: bbbbbbbbbbbbbbb\r\n" * 6, b"", 431),
    "too many trailers": (b"0\r\n" + b"a:\r\n" * 6 + b"\r\n", b"", 431),
    "a body that ends in a size": (b"2", b"", 400),
    "a body that ends in a chunk": (b"3\r\nhi", b"hi", 400),
    "a body that ends behind a chunk": (b"2\r\nhi", b"hi", 400),
    "a body that ends in a line end": (b"2\r\nhi\r", b"hi", 400),
    "a body that ends between chunks": (b"2\r\nhi\r\n", b"hi", 400),
    "a body that ends in the trailers": (b"2\r\nhi\r\n0\r\na", b"hi", 400),
    "a large chunk": (b"15\r\n" + b"a" * 21 + b"\r\n0\r\n\r\n", b"", 413),
    "too many chunks": (b"a\r\n0123456789\r\n" * 3, b"0123456789" * 2, 413),
    "an enormous chunk": (b"fffffffffffffff\r\n", b"", 413),
}


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


def test_nothing_is_read_before_a_verdict() -> None:
    machine = Http1Server()
    machine.receive_data(POST + GET)
    assert isinstance(machine.next_event(), RequestHead)
    assert machine.next_event() is PAUSED
    assert machine.trailing_data == (b"hello" + GET, False)
    assert machine.buffered == len(GET) + 5
