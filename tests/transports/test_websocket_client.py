"""The opening handshake of a WebSocket client: what it asks, and what it makes of the answer."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from websocket_wire import TEXT, Frame

from trio_mcp_transport import (
    AuthenticationRequired,
    ConfigurationError,
    ConnectFailed,
    ConnectTimeout,
    EndpointNotFound,
    FeatureUnavailable,
    Forbidden,
    HttpError,
    HttpStatusError,
    MessageChannel,
    Request,
    Response,
    ServerBusy,
    UnexpectedRedirect,
    WebSocketEndpoint,
    connect_channel,
    open_channel,
    parse_endpoint,
    serve_channels,
)
from trio_mcp_transport.testing import cancel_at
from trio_mcp_transport.transports.websocket_client import Upgraded, upgrade
from trio_mcp_transport.transports.websocket_settings import WebSocketOptions, websocket_options

pytestmark = [pytest.mark.websocket, pytest.mark.channel]

ENDPOINT = WebSocketEndpoint("a.example", 80, "/mcp")
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MESSAGE = Frame(TEXT, b'{"jsonrpc":"2.0","id":1,"method":"ping"}').wire(None)


class Script:
    """A server that reads one request and answers what it is told to.

    Attributes:
        lines: The request line, then the header lines in lower case.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.lines: list[str] = []

    async def read(self) -> None:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            more = await self.stream.receive_some(65536)
            assert more, "the client went away"
            data += more
        first, *headers = data.decode().strip().split("\r\n")
        self.lines = [first, *map(str.lower, headers)]
        self.key = next(
            line.partition(": ")[2]
            for line in data.decode().split("\r\n")
            if line.startswith("Sec-WebSocket-Key")
        )

    @property
    def accept(self) -> str:
        digest = hashlib.sha1(self.key.encode() + GUID).digest()
        return base64.b64encode(digest).decode()

    def switching(self, *headers: str) -> bytes:
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {self.accept}",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode()


Answer = Callable[[Script], bytes]


async def ask(
    answer: Answer, endpoint: WebSocketEndpoint = ENDPOINT, *, cut: int = 0
) -> tuple[Upgraded, Script]:
    """Let a client shake hands with a server that answers like this."""
    ours, theirs = memory_stream_pair()
    script = Script(theirs)

    async def serve() -> None:
        await script.read()
        data = answer(script)
        if cut:
            await theirs.send_all(data[:cut])
            await trio.testing.wait_all_tasks_blocked()
            data = data[cut:]
        await theirs.send_all(data)
        await theirs.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            found = await upgrade(ours, endpoint, websocket_options(endpoint))
        except Exception as error:
            failure: Exception | None = error
        else:
            failure = None
    if failure is not None:
        raise failure
    return found, script


async def test_the_request_says_what_the_standard_and_the_endpoint_want() -> None:
    endpoint = WebSocketEndpoint(
        "a.example",
        8080,
        "/mcp",
        url_query="key=1",
        headers={"X-Mine": "yes", "Origin": "https://page.example"},
        auth="bearer",
        bearer_token="secret",
    )
    found, script = await ask(lambda script: script.switching(), endpoint)
    assert script.lines[0] == "GET /mcp?key=1 HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in script.lines[1:])
    assert headers.pop("sec-websocket-key")
    assert headers == {
        "host": "a.example:8080",
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "mcp",
        "x-mine": "yes",
        "origin": "https://page.example",
        "authorization": "bearer secret",
    }
    assert (found.agreement.subprotocol, found.agreement.deflate) == (None, None)
    assert (found.data, found.eof) == (b"", True) or not found.eof


async def test_what_is_wished_is_asked_for_and_may_be_agreed_on() -> None:
    endpoint = WebSocketEndpoint("a.example", 80, subprotocol="other", permessage_deflate=True)
    found, script = await ask(
        lambda script: script.switching(
            "Sec-WebSocket-Protocol: other",
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12",
        ),
        endpoint,
    )
    assert "sec-websocket-protocol: other" in script.lines
    assert any("permessage-deflate" in line for line in script.lines)
    assert found.agreement.subprotocol == "other"
    assert found.agreement.deflate is not None
    _, script = await ask(Script.switching, WebSocketEndpoint("a.example", 80, subprotocol=""))
    assert not any("protocol" in line for line in script.lines)


