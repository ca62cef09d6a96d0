"""A peer for each exchange: what its life is like, and what exchanges of a session share."""

from __future__ import annotations

import pytest
import trio
from exchange_channel import LEGACY, MODERN, PushedChannel, modern, request

from trio_mcp_transport.abc import ChannelEvent, ChannelSession, ChannelState
from trio_mcp_transport.context import Context, Session
from trio_mcp_transport.errors import LocalProtocolError, MethodNotFound, RpcError
from trio_mcp_transport.hub import Hub
from trio_mcp_transport.jsonrpc import ErrorResponse, Message, Notification, Request, Response
from trio_mcp_transport.mrtr import InputRequest
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.router import Router

pytestmark = pytest.mark.peer

CAPABILITIES = {
    "tools": {"listChanged": True},
    "resources": {"subscribe": True},
    "logging": {},
}
INITIALIZE = request(
    1,
    "initialize",
    {
        "protocolVersion": LEGACY,
        "clientInfo": {"name": "client", "version": "0"},
        "capabilities": {"roots": {}},
    },
)


def make_router(hub: Hub | None = None) -> Router:
    return Router("server", "1", capabilities=CAPABILITIES, hub=hub)


async def serve(
    router: Router,
    *messages: Message,
    session: ChannelSession | None = None,
    version: str | None = MODERN,
    revisions: tuple[str, ...] | None = None,
) -> PushedChannel:
    """One exchange from its beginning to its end."""
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(
            nursery, *messages, session=session, version=version, revisions=revisions
        )
        await Peer(channel, router).run()
    return channel


async def wait_for_ever(ctx: Context) -> object:
    await trio.sleep_forever()


def result_of(message: Message) -> object:
    assert isinstance(message, Response), message
    return message.result_as(object)


def error_of(message: Message) -> ErrorResponse:
    assert isinstance(message, ErrorResponse), message
    return message


# -- the life of an exchange --------------------------------------------------------------


async def test_the_only_request_is_handled_in_the_task_that_runs_the_peer() -> None:
    router = make_router()
    tasks = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        tasks.append(trio.lowlevel.current_task())
        return {}

    channel = await serve(router, modern(1, "m"))
    assert tasks == [trio.lowlevel.current_task()]
    assert list(channel.answers) == [1]
    assert not channel.is_connected


async def test_the_requests_of_a_batch_run_at_the_same_time() -> None:
    router = make_router()
    together = trio.Event()
    waiting = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        waiting.append(ctx.request.id)
        if len(waiting) == 3:
            together.set()
        await together.wait()
        return {}

    session = ChannelSession("s")
    session.state = Session("2025-03-26", {}, {})
    batch = [request(i, "m") for i in range(3)]
    channel = await serve(router, *batch, session=session, version="2025-03-26")
    assert sorted(channel.answers, key=str) == [0, 1, 2]


async def test_an_exchange_of_a_notification_ends_when_its_handler_has_run() -> None:
    router = make_router()
    seen = []

    @router.notification("n")
    async def n(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        seen.append(ctx.era)
        return None

    await serve(router, Notification("n"))
    assert seen == ["modern"]


async def test_a_client_that_goes_away_cancels_the_handler_at_once_and_quietly() -> None:
    router = make_router()
    ended = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(ctx.request.id)

    events: list[ChannelEvent] = []
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, modern(1, "m"), modern(2, "m"))
        nursery.start_soon(Peer(channel, router, on_event=events.append).run)
        await trio.testing.wait_all_tasks_blocked()
        channel.fail()
    assert sorted(ended) == [1, 2]
    assert channel.sent == []
    assert events == []


async def test_a_cancelled_request_is_not_answered_and_ends_its_exchange() -> None:
    router = make_router()

    @router.method("m")
    async def m(ctx: Context) -> object:
        await trio.sleep_forever()

    session = ChannelSession("s")
    session.state = Session(LEGACY, {}, {})
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, request(1, "m"), session=session, version=LEGACY)
        nursery.start_soon(Peer(channel, router).run)
        await trio.testing.wait_all_tasks_blocked()
        channel.deliver(Notification("notifications/cancelled", {"requestId": 1}))
    assert channel.sent == []


