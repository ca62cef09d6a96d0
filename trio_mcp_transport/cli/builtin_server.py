"""The server that `trio-mcp serve` offers without a COMMAND, and `demo` talks to.

A small MCP server of both eras to try clients and transports with: tools that echo, add,
take their time and answer with much text, one resource and one prompt. It can do nothing
to the machine it runs on.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Annotated, TypeVar

import msgspec
import trio
from msgspec import UNSET, Meta, Raw, UnsetType

from .. import __version__
from ..abc import ChannelBroken, MessageChannel
from ..context import Context
from ..errors import RpcError
from ..jsonrpc import ErrorCode
from ..limits import DEFAULT_DRAIN_SECONDS
from ..peer import Peer
from ..router import Router
from ..serve import PeerHandler

__all__ = ["PROMPT_NAME", "RESOURCE_URI", "BuiltinServer"]

A = TypeVar("A", bound="_Arguments")

RESOURCE_URI = "trio-mcp://status"
PROMPT_NAME = "greeting"
#: Half of what a message may hold by default.
MAX_LARGE_BYTES = 8 * 1024 * 1024
MAX_SLOW_SECONDS = 3600.0
MAX_SLOW_STEPS = 1000


class _Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of a tool; the schema that clients see is made of these."""


class Echo(_Arguments):
    """The echo tool."""

    text: Annotated[str, Meta(description="What to send back.")]


class Add(_Arguments):
    """The add tool."""

    a: Annotated[float, Meta(description="One number.")]
    b: Annotated[float, Meta(description="The other number.")]


class Slow(_Arguments):
    """The slow tool."""

    seconds: Annotated[
        float, Meta(ge=0, le=MAX_SLOW_SECONDS, description="How long it takes, in all.")
    ] = 1.0
    steps: Annotated[
        int, Meta(ge=1, le=MAX_SLOW_STEPS, description="How often it reports progress.")
    ] = 10


class Large(_Arguments):
    """The large tool."""

    size: Annotated[
        int, Meta(ge=0, le=MAX_LARGE_BYTES, description="Bytes of text in the answer.")
    ] = 1024 * 1024


class _Call(msgspec.Struct):
    name: str
    arguments: Raw | UnsetType = UNSET


class _Uri(msgspec.Struct):
    uri: str


class _Prompt(msgspec.Struct):
    name: str
    arguments: dict[str, str] = {}


class _Tool:
    """A tool: what clients see of it, and how it is run."""

    def __init__(
        self,
        name: str,
        description: str,
        arguments: type[A],
        run: Callable[[Context, A], Awaitable[dict[str, object]]],
        output: Mapping[str, object] | None = None,
    ) -> None:
        self.shown: dict[str, object] = {
            "name": name,
            "description": description,
            "inputSchema": _schema(arguments),
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        }
        if output is not None:
            self.shown["outputSchema"] = output

        async def call(ctx: Context, raw: Raw | UnsetType) -> dict[str, object]:
            try:
                decoded = msgspec.json.decode(b"{}" if raw is UNSET else raw, type=arguments)
            except msgspec.ValidationError as error:
                # MCP server/tools: input validation errors are tool execution errors, so
                # that the model can see what was wrong and correct itself.
                return _text(f"Invalid arguments for {name}: {error}", is_error=True)
            return await run(ctx, decoded)

        self.call = call


