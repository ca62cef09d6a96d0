"""Tells clients who they are: python tls_server.py DIRECTORY URL"""

import sys

import trio

from trio_mcp_transport import Context, Router, TlsSettings, parse_endpoint, serve_peers
from trio_mcp_transport.security import TlsServer

router = Router("who", "1.0")


@router.method("who")
async def who(ctx: Context) -> object:
    return {"principal": ctx.principal}


async def main(directory: str, url: str) -> None:
    tls = TlsServer(
        TlsSettings(
            cert_file=f"{directory}/server.pem",
            key_file=f"{directory}/server.key",
            ca_file=f"{directory}/ca.pem",
            client_auth="required",
        )
    )
    await serve_peers(router, parse_endpoint(url), tls=tls)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