async def test_whoever_cancels_the_run_cancels_all_that_the_peer_started() -> None:
    router = make_router()
    ended = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(ctx.request.id)

    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, modern(1, "m"), modern(2, "m"))
        with trio.CancelScope() as scope:
            peer = Peer(channel, router)
            nursery.start_soon(trio.testing.wait_all_tasks_blocked)

            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked()
                peer.start_soon(trio.sleep_forever, "work of the program's own")
                scope.cancel()

            nursery.start_soon(cancel)
            await peer.run()
        assert sorted(ended) == [1, 2]  # before the nursery ends


async def test_a_graceful_end_lets_an_exchange_finish() -> None:
    router = make_router()
    go_on = trio.Event()

    @router.method("m")
    async def m(ctx: Context) -> object:
        await go_on.wait()
        return {}

    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, modern(1, "m"))
        peer = Peer(channel, router)
        nursery.start_soon(peer.run)
        await trio.testing.wait_all_tasks_blocked()
        peer.end_soon()
        channel.deliver(modern(2, "m"))
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert error_of(channel.answers[2]).error.code == 503
    assert list(channel.answers) == [2, 1]


@pytest.mark.parametrize(
    ("message", "early"),
    [(modern(1, "m"), False), (Notification("n"), False), (Notification("n"), True)],
    ids=["a request", "a notification", "a notification that comes after the stop"],
)
async def test_an_exchange_does_not_outlast_the_drain(
    message: Message, early: bool, autojump_clock: trio.testing.MockClock
) -> None:
    router = make_router()
    router.method("m")(wait_for_ever)
    router.notification("n")(wait_for_ever)
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, message)
        peer = Peer(channel, router, drain=3)
        if early:
            peer.end_soon()
        nursery.start_soon(peer.run)
        await trio.testing.wait_all_tasks_blocked()
        peer.end_soon()
        began = trio.current_time()
        with trio.fail_after(60):
            await peer.wait_closed()
        assert trio.current_time() == began + 3
    # Closed in good order, which gives an error to what has no answer.
    assert channel.state is ChannelState.CLOSED
    assert not channel.answers


async def test_an_exception_of_a_handler_stays_in_its_exchange() -> None:
    router = make_router()
    events: list[ChannelEvent] = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, modern(1, "m"))
        await Peer(channel, router, on_event=events.append).run()
    assert error_of(channel.answers[1]).error.code == -32603
    assert [event.name for event in events] == ["handler.failed"]


async def test_a_peer_runs_once() -> None:
    async with trio.open_nursery() as nursery:
        peer = Peer(PushedChannel(nursery), make_router())
        await peer.run()
        with pytest.raises(LocalProtocolError, match="once"):
            await peer.run()


# -- what an answer says of its cause -----------------------------------------------------


async def test_only_a_router_without_the_method_says_that_it_is_not_found() -> None:
    router = make_router()

    @router.method("m")
    async def m(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        raise RpcError(-32601, "no such thing")

    channel = await serve(router, modern(1, "m"), modern(2, "unknown"))
    assert error_of(channel.answers[1]).error.code == -32601
    assert error_of(channel.answers[1]).cause is None
    assert error_of(channel.answers[2]).error.code == -32601
    assert isinstance(error_of(channel.answers[2]).cause, MethodNotFound)


async def test_a_dispatcher_may_say_so_as_well() -> None:
    async def dispatch(ctx: Context, message: Request | Notification) -> object:
        await trio.lowlevel.checkpoint()
        raise MethodNotFound(message.method)

    router = Router("server", "1", dispatch=dispatch)
    channel = await serve(router, modern(1, "m"))
    assert isinstance(error_of(channel.answers[1]).cause, MethodNotFound)


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "logging/setLevel", "resources/subscribe"]
)
async def test_legacy_methods_do_not_exist_on_modern_exchanges(method: str) -> None:
    channel = await serve(make_router(Hub()), modern(1, method))
    assert isinstance(error_of(channel.answers[1]).cause, MethodNotFound)


