"""A server that does everything MCP has, for clients of every revision, on any transport.

It is what the conformance suite of MCP tests::

    python everything_server.py --listen http://127.0.0.1:3000/mcp

Its tools are in `everything_tools.py`; here are resources, prompts, completion, and the
methods that the protocol has for them.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from functools import partial

import msgspec
import trio
from everything_tools import (
    PNG,
    STRING,
    Elicited,
    Json,
    ToolFailed,
    embedded,
    form,
    hub,
    image,
    schema_of,
    text,
    tools,
)

from trio_mcp_transport import CacheHint, Context, ErrorCode, Router, RpcError, serve_peers
from trio_mcp_transport.stores.memory_events import MemoryEventStore

# Lists may be kept by clients for five minutes, also by those in between.
LISTED = CacheHint(ttl_ms=300_000, scope="public")

router = Router(
    "everything",
    "1.0",
    server_info={"title": "Everything that MCP has"},
    capabilities={
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "completions": {},
        "logging": {},
    },
    instructions="Call any tool: each shows one thing that a tool can do.",
    hub=hub,
    cache={
        "tools/list": LISTED,
        "prompts/list": LISTED,
        "resources/list": LISTED,
        "resources/templates/list": LISTED,
        "resources/read": CacheHint(ttl_ms=60_000),
    },
    tool_schema=schema_of,
)


# -- tools --------------------------------------------------------------------------------


class CallTool(msgspec.Struct):
    name: str
    arguments: Json = {}


@router.method("tools/list")
async def list_tools(ctx: Context) -> object:
    return {"tools": [tool.listed() for tool in tools.values()]}


@router.method("tools/call", params=CallTool)
async def call_tool(ctx: Context, params: CallTool) -> object:
    if params.name not in tools:
        raise RpcError(ErrorCode.INVALID_PARAMS, f"Unknown tool: {params.name}")
    try:
        return {"content": await tools[params.name].run(ctx, params.arguments)}
    except ToolFailed as error:
        # For the model, which may do better next time. What the client did wrong, on the
        # other hand, is an RpcError, and just passes through.
        return {"content": [text(str(error))], "isError": True}


# -- resources ----------------------------------------------------------------------------

RESOURCES: dict[str, Json] = {
    "test://static-text": {
        "mimeType": "text/plain",
        "text": "This is the content of the static text resource.",
    },
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched resource content"},
}
TEMPLATE = re.compile(r"test://template/([^/]+)/data")


class ReadResource(msgspec.Struct):
    uri: str


@router.method("resources/list")
async def list_resources(ctx: Context) -> object:
    return {
        "resources": [
            {"uri": uri, "name": uri.removeprefix("test://"), "mimeType": content["mimeType"]}
            for uri, content in RESOURCES.items()
        ]
    }


@router.method("resources/templates/list")
async def list_templates(ctx: Context) -> object:
    template = {
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "mimeType": "application/json",
    }
    return {"resourceTemplates": [template]}


@router.method("resources/read", params=ReadResource)
async def read_resource(ctx: Context, params: ReadResource) -> object:
    uri = params.uri
    if uri in RESOURCES:
        return {"contents": [{"uri": uri, **RESOURCES[uri]}]}
    if match := TEMPLATE.fullmatch(uri):
        data = {"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"}
        return {
            "contents": [{"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}]
        }
    # Up to 2025-11-25 this error had a code of its own.
    code = ErrorCode.INVALID_PARAMS if ctx.era == "modern" else ErrorCode.RESOURCE_NOT_FOUND
    raise RpcError(code, "Resource not found", {"uri": uri})


# -- prompts ------------------------------------------------------------------------------

PROMPTS: dict[str, tuple[str, list[str]]] = {
    "test_simple_prompt": ("Has no arguments", []),
    "test_prompt_with_arguments": ("Has two arguments", ["arg1", "arg2"]),
    "test_prompt_with_embedded_resource": ("Includes a resource", ["resourceUri"]),
    "test_prompt_with_image": ("Includes an image", []),
    "test_input_required_result_prompt": ("Asks the user for its context", []),
}


class GetPrompt(msgspec.Struct):
    name: str
    arguments: dict[str, str] = {}


@router.method("prompts/list")
async def list_prompts(ctx: Context) -> object:
    return {
        "prompts": [
            {
                "name": name,
                "description": description,
                "arguments": [{"name": argument, "required": True} for argument in arguments],
            }
            for name, (description, arguments) in PROMPTS.items()
        ]
    }


@router.method("prompts/get", params=GetPrompt)
async def get_prompt(ctx: Context, params: GetPrompt) -> object:
    name, arguments = params.name, params.arguments
    if name not in PROMPTS:
        raise RpcError(ErrorCode.INVALID_PARAMS, f"Unknown prompt: {name}")
    for argument in PROMPTS[name][1]:
        if argument not in arguments:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"{name} needs the argument {argument}")
    contents: list[Json]
    if name == "test_simple_prompt":
        contents = [text("This is a simple prompt for testing.")]
    elif name == "test_prompt_with_arguments":
        contents = [
            text("Prompt with arguments: arg1='{arg1}', arg2='{arg2}'".format_map(arguments))
        ]
    elif name == "test_prompt_with_embedded_resource":
        uri = arguments["resourceUri"]
        contents = [
            embedded(uri, "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ]
    elif name == "test_prompt_with_image":
        contents = [image(), text("Please analyze the image above.")]
    else:
        question = form("What context should the prompt use?", {"context": STRING})
        answers = await ctx.ask({"user_context": question})
        context = answers.decode("user_context", Elicited).content.get("context", "none")
        contents = [text(f"Use the following context: {context}")]
    return {"messages": [{"role": "user", "content": content} for content in contents]}


# -- completion ---------------------------------------------------------------------------


class Argument(msgspec.Struct):
    name: str
    value: str


class Complete(msgspec.Struct):
    ref: Json
    argument: Argument


@router.method("completion/complete", params=Complete)
async def complete(ctx: Context, params: Complete) -> object:
    words = ["testValue1", "testValue2", "paris", "park", "party"]
    values = [word for word in words if word.startswith(params.argument.value)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", action="append", help="an endpoint; stdio: by default")
    endpoints = parser.parse_args().listen or ["stdio:"]
    logging.basicConfig(level=logging.INFO)

    # With the store, HTTP clients can resume streams whose connection has ended.
    serve = partial(serve_peers, router, *endpoints, event_store=MemoryEventStore())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(serve)
            logging.info("listening at %s", ", ".join(bound))  # on stderr

    trio.run(main)
