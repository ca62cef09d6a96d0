"""The tools of `everything_server.py`: one for each thing that a tool can do.

A tool is an async function of the context and the call's arguments; it returns the content
of its result. Nothing in here knows which transport or which protocol revision it runs on.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
import trio

from trio_mcp_transport import Context, Hub, InputRequest, TransportError

Json = dict[str, object]
ToolFunction = Callable[[Context, Json], Awaitable[list[Json]]]

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5"
    "ErkJggg=="
)
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="


class Tool(msgspec.Struct, frozen=True):
    """A tool and how `tools/list` shows it."""

    name: str
    description: str
    input_schema: Json
    run: ToolFunction

    def listed(self) -> Json:
        return {
            "name": self.name,
            "description": self.description,
            "inputSchema": self.input_schema,
        }


class ToolFailed(Exception):
    """What a tool raises to fail: the model gets its text, as a result with `isError`."""


tools: dict[str, Tool] = {}
hub = Hub()


def tool(
    description: str, properties: Json | None = None, *, schema: Json | None = None
) -> Callable[[ToolFunction], ToolFunction]:
    """Register the decorated function as the tool of its name.

    Args:
        description: For the model.
        properties: What arguments it takes, all of them required.
        schema: The whole input schema, where `properties` cannot say it.
    """
    if schema is None:
        properties = properties or {}
        schema = {"type": "object", "properties": properties, "required": [*properties]}

    def register(function: ToolFunction) -> ToolFunction:
        tools[function.__name__] = Tool(function.__name__, description, schema, function)
        return function

    return register


def schema_of(name: str) -> Json | None:
    """What the Router asks to know which arguments are repeated in HTTP headers."""
    return tools[name].input_schema if name in tools else None


# -- content -----------------------------------------------------------------------------


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def image() -> Json:
    return {"type": "image", "data": PNG, "mimeType": "image/png"}


def embedded(uri: str, mime_type: str, value: str) -> Json:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": value}}


@tool("Returns a text")
async def test_simple_text(ctx: Context, arguments: Json) -> list[Json]:
    return [text("This is a simple text response for testing.")]


@tool("Returns an image")
async def test_image_content(ctx: Context, arguments: Json) -> list[Json]:
    return [image()]


@tool("Returns a sound")
async def test_audio_content(ctx: Context, arguments: Json) -> list[Json]:
    return [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]


@tool("Returns a resource")
async def test_embedded_resource(ctx: Context, arguments: Json) -> list[Json]:
    uri = "test://embedded-resource"
    return [embedded(uri, "text/plain", "This is an embedded resource content.")]


@tool("Returns a text, an image and a resource")
async def test_multiple_content_types(ctx: Context, arguments: Json) -> list[Json]:
    data = json.dumps({"test": "data", "value": 123})
    resource = embedded("test://mixed-content-resource", "application/json", data)
    return [text("Multiple content types test:"), image(), resource]


@tool("Fails")
async def test_error_handling(ctx: Context, arguments: Json) -> list[Json]:
    raise ToolFailed("This tool intentionally returns an error for testing")


# -- while it works: log messages, progress, and a client that comes back later -----------


@tool("Logs what it does")
async def test_tool_with_logging(ctx: Context, arguments: Json) -> list[Json]:
    await ctx.log("info", "Tool execution started")
    await trio.sleep(0.05)
    await ctx.log("info", "Tool processing data")
    await trio.sleep(0.05)
    await ctx.log("info", "Tool execution completed")
    return [text("Tool with logging executed successfully")]


@tool("Logs once, which a client sees only if it wants to")
async def test_logging_tool(ctx: Context, arguments: Json) -> list[Json]:
    await ctx.log("info", "Only for those who asked")
    return [text("Logging evaluated")]


@tool("Tells how far it is")
async def test_tool_with_progress(ctx: Context, arguments: Json) -> list[Json]:
    for done in (0, 50, 100):
        await ctx.progress(done, total=100, message=f"Completed step {done} of 100")
        await trio.sleep(0.05)
    return [text("Done")]


@tool("Lets the client hang up, and finishes meanwhile")
async def test_reconnection(ctx: Context, arguments: Json) -> list[Json]:
    await ctx.log("info", "Before the connection is closed")
    await ctx.close_stream()
    await trio.sleep(0.2)
    await ctx.log("info", "After the connection was closed")
    return [text("Reconnection test completed")]


# -- asking the client --------------------------------------------------------------------
#
# `ctx.ask` is the same for all: a legacy client is sent requests and answers them at once;
# a modern one gets the question as the result and calls the tool again with its answer, so
# that the function then runs anew from its beginning.


class Elicited(msgspec.Struct):
    """A form that the user filled in, or did not want to."""

    action: Literal["accept", "decline", "cancel"]
    content: Json = {}


class Part(msgspec.Struct):
    text: str = ""


class Sampled(msgspec.Struct):
    """What the client's model said."""

    content: Part | list[Part]

    @property
    def text(self) -> str:
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "".join(part.text for part in parts)


