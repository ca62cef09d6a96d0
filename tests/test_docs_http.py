"""What the pages on HTTP show is what happens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_docs import (
    DOCS,
    EXAMPLES,
    console_blocks,
    free_address,
    programs,
    run,
    running,
    wait_for_address,
)

pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
]
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

SHOWN = "127.0.0.1:9443"
END = "end-of-block"


@contextmanager
def served(program: str, path: str = "/mcp") -> Generator[str, None, None]:
    """A program of the examples at a port of this machine's choosing: ``HOST:PORT``."""
    address = free_address()
    with running(program, f"http://{address}{path}", cwd=EXAMPLES):
        wait_for_address(address)
        yield address


def test_the_tutorial_shows_what_its_commands_print() -> None:
    commands = {
        command: output
        for block in console_blocks(DOCS / "tutorial" / "http.rst")
        for command, output in block
        if output
    }
    assert [command.split()[:2] for command in commands] == [
        ["python", "tool_client.py"],
        ["sh", "discover.sh"],
    ]
    with served("tool_server.py") as address:
        for command, output in commands.items():
            assert run(command.replace(SHOWN, address), EXAMPLES) == output, command


def test_curl_gets_what_the_page_says(tmp_path: Path) -> None:
    page = (DOCS / "howto" / "curl.rst").read_text()
    blocks = re.findall(
        r"^\.\. code-block:: (bash|text)\n\n((?:   .*\n|\n(?=   ))+)", page, re.MULTILINE
    )
    text = {"bash": list[str](), "text": list[str]()}
    for kind, block in blocks:
        text[kind].append("".join(line.removeprefix("   ") for line in block.splitlines(True)))
    assert len(text["bash"]) == len(text["text"]) > 5
    with served("tool_server.py") as address:
        # One shell for all of them: a session goes from one to the next.
        script = "".join(f"{block}\nprintf '\\n%s\\n' {END}\n" for block in text["bash"])
        printed = run(f"set -o pipefail\n{script}".replace(SHOWN, address), tmp_path)
    found = [part.strip("\n") for part in printed.split(f"\n{END}\n")]
    assert found == [*(shown.strip("\n") for shown in text["text"]), ""]


def test_a_token_says_who_somebody_is() -> None:
    call = (EXAMPLES.parent / "howto" / "curl.rst").read_text()
    body = re.search(r"-d '(\{[^']*\"arguments\"[^']*)'", call)
    assert body is not None
    headers = (
        "-H 'Content-Type: application/json' -H 'MCP-Protocol-Version: 2026-07-28'"
        " -H 'Accept: application/json, text/event-stream'"
        " -H 'Mcp-Method: tools/call' -H 'Mcp-Name: add'"
    )
    with served("http_auth.py") as address:
        curl = f"curl -s {headers} http://{address}/mcp -d '{body[1]}'"
        assert "you are ada" in run(f"{curl} -H 'Authorization: Bearer s3cr3t-of-ada'", EXAMPLES)
        refused = run(f"{curl} -i -H 'Authorization: Bearer wrong'", EXAMPLES)
        assert refused.startswith("HTTP/1.1 401 ")
        assert "www-authenticate: bearer realm=" in refused.lower()
        odd = run(f"{curl} -i -H $'Authorization: Bearer \\xe9'", EXAMPLES)
        assert odd.startswith("HTTP/1.1 401 ")