# -- eras ---------------------------------------------------------------------------------


async def test_the_endpoint_s_revisions_narrow_those_of_the_router() -> None:
    channel = await serve(
        make_router(), modern(1, "server/discover"), revisions=(MODERN, "2025-06-18")
    )
    found = result_of(channel.answers[1])
    assert isinstance(found, dict)
    assert found["supportedVersions"] == [MODERN, "2025-06-18"]


async def test_without_a_session_the_transport_says_which_revision_it_is() -> None:
    router = make_router()
    seen: list[object] = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        seen.extend((ctx.era, ctx.revision, ctx.session))
        await ctx.log("info", "hi")
        return {}

    channel = await serve(router, request(1, "m"), version="2025-06-18")
    assert seen == ["legacy", "2025-06-18", None]
    assert isinstance(channel.sent[0], Notification)


@pytest.mark.parametrize("message", [modern(1, "m"), request(1, "m")])
async def test_where_there_is_no_session_a_server_sends_no_requests(message: Request) -> None:
    router = make_router()

    @router.method("m")
    async def m(ctx: Context) -> object:
        await ctx.peer.request("roots/list")
        return {}

    events: list[ChannelEvent] = []
    version = MODERN if message.params_as(dict[str, object]) else LEGACY
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, message, version=version)
        await Peer(channel, router, on_event=events.append).run()
    assert list(channel.answers) == [1]
    assert len(channel.sent) == 1
    assert isinstance(events[0].error, LocalProtocolError)


async def test_a_legacy_client_without_a_session_cannot_be_asked() -> None:
    router = make_router()
    raised: list[Exception] = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        try:
            await ctx.ask({"roots": InputRequest("roots/list")})
        except LocalProtocolError as error:
            raised.append(error)
        return {}

    await serve(router, request(1, "m"), version=LEGACY)
    assert len(raised) == 1


async def test_a_handler_lets_its_client_come_back_later() -> None:
    router = make_router()
    closed = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        closed.append(await ctx.close_stream(retry=0.5))
        return {}

    async with trio.open_nursery() as nursery:
        for resumable in (True, False):
            channel = PushedChannel(nursery, request(1, "m"), version=LEGACY)
            channel.resumable = resumable
            await Peer(channel, router).run()
            assert channel.closed_streams == ([0.5] if resumable else [])
    assert closed == [True, False]


# -- sessions -----------------------------------------------------------------------------


