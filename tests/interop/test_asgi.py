"""The ASGI application, called without a server: on Trio, every way that a request can go."""

from __future__ import annotations

from collections.abc import MutableMapping

import pytest
import trio
from asgi_calls import Exchange, modern_call, scope_of
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_transport import (
    ChannelEvent,
    ChannelOptions,
    ConfigurationError,
    Context,
    HttpEndpoint,
    MessageChannel,
    Notification,
    Request,
    Response,
    Router,
)
from trio_mcp_transport.errors import LocalProtocolError
from trio_mcp_transport.interop.asgi import AsgiApp, AsgiOptions

pytestmark = [pytest.mark.interop]


class Served:
    """An application, with a tool that answers and one that waits."""

    def __init__(self, **options: object) -> None:
        self.events: list[ChannelEvent] = []
        self.started = trio.Event()
        self.release = trio.Event()
        self.ended: list[str] = []
        router = Router("asgi", "1", capabilities={"tools": {}})
        router.method("tools/call")(self._call)
        self.app = AsgiApp(router, on_event=self.events.append, **options)  # type: ignore[arg-type]

    async def _call(self, ctx: Context) -> object:
        call = ctx.params_as(dict[str, object])
        if call["name"] == "echo":
            await trio.lowlevel.checkpoint()
            return {"content": [{"type": "text", "text": str(call["arguments"])}]}
        self.started.set()
        try:
            await ctx.progress(1)
            await self.release.wait()
        except trio.Cancelled:
            self.ended.append("cancelled")
            raise
        self.ended.append("done")
        return {"content": []}


def exchange(*body: bytes) -> Exchange:
    return Exchange(list(body), trio.sleep_forever)


async def ask(served: Served, changes: dict[str, object] | None = None) -> Exchange:
    found = exchange(modern_call("echo", x=1))
    await served.app({**scope_of("echo"), **(changes or {})}, found.receive, found.send)
    return found


# -- life ---------------------------------------------------------------------------------


async def test_a_request_before_it_runs_says_what_to_do() -> None:
    served = Served()
    with pytest.raises(LocalProtocolError, match=r"running\(\)"):
        await ask(served)
    async with served.app.running():
        assert (await ask(served)).status == 200
    with pytest.raises(LocalProtocolError, match=r"running\(\)"):
        await ask(served)


async def test_the_lifespan_starts_and_ends_it() -> None:
    served = Served()
    events = ["lifespan.startup", "lifespan.shutdown"]
    sent: list[object] = []
    shutdown = trio.Event()

    async def receive() -> dict[str, object]:
        if len(events) == 1:
            await shutdown.wait()
        return {"type": events.pop(0)}

    async def send(message: MutableMapping[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message["type"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.app, {"type": "lifespan"}, receive, send)
        await wait_all_tasks_blocked()
        assert sent == ["lifespan.startup.complete"]
        assert (await ask(served)).status == 200
        shutdown.set()
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_lifespan_that_cannot_start_says_why() -> None:
    served = Served()
    sent: list[MutableMapping[str, object]] = []

    async def receive() -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"type": "lifespan.startup"}

    async def send(message: MutableMapping[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    async with served.app.running():
        await served.app({"type": "lifespan"}, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "running already" in str(message["message"])


async def test_a_cancelled_lifespan_ends_what_is_at_work() -> None:
    served = Served()
    found = exchange(modern_call("wait"))
    async with trio.open_nursery() as nursery:

        async def live(task_status: trio.TaskStatus[None]) -> None:
            async with served.app.running():
                task_status.started()
                await trio.sleep_forever()

        await nursery.start(live)
        nursery.start_soon(served.app, scope_of("wait"), found.receive, found.send)
        await served.started.wait()
        nursery.cancel_scope.cancel()
    assert served.ended == ["cancelled"]


async def test_what_is_at_work_may_finish_within_the_drain(autojump_clock: MockClock) -> None:
    served = Served(drain=5)
    found = exchange(modern_call("wait"))
    async with trio.open_nursery() as nursery, served.app.running():
        nursery.start_soon(served.app, scope_of("wait"), found.receive, found.send)
        await served.started.wait()

        async def release() -> None:
            await trio.sleep(4)
            served.release.set()

        nursery.start_soon(release)
    assert served.ended == ["done"]
    assert found.complete


async def test_what_is_at_work_after_the_drain_is_broken_off(
    autojump_clock: MockClock,
) -> None:
    served = Served(drain=5)
    found = exchange(modern_call("wait"))
    started = trio.current_time()
    async with trio.open_nursery() as nursery, served.app.running():
        nursery.start_soon(served.app, scope_of("wait"), found.receive, found.send)
        await served.started.wait()
    assert trio.current_time() - started == 5
    assert served.ended == ["cancelled"]
    assert not found.complete


async def test_stop_refuses_what_is_new_and_lets_finish_what_is_not() -> None:
    served = Served()
    found = exchange(modern_call("wait"))
    served.app.stop()  # nothing runs: nothing happens
    async with served.app.running(), trio.open_nursery() as nursery:
        nursery.start_soon(served.app, scope_of("wait"), found.receive, found.send)
        await served.started.wait()
        served.app.stop()
        assert (await ask(served)).status == 503
        served.release.set()
    assert found.complete


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    served = Served()
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with served.app.running():
            raise error
    assert caught.value is error


async def test_it_can_run_again() -> None:
    served = Served()
    for _ in range(2):
        async with served.app.running():
            assert (await ask(served)).status == 200


# -- requests -----------------------------------------------------------------------------


async def test_a_whole_answer_has_its_length() -> None:
    served = Served()
    async with served.app.running():
        found = await ask(served)
    assert found.complete
    assert found.headers["content-length"] == str(len(found.content))
    assert len(found.sent) == 2


async def test_a_body_in_parts_is_put_together() -> None:
    served = Served()
    body = modern_call("echo", x=1)
    async with served.app.running():
        found = exchange(body[:10], b"", body[10:])
        await served.app(scope_of("echo"), found.receive, found.send)
    assert found.status == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"root_path": "/api", "path": "/api/mcp", "raw_path": b"/api/mcp"}, 200),
        ({"root_path": "/api/", "path": "/api/mcp", "raw_path": None}, 200),
        # Some servers leave the prefix away.
        ({"root_path": "/api", "path": "/mcp", "raw_path": b"/mcp"}, 200),
        ({"root_path": "/ap", "path": "/api/mcp", "raw_path": b"/api/mcp"}, 404),
        ({"raw_path": None}, 200),
        ({"raw_path": b"/mcp?x=1", "query_string": b"x=1"}, 200),
        ({"path": "/other", "raw_path": b"/other"}, 404),
        ({"path": "/m cp", "raw_path": None}, 404),
        # The worst case: nobody knows at which address it came.
        ({"server": None}, 403),
        ({"server": ("10.0.0.1", 80)}, 403),
        ({"server": ("127.0.0.1", 8080)}, 403),
        ({"server": ("/run/mcp.sock", None), "client": None}, 200),
        ({"server": (b"odd", 1)}, 403),
        ({"headers": [(b"host", b"127.0.0.1:80"), (b"x y", b"1")]}, 400),
        ({"method": "GET"}, 405),
    ],
)
async def test_the_scope_decides(changes: dict[str, object], status: int) -> None:
    served = Served()
    async with served.app.running():
        found = await ask(served, changes)
    assert found.status == status
    assert found.complete


