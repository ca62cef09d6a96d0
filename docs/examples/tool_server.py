"""An MCP server with one tool, for clients of every protocol revision."""

import sys

import msgspec
import trio

from trio_mcp_transport import Context, ErrorCode, Router, RpcError, serve_peers

router = Router("adder", "1.0", capabilities={"tools": {}})

NUMBERS = {"type": "array", "items": {"type": "number"}}
ADD = {
    "name": "add",
    "description": "Add numbers, slowly",
    "inputSchema": {"type": "object", "properties": {"numbers": NUMBERS}},
}


class Arguments(msgspec.Struct, frozen=True):
    numbers: list[float] = []


class Call(msgspec.Struct, frozen=True):
    name: str
    arguments: Arguments = Arguments()


@router.method("tools/list")
async def list_tools(ctx: Context) -> object:
    return {"tools": [ADD]}


@router.method("tools/call", params=Call)
async def call_tool(ctx: Context, call: Call) -> object:
    if call.name != "add":
        raise RpcError(ErrorCode.INVALID_PARAMS, f"there is no tool {call.name!r}")
    total = 0.0
    for done, number in enumerate(call.arguments.numbers, start=1):
        total += number
        await ctx.progress(done, total=len(call.arguments.numbers))
    return {"content": [{"type": "text", "text": f"{total:g}"}]}


if __name__ == "__main__":
    trio.run(serve_peers, router, *(sys.argv[1:] or ["stdio:"]))