class Roots(msgspec.Struct):
    """The directories that the client works in."""

    roots: list[Json]


def form(message: str, properties: Json, required: list[str] | None = None) -> InputRequest:
    schema: Json = {"type": "object", "properties": properties}
    schema["required"] = [*properties] if required is None else required
    return InputRequest("elicitation/create", {"message": message, "requestedSchema": schema})


def sample(prompt: str, max_tokens: int) -> InputRequest:
    messages = [{"role": "user", "content": text(prompt)}]
    return InputRequest("sampling/createMessage", {"messages": messages, "maxTokens": max_tokens})


STRING: Json = {"type": "string"}
NAME = form("What is your name?", {"name": STRING})
CONFIRM = form("Please confirm", {"ok": {"type": "boolean"}})
ROOTS = InputRequest("roots/list", {})


async def elicit(ctx: Context, request: InputRequest) -> str:
    """Show the user a form; a client that cannot do so fails the tool, not the request."""
    try:
        answers = await ctx.ask({"form": request})
    except TransportError as error:
        raise ToolFailed(f"The client cannot be asked: {error}") from error
    answer = answers.decode("form", Elicited)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


@tool("Asks the client's model", {"prompt": STRING})
async def test_sampling(ctx: Context, arguments: Json) -> list[Json]:
    try:
        answers = await ctx.ask({"model": sample(str(arguments["prompt"]), 100)})
    except TransportError as error:
        raise ToolFailed(f"The client's model cannot be asked: {error}") from error
    return [text(f"LLM response: {answers.decode('model', Sampled).text}")]


@tool("Asks the user", {"message": STRING})
async def test_elicitation(ctx: Context, arguments: Json) -> list[Json]:
    response = {"type": "string", "description": "User's response"}
    answer = await elicit(ctx, form(str(arguments["message"]), {"response": response}))
    return [text(f"User response: {answer}")]


@tool("Shows a form whose fields have defaults")
async def test_elicitation_sep1034_defaults(ctx: Context, arguments: Json) -> list[Json]:
    status = ["active", "inactive", "pending"]
    fields: Json = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": status, "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    answer = await elicit(ctx, form("Please check your data", fields, required=[]))
    return [text(f"Elicitation completed: {answer}")]


def titled(**options: str) -> list[Json]:
    return [{"const": value, "title": title} for value, title in options.items()]


@tool("Shows a form with every kind of choice")
async def test_elicitation_sep1330_enums(ctx: Context, arguments: Json) -> list[Json]:
    options = ["option1", "option2", "option3"]
    first = titled(value1="First Option", value2="Second Option", value3="Third Option")
    legacy: Json = {
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    }
    fields: Json = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": first},
        "legacyEnum": {"type": "string", **legacy},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": first}},
    }
    answer = await elicit(ctx, form("Please choose", fields, required=[]))
    return [text(f"Elicitation completed: {answer}")]


@tool("Greets the user by name")
async def test_input_required_result_elicitation(ctx: Context, arguments: Json) -> list[Json]:
    answers = await ctx.ask({"user_name": NAME})
    name = answers.decode("user_name", Elicited).content.get("name", "stranger")
    return [text(f"Hello, {name}!")]


@tool("Asks the client's model for a capital")
async def test_input_required_result_sampling(ctx: Context, arguments: Json) -> list[Json]:
    question = sample("What is the capital of France?", 100)
    answers = await ctx.ask({"capital_question": question})
    return [text(f"The model said: {answers.decode('capital_question', Sampled).text}")]


