"""The commands over HTTP, with real processes: call, connect, tap, serve, and bridges."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import trio
from cli_process import INITIALIZE, Finished, run_cli, running, wait_gone

pytestmark = [
    pytest.mark.cli,
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups"),
]

INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
LIST = b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}\n'
SLOW = (
    b'{"jsonrpc":"2.0","id":"s","method":"tools/call","params":{"name":"slow","arguments":'
    b'{"seconds":0.2,"steps":2},"_meta":{"progressToken":"T"}}}\n'
)
MODERN = (
    b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"echo","arguments":'
    b'{"text":"x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},'
    b'"io.modelcontextprotocol/clientCapabilities":{}}}}\n'
)
ADD = ("tools/call", '{"name":"add","arguments":{"a":2,"b":40}}')
WIRES = "sse_path=/sse&message_path=/messages&rpc_path=/mcp/rpc&notify_path=/mcp/notify"
#: The built-in server as a stdio server.
BUILT_IN = (sys.executable, "-m", "trio_mcp_transport", "serve")


def sum_of(done: Finished) -> str:
    assert done.status == 0, done.err
    content = msgspec.convert(done.messages[0]["content"], list[dict[str, str]])
    return content[0]["text"]


async def exchange(url: str, request: str) -> str:
    """Send raw bytes to a server; what it answers before it closes."""
    parts = urlsplit(url)
    assert parts.port is not None
    assert parts.hostname is not None
    stream = await trio.open_tcp_stream(parts.hostname, parts.port)
    async with stream:
        await stream.send_all(request.replace("\n", "\r\n").encode())
        answer = b""
        while chunk := await stream.receive_some():
            answer += chunk
    return answer.decode()


# -- call --------------------------------------------------------------------------------


async def test_call_reaches_a_server_on_every_wire_and_in_every_revision() -> None:
    async with running("serve", "--listen", f"http://127.0.0.1:0/mcp?{WIRES}") as server:
        url = await server.wait_listening("http")
        host = urlsplit(url).netloc
        assert sum_of(await run_cli("call", url, *ADD)) == "42"
        for revision in ("2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"):
            assert sum_of(await run_cli("call", "--revision", revision, url, *ADD)) == "42"
        modern = await run_cli("call", f"{url}?era=modern", *ADD)
        legacy = await run_cli("call", f"{url}?era=legacy", *ADD)
        assert ["resultType" in done.messages[0] for done in (modern, legacy)] == [True, False]
        assert sum_of(await run_cli("call", f"sse+http://{host}/sse", *ADD)) == "42"
        older = f"scheme=http; host=127.0.0.1; port={urlsplit(url).port}"
        assert sum_of(await run_cli("call", "--transport=http", f"--url={older}", *ADD)) == "42"
        entry = msgspec.json.encode({"type": "http", "url": url}).decode()
        assert sum_of(await run_cli("call", entry, *ADD)) == "42"


async def test_errors_of_the_server_and_of_http_are_one_line_and_status_1() -> None:
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp") as server:
        url = await server.wait_listening("http")
        done = await run_cli("call", url, "no/such")
        assert (done.status, done.err.count("\n")) == (1, 1)
        assert "(-32601)" in done.err
        done = await run_cli("call", url.replace("/mcp", "/nothing"))
        assert (done.status, done.err.count("\n")) == (1, 1)
        assert "no such path" in done.err
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = await run_cli("call", f"http://127.0.0.1:{port}/mcp")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert f"127.0.0.1:{port}" in done.err


@pytest.mark.skipif(importlib.util.find_spec("OpenSSL") is not None, reason="TLS is there")
async def test_what_needs_tls_says_what_to_install() -> None:
    listen = "https://127.0.0.1:1/?cert_file=x"
    for words in (("call", "https://127.0.0.1:1/"), ("serve", "--listen", listen)):
        done = await run_cli(*words)
        assert done.status != 0
        assert "trio-mcp-transport[tls]" in done.err


# -- who may come in ---------------------------------------------------------------------


async def test_a_token_is_demanded_sent_and_never_shown(tmp_path: Path) -> None:
    listen = "http://127.0.0.1:0/mcp?auth=bearer&token=s3cret"
    async with running("serve", "--listen", listen) as server:
        url = await server.wait_listening("http")
        done = await run_cli("call", url)
        assert done.status == 1
        assert "401" in done.err
        assert sum_of(await run_cli("call", f"{url}?auth=bearer&token=s3cret", *ADD)) == "42"
        token = ("--header", "Authorization: Bearer s3cret")
        assert sum_of(await run_cli("call", *token, url, *ADD)) == "42"
        file = tmp_path / "headers"
        file.write_text("Authorization: Bearer s3cret\n")
        assert sum_of(await run_cli("call", "--header", f"@{file}", url, *ADD)) == "42"
        wrong = await run_cli("call", "--debug", "--header", "Authorization: Bearer wr0ng", url)
        assert wrong.status == 1
        assert "wr0ng" not in wrong.err
        server.signal(signal.SIGTERM)
        done = await server.finish()
        assert "s3cret" not in done.err


async def test_other_hosts_and_origins_are_refused_unless_they_are_named() -> None:
    flags = ("--allow-origin", "https://app.example", "--allow-host", "mcp.example")
    async with running("serve", *flags, "--listen", "http://127.0.0.1:0/mcp") as server:
        url = await server.wait_listening("http")
        own = urlsplit(url).netloc
        request = "POST /mcp HTTP/1.1\nHost: {}\n{}Content-Type: text/x\nContent-Length: 0\n\n"
        for host, origin, status in (
            ("evil.example", "", "403"),
            ("mcp.example", "", "415"),
            (own, "", "415"),
            (own, "Origin: https://evil.example\n", "403"),
            (own, "Origin: https://app.example\n", "415"),
        ):
            close = "Connection: close\n"
            answer = await exchange(url, request.format(host, origin + close))
            assert answer.startswith(f"HTTP/1.1 {status} "), answer
            told = "access-control-allow-origin: https://app.example" in answer
            assert told is ("app.example" in origin)


# -- connect and tap ---------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "sse+http"])
async def test_what_is_piped_into_connect_gets_its_answers(scheme: str) -> None:
    async with running("serve", "--listen", f"{scheme}://127.0.0.1:0/mcp") as server:
        bound = await server.wait_listening(scheme.replace("+", r"\+"))
        done = await run_cli("connect", bound, stdin=INITIALIZE + INITIALIZED + LIST + SLOW)
        assert done.err == ""
        assert done.status == 0
        assert {message["id"] for message in done.messages if "id" in message} == {0, 2, "s"}
        progress = [message["params"] for message in done.messages if "id" not in message]
        assert progress == [
            {"progressToken": "T", "progress": 1, "total": 2},
            {"progressToken": "T", "progress": 2, "total": 2},
        ]


async def test_connect_speaks_the_era_of_each_message() -> None:
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp") as server:
        url = await server.wait_listening("http")
        done = await run_cli("connect", url, stdin=MODERN % b"1" + MODERN % b'"1"')
        assert done.status == 0, done.err
        assert {repr(message["id"]) for message in done.messages} == {"1", "'1'"}


async def test_connect_is_a_stdio_server_in_a_hosts_configuration() -> None:
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp") as server:
        url = await server.wait_listening("http")
        through = f"stdio:{sys.executable} -m trio_mcp_transport connect {url}"
        for revision in ("2026-07-28", "2025-11-25"):
            assert sum_of(await run_cli("call", "--revision", revision, through, *ADD)) == "42"


async def test_what_is_not_answered_when_the_drain_is_over_gets_an_error() -> None:
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp") as server:
        url = await server.wait_listening("http")
        endless = SLOW.replace(b"0.2", b"60")
        async with running("connect", url, "--drain", "0.1") as bridge:
            await bridge.write(INITIALIZE)
            assert await bridge.read_line()
            await bridge.write(INITIALIZED + LIST + endless)
            await bridge.close_stdin()
            done = await bridge.finish()
        assert done.status == 0
        assert "had not ended 0.1 s after the client" in done.err
        (given_up,) = [answer for answer in done.messages if answer.get("id") == "s"]
        assert msgspec.convert(given_up["error"], dict[str, object])["code"] == -32603


async def test_what_a_server_has_not_done_when_its_drain_is_over_gets_an_error() -> None:
    listen = "http://127.0.0.1:0/mcp"
    async with running("serve", "--drain", "0.2", "--listen", listen) as server:
        url = await server.wait_listening("http")
        # Without being told of the end, they would have 20 seconds more.
        with trio.fail_after(15):
            async with running("connect", url) as bridge:
                await bridge.write(INITIALIZE)
                assert await bridge.read_line()
                await bridge.write(INITIALIZED + SLOW.replace(b'0.2,"steps":2', b'90,"steps":900'))
                while b"progress" not in await bridge.read_line():
                    pass
                server.signal(signal.SIGTERM)
                while b'"id":"s"' not in (line := await bridge.read_line()):
                    pass
                assert b'"error"' in line
                assert (await server.finish()).status == 128 + signal.SIGTERM
                await bridge.close_stdin()
                await bridge.finish()


async def test_what_is_not_answered_when_the_stream_breaks_gets_an_error() -> None:
    query = "?sse_path=/sse&message_path=/messages"
    async with running("serve", "--listen", f"http://127.0.0.1:0/mcp{query}") as server:
        url = await server.wait_listening("http")
        address = urlsplit(url).netloc
        async with running("connect", f"sse+http://{address}/sse") as bridge:
            await bridge.write(INITIALIZE)
            assert await bridge.read_line()
            await bridge.write(INITIALIZED + SLOW.replace(b"0.2", b"60"))
            await bridge.write(b'{"jsonrpc":"2.0","id":9,"method":"ping"}\n')
            while b'"id":9' not in await bridge.read_line():
                pass
            server.process.kill()
            done = await bridge.finish()
        assert done.status == 1
        assert [answer.get("id") for answer in done.messages if "error" in answer] == ["s"]


async def test_a_refusal_by_http_is_an_error_for_the_request() -> None:
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp") as server:
        url = await server.wait_listening("http")
        wrong = url.replace("/mcp", "/nothing")
        done = await run_cli("connect", wrong, stdin=MODERN % b"7")
        (answer,) = done.messages
        assert answer["id"] == 7
        assert isinstance(answer["error"], dict)
        assert answer["error"]["message"] == "no such path"


async def test_tap_shows_what_passes_over_http() -> None:
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp") as server:
        url = await server.wait_listening("http")
        done = await run_cli("tap", "--json", "stdio:", url, stdin=MODERN % b"1")
        assert done.status == 0, done.err
        assert [message["id"] for message in done.messages] == [1]
        shown = [msgspec.json.decode(line) for line in done.err.splitlines()]
        assert len(shown) >= 2


# -- stdio servers behind HTTP -----------------------------------------------------------


async def test_a_stdio_server_is_served_in_both_eras_and_back() -> None:
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp", "--", *BUILT_IN) as server:
        url = await server.wait_listening("http")
        for revision in ("2026-07-28", "2025-11-25"):
            assert sum_of(await run_cli("call", "--revision", revision, url, *ADD)) == "42"
        done = await run_cli("connect", url, stdin=INITIALIZE + INITIALIZED + LIST + SLOW)
        assert done.status == 0, done.err
        assert {message["id"] for message in done.messages if "id" in message} == {0, 2, "s"}
        assert (
            sum(message.get("method") == "notifications/progress" for message in done.messages) == 2
        )
        done = await run_cli("connect", url, stdin=MODERN % b"1" + MODERN % b'"1"')
        assert {repr(message["id"]) for message in done.messages} == {"1", "'1'"}


async def test_http_sse_and_sockets_get_a_child_each_beside() -> None:
    listen = ("--listen", "sse+http://127.0.0.1:0/sse", "--listen", "tcp://127.0.0.1:0")
    async with running("serve", *listen, "--", *BUILT_IN) as server:
        for scheme in (r"sse\+http", "tcp"):
            bound = await server.wait_listening(scheme)
            assert sum_of(await run_cli("call", bound, *ADD)) == "42"


#: A legacy stdio server that needs no time to start: it knows `initialize` alone, and
#: writes its process id into a directory.
LEGACY_SERVER = """
import json, os, sys
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "initialize":
        info = {"name": "legacy", "version": "1"}
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": info}
    elif message["method"] == "pid":
        answer["result"] = {"pid": os.getpid()}
    elif message["method"] == "die":
        os.kill(os.getpid(), 9)
    else:
        answer["error"] = {"code": -32601, "message": "unknown"}
    print(json.dumps(answer), flush=True)