async def test_a_body_that_is_declared_too_large_is_not_read() -> None:
    served = Served(options=ChannelOptions(max_message_bytes=100))
    body = modern_call("echo", text="x" * 100)
    scope = scope_of("echo", {"content-length": str(len(body))})
    read: list[int] = []
    async with served.app.running():
        found = Exchange([body], trio.sleep_forever)

        async def send(message: MutableMapping[str, object]) -> None:
            read.append(found.received)
            await found.send(message)

        await served.app(scope, found.receive, send)
    assert found.status == 413
    assert read[0] == 0


async def test_a_body_that_grows_too_large_is_refused_and_the_rest_is_taken() -> None:
    served = Served(options=ChannelOptions(max_message_bytes=100))
    scope = scope_of("echo", {"transfer-encoding": "chunked"})
    async with served.app.running():
        found = exchange(*[b"x" * 60] * 10)
        await served.app(scope, found.receive, found.send)
    assert found.status == 413
    assert found.received == 10


async def test_a_refused_body_that_never_ends_is_left(
    autojump_clock: MockClock,
) -> None:
    served = Served(options=ChannelOptions(max_message_bytes=100))
    scope = scope_of("echo", {"transfer-encoding": "chunked"})
    started = trio.current_time()

    async def receive() -> dict[str, object]:
        await trio.sleep(0.001)
        return {"type": "http.request", "body": b"x" * 60, "more_body": True}

    async with served.app.running():
        found = exchange()
        await served.app(scope, receive, found.send)
    assert found.status == 413
    assert found.complete
    assert trio.current_time() - started < 3


async def test_a_body_that_does_not_come_is_given_up(autojump_clock: MockClock) -> None:
    served = Served(body_timeout=7)
    started = trio.current_time()

    async def receive() -> dict[str, object]:
        await trio.sleep(5)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async with served.app.running():
        found = exchange()
        await served.app(scope_of("echo"), receive, found.send)
        assert trio.current_time() - started == 7
    assert found.status == 408


@pytest.mark.parametrize("error", [None, OSError("gone"), trio.BrokenResourceError("gone")])
async def test_a_client_that_leaves_within_its_body_gets_nothing(error: Exception | None) -> None:
    served = Served()

    async def receive() -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        if error is not None:
            raise error
        return {"type": "http.disconnect"}

    async with served.app.running():
        found = exchange()
        await served.app(scope_of("echo"), receive, found.send)
    assert found.sent == []
    assert served.events == []


# -- disconnects --------------------------------------------------------------------------


