"""A client that uses everything a server has: calls each tool, reads each resource...

::

    python everything_client.py http://127.0.0.1:3000/mcp

It answers whatever the server asks: a form is filled in with its defaults, the model is a
parrot, and the only root is the working directory. The conformance suite of MCP runs it
against servers that look closely at what it sends, and sets the variables below.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec
import trio

from trio_mcp_transport import (
    LEGACY_REVISIONS,
    Context,
    EraChoice,
    Peer,
    Progress,
    Router,
    RpcError,
    open_peer,
)

Json = dict[str, object]

# -- what the server may ask --------------------------------------------------------------

CAPABILITIES: Json = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
router = Router()  # one for both eras, and for questions that come as the result of a call


class Form(msgspec.Struct):
    message: str
    requestedSchema: Json = {}  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


class Question(msgspec.Struct):
    messages: list[Json]


@router.method("elicitation/create", params=Form)
async def fill_in(ctx: Context, form: Form) -> object:
    fields = msgspec.convert(form.requestedSchema.get("properties", {}), dict[str, Json])
    content = {name: field["default"] for name, field in fields.items() if "default" in field}
    return {"action": "accept", "content": content}


@router.method("sampling/createMessage", params=Question)
async def answer(ctx: Context, question: Question) -> object:
    return {"role": "assistant", "model": "parrot", "content": question.messages[-1]["content"]}


@router.method("roots/list")
async def list_roots(ctx: Context) -> object:
    return {"roots": [{"uri": Path.cwd().as_uri(), "name": "here"}]}


# -- what the server has ------------------------------------------------------------------


class Tool(msgspec.Struct):
    name: str
    inputSchema: Json  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


class ToolPage(msgspec.Struct):
    tools: list[Tool]
    nextCursor: str | None = None  # ruff: ignore[mixed-case-variable-in-class-scope]


class Resource(msgspec.Struct):
    uri: str


class ResourceList(msgspec.Struct):
    resources: list[Resource]


class Argument(msgspec.Struct):
    name: str


class Prompt(msgspec.Struct):
    name: str
    arguments: list[Argument] = []


class PromptList(msgspec.Struct):
    prompts: list[Prompt]


class Call(msgspec.Struct):
    name: str
    arguments: Json = {}


async def list_tools(peer: Peer) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    while True:
        params = {} if cursor is None else {"cursor": cursor}
        page = await peer.request("tools/list", params, result_type=ToolPage)
        tools += page.tools
        cursor = page.nextCursor
        if cursor is None:
            return tools


EXAMPLES: Json = {
    "string": "x",
    "integer": 3,
    "number": 1.5,
    "boolean": True,
    "object": {},
    "array": [],
}


def make_arguments(schema: Json) -> Json:
    """Something of the right type for each argument that a tool needs."""
    types = msgspec.convert(schema.get("properties", {}), dict[str, Json])
    required = msgspec.convert(schema.get("required", []), list[str])
    return {name: EXAMPLES.get(str(types.get(name, {}).get("type")), "x") for name in required}


def choose_calls(tools: list[Tool]) -> list[Call]:
    """Which tools to call, and with what."""
    known = {tool.name: tool for tool in tools}
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    if "toolCalls" in context:
        wanted = msgspec.convert(context["toolCalls"], list[Call])
        return [call for call in wanted if call.name in known]
    calls = {name: make_arguments(tool.inputSchema) for name, tool in known.items()}
    if "json_schema_echo" in known:
        # Schemas are data to a client: nothing in them is resolved, fetched or taken out.
        calls["json_schema_echo"] = {"schema": known["json_schema_2020_12_tool"].inputSchema}
    return [Call(name, arguments) for name, arguments in calls.items()]


async def attempt(peer: Peer, method: str, params: Json) -> None:
    """Send a request, and print what comes of it."""
    label = f"{method} {params.get('name') or params.get('uri')}"

    def show(progress: Progress) -> None:
        print(f"{label}: {progress.progress:g} of {progress.total}")

    try:
        result = await peer.request(method, params, on_progress=show)
    except RpcError as error:
        print(f"{label}: {error}")
    else:
        print(f"{label}: {bytes(result).decode()[:200]}")


async def main(endpoint: str) -> None:
    revision = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION")
    era: EraChoice = "legacy" if revision in LEGACY_REVISIONS else "auto"
    async with open_peer(
        endpoint,
        router,
        era=era,
        client_info={"name": "everything-client", "version": "1.0"},
        client_capabilities=CAPABILITIES,
    ) as peer:
        assert peer.negotiated is not None
        print(f"{peer.negotiated.server_info} speaks {peer.negotiated.revision}")
        has = peer.negotiated.server_capabilities
        async with trio.open_nursery() as nursery:  # all at once
            for call in choose_calls(await list_tools(peer)):
                params: Json = {"name": call.name, "arguments": call.arguments}
                nursery.start_soon(attempt, peer, "tools/call", params)
            if "resources" in has:
                found = await peer.request("resources/list", result_type=ResourceList)
                for resource in found.resources:
                    params = {"uri": resource.uri}
                    nursery.start_soon(attempt, peer, "resources/read", params)
            if "prompts" in has:
                listed = await peer.request("prompts/list", result_type=PromptList)
                for prompt in listed.prompts:
                    arguments = {argument.name: "x" for argument in prompt.arguments}
                    params = {"name": prompt.name, "arguments": arguments}
                    nursery.start_soon(attempt, peer, "prompts/get", params)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
