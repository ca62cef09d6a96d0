"""A peer's requests: each ends in exactly one way, whatever happens to it."""

from __future__ import annotations

import functools
import math

import msgspec
import pytest
import trio
from msgspec import Raw
from peer_wire import ask, progress_of, token_of, wired
from trio.testing import memory_stream_pair

from trio_mcp_transport.abc import (
    ChannelContext,
    ConnectionLost,
)
from trio_mcp_transport.errors import (
    ConnectFailed,
    HttpStatusError,
    MessageTooLarge,
    RequestIdInUse,
    RequestTimeout,
    RpcError,
)
from trio_mcp_transport.jsonrpc import (
    ErrorObject,
    ErrorResponse,
    InvalidMessage,
    Notification,
    Request,
    Response,
)
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.peer import Peer
from trio_mcp_transport.pending import Progress
from trio_mcp_transport.transports.memory import memory_channel_pair
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = pytest.mark.peer


# -- answers ------------------------------------------------------------------------


async def test_the_result_comes_raw_or_as_the_type_that_was_asked_for() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:

        async def answer() -> None:
            for _ in range(2):
                request = await wire.receive_request()
                await wire.channel.send(Response(request.id, Raw(b'{"a": 1}')))

        nursery.start_soon(answer)
        assert await wire.peer.request("m") == Raw(b'{"a": 1}')
        assert await wire.peer.request("m", result_type=dict[str, int]) == {"a": 1}


async def test_an_error_answer_is_raised_with_code_message_and_data() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer)
        request = await wire.receive_request()
        await wire.send(ErrorResponse(request.id, ErrorObject(7, "no", Raw(b'{"why":"x"}'))))
        error = asked.outcome
    assert isinstance(error, RpcError)
    assert (error.code, error.message, error.data) == (7, "no", {"why": "x"})


async def test_answers_find_their_requests_in_any_order() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = [ask(nursery, wire.peer, f"m{n}") for n in range(5)]
        requests = [await wire.receive_request() for _ in range(5)]
        for request in reversed(requests):
            await wire.send(Response(request.id, Raw(f'"{request.method}"'.encode())))
        assert [one.outcome for one in asked] == [Raw(f'"m{n}"'.encode()) for n in range(5)]


async def test_an_id_keeps_its_type() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        number = ask(nursery, wire.peer, request_id=1)
        text = ask(nursery, wire.peer, request_id="1")
        await trio.testing.wait_all_tasks_blocked()
        await wire.send(Response("1", Raw(b'"text"')))
        assert (number.outcome, text.outcome) == (None, Raw(b'"text"'))
        await wire.send(Response(1, Raw(b'"number"')))
        assert number.outcome == Raw(b'"number"')


async def test_an_id_in_flight_is_refused_and_the_first_request_does_not_notice() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        first = ask(nursery, wire.peer, request_id="x")
        await wire.receive_request()
        with pytest.raises(RequestIdInUse):
            await wire.peer.request("m", id="x")
        await wire.send(Response("x", Raw(b"1")))
        assert first.outcome == Raw(b"1")


async def test_an_id_is_a_string_or_an_integer() -> None:
    async with wired() as wire:
        with pytest.raises(TypeError):
            await wire.peer.request("m", id=True)
        with pytest.raises(TypeError):
            await wire.peer.request("m", id=1.5)  # type: ignore[call-overload]


async def test_generated_ids_step_over_the_ones_in_flight() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        ask(nursery, wire.peer, request_id=1)
        await wire.receive_request()
        ask(nursery, wire.peer)
        assert (await wire.receive_request()).id == 2
        nursery.cancel_scope.cancel()


async def test_an_answer_to_nothing_is_counted_and_reported() -> None:
    async with wired() as wire:
        await wire.send(Response(99, {}), ErrorResponse(None, ErrorObject(-32700, "what?")))
        assert wire.peer.statistics().answers_unknown == 2
        assert [event.name for event in wire.events] == ["answer.unknown", "answer.unknown"]