@tool("Asks for the client's roots")
async def test_input_required_result_list_roots(ctx: Context, arguments: Json) -> list[Json]:
    answers = await ctx.ask({"client_roots": ROOTS})
    return [text(f"The client has {len(answers.decode('client_roots', Roots).roots)} roots")]


@tool("Asks once, and knows its answer when it comes back")
async def test_input_required_result_request_state(ctx: Context, arguments: Json) -> list[Json]:
    await ctx.ask({"confirm": CONFIRM})
    return [text("state-ok: confirmed")]


@tool("Asks, and notices when a client changes what it was given to keep")
async def test_input_required_result_tampered_state(ctx: Context, arguments: Json) -> list[Json]:
    await ctx.ask({"confirm": CONFIRM})
    return [text("integrity-ok: nobody touched it")]


@tool("Asks three things at once")
async def test_input_required_result_multiple_inputs(ctx: Context, arguments: Json) -> list[Json]:
    questions = {
        "user_name": NAME,
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = await ctx.ask(questions)
    name = answers.decode("user_name", Elicited).content.get("name", "stranger")
    return [text(f"{answers.decode('greeting', Sampled).text}, {name}")]


@tool("Asks two things, one after the other")
async def test_input_required_result_multi_round(ctx: Context, arguments: Json) -> list[Json]:
    await ctx.ask({"step1": form("Step 1: What is your name?", {"name": STRING})})
    color = form("Step 2: What is your favorite color?", {"color": STRING})
    answers = await ctx.ask({"step2": color})
    name = answers.decode("step1", Elicited).content.get("name")
    return [text(f"{name} likes {answers.decode('step2', Elicited).content.get('color')}")]


@tool("Asks whatever the client can answer")
async def test_input_required_result_capabilities(ctx: Context, arguments: Json) -> list[Json]:
    questions: dict[str, InputRequest] = {}
    if "elicitation" in ctx.client_capabilities:
        questions["ask"] = NAME
    if "sampling" in ctx.client_capabilities:
        questions["sample"] = sample("Say hello", 50)
    answers = await ctx.ask(questions)
    return [text(f"The client answered {', '.join(answers) or 'nothing'}")]


@tool("Works, asks, and works on")
async def test_streaming_elicitation(ctx: Context, arguments: Json) -> list[Json]:
    await ctx.progress(50, total=100)
    await ctx.ask({"user_name": NAME})
    await ctx.progress(100, total=100)
    return [text("Streaming complete")]


@tool("Needs a client with a model")
async def test_missing_capability(ctx: Context, arguments: Json) -> list[Json]:
    ctx.require_capability("sampling")
    return [text("The client has a model")]


# -- schemas ------------------------------------------------------------------------------


@tool(
    "Takes an argument that HTTP clients repeat in a header, for routers on the way",
    {"region": {"type": "string", "x-mcp-header": "Region"}},
)
async def test_x_mcp_header(ctx: Context, arguments: Json) -> list[Json]:
    return [text(f"region={arguments.get('region')}")]


ADDRESS = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": STRING, "city": STRING},
}
SCHEMA_2020_12: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": ADDRESS},
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool("Has a schema with everything in it", schema=SCHEMA_2020_12)
async def json_schema_2020_12_tool(ctx: Context, arguments: Json) -> list[Json]:
    return [text(f"Got {', '.join(arguments)}")]


# -- changes at run time ------------------------------------------------------------------


@tool("Adds a tool and takes it away again, and tells everyone who listens")
async def test_trigger_tool_change(ctx: Context, arguments: Json) -> list[Json]:
    tools["test_dynamic_tool"] = Tool("test_dynamic_tool", "Is new", {"type": "object"}, nothing)
    hub.changed("tools")
    del tools["test_dynamic_tool"]
    hub.changed("tools")
    return [text("The tools have changed")]


async def nothing(ctx: Context, arguments: Json) -> list[Json]:
    return []


@tool("Tells everyone who listens that the prompts have changed")
async def test_trigger_prompt_change(ctx: Context, arguments: Json) -> list[Json]:
    hub.changed("prompts")
    return [text("The prompts have changed")]


@tool("Tells the subscribers of a resource that it has changed")
async def test_trigger_resource_change(ctx: Context, arguments: Json) -> list[Json]:
    hub.resource_updated("test://watched-resource")
    return [text("The watched resource has changed")]
