"""The HTTP server over real sockets, and clients that break, stall and smuggle.

After each fault the server must serve others as if nothing had happened, and no fault of a
client may be reported as one of this program.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
import shutil
import socket
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
import trio
from http1_corpus import CHUNKED, REFUSED, REFUSED_BODIES
from serving import serving

from trio_mcp_transport import ChannelEvent, Context, Router, serve_peers

pytestmark = [pytest.mark.http, pytest.mark.hardening]

REVISION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
FIELDS = {
    "Host": "localhost",
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": REVISION,
    "Mcp-Method": "test/count",
}
LARGE = b"x" * 3_000_000


def body_of(request_id: int) -> bytes:
    meta = {
        f"{PREFIX}protocolVersion": REVISION,
        f"{PREFIX}clientInfo": {"name": "test", "version": "1"},
        f"{PREFIX}clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": request_id, "method": "test/count"}
    return json.dumps({**message, "params": {"_meta": meta}}).encode()


def post(request_id: int = 1, fields: Mapping[str, str] | None = None) -> bytes:
    """A request that is in order."""
    body = body_of(request_id)
    lines = {**FIELDS, "Content-Length": str(len(body)), **(fields or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body


class Server:
    """A server of one method, which counts."""

    def __init__(self) -> None:
        self.router = Router("test", "1")
        self.router.method("test/count")(self.count)
        self.seen: list[object] = []
        self.events: list[ChannelEvent] = []
        self.url = ""

    async def count(self, ctx: Context) -> dict[str, int]:
        self.seen.append(ctx.request.id)
        return {"count": len(self.seen)}

    async def open(self) -> trio.SocketStream:
        parts = urlsplit(self.url)
        assert parts.port is not None
        return await trio.open_tcp_stream("127.0.0.1", parts.port)

    async def answers(self, data: bytes, *, eof: bool = True) -> bytes:
        """All that the server sends to a client that sends this, until the end."""
        received = b""
        async with await self.open() as stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                if eof:
                    await stream.send_eof()
            with suppress(trio.BrokenResourceError):
                async for piece in stream:
                    received += piece
        return received

    async def check_serves(self) -> None:
        """It answers a request that is in order, and has seen nobody's fault as its own."""
        answer = await self.answers(post(4711))
        assert statuses(answer) == [200]
        assert self.seen[-1] == 4711
        assert self.events == []


@asynccontextmanager
async def server(query: str = "") -> AsyncGenerator[Server, None]:
    """A server that at the end must still be serving."""
    made = Server()
    serve = functools.partial(
        serve_peers,
        made.router,
        f"http://127.0.0.1:0/mcp?check_host=false{query}",
        on_event=made.events.append,
    )
    async with serving(serve) as made.url:
        try:
            yield made
        finally:
            await made.check_serves()  # noqa: ASYNC102 (`serving` has a deadline)