async def test_an_id_that_a_stranger_chose_is_reported_no_longer_than_people_read() -> None:
    async with wired() as wire:
        await wire.send(Response("x" * 1_000_000, {}))
        assert wire.peer.statistics().answers_unknown == 1
        (event,) = wire.events
        assert "xxx" in event.message
        assert len(event.message) < 150


async def test_a_request_that_is_too_large_raises_and_the_peer_goes_on() -> None:
    left, right = trio.testing.memory_stream_pair()
    options = ChannelOptions(max_message_bytes=200)
    async with trio.open_nursery() as nursery:
        ours = StreamChannel(
            left, nursery=nursery, context=ChannelContext(transport="test"), options=options
        )
        theirs = StreamChannel(
            right, nursery=nursery, context=ChannelContext(transport="test"), options=options
        )
        async with theirs, Peer(ours) as peer:
            with pytest.raises(MessageTooLarge):
                await peer.request("m", {"text": "x" * 300})
            asked = ask(nursery, peer)
            request = await theirs.receive()
            assert isinstance(request, Request)
            await theirs.send(Response(request.id, {}))
            await trio.testing.wait_all_tasks_blocked()
            assert asked.outcome == Raw(b"{}")
            assert peer.statistics().requests_sent == 1


async def test_a_malformed_answer_fails_the_request_it_names_at_once(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = memory_stream_pair()
    channel = StreamChannel(
        ours,
        nursery=nursery,
        context=ChannelContext(transport="test"),
        answer_malformed=False,
        on_event=lambda _: None,
    )
    async with Peer(channel) as peer:
        for broken in (b'"error":"no"', b'"result":1,"error":{"code":1,"message":"m"}'):

            async def answer(broken: bytes = broken) -> None:
                asked = msgspec.json.decode(await theirs.receive_some())
                head = b'{"jsonrpc":"2.0","id":%d,' % asked["id"]
                await theirs.send_all(head + broken + b"}\n")

            nursery.start_soon(answer)
            with pytest.raises(InvalidMessage, match="the answer is malformed"):
                await peer.request("m")


# -- cancelling and timeouts --------------------------------------------------------


async def test_cancelling_a_request_tells_the_other_side() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer, request_id="a")
        await wire.receive_request()
        asked.scope.cancel()
        assert await wire.cancelled_id() == "a"
    assert asked.outcome == "cancelled"


async def test_initialize_is_given_up_but_never_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        cancelled = ask(nursery, wire.peer, "initialize")
        late = ask(nursery, wire.peer, "initialize", timeout=5)
        await wire.receive_request()
        await wire.receive_request()
        cancelled.scope.cancel()
        await trio.sleep(6)
        assert isinstance(late.outcome, RequestTimeout)
        await wire.peer.notify("last")
        message = await wire.channel.receive()
        assert isinstance(message, Notification)
        assert message.method == "last"