async def test_initialize_on_one_exchange_is_known_to_the_others() -> None:
    router = make_router()
    seen: list[Session | None] = []

    @router.method("m")
    async def m(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        seen.append(ctx.session)
        return {}

    session = ChannelSession("s")
    await serve(router, INITIALIZE, session=session, version=None)
    assert isinstance(session.state, Session)
    for i in range(2):
        await serve(router, request(i, "m"), session=session, version=LEGACY)
    assert seen == [session.state, session.state]
    assert session.state.client_capabilities == {"roots": {}}


async def test_a_session_is_initialized_once() -> None:
    session = ChannelSession("s")
    await serve(make_router(), INITIALIZE, session=session, version=None)
    channel = await serve(make_router(), INITIALIZE, session=session, version=LEGACY)
    assert error_of(channel.answers[1]).error.code == -32600


async def test_a_failed_initialize_leaves_nothing_in_the_session() -> None:
    session = ChannelSession("s")
    broken = request(1, "initialize", {"protocolVersion": 3})
    channel = await serve(make_router(), broken, session=session, version=None)
    assert error_of(channel.answers[1]).error.code == -32602
    assert session.state is None


async def test_the_log_level_is_the_session_s() -> None:
    router = make_router()

    @router.method("m")
    async def m(ctx: Context) -> object:
        await ctx.log("warning", "hi")
        return {}

    session = ChannelSession("s")
    await serve(router, INITIALIZE, session=session, version=None)
    assert len((await serve(router, request(1, "m"), session=session, version=LEGACY)).sent) == 2
    level = request(2, "logging/setLevel", {"level": "error"})
    await serve(router, level, session=session, version=LEGACY)
    assert len((await serve(router, request(3, "m"), session=session, version=LEGACY)).sent) == 1


async def test_a_session_s_changes_go_out_on_its_own_channel_once() -> None:
    hub = Hub()
    router = make_router(hub)
    session = ChannelSession("s")
    async with trio.open_nursery() as nursery:
        await serve(router, INITIALIZE, session=session, version=None)
        own = PushedChannel(nursery, session=session, version=LEGACY, exchange=False)
        nursery.start_soon(Peer(own, router).run)
        await trio.testing.wait_all_tasks_blocked()
        own.deliver(Notification("notifications/initialized"))
        subscribe = request(2, "resources/subscribe", {"uri": "file:///a"})
        exchange = await serve(router, subscribe, session=session, version=LEGACY)
        assert result_of(exchange.answers[2]) == {}
        assert hub.subscribers == 1
        hub.changed("tools")
        hub.resource_updated("file:///a")
        hub.resource_updated("file:///b")
        await trio.testing.wait_all_tasks_blocked()
        assert own.sent == [
            Notification("notifications/tools/list_changed"),
            Notification("notifications/resources/updated", {"uri": "file:///a"}),
        ]
        assert len(exchange.sent) == 1
        own.fail()
        await trio.testing.wait_all_tasks_blocked()
        assert hub.subscribers == 0
        # An exchange that is still there subscribes to nothing any more.
        await serve(router, subscribe, session=session, version=LEGACY)
        assert hub.subscribers == 0


async def test_a_subscription_may_come_before_the_session_s_own_channel() -> None:
    hub = Hub()
    router = make_router(hub)
    session = ChannelSession("s")
    await serve(router, INITIALIZE, session=session, version=None)
    subscribe = request(2, "resources/subscribe", {"uri": "file:///a"})
    await serve(router, subscribe, session=session, version=LEGACY)
    hub.resource_updated("file:///a")
    async with trio.open_nursery() as nursery:
        own = PushedChannel(nursery, session=session, version=LEGACY, exchange=False)
        nursery.start_soon(Peer(own, router).run)
        await trio.testing.wait_all_tasks_blocked()
        assert own.sent == [Notification("notifications/resources/updated", {"uri": "file:///a"})]
        own.fail()


async def test_without_a_session_there_is_nothing_to_subscribe_to() -> None:
    router = make_router(Hub())
    subscribe = request(2, "resources/subscribe", {"uri": "file:///a"})
    channel = await serve(router, subscribe, version=LEGACY)
    assert error_of(channel.answers[2]).error.code == -32601


async def test_a_server_asks_on_the_exchange_and_is_answered_there() -> None:
    router = make_router()

    @router.method("m")
    async def m(ctx: Context) -> object:
        answers = await ctx.ask({"roots": InputRequest("roots/list")})
        return {"roots": answers.decode("roots", dict[str, object])}

    session = ChannelSession("s")
    await serve(router, INITIALIZE, session=session, version=None)
    async with trio.open_nursery() as nursery:
        channel = PushedChannel(nursery, request(7, "m"), session=session, version=LEGACY)
        nursery.start_soon(Peer(channel, router).run)
        await trio.testing.wait_all_tasks_blocked()
        (asked,) = channel.sent
        assert isinstance(asked, Request)
        assert asked.method == "roots/list"
        channel.deliver(Response(asked.id, {"roots": []}))
    assert result_of(channel.answers[7]) == {"roots": {"roots": []}}


async def test_the_session_s_own_channel_ends_gracefully() -> None:
    session = ChannelSession("s")
    session.state = Session(LEGACY, {}, {})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            own = PushedChannel(nursery, session=session, version=LEGACY, exchange=False)
            peer = Peer(own, make_router())
            nursery.start_soon(peer.run)
            await trio.testing.wait_all_tasks_blocked()
            peer.end_soon()
    assert not own.is_connected