def statuses(answers: bytes) -> list[int]:
    """The status of each response."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


# -- what must not be taken for something else


@pytest.mark.parametrize("case", REFUSED)
async def test_behind_a_malformed_head_nothing_is_served(case: str) -> None:
    data, status = REFUSED[case]
    async with server() as made:
        answers = await made.answers(data + post(666))
        assert statuses(answers) == [status]
        assert b"\r\nconnection: close\r\n" in answers.lower()
        assert made.seen == []


@pytest.mark.parametrize("case", REFUSED)
async def test_a_malformed_head_behind_a_good_request_ends_the_connection(case: str) -> None:
    data, status = REFUSED[case]
    async with server() as made:
        answers = await made.answers(post(1) + data + post(666))
        assert statuses(answers) in ([200, status], [200])  # one empty line more is ignored
        assert made.seen == [1]


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (_, _, status) in REFUSED_BODIES.items()
        if status == 400 and case != "a trailer that is too long"  # the server's limit is higher
    ],
)
async def test_behind_a_malformed_body_nothing_is_served(case: str) -> None:
    chunks, _, _ = REFUSED_BODIES[case]
    head = CHUNKED.replace(b"/ ", b"/mcp ").replace(b"Host: a", b"Host: localhost")
    fields = b"".join(
        f"{name}: {value}\r\n".encode() for name, value in FIELDS.items() if name != "Host"
    )
    head = head.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n")
    async with server() as made:
        answers = await made.answers(head + chunks + post(666))
        assert statuses(answers) == [400]
        assert made.seen == []


async def test_what_two_lengths_could_hide_is_never_served() -> None:
    hidden = post(666)
    for fields in (
        {"Content-Length": "0", "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "xchunked"},
        {"Content-Length": "0\r\nContent-Length: 5"},
        {"Content-Length": "0", "Transfer-Encoding": "identity"},
    ):
        async with server() as made:
            answers = await made.answers(post(1, fields) + b"0\r\n\r\n" + hidden)
            assert len(statuses(answers)) == 1
            assert statuses(answers)[0] in {400, 501}
            assert made.seen == []


# -- pipelining, and requests cut anywhere


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with server() as made:
        answers = await made.answers(b"".join(map(post, range(1, 31))))
        assert statuses(answers) == [200] * 30
        assert made.seen == list(range(1, 31))
        for number in range(1, 31):
            position = answers.index(b'"id":%d,' % number)
            answers = answers[position:]


async def test_a_request_may_come_in_any_two_pieces() -> None:
    data = post(1)
    async with server() as made, await made.open() as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(1, len(data)):
            await stream.send_all(data[:place])
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(data[place:])
            answer = await stream.receive_some()
            assert statuses(answer) == [200]
        assert len(made.seen) == len(data) - 1


# -- clients that go away


@pytest.mark.parametrize("reset", [False, True])
async def test_clients_that_go_away_at_any_byte_harm_nobody(*, reset: bool) -> None:
    data = post(1)
    async with server() as made:
        for place in range(0, len(data) + 1, 3):
            stream = await made.open()
            await stream.send_all(data[:place])
            if reset:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
    assert len(made.seen) <= 2  # a whole one perhaps, and that of the check


async def test_a_client_that_sends_no_more_gets_its_answer() -> None:
    async with server() as made:
        assert statuses(await made.answers(post(1), eof=True)) == [200]


async def test_a_client_that_never_reads_holds_nobody_up() -> None:
    async with server() as made, await made.open() as stream:
        with trio.move_on_after(math.inf) as scope:
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    with suppress(trio.BrokenResourceError):
                        while True:
                            await stream.send_all(post(1) * 100)

                nursery.start_soon(flood)
                for _ in range(5):
                    assert statuses(await made.answers(post(4711))) == [200]
                scope.cancel()


# -- clients that are slow


@pytest.mark.parametrize(
    "sent", [b"", b"POST", post(1)[:60], post(1)[:-1], CHUNKED, CHUNKED + b"5\r\nab"]
)
async def test_a_client_that_stalls_loses_its_place(sent: bytes) -> None:
    limits = "&head_timeout=0.2&body_timeout=0.2&idle_timeout=0.2&max_connections=1"
    if sent.startswith(CHUNKED):
        fields = {**FIELDS, "Transfer-Encoding": "chunked"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        sent = f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + sent[len(CHUNKED) :]
    async with server(limits) as made:
        async with await made.open() as stalled:
            await stalled.send_all(sent)
            # There is one place. Who has not sent a whole head may have to leave it at once.
            answers = statuses(await made.answers(post(1)))
            received = b""
            async for piece in stalled:
                received += piece
            assert answers in ([200], [503])
            assert statuses(received) == ([408] if sent else [])
        # The place is free again, as the check at the end sees; the server may take a moment
        # to notice that its client, which reads no more, has gone.
        while statuses(await made.answers(post(1))) == [503]:  # noqa: ASYNC110 (nothing to wait on)
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "begin", [b"POST /mcp HTTP/1.1\r\nA: ", post(1, {"Content-Length": "9999999"})]
)
async def test_a_trickle_is_no_progress(begin: bytes) -> None:
    limits = "&head_timeout=0.1&body_timeout=0.1"
    async with server(limits) as made, await made.open() as stream:
        received = b""

        async def trickle() -> None:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(begin)
                while True:
                    await stream.send_all(b"a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            with suppress(trio.BrokenResourceError):
                async for piece in stream:
                    received += piece
            nursery.cancel_scope.cancel()
        assert statuses(received) == [408]


# -- too much


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_too_much_gets_to_read_why(*, chunked: bool) -> None:
    """Also if it sends everything before it reads anything."""
    if chunked:
        fields = {**FIELDS, "Transfer-Encoding": "chunked"}
        body = b"".join(b"%x\r\n%b\r\n" % (1000, LARGE[:1000]) for _ in range(3000)) + b"0\r\n\r\n"
    else:
        fields = {**FIELDS, "Content-Length": str(len(LARGE))}
        body = LARGE
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    async with server("&max_message_bytes=100000") as made:
        answers = await made.answers(f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body)
        assert statuses(answers) == [413]
        assert made.seen == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 10_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000, 431),
    ],
)
async def test_a_head_that_is_too_large_is_refused(data: bytes, status: int) -> None:
    async with server() as made:
        assert statuses(await made.answers(data)) == [status]


async def test_garbage_is_refused_or_waits() -> None:
    source = random.Random(4711)
    async with server() as made:
        for number in range(100):
            garbage = source.randbytes(source.randrange(1, 400))
            if number % 2:  # garbage within a request
                place = source.randrange(len(post(1)))
                garbage = post(1)[:place] + garbage + post(1)[place:]
            answers = await made.answers(garbage)
            assert all(status in {200, 202} or 400 <= status < 600 for status in statuses(answers))


# -- curl


async def curl(*arguments: str, data: bytes = b"") -> tuple[int, str, str]:
    """Its exit status, what it wrote, and what it said with `-v`."""
    with trio.fail_after(60):
        done = await trio.run_process(
            ["curl", "--silent", "--verbose", "--max-time", "30", *arguments],
            stdin=data,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


HEADER_ARGUMENTS = [
    part for name, value in FIELDS.items() if name != "Host" for part in ("-H", f"{name}: {value}")
]
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-H", "Transfer-Encoding: chunked"),
        ("-H", "Expect: 100-continue"),
        ("-H", "Connection: close"),
        ("--http1.0",),
    ],
)
async def test_curl_is_served(arguments: tuple[str, ...]) -> None:
    async with server() as made:
        status, out, said = await curl(
            *HEADER_ARGUMENTS, *arguments, "--data-binary", "@-", made.url, data=body_of(1)
        )
        assert status == 0, said
        assert json.loads(out)["result"]["count"] == 1
        if "Expect: 100-continue" in arguments:
            assert "100 Continue" in said


@needs_curl
async def test_curl_uses_its_connection_again() -> None:
    async with server() as made:
        status, out, said = await curl(
            *HEADER_ARGUMENTS, "--data-binary", "@-", made.url, made.url, made.url, data=body_of(1)
        )
        assert status == 0, said
        assert re.findall(r'"count":(\d)', out) == ["1", "2", "3"]
        assert said.count("Re-using existing connection") == 2


@needs_curl
async def test_curl_asks_for_the_head_alone() -> None:
    async with server() as made:
        status, out, said = await curl("--head", made.url, made.url)
        assert status == 0, said
        assert out.count("HTTP/1.1 405") == 2


@needs_curl
@pytest.mark.parametrize("arguments", [(), ("-H", "Transfer-Encoding: chunked")])
async def test_curl_is_told_that_its_body_is_too_large(arguments: tuple[str, ...]) -> None:
    async with server("&max_message_bytes=100000") as made:
        _, _, said = await curl(
            *HEADER_ARGUMENTS, *arguments, "--data-binary", "@-", made.url, data=LARGE
        )
        assert "HTTP/1.1 413" in said
