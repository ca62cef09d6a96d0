"""What responses hold for clients that do not take them, all together."""

from __future__ import annotations

from collections.abc import MutableMapping

import pytest
import trio
from asgi_calls import Exchange, modern_call, scope_of
from http_served import serving
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelEvent,
    ConfigurationError,
    MessageChannel,
    Request,
    Response,
)
from trio_mcp_transport.interop.asgi import AsgiApp
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.transports.http_unsent import Unsent


class Holder:
    """Something that holds bytes, all of it or none."""

    def __init__(self, unsent: Unsent) -> None:
        self.unsent = unsent
        self.held = self.taken = 0
        self.is_cut = False

    def write(self, size: int) -> None:
        self.held += size
        self.unsent.note(self)

    def take(self, size: int) -> None:
        self.held -= size
        self.taken += size

    def cut(self) -> None:
        self.held = 0
        self.is_cut = True
        self.unsent.forget(self)


def holders(number: int, limit: int) -> tuple[list[Holder], list[int]]:
    told: list[int] = []
    unsent = Unsent(limit, told.append)
    return [Holder(unsent) for _ in range(number)], told


def cut(these: list[Holder]) -> list[int]:
    return [number for number, holder in enumerate(these) if holder.is_cut]


def test_nobody_is_cut_up_to_the_limit() -> None:
    these, told = holders(4, 100)
    for holder in these:
        holder.write(25)
    assert (cut(these), told) == ([], [])
    these[3].write(1)
    assert (cut(these), told) == ([0], [25])


def test_what_was_taken_counts_no_more() -> None:
    these, _ = holders(3, 100)
    these[0].write(60)
    these[0].take(60)
    these[1].write(60)
    these[1].take(30)
    these[2].write(70)
    assert cut(these) == []
    assert len(these[0].unsent) == 2


def test_those_go_first_that_have_not_taken_what_they_held() -> None:
    these, told = holders(4, 100)
    these[0].write(30)
    these[1].write(30)
    these[2].write(30)
    these[0].take(30)  # and goes on
    these[0].write(30)
    these[1].take(29)  # not all of it
    these[3].write(50)
    assert (cut(these), told) == ([1, 2], [1, 30])


def test_so_many_are_cut_that_there_is_room() -> None:
    these, told = holders(6, 100)
    for holder in these[:5]:
        holder.write(20)
    these[5].write(70)
    assert cut(these) == [0, 1, 2, 3]
    assert told == [20] * 4


def test_one_alone_may_hold_more_than_the_limit() -> None:
    these, _ = holders(2, 100)
    these[0].write(1000)
    these[0].write(1000)
    assert cut(these) == []
    these[1].write(1)
    assert cut(these) == [0]


def test_whoever_is_the_slowest_is_cut_within_its_own_write() -> None:
    these, _ = holders(2, 100)
    these[0].write(50)
    these[1].write(50)
    these[0].write(50)
    assert cut(these) == [0]


def test_nothing_is_kept_of_those_that_ended() -> None:
    these, _ = holders(3, 100)
    for holder in these:
        holder.write(30)
        holder.held = 0
        holder.unsent.forget(holder)
        holder.unsent.forget(holder)
    assert len(these[0].unsent) == 0
    these[0].write(90)
    these[1].write(10)
    assert cut(these) == []


async def large(channel: MessageChannel) -> None:
    async for message in channel:
        if isinstance(message, Request):
            await channel.send(Response(message.id, {"text": "x" * 10_000}))


async def test_connections_that_do_not_read_are_closed_when_all_hold_too_much(
    autojump_clock: MockClock,
) -> None:
    options = HttpServerOptions(max_unsent_bytes=25_000)
    async with serving(large, options) as served:
        slow = [served.connect() for _ in range(3)]
        released = [trio.Event() for _ in slow]
        for client, release in zip(slow, released, strict=True):
            client.server.send_stream.send_all_hook = release.wait
            await client.call()
            await trio.sleep(1)
        released[0].set()  # as a socket's own task is when that is closed
        await trio.sleep(1)
        assert served.connections == 2
        assert served.names == ["response.cut"]
        # Who reads is not hindered, and no other is cut off for it.
        quick = served.connect()
        for _ in range(10):
            await quick.call()
            assert (await quick.json())[0] == 200
        assert served.connections == 3
        for client, release in zip(slow[1:], released[1:], strict=True):
            release.set()
            assert (await client.json())[0] == 200
        assert len(served.service.unsent) <= 2
    assert len(served.service.unsent) == 0


async def test_so_are_those_of_an_asgi_server() -> None:
    events: list[ChannelEvent] = []
    app = AsgiApp(large, on_event=events.append, max_unsent_bytes=25_000)
    over: list[int] = []
    takes = trio.Event()
    found = [Exchange([modern_call("any")], trio.sleep_forever) for _ in range(3)]

    async def call(number: int) -> None:
        async def send(message: MutableMapping[str, object]) -> None:
            await takes.wait()
            await found[number].send(message)

        await app(scope_of("any"), found[number].receive, send)
        over.append(number)

    with trio.fail_after(10):
        async with app.running(), trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(call, number)
                await wait_all_tasks_blocked()
            assert over == [0]
            assert [event.name for event in events] == ["response.cut"]
            takes.set()
        assert found[0].sent == []
        assert [one.complete for one in found[1:]] == [True, True]


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_the_limit_is_a_number_of_bytes(value: object) -> None:
    with pytest.raises(ConfigurationError, match="max_unsent_bytes"):
        HttpServerOptions(max_unsent_bytes=value)  # type: ignore[arg-type]  # wrong on purpose
