"""An MCP server over HTTP that knows its users by their tokens."""

import hmac
import sys

import trio

from trio_mcp_transport import Context, Router, serve_peers
from trio_mcp_transport.sansio.http import Reply, RequestHead
from trio_mcp_transport.security import ConnectionFacts, unauthorized

USERS = {b"s3cr3t-of-ada": "ada", b"s3cr3t-of-grace": "grace"}

router = Router("who", "1.0", capabilities={"tools": {}})


@router.method("tools/call")
async def who(ctx: Context) -> object:
    return {"content": [{"type": "text", "text": f"you are {ctx.principal}"}]}


async def authenticate(head: RequestHead, facts: ConnectionFacts) -> str | Reply:
    scheme, _, token = head.headers.get("authorization", "").partition(" ")
    for known, user in USERS.items():
        # Bytes, as a header may hold what is no ASCII, which text could not be compared with.
        if scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), known):
            return user
    return unauthorized("Bearer", realm="who")


async def main(endpoint: str) -> None:
    await serve_peers(router, endpoint, authenticate=authenticate)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
