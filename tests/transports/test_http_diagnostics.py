"""Each stage of a request is told where an endpoint asks for it, and nothing secret with it."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio

from trio_mcp_transport import (
    ChannelEvent,
    ConnectFailed,
    Request,
    Router,
    open_channel,
    open_peer,
    serve_peers,
)

pytestmark = [pytest.mark.channel, pytest.mark.integration]

SECRETS = "&auth=bearer&token=s3cret&url_query=key%3Ds3cret&header.X-A=s3cret"


def stages(events: list[ChannelEvent]) -> list[str]:
    assert not any("s3cret" in event.message for event in events)
    return [event.name for event in events if event.name.startswith("http.")]


async def serve(nursery: trio.Nursery) -> str:
    router = Router("test", "1", capabilities={})
    (url,) = await nursery.start(partial(serve_peers, router, "http://127.0.0.1:0/mcp"))
    assert isinstance(url, str)
    return url


async def test_the_stages_of_a_request_are_told_in_order() -> None:
    events: list[ChannelEvent] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            url = await serve(nursery)
            async with open_peer(
                f"{url}?diagnostics=true{SECRETS}", on_event=events.append, era="modern"
            ):
                pass
            nursery.cancel_scope.cancel()
    assert stages(events) == [
        "http.resolved",
        "http.connected",
        "http.wrote_request",
        "http.read_head",
        "http.read_response",
        "http.closed",
    ]
    assert "is at 127.0.0.1" in events[0].message
    assert "status 200" in events[3].message
    assert events[2].context is not None


async def test_what_is_given_up_is_told_as_well() -> None:
    events: list[ChannelEvent] = []
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(30):
        url = f"http://127.0.0.1:{port}/mcp?diagnostics=true"
        async with listeners[0], open_channel(url, on_event=events.append) as channel:
            await channel.send(Request(1, "initialize", {}))
            stream = await listeners[0].accept()
            await stream.receive_some()
            await stream.aclose()
            await channel.receive()
    assert "http.gave_up" in stages(events)


async def test_without_being_asked_for_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    events: list[ChannelEvent] = []
    caplog.set_level(logging.DEBUG, "trio_mcp_transport")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            url = await serve(nursery)
            async with open_peer(url, on_event=events.append, era="modern"):
                pass
            assert events == []
            assert caplog.records == []
            # Without a handler it is logged, for those who want to see all there is.
            async with open_peer(f"{url}?diagnostics=true", era="modern"):
                pass
            nursery.cancel_scope.cancel()
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert any("http.wrote_request" in record.message for record in caplog.records)


async def test_a_name_that_cannot_be_looked_up_is_no_connection() -> None:
    events: list[ChannelEvent] = []
    with trio.fail_after(30):
        with pytest.raises(ConnectFailed):
            async with open_peer(
                "http://no-such-name.invalid/?diagnostics=true", on_event=events.append
            ):
                pass
    assert stages(events) == ["http.gave_up", "http.closed"]