async def test_two_connections_have_two_keys() -> None:
    keys = {(await ask(Script.switching))[1].key for _ in range(3)}
    assert len(keys) == 3


async def test_bytes_behind_the_answer_are_kept_wherever_they_are_cut() -> None:
    size = len((await ask(Script.switching))[1].switching())
    for cut in (1, size - 1, size, size + 1, size + len(MESSAGE) - 1):
        found, _ = await ask(lambda script: script.switching() + MESSAGE, cut=cut)
        assert MESSAGE.startswith(found.data)
        if cut <= size:
            assert found.data in {b"", MESSAGE}


async def test_informational_answers_are_passed_over() -> None:
    found, _ = await ask(lambda script: b"HTTP/1.1 103 Early Hints\r\n\r\n" + script.switching())
    assert found.data == b""


def answered(status: int, *headers: str, body: bytes = b"no") -> Answer:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return lambda _: "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, HttpStatusError),
        (400, HttpStatusError),
        (401, AuthenticationRequired),
        (403, Forbidden),
        (404, EndpointNotFound),
        (426, HttpStatusError),
        (429, ServerBusy),
        (503, ServerBusy),
    ],
)
async def test_a_refusal_is_the_error_that_http_has_for_it(
    status: int, error: type[HttpError]
) -> None:
    with pytest.raises(error, match=str(status)) as refused:
        await ask(answered(status))
    assert refused.value.status == status
    assert refused.value.text == "no"


async def test_a_challenge_is_read() -> None:
    with pytest.raises(AuthenticationRequired) as refused:
        await ask(answered(401, 'WWW-Authenticate: Bearer realm="x"'))
    assert refused.value.challenges[0].parameters == {"realm": "x"}


async def test_a_redirect_is_refused_and_nothing_is_sent_there() -> None:
    with pytest.raises(UnexpectedRedirect, match="follows no redirect") as refused:
        await ask(answered(307, "Location: wss://evil.example/?token=1"))
    assert refused.value.location == "wss://evil.example/?token=1"
    assert "evil" not in str(refused.value)


async def test_of_a_refusal_only_the_beginning_is_read() -> None:
    with pytest.raises(Forbidden) as refused:
        await ask(answered(403, body=b"x" * 1_000_000))
    assert 0 < len(refused.value.text) <= 16 * 1024


async def test_a_refusal_whose_body_never_comes_is_one_all_the_same(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nfirst")
    with pytest.raises(Forbidden) as refused:
        await upgrade(ours, ENDPOINT, WebSocketOptions())
    assert refused.value.text == "first"
    assert trio.current_time() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: b"", "connection ended before the head"),
        (lambda _: b"HTTP/1.1 101 Switching", "middle of a head|ended before"),
        (lambda _: b"SSH-2.0-OpenSSH_9.2\r\n", "HTTP"),
        (lambda s: s.switching().replace(s.accept.encode(), b"AAAA"), "Sec-WebSocket-Accept"),
        (lambda s: s.switching().replace(b"websocket", b"h2c"), "not to WebSocket"),
        (lambda s: s.switching("Sec-WebSocket-Protocol: chat"), "'chat', which was not offered"),
        (
            lambda s: s.switching("Sec-WebSocket-Extensions: permessage-deflate"),
            "an extension that was not offered",
        ),
    ],
)
async def test_what_is_no_websocket_is_told(answer: Answer, says: str) -> None:
    with pytest.raises(ConnectFailed, match=says) as failed:
        await ask(answer)
    assert str(failed.value).startswith("cannot connect to ws://a.example:80/mcp: ")


async def test_a_server_that_breaks_the_connection_cannot_be_connected_to() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(ConnectFailed):
        await upgrade(ours, ENDPOINT, WebSocketOptions())


