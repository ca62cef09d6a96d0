"""The HTTP machines inside a bare asyncio server, as the page on other event loops shows."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from http_endpoint import BOTH, MODERN, MODERN_META, call, note
from test_docs import EXAMPLES, programs, run, running

pytestmark = pytest.mark.docs
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

JSON = {"Content-Type": "application/json", "Accept": BOTH}
COUNT = call("tools/call", {"name": "count", "arguments": {"to": 2}, "_meta": {"progressToken": 7}})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the example serves."""
    with running("asyncio_http_server.py", cwd=EXAMPLES) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()


def ask(
    url: str, body: object, fields: dict[str, str] | None = None, *, method: str = "POST"
) -> http.client.HTTPResponse:
    """One request; the response with its body read, as `.body`."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, "/mcp", json.dumps(body).encode(), {**JSON, **(fields or {})})
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def test_two_requests_are_answered_on_one_connection(url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    for number in (1, 2):
        connection.request("POST", "/mcp", json.dumps(call("ping", request_id=number)), JSON)
        response = connection.getresponse()
        assert response.status == 200
        assert json.load(response) == {"jsonrpc": "2.0", "id": number, "result": {}}
    connection.close()


def test_a_call_that_says_how_far_it_is_becomes_a_stream(url: str) -> None:
    response = ask(url, COUNT)
    assert response.headers["content-type"] == "text/event-stream"
    lines = response.body.decode().splitlines()  # type: ignore[attr-defined]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [event.get("params", {}).get("progress") for event in events] == [1, 2, None]
    assert events[-1]["result"]["content"][0]["text"] == "counted to 2"


@pytest.mark.parametrize(
    ("method", "body", "fields", "status"),
    [
        ("POST", note("notifications/initialized"), {}, 202),
        ("POST", call("ping"), {"Host": "evil.example"}, 403),
        ("POST", call("ping"), {"Origin": "http://evil.example"}, 403),
        ("POST", call("ping"), {"Content-Type": "text/plain"}, 415),
        ("POST", call("ping"), {"Accept": "text/html"}, 406),
        ("POST", call("ping"), {"MCP-Protocol-Version": "1900-01-01"}, 400),
        ("GET", None, {}, 405),
        ("DELETE", None, {}, 405),
        (
            "POST",
            call("nothing", {"_meta": MODERN_META}),
            {"MCP-Protocol-Version": MODERN, "Mcp-Method": "nothing"},
            404,
        ),
        ("POST", call("tools/call", {"name": "count", "arguments": {}}), {}, 200),
    ],
)
def test_the_verdicts_are_what_is_answered(
    url: str, method: str, body: object, fields: dict[str, str], status: int
) -> None:
    assert ask(url, body, fields, method=method).status == status


def test_a_broken_head_is_answered_and_a_client_that_goes_away_hurts_nobody(url: str) -> None:
    host, _, port = urlsplit(url).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"POST /mcp HTTP/1.1\r\nHost : x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        body = json.dumps(call("tools/call", {"name": "count", "arguments": {"to": 10**9}}))
        head = f"POST /mcp HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert ask(url, call("ping")).status == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_talks_to_it(url: str) -> None:
    fields = "-H 'Content-Type: application/json'"
    answer = run(f"curl -s {url} {fields} -d '{json.dumps(call('ping'))}'", EXAMPLES)
    assert json.loads(answer) == {"jsonrpc": "2.0", "id": 1, "result": {}}


OFFICIAL = """
import asyncio, sys
from mcp import Client

async def hear(progress, total, message):
    print(progress, total)

async def main(url, mode):
    async with Client(url, mode=mode) as client:
        print(client.protocol_version)
        print(*[tool.name for tool in (await client.list_tools()).tools])
        result = await client.call_tool("count", {"to": 2}, progress_callback=hear)
        print(result.content[0].text)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("mode", "revision"), [("auto", MODERN), ("legacy", "2025-11-25")])
def test_the_official_client_talks_to_it(url: str, mode: str, revision: str) -> None:
    pytest.importorskip("mcp", reason="the official MCP SDK is not installed")
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL, url, mode],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    said = [revision, "count", "1.0 2.0", "2.0 2.0", "counted to 2"]
    assert done.stdout.splitlines() == said
