"""Requests through an httpx or httpx2 client of the user's own."""

from __future__ import annotations

import contextlib
import gc
import importlib
from types import ModuleType

import pytest
import trio

from trio_mcp_transport import (
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    HttpError,
    RemoteProtocolError,
    RequestTimeout,
    open_peer,
)
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.transports.httpx_sender import HttpxSender

pytestmark = pytest.mark.interop


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    library: ModuleType = pytest.importorskip(request.param)
    return library


RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


class Wire:
    """A TCP server that answers each connection with these bytes and keeps what came."""

    def __init__(self, answer: bytes, *, hold: bool = False) -> None:
        self.answer = answer
        self.hold = hold
        self.came = b""
        self.closed = trio.Event()

    async def handle(self, stream: trio.SocketStream) -> None:
        async with stream:
            while b"\r\n\r\n" not in self.came:
                data = await stream.receive_some()
                if not data:
                    return
                self.came += data
            await stream.send_all(self.answer)
            if self.hold:
                with contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
        self.closed.set()


async def served(nursery: trio.Nursery, wire: Wire) -> str:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, wire.handle, [listener])
    return f"http://127.0.0.1:{listener.socket.getsockname()[1]}/mcp?q=1"


async def test_a_request_and_its_response(nursery: trio.Nursery, library: ModuleType) -> None:
    wire = Wire(RESPONSE)
    url = await served(nursery, wire)
    written: list[int] = []
    with trio.fail_after(30):
        async with library.AsyncClient() as client:
            sender = HttpxSender(client)
            async with sender.request(
                "POST",
                url,
                headers=Headers([("X-Key", "k")]),
                body=b"body",
                on_written=lambda: written.append(1),
            ) as response:
                assert response.status == 200
                assert response.headers["content-type"] == "text/plain"
                assert await response.read(100) == b"hello"
                assert await response.receive_some() == b""
            await sender.aclose()
            assert not client.is_closed
    assert written == [1]
    head, _, body = wire.came.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /mcp?q=1 HTTP/1.1\r\n")
    assert b"x-key: k" in head.lower()
    assert b"accept-encoding: identity" in head.lower()
    assert body in {b"", b"body"}


async def test_redirects_are_not_followed(nursery: trio.Nursery, library: ModuleType) -> None:
    wire = Wire(b"HTTP/1.1 307 T\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
    url = await served(nursery, wire)
    with trio.fail_after(30):
        async with (
            library.AsyncClient(follow_redirects=True) as client,
            HttpxSender(client).request("GET", url) as response,
        ):
            assert response.status == 307


async def test_leaving_early_closes_the_connection(
    nursery: trio.Nursery, library: ModuleType
) -> None:
    wire = Wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", hold=True)
    url = await served(nursery, wire)
    with trio.fail_after(30):
        async with library.AsyncClient() as client:
            async with HttpxSender(client).request("GET", url) as response:
                assert await response.receive_some() == b"a"
            await wire.closed.wait()
    del response
    gc.collect()  # Trio warns of generators that were left
    await trio.lowlevel.checkpoint()


async def test_cancelling_leaves_nothing_behind(nursery: trio.Nursery, library: ModuleType) -> None:
    wire = Wire(b"", hold=True)
    url = await served(nursery, wire)
    with trio.fail_after(30):
        async with library.AsyncClient() as client:
            with trio.CancelScope() as scope:
                async with HttpxSender(client).request("GET", url, on_written=scope.cancel):
                    pytest.fail("there is no response")
            assert scope.cancelled_caught
            await wire.closed.wait()


@pytest.mark.parametrize(
    ("answer", "when", "kind"),
    [
        (b"", "head", ConnectionLost),
        (b"rubbish\r\n\r\n", "head", ConnectionLost),
        (RESPONSE[:-2], "body", ConnectionLost),
    ],
)
async def test_what_breaks_is_told_in_this_packages_words(
    nursery: trio.Nursery,
    library: ModuleType,
    answer: bytes,
    when: str,
    kind: type[Exception],
) -> None:
    url = await served(nursery, Wire(answer))
    with trio.fail_after(30):
        async with library.AsyncClient() as client:
            with pytest.raises(kind):  # ruff: ignore[pytest-raises-with-multiple-statements]
                async with HttpxSender(client).request("GET", url) as response:
                    assert when == "body"
                    await response.read(100)


async def test_a_head_that_does_not_come_is_a_timeout(
    nursery: trio.Nursery, library: ModuleType
) -> None:
    url = await served(nursery, Wire(b"", hold=True))
    with trio.fail_after(30):
        async with library.AsyncClient() as client:
            with pytest.raises(RequestTimeout):
                async with HttpxSender(client).request("GET", url, head_timeout=0.05):
                    pytest.fail("there is no response")


async def test_what_never_got_to_a_server(library: ModuleType) -> None:
    with trio.fail_after(30):
        async with library.AsyncClient() as client:
            sender = HttpxSender(client)
            with pytest.raises(ConnectFailed):
                async with sender.request("GET", "http://127.0.0.1:1/"):
                    pytest.fail("nobody is there")
            with pytest.raises(ConfigurationError):
                async with sender.request("GET", "gopher://127.0.0.1/"):
                    pytest.fail("nobody is there")
        with pytest.raises(trio.ClosedResourceError):
            async with sender.request("GET", "http://127.0.0.1:1/"):
                pytest.fail("the client is closed")


def test_the_librarys_exceptions_have_their_counterparts(library: ModuleType) -> None:
    sender = HttpxSender(library.AsyncClient())
    for error, kind in (
        (library.ReadTimeout("x"), RequestTimeout),
        (library.PoolTimeout("x"), ConnectFailed),
        (library.DecodingError("x"), RemoteProtocolError),
        (library.WriteError("x"), ConnectionLost),
        (ValueError("x"), ValueError),
    ):
        assert type(sender.translate(error, "here")) is kind


def test_a_subclass_of_the_users_own_will_do(library: ModuleType) -> None:
    class Own(library.AsyncClient):  # type: ignore[misc,name-defined] # whichever library it is
        pass

    HttpxSender(Own())


async def test_a_peer_speaks_through_it(library: ModuleType) -> None:
    async def answer(request: object) -> object:
        await trio.lowlevel.checkpoint()
        return library.Response(401, headers={"WWW-Authenticate": "Bearer"})

    transport = library.MockTransport(answer)
    async with library.AsyncClient(transport=transport) as client:
        with pytest.raises(HttpError) as caught:
            async with open_peer("https://server.example/mcp", client=client):
                pytest.fail("it refuses")
    assert caught.value.status == 401


def test_neither_library_is_imported_for_it() -> None:
    source = importlib.import_module("trio_mcp_transport.transports.httpx_sender").__dict__
    assert "httpx" not in source
    assert "httpx2" not in source