# -- over sockets -----------------------------------------------------------------------


@asynccontextmanager
async def server() -> AsyncGenerator[str, None]:
    async def handle(channel: MessageChannel) -> None:
        async for message in channel:
            if isinstance(message, Request):
                await channel.send(Response(message.id, {}))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (bound,) = await nursery.start(partial(serve_channels, handle, "ws://127.0.0.1:0/mcp"))
            yield bound  # ruff: ignore[fallible-context-manager] (a failed test leaves no result)
            nursery.cancel_scope.cancel()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_connecting_may_be_cancelled_anywhere_and_leaves_nothing() -> None:
    async with server() as bound:
        async with open_channel(bound):
            pass
        await trio.testing.wait_all_tasks_blocked(0.02)
        files, tasks = open_files(), trio.lowlevel.current_statistics().tasks_living
        for number in range(60):
            async with trio.open_nursery() as nursery:
                made: list[MessageChannel] = []

                async def connect(
                    nursery: trio.Nursery = nursery, made: list[MessageChannel] = made
                ) -> None:
                    made.append(await connect_channel(nursery, bound))

                was_cancelled = await cancel_at(number, connect)
                for channel in made:
                    await channel.aclose()
            if not was_cancelled:
                break
        else:
            raise AssertionError("it has no end")
        assert number > 3
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert open_files() <= files
        assert trio.lowlevel.current_statistics().tasks_living <= tasks


async def test_a_server_that_does_not_answer_is_given_up_in_time(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:

        async def say_nothing(stream: trio.SocketStream) -> None:
            await trio.sleep_forever()

        listeners = await nursery.start(partial(trio.serve_tcp, say_nothing, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ConnectTimeout):
            async with open_channel(f"ws://127.0.0.1:{port}/mcp?connect_timeout=5"):
                pass
        nursery.cancel_scope.cancel()


async def test_nobody_at_the_port_is_told() -> None:
    with pytest.raises(ConnectFailed, match="cannot connect"):
        async with open_channel("ws://127.0.0.1:1/mcp"):
            pass


async def test_it_goes_through_a_proxy() -> None:
    asked: list[bytes] = []

    async def relay(from_: trio.abc.Stream, to: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in from_:
                await to.send_all(data)
        await to.aclose()

    async def proxy(client: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await client.receive_some()
        asked.append(head.split(b"\r\n")[0])
        host, _, port = head.split()[1].decode().partition(":")
        async with (
            await trio.open_tcp_stream(host, int(port)) as onward,
            trio.open_nursery() as nursery,
        ):
            await client.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            nursery.start_soon(relay, client, onward)
            nursery.start_soon(relay, onward, client)

    async with server() as bound, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, proxy, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_channel(f"{bound}?proxy=http://127.0.0.1:{port}") as channel:
            await channel.send(Request(1, "ping"))
            assert isinstance(await channel.receive(), Response)
        nursery.cancel_scope.cancel()
    target = bound.removeprefix("ws://").partition("/")[0]
    assert asked == [f"CONNECT {target} HTTP/1.1".encode()]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ws://h:1?max_connections=2", "max_connections is for listening"),
        ("ws://h:1?idle_timeout=2", "idle_timeout is for listening"),
        ("ws://h:1?allowed_hosts=a.example", "allowed_hosts is for listening"),
    ],
)
async def test_options_of_a_server_are_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        async with open_channel(url):
            pass


async def test_options_of_a_client_are_refused_where_it_listens() -> None:
    with pytest.raises(ConfigurationError, match="proxy is for connecting"):
        await serve_channels(print, "ws://127.0.0.1:0?proxy=http://127.0.0.1:1")  # type: ignore[arg-type]


async def test_oauth_is_named_as_what_is_missing() -> None:
    endpoint = parse_endpoint(
        "ws://h:1?auth=oauth2&oauth_token_url=https://a.example/t&client_id=a&client_secret=b"
    )
    with pytest.raises(FeatureUnavailable, match="oauth2"):
        async with open_channel(endpoint):
            pass
