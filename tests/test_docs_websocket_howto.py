"""The guide to WebSocket: its commands do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_docs import (
    DOCS,
    console_blocks,
    free_address,
    programs,
    run,
    running,
    wait_for_address,
)

pytestmark = [pytest.mark.docs, pytest.mark.websocket]
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

PAGE = DOCS / "howto" / "websocket.rst"


def test_every_command_does_what_it_says(tmp_path: Path) -> None:
    ((serve, _), *calls) = [each for block in console_blocks(PAGE) for each in block]
    address = free_address()
    (shown,) = {*re.findall(r"127\.0\.0\.1:\d+", serve)}
    words = serve.replace(shown, address).split()
    assert words[0] == "trio-mcp"
    with running("-m", "trio_mcp_transport", *words[1:], cwd=tmp_path):
        wait_for_address(address)
        (call,) = [command for command, _ in calls]
        assert '"text":"5"' in run(call.replace(shown, address), tmp_path)
