"""The ASGI application under real servers, on Trio and on asyncio, over real sockets."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h11
import msgspec
import pytest
import trio
from asgi_hosts import HOSTS, Host, host, hosting
from cli_process import run_cli
from plain_http import LegacyClient, modern, requesting
from serving import PATIENCE

pytestmark = [pytest.mark.interop, pytest.mark.integration]
__all__ = ["host"]  # a fixture

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
PROGRESS = {"progressToken": "t"}


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


def text_of(answer: dict[str, object]) -> str:
    result = msgspec.convert(answer["result"], dict[str, object])
    (content,) = msgspec.convert(result["content"], list[dict[str, object]])
    return str(content["text"])


async def tool(host: Host, name: str, **arguments: object) -> str:
    async with modern(host.url, "tools/call", call(name, **arguments)) as answer:
        assert answer.status == 200
        return text_of(await answer.outcome())


async def test_a_plain_answer_is_one_json_document(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        params = call("echo", text="hällo")
        async with modern(host.url, "tools/call", params) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("application/json")
            assert "content-length" in answer.headers
            assert text_of(await answer.json()) == "hällo"


async def test_progress_makes_it_a_stream_whose_events_come_one_by_one(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        params = call("wait", who="streamed")
        async with modern(host.url, "tools/call", params, meta=PROGRESS) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            # The rest is still to be let go, so nothing can have waited for the end.
            assert (await answer.message())["method"] == "notifications/progress"
            await tool(host, "release")
            assert len(await answer.messages()) == 2
        assert await tool(host, "seen") == "streamed done"


async def test_a_modern_client_that_goes_away_cancels_its_call(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        params = call("wait", who="modern")
        async with modern(host.url, "tools/call", params, meta=PROGRESS) as answer:
            await answer.message()
            await answer.aclose()
        assert await tool(host, "seen") == "modern cancelled"


async def test_a_session_outlives_its_connections_and_is_resumed(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        client = LegacyClient(host.url)
        await client.initialize()
        params = {**call("wait", who="legacy"), "_meta": PROGRESS}
        async with client.request("tools/call", params) as answer:
            last = None
            while (event := await answer.event()) and not event.data:
                last = event.id
            assert event is not None
            assert event.id not in {None, last}
            await answer.aclose()
        await tool(host, "release")
        assert await tool(host, "seen") == "legacy done"
        async with client.get(event.id) as answer:
            assert [message.get("method", "result") for message in await answer.messages()] == [
                "notifications/progress",
                "result",
            ]
        assert await client.delete() == 204


async def test_the_older_wire_of_two_connections_is_served(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        accept = {"Accept": "text/event-stream"}
        async with requesting(f"{host.origin}/sse", "GET", accept) as stream:
            event = await stream.event()
            assert event is not None
            assert event.event == "endpoint"
            assert event.data is not None
            assert event.data.startswith("/messages")
            client = {"name": "c", "version": "1"}
            params = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client}
            body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
            async with requesting(f"{host.origin}{event.data}", body=body) as answer:
                assert answer.status == 202
            assert "result" in await stream.message()


async def test_a_large_answer_arrives_whole(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        assert len(await tool(host, "big")) == 5_000_000


async def test_another_host_or_origin_is_refused(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        for headers in ({"Host": "rebound.example"}, {"Origin": "https://evil.example"}):
            params = call("echo", text="x")
            async with modern(host.url, "tools/call", params, headers=headers) as answer:
                assert answer.status == 403


async def test_a_body_over_the_limit_is_refused_before_it_is_read(host: Host) -> None:
    with trio.fail_after(PATIENCE):
        headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
        large = b'"' + b"x" * (9 << 20) + b'"'
        async with requesting(host.url, headers=headers, body=large) as answer:
            assert answer.status == 413


async def test_many_clients_are_answered_at_a_time(host: Host) -> None:
    async def ask(number: int) -> None:
        assert await tool(host, "echo", text=str(number)) == str(number)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_gets_an_answer(host: Host) -> None:
    body = (
        '{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":'
        '{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        '"io.modelcontextprotocol/clientCapabilities":{}}}}'
    )
    headers = [
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        "MCP-Protocol-Version: 2026-07-28",
        "Mcp-Method: server/discover",
    ]
    options = [part for header in headers for part in ("-H", header)]
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            ["curl", "-sS", "--fail-with-body", *options, "-d", body, host.url],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
    assert b'"supportedVersions"' in done.stdout


@pytest.mark.parametrize(
    ("name", "app", "path"),
    [
        ("hypercorn-trio", "asgi_server.py", "/mcp"),
        ("uvicorn", "asgi_server.py", "/mcp"),
        ("uvicorn", "asgi_mounted.py", "/api/mcp"),
    ],
)
async def test_the_examples_do_what_the_page_shows(
    name: str, app: str, path: str, tmp_path: Path
) -> None:
    if app == "asgi_mounted.py":
        pytest.importorskip("starlette")
    page = (DOCS / "howto" / "asgi.rst").read_text()
    module = app.removesuffix(".py")
    assert f" {module}:app" in page
    assert f"$ python tool_client.py http://127.0.0.1:9443{path}\n" in page
    with trio.fail_after(PATIENCE), hosting(name, f"{module}:app", tmp_path, EXAMPLES) as host:
        done = await run_cli(
            program=[sys.executable, str(EXAMPLES / "tool_client.py"), host.origin + path]
        )
    assert done.status == 0, done.err
    assert done.out.decode().splitlines() == ["1 of 3", "2 of 3", "3 of 3", "42"]


@pytest.mark.parametrize("name", HOSTS)
async def test_the_server_can_be_stopped_while_a_stream_is_open(name: str, tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE), hosting(name, "asgi_served:with_farewell", tmp_path) as host:
        client = LegacyClient(host.url)
        await client.initialize()
        async with client.get() as stream:
            log = await trio.to_thread.run_sync(host.stop)
            # Servers wait for responses, but not for long: this one is broken off.
            with pytest.raises(h11.RemoteProtocolError):
                await stream.messages()
        assert host.process.returncode in {0, -signal.SIGTERM}  # uvicorn ends by it in the end
        assert "lifespan over" in log
        for complaint in ("never", "destroyed", "Trio"):  # of what was left running
            assert complaint not in log
