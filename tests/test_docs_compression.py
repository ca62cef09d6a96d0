"""The page on compression is run."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_docs import DOCS, console_blocks, free_address, programs, run, running, wait_for_address

from trio_mcp_transport.sansio.compression import available_algorithms

pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
    pytest.mark.skipif("zstd" not in available_algorithms(), reason="zstandard is not installed"),
]
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

PAGE = DOCS / "howto" / "compression.rst"


def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    shown = sorted(set(re.findall(r"127\.0\.0\.1:\d+", PAGE.read_text())))
    addresses = {each: free_address() for each in shown}
    answers: list[str] = []
    with ExitStack() as stack:
        for command, _ in (each for block in console_blocks(PAGE) for each in block):
            for old, new in addresses.items():
                command = command.replace(old, new)
            if command.startswith("trio-mcp serve"):
                endpoint = re.findall(r"'(.*)'", command)[0]
                arguments = ("-m", "trio_mcp_transport", "serve", "--listen", endpoint)
                stack.enter_context(running(*arguments, cwd=tmp_path))
                wait_for_address(re.findall(r"127\.0\.0\.1:\d+", command)[0])
            elif not command.startswith("pip"):
                answers.append(run(command, tmp_path))
    called, listed = answers
    assert json.loads(called)["content"][0]["text"] == "5"
    assert json.loads(listed)["result"]["tools"]
