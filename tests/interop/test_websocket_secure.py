"""WebSocket over TLS with peers that have another TLS: the standard library's, and Node's."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

pytest.importorskip("OpenSSL")
pytest.importorskip("websockets.trio", reason="websockets is not installed")

from http_peers import node
from serving import PATIENCE, serving
from tls_files import TlsFiles
from websockets.trio.client import connect
from websockets.trio.server import Server, ServerConnection, serve

from trio_mcp_transport import (
    MessageChannel,
    Request,
    Response,
    SecureWebSocketEndpoint,
    open_channel,
    serve_channels,
    serve_peers,
)
from trio_mcp_transport.cli.builtin_server import BuiltinServer

pytestmark = [
    pytest.mark.interop,
    pytest.mark.integration,
    pytest.mark.websocket,
    pytest.mark.tls,
]

SCRIPT = (Path(__file__).parents[1] / "websocket_script.js").read_text()
#: More than one record of TLS, and more than one read.
LONG = "où ça? " * 30_000


def server_endpoint(files: TlsFiles, *, mutual: bool = False) -> SecureWebSocketEndpoint:
    settings = files.mutual_server_settings if mutual else files.server_settings
    return SecureWebSocketEndpoint(host="localhost", port=0, path="/mcp", tls=settings)


async def test_our_client_converses_with_a_server_on_the_standard_librarys_tls(
    tls_files: TlsFiles,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls_files.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls_files.server_cert, tls_files.server_key)
    subjects: list[object] = []

    async def answer(connection: ServerConnection) -> None:
        assert isinstance(connection.stream, trio.SSLStream)
        subjects.append(connection.stream.getpeercert()["subject"])
        async for text in connection:
            request = msgspec.json.decode(text)
            result = {"jsonrpc": "2.0", "id": request["id"], "result": request["params"]}
            await connection.send(msgspec.json.encode(result).decode())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            start = partial(serve, answer, 0, host="127.0.0.1", ssl=context)
            server: Server = await nursery.start(start)
            endpoint = SecureWebSocketEndpoint(
                host="127.0.0.1",
                port=server.listeners[0].socket.getsockname()[1],
                path="/mcp",
                tls=tls_files.mutual_client_settings,
            )
            async with open_channel(endpoint) as channel:
                for number, text in enumerate(["x", LONG]):
                    await channel.send(Request(number, "echo", {"text": text}))
                    answered = await channel.receive()
                    assert isinstance(answered, Response)
                    assert answered.result_as(dict[str, str]) == {"text": text}
                assert channel.context.tls is not None
            await server.aclose()
            nursery.cancel_scope.cancel()
    assert "Some Client" in str(subjects)


async def test_a_client_on_the_standard_librarys_tls_converses_with_our_server(
    tls_files: TlsFiles,
) -> None:
    principals: list[str | None] = []

    async def echo(channel: MessageChannel) -> None:
        principals.append(channel.context.principal)
        async for message in channel:
            assert isinstance(message, Request)
            await channel.send(Response(message.id, message.params))

    context = ssl.create_default_context(cafile=tls_files.ca_file)
    context.load_cert_chain(tls_files.client_cert, tls_files.client_key)
    endpoint = server_endpoint(tls_files, mutual=True)
    async with serving(partial(serve_channels, echo, endpoint)) as bound:
        async with connect(bound, ssl=context, max_size=None) as connection:
            for text in ("x", LONG):
                request = {"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"t": text}}
                await connection.send(msgspec.json.encode(request).decode())
                answer = msgspec.json.decode(await connection.recv())
                assert answer["result"] == {"t": text}
        assert connection.close_code == 1000
    assert len(principals) == 1
    assert "spiffe://example.org/client" in str(principals[0])


async def test_nodes_own_websocket_holds_a_conversation_over_tls(tls_files: TlsFiles) -> None:
    program = node(22)
    serve_mcp = partial(serve_peers, BuiltinServer().router, server_endpoint(tls_files))
    async with serving(serve_mcp) as bound:
        script = SCRIPT.replace("URL_OF_SERVER", bound)
        done = await trio.run_process(
            [program, "--use-openssl-ca", "--input-type=module", "-"],
            stdin=f"console.log(JSON.stringify(await {script}))".encode(),
            env={"SSL_CERT_FILE": tls_files.ca_file, "SSL_CERT_DIR": "/nonexistent"},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    found = msgspec.json.decode(done.stdout)
    assert found["sum"] == {"sum": 3}
    assert found["echoed"]
    assert found["closed"] == {"code": 4000, "clean": True}
