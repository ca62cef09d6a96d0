"""One connection of the HTTP server: what a client may do to it, and what comes of it."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime

import pytest
import trio
from http_wire import Responses, echo, open_wire, post
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import BodyData, EndOfBody, Http1Limits, ResponseHead
from trio_mcp_transport.sansio.mcp_http.replies import JSON_HEADERS, Reply
from trio_mcp_transport.transports.http_connection import HttpConnectionOptions
from trio_mcp_transport.transports.http_request import HttpRequestStream, write_reply
from trio_mcp_transport.transports.socket_stream import SocketStream

STREAM_HEAD = ResponseHead(200, Headers([("content-type", "text/event-stream")]))


class Held:
    """A script that leaves its requests unanswered until the test answers them."""

    def __init__(self) -> None:
        self.requests: list[HttpRequestStream] = []
        self.gone = 0

    async def __call__(self, request: HttpRequestStream) -> None:
        await request.read_body(1000)
        request.on_gone = self._count
        self.requests.append(request)

    def _count(self) -> None:
        self.gone += 1

    def answer(self, body: bytes = b"done") -> None:
        write_reply(self.requests[-1], Reply(200, JSON_HEADERS, body))


async def test_requests_are_answered_one_after_another_on_one_connection() -> None:
    async with open_wire() as wire:
        for body in (b"one", b"two", b"three"):
            await wire.send(post(body))
            status, headers, answer = await wire.responses.whole()
            assert (status, answer) == (200, body)
            assert headers["content-type"] == "application/json"


async def test_a_request_may_come_byte_by_byte(autojump_clock: MockClock) -> None:
    async with open_wire() as wire:
        for byte in post(b"slow"):
            await wire.send(bytes([byte]))
            await wait_all_tasks_blocked()
        assert (await wire.responses.whole())[2] == b"slow"


async def test_pipelined_requests_are_answered_in_order_each_after_the_one_before() -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1") + post(b"2") + post(b"3"))
        for number in (b"1", b"2", b"3"):
            await wait_all_tasks_blocked()
            assert len(held.requests) == int(number)
            held.answer(number)
            assert (await wire.responses.whole())[2] == number


async def test_a_connection_with_its_next_request_here_is_never_taken_for_an_idle_one(
    mock_clock: MockClock,
) -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"x") * 21)
        for _ in range(20):
            await wait_all_tasks_blocked()
            held.answer()
            mock_clock.jump(0.1)  # the timer that was set when the body came is due now
            assert (await wire.responses.whole())[0] == 200
        await wait_all_tasks_blocked()
        assert len(held.requests) == 21
        held.answer()


async def test_a_pipelined_request_may_take_its_time_though_the_one_before_was_quick(
    autojump_clock: MockClock,
) -> None:
    async with open_wire() as wire:
        second = post(b"2" * 100)
        await wire.send(post(b"1") + second[:-50])
        assert (await wire.responses.whole())[2] == b"1"
        await trio.sleep(1)  # an instant is over: the body is read by one task all the same
        await wire.send(second[-50:])
        assert (await wire.responses.whole())[2] == b"2" * 100
        assert not wire.events


async def test_a_head_that_began_behind_a_request_has_the_time_of_a_head(
    autojump_clock: MockClock,
) -> None:
    options = HttpConnectionOptions(head_timeout=5, keep_alive_timeout=100)
    async with open_wire(options=options) as wire:
        await wire.send(post(b"1") + post(b"2")[:10])
        assert (await wire.responses.whole())[0] == 200
        assert (await wire.responses.whole())[0] == 408
        assert trio.current_time() == pytest.approx(5)


async def test_a_head_that_begins_late_has_its_whole_time(autojump_clock: MockClock) -> None:
    options = HttpConnectionOptions(head_timeout=5, keep_alive_timeout=10)
    async with open_wire(options=options) as wire:
        await wire.send(post(b"1"))
        await wire.responses.whole()
        await trio.sleep(9)
        await wire.send(post(b"2")[:10])
        await trio.sleep(4)
        await wire.send(post(b"2")[10:])
        assert (await wire.responses.whole())[2] == b"2"


class DiesOnWrite(SocketStream):
    """Breaks with the next write, as a connection does that its client has reset."""

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        raise trio.BrokenResourceError("reset")


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_connection_that_breaks_with_its_answer_is_no_fault(parts: int) -> None:
    client, server = socket.socketpair()
    held = Held()
    streams = SocketStream(client), DiesOnWrite(server)
    async with open_wire(held, streams=streams) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        request = held.requests[0]
        if parts == 1:
            held.answer()
        else:
            request.write(STREAM_HEAD)
            request.write(BodyData(b"x"), EndOfBody())
        await wire.ended.wait()
        assert (request.gone, wire.events) == (True, [])


async def test_who_takes_no_answers_is_read_no_more_when_they_are_too_many() -> None:
    large = b"x" * 100_000
    answered = []

    async def answer(request: HttpRequestStream) -> None:
        answered.append(await request.read_body(10))
        write_reply(request, Reply(404, JSON_HEADERS, large))

    client, server = lockstep_stream_pair()
    async with open_wire(answer, streams=(client, server)) as wire, trio.open_nursery() as nursery:
        nursery.start_soon(wire.send, post() * 100)
        await wait_all_tasks_blocked()
        assert len(answered) * len(large) < ChannelOptions().outbox_bytes + 2 * len(large)
        for _ in range(100):
            assert (await wire.responses.whole())[0] == 404


async def test_a_pipelined_request_waits_though_half_of_it_came_early() -> None:
    held = Held()
    async with open_wire(held) as wire:
        second = post(b"2")
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        await wire.send(second[:10])
        await wait_all_tasks_blocked()
        held.answer(b"1")
        assert (await wire.responses.whole())[2] == b"1"
        await wire.send(second[10:])
        await wait_all_tasks_blocked()
        held.answer(b"2")
        assert (await wire.responses.whole())[2] == b"2"


async def test_what_comes_during_an_exchange_is_read_up_to_one_head_and_no_further() -> None:
    held = Held()
    options = HttpConnectionOptions(limits=Http1Limits(max_header_bytes=1000))
    async with open_wire(held, options=options) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        for _ in range(10):
            await wire.send(post(b"x" * 400))
            await wait_all_tasks_blocked()
        assert 1000 <= wire.connection.machine.buffered < 2000
        for _ in range(11):
            await wait_all_tasks_blocked()
            held.answer()
            assert (await wire.responses.whole())[0] == 200


@pytest.mark.parametrize("ahead", [b"", b"POST /mcp HT"])
async def test_a_client_that_goes_away_during_an_exchange_is_noticed(ahead: bytes) -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        if ahead:
            await wire.send(ahead)
            await wait_all_tasks_blocked()
        await wire.client.aclose()
        await wire.ended.wait()
        assert held.gone == 1
        assert held.requests[0].gone
        held.answer()  # goes nowhere, and does no harm
        assert not wire.events


@pytest.mark.parametrize("sent", [0, 1, 20, len(post(b"body")) - 2])
async def test_a_client_that_goes_away_before_its_request_is_whole_is_no_event(sent: int) -> None:
    async with open_wire() as wire:
        if sent:
            await wire.send(post(b"body")[:sent])
        await wait_all_tasks_blocked()
        await wire.client.aclose()
        await wire.ended.wait()
        assert not wire.events


async def test_a_client_that_goes_away_in_the_middle_of_a_stream_is_told_to_the_writer() -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        held.requests[0].write(STREAM_HEAD, BodyData(b"data: 1\n\n"))
        assert (await wire.responses.head())[0] == 200
        assert await wire.responses.chunk() == b"data: 1\n\n"
        await wire.client.aclose()
        await wire.ended.wait()
        assert held.gone == 1
        held.requests[0].write(BodyData(b"data: 2\n\n"), EndOfBody())


async def test_a_stream_that_was_ended_leaves_the_connection_for_the_next_request() -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        held.requests[0].write(STREAM_HEAD)
        held.requests[0].write(BodyData(b"data: 1\n\n"))
        held.requests[0].write(EndOfBody())
        assert (await wire.responses.whole())[2] == b"data: 1\n\n"
        await wire.send(post(b"2"))
        await wait_all_tasks_blocked()
        held.answer()
        assert (await wire.responses.whole())[2] == b"done"


async def test_an_idle_connection_is_closed_after_the_keep_alive_timeout(
    autojump_clock: MockClock,
) -> None:
    options = HttpConnectionOptions(head_timeout=5, keep_alive_timeout=30)
    async with open_wire(options=options) as wire:
        for _ in range(3):
            await trio.sleep(4)
            await wire.send(post(b"1"))
            await wire.responses.whole()
        before = trio.current_time()
        assert await wire.responses.end() == b""
        assert trio.current_time() - before == pytest.approx(30)


async def test_a_long_exchange_is_not_cut_off_by_the_timeout_of_the_idle_wait_before_it(
    autojump_clock: MockClock,
) -> None:
    held = Held()
    options = HttpConnectionOptions(head_timeout=5, keep_alive_timeout=30)
    async with open_wire(held, options=options) as wire:
        for _ in range(2):
            await wire.send(post(b"1"))
            await trio.sleep(1000)
            held.answer()
            assert (await wire.responses.whole())[2] == b"done"


async def test_a_connection_that_never_sends_anything_is_closed(autojump_clock: MockClock) -> None:
    async with open_wire(options=HttpConnectionOptions(head_timeout=5)) as wire:
        assert await wire.responses.end() == b""
        assert trio.current_time() == pytest.approx(5)


async def test_a_trickled_head_gets_408_when_the_time_for_the_whole_of_it_is_over(
    autojump_clock: MockClock,
) -> None:
    async with open_wire(options=HttpConnectionOptions(head_timeout=5)) as wire:

        async def trickle() -> None:
            for byte in b"POST /mcp HTTP/1.1\r\nX: " + b"y" * 100:
                try:
                    await wire.send(bytes([byte]))
                except trio.BrokenResourceError:
                    return
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            status, headers, _ = await wire.responses.whole()
            assert status == 408
            assert headers["connection"] == "close"
            assert trio.current_time() == pytest.approx(5)


async def test_a_trickled_body_gets_408_when_the_time_for_the_whole_of_it_is_over(
    autojump_clock: MockClock,
) -> None:
    async with open_wire(options=HttpConnectionOptions(body_timeout=10)) as wire:

        async def trickle() -> None:
            await wire.send(post(b"x" * 500)[:-500])
            with suppress(trio.BrokenResourceError):
                for _ in range(500):
                    await wire.send(b"x")
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            assert (await wire.responses.whole())[0] == 408
            assert trio.current_time() == pytest.approx(10)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_cap_gets_413_and_the_end(
    chunked: bool, autojump_clock: MockClock
) -> None:
    head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\n"
    async with open_wire() as wire:
        if chunked:
            request = (head + "Transfer-Encoding: chunked\r\n\r\n").encode()
            request += b"".join(b"100\r\n" + b"x" * 256 + b"\r\n" for _ in range(5))
        else:
            request = (head + "Content-Length: 1001\r\n\r\n").encode() + b"x" * 1001
        await wire.send(request)
        status, headers, _ = await wire.responses.whole()
        assert (status, headers["connection"]) == (413, "close")
        # What a client still sends is read for a while, so that it gets to see the answer.
        await wire.send(b"x" * 5000)
        assert await wire.responses.end() == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding:chunked\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40000 + b"\r\n\r\n", 431),
    ],
)
async def test_a_broken_request_is_answered_and_ends_its_connection_alone(
    request_: bytes, status: int, autojump_clock: MockClock
) -> None:
    async with open_wire() as wire:
        await wire.send(request_)
        answer = Responses(wire.client)
        assert (await answer.whole())[0] == status
        assert await answer.end() == b""
        assert not wire.service.requests
        assert not wire.events


async def test_a_broken_request_behind_a_good_one_spoils_nothing_of_that() -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1") + b"\0\0\0\0\r\n\r\n")
        await wait_all_tasks_blocked()
        held.answer()
        assert (await wire.responses.whole())[2] == b"done"
        assert (await wire.responses.whole())[0] == 400


async def test_a_client_that_waits_for_continue_gets_it_only_once_its_body_is_wanted() -> None:
    async def refuse(request: HttpRequestStream) -> None:
        if request.head.path == "/no":
            write_reply(request, Reply(403, JSON_HEADERS, b"{}"))
        else:
            await echo(request)

    async with open_wire(refuse) as wire:
        await wire.send(post(b"body", "Expect: 100-continue")[:-4])
        assert (await wire.responses.head())[0] == 100
        await wire.send(b"body")
        assert (await wire.responses.whole())[2] == b"body"
        await wire.send(post(b"body", "Expect: 100-continue", target="/no")[:-4])
        status, headers, _ = await wire.responses.whole()
        assert (status, headers["connection"]) == (403, "close")


async def test_a_refusal_before_the_body_was_read_closes_the_connection(
    autojump_clock: MockClock,
) -> None:
    async def refuse(request: HttpRequestStream) -> None:
        await trio.lowlevel.checkpoint()
        write_reply(request, Reply(403, JSON_HEADERS, b"{}"))

    async with open_wire(refuse) as wire:
        await wire.send(post(b"x" * 100))
        assert (await wire.responses.whole())[0] == 403
        assert await wire.responses.end() == b""


async def test_a_client_may_ask_for_the_end_of_its_connection() -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1", "Connection: close"))
        await wait_all_tasks_blocked()
        held.answer()
        status, headers, _ = await wire.responses.whole()
        assert (status, headers["connection"]) == (200, "close")
        assert await wire.responses.end() == b""


async def test_a_fault_of_the_service_is_reported_and_ends_its_connection_alone() -> None:
    async def fail(_: HttpRequestStream) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("boom")

    async with open_wire(fail) as wire:
        await wire.send(post(b"1"))
        assert await wire.responses.end() == b""
        await wire.ended.wait()
        (event,) = wire.events
        assert event.name == "connection.failed"
        assert isinstance(event.error, RuntimeError)


async def test_an_aborted_response_cannot_be_taken_for_a_whole_one() -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        held.requests[0].write(STREAM_HEAD, BodyData(b"data: 1\n\n"))
        held.requests[0].abort()
        assert not (await wire.responses.end()).endswith(b"0\r\n\r\n")
        assert held.gone == 1


async def test_a_client_that_takes_nothing_is_given_up_after_the_write_timeout(
    autojump_clock: MockClock,
) -> None:
    held = Held()
    client, server = trio.testing.lockstep_stream_pair()
    options = HttpConnectionOptions(write_timeout=7)
    async with open_wire(held, options=options, streams=(client, server)) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        request = held.requests[0]
        start = trio.current_time()
        request.write(STREAM_HEAD, BodyData(b"x" * 100_000))
        assert request.held > 100_000
        await request.flush()
        assert trio.current_time() - start == pytest.approx(7)
        assert request.gone
        assert request.held == 0
        await wire.ended.wait()
        assert not wire.events


async def test_flush_waits_until_the_client_has_taken_what_was_written() -> None:
    held = Held()
    client, server = trio.testing.lockstep_stream_pair()
    async with open_wire(held, streams=(client, server)) as wire:
        await wire.send(post(b"1"))
        await wait_all_tasks_blocked()
        flushed = False

        async def flush() -> None:
            nonlocal flushed
            await held.requests[0].flush()
            flushed = True

        held.requests[0].write(STREAM_HEAD, BodyData(b"x" * 100_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await wait_all_tasks_blocked()
            assert not flushed
            await wire.responses.head()
            assert len(await wire.responses.chunk()) == 100_000
        assert flushed


async def test_draining_closes_an_idle_connection_at_once() -> None:
    async with open_wire() as wire:
        await wire.send(post(b"1"))
        await wire.responses.whole()
        await wait_all_tasks_blocked()
        wire.connection.drain()
        assert await wire.responses.end() == b""


async def test_draining_finishes_the_request_that_is_being_answered_and_says_so() -> None:
    held = Held()
    async with open_wire(held) as wire:
        await wire.send(post(b"1") + post(b"2"))
        await wait_all_tasks_blocked()
        wire.connection.drain()
        await wait_all_tasks_blocked()
        assert not wire.ended.is_set()
        held.answer()
        status, headers, _ = await wire.responses.whole()
        assert (status, headers["connection"]) == (200, "close")
        assert await wire.responses.end() == b""
        assert len(held.requests) == 1


async def test_a_connection_for_which_there_is_no_room_is_told_so(
    autojump_clock: MockClock,
) -> None:
    async with open_wire(turned_away=True) as wire:
        await wire.send(post(b"1"))
        status, headers, _ = await wire.responses.whole()
        assert (status, headers["connection"]) == (503, "close")
        assert await wire.responses.end() == b""


async def test_the_next_request_after_its_response_is_written_from_another_task() -> None:
    """The reading task is not woken by the end of a response, yet reads on rightly."""

    async with trio.open_nursery() as nursery:

        async def answer(request: HttpRequestStream) -> None:
            body = await request.read_body(1000)

            async def later() -> None:
                await wait_all_tasks_blocked()
                write_reply(request, Reply(200, JSON_HEADERS, body))

            nursery.start_soon(later)

        async with open_wire(answer) as wire:
            for number in range(5):
                await wire.send(post(b"%d" % number))
                assert (await wire.responses.whole())[2] == b"%d" % number


async def test_every_response_has_a_date() -> None:
    async with open_wire() as wire:
        for _ in range(2):
            await wire.send(post(b"1"))
            _, headers, _ = await wire.responses.whole()
            parsed = parsedate_to_datetime(headers["date"])
            assert abs(parsed.timestamp() - time.time()) < 100
