"""The guide to shared memory: its commands do what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_memory import needs_sealed_memory
from test_docs import DOCS, console_blocks, programs, run, running, wait_until

pytestmark = [pytest.mark.docs, pytest.mark.shm, needs_sealed_memory]
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

PAGE = DOCS / "howto" / "shared-memory.rst"


def test_every_command_does_what_it_says(tmp_path: Path) -> None:
    ((serve, _), (call, _)) = [each for block in console_blocks(PAGE) for each in block]
    place = f"--channel=tools?directory={tmp_path / 'shm'}"
    words = serve.replace("--channel=tools", place).split()
    assert words[0] == "trio-mcp"
    with running("-m", "trio_mcp_transport", *words[1:], cwd=tmp_path):
        # A client waits for its creator, but not for as long as a machine under load takes.
        wait_until((tmp_path / "shm" / "tools").exists)
        assert '"text":"5"' in run(call.replace("--channel=tools", f"'{place}'"), tmp_path)
