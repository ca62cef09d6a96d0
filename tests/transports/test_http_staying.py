"""One connection of the HTTP server whose service stays with a request until it is answered."""

from __future__ import annotations

import pytest
import trio
from http_wire import open_wire, post
from trio.testing import MockClock

from trio_mcp_transport.sansio.mcp_http.replies import JSON_HEADERS, Reply
from trio_mcp_transport.transports.http_connection import HttpConnectionOptions
from trio_mcp_transport.transports.http_request import HttpRequestStream, write_reply


class Staying:
    """A script that answers within `handle`, after the test has said so."""

    def __init__(self, *, tail: float = 0) -> None:
        self.requests: list[HttpRequestStream] = []
        self.gone = self.cancelled = self.finished = 0
        self.answers = trio.Semaphore(0)
        self.tail = tail

    async def __call__(self, request: HttpRequestStream) -> None:
        body = await request.read_body(1000)
        request.on_gone = self._count
        self.requests.append(request)
        try:
            await self.answers.acquire()
            write_reply(request, Reply(200, JSON_HEADERS, body))
            await trio.sleep(self.tail)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        self.finished += 1

    def _count(self) -> None:
        self.gone += 1


async def test_a_quick_answer_needs_no_task_beside_that_of_the_connection() -> None:
    staying = Staying()
    async with open_wire(staying) as wire:
        for number in (b"1", b"2", b"3"):
            staying.answers.release()
            await wire.send(post(number))
            assert (await wire.responses.whole())[2] == number
            assert wire.connection.tasks_beside == 0


@pytest.mark.parametrize("ahead", [b"", b"POST /mcp HT", post(b"2")])
async def test_a_client_that_goes_away_cancels_the_service_that_stays(
    ahead: bytes, autojump_clock: MockClock
) -> None:
    staying = Staying()
    async with open_wire(staying) as wire:
        await wire.send(post(b"1"))
        await trio.sleep(1)
        if ahead:
            await wire.send(ahead)
            await trio.sleep(1)
        await wire.client.aclose()
        await wire.ended.wait()
        assert (staying.gone, staying.cancelled) == (1, 1)
        assert len(staying.requests) == 1


@pytest.mark.parametrize("tail", [0, 5])
@pytest.mark.parametrize("ahead", [True, False])
async def test_requests_go_on_after_a_slow_answer_read_past_or_not(
    ahead: bool, tail: float, autojump_clock: MockClock
) -> None:
    staying = Staying(tail=tail)
    async with open_wire(staying) as wire:
        for number in range(4):
            await wire.send(post(b"%d" % number))
            await trio.sleep(1)
            if ahead:
                await wire.send(post(b"ahead"))
                await trio.sleep(1)
            staying.answers.release()
            assert (await wire.responses.whole())[2] == b"%d" % number
            if ahead:
                staying.answers.release()
                assert (await wire.responses.whole())[2] == b"ahead"
        await trio.sleep(10)
        assert staying.cancelled == 0


async def test_the_keep_alive_timeout_counts_after_a_slow_answer_too(
    autojump_clock: MockClock,
) -> None:
    staying = Staying()
    options = HttpConnectionOptions(keep_alive_timeout=30)
    async with open_wire(staying, options=options) as wire:
        await wire.send(post(b"1"))
        await trio.sleep(100)
        staying.answers.release()
        await wire.responses.whole()
        start = trio.current_time()
        assert await wire.responses.end() == b""
        assert trio.current_time() - start == pytest.approx(30)
        assert staying.cancelled == 0


async def test_the_end_that_a_client_asked_for_waits_for_the_service(
    autojump_clock: MockClock,
) -> None:
    staying = Staying(tail=5)
    async with open_wire(staying) as wire:
        await wire.send(post(b"1", "Connection: close"))
        await trio.sleep(1)
        staying.answers.release()
        assert (await wire.responses.whole())[0] == 200
        assert await wire.responses.end() == b""
        assert (staying.finished, staying.cancelled) == (1, 0)


async def test_draining_waits_for_the_service_that_stays(autojump_clock: MockClock) -> None:
    staying = Staying(tail=5)
    async with open_wire(staying) as wire:
        await wire.send(post(b"1"))
        await trio.sleep(1)
        wire.connection.drain()
        staying.answers.release()
        status, headers, _ = await wire.responses.whole()
        assert (status, headers["connection"]) == (200, "close")
        wire.connection.drain()
        assert await wire.responses.end() == b""
        assert (staying.finished, staying.cancelled) == (1, 0)
