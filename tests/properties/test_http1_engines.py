"""Every engine of HTTP/1.1 takes the same messages, and refuses the same ones alike."""

from __future__ import annotations

import pytest
from http1_corpus import CHUNKED, GET, POST, REFUSED, with_line
from http1_engines import INSTALLED, using
from http1_machines import ReadResponses, ServedRequests
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import InformationalResponse, RequestHead, ResponseHead
from trio_mcp_transport.testing import feed

pytestmark = pytest.mark.skipif(len(INSTALLED) < 2, reason="there is one engine only")

NAMES = st.sampled_from([
    b"X",
    b"Host",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Connection",
    b"Proxy-Connection",
    b"Upgrade",
    b"Expect",
    b"Keep-Alive",
    b"Trailer",
    b"TE",
])
VALUES = st.sampled_from([
    b"a",
    b"",
    b"0",
    b"5",
    b"18446744073709551616",
    b"chunked",
    b"Chunked",
    b"gzip, chunked",
    b"close",
    b"keep-alive",
    b"Upgrade",
    b"keep-alive, Upgrade",
    b"websocket",
    b"100-continue",
    b"\xc3\xa9",
    b'"a b"',
    b",",
])
#: What stands around and inside of names and values.
NOISE = st.one_of(
    st.sampled_from([b"", b"", b"", b" ", b"\t", b" \t", b":", b"\r", b"\n", b"\r\n", b"\r\n "]),
    st.binary(max_size=3),
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line of a head: nearly a header field, or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=20))
    noise = [draw(NOISE) for _ in range(3)]
    name = draw(st.one_of(NAMES, NAMES.map(bytes.swapcase)))
    return b"%b%b:%b%b%b" % (name, noise[0], noise[1], draw(VALUES), noise[2])


heads = st.lists(lines(), max_size=4)


def told(machine: ServedRequests | ReadResponses, wire: bytes) -> list[object]:
    """All that a program learns from these bytes: what was read, and how it is refused."""
    found: list[object] = []
    for event in feed(machine, wire, eof=True):
        if isinstance(event, RemoteProtocolError):
            found.append((str(event), event.status))
            continue
        found.append(event)
        if isinstance(event, RequestHead | ResponseHead | InformationalResponse):
            found.append(event.headers.raw)
    return found


def all_tell_the_same_of_requests(wire: bytes) -> None:
    outcomes = []
    for name in INSTALLED:
        with using(name):
            machine = ServedRequests()
            outcomes.append((told(machine, wire), machine.sent))
    assert all(outcome == outcomes[0] for outcome in outcomes)


def all_tell_the_same_of_responses(wire: bytes, method: str) -> None:
    outcomes = []
    for name in INSTALLED:
        with using(name):
            upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
            machine = ReadResponses(method=method, headers=Headers([("Host", "a"), *upgrade]))
            outcomes.append((told(machine, wire), machine.client.reusable))
    assert all(outcome == outcomes[0] for outcome in outcomes)


@pytest.mark.parametrize("case", REFUSED)
def test_requests_that_no_server_takes_are_refused_alike(case: str) -> None:
    all_tell_the_same_of_requests(REFUSED[case][0])
    all_tell_the_same_of_requests(POST + REFUSED[case][0] + POST)


@pytest.mark.parametrize("octet", range(256))
def test_every_octet_is_judged_alike_wherever_it_stands(octet: int) -> None:
    stray = bytes([octet])
    for line in (b"X%b: a", b"%bX: a", b"X:%ba", b"X: a%b", b"X: a%bb", b"X%bY: a", b"%b"):
        all_tell_the_same_of_requests(with_line(line % stray))
        answer = b"HTTP/1.1 200 OK\r\n" + line % stray + b"\r\nContent-Length: 0\r\n\r\n"
        all_tell_the_same_of_responses(answer, "GET")


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t", b"\t\t "])
@pytest.mark.parametrize(
    "line", [b"Transfer-Encoding:chunked", b"Content-Length:5", b"Connection: close", b"X:a", b""]
)
def test_space_behind_a_value_is_no_part_of_it(line: bytes, space: bytes) -> None:
    body = b"5\r\nhello\r\n0\r\n\r\n"
    for fields in (line + space, space + line + space):
        all_tell_the_same_of_requests(b"POST /m HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % fields + body)
        all_tell_the_same_of_responses(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % fields + body, "GET")


def test_a_host_that_comes_twice_is_refused_in_requests_alone() -> None:
    hosts = b"Host:a\r\nHOST: a"
    all_tell_the_same_of_requests(b"GET /m HTTP/1.1\r\n%b\r\n\r\n" % hosts)
    answer = b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 0\r\n\r\n" % hosts
    all_tell_the_same_of_responses(answer, "GET")
    assert isinstance(told(ReadResponses(method="GET"), answer)[0], ResponseHead)


@given(st.sampled_from([GET, POST, CHUNKED, GET.replace(b"1.1", b"1.0")]), heads, st.binary())
def test_requests_are_read_and_refused_alike(first: bytes, made: list[bytes], body: bytes) -> None:
    start, _, rest = first.partition(b"\r\n\r\n")
    for message in (b"\r\n".join([start, *made, b"", rest]), first[:14] + b"\r\n".join(made)):
        all_tell_the_same_of_requests(message + body)
        all_tell_the_same_of_requests(POST + message + POST)


@given(
    st.sampled_from([b"101 a", b"103 a", b"200 OK", b"204 a", b"304 a", b"500"]),
    heads,
    st.binary(),
    st.sampled_from(["GET", "HEAD", "CONNECT"]),
)
def test_responses_are_read_and_refused_alike(
    status: bytes, made: list[bytes], body: bytes, method: str
) -> None:
    start = b"HTTP/1.1 " + status
    all_tell_the_same_of_responses(b"\r\n".join([start, *made, b"", body]), method)