class BuiltinServer:
    """The server: what all its connections share.

    Attributes:
        router: Answers for it, on any number of connections.
        running: Calls of the slow tool that run now.
        cancelled: Calls of it that were cancelled.
    """

    def __init__(
        self,
        *,
        keepalive: float | None = None,
        state_key: bytes | None = None,
        drain: float = DEFAULT_DRAIN_SECONDS,
    ) -> None:
        """Make one.

        Args:
            keepalive: Seconds between the ``notifications/keepalive`` that every client
                is sent, also one that never asked anything; None for none. Clients are
                told of them as the experimental capability ``keepalive``.
            state_key: As for `Router`.
            drain: Seconds that work has to finish when this side ends, or a client does.
        """
        self._keepalive = keepalive
        self._drain = drain
        capabilities: dict[str, object] = {"tools": {}, "resources": {}, "prompts": {}}
        if keepalive is not None:
            told = {"enabled": True, "intervalMs": round(keepalive * 1000)}
            capabilities["experimental"] = {"keepalive": told}
        self.router = Router(
            "trio-mcp",
            __version__,
            server_info={"title": "The built-in server of trio-mcp"},
            capabilities=capabilities,
            instructions="A server to try clients and transports with.",
            state_key=state_key,
        )
        self._exchanges = PeerHandler(self.router, drain=drain)
        self.running = 0
        self.cancelled = 0
        tools = [
            _Tool("echo", "Sends the text back.", Echo, self._echo),
            _Tool("add", "Adds two numbers.", Add, self._add, _SUM_SCHEMA),
            _Tool("slow", "Takes its time, reports progress, can be cancelled.", Slow, self._slow),
            _Tool("large", "Answers with as much text as is asked for.", Large, self._large),
        ]
        self._tools = {str(tool.shown["name"]): tool for tool in tools}
        self._register()

    def _register(self) -> None:
        method = self.router.method
        method("tools/list")(self._list_tools)
        method("tools/call", params=_Call)(self._call_tool)
        method("resources/list")(self._list_resources)
        method("resources/templates/list")(self._list_templates)
        method("resources/read", params=_Uri)(self._read_resource)
        method("prompts/list")(self._list_prompts)
        method("prompts/get", params=_Prompt)(self._get_prompt)

    async def serve(self, channel: MessageChannel, stop: trio.Event | None = None) -> None:
        """Serve one client until it ends.

        Args:
            channel: Owned from now on.
            stop: Once it is set, what is in work may finish, then the channel is closed.
                That of an exchange is closed by itself then, or by `end_soon`: there are too
                many of them for each to have a task that waits for this.

        Raises:
            ChannelBroken: The channel failed.
        """
        if channel.context.exchange:
            await self._exchanges.serve(channel)
            return
        peer = Peer(channel, self.router, drain=self._drain)
        if self._keepalive is None:
            await peer.run(stop)
            return
        failure: ChannelBroken | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_keepalives, peer, self._keepalive)
            try:
                await peer.run(stop)
            except ChannelBroken as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:  # outside of the nursery, which would wrap it
            raise failure

    def end_soon(self) -> None:
        """Give exchanges, those to come as well, `drain` seconds to finish."""
        self._exchanges.end_soon()

    # -- tools ------------------------------------------------------------------------

    async def _list_tools(self, _: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"tools": [tool.shown for tool in self._tools.values()]}

    async def _call_tool(self, ctx: Context, params: _Call) -> object:
        tool = self._tools.get(params.name)
        if tool is None:
            # MCP server/tools: "Unknown tools" are protocol errors.
            raise RpcError(ErrorCode.INVALID_PARAMS, f"Unknown tool: {params.name[:100]}")
        return await tool.call(ctx, params.arguments)

    async def _echo(self, _: Context, arguments: Echo) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return _text(arguments.text)

    async def _add(self, _: Context, arguments: Add) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        total = arguments.a + arguments.b
        if not math.isfinite(total):  # JSON has no way to write it
            return _text("The sum is too large.", is_error=True)
        return _text(f"{total:.15g}") | {"structuredContent": {"sum": total}}

    async def _slow(self, ctx: Context, arguments: Slow) -> dict[str, object]:
        self.running += 1
        try:
            for step in range(1, arguments.steps + 1):
                await trio.sleep(arguments.seconds / arguments.steps)
                await ctx.progress(step, arguments.steps)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return _text(f"Took {arguments.seconds:g} s in {arguments.steps} steps.")

    async def _large(self, _: Context, arguments: Large) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return _text("x" * arguments.size)

    # -- the resource and the prompt --------------------------------------------------

    async def _list_resources(self, _: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"resources": [_RESOURCE]}

    async def _list_templates(self, _: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"resourceTemplates": []}

    async def _read_resource(self, ctx: Context, params: _Uri) -> object:
        await trio.lowlevel.checkpoint()
        if params.uri != RESOURCE_URI:
            code = ErrorCode.RESOURCE_NOT_FOUND if ctx.era == "legacy" else ErrorCode.INVALID_PARAMS
            raise RpcError(code, "Resource not found", {"uri": params.uri})
        status = {"slowRunning": self.running, "slowCancelled": self.cancelled}
        text = msgspec.json.encode(status).decode()
        return {
            "contents": [{"uri": RESOURCE_URI, "mimeType": "application/json", "text": text}],
        }

    async def _list_prompts(self, _: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"prompts": [_PROMPT]}

    async def _get_prompt(self, _: Context, params: _Prompt) -> object:
        await trio.lowlevel.checkpoint()
        if params.name != PROMPT_NAME:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"Unknown prompt: {params.name[:100]}")
        if "name" not in params.arguments:
            raise RpcError(ErrorCode.INVALID_PARAMS, "The argument 'name' is missing")
        text = f"Please greet {params.arguments['name']} in one friendly sentence."
        message = {"role": "user", "content": {"type": "text", "text": text}}
        return {"description": _PROMPT["description"], "messages": [message]}


_SUM_SCHEMA = {"type": "object", "properties": {"sum": {"type": "number"}}, "required": ["sum"]}
_RESOURCE = {
    "uri": RESOURCE_URI,
    "name": "status",
    "description": "How many calls of the slow tool run, and how many were cancelled.",
    "mimeType": "application/json",
}
_PROMPT = {
    "name": PROMPT_NAME,
    "description": "Asks for a greeting.",
    "arguments": [{"name": "name", "description": "Whom to greet.", "required": True}],
}


async def _send_keepalives(peer: Peer, seconds: float) -> None:
    # A channel that ends ends the peer, which says why.
    with suppress(ChannelBroken, trio.ClosedResourceError):
        while True:
            await peer.notify("notifications/keepalive", {})
            await trio.sleep(seconds)


def _text(text: str, *, is_error: bool = False) -> dict[str, object]:
    result: dict[str, object] = {"content": [{"type": "text", "text": text}]}
    return result | {"isError": True} if is_error else result


def _schema(arguments: type[_Arguments]) -> dict[str, object]:
    """The JSON schema of a tool's arguments: an object, with nothing to look up."""
    _, components = msgspec.json.schema_components([arguments], ref_template="{name}")
    schema: dict[str, object] = components[arguments.__name__]
    del schema["title"], schema["description"]
    return schema
