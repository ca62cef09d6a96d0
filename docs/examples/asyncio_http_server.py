"""The HTTP machines behind another event loop: an MCP server of both eras on asyncio.

`Http1Server` speaks HTTP/1.1, `Doorkeeper` lets requests in, `ServerEndpoint` decides what
they are, and a writer how each is answered. What is left is to read, to write and to count.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from trio_mcp_transport import (
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    Message,
    MethodNotFound,
    Notification,
    RemoteProtocolError,
    Request,
    Response,
)
from trio_mcp_transport.sansio import NEED_DATA
from trio_mcp_transport.sansio.http import (
    BodyData,
    Deliver,
    EndOfBody,
    Http1Server,
    HttpServerOptions,
    ReadBody,
    Reply,
    RequestHead,
    ResponseEvent,
    ServerEndpoint,
    StartExchange,
)
from trio_mcp_transport.security import Admitted, ConnectionFacts, Doorkeeper

INFO = {"name": "counter", "version": "1"}
SCHEMA = {"type": "object", "properties": {"to": {"type": "integer"}}, "required": ["to"]}
TOOL = {"name": "count", "description": "Counts, and says how far it is.", "inputSchema": SCHEMA}
ABOUT: dict[str, object] = {"capabilities": {"tools": {}}, "serverInfo": INFO}
CACHE = {"ttlMs": 0, "cacheScope": "private"}

# Without sessions each request stands alone in either era, so there is nothing to keep.
OPTIONS = HttpServerOptions(stateless=True)
ENDPOINT = ServerEndpoint(OPTIONS, new_id=secrets.token_urlsafe)
DOORKEEPER = Doorkeeper()


class Params(msgspec.Struct, rename="camel"):
    """Of all the requests here, each of which has some of them."""

    protocol_version: str = ""
    name: str = ""
    arguments: dict[str, int] = {}
    meta: dict[str, object] = msgspec.field(name="_meta", default_factory=dict)


async def handle(request: Request, era: str) -> AsyncIterator[Message]:
    """What there is to say to a request; its answer comes last."""
    params = request.params_as(Params)
    result: dict[str, object] = {}
    if request.method == "initialize":
        agreed = params.protocol_version in OPTIONS.served_revisions[1:]  # those with a handshake
        result = {**ABOUT, "protocolVersion": params.protocol_version if agreed else "2025-11-25"}
    elif request.method == "server/discover":
        result = {**ABOUT, **CACHE, "supportedVersions": OPTIONS.served_revisions}
    elif request.method == "tools/list":
        result = {**CACHE, "tools": [TOOL]}
    elif request.method == "tools/call" and params.name == "count":
        last = params.arguments["to"]
        for number in range(1, last + 1):
            await asyncio.sleep(0)  # hard work
            if token := params.meta.get("progressToken"):
                progress = {"progressToken": token, "progress": number, "total": last}
                yield Notification("notifications/progress", progress)
        result = {"content": [{"type": "text", "text": f"counted to {last}"}]}
    elif request.method != "ping":
        error = ErrorObject(ErrorCode.METHOD_NOT_FOUND, "Method not found")
        yield ErrorResponse(request.id, error).with_cause(MethodNotFound(request.method))
        return
    if era == "modern":
        result = {**result, "resultType": "complete"}
    yield Response(request.id, result)


class Connection:
    """One connection: requests come one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = Http1Server()
        local, peer = (writer.get_extra_info(name)[:2] for name in ("sockname", "peername"))
        self.facts = ConnectionFacts(local_address=local, peer_address=peer)

    async def run(self) -> None:
        try:
            while isinstance(head := await self.next_event(), RequestHead):
                await self.respond(head)
                await self.writer.drain()
                if self.http.must_close:
                    break
                self.http.start_next_cycle()
        except RemoteProtocolError as error:
            self.reply(Reply(error.status))
        except ConnectionError:
            pass  # the client is gone
        finally:
            self.writer.close()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()

    async def read(self) -> bytes:
        data = await self.reader.read(65536)
        self.http.receive_data(data) if data else self.http.receive_eof()
        return data

    async def next_event(self) -> object:
        while (event := self.http.next_event()) is NEED_DATA:
            await self.read()
        return event

    def reply(self, reply: Reply) -> None:
        self.writer.write(self.http.send_response(reply.head, reply.body))

    def write(self, events: Sequence[ResponseEvent]) -> None:
        self.writer.write(b"".join(map(self.http.send, events)))

    async def respond(self, head: RequestHead) -> None:
        """The head decides whether to read the body, and the body what to answer."""
        admitted = DOORKEEPER.judge(head, self.facts)
        if not isinstance(admitted, Admitted):
            self.reply(admitted.reply)
            return
        now = time.monotonic()
        verdict: object = ENDPOINT.judge_head(head, principal=None, now=now)
        if isinstance(verdict, ReadBody):
            self.http.accept_body(verdict.limit)
            self.writer.write(self.http.bytes_to_send())
            body = bytearray()
            while not isinstance(event := await self.next_event(), EndOfBody):
                assert isinstance(event, BodyData)
                body += event.data
            verdict = ENDPOINT.judge_body(head, bytes(body), principal=None, now=now)
        if isinstance(verdict, StartExchange):
            await self.carry_out(verdict)
        else:  # of a notification there is nothing to be done here
            reply = verdict.reply if isinstance(verdict, Deliver) else verdict
            assert isinstance(reply, Reply)
            self.reply(reply)

    async def carry_out(self, exchange: StartExchange) -> None:
        """Answer while watching the client: one that goes away wants no answer."""
        answering = asyncio.create_task(self.answer(exchange))
        watching = asyncio.create_task(self.watch())
        try:
            while not answering.done() and not watching.done():
                # A stream that is silent for long may be cut by whatever is in between.
                both, wait = {answering, watching}, OPTIONS.keep_alive_interval
                await asyncio.wait(both, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                self.write(exchange.writer.keep_alive() or exchange.writer.quiet().events)
            if not answering.done():
                exchange.writer.detach()
                raise ConnectionResetError
            self.write(exchange.writer.finish().events)  # if the handler left something open
            await answering
        finally:
            answering.cancel()
            watching.cancel()
            await asyncio.wait({answering, watching})
            ENDPOINT.end_exchange(exchange, now=time.monotonic())

    async def watch(self) -> None:
        """Return when the client is gone, or sends more in advance than anybody should."""
        with contextlib.suppress(ConnectionError):
            while self.http.buffered < 65536 and await self.read():
                pass

    async def answer(self, exchange: StartExchange) -> None:
        for request in exchange.messages:
            async for message in handle(request, exchange.era):
                if whole := exchange.writer.answer(message):
                    self.writer.write(self.http.send_response(*whole))
                else:
                    self.write(exchange.writer.send(message).events)
                await self.writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await Connection(reader, writer).run()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("http://{}:{}/mcp".format(*server.sockets[0].getsockname()), flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
