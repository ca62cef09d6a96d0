"""MCP over TLS with programs that are not ours: OpenSSL's client, curl, the official SDK."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from cli_process import run_cli
from openssl_programs import needs_curl, needs_openssl, run
from serving import serving

from trio_mcp_transport import (
    Context,
    Endpoint,
    HttpsEndpoint,
    MessageChannel,
    Request,
    Response,
    Router,
    TlsEndpoint,
    TlsUnixEndpoint,
    serve_channels,
    serve_peers,
)
from trio_mcp_transport.security import TlsClient, TlsServer

if TYPE_CHECKING:
    from tls_files import TlsFiles

pytestmark = [pytest.mark.tls, pytest.mark.integration]

CLIENT = "cert:uri:spiffe://example.org/client"
ASK = {"jsonrpc": "2.0", "id": 1, "method": "who"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "curl", "version": "1"},
    },
}


def make_router() -> Router:
    router = Router("server", "1")

    @router.method("who")
    async def who(ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return {"principal": ctx.principal}

    return router


def port_of(bound: str) -> int:
    return int(bound.split("/")[2].rpartition(":")[2])


# -- openssl s_client -------------------------------------------------------------------------


async def answer_once(channel: MessageChannel) -> None:
    """Say who asked, then close: `s_client` waits for that."""
    request = await channel.receive()
    assert isinstance(request, Request)
    principal = msgspec.json.encode({"principal": channel.context.principal})
    await channel.send(Response(request.id, msgspec.Raw(principal)))


@needs_openssl
@pytest.mark.parametrize("transport", ["tls", "tls+unix"])
async def test_s_client_holds_a_conversation(
    tls_files: TlsFiles, tmp_path: Path, transport: str
) -> None:
    settings, path = tls_files.mutual_server_settings, str(tmp_path / "s")
    endpoint: Endpoint = TlsEndpoint(host="127.0.0.1", port=0, tls=settings)
    if transport == "tls+unix":
        endpoint = TlsUnixEndpoint(path=path, tls=settings)
    async with serving(partial(serve_channels, answer_once, endpoint)) as bound:
        place = ("-unix", path) if transport == "tls+unix" else ("-connect", bound[6:])
        done = await run(
            *("openssl", "s_client", *place, "-servername", "localhost", "-quiet"),
            *("-CAfile", tls_files.ca_file, "-verify_return_error"),
            *("-cert", tls_files.client_cert, "-key", tls_files.client_key),
            stdin=json.dumps(ASK).encode() + b"\n",
        )
    assert done.status == 0, done.text
    assert json.loads(done.output)["result"] == {"principal": CLIENT}


# -- curl -------------------------------------------------------------------------------------

ACCEPT = "accept: application/json, text/event-stream"
JSON = "content-type: application/json"


@needs_curl
async def test_curl_opens_a_session_over_https(tls_files: TlsFiles) -> None:
    endpoint = HttpsEndpoint(
        "127.0.0.1", 0, "/mcp", tls=tls_files.server_settings, security_headers="production"
    )
    async with serving(partial(serve_peers, make_router(), endpoint)) as bound:
        done = await run(
            *("curl", "-sS", "-i", "--cacert", tls_files.ca_file),
            *("-H", ACCEPT, "-H", JSON, "-d", json.dumps(INITIALIZE)),
            f"https://localhost:{port_of(bound)}/mcp",
        )
    assert done.status == 0, done.text
    head, _, body = done.output.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200 ")
    assert "mcp-session-id:" in head.lower()
    assert "strict-transport-security:" in head.lower()
    assert json.loads(body)["result"]["serverInfo"]["name"] == "server"


@needs_curl
async def test_curl_with_a_certificate_is_who_that_says(tls_files: TlsFiles) -> None:
    tls = tls_files.mutual_server_settings
    endpoint = HttpsEndpoint("127.0.0.1", 0, "/mcp", tls=tls, stateless=True)
    async with serving(partial(serve_peers, make_router(), endpoint)) as bound:
        url = f"https://localhost:{port_of(bound)}/mcp"
        command = (
            *("curl", "-sS", "--cacert", tls_files.ca_file),
            *("-H", ACCEPT, "-H", JSON, "-d", json.dumps(ASK)),
        )
        shown = ("--cert", tls_files.client_cert, "--key", tls_files.client_key)
        done = await run(*command, *shown, url)
        assert done.status == 0, done.text
        assert json.loads(done.output)["result"] == {"principal": CLIENT}
        refused = await run(*command, url)
        assert refused.status != 0
        assert refused.output == ""


@needs_curl
async def test_curl_keeps_its_connection(tls_files: TlsFiles) -> None:
    endpoint = HttpsEndpoint("127.0.0.1", 0, "/mcp", tls=tls_files.server_settings)
    async with serving(partial(serve_peers, make_router(), endpoint)) as bound:
        url = f"https://localhost:{port_of(bound)}/mcp"
        done = await run("curl", "-sSv", "--cacert", tls_files.ca_file, "-X", "PUT", url, url)
    assert done.status == 0, done.text
    assert "Re-using existing connection" in done.errors


# -- the official SDK -------------------------------------------------------------------------


@pytest.mark.interop
async def test_an_sdk_client_talks_to_our_server_over_https(tls_files: TlsFiles) -> None:
    pytest.importorskip("mcp.server.mcpserver", reason="the official MCP SDK is not installed")
    from trio_mcp_transport.cli.builtin_server import BuiltinServer

    program = str(Path(__file__).parents[1] / "sdk_http_client.py")
    endpoint = HttpsEndpoint("127.0.0.1", 0, "/mcp", tls=tls_files.server_settings)
    async with serving(partial(serve_peers, BuiltinServer().router, endpoint)) as bound:
        url = bound.replace("127.0.0.1", "localhost")
        job = f"{url} http builtin progress legacy 2026-07-28"
        done = await run_cli(
            program=[sys.executable, program, job],
            variables={"SSL_CERT_FILE": tls_files.ca_file},
        )
    assert done.status == 0, done.err
    assert done.out.decode().split() == ["2025-11-25", "2026-07-28"]


@pytest.mark.interop
@pytest.mark.parametrize("kind", [TlsEndpoint, HttpsEndpoint])
async def test_both_sides_of_the_sdk_talk_over_our_tls(
    tls_files: TlsFiles, kind: type[TlsEndpoint | HttpsEndpoint]
) -> None:
    pytest.importorskip("mcp.server.mcpserver", reason="the official MCP SDK is not installed")
    from mcp import Client
    from sdk_conversations import holds_a_conversation
    from sdk_server import server as sdk_server

    from trio_mcp_transport.interop.mcp_sdk import sdk_transport, serve_sdk

    server, client = TlsServer(tls_files.server_settings), TlsClient(tls_files.client_settings)
    endpoint = kind(host="127.0.0.1", port=0)
    async with (
        serving(partial(serve_sdk, sdk_server, endpoint, tls=server)) as bound,
        Client(sdk_transport(bound, tls=client)) as session,
    ):
        await holds_a_conversation(session)
