"""``call`` and ``demo`` against real servers."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import msgspec
import pytest
import trio
from cli_process import run_cli, running

pytestmark = [pytest.mark.cli, pytest.mark.integration]

SERVER = f"stdio:{sys.executable} -m trio_mcp_transport serve"


async def test_without_a_method_the_tools_are_listed(tmp_path: Path) -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        bound = await server.wait_listening()
        address = bound.removeprefix("tcp://")
        for words in (
            ["call", bound],
            ["call", "--url", bound],
            ["call", "--transport=tcp", f"--url=bind_address={address}"],
        ):
            done = await run_cli(*words)
            assert done.status == 0, done.err
            assert done.err == ""
            names = msgspec.convert(done.messages[0]["tools"], list[dict[str, object]])
            assert [tool["name"] for tool in names] == ["echo", "add", "slow", "large"]


@pytest.mark.parametrize(
    "revision", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]
)
async def test_every_revision_can_be_spoken(revision: str) -> None:
    done = await run_cli(
        "call", SERVER, "tools/call", '{"name":"add","arguments":{"a":1,"b":2}}',
        "--revision", revision,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.messages[0]["structuredContent"] == {"sum": 3}
    # Only modern results say what they are.
    assert ("resultType" in done.messages[0]) == (revision == "2026-07-28")


@pytest.mark.parametrize("method", ["initialize", "server/discover"])
async def test_the_handshakes_themselves_can_be_called(method: str) -> None:
    params = {
        "initialize": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
        "server/discover": {
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        },
    }[method]
    done = await run_cli("call", SERVER, method, msgspec.json.encode(params).decode())
    assert done.status == 0, done.err
    assert "capabilities" in done.messages[0]


async def test_an_error_answer_is_status_1_with_all_of_it_on_stderr() -> None:
    done = await run_cli("call", SERVER, "resources/read", '{"uri":"x:y"}')
    assert (done.status, done.out) == (1, b"")
    assert done.err == 'trio-mcp: Resource not found: {"uri":"x:y"} (-32602)\n'


async def test_a_server_that_dies_is_status_1_and_its_last_words_are_told() -> None:
    program = "import sys; sys.exit('no licence')"
    done = await run_cli("call", f'stdio:?stderr=capture {sys.executable} -c "{program}"', "ping")
    assert (done.status, done.out) == (1, b"")
    assert "no licence" in done.err
    assert done.err.count("\n") == 1


async def test_an_answer_that_does_not_come_in_time_is_status_1() -> None:
    slow = '{"name":"slow","arguments":{"seconds":3600}}'
    done = await run_cli("call", SERVER, "tools/call", slow, "--timeout", "0.5")
    assert done.status == 1
    assert done.err == "trio-mcp: no answer to tools/call within 0.5 s\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "POSIX"],
)
async def test_arguments_and_results_are_utf_8_in_every_locale(variables: dict[str, str]) -> None:
    echo = '{"name":"echo","arguments":{"text":"d\u00e9j\u00e0 \u65e5\u672c"}}'
    done = await run_cli("call", SERVER, "tools/call", echo, variables=variables)
    assert done.status == 0, done.err
    assert "d\u00e9j\u00e0 \u65e5\u672c".encode() in done.out


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are no bytes there")
@pytest.mark.parametrize("name", ["METHOD", "PARAMS_JSON"])
async def test_arguments_that_are_no_utf_8_are_refused(name: str) -> None:
    words = {"METHOD": ["p\udcff"], "PARAMS_JSON": ["ping", '{"a":"\udcff"}']}[name]
    done = await run_cli("call", SERVER, *words)
    assert done.status == 2
    assert f"{name} is no UTF-8" in done.err


async def test_a_server_that_says_nothing_takes_no_longer_than_the_timeout() -> None:
    mute = f'stdio:{sys.executable} -c "import sys; sys.stdin.read()"'
    with trio.fail_after(8):  # the probe alone would be 10 s
        done = await run_cli("call", mute, "ping", "--timeout", "0.5")
    assert done.status == 1
    assert "no answer to initialize within 0.5 s" in done.err


async def test_nobody_reading_the_result_is_quiet() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        async with running("call", SERVER, stdout=write_end) as call:
            assert await call.process.wait() == 141
            assert call.process.stderr is not None
            assert await call.process.stderr.receive_some() == b""
    finally:
        os.close(write_end)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
async def test_a_terminal_gets_colours_and_a_pipe_gets_none() -> None:
    pytest.importorskip("rich", reason="the extra `cli` is not installed")
    primary, secondary = pty.openpty()
    try:
        async with running(
            "call", SERVER, stdout=secondary, variables={"TERM": "xterm", "NO_COLOR": ""}
        ) as call:
            os.close(secondary)
            secondary = -1
            data = b""
            try:
                while True:
                    await trio.lowlevel.wait_readable(primary)
                    data += os.read(primary, 65536)
            except OSError:  # the other side is closed
                pass
            assert await call.process.wait() == 0
    finally:
        for descriptor in (primary, secondary):
            if descriptor != -1:
                os.close(descriptor)
    assert b"\x1b[" in data
    assert b"tools" in data
    plain = await run_cli("call", SERVER)
    assert b"\x1b[" not in plain.out
