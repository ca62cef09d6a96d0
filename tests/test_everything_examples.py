"""`everything_client.py` uses all of `everything_server.py` and `everything_tools.py`."""

from __future__ import annotations

import os
import re
import sys
from subprocess import STDOUT

import pytest
import trio
from conformance_suite import EXAMPLES, example_server

pytestmark = [pytest.mark.docs, pytest.mark.integration]

#: Tools that every client gets the same text from.
EXPECTED = {
    "test_simple_text": "This is a simple text response for testing.",
    "test_error_handling": "This tool intentionally returns an error for testing",
    "test_tool_with_logging": "Tool with logging executed successfully",
    "test_reconnection": "Reconnection test completed",
    "test_sampling": "LLM response: x",
    "test_input_required_result_elicitation": "Hello, stranger!",
    "test_input_required_result_list_roots": "The client has 1 roots",
    "test_input_required_result_multiple_inputs": "Generate a greeting, stranger",
    "test_input_required_result_multi_round": "None likes None",
    "test_x_mcp_header": "region=x",
    "test_trigger_tool_change": "The tools have changed",
}


async def use(endpoint: str, revision: str) -> str:
    """What the client prints."""
    done = await trio.run_process(
        [sys.executable, str(EXAMPLES / "everything_client.py"), endpoint],
        env={**os.environ, "MCP_CONFORMANCE_PROTOCOL_VERSION": revision},
        capture_stdout=True,
        stderr=STDOUT,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


def check(said: str, revision: str) -> None:
    assert f"speaks {revision}" in said
    for tool, expected in EXPECTED.items():
        assert re.search(rf"^tools/call {tool}: .*{re.escape(expected)}", said, re.MULTILINE), said
    assert "tools/call test_tool_with_progress: 100 of 100" in said
    assert "resources/read test://static-text: " in said
    assert "prompts/get test_input_required_result_prompt: " in said
    assert not re.search(r"\(-\d+\)$", said, re.MULTILINE), said


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
async def test_all_of_it_works_over_http(revision: str) -> None:
    with trio.fail_after(60):
        async with example_server("http://127.0.0.1:0/mcp") as url:
            said = await use(url, revision)
    check(said, revision)


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
async def test_all_of_it_works_over_stdio(revision: str) -> None:
    server = f"stdio:{sys.executable} {EXAMPLES / 'everything_server.py'}"
    with trio.fail_after(60):
        check(await use(server, revision), revision)
