"""Opening channels: what leaves the block, timeouts, options, and transports made elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trio
from echo_endpoints import TRANSPORTS, echo_endpoint
from fake_transport import Fake, FakeEndpoint, make_channel, parse_fake
from trio.testing import (
    MockClock,
    lockstep_stream_one_way_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from trio_mcp_transport.abc import (
    ChannelBroken,
    ChannelEvent,
    ChannelState,
    EventHandler,
    MessageChannel,
)
from trio_mcp_transport.connect import connect_channel, open_channel
from trio_mcp_transport.endpoints import Endpoint
from trio_mcp_transport.errors import ConfigurationError, ConnectFailed, ConnectTimeout
from trio_mcp_transport.jsonrpc import Request, Response
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.registry import ChannelOverrides, register_transport
from trio_mcp_transport.serve import serve_channels
from trio_mcp_transport.transports.http_client_channel import HttpClientChannel

pytestmark = pytest.mark.connect

PING = Request(id=1, method="ping")


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    with register_transport("fake", parse_fake, fake.run, None):
        yield fake


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# -- What leaves the block -------------------------------------------------------------


async def test_a_channel_works_inside_the_block_and_is_closed_after_it(
    transport: str, tmp_path: Path
) -> None:
    with trio.fail_after(30):
        async with echo_endpoint(transport, tmp_path) as endpoint:
            async with open_channel(endpoint) as channel:
                assert channel.context.transport == transport
                await channel.send(PING)
                answer = await channel.receive()
                assert isinstance(answer, Response)
                assert answer.id == 1
            assert channel.state is ChannelState.CLOSED


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of the block"),
        ExceptionGroup("of the block", [ValueError()]),
        KeyboardInterrupt("of the block"),
        SystemExit(3),
        trio.EndOfChannel("of the block"),
        StopAsyncIteration("of the block"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_block_raises_comes_out_as_the_same_object(
    transport: str, tmp_path: Path, error: BaseException
) -> None:
    channel: MessageChannel | None = None

    async def block() -> None:
        nonlocal channel
        async with open_channel(endpoint) as channel:
            await channel.send(PING)
            raise error

    with trio.fail_after(30):
        async with echo_endpoint(transport, tmp_path) as endpoint:
            with pytest.raises(type(error)) as caught:
                await block()
    assert caught.value is error
    assert channel is not None
    assert channel.state is ChannelState.CLOSED


async def test_cancelled_comes_out_as_the_same_object(transport: str, tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with echo_endpoint(transport, tmp_path) as endpoint:
            inner: BaseException | None = None
            outer: BaseException | None = None
            with trio.CancelScope() as scope:
                try:
                    async with open_channel(endpoint) as channel:
                        scope.cancel()
                        try:
                            await channel.receive()
                        except trio.Cancelled as error:
                            inner = error
                            raise
                except BaseException as error:
                    outer = error
                    raise
            assert scope.cancelled_caught
            assert inner is not None
            assert inner is outer
            assert channel.state is ChannelState.CLOSED


async def test_a_peer_that_fails_in_the_middle_is_an_error_and_no_group() -> None:
    async def fail(channel: MessageChannel) -> None:
        await channel.receive()
        channel.abort()

    async def block() -> None:
        async with open_channel("memory:failing") as channel:
            await channel.send(PING)
            await channel.receive()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_channels, fail, "memory:failing")
            with pytest.raises(ChannelBroken):
                await block()
            nursery.cancel_scope.cancel()


# -- Connecting ---------------------------------------------------------------------


async def test_a_channel_that_did_not_come_in_time_is_a_connect_timeout(
    fake: Fake, autojump_clock: MockClock
) -> None:
    undone = False

    async def connect(*args: object) -> MessageChannel:
        nonlocal undone
        try:
            await trio.sleep_forever()
        finally:
            undone = True

    fake.connect = connect
    start = trio.current_time()
    with pytest.raises(
        ConnectTimeout, match=r"^fake:slow: no channel within 30 seconds$"
    ) as caught:
        async with open_channel("fake:slow"):
            pytest.fail("it cannot be open")
    assert isinstance(caught.value, ConnectFailed | TimeoutError)
    assert trio.current_time() - start == 30
    assert undone
    with pytest.raises(ConnectTimeout, match=r"within 2\.5 seconds"):
        async with open_channel("fake:slow?connect_timeout=60", connect_timeout=2.5):
            pytest.fail("it cannot be open")
    assert trio.current_time() == pytest.approx(start + 32.5)


@pytest.mark.parametrize("connect_timeout", [30.0, math.inf, 5.0])
async def test_a_cancellation_from_outside_is_no_connect_timeout(
    fake: Fake, autojump_clock: MockClock, connect_timeout: float
) -> None:
    async def connect(*args: object) -> MessageChannel:
        return await trio.sleep_forever()

    fake.connect = connect
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(5) as scope:
            await connect_channel(nursery, "fake:slow", connect_timeout=connect_timeout)
        assert scope.cancelled_caught


async def test_a_timeout_does_not_show_the_arguments_of_a_command(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect(*args: object, **kwargs: object) -> MessageChannel:
        return await trio.sleep_forever()

    monkeypatch.setattr("trio_mcp_transport.transports.process.connect_process", connect)
    with pytest.raises(ConnectTimeout) as caught:
        async with open_channel("stdio:prog --key=secret"):
            pytest.fail("it cannot be open")
    assert str(caught.value).startswith("stdio:prog ...: no channel")


async def test_an_error_of_connecting_comes_out_as_it_is(fake: Fake) -> None:
    error = ConnectFailed("refused")

    async def connect(*args: object) -> MessageChannel:
        await trio.lowlevel.checkpoint()
        raise error

    fake.connect = connect
    with pytest.raises(ConnectFailed) as caught:
        async with open_channel("fake:x"):
            pytest.fail("it cannot be open")
    assert caught.value is error


async def test_after_an_error_nothing_is_flushed_and_nothing_is_waited_for(
    fake: Fake, autojump_clock: MockClock
) -> None:
    stuck = trio.StapledStream(*lockstep_stream_one_way_pair())

    async def connect(
        nursery: trio.Nursery, endpoint: FakeEndpoint, on_event: EventHandler | None
    ) -> MessageChannel:
        await trio.lowlevel.checkpoint()
        return make_channel(nursery, endpoint, stuck)

    channel: MessageChannel | None = None

    async def block() -> None:
        nonlocal channel
        async with open_channel("fake:x") as channel:
            await channel.send(PING)
            await wait_all_tasks_blocked()
            raise ValueError("mine")

    fake.connect = connect
    start = trio.current_time()
    with pytest.raises(ValueError, match="mine"):
        await block()
    assert trio.current_time() == start
    assert channel is not None
    assert channel.state is ChannelState.CLOSED


def crashing(fake: Fake, error: BaseException, *, at_once: bool = False) -> trio.Event:
    """Let a background task of the next channel raise, once the event is set."""
    crash = trio.Event()

    async def background() -> None:
        with trio.CancelScope(shield=True):
            await crash.wait()
        raise error

    async def connect(
        nursery: trio.Nursery, endpoint: FakeEndpoint, on_event: EventHandler | None
    ) -> MessageChannel:
        nursery.start_soon(background)
        if at_once:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return make_channel(nursery, endpoint)

    fake.connect = connect
    if at_once:
        crash.set()
    return crash


@pytest.mark.parametrize("error", [RuntimeError("task"), KeyboardInterrupt("task")])
async def test_a_background_task_that_breaks_ends_the_block_with_its_error(
    fake: Fake, error: BaseException
) -> None:
    crash = crashing(fake, error)

    async def block() -> None:
        async with open_channel("fake:x"):
            crash.set()
            await trio.sleep_forever()

    # A Cancelled must not get past: outside of its scope the test would just end.
    with pytest.raises((type(error), trio.Cancelled)) as caught:
        await block()
    assert caught.value is error


async def test_a_background_task_that_breaks_while_connecting_is_that_error(fake: Fake) -> None:
    error = RuntimeError("task")
    crashing(fake, error, at_once=True)
    with pytest.raises((RuntimeError, trio.Cancelled)) as caught:
        async with open_channel("fake:x"):
            pytest.fail("it cannot be open")
    assert caught.value is error


async def test_a_background_task_that_breaks_at_the_end_is_that_error(fake: Fake) -> None:
    error = RuntimeError("task")
    crash = crashing(fake, error)
    with pytest.raises(RuntimeError) as caught:
        async with open_channel("fake:x"):
            crash.set()
    assert caught.value is error


async def test_the_error_of_the_block_wins_and_that_of_the_task_is_reported(fake: Fake) -> None:
    events: list[ChannelEvent] = []
    background, mine = RuntimeError("task"), ValueError("mine")
    crash = crashing(fake, background)

    async def block() -> None:
        async with open_channel("fake:x", on_event=events.append):
            crash.set()
            raise mine

    with pytest.raises(ValueError, match="mine") as caught:
        await block()
    assert caught.value is mine
    assert [(event.name, event.error) for event in events] == [("task.failed", background)]


async def test_a_keyboard_interrupt_in_a_task_wins_over_the_error_of_the_block(fake: Fake) -> None:
    crash = crashing(fake, KeyboardInterrupt("task"))

    async def block() -> None:
        async with open_channel("fake:x"):
            crash.set()
            raise ValueError("mine")

    with pytest.raises(KeyboardInterrupt, match="task"):
        await block()


def with_a_task(fake: Fake) -> None:
    """Let each channel have a background task that goes on until it is cancelled."""

    async def connect(
        nursery: trio.Nursery, endpoint: FakeEndpoint, on_event: EventHandler | None
    ) -> MessageChannel:
        nursery.start_soon(trio.sleep_forever)
        await trio.lowlevel.checkpoint()
        return make_channel(nursery, endpoint)

    fake.connect = connect


async def test_background_tasks_end_with_the_block(fake: Fake) -> None:
    with_a_task(fake)
    with trio.fail_after(30):
        async with open_channel("fake:x") as channel:
            assert channel.is_connected


@pytest.mark.parametrize("error", [None, ValueError("mine")])
async def test_what_a_cancelled_block_raises_is_not_replaced_by_what_its_tasks_raise(
    fake: Fake, error: Exception | None
) -> None:
    with_a_task(fake)
    events: list[ChannelEvent] = []
    inner: BaseException | None = error

    async def block() -> None:
        nonlocal inner
        async with open_channel("fake:x", on_event=events.append):
            scope.cancel()
            if error is not None:
                raise error
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                inner = cancelled
                raise

    with trio.CancelScope() as scope, pytest.raises((ValueError, trio.Cancelled)) as caught:
        await block()
    assert inner is not None
    assert caught.value is inner
    assert events == []


async def test_a_block_that_was_cancelled_meanwhile_ends_with_a_bare_cancelled(fake: Fake) -> None:
    with_a_task(fake)

    async def block() -> None:
        async with open_channel("fake:x"):
            scope.cancel()

    with trio.CancelScope() as scope, pytest.raises(trio.Cancelled):
        await block()


async def test_what_was_sent_is_flushed_at_the_end_of_the_block(fake: Fake) -> None:
    sending, receiving = lockstep_stream_one_way_pair()
    received: list[bytes] = []

    async def connect(
        nursery: trio.Nursery, endpoint: FakeEndpoint, on_event: EventHandler | None
    ) -> MessageChannel:
        await trio.lowlevel.checkpoint()
        stream = trio.StapledStream(sending, memory_stream_pair()[0])
        return make_channel(nursery, endpoint, stream)

    async def read_slowly() -> None:
        await wait_all_tasks_blocked()
        async for chunk in receiving:
            received.append(bytes(chunk))

    fake.connect = connect
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        async with open_channel("fake:x") as channel:
            await channel.send(PING)
    assert b"".join(received).endswith(b"}\n")


async def test_connect_channel_leaves_the_channel_to_the_nursery_of_the_caller(fake: Fake) -> None:
    async with trio.open_nursery() as nursery:
        channel = await connect_channel(nursery, "fake:x")
        # An idle channel has no task that holds the nursery open.
    assert channel.state is ChannelState.CONNECTED
    await channel.aclose()


# -- Options and endpoints -------------------------------------------------------------


def test_every_channel_option_can_be_overridden() -> None:
    assert set(ChannelOverrides.__annotations__) == set(ChannelOptions.__struct_fields__)


async def test_a_keyword_beats_the_endpoint_and_the_endpoint_the_default(fake: Fake) -> None:
    endpoint = "fake:x?write_timeout=7&request_timeout=8&framing=detect"
    async with open_channel(endpoint, request_timeout=math.inf, outbox_bytes=5) as channel:
        assert channel.options == ChannelOptions(
            framing="detect", write_timeout=7.0, request_timeout=math.inf, outbox_bytes=5
        )
    assert channel.capabilities.framing is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "fake:x?outbox_bytes=9",
        {"url": "fake:x", "outbox_bytes": 9},
        FakeEndpoint("x", options=ChannelOptions(outbox_bytes=9)),
    ],
)
async def test_an_endpoint_can_be_text_a_mapping_or_an_object(
    fake: Fake, endpoint: str | Mapping[str, object] | Endpoint
) -> None:
    async with open_channel(endpoint) as channel:
        assert channel.options.outbox_bytes == 9


async def test_an_override_that_is_wrong_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(ConfigurationError, match="write_timeout"):
        async with open_channel("memory:x", write_timeout=-1):
            pytest.fail("it cannot be open")
    with pytest.raises(TypeError, match="speed"):
        async with open_channel("memory:x", speed=1):  # type: ignore[call-arg] # its point
            pytest.fail("it cannot be open")
    with pytest.raises(ConfigurationError, match="no transport is called 'gopher'"):
        async with open_channel("gopher://h/"):
            pytest.fail("it cannot be open")


async def test_stderr_of_a_child_arrives_line_by_line() -> None:
    lines: list[str] = []
    program = "import sys; print('one\\ntwo', file=sys.stderr); sys.stdin.read()"
    endpoint = {"command": sys.executable, "args": ["-c", program], "stderr": "capture"}
    with trio.fail_after(30):
        async with open_channel(endpoint, on_stderr=lines.append):
            pass
    assert [line.strip() for line in lines] == ["one", "two"]


async def test_what_is_no_child_has_no_stderr() -> None:
    with pytest.raises(ConfigurationError, match="on_stderr is for child processes, not for mem"):
        async with open_channel("memory:x", on_stderr=print):
            pytest.fail("it cannot be open")


async def test_only_a_nursery_that_nobody_else_has_may_be_held_open_by_an_idle_channel() -> None:
    url = "http://127.0.0.1:1/mcp"  # nothing is sent to it
    async with open_channel(url) as channel:
        assert isinstance(channel, HttpClientChannel)
        assert channel.keeps_tasks
    async with trio.open_nursery() as nursery:
        kept = await connect_channel(nursery, url)
        assert isinstance(kept, HttpClientChannel)
        assert not kept.keeps_tasks
        await kept.aclose()