async def test_a_request_that_could_not_be_sent_yet_is_not_cancelled_at_the_other_side(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_channel_pair(max_messages=1)
    async with theirs, Peer(ours) as peer:
        await peer.notify("fills the channel")
        with pytest.raises(RequestTimeout):
            await peer.request("m", timeout=1)
        assert (await theirs.receive()) == Notification("fills the channel")
        await peer.notify("next")
        assert (await theirs.receive()) == Notification("next")
        assert peer.statistics().requests_sent == 0
        # Nothing can come back for it, so its id is free.
        with pytest.raises(RequestTimeout):
            await peer.request("m", id=1, timeout=1)


async def test_a_timeout_tells_the_other_side_and_raises(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer)
        request = await wire.receive_request()
        start = trio.current_time()
        assert await wire.cancelled_id() == request.id
        assert trio.current_time() - start == pytest.approx(30)
    assert isinstance(asked.outcome, RequestTimeout)
    assert isinstance(asked.outcome, TimeoutError)


async def test_the_channel_s_option_sets_the_timeout_and_the_peer_s_argument_beats_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    start = trio.current_time()
    async with wired(ChannelOptions(request_timeout=3)) as wire:
        with pytest.raises(RequestTimeout):
            await wire.peer.request("m")
    assert trio.current_time() - start == pytest.approx(3)
    start = trio.current_time()
    async with wired(ChannelOptions(request_timeout=3), request_timeout=2) as wire:
        with pytest.raises(RequestTimeout):
            await wire.peer.request("m")
    assert trio.current_time() - start == pytest.approx(2)


async def test_each_request_has_its_own_timeout_in_whatever_order_they_were_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        start = trio.current_time()
        asked = {
            n: ask(nursery, wire.peer, timeout=n, request_id=int(n * 10))
            for n in (30, 5, 10, 5.5, 20)
        }
        for _ in asked:
            await wire.receive_request()
        for seconds in sorted(asked):
            assert await wire.cancelled_id() == int(seconds * 10)
            assert trio.current_time() - start == pytest.approx(seconds)


async def test_an_infinite_timeout_waits_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer, timeout=math.inf)
        request = await wire.receive_request()
        await trio.sleep(80_000)
        await wire.send(Response(request.id, Raw(b"1")))
        assert asked.outcome == Raw(b"1")


