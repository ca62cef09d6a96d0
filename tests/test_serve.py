"""Serving channels: several endpoints, stopping, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from echo_endpoints import echo
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_mcp_transport.abc import (
    ChannelContext,
    ChannelEvent,
    EventHandler,
    MessageChannel,
    MessageListener,
)
from trio_mcp_transport.connect import open_channel
from trio_mcp_transport.endpoint_reading import read_endpoint
from trio_mcp_transport.endpoints import Endpoint
from trio_mcp_transport.errors import ConfigurationError, ConnectFailed
from trio_mcp_transport.jsonrpc import Request, Response
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.registry import register_transport
from trio_mcp_transport.serve import serve_channels
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = pytest.mark.connect

PING = Request(id=1, method="ping")


async def ping(endpoint: str) -> None:
    """Hold the shortest conversation."""
    async with open_channel(endpoint) as channel:
        await channel.send(PING)
        assert isinstance(await channel.receive(), Response)


class FakeEndpoint(Endpoint, frozen=True):
    scheme = "fake"
    target_fields = ("name",)

    name: str
    max_connections: int = 1000

    def target(self) -> str:
        return self.name


def parse_fake(target: str, parameters: Mapping[str, object]) -> FakeEndpoint:
    return read_endpoint(FakeEndpoint, parameters, name=target)


class FakeListener(MessageListener):
    """Accepts as many channels as it is told to, then raises what it is told to."""

    def __init__(self, endpoint: FakeEndpoint) -> None:
        self._endpoint = endpoint
        self.channels = 1
        self.then: Callable[[], BaseException] | None = trio.ClosedResourceError
        self.closed = 0

    @property
    def endpoint(self) -> str:
        return f"fake:bound-{self._endpoint.name}"

    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        await trio.lowlevel.checkpoint()
        if self.channels:
            self.channels -= 1
            return StreamChannel(
                memory_stream_pair()[0],
                nursery=nursery,
                context=ChannelContext(transport="fake"),
                options=self._endpoint.options,
            )
        if self.then is not None:
            raise self.then()
        return await trio.sleep_forever()

    async def aclose(self) -> None:
        self.closed += 1
        await trio.lowlevel.checkpoint()


class Fake:
    """The fake transport: what its listeners do, and the listeners it made."""

    def __init__(self) -> None:
        self.listeners: list[FakeListener] = []
        self.set_up: Callable[[FakeListener], object] = lambda listener: None

    async def listen(
        self, endpoint: FakeEndpoint, on_event: EventHandler | None
    ) -> MessageListener:
        await trio.lowlevel.checkpoint()
        if endpoint.name == "bad":
            raise ConnectFailed("in use")
        listener = FakeListener(endpoint)
        self.set_up(listener)
        self.listeners.append(listener)
        return listener


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    with register_transport("fake", parse_fake, None, fake.listen):
        yield fake


async def test_several_endpoints_are_served_and_named_with_their_real_addresses(
    tmp_path: Path,
) -> None:
    unix = f"unix:{tmp_path}/socket"
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            bound: list[str] = await nursery.start(
                serve_channels, echo, "tcp://127.0.0.1:0", "memory:served", unix
            )
            assert bound[1:] == ["memory:served", unix]
            assert bound[0].startswith("tcp://127.0.0.1:")
            assert not bound[0].endswith(":0")
            for endpoint in bound:
                await ping(endpoint)
            nursery.cancel_scope.cancel()


async def test_if_one_endpoint_is_bad_none_is_listened_at(fake: Fake) -> None:
    with trio.fail_after(30):
        with pytest.raises(ConnectFailed, match="in use"):
            await serve_channels(echo, "memory:free", "fake:good", "fake:bad", "fake:never")
        assert [listener.closed > 0 for listener in fake.listeners] == [True]
        with pytest.raises(ConnectFailed, match="nobody listens"):
            await ping("memory:free")


async def test_an_endpoint_that_cannot_be_parsed_is_refused_before_any_is_opened(
    fake: Fake,
) -> None:
    with pytest.raises(ConfigurationError, match="port"):
        await serve_channels(echo, "fake:good", "tcp://h")
    assert fake.listeners == []


@pytest.mark.parametrize(
    ("endpoints", "drain", "says"),
    [
        ([], 1.0, "there is no endpoint"),
        (["memory:x"], -1.0, "drain must not be negative"),
        (["memory:x"], float("nan"), "drain must not be negative"),
        (["stdio:prog --key=secret"], 1.0, "stdio:prog ...: a child process is connected to"),
    ],
)
async def test_what_cannot_be_served_is_refused(
    endpoints: list[str], drain: float, says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await serve_channels(echo, *endpoints, drain=drain)
    assert str(caught.value).startswith(says)


async def test_serving_ends_when_all_endpoints_are_done_and_their_handlers(fake: Fake) -> None:
    served = 0

    async def handle(channel: MessageChannel) -> None:
        nonlocal served
        await trio.lowlevel.checkpoint()
        served += 1

    with trio.fail_after(30):
        # Nobody ever stops it.
        await serve_channels(handle, "fake:a", "fake:b", stop=trio.Event())
    assert served == 2
    assert [listener.closed > 0 for listener in fake.listeners] == [True, True]


async def test_options_reach_the_channels_of_every_endpoint(fake: Fake) -> None:
    seen: list[ChannelOptions] = []

    async def handle(channel: MessageChannel) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(channel.options)

    await serve_channels(handle, "fake:a?framing=detect", "fake:b", write_timeout=9)
    assert sorted(seen, key=str) == [
        ChannelOptions(framing="detect", write_timeout=9.0),
        ChannelOptions(write_timeout=9.0),
    ]


async def test_an_endpoint_says_how_many_connections_it_serves_at_a_time(fake: Fake) -> None:
    running = most = 0

    async def handle(channel: MessageChannel) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await wait_all_tasks_blocked()
        running -= 1

    def set_up(listener: FakeListener) -> None:
        listener.channels = 5

    fake.set_up = set_up
    await serve_channels(handle, "fake:a?max_connections=2")
    assert most == 2


async def test_a_handler_that_fails_is_reported_and_the_others_go_on() -> None:
    events: list[ChannelEvent] = []
    error = ValueError("mine")

    async def handle(channel: MessageChannel) -> None:
        message = await channel.receive()
        assert isinstance(message, Request)
        if message.method == "fail":
            raise error
        await channel.send(Response(id=message.id, result={}))

    serve = partial(serve_channels, on_event=events.append)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, handle, "memory:served")
            async with open_channel("memory:served") as channel:
                await channel.send(Request(id=1, method="fail"))
                await wait_all_tasks_blocked()
            await ping("memory:served")
            nursery.cancel_scope.cancel()
    assert [(event.name, event.error) for event in events] == [("handler.failed", error)]


async def test_a_handler_that_fails_is_logged_with_its_traceback_without_on_event(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(channel: MessageChannel) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("mine")

    await serve_channels(handle, "fake:a")
    assert "handler.failed" in caplog.text
    assert 'raise ValueError("mine")' in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt("mine"), SystemExit(3)])
async def test_what_is_no_exception_leaves_a_handler_and_serving_as_the_same_object(
    fake: Fake, error: BaseException
) -> None:
    async def handle(channel: MessageChannel) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(type(error)) as caught:
        await serve_channels(handle, "fake:a", "memory:served")
    assert caught.value is error


async def test_a_listener_that_breaks_ends_serving_with_its_error_and_no_group(fake: Fake) -> None:
    error = OSError("broken")

    def set_up(listener: FakeListener) -> None:
        listener.channels = 0
        listener.then = lambda: error

    fake.set_up = set_up
    with pytest.raises(OSError, match="broken") as caught:
        await serve_channels(echo, "memory:served", "fake:a")
    assert caught.value is error
    with pytest.raises(ConnectFailed, match="nobody listens"):
        await ping("memory:served")


# -- Stopping --------------------------------------------------------------------------


async def test_cancelling_aborts_the_connections_and_closes_the_listeners(fake: Fake) -> None:
    def set_up(listener: FakeListener) -> None:
        listener.then = None

    fake.set_up = set_up
    ended: list[str] = []

    async def handle(channel: MessageChannel) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(channel.state.value)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_channels, handle, "fake:a", "memory:served")
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert ended == ["connected"]
    assert fake.listeners[0].closed > 0


async def test_a_stop_lets_handlers_finish_and_accepts_nobody(autojump_clock: MockClock) -> None:
    stop = trio.Event()
    finished = False

    async def handle(channel: MessageChannel) -> None:
        nonlocal finished
        await channel.receive()
        await trio.sleep(4)
        await channel.send(Response(id=1, result={}))
        finished = True

    async with trio.open_nursery() as nursery:
        serve = partial(serve_channels, stop=stop, drain=10)
        await nursery.start(serve, handle, "memory:served")
        async with open_channel("memory:served") as channel:
            await channel.send(PING)
            await wait_all_tasks_blocked()
            start = trio.current_time()
            stop.set()
            await wait_all_tasks_blocked()
            with pytest.raises(ConnectFailed, match="nobody listens"):
                await ping("memory:served")
            assert isinstance(await channel.receive(), Response)
    assert finished
    assert trio.current_time() - start == 4


@pytest.mark.parametrize("drain", [3.0, 0.0])
async def test_handlers_that_take_longer_than_the_drain_are_cancelled_and_reported(
    fake: Fake, autojump_clock: MockClock, drain: float
) -> None:
    stop = trio.Event()
    events: list[ChannelEvent] = []

    async def handle(channel: MessageChannel) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(serve_channels, stop=stop, drain=drain, on_event=events.append)
        await nursery.start(serve, handle, "fake:a", "memory:served")
        await wait_all_tasks_blocked()
        start = trio.current_time()
        stop.set()
    assert trio.current_time() - start == drain
    assert [event.name for event in events] == ["drain.expired"]
    assert f"{drain:g} seconds" in events[0].message


async def test_a_stop_without_connections_ends_serving_at_once(
    autojump_clock: MockClock,
) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_channels, stop=stop), echo, "memory:served")
        start = trio.current_time()
        stop.set()
    assert trio.current_time() == start


async def test_a_stop_that_was_set_before_ends_serving_as_soon_as_it_has_started() -> None:
    stop = trio.Event()
    stop.set()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve_channels, stop=stop), echo, "memory:served")
    assert bound == ["memory:served"]
