"""What `everything_server.py` does, by a server made with the official SDK: a program.

The SDK has the protocol, the handlers' context and the types; the contents of tools,
resources and prompts are those of the example.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import msgspec
import trio
from mcp import types
from mcp.server import CacheHint, Server, ServerRequestContext
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.message import ServerMessageMetadata
from msgspec import UNSET, Raw
from pydantic import BaseModel, TypeAdapter

from trio_mcp_transport import (
    MODERN_REVISIONS,
    InputRequest,
    InputRequired,
    InputResponses,
    RpcError,
)
from trio_mcp_transport.context import Context
from trio_mcp_transport.interop.mcp_sdk import serve_sdk
from trio_mcp_transport.mrtr import Round, StateSealer, require_capabilities
from trio_mcp_transport.stores.memory_events import MemoryEventStore

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples"))

import everything_server as example
from everything_tools import schema_of

warnings.simplefilter("ignore", MCPDeprecationWarning)

P = TypeVar("P")
R = TypeVar("R")
RequestContext: TypeAlias = ServerRequestContext[dict[str, object], object]
sealer = StateSealer(b"k" * 32, trio.current_time)
bus = InMemorySubscriptionBus()

ASKED: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult),
}


def dumped(model: BaseModel) -> Raw:
    return Raw(model.model_dump_json(by_alias=True, exclude_none=True).encode())


class SdkContext:
    """What the example's functions use of a `Context`, on the SDK's."""

    def __init__(self, ctx: RequestContext, params: BaseModel | None) -> None:
        self._ctx = ctx
        modern = ctx.protocol_version in MODERN_REVISIONS
        self.era = "modern" if modern else "legacy"
        self.params = Raw(b"{}") if params is None else dumped(params)
        self.round = sealer.read_round(ctx.method, self.params, None) if modern else Round()
        found = ctx.session.client_capabilities
        self.client_capabilities: Mapping[str, object] = (
            {} if found is None else msgspec.json.decode(dumped(found), type=dict[str, object])
        )

    async def log(self, level: types.LoggingLevel, data: object) -> None:
        related = self._ctx.request_id
        await self._ctx.session.send_log_message(level, data, related_request_id=related)

    async def progress(self, done: float, total: float, message: str | None = None) -> None:
        await self._ctx.session.report_progress(done, total, message)

    async def close_stream(self) -> None:
        if self._ctx.close_sse_stream is not None:
            await self._ctx.close_sse_stream()

    def require_capability(self, name: str) -> None:
        if name not in self.client_capabilities:
            raise MCPError(-32021, f"needs {name}", {"requiredCapabilities": {name: {}}})

    async def ask(self, inputs: Mapping[str, InputRequest]) -> InputResponses:
        missing = {
            name: asked for name, asked in inputs.items() if name not in self.round.responses
        }
        require_capabilities(missing, self.client_capabilities)
        if missing and self.era == "modern":
            raise InputRequired(missing)
        answers = {name: await self._ask(asked) for name, asked in missing.items()}
        self.round = Round(0, {**self.round.responses, **answers}, UNSET)
        return self.round.responses

    async def _ask(self, asked: InputRequest) -> Raw:
        kind, result = ASKED[asked.method]
        request = kind.model_validate({"method": asked.method, "params": asked.params})
        return dumped(
            await self._ctx.session.send_request(
                cast(types.PingRequest, request),  # any of them
                result,
                metadata=ServerMessageMetadata(related_request_id=self._ctx.request_id),
            )
        )


Work: TypeAlias = Callable[[Context, Raw], Awaitable[object]]
Handler: TypeAlias = Callable[[RequestContext, BaseModel | None], Awaitable[R]]


def handler(work: Work, returned: TypeAdapter[R]) -> Handler[R]:
    """Make a handler of the SDK's out of one of the example's; faults become the SDK's too."""

    async def handle(ctx: RequestContext, params: BaseModel | None) -> R:
        try:
            context = SdkContext(ctx, params)
            try:
                result = await work(cast(Context, context), context.params)
            except InputRequired as needed:
                result = sealer.result(
                    needed, context.round, method=ctx.method, params=context.params, principal=None
                )
        except RpcError as error:
            raise MCPError(error.code, error.message, error.data) from error
        return returned.validate_json(msgspec.json.encode(result))

    return handle


def without_params(function: Callable[[Context], Awaitable[object]]) -> Work:
    return lambda ctx, _: function(ctx)


def with_params(function: Callable[[Context, P], Awaitable[object]], params_type: type[P]) -> Work:
    return lambda ctx, raw: function(ctx, msgspec.json.decode(raw, type=params_type))


async def call_tool(ctx: Context, params: example.CallTool) -> object:
    result = await example.call_tool(ctx, params)
    if params.name == "test_trigger_tool_change":
        await bus.publish(ToolsListChanged())
    elif params.name == "test_trigger_prompt_change":
        await bus.publish(PromptsListChanged())
    return result


async def done(ctx: RequestContext, params: BaseModel) -> types.EmptyResult:
    await trio.lowlevel.checkpoint()
    return types.EmptyResult()


LISTED = CacheHint(ttl_ms=300_000, scope="public")
server = Server[dict[str, object]](
    "sdk-everything",
    version="1.0",
    get_tool_input_schema=schema_of,
    cache_hints={
        "tools/list": LISTED,
        "prompts/list": LISTED,
        "resources/list": LISTED,
        "resources/templates/list": LISTED,
        "resources/read": CacheHint(ttl_ms=60_000),
    },
    on_list_tools=handler(without_params(example.list_tools), TypeAdapter(types.ListToolsResult)),
    on_call_tool=handler(
        with_params(call_tool, example.CallTool),
        TypeAdapter(types.CallToolResult | types.InputRequiredResult),
    ),
    on_list_resources=handler(
        without_params(example.list_resources), TypeAdapter(types.ListResourcesResult)
    ),
    on_list_resource_templates=handler(
        without_params(example.list_templates), TypeAdapter(types.ListResourceTemplatesResult)
    ),
    on_read_resource=handler(
        with_params(example.read_resource, example.ReadResource),
        TypeAdapter(types.ReadResourceResult),
    ),
    on_list_prompts=handler(
        without_params(example.list_prompts), TypeAdapter(types.ListPromptsResult)
    ),
    on_get_prompt=handler(
        with_params(example.get_prompt, example.GetPrompt),
        TypeAdapter(types.GetPromptResult | types.InputRequiredResult),
    ),
    on_completion=handler(
        with_params(example.complete, example.Complete), TypeAdapter(types.CompleteResult)
    ),
    on_set_logging_level=done,
    on_subscribe_resource=done,
    on_unsubscribe_resource=done,
    on_subscriptions_listen=ListenHandler(bus),
)


async def main() -> None:
    serve = partial(serve_sdk, server, *sys.argv[2:], event_store=MemoryEventStore())
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(serve)
        logging.info("listening at %s", ", ".join(bound))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main)