async def test_a_late_answer_is_no_warning(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with wired(tells=False) as wire, trio.open_nursery() as nursery:
        with caplog.at_level("DEBUG", "trio_mcp_transport"):
            ask(nursery, wire.peer, request_id=5, timeout=1)
            await wire.receive_request()
            await wire.cancelled_id()
            await wire.send(Response(5, {}))
    assert wire.peer.statistics().answers_late == 1
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


async def test_a_late_answer_is_counted_reported_and_harms_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        ask(nursery, wire.peer, request_id=5, timeout=1)
        await wire.receive_request()
        await wire.cancelled_id()
        # As long as it may still come, the id is not free.
        with pytest.raises(RequestIdInUse):
            await wire.peer.request("m", id=5)
        await wire.send(Response(5, {}))
        assert wire.peer.statistics().answers_late == 1
        assert [event.name for event in wire.events] == ["answer.late"]
        again = ask(nursery, wire.peer, request_id=5)
        await wire.receive_request()
        await wire.send(Response(5, Raw(b"2")))
        assert again.outcome == Raw(b"2")
        await wire.send(Response(5, {}))
        assert wire.peer.statistics().answers_unknown == 1


# -- progress -----------------------------------------------------------------------


async def test_progress_reaches_the_request_that_has_the_token() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        seen: list[Progress] = []
        notes: list[Notification] = []
        asked = ask(nursery, wire.peer, on_progress=seen.append, on_notification=notes.append)
        request = await wire.receive_request()
        token = token_of(request)
        params = {"progressToken": token, "progress": 1, "total": 4, "message": "one"}
        await wire.send(Notification("notifications/progress", params), progress_of("other", 3))
        assert seen == [Progress(1, 4, "one")]
        assert [note.method for note in notes] == ["notifications/progress"]
        await wire.send(Response(request.id, {}), progress_of(token, 2))
        assert asked.outcome == Raw(b"{}")
        assert len(seen) == 1  # after the answer it is nobody's
        assert wire.peer.statistics().progress_dropped == 2


async def test_progress_that_does_not_rise_is_dropped_and_counted() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        seen: list[float] = []
        ask(nursery, wire.peer, on_progress=lambda progress: seen.append(progress.progress))
        token = token_of(await wire.receive_request())
        await wire.send(*(progress_of(token, value) for value in (1, 1, 0.5, 2)))
        await wire.send(Notification("notifications/progress", {"progress": "much"}))
        assert seen == [1, 2]
        assert wire.peer.statistics().progress_dropped == 3
        nursery.cancel_scope.cancel()


async def test_progress_extends_the_timeout_but_never_the_maximum(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        start = trio.current_time()
        asked = ask(
            nursery, wire.peer, timeout=10, max_timeout=25, on_progress=lambda progress: None
        )
        token = token_of(await wire.receive_request())
        for value in range(1, 4):
            await trio.sleep(8)
            assert asked.outcome is None
            await wire.send(progress_of(token, value))
        await wire.cancelled_id()
        assert trio.current_time() - start == pytest.approx(25)
    assert isinstance(asked.outcome, RequestTimeout)


async def test_a_callback_that_fails_is_reported_and_the_request_goes_on() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:

        def fail(_: object) -> None:
            raise RuntimeError("callback")

        asked = ask(nursery, wire.peer, on_progress=fail)
        request = await wire.receive_request()
        await wire.send(progress_of(token_of(request), 1), Response(request.id, {}))
        assert asked.outcome == Raw(b"{}")
        assert [event.name for event in wire.events] == ["callback.failed"]


async def test_tokens_are_unique_among_requests_with_ids_of_the_users() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        tokens = []
        for request_id in (1, "1", None, "progress-1"):
            ask(nursery, wire.peer, request_id=request_id, on_progress=lambda progress: None)
            tokens.append(token_of(await wire.receive_request()))
        assert len(set(map(repr, tokens))) == 4
        nursery.cancel_scope.cancel()


async def test_a_lone_request_gets_the_log_messages_and_only_a_lone_one() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        notes: list[Notification] = []
        log = Notification("notifications/message", {"level": "info", "data": 1})
        ask(nursery, wire.peer, on_notification=notes.append)
        await wire.receive_request()
        await wire.send(log)
        assert len(notes) == 1
        ask(nursery, wire.peer)
        await wire.receive_request()
        await wire.send(log)
        assert len(notes) == 1
        nursery.cancel_scope.cancel()


async def test_params_keep_what_they_have_when_the_token_is_added() -> None:
    class Params(msgspec.Struct):
        name: str

    async with wired() as wire, trio.open_nursery() as nursery:
        for params in (
            {"name": "x", "_meta": {"a": 1}},
            Raw(b'{"name":"x","_meta":{"a":1}}'),
            Params("x"),
        ):
            asked = functools.partial(wire.peer.request, "m", params, on_progress=print)
            nursery.start_soon(asked)
            request = await wire.receive_request()
            sent = msgspec.json.decode(msgspec.json.encode(request.params))
            assert sent["name"] == "x"
            assert sent["_meta"].pop("progressToken") == request.id
            assert sent["_meta"] in ({"a": 1}, {})
        with pytest.raises(TypeError):
            await wire.peer.request("m", [1], on_progress=print)
        nursery.cancel_scope.cancel()


# -- answers that the channel made ------------------------------------------------------


@pytest.mark.parametrize(
    "cause",
    [
        HttpStatusError("the server answered 500", status=500),
        ConnectionLost("the connection broke"),
        ConnectFailed("refused"),
    ],
)
async def test_a_request_that_failed_without_an_answer_raises_why(cause: Exception) -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer)
        request = await wire.receive_request()
        failed = ErrorResponse(request.id, ErrorObject(-32603, "failed")).with_cause(cause)
        await wire.send(failed)
        assert type(asked.outcome) is type(cause)
        assert str(asked.outcome) == str(cause)


async def test_an_error_of_the_other_side_is_raised_from_what_is_known_of_it() -> None:
    async with wired() as wire, trio.open_nursery() as nursery:
        asked = ask(nursery, wire.peer)
        request = await wire.receive_request()
        cause = ValueError("why")
        await wire.send(ErrorResponse(request.id, ErrorObject(-1, "no")).with_cause(cause))
        assert isinstance(asked.outcome, RpcError)
        assert asked.outcome.code == -1
        assert asked.outcome.__cause__ is cause
