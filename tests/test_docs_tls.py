"""The guide to TLS is run from its first command to its last."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest

pytest.importorskip("OpenSSL")

from test_docs import (
    DOCS,
    EXAMPLES,
    console_blocks,
    free_address,
    programs,
    running,
    wait_for_address,
)

from trio_mcp_transport import CertificateCheck

pytestmark = [
    pytest.mark.docs,
    pytest.mark.tls,
    pytest.mark.skipif(
        shutil.which("curl") is None or shutil.which("openssl") is None,
        reason="needs curl and openssl",
    ),
]
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

PAGE = DOCS / "howto" / "tls.rst"
SERVERS = ("trio-mcp serve", "python tls_server.py")


def test_every_command_of_the_guide_does_what_it_says(tmp_path: Path) -> None:
    commands = [each for block in console_blocks(PAGE) for each in block]
    shown = sorted(set(re.findall(r"127\.0\.0\.1:\d+", PAGE.read_text())))
    addresses = {each: free_address() for each in shown}
    for example in ("tls_server.py", "tls_client.py"):
        shutil.copy(EXAMPLES / example, tmp_path)
    servers: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        for command, output in commands:
            for old, new in addresses.items():
                command = command.replace(old, new)
            if command.startswith(SERVERS):
                words = command.split()
                module = ["-m", "trio_mcp_transport"] if words[0] == "trio-mcp" else []
                servers.append(stack.enter_context(running(*module, *words[1:], cwd=tmp_path)))
                wait_for_address(re.findall(r"127\.0\.0\.1:\d+", command)[0])
            elif command == "kill -HUP $SERVER":
                servers[0].send_signal(signal.SIGHUP)
            else:
                check(command, output, tmp_path)
    assert len(servers) == 3


def check(command: str, output: str, directory: Path) -> None:
    """Run a command of the page; it must print what is shown, and fail if an error is shown."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if output.startswith("trio-mcp:"):
        assert done.returncode == 1, command
        assert done.stderr == output
    else:
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert not output or done.stdout == output, command


def test_the_table_of_checks_is_complete() -> None:
    table = PAGE.read_text().split("``check``               what to do")[1].split("=====\n\nThe")[0]
    told = set(re.findall(r"^``([a-z-]+)``|(?<=, )``([a-z-]+)``", table, re.MULTILINE))
    assert {first or second for first, second in told} == set(get_args(CertificateCheck))
