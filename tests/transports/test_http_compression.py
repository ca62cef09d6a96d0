"""Content codings over HTTP: whole answers, streams, requests, and what is refused."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial

import msgspec
import pytest
import trio

from trio_mcp_transport import (
    Context,
    HttpEndpoint,
    Request,
    Response,
    Router,
    open_channel,
    serve_peers,
)
from trio_mcp_transport.compression_settings import Algorithm, CompressionSettings
from trio_mcp_transport.endpoint_parser import parse_endpoint
from trio_mcp_transport.errors import ConfigurationError, MessageTooLarge, RemoteProtocolError
from trio_mcp_transport.sansio.compression import available_algorithms, make_compressor
from trio_mcp_transport.sansio.content_coding import coding_of
from trio_mcp_transport.sansio.headers import NO_HEADERS, Headers
from trio_mcp_transport.sansio.http1 import RequestHead, ResponseEvent
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.transports.http_compression import CodingSender, ServerCoding
from trio_mcp_transport.transports.http_pool import HttpPool
from trio_mcp_transport.transports.http_request import HttpRequestStream
from trio_mcp_transport.transports.http_sender import HttpResponse, HttpSender

pytestmark = pytest.mark.http

TEXT = "tools " * 5000


class Echo(msgspec.Struct):
    text: str = ""
    steps: int = 0


def make_router() -> Router:
    router = Router(name="compressing", version="1", capabilities={})

    async def echo(ctx: Context) -> object:
        params = ctx.params_as(Echo)
        for step in range(params.steps):
            await ctx.progress(step, message=TEXT)
        return {"text": params.text}

    router.method("test/echo")(echo)
    return router


@asynccontextmanager
async def served(options: str) -> AsyncGenerator[str, None]:
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(
            partial(serve_peers, make_router(), f"http://127.0.0.1:0/mcp{options}")
        )
        try:
            yield address
        finally:
            nursery.cancel_scope.cancel()


def modern_body(text: str = TEXT, steps: int = 0) -> bytes:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 1,
    }
    params = {"text": text, "steps": steps, "_meta": meta}
    return msgspec.json.encode({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "test/echo",
        "params": params,
    })


class Answer(msgspec.Struct):
    status: int
    headers: Headers
    body: bytes


async def post(address: str, body: bytes, **headers: str) -> Answer:
    fields = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "test/echo",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    with trio.fail_after(10):
        async with (
            HttpPool() as pool,
            pool.request("POST", address, headers=Headers(fields.items()), body=body) as response,
        ):
            return Answer(response.status, response.headers, await response.read(10_000_000))


@pytest.mark.parametrize("algorithm", available_algorithms())
async def test_our_client_and_server_compress_both_ways(algorithm: str) -> None:
    async with served(f"?compression={algorithm}") as address:
        with trio.fail_after(10):
            async with open_channel(f"{address}?compression={algorithm}") as channel:
                for number in range(3):
                    params = msgspec.json.decode(modern_body())["params"]
                    await channel.send(Request(number, "test/echo", params))
                    answer = await channel.receive()
                    assert isinstance(answer, Response)
                    assert answer.result_as(Echo).text == TEXT
                statistics = channel.statistics()
    sent, received = statistics.compression_sent, statistics.compression_received
    assert sent is not None
    assert received is not None
    assert (sent.pieces, sent.pieces_left) == (2, 1)  # the first could not know
    assert received.bytes_before > 3 * len(TEXT)
    assert received.ratio > 10


async def test_a_large_answer_is_compressed_for_who_accepts_it() -> None:
    async with served("?compression=gzip") as address:
        answer = await post(address, modern_body(), accept_encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.headers["accept-encoding"] == "gzip"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert TEXT.encode() in gzip.decompress(answer.body)


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "identity"])
async def test_who_does_not_accept_it_gets_it_plain(accepted: str) -> None:
    async with served("?compression=gzip") as address:
        answer = await post(address, modern_body(), accept_encoding=accepted)
        small = await post(address, modern_body("x"), accept_encoding="gzip")
    assert "content-encoding" not in answer.headers
    assert TEXT.encode() in answer.body
    assert "content-encoding" not in small.headers
    assert answer.headers["vary"] == small.headers["vary"] == "accept-encoding"


async def test_a_server_that_was_not_asked_compresses_nothing() -> None:
    async with served("") as address:
        answer = await post(address, modern_body(), accept_encoding="gzip")
    assert not {"content-encoding", "vary", "accept-encoding"} & {*dict(answer.headers)}


async def test_each_event_of_a_stream_is_flushed() -> None:
    async with served("?compression=gzip&response=sse") as address:
        fields = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "test/echo",
            "accept-encoding": "gzip",
        }
        with trio.fail_after(10):
            async with (
                HttpPool() as pool,
                pool.request(
                    "POST", address, headers=Headers(fields.items()), body=modern_body(steps=2)
                ) as response,
            ):
                assert response.headers["content-encoding"] == "gzip"
                assert response.headers["content-type"] == "text/event-stream"
                wire = await response.read(10_000_000)
    engine = zlib.decompressobj(31)
    assert engine.decompress(wire).count(b"data: ") >= 2
    assert engine.eof


async def test_a_stream_is_plain_for_who_does_not_accept_it() -> None:
    async with served("?compression=gzip&response=sse") as address:
        answer = await post(address, modern_body(steps=2))
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body.count(b"data: ") >= 2


async def test_a_request_may_be_compressed() -> None:
    async with served("?compression=gzip") as address:
        answer = await post(address, gzip.compress(modern_body()), content_encoding="gzip")
    assert answer.status == 200
    assert TEXT.encode() in answer.body


@pytest.mark.parametrize("options", ["", "?compression=gzip"])
async def test_a_coding_that_is_not_spoken_is_415(options: str) -> None:
    async with served(options) as address:
        answer = await post(address, b"\x01\x02", content_encoding="compress")
    assert answer.status == 415
    assert b"Content-Encoding" in answer.body
    named = answer.headers["accept-encoding"]
    assert named == ("gzip" if options else "identity")


async def test_a_bomb_is_413() -> None:
    async with served("?compression=gzip&max_message_bytes=100000") as address:
        answer = await post(address, gzip.compress(b" " * 50_000_000), content_encoding="gzip")
    assert answer.status == 413


async def test_others_get_their_turn_while_a_body_is_decompressed() -> None:
    body = gzip.compress(b"") * 5000
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    coding = ServerCoding(CompressionSettings(algorithms=("gzip",)))
    head = RequestHead("POST", "/mcp", Headers([("content-encoding", "gzip")]))
    request = coding.wrap(BodyOnly(head, body))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        assert await request.read_body(1000) == b""
        nursery.cancel_scope.cancel()
    assert turns >= len(body) // 8192 - 1


class BodyOnly(HttpRequestStream):
    """A request of which only the body is asked for."""

    def __init__(self, head: RequestHead, body: bytes) -> None:
        self.head = head
        self.facts = ConnectionFacts()
        self._body = body

    async def read_body(self, max_bytes: int) -> bytes:
        return self._body

    def write(self, *events: ResponseEvent) -> None:
        raise NotImplementedError

    @property
    def held(self) -> int:
        raise NotImplementedError

    async def flush(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    @property
    def gone(self) -> bool:
        raise NotImplementedError


async def test_a_broken_body_is_400() -> None:
    async with served("?compression=gzip") as address:
        for body in (b"no gzip at all", gzip.compress(modern_body())[:-3]):
            answer = await post(address, body, content_encoding="gzip")
            assert answer.status == 400
            assert b"gzip" in answer.body


def test_the_option_is_one_of_both_sides_and_of_http_alone() -> None:
    endpoint = parse_endpoint("http://h/mcp?compression=gzip&compression_level=1")
    assert isinstance(endpoint, HttpEndpoint)
    assert endpoint.compression == CompressionSettings(algorithms=("gzip",), level=1)
    with pytest.raises(ConfigurationError, match="headers"):
        parse_endpoint("http://h/mcp?header.Accept-Encoding=gzip")


# -- the client, against a server that lies ------------------------------------------------


async def read_soon(answer: HttpResponse, max_bytes: int) -> bytes:
    """Without waiting, if that is possible."""
    body = answer.read_nowait(max_bytes)
    return await answer.read(max_bytes) if body is None else body


@asynccontextmanager
async def raw_server(*responses: bytes) -> AsyncGenerator[tuple[str, list[bytes]], None]:
    seen: list[bytes] = []
    waiting = [*responses]

    async def handle(stream: trio.SocketStream) -> None:
        async for data in stream:
            seen.append(bytes(data))
            await stream.send_all(waiting.pop(0))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        try:
            yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/mcp", seen
        finally:
            nursery.cancel_scope.cancel()


def response(body: bytes, *fields: str) -> bytes:
    head = "\r\n".join(["HTTP/1.1 200 OK", f"content-length: {len(body)}", *fields])
    return f"{head}\r\n\r\n".encode() + body


GZIP = CompressionSettings(algorithms=("gzip",), min_size=10)


async def test_requests_are_compressed_once_the_server_has_told() -> None:
    body = TEXT.encode()
    told = response(b"ok", "accept-encoding: gzip")
    async with (
        raw_server(told, told, response(b"ok")) as (url, seen),
        CodingSender(HttpPool(), GZIP) as sender,
    ):
        for _ in range(3):
            async with sender.request("POST", url, body=body) as answer:
                assert await answer.read(100) == b"ok"
        assert sender.compression_statistics()[0].pieces == 2
    assert b"content-encoding" not in seen[0].lower()
    assert b"accept-encoding: gzip" in seen[0].lower()
    assert b"content-encoding: gzip" in seen[1].lower()


@pytest.mark.parametrize("algorithm", available_algorithms())
async def test_responses_are_decompressed_as_they_come(algorithm: Algorithm) -> None:
    settings = CompressionSettings(algorithms=available_algorithms())
    engine = make_compressor(algorithm)
    wire = engine.compress(TEXT.encode() * 20) + engine.finish()
    name = coding_of(algorithm)
    async with (
        raw_server(response(wire, f"content-encoding: {name}")) as (url, _),
        CodingSender(HttpPool(), settings) as sender,
        sender.request("GET", url) as answer,
    ):
        assert await answer.read(10_000_000) == TEXT.encode() * 20
        assert [await answer.receive_some(), await answer.receive_some()] == [b"", b""]


async def test_a_short_response_is_there_without_waiting() -> None:
    wire = gzip.compress(TEXT.encode())
    async with (
        raw_server(response(wire, "content-encoding: gzip")) as (url, _),
        CodingSender(HttpPool(), GZIP) as sender,
        sender.request("GET", url) as answer,
    ):
        assert await read_soon(answer, 100_000) == TEXT.encode()


async def test_a_response_that_is_too_large_is_noticed_on_the_way() -> None:
    wire = gzip.compress(bytes(10_000_000))
    async with CodingSender(HttpPool(), GZIP) as sender:
        for read in ("read", "read_nowait"):
            async with (
                raw_server(response(wire, "content-encoding: gzip")) as (url, _),
                sender.request("GET", url) as answer,
            ):
                waits = read == "read"
                with pytest.raises(MessageTooLarge):
                    await (read_soon(answer, 1000) if not waits else answer.read(1000))


async def test_a_response_of_another_coding_is_left_as_it_is() -> None:
    async with (
        raw_server(response(b"x", "content-encoding: br")) as (url, _),
        CodingSender(HttpPool(), GZIP) as sender,
        sender.request("GET", url) as answer,
    ):
        assert answer.headers["content-encoding"] == "br"
        assert await answer.read(10) == b"x"


async def test_a_response_that_is_cut_off_is_the_servers_fault() -> None:
    wire = gzip.compress(TEXT.encode())[:-4]
    async with (
        raw_server(response(wire, "content-encoding: gzip")) as (url, _),
        CodingSender(HttpPool(), GZIP) as sender,
        sender.request("GET", url) as answer,
    ):
        with pytest.raises(RemoteProtocolError, match="cut off"):
            await answer.read(1_000_000)


class AnyHost(HttpSender):
    """Answers for every host."""

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = NO_HEADERS,
        body: bytes = b"",
        head_timeout: float = math.inf,
        on_written: Callable[[], object] | None = None,
    ) -> AbstractAsyncContextManager[HttpResponse]:
        return nullcontext(EmptyResponse())

    def close(self) -> None:
        pass


class EmptyResponse(HttpResponse):
    status = 200
    headers = Headers([("accept-encoding", "gzip")])

    async def receive_some(self) -> bytes:
        raise NotImplementedError


async def test_only_so_many_hosts_are_remembered() -> None:
    async with CodingSender(AnyHost(), GZIP) as sender:
        for number in range(70):
            async with sender.request("POST", f"http://h{number}/", body=TEXT.encode()):
                pass
        assert sender.compression_statistics()[0].pieces == 0
        for number, known in ((69, 1), (0, 1)):
            async with sender.request("POST", f"http://h{number}/", body=TEXT.encode()):
                assert sender.compression_statistics()[0].pieces == known