async def test_a_modern_client_that_leaves_cancels_its_call() -> None:
    served = Served()
    gone = trio.Event()
    found = Exchange([modern_call("wait")], gone.wait)
    async with served.app.running(), trio.open_nursery() as nursery:
        nursery.start_soon(served.app, scope_of("wait"), found.receive, found.send)
        await wait_all_tasks_blocked()
        assert found.status == 200
        gone.set()
    assert served.ended == ["cancelled"]
    assert not found.complete


@pytest.mark.parametrize("error", [OSError("gone"), trio.ClosedResourceError("gone")])
async def test_a_send_that_fails_is_a_client_that_left(error: Exception) -> None:
    served = Served()
    found = exchange(modern_call("wait"))

    async def send(message: MutableMapping[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    async with served.app.running():
        await served.app(scope_of("wait"), found.receive, send)
        await wait_all_tasks_blocked()
        assert served.ended == ["cancelled"]


async def test_another_failure_of_the_server_comes_out_as_it_is() -> None:
    served = Served()
    found = exchange(modern_call("wait"))

    async def send(message: MutableMapping[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("the server's own")

    async with served.app.running():
        with pytest.raises(RuntimeError, match="the server's own"):
            await served.app(scope_of("wait"), found.receive, send)
        await wait_all_tasks_blocked()
        assert served.ended == ["cancelled"]


async def test_a_cancelled_request_is_a_client_that_left() -> None:
    served = Served()
    found = exchange(modern_call("wait"))
    async with served.app.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.app, scope_of("wait"), found.receive, found.send)
            await served.started.wait()
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert served.ended == ["cancelled"]


async def test_a_client_that_takes_nothing_is_left(autojump_clock: MockClock) -> None:
    served = Served(options=ChannelOptions(write_timeout=3))
    found = exchange(modern_call("wait"))
    started = trio.current_time()

    async def send(message: MutableMapping[str, object]) -> None:
        await trio.sleep_forever()

    async with served.app.running():
        await served.app(scope_of("wait"), found.receive, send)
        assert trio.current_time() - started == 3
        await wait_all_tasks_blocked()
        assert served.ended == ["cancelled"]


async def test_a_slow_client_slows_its_handler_down() -> None:
    sent: list[int] = []
    text = "x" * 100_000

    async def handle(channel: MessageChannel) -> None:
        request = await channel.receive()
        assert isinstance(request, Request)
        for number in range(100):
            await channel.send(Notification("notifications/any", {"text": text}))
            sent.append(number)
        await channel.send(Response(request.id, {}))

    app = AsgiApp(handle)
    found = exchange(modern_call("any"))
    taken = trio.Semaphore(0)

    async def send(message: MutableMapping[str, object]) -> None:
        await taken.acquire()
        await found.send(message)

    async with app.running(), trio.open_nursery() as nursery:
        nursery.start_soon(app, scope_of("any"), found.receive, send)
        await wait_all_tasks_blocked()
        assert 0 < len(sent) < 50
        for _ in range(1000):
            taken.release()
    assert len(sent) == 100
    assert found.complete
    assert found.content.count(text.encode()) == 100


async def test_everybody_who_waits_for_a_flush_is_woken() -> None:
    flushed: list[str] = []
    text = "x" * 5_000_000

    async def handle(channel: MessageChannel) -> None:
        request = await channel.receive()
        assert isinstance(request, Request)

        async def flush(name: str) -> None:
            await channel.flush()
            flushed.append(name)

        await channel.send(Notification("notifications/any", {"text": text}))
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(flush, name)
        await channel.send(Response(request.id, {}))

    app = AsgiApp(handle)
    found = exchange(modern_call("any"))
    takes = trio.Event()

    async def send(message: MutableMapping[str, object]) -> None:
        await takes.wait()
        await found.send(message)

    with trio.fail_after(10):
        async with app.running(), trio.open_nursery() as nursery:
            nursery.start_soon(app, scope_of("any"), found.receive, send)
            await wait_all_tasks_blocked()
            takes.set()
    assert sorted(flushed) == ["a", "b", "c"]


# -- what it serves -----------------------------------------------------------------------


async def test_it_serves_channels_to_a_function() -> None:
    async def handle(channel: MessageChannel) -> None:
        async for message in channel:
            assert isinstance(message, Request)
            await channel.send(Response(message.id, {"via": channel.context.transport}))

    app = AsgiApp(handle)
    found = exchange(modern_call("any"))
    async with app.running():
        await app(scope_of("any"), found.receive, found.send)
    assert b'"via":"http"' in found.content


async def test_another_kind_of_scope_is_refused() -> None:
    served = Served()
    sent: list[MutableMapping[str, object]] = []

    async def receive() -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await served.app({"type": "websocket"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    with pytest.raises(LocalProtocolError, match="telepathy"):
        await served.app({"type": "telepathy"}, receive, send)


def test_its_options_are_those_of_endpoints() -> None:
    assert set(AsgiOptions.__annotations__) <= set(HttpEndpoint.__struct_fields__)
    with pytest.raises(ConfigurationError, match="keep_alive_interval"):
        AsgiApp(Router(), keep_alive_interval=-1)