"""


def legacy_server(directory: Path) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", LEGACY_SERVER, str(directory)]


def ask(id_: int, method: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"method":"%b"}\n' % (id_, method.encode())


async def test_each_session_has_a_process_that_ends_with_it(tmp_path: Path) -> None:
    command = legacy_server(tmp_path)
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp", "--", *command) as server:
        url = await server.wait_listening("http")
        pids = []
        async with running("connect", url) as first, running("connect", url) as second:
            for client in (first, second):
                await client.write(INITIALIZE)
                assert b'"legacy"' in await client.read_line()
                await client.write(INITIALIZED + ask(1, "pid"))
                pids.append(msgspec.json.decode(await client.read_line())["result"]["pid"])
            assert pids[0] != pids[1]
            await first.close_stdin()
            assert (await first.finish()).status == 0
            await wait_gone(pids[0])
            # The other goes on.
            await second.write(ask(2, "pid"))
            assert msgspec.json.decode(await second.read_line())["result"]["pid"] == pids[1]
            # With the server all that it has started ends.
            server.signal(signal.SIGTERM)
            assert (await server.finish()).status == 128 + signal.SIGTERM
            await wait_gone(pids[1])
            await second.close_stdin()
    for name in os.listdir(tmp_path):
        await wait_gone(int(name))


async def test_a_child_that_is_killed_is_an_error_and_the_end_of_its_session(
    tmp_path: Path,
) -> None:
    command = legacy_server(tmp_path)
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp", "--", *command) as server:
        url = await server.wait_listening("http")
        async with running("connect", url) as client:
            await client.write(INITIALIZE)
            assert b'"legacy"' in await client.read_line()
            await client.write(INITIALIZED + ask(1, "pid"))
            old = msgspec.json.decode(await client.read_line())["result"]["pid"]
            await client.write(ask(2, "die"))
            assert msgspec.json.decode(await client.read_line())["error"]["code"] == -32603
            # The session answers 404, so the handshake that was seen is done once more.
            await client.write(ask(3, "pid"))
            new = msgspec.json.decode(await client.read_line())["result"]["pid"]
            assert new != old


async def test_a_legacy_child_gets_no_modern_requests(tmp_path: Path) -> None:
    command = legacy_server(tmp_path)
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp", "--", *command) as server:
        url = await server.wait_listening("http")
        done = await run_cli("connect", url, stdin=MODERN % b"1")
        (answer,) = done.messages
        error = msgspec.convert(answer["error"], dict[str, object])
        assert error["code"] == -32022
        assert error["data"] == {"supported": ["2025-11-25"], "requested": "2026-07-28"}
        # A client of both eras falls back.
        done = await run_cli("call", url, "pid")
        assert done.status == 0, done.err


async def test_a_command_that_is_no_server_is_told_before_anything_is_listened_at() -> None:
    done = await run_cli("serve", "--listen", "http://127.0.0.1:0/mcp", "--", "/bin/false")
    assert done.status == 1
    assert "listening" not in done.err


# -- the reference server ------------------------------------------------------------------

_MODULES = os.environ.get("TRIO_MCP_NODE_MODULES")
_NODE = shutil.which("node")
EVERYTHING = Path(_MODULES or "/", ".bin", "mcp-server-everything")


@pytest.mark.interop
@pytest.mark.skipif(
    _NODE is None or _MODULES is None or not EVERYTHING.exists(),
    reason="needs node, and @modelcontextprotocol/server-everything in $TRIO_MCP_NODE_MODULES",
)
async def test_the_reference_server_is_served_over_http_and_brought_back_to_stdio() -> None:
    assert _NODE is not None
    command = (_NODE, str(EVERYTHING), "stdio")
    async with running("serve", "--listen", "http://127.0.0.1:0/mcp", "--", *command) as server:
        url = await server.wait_listening("http")
        through = (
            f"stdio:{shlex.join([sys.executable, '-m', 'trio_mcp_transport', 'connect', url])}"
        )
        for endpoint in (url, through):
            done = await run_cli(
                "call", endpoint, "tools/call", '{"name":"echo","arguments":{"message":"hi"}}'
            )
            assert sum_of(done) == "Echo: hi"
